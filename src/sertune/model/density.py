"""Points on the plane of two attributes as a density on a coarse grid, differentiable and in batches.

The square [-1, 1] x [-1, 1] is the unit square of Botev, Grotowski & Kroese (2010), "Kernel density estimation via
diffusion", Annals of Statistics 38(5), so that a diffusion time t is the variance of a Gaussian there, and a standard
deviation s of the plane is s / 2. arXiv 2408.11956 trains through it.

1. Soft histogram. With n cells of width d = 2 / n and centres c per axis and temperature T (in units of the plane),
   s_c(x) = sigmoid(T (x - c + d/2)) - sigmoid(T (x - c - d/2)); h = sum over the points of s(x) s(y)', divided by its
   sum. A point near the border has part of its mass outside, so it counts less.
2. Cosine transform: c_kl = sum_ij h_ij cos(pi k (i + 1/2) / n) cos(pi l (j + 1/2) / n).
3. Bandwidths. With e_0 = 1 and e_k = 2 for k > 0, the squared norm of a derivative of the density at time t is

       psi_ij(t) = pi^(2 (i + j)) sum_kl e_k e_l k^(2i) l^(2j) c_kl^2 exp(-(k^2 + l^2) pi^2 t)

   From psi of order i + j = 5 at time t, for the orders 4, 3 and 2 in turn, each at a time of its own,

       t_ij = [(1 + 2^-(i + j + 1)) / 3 * (2i - 1)!! (2j - 1)!! / (pi N (psi_(i+1)j + psi_i(j+1)))]^(1 / (2 + i + j))

   and with the three of order 2, g(t) = [2 pi N (psi_20 + psi_02 + 2 psi_11)]^(-1/3). t* is the root of t = g(t). From
   psi at t*, t_x = [psi_02^(3/4) / (4 pi N psi_20^(3/4) (psi_11 + sqrt(psi_20 psi_02)))]^(1/3), and t_y likewise. (The
   published kde2d.m solves g(t) = t / (1 + t), a slip that moves t* by a share of about t*.)
4. c_kl exp(-k^2 pi^2 t_x / 2) exp(-l^2 pi^2 t_y / 2) are the coefficients of the density.
5. Mass of a coarse cell. The cell from u to v of the unit interval has the share
   (sin(pi k v) - sin(pi k u)) / (2 n sin(pi k / 2n)) of a cosine. Where the grid divides n this is the sum of the
   inverse transform over the block; for others it integrates the one smooth density that has the inverse transform as
   its means over the fine cells. So cells of any grids add up: 4 x 4 is sums of 8 x 8.
6. What is below the least number above 1 less 1 is set to it, then all is divided by the sum.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

LONGEST: Final = 0.1
"""The longest time t* that is looked for, as in the published code: a standard deviation of .63 of the plane."""
LEAST: Final = torch.finfo(torch.float64).eps
"""The least mass of a cell, before all are divided by their sum."""
LEAST_BANDWIDTH: Final = 0.02
"""Of Silverman's rule, in units of the plane, where points are equal or one alone."""

_POINTS: Final = 8192  # that are spread over fine cells at a time: about 30 MB
_NUMBERS: Final = 2**20  # coefficients at a time
_TOLERANCE: Final = 1e-6  # of log t; the Newton step after it squares the error
_ROUNDS: Final = 80  # far more than halving alone would need
_FLAT: Final = 1e-3  # slopes below are no root that a gradient could be told of
_TINY: Final = 1e-20  # derivatives of a uniform density

Norms: TypeAlias = Callable[[Tensor, int], Tensor]
"""Times (B, n + 1) or (B, 1) and a number n -> psi_n0, psi_(n-1)1 ... psi_0n at these times, (B, n + 1)."""


@dataclass(frozen=True)
class Kernel:
    """How points become a density.

    Attributes:
        name: ``diffusion``, the estimator of this module, or ``gaussian``: the mean of normal densities at the points,
            each cut at the border and renormalised.
        bandwidth: of ``gaussian``, the standard deviation in units of the plane; 0: Silverman's rule per clip and
            axis, sigma n^(-1/6) with the sample's standard deviation sigma, at least `LEAST_BANDWIDTH`.
        fine: cells per axis of the soft histogram.
        temperature: T of the soft histogram.
        gradient: of the diffusion times t_x and t_y: through the root t* by the implicit function theorem, or
            ``detached``, as if they were constants.
    """

    name: Literal["diffusion", "gaussian"] = "diffusion"
    bandwidth: float = 0.0
    fine: int = 64
    temperature: float = 8.0
    gradient: Literal["implicit", "detached"] = "implicit"


DIFFUSION: Final = Kernel()


def cell_density(
    points: Tensor, present: Tensor, grid: tuple[int, int], kernel: Kernel = DIFFUSION, blur: Tensor | None = None
) -> Tensor:
    """The share of the density of each clip's points in every cell of a grid.

    A clip without points gets the uniform distribution and no gradient. One point, equal points and points at the
    border have a density and finite gradients. A clip's result does not depend on the others of its batch.

    Args:
        points: (B, R, 2) in [-1, 1]; values beyond are kept inside.
        present: (B, R) bool, which points count; what stands in the others (NaN included) does not matter.
        grid: cells per axis, each at least 2.
        blur: (2,) or (B, 2) standard deviations, in units of the plane, of a Gaussian that is added to the kernel.

    Returns:
        (B, *grid) float64, first axis the first coordinate, from low to high; all above 0, sum 1 per clip.
    """
    _check(grid)
    inside = torch.where(present[..., None], points.double(), 0.0).clamp(-1, 1)
    extra = points.new_zeros(2, dtype=torch.float64) if blur is None else blur.double()
    extra = extra.expand(len(points), 2)
    cells = _diffused if kernel.name == "diffusion" else _gaussian
    rows = max(1, min(_NUMBERS // kernel.fine**2, _POINTS // max(present.shape[1], 1)))
    parts = zip(inside.split(rows), present.split(rows), extra.split(rows), strict=True)
    return torch.cat([normalised(cells(some, known, grid, kernel, wide)) for some, known, wide in parts])


def gaussian_cells(mean: Tensor, spread: Tensor, grid: tuple[int, int]) -> Tensor:
    """The mass of a product of two normal densities in every cell, renormalised inside the square.

    Args:
        mean: (B, 2); values beyond [-1, 1] are kept inside.
        spread: (B, 2) standard deviations; those below .001 count as that.
        grid: cells per axis, each at least 2.

    Returns:
        (B, *grid) float64, all above 0, sum 1 per clip.
    """
    _check(grid)
    mean, spread = mean.double().clamp(-1, 1), spread.double().clamp_min(1e-3)
    first, second = (_normal_bins(mean[:, axis], spread[:, axis], grid[axis]) for axis in (0, 1))
    return normalised(first[:, :, None] * second[:, None, :])


def expected_value(cells: Tensor) -> Tensor:
    """Masses (B, gx, gy) -> expected value by the cells' centres, (B, 2)."""
    first = cells.sum(2) @ bin_centres(cells.shape[1]).to(cells)
    second = cells.sum(1) @ bin_centres(cells.shape[2]).to(cells)
    return torch.stack([first, second], 1)


def bin_centres(bins: int) -> Tensor:
    """(bins,) float64 centres of equal cells of [-1, 1], from low to high."""
    return (2 * torch.arange(bins, dtype=torch.float64) + 1) / bins - 1


def soft_bins(values: Tensor, bins: int, temperature: float) -> Tensor:
    """Values (...,) in [-1, 1] -> their soft share in each of ``bins`` equal cells, (..., bins); step 1 above."""
    edges = torch.linspace(-1, 1, bins + 1, dtype=values.dtype, device=values.device)
    below = torch.sigmoid(temperature * (values[..., None] - edges))
    return below[..., :-1] - below[..., 1:]


def normalised(cells: Tensor) -> Tensor:
    """Masses (B, gx, gy) -> at least `LEAST`, divided by their sum; step 6 above."""
    above = cells.clamp_min(LEAST)
    return above / above.sum((1, 2), keepdim=True)


def cosines(cells: int, frequencies: int) -> Tensor:
    """(cells, frequencies) float64: cos(pi k (i + 1/2) / cells)."""
    centres = torch.arange(cells, dtype=torch.float64) + 0.5
    return torch.cos(math.pi / cells * centres[:, None] * torch.arange(frequencies, dtype=torch.float64))


def block_masses(bins: int, fine: int, frequencies: int) -> Tensor:
    """(bins, frequencies) float64: mass in each of ``bins`` cells per coefficient, e_k included; step 5 above."""
    k = torch.arange(1, frequencies, dtype=torch.float64)
    edges = torch.sin(math.pi / bins * torch.arange(bins + 1, dtype=torch.float64)[:, None] * k)
    masses = 2 * edges.diff(dim=0) / (2 * fine * torch.sin(math.pi / (2 * fine) * k))
    return torch.cat([torch.full((bins, 1), 1 / bins, dtype=torch.float64), masses], 1)


def filtered(frequencies: int, times: Tensor) -> Tensor:
    """Times (B,) -> (B, frequencies): exp(-k^2 pi^2 t / 2); step 4 above."""
    k = torch.arange(frequencies, dtype=torch.float64, device=times.device)
    return torch.exp(-0.5 * (math.pi * k).square() * times[:, None])


def norms_of(power: Tensor) -> Norms:
    """psi for squared coefficients (B, K, K)."""
    weights = _powers(power.shape[1], power.device)

    def norms(times: Tensor, total: int) -> Tensor:
        size = _heard(times, power.shape[1])
        decay = _decay(times, size)
        left = weights[: total + 1, :size].flip(0) * decay
        right = weights[: total + 1, :size] * decay
        return ((left @ power[:, :size, :size]) * right).sum(2)

    return norms


def norms_of_product(first: Tensor, second: Tensor) -> Norms:
    """psi for squared coefficients that are a product of one axis's (B, K) and the other's (B, K)."""
    weights = _powers(first.shape[1], first.device)

    def norms(times: Tensor, total: int) -> Tensor:
        size = _heard(times, first.shape[1])
        decay = _decay(times, size)
        left = (weights[: total + 1, :size].flip(0) * decay * first[:, None, :size]).sum(2)
        return left * (weights[: total + 1, :size] * decay * second[:, None, :size]).sum(2)

    return norms


@dataclass(frozen=True)
class Times:
    """Diffusion times of every clip, (B,) each: variances on the unit square.

    Attributes:
        root: t*, detached.
        first: t_x.
        second: t_y.
    """

    root: Tensor
    first: Tensor
    second: Tensor


def bandwidths(norms: Norms, counts: Tensor, fine: int, gradient: str = "implicit") -> Times:
    """Step 3 above. There is a result always.

    The root is bracketed between (.01 / fine)^2 and `LONGEST`. Where t - g(t) has one sign at both ends, t* is the end
    at which the ratio of t and g(t) is nearer to 1, and has no gradient. Elsewhere the last step is one Newton step
    from the root u0 = log t* of G(u) = u - log g(exp u), with the slope detached: u0 - G(u0) / G'(u0). Its derivative
    is that of the implicit function theorem.

    Args:
        norms: psi, from `norms_of` or `norms_of_product`.
        counts: (B,) number of points N, float64; 0 counts as 1.
        fine: cells per axis.
        gradient: ``implicit`` or ``detached``.
    """
    counts = counts.clamp_min(1)

    def log_step(log_time: Tensor) -> Tensor:
        return _log_step(_second_order(norms, log_time.exp(), counts), counts)

    with torch.no_grad():
        low = torch.full_like(counts, 2 * math.log(0.01 / fine))
        start, gap, inside = _fixed_point(log_step, low, torch.full_like(counts, math.log(LONGEST)))
        slope = (start + 1e-7 - log_step(start + 1e-7) - gap) / 1e-7
        steep = inside & (slope.abs() > _FLAT)
    with torch.set_grad_enabled(torch.is_grad_enabled() and gradient == "implicit"):
        if torch.is_grad_enabled():
            gap = start - log_step(start)
        step = gap / torch.where(steep, slope, 1.0)
        time = (start - torch.where(steep, step, 0.0)).exp()
        xx, xy, yy = _second_order(norms, time, counts).clamp_min(_TINY).unbind(1)
        shared = 4 * math.pi * counts * (xy + (xx * yy).sqrt())
        ratio = (yy / xx) ** 0.75
        return Times(time.detach(), (ratio / shared) ** (1 / 3), (1 / (ratio * shared)) ** (1 / 3))


def _diffused(points: Tensor, present: Tensor, grid: tuple[int, int], kernel: Kernel, blur: Tensor) -> Tensor:
    """Steps 1 to 5, (B, *grid)."""
    series = _series(points, present, kernel)
    times = bandwidths(norms_of(series.square()), present.sum(1).double(), kernel.fine, kernel.gradient)
    wider = (blur / 2).square()
    fine = kernel.fine
    left, right = (block_masses(bins, fine, fine).to(series) for bins in grid)
    first = left * filtered(fine, times.first + wider[:, 0])[:, None]
    second = right * filtered(fine, times.second + wider[:, 1])[:, None]
    return first @ series @ second.mT


def _series(points: Tensor, present: Tensor, kernel: Kernel) -> Tensor:
    """(B, fine, fine) coefficients of the soft histogram, steps 1 and 2; the uniform one's where there is no point.

    The transform is linear, so that points are transformed, not the histogram, and added up a part at a time.
    """
    transform = cosines(kernel.fine, kernel.fine).to(points)
    sums = points.new_zeros(len(points), kernel.fine, kernel.fine)
    for some, known in zip(points.split(_POINTS, 1), present.split(_POINTS, 1), strict=True):
        first, second = (soft_bins(some, kernel.fine, kernel.temperature) @ transform).unbind(2)
        sums = sums + (first * known[..., None]).mT @ second
    uniform = torch.zeros_like(sums[:1])
    uniform[:, 0, 0] = 1
    some_point = present.any(1)[:, None, None]
    return torch.where(some_point, sums / torch.where(some_point, sums[:, :1, :1], 1.0), uniform)


def _gaussian(points: Tensor, present: Tensor, grid: tuple[int, int], kernel: Kernel, blur: Tensor) -> Tensor:
    """Mean mass of normal densities at the points in every cell, (B, *grid); uniform where there is no point."""
    known = present[..., None].double()
    counts = known.sum(1)
    if kernel.bandwidth > 0:
        variance = torch.full_like(blur, kernel.bandwidth**2)
    else:
        mean = (points * known).sum(1) / counts.clamp_min(1)
        squares = ((points - mean[:, None]).square() * known).sum(1)
        sample = squares / (counts - 1).clamp_min(1)
        variance = (sample * counts.clamp_min(1) ** (-1 / 3)).clamp_min(LEAST_BANDWIDTH**2)
    spread = (variance + blur.square()).sqrt()[:, None].expand_as(points)
    first, second = (_normal_bins(points[..., axis], spread[..., axis], grid[axis]) for axis in (0, 1))
    cells = (first * known).mT @ second / counts.clamp_min(1)[..., None]
    return torch.where(present.any(1)[:, None, None], cells, 1 / (grid[0] * grid[1]))


def _normal_bins(mean: Tensor, spread: Tensor, bins: int) -> Tensor:
    """Mass of normal densities in equal cells of [-1, 1], relative to that in all of them; (...,) -> (..., bins)."""
    edges = torch.linspace(-1, 1, bins + 1, dtype=mean.dtype, device=mean.device)
    below: Tensor = torch.special.ndtr((edges - mean[..., None]) / spread[..., None])
    return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])


def _second_order(norms: Norms, time: Tensor, counts: Tensor) -> Tensor:
    """psi_20, psi_11 and psi_02 by the times that follow from ``time`` (B,); (B, 3)."""
    values = norms(time[:, None], 5)
    for total in (4, 3, 2):
        odd = [math.prod(range(1, 2 * i, 2)) * math.prod(range(1, 2 * (total - i), 2)) for i in range(total, -1, -1)]
        factors = torch.tensor(odd, dtype=torch.float64, device=time.device) * (1 + 2.0 ** -(total + 1)) / 3
        # psi_(i+1)j and psi_i(j+1) are neighbours
        above = (values[:, :-1] + values[:, 1:]).clamp_min(_TINY)
        values = norms((factors / (math.pi * counts[:, None] * above)) ** (1 / (2 + total)), total)
    return values


def _log_step(values: Tensor, counts: Tensor) -> Tensor:
    """log g from psi_20, psi_11, psi_02 (B, 3); (B,)."""
    whole = values[:, 0] + 2 * values[:, 1] + values[:, 2]
    return -(2 * math.pi * counts * whole.clamp_min(_TINY)).log() / 3


def _fixed_point(step: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The fixed point of each component of a rising function between ``low`` and ``high`` (B,).

    Between the steps from both ends, as the function rises; there by Chandrupatla (1997): inverse quadratic
    interpolation where it is safe, halving elsewhere. A component that has its root stays as it is, so that no clip's
    root depends on its neighbours.

    Returns:
        (B,) fixed point u to within `_TOLERANCE`, or the end where u and its step are nearer; (B,) u - step(u); (B,)
        bool: it lies between the ends.
    """
    after_low, after_high = step(low), step(high)
    inside = (after_low >= low) & (after_high <= high)
    nearer = (low - after_low).abs() < (high - after_high).abs()
    end, at_end = torch.where(nearer, low, high), torch.where(nearer, low - after_low, high - after_high)
    a, b = torch.where(inside, after_high, end), torch.where(inside, after_low, end)
    at_a, at_b = a - step(a), b - step(b)
    c, at_c = a, at_a
    share = (at_a / (at_a - at_b)).nan_to_num(0.5).clamp(0.01, 0.99)  # first along the line between the ends
    open_ = inside
    for _ in range(_ROUNDS):
        nearest = torch.where(at_a.abs() < at_b.abs(), a, b)
        gap = torch.minimum(at_a.abs(), at_b.abs())
        open_ = open_ & ((b - a).abs() > _TOLERANCE) & (gap > 0.1 * _TOLERANCE)
        if not bool(open_.any()):
            break
        x = a + share * (b - a)
        at_x = x - step(x)
        same = at_x.sign() == at_a.sign()
        c, at_c = (torch.where(open_, torch.where(same, p, q), r) for p, q, r in ((a, b, c), (at_a, at_b, at_c)))
        b, at_b = (torch.where(open_ & ~same, p, q) for p, q in ((a, b), (at_a, at_b)))
        a, at_a = torch.where(open_, x, a), torch.where(open_, at_x, at_a)
        share = _next_share((a, at_a), (b, at_b), (c, at_c))
    return nearest, torch.where(inside, torch.where(at_a.abs() < at_b.abs(), at_a, at_b), at_end), inside


def _next_share(*known: tuple[Tensor, Tensor]) -> Tensor:
    """Where to look between a and b, as a share of the way, by three points (a, f(a)), (b, f(b)), (c, f(c))."""
    (a, at_a), (b, at_b), (c, at_c) = known
    xi, phi = (a - b) / (c - b), (at_a - at_b) / (at_c - at_b)
    safe = (phi.square() < xi) & ((1 - phi).square() < 1 - xi)
    quadratic = at_a / (at_b - at_a) * at_c / (at_b - at_c)
    quadratic = quadratic + (c - a) / (b - a) * at_a / (at_c - at_a) * at_b / (at_c - at_b)
    least = 0.4 * _TOLERANCE / (b - a).abs().clamp_min(_TOLERANCE)
    return torch.where(safe, quadratic, 0.5).clamp(least, 1 - least)


def _powers(frequencies: int, device: torch.device) -> Tensor:
    """(6, frequencies): e_k (pi k)^(2i) for i = 0 ... 5."""
    k = torch.arange(frequencies, dtype=torch.float64, device=device)
    twice = torch.where(k > 0, 2.0, 1.0).double()
    return twice * (math.pi * k) ** (2 * torch.arange(6, dtype=torch.float64, device=device)[:, None])


def _decay(times: Tensor, frequencies: int) -> Tensor:
    """Times (B, S) -> (B, S, frequencies): exp(-k^2 pi^2 t)."""
    k = torch.arange(frequencies, dtype=torch.float64, device=times.device)
    return torch.exp(-(math.pi * k).square() * times[..., None])


def _heard(times: Tensor, frequencies: int) -> int:
    """How many of the frequencies are left after these times: of the next, less than e^-46 is."""
    least = float(times.detach().min()) if times.numel() else 1.0
    return min(frequencies, 1 + math.ceil(math.sqrt(46 / least) / math.pi))


def _check(grid: tuple[int, int]) -> None:
    if min(grid) < 2:
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} cells; at least 2 x 2 are needed")
