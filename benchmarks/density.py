"""Densities on the plane: a batch forward and backward, and the target distributions of a corpus.

    python benchmarks/density.py [--clips 1000] [--sample 10] [--threads 2]

The baseline is the plain way with numpy and scipy, clip by clip: histogram, dctn, brentq on the fixed-point equation,
idctn, means of blocks. It has no gradient, so a batch's ratio is that of forward and backward here to forward there.
For targets it is measured on --sample clips and extrapolated to as many as --clips says. Ratings are synthetic.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from scipy.optimize import brentq

from sertune.model.density import Kernel, cell_density
from sertune.model.planes import PAPER, cell_targets

Floats = NDArray[np.float64]
GRID = (4, 4)
KINDS = {
    "5-10 annotators, continuous": (5, 10, 0),
    "5-10 annotators, 7 steps": (5, 10, 7),
    "2-3 annotators, 5 steps": (2, 3, 5),
}
"""Least and most annotators of a clip, and steps of the scale, 0: none."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1000, help="whose targets are computed")
    parser.add_argument("--sample", type=int, default=10, help="clips of the baseline for targets")
    parser.add_argument("--repeats", type=int, default=20, help="of the batch; the median counts")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: as it chooses")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| density of 32 clips x 10 annotators | forward (ms) | with backward (ms) | baseline (ms) | ratio |")
    print("|---" * 5 + "|")
    for kernel in (Kernel(), Kernel(gradient="detached"), Kernel("gaussian")):
        show_batch(kernel, options.repeats)
    print("\n| targets | s | s per 10,000 | baseline, s per 10,000 | ratio |\n" + "|---" * 5 + "|")
    for name, (least, most, steps) in KINDS.items():
        show_targets(name, ratings(options.clips, least, most, steps), options.sample)


def show_batch(kernel: Kernel, repeats: int) -> None:
    rng = np.random.default_rng(0)
    values = np.clip(rng.normal(rng.uniform(-0.7, 0.7, (32, 1, 2)), 0.3, (32, 10, 2)), -1, 1)
    points = torch.from_numpy(values).float().requires_grad_()
    present = torch.ones(32, 10, dtype=torch.bool)
    weights = torch.from_numpy(rng.random((32, *GRID)))

    def forward() -> torch.Tensor:
        return -(cell_density(points, present, GRID, kernel).log() * weights).sum()

    def plain() -> None:
        for clip in values:
            naive_cells(soft_histogram(clip, kernel), len(clip))

    ahead, both = seconds(forward, repeats), seconds(lambda: forward().backward(), repeats)
    base = seconds(plain, max(1, repeats // 10))
    name = f"{kernel.name}, {kernel.gradient}" if kernel.name == "diffusion" else "gaussian, Silverman"
    print(f"| {name} | {1e3 * ahead:.1f} | {1e3 * both:.1f} | {1e3 * base:.1f} | {both / base:.3f} |")


def show_targets(name: str, values: Floats, sample: int) -> None:
    seeds = range(len(values))
    began = time.perf_counter()
    cell_targets(values, GRID, seeds)
    ours = (time.perf_counter() - began) / len(values)
    began = time.perf_counter()
    for seed in range(sample):
        naive_cells(hard_histogram(values[seed], seed), PAPER.draws)
    base = (time.perf_counter() - began) / sample
    print(f"| {name} | {ours * len(values):.2f} | {1e4 * ours:.1f} | {1e4 * base:.0f} | {ours / base:.4f} |")


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of a call, after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def ratings(clips: int, least: int, most: int, steps: int) -> Floats:
    """(clips, most, 2) in [-1, 1], NaN beyond a clip's annotators."""
    rng = np.random.default_rng(0)
    values = np.clip(rng.normal(rng.uniform(-0.7, 0.7, (clips, 1, 2)), 0.3, (clips, most, 2)), -1, 1)
    if steps:
        values = np.round((values + 1) / 2 * (steps - 1)) / (steps - 1) * 2 - 1
    values[np.arange(most) >= rng.integers(least, most + 1, clips)[:, None]] = np.nan
    return values


def soft_histogram(points: Floats, kernel: Kernel) -> Floats:
    edges = np.linspace(-1, 1, kernel.fine + 1)
    first, second = (
        -np.diff(1 / (1 + np.exp(-kernel.temperature * (points[:, axis, None] - edges)))) for axis in (0, 1)
    )
    histogram = first.T @ second
    return np.asarray(histogram / histogram.sum())


def hard_histogram(values: Floats, seed: int) -> Floats:
    """Means of random subsets of the ratings with noise, counted."""
    rng = np.random.default_rng(seed)
    some = values[~np.isnan(values[:, 0])]
    means = [rng.permutation(some)[: rng.integers(1, len(some) + 1)].mean(0) for _ in range(PAPER.draws)]
    noise = PAPER.noise * some.std(0, ddof=1) * rng.uniform(-1, 1, (PAPER.draws, 2))
    points = np.clip(np.array(means) + noise, -1, 1)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], PAPER.fine, ((-1, 1), (-1, 1)))
    return np.asarray(counts / PAPER.draws)


def naive_cells(histogram: Floats, number: int) -> Floats:
    """Botev et al. (2010) as published, with scipy's transforms and root find."""
    cells = len(histogram)
    transformed = dctn(histogram)
    transformed[0] /= 2
    transformed[:, 0] /= 2
    squares, k2 = transformed**2, np.arange(cells, dtype=float) ** 2

    def psi(i: int, j: int, t: float) -> float:
        if i + j <= 4:
            above = psi(i + 1, j, t) + psi(i, j + 1, t)
            odd = math.prod(range(1, 2 * i, 2)) * math.prod(range(1, 2 * j, 2))
            t = ((1 + 0.5 ** (i + j + 1)) / 3 * odd / (math.pi * number * abs(above))) ** (1 / (2 + i + j))
        weight = np.exp(-k2 * math.pi**2 * t) * np.where(k2 > 0, 0.5, 1.0)
        return float((-1) ** (i + j) * math.pi ** (2 * (i + j)) * ((weight * k2**i) @ squares @ (weight * k2**j)))

    def gap(t: float) -> float:
        return t - float((2 * math.pi * number * (psi(0, 2, t) + psi(2, 0, t) + 2 * psi(1, 1, t))) ** (-1 / 3))

    root = brentq(gap, 0, 0.1) if gap(0.1) > 0 else 0.1
    xx, yy, xy = psi(2, 0, root), psi(0, 2, root), psi(1, 1, root)
    both = 4 * math.pi * number * (xy + math.sqrt(xx * yy))
    left, right = (np.exp(-k2 * math.pi**2 * (r**0.75 / both) ** (1 / 3) / 2) for r in (yy / xx, xx / yy))
    smooth = idctn(dctn(histogram) * left[:, None] * right).clip(np.finfo(float).eps)
    blocks = smooth.reshape(GRID[0], cells // GRID[0], GRID[1], cells // GRID[1]).mean((1, 3))
    return np.asarray(blocks / blocks.sum())


if __name__ == "__main__":
    main()
