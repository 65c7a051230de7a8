"""What can be known of annotators from their ratings alone, and how predictions of single ratings do by annotator.

Ratings are long arrays, one entry per rating, in any order: the clip, the annotator and the value. Clips and
annotators are whole numbers from 0; a number without a rating is allowed. Ratings that are NaN are left out.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sertune.metrics import scores
from sertune.metrics.intervals import cell_sums, row_sums
from sertune.metrics.scores import Floats, Integers

# Steps at most, and what no bias, gain or standard deviation may change by in a step once the fit has converged;
# biases and deviations as shares of the ratings' spread.
_STEPS: Final = 200
_TOLERANCE: Final = 3e-4
# Variances stay above this share of the ratings' variance, so that no weight is infinite.
_FLOOR: Final = 1e-9
# How many ratings the prior of an annotator's noise counts, at least and at most; in between the data decide.
_LEAST, _MOST = 4.0, 1000.0
# The variance of the gains is estimated as if one more annotator had this one.
_GAIN_VARIANCE: Final = 0.05


@dataclass(frozen=True, eq=False)
class Response:
    """How each of R annotators responds to what the clips are; see `response`.

    Attributes:
        ratings: (R,) how many ratings each gave.
        bias: (R,) shift against the others on the same clips, in the unit of the values; their mean over all
            ratings is 0. Shrunk: 0 for an annotator without ratings.
        gain: (R,) factor on a clip's deviation from the mean, 1 as the average annotator; their mean over all
            ratings is 1. Shrunk: 1 for an annotator without ratings.
        noise: (R,) standard deviation of what bias and gain don't explain, shrunk towards all annotators'.
        mean: of the clips as the average annotator sees them.
        bias_variance, gain_variance: between annotators (t2 of bias and gain).
        noise_variance: s2, the mean squared residual of a rating.
        clip_variance: between clips.
        steps: of the fit; `converged` says whether it had settled by then.
    """

    ratings: Integers
    bias: Floats
    gain: Floats
    noise: Floats
    mean: float
    bias_variance: float
    gain_variance: float
    noise_variance: float
    clip_variance: float
    steps: int
    converged: bool


def response(clips: ArrayLike, raters: ArrayLike, values: ArrayLike, count: int | None = None) -> Response:
    """Estimate bias, gain and noise of each annotator together with what the clips are.

    The model of rating y of clip i by annotator a, with residuals e and the clip as the average annotator sees it c:

        y_ia = m + b_a + g_a (c_i - m) + e_ia
        c_i ~ N(m, t_c), b_a ~ N(0, t_b), g_a ~ N(1, t_g), e_ia ~ N(0, s_a)

    It is a random-effects (crossed) model with a linear response per annotator, as of Grubbs (1948, bias and
    precision of instruments) and of congeneric tests (Joreskog 1971). It is fitted by variational EM: in turn the
    clips given the annotators, the annotators given the clips (each with the uncertainty of the other), and the
    variances given both. So the shrinkage is empirical Bayes: with the gain known, the bias is the annotator's mean
    residual times n / (n + s_a / t_b). An annotator with five ratings is pulled to the mean annotator, one with
    one nearly wholly. s_a is pulled towards the noise of all, with a weight that follows from how unlike they are.

    What cannot be told apart is left to the priors and still defined: annotators who share no clip with the others
    (the clips of both groups are taken to be alike on average), gains where all clips are alike (1), a single
    annotator (bias 0, gain 1), clips with one rating each (only the sum of the variances of clips and noise is known).
    Several ratings of one clip by one annotator count as separate ratings.

    Args:
        clips: (M,) whole numbers from 0.
        raters: (M,) whole numbers from 0.
        values: (M,) on one scale for all, NaN where missing.
        count: how many annotators there are, where the highest number has no rating.

    Raises:
        ValueError: shapes that differ, clips or raters that aren't whole numbers from 0, a rater not below
            ``count``, values that are infinite, or no rating.
    """
    design = _design(clips, raters, values, count)
    return _fit(design)


def shrinkage(fitted: Response) -> float:
    """As how many ratings the prior of a bias counts: s2 / t2. Infinite where the biases don't differ.

    With n ratings an annotator keeps n / (n + shrinkage) of the observed shift.
    """
    if fitted.bias_variance <= 0:
        return float("inf")
    return fitted.noise_variance / fitted.bias_variance


@dataclass(frozen=True, eq=False)
class PerRater:
    """Predictions of the ratings of each of R annotators.

    Attributes:
        ratings: (R,) how many.
        true, predicted: (R,) mean rating and mean prediction, NaN without ratings.
        bias: (R,) mean of prediction minus rating: above 0 where the annotator rates lower than predicted.
        rmse: (R,) NaN without ratings.
        ccc: (R,) NaN with fewer than three ratings, or where the annotator gave one and the same value.
    """

    ratings: Integers
    true: Floats
    predicted: Floats
    bias: Floats
    rmse: Floats
    ccc: Floats


def per_rater(raters: ArrayLike, true: ArrayLike, predicted: ArrayLike, count: int) -> PerRater:
    """Score predictions of single ratings by annotator.

    Args:
        raters: (M,) whole numbers from 0, below ``count``.
        true: (M,) the ratings, NaN where missing.
        predicted: (M,) the prediction for that clip and annotator (or for the clip alone), on the same scale.
        count: how many annotators there are.

    Raises:
        ValueError: shapes that differ, or raters that aren't whole numbers from 0 below ``count``.
    """
    who = _numbers(raters, "raters", count)
    t, p = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    terms, gap = scores.moments(t, p)
    if who.shape != t.shape:
        raise ValueError(f"raters have shape {who.shape}, true {t.shape}")
    scored = terms[:, 0] > 0
    sums = row_sums(terms[scored], who[scored], count)
    known = np.column_stack([t, p])[scored]
    n = sums[:, 0]
    means = _over(row_sums(known, who[scored], count), n[:, None])
    mean, square = _over(sums[:, 1], n), _over(sums[:, 3], n)
    varied = square - mean**2 > 1e-12 * square
    return PerRater(
        ratings=n.astype(np.int64),
        true=means[:, 0],
        predicted=means[:, 1],
        bias=means[:, 1] - means[:, 0],
        rmse=scores.rmse_of(sums),
        ccc=np.where((n >= 3) & varied, scores.ccc_of(sums, gap), np.nan),
    )


@dataclass(frozen=True, eq=False)
class PerRaterLabels:
    """Predicted labels of the ratings of each of R annotators.

    Attributes:
        ratings: (R,) how many.
        accuracy: (R,) NaN without ratings.
        true, predicted: (R, L) share of each label among the annotator's own and among the predicted ones, NaN
            without ratings.
    """

    ratings: Integers
    accuracy: Floats
    true: Floats
    predicted: Floats


def per_rater_labels(
    raters: ArrayLike, true: ArrayLike, predicted: ArrayLike, count: int, classes: int
) -> PerRaterLabels:
    """Score predicted labels of single ratings by annotator.

    Args:
        raters: (M,) whole numbers from 0, below ``count``.
        true: (M,) class indices, -1 where missing.
        predicted: (M,) class indices.
        count: how many annotators there are.
        classes: how many classes there are.

    Raises:
        ValueError: shapes that differ, raters that aren't whole numbers from 0 below ``count``, or an index
            outside the classes.
    """
    who = _numbers(raters, "raters", count)
    cells, scored = scores.cells_of(true, predicted, classes)
    if who.shape != cells.shape:
        raise ValueError(f"raters have shape {who.shape}, true {cells.shape}")
    table = cell_sums(cells[scored], who[scored], count, classes * classes).reshape(count, classes, classes)
    n = table.sum(axis=(1, 2))
    return PerRaterLabels(
        ratings=n.astype(np.int64),
        accuracy=scores.accuracy_of(table),
        true=_over(table.sum(axis=2), n[:, None]),
        predicted=_over(table.sum(axis=1), n[:, None]),
    )


@dataclass(frozen=True, eq=False)
class _Design:
    """Ratings as the fit takes them: clips renumbered, values standardised as (value - shift) / scale."""

    clips: Integers
    raters: Integers
    values: Floats
    clip_count: int
    rater_count: int
    shift: float
    scale: float


def _design(clips: ArrayLike, raters: ArrayLike, values: ArrayLike, count: int | None) -> _Design:
    y = np.asarray(values, dtype=np.float64)
    c, r = _numbers(clips, "clips", None), _numbers(raters, "raters", count)
    if y.ndim != 1 or c.shape != y.shape or r.shape != y.shape:
        raise ValueError(f"clips have shape {c.shape}, raters {r.shape}, values {y.shape}; all must be (M,)")
    if np.isinf(y).any():
        raise ValueError("a value is infinite")
    known = ~np.isnan(y)
    c, r_known, y = c[known], r[known], y[known]
    if not len(y):
        raise ValueError("no ratings")
    rater_count = int(r.max()) + 1 if count is None else count
    # Renumbered in the order of the numbers, so that rarely used high numbers take no memory.
    present = np.bincount(c) > 0
    c = (np.cumsum(present) - 1)[c]
    shift = float(np.clip(y.mean(), y.min(), y.max()))
    spread = float(np.sqrt(np.mean((y - shift) ** 2)))
    scale = spread if spread > 0 else 1.0
    return _Design(c, r_known, (y - shift) / scale, int(present.sum()), rater_count, shift, scale)


@dataclass
class _State:
    """The fit between two steps, in standardised units. Annotators: (R,), clips: (C,)."""

    mean: float
    bias: Floats
    gain: Floats
    var_bias: Floats
    var_gain: Floats
    cov: Floats
    noise: Floats
    clip: Floats
    var_clip: Floats
    t_bias: float
    t_gain: float
    t_clip: float
    pooled: float

    @property
    def settled(self) -> Floats:
        """What must no longer change."""
        return np.concatenate([self.bias, self.gain, np.sqrt([self.t_bias, self.t_gain, self.t_clip, self.pooled])])


def _fit(design: _Design) -> Response:
    sums = _Sums(design)
    state = _start(sums)
    steps, converged = 0, not sums.varied
    while steps < _STEPS and not converged:
        before = state.settled
        _clips_step(state, design)
        moments = _raters_step(state, design, sums)
        _variances_step(state, sums, moments)
        _identify(state, sums)
        steps += 1
        converged = float(np.abs(state.settled - before).max()) < _TOLERANCE
    square = design.scale**2
    return Response(
        ratings=sums.n.astype(np.int64),
        bias=state.bias * design.scale,
        gain=state.gain,
        noise=np.sqrt(state.noise) * design.scale if sums.varied else np.zeros_like(state.noise),
        mean=design.shift + state.mean * design.scale,
        bias_variance=state.t_bias * square if sums.varied and sums.active > 1 else 0.0,
        gain_variance=state.t_gain if sums.varied and sums.active > 1 else 0.0,
        noise_variance=state.pooled * square if sums.varied else 0.0,
        clip_variance=state.t_clip * square if sums.varied else 0.0,
        steps=steps,
        converged=converged,
    )


class _Sums:
    """Sums of the ratings that stay as they are throughout the fit."""

    def __init__(self, design: _Design) -> None:
        c, r, y = design.clips, design.raters, design.values
        self.n = np.bincount(r, minlength=design.rater_count).astype(np.float64)
        self.total = float(len(y))
        self.active = int((self.n > 0).sum())
        self.y = np.bincount(r, weights=y, minlength=design.rater_count)
        self.yy = np.bincount(r, weights=y * y, minlength=design.rater_count)
        self.per_clip = np.bincount(c, minlength=design.clip_count).astype(np.float64)
        self.clip_y = np.bincount(c, weights=y, minlength=design.clip_count)
        self.varied = float(self.yy.sum()) > 0
        # Mean square within clips, with its degrees of freedom.
        within = float(self.yy.sum() - (self.clip_y**2 / self.per_clip).sum())
        free = self.total - design.clip_count
        self.within = within / free if free > 0 else 0.5


def _start(sums: _Sums) -> _State:
    raters, clips = len(sums.n), len(sums.per_clip)
    within = min(max(sums.within, 0.05), 1.0)
    noise = 0.75 * within
    t_clip = max(1.0 - within, 0.05) if sums.total > clips else 0.5
    return _State(
        mean=0.0,
        bias=np.zeros(raters),
        gain=np.ones(raters),
        var_bias=np.zeros(raters),
        var_gain=np.zeros(raters),
        cov=np.zeros(raters),
        noise=np.full(raters, noise),
        clip=np.zeros(clips),
        var_clip=np.zeros(clips),
        t_bias=0.25 * within,
        t_gain=_GAIN_VARIANCE,
        t_clip=t_clip,
        pooled=noise,
    )


def _clips_step(s: _State, design: _Design) -> None:
    """Posterior of the clips' deviations from the mean, given the annotators."""
    c, r = design.clips, design.raters
    weight = 1.0 / s.noise
    slope = weight * s.gain
    offset = weight * (s.gain * (s.bias + s.mean) + s.cov)
    precision = np.bincount(c, weights=(weight * (s.gain**2 + s.var_gain))[r], minlength=design.clip_count)
    pull = np.bincount(c, weights=slope[r] * design.values - offset[r], minlength=design.clip_count)
    s.var_clip = np.asarray(1.0 / (precision + 1.0 / s.t_clip), dtype=np.float64)
    s.clip = np.asarray(pull * s.var_clip, dtype=np.float64)


_Moments = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def _raters_step(s: _State, design: _Design, sums: _Sums) -> _Moments:
    """Posterior of biases and gains, given the clips; and the sums of u, u^2 and u y that it rests on."""
    c, r, size = design.clips, design.raters, design.rater_count
    u = s.clip[c]
    s1 = np.bincount(r, weights=u, minlength=size)
    s2 = np.bincount(r, weights=(s.clip**2 + s.var_clip)[c], minlength=size)
    uy = np.bincount(r, weights=u * design.values, minlength=size)
    # Bayesian regression of y - m on (1, u), prior mean (0, 1), precisions 1 / t_bias and 1 / t_gain.
    weight = 1.0 / s.noise
    a11 = weight * sums.n + 1.0 / s.t_bias
    a12 = weight * s1
    a22 = weight * s2 + 1.0 / s.t_gain
    h1 = weight * (sums.y - s.mean * sums.n)
    h2 = weight * (uy - s.mean * s1) + 1.0 / s.t_gain
    det = a11 * a22 - a12**2
    s.var_bias, s.var_gain, s.cov = a22 / det, a11 / det, -a12 / det
    s.bias = s.var_bias * h1 + s.cov * h2
    s.gain = s.cov * h1 + s.var_gain * h2
    return s1, s2, uy


def _variances_step(s: _State, sums: _Sums, moments: _Moments) -> None:
    s1, s2, uy = moments
    n, has = sums.n, sums.n > 0
    yy = sums.yy - 2 * s.mean * sums.y + s.mean**2 * n
    y, xy = sums.y - s.mean * n, uy - s.mean * s1
    fit = 2 * s.bias * y + 2 * s.gain * xy - 2 * (s.bias * s.gain + s.cov) * s1
    squares = yy - fit + (s.bias**2 + s.var_bias) * n + (s.gain**2 + s.var_gain) * s2
    squares = np.maximum(squares, _FLOOR * n)
    s.pooled = max(float(squares.sum()) / sums.total, _FLOOR)
    weight = _noise_weight(squares[has], n[has], s.pooled)
    s.noise = (weight * s.pooled + squares) / (weight + n)
    s.t_bias = max(float((s.bias**2 + s.var_bias)[has].sum()) / sums.active, _FLOOR)
    spread = float(((s.gain - 1.0) ** 2 + s.var_gain)[has].sum())
    s.t_gain = max((spread + _GAIN_VARIANCE) / (sums.active + 1), _FLOOR)
    s.t_clip = max(float((s.clip**2 + s.var_clip).mean()), _FLOOR)


def _noise_weight(squares: Floats, n: Floats, pooled: float) -> float:
    """How many ratings the pooled noise counts in an annotator's own.

    If the variances of the annotators follow a scaled inverse chi-squared distribution with k degrees of freedom,
    their squared coefficient of variation is 2 / (k - 4); that of an estimate from n ratings with one true variance
    is 2 / n. The excess of the observed over the latter gives k.
    """
    total, annotators = float(n.sum()), len(n)
    observed = float((n * (squares / n / pooled - 1.0) ** 2).sum() / total)
    chance = 2.0 * annotators / total
    between = (observed - chance) / (1.0 + chance)
    if between <= 2.0 / (_MOST - _LEAST):
        return _MOST
    return _LEAST + 2.0 / between


def _identify(s: _State, sums: _Sums) -> None:
    """Move what all annotators share into the clips: over the ratings the mean bias is 0 and the mean gain 1."""
    shift = float((sums.n * s.bias).sum() / sums.total)
    s.bias = s.bias - shift
    s.mean += shift
    factor = float((sums.n * s.gain).sum() / sums.total)
    if factor > 0.1:  # a gain of all near 0 or below would turn the clips around
        s.gain, s.clip = s.gain / factor, s.clip * factor
        s.var_gain, s.cov = s.var_gain / factor**2, s.cov / factor
        s.var_clip, s.t_clip = s.var_clip * factor**2, s.t_clip * factor**2
    s.bias[sums.n == 0], s.gain[sums.n == 0] = 0.0, 1.0


def _numbers(values: ArrayLike, name: str, count: int | None) -> Integers:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name} must be (M,) whole numbers, not {array.dtype} of shape {array.shape}")
    if array.size and array.min() < 0:
        raise ValueError(f"{name} must be whole numbers from 0")
    if count is not None and array.size and array.max() >= count:
        raise ValueError(f"{name}: {array.max()} for {count} annotators")
    return array.astype(np.int64)


def _over(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """``part / whole``, NaN where ``whole`` is 0."""
    whole = np.broadcast_to(whole, part.shape)
    ratio: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)
    return ratio
