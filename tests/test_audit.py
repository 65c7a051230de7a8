"""The audit: what is wrong with a corpus, file by file, and what its parts share."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from sertune.data import audit
from sertune.data.audit import check, leaks
from sertune.data.manifest import Manifest, Scheme
from sertune.data.splits import Fold

RATE = 16000


def write(file: Path, seconds: float = 0.5, seed: int = 0, rate: int = RATE, channels: int = 1) -> str:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    soundfile.write(file, samples, rate)
    return str(file)


def corpus(folder: Path, **columns: Any) -> Manifest:
    """Four good clips."""
    frame = pd.DataFrame(
        {
            "file": [write(folder / f"{name}.wav", seed=i) for i, name in enumerate("abcd")],
            "speaker": ["1", "1", "2", "2"],
            "emotion": ["anger", "sadness", "anger", "sadness"],
            "partition": ["train", "train", "dev", "test"],
            **columns,
        }
    )
    return Manifest.of("four", frame)


def with_files(*files: Path | str) -> Manifest:
    frame = pd.DataFrame({"file": [str(f) for f in files], "speaker": "1", "emotion": "anger"})
    return Manifest.of("some", frame)


def test_a_good_corpus_and_its_summary(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = check(corpus(tmp_path), progress=lambda done, of: seen.append((done, of)))
    assert found.problems == ()
    assert found.usable.all()
    np.testing.assert_allclose(found.durations, 0.5)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    summary = found.summary
    assert summary["utterances"] == summary["files"] == summary["usable"] == 4
    assert summary["hours"] == pytest.approx(2 / 3600)
    assert summary["durations"]["median"] == 0.5
    assert summary["labels"] == {"anger": 2, "sadness": 2}
    assert summary["speakers"] == {"1": 2, "2": 2}
    assert summary["partitions"] == {"train": 2, "dev": 1, "test": 1}
    assert summary["rates"] == {"16000": 4}
    assert "ratings" not in summary


def test_every_bad_file_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    write(tmp_path / "cut.wav")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:5000])
    write(tmp_path / "long.wav", seconds=3.0)
    write(tmp_path / "short.wav", seconds=0.05)
    write(tmp_path / "eight.wav", channels=8)
    expected = {
        "missing": "no such file",
        "empty": "0 bytes",
        "text": "not audio",
        "none": "no samples",
        "silent": "silent",
        "nan": "NaN",
        "cut": "truncated",
        "long": "too long: 3.0 s, the limit is 2 s",
        "short": "too short: 0.050 s",
        "eight": "8 channels",
    }
    good = write(tmp_path / "good.wav")
    manifest = with_files(good, *(tmp_path / f"{name}.wav" for name in expected))
    found = check(manifest, max_seconds=2.0)
    assert found.usable.tolist() == [True] + [False] * len(expected)
    assert [(Path(p.file).stem, p.row, p.severity) for p in found.problems] == [
        (name, i + 2, "error") for i, name in enumerate(expected)
    ]
    for problem, words in zip(found.problems, expected.values(), strict=True):
        assert words in problem.message
    assert found.durations[8] == 3.0
    assert np.isnan(found.durations[1])
    document = json.loads(found.to_json())
    assert len(document["problems"]) == len(expected)
    assert document["problems"][0]["row"] == 2
    # A crop length makes long files usable.
    assert check(manifest, max_seconds=2.0, crop=1.0).usable.tolist()[8]


def test_long_files_are_told_by_their_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(audit, "read_audio", decode)
    (problem,) = check(with_files(write(tmp_path / "a.wav", seconds=1.0)), max_seconds=0.9).problems
    assert problem.kind == "too long"


def test_segments_are_checked_as_segments(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav", seconds=4.0)
    frame = pd.DataFrame(
        {"file": file, "start": [0.0, 1.0, 3.9, 9.0], "end": [1.0, np.nan, 4.05, 9.5], "emotion": "anger"}
    )
    found = check(Manifest.of("t", frame), max_seconds=2.0)
    assert [(p.row, p.kind) for p in found.problems if p.row is not None] == [(2, "too long"), (4, "audio")]
    np.testing.assert_allclose(found.durations[:3], [1.0, 3.0, 0.1])


def test_duplicates_say_of_which_file_and_what_differs(tmp_path: Path) -> None:
    manifest = corpus(tmp_path)
    for copy, original in (("c", "a"), ("d", "a")):
        (tmp_path / f"{copy}.wav").write_bytes((tmp_path / f"{original}.wav").read_bytes())
    first, second = check(manifest).problems
    assert (first.kind, first.severity, first.row) == ("duplicate", "warning", 3)
    assert f"the same audio as {tmp_path / 'a.wav'} (row 1)" in first.message
    assert "speaker 1 there, 2 here" in first.message
    assert "emotion" not in first.message
    assert "emotion anger there, sadness here" in second.message
    assert check(manifest).usable.all()


def test_labels_and_speakers(tmp_path: Path) -> None:
    frame = corpus(tmp_path).utterances.assign(
        emotion=pd.Series(["anger", None, "rage?", "nan"], dtype=object),
        arousal=[1.0, np.nan, 3.0, 9.0],
        speaker=pd.Series(["1", None, "2", "2"], dtype=object),
    )
    schemes = {"emotion": Scheme(labels=("anger", "nan")), "arousal": Scheme(low=1, high=5)}
    found = check(Manifest.of("t", frame, schemes, strict=False))
    told = {(p.row, p.severity, p.message) for p in found.problems}
    assert told == {
        (2, "warning", "no value of emotion"),
        (2, "warning", "no value of arousal"),
        (2, "warning", "no speaker"),
        (3, "error", "emotion 'rage?', not one of the labels anger, nan"),
        (4, "error", "arousal 9.0, outside the scale 1 to 5"),
    }
    assert found.usable.tolist() == [True, True, False, False]
    json.loads(found.to_json())


def test_what_is_missing_everywhere_is_said_once(tmp_path: Path) -> None:
    nobody = corpus(tmp_path, speaker=[None] * 4)
    (problem,) = check(nobody).problems
    assert (problem.row, problem.kind) == (None, "speaker")
    unlabelled = Manifest.of("t", nobody.utterances.drop(columns=["emotion", "speaker"]))
    assert [p.kind for p in check(unlabelled).problems] == ["label", "speaker"]


def test_ratings_in_the_summary(tmp_path: Path) -> None:
    ratings = pd.DataFrame(
        {"utterance": ["a", "a", "b"], "rater": ["x", "y", "x"], "attribute": "emotion", "value": "anger"}
    )
    rated = Manifest.of("t", corpus(tmp_path).utterances.assign(id=list("abcd")), ratings=ratings)
    assert check(rated).summary["ratings"] == {"ratings": 3, "raters": 2, "attributes": {"emotion": 3}}


def test_leaks_are_counted_and_named() -> None:
    frame = pd.DataFrame(
        {
            "file": [f"/x/{name}.wav" for name in "abcdef"],
            "speaker": ["1", "1", "2", "2", "3", "1"],
            "session": ["s1", "s1", "s2", "s2", "s3", "s4"],
            "text": ["t1", "t2", "t3", "t1", "t1", "t2"],
        },
        dtype=object,
    )
    fold = Fold("x", np.array([0, 1]), np.array([2, 3]), np.array([4, 5]))
    assert leaks(frame, fold) == [
        "warning: 1 of 2 speakers in test (1 of 2 clips) is also in train: 1",
        "note: 1 of 2 texts in dev (1 of 2 clips) is also in train: t1",
        "note: 2 of 2 texts in test (2 of 2 clips) are also in train: t1, t2",
    ]
    digests = ["x", "y", "z", "", "", "x"]
    assert "warning: 1 of 1 identical clip in test (1 of 2 clips) is also in train: f.wav" in leaks(
        frame, fold, digests
    )
    one_file = frame.assign(file=pd.Series(["/x/long.wav"] * 6, dtype=object))
    assert any("recording in test" in line for line in leaks(one_file, fold))
    nothing = frame.assign(**{c: pd.Series([None] * 6, dtype=object) for c in ("speaker", "session", "text")})
    assert leaks(nothing, fold) == []
