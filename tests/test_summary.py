import json

import numpy as np
import pytest
from numpy.typing import NDArray

from sertune.metrics import scores
from sertune.metrics.summary import summarise_categories, summarise_dimensions

Ints = NDArray[np.int64]

LABELS = ("anger", "fear", "neutral", "surprise")


@pytest.fixture
def categories() -> tuple[Ints, Ints, list[str]]:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 120)  # surprise never occurs
    predicted = np.where(rng.random(120) < 0.7, true, rng.integers(0, 3, 120))
    true[:4] = -1
    return true, predicted, [f"s{i}" for i in rng.integers(0, 6, 120)]


def test_categories_have_the_shapes_of_the_report(categories: tuple[Ints, Ints, list[str]]) -> None:
    true, predicted, speakers = categories
    got = summarise_categories(true, predicted, LABELS, speakers)
    assert set(got) == {"metrics", "per_class", "confusion", "speakers", "interval", "warnings"}
    assert got["metrics"]["uar"]["value"] == pytest.approx(scores.uar(true, predicted))
    for metric in got["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]
    assert np.sum(got["confusion"]) == 116 == sum(s["clips"] for s in got["speakers"])
    assert [s["speaker"] for s in got["speakers"]] == [f"s{i}" for i in range(6)]
    one = np.array([s == "s3" for s in speakers])
    assert got["speakers"][3]["uar"] == pytest.approx(scores.uar(true[one], predicted[one]))
    assert list(got["per_class"]) == list(LABELS)
    assert got["per_class"]["fear"]["support"] == int((true == 1).sum())
    assert got["interval"] == "95 % percentile bootstrap over 6 speakers, 2000 resamples"
    assert got["warnings"] == []
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_a_class_without_clips_is_null(categories: tuple[Ints, Ints, list[str]]) -> None:
    got = summarise_categories(*categories[:2], LABELS, categories[2])["per_class"]["surprise"]
    missing = {"value": None, "low": None, "high": None}
    assert got == {"recall": missing, "precision": None, "f1": None, "support": 0}


def test_it_says_when_the_interval_is_to_be_distrusted(categories: tuple[Ints, Ints, list[str]]) -> None:
    true, predicted, _ = categories
    unknown = summarise_categories(true, predicted, LABELS, [None] * 120)
    assert unknown["speakers"] == []
    assert "116 utterances" in unknown["interval"]
    assert "too narrow" in unknown["warnings"][0]
    few = summarise_categories(true, predicted, LABELS, ["a", "b", "c"] * 40)
    assert "only 3 speakers" in few["warnings"][0]


def test_dimensions_have_the_shapes_of_the_report() -> None:
    rng = np.random.default_rng(1)
    true = {"arousal": rng.normal(3, 1, 90), "valence": rng.normal(3, 1, 90)}
    predicted = {k: v + rng.normal(0, 0.7, 90) for k, v in true.items()}
    true["valence"][:30] = np.nan
    speakers = [f"{i % 9}" for i in range(90)]
    got = summarise_dimensions(true, predicted, speakers, seed=3)
    assert set(got["metrics"]) == {f"{m}_{d}" for m in ("ccc", "rmse", "pearson") for d in true}
    assert got["metrics"]["ccc_valence"]["value"] == pytest.approx(
        scores.ccc(true["valence"][30:], predicted["valence"][30:])
    )
    assert got["speakers"][0]["clips"] == 10
    own = slice(0, None, 9)
    assert got["speakers"][0]["rmse_arousal"] == pytest.approx(
        scores.rmse(true["arousal"][own], predicted["arousal"][own])
    )
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_one_clip_per_speaker_has_no_ccc_but_an_error() -> None:
    got = summarise_dimensions({"arousal": [1.0, 2.0]}, {"arousal": [1.5, 2.0]}, ["a", "b"])
    assert [s["ccc_arousal"] for s in got["speakers"]] == [None, None]
    assert [s["rmse_arousal"] for s in got["speakers"]] == [0.5, 0.0]
    with pytest.raises(ValueError, match="dimension"):
        summarise_dimensions({}, {}, None)
