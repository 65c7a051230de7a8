"""Methods: each says which parameters of the encoder train, and nothing else."""

from typing import Protocol

from sertune.config import MethodConfig
from sertune.model.encoder import Encoder
from sertune.model.methods.frozen import Frozen
from sertune.model.methods.full import Full
from sertune.model.methods.partial import Partial


class Method(Protocol):
    """Options plus ``apply``, which marks what trains and so derives the encoder's cut."""

    def apply(self, encoder: Encoder) -> None:
        """Marks the trainable parameters of ``encoder``."""


def make_method(config: MethodConfig) -> Method:
    """The method that a configuration names."""
    if config.name == "frozen":
        return Frozen()
    if config.name == "partial":
        return Partial(config.layers)
    return Full(config.front)
