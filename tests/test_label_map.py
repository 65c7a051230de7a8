"""Label spaces: named maps, maps of users, regions, scales, and the mistakes in them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sertune.data.label_map import (
    MAPS,
    LabelMap,
    apply_map,
    drop_unshared,
    find_map,
    known_labels,
    map_from,
    rescaled,
    to_one_scale,
)
from sertune.data.labels import CATEGORIES
from sertune.data.manifest import Manifest, Scheme
from sertune.errors import SertuneError


def corpus(*emotions: str | None, name: str = "corpus", **columns: Any) -> Manifest:
    frame = pd.DataFrame({"file": [f"/{name}/{i}.wav" for i in range(len(emotions))], "emotion": emotions})
    schemes = columns.pop("schemes", None)
    ratings = columns.pop("ratings", None)
    return Manifest.of(name, frame.assign(**columns), schemes, ratings)


def test_four_classes_count_excited_as_happy() -> None:
    mapped = apply_map(
        corpus("anger", "excitement", "happiness", "frustration", None, "excitement"), find_map("4class")
    )
    assert mapped.manifest.utterances["emotion"].tolist() == [
        "anger",
        "happiness",
        "happiness",
        None,
        None,
        "happiness",
    ]
    assert mapped.manifest.schemes["emotion"].labels == ("anger", "happiness")
    assert mapped.renamed == {("excitement", "happiness"): 2}
    assert mapped.dropped == {"frustration": 1}
    assert mapped.notes == ("excitement counted as happiness (2 clips)", "frustration left out (1 clips)")
    assert mapped.manifest.utterances["label_before"].tolist()[1] == "excitement"


def test_the_map_of_paper_d() -> None:
    """arXiv 2510.07052: calm counts as boredom, surprise is dropped, the others stay."""
    ravdess = ("anger", "calm", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
    mapped = apply_map(corpus(*ravdess), find_map("paper-d")).manifest
    wanted = ["anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness", None]
    assert mapped.utterances["emotion"].tolist() == wanted


def test_named_maps_hold_canonical_labels() -> None:
    for found in MAPS.values():
        assert found.labels
        assert found.source
        if not found.regions:
            assert set(found.rename) <= set(CATEGORIES)
            assert set(found.labels) <= set(CATEGORIES)
        assert map_from(found.describe()).describe() == found.describe()


def test_single_ratings_pass_through_the_map() -> None:
    rows = [("a", "1", "emotion", "excitement"), ("a", "2", "emotion", "frustration"), ("a", "1", "arousal", 3.0)]
    ratings = pd.DataFrame(rows, columns=["utterance", "rater", "attribute", "value"])
    manifest = corpus("excitement", "anger", id=["a", "b"], ratings=ratings, schemes={"arousal": Scheme(low=1, high=5)})
    mapped = apply_map(manifest, find_map("4class")).manifest
    mapped.validate()
    assert mapped.ratings is not None
    assert mapped.ratings["value"].tolist() == ["happiness", 3.0]
    assert mapped.majority().tolist() == ["happiness", None]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_map_of_ones_own(tmp_path: Path) -> None:
    text = "map: {Wut: anger, joy: happiness, excited: happy, calm: null}\nothers: keep\nlabels: [happiness, anger]\n"
    found = find_map(write(tmp_path / "own.yaml", text))
    mapped = apply_map(corpus("anger", "excitement", "calm", "boredom"), found).manifest
    assert mapped.utterances["emotion"].tolist() == ["anger", "happiness", None, "boredom"]
    assert mapped.schemes["emotion"].labels == ("happiness", "anger", "boredom")


def test_a_label_outside_the_map_where_that_is_an_error(tmp_path: Path) -> None:
    found = find_map(write(tmp_path / "own.yaml", "map: {anger: anger, sad: sadness}\nothers: error\n"))
    with pytest.raises(SertuneError, match=r"own.yaml: 'fear' of corpus is not in it; add it to 'map'"):
        apply_map(corpus("anger", "fear"), found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("labels: [anger]", "expected either 'map'"),
        ("map: {anger: anger}\nregions: [{label: a, arousal: [0, 1]}]", "expected either 'map'"),
        ("map: [anger]", "expected lines such as"),
        ("map: {anger: 3}", "'anger': 3: expected a label"),
        ("map: {anger: fear, Wut: sadness}", "anger becomes both fear and sadness"),
        ("map: {anger: fear}\nothers: ignore", "others = ignore: expected drop, keep or error"),
        ("map: {anger: fear}\nlabels: [sadness]", "nothing becomes 'sadness'"),
        ("map: {anger: fear}\nlables: [fear]", "unknown key 'lables'; did you mean 'labels'"),
        ("regions: [{label: high}]", "region 1: expected a label and bounds"),
        ("regions: [{label: high, arousal: [0, 3]}]", "region 1: arousal: expected [low, high] between -1 and 1"),
        ("regions: [{label: high, arousel: [0, 1]}]", "did you mean 'arousal'"),
        ("map: {anger: fear", "not valid YAML"),
    ],
)
def test_mistakes_in_a_map(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SertuneError) as caught:
        find_map(write(tmp_path / "own.yaml", text))
    assert words in str(caught.value)
    assert "own.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_maps(tmp_path: Path) -> None:
    with pytest.raises(SertuneError, match="unknown label map '4clas'; did you mean '4class'"):
        find_map("4clas")
    with pytest.raises(SertuneError, match="no such configuration file"):
        find_map(str(tmp_path / "gone.yaml"))


def test_a_map_that_fits_nothing() -> None:
    with pytest.raises(SertuneError, match=r"no label of corpus \(contempt, frustration\) is in it"):
        apply_map(corpus("contempt", "frustration"), find_map("big6"))
    numbers = Manifest.of("n", pd.DataFrame({"file": ["/a"], "arousal": [3.0]}), {"arousal": Scheme(low=1, high=5)})
    with pytest.raises(SertuneError, match="n has no emotion labels"):
        apply_map(numbers, find_map("4class"))


# Regions


def dimensional(low: float, high: float, **values: list[float]) -> Manifest:
    frame = pd.DataFrame({"file": [f"/{i}.wav" for i in range(len(next(iter(values.values()))))], **values})
    return Manifest.of("rated", frame, {name: Scheme(low=low, high=high) for name in values})


def test_quadrants_of_arousal_and_valence_on_any_scale() -> None:
    for low, high in ((1.0, 5.0), (1.0, 7.0), (-1.0, 1.0)):
        middle, half = (low + high) / 2, (high - low) / 4
        rated = dimensional(
            low,
            high,
            arousal=[middle - half, middle, high, np.nan],
            valence=[low, middle - half, high, middle],
        )
        labels = apply_map(rated, find_map("quadrants")).manifest.utterances["emotion"].tolist()
        names = ["low arousal, negative valence", "high arousal, negative valence", "high arousal, positive valence"]
        assert labels == [*names, None]


def test_own_regions_the_first_that_holds_a_clip(tmp_path: Path) -> None:
    text = "regions:\n- {label: panic, arousal: [0.5, 1], valence: [-1, 0]}\n- {label: awake, activation: [0, 1]}\n"
    found = find_map(write(tmp_path / "own.yml", text))
    mapped = apply_map(dimensional(-1, 1, arousal=[0.9, 0.9, 0.1, -0.5], valence=[-0.5, 0.5, -0.5, 0]), found)
    assert mapped.manifest.utterances["emotion"].tolist() == ["panic", "awake", "awake", None]
    assert mapped.dropped == {"outside the regions": 1}
    with pytest.raises(SertuneError, match="corpus has no arousal to make labels from"):
        apply_map(corpus("anger"), found)


# Scales


def test_scales_are_converted_end_to_end() -> None:
    ratings = pd.DataFrame(
        [("/0.wav", "r", "arousal", 2.0)], columns=["utterance", "rater", "attribute", "value"], dtype=object
    )
    frame = pd.DataFrame({"file": ["/0.wav", "/1.wav"], "arousal": [1.0, 5.0]})
    rated = Manifest.of("rated", frame, {"arousal": Scheme(low=1, high=5)}, ratings)
    moved, notes = rescaled(rated, {"arousal": (-1.0, 1.0), "valence": (1.0, 7.0)})
    moved.validate()
    assert moved.utterances["arousal"].tolist() == [-1.0, 1.0]
    assert moved.ratings is not None
    assert moved.ratings["value"].tolist() == [-0.5]
    assert notes == ("arousal of rated converted from 1..5 to -1..1",)
    back, _ = rescaled(moved, {"arousal": (1.0, 5.0)})
    np.testing.assert_allclose(back.utterances["arousal"], rated.utterances["arousal"])


def test_corpora_meet_on_the_first_ones_scales() -> None:
    one, two = dimensional(1, 7, arousal=[1.0, 7.0]), dimensional(1, 5, arousal=[3.0], valence=[2.0])
    made, notes = to_one_scale([one, two])
    assert list(made[1].schemes["arousal"].scale) == [1, 7]
    assert list(made[1].schemes["valence"].scale) == [1, 5]
    assert made[1].utterances["arousal"].tolist() == [4.0]
    assert len(notes) == 1


# Classes that a corpus lacks


def test_classes_that_not_all_corpora_have() -> None:
    one, two = corpus("anger", "fear", "sadness", name="one"), corpus("anger", "sadness", "calm", name="two")
    left, notes = drop_unshared([one, two])
    assert [known_labels(m) for m in left] == [("anger", "sadness")] * 2
    assert notes == (
        "one: fear left out, as another corpus lacks it (1 clips)",
        "two: calm left out, as another corpus lacks it (1 clips)",
    )
    with pytest.raises(SertuneError, match="leaves 1 labels that all corpora have"):
        drop_unshared([one, corpus("anger", "calm", name="two")])


def test_the_order_of_labels_does_not_depend_on_the_corpus() -> None:
    found = LabelMap("own", {"sadness": "sadness", "anger": "anger"}, order=("sadness", "anger"))
    for emotions in (("anger", "sadness"), ("sadness", "anger")):
        assert apply_map(corpus(*emotions), found).manifest.schemes["emotion"].labels == ("sadness", "anger")
