"""Low-rank updates of weight matrices (LoRA; Hu et al. 2022, arXiv 2106.09685)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sertune.config import LoraConfig
from sertune.errors import SertuneError
from sertune.model.encoder import Encoder
from sertune.model.peft_format import read_adapter, write_adapter
from sertune.model.structure import attention_linears, feed_forwards


class LoraLinear(nn.Module):
    """A linear map whose weight is updated by a product of two narrow matrices: W + scale B A.

    Where it is called, the update takes the cheap path ``base(x) + scale * B(A(dropout(x)))``, which needs no
    gradient of the full weight. WavLM's attention never calls its projections: it hands their raw ``weight`` to
    torch's `multi_head_attention_forward`, where a wrapped forward does nothing. ``weight`` therefore is the updated
    one; on that path dropout can't act, as there is no input to drop.

    Args:
        base: the linear map; used as it is, never changed.
        rank: of the update.
        scale: its factor.
        dropout: on its input.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        narrow = torch.empty(rank, base.in_features)  # drawn on the CPU: the same on every device
        nn.init.kaiming_uniform_(narrow, a=math.sqrt(5))
        self.lora_A = nn.Parameter(narrow.to(base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """The updated weight, (out, in)."""
        return self.base.weight + self.scale * (self.lora_B @ self.lora_A)

    @property
    def bias(self) -> Tensor | None:
        """The bias of the linear map, (out,)."""
        return self.base.bias

    def forward(self, states: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        output: Tensor = self.base(states)
        narrow = linear(self.dropout(states).to(self.lora_A.dtype), self.lora_A)
        return output + linear(self.scale * narrow, self.lora_B).to(output.dtype)


@dataclass(frozen=True)
class Lora:
    """Updates the attention's projections, the feed-forward maps, or both, in the last ``layers`` layers."""

    options: LoraConfig
    layers: int | Literal["auto", "all"]

    def apply(self, encoder: Encoder) -> None:
        """Puts a `LoraLinear` in the place of every targeted linear map; the identity at the start.

        Raises:
            SertuneError: no module matches, the rank is above the width of a matrix, or the PEFT adapter to start
                from does not fit.
        """
        cut = encoder.first_of_last(self.layers)
        added = [
            self._update(encoder, index, path)
            for index in range(cut, encoder.depth)
            for path in self._paths(encoder, index)
        ]
        if self.options.start:
            load_adapter(encoder, Path(self.options.start), self.options, key="method.lora.start = ")
        encoder.set_trainable([p for module in added for p in (module.lora_A, module.lora_B)], cut)

    def _paths(self, encoder: Encoder, index: int) -> list[str]:
        layer = encoder.layers[index]
        found = {
            "attention": attention_linears(layer),
            "feed-forward": [path for part in feed_forwards(layer, encoder.width) for path in part.linears],
        }
        for target in self.options.targets:
            if not found[target]:
                raise SertuneError(
                    f"method.lora.targets = {target}: no module matched in layer {index} of encoder {encoder.name}"
                )
        return [path for target, paths in found.items() if target in self.options.targets for path in paths]

    def _update(self, encoder: Encoder, index: int, path: str) -> LoraLinear:
        options, layer = self.options, encoder.layers[index]
        base = cast("nn.Linear", layer.get_submodule(path))
        narrow = min(base.in_features, base.out_features)
        if options.rank > narrow:
            raise SertuneError(
                f"method.lora.rank = {options.rank}: above the width {narrow} of {path} in layer {index} of encoder "
                f"{encoder.name}; choose 1 to {narrow}"
            )
        module = LoraLinear(base, options.rank, scale_of(options), options.dropout)
        where, _, name = path.rpartition(".")
        parent = layer.get_submodule(where)
        setattr(parent, name, module)
        encoder.on_clear(lambda: setattr(parent, name, base))
        return module


def scale_of(options: LoraConfig) -> float:
    """alpha / rank, or with rsLoRA alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732)."""
    return options.alpha / (math.sqrt(options.rank) if options.rslora else options.rank)


def lora_modules(encoder: Encoder) -> dict[str, LoraLinear]:
    """The updates in an encoder, by their path in its model."""
    return {path: module for path, module in encoder.model.named_modules() if isinstance(module, LoraLinear)}


def is_update(name: str) -> bool:
    """Whether a parameter, by its name, belongs to an update."""
    return name.endswith((".lora_A", ".lora_B"))


def save_adapter(encoder: Encoder, folder: Path, options: LoraConfig) -> None:
    """Writes the updates in PEFT's format; see `write_adapter`."""
    weights = {path: (module.lora_A, module.lora_B) for path, module in lora_modules(encoder).items()}
    write_adapter(folder, options, weights, encoder.name, encoder.peft_prefix)


@torch.no_grad()
def load_adapter(encoder: Encoder, folder: Path, options: LoraConfig, key: str = "") -> None:
    """Sets the updates to what a PEFT adapter holds.

    Args:
        encoder: with updates.
        folder: of the adapter.
        options: of the updates, which the adapter must have too.
        key: what to put before the folder in messages.

    Raises:
        SertuneError: the adapter is damaged or does not fit.
    """
    modules = lora_modules(encoder)
    shapes = {path: (module.lora_A.shape, module.lora_B.shape) for path, module in modules.items()}
    try:
        found = read_adapter(folder, options, shapes)
    except SertuneError as error:
        raise SertuneError(f"{key}{error}") from None
    for path, (narrow, wide) in found.items():
        modules[path].lora_A.copy_(narrow)
        modules[path].lora_B.copy_(wide)
