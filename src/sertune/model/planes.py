"""The distribution of a clip's ratings on the plane of two attributes, as a target to learn (arXiv 2408.11956).

Of a clip with K annotators n = 200 observations are drawn, each the mean of a random subset of 1 ... K of them (every
size alike) plus uniform noise of up to half the clip's standard deviation (over K - 1) per axis, kept inside [-1, 1].
Their histogram on 512 x 512 cells is smoothed by the diffusion of `sertune.model.density` with N = n; what is negative
then is set to 0, and every cell of the grid gets its mass. All in float64.

Not all 512 x 512 coefficients of the histogram are needed, as the diffusion leaves little of the high ones. As many as
a clip's spread makes likely are computed, as sums over the observations, and more as long as exp(-k^2 pi^2 t) of the
first that is left out is above 1e-7 at t* (about 1e-9 at t_x / 2, t_y / 2). Where all observations agree on one axis,
which is common with few annotators and few steps of the scale, the histogram is a product of two in one dimension, and
all coefficients of both are used. There, and where a density is about as narrow as a fine cell, the fine cells are
added up, by their shares in a cell of the grid.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from json import dumps
from math import log, pi, sqrt
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sertune.data.durations import cache_folder
from sertune.errors import SertuneError
from sertune.files import replacing
from sertune.model.density import (
    bandwidths,
    block_masses,
    cosines,
    filtered,
    normalised,
    norms_of,
    norms_of_product,
)
from sertune.progress import progress

Floats: TypeAlias = NDArray[np.float64]

KEPT_FROM: Final = 500
"""Clips from which on targets are kept: those of fewer are computed in a second or two."""

_FORMAT: Final = 1  # of what is kept; changes whenever the same input gives other targets
_LEFT: Final = -log(1e-7)  # of a frequency that is left out; masses then differ by less than 1e-7
_GUESS: Final = 0.1  # t* in variances of the observations' narrower axis: a usual value
_NUMBERS: Final = 2**19  # coefficients at a time: of this size there are about ten arrays of 4 MB
_PRODUCTS: Final = 64  # clips of this kind at a time
_CLIPS: Final = 1024
_DRAWN: Final = 2**22  # random numbers at a time


@dataclass(frozen=True)
class Truth:
    """How a clip's ratings become a distribution.

    Attributes:
        draws: observations per clip, n.
        noise: largest noise in standard deviations of the clip.
        fine: cells per axis of the histogram.
        subsets: each observation is the mean of a random subset of the annotators; otherwise it is one of them.
    """

    draws: int = 200
    noise: float = 0.5
    fine: int = 512
    subsets: bool = True


PAPER: Final = Truth()


def plane_targets(
    ratings: Floats,
    ids: Sequence[str],
    grid: tuple[int, int],
    truth: Truth = PAPER,
    seed: int = 0,
    alone: Floats | None = None,
) -> NDArray[np.float32]:
    """The target of every clip, computed once and kept.

    The draws of a clip are seeded by ``seed`` and its id, so its target depends neither on the other clips nor on the
    order of its ratings. Only the noise of clips with one annotator comes from the others, by ``alone``. From
    `KEPT_FROM` clips on the targets are kept in the user's cache (``sertune/planes`` below ``XDG_CACHE_HOME`` or
    ``~/.cache``), by all that they depend on. A damaged file there, or a folder that can't be written, is no error.

    Args:
        ratings: (N, R, 2) in [-1, 1], NaN where there is none; an annotator counts who rated both attributes.
        ids: (N,) names of the clips.
        grid: cells per axis, each at least 2.
        alone: as for `cell_targets`.

    Returns:
        (N, gx * gy), the second axis of the plane fastest; sum 1 per clip, NaN for a clip without ratings.
    """
    alone = within_spread(ratings) if alone is None else alone
    kept = _file(ratings, ids, grid, truth, seed, alone) if len(ids) >= KEPT_FROM else None
    if kept is not None and (found := _load(kept, (len(ids), grid[0] * grid[1]))) is not None:
        return found
    seeds = [_seed(seed, name) for name in ids]
    targets = cell_targets(ratings, grid, seeds, truth, alone).reshape(len(ids), -1).astype(np.float32)
    if kept is not None:
        with suppress(SertuneError, OSError):
            _save(kept, targets)
    return targets


def cell_targets(
    values: Floats, grid: tuple[int, int], seeds: Sequence[int], truth: Truth = PAPER, alone: Floats | None = None
) -> Floats:
    """The mass of each clip's distribution in every cell of a grid.

    Args:
        values: (N, R, 2) ratings in [-1, 1] in any order, NaN where there is none.
        grid: cells per axis, each at least 2.
        seeds: (N,) of each clip's draws, at least 0.
        alone: (2,) standard deviation per axis of a clip with one annotator, which has none of its own; by default
            `within_spread` of ``values``.

    Returns:
        (N, *grid), sum 1 per clip, NaN for a clip without ratings.

    Raises:
        ValueError: other shapes, or a grid below 2 x 2.
    """
    if values.ndim != 3 or values.shape[2] != 2 or len(seeds) != len(values) or min(grid) < 2:
        raise ValueError(f"ratings {values.shape}, {len(seeds)} seeds, grid {grid}; not (N, R, 2), N, at least 2 x 2")
    spread = within_spread(values) if alone is None else np.asarray(alone, dtype=np.float64)
    cells = np.full((len(values), *grid), np.nan)
    with progress("Target distributions", len(values)) as advance, torch.no_grad():
        for rows, some in _batches(values, truth):
            points = _observations(some, [seeds[row] for row in rows], spread, truth)
            bins = np.minimum(((points + 1) / 2 * truth.fine).astype(np.int64), truth.fine - 1)
            cells[rows] = _smoothed(torch.from_numpy(bins), grid, truth).numpy()
            advance(len(rows))
    return cells


def within_spread(values: Floats) -> Floats:
    """(2,) mean over the clips of (N, R, 2) with two annotators or more of their standard deviation per axis.

    0 where there is no such clip: then nothing is known of how far annotators differ.
    """
    known = _known(values)
    counts = known.sum(1)
    some = np.where(known[..., None], values, 0.0)[counts > 1]
    if not len(some):
        return np.zeros(2)
    number = counts[counts > 1, None]
    mean = some.sum(1) / number
    squares = (np.square(some - mean[:, None]) * known[counts > 1, :, None]).sum(1)
    spread: Floats = np.sqrt(squares / (number - 1)).mean(0)
    return spread


def _known(values: Floats) -> NDArray[np.bool_]:
    """(N, R) which annotators rated both attributes."""
    known: NDArray[np.bool_] = ~(np.isnan(values[..., 0]) | np.isnan(values[..., 1]))
    return known


def _batches(values: Floats, truth: Truth) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Clips with equally many annotators: their rows, and their ratings (B, K, 2) in one order whatever was given."""
    known = _known(values)
    counts = known.sum(1)
    for count in np.unique(counts[counts > 0]):
        rows = np.flatnonzero(counts == count)
        size = max(1, min(_CLIPS, _DRAWN // (truth.draws * (int(count) + 3))))
        for part in np.split(rows, range(size, len(rows), size)):
            some = values[part][known[part]].reshape(len(part), count, 2)
            order = np.lexsort((some[..., 1], some[..., 0]), axis=1)
            yield part, np.take_along_axis(some, order[..., None], 1)


def _observations(some: Floats, seeds: Sequence[int], alone: Floats, truth: Truth) -> Floats:
    """Clips (B, K, 2) -> observations (B, draws, 2) in [-1, 1]."""
    count = some.shape[1]
    width = (count if truth.subsets else 0) + 3
    drawn = np.stack([np.random.default_rng(seed).random((truth.draws, width)) for seed in seeds])
    chosen = (drawn[..., 0] * count).astype(np.int64)
    if truth.subsets:
        keys = drawn[..., 3:]
        last = np.take_along_axis(np.sort(keys, axis=2), chosen[..., None], 2)
        taken = (keys <= last).astype(np.float64)
        means = taken @ some / (chosen + 1.0)[..., None]
    else:
        means = np.take_along_axis(some, chosen[..., None], 1)
    spread = some.std(1, ddof=1) if count > 1 else np.broadcast_to(alone, (len(some), 2))
    noisy: Floats = means + truth.noise * spread[:, None] * (2 * drawn[..., 1:3] - 1)
    return np.clip(noisy, -1, 1)


def _smoothed(bins: Tensor, grid: tuple[int, int], truth: Truth) -> Tensor:
    """Cells (B, draws, 2) of the fine histogram that observations are in -> (B, *grid) masses."""
    cells = torch.empty(len(bins), *grid, dtype=torch.float64)
    product = (bins == bins[:, :1]).all(1).any(1)
    if bool(product.any()):
        cells[product] = torch.cat([_product(some, grid, truth.fine) for some in bins[product].split(_PRODUCTS)])
    open_ = ~product
    every = cosines(truth.fine, truth.fine)
    first = _likely(bins, truth.fine)
    for frequencies in _levels(truth.fine):
        rows = (open_ & (first <= frequencies)).nonzero()[:, 0]
        table = every[:, :frequencies].contiguous()
        for part in rows.split(max(1, _NUMBERS // frequencies**2)) if len(rows) else ():
            found, done = _joint(bins[part], grid, table)
            cells[part] = found
            open_[part] = ~done
    return normalised(cells)


def _levels(fine: int) -> list[int]:
    """Numbers of frequencies that are tried, a half or a third more each time."""
    sizes = (size for power in range(5, fine.bit_length()) for size in (2**power, 3 * 2 ** (power - 1)))
    return [*(size for size in sizes if size < fine), fine]


def _likely(bins: Tensor, fine: int) -> Tensor:
    """(B,) a first guess of how many frequencies a clip needs, from how wide its observations are spread.

    It decides on how much is computed, not on the result.
    """
    spread = bins.double().std(1).amin(1) / fine
    return (sqrt(_LEFT / _GUESS) / pi / spread).clamp_max(fine)


def _joint(bins: Tensor, grid: tuple[int, int], table: Tensor) -> tuple[Tensor, Tensor]:
    """Masses (B, *grid) by the frequencies of `cosines` ``table``, and which clips need no more (B,)."""
    fine, frequencies = table.shape
    first, second = table[bins[..., 0]], table[bins[..., 1]]
    series = first.mT @ second / bins.shape[1]
    times = bandwidths(norms_of(series.square()), _counts(bins), fine)
    damped = (pi * frequencies) ** 2 * torch.minimum(times.root, torch.minimum(times.first, times.second) * 0.7)
    enough = damped > _LEFT
    smooth = series * filtered(frequencies, times.first)[:, :, None] * filtered(frequencies, times.second)[:, None, :]
    masses = [block_masses(size, fine, frequencies) for size in grid]
    cells = masses[0] @ smooth @ masses[1].T
    if frequencies < fine:
        return cells, enough
    for i in (~enough).nonzero()[:, 0].tolist():  # narrower than a fine cell: the cosines ring
        inverse = table * _twice(fine)
        density = (inverse @ smooth[i] @ inverse.T / fine**2).clamp_min(0)
        cells[i] = _overlaps(grid[0], fine) @ density @ _overlaps(grid[1], fine).T
    return cells, torch.ones_like(enough)


def _product(bins: Tensor, grid: tuple[int, int], fine: int) -> Tensor:
    """Masses (B, *grid) of clips whose observations agree on an axis, by all frequencies of both axes."""
    table = cosines(fine, fine)
    by_axis = bins.permute(2, 0, 1)
    each = torch.full_like(by_axis, 1 / bins.shape[1], dtype=torch.float64)
    series = torch.zeros(2, len(bins), fine, dtype=torch.float64).scatter_add_(2, by_axis, each) @ table
    norms = norms_of_product(series[0].square(), series[1].square())
    times = bandwidths(norms, _counts(bins), fine)
    above, below = [], []
    for axis, time in enumerate((times.first, times.second)):
        density = (series[axis] * filtered(fine, time) * _twice(fine)) @ table.T / fine
        overlaps = _overlaps(grid[axis], fine).T
        above.append(density.clamp_min(0) @ overlaps)
        below.append(density.clamp_max(0) @ overlaps)
    # what is positive of a product of two
    return above[0][:, :, None] * above[1][:, None, :] + below[0][:, :, None] * below[1][:, None, :]


def _counts(bins: Tensor) -> Tensor:
    """(B,) number of observations."""
    return torch.full((len(bins),), float(bins.shape[1]), dtype=torch.float64)


def _twice(frequencies: int) -> Tensor:
    """e_k: 1, then 2s."""
    weights = torch.full((frequencies,), 2.0, dtype=torch.float64)
    weights[0] = 1
    return weights


def _overlaps(bins: int, fine: int) -> Tensor:
    """(bins, fine) share of each fine cell that is in each cell."""
    edges = torch.arange(bins + 1, dtype=torch.float64)[:, None] * fine / bins
    return (edges - torch.arange(fine, dtype=torch.float64)).clamp(0, 1).diff(dim=0)


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(blake2b(f"{seed}\n{name}".encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def _file(ratings: Floats, ids: Sequence[str], grid: tuple[int, int], truth: Truth, seed: int, alone: Floats) -> Path:
    """Where targets are kept, by all that they depend on."""
    named = [_FORMAT, grid, asdict(truth), seed, alone.tolist(), ratings.shape, list(ids)]
    digest = blake2b(dumps(named).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(np.where(np.isnan(ratings), np.nan, ratings), dtype=np.float64).tobytes())
    return cache_folder() / "planes" / f"{digest.hexdigest()}.npy"


def _load(file: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """Kept targets; None where there are none or the file is damaged."""
    try:
        found: NDArray[np.float32] = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if found.shape != shape or found.dtype != np.float32:
        return None
    sums = found.sum(1)
    return found if bool(np.all(np.isnan(sums) | (np.abs(sums - 1) < 1e-4))) else None


def _save(file: Path, targets: NDArray[np.float32]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part, part.open("wb") as opened:
        np.save(opened, targets, allow_pickle=False)
