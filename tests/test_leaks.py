"""Leaks and shortcuts: the same audio twice, however it was changed, and labels that need no listening."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from numpy.typing import NDArray

from sertune.apps.check import audit, show_split
from sertune.cli import main
from sertune.config import SplitConfig
from sertune.data.audio import resample
from sertune.data.audit import audit_split, check, find_pairs, leaks, shortcuts
from sertune.data.fingerprint import ALIKE, Pair, Prints, fingerprint, near_duplicates, spectrum
from sertune.data.manifest import Manifest
from sertune.data.protocols import Fold
from sertune.data.splits import make_protocol
from sertune.data.synthetic import EMOTIONS, make_speaker, make_utterance, make_voice, record, sentence_text
from sertune.data.trivial import FEATURES, Heard, HeardTable, listen, trivial_baseline

RATE = 16_000
Audio = NDArray[np.float32]


def speak(speaker: int, sentence: int, emotion: str, take: int = 0) -> Audio:
    rng = np.random.default_rng([speaker, sentence, take, *emotion.encode()])
    signal = make_utterance(sentence_text(sentence), make_voice(make_speaker(speaker), EMOTIONS[emotion], rng), rng)
    return record(signal, np.random.default_rng(speaker), rng)


@pytest.fixture(scope="module")
def clips() -> list[Audio]:
    """Two speakers, two sentences, three emotions, two takes each: all different, however alike."""
    return [
        speak(who, sentence, emotion, take)
        for who in (0, 1)
        for sentence in (0, 1)
        for emotion in ("anger", "neutral", "sadness")
        for take in (0, 1)
    ]


def prints_of(clips: list[Audio]) -> list[Prints]:
    return [fingerprint(spectrum(clip)) for clip in clips]


def coded(kind: str, subtype: str) -> Callable[[Audio], Audio]:
    def code(clip: Audio) -> Audio:
        packed = io.BytesIO()
        soundfile.write(packed, clip, RATE, format=kind, subtype=subtype)
        packed.seek(0)
        return np.asarray(soundfile.read(packed, dtype="float32")[0])

    return code


def through(rate: int) -> Callable[[Audio], Audio]:
    return lambda clip: resample(resample(clip, RATE, rate), rate, RATE)


def noisy(clip: Audio, decibel: float = 20) -> Audio:
    noise = np.random.default_rng(5).standard_normal(len(clip)) * np.sqrt(np.mean(clip**2))
    return np.asarray(clip + noise * 10 ** (-decibel / 20), dtype=np.float32)


CHANGES: dict[str, Callable[[Audio], Audio]] = {
    "quieter": lambda clip: clip * np.float32(0.05),
    "8 kHz": through(8_000),
    "22.05 kHz": through(22_050),
    "44.1 kHz": through(44_100),
    "16 bit": lambda clip: (np.round(clip * 32767) / 32767).astype(np.float32),
    "Vorbis": coded("OGG", "VORBIS"),
    "Opus": coded("OGG", "OPUS"),
    "MP3": coded("MP3", "MPEG_LAYER_III"),
    "ends cut": lambda clip: clip[1_111:-2_345],
    "longer": lambda clip: np.pad(clip, (3_333, 4_000)),
    "noise": noisy,
    "offset": lambda clip: clip + np.float32(0.05),
    "all of it": lambda clip: noisy(coded("OGG", "OPUS")(through(8_000)(clip[777:] * np.float32(0.3)))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(clips: list[Audio], change: str) -> None:
    copies = [CHANGES[change](clip).astype(np.float32) for clip in clips[::3]]
    pairs = near_duplicates(prints_of(clips + copies))
    assert [(pair.first, pair.second) for pair in pairs] == [(3 * i, len(clips) + i) for i in range(len(copies))]
    assert all(ALIKE <= pair.similarity <= 1 for pair in pairs)
    cut = {"ends cut": 1_111, "longer": -3_333, "all of it": 777}.get(change, 0)
    assert all(pair.shift == pytest.approx(cut / RATE, abs=0.025) for pair in pairs)


def test_takes_of_one_sentence_by_one_speaker_are_not_the_same(clips: list[Audio]) -> None:
    assert near_duplicates(prints_of(clips)) == []


def test_every_one_of_many_copies_is_found_and_some_clips_are_passed_over(clips: list[Audio]) -> None:
    copies = [noisy(clips[0], 15 + i) for i in range(40)]
    pairs = near_duplicates(prints_of([clips[1], *copies]))
    assert {pair.second for pair in pairs} == set(range(2, 41))
    short = [clips[0][:3000], clips[0][:3000], np.zeros(100, dtype=np.float32), np.zeros(RATE, dtype=np.float32)]
    assert near_duplicates(prints_of(short)) == []
    assert near_duplicates([]) == []


def test_silence_and_noise_floors_are_no_copies() -> None:
    rng = np.random.default_rng(0)
    hiss = [(1e-3 * rng.standard_normal(2 * RATE)).astype(np.float32) for _ in range(20)]
    tone = np.sin(np.arange(2 * RATE) * 0.2)
    hums = [(0.1 * tone + 1e-3 * rng.standard_normal(2 * RATE)).astype(np.float32) for _ in range(10)]
    assert near_duplicates(prints_of(hiss + hums)) == []


def test_the_search_does_not_compare_all_with_all() -> None:
    rng = np.random.default_rng(0)
    loud = np.uint32(1 << 24)

    def seconds(count: int) -> float:
        prints = [(rng.integers(0, 1 << 24, 120, dtype=np.uint32) | loud) for _ in range(count)]
        prints[-1] = prints[0]
        began = time.process_time()
        assert near_duplicates(prints) == [Pair(0, count - 1, 1.0, 0.0)]
        return time.process_time() - began

    seconds(500)
    assert seconds(16_000) < 40 * max(seconds(1_000), 0.05)  # all pairs would be 256 times the work


def test_identical_samples_are_left_to_the_digests(clips: list[Audio]) -> None:
    heard = [listen(clip, RATE) for clip in (clips[0], clips[0], noisy(clips[0]))]
    assert [(p.first, p.second) for p in find_pairs(["a", "a", "b"], heard)] == [(0, 2)]
    assert find_pairs(["", "", ""], [None, None, heard[0]]) == []


# Trivial features


def named(clip: Audio, rate: int = RATE) -> dict[str, float]:
    return dict(zip(FEATURES, listen(clip, rate).features.tolist(), strict=True))


def test_features_mean_what_they_say() -> None:
    tone = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)).astype(np.float32)
    found = named(np.concatenate([np.zeros(RATE // 2, np.float32), tone, np.zeros(RATE // 4, np.float32)]))
    assert found["duration"] == pytest.approx(1.75)
    assert found["peak"] == pytest.approx(-6.02, abs=0.01)
    assert found["level"] == pytest.approx(10 * np.log10(0.125 / 1.75), abs=0.05)
    assert found["leading silence"] == pytest.approx(0.5, abs=0.03)
    assert found["trailing silence"] == pytest.approx(0.25, abs=0.03)
    assert found["share of silence"] == pytest.approx(0.75 / 1.75, abs=0.03)
    assert found["noise floor"] == pytest.approx(-120)
    assert found["DC offset"] == pytest.approx(0, abs=1e-5)
    assert named(tone + np.float32(0.1))["DC offset"] == pytest.approx(0.1, abs=1e-4)
    assert named(np.clip(4 * tone, -0.5, 0.5))["clipping"] > named(tone)["clipping"] + 0.5
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, RATE).astype(np.float32)
    assert named(noise)["bandwidth"] > 7.9
    assert named(through(8_000)(noise))["bandwidth"] == pytest.approx(4, abs=0.3)
    assert named(resample(noise, RATE, 44_100), 44_100)["bandwidth"] > 7.5


def test_absurd_levels_give_numbers() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    for level in (1e30, 1e-20):
        heard = listen(noise * np.float32(level), RATE)
        assert np.isfinite(heard.features).all()
    assert named(noise * np.float32(1e30))["peak"] == pytest.approx(40)


def planted(strength: float, speakers: int = 8, clips: int = 30) -> tuple[NDArray[Any], NDArray[Any], pd.DataFrame]:
    """Features of which "level" tells the label of three; the rest is chance."""
    rng = np.random.default_rng(1)
    count = speakers * clips
    labels = np.arange(count) % 3
    features = rng.standard_normal((count, len(FEATURES)))
    features[:, FEATURES.index("level")] += strength * labels
    who = [f"s{i // clips}" for i in range(count)]
    frame = pd.DataFrame({"id": [f"u{i}" for i in range(count)], "file": [f"/x/{i}.wav" for i in range(count)]})
    frame["speaker"] = pd.Series(who, dtype=object)
    frame["emotion"] = pd.Series([("anger", "fear", "neutral")[k] for k in labels], dtype=object)
    for column in ("session", "text", "partition"):
        frame[column] = pd.Series([None] * count, dtype=object)
    return features, labels, frame


NAMES = ("anger", "fear", "neutral")


def baseline(features: NDArray[Any], labels: NDArray[Any], frame: pd.DataFrame, split: str = "loso") -> dict[str, Any]:
    protocol = make_protocol(frame, split, labels=labels)
    found = trivial_baseline(features, labels, protocol.folds, frame["speaker"].tolist(), NAMES)
    return dict(found["metrics"]["uar"])


def test_a_planted_shortcut_is_found_and_named() -> None:
    found = baseline(*planted(2.0))
    assert found["named"]["features"] == ["level"]
    assert found["value"] > 0.7
    assert found["above_chance"]
    assert found["beyond_speakers"]
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["text"].startswith("level alone reaches UAR .")
    assert found["each"]["duration"] < 0.45 < found["each"]["level"]


def test_chance_is_not_called_a_shortcut() -> None:
    found = baseline(*planted(0.0))
    assert not found["above_chance"]
    assert "not clearly more than chance" in found["text"]
    assert found["value"] < found["threshold"] + 0.05


def test_what_only_tells_speakers_apart_is_said_to() -> None:
    features, _, frame = planted(0.0)
    speaker = np.arange(len(features)) // 30
    rng = np.random.default_rng(2)
    labels = np.where(rng.random(len(features)) < 0.85, speaker % 3, rng.integers(0, 3, len(features)))
    features[:, FEATURES.index("noise floor")] += 5 * (speaker % 3)
    frame["emotion"] = [NAMES[k] for k in labels]
    found = baseline(features, labels, frame, "random")
    assert found["above_chance"]
    assert not found["beyond_speakers"]
    assert "knowing the speakers apart explains it" in found["text"]
    assert len(shortcuts({"metrics": {"uar": found}}, speaker_independent=False)) == 1
    assert shortcuts({"metrics": {"uar": found}}, speaker_independent=True) == []


def test_values_are_predicted_too() -> None:
    features, _, frame = planted(0.0)
    rng = np.random.default_rng(0)
    values = np.stack(
        [features[:, 0] + 0.3 * rng.standard_normal(len(features)), rng.standard_normal(len(features))], 1
    )
    values[3, 0] = np.nan
    features[5] = np.nan
    protocol = make_protocol(frame, "speaker", labels=values)
    found = trivial_baseline(features, values, protocol.folds, frame["speaker"].tolist(), ["arousal", "valence"])
    arousal, valence = found["metrics"]["ccc_arousal"], found["metrics"]["ccc_valence"]
    assert arousal["value"] > 0.8
    assert arousal["named"]["features"] == ["duration"]
    assert "CCC arousal" in arousal["text"]
    assert not valence["above_chance"]
    nothing = trivial_baseline(features * np.nan, values, protocol.folds, frame["speaker"].tolist(), ["a", "v"])
    assert nothing["metrics"]["ccc_a"]["value"] is None
    json.dumps(nothing, allow_nan=False)


def test_what_was_heard_is_kept(tmp_path: Path, clips: list[Audio]) -> None:
    heard = {f"d{i}": listen(clip, RATE) for i, clip in enumerate([*clips[:3], clips[0][:100]])}
    for digest in heard:  # one file each, from processes of their own
        table = HeardTable(tmp_path / "files")
        table.note(digest, heard[digest])
        table.save()
    again = HeardTable(tmp_path / "files")
    for digest, one in heard.items():
        found = again.find(digest)
        assert found is not None
        np.testing.assert_array_equal(found.features, one.features)
        np.testing.assert_array_equal(found.prints, one.prints)
    assert again.find("unknown") is None
    file = sorted((tmp_path / "files").glob("*.npz"))[0]
    file.write_bytes(file.read_bytes()[:200])
    assert sum(HeardTable(tmp_path / "files").find(digest) is not None for digest in heard) == 3


# Across parts


def test_near_duplicates_across_parts_are_leaks() -> None:
    _, _, frame = planted(0.0, speakers=1, clips=8)
    fold = Fold("x", np.array([0, 1, 2]), np.array([3, 4]), np.array([5, 6, 7]))
    pairs = [Pair(1, 5, 0.9, 0.0), Pair(3, 6, 0.9, 0.0), Pair(2, 4, 0.8, 0.1)]
    said = [line for line in leaks(frame, fold, None, pairs) if "sound" in line]
    assert said == [
        "warning: 1 of 2 clips in dev sounds like one in train (near-duplicates): 4.wav and 2.wav",
        "warning: 1 of 3 clips in test sounds like one in train (near-duplicates): 5.wav and 1.wav",
    ]
    digests = ["a", "b", "c", "d", "e", "f", "f", "g"]  # row 6 is an identical copy of row 5
    said = leaks(frame, fold, digests, pairs[:1])
    assert any("2 of 3 clips in test sound like ones in train" in line for line in said)


def test_the_audit_gathers_folds() -> None:
    features, labels, frame = planted(2.0)
    frame["text"] = [f"t{i % 4}" for i in range(len(frame))]
    protocol = make_protocol(frame, "loso", labels=labels)
    heard = [Heard(row.astype(np.float32), np.zeros(0, dtype=np.uint32)) for row in features]
    found = audit_split(frame, protocol, labels, NAMES, [str(i) for i in range(len(frame))], heard)
    assert [(row["kind"], row["part"], row["folds"]) for row in found["shared"]] == [
        ("text", "dev", 8),
        ("text", "test", 8),
    ]
    assert (
        found["notes"][1]
        == "4 of 4 texts in test (30 of 30 clips) are also in train: t0, t1, t2, t3 (8 of 8 folds alike)"
    )
    (warning,) = found["warnings"]
    assert warning.startswith("without listening, level alone reaches UAR")
    json.dumps(found, allow_nan=False)


def written(folder: Path, clips: list[Audio]) -> Manifest:
    """Twelve clips of four people; the last is a copy of the first in noise, said to be someone else's."""
    chosen = [*clips[:11], noisy(clips[0])]
    rows = []
    for i, clip in enumerate(chosen):
        soundfile.write(folder / f"{i:02d}.wav", clip, RATE)
        rows.append(
            {"file": str(folder / f"{i:02d}.wav"), "speaker": str(i % 4), "emotion": ("anger", "fear")[i // 4 % 2]}
        )
    return Manifest.of("twelve", pd.DataFrame(rows))


def test_check_names_both_files_and_what_differs(tmp_path: Path, clips: list[Audio]) -> None:
    manifest = written(tmp_path, clips)
    found = check(manifest)
    (problem,) = found.problems
    assert (problem.kind, problem.severity, problem.row) == ("near-duplicate", "warning", 12)
    assert f"sounds like {tmp_path / '00.wav'} (row 1): " in problem.message
    assert "speaker 0 there, 3 here" in problem.message
    split = audit(manifest, found, SplitConfig(name="loso"))
    assert [row["name"] for row in split["folds"]] == ["0", "1", "2", "3"]
    assert any("00.wav and 11.wav" in text for text in split["warnings"])
    text = show_split(split)
    assert "split loso: leave one speaker out" in text
    assert "  3: 6 train, 3 dev, 3 test" in text
    assert "without listening, " in text


def test_check_split_on_the_command_line(tiny_corpus: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = f"synthetic:{tiny_corpus}"
    assert main(["check", data, "--split", "kfold", "--split.folds", "4", "--json"]) == 0
    split = json.loads(capsys.readouterr().out)["split"]
    assert len(split["folds"]) == 4
    assert split["split"] == "kfold"
    assert split["trivial"]["metrics"]["uar"]["chance"] == 0.25
    assert {row["kind"] for row in split["shared"]} == {"text"}
    assert main(["check", data, "--split", "official"]) == 0
    assert "split official: the corpus's own train, dev and test partitions" in capsys.readouterr().out
    for wrong, words in (
        (["--split", "lso"], "unknown split 'lso'; did you mean 'loso'"),
        (["--split", "iemocap-5fold"], "unknown split 'iemocap-5fold'"),
        (["--split.folds", "4"], "no split to look at"),
        (["--split", "kfold", "--split.folds", "two"], "invalid int value"),
    ):
        assert main(["check", data, *wrong]) == 1
        assert words in capsys.readouterr().err
    assert main(["check", data]) == 0
    assert "split" not in capsys.readouterr().out


def test_every_training_report_has_the_audit(tiny_run: Path) -> None:
    report = json.loads((tiny_run / "report.json").read_text())
    found = report["audit"]
    assert {row["kind"] for row in found["shared"]} == {"text"}
    assert found["near_duplicates"] == {"pairs": 0, "list": []}
    assert found["trivial"]["metrics"]["uar"]["text"]
    page = (tiny_run / "report.html").read_text(encoding="utf-8")
    assert "Leaks and shortcuts" in page
    assert "noise floor" in page


@pytest.mark.real
def test_real_corpora(real_data: Path) -> None:
    from sertune.corpora import read_data

    emodb = read_data(f"emodb:{real_data / 'emodb-2s'}")
    began = time.process_time()
    found = check(emodb)
    assert time.process_time() - began < 20
    assert found.problems == ()  # many takes of ten sentences, no copy among them
    # The same recordings at full length and at another rate: all are found again, and nothing else.
    whole = read_data(f"emodb:{real_data / 'emodb-4class'}")
    other = check(whole)
    pairs = find_pairs(found.digests + other.digests, found.heard + other.heard)
    ids = [*emodb.utterances["id"], *whole.utterances["id"]]
    assert all(ids[pair.first] == ids[pair.second] for pair in pairs)
    assert len(pairs) >= len(whole) - 2
    split = audit(emodb, found, SplitConfig(name="random"))
    assert any(row["kind"] == "text" and row["values"] == 10 for row in split["shared"])
    assert split["trivial"]["metrics"]["uar"]["above_chance"]
    urdu = check(read_data(f"urdu:{real_data / 'urdu'}"))
    assert 4 <= len([p for p in urdu.problems if p.kind == "near-duplicate"]) <= 6  # overlapping cuts of one show
