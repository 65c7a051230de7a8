"""The frozen baseline: regularised linear models on pooled states, solved rather than trained.

Multinomial logistic regression for categories, ridge regression for dimensions, on standardised features. It
starts the head (linear probing, then fine-tuning: Kumar et al. 2022) and stands beside every result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sertune.model.targets import (
    CategoryTarget,
    DimensionTarget,
    JoinedTarget,
    PlaneTarget,
    RaterTarget,
    Single,
    SpreadTarget,
    Target,
    labels_of,
)
from sertune.model.targets.slots import split_slots

ITERATIONS = 200
ALONE = 0.3
"""Spread in [-1, 1] that is assumed where no clip has two ratings."""


@dataclass
class LinearModel:
    """Outputs = features @ weight.T + bias, with weight (K, F) and bias (K,)."""

    weight: Tensor
    bias: Tensor
    regularisation: float

    def __call__(self, features: Tensor) -> Tensor:
        """(N, F) -> (N, K)."""
        return features.to(self.weight) @ self.weight.T + self.bias


def fit_linear(
    features: Tensor, targets: np.ndarray, target: Target, regularisation: float, start: LinearModel | None = None
) -> LinearModel:
    """The linear model of a target, with `Target.linear` outputs.

    Args:
        features: (N, F), standardised.
        targets: (N, K) as `Target.encode` gives them.
        target: whose loss it serves.
        regularisation: lambda; see `fit_logistic` and `fit_ridge`.
        start: where the solver starts (a model of another lambda).
    """
    if not isinstance(target, JoinedTarget):
        return _fit_single(features, targets, target, regularisation, start)
    models, first = [], 0
    for part, own in zip(target.parts, target.encoded(targets), strict=True):
        rows = slice(first, first + part.linear)
        before = LinearModel(start.weight[rows], start.bias[rows], start.regularisation) if start else None
        models.append(_fit_single(features, own, part, regularisation, before))
        first += part.linear
    return _stacked(models)


def _stacked(models: Sequence[LinearModel]) -> LinearModel:
    weight, bias = torch.cat([model.weight for model in models]), torch.cat([model.bias for model in models])
    return LinearModel(weight, bias, models[0].regularisation)


def _fit_single(
    features: Tensor, targets: np.ndarray, target: Single, regularisation: float, start: LinearModel | None
) -> LinearModel:
    if isinstance(target, DimensionTarget):
        return fit_ridge(features, targets, regularisation)
    if isinstance(target, (RaterTarget, SpreadTarget)):
        return _fit_spread(features, targets, target, regularisation)
    if isinstance(target, CategoryTarget):
        judged = target
    else:
        cells = target.plane.cells if isinstance(target, PlaneTarget) else 0
        judged = CategoryTarget(labels_of(target) or tuple(map(str, range(cells))), weighted=False)
        targets = targets[:, : len(judged.labels)]
    known = ~np.isnan(targets).any(axis=1)
    return fit_logistic(features[torch.from_numpy(known)], targets[known], judged, regularisation, start)


def rating_moments(targets: np.ndarray, target: RaterTarget | SpreadTarget) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (N, D) of each clip's ratings in [-1, 1]; NaN where there is none (not two)."""
    _, ratings = split_slots(torch.from_numpy(targets), target.before, len(target.dimensions))
    values = ratings.double().numpy()
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    mean = np.where(count > 0, np.nan_to_num(values).sum(axis=1) / np.maximum(count, 1), np.nan)
    squares = np.where(known, (np.nan_to_num(values) - np.nan_to_num(mean)[:, None]) ** 2, 0.0).sum(axis=1)
    return mean, np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)


def _fit_spread(
    features: Tensor, targets: np.ndarray, target: RaterTarget | SpreadTarget, regularisation: float
) -> LinearModel:
    """Ridge regression of the consensus; its spread fixed for annotators, and linear (its log) for a Gaussian or Beta.

    The fixed one is the standard deviation of the single ratings around the consensus that is predicted.
    """
    mean, spread = rating_moments(targets, target)
    if isinstance(target, SpreadTarget):
        if np.isnan(spread).all():
            spread = np.full_like(spread, ALONE)
        return fit_ridge(features, target.start_of(mean, spread).astype(np.float32), regularisation)
    model = fit_ridge(features, mean.astype(np.float32), regularisation)
    _, ratings = split_slots(torch.from_numpy(targets), target.before, len(target.dimensions))
    errors = (ratings - model(features)[:, None]).double().square()
    fixed = errors.flatten(0, 1).nanmean(0).nan_to_num(1.0).sqrt().clamp_min(1e-3).float()
    return LinearModel(
        torch.cat([model.weight, torch.zeros_like(model.weight)]), torch.cat([model.bias, fixed.log()]), regularisation
    )


def fit_logistic(
    features: Tensor, targets: np.ndarray, target: CategoryTarget, regularisation: float, start: LinearModel | None
) -> LinearModel:
    """Multinomial logistic regression by L-BFGS.

    Minimises sum_i w_i CE_i / sum_i w_i + lambda / 2 * ||W||^2 with the target's class weights and logit adjustment,
    without label smoothing, the bias unpenalised.
    """
    x = features.double()
    y = torch.from_numpy(targets).double()
    weights = target.clip_weights(y)
    weights = weights / weights.sum()
    weight = torch.zeros(y.shape[1], x.shape[1], dtype=torch.float64)
    bias = torch.zeros(y.shape[1], dtype=torch.float64)
    if start is not None:
        weight, bias = start.weight.double().clone(), start.bias.double().clone()
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    solver = torch.optim.LBFGS(
        parameters, max_iter=ITERATIONS, tolerance_grad=3e-5, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        entropy = -(y.clamp_min(0) * target.log_probabilities(x @ weight.T + bias, y)).sum(1)
        loss = (weights * entropy).sum() + regularisation / 2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return LinearModel(weight.detach().float(), bias.detach().float(), regularisation)


def fit_ridge(features: Tensor, targets: np.ndarray, regularisation: float) -> LinearModel:
    """Ridge regression in closed form, each dimension on the clips that have it.

    Minimises mean_i (y_i - w x_i - b)^2 + lambda ||w||^2, the bias unpenalised.
    """
    x, y = features.double(), torch.from_numpy(targets).double()
    rows = []
    for column in range(y.shape[1]):
        known = ~y[:, column].isnan()
        x_mean, y_mean = x[known].mean(0), y[known, column].mean()
        centred, deviation = x[known] - x_mean, y[known, column] - y_mean
        weight = _ridge_weight(centred, deviation, regularisation * int(known.sum()))
        rows.append((weight, y_mean - weight @ x_mean))
    weights, biases = zip(*rows, strict=True)
    return LinearModel(torch.stack(weights).float(), torch.stack(biases).float(), regularisation)


def _ridge_weight(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Primal or dual, whichever is smaller."""
    count, width = x.shape
    if width <= count:
        gram = x.T @ x + penalty * torch.eye(width, dtype=x.dtype)
        solved: Tensor = torch.linalg.solve(gram, x.T @ y)
        return solved
    gram = x @ x.T + penalty * torch.eye(count, dtype=x.dtype)
    dual: Tensor = torch.linalg.solve(gram, y)
    return x.T @ dual
