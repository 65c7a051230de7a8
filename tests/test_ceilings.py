import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from sertune.metrics import distributions
from sertune.metrics.ceilings import Ceiling, dimension_ceiling, label_ceiling, plane_ceiling

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def quadrants(ratings: Floats) -> Floats:
    """Share of the ratings in each quadrant; (n, r, 2) -> (n, 4)."""
    cell = 2 * (ratings[..., 0] > 0) + (ratings[..., 1] > 0)
    return np.asarray((cell[:, :, None] == np.arange(4)).mean(axis=1), dtype=np.float64)


def rated(clips: int, raters: int, noise: float, seed: int = 0) -> tuple[Integers, Integers, Floats]:
    rng = np.random.default_rng(seed)
    clip, rater = np.repeat(np.arange(clips), raters), np.tile(np.arange(raters), clips)
    return clip, rater, rng.normal(0, 0.4, clips)[clip] + noise * rng.normal(size=len(clip))


def value(found: dict[str, Ceiling]) -> dict[str, float]:
    return {name: ceiling.value for name, ceiling in found.items()}


def test_full_agreement() -> None:
    dimension = value(dimension_ceiling(*rated(50, 4, 0.0)))
    assert dimension == pytest.approx({"ccc": 1.0, "rmse": 0.0, "pearson": 1.0}, abs=1e-12)
    labels = value(label_ceiling(np.eye(3, dtype=int)[np.arange(30) % 3] * 5))
    assert labels == pytest.approx(
        {"uar": 1.0, "accuracy": 1.0, "tvd": 0.0, "jsd": 0.0, "tvd_halves": 0.0, "jsd_halves": 0.0}
    )
    ratings = np.repeat(np.random.default_rng(0).normal(size=(30, 1, 2)), 5, axis=1)
    assert value(plane_ceiling(quadrants, ratings)) == pytest.approx({"tvd_halves": 0.0, "jsd_halves": 0.0})


def test_chance() -> None:
    rng = np.random.default_rng(0)
    dimension = dimension_ceiling(np.repeat(np.arange(800), 5), np.tile(np.arange(5), 800), rng.normal(size=4000))
    assert dimension["ccc"].value == pytest.approx(0.0, abs=0.05)
    assert dimension["ccc"].low < 0 < dimension["ccc"].high
    assert dimension["rmse"].value == pytest.approx(np.sqrt(1.25), abs=0.05)
    labels = label_ceiling(rng.multinomial(10, np.full(4, 0.25), 2000))
    assert labels["uar"].value == pytest.approx(0.25, abs=0.02)
    assert labels["accuracy"].value == pytest.approx(0.25, abs=0.02)
    assert labels["tvd"].value == pytest.approx(0.75, abs=0.01)


def test_known_reliability() -> None:
    """One rating against the mean of four others: variances t + s and t + s / 4, covariance t."""
    found = dimension_ceiling(*rated(3000, 5, 0.3))
    t, s = 0.16, 0.09
    assert found["ccc"].value == pytest.approx(2 * t / (2 * t + s + s / 4), abs=0.02)
    assert found["pearson"].value == pytest.approx(t / np.sqrt((t + s) * (t + s / 4)), abs=0.02)
    assert found["rmse"].value == pytest.approx(np.sqrt(s + s / 4), abs=0.01)
    ccc = found["ccc"]
    assert ccc.low < ccc.drawn_low < ccc.value < ccc.drawn_high < ccc.high
    assert (ccc.clips, ccc.draws) == (3000, 100)


def test_intervals_hold_the_truth_over_other_clips() -> None:
    true = 2 * 0.16 / (2 * 0.16 + 0.09 + 0.09 / 4)
    found = [dimension_ceiling(*rated(150, 5, 0.3, seed), draws=60)["ccc"] for seed in range(60)]
    assert np.mean([c.low <= true <= c.high for c in found]) > 0.88


def test_halves_are_read_as_documented() -> None:
    """Half the TVD and a quarter of the JSD of two halves: what the shares of infinitely many annotators would have."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(5, 2.0), 1500)
    votes = rng.multinomial(60, shares)
    found, seen = value(label_ceiling(votes, draws=5)), votes / 60
    assert found["tvd_halves"] / 2 == pytest.approx(distributions.tvd(seen, shares).mean(), rel=0.05)
    assert found["jsd_halves"] / 4 == pytest.approx(distributions.jsd(seen, shares).mean(), rel=0.1)
    again = rng.multinomial(60, shares) / 60
    assert found["tvd_halves"] / np.sqrt(2) == pytest.approx(distributions.tvd(seen, again).mean(), rel=0.05)
    assert found["jsd_halves"] / 2 == pytest.approx(distributions.jsd(seen, again).mean(), rel=0.1)


def test_halves_are_drawn_without_replacement() -> None:
    """Of two votes for one and two for another label a half is 2-0, 1-1 or 0-2 with chances 1, 4 and 1 of 6."""
    found = label_ceiling(np.tile([2, 0, 2], (3000, 1)), draws=10)
    assert found["tvd_halves"].value == pytest.approx(1 / 3, abs=0.01)
    assert found["tvd"].value == pytest.approx(2 / 3)


def test_a_tie_of_the_others_is_left_out() -> None:
    # Without one of the two votes for the first label the others tie; only a held-out second label is scored.
    found = label_ceiling(np.tile([2, 1], (200, 1)), draws=20)
    assert found["accuracy"].value == 0.0
    assert found["uar"].clips == 200


def test_votes_of_few_raters() -> None:
    votes = np.array([[1, 0], [0, 0], [3, 0], [1, 1]])
    found = label_ceiling(votes, draws=50)
    assert {ceiling.clips for ceiling in found.values()} == {2}
    none = label_ceiling(votes[:2], draws=3)
    assert all(np.isnan([c.value, c.low, c.high, c.drawn_low]).all() for c in none.values())


def test_ratings_of_few_raters() -> None:
    clips = np.array([0, 0, 1, 2, 2, 2, 7, 7])
    values = np.array([0.1, 0.2, 0.9, -0.3, -0.5, -0.4, 0.6, np.nan])
    found = dimension_ceiling(clips, np.array([0, 1, 0, 0, 1, 2, 5, 6]), values)
    assert found["ccc"].clips == 2
    # Two ratings by one annotator are one opinion: clip 0 has no other any more.
    assert dimension_ceiling(clips, np.array([0, 0, 0, 0, 1, 2, 5, 6]), values)["ccc"].clips == 1
    none = dimension_ceiling([0, 1], [0, 0], [0.1, 0.2], draws=3)
    assert np.isnan(none["ccc"].value)
    assert none["ccc"].clips == 0


def test_order_and_names_of_raters_do_not_matter_on_average() -> None:
    clips, raters, values = rated(300, 5, 0.3)
    order = np.random.default_rng(0).permutation(len(clips))
    first = dimension_ceiling(clips, raters, values)
    assert dimension_ceiling(clips[order], raters[order], values[order]) == first
    renamed = dimension_ceiling(clips, 4 - raters, values)
    assert renamed["ccc"].value == pytest.approx(first["ccc"].value, abs=0.01)
    assert dimension_ceiling(clips, raters, values, seed=1) != first


def test_planes_are_built_from_halves_without_gaps() -> None:
    rng = np.random.default_rng(0)
    ratings = rng.normal(size=(60, 9, 2))
    given = np.arange(9)[None, :] < rng.integers(1, 10, 60)[:, None]
    ratings[~given] = np.nan
    ratings[0, 0, 1] = np.nan  # a rating of one dimension alone is none
    seen = []

    def cells_of(half: Floats) -> Floats:
        assert not np.isnan(half).any()
        seen.append(half.shape[1])
        return quadrants(half)

    found = plane_ceiling(cells_of, ratings, draws=2)
    n = (~np.isnan(ratings).any(axis=2)).sum(axis=1)
    assert found["tvd_halves"].clips == (n >= 3).sum()
    assert set(seen) == {1, 2, 3, 4, 5}
    assert 0 < found["jsd_halves"].value < found["tvd_halves"].value < 1


def test_planes_agree_with_votes() -> None:
    """The halves of ratings in four quadrants are those of votes for four labels."""
    rng = np.random.default_rng(0)
    ratings = rng.normal(size=(1500, 1, 2)) + rng.normal(size=(1500, 8, 2))
    votes = (8 * quadrants(ratings)).round().astype(int)
    plane, label = value(plane_ceiling(quadrants, ratings, draws=20)), value(label_ceiling(votes, draws=20))
    for name in plane:
        assert plane[name] == pytest.approx(label[name], abs=0.01)


def test_planes_of_too_few_raters() -> None:
    none = plane_ceiling(quadrants, np.zeros((4, 2, 2)))
    assert np.isnan(none["tvd_halves"].value)
    assert none["tvd_halves"].clips == 0


@pytest.mark.parametrize(
    ("votes", "words"),
    [([[1, -1]], "whole numbers"), ([[0.5, 1]], "whole numbers"), ([1, 2], r"expected \(clips, labels\)")],
    ids=["negative", "half", "shape"],
)
def test_bad_votes_are_refused(votes: ArrayLike, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        label_ceiling(votes)


def test_bad_ratings_are_refused() -> None:
    with pytest.raises(ValueError, match="all must be"):
        dimension_ceiling([0, 0], [0, 1], [0.1])
    with pytest.raises(ValueError, match="clips must be whole numbers from 0"):
        dimension_ceiling([-1, 0], [0, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match=r"expected \(N, R, 2\)"):
        plane_ceiling(quadrants, np.zeros((3, 4)))
    with pytest.raises(ValueError, match="0 draws"):
        dimension_ceiling([0, 0], [0, 1], [0.1, 0.2], draws=0)
