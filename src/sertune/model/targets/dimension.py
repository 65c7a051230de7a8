"""Arousal, valence, dominance as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from sertune.model.targets.plain import Plain, blend_values

Scales = Sequence[tuple[float, float]]


def to_unit(values: np.ndarray, scales: Scales) -> np.ndarray:
    """Values (..., D) on their own scales -> [-1, 1], by the known scales, not by a split's own range."""
    low, high = np.array(scales).T
    return np.asarray(2 * (values - low) / (high - low) - 1)


def from_unit(values: np.ndarray, scales: Scales) -> np.ndarray:
    """The inverse of `to_unit`, kept inside the scales."""
    low, high = np.array(scales).T
    return np.asarray(np.clip((values + 1) / 2 * (high - low) + low, low, high))


def ccc_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over columns of 1 - CCC over all rows, in float32 (arXiv 2503.03756; Lin 1989).

    CCC = 2 cov(x, y) / (var x + var y + (mean x - mean y)^2), population moments.

    Args:
        outputs: (M, D).
        targets: (M, D), NaN where missing: left out of that column. A column without any is left out of the mean.
    """
    known = ~targets.isnan()
    count = known.sum(0).clamp_min(1)
    x = outputs.float() * known
    y = targets.nan_to_num() * known
    x_mean, y_mean = x.sum(0) / count, y.sum(0) / count
    x_dev, y_dev = (x - x_mean) * known, (y - y_mean) * known
    covariance = (x_dev * y_dev).sum(0) / count
    variances = (x_dev.square().sum(0) + y_dev.square().sum(0)) / count
    ccc = 2 * covariance / (variances + (x_mean - y_mean).square() + 1e-8)
    there = known.any(0)
    return ((1 - ccc) * there).sum() / there.sum().clamp_min(1)


@dataclass
class DimensionTarget(Plain):
    """Arousal, valence, dominance on their own scales.

    Attributes:
        dimensions: in the order of the outputs.
        scales: lowest and highest rating of each.
    """

    dimensions: tuple[str, ...]
    scales: tuple[tuple[float, float], ...]
    name: str = "dimension"

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return len(self.dimensions)

    def encode(self, utterances: pd.DataFrame, ratings: pd.DataFrame | None = None) -> np.ndarray:
        """(N, K) float32 in [-1, 1] by the known scale (not by a split's own range); NaN where missing."""
        values = utterances[list(self.dimensions)].to_numpy(dtype=np.float64)
        return to_unit(values, self.scales).astype(np.float32)

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """Mean over dimensions of 1 - CCC over the whole batch (`ccc_loss`); outputs and targets (B, K)."""
        return ccc_loss(outputs, targets)

    def blend(self, outputs: Tensor, others: Tensor, share: float) -> Tensor:
        """Weighted mean of two models' values, ``share`` for the others; (B, K)."""
        return blend_values(outputs, others, share)

    def decode(self, outputs: Tensor) -> dict[str, np.ndarray]:
        """Outputs (B, K) -> ``values`` (B, K) float64 on the own scales, kept inside them."""
        return {"values": from_unit(outputs.double().cpu().numpy(), self.scales)}

    def describe(self) -> dict[str, Any]:
        """As saved in model.json."""
        return {"name": self.name, "dimensions": list(self.dimensions), "scales": [list(s) for s in self.scales]}
