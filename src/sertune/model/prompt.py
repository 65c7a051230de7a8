"""Deep embedding prompts: learnt vectors before a layer's input, removed after it."""

import torch
from torch import Tensor, nn

from sertune.data.batch import LayerStates

PROMPT = "prompt"
"""Name under which a layer holds its prompt."""
FACTOR, START = 10.0, 1e-6


class Prompt(nn.Module):
    """P vectors that every clip's frames can attend to in one layer (arXiv 2306.05350; Jia et al. 2022).

    A vector in the attention of a pre-trained layer would change its output from the first step. So each prompt's
    attention weight is multiplied by a learnt factor, FACTOR * |gate|, which starts at START: the layer starts as it
    was, to a millionth of the attention, and the factor has its full gradient. Trained layers may attend to a vector at
    random some thousand times as much as to a frame, and are then moved by a thousandth. (A choice of ours; the paper
    has no factor.)

    Args:
        length: P.
        width: D.
        scale: standard deviation of the vectors at the start.
    """

    def __init__(self, length: int, width: int, scale: float) -> None:
        super().__init__()
        self.vectors = nn.Parameter(scale * torch.randn(length, width))
        self.gate = nn.Parameter(torch.full((length,), START / FACTOR))

    def bias(self) -> Tensor:
        """(P,) what is added to the attention scores of the prompts: the log of their factors."""
        return (FACTOR * self.gate.abs()).clamp_min(START).log()

    def insert(self, entering: LayerStates) -> LayerStates:
        """Each clip with the prompts before it."""
        states, lengths = entering.states, entering.lengths + len(self.vectors)
        vectors = self.vectors.to(states.dtype)
        if not entering.packed:
            before = vectors.expand(len(states), -1, -1)
            return LayerStates(torch.cat([before, states], dim=1), lengths)
        parts = [part for clip in states[0].split(entering.lengths.tolist()) for part in (vectors, clip)]
        return LayerStates(torch.cat(parts)[None], lengths, packed=True)

    def remove(self, leaving: LayerStates) -> LayerStates:
        """Each clip without them."""
        count, lengths = len(self.vectors), leaving.lengths - len(self.vectors)
        if not leaving.packed:
            return LayerStates(leaving.states[:, count:], lengths)
        clips = leaving.states[0].split(leaving.lengths.tolist())
        return LayerStates(torch.cat([clip[count:] for clip in clips])[None], lengths, packed=True)
