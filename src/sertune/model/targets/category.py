"""One of several labels, or the shares of the votes for them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sertune.model.targets.plain import Plain, blend_logits, decode_logits

MASKED = -1.0
"""In place of a class's probability, where the clip says nothing of the class: its corpus does not have it."""


@dataclass
class CategoryTarget(Plain):
    """One of several labels.

    Attributes:
        labels: in the order of the outputs.
        smoothing: share of each label's probability spread over all labels.
        adjustment: how much of the class frequencies is taken out of the decision; see `loss`.
        weights: (K,) weight of each class in the loss.
        shares: (K,) share of each class in the training part.
    """

    categorical = True
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

    def encode(self, utterances: pd.DataFrame, ratings: pd.DataFrame | None = None) -> np.ndarray:
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
        targets = targets[~np.isnan(targets).any(axis=1)]
        counts = np.maximum(np.maximum(targets, 0).sum(0), 1)
        self.shares = torch.tensor(counts / max(len(targets), 1), dtype=torch.float32)
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

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """Weighted cross-entropy of the whole batch, in float32.

        sum_i w_i CE(q_i, softmax(adjusted outputs_i)) / sum_i w_i with w_i = sum_k weights_k y_ik and the smoothed
        label q = (1 - s) y + s / K; also for mixed (soft) labels.

        Args:
            outputs: (B, K) logits.
            targets: (B, K) probabilities; `MASKED` classes are left out of the clip's softmax and of K. Clips with NaN
                are left out.
        """
        known = ~targets.isnan().any(1)
        if not bool(known.all()):
            outputs, targets = outputs[known], targets[known]
        if not len(targets):
            return outputs.sum() * 0
        had = (targets >= 0).sum(1, keepdim=True)
        smooth = (1 - self.smoothing) * targets.clamp_min(0) + self.smoothing / had
        entropy = -(smooth * self.log_probabilities(outputs.float(), targets)).sum(1)
        weight = self.clip_weights(targets)
        return (weight * entropy).sum() / weight.sum()

    def blend(self, outputs: Tensor, others: Tensor, share: float) -> Tensor:
        """Weighted mean of two models' log-probabilities, ``share`` for the others; (B, K) logits."""
        return blend_logits(outputs, others, share)

    def decode(self, outputs: Tensor) -> dict[str, np.ndarray]:
        """Logits (B, K) -> ``probabilities`` (B, K) float64 that sum to 1, and ``predicted`` (B,) indices."""
        return decode_logits(outputs)

    def describe(self) -> dict[str, Any]:
        """As saved in model.json."""
        return {"name": self.name, "labels": list(self.labels), "smoothing": self.smoothing}


def label_codes(labels: pd.Series, known: Sequence[str]) -> np.ndarray:
    """(N,) int64 positions in ``known``; -1 where missing or not among them."""
    position = {label: code for code, label in enumerate(known)}
    return np.array([position.get(label, -1) if isinstance(label, str) else -1 for label in labels], dtype=np.int64)
