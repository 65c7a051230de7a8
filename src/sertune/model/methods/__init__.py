"""Methods: each says which parameters of the encoder train, and nothing else."""

from typing import Protocol

from sertune.config import METHODS, MethodConfig
from sertune.model.encoder import Encoder
from sertune.model.methods.adapter import Adapters
from sertune.model.methods.bias import Bias
from sertune.model.methods.frozen import Frozen
from sertune.model.methods.full import Full
from sertune.model.methods.lora import Lora
from sertune.model.methods.partial import Partial
from sertune.model.methods.prompt import PromptTuning


class Method(Protocol):
    """Options plus ``apply``, which adds and marks what trains, and so derives the encoder's cut."""

    def apply(self, encoder: Encoder) -> None:
        """Adds trainable parameters to ``encoder``, or marks its own; undone by `Encoder.clear`."""


def apply_methods(encoder: Encoder, config: MethodConfig) -> None:
    """Takes away what was applied before, and applies the methods that a configuration names.

    What a method adds is drawn from torch's global generator. The order is that of `METHODS` whatever the name says:
    updates replace linear maps, which adapters then watch.
    """
    encoder.clear()
    _ = encoder.digest  # names the base, so it is taken before anything is added
    for name in sorted(config.parts, key=METHODS.index):
        _make(name, config).apply(encoder)


def _make(name: str, config: MethodConfig) -> Method:
    made: dict[str, Method] = {
        "frozen": Frozen(),
        "partial": Partial(config.layers),
        "full": Full(config.front),
        "lora": Lora(config.lora, config.layers),
        "adapter": Adapters(config.adapter, config.layers),
        "prompt": PromptTuning(config.layers, config.prompt.length),
        "bias": Bias(config.layers),
    }
    return made[name]
