"""Names of labels: one spelling for each."""

import pytest

from sertune.data.labels import ATTRIBUTES, CATEGORIES, CODES, attribute, canonical, gender, partition


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("angry", "anger"),
        ("ANG", "anger"),
        ("wut", "anger"),
        ("Ärger", "anger"),
        ("A\u0308rger", "anger"),
        ("sad", "sadness"),
        ("happy", "happiness"),
        ("joy", "happiness"),
        ("fröhlich", "happiness"),
        ("fearful", "fear"),
        ("Überraschung", "surprise"),
        ("pleasant surprise", "surprise"),
        ("colère", "anger"),
        ("tristeza", "sadness"),
        ("  Neutral ", "neutral"),
        ("bored", "boredom"),
        ("excited", "excitement"),
    ],
)
def test_spellings_have_one_name(spelling: str, name: str) -> None:
    assert canonical(spelling) == name


def test_canonical_names_stay_and_a_users_own_label_is_kept() -> None:
    assert [canonical(name) for name in CATEGORIES] == list(CATEGORIES)
    assert canonical("  Mildly Amused ") == "mildly amused"
    assert canonical("Müde") == "müde"


def test_letters_mean_what_their_corpus_says() -> None:
    assert CODES["emodb"]["A"] == "fear"
    assert CODES["urdu"]["A"] == "anger"
    assert canonical("A") == "a"
    assert all(name in CATEGORIES for codes in CODES.values() for name in codes.values())


def test_aliases_of_attributes_partitions_and_genders() -> None:
    assert attribute("Activation") == "arousal"
    assert attribute("label") == "emotion"
    assert [attribute(a) for a in ATTRIBUTES] == list(ATTRIBUTES)
    assert [partition(p) for p in ("Validation", "val", "development", "eval", "training", "test")] == [
        "dev",
        "dev",
        "dev",
        "test",
        "train",
        "test",
    ]
    assert [gender(g) for g in ("M", "f", "Female", "other")] == ["male", "female", "female", "other"]
