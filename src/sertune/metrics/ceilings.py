"""Agreement ceilings: what a random human annotator scores against the others, as the line to read a model against.

Every figure is a mean over draws. In a draw, one annotator of each clip (or half of them) is picked at random and
compared with the rest. Its interval is over draws in which the clips are drawn with replacement too.

A model may pass such a line: it can predict the mean of all annotators, which no single one of them does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from sertune.metrics import distributions, scores
from sertune.metrics.intervals import percentile_range
from sertune.metrics.scores import Floats, Integers

DRAWS: Final = 100

_Measure: TypeAlias = Callable[[Floats], dict[str, float]]
"""Scores of one draw of annotators, given the (C,) weights of the clips."""


@dataclass(frozen=True)
class Ceiling:
    """What annotators reach in one measure.

    Attributes:
        value: mean over the draws, all clips counted once; NaN if undefined.
        low, high: 95 % of the draws when the clips are drawn with replacement as well.
        drawn_low, drawn_high: 95 % of the draws with the clips as they are: what the choice of annotators changes.
        clips: how many clips had enough ratings.
        draws: how many there were.
    """

    value: float
    low: float
    high: float
    drawn_low: float
    drawn_high: float
    clips: int
    draws: int


def dimension_ceiling(
    clips: ArrayLike, raters: ArrayLike, values: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Ceiling]:
    """One annotator of each clip against the mean of its other annotators.

    Args:
        clips: (M,) whole numbers from 0.
        raters: (M,) whole numbers from 0. Ratings of one clip by one annotator are averaged.
        values: (M,) ratings, NaN where missing.
        draws: how often annotators are drawn.
        seed: of the draws.

    Returns:
        name of ``scores.DIMENSION_SCORES`` -> ceiling, over the clips with at least two annotators.

    Raises:
        ValueError: shapes that differ, clips or raters that aren't whole numbers from 0, or no draw.
    """
    value, n = _several(*_merged(clips, raters, values))
    start = np.cumsum(n) - n
    total = np.bincount(np.repeat(np.arange(len(n)), n), weights=value, minlength=len(n))

    def draw(rng: np.random.Generator) -> _Measure:
        held = value[start + _below(rng, n)]
        terms, gap = scores.moments((total - held) / (n - 1), held)

        def measure(weights: Floats) -> dict[str, float]:
            found = scores.dimension_scores_of(weights @ terms, gap)
            return {name: float(score) for name, score in found.items()}

        return measure

    return _ceilings(draw, len(start), draws, seed)


def label_ceiling(votes: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Ceiling]:
    """One vote for each clip against its other votes, and half of its votes against the other half.

    Only counts are needed, so votes may be anonymous.

    Args:
        votes: (N, L) counts.
        draws: how often votes are drawn.
        seed: of the draws.

    Returns:
        Over the clips with at least two votes:

        - "uar", "accuracy": the held-out vote as prediction of the majority of the others. A clip whose others tie
          has no majority and is left out of that draw, as a model is not scored on it either;
        - "tvd", "jsd": the held-out vote (all on one label) against the shares of the others. A prediction that
          gives the shares is far nearer; see the next;
        - "tvd_halves", "jsd_halves": the shares of a random half (the smaller, of odd numbers) against those of the
          other half. With n votes a half's shares miss those of infinitely many annotators by an error whose
          variance is proportional to 2 / n. So, as by Spearman and Brown's formula for longer tests, where n is
          not small: two whole panels of n would differ by 1 / sqrt(2) of this TVD and 1 / 2 of this JSD, and the
          perfect prediction, the shares of infinitely many annotators, differs from n votes by 1 / 2 of this TVD
          and 1 / 4 of this JSD. That is the floor that a model's TVD and JSD can be read against. It is too low
          by a few per cent with many votes and more with few: in a simulation with seven labels, half the TVD was
          .11 (in truth .12) with 40 votes, .20 (.23) with 10 and .28 (.33) with 5.

    Raises:
        ValueError: another shape, counts that aren't whole numbers from 0, or no draw.
    """
    counts = _counts(votes)
    counts = counts[counts.sum(axis=1) >= 2]
    n = counts.sum(axis=1)
    labels = counts.shape[1]
    ends = counts.cumsum(axis=1)

    def draw(rng: np.random.Generator) -> _Measure:
        picked = (_below(rng, n)[:, None] >= ends).sum(axis=1)
        one = np.zeros_like(counts)
        one[np.arange(len(counts)), picked] = 1
        rest = counts - one
        best = rest.max(axis=1, initial=0)
        single = (rest == best[:, None]).sum(axis=1) == 1
        cell = (rest.argmax(axis=1) * labels + picked)[single]
        half = _halves(rng, counts)
        rows = _distances(one, rest) | {f"{k}_halves": v for k, v in _distances(half, counts - half).items()}

        def measure(weights: Floats) -> dict[str, float]:
            matrix = np.bincount(cell, weights=weights[single], minlength=labels**2).reshape(labels, labels)
            found = {"uar": float(scores.uar_of(matrix)), "accuracy": float(scores.accuracy_of(matrix))}
            return found | _weighted_means(rows, weights)

        return measure

    return _ceilings(draw, len(counts), draws, seed)


def plane_ceiling(
    cells_of: Callable[[Floats], ArrayLike], values: ArrayLike, *, draws: int = 20, seed: int = 0
) -> dict[str, Ceiling]:
    """The plane of a random half of each clip's annotators against that of the other half.

    Args:
        cells_of: turns (n, r, 2) ratings without gaps into (n, G) distributions over cells. It is called once per
            half, draw and number of annotators.
        values: (N, R, 2) ratings of R annotators; NaN where one gave none. A rating that lacks one of both
            dimensions is left out.
        draws: how often the halves are drawn.
        seed: of the draws.

    Returns:
        "tvd_halves" and "jsd_halves" over the clips with at least three annotators; to be read as those of
        `label_ceiling`.

    Raises:
        ValueError: another shape, cells that are no distributions, or no draw.
    """
    panels = _panels(values)

    def draw(rng: np.random.Generator) -> _Measure:
        pieces = [_plane_halves(rng, panel, cells_of) for panel in panels]
        rows = {name: np.concatenate([piece[name] for piece in pieces]) for name in _HALVES} if pieces else {}

        def measure(weights: Floats) -> dict[str, float]:
            return _weighted_means(rows, weights) if rows else dict.fromkeys(_HALVES, float("nan"))

        return measure

    return _ceilings(draw, sum(len(panel) for panel in panels), draws, seed)


_HALVES = ("tvd_halves", "jsd_halves")


def _ceilings(draw: Callable[[np.random.Generator], _Measure], clips: int, draws: int, seed: int) -> dict[str, Ceiling]:
    """Ceilings from draws of annotators, each scored with the clips as they are and with clips drawn."""
    if draws < 1:
        raise ValueError(f"{draws} draws, expected at least one")
    plain: list[dict[str, float]] = []
    both: list[dict[str, float]] = []
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        measure = draw(rng)
        plain.append(measure(np.ones(clips)))
        drawn = rng.integers(0, clips, clips) if clips else np.zeros(0, dtype=np.int64)
        both.append(measure(np.bincount(drawn, minlength=clips).astype(np.float64)))
    return {name: _ceiling([p[name] for p in plain], [b[name] for b in both], clips) for name in plain[0]}


def _ceiling(plain: list[float], both: list[float], clips: int) -> Ceiling:
    values = np.array(plain)
    known = values[~np.isnan(values)]
    value = float(known.mean()) if known.size else float("nan")
    return Ceiling(value, *percentile_range(np.array(both)), *percentile_range(values), clips, len(plain))


def _merged(clips: ArrayLike, raters: ArrayLike, values: ArrayLike) -> tuple[Integers, Floats]:
    """Clip and value of each annotator of each clip, sorted by clip."""
    y = np.asarray(values, dtype=np.float64)
    c, r = _whole(clips, "clips"), _whole(raters, "raters")
    if y.ndim != 1 or c.shape != y.shape or r.shape != y.shape:
        raise ValueError(f"clips have shape {c.shape}, raters {r.shape}, values {y.shape}; all must be (M,)")
    known = ~np.isnan(y)
    c, r, y = c[known], r[known], y[known]
    if not len(y):
        return c, y
    pairs, index, count = np.unique(c * (int(r.max()) + 1) + r, return_inverse=True, return_counts=True)
    return pairs // (int(r.max()) + 1), np.bincount(index, weights=y) / count


def _several(clip: Integers, value: Floats) -> tuple[Floats, Integers]:
    """The values, clip after clip, of the clips with at least two of them; and how many each clip has."""
    _, index, count = np.unique(clip, return_inverse=True, return_counts=True)
    return value[count[index] >= 2], count[count >= 2].astype(np.int64)


def _below(rng: np.random.Generator, n: Integers) -> Integers:
    """One random whole number below each of the (C,) n."""
    return (rng.random(len(n)) * n).astype(np.int64)


def _halves(rng: np.random.Generator, counts: Integers) -> Integers:
    """Random halves of the votes of each clip (the smaller of odd numbers), drawn without replacement; (C, L)."""
    left = counts.sum(axis=1)
    wanted = left // 2
    half = np.zeros_like(counts)
    for label in range(counts.shape[1]):
        here = counts[:, label]
        left = left - here
        half[:, label] = rng.hypergeometric(here, left, wanted)
        wanted = wanted - half[:, label]
    return half


def _distances(votes: Integers, others: Integers) -> dict[str, Floats]:
    """(C,) TVD and JSD between the shares of votes of the same clips."""
    p, q = (x / x.sum(axis=1, keepdims=True) for x in (votes, others))
    return {"tvd": distributions.tvd(p, q), "jsd": distributions.jsd(p, q)}


def _weighted_means(rows: dict[str, Floats], weights: Floats) -> dict[str, float]:
    total = weights.sum()
    return {name: float(weights @ row / total) if total else float("nan") for name, row in rows.items()}


def _panels(values: ArrayLike) -> list[Floats]:
    """Ratings without gaps, (clips, n, 2) for each number n of annotators from three that occurs."""
    ratings = np.asarray(values, dtype=np.float64)
    if ratings.ndim != 3 or ratings.shape[2] != 2:
        raise ValueError(f"ratings have shape {ratings.shape}, expected (N, R, 2)")
    given = np.asarray(~np.isnan(ratings).any(axis=2))
    n = given.sum(axis=1)
    panels = []
    for size in np.unique(n[n >= 3]):
        rows = np.flatnonzero(n == size)
        panels.append(ratings[rows][given[rows]].reshape(-1, int(size), 2))
    return panels


def _plane_halves(
    rng: np.random.Generator, panel: Floats, cells_of: Callable[[Floats], ArrayLike]
) -> dict[str, Floats]:
    order = rng.random(panel.shape[:2]).argsort(axis=1)
    mixed = np.take_along_axis(panel, order[:, :, None], axis=1)
    middle = panel.shape[1] // 2
    p, q = (np.asarray(cells_of(half), dtype=np.float64) for half in (mixed[:, :middle], mixed[:, middle:]))
    return {"tvd_halves": distributions.tvd(p, q), "jsd_halves": distributions.jsd(p, q)}


def _counts(votes: ArrayLike) -> Integers:
    counts = np.asarray(votes)
    if counts.ndim != 2 or counts.shape[1] < 1:
        raise ValueError(f"votes have shape {counts.shape}, expected (clips, labels)")
    if not (counts >= 0).all() or (counts % 1 != 0).any():
        raise ValueError("votes must be whole numbers from 0")
    return counts.astype(np.int64)


def _whole(values: ArrayLike, name: str) -> Integers:
    array = np.asarray(values)
    if array.size and (not np.issubdtype(array.dtype, np.integer) or array.min() < 0):
        raise ValueError(f"{name} must be whole numbers from 0")
    return array.astype(np.int64)
