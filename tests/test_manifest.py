"""Manifests: normalised, validated, saved and read back, and the views of their ratings."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sertune.data.manifest import UTTERANCE_COLUMNS, Manifest, Scheme, concat
from sertune.errors import SertuneError


def table(**columns: Any) -> pd.DataFrame:
    base: dict[str, Any] = {
        "id": ["a", "b", "c", "d"],
        "file": ["/x/a.wav", "/x/b.wav", "/x/c.wav", "/x/d.wav"],
        "speaker": ["1", "1", "2", None],
        "emotion": ["angry", "Sad", None, "neutral"],
        "arousal": [1.0, 2.5, np.nan, 5.0],
    }
    return pd.DataFrame(base | columns)


RATINGS = pd.DataFrame(
    {
        "utterance": ["a", "a", "a", "b", "b", "c", "a", "b"],
        "rater": ["r1", "r2", "r3", "r1", "r2", "r3", "r1", "r2"],
        "attribute": ["emotion"] * 6 + ["arousal", "activation"],
        "value": ["angry", "anger", "sad", "sad", "neutral", "neutral", 2, 3.5],
    }
)


def small(**options: Any) -> Manifest:
    return Manifest.of("small", table(), ratings=RATINGS, **options)


def test_columns_types_and_names_are_made_right() -> None:
    frame = small().utterances
    assert tuple(frame.columns) == UTTERANCE_COLUMNS
    assert frame["emotion"].tolist() == ["anger", "sadness", None, "neutral"]
    assert frame["speaker"].tolist() == ["1", "1", "2", None]
    assert frame["text"].tolist() == [None] * 4
    assert frame["arousal"].dtype == np.float64
    assert frame["start"].isna().all()
    assert small().schemes == {
        "emotion": Scheme(labels=("anger", "neutral", "sadness")),
        "arousal": Scheme(low=1.0, high=5.0),
    }


def test_text_columns_of_odd_types_are_text() -> None:
    frame = Manifest.of(
        "t",
        table(
            speaker=pd.Categorical(["x", " y ", None, "x"]),
            session=[1, "1", 2.5, None],
            text=[["a", "b"], None, "", "c"],
            emotion=pd.array(["Angry", "angry", None, "wut"], dtype="string"),
        ),
    ).utterances
    assert frame["speaker"].tolist() == ["x", "y", None, "x"]
    assert frame["session"].tolist() == ["1", "1", "2.5", None]
    assert frame["text"].tolist() == ["['a', 'b']", None, None, "c"]
    assert frame["emotion"].tolist() == ["anger", "anger", None, "anger"]


@pytest.mark.parametrize("file", ["a//b.wav", "./a/b.wav", "a/../a/b.wav", "a/b.wav/", "a/./b.wav", "a/b.wav"])
def test_files_have_one_spelling(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (file, f"{tmp_path}/{file}"):
        assert Manifest.of("t", table(file=[name, "/x", "/y", "/z"])).utterances["file"].iat[0] == f"{tmp_path}/a/b.wav"


def test_numbers_as_speakers_and_text_as_numbers() -> None:
    frame = Manifest.of("t", table(speaker=[3.0, np.nan, 4.0, 4.0], arousal=["1", "", "2.5", "nan"])).utterances
    assert frame["speaker"].tolist() == ["3", None, "4", "4"]
    np.testing.assert_array_equal(frame["arousal"], [1, np.nan, 2.5, np.nan])


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0.0, 0.5], (0, 1)),
        ([-0.5, 1.0], (-1, 1)),
        ([1.0, 5.0], (1, 5)),
        ([1.0, 5.5], (1, 7)),
        ([2.0, 9.0], (1, 9)),
        ([0.0, 2.0], (0, 100)),
    ],
)
def test_an_unknown_scale_is_the_smallest_known_one_that_fits(values: list[float], scale: tuple[int, int]) -> None:
    frame = pd.DataFrame({"file": ["/a", "/b"], "valence": values})
    assert Manifest.of("t", frame).schemes["valence"].scale == scale


def test_a_scale_nobody_uses_must_be_stated() -> None:
    frame = pd.DataFrame({"file": ["/a", "/b"], "valence": [-3.0, 3.0]})
    with pytest.raises(SertuneError, match=r"valence goes from -3 to 3.*state it"):
        Manifest.of("t", frame)
    assert Manifest.of("t", frame, {"valence": Scheme(low=-3, high=3)}).schemes["valence"].scale == (-3, 3)


def test_a_stated_order_of_labels_is_kept_through_selections() -> None:
    stated = {"emotion": Scheme(labels=("sad", "angry", "neutral"))}
    manifest = small(schemes=stated)
    assert manifest.schemes["emotion"].labels == ("sadness", "anger", "neutral")
    assert manifest.select([0]).schemes == manifest.schemes


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": ["a", "b", "a", "a"]}, r"row 3 \(/x/c.wav\) repeats the id 'a' \(and 1 more"),
        ({"id": ["a", None, "c", "d"]}, "row 2 .* has no id"),
        ({"file": ["/x", "/y", "", "/z"]}, "row 3 has no file"),
        ({"start": [0, 1, 2, 3], "end": [1, 2, 3, 3]}, "row 4 .* ends at 3 s, not after its start at 3 s"),
        ({"end": [1.0, np.nan, 0.0, 1.0]}, "row 3 .* ends at 0 s"),
        ({"start": [0, -1, 0, 0]}, "row 2 .* starts at -1 s"),
        ({"duration": [1, 1, 1, -2]}, "row 4 .* negative duration"),
        ({"arousal": [1, 2, "high", 3]}, "column arousal, row 3: expected a number, found 'high'"),
        ({"arousal": [1, 2, np.inf, 3]}, "column arousal, row 3: the number is infinite"),
        ({"partition": ["train", "valid", "testing", "held"]}, "row 4 .* partition 'held', expected train"),
    ],
)
def test_bad_tables_name_the_row(columns: dict[str, Any], words: str) -> None:
    with pytest.raises(SertuneError, match=words):
        Manifest.of("t", table(**columns))


def test_values_outside_a_stated_scheme() -> None:
    scale, names = {"arousal": Scheme(low=1, high=4)}, {"emotion": Scheme(labels=("anger", "neutral"))}
    with pytest.raises(SertuneError, match=r"row 4 .* arousal 5.0, outside the scale 1 to 4"):
        Manifest.of("t", table(), scale)
    with pytest.raises(SertuneError, match=r"row 2 .* emotion 'sadness', not one of the labels anger, neutral"):
        Manifest.of("t", table(), names)
    assert len(Manifest.of("t", table(), scale | names, strict=False)) == 4
    for scheme in (Scheme(), Scheme(low=5, high=1), Scheme(low=1)):
        with pytest.raises(SertuneError, match="scale of arousal"):
            Manifest.of("t", table(), {"arousal": scheme})


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("z", "r9", "emotion", "sad"), "ratings row 9 rates 'z'"),
        (("a", "r1", "emotion", "sad"), "ratings row 9 is the second rating by rater 'r1' for the emotion of 'a'"),
        (("a", None, "emotion", "sad"), "ratings row 9 has no rater"),
        (("a", "r9", "emotion", None), "ratings row 9 has no value"),
        (("a", "r9", "arousal", "loud"), "row 9: expected a number, found 'loud'"),
        (("a", "r9", "arousel", 3), "unknown attribute.*did you mean 'arousal'"),
        (("a", "r9", "arousal", 7), "ratings row 9 has arousal 7.0, outside"),
        (("a", "r9", "emotion", "fear"), "ratings row 9 has emotion 'fear', not one of"),
    ],
)
def test_bad_ratings_name_the_row(row: tuple[object, ...], words: str) -> None:
    ratings = pd.DataFrame([*RATINGS.itertuples(index=False, name=None), row], columns=RATINGS.columns)
    schemes = {"emotion": Scheme(labels=("anger", "sadness", "neutral")), "arousal": Scheme(low=1, high=5)}
    with pytest.raises(SertuneError, match=words):
        Manifest.of("t", table(), schemes, ratings)


def test_views_of_the_ratings() -> None:
    manifest = small()
    assert manifest.votes("emotion").to_dict("list") == {
        "anger": [2, 0, 0, 0],
        "neutral": [0, 1, 1, 0],
        "sadness": [1, 1, 0, 0],
    }
    assert manifest.majority("emotion").tolist() == ["anger", None, "neutral", None]
    matrix, raters = manifest.rater_matrix("emotion")
    assert raters == ("r1", "r2", "r3")
    nan = np.nan
    np.testing.assert_array_equal(matrix, [[0, 0, 2], [2, 1, nan], [nan, nan, 1], [nan, nan, nan]])
    matrix, raters = manifest.rater_matrix("arousal")
    assert raters == ("r1", "r2")
    np.testing.assert_array_equal(matrix, [[2, nan], [nan, 3.5], [nan, nan], [nan, nan]])
    with pytest.raises(SertuneError, match="dimension"):
        manifest.votes("arousal")
    with pytest.raises(SertuneError, match="unknown attribute"):
        manifest.votes("valence")
    with pytest.raises(SertuneError, match="no ratings of emotion"):
        Manifest.of("t", table()).majority()


def test_select_by_positions_and_mask_takes_ratings_along() -> None:
    manifest = small()
    chosen = manifest.select(np.array([2, 0]))
    assert chosen.utterances["id"].tolist() == ["c", "a"]
    assert list(chosen.utterances.index) == [0, 1]
    assert chosen.ratings is not None
    assert set(chosen.ratings["utterance"]) == {"a", "c"}
    by_mask = manifest.select(manifest.utterances["speaker"] == "1")
    assert by_mask.utterances["id"].tolist() == ["a", "b"]
    assert by_mask.utterances["text"].tolist() == [None, None]
    assert len(manifest.select([])) == 0
    with pytest.raises(SertuneError, match="mask"):
        manifest.select(np.array([True]))


def same(first: Manifest, second: Manifest) -> None:
    pd.testing.assert_frame_equal(first.utterances, second.utterances)
    assert first.schemes == second.schemes
    if first.ratings is None:
        assert second.ratings is None
    else:
        assert second.ratings is not None
        pd.testing.assert_frame_equal(first.ratings, second.ratings)


def test_save_and_load_give_the_same(tmp_path: Path) -> None:
    stated = {"emotion": Scheme(labels=("sadness", "anger", "neutral", "fear"))}
    manifest = Manifest.of("small", table(mood=["x", None, "y", "z"], n=[1, 2, 3, 4]), stated, RATINGS)
    manifest.save(tmp_path / "m")
    loaded = Manifest.load(tmp_path / "m")
    same(manifest, loaded)
    assert loaded.name == "small"
    loaded.validate()
    # Again over the first: replaced, with its ratings gone, and what else was there stays.
    (tmp_path / "m" / "a.wav").write_text("audio")
    Manifest.of("bare", table()).save(tmp_path / "m")
    same(Manifest.of("bare", table()), Manifest.load(tmp_path / "m"))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.wav", "m", "schemes.json", "utterances.parquet"]


def test_a_moved_folder_still_finds_its_audio(tmp_path: Path) -> None:
    home = tmp_path / "corpus"
    files = [home / "wav" / "a.wav", home / "m" / "b ü.wav", tmp_path / "elsewhere.wav"]
    frame = pd.DataFrame({"file": [str(f) for f in files], "emotion": ["anger", "fear", "fear"]})
    Manifest.of("t", frame).save(home / "m")
    shutil.move(home, tmp_path / "moved")
    loaded = Manifest.load(tmp_path / "moved" / "m").utterances["file"].tolist()
    moved = tmp_path / "moved"
    assert loaded == [str(moved / "wav" / "a.wav"), str(moved / "m" / "b ü.wav"), str(files[2])]


def test_save_spares_what_is_not_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("years")
    with pytest.raises(SertuneError, match="not a saved manifest"):
        small().save(tmp_path / "work")
    assert [p.name for p in tmp_path.rglob("*")] == ["work", "thesis.tex"]
    with pytest.raises(SertuneError, match="not a saved manifest"):
        Manifest.load(tmp_path / "work")


def test_a_failed_save_keeps_the_earlier_one(tmp_path: Path) -> None:
    small().save(tmp_path / "m")
    mixed = Manifest.of("t", table(odd=pd.Series([1, "x", 2.0, b"y"], dtype=object)))
    with pytest.raises(SertuneError, match="mixes types"):
        mixed.save(tmp_path / "m")
    same(small(), Manifest.load(tmp_path / "m"))
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_damaged_and_newer_manifests(tmp_path: Path) -> None:
    small().save(tmp_path / "m")
    text = (tmp_path / "m" / "schemes.json").read_text()
    (tmp_path / "m" / "schemes.json").write_text(text.replace('"format": 1', '"format": 99'))
    with pytest.raises(SertuneError, match="format 99"):
        Manifest.load(tmp_path / "m")
    (tmp_path / "m" / "schemes.json").write_text(text[:40])
    with pytest.raises(SertuneError, match="damaged"):
        Manifest.load(tmp_path / "m")


def test_concat() -> None:
    one = small()
    two = Manifest.of("two", table(emotion=["fear", "sad", "sad", "sad"]).drop(columns="arousal"))
    both = concat([one, two])
    both.validate()
    assert both.utterances["id"].tolist()[::4] == ["small/a", "two/a"]
    assert both.schemes["emotion"].labels == ("anger", "neutral", "sadness", "fear")
    assert both.utterances["arousal"].isna().tolist() == [False, False, True, False] + [True] * 4
    assert both.utterances["corpus"].tolist() == ["small"] * 4 + ["two"] * 4
    assert both.majority().tolist() == ["anger", None, "neutral"] + [None] * 5
    assert both.utterances["text"].tolist() == [None] * 8
    apart = Manifest.of("three", table(id=list("wxyz")))
    assert concat([one, apart]).utterances["id"].tolist() == list("abcdwxyz")
    assert concat([one, one]).utterances["id"].is_unique
    assert concat([one]) is one


def test_concat_refuses_different_scales() -> None:
    other = Manifest.of("wide", table(), {"arousal": Scheme(low=1, high=9)})
    with pytest.raises(SertuneError, match="arousal is rated from 1 to 5 before and from 1 to 9 in wide"):
        concat([small(), other])
    with pytest.raises(SertuneError, match="no data"):
        concat([])


def test_the_table_given_is_not_changed() -> None:
    frame = table()
    before = frame.copy(deep=True)
    Manifest.of("t", frame)
    pd.testing.assert_frame_equal(frame, before)


def test_empty_and_fileless_tables() -> None:
    with pytest.raises(SertuneError, match="no column 'file'"):
        Manifest.of("t", table().drop(columns="file"))
    with pytest.raises(SertuneError, match="no utterances"):
        Manifest.of("t", table().iloc[:0])
