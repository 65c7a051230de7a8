"""How near predicted distributions come to true ones: over labels, or over the cells of a plane.

A distribution is a row of K probabilities. The first argument is the truth, the second the prediction. A row of
the truth that is NaN throughout is missing: its measure is NaN, and no mean or correlation counts it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sertune.metrics import scores, transport
from sertune.metrics.intervals import (
    RESAMPLES,
    Difference,
    Interval,
    cell_sums,
    groups_of,
    intervals_of,
    percentile_range,
    resampled,
    row_sums,
    two_sided_p,
)
from sertune.metrics.scores import Floats, Integers

ROW_MEASURES: Final = ("tvd", "jsd", "kl", "emd")

# Rows computed in single precision sum to 1 within about 1e-6.
_SUM_TOLERANCE = 1e-4


def tvd(p: ArrayLike, q: ArrayLike) -> Floats:
    """Total variation distance, half the L1 distance, 0..1; (N, K), (N, K) -> (N,).

    Raises:
        ValueError: shapes that differ, or rows that are no distributions.
    """
    true, predicted = _pair(p, q)
    distance: Floats = 0.5 * np.abs(true - predicted).sum(axis=1)
    return distance


def jsd(p: ArrayLike, q: ArrayLike, base: float = math.e) -> Floats:
    """Jensen-Shannon divergence (not its root), 0..log 2, in nats or in units of ``base``; (N, K), (N, K) -> (N,).

    Lin (1991), "Divergence measures based on the Shannon entropy", IEEE Trans. Information Theory 37(1): with
    m = (p + q) / 2, (KL(p || m) + KL(q || m)) / 2.

    Raises:
        ValueError: shapes that differ, or rows that are no distributions.
    """
    true, predicted = _pair(p, q)
    middle = 0.5 * (true + predicted)
    both = _relative(true, middle) + _relative(predicted, middle)
    # Rounding may leave less than 0.
    return np.maximum(0.5 * both, 0.0) / math.log(base)


def kl(p: ArrayLike, q: ArrayLike, eps: float = 1e-12) -> Floats:
    """Kullback-Leibler divergence KL(p || q) of the truth from the prediction, in nats; (N, K), (N, K) -> (N,).

    It is infinite where a bin that is true was given nothing. ``q`` is therefore taken as at least ``eps``, which
    limits it to -log eps (27.6 by default); the rows are not normalised again.

    Raises:
        ValueError: shapes that differ, or rows that are no distributions.
    """
    true, predicted = _pair(p, q)
    return np.maximum(_relative(true, np.maximum(predicted, eps)), 0.0)


def entropy(p: ArrayLike, base: float = math.e) -> Floats:
    """Shannon's entropy, in nats or in units of ``base``; (N, K) -> (N,).

    Raises:
        ValueError: rows that are no distributions.
    """
    rows = _checked(p, "distributions", missing=True)
    return -_relative(rows, np.ones_like(rows)) / math.log(base) + 0.0


def emd(p: ArrayLike, q: ArrayLike, cost: ArrayLike) -> Floats:
    """Earth mover's distance, in the unit of the (K, K) cost; (N, K), (N, K) -> (N,). See `transport.emd`.

    Raises:
        ValueError: shapes that differ, or rows that are no distributions.
    """
    true, predicted = _pair(p, q)
    found = np.full(len(true), np.nan)
    known = ~np.isnan(true[:, 0])
    found[known] = transport.emd(true[known], predicted[known], cost)
    return found


def entropy_correlation(p: ArrayLike, q: ArrayLike) -> float:
    """Pearson's correlation of the entropies of truth and prediction: is what divides people predicted to do so?

    Returns:
        -1 to 1, NaN if the entropies of one are all equal or fewer than two rows are known.

    Raises:
        ValueError: shapes that differ, or rows that are no distributions.
    """
    return float(scores.pearson_of(_entropy_moments(*_pair(p, q)).sum(axis=0)))


def centres(bins: int) -> Floats:
    """(bins,) centres of equal bins of [-1, 1].

    Raises:
        ValueError: fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"{bins} bins, expected at least one")
    return (2.0 * np.arange(bins) + 1.0) / bins - 1.0


def expected_values(cells: ArrayLike) -> Floats:
    """Expected value of each axis of a plane, with each cell's mass at its centre.

    Args:
        cells: (N, gx, gy), each sums to 1.

    Returns:
        (N, 2) in [-1, 1].

    Raises:
        ValueError: another shape, or planes that are no distributions.
    """
    planes = np.asarray(cells, dtype=np.float64)
    if planes.ndim != 3:
        raise ValueError(f"planes have shape {planes.shape}, expected (N, gx, gy)")
    _, gx, gy = planes.shape
    rows = _checked(planes.reshape(len(planes), gx * gy), "planes", missing=True)
    return _expected(rows, (gx, gy))


def uar_of_largest(p: ArrayLike, q: ArrayLike) -> float:
    """UAR of the largest bin of the prediction for that of the truth; of equal bins the first counts as largest.

    Returns:
        0..1, NaN where no row is known.

    Raises:
        ValueError: shapes that differ, or rows that are no distributions.
    """
    return scores.uar(*_largest(*_pair(p, q)))


def cell_distances(grid: tuple[int, int]) -> Floats:
    """Euclidean distances between the bin centres of a (gx, gy) grid over [-1, 1]^2.

    Returns:
        (G, G) for the G = gx gy cells, the second axis fastest, as ``cells.reshape(N, G)`` has them.

    Raises:
        ValueError: an axis without bins.
    """
    x, y = np.meshgrid(centres(grid[0]), centres(grid[1]), indexing="ij")
    return _distances(np.stack([x.ravel(), y.ravel()], axis=1))


@dataclass(frozen=True, eq=False)
class SpreadCalibration:
    """Whether predicted spread is real spread.

    Attributes:
        slope, intercept: of the regression of the true on the predicted spread: 1 and 0 when calibrated; NaN if
            all predictions are equal.
        pearson, ccc: of both; NaN where undefined.
        ratio: mean predicted spread over mean true spread, above 1 where the prediction is too wide; NaN if the
            true spread is 0 throughout.
        predicted, true: (B,) mean predicted and true spread of each bin of equally many predictions, rising. Equal
            predictions share a bin, so there may be fewer than were asked for.
        count: (B,) clips in each bin.
    """

    slope: float
    intercept: float
    pearson: float
    ccc: float
    ratio: float
    predicted: Floats
    true: Floats
    count: Integers


def spread_calibration(true_spread: ArrayLike, predicted_spread: ArrayLike, bins: int = 10) -> SpreadCalibration:
    """Compare predicted with true spread, such as the standard deviation of a clip's ratings.

    Args:
        true_spread: (N,), NaN where missing.
        predicted_spread: (N,) in the same unit, NaN where missing.
        bins: how many quantile bins of the predicted spread.

    Raises:
        ValueError: shapes that differ, or no bin.
    """
    t, p = np.asarray(true_spread, dtype=np.float64), np.asarray(predicted_spread, dtype=np.float64)
    if t.shape != p.shape or t.ndim != 1:
        raise ValueError(f"true has shape {t.shape}, predicted {p.shape}; both must be (N,)")
    if bins < 1:
        raise ValueError(f"{bins} bins, expected at least one")
    known = ~(np.isnan(t) | np.isnan(p))
    t, p = t[known], p[known]
    slope, intercept = _line(p, t)
    edges = np.unique(np.quantile(p, np.arange(1, bins) / bins)) if len(p) else np.zeros(0)
    index = np.searchsorted(edges, p, side="right")
    count = np.bincount(index, minlength=len(edges) + 1)
    filled = count > 0

    def means(values: Floats) -> Floats:
        return np.bincount(index, weights=values, minlength=len(count))[filled] / count[filled]

    return SpreadCalibration(
        slope=slope,
        intercept=intercept,
        pearson=scores.pearson(t, p),
        ccc=scores.ccc(t, p),
        ratio=float(p.mean() / t.mean()) if len(t) and t.mean() > 0 else float("nan"),
        predicted=means(p),
        true=means(t),
        count=count[filled].astype(np.int64),
    )


def distribution_intervals(
    true: ArrayLike,
    predicted: ArrayLike,
    speakers: Sequence[str | None] | None,
    *,
    cost: ArrayLike | None = None,
    grid: tuple[int, int] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Every measure of predicted distributions, with intervals by bootstrap over speakers.

    Args:
        true: (N, K) distributions, NaN rows where missing.
        predicted: (N, K).
        speakers, resamples, seed: as of `intervals.category_intervals`.
        cost: (K, K), for "emd".
        grid: (gx, gy) with K = gx gy, the second axis fastest, for "ccc_expected_0" and "ccc_expected_1".

    Returns:
        "tvd", "jsd", "kl" (nats) and with a cost "emd": means over the clips; "entropy_r" and "uar_largest", see
        `entropy_correlation` and `uar_of_largest`; and with a grid the CCC of each axis's expected value.

    Raises:
        ValueError: shapes that differ, rows that are no distributions, or a grid of another size.
    """
    t, p = _pair(true, predicted)
    if grid is not None and grid[0] * grid[1] != t.shape[1]:
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} for {t.shape[1]} bins")
    known = ~np.isnan(t[:, 0])
    groups = groups_of(speakers, known)
    t, p = t[known], p[known]
    parts: list[tuple[Floats, _Scores]] = [
        _means({name: _row_measure(name, t, p, cost) for name in _measures(cost)}),
        (_entropy_moments(t, p), lambda s: {"entropy_r": scores.pearson_of(s)}),
    ]
    if grid is not None:
        parts += [_expected_ccc(t, p, grid, axis) for axis in (0, 1)]
    tables = [row_sums(rows, groups.index, len(groups)) for rows, _ in parts]
    hits, of_hits = _hits(t, p, groups.index, len(groups))
    tables.append(hits)
    functions = [score for _, score in parts] + [of_hits]
    ends = np.cumsum([table.shape[1] for table in tables])

    def every(sums: Floats) -> dict[str, Floats]:
        pieces = np.split(sums, ends[:-1], axis=-1)
        return {k: v for score, piece in zip(functions, pieces, strict=True) for k, v in score(piece).items()}

    found = intervals_of(np.concatenate(tables, axis=1), every, groups.unit, resamples, seed)
    return {name: found[name] for name in (*ROW_MEASURES, "entropy_r", "uar_largest", *_AXES) if name in found}


def distribution_difference(
    true: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    speakers: Sequence[str | None] | None,
    measure: str = "tvd",
    *,
    cost: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """How much farther from the truth model a is than model b, on the same clips and the same resamples.

    Args:
        true: (N, K) distributions, NaN rows where missing.
        a, b: (N, K) of the two models.
        speakers, resamples, seed: as of `intervals.paired_difference`.
        measure: a name of `ROW_MEASURES`; a negative difference says that a is better.
        cost: (K, K), for "emd".

    Raises:
        ValueError: an unknown measure, "emd" without a cost, shapes that differ, or rows that are no distributions.
    """
    if measure not in ROW_MEASURES:
        raise ValueError(f"unknown measure {measure!r}")
    t, of_a = _pair(true, a)
    _, of_b = _pair(true, b)
    known = ~np.isnan(t[:, 0])
    groups = groups_of(speakers, known)
    t, of_a, of_b = t[known], of_a[known], of_b[known]
    rows, score = _means({"difference": _row_measure(measure, t, of_a, cost) - _row_measure(measure, t, of_b, cost)})
    tables = row_sums(rows, groups.index, len(groups))
    draws = score(resampled(tables, resamples, seed))["difference"]
    value = float(score(tables.sum(axis=0))["difference"])
    return Difference(value, *percentile_range(draws), two_sided_p(draws), groups.unit, len(tables), resamples)


_AXES = ("ccc_expected_0", "ccc_expected_1")
_Scores = Callable[[Floats], dict[str, Floats]]


def _checked(values: ArrayLike, name: str, missing: bool) -> Floats:
    """(N, K) rows as float64, each a distribution, or NaN throughout where ``missing`` may be."""
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise ValueError(f"{name} have shape {rows.shape}, expected (N, K)")
    absent = np.isnan(rows).all(axis=1) if missing else np.zeros(len(rows), dtype=np.bool_)
    wrong = ~absent & ~((rows >= 0).all(axis=1) & (np.abs(rows.sum(axis=1) - 1.0) <= _SUM_TOLERANCE))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"{name}: row {row} is no distribution (it sums to {rows[row].sum():.6g}, with values from 0)")
    return rows


def _pair(p: ArrayLike, q: ArrayLike) -> tuple[Floats, Floats]:
    true, predicted = _checked(p, "true", missing=True), _checked(q, "predicted", missing=False)
    if true.shape != predicted.shape:
        raise ValueError(f"true has shape {true.shape}, predicted {predicted.shape}")
    return true, predicted


def _relative(p: Floats, q: Floats) -> Floats:
    """Sums of p log(p / q) over the rows, 0 where p is 0, NaN where a row is NaN."""
    inside = (p > 0) & (q > 0)
    logs = np.log(p, out=np.zeros_like(p), where=inside) - np.log(q, out=np.zeros_like(q), where=inside)
    found: Floats = (p * logs).sum(axis=1)
    return found


def _entropy_moments(true: Floats, predicted: Floats) -> Floats:
    # Distributions that are permutations of each other differ in their last digits, which is not spread.
    terms, _ = scores.moments(entropy(true).round(12), entropy(predicted).round(12))
    return terms


def _expected(rows: Floats, grid: tuple[int, int]) -> Floats:
    planes = rows.reshape(len(rows), *grid)
    return np.stack([planes.sum(axis=2) @ centres(grid[0]), planes.sum(axis=1) @ centres(grid[1])], axis=1)


def _largest(true: Floats, predicted: Floats) -> tuple[Integers, Integers]:
    """(N,) largest bin of the truth, -1 where missing, and of the prediction."""
    missing = np.isnan(true[:, 0])
    return np.where(missing, -1, true.argmax(axis=1)), predicted.argmax(axis=1)


def _distances(points: Floats) -> Floats:
    apart: Floats = np.sqrt(((points[:, None, :] - points[None, :, :]) ** 2).sum(axis=-1))
    return apart


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    """Slope and intercept of y on x by least squares."""
    if len(x) < 2 or np.ptp(x) == 0:
        return float("nan"), float("nan")
    around = x - x.mean()
    slope = float(around @ (y - y.mean()) / (around @ around))
    return slope, float(y.mean() - slope * x.mean())


def _measures(cost: ArrayLike | None) -> tuple[str, ...]:
    return ROW_MEASURES if cost is not None else ROW_MEASURES[:-1]


def _row_measure(name: str, true: Floats, predicted: Floats, cost: ArrayLike | None) -> Floats:
    if name == "emd":
        if cost is None:
            raise ValueError("emd needs a cost")
        return emd(true, predicted, cost)
    return {"tvd": tvd, "jsd": jsd, "kl": kl}[name](true, predicted)


def _means(columns: dict[str, Floats]) -> tuple[Floats, _Scores]:
    """Rows to add up (a count, then each column), and the means that follow from their sums."""
    rows = np.column_stack([np.ones(len(next(iter(columns.values())))), *columns.values()])

    def score(sums: Floats) -> dict[str, Floats]:
        return {name: _ratio(sums[..., k], sums[..., 0]) for k, name in enumerate(columns, start=1)}

    return rows, score


def _expected_ccc(true: Floats, predicted: Floats, grid: tuple[int, int], axis: int) -> tuple[Floats, _Scores]:
    terms, gap = scores.moments(_expected(true, grid)[:, axis], _expected(predicted, grid)[:, axis])
    return terms, lambda sums: {_AXES[axis]: scores.ccc_of(sums, gap)}


def _hits(true: Floats, predicted: Floats, index: Integers, groups: int) -> tuple[Floats, _Scores]:
    """(groups, 2 C) clips and hits of the C bins that are largest in the truth: all that UAR needs of them."""
    t, p = _largest(true, predicted)
    bins, code = np.unique(t, return_inverse=True)
    width = len(bins)
    hit = t == p
    tables = [cell_sums(code[kept], index[kept], groups, width) for kept in (np.ones_like(hit), hit)]

    def score(sums: Floats) -> dict[str, Floats]:
        count, right = sums[..., :width], sums[..., width:]
        recall = np.divide(right, count, out=np.zeros_like(right), where=count > 0)
        return {"uar_largest": _ratio(recall.sum(axis=-1), (count > 0).sum(axis=-1))}

    return np.concatenate(tables, axis=1), score


def _ratio(part: Floats, whole: NDArray[np.float64] | NDArray[np.int64]) -> Floats:
    """``part / whole``, NaN where ``whole`` is 0."""
    ratio: Floats = np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) != 0)
    return ratio
