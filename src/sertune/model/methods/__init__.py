"""Methods: each says which parameters of the encoder train, and nothing else."""

from typing import Protocol

from sertune.config import MethodConfig
from sertune.model.encoder import Encoder
from sertune.model.methods.frozen import Frozen
from sertune.model.methods.full import Full
from sertune.model.methods.partial import Partial


class Method(Protocol):
    """Options plus ``apply``, which adds and marks what trains, and so derives the encoder's cut."""

    def apply(self, encoder: Encoder) -> None:
        """Adds trainable parameters to ``encoder``, or marks its own; undone by `Encoder.clear`."""


def apply_methods(encoder: Encoder, config: MethodConfig) -> None:
    """Takes away what was applied before, and applies the methods that a configuration names."""
    encoder.clear()
    for name in config.parts:
        _make(name, config).apply(encoder)


def _make(name: str, config: MethodConfig) -> Method:
    if name == "partial":
        return Partial(config.layers)
    if name == "full":
        return Full(config.front)
    return Frozen()
