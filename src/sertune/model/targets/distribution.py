"""How opinions spread: over labels, over the arousal-valence plane, or along each dimension."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sertune.data.labels import label_distances
from sertune.model.density import bin_centres, expected_value, gaussian_cells
from sertune.model.planes import Truth, plane_targets
from sertune.model.targets.dimension import from_unit, to_unit
from sertune.model.targets.plain import Plain, blend_logits, blend_values, decode_logits
from sertune.model.targets.slots import rating_slots, split_slots

PLANE = ("arousal", "valence")
SINKHORN_ROUNDS = 50
SINKHORN_BLUR = 0.05
BETA_STEPS = 64
LEAST_SPREAD = 0.05
"""Smallest spread, on scales from -1 to 1: a quarter of a step of a scale of nine."""


@dataclass(frozen=True)
class Plane:
    """The cells of the arousal-valence plane, and what the true distribution over them is.

    Attributes:
        grid: cells along arousal and valence.
        truth: how ratings become a distribution.
        seed: of its draws.
    """

    grid: tuple[int, int] = (4, 4)
    truth: Truth = field(default_factory=Truth)
    seed: int = 0

    @property
    def cells(self) -> int:
        """How many there are."""
        return self.grid[0] * self.grid[1]

    def encode(
        self, utterances: pd.DataFrame, ratings: pd.DataFrame | None, scales: Sequence[tuple[float, float]]
    ) -> np.ndarray:
        """(N, cells) float32 true distributions; NaN where a clip has no rating of both dimensions.

        Args:
            utterances: of a manifest.
            ratings: of the same.
            scales: of arousal and valence.
        """
        values = to_unit(rating_slots(utterances, ratings, PLANE, ())[:, :, 1:].astype(np.float64), scales)
        values[np.isnan(values).any(axis=2)] = np.nan
        found = np.full((len(utterances), self.cells), np.nan, dtype=np.float32)
        rated = ~np.isnan(values[:, :, 0]).all(axis=1)
        if rated.any():
            ids = utterances["id"].to_numpy(dtype=object)[rated].tolist()
            found[rated] = plane_targets(values[rated], ids, self.grid, self.truth, self.seed)
        return found

    def describe(self) -> dict[str, Any]:
        """As saved in model.json."""
        truth = {"draws": self.truth.draws, "noise": self.truth.noise, "subsets": self.truth.subsets}
        return {"grid": list(self.grid), **truth, "seed": self.seed}

    @staticmethod
    def of(described: dict[str, Any]) -> "Plane":
        """What `describe` described."""
        truth = Truth(draws=described["draws"], noise=described["noise"], subsets=described["subsets"])
        return Plane((described["grid"][0], described["grid"][1]), truth, described["seed"])


@dataclass
class VotesTarget(Plain):
    """The shares of the labels among an utterance's votes.

    Attributes:
        labels: in the order of the outputs.
        measure: ``cross-entropy``, ``kl`` or ``emd``.
    """

    categorical = True
    labels: tuple[str, ...]
    measure: str = "cross-entropy"
    name: str = "votes"

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return len(self.labels)

    @property
    def solvable(self) -> bool:
        """Whether logistic regression is all that a frozen encoder can learn."""
        return self.measure != "emd"

    def encode(self, utterances: pd.DataFrame, ratings: pd.DataFrame | None = None) -> np.ndarray:
        """(N, K) float32 shares; NaN where there is no vote for any of `labels`."""
        return vote_shares(rating_slots(utterances, ratings, ("emotion",), (), self.labels), len(self.labels))

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """Mean over clips of the distance between shares (B, K) and the softmax of logits (B, K), in float32."""
        cost = torch.from_numpy(label_distances(self.labels)) if self.measure == "emd" else None
        return distribution_loss(outputs.float(), targets, self.measure, cost)

    def blend(self, outputs: Tensor, others: Tensor, share: float) -> Tensor:
        """Weighted mean of two models' log-probabilities, ``share`` for the others; (B, K) logits."""
        return blend_logits(outputs, others, share)

    def decode(self, outputs: Tensor) -> dict[str, np.ndarray]:
        """Logits (B, K) -> ``probabilities`` (B, K) float64 that sum to 1, and ``predicted`` (B,): the largest."""
        return decode_logits(outputs)

    def describe(self) -> dict[str, Any]:
        """As saved in model.json."""
        return {"name": self.name, "labels": list(self.labels), "measure": self.measure}


@dataclass
class PlaneTarget(Plain):
    """The plane by a softmax over its cells: the baseline of arXiv 2408.11956.

    Attributes:
        scales: of arousal and valence.
        plane: its cells.
        measure: as of `VotesTarget`.
    """

    scales: tuple[tuple[float, float], ...]
    plane: Plane = field(default_factory=Plane)
    measure: str = "cross-entropy"
    dimensions: tuple[str, ...] = PLANE
    name: str = "plane"

    @property
    def outputs(self) -> int:
        """Number of outputs: one logit per cell."""
        return self.plane.cells

    @property
    def solvable(self) -> bool:
        """Whether logistic regression is all that a frozen encoder can learn."""
        return self.measure != "emd"

    def encode(self, utterances: pd.DataFrame, ratings: pd.DataFrame | None = None) -> np.ndarray:
        """(N, cells) float32 true distributions; NaN where there are no ratings."""
        return self.plane.encode(utterances, ratings, self.scales)

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """Mean over clips of the distance between distributions (B, cells) and the softmax of logits, in float32."""
        cost = cell_distances(self.plane.grid) if self.measure == "emd" else None
        return distribution_loss(outputs.float(), targets, self.measure, cost)

    def blend(self, outputs: Tensor, others: Tensor, share: float) -> Tensor:
        """Weighted mean of two models' log-probabilities, ``share`` for the others."""
        return blend_logits(outputs, others, share)

    def decode(self, outputs: Tensor) -> dict[str, np.ndarray]:
        """Logits (B, cells) -> ``cells`` (B, cells) that sum to 1, and by the cells' centres ``values``, ``spread``."""
        return decode_cells(outputs.double().softmax(1), self.plane.grid, self.scales)

    def describe(self) -> dict[str, Any]:
        """As saved in model.json."""
        return {
            "name": self.name,
            "scales": [list(s) for s in self.scales],
            "plane": self.plane.describe(),
            "measure": self.measure,
        }


@dataclass
class SpreadTarget(Plain):
    """A mean and a spread per dimension: ratings are drawn from a Gaussian or a Beta distribution.

    Encoded targets are the true plane, where there is one, and then the single ratings (`rating_slots`).

    Attributes:
        dimensions: in the order of the outputs.
        scales: lowest and highest rating of each.
        family: ``gaussian`` or ``beta``.
        plane: its cells; None unless arousal and valence are both there.
    """

    dimensions: tuple[str, ...]
    scales: tuple[tuple[float, float], ...]
    family: str = "gaussian"
    plane: Plane | None = None
    name: str = "spread"

    @property
    def outputs(self) -> int:
        """Number of outputs: locations, then log spreads (gaussian) or log concentrations (beta)."""
        return 2 * len(self.dimensions)

    @property
    def solvable(self) -> bool:
        """Whether a linear model can be solved for: no, its start is an approximation."""
        return False

    @property
    def before(self) -> int:
        """Columns of encoded targets before the ratings."""
        return self.plane.cells if self.plane else 0

    def missing(self, count: int) -> Tensor:
        """Encoded targets of clips of which nothing is known."""
        return torch.full((count, self.before + 1 + len(self.dimensions)), torch.nan)

    def encode(self, utterances: pd.DataFrame, ratings: pd.DataFrame | None = None) -> np.ndarray:
        """(N, cells + R (1 + D)) float32: the true plane, and each rating in [-1, 1]."""
        return encode_ratings(self, utterances, ratings, ())

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """Mean over all ratings of their negative log-likelihood, averaged over dimensions, in float32.

        Gaussian: location m and spread s = exp(output) + `LEAST_SPREAD` in [-1, 1]. Beta: mean sigmoid(output),
        concentration k = exp(output) + 2, on ratings brought from [-1, 1] into the open interval (0, 1).
        """
        _, ratings = split_slots(targets, self.before, len(self.dimensions))
        known = ~ratings.isnan()
        location, scale = (part[:, None] for part in outputs.float().chunk(2, dim=1))
        y = ratings.nan_to_num()
        if self.family == "gaussian":
            spread = scale.exp() + LEAST_SPREAD
            nll = spread.log() + ((y - location) / spread).square() / 2 + math.log(2 * math.pi) / 2
        else:
            alpha, beta = _beta(location, scale)
            inside = (y + 1) / 2 * 0.98 + 0.01
            nll = -torch.distributions.Beta(alpha, beta).log_prob(inside)
        count = known.sum((0, 1))
        return ((nll * known).sum((0, 1)) / count.clamp_min(1)).sum() / (count > 0).sum().clamp_min(1)

    def blend(self, outputs: Tensor, others: Tensor, share: float) -> Tensor:
        """Weighted mean of locations and of log spreads."""
        return blend_values(outputs, others, share)

    def start_of(self, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """(N, 2 D) outputs that a clip's mean and spread in [-1, 1] stand for."""
        spread = np.clip(spread, 2 * LEAST_SPREAD, 0.9)
        if self.family == "gaussian":
            return np.concatenate([mean, np.log(spread - LEAST_SPREAD)], axis=1)
        middle = np.clip((mean + 1) / 2, 0.02, 0.98)
        concentration = np.clip(middle * (1 - middle) / (spread / 2) ** 2 - 1, 2.1, 200)
        return np.concatenate([np.log(middle / (1 - middle)), np.log(concentration - 2)], axis=1)

    def decode(self, outputs: Tensor) -> dict[str, np.ndarray]:
        """Outputs (B, 2 D) -> ``values`` and ``spread`` on the own scales, and ``cells`` where there is a plane."""
        location, scale = outputs.double().cpu().chunk(2, dim=1)
        if self.family == "gaussian":
            mean, spread = location, scale.exp() + LEAST_SPREAD
        else:
            alpha, beta = _beta(location, scale)
            mean = 2 * alpha / (alpha + beta) - 1
            spread = 2 * (alpha * beta / ((alpha + beta).square() * (alpha + beta + 1))).sqrt()
        found = {"values": from_unit(mean.numpy(), self.scales), "spread": spread.numpy() * half_widths(self.scales)}
        if self.plane is not None:
            places = [self.dimensions.index(name) for name in PLANE]
            if self.family == "gaussian":
                cells = gaussian_cells(mean[:, places], spread[:, places], self.plane.grid)
            else:
                cells = beta_cells(alpha[:, places], beta[:, places], self.plane.grid)
            found["cells"] = cells.flatten(1).numpy()
        return found

    def describe(self) -> dict[str, Any]:
        """As saved in model.json."""
        return {
            "name": self.name,
            "dimensions": list(self.dimensions),
            "scales": [list(s) for s in self.scales],
            "family": self.family,
            "plane": self.plane.describe() if self.plane else None,
        }


def _beta(location: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    concentration = scale.clamp_max(8).exp() + 2
    middle = location.sigmoid().clamp(1e-4, 1 - 1e-4)
    return middle * concentration, (1 - middle) * concentration


def half_widths(scales: Sequence[tuple[float, float]]) -> np.ndarray:
    """(D,) half the width of each scale: what 1 in [-1, 1] is on it."""
    low, high = np.array(scales).T
    return np.asarray((high - low) / 2)


def encode_ratings(
    target: Any, utterances: pd.DataFrame, ratings: pd.DataFrame | None, raters: Sequence[str]
) -> np.ndarray:
    """(N, cells + R (1 + D)) float32: the true plane of a target that has one, and each rating in [-1, 1]."""
    slots = rating_slots(utterances, ratings, target.dimensions, raters)
    slots[:, :, 1:] = to_unit(slots[:, :, 1:].astype(np.float64), target.scales)
    flat = slots.reshape(len(slots), -1)
    if target.plane is None:
        return flat
    places = [target.dimensions.index(name) for name in PLANE]
    return np.concatenate([target.plane.encode(utterances, ratings, [target.scales[i] for i in places]), flat], axis=1)


def vote_shares(slots: np.ndarray, labels: int) -> np.ndarray:
    """(N, K) float32 shares of the labels among the votes in slots (N, R, 2); NaN where there are none."""
    counts = (slots[:, :, 1, None] == np.arange(labels)).sum(axis=1).astype(np.float64)
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), np.nan).astype(np.float32)


def distribution_loss(logits: Tensor, targets: Tensor, measure: str, cost: Tensor | None) -> Tensor:
    """Mean over clips of the distance between true distributions and softmax(logits); clips with NaN are left out.

    ``cross-entropy`` -sum q log p; ``kl`` sum q log(q / p); ``emd`` the cheapest transport from q to p under ``cost``
    (K, K), smoothed by entropy (`transport`).
    """
    known = ~targets.isnan().any(1)
    logits, true = logits[known], targets[known]
    if not len(true):
        return logits.sum() * 0
    log_p = logits.log_softmax(1)
    if measure == "emd":
        assert cost is not None
        return transport(log_p, true, cost.to(log_p)).mean()
    entropy: Tensor = -(true * log_p).sum(1)
    if measure == "kl":
        entropy = entropy + torch.special.xlogy(true, true).sum(1)
    return entropy.mean()


def transport(log_p: Tensor, q: Tensor, cost: Tensor) -> Tensor:
    """(B,) Sinkhorn divergence, near the earth mover's distance and 0 for equal distributions (Feydy et al. 2019).

    The cost of the blurred transport from q to p, less half of that from each to itself.
    """
    itself = sinkhorn(log_p, log_p.exp(), cost) + sinkhorn(q.clamp_min(1e-9).log(), q, cost)
    return sinkhorn(log_p, q, cost) - itself / 2


def sinkhorn(log_p: Tensor, q: Tensor, cost: Tensor) -> Tensor:
    """(B,) cost of the entropic transport from q (B, K) to p, differentiable in log p (B, K) (Cuturi 2013).

    In the log domain, with `SINKHORN_BLUR` times the largest cost as the entropy's weight, in `SINKHORN_ROUNDS` rounds.
    """
    weight = SINKHORN_BLUR * cost.max()
    log_q = q.clamp_min(1e-9).log()
    kernel = -cost[None] / weight
    v = torch.zeros_like(log_p)
    u = torch.zeros_like(log_p)
    for _ in range(SINKHORN_ROUNDS):
        u = log_q - (kernel + v[:, None, :]).logsumexp(2)
        v = log_p - (kernel + u[:, :, None]).logsumexp(1)
    plan = (kernel + u[:, :, None] + v[:, None, :]).exp()
    spent: Tensor = (plan * cost).sum((1, 2))
    return spent


def decode_cells(cells: Tensor, grid: tuple[int, int], scales: Sequence[tuple[float, float]]) -> dict[str, np.ndarray]:
    """``cells`` (B, cells), and by the cells' centres their mean (``values``) and ``spread`` on the own scales."""
    square = cells.double().cpu().reshape(-1, *grid)
    mean = expected_value(square)
    squares = torch.stack([square.sum(2 - axis) @ bin_centres(bins).square() for axis, bins in enumerate(grid)], 1)
    return {
        "cells": square.flatten(1).numpy(),
        "values": from_unit(mean.numpy(), scales),
        "spread": (squares - mean.square()).clamp_min(0).sqrt().numpy() * half_widths(scales),
    }


def cell_distances(grid: tuple[int, int]) -> Tensor:
    """(cells, cells) Euclidean distances between the cells' centres, where the plane is 2 wide."""
    centres = torch.cartesian_prod(*(bin_centres(bins).double() for bins in grid))
    distances: Tensor = torch.cdist(centres, centres)
    return distances


def beta_cells(alpha: Tensor, beta: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, gx, gy) mass in each cell of the product of two Beta distributions, by midpoints of `BETA_STEPS` per cell.

    Args:
        alpha, beta: (B, 2).
        grid: cells along both axes.
    """
    shares: list[Tensor] = []
    for axis, bins in enumerate(grid):
        place = (torch.arange(bins * BETA_STEPS, dtype=torch.float64) + 0.5) / (bins * BETA_STEPS)
        density = torch.distributions.Beta(alpha[:, axis, None], beta[:, axis, None]).log_prob(place[None]).exp()
        mass = density.reshape(len(alpha), bins, BETA_STEPS).sum(2)
        shares.append(mass / mass.sum(1, keepdim=True))
    return shares[0][:, :, None] * shares[1][:, None, :]
