"""A new annotator from a few ratings: the nearest known annotators, and an own part fitted to the ratings.

The follow-up of the annotators' paper (arXiv 2509.12295) takes the most similar known annotator in the place of a new
one. Beside that, the layer of annotators (`sertune.model.raters.RaterLayer`) gives a new one an own part theta of
weights, the others' staying as they are: the maximum a posteriori under the ratings and a Gaussian prior,

    theta = argmin_theta  sum_i L(r_i, y_i(theta)) + sum_j (theta_j - m_j)^2 / (2 v_j)

with L the squared error over twice the variance of single ratings around annotators' values (`RaterLayer.noise_of`),
or the cross-entropy of a label. m and v are mean and variance of the known annotators' own parts, weight by weight
(`prior`): how far the known ones moved in each weight says how far a new one may. In training all weights have one
variance and the mean 0. With that a few ratings would move weights that no annotator uses, and make the result worse
than the average annotator; so would the nearest annotators as the prior's mean, which counts the ratings twice.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from sertune.errors import SertuneError
from sertune.model.emotion_model import EmotionModel, Vectors
from sertune.model.raters import RaterLayer
from sertune.model.targets import RaterLabelTarget, RaterTarget
from sertune.model.targets.dimension import from_unit, to_unit

NEAREST: Final = 5
"""Known annotators whose weighted mean stands for a new one."""
LEAST_NOISE: Final = 0.05
"""Of single ratings, on scales from -1 to 1."""
ROUNDS: Final = 100
"""Of L-BFGS, at most."""
PARTS: Final = 50
"""Fits for the leave-one-out error, at most."""


@dataclass(frozen=True)
class Neighbour:
    """A known annotator who is like a new one.

    Attributes:
        rater: the name.
        weight: share of the weighted mean.
        distance: root mean square of rating minus this annotator's predicted value, on scales from -1 to 1; with labels
            the mean of -log p(label).
    """

    rater: str
    weight: float
    distance: float


@dataclass(frozen=True, eq=False)
class Fitted:
    """A new annotator.

    Attributes:
        own: (1, ...) own part, as a row of `RaterLayer.own`.
        nearest: known annotators, the nearest first.
        clips: rated.
        errors: leave-one-out error of ``fitted``, ``nearest`` and ``average``: each clip predicted from the ratings of
            the others (with more than `PARTS` clips, part by part). By dimension the root mean square error on its own
            scale; with labels ``wrong``, the share of wrong labels, and ``cross-entropy``. Empty with one clip.
    """

    own: Tensor
    nearest: tuple[Neighbour, ...]
    clips: int
    errors: dict[str, dict[str, float]]


def rater_part(model: EmotionModel) -> tuple[RaterTarget | RaterLabelTarget, RaterLayer]:
    """The target of annotators with its last layer.

    Raises:
        SertuneError: the model does not predict annotators.
    """
    found = model.rater_part
    if found is None:
        raise SertuneError(
            f"the model predicts no single annotators (target {model.target.name}); train one with --target rater"
        )
    return found


def fit_rater(model: EmotionModel, clips: Sequence[Vectors], ratings: np.ndarray) -> Fitted:
    """The own part that fits a new annotator's ratings, and the known annotators nearest to it.

    Args:
        model: in eval mode.
        clips: what the head reads of each of N clips (`EmotionModel.clip_vectors`).
        ratings: (N, D) on the own scales, NaN where missing, or (N,) numbers of labels.

    Raises:
        SertuneError: the model does not predict annotators, or has met none.
        ValueError: shapes that don't fit together, a value that is none, or a clip without a rating.
    """
    target, layer = rater_part(model)
    if not bool(layer.known.any()):
        raise SertuneError("the model has met no annotator in training, so that none can be near and none be fitted")
    rated = _rated(target, clips, ratings)
    problem = _Problem(model, clips, rated)
    everybody = torch.arange(len(rated))
    own = problem.fit(everybody)
    distances = problem.distances(everybody)
    weights = _weights(distances)
    names = [name for name, known in zip(target.raters, layer.known.tolist(), strict=True) if known]
    order = sorted(range(len(names)), key=lambda k: (-float(weights[k]), names[k]))[:NEAREST]
    nearest = tuple(Neighbour(names[k], float(weights[k]), float(distances[k])) for k in order if weights[k] > 0)
    return Fitted(own, nearest, len(rated), _left_out(problem) if len(rated) > 1 else {})


def _rated(target: RaterTarget | RaterLabelTarget, clips: Sequence[Vectors], ratings: np.ndarray) -> Tensor:
    """(N, D) in [-1, 1], or (N, 1) numbers of labels; float64."""
    given = np.asarray(ratings, dtype=np.float64)
    labels = isinstance(target, RaterLabelTarget)
    width = 1 if isinstance(target, RaterLabelTarget) else len(target.dimensions)
    if given.shape != ((len(clips),) if labels else (len(clips), width)):
        raise ValueError(f"ratings have shape {given.shape}, for {len(clips)} clips and {width} values each")
    given = given.reshape(len(clips), width)
    if not len(given) or np.isnan(given).all(axis=1).any():
        raise ValueError("a clip without a rating, or no clip")
    if isinstance(target, RaterLabelTarget):
        if not np.isin(given, np.arange(len(target.labels))).all():
            raise ValueError(f"labels must be whole numbers from 0 to {len(target.labels) - 1}")
        return torch.from_numpy(given)
    unit = to_unit(given, target.scales)
    if (np.abs(unit[~np.isnan(unit)]) > 1 + 1e-9).any():
        raise ValueError("a rating is outside its scale")
    return torch.from_numpy(unit)


class _Problem:
    """The rated clips as the layer of annotators sees them, and what the fit needs of them.

    Args:
        model: in eval mode.
        clips: N of them, each of one window or more, over which values are averaged.
        rated: (N, D) in [-1, 1] with NaN, or (N, 1) numbers of labels.
    """

    @torch.no_grad()
    def __init__(self, model: EmotionModel, clips: Sequence[Vectors], rated: Tensor) -> None:
        self.target, self.layer = rater_part(model)
        self.rated = rated
        vectors = Vectors.cat(clips)
        self.owner = torch.repeat_interleave(torch.arange(len(clips)), torch.tensor([len(clip) for clip in clips]))
        hidden = model.head.hidden(vectors.head.to(self.layer.own.device))
        _, features = self.layer.parts(hidden)
        self.features = [part.double().cpu() for part in features]
        blank = torch.zeros_like(self.layer.own[:1])
        self.base = model.annotators(vectors, blank)[:, 0].double().cpu()
        """(W, V) values of the average annotator, with the readout's share."""
        self.known = self._per_clip(model.annotators(vectors).double().cpu())
        """(N, A', V) of the known ones."""
        self.average = self._per_clip(self.base)
        self.noise = self._per_clip(self.layer.noise_of(hidden).double().cpu()).clamp_min(LEAST_NOISE)
        """(N, V) standard deviation of single ratings."""
        self.middle, self.spread = prior(self.layer)
        self.shape = self.layer.own.shape[1:]
        self.exact = deepcopy(self.layer).double().cpu().requires_grad_(False)
        """The layer in float64."""

    @property
    def labels(self) -> bool:
        """Whether labels are rated."""
        return isinstance(self.target, RaterLabelTarget)

    def fit(self, rows: Tensor) -> Tensor:
        """(1, ...) own part by the ratings of some clips; without any the prior's mean."""
        if self.labels or self.layer.form.kind == "embedding":
            return self._searched(rows).float()
        return torch.stack([self._solved(group, rows) for group in range(self.layer.groups)])[None].float()

    def _solved(self, group: int, rows: Tensor) -> Tensor:
        """(1, 1 + W) weights of a dimension: m + V X' (X V X' + S)^-1 (r - r_0 - X m); r_0 is for theta = 0."""
        feature = self._per_clip(self.features[group])
        given = rows[~self.rated[rows, group].isnan()]
        x = torch.cat([torch.ones(len(given), 1, dtype=torch.float64), feature[given]], dim=1)
        scaled = x * self.spread[group, 0].square()
        noise = self.noise[given, group].square().diag()
        middle = self.middle[group, 0]
        left = self.rated[given, group] - self.average[given, group] - x @ middle
        found: Tensor = middle + scaled.T @ torch.linalg.solve(scaled @ x.T + noise, left)
        return found[None]

    def _searched(self, rows: Tensor) -> Tensor:
        """(1, ...) by L-BFGS over z = (theta - m) / sqrt(v), for values or losses that are not quadratic."""
        z = torch.zeros(1, *self.shape, dtype=torch.float64, requires_grad=True)
        search = torch.optim.LBFGS([z], max_iter=ROUNDS, line_search_fn="strong_wolfe", tolerance_grad=1e-7)

        def cost() -> Tensor:
            search.zero_grad()
            own = self.middle + z * self.spread
            values = self._per_clip(self.exact.values(self.base, self.features, own)[:, 0])[rows]
            total = self._misfit(values, rows) + z.square().sum() / 2
            (z.grad,) = torch.autograd.grad(total, z)
            return total

        search.step(cost)
        return self.middle + z.detach() * self.spread

    def _misfit(self, values: Tensor, rows: Tensor) -> Tensor:
        """Sum of L over the ratings of some clips, from values (n, V) for them."""
        given = self.rated[rows]
        if self.labels:
            return torch.nn.functional.cross_entropy(values, given[:, 0].long(), reduction="sum")
        errors = (values - given.nan_to_num()) / self.noise[rows] * ~given.isnan()
        return errors.square().sum() / 2

    @torch.no_grad()
    def values(self, own: Tensor) -> Tensor:
        """(N, V) of an annotator with an own part (1, ...)."""
        return self._per_clip(self.exact.values(self.base, self.features, own.double())[:, 0])

    def distances(self, rows: Tensor) -> Tensor:
        """(A',) of the known annotators by the ratings of some clips; see `Neighbour`."""
        values, given = self.known[rows], self.rated[rows][:, None]
        if self.labels:
            place = given.long().expand(-1, values.shape[1], -1)
            return -values.log_softmax(2).gather(2, place)[:, :, 0].mean(0)
        errors = (values - given.nan_to_num()).square() * ~given.isnan()
        return (errors.sum((0, 2)) / (~given.isnan()).sum()).sqrt()

    def nearest(self, rows: Tensor) -> Tensor:
        """(N, V) weighted mean of the known annotators who are nearest by the ratings of some clips."""
        return self._mean_of(_weights(self.distances(rows)))

    def everybody(self) -> Tensor:
        """(N, V) mean of the known annotators: what the model predicts of a clip without a name."""
        count = self.known.shape[1]
        return self._mean_of(torch.full((count,), 1 / count, dtype=torch.float64))

    def _mean_of(self, weights: Tensor) -> Tensor:
        """Of values, or of distributions, whose log is returned."""
        if self.labels:
            return torch.einsum("nav,a->nv", self.known.softmax(2), weights).clamp_min(1e-12).log()
        return torch.einsum("nav,a->nv", self.known, weights)

    def errors(self, predicted: Tensor) -> dict[str, float]:
        """Of predictions (N, V) for all clips; as `Fitted.errors`."""
        if isinstance(self.target, RaterLabelTarget):
            true = self.rated[:, 0].long()
            entropy = torch.nn.functional.cross_entropy(predicted, true)
            return {
                "wrong": float((predicted.argmax(1) != true).double().mean()),
                "cross-entropy": float(entropy),
            }
        # on the own scale and inside it, as what is predicted
        made = from_unit(predicted.numpy(), self.target.scales)
        true_values = from_unit(self.rated.numpy(), self.target.scales)
        known = ~np.isnan(true_values)
        return {
            name: float(np.sqrt(np.mean((made - true_values)[known[:, k], k] ** 2)))
            for k, name in enumerate(self.target.dimensions)
            if known[:, k].any()
        }

    def _per_clip(self, windows: Tensor) -> Tensor:
        """(W, ...) -> (N, ...): the mean over each clip's windows."""
        count = len(self.rated)
        sums = torch.zeros(count, *windows.shape[1:], dtype=windows.dtype).index_add(0, self.owner, windows)
        return sums / torch.bincount(self.owner, minlength=count).reshape(-1, *[1] * (windows.dim() - 1))


def prior(layer: RaterLayer) -> tuple[Tensor, Tensor]:
    """Mean m and standard deviation sqrt(v) of own parts, as in `RaterLayer.own` for one annotator; float64.

    Of the known annotators and one more whose own part is 0, where training draws them. Shrinkage leaves the share
    c_a = n_a / (n_a + lambda) of a true own part with n_a ratings: v is the sum of squares over that of c_a^2.
    """
    own = layer.own.detach()[layer.known].double().cpu()
    counts = layer.counts[layer.known].double().cpu()
    kept = counts / (counts + layer.shrinkage.double().cpu())
    middle = own.sum(0) / (len(own) + 1)
    squares = (own - middle).square().sum(0) + middle.square()
    return middle, (squares / kept.square().sum()).sqrt()


def _weights(distances: Tensor) -> Tensor:
    """(A',) shares of the nearest annotators, in inverse proportion to their distances (A',); 0 for the others."""
    inverse = 1 / distances.clamp_min(1e-6)
    if len(inverse) > NEAREST:
        inverse = inverse * (inverse >= inverse.topk(NEAREST).values[-1])
    return inverse / inverse.sum()


def _left_out(problem: _Problem) -> dict[str, dict[str, float]]:
    """Leave-one-out errors; see `Fitted`."""
    everybody = torch.arange(len(problem.rated))
    fitted, nearest = [], []
    for out in everybody.tensor_split(min(len(everybody), PARTS)):
        rows = everybody[(everybody < out[0]) | (everybody > out[-1])]
        fitted.append(problem.values(problem.fit(rows))[out])
        nearest.append(problem.nearest(rows)[out])
    return {
        "fitted": problem.errors(torch.cat(fitted)),
        "nearest": problem.errors(torch.cat(nearest)),
        "average": problem.errors(problem.everybody()),
    }
