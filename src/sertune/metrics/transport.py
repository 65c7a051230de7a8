"""The exact earth mover's distance, by POT, the only use of that package."""

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sertune.metrics.scores import Floats

# POT imports every array library it knows, each unless its switch is set, and needs none of them here: with torch
# the import takes seconds, without about one. A library that is loaded already costs nothing and is left on, as
# its user may also use POT.
_SWITCHES = {
    "torch": "POT_BACKEND_DISABLE_PYTORCH",
    "jax": "POT_BACKEND_DISABLE_JAX",
    "cupy": "POT_BACKEND_DISABLE_CUPY",
    "tensorflow": "POT_BACKEND_DISABLE_TENSORFLOW",
}
_STEPS = 10_000_000


def emd(p: ArrayLike, q: ArrayLike, cost: ArrayLike) -> Floats:
    """The least cost at which the mass of each row of ``p`` can be moved to lie as the same row of ``q``.

    Rubner, Tomasi and Guibas (2000), "The earth mover's distance as a metric for image retrieval", IJCV 40(2),
    solved by the network simplex of Bonneel et al. (2011), so up to rounding exact. With distances as cost this is
    the 1-Wasserstein distance, in their unit.

    Args:
        p, q: (N, K) with rows that sum to 1; what rounding left over is evened out.
        cost: (K, K) of moving mass from bin (row) to bin (column), from 0.

    Returns:
        (N,) distances.

    Raises:
        ValueError: shapes that differ, values below 0, rows without mass, or numbers that are not finite.
    """
    a, b, c = (np.ascontiguousarray(x, dtype=np.float64) for x in (p, q, cost))
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"distributions have shapes {a.shape} and {b.shape}; both must be (N, K)")
    if c.shape != (a.shape[1], a.shape[1]):
        raise ValueError(f"the cost has shape {c.shape}, expected {(a.shape[1], a.shape[1])}")
    for name, values in (("a distribution", a), ("a distribution", b), ("the cost", c)):
        if not np.isfinite(values).all() or (values < 0).any():
            raise ValueError(f"{name} has values below 0 or that are not finite")
    sums_a, sums_b = a.sum(axis=1, keepdims=True), b.sum(axis=1, keepdims=True)
    if not ((sums_a > 0).all() and (sums_b > 0).all()):
        raise ValueError("a distribution has no mass")
    if not len(a):
        return np.zeros(0)
    solve = _solver()
    return np.array([_one(solve, x, y, c) for x, y in zip(a / sums_a, b / sums_b, strict=True)])


def _one(solve: Callable[..., Any], p: Floats, q: Floats, cost: Floats) -> float:
    """The distance of one pair; bins without mass are left out, which is faster and changes nothing."""
    out, into = np.flatnonzero(p), np.flatnonzero(q)
    if len(out) == 1 or len(into) == 1:
        return float(p[out] @ cost[np.ix_(out, into)] @ q[into])
    part = np.ascontiguousarray(cost[np.ix_(out, into)])
    return float(solve(p[out], q[into], part, numItermax=_STEPS, center_dual=False, check_marginals=False))


def _solver() -> Callable[..., Any]:
    """POT's ``emd2``, imported on first use and without array libraries that are not loaded."""
    off = [switch for name, switch in _SWITCHES.items() if name not in sys.modules and switch not in os.environ]
    os.environ.update(dict.fromkeys(off, "1"))
    try:
        import ot
    finally:
        for switch in off:
            os.environ.pop(switch, None)
    solve: Callable[..., Any] = ot.emd2
    return solve
