"""Data in other formats: audformat, audb, Hugging Face sets, EmoBox, SpeechBrain, and folds that come with data."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from sertune.corpora import corpus, published, read_all, read_data
from sertune.data.audio import read_audio
from sertune.data.manifest import Manifest, Scheme
from sertune.errors import SertuneError

SPECS: dict[str, Callable[[Path], str]] = {
    "audformat": lambda root: f"audformat:{root}",
    "emobox": lambda root: f"emobox:{root}",
    "hf": lambda root: f"hf:{root}",
    "speechbrain": lambda root: f"speechbrain:{root / 'results' / 'train_with_wav2vec2' / '1993'}",
}
EMOTIONS = ("anger", "happiness", "neutral", "sadness")


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is written to the user's caches."""
    import datasets

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    return tmp_path / "cache" / "sertune"


# All formats


@pytest.mark.parametrize("name", SPECS)
def test_every_format_reads_its_example(name: str, tmp_path: Path) -> None:
    corpus(name).example(tmp_path / "root")
    manifest = read_data(SPECS[name](tmp_path / "root"))
    manifest.validate()
    frame = manifest.utterances
    assert len(frame) >= 12
    assert frame["id"].is_unique
    assert not any(str(tmp_path) in name for name in frame["id"])  # the same on every machine
    assert manifest.schemes["emotion"].labels == EMOTIONS
    for file, seconds in zip(frame["file"], frame["duration"], strict=True):
        assert soundfile.info(file).duration == pytest.approx(seconds)
    assert len(read_audio(frame["file"].tolist()[0], 16000)) > 0


@pytest.mark.parametrize("name", SPECS)
def test_every_format_says_what_it_looked_for(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "gone"):
        with pytest.raises(SertuneError) as caught:
            read_data(f"{name}:{folder}")
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [("audformat", "audformat", "audb"), ("audb", "audb", "audb"), ("hf", "datasets", "hf")],
)
def test_a_missing_library_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str, extra: str
) -> None:
    (tmp_path / "db.yaml").write_text("name: x\n")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SertuneError, match=rf"pip install 'sertune\[{extra}\]'"):
        read_data(f"{name}:{tmp_path}")


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(SertuneError, match="unknown corpus 'huggingface'"):
        read_data("huggingface:x")
    with pytest.raises(SertuneError, match="the corpus 'hf' needs its folder"):
        read_data("hf")
    with pytest.raises(SertuneError, match="no table is among the data"):
        read_all(["emodb:x"], {"emotion": "x"})


# audformat and audb


def test_audformat_keeps_what_its_schemes_say(tmp_path: Path) -> None:
    corpus("audformat").example(tmp_path)
    manifest = read_data(f"audformat:{tmp_path}")
    frame = manifest.utterances.set_index("id")
    row = frame.loc["wav/08a02Sa.wav"]
    assert (row["speaker"], row["gender"], row["language"], row["age"]) == ("8", "female", "de", 34)
    assert (row["emotion"], row["intended"], row["text"]) == ("sadness", "sadness", "Das will sie.")
    tied = frame.loc["wav/03a01Aa.wav"]
    assert (tied["emotion"], tied["intended"]) == (None, "anger")  # no_agreement is no label
    assert frame["partition"].value_counts().to_dict() == {"train": 8, "test": 4}
    assert manifest.schemes["arousal"] == Scheme(low=1, high=5)
    assert manifest.votes().sum(axis=1).tolist() == [3] * 12
    matrix, raters = manifest.rater_matrix("emotion")
    assert raters == ("r1", "r2", "r3")
    assert matrix.shape == (12, 3)
    assert manifest.name == "imitation"


def database(folder: Path, fill: Callable[[Any, Any], None], **options: Any) -> str:
    """A database made by ``fill`` with four files of 1.0 to 1.3 s, saved; its --data."""
    import audformat

    from sertune.corpora.audformat import quiet

    (folder / "a").mkdir(parents=True)
    for i in range(4):
        soundfile.write(folder / "a" / f"{i}.wav", 0.1 * np.ones(800 * (10 + i)), 8000)
    db = audformat.Database("small", **options)
    fill(db, audformat)
    with quiet():
        db.save(str(folder), storage_format="parquet")
    return f"audformat:{folder}"


FILES = [f"a/{i}.wav" for i in range(4)]


def test_audformat_segments_and_ratings_without_a_consensus(tmp_path: Path) -> None:
    def fill(db: Any, audformat: Any) -> None:
        for name in ("ann", "bob"):
            db.raters[name] = audformat.Rater()
        db.schemes["valence"] = audformat.Scheme("float", minimum=-1, maximum=1)
        db.schemes["emotion"] = audformat.Scheme(labels=["happy", "sad"])
        db.schemes["speaker"] = audformat.Scheme("str")
        index = audformat.segmented_index(
            [FILES[0], FILES[0], FILES[1]], ["0s", "0.5s", "0.2s"], ["0.5s", "1s", pd.NaT]
        )
        db["segments"] = audformat.Table(index)
        for rater, values, names in (("ann", [0, 1, -1], ["happy", "sad", "sad"]), ("bob", [1, 1, None], ["sad"] * 3)):
            db["segments"][f"valence.{rater}"] = audformat.Column(scheme_id="valence", rater_id=rater)
            db["segments"][f"valence.{rater}"].set(values)
            db["segments"][f"emotion.{rater}"] = audformat.Column(scheme_id="emotion", rater_id=rater)
            db["segments"][f"emotion.{rater}"].set(names)
        db["files"] = audformat.Table(audformat.filewise_index(FILES))
        db["files"]["speaker"] = audformat.Column(scheme_id="speaker")
        db["files"]["speaker"].set(["s0", "s1", "s2", "s3"])

    manifest = read_data(database(tmp_path / "db", fill))
    frame = manifest.utterances
    assert frame["id"].tolist() == ["a/0.wav:0.0-0.5", "a/0.wav:0.5-1.0", "a/1.wav:0.2-"]
    np.testing.assert_allclose(frame["duration"], [0.5, 0.5, 0.9])
    assert frame["speaker"].tolist() == ["s0", "s0", "s1"]
    np.testing.assert_allclose(frame["valence"], [0.5, 1, -1])  # the mean of the raters
    assert frame["emotion"].tolist() == [None, "sadness", "sadness"]  # their majority, if there is one
    assert manifest.ratings is not None
    assert len(manifest.ratings) == 11
    assert manifest.schemes["valence"] == Scheme(low=-1, high=1)


def test_audformat_by_names_of_columns_and_tables(tmp_path: Path) -> None:
    def fill(db: Any, audformat: Any) -> None:
        db.schemes["feeling"] = audformat.Scheme(labels=["joy", "anger"])
        for name, files in (("feeling.train", FILES[:2]), ("feeling.dev", FILES[2:3]), ("feeling.test", FILES[3:])):
            db[name] = audformat.Table(audformat.filewise_index(files))
            db[name]["felt"] = audformat.Column(scheme_id="feeling")
            db[name]["felt"].set((["joy", "anger"])[: len(files)])

    spec = database(tmp_path / "db", fill)
    with pytest.raises(SertuneError, match=r"no table has a label .*its schemes: feeling; say which with --columns"):
        read_data(spec)
    with pytest.raises(SertuneError, match=r"unknown scheme or column of small 'feelin'; did you mean 'feeling'"):
        read_data(spec, {"emotion": "feelin"})
    frame = read_data(spec, {"emotion": "feeling"}).utterances.sort_values("id", ignore_index=True)
    assert frame["emotion"].tolist() == ["happiness", "anger", "happiness", "happiness"]
    assert frame["partition"].tolist() == ["train", "train", "dev", "test"]
    np.testing.assert_allclose(frame["duration"], [1.0, 1.1, 1.2, 1.3])


def test_a_damaged_database_is_one_line(tmp_path: Path) -> None:
    corpus("audformat").example(tmp_path)
    (tmp_path / "db.files.csv").write_text("nonsense")
    with pytest.raises(SertuneError, match="can't be read as a database in audformat") as caught:
        read_data(f"audformat:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_audb_from_a_repository_then_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import audb

    corpus("audb").example(tmp_path / "host")
    monkeypatch.setattr(audb.config, "CACHE_ROOT", str(tmp_path / "audb"))
    monkeypatch.setattr(audb.config, "SHARED_CACHE_ROOT", str(tmp_path / "shared"))
    monkeypatch.setattr(
        audb.config, "REPOSITORIES", [audb.Repository("repository", str(tmp_path / "host"), "file-system")]
    )
    first = read_data("audb:imitation")
    assert len(first) == 12
    assert first.utterances["id"].tolist()[0].startswith("wav/")
    monkeypatch.setattr(audb.config, "REPOSITORIES", [])
    for name in ("imitation", "imitation@1.0.0"):
        pd.testing.assert_frame_equal(read_data(f"audb:{name}").utterances, first.utterances)
    with pytest.raises(SertuneError, match=r"audb:imitation@2.0.0: can't be fetched .*; cached versions: 1.0.0"):
        read_data("audb:imitation@2.0.0")
    with pytest.raises(SertuneError, match=r"audb:emodbx: no repository .* and it is not in audb's cache"):
        read_data("audb:emodbx")


# Hugging Face


def hf_set(folder: Path, **columns: list[Any]) -> Any:
    """A set of clips held as bytes with further columns, not yet saved."""
    import io

    import datasets

    rows = len(next(iter(columns.values())))
    audio = []
    for i in range(rows):
        data = io.BytesIO()
        soundfile.write(data, 0.1 * np.ones(8000 + 800 * i), 8000, format="wav")
        audio.append({"bytes": data.getvalue(), "path": f"{i}.wav"})
    return datasets.Dataset.from_dict({"audio": audio, **columns}).cast_column("audio", datasets.Audio(decode=False))


def test_hf_splits_are_parts_and_bytes_are_written_once(tmp_path: Path, caches: Path) -> None:
    corpus("hf").example(tmp_path / "set")
    frame = read_data(f"hf:{tmp_path / 'set'}").utterances
    assert frame["partition"].value_counts().to_dict() == {"train": 12, "dev": 6, "test": 6}
    assert set(frame["speaker"]) == {"0", "1", "2", "10", "11", "20", "21"}
    assert {Path(file).suffix for file in frame["file"]} == {".wav", ".flac"}
    written = sorted((caches / "hf").rglob("*.*"))
    assert len(written) == 24
    times = [file.stat().st_mtime_ns for file in written]
    again = read_data(f"hf:{tmp_path / 'set'}@test").utterances
    assert again["file"].tolist() == frame["file"].tolist()[18:]
    assert again["partition"].isna().all()  # one part alone is no split
    assert [file.stat().st_mtime_ns for file in written] == times


def test_hf_continues_after_a_stop(tmp_path: Path, caches: Path) -> None:
    corpus("hf").example(tmp_path / "set")
    frame = read_data(f"hf:{tmp_path / 'set'}").utterances
    lost = Path(frame["file"].tolist()[3])
    sound = lost.read_bytes()
    lost.rename(lost.with_name(f".123-{lost.name}"))  # as a killed process leaves it
    assert read_data(f"hf:{tmp_path / 'set'}").utterances["file"].tolist() == frame["file"].tolist()
    assert lost.read_bytes() == sound


def test_hf_columns_by_name_and_what_is_missing(tmp_path: Path) -> None:
    data = hf_set(tmp_path, mood=["sad", "angry"], loud=[1, 5], other=[[1], [2]])
    data.save_to_disk(str(tmp_path / "set"))
    with pytest.raises(SertuneError, match=r"neither a label .*found columns mood, loud.*--columns.emotion NAME"):
        read_data(f"hf:{tmp_path / 'set'}")
    manifest = read_data(f"hf:{tmp_path / 'set'}", {"emotion": "mood", "arousal": "loud"})
    assert manifest.utterances["emotion"].tolist() == ["sadness", "anger"]
    assert manifest.schemes["arousal"] == Scheme(low=1, high=5)
    np.testing.assert_allclose(manifest.utterances["duration"], [1.0, 1.1])
    data.remove_columns("audio").save_to_disk(str(tmp_path / "mute"))
    with pytest.raises(SertuneError, match=r"no audio column; it has mood \(string\), loud \(int64\), other \(List\)"):
        read_data(f"hf:{tmp_path / 'mute'}", {"emotion": "mood"})
    with pytest.raises(SertuneError, match=r"no column 'sound' \(meant for file\)"):
        read_data(f"hf:{tmp_path / 'set'}", {"file": "sound", "emotion": "mood"})
    with pytest.raises(SertuneError, match="no split 'dev'; it has train"):
        read_data(f"hf:{tmp_path / 'set'}@dev")


def test_hf_folder_of_audio_with_a_table(tmp_path: Path) -> None:
    for part, labels in (("train", ["happy", "sad"]), ("test", ["sad", "happy"])):
        (tmp_path / "set" / part).mkdir(parents=True)
        lines = ["file_name,label,speaker_id"]
        for i, label in enumerate(labels):
            soundfile.write(tmp_path / "set" / part / f"{i}.wav", 0.1 * np.ones(8000), 8000)
            lines.append(f"{i}.wav,{label},s{i}")
        (tmp_path / "set" / part / "metadata.csv").write_text("\n".join(lines))
    frame = read_data(f"hf:{tmp_path / 'set'}").utterances
    frame = frame.sort_values("id", ignore_index=True)
    assert frame["id"].tolist() == ["test/0.wav", "test/1.wav", "train/0.wav", "train/1.wav"]
    assert frame["file"].tolist() == [str(tmp_path / "set" / name) for name in frame["id"]]
    assert frame["emotion"].tolist() == ["sadness", "happiness", "happiness", "sadness"]
    assert frame["speaker"].tolist() == ["s0", "s1", "s0", "s1"]
    assert frame["partition"].tolist() == ["test", "test", "train", "train"]


def test_hf_folder_of_audio_by_folders_of_labels(tmp_path: Path) -> None:
    for label in ("happy", "sad"):
        (tmp_path / "set" / label).mkdir(parents=True)
        soundfile.write(tmp_path / "set" / label / "1.wav", 0.1 * np.ones(8000), 8000)
    frame = read_data(f"hf:{tmp_path / 'set'}").utterances
    assert dict(zip(frame["id"], frame["emotion"], strict=True)) == {"happy/1.wav": "happiness", "sad/1.wav": "sadness"}
    assert frame["partition"].isna().all()
    (tmp_path / "set" / "metadata.csv").write_text("path,label\nx,y\n")
    with pytest.raises(SertuneError, match=r"metadata.csv: no column 'file_name'"):
        read_data(f"hf:{tmp_path / 'set'}")


def test_hf_parquet_with_audio_in_it(tmp_path: Path) -> None:
    import datasets

    data = hf_set(tmp_path, label=["sad", "angry", "sad"]).cast_column("audio", datasets.Audio())
    file = tmp_path / "mine.parquet"
    data.to_parquet(str(file))
    manifest = read_data(f"hf:{file}")
    assert manifest.name == "mine"
    assert manifest.utterances["emotion"].tolist() == ["sadness", "anger", "sadness"]
    np.testing.assert_allclose(manifest.utterances["duration"], [1.0, 1.1, 1.2])


def test_hf_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(SertuneError, match="hf:nobody/nothing: can't be read") as caught:
        read_data("hf:nobody/nothing")
    assert "\n" not in str(caught.value)


# EmoBox, SpeechBrain, folds


def test_emobox_folds_are_a_protocol(tmp_path: Path) -> None:
    corpus("emobox").example(tmp_path)
    manifest = read_data(f"emobox:{tmp_path}")
    assert manifest.name == "emobox-imitation"
    frame = manifest.utterances
    assert frame["id"].str.startswith("imitation-").all()
    (protocol,) = published(manifest)
    assert protocol.name == "folds"
    assert "dev in fold_1, fold_3: 20% of train" in protocol.text
    folds = protocol.cut(frame)
    assert [fold.name for fold in folds] == ["1", "2", "3"]
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested) == list(range(24))
    for fold in folds:
        everything = np.concatenate([fold.train, fold.dev, fold.test])
        assert sorted(everything) == list(range(24))
        assert set(frame["emotion"].iloc[fold.dev]) == set(EMOTIONS)
    assert set(frame["id"].iloc[folds[1].dev]) == set(frame["id"][frame["fold_2"] == "dev"])
    same = read_data(f"emobox:{tmp_path / 'data' / 'imitation'}")
    pd.testing.assert_frame_equal(same.utterances, frame)


def change(file: Path, work: Callable[[str], str]) -> None:
    file.write_text(work(file.read_text("utf-8")), "utf-8")


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (
            lambda d: change(d / "fold_1" / "imitation_test_fold_1.jsonl", lambda t: t + "{"),
            "line 9: not a JSON object",
        ),
        (lambda d: change(d / "fold_1" / "imitation_test_fold_1.jsonl", lambda t: '{"key": 1}\n' + t), "with key, wav"),
        (
            lambda d: change(
                d / "fold_1" / "imitation_test_fold_1.jsonl",
                lambda t: t + (d / "fold_1" / "imitation_train_fold_1.jsonl").read_text().splitlines()[0],
            ),
            "is in the train part of this fold already",
        ),
        (
            lambda d: (d / "fold_2" / "imitation_test_fold_2.jsonl").unlink(),
            "has no test part, looked for imitation_test",
        ),
        (lambda d: change(d / "label_map.json", lambda t: t.replace('"s"', '"z"')), "has no 's', the emotion of"),
        (lambda d: change(d / "label_map.json", lambda _: "[1]"), "not a JSON object such as"),
        (lambda d: (d.parent.parent / "downloads").rename(d.parent.parent / "x"), "none of its audio files is there"),
        (lambda d: d.rename(d.parent.parent / "x"), "looked for"),
        (
            lambda d: (d.parent / "other" / "fold_1").mkdir(parents=True),
            "folds of 2 corpora .*; name one, e.g. emobox:",
        ),
    ],
)
def test_emobox_mistakes(tmp_path: Path, work: Callable[[Path], object], words: str) -> None:
    corpus("emobox").example(tmp_path)
    work(tmp_path / "data" / "imitation")
    with pytest.raises(SertuneError, match=words):
        read_data(f"emobox:{tmp_path}")


def test_speechbrain_manifests_and_their_data_root(tmp_path: Path) -> None:
    corpus("speechbrain").example(tmp_path)
    folder = tmp_path / "results" / "train_with_wav2vec2" / "1993"
    frame = read_data(f"speechbrain:{folder}").utterances
    assert frame["partition"].value_counts().to_dict() == {"train": 8, "dev": 8, "test": 8}
    assert all(Path(file).is_file() for file in frame["file"])
    one = read_data(f"speechbrain:{folder / 'valid.json'}").utterances
    assert one["id"].tolist() == frame["id"][frame["partition"] == "dev"].tolist()
    moved = folder.rename(tmp_path.parent / f"{tmp_path.name}-manifests")
    with pytest.raises(SertuneError, match=r"data_root}/session1/.* is in none of the folders above .*@FOLDER"):
        read_data(f"speechbrain:{moved}")
    there = read_data(f"speechbrain:{moved}@{tmp_path}").utterances
    assert there["file"].tolist() == frame["file"].tolist()
    with pytest.raises(SertuneError, match="nowhere: no such folder"):
        read_data(f"speechbrain:{moved}@{tmp_path / 'nowhere'}")


def test_speechbrain_keys_segments_and_mistakes(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 0.1 * np.ones(16000), 8000)
    entry = {
        "wav": {"file": "{data_root}/a.wav", "start": 4000, "stop": 12000},
        "spk_id": 3,
        "mood": "sad",
        "arousal": 2,
    }
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"u1": entry}))
    frame = read_data(f"speechbrain:{file}", {"emotion": "mood"}).utterances
    row = frame.iloc[0]
    assert (row["id"], row["speaker"], row["emotion"], row["start"], row["end"]) == ("u1", "3", "sadness", 0.5, 1.5)
    (tmp_path / "test.json").write_text(json.dumps({"u1": entry}))
    with pytest.raises(SertuneError, match="'u1' is also in another of the manifests"):
        read_data(f"speechbrain:{tmp_path}")
    for text, words in {
        "{": "not JSON",
        "[]": "expected an object of objects",
        "{}": "holds no utterance",
        json.dumps({"u": {"wav": "{data_root}/a.wav", "emo": [{"emo": "n"}]}}): "has a list as emo",
    }.items():
        file.write_text(text)
        with pytest.raises(SertuneError, match=words):
            read_data(f"speechbrain:{file}")


def folds(**columns: Any) -> Manifest:
    speakers = [f"s{i // 4}" for i in range(40)]
    frame = pd.DataFrame({"file": [f"/x/{i}.wav" for i in range(40)], "emotion": ["a", "b"] * 20, "speaker": speakers})
    return Manifest.of("mine", frame.assign(**columns))


def test_a_table_with_folds_takes_dev_by_speakers() -> None:
    manifest = folds(fold_1=["train"] * 32 + ["test"] * 8, fold_2=["test"] * 8 + ["train"] * 24 + [None] * 8)
    (protocol,) = published(manifest)
    one, two = protocol.cut(manifest.utterances)
    speakers = manifest.utterances["speaker"]
    assert not set(speakers.iloc[one.train]) & set(speakers.iloc[one.dev])
    assert (len(one.train), len(one.dev), len(one.test)) == (24, 8, 8)  # 20 % of 32 clips, by whole speakers: 8
    assert len(two.train) + len(two.dev) + len(two.test) == 32
    shuffled = manifest.utterances.sample(frac=1, random_state=1).reset_index(drop=True)
    assert set(shuffled["id"].iloc[protocol.cut(shuffled)[0].dev]) == set(manifest.utterances["id"].iloc[one.dev])


def test_folds_with_a_part_or_a_word_missing() -> None:
    for values, words in {
        ("train",): "fold_1: no utterance is in its part 'test'",
        ("test",): "no utterance is in its part 'train'",
        ("train", "held-out"): r"row 2 \(/x/1.wav\) has fold_1 'held-out', expected train, dev or test",
    }.items():
        manifest = folds(fold_1=[values[i % len(values)] for i in range(40)])
        with pytest.raises(SertuneError, match=words):
            [protocol.cut(manifest.utterances) for protocol in published(manifest)]
    assert published(folds()) == ()
    assert published(folds(fold_1=range(40), fold_2=None)) == ()  # something else of that name
    (protocol,) = published(folds(fold_1=["train", "test"] * 20))
    with pytest.raises(SertuneError, match="needs the column fold_1"):
        protocol.cut(folds().utterances)
