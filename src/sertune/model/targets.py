"""Targets: what is predicted. Each owns encoding, loss and decoding, so that they cannot disagree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sertune.errors import SertuneError

MASKED = -1.0
"""In place of a class's probability, where the clip says nothing of the class: its corpus does not have it."""


@dataclass
class CategoryTarget:
    """One of several labels.

    Attributes:
        labels: in the order of the outputs.
        smoothing: share of each label's probability spread over all labels.
        adjustment: how much of the class frequencies is taken out of the decision; see `loss`.
        weights: (K,) weight of each class in the loss.
        shares: (K,) share of each class in the training part.
    """

    labels: tuple[str, ...]
    smoothing: float = 0.0
    adjustment: float = 0.0
    weighted: bool = True
    weights: Tensor = field(default_factory=lambda: torch.ones(0))
    shares: Tensor = field(default_factory=lambda: torch.ones(0))
    name: str = "category"

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return len(self.labels)

    def encode(self, utterances: pd.DataFrame) -> np.ndarray:
        """(N, K) float32, 1 at the label; a row of NaN where the label is missing or not among `labels`."""
        codes = label_codes(utterances["emotion"], self.labels)
        encoded = np.full((len(codes), len(self.labels)), np.nan, dtype=np.float32)
        known = codes >= 0
        encoded[known] = np.eye(len(self.labels), dtype=np.float32)[codes[known]]
        return encoded

    def balance(self, targets: np.ndarray) -> None:
        """Takes class weights and shares from the training part's ``targets`` (N, K).

        A class weighs the inverse of its frequency, so that the weights' mean over clips is 1.
        """
        counts = np.maximum(np.maximum(targets, 0).sum(0), 1)
        self.shares = torch.tensor(counts / len(targets), dtype=torch.float32)
        if self.weighted:
            self.weights = torch.tensor(len(targets) / (len(self.labels) * counts), dtype=torch.float32)

    def adjusted(self, outputs: Tensor) -> Tensor:
        """Logits plus ``adjustment`` times the log shares of the classes.

        Logit adjustment (Menon et al. 2021, eq. 10): trained with it, the plain logits favour rare classes, as the
        balanced error (UAR) asks for, also where the training part is separable and class weights change nothing.
        """
        if not self.adjustment or not len(self.shares):
            return outputs
        return outputs + self.adjustment * self.shares.log().to(outputs)

    def clip_weights(self, targets: Tensor) -> Tensor:
        """(B,) weight of each clip, for labels (B, K) that may be mixed."""
        return (
            (targets.clamp_min(0) * self.weights.to(targets)).sum(1)
            if len(self.weights)
            else torch.ones_like(targets[:, 0])
        )

    def log_probabilities(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B, K) adjusted, over the classes that each clip's corpus has; 0 for those that it lacks."""
        lacking = targets < 0
        adjusted = self.adjusted(outputs).masked_fill(lacking, float("-inf"))
        return adjusted.log_softmax(1).masked_fill(lacking, 0.0)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Weighted cross-entropy of the whole batch, in float32.

        sum_i w_i CE(q_i, softmax(adjusted outputs_i)) / sum_i w_i with w_i = sum_k weights_k y_ik and the smoothed
        label q = (1 - s) y + s / K; also for mixed (soft) labels.

        Args:
            outputs: (B, K) logits.
            targets: (B, K) probabilities; `MASKED` classes are left out of the clip's softmax and of K.
        """
        had = (targets >= 0).sum(1, keepdim=True)
        smooth = (1 - self.smoothing) * targets.clamp_min(0) + self.smoothing / had
        entropy = -(smooth * self.log_probabilities(outputs.float(), targets)).sum(1)
        weight = self.clip_weights(targets)
        return (weight * entropy).sum() / weight.sum()

    def blend(self, outputs: Tensor, others: Tensor, share: float) -> Tensor:
        """Weighted mean of two models' log-probabilities, ``share`` for the others; (B, K) logits."""
        return (1 - share) * outputs.float().log_softmax(1) + share * others.float().log_softmax(1)

    def decode(self, outputs: Tensor) -> dict[str, np.ndarray]:
        """Logits (B, K) -> ``probabilities`` (B, K) float64 that sum to 1, and ``predicted`` (B,) indices."""
        probabilities = outputs.double().softmax(1).cpu().numpy()
        return {"probabilities": probabilities, "predicted": probabilities.argmax(1)}

    def describe(self) -> dict[str, Any]:
        """As saved in model.json."""
        return {"name": self.name, "labels": list(self.labels), "smoothing": self.smoothing}


@dataclass
class DimensionTarget:
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

    def encode(self, utterances: pd.DataFrame) -> np.ndarray:
        """(N, K) float32 in [-1, 1] by the known scale (not by a split's own range); NaN where missing."""
        values = utterances[list(self.dimensions)].to_numpy(dtype=np.float64)
        low, high = np.array(self.scales).T
        return np.asarray((2 * (values - low) / (high - low) - 1).astype(np.float32))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over dimensions of 1 - CCC over the whole batch, in float32 (arXiv 2503.03756; Lin 1989).

        CCC = 2 cov(x, y) / (var x + var y + (mean x - mean y)^2), population moments.

        Args:
            outputs: (B, K).
            targets: (B, K), NaN where missing: left out of that dimension.
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
        return (1 - ccc).mean()

    def blend(self, outputs: Tensor, others: Tensor, share: float) -> Tensor:
        """Weighted mean of two models' values, ``share`` for the others; (B, K)."""
        return (1 - share) * outputs.float() + share * others.float()

    def decode(self, outputs: Tensor) -> dict[str, np.ndarray]:
        """Outputs (B, K) -> ``values`` (B, K) float64 on the own scales, kept inside them."""
        low, high = np.array(self.scales).T
        values = (outputs.double().cpu().numpy() + 1) / 2 * (high - low) + low
        return {"values": np.clip(values, low, high)}

    def describe(self) -> dict[str, Any]:
        """As saved in model.json."""
        return {"name": self.name, "dimensions": list(self.dimensions), "scales": [list(s) for s in self.scales]}


Target = CategoryTarget | DimensionTarget


def possible(target: Target, outputs: Tensor, targets: np.ndarray) -> Tensor:
    """Outputs (N, K) without the classes that each clip's corpus lacks: -inf where ``targets`` are `MASKED`."""
    if not isinstance(target, CategoryTarget):
        return outputs
    lacking = torch.from_numpy(targets < 0).to(outputs.device)
    return outputs.masked_fill(lacking, float("-inf"))


def label_codes(labels: pd.Series, known: Sequence[str]) -> np.ndarray:
    """(N,) int64 positions in ``known``; -1 where missing or not among them."""
    position = {label: code for code, label in enumerate(known)}
    return np.array([position.get(label, -1) if isinstance(label, str) else -1 for label in labels], dtype=np.int64)


def target_from(description: Mapping[str, Any]) -> Target:
    """The target that `describe` described.

    Raises:
        SertuneError: a target that this version does not know.
    """
    if description["name"] == "category":
        return CategoryTarget(tuple(description["labels"]), float(description["smoothing"]))
    if description["name"] == "dimension":
        scales = tuple((float(low), float(high)) for low, high in description["scales"])
        return DimensionTarget(tuple(description["dimensions"]), scales)
    raise SertuneError(f"unknown target {description['name']!r}; was it saved by a newer sertune?")
