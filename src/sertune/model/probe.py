"""The frozen baseline: regularised linear models on pooled states, solved rather than trained.

Multinomial logistic regression for categories, ridge regression for dimensions, on standardised features. It
starts the head (linear probing, then fine-tuning: Kumar et al. 2022) and stands beside every result.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sertune.model.targets import CategoryTarget, Target

ITERATIONS = 200


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
    """The linear model of a target.

    Args:
        features: (N, F), standardised.
        targets: (N, K) as `Target.encode` gives them; for categories without NaN.
        target: whose loss it serves.
        regularisation: lambda; see `fit_logistic` and `fit_ridge`.
        start: where the solver starts (a model of another lambda).
    """
    if isinstance(target, CategoryTarget):
        return fit_logistic(features, targets, target, regularisation, start)
    return fit_ridge(features, targets, regularisation)


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
