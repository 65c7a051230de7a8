from dataclasses import fields
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from sertune.metrics import scores
from sertune.metrics.raters import Response, per_rater, per_rater_labels, response, shrinkage

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Panel(NamedTuple):
    clips: Integers
    raters: Integers
    values: Floats
    bias: Floats
    gain: Floats
    noise: Floats


def panel(seed: int, annotators: int = 60, clips: int = 400, few: int = 12) -> Panel:
    """Five annotators per clip, some busier than others, and a few with five ratings in all."""
    rng = np.random.default_rng(seed)
    bias, noise = rng.normal(0, 0.25, annotators), 0.2 * np.exp(rng.normal(0, 0.3, annotators))
    gain = np.maximum(rng.normal(1, 0.2, annotators), 0.3)
    share = rng.uniform(0.15, 1, annotators - few) ** 2
    who = [rng.choice(annotators - few, 5, replace=False, p=share / share.sum()) for _ in range(clips)]
    sparse = [rng.choice(clips, 5, replace=False) for _ in range(few)]
    clip = np.concatenate([np.repeat(np.arange(clips), 5), *sparse])
    rater = np.concatenate([*who, np.repeat(np.arange(annotators - few, annotators), 5)])
    true = rng.normal(0.1, 0.35, clips)
    value = 0.1 + bias[rater] + gain[rater] * (true[clip] - 0.1) + noise[rater] * rng.normal(size=len(clip))
    return Panel(clip, rater, value, bias, gain, noise)


def raw_bias(p: Panel) -> Floats:
    """Mean difference to the mean of the others on the same clips."""
    total, n = np.bincount(p.clips, p.values), np.bincount(p.clips)
    others = (total[p.clips] - p.values) / (n[p.clips] - 1)
    return np.bincount(p.raters, p.values - others) / np.bincount(p.raters)


@pytest.mark.parametrize("seed", range(5))
def test_known_annotators_are_recovered(seed: int) -> None:
    p = panel(seed)
    found = response(p.clips, p.raters, p.values)
    assert found.converged
    assert (found.ratings[-12:] == 5).all()
    assert np.corrcoef(found.bias, p.bias)[0, 1] >= 0.9
    true = p.bias - np.average(p.bias, weights=found.ratings)
    assert np.sqrt(np.mean((found.bias - true) ** 2)) < np.sqrt(np.mean((raw_bias(p) - true) ** 2))
    busy = found.ratings >= 30
    assert np.corrcoef(found.gain[busy], p.gain[busy])[0, 1] > 0.7
    assert np.corrcoef(found.noise[busy], p.noise[busy])[0, 1] > 0.7
    assert found.clip_variance == pytest.approx(0.35**2, rel=0.25)
    assert found.bias_variance == pytest.approx(p.bias.var(), rel=0.4)
    assert found.mean == pytest.approx(0.1 + np.average(p.bias, weights=found.ratings), abs=0.1)


def test_identification() -> None:
    found = response(*panel(0)[:3])
    assert np.average(found.bias, weights=found.ratings) == pytest.approx(0.0, abs=1e-12)
    assert np.average(found.gain, weights=found.ratings) == pytest.approx(1.0)


def test_few_ratings_are_pulled_to_the_mean_annotator() -> None:
    """All annotators but two rate 40 clips; of two with a shift of 1, one rates five clips and one rates one."""
    rng = np.random.default_rng(0)
    clips, raters = np.repeat(np.arange(40), 10), np.tile(np.arange(10), 40)
    bias = np.append(np.linspace(-0.1, 0.1, 10), [1.0, 1.0])
    clips, raters = np.append(clips, [0, 1, 2, 3, 4, 5]), np.append(raters, [10, 10, 10, 10, 10, 11])
    values = bias[raters] + rng.normal(0, 0.3, 40)[clips] + rng.normal(0, 0.4, len(clips))
    found = response(clips, raters, values)
    weight = shrinkage(found)
    assert weight == pytest.approx(found.noise_variance / found.bias_variance)
    assert weight > 0.5
    kept = found.bias / raw_bias(Panel(clips, raters, values, bias, bias, bias))
    assert 0 < kept[11] < kept[10] < 1
    none = response(clips, raters, values, count=14)
    np.testing.assert_allclose(none.bias[12:], 0.0)
    np.testing.assert_allclose(none.gain[12:], 1.0)
    np.testing.assert_allclose(none.bias[:12], found.bias)
    assert np.isfinite(none.noise).all()


def same(a: Response, b: Response, order: Integers) -> None:
    """Whether annotator i of one is annotator order[i] of the other."""
    for name in ("ratings", "bias", "gain", "noise"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name)[order], atol=1e-9)
    for name in ("mean", "bias_variance", "gain_variance", "noise_variance", "clip_variance"):
        assert getattr(a, name) == pytest.approx(getattr(b, name))


def test_names_and_order_do_not_matter() -> None:
    p = panel(1)
    rng = np.random.default_rng(5)
    shuffle, names, clip_names = rng.permutation(len(p.clips)), rng.permutation(60), rng.permutation(1000)
    first = response(p.clips, p.raters, p.values)
    second = response(clip_names[p.clips][shuffle], names[p.raters][shuffle], p.values[shuffle])
    same(first, second, names)


def test_scale_and_missing_ratings() -> None:
    p = panel(2)
    first = response(p.clips, p.raters, p.values)
    with_gaps = np.append(p.values, [np.nan, np.nan]) * 10 + 3
    second = response(np.append(p.clips, [0, 9999]), np.append(p.raters, [3, 4]), with_gaps)
    np.testing.assert_allclose(second.bias, 10 * first.bias, atol=1e-9)
    np.testing.assert_allclose(second.noise, 10 * first.noise)
    np.testing.assert_allclose(second.gain, first.gain)
    assert second.mean == pytest.approx(10 * first.mean + 3)


def test_a_shift_of_one_annotator_moves_its_bias_only() -> None:
    p = panel(3)
    one = int(np.argsort(np.bincount(p.raters))[-10])
    first = response(p.clips, p.raters, p.values)
    second = response(p.clips, p.raters, p.values + 0.3 * (p.raters == one))
    share = first.ratings[one] / first.ratings.sum()
    assert second.bias[one] - first.bias[one] == pytest.approx(0.3 * (1 - share), abs=0.02)
    rest = np.arange(60) != one
    # The mean bias stays 0, so all others move by the same small step.
    np.testing.assert_allclose((second.bias - first.bias)[rest], -0.3 * share, atol=0.02)
    np.testing.assert_allclose(second.gain, first.gain, atol=0.02)
    np.testing.assert_allclose(second.noise, first.noise, atol=0.02)


def test_two_groups_that_share_no_clip() -> None:
    rng = np.random.default_rng(0)
    clips = np.append(np.repeat(np.arange(200), 3), 200 + np.repeat(np.arange(200), 3))
    raters = np.append(np.tile([0, 1, 2], 200), np.tile([3, 4, 5], 200))
    bias = np.array([-0.2, 0.0, 0.2, -0.2, 0.0, 0.2])
    values = bias[raters] + rng.normal(0, 0.3, 400)[clips] + rng.normal(0, 0.2, 1200)
    found = response(clips, raters, values)
    np.testing.assert_allclose(found.bias, bias, atol=0.08)


def test_annotators_who_do_not_differ() -> None:
    rng = np.random.default_rng(0)
    clips, raters = np.repeat(np.arange(600), 5), rng.integers(0, 40, 3000)
    found = response(clips, raters, rng.normal(0, 0.4, 600)[clips] + rng.normal(0, 0.3, 3000))
    assert np.abs(found.bias).max() < 0.05
    assert np.abs(found.gain - 1).max() < 0.12
    assert np.ptp(found.noise) < 0.03
    assert shrinkage(found) > 50


@pytest.mark.parametrize(
    ("clips", "raters", "values"),
    [
        (range(9), [0] * 9, [0.1, 0.5, -0.3, 0.2, 0.2, 0.9, -1.0, 0.0, 0.4]),
        ([0] * 5, range(5), [0.1, 0.5, -0.3, 0.2, 0.2]),
        ([0], [0], [0.3]),
        ([0, 0, 1, 1], [0, 1, 0, 1], [0.3] * 4),
        ([0, 0, 1, 1], [0, 1, 0, 1], [-1.0, -1.0, 1.0, 1.0]),
        ([0, 0, 1, 1], [0, 1, 0, 1], [-1.0, 1.0, -1.0, 1.0]),
        ([0, 0, 1, 1], [0, 1, 0, 1], [-1.0, 1.0, 1.0, -1.0]),
        ([0, 0, 0], [0, 0, 0], [0.1, 0.2, 0.6]),
    ],
    ids=["one-annotator", "one-clip", "one-rating", "constant", "agreeing", "shifted", "opposed", "repeated"],
)
def test_little_data_is_defined(clips: list[int], raters: list[int], values: list[float]) -> None:
    found = response(list(clips), list(raters), values)
    for field in fields(found):
        assert np.isfinite(getattr(found, field.name)).all(), field.name
    assert (found.noise >= 0).all()
    if len(set(raters)) == 1:
        assert (found.bias[0], found.gain[0]) == pytest.approx((0.0, 1.0))
        assert shrinkage(found) == float("inf")


def test_one_clip_shrinks_but_keeps_the_order() -> None:
    values = np.array([0.1, 0.5, -0.3, 0.2, 0.3])
    found = response(np.zeros(5, dtype=int), np.arange(5), values)
    assert np.argsort(found.bias).tolist() == np.argsort(values).tolist()
    assert np.abs(found.bias).max() < 0.5 * np.abs(values - values.mean()).max()
    np.testing.assert_allclose(found.gain, 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("clips", "raters", "values", "words"),
    [
        ([0], [0, 1], [0.1], "all must be"),
        ([0.5], [0], [0.1], "clips must be"),
        ([0], [-1], [0.1], "raters must be whole numbers from 0"),
        ([0], [0], [np.inf], "infinite"),
        ([0], [0], [np.nan], "no ratings"),
        ([0], [7], [0.1], "raters: 7 for 3 annotators"),
    ],
    ids=["shape", "half", "negative", "infinite", "none", "count"],
)
def test_bad_ratings_are_refused(clips: list[int], raters: list[int], values: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        response(clips, raters, values, count=3)


def test_scores_of_each_annotator() -> None:
    rng = np.random.default_rng(0)
    raters = np.array([0] * 20 + [1] * 2 + [2] * 10 + [4] * 5)
    true, predicted = rng.normal(size=37), rng.normal(size=37)
    true[22:32] = 0.3  # annotator 2 always says the same
    true[36] = np.nan
    found = per_rater(raters, true, predicted, 5)
    assert found.ratings.tolist() == [20, 2, 10, 0, 4]
    for a, rows in ((0, slice(0, 20)), (4, slice(32, 36))):
        assert found.ccc[a] == pytest.approx(scores.ccc(true[rows], predicted[rows]))
        assert found.rmse[a] == pytest.approx(scores.rmse(true[rows], predicted[rows]))
        assert found.bias[a] == pytest.approx((predicted[rows] - true[rows]).mean())
        assert (found.true[a], found.predicted[a]) == pytest.approx((true[rows].mean(), predicted[rows].mean()))
    assert np.isnan(found.ccc[[1, 2, 3]]).all()
    assert np.isnan(found.rmse).tolist() == [False, False, False, True, False]
    with pytest.raises(ValueError, match="raters: 4 for 3 annotators"):
        per_rater(raters, true, predicted, 3)
    with pytest.raises(ValueError, match="shape"):
        per_rater(raters[:-1], true, predicted, 5)


def test_labels_of_each_annotator() -> None:
    found = per_rater_labels([0, 0, 0, 0, 2, 2], [0, 0, 1, -1, 1, 1], [0, 1, 1, 0, 0, 1], 3, 2)
    assert found.ratings.tolist() == [3, 0, 2]
    np.testing.assert_allclose(found.accuracy, [2 / 3, np.nan, 0.5])
    np.testing.assert_allclose(found.true, [[2 / 3, 1 / 3], [np.nan, np.nan], [0.0, 1.0]])
    np.testing.assert_allclose(found.predicted, [[1 / 3, 2 / 3], [np.nan, np.nan], [0.5, 0.5]])
    with pytest.raises(ValueError, match="shape"):
        per_rater_labels([0], [0, 1], [0, 1], 1, 2)
