"""Scores of categories and dimensions.

Every score is a function of a small table of sums: the confusion matrix for categories, seven moment sums for
a dimension. The ``*_of`` functions take stacks of such tables, so that a bootstrap of thousands of resamples
is one call. Undefined scores are NaN. Clips without a true value (category -1, dimension NaN) are left out.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

CATEGORY_SCORES = ("uar", "accuracy", "macro_f1")
DIMENSION_SCORES = ("ccc", "rmse", "pearson")

# A variance below this share of the mean square (about the shift) is rounding, not spread.
_ROUNDING = 1e-12


def confusion(true: ArrayLike, predicted: ArrayLike, classes: int) -> Integers:
    """Counts of (true, predicted) pairs.

    Args:
        true: (N,) class indices, -1 where there is no truth; those are left out.
        predicted: (N,) class indices.
        classes: how many classes there are.

    Returns:
        (classes, classes): rows are true, columns predicted.

    Raises:
        ValueError: shapes that differ, values that are not whole numbers, or an index outside the classes.
    """
    cells, scored = cells_of(true, predicted, classes)
    counts = np.bincount(cells[scored], minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def cells_of(true: ArrayLike, predicted: ArrayLike, classes: int) -> tuple[Integers, NDArray[np.bool_]]:
    """The cell of the flattened confusion matrix that each clip falls in, and which clips have a truth.

    Returns:
        (N,) cell = true * classes + predicted (0 where there is no truth), and the (N,) mask of scored clips.
    """
    t, p = _indices(true), _indices(predicted)
    if t.shape != p.shape:
        raise ValueError(f"true has shape {t.shape}, predicted {p.shape}")
    scored = t >= 0
    if scored.any():
        t_in, p_in = t[scored], p[scored]
        if t_in.max() >= classes or p_in.max() >= classes or p_in.min() < 0:
            raise ValueError(f"a class index is outside 0..{classes - 1}")
    return np.where(scored, t * classes + p, 0), scored


def recall_of(matrix: ArrayLike) -> Floats:
    """Recall per class, NaN for a class that never occurs. (..., C, C) -> (..., C)."""
    m = np.asarray(matrix, dtype=np.float64)
    return _ratio(_diagonal(m), m.sum(axis=-1))


def precision_of(matrix: ArrayLike) -> Floats:
    """Precision per class, NaN for a class that is never predicted. (..., C, C) -> (..., C)."""
    m = np.asarray(matrix, dtype=np.float64)
    return _ratio(_diagonal(m), m.sum(axis=-2))


def f1_of(matrix: ArrayLike) -> Floats:
    """F1 per class, NaN for a class that is neither true nor predicted. (..., C, C) -> (..., C)."""
    m = np.asarray(matrix, dtype=np.float64)
    return _ratio(2.0 * _diagonal(m), m.sum(axis=-1) + m.sum(axis=-2))


def uar_of(matrix: ArrayLike) -> Floats:
    """Unweighted average recall (balanced accuracy) over the classes that occur. (..., C, C) -> (...)."""
    return _mean_of_defined(recall_of(matrix))


def accuracy_of(matrix: ArrayLike) -> Floats:
    """Share of clips that are right (weighted accuracy). (..., C, C) -> (...)."""
    m = np.asarray(matrix, dtype=np.float64)
    return _ratio(_diagonal(m).sum(axis=-1), m.sum(axis=(-2, -1)))


def macro_f1_of(matrix: ArrayLike) -> Floats:
    """Mean F1 over the classes that are true or predicted anywhere. (..., C, C) -> (...)."""
    return _mean_of_defined(f1_of(matrix))


def uar(true: ArrayLike, predicted: ArrayLike) -> float:
    """Unweighted average recall over the classes that occur in ``true``; (N,), (N,) indices -> 0..1."""
    return float(uar_of(_own_confusion(true, predicted)))


def accuracy(true: ArrayLike, predicted: ArrayLike) -> float:
    """Share of clips that are right; (N,), (N,) indices -> 0..1."""
    return float(accuracy_of(_own_confusion(true, predicted)))


def macro_f1(true: ArrayLike, predicted: ArrayLike) -> float:
    """Mean F1 over the classes that occur in ``true`` or ``predicted``; (N,), (N,) indices -> 0..1."""
    return float(macro_f1_of(_own_confusion(true, predicted)))


def moments(true: ArrayLike, predicted: ArrayLike) -> tuple[Floats, float]:
    """The terms whose sums give CCC, RMSE and Pearson's correlation of any subset of the clips.

    Both series are shifted by their own mean, so that their squares keep their digits on any scale.

    Args:
        true: (N,) values, NaN where there is no truth; those rows are zero.
        predicted: (N,) values on the same scale.

    Returns:
        (N, 7): 1, x, y, xx, yy, xy, (x - y)^2, where x is the shifted truth and y the shifted prediction; and
        the gap, shift of x minus shift of y.

    Raises:
        ValueError: shapes that differ.
    """
    t, p = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if t.shape != p.shape or t.ndim != 1:
        raise ValueError(f"true has shape {t.shape}, predicted {p.shape}; both must be (N,)")
    scored = ~np.isnan(t)
    terms = np.zeros((len(t), 7))
    if not scored.any():
        return terms, 0.0
    t, p = t[scored], p[scored]
    # The clip makes the shift of a constant series exactly that constant.
    shift_t = float(np.clip(t.mean(), t.min(), t.max()))
    shift_p = float(np.clip(p.mean(), p.min(), p.max()))
    x, y = t - shift_t, p - shift_p
    terms[scored] = np.column_stack([np.ones_like(x), x, y, x * x, y * y, x * y, (t - p) ** 2])
    return terms, shift_t - shift_p


def ccc_of(sums: ArrayLike, gap: float) -> Floats:
    """Concordance correlation coefficient from sums of :func:`moments`; (..., 7) -> (...).

    Lin (1989), "A concordance correlation coefficient to evaluate reproducibility", Biometrics 45(1), with
    population moments. One constant series gives 0. Undefined (NaN) with fewer than two clips, or when both
    series are one and the same constant.
    """
    n, mean_x, mean_y, var_x, var_y, cov = _central(sums)
    value = _ratio(2.0 * cov, var_x + var_y + (mean_x - mean_y + gap) ** 2)
    return np.where(n < 2, np.nan, value)


def pearson_of(sums: ArrayLike) -> Floats:
    """Pearson's correlation from sums of :func:`moments`, NaN if a series is constant; (..., 7) -> (...)."""
    n, _, _, var_x, var_y, cov = _central(sums)
    value = np.clip(_ratio(cov, np.sqrt(var_x) * np.sqrt(var_y)), -1.0, 1.0)
    return np.where(n < 2, np.nan, value)


def rmse_of(sums: ArrayLike) -> Floats:
    """Root mean squared error from sums of :func:`moments`; (..., 7) -> (...)."""
    s = np.asarray(sums, dtype=np.float64)
    return np.sqrt(_ratio(s[..., 6], s[..., 0]))


def ccc(true: ArrayLike, predicted: ArrayLike) -> float:
    """Concordance correlation coefficient of (N,) values; see :func:`ccc_of`."""
    terms, gap = moments(true, predicted)
    return float(ccc_of(terms.sum(axis=0), gap))


def pearson(true: ArrayLike, predicted: ArrayLike) -> float:
    """Pearson's correlation of (N,) values; NaN if a series is constant."""
    return float(pearson_of(moments(true, predicted)[0].sum(axis=0)))


def rmse(true: ArrayLike, predicted: ArrayLike) -> float:
    """Root mean squared error of (N,) values, in units of their scale."""
    return float(rmse_of(moments(true, predicted)[0].sum(axis=0)))


def category_scores_of(matrix: ArrayLike) -> dict[str, Floats]:
    """All of ``CATEGORY_SCORES``; (..., C, C) -> name: (...)."""
    return {"uar": uar_of(matrix), "accuracy": accuracy_of(matrix), "macro_f1": macro_f1_of(matrix)}


def dimension_scores_of(sums: ArrayLike, gap: float) -> dict[str, Floats]:
    """All of ``DIMENSION_SCORES``; (..., 7) sums of :func:`moments` -> name: (...)."""
    return {"ccc": ccc_of(sums, gap), "rmse": rmse_of(sums), "pearson": pearson_of(sums)}


def _indices(values: ArrayLike) -> Integers:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"class indices must be (N,), not {array.shape}")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"class indices must be integers, not {array.dtype}")
    return array.astype(np.int64)


def _own_confusion(true: ArrayLike, predicted: ArrayLike) -> Integers:
    """The confusion matrix over as many classes as the data name."""
    t, p = _indices(true), _indices(predicted)
    return confusion(t, p, 1 + max(t.max(initial=0), p.max(initial=0)))


def _diagonal(matrix: Floats) -> Floats:
    diagonal: Floats = np.einsum("...ii->...i", matrix)
    return diagonal


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """``part / whole``, NaN where ``whole`` is 0."""
    out = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    np.divide(part, whole, out=out, where=whole != 0)
    return out


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def _central(sums: ArrayLike) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
    """Count, means, population variances and covariance of the shifted series."""
    s = np.asarray(sums, dtype=np.float64)
    n = s[..., 0]
    mean_x, mean_y, square_x, square_y, product = (_ratio(s[..., i], n) for i in range(1, 6))
    var_x, flat_x = _variance(mean_x, square_x)
    var_y, flat_y = _variance(mean_y, square_y)
    cov = np.where(flat_x | flat_y, 0.0, product - mean_x * mean_y)
    return n, mean_x, mean_y, var_x, var_y, cov


def _variance(mean: Floats, square: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    variance = square - mean**2
    flat = variance <= _ROUNDING * square
    return np.where(flat, 0.0, variance), flat
