"""Several tasks on one vector: their losses weighted and summed, or alternated step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sertune.model.raters import RaterLayer
from sertune.model.targets.category import CategoryTarget
from sertune.model.targets.dimension import DimensionTarget
from sertune.model.targets.distribution import PlaneTarget, SpreadTarget, VotesTarget
from sertune.model.targets.plain import Plain
from sertune.model.targets.rater import RaterLabelTarget, RaterTarget

Single = CategoryTarget | DimensionTarget | VotesTarget | PlaneTarget | SpreadTarget | RaterTarget | RaterLabelTarget


@dataclass
class JoinedTarget(Plain):
    """Several targets. All columns, of outputs and of encoded targets, stand side by side in the order of `parts`.

    Attributes:
        parts: at most one of them with single ratings, which is the last one: its columns are as many as are left.
        weights: of each loss: one per part, two for annotators with their density.
        schedule: ``sum`` or ``alternate``.
        lead: which part the headline is about.
    """

    parts: tuple[Single, ...]
    weights: tuple[float, ...]
    schedule: str = "sum"
    lead: int = 0
    name: str = "joined"

    def __post_init__(self) -> None:
        self.categorical = self.first.categorical

    @property
    def first(self) -> Single:
        """The part that the headline is about."""
        return self.parts[self.lead]

    @property
    def outputs(self) -> int:
        """Columns of the finished outputs without slots."""
        return sum(part.outputs for part in self.parts)

    @property
    def linear(self) -> int:
        """Outputs of the solved models of all parts."""
        return sum(part.linear for part in self.parts)

    @property
    def solvable(self) -> bool:
        """Whether every part is."""
        return all(part.solvable for part in self.parts)

    def balance(self, targets: np.ndarray) -> None:
        """Each part's own."""
        for part, own in zip(self.parts, self._encoded(torch.from_numpy(targets)), strict=True):
            part.balance(own.numpy())

    def last_layer(self, width: int) -> nn.Module:
        """The last layers of all parts on the head's vector (B, width)."""
        return JoinedLayer([part.last_layer(width) for part in self.parts], [part.linear for part in self.parts])

    def missing(self, count: int) -> Tensor:
        """Encoded targets of clips of which nothing is known."""
        return torch.cat([part.missing(count) for part in self.parts], dim=1)

    def encode(self, utterances: pd.DataFrame, ratings: pd.DataFrame | None = None) -> np.ndarray:
        """The encoded targets of all parts side by side."""
        return np.concatenate([part.encode(utterances, ratings) for part in self.parts], axis=1)

    def slots(self, targets: Tensor) -> Tensor | None:
        """(B, R) raters of each clip, where the last part has them."""
        return self.parts[-1].slots(self._encoded(targets)[-1])

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """The weighted sum of all terms; under ``alternate`` one term, in turn, times its weight, if ``step`` is given.

        Args:
            outputs: of all parts side by side.
            targets: as `encode` gives them.
            step: of the training; None asks for the sum.
        """
        made = self._terms(outputs, targets, step)
        return torch.stack([weight * term for weight, term in made]).sum()

    def _terms(self, outputs: Tensor, targets: Tensor, step: int | None) -> list[tuple[float, Tensor]]:
        parts = zip(self.parts, self.split(outputs), self._encoded(targets), strict=True)
        terms: list[Tensor] = []
        for part, own, true in parts:
            terms += part.terms(own, true) if isinstance(part, RaterTarget) else [part.loss(own, true)]
        weighted = list(zip(self.weights, terms, strict=True))
        if self.schedule == "alternate" and step is not None:
            return [weighted[step % len(weighted)]]
        return weighted

    def split(self, outputs: Tensor) -> list[Tensor]:
        """The columns of each part; the last one takes what is left."""
        return _split(outputs, [part.outputs for part in self.parts[:-1]])

    def encoded(self, targets: np.ndarray) -> list[np.ndarray]:
        """The encoded targets of each part."""
        return [own.numpy() for own in self._encoded(torch.from_numpy(targets))]

    def _encoded(self, targets: Tensor) -> list[Tensor]:
        return _split(targets, [part.outputs for part in self.parts[:-1]])

    def blend(self, outputs: Tensor, others: Tensor, share: float) -> Tensor:
        """Each part's own blend of the layer's outputs with those of the solved models."""
        solved = _split(others, [part.linear for part in self.parts[:-1]])
        made = zip(self.parts, self.split(outputs), solved, strict=True)
        return torch.cat([part.blend(own, other, share) for part, own, other in made], dim=1)

    def finish(self, outputs: Tensor, slots: Tensor | None, last: nn.Module, hidden: Tensor | None = None) -> Tensor:
        """Each part's own, side by side."""
        assert isinstance(last, JoinedLayer)
        made = zip(self.parts, self.split(outputs), last.layers, strict=True)
        return torch.cat([part.finish(own, slots, layer, hidden) for part, own, layer in made], dim=1)

    def lift(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Each part's own, side by side."""
        made = zip(
            self.parts,
            _split(outputs, [part.linear for part in self.parts[:-1]]),
            self._encoded(targets),
            strict=True,
        )
        return torch.cat([part.lift(own, true) for part, own, true in made], dim=1)

    def decode(self, outputs: Tensor) -> dict[str, np.ndarray]:
        """What the parts decode; the first one that has a name keeps it."""
        found: dict[str, np.ndarray] = {}
        for part, own in zip(self.parts, self.split(outputs), strict=True):
            found = {**part.decode(own), **found}
        return found

    def describe(self) -> dict[str, Any]:
        """As saved in model.json."""
        return {
            "name": self.name,
            "parts": [part.describe() for part in self.parts],
            "weights": list(self.weights),
            "schedule": self.schedule,
            "lead": self.lead,
        }


class JoinedLayer(nn.Module):
    """The last layers of several targets on one vector, their columns side by side.

    Args:
        layers: of each.
        linear: rows of each one's solved model.
    """

    def __init__(self, layers: Sequence[nn.Module], linear: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.rows = list(linear)

    @property
    def linear(self) -> bool:
        """Whether solved models can start all of them."""
        return all(getattr(layer, "linear", True) for layer in self.layers)

    def forward(self, hidden: Tensor, slots: Tensor | None = None) -> Tensor:
        """(B, width) -> the columns of all layers."""
        made = [layer(hidden) if isinstance(layer, nn.Linear) else layer(hidden, slots) for layer in self.layers]
        return torch.cat([part.float() for part in made], dim=1)

    @torch.no_grad()
    def start_from(self, weight: Tensor, bias: Tensor) -> None:
        """Sets each layer to its rows of a linear model."""
        parts = zip(self.layers, weight.split(self.rows), bias.split(self.rows), strict=True)
        for layer, own_weight, own_bias in parts:
            start_layer(layer, own_weight, own_bias)


def start_layer(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Sets a last layer to a linear model: weight (K, F), bias (K,)."""
    if isinstance(layer, nn.Linear):
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    else:
        assert isinstance(layer, (RaterLayer, JoinedLayer))
        layer.start_from(weight, bias)


def _split(columns: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """All but the last part have fixed widths."""
    return list(columns.split([*widths, columns.shape[1] - sum(widths)], dim=1))
