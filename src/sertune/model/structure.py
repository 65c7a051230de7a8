"""The linear maps of a transformer layer, found by their shapes and the words in their names."""

import re
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

ROLES = {"q", "k", "v", "o", "out", "query", "key", "value", "output"}
"""Words of which one is in the name of every projection of an attention: ``q_proj``, ``linear_out``, ``key``."""


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward part: a linear map to a wider space, and one back.

    Attributes:
        path: of the module that owns both, within the layer; empty where that is the layer itself (Whisper).
        owner: this module.
        first: name of the first map in it.
        last: name of the second.
    """

    path: str
    owner: nn.Module
    first: str
    last: str

    @property
    def linears(self) -> list[str]:
        """Paths of both maps within the layer."""
        return [f"{self.path}.{name}".lstrip(".") for name in (self.first, self.last)]


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map, plain or with an update around it."""
    return isinstance(module, nn.Linear) or (hasattr(module, "in_features") and hasattr(module, "out_features"))


def attention_linears(layer: nn.Module) -> list[str]:
    """Paths within a layer of the query, key, value and output projections of its attention."""
    found = []
    for path, module in layer.named_modules():
        words = set(path.rpartition(".")[2].split("_"))
        if is_linear(module) and _in_attention(path) and words & ROLES:
            found.append(path)
    return found


def feed_forwards(layer: nn.Module, width: int) -> list[FeedForward]:
    """The feed-forward parts of a layer; w2v-BERT has two.

    Args:
        layer: one transformer layer.
        width: channels of its states. Narrower pairs, such as the adapters of multilingual checkpoints, are none.
    """
    found = []
    for path, owner in layer.named_modules():
        if is_linear(owner) or _in_attention(path):
            continue
        linears = [(name, module) for name, module in owner.named_children() if is_linear(module)]
        for (first, up), (last, down) in pairwise(linears):
            if up.in_features == width == down.out_features and up.out_features == down.in_features >= width:
                found.append(FeedForward(path, owner, first, last))
    return found


def _in_attention(path: str) -> bool:
    return any(re.search(r"att(e?n)", piece) for piece in path.split("."))
