"""Bottleneck adapters at the feed-forward part (Houlsby et al. 2019; placed as in arXiv 2306.05350)."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from sertune.config import AdapterConfig
from sertune.errors import SertuneError
from sertune.model.encoder import Encoder
from sertune.model.structure import FeedForward, feed_forwards


class Adapter(nn.Module):
    """``scale * up(dropout(relu(down(x))))``; zero at the start.

    Args:
        width: channels of the states.
        options: bottleneck, scale, dropout.
    """

    def __init__(self, width: int, options: AdapterConfig) -> None:
        super().__init__()
        self.scale = options.scale
        self.down = nn.Linear(width, options.bottleneck)
        self.dropout = nn.Dropout(options.dropout)
        self.up = nn.Linear(options.bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: Tensor) -> Tensor:
        """(..., width) -> what is added, (..., width)."""
        output: Tensor = self.scale * self.up(self.dropout(self.down(states).relu()))
        return output


@dataclass(frozen=True)
class Adapters:
    """One adapter at each feed-forward part of the last ``layers`` layers.

    What it gives is added to the output of the feed-forward part, before the layer's own residual: computed from that
    output (``sequential``), or from what enters the part (``parallel``).
    """

    options: AdapterConfig
    layers: int | Literal["auto", "all"]

    def apply(self, encoder: Encoder) -> None:
        """Adds the adapters, each to the module that owns its feed-forward part; the identity at the start.

        Raises:
            SertuneError: no module matches.
        """
        cut = encoder.first_of_last(self.layers)
        added: list[nn.Parameter] = []
        for layer in encoder.layers[cut:]:
            for part in feed_forwards(layer, encoder.width):
                adapter = Adapter(encoder.width, self.options).to(encoder.device).train(layer.training)
                self._attach(encoder, layer, part, adapter)
                added += adapter.parameters()
        if not added:
            raise SertuneError(f"method adapter: no module matched, encoder {encoder.name} has no feed-forward part")
        encoder.set_trainable(added, cut)

    def _attach(self, encoder: Encoder, layer: nn.Module, part: FeedForward, adapter: Adapter) -> None:
        part.owner.add_module("adapter", adapter)
        encoder.on_clear(lambda: delattr(part.owner, "adapter"))
        # where the layer itself is the owner (Whisper), the part is from its first to its last linear map
        whole = part.owner is not layer
        entrance = part.owner if whole else part.owner.get_submodule(part.first)
        exit_ = part.owner if whole else part.owner.get_submodule(part.last)
        parallel = self.options.place == "parallel"
        entered: list[Tensor] = []

        def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
            entered[:] = args[:1]

        def leave(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            added: Tensor = adapter(entered.pop() if parallel else output)
            return output + added.to(output.dtype)

        if parallel:
            encoder.on_clear(entrance.register_forward_pre_hook(enter).remove)
        encoder.on_clear(exit_.register_forward_hook(leave).remove)
