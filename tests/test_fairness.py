"""Fairness: formulas by hand, and what fair and unfair models that are simulated come out as."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sertune.metrics import fairness
from sertune.metrics.fairness import CHANCE, MORE, NO_VERDICT, compare_categories, compare_dimensions, correct

LABELS = ("anger", "joy", "calm")


def gap(column: dict[str, Any], statistic: str, of: str | None = None) -> dict[str, Any]:
    return next(g for g in column["gaps"] if (g["statistic"], g["class"]) == (statistic, of))


def clips(table: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """A confusion matrix as truths and predictions."""
    pairs = [(t, p) for t, row in enumerate(table) for p, count in enumerate(row) for _ in range(count)]
    return [t for t, _ in pairs], [p for _, p in pairs]


def by_hand(tables: dict[str, Sequence[Sequence[int]]], speakers: int = 5) -> dict[str, Any]:
    """A column with these confusion matrices, the clips dealt to speakers in turn."""
    true, predicted, groups, heads = [], [], [], []
    for name, table in tables.items():
        t, p = clips(table)
        true += t
        predicted += p
        groups += [name] * len(t)
        heads += [f"{name}{i % speakers}" for i in range(len(t))]
    return compare_categories(np.array(true), np.array(predicted), LABELS, groups, heads, draws=100)


def test_formulas_by_hand() -> None:
    column = by_hand({"a": [[8, 2, 0], [0, 10, 0], [5, 0, 5]], "b": [[10, 0, 0], [10, 10, 0], [0, 0, 10]]})
    correct([column])
    # a: recall .8, 1, .5; predicted 13, 12, 5 of 30. b: recall 1, .5, 1; predicted 20, 10, 10 of 40
    expected = {
        ("uar", None): 2.5 / 3 - 2.3 / 3,
        ("accuracy", None): 23 / 30 - 30 / 40 if 23 / 30 > 30 / 40 else 30 / 40 - 23 / 30,
        ("demographic_parity", "anger"): 20 / 40 - 13 / 30,
        ("demographic_parity", "joy"): 12 / 30 - 10 / 40,
        ("demographic_parity", "calm"): 10 / 40 - 5 / 30,
        ("demographic_parity", None): 12 / 30 - 10 / 40,
        ("statistical_parity", None): (2 / 30 + 6 / 40 + 1 / 12) / 2,
        ("equality_of_opportunity", "anger"): 0.2,
        ("equality_of_opportunity", "joy"): 0.5,
        ("equality_of_opportunity", "calm"): 0.5,
        ("equality_of_opportunity", None): 0.5,
        ("joint_parity", None): 10 / 30 - 10 / 40,
        ("confusion_parity", None): (0.2 + 0.5 + 0.5) / 3,
    }
    assert {(g["statistic"], g["class"]) for g in column["gaps"]} == set(expected)
    for (name, of), value in expected.items():
        assert gap(column, name, of)["value"] == pytest.approx(value, abs=1e-12), (name, of)
    assert (gap(column, "uar")["top"], gap(column, "uar")["bottom"]) == ("b", "a")
    assert gap(column, "equality_of_opportunity", "joy")["top"] == "a"
    assert gap(column, "demographic_parity")["at"] == "joy"
    a = column["groups"][0]
    assert (a["clips"], a["speakers"], a["support"]) == (30, 5, {"anger": 10, "joy": 10, "calm": 10})
    assert a["recall"]["anger"]["value"] == pytest.approx(0.8)
    assert a["predicted"]["anger"]["value"] == pytest.approx(13 / 30)


def test_a_model_that_is_always_right_has_equal_opportunity_but_other_rates() -> None:
    column = by_hand({"a": [[20, 0, 0], [0, 10, 0], [0, 0, 10]], "b": [[10, 0, 0], [0, 10, 0], [0, 0, 20]]})
    correct([column])
    assert gap(column, "equality_of_opportunity")["value"] == 0
    assert gap(column, "uar")["value"] == 0
    assert gap(column, "demographic_parity")["value"] == pytest.approx(0.25)
    assert gap(column, "joint_parity")["value"] == pytest.approx(0.25)
    # the fair model keeps the truths of the groups, so that their shares are no evidence against it
    assert gap(column, "demographic_parity")["threshold"] == pytest.approx(0.25)
    assert {g["verdict"] for g in column["gaps"]} == {CHANCE}


def test_a_class_that_a_group_lacks_makes_no_gap() -> None:
    column = by_hand({"a": [[10, 0, 0], [0, 10, 0], [4, 0, 6]], "b": [[10, 0, 0], [0, 10, 0], [0, 0, 0]]})
    correct([column])
    assert column["uar_classes"] == ["anger", "joy"]
    assert gap(column, "uar")["value"] == 0
    assert gap(column, "equality_of_opportunity", "calm")["value"] is None
    assert gap(column, "equality_of_opportunity", "calm")["verdict"] == NO_VERDICT
    assert gap(column, "equality_of_opportunity")["value"] == 0
    assert gap(column, "confusion_parity")["value"] == 0
    assert gap(column, "accuracy")["value"] == pytest.approx(4 / 30)


def test_three_groups_take_the_largest_difference() -> None:
    perfect = [[10, 0, 0], [0, 10, 0], [0, 0, 10]]
    column = by_hand({"a": perfect, "b": [[6, 4, 0], [0, 10, 0], [0, 0, 10]], "c": [[2, 8, 0], [0, 10, 0], [0, 0, 10]]})
    assert gap(column, "equality_of_opportunity", "anger")["value"] == pytest.approx(0.8)
    assert gap(column, "statistical_parity")["value"] == pytest.approx(8 / 30)
    assert (gap(column, "uar")["top"], gap(column, "uar")["bottom"]) == ("a", "c")


def test_dimensions_by_hand() -> None:
    true = np.tile([1.0, 2.0, 3.0, 4.0, 5.0], 10)
    predicted = np.concatenate([true[:25], true[25:] + 1])
    groups = ["a"] * 25 + ["b"] * 25
    heads = [f"{g}{i % 5}" for i, g in enumerate(groups)]
    column = compare_dimensions({"arousal": true}, {"arousal": predicted}, groups, heads, draws=200)
    correct([column])
    assert gap(column, "bias", "arousal")["value"] == pytest.approx(1)
    assert gap(column, "rmse", "arousal")["value"] == pytest.approx(1)
    assert gap(column, "ccc", "arousal")["value"] == pytest.approx(1 - 4 / 5)  # 2 * 2 / (2 + 2 + 1)
    assert gap(column, "bias", "arousal")["verdict"] == MORE
    shifted = compare_dimensions({"arousal": true + 1e6}, {"arousal": predicted + 1e6}, groups, heads, draws=200)
    assert gap(shifted, "ccc", "arousal")["value"] == pytest.approx(0.2, abs=1e-6)
    assert gap(shifted, "bias", "arousal")["threshold"] == pytest.approx(gap(column, "bias", "arousal")["threshold"])


def test_clips_without_truth_or_group_are_left_out() -> None:
    t, p = clips([[8, 2, 0], [0, 10, 0], [5, 0, 5]])
    true, predicted = np.array(t * 2 + [-1, 0]), np.array(p * 2 + [2, 2])
    groups = ["a"] * 30 + ["b"] * 30 + ["a", None]
    heads = [f"{g}{i % 5}" for i, g in enumerate(groups)]
    column = compare_categories(true, predicted, LABELS, groups, heads, draws=50)
    assert [group["clips"] for group in column["groups"]] == [30, 30]
    assert column["missing"] == 1
    assert gap(column, "statistical_parity")["value"] == 0


# -- models that are simulated ---------------------------------------------------------------------------------------

Data = tuple[NDArray[np.int64], NDArray[np.int64], list[str], list[str]]


def fair_model(
    seed: int, speakers: tuple[int, int], per_speaker: tuple[int, int], mix: Any = None, favour: float = 0.0
) -> Data:
    """Speakers with confusions of their own around one of all; ``favour`` pulls group b's clips to joy."""
    rng = np.random.default_rng(seed)
    base = np.full((3, 3), 0.12) + np.eye(3) * 0.64
    true, predicted, groups, heads = [], [], [], []
    for g, (count, clips_each) in enumerate(zip(speakers, per_speaker, strict=True)):
        for s in range(count):
            confusion = np.array([rng.dirichlet(row * 30) for row in base])
            if g:
                confusion = (1 - favour) * confusion + favour * np.array([0, 1, 0])
            own = rng.choice(3, clips_each, p=None if mix is None else mix[g])
            true += own.tolist()
            predicted += [int(rng.choice(3, p=confusion[t])) for t in own]
            groups += ["ab"[g]] * clips_each
            heads += [f"{'ab'[g]}{s}"] * clips_each
    return np.array(true), np.array(predicted), groups, heads


def flagged(repeats: int, **how: Any) -> tuple[float, float]:
    """Share of simulations where UAR alone exceeds its threshold, and where anything is flagged at all."""
    alone = whole = 0
    for seed in range(repeats):
        true, predicted, groups, heads = fair_model(seed, **how)
        column = compare_categories(true, predicted, LABELS, groups, heads, draws=199, seed=seed)
        alone += gap(column, "uar")["p"] <= 0.05
        correct([column])
        whole += any(g["verdict"] == MORE for g in column["gaps"])
    return alone / repeats, whole / repeats


def test_a_fair_model_is_flagged_as_often_as_stated() -> None:
    alone, whole = flagged(200, speakers=(6, 6), per_speaker=(30, 30))
    assert 0.02 <= alone <= 0.09  # 5 %, give or take three standard errors; the seeds are fixed
    assert whole <= 0.09


@pytest.mark.parametrize(
    "how",
    [
        {"speakers": (4, 16), "per_speaker": (30, 30)},
        {"speakers": (10, 10), "per_speaker": (6, 60)},
        {"speakers": (8, 8), "per_speaker": (30, 30), "mix": ((0.1, 0.3, 0.6), (0.6, 0.3, 0.1))},
    ],
    ids=["few and many speakers", "few and many clips each", "other classes"],
)
def test_sizes_and_classes_of_groups_do_not_matter_to_a_fair_model(how: dict[str, Any]) -> None:
    alone, whole = flagged(60, **how)
    assert alone <= 0.125
    assert whole <= 0.125


def test_an_unfair_model_is_found() -> None:
    true, predicted, groups, heads = fair_model(1, (8, 8), (40, 40), favour=0.35)
    column = compare_categories(true, predicted, LABELS, groups, heads, draws=500)
    correct([column])
    joy = gap(column, "demographic_parity", "joy")
    assert joy["verdict"] == MORE
    assert (joy["top"], joy["bottom"]) == ("b", "a")
    assert joy["value"] > joy["threshold"]
    assert joy["low"] > 0
    assert gap(column, "uar")["verdict"] == MORE
    assert gap(column, "equality_of_opportunity", "anger")["top"] == "a"


def test_speakers_stay_together() -> None:
    """Two speakers of ten who are always misunderstood: much by clips, little by speakers."""
    heads = [f"s{i // 40}" for i in range(400)]
    groups = ["a"] * 200 + ["b"] * 200
    true = np.tile([0, 1], 200)
    predicted = np.where(np.isin(heads, ["s0", "s1"]), 1 - true, true)
    together = compare_categories(true, predicted, LABELS, groups, heads, draws=500)
    apart = compare_categories(true, predicted, LABELS, groups, None, draws=500)
    assert together["unit"] == fairness.SPEAKERS
    assert apart["unit"] == fairness.CLIPS
    assert gap(together, "uar")["p"] > 0.2  # both in one group: in 4 of 9 deals
    assert gap(apart, "uar")["p"] < 0.01
    assert gap(together, "uar")["threshold"] == pytest.approx(0.4)
    assert gap(apart, "uar")["threshold"] < 0.15


def test_a_column_within_speakers_compares_within_them() -> None:
    """Each speaker in both groups, speakers very unlike: the difference within all of them is found."""
    rng = np.random.default_rng(0)
    heads = np.repeat([f"s{i}" for i in range(6)], 60)
    groups = np.tile(["phone", "studio"], 180)
    ability = np.repeat(rng.uniform(0.3, 0.9, 6), 60)
    right = rng.random(360) < ability - 0.2 * (groups == "phone")
    true = rng.integers(0, 2, 360)
    column = compare_categories(true, np.where(right, true, 1 - true), LABELS, groups.tolist(), heads.tolist())
    correct([column])
    assert column["unit"] == fairness.WITHIN
    assert gap(column, "accuracy")["verdict"] == MORE
    assert gap(column, "accuracy")["low"] > 0


@pytest.mark.parametrize("sizes", [(8, 8), (4, 12)])
def test_dimensions_of_a_fair_and_an_unfair_model(sizes: tuple[int, int]) -> None:
    def column(seed: int, shift: float, means: tuple[float, float] = (3.0, 3.0)) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        true, predicted, groups, heads = [], [], [], []
        for g, count in enumerate(sizes):
            for s in range(count):
                own = rng.normal(means[g], 1, 30)
                noise = rng.normal(0, 0.3) + rng.normal(0, 0.5, 30)
                true += own.tolist()
                predicted += (3 + 0.6 * (own - 3) + noise + shift * g).tolist()
                groups += ["ab"[g]] * 30
                heads += [f"{g}{s}"] * 30
        found = compare_dimensions({"v": true}, {"v": predicted}, groups, heads, draws=199, seed=seed)
        correct([found])
        return found

    fair = [any(g["verdict"] == MORE for g in column(seed, 0.0)["gaps"]) for seed in range(60)]
    assert np.mean(fair) <= 0.12
    assert gap(column(0, 1.0), "bias", "v")["verdict"] == MORE
    # a model that draws to the middle errs upwards where truths are low: the same rule for both groups
    drawn = column(0, 0.0, means=(2.0, 4.0))
    assert gap(drawn, "bias", "v")["value"] > 0.5
    assert gap(drawn, "bias", "v")["verdict"] == CHANCE


def test_groups_that_are_too_small_are_shown_without_a_verdict() -> None:
    true, predicted, groups, heads = fair_model(0, (6, 6), (30, 30))
    groups = [*groups[:-40], *["few"] * 10, *["lone"] * 30]
    column = compare_categories(true, predicted, LABELS, groups, heads, draws=100)
    correct([column])
    why = {group["name"]: group["why_not"] for group in column["groups"]}
    assert why == {"a": "", "b": "", "few": "only 10 clips", "lone": "only 1 speaker"}
    assert all(g["top"] in ("a", "b", None) for g in column["gaps"])
    lone = next(group for group in column["groups"] if group["name"] == "lone")
    assert lone["scores"]["uar"]["value"] is not None
    assert lone["scores"]["uar"]["low"] is None  # one speaker: no interval


@pytest.mark.parametrize(("speakers", "words"), [((3, 3), "only 10 ways"), ((1, 9), "fewer than two groups")])
def test_too_few_speakers_for_any_verdict(speakers: tuple[int, int], words: str) -> None:
    true, predicted, groups, heads = fair_model(0, speakers, (40, 40), favour=0.9)
    column = compare_categories(true, predicted, LABELS, groups, heads, draws=100)
    assert correct([column]) == 0
    assert words in column["obstacle"]
    assert {(g["verdict"], g["p"]) for g in column["gaps"]} <= {(NO_VERDICT, None)}


def test_correction_over_statistics_and_columns() -> None:
    true, predicted, groups, heads = fair_model(3, (8, 8), (40, 40))
    one = compare_categories(true, predicted, LABELS, groups, heads, draws=500)
    two = compare_categories(true, predicted, LABELS, groups, heads, draws=500)
    alone = compare_categories(true, predicted, LABELS, groups, heads, draws=500)
    assert correct([one, two]) == 2 * correct([alone])
    for a, b in zip(alone["gaps"], one["gaps"], strict=True):
        assert a["p_corrected"] >= a["p"]
        assert b["p_corrected"] >= a["p_corrected"]
        assert "simulated" not in a
    doubled = [b["p_corrected"] / a["p_corrected"] for a, b in zip(alone["gaps"], one["gaps"], strict=True)]
    assert max(doubled) <= 2 + 1e-9


def test_min_p_of_independent_statistics_is_about_sidaks() -> None:
    rng = np.random.default_rng(0)
    simulated = rng.random((5000, 10))
    corrected = fairness._min_p(np.array([0.99, *[0.5] * 9]), simulated)
    alone = (1 + (simulated[:, 0] >= 0.99).sum()) / 5001
    assert corrected[0] == pytest.approx(1 - (1 - alone) ** 10, abs=0.012)
    assert corrected[1:].min() > 0.9


def test_the_same_seed_gives_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    true, predicted, groups, heads = fair_model(5, (5, 7), (20, 30))
    first, second = (compare_categories(true, predicted, LABELS, groups, heads, seed=4) for _ in range(2))
    correct([first])
    correct([second])
    assert first == second
    assert all(g["value"] is None or math.isfinite(g["value"]) for g in first["gaps"])
    assert capsys.readouterr().err == ""
