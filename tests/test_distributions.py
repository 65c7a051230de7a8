import math

import numpy as np
import pytest
from numpy.typing import NDArray

from sertune.data import labels
from sertune.metrics import distributions, scores, transport
from sertune.metrics.distributions import distribution_difference, distribution_intervals, spread_calibration

Floats = NDArray[np.float64]


def rows(seed: int, n: int = 40, k: int = 6, sharp: float = 1.0) -> Floats:
    return np.random.default_rng(seed).dirichlet(np.full(k, sharp), n)


def test_known_values() -> None:
    p = np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])
    q = np.array([[0.0, 1.0], [0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(distributions.tvd(p, q), [1.0, 0.0, 0.25])
    np.testing.assert_allclose(distributions.jsd(p, q)[:2], [math.log(2), 0.0])
    np.testing.assert_allclose(distributions.jsd(p, q, base=2)[:2], [1.0, 0.0])
    np.testing.assert_allclose(distributions.kl(p, q)[1:], [0.0, 0.25 * math.log(0.5) + 0.75 * math.log(1.5)])
    np.testing.assert_allclose(distributions.entropy(p, base=2)[:2], [0.0, 1.0])
    assert not np.signbit(distributions.entropy(p)).any()


def test_divergence_of_impossible_bins_is_limited() -> None:
    assert distributions.kl([[1.0, 0.0]], [[0.0, 1.0]])[0] == pytest.approx(-math.log(1e-12))
    assert distributions.kl([[1.0, 0.0]], [[0.0, 1.0]], eps=1e-3)[0] == pytest.approx(-math.log(1e-3))


@pytest.mark.parametrize("sharp", [1e-3, 0.3, 30.0])
def test_algebra_of_the_measures(sharp: float) -> None:
    p, q = rows(0, 200, sharp=sharp), rows(1, 200, sharp=sharp)
    tvd, jsd, kl = (f(p, q) for f in (distributions.tvd, distributions.jsd, distributions.kl))
    np.testing.assert_allclose(tvd, distributions.tvd(q, p))
    np.testing.assert_allclose(jsd, distributions.jsd(q, p), atol=1e-15)
    assert (jsd >= 0).all()
    assert (jsd <= math.log(2) * tvd + 1e-12).all()  # Lin (1991), theorem 3
    assert (tvd**2 <= kl / 2 + 1e-9).all()  # Pinsker
    for f in (distributions.tvd, distributions.jsd, distributions.kl):
        np.testing.assert_allclose(f(p, p), 0.0, atol=1e-12)
    order = np.random.default_rng(2).permutation(p.shape[1])
    np.testing.assert_allclose(distributions.jsd(p[:, order], q[:, order]), jsd, atol=1e-14)


def test_a_missing_truth_is_left_out() -> None:
    p, q = rows(3), rows(4)
    with_gap = p.copy()
    with_gap[7] = np.nan
    rest = np.delete(np.arange(len(p)), 7)
    for f in (distributions.tvd, distributions.jsd, distributions.kl):
        found = f(with_gap, q)
        assert np.isnan(found[7])
        np.testing.assert_array_equal(found[rest], f(p, q)[rest])
    assert distributions.entropy_correlation(with_gap, q) == distributions.entropy_correlation(p[rest], q[rest])
    assert distributions.uar_of_largest(with_gap, q) == distributions.uar_of_largest(p[rest], q[rest])
    cost = distributions.cell_distances((2, 3))
    intervals = [
        distribution_intervals(t, y, None, cost=cost, grid=(2, 3)) for t, y in ((with_gap, q), (p[rest], q[rest]))
    ]
    assert intervals[0] == intervals[1]


@pytest.mark.parametrize(
    ("p", "q", "words"),
    [
        ([[0.5, 0.6]], [[0.5, 0.5]], "true: row 0 is no distribution"),
        ([[0.5, 0.5]], [[1.5, -0.5]], "predicted: row 0 is no distribution"),
        ([[0.5, 0.5]], [[np.nan, np.nan]], "predicted: row 0 is no distribution"),
        ([[np.nan, 1.0]], [[0.5, 0.5]], "true: row 0 is no distribution"),
        ([[0.5, 0.5]], [[0.2, 0.3, 0.5]], r"true has shape \(1, 2\), predicted \(1, 3\)"),
        ([0.5, 0.5], [0.5, 0.5], r"shape \(2,\), expected \(N, K\)"),
    ],
    ids=["sum", "negative", "predicted-nan", "partly-nan", "width", "one-row"],
)
def test_what_is_no_distribution_is_refused(p: list[float], q: list[float], words: str) -> None:
    for f in (distributions.tvd, distributions.jsd, distributions.kl):
        with pytest.raises(ValueError, match=words):
            f(p, q)


def test_single_precision_sums_pass() -> None:
    p = rows(0, 10, 4096).astype(np.float32)
    assert distributions.tvd(p, p).max() == 0.0


def test_entropy_correlation() -> None:
    p = rows(0)
    order = np.random.default_rng(1).permutation(p.shape[1])
    assert distributions.entropy_correlation(p, p[:, order]) == pytest.approx(1.0)
    assert np.isnan(distributions.entropy_correlation(np.eye(4), np.full((4, 4), 0.25)))
    same = np.array([np.roll([0.1, 0.2, 0.7], i) for i in range(3)])  # equal but for rounding
    assert np.isnan(distributions.entropy_correlation(same, rows(0, 3, 3)))


def test_expected_values_at_the_bin_centres() -> None:
    cells = np.zeros((3, 4, 2))
    cells[0, 3, 0] = 1.0
    cells[1] = 1 / 8
    cells[2, 0, 0] = cells[2, 1, 1] = 0.5
    np.testing.assert_allclose(
        distributions.expected_values(cells), [[0.75, -0.5], [0.0, 0.0], [-0.5, 0.0]], atol=1e-15
    )
    with pytest.raises(ValueError, match="no distribution"):
        distributions.expected_values(cells * 2)


def test_of_equal_bins_the_first_is_largest() -> None:
    tied = np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]])
    assert distributions.uar_of_largest(tied, np.eye(3)[:2]) == 1.0
    assert distributions.uar_of_largest(np.eye(3)[[0, 0, 1]], np.eye(3)[[0, 2, 1]]) == 0.75


def test_transport_on_a_line_is_the_difference_of_the_cumulated_shares() -> None:
    p, q = rows(0, 50, 9, 0.3), rows(1, 50, 9, 0.3)
    at = distributions.centres(9)
    closed = np.abs(np.cumsum(p - q, axis=1)[:, :-1]).sum(axis=1) * (at[1] - at[0])
    np.testing.assert_allclose(distributions.emd(p, q, np.abs(at[:, None] - at)), closed, atol=1e-12)


def test_transport_is_the_optimum_of_the_linear_programme() -> None:
    from scipy.optimize import linprog

    cost = distributions.cell_distances((2, 3))
    p, q = rows(2, 6), rows(3, 6)
    p[0, 2:] = 0.0  # empty bins
    p[0] /= p[0].sum()
    k = len(cost)
    marginals = np.concatenate([np.kron(np.eye(k), np.ones(k)), np.kron(np.ones(k), np.eye(k))])
    best = [linprog(cost.ravel(), A_eq=marginals, b_eq=np.concatenate([a, b])).fun for a, b in zip(p, q, strict=True)]
    np.testing.assert_allclose(distributions.emd(p, q, cost), best, atol=1e-9)


def test_transport_as_a_distance() -> None:
    p, q, r = rows(0, 20, 16, 0.2), rows(1, 20, 16, 0.2), rows(2, 20, 16, 0.2)
    cost = distributions.cell_distances((4, 4))
    np.testing.assert_allclose(distributions.emd(p, p, cost), 0.0, atol=1e-12)
    np.testing.assert_allclose(distributions.emd(p, q, cost), distributions.emd(q, p, cost), atol=1e-12)
    assert (distributions.emd(p, r, cost) <= distributions.emd(p, q, cost) + distributions.emd(q, r, cost) + 1e-9).all()
    np.testing.assert_allclose(distributions.emd(p, q, 1 - np.eye(16)), distributions.tvd(p, q), atol=1e-12)


@pytest.mark.parametrize(
    ("p", "cost", "words"),
    [
        ([[0.5, 0.5]], np.zeros((3, 3)), "the cost has shape"),
        ([[0.5, 0.5]], -np.ones((2, 2)), "the cost has values below 0"),
        ([[0.0, 0.0]], np.ones((2, 2)), "no mass"),
        ([0.5, 0.5], np.ones((2, 2)), "must be"),
    ],
    ids=["size", "negative", "empty", "shape"],
)
def test_transport_refuses(p: list[float], cost: Floats, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        transport.emd(p, p, cost)
    assert transport.emd(np.zeros((0, 2)), np.zeros((0, 2)), np.ones((2, 2))).shape == (0,)


def test_distances_of_cells_follow_the_flattened_grid() -> None:
    found = distributions.cell_distances((2, 4))
    assert found.shape == (8, 8)
    assert found[0, 1] == pytest.approx(0.5)  # the second axis is the fastest
    assert found[0, 4] == pytest.approx(1.0)
    # Moved to one corner, the mass travels at least as far as its mean.
    cells, corner = rows(0, 5, 8), np.eye(8)[np.zeros(5, dtype=int)]
    means = distributions.expected_values(cells.reshape(5, 2, 4))
    apart = np.linalg.norm(means - [-0.5, -0.75], axis=1)
    assert (distributions.emd(cells, corner, found) >= apart - 1e-12).all()


def test_distances_of_labels() -> None:
    known = [name for name in labels.CATEGORIES if name != "other"]
    found = labels.label_distances(known)
    np.testing.assert_allclose(found, found.T)
    assert (found[~np.eye(len(known), dtype=bool)] > 0.05).all()
    at = known.index
    assert found[at("anger"), at("fear")] < found[at("anger"), at("sadness")] < found[at("anger"), at("calm")]


def test_spread_that_is_predicted_half_as_wide() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.random(1000)
    true = 2 * predicted + 0.1
    true[3], predicted[5] = np.nan, np.nan
    found = spread_calibration(true, predicted, bins=4)
    assert (found.slope, found.intercept, found.pearson) == pytest.approx((2.0, 0.1, 1.0))
    assert found.ratio == pytest.approx(0.5 / 1.1, rel=0.02)
    assert found.ccc == pytest.approx(scores.ccc(*(x[~np.isnan(true + predicted)] for x in (true, predicted))))
    assert found.count.sum() == 998
    assert np.ptp(found.count) <= 1
    np.testing.assert_allclose(found.true, 2 * found.predicted + 0.1)
    assert (np.diff(found.predicted) > 0).all()


def test_spread_that_is_constant_or_unknown() -> None:
    flat = spread_calibration([0.1, 0.2, 0.3], [0.2, 0.2, 0.2])
    assert np.isnan([flat.slope, flat.intercept, flat.pearson]).all()
    assert (flat.ratio, flat.ccc) == pytest.approx((1.0, 0.0))
    assert flat.count.tolist() == [3]
    none = spread_calibration([np.nan], [0.1])
    assert np.isnan([none.slope, none.ratio, none.ccc]).all()
    assert none.count.tolist() == []
    with pytest.raises(ValueError, match="shape"):
        spread_calibration([0.1], [0.1, 0.2])


def speakers(n: int) -> list[str]:
    return [f"{i}" for i in np.random.default_rng(9).integers(0, 7, n)]


def test_intervals_agree_with_the_obvious_loop() -> None:
    p, q, who = rows(0, 60, 6, 0.4), rows(1, 60, 6, 0.4), speakers(60)
    q = 0.5 * p + 0.5 * q
    cost = distributions.cell_distances((3, 2))
    fast = distribution_intervals(p, q, who, cost=cost, grid=(3, 2), resamples=200, seed=5)

    def measures(clips: NDArray[np.int64]) -> dict[str, float]:
        t, y = p[clips], q[clips]
        means_t, means_y = (distributions.expected_values(x.reshape(-1, 3, 2)) for x in (t, y))
        return {
            "tvd": float(distributions.tvd(t, y).mean()),
            "jsd": float(distributions.jsd(t, y).mean()),
            "kl": float(distributions.kl(t, y).mean()),
            "emd": float(distributions.emd(t, y, cost).mean()),
            "entropy_r": distributions.entropy_correlation(t, y),
            "uar_largest": distributions.uar_of_largest(t, y),
            "ccc_expected_0": scores.ccc(means_t[:, 0], means_y[:, 0]),
            "ccc_expected_1": scores.ccc(means_t[:, 1], means_y[:, 1]),
        }

    rng, names = np.random.default_rng(5), sorted(set(who))
    slow = []
    for _ in range(200):
        drawn = rng.integers(0, len(names), len(names))
        slow.append(measures(np.concatenate([np.flatnonzero(np.array(who) == names[i]) for i in drawn])))
    point = measures(np.arange(60))
    assert list(fast) == list(point)
    for name, interval in fast.items():
        assert interval.value == pytest.approx(point[name]), name
        np.testing.assert_allclose(
            [interval.low, interval.high], np.percentile([row[name] for row in slow], [2.5, 97.5]), err_msg=name
        )
    assert (fast["tvd"].unit, fast["tvd"].clusters) == ("speakers", 7)


def test_intervals_of_what_was_asked_for() -> None:
    p, q = rows(0), rows(1)
    assert list(distribution_intervals(p, q, None)) == ["tvd", "jsd", "kl", "entropy_r", "uar_largest"]
    with pytest.raises(ValueError, match="a grid of 4 x 4 for 6 bins"):
        distribution_intervals(p, q, None, grid=(4, 4))
    with pytest.raises(ValueError, match="3 speakers for 40 clips"):
        distribution_intervals(p, q, ["a", "b", "c"])
    none = distribution_intervals(np.full((3, 4), np.nan), rows(0, 3, 4), None, grid=(2, 2))
    assert all(np.isnan(interval.value) for interval in none.values())


@pytest.mark.parametrize("measure", distributions.ROW_MEASURES)
def test_difference_of_two_models(measure: str) -> None:
    p, q, who = rows(0, 200), rows(1, 200), speakers(200)
    near = 0.7 * p + 0.3 * q
    cost = distributions.cell_distances((3, 2))
    found = distribution_difference(p, near, q, who, measure, cost=cost)
    value = {name: interval.value for name, interval in distribution_intervals(p, near, who, cost=cost).items()}[
        measure
    ] - distribution_intervals(p, q, who, cost=cost)[measure].value
    assert found.value == pytest.approx(value)
    assert found.low < found.value < found.high < 0
    assert found.p < 0.01
    back = distribution_difference(p, q, near, who, measure, cost=cost)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_difference_refuses() -> None:
    p = rows(0)
    with pytest.raises(ValueError, match="unknown measure 'uar'"):
        distribution_difference(p, p, p, None, "uar")
    with pytest.raises(ValueError, match="emd needs a cost"):
        distribution_difference(p, p, p, None, "emd")
