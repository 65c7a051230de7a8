"""Target distributions of clips: those of the whole 512 x 512 pipeline, seeded per clip, and kept."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sertune.model import planes
from sertune.model.density import expected_value
from sertune.model.planes import Truth, cell_targets, plane_targets, within_spread
from test_density import reference_cells

Floats = NDArray[np.float64]
ALONE = np.array([0.3, 0.2])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and targets kept for three clips already."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(planes, "KEPT_FROM", 3)
    return tmp_path / "cache" / "sertune" / "planes"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clips were computed, call by call."""
    calls: list[int] = []
    compute = cell_targets

    def noted(values: Floats, *rest: object) -> Floats:
        calls.append(len(values))
        return compute(values, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(planes, "cell_targets", noted)
    return calls


def ratings(clips: int, most: int, *, wide: float = 0.3, steps: int = 0, seed: int = 0) -> Floats:
    """(clips, most, 2) with gaps, of at least two annotators; on a scale of so many steps, if any."""
    rng = np.random.default_rng(seed)
    values = np.clip(rng.uniform(-0.8, 0.8, (clips, 1, 2)) + rng.normal(0, wide, (clips, most, 2)), -1, 1)
    if steps:
        values = np.round((values + 1) / 2 * (steps - 1)) / (steps - 1) * 2 - 1
    for clip, count in zip(values, rng.integers(min(2, most), most + 1, clips), strict=True):
        clip[rng.permutation(most)[count:]] = np.nan
    return values


def whole(values: Floats, seed: int, grid: tuple[int, int], truth: Truth = planes.PAPER) -> Floats:
    """One clip by a hard histogram of the same draws and whole transforms."""
    ((_, some),) = planes._batches(values[None], truth)
    points = planes._observations(some, [seed], ALONE, truth)[0]
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], truth.fine, ((-1, 1), (-1, 1)))
    return reference_cells(counts / truth.draws, truth.draws, grid)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(ratings(4, 9), id="many"),
        pytest.param(ratings(8, 4, wide=0.2, steps=5), id="few steps"),
        pytest.param(ratings(3, 2, wide=0.2, steps=3), id="two annotators"),
        pytest.param(ratings(2, 3, wide=0.004), id="within a fine cell"),
        pytest.param(ratings(2, 3, wide=0.04) * [1, 0.1], id="narrow"),
        pytest.param(ratings(2, 1), id="one annotator"),
        pytest.param(np.full((1, 3, 2), 0.5), id="all agree"),
        pytest.param(np.full((1, 3, 2), 1.0), id="all at the end"),
    ],
)
def test_as_by_the_whole_histogram(values: Floats) -> None:
    for grid in ((4, 4), (8, 2)):
        found = cell_targets(values, grid, range(len(values)), alone=ALONE)
        expected = [whole(clip, seed, grid) for seed, clip in enumerate(values)]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found.sum((1, 2)), 1)
        assert (found > 0).all()


def test_another_histogram_and_single_annotators() -> None:
    truth = Truth(draws=50, noise=1.0, fine=128, subsets=False)
    values = ratings(3, 6)
    expected = [whole(clip, seed, (4, 4), truth) for seed, clip in enumerate(values)]
    np.testing.assert_allclose(cell_targets(values, (4, 4), range(3), truth), expected, rtol=1e-5, atol=1e-7)


def test_guesses_of_what_is_needed_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = ratings(12, 5, wide=0.15, steps=9)
    found = cell_targets(values, (4, 4), range(12))
    for guess in (1e-3, 1e3):
        monkeypatch.setattr(planes, "_GUESS", guess)
        np.testing.assert_allclose(cell_targets(values, (4, 4), range(12)), found, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("grid", [(5, 7), (3, 3)])
def test_grids_that_do_not_divide_the_histogram(grid: tuple[int, int]) -> None:
    values = np.concatenate([ratings(4, 3, wide=0.2, steps=5), ratings(2, 3, wide=0.01)])
    finer = cell_targets(values, (4 * grid[0], 4 * grid[1]), range(6))
    sums = finer.reshape(6, grid[0], 4, grid[1], 4).sum((2, 4))
    np.testing.assert_allclose(cell_targets(values, grid, range(6)), sums, rtol=1e-9, atol=1e-12)


def test_observations_are_means_of_subsets_with_noise() -> None:
    values = np.array([[[-0.9, 0.0], [0.1, 0.2], [0.5, 0.4]]])
    points = planes._observations(values, [3], ALONE, Truth(draws=3000, noise=0.0))[0]
    subsets = {
        tuple(np.round(values[0, [i for i in range(3) if mask >> i & 1]].mean(0), 9).tolist()): mask.bit_count()
        for mask in range(1, 8)
    }
    found, counts = np.unique(np.round(points, 9), axis=0, return_counts=True)
    assert {tuple(point) for point in found.tolist()} == set(subsets)
    for point, count in zip(found.tolist(), counts, strict=True):  # every size alike: 1/9 for each of one and of two
        assert count / 3000 == pytest.approx(1 / 3 if subsets[tuple(point)] == 3 else 1 / 9, abs=0.025)
    noise = planes._observations(values, [3], ALONE, Truth(draws=3000))[0] - points
    spread = values[0].std(0, ddof=1)
    assert (np.abs(noise) <= 0.5 * spread + 1e-12).all()
    np.testing.assert_allclose(np.abs(noise).max(0), 0.5 * spread, rtol=0.01)
    single = planes._observations(values, [3], ALONE, Truth(draws=500, noise=0.0, subsets=False))[0]
    assert {tuple(point) for point in single.tolist()} == {tuple(point) for point in values[0].tolist()}
    far = planes._observations(np.array([[[1.0, -1.0], [1.0, 1.0]]]), [3], ALONE, Truth(draws=500))[0]
    assert (np.abs(far) <= 1).all()


def test_one_annotator_has_the_noise_of_the_others() -> None:
    values = np.array([[[0.5, 0.5], [np.nan, np.nan]], [[-0.4, 0.1], [0.0, 0.4]], [[-0.2, 0.0], [0.2, 0.1]]])
    spread = within_spread(values)
    np.testing.assert_allclose(spread, [0.4 / np.sqrt(2), 0.2 / np.sqrt(2)])
    np.testing.assert_array_equal(
        cell_targets(values, (4, 4), [1, 2, 3])[0], one := cell_targets(values[:1], (4, 4), [1], alone=spread)[0]
    )
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(within_spread(values[:1]), [0, 0])
    alone = cell_targets(values[:1] - 0.2, (4, 4), [1])[0]
    assert alone[2, 2] == pytest.approx(1, abs=1e-3)


def test_who_rated_one_attribute_alone_does_not_count_and_no_ratings_give_none() -> None:
    values = ratings(3, 3)
    half = np.concatenate([values, np.full((3, 2, 2), np.nan)], 1)
    half[:, 3, 0] = 0.9
    half[1] = np.nan
    found = cell_targets(half, (4, 4), [1, 2, 3], alone=ALONE)
    expected = cell_targets(values, (4, 4), [1, 2, 3], alone=ALONE)
    np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])
    assert np.isnan(found[1]).all()
    assert cell_targets(values[:0], (4, 4), []).shape == (0, 4, 4)


def test_a_clip_depends_on_itself_alone() -> None:
    values, ids = ratings(9, 5, steps=7), [f"clip {i}" for i in range(9)]
    found = plane_targets(values, ids, (4, 4))
    assert found.dtype == np.float32
    assert found.shape == (9, 16)
    rng = np.random.default_rng(1)
    order = rng.permutation(9)
    np.testing.assert_allclose(plane_targets(values[order], [ids[i] for i in order], (4, 4)), found[order], rtol=1e-6)
    raters = np.concatenate([values, np.full((9, 3, 2), np.nan)], 1)[:, rng.permutation(8)]
    np.testing.assert_allclose(plane_targets(raters, ids, (4, 4)), found, rtol=1e-6)
    np.testing.assert_allclose(plane_targets(values[:2], ids[:2], (4, 4)), found[:2], rtol=1e-6)
    assert not np.allclose(plane_targets(values, ids, (4, 4), seed=1), found, rtol=1e-3)
    assert not np.allclose(plane_targets(values, ids[::-1], (4, 4)), found, rtol=1e-3)


def test_it_is_where_the_ratings_are() -> None:
    values = ratings(40, 12, wide=0.15)
    cells = torch.from_numpy(cell_targets(values, (16, 16), range(40)))
    means = np.nanmean(values, axis=1)
    assert np.abs(expected_value(cells).numpy() - means).max() < 0.06


def test_targets_are_computed_once(cache: Path, computed: list[int]) -> None:
    values, ids = ratings(4, 5), ["a", "b", "c", "\udcf6"]
    values[3] = np.nan
    found = plane_targets(values, ids, (4, 4))
    np.testing.assert_array_equal(plane_targets(values.copy(), ids, (4, 4)), found)
    assert computed == [4]
    assert len(list(cache.iterdir())) == 1
    plane_targets(values, ids, (5, 4))
    plane_targets(values, ids, (4, 4), Truth(draws=100))
    plane_targets(values, ids, (4, 4), seed=1)
    plane_targets(values, ["a", "b", "c", "d"], (4, 4))
    plane_targets(values * 0.9, ids, (4, 4))
    assert len(computed) == 6
    assert len(list(cache.iterdir())) == 6
    plane_targets(values[:2], ids[:2], (4, 4))  # too few to keep
    assert len(list(cache.iterdir())) == 6


@pytest.mark.parametrize("damage", ["cut", "text", "numbers", "shape", "objects", "empty"])
def test_a_damaged_file_is_computed_again(cache: Path, computed: list[int], damage: str) -> None:
    values, ids = ratings(3, 5), ["a", "b", "c"]
    found = plane_targets(values, ids, (4, 4))
    (file,) = cache.iterdir()
    sound = file.read_bytes()
    if damage in ("cut", "text", "empty"):
        file.write_bytes({"cut": sound[:-20], "text": b"no array", "empty": b""}[damage])
    else:
        wrong = {"numbers": found * 2, "shape": found[:2], "objects": found.astype(object)}
        np.save(file, wrong[damage])
    np.testing.assert_array_equal(plane_targets(values, ids, (4, 4)), found)
    assert computed == [3, 3]
    assert file.read_bytes() == sound


def test_a_cache_that_cant_be_written_is_no_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, ids = ratings(3, 5), ["a", "b", "c"]
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder should be")
    found = plane_targets(values, ids, (4, 4))
    cache.parent.unlink()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    np.testing.assert_array_equal(plane_targets(values, ids, (4, 4)), found)
    assert list(cache.iterdir()) == []


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\)"):
        cell_targets(np.zeros((3, 2)), (4, 4), [1, 2, 3])
    with pytest.raises(ValueError, match="2 seeds"):
        cell_targets(np.zeros((3, 2, 2)), (4, 4), [1, 2])
    with pytest.raises(ValueError, match="grid"):
        cell_targets(np.zeros((3, 2, 2)), (4, 1), [1, 2, 3])
