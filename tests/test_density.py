"""Densities on the plane: those of a plain implementation with whole transforms, and their gradients."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import fft, optimize
from torch import Tensor

from sertune.model import density
from sertune.model.density import (
    Kernel,
    bandwidths,
    bin_centres,
    cell_density,
    expected_value,
    gaussian_cells,
    norms_of,
    soft_bins,
)

Floats = NDArray[np.float64]


def reference_times(histogram: Floats, number: float) -> tuple[float, float, float]:
    """t*, t_x and t_y of Botev et al. (2010) as in kde2d.m: recursion on the whole transform, Brent's root."""
    cells = len(histogram)
    transformed = fft.dctn(histogram)
    transformed[0] /= 2
    transformed[:, 0] /= 2
    squares, k2 = transformed**2, np.arange(cells, dtype=float) ** 2

    def k(s: int) -> float:
        return float((-1) ** s * np.prod(np.arange(1, 2 * s, 2, dtype=float)) / math.sqrt(2 * math.pi))

    def psi(i: int, j: int, t: float) -> float:
        weight = np.exp(-k2 * math.pi**2 * t) * np.where(k2 > 0, 0.5, 1.0)
        return float((-1) ** (i + j) * math.pi ** (2 * (i + j)) * ((weight * k2**i) @ squares @ (weight * k2**j)))

    def func(i: int, j: int, t: float) -> float:
        if i + j <= 4:
            above = func(i + 1, j, t) + func(i, j + 1, t)
            t = (-2 * (1 + 0.5 ** (i + j + 1)) / 3 * k(i) * k(j) / number / above) ** (1 / (2 + i + j))
        return psi(i, j, t)

    def gap(t: float) -> float:
        return t - float((2 * math.pi * number * (func(0, 2, t) + func(2, 0, t) + 2 * func(1, 1, t))) ** (-1 / 3))

    root = optimize.brentq(gap, 0, 0.1, xtol=1e-16, rtol=1e-14) if gap(0.1) > 0 else 0.1
    xx, yy, xy = func(2, 0, root), func(0, 2, root), func(1, 1, root)
    both = 4 * math.pi * number * (xy + math.sqrt(xx * yy))
    return root, ((yy / xx) ** 0.75 / both) ** (1 / 3), ((xx / yy) ** 0.75 / both) ** (1 / 3)


def reference_cells(histogram: Floats, number: float, grid: tuple[int, int]) -> Floats:
    """The whole way: transform, filter, inverse transform, negatives away, means of blocks."""
    cells = len(histogram)
    _, *times = reference_times(histogram, number)
    left, right = (np.exp(-(np.arange(cells) ** 2) * math.pi**2 * t / 2) for t in times)
    smooth = fft.idctn(fft.dctn(histogram) * left[:, None] * right)
    smooth[smooth < 0] = np.finfo(float).eps
    means = smooth.reshape(grid[0], cells // grid[0], grid[1], cells // grid[1]).mean((1, 3))
    return np.asarray(means / means.sum())


def soft_histogram(points: Floats, cells: int, temperature: float) -> Floats:
    width = 2 / cells
    centres = -1 + width * (np.arange(cells) + 0.5)

    def sigmoid(x: Floats) -> Floats:
        return np.asarray(1 / (1 + np.exp(-x)))

    first, second = (
        sigmoid(temperature * (points[:, axis, None] - centres + width / 2))
        - sigmoid(temperature * (points[:, axis, None] - centres - width / 2))
        for axis in (0, 1)
    )
    histogram = first.T @ second
    return np.asarray(histogram / histogram.sum())


def cloud(number: int, seed: int = 0, *, centre: tuple[float, float] = (0.2, -0.3), wide: float = 1.0) -> Tensor:
    """(1, number, 2) points around a centre, wider on the first axis."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.clip(rng.normal(centre, (0.3 * wide, 0.15 * wide), (1, number, 2)), -1, 1))


def everything(points: Tensor) -> Tensor:
    return torch.ones(points.shape[:2], dtype=torch.bool)


def cells_of(points: Tensor, grid: tuple[int, int] = (4, 4), kernel: Kernel = density.DIFFUSION) -> Tensor:
    return cell_density(points, everything(points), grid, kernel)


@pytest.mark.parametrize("temperature", [8.0, 60.0])
@pytest.mark.parametrize("number", [1, 2, 5, 12, 100, 3000])
def test_as_with_whole_transforms_and_brents_root(number: int, temperature: float) -> None:
    points = cloud(number)
    histogram = soft_histogram(points[0].numpy(), 64, temperature)
    kernel = Kernel(temperature=temperature)
    power = density._series(points, everything(points), kernel).square()
    times = bandwidths(norms_of(power), torch.tensor([float(number)], dtype=torch.float64), 64)
    found = [float(time) for time in (times.root, times.first, times.second)]
    np.testing.assert_allclose(found, reference_times(histogram, number), rtol=1e-9)
    for grid in ((2, 2), (4, 4), (8, 2), (16, 32)):
        expected = reference_cells(histogram, number, grid)
        np.testing.assert_allclose(cells_of(points, grid, kernel)[0], expected, rtol=1e-7, atol=1e-9)


def test_bandwidth_and_density_of_a_normal_distribution() -> None:
    """With s the standard deviation on the unit square, the optimum (AMISE) is t = s^2 n^(-1/3)."""
    number, spread = 20_000, torch.full((1, 2), 0.2, dtype=torch.float64)
    points = torch.from_numpy(np.random.default_rng(0).normal((0, 0.1), 0.2, (1, number, 2)))
    kernel = Kernel(fine=128, temperature=300.0)  # sharp: the soft histogram itself hardly smooths
    power = density._series(points, everything(points), kernel).square()
    times = bandwidths(norms_of(power), torch.tensor([float(number)], dtype=torch.float64), 128)
    best = (0.2 / 2) * number ** (-1 / 6)
    assert float(times.first.sqrt()) == pytest.approx(best, rel=0.1)
    assert float(times.second.sqrt()) == pytest.approx(best, rel=0.1)
    true = gaussian_cells(torch.tensor([[0.0, 0.1]]), spread, (8, 8))
    assert float((cells_of(points, (8, 8), kernel) - true).abs().sum()) / 2 < 0.015


def test_two_modes_stay_two() -> None:
    points = torch.cat([cloud(300, 1, centre=(-0.6, -0.6), wide=0.4), cloud(300, 2, centre=(0.6, 0.6), wide=0.4)], 1)
    cells = cells_of(points, (5, 5))[0]
    assert float(cells[1, 1]) > 3 * float(cells[2, 2])
    assert float(cells[3, 3]) > 3 * float(cells[2, 2])
    assert float(cells[1, 3]) < float(cells[2, 2])


@pytest.mark.parametrize("name", ["implicit", "detached", "clamped", "gaussian", "silverman"])
def test_gradients_are_those_of_differences(name: str) -> None:
    """Of the points, through the bandwidth, and of the blur."""
    kernel = {
        "implicit": Kernel(fine=32, temperature=25.0),
        "detached": Kernel(fine=32, temperature=25.0, gradient="detached"),
        "clamped": Kernel(fine=32),
        "gaussian": Kernel("gaussian", 0.3, fine=32, temperature=25.0),
        "silverman": Kernel("gaussian", fine=32, temperature=25.0),
    }[name]
    number = 3 if name == "clamped" else 7
    points = cloud(number).requires_grad_()
    blur = torch.tensor([0.1, 0.2], dtype=torch.float64, requires_grad=True)
    norms = norms_of(density._series(points, everything(points), kernel).square())
    root = float(bandwidths(norms, torch.tensor([float(number)], dtype=torch.float64), 32).root)
    assert (root == pytest.approx(density.LONGEST)) == (name == "clamped")

    def cells(points: Tensor, blur: Tensor) -> Tensor:
        return cell_density(points, everything(points), (4, 3), kernel, blur)

    if name == "detached":  # the same density, and a gradient that lacks the bandwidth's share
        whole = Kernel(fine=32, temperature=25.0)
        other = cell_density(points, everything(points), (4, 3), whole, blur)
        torch.testing.assert_close(cells(points, blur), other)
        weights = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)
        (ours,) = torch.autograd.grad((cells(points, blur) * weights).sum(), points)
        (theirs,) = torch.autograd.grad((other * weights).sum(), points)
        assert not torch.allclose(ours, theirs, rtol=1e-3)
    else:
        assert torch.autograd.gradcheck(cells, (points, blur), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kernel", [Kernel(), Kernel(temperature=500.0), Kernel("gaussian"), Kernel("gaussian", 1e-3)])
@pytest.mark.parametrize(
    "points",
    [
        pytest.param(torch.zeros(1, 1, 2), id="one"),
        pytest.param(torch.full((1, 7, 2), 0.3), id="equal"),
        pytest.param(torch.ones(1, 5, 2), id="corner"),
        pytest.param(torch.tensor([[[-7.0, 9.0], [1.5, -1.5]]]), id="beyond"),
        pytest.param(torch.stack([torch.linspace(-1, 1, 9), torch.zeros(9)], 1)[None], id="line"),
        pytest.param(torch.cartesian_prod(*2 * [torch.linspace(-1, 1, 41)])[None], id="uniform"),
        pytest.param(torch.zeros(2, 0, 2), id="none"),
        pytest.param(torch.zeros(0, 3, 2), id="no clip"),
    ],
)
def test_always_a_density_and_a_finite_gradient(points: Tensor, kernel: Kernel) -> None:
    points = points.clone().requires_grad_()
    cells = cells_of(points, (4, 5), kernel)
    assert cells.dtype == torch.float64
    assert bool((cells > 0).all())
    torch.testing.assert_close(cells.sum((1, 2)), torch.ones(len(points), dtype=torch.float64))
    cells.log().square().sum().backward()
    assert points.grad is not None
    assert bool(points.grad.isfinite().all())


@pytest.mark.parametrize("kernel", [Kernel(), Kernel("gaussian")])
def test_a_clip_without_points_is_uniform_and_has_no_gradient(kernel: Kernel) -> None:
    points = torch.full((2, 3, 2), torch.nan)
    points[1] = 0.4
    points.requires_grad_()
    cells = cell_density(points, torch.tensor([[False] * 3, [True] * 3]), (4, 4), kernel)
    torch.testing.assert_close(cells[0], torch.full((4, 4), 1 / 16, dtype=torch.float64))
    cells.log().square().sum().backward()
    assert points.grad is not None
    assert not points.grad[0].any()
    assert bool(points.grad.isfinite().all())


@pytest.mark.parametrize("kernel", [Kernel(), Kernel("gaussian")])
def test_a_clip_alone_is_as_in_any_batch(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [cloud(number, number)[0] for number in (1, 4, 30, 9)]
    points = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=torch.nan)
    present = torch.arange(30) < torch.tensor([len(clip) for clip in clips])[:, None]
    whole = cell_density(points, present, (4, 4), kernel)
    for clip, expected in zip(clips, whole, strict=True):
        torch.testing.assert_close(cells_of(clip[None], kernel=kernel)[0], expected, rtol=1e-10, atol=1e-15)
        torch.testing.assert_close(cells_of(clip[None].flip(1), kernel=kernel)[0], expected, rtol=1e-10, atol=1e-15)
    monkeypatch.setattr(density, "_POINTS", 7)
    torch.testing.assert_close(cell_density(points, present, (4, 4), kernel), whole, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("kernel", [Kernel(), Kernel("gaussian")])
def test_axes_are_alike(kernel: Kernel) -> None:
    points = cloud(20)
    cells = cells_of(points, (4, 6), kernel)
    torch.testing.assert_close(cells_of(points.flip(2), (6, 4), kernel), cells.mT, rtol=1e-10, atol=1e-15)
    torch.testing.assert_close(cells_of(-points, (4, 6), kernel), cells.flip(1, 2), rtol=1e-10, atol=1e-15)
    assert float(expected_value(cells)[0, 0]) > 0  # the first coordinate is the first axis, from low to high
    assert float(expected_value(cells)[0, 1]) < 0


@pytest.mark.parametrize("kernel", [Kernel(), Kernel("gaussian")])
@pytest.mark.parametrize("grid", [(2, 2), (4, 4), (5, 7), (3, 64), (25, 32)])
def test_cells_of_any_grids_add_up(grid: tuple[int, int], kernel: Kernel) -> None:
    points = cloud(50)
    halves = cells_of(points, (2 * grid[0], 3 * grid[1]), kernel)
    sums = halves.reshape(1, grid[0], 2, grid[1], 3).sum((2, 4))
    torch.testing.assert_close(cells_of(points, grid, kernel), sums, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kernel", [Kernel(temperature=60.0), Kernel("gaussian", 0.1)])
def test_blur_adds_its_variance(kernel: Kernel) -> None:
    points, blur = cloud(200, wide=0.3, centre=(0, 0)), torch.tensor([0.2, 0.05], dtype=torch.float64)

    def variance(blur: Tensor | None) -> Tensor:
        cells = cell_density(points, everything(points), (64, 64), kernel, blur)
        centres = bin_centres(64)
        second = torch.stack([cells[0].sum(1) @ centres.square(), cells[0].sum(0) @ centres.square()])
        return second - expected_value(cells)[0].square()

    torch.testing.assert_close(variance(blur) - variance(None), blur.square(), rtol=1e-3, atol=0)
    torch.testing.assert_close(variance(blur[None]), variance(blur))


def test_soft_bins() -> None:
    values = torch.tensor([-1.0, 0.1, 1.0], dtype=torch.float64)
    centres = bin_centres(10)
    torch.testing.assert_close(centres[:2], torch.tensor([-0.9, -0.7], dtype=torch.float64))
    expected = torch.sigmoid(8 * (values[:, None] - centres + 0.1)) - torch.sigmoid(
        8 * (values[:, None] - centres - 0.1)
    )
    torch.testing.assert_close(soft_bins(values, 10, 8.0), expected)
    assert int(soft_bins(values, 10, 500.0)[1].argmax()) == 5


def test_normal_mass_in_cells() -> None:
    cells = gaussian_cells(torch.tensor([[0.0, 0.5], [3.0, 0.0]]), torch.tensor([[0.5, 0.0], [0.2, 5.0]]), (2, 4))
    torch.testing.assert_close(cells.sum((1, 2)), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(cells[0], torch.tensor([[0, 0, 0.25, 0.25]] * 2, dtype=torch.float64))
    torch.testing.assert_close(expected_value(cells)[0], torch.tensor([0.0, 0.5], dtype=torch.float64))
    assert float(cells[1, 1].sum()) > 0.999  # a mean beyond the plane is kept inside
    torch.testing.assert_close(cells[1, 1, 0], cells[1, 1, 3])
    one = cells_of(torch.tensor([[[0.3, -0.2]]]), (4, 4), Kernel("gaussian", 0.25))
    torch.testing.assert_close(one, gaussian_cells(torch.tensor([[0.3, -0.2]]), torch.full((1, 2), 0.25), (4, 4)))


def test_silvermans_rule() -> None:
    """sigma n^(-1/6) on each axis, with n - 1 below the variance."""
    points = cloud(30)
    spread = points.std(1) * 30 ** (-1 / 6)
    parts = [gaussian_cells(point, spread, (4, 4)) for point in points.unbind(1)]
    torch.testing.assert_close(cells_of(points, kernel=Kernel("gaussian")), torch.stack(parts).mean(0))


def test_a_grid_has_two_cells_per_axis() -> None:
    with pytest.raises(ValueError, match="1 x 4"):
        cells_of(cloud(3), (1, 4))
    with pytest.raises(ValueError, match="2 x 2"):
        gaussian_cells(torch.zeros(1, 2), torch.ones(1, 2), (4, 1))
