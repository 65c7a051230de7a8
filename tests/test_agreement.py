"""Rater agreement: worked examples from the literature, and what must hold for any ratings."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from sertune.metrics.agreement import (
    alpha_interval,
    alpha_nominal,
    fleiss_kappa,
    majority_share,
    mean_spread,
    pairwise_agreement,
)

# Four observers, twelve units, 0 = no value: Krippendorff (2011), section C.
OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
        [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
    ]
)
# Fourteen raters, ten subjects, five categories: the example in Wikipedia's article on Fleiss' kappa.
SUBJECTS = np.array(
    [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
)
# Six psychiatrists, thirty patients, five diagnoses: Fleiss (1971), table 1.
PATIENTS = np.array(
    [
        [0, 0, 0, 6, 0],
        [0, 3, 0, 0, 3],
        [0, 1, 4, 0, 1],
        [0, 0, 0, 0, 6],
        [0, 3, 0, 3, 0],
        [2, 0, 4, 0, 0],
        [0, 0, 4, 0, 2],
        [2, 0, 3, 1, 0],
        [2, 0, 0, 4, 0],
        [0, 0, 0, 0, 6],
        [1, 0, 0, 5, 0],
        [1, 1, 0, 4, 0],
        [0, 3, 3, 0, 0],
        [1, 0, 0, 5, 0],
        [0, 2, 0, 3, 1],
        [0, 0, 5, 0, 1],
        [3, 0, 0, 1, 2],
        [5, 1, 0, 0, 0],
        [0, 2, 0, 4, 0],
        [1, 0, 2, 0, 3],
        [0, 0, 0, 0, 6],
        [0, 1, 0, 5, 0],
        [0, 2, 0, 1, 3],
        [2, 0, 0, 4, 0],
        [1, 0, 0, 4, 1],
        [0, 5, 0, 1, 0],
        [4, 0, 0, 0, 2],
        [0, 2, 0, 4, 0],
        [1, 0, 5, 0, 0],
        [0, 0, 0, 0, 6],
    ]
)


def votes_of(table: NDArray[np.int64], labels: int) -> NDArray[np.int64]:
    """(clips, labels) counts of a (raters, clips) table of labels from 1, 0 = none."""
    return np.stack([(table == label).sum(axis=0) for label in range(1, labels + 1)], axis=1)


def long_form(table: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Clip and value of each rating of such a table."""
    raters, clips = np.nonzero(table)
    return clips.astype(np.int64), table[raters, clips].astype(np.float64)


def test_krippendorffs_own_example() -> None:
    assert alpha_nominal(votes_of(OBSERVERS, 5)) == pytest.approx(0.743, abs=5e-4)
    assert alpha_interval(*long_form(OBSERVERS)) == pytest.approx(0.849, abs=5e-4)


def test_fleiss_own_example_and_another() -> None:
    assert fleiss_kappa(PATIENTS) == pytest.approx(0.430, abs=5e-4)
    assert pairwise_agreement(PATIENTS) == pytest.approx(0.5556, abs=5e-5)
    assert fleiss_kappa(SUBJECTS) == pytest.approx(0.210, abs=5e-4)
    assert pairwise_agreement(SUBJECTS) == pytest.approx(0.378, abs=5e-4)


def pairs_alpha(clips: NDArray[np.int64], values: NDArray[np.float64], *, nominal: bool) -> float:
    """Krippendorff's alpha from all pairs of values, slow and by the definition."""
    kept = np.isin(clips, np.flatnonzero(np.bincount(clips) >= 2))
    clips, values = clips[kept], values[kept]
    n = len(values)
    apart = (values[:, None] - values[None, :]) ** 2
    difference = (apart > 0).astype(float) if nominal else apart
    same = (clips[:, None] == clips[None, :]) & ~np.eye(n, dtype=bool)
    weight = 1 / (np.bincount(clips)[clips] - 1)
    observed = (difference * same * weight[:, None]).sum() / n
    return float(1 - observed / (difference.sum() / (n * (n - 1))))


@pytest.mark.parametrize("seed", range(5))
def test_sums_give_what_all_pairs_give(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clips = rng.integers(0, 12, size=40)
    values = rng.integers(0, 4, size=40).astype(float)
    votes = np.zeros((12, 4), dtype=np.int64)
    np.add.at(votes, (clips, values.astype(int)), 1)
    assert alpha_nominal(votes) == pytest.approx(pairs_alpha(clips, values, nominal=True), abs=1e-12)
    assert alpha_interval(clips, values) == pytest.approx(pairs_alpha(clips, values, nominal=False), abs=1e-12)
    # A scale with a far origin changes nothing.
    assert alpha_interval(clips, 1e6 + 3 * values) == pytest.approx(alpha_interval(clips, values), abs=1e-9)


def test_full_agreement_is_one() -> None:
    votes = np.array([[3, 0], [0, 5], [2, 0]])
    assert alpha_nominal(votes) == fleiss_kappa(votes) == pairwise_agreement(votes) == majority_share(votes) == 1
    clips, values = np.array([0, 0, 1, 1, 2, 2, 2]), np.array([0.1, 0.1, 0.7, 0.7, 0.3, 0.3, 0.3])
    assert alpha_interval(clips, values) == 1
    assert mean_spread(clips, values) == 0


def test_chance_is_about_zero_also_with_unequal_labels() -> None:
    rng = np.random.default_rng(0)
    votes = rng.multinomial(6, [0.7, 0.2, 0.1], size=4000)
    assert alpha_nominal(votes) == pytest.approx(0, abs=0.02)
    assert fleiss_kappa(votes) == pytest.approx(0, abs=0.02)
    clips = np.repeat(np.arange(4000), 6)
    assert alpha_interval(clips, rng.normal(3, 1, size=24000)) == pytest.approx(0, abs=0.02)


def test_clips_with_one_rating_count_for_nothing() -> None:
    lonely = np.eye(5, dtype=np.int64)
    both = np.concatenate([SUBJECTS, lonely, np.zeros((3, 5), dtype=np.int64)])
    for measure in (alpha_nominal, fleiss_kappa, pairwise_agreement):
        assert measure(both) == measure(SUBJECTS)
    clips, values = long_form(OBSERVERS)
    more = np.append(clips, 40), np.append(values, 99.0)
    assert alpha_interval(*more) == pytest.approx(alpha_interval(clips, values), abs=1e-12)
    assert mean_spread(*more) == pytest.approx(mean_spread(clips, values), abs=1e-12)
    nothing = np.append(clips, 0), np.append(values, np.nan)
    assert alpha_interval(*nothing) == alpha_interval(clips, values)


def test_spread_and_majority_by_hand() -> None:
    # Standard deviations 1 and 2; the third clip has one rating.
    assert mean_spread([0, 0, 0, 1, 1, 1, 2], [1, 2, 3, 1, 3, 5, 9]) == pytest.approx(1.5)
    assert majority_share([[2, 1], [1, 1], [0, 1], [0, 0]]) == pytest.approx(2 / 3)


def test_undefined_is_nan_not_an_error() -> None:
    for votes in (np.zeros((0, 3)), np.zeros((4, 3)), [[1, 0], [0, 1]], [[2, 0], [3, 0]]):
        assert np.isnan(alpha_nominal(votes))
        assert np.isnan(fleiss_kappa(votes))
    assert np.isnan(alpha_interval([], []))
    assert np.isnan(alpha_interval([0, 0, 1, 1], [0.1, 0.1, 0.1, 0.1]))
    assert np.isnan(mean_spread([0, 1], [1, 2]))
    assert np.isnan(majority_share([[0, 0]]))


def test_wrong_arguments() -> None:
    for bad, words in (([1, 2], "expected"), ([[0.5, 1]], "whole numbers"), ([[-1, 3]], "whole numbers")):
        with pytest.raises(ValueError, match=words):
            alpha_nominal(bad)
    with pytest.raises(ValueError, match="both must be"):
        alpha_interval([0, 1], [1.0])
    with pytest.raises(ValueError, match="whole numbers from 0"):
        alpha_interval([-1, 1], [1.0, 2.0])


def test_a_hundred_thousand_ratings_take_no_time() -> None:
    rng = np.random.default_rng(0)
    votes = rng.multinomial(5, np.full(9, 1 / 9), size=20000)
    clips = np.repeat(np.arange(20000), 5)
    start = time.perf_counter()
    alpha_nominal(votes), fleiss_kappa(votes), alpha_interval(clips, rng.random(100000))
    assert time.perf_counter() - start < 1
