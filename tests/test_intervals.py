from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sertune.metrics import scores
from sertune.metrics.intervals import category_intervals, dimension_intervals, paired_difference

Ints = NDArray[np.int64]


def clips_of_speakers(
    rng: np.random.Generator, speakers: int, clips: int, spread: float
) -> tuple[Ints, Ints, list[str]]:
    """True and predicted binary labels; each speaker has an own share of right answers around .7."""
    skill = np.clip(0.7 + spread * rng.normal(size=speakers), 0.05, 0.95)
    who = np.repeat(np.arange(speakers), clips)
    true = np.tile(np.arange(clips) % 2, speakers)
    right = rng.random(len(who)) < skill[who]
    return true, np.where(right, true, 1 - true), [f"s{i:03}" for i in who]


def slow_draws(
    true: NDArray[Any],
    predicted: NDArray[Any],
    speakers: list[str],
    score: Callable[[NDArray[Any], NDArray[Any]], float],
    resamples: int,
    seed: int,
) -> NDArray[np.float64]:
    """The obvious loop: draw speakers, put all of their clips together, score."""
    rng = np.random.default_rng(seed)
    names = sorted(set(speakers))
    who = np.array(speakers)
    values = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(names), len(names))
        clips = np.concatenate([np.flatnonzero(who == names[i]) for i in drawn])
        values.append(score(true[clips], predicted[clips]))
    return np.array(values)


def test_categories_agree_with_the_obvious_loop() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 60)
    predicted = np.where(rng.random(60) < 0.6, true, rng.integers(0, 3, 60))
    speakers = [f"{i}" for i in rng.integers(0, 7, 60)]
    fast, recalls = category_intervals(true, predicted, 3, speakers, resamples=300, seed=5)
    for name, score in (("uar", scores.uar), ("accuracy", scores.accuracy), ("macro_f1", scores.macro_f1)):
        slow = slow_draws(true, predicted, speakers, score, 300, 5)
        assert fast[name].value == pytest.approx(score(true, predicted))
        np.testing.assert_allclose([fast[name].low, fast[name].high], np.percentile(slow, [2.5, 97.5]))
    assert np.mean([r.value for r in recalls]) == pytest.approx(fast["uar"].value)
    assert (fast["uar"].unit, fast["uar"].clusters, fast["uar"].few) == ("speakers", 7, False)


def test_dimensions_agree_with_the_obvious_loop() -> None:
    rng = np.random.default_rng(1)
    speakers = [f"{i}" for i in rng.integers(0, 6, 80)]
    true = rng.normal(4, 1, 80)
    predicted = 0.6 * true + rng.normal(1.2, 0.5, 80)
    fast = dimension_intervals(true, predicted, speakers, resamples=300, seed=6)
    for name, score in (("ccc", scores.ccc), ("rmse", scores.rmse), ("pearson", scores.pearson)):
        slow = slow_draws(true, predicted, speakers, score, 300, 6)
        assert fast[name].value == pytest.approx(score(true, predicted))
        np.testing.assert_allclose([fast[name].low, fast[name].high], np.percentile(slow, [2.5, 97.5]))


def test_same_seed_same_interval_whatever_the_order_of_the_clips() -> None:
    rng = np.random.default_rng(2)
    true, predicted, speakers = clips_of_speakers(rng, 8, 10, 0.1)
    one, _ = category_intervals(true, predicted, 2, speakers, seed=3)
    mixed = rng.permutation(len(true))
    two, _ = category_intervals(true[mixed], predicted[mixed], 2, [speakers[i] for i in mixed], seed=3)
    other, _ = category_intervals(true, predicted, 2, speakers, seed=4)
    assert one == two
    assert one != other


def test_speaker_intervals_cover_and_utterance_intervals_do_not() -> None:
    covered = {"speakers": 0, "utterances": 0}
    wider = 0
    trials = 200
    for trial in range(trials):
        rng = np.random.default_rng(1000 + trial)
        true, predicted, speakers = clips_of_speakers(rng, 30, 20, 0.12)
        by_speaker, _ = category_intervals(true, predicted, 2, speakers, resamples=400, seed=trial)
        by_clip, _ = category_intervals(true, predicted, 2, None, resamples=400, seed=trial)
        for interval in (by_speaker["uar"], by_clip["uar"]):
            covered[interval.unit] += interval.low <= 0.7 <= interval.high
        wider += by_speaker["uar"].high - by_speaker["uar"].low > by_clip["uar"].high - by_clip["uar"].low
    assert 0.89 <= covered["speakers"] / trials <= 0.99
    assert covered["utterances"] / trials < 0.85
    assert wider / trials > 0.95


@pytest.mark.parametrize("speakers", [None, [None] * 6, ["a"] * 6, ["a", None, "", float("nan"), "a", "a"]])
def test_without_two_known_speakers_clips_are_resampled_and_it_says_so(speakers: list[Any] | None) -> None:
    found, _ = category_intervals([0, 1, 0, 1, 0, 1], [0, 1, 0, 0, 0, 1], 2, speakers)
    assert (found["uar"].unit, found["uar"].clusters) == ("utterances", 6)
    assert "over 6 utterances, 2000 resamples" in found["uar"].text
    assert found["uar"].low < found["uar"].value < found["uar"].high


def test_clips_of_unknown_speakers_count_as_one_speaker() -> None:
    true, predicted = [0, 1, 0, 1, 0, 1], [0, 1, 0, 0, 1, 1]
    some, _ = category_intervals(true, predicted, 2, ["a", "a", "b", "b", None, None])
    named, _ = category_intervals(true, predicted, 2, ["a", "a", "b", "b", "c", "c"])
    assert some == named
    assert some["uar"].few


def test_only_scored_clips_count_as_speakers() -> None:
    found, _ = category_intervals([0, 1, 0, -1], [0, 1, 1, 0], 2, ["a", "a", "b", "c"])
    assert found["uar"].clusters == 2


def test_a_class_that_a_resample_lacks_is_left_out_there() -> None:
    """Only speaker b has class 1 and is always right on it; class 0 is always right too: UAR is always 1."""
    found, recalls = category_intervals([0, 0, 0, 1], [0, 0, 0, 1], 3, ["a", "a", "b", "b"])
    assert (found["uar"].low, found["uar"].high) == (1.0, 1.0)
    assert (recalls[1].low, recalls[1].high) == (1.0, 1.0)
    assert all(np.isnan([recalls[2].value, recalls[2].low, recalls[2].high]))


def test_nothing_to_score_is_nan_not_a_crash() -> None:
    found, _ = category_intervals([-1, -1], [0, 1], 2, ["a", "b"])
    assert np.isnan([found["uar"].value, found["uar"].low, found["uar"].high]).all()
    empty = dimension_intervals([], [], None)
    assert np.isnan([empty["ccc"].value, empty["ccc"].low]).all()


def test_blocks_of_draws_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    true, predicted, speakers = clips_of_speakers(rng, 9, 5, 0.1)
    whole, _ = category_intervals(true, predicted, 2, speakers, resamples=100)
    monkeypatch.setattr("sertune.metrics.intervals._DRAWS_AT_ONCE", 50)
    blocks, _ = category_intervals(true, predicted, 2, speakers, resamples=100)
    assert whole == blocks


def test_paired_difference_is_antisymmetric_and_of_equal_runs_nothing() -> None:
    rng = np.random.default_rng(9)
    true, a, speakers = clips_of_speakers(rng, 12, 20, 0.1)
    b = np.where(rng.random(len(a)) < 0.2, 1 - true, a)
    ab = paired_difference(true, a, b, speakers, "uar", seed=1)
    ba = paired_difference(true, b, a, speakers, "uar", seed=1)
    assert ab.value == pytest.approx(scores.uar(true, a) - scores.uar(true, b))
    np.testing.assert_allclose([ab.value, ab.low, ab.high, ab.p], [-ba.value, -ba.high, -ba.low, ba.p])
    assert ab.low > 0
    assert ab.p < 0.01
    same = paired_difference(true, a, a, speakers, "macro_f1")
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_pairing_sees_what_separate_intervals_hide() -> None:
    """Two models that share the hard speakers: intervals overlap, yet one is better for every speaker."""
    rng = np.random.default_rng(10)
    who = np.repeat(np.arange(10), 30)
    offset = rng.normal(0, 1.5, 10)[who]
    true = rng.normal(0, 1, 300)
    noise = rng.normal(0, 0.3, 300)
    a, b = true + offset + noise, true + offset + noise * 1.5 + 0.1 * np.sign(offset)
    speakers = [str(i) for i in who]
    one, two = (dimension_intervals(true, x, speakers)["rmse"] for x in (a, b))
    assert one.high > two.low
    difference = paired_difference(true, a, b, speakers, "rmse")
    assert difference.high < 0
    assert difference.p < 0.01


def test_paired_p_is_fair_where_there_is_no_difference() -> None:
    false_alarms = 0
    for trial in range(150):
        rng = np.random.default_rng(trial)
        who = np.repeat(np.arange(25), 10)
        true = rng.normal(size=250)
        effects = rng.normal(0, 0.5, (2, 25))[:, who]
        a, b = true + effects[0] + rng.normal(size=250), true + effects[1] + rng.normal(size=250)
        p = paired_difference(true, a, b, [str(i) for i in who], "ccc", resamples=400, seed=trial).p
        false_alarms += p < 0.05
    assert false_alarms / 150 < 0.12


def test_paired_difference_refuses_an_unknown_metric() -> None:
    with pytest.raises(ValueError, match="uarr"):
        paired_difference([0, 1], [0, 1], [0, 1], None, "uarr")
