"""What dev is judged by, for every target."""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from sertune.metrics import scores
from sertune.model.probe import rating_moments
from sertune.model.targets import (
    CategoryTarget,
    DimensionTarget,
    PlaneTarget,
    RaterLabelTarget,
    RaterTarget,
    Single,
    Target,
    VotesTarget,
    parts_of,
    possible,
    singles,
)
from sertune.model.targets.dimension import to_unit

RESAMPLES = 100
"""Of the dev clips, for the standard error of a score that is no recall."""


def judged_by(target: Target) -> str:
    """The score in words."""
    names = []
    for part in singles(target):
        if isinstance(part, CategoryTarget):
            names.append("UAR")
        elif isinstance(part, (VotesTarget, PlaneTarget, RaterLabelTarget)):
            names.append("1 - TVD")
        elif isinstance(part, RaterTarget) and part.density:
            names.append("the average of mean CCC and 1 - TVD")
        else:
            names.append("mean CCC")
    return names[0] if len(names) == 1 else f"the average of {' and '.join(names)}"


def score(target: Target, outputs: Tensor, targets: np.ndarray) -> float:
    """UAR of labels, mean CCC of dimensions, 1 - TVD of distributions; the mean of joined tasks.

    What the clips say nothing of (a task that none of them has) is left out of means; NaN where nothing is left.

    Args:
        target: what is predicted.
        outputs: (N, K), finished.
        targets: (N, ...) as `Target.encode` gives them.
    """
    return _mean([_score(*part) for part in parts_of(target, outputs, targets)])


def _score(target: Single, outputs: Tensor, targets: np.ndarray) -> float:
    decoded = target.decode(possible(target, outputs, targets))
    if isinstance(target, CategoryTarget):
        known = ~np.isnan(targets).any(axis=1)
        return float(scores.uar(targets[known].argmax(1), decoded["predicted"][known]))
    if isinstance(target, (VotesTarget, RaterLabelTarget)):
        return 1 - _mean_tvd(targets[:, : len(target.labels)], decoded["probabilities"])
    if isinstance(target, PlaneTarget):
        return 1 - _mean_tvd(targets, decoded["cells"])
    # on the unit scale, so that the score does not depend on how wide a corpus's own is
    true = targets.astype(np.float64) if isinstance(target, DimensionTarget) else rating_moments(targets, target)[0]
    values = to_unit(decoded["values"], target.scales)
    ccc = _mean([scores.ccc(true[:, k], values[:, k]) for k in range(len(target.dimensions))])
    if isinstance(target, RaterTarget) and target.density:
        return _mean([ccc, 1 - _mean_tvd(targets[:, : target.before], decoded["cells"])])
    return ccc


def _mean(values: Sequence[float]) -> float:
    """Of those that are defined; NaN where none is."""
    there = [value for value in values if not math.isnan(value)]
    return float(np.mean(there)) if there else math.nan


def _mean_tvd(true: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over clips of half the L1 distance; clips without a true distribution are left out."""
    known = ~np.isnan(true).any(axis=1)
    return float(np.abs(true[known] - predicted[known]).sum(axis=1).mean() / 2) if known.any() else math.nan


def score_spread(target: Target, outputs: Tensor, targets: np.ndarray) -> float:
    """Standard error of `score`.

    UAR: from the binomial errors of the recalls, each with one success and one failure added, so that a perfect score
    on a few clips is not taken for certain. Others: by bootstrap over the clips.
    """
    if isinstance(target, CategoryTarget):
        predicted = target.decode(possible(target, outputs, targets))["predicted"]
        counts = scores.confusion(targets.argmax(1), predicted, target.outputs)
        support = counts.sum(1)
        present = support > 0
        recall = (counts.diagonal()[present] + 1) / (support[present] + 2)
        return float(np.sqrt((recall * (1 - recall) / (support[present] + 2)).sum()) / present.sum())
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(targets), len(targets))
        draws.append(score(target, outputs[rows], targets[rows]))
    return float(np.nanstd(draws)) if np.isfinite(draws).any() else math.nan
