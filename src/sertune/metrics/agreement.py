"""How far raters agree.

Categories are counted per clip (N clips x L labels), numbers are summed per clip, so that nothing grows with the
number of raters or with pairs of them. Clips with fewer than two ratings say nothing about agreement and are left
out. A figure that is undefined is NaN.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]


def alpha_nominal(votes: ArrayLike) -> float:
    """Krippendorff's alpha of categories, for any number of raters per clip.

    Krippendorff (2011), "Computing Krippendorff's alpha-reliability". With n_ic votes of clip i for label c,
    n_i = sum_c n_ic >= 2, n_c = sum_i n_ic and n = sum_c n_c:

        alpha = 1 - (n - 1) sum_i [(n_i^2 - sum_c n_ic^2) / (n_i - 1)] / (n^2 - sum_c n_c^2)

    Args:
        votes: (N, L) counts.

    Returns:
        1 for full agreement, 0 for what chance gives; NaN where all votes are for one label, or no clip has two.

    Raises:
        ValueError: another shape, or counts that are not whole numbers from 0.
    """
    counts = _counts(votes)
    each = counts.sum(axis=1)
    total = each.sum()
    observed = float(((each**2 - (counts**2).sum(axis=1)) / (each - 1)).sum())
    expected = float(total**2 - (counts.sum(axis=0) ** 2).sum())
    return 1.0 - (total - 1) * observed / expected if expected > 0 else float("nan")


def alpha_interval(clips: ArrayLike, values: ArrayLike) -> float:
    """Krippendorff's alpha of numbers, with squared differences, for any number of raters per clip.

    Krippendorff (2011), as `alpha_nominal`, with the squared difference in place of "differs". The sum over all
    ordered pairs of the n_i ratings of a clip is 2 n_i sum (x - their mean)^2, and so it is over all n ratings:

        alpha = 1 - (n - 1) sum_i [n_i W_i / (n_i - 1)] / (n W)

    where W_i and W are the sums of squares about the mean of the clip and of all.

    Args:
        clips: (M,) which clip each rating is of, whole numbers from 0 in any order.
        values: (M,) ratings; NaN: no rating.

    Returns:
        1 for full agreement, 0 for what chance gives; NaN where all values are one, or no clip has two ratings.

    Raises:
        ValueError: shapes that differ, or clips that are not whole numbers from 0.
    """
    each, within, whole = _squares(clips, values)
    total = each.sum()
    observed = float((each * within / (each - 1)).sum())
    return 1.0 - (total - 1) * observed / (total * whole) if whole > 0 else float("nan")


def fleiss_kappa(votes: ArrayLike) -> float:
    """Fleiss' kappa, for any number of raters per clip.

    Fleiss (1971), "Measuring nominal scale agreement among many raters", Psychological Bulletin 76(5), where all
    clips have one number of raters. With n_ic votes of clip i for label c and n_i = sum_c n_ic >= 2, over N clips:

        P_i = sum_c n_ic (n_ic - 1) / (n_i (n_i - 1)),  P = mean_i P_i
        p_c = sum_i n_ic / sum_i n_i,                   P_e = sum_c p_c^2
        kappa = (P - P_e) / (1 - P_e)

    With several n_i this is our choice of a generalisation: each clip counts as much in P, each vote in p_c.

    Args:
        votes: (N, L) counts.

    Returns:
        1 for full agreement, 0 for what chance gives; NaN where all votes are for one label, or no clip has two.

    Raises:
        ValueError: another shape, or counts that are not whole numbers from 0.
    """
    counts = _counts(votes)
    total = counts.sum()
    chance = float(((counts.sum(axis=0) / total) ** 2).sum()) if total else 1.0
    if chance >= 1.0:
        return float("nan")
    return (pairwise_agreement(votes) - chance) / (1.0 - chance)


def pairwise_agreement(votes: ArrayLike) -> float:
    """Share of the pairs of raters of a clip who chose one label, averaged over the clips: P of `fleiss_kappa`.

    Args:
        votes: (N, L) counts.

    Returns:
        0 to 1; NaN where no clip has two votes.

    Raises:
        ValueError: another shape, or counts that are not whole numbers from 0.
    """
    counts = _counts(votes)
    if not len(counts):
        return float("nan")
    each = counts.sum(axis=1)
    return float(((counts * (counts - 1)).sum(axis=1) / (each * (each - 1))).mean())


def mean_spread(clips: ArrayLike, values: ArrayLike) -> float:
    """Standard deviation (n - 1) of the ratings of a clip, averaged over the clips; arguments as `alpha_interval`.

    Returns:
        In units of the scale; NaN where no clip has two ratings.

    Raises:
        ValueError: shapes that differ, or clips that are not whole numbers from 0.
    """
    each, within, _ = _squares(clips, values)
    return float(np.sqrt(within / (each - 1)).mean()) if len(each) else float("nan")


def majority_share(votes: ArrayLike) -> float:
    """Share of the clips with any vote in which one label has more votes than each other.

    Args:
        votes: (N, L) counts.

    Returns:
        0 to 1; NaN where no clip has a vote.

    Raises:
        ValueError: another shape, or counts that are not whole numbers from 0.
    """
    counts = _counts(votes, least=1)
    if not len(counts):
        return float("nan")
    best = counts.max(axis=1, keepdims=True)
    return float(((counts == best).sum(axis=1) == 1).mean())


def _counts(votes: ArrayLike, least: int = 2) -> Floats:
    """The rows with at least so many votes, as float64, whose squares don't overflow."""
    counts = np.asarray(votes, dtype=np.float64)
    if counts.ndim != 2:
        raise ValueError(f"votes have shape {counts.shape}, expected (clips, labels)")
    if not (counts >= 0).all() or (counts % 1 != 0).any():
        raise ValueError("votes must be whole numbers from 0")
    kept: Floats = counts[counts.sum(axis=1) >= least]
    return kept


def _squares(clips: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats, float]:
    """Of the clips with at least two ratings: how many, their sum of squares about their own mean, and about all's."""
    index, x = np.asarray(clips), np.asarray(values, dtype=np.float64)
    if index.shape != x.shape or index.ndim != 1:
        raise ValueError(f"clips have shape {index.shape}, values {x.shape}; both must be (ratings,)")
    if index.size and (not np.issubdtype(index.dtype, np.integer) or index.min() < 0):
        raise ValueError("clips must be whole numbers from 0")
    index = index.astype(np.int64)
    often = np.bincount(index[~np.isnan(x)], minlength=int(index.max(initial=0)) + 1) >= 2
    kept = ~np.isnan(x) & often[index]
    _, index, each = np.unique(index[kept], return_inverse=True, return_counts=True)
    x = x[kept]
    if not x.size:
        return np.zeros(0), np.zeros(0), 0.0
    # The clip makes the mean of equal values exactly that value, so that they have no spread.
    means = np.clip(np.bincount(index, weights=x) / each, *_ends(index, x, len(each)))
    within = np.bincount(index, weights=(x - means[index]) ** 2).astype(np.float64)
    centre = np.clip(x.mean(), x.min(), x.max())
    return each.astype(np.float64), within, float(((x - centre) ** 2).sum())


def _ends(index: NDArray[np.int64], x: Floats, clips: int) -> tuple[Floats, Floats]:
    """Least and greatest rating of each clip."""
    low, high = np.full(clips, np.inf), np.full(clips, -np.inf)
    np.minimum.at(low, index, x)
    np.maximum.at(high, index, x)
    return low, high
