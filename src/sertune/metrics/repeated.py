"""Scores of repeated runs: means over seeds, with intervals and paired differences by bootstrap over speakers.

The speakers are drawn jointly: one resample is the same speakers for every run, whatever its method and seed, and
what is averaged over the seeds or subtracted between methods is averaged and subtracted within it. The seeds are
not drawn: an interval says what other speakers would change, the spread over seeds what other seeds would.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sertune.metrics import scores
from sertune.metrics.intervals import (
    RESAMPLES,
    Difference,
    Interval,
    cell_sums,
    draw_weights,
    percentile_range,
    row_sums,
    speaker_name,
    two_sided_p,
)
from sertune.metrics.scores import Floats, Integers


@dataclass(frozen=True)
class Predicted:
    """The predictions of one run.

    Attributes:
        true: (N,) class indices (-1 missing), or values (NaN missing).
        predicted: (N,) of the same kind.
        speakers: (N,) names, None where unknown; see `category_intervals`.
        utterances: (N,) names of the clips, for runs whose speakers are unknown.
    """

    true: ArrayLike
    predicted: ArrayLike
    speakers: Sequence[str | None]
    utterances: Sequence[str]


@dataclass(frozen=True)
class Resampled:
    """A score, and the same score in every resample; two of one call pair up resample by resample.

    Attributes:
        value: over all clips, NaN if undefined.
        draws: (resamples,), NaN where undefined.
        unit, clusters: as of `Interval`.
    """

    value: float
    draws: Floats
    unit: str
    clusters: int

    def interval(self) -> Interval:
        """The score with its 95 % interval."""
        return Interval(self.value, *percentile_range(self.draws), self.unit, self.clusters, len(self.draws))

    def minus(self, other: "Resampled") -> Difference:
        """The paired difference from another score on the same clips; positive where this one is higher."""
        draws = self.draws - other.draws
        low, high = percentile_range(draws)
        return Difference(self.value - other.value, low, high, two_sided_p(draws), self.unit, self.clusters, len(draws))


def mean_of(runs: Sequence[Resampled]) -> Resampled:
    """The mean of runs with several seeds, resample by resample, over those in which it is defined."""
    table = np.stack([np.concatenate([[run.value], run.draws]) for run in runs])
    defined = ~np.isnan(table)
    count = defined.sum(axis=0)
    mean = np.where(count > 0, np.where(defined, table, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
    return Resampled(float(mean[0]), mean[1:], runs[0].unit, runs[0].clusters)


def category_draws(
    runs: Sequence[Predicted], classes: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[dict[str, Resampled]]:
    """The scores of every run, all on the same resamples.

    Args:
        runs: with class indices.
        classes: how many there are.
        resamples: how many.
        seed: of the draws. A single run has the intervals that `category_intervals` gives it.

    Returns:
        For each run: name of ``CATEGORY_SCORES`` -> score.
    """
    cells = [scores.cells_of(run.true, run.predicted, classes) for run in runs]
    shared = _share(runs, [scored for _, scored in cells])
    width = classes * classes

    def score(sums: Floats) -> dict[str, Floats]:
        return scores.category_scores_of(sums.reshape(*sums.shape[:-1], classes, classes))

    return [
        _resampled(cell_sums(cell[scored], index, shared.count, width), score, shared.unit, resamples, seed)
        for (cell, scored), index in zip(cells, shared.indices, strict=True)
    ]


def dimension_draws(
    runs: Sequence[Predicted], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[dict[str, Resampled]]:
    """The scores of one dimension of every run, all on the same resamples.

    Args:
        runs: with values.
        resamples, seed: as of :func:`category_draws`.

    Returns:
        For each run: name of ``DIMENSION_SCORES`` -> score.
    """
    terms = [scores.moments(run.true, run.predicted) for run in runs]
    masks = [term[:, 0] > 0 for term, _ in terms]
    shared = _share(runs, masks)

    def of(gap: float) -> Callable[[Floats], dict[str, Floats]]:
        return lambda sums: scores.dimension_scores_of(sums, gap)

    return [
        _resampled(row_sums(term[scored], index, shared.count), of(gap), shared.unit, resamples, seed)
        for (term, gap), scored, index in zip(terms, masks, shared.indices, strict=True)
    ]


def mean_draws(
    runs: Sequence[tuple[ArrayLike, Sequence[str | None], Sequence[str]]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Resampled]:
    """The mean over the clips of every run, such as of their distances, all on the same resamples.

    Args:
        runs: for each the (N,) figures of its clips, NaN where missing; their speakers and names, as of `Predicted`.
        resamples, seed: as of :func:`category_draws`.
    """
    figures = [np.asarray(values, dtype=np.float64) for values, _, _ in runs]
    masks = [~np.isnan(values) for values in figures]
    named = [Predicted(v, v, speakers, names) for v, (_, speakers, names) in zip(figures, runs, strict=True)]
    shared = _share(named, masks)

    def score(sums: Floats) -> dict[str, Floats]:
        mean = np.divide(sums[..., 1], sums[..., 0], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 0] > 0)
        return {"mean": mean}

    found = []
    for values, mask, index in zip(figures, masks, shared.indices, strict=True):
        rows = np.column_stack([np.ones(int(mask.sum())), values[mask]])
        tables = row_sums(rows, index, shared.count)
        found.append(_resampled(tables, score, shared.unit, resamples, seed)["mean"])
    return found


@dataclass(frozen=True)
class _Shared:
    """Clusters of several runs: for each run the (N,) cluster of its scored clips; how many there are, of what."""

    indices: list[Integers]
    count: int
    unit: str


def _share(runs: Sequence[Predicted], masks: Sequence[NDArray[np.bool_]]) -> _Shared:
    """The speakers of all runs; their clips, where fewer than two speakers are known."""
    names = [[speaker_name(s) for s in _kept(run.speakers, mask)] for run, mask in zip(runs, masks, strict=True)]
    known = sorted({name for row in names for name in row if name is not None})
    if len(known) >= 2:
        position: dict[str | None, int] = {name: i for i, name in enumerate([*known, None])}
        unnamed = any(name is None for row in names for name in row)
        indices = [np.array([position[name] for name in row], dtype=np.int64) for row in names]
        return _Shared(indices, len(known) + unnamed, "speakers")
    clips = [_kept(run.utterances, mask) for run, mask in zip(runs, masks, strict=True)]
    order = {name: i for i, name in enumerate(dict.fromkeys(name for row in clips for name in row))}
    indices = [np.array([order[name] for name in row], dtype=np.int64) for row in clips]
    return _Shared(indices, len(order), "utterances")


def _kept(values: Sequence[Any], mask: NDArray[np.bool_]) -> list[Any]:
    return [value for value, keep in zip(values, mask, strict=True) if keep]


def _resampled(
    tables: Floats, score: Callable[[Floats], dict[str, Floats]], unit: str, resamples: int, seed: int
) -> dict[str, Resampled]:
    """Scores of (clusters, K) tables of sums, as they are and in every resample."""
    point = score(tables.sum(axis=0))
    blocks = [weights @ tables for weights in draw_weights(len(tables), resamples, seed)] if len(tables) else []
    draws = score(np.concatenate(blocks) if blocks else np.zeros((resamples, tables.shape[1])))
    return {name: Resampled(float(point[name]), draws[name], unit, len(tables)) for name in point}
