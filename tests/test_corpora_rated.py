"""Corpora with single raters: exact values, what real copies contain, published splits, and errors that say where."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from sertune.corpora import corpus, read_data
from sertune.data.manifest import Manifest
from sertune.data.protocols import Fold, Published
from sertune.data.splits import make_protocol
from sertune.errors import SertuneError


def made(name: str, folder: Path, **options: Any) -> Path:
    corpus(name).example(folder, **options)
    return folder


def ratings_of(manifest: Manifest, utterance: str) -> dict[tuple[str, str], Any]:
    """(rater, attribute) -> value."""
    assert manifest.ratings is not None
    mine = manifest.ratings[manifest.ratings["utterance"] == utterance]
    return dict(zip(zip(mine["rater"], mine["attribute"], strict=True), mine["value"], strict=True))


def row(manifest: Manifest, utterance: str) -> "pd.Series[Any]":
    return manifest.utterances[manifest.utterances["id"] == utterance].iloc[0]


def published(name: str, protocol: str) -> Published:
    protocols: tuple[Published, ...] = corpus(name).PROTOCOLS
    return next(p for p in protocols if p.name == protocol)


def values(frame: pd.DataFrame, fold: Fold, column: str) -> tuple[set[str], set[str], set[str]]:
    """The values of a column in train, dev and test."""
    train, dev, test = (set(frame[column].iloc[part].dropna()) for part in (fold.train, fold.dev, fold.test))
    return train, dev, test


def replaced(file: Path, old: str, new: str) -> None:
    data = file.read_bytes()
    assert old.encode() in data
    file.write_bytes(data.replace(old.encode(), new.encode(), 1))


def error(name: str, root: Path) -> str:
    with pytest.raises(SertuneError) as caught:
        read_data(f"{name}:{root}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# IEMOCAP

LABELS = "IEMOCAP_full_release/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
WAVS = "IEMOCAP_full_release/Session1/sentences/wav/Ses01F_impro01"


def test_iemocap_values(tmp_path: Path) -> None:
    manifest = read_data(f"iemocap:{made('iemocap', tmp_path)}")
    frame = manifest.utterances
    assert len(frame) == 40
    assert frame.groupby("session").size().to_dict() == dict.fromkeys((f"Session{i}" for i in range(1, 6)), 8)
    turn = row(manifest, "Ses01M_script01_1_F000")
    assert turn[["speaker", "gender", "session", "text", "style"]].tolist() == [
        "Ses01F",
        "female",
        "Session1",
        "script01_1",
        "scripted",
    ]
    turn = row(manifest, "Ses01F_impro01_M001")
    assert turn[["speaker", "gender", "text", "style", "emotion"]].tolist() == [
        "Ses01M",
        "male",
        None,
        "improvised",
        "sadness",
    ]
    # The file says [2.5000, 3.5000, 3.0000]: valence, activation, dominance.
    assert turn[["valence", "arousal", "dominance"]].tolist() == [2.5, 3.5, 3.0]
    assert row(manifest, "Ses01F_impro01_F001")["emotion"] is None  # xxx
    assert row(manifest, "Ses01M_script01_1_M001")["emotion"] == "other"
    assert manifest.schemes["valence"].scale == (1.0, 5.0)


def test_iemocap_single_ratings(tmp_path: Path) -> None:
    manifest = read_data(f"iemocap:{made('iemocap', tmp_path)}")
    assert ratings_of(manifest, "Ses01F_impro01_M000") == {
        ("C-E2", "emotion"): "anger",
        ("C-E3", "emotion"): "anger",
        ("C-E4", "emotion"): "anger",
        ("self-Ses01M", "emotion"): "anger",
        ("A-E3", "arousal"): 2,
        ("A-E3", "valence"): 3,
        ("A-E3", "dominance"): 3,
        ("A-E4", "arousal"): 3,
        ("A-E4", "valence"): 2,
        ("A-E4", "dominance"): 3,
        ("self-Ses01M", "arousal"): 5,
        ("self-Ses01M", "valence"): 1,  # its dominance is empty
    }
    assert manifest.ratings is not None
    own = manifest.ratings[manifest.ratings["rater"].str.startswith("self-")]
    speakers = manifest.utterances.set_index("id")["speaker"]
    assert ("self-" + own["utterance"].map(speakers) == own["rater"]).all()


def test_iemocap_a_rater_with_two_labels_and_a_rater_twice(tmp_path: Path) -> None:
    file = made("iemocap", tmp_path) / LABELS
    replaced(file, "C-E3:\tAnger; Anger;\t(quiet)", "C-E3:\tFrustration; Anger;\t(quiet)\nC-E3:\tSadness;\t()")
    replaced(
        file, "A-E3:\tval 3; act 2; dom  3;\t()", "A-E3:\tval 3; act 2; dom  3;\t()\nA-E3:\tval 2; act 5; dom ;\t()"
    )
    manifest = read_data(f"iemocap:{tmp_path}")
    assert ratings_of(manifest, "Ses01F_impro01_M000")["C-E3", "emotion"] == "frustration"
    rated = ratings_of(manifest, "Ses01F_impro01_F000")
    assert [rated["A-E3", name] for name in ("valence", "arousal", "dominance")] == [2.5, 3.5, 3.0]


def test_iemocap_a_rating_outside_the_scale_is_no_rating(tmp_path: Path) -> None:
    """Real copies have a few such slips, and the published mean counts them."""
    file = made("iemocap", tmp_path) / LABELS
    replaced(file, "A-E4:\tval 2; act 2; dom  3;", "A-E4:\tval 8; act 2; dom  3;")
    replaced(file, "neu\t[2.5000,", "neu\t[5.5000,")
    manifest = read_data(f"iemocap:{tmp_path}")
    assert ("A-E4", "valence") not in ratings_of(manifest, "Ses01F_impro01_F000")
    assert row(manifest, "Ses01F_impro01_F000")["valence"] == 3
    assert row(manifest, "Ses01F_impro01_M000")["valence"] == 2.5


def test_iemocap_folders_that_a_user_may_name(tmp_path: Path) -> None:
    ids = read_data(f"iemocap:{made('iemocap', tmp_path / 'a')}").utterances["id"].tolist()
    release = tmp_path / "a" / "IEMOCAP_full_release"
    assert read_data(f"iemocap:{release}").utterances["id"].tolist() == ids
    release.rename(tmp_path / "mine")
    assert read_data(f"iemocap:{tmp_path / 'mine'}").utterances["id"].tolist() == ids


def test_iemocap_missing_audio_and_audio_without_a_label(tmp_path: Path) -> None:
    made("iemocap", tmp_path)
    first = tmp_path / WAVS / "Ses01F_impro01_F000.wav"
    first.rename(first.with_name("Ses01F_impro01_F099.wav"))
    manifest = read_data(f"iemocap:{tmp_path}")
    assert len(manifest) == 40
    lost = manifest.utterances[manifest.utterances["duration"].isna()]
    assert lost["file"].tolist() == [str(first)]
    assert lost["emotion"].tolist() == ["neutral"]


def test_iemocap_protocols(tmp_path: Path) -> None:
    frame = read_data(f"iemocap:{made('iemocap', tmp_path)}").utterances
    folds = published("iemocap", "iemocap-5fold").cut(frame)
    sessions = [tuple({name[-1] for name in part} for part in values(frame, fold, "session")) for fold in folds]
    assert sessions == [
        ({"2", "3", "4"}, {"5"}, {"1"}),
        ({"1", "3", "4"}, {"5"}, {"2"}),
        ({"1", "2", "4"}, {"5"}, {"3"}),
        ({"1", "2", "3"}, {"5"}, {"4"}),
        ({"1", "2", "3"}, {"4"}, {"5"}),
    ]
    folds = published("iemocap", "iemocap-10fold").cut(frame)
    assert len(folds) == 10
    for fold in folds:
        train, dev, test = values(frame, fold, "speaker")
        assert len(train) == 8
        assert train.isdisjoint(dev | test)
        assert {speaker[:5] for speaker in dev | test} == {fold.name[:5]}
        assert test == {fold.name} != dev
    some = frame[frame["session"] != "Session5"].reset_index(drop=True)
    fold = published("iemocap", "iemocap-5fold").cut(some)[0]
    assert ("dev", "session Session5") in fold.missing


def test_iemocap_errors(tmp_path: Path) -> None:
    file = made("iemocap", tmp_path) / LABELS
    whole = file.read_bytes()
    replaced(file, "\tang\t", "\tanger\t")
    said = error("iemocap", tmp_path)
    line = 1 + whole[: whole.index(b"\tang\t")].count(b"\n")
    assert f"{file}, line {line}: unknown emotion 'anger' (known: ang, dis" in said
    file.write_bytes(b"C-E2:\tNeutral;\t()\n" + whole)
    assert f"{file}, line 1: the rating" in error("iemocap", tmp_path)
    file.write_bytes(whole.replace(b"[2.5000, 2.0000, 3.0000]", b"[2.5000, 2.0000]", 1))
    assert f"{file}, line 3: expected a turn such as" in error("iemocap", tmp_path)
    file.unlink()
    said = error("iemocap", tmp_path)
    assert "half a corpus: 1 of 2 dialogues have audio but no labels, the first is Ses01F_impro01" in said
    assert str(file) in said
    assert "Session1" in error("iemocap", tmp_path / WAVS)


# MSP-Podcast


def podcast(folder: Path, release: str = "1.12") -> Path:
    return made("msp_podcast", folder, release=release)


def test_podcast_values(tmp_path: Path) -> None:
    manifest = read_data(f"msp_podcast:{podcast(tmp_path)}")
    frame = manifest.utterances
    assert len(frame) == 40
    assert frame["part"].value_counts().to_dict() == {"Train": 16, "Development": 8, "Test1": 8, "Test2": 8}
    assert frame["partition"].value_counts().to_dict() == {"train": 16, "dev": 8, "test": 16}
    first = row(manifest, "MSP-PODCAST_0001_0000")
    assert first[["speaker", "gender", "session", "emotion"]].tolist() == ["1", "male", "0001", "surprise"]
    unknown = row(manifest, "MSP-PODCAST_0001_0004")
    assert unknown[["speaker", "gender"]].tolist() == [None, None]
    table = pd.read_csv(tmp_path / "Labels" / "labels_consensus.csv")
    np.testing.assert_allclose(frame["arousal"], table["EmoAct"])
    np.testing.assert_allclose(frame["valence"], table["EmoVal"])
    np.testing.assert_allclose(frame["dominance"], table["EmoDom"])
    assert set(frame["emotion"][table["EmoClass"] == "X"]) == {None}
    assert set(frame["emotion"][table["EmoClass"] == "O"]) == {"other"}
    assert manifest.schemes["arousal"].scale == (1.0, 7.0)


def test_podcast_single_ratings_give_the_consensus(tmp_path: Path) -> None:
    manifest = read_data(f"msp_podcast:{podcast(tmp_path)}")
    assert manifest.majority().tolist() == manifest.utterances["emotion"].tolist()
    matrix, raters = manifest.rater_matrix("valence")
    assert all(rater.startswith("WORKER0000000") for rater in raters)
    once = np.isfinite(matrix).sum(axis=1) == 5
    np.testing.assert_allclose(np.nanmean(matrix, axis=1)[once], manifest.utterances["valence"][once])
    assert once.sum() == 36


def test_podcast_a_worker_twice_is_averaged(tmp_path: Path) -> None:
    manifest = read_data(f"msp_podcast:{podcast(tmp_path, '2.0')}")
    name = "MSP-PODCAST_0001_0001"
    table = pd.read_csv(tmp_path / "Labels" / "Labels" / "labels_detailed.csv")
    table = table[table["FileName"] == f"{name}.wav"]
    twice = table[table["WorkerID"].duplicated(keep=False)]
    assert len(twice) == 2
    rater, word = twice["WorkerID"].tolist()[0], twice["EmoClass_Major"].tolist()[0]
    assert len(set(table["WorkerID"])) == 4
    rated = ratings_of(manifest, name)
    assert len(rated) == 4 * 4
    assert rated[rater, "arousal"] == twice["EmoAct"].mean()
    assert rated[rater, "emotion"] == {"Angry": "anger", "Neutral": "neutral"}[word]


@pytest.mark.parametrize("release", ["1.10", "1.11", "2.0"])
def test_podcast_releases_hold_the_same(release: str, tmp_path: Path) -> None:
    one = read_data(f"msp_podcast:{podcast(tmp_path / 'one')}")
    other = read_data(f"msp_podcast:{podcast(tmp_path / 'other', release)}")
    frame = other.utterances.assign(part=other.utterances["part"].replace("Validation", "Development"))
    pd.testing.assert_frame_equal(one.utterances.drop(columns="file"), frame.drop(columns="file"))
    assert one.ratings is not None
    assert other.ratings is not None
    pd.testing.assert_frame_equal(one.ratings, other.ratings)
    assert ("Validation" in set(other.utterances["part"])) == (release == "1.10")


def test_podcast_from_json(tmp_path: Path) -> None:
    before = read_data(f"msp_podcast:{podcast(tmp_path, '2.0')}")
    labels = tmp_path / "Labels" / "Labels"
    consensus = pd.read_csv(labels / "labels_consensus.csv", dtype=str).set_index("FileName")
    (labels / "labels_consensus.json").write_text(json.dumps(consensus.to_dict("index")))
    rated: dict[str, dict[str, Any]] = {}
    for entry in pd.read_csv(labels / "labels_detailed.csv").to_dict("records"):
        rated.setdefault(entry["FileName"], {})[entry["WorkerID"]] = {
            key: value for key, value in entry.items() if str(key).startswith("Emo")
        }
    (labels / "labels_detailed.json").write_text(json.dumps(rated))
    for file in labels.glob("*.csv"):
        file.unlink()
    after = read_data(f"msp_podcast:{tmp_path}")
    pd.testing.assert_frame_equal(before.utterances, after.utterances)
    name = "MSP-PODCAST_0002_0003"
    assert ratings_of(before, name) == ratings_of(after, name)


def test_podcast_missing_audio_hidden_labels_and_other_folders(tmp_path: Path) -> None:
    podcast(tmp_path / "a")
    manifest = read_data(f"msp_podcast:{tmp_path / 'a'}")
    lost = manifest.utterances[manifest.utterances["duration"].isna()]
    assert lost["id"].tolist() == ["MSP-PODCAST_0001_0015"]
    assert lost["file"].tolist() == [str(tmp_path / "a" / "Audios" / "MSP-PODCAST_0001_0015.wav")]
    assert (tmp_path / "a" / "Audios" / "MSP-PODCAST_0009_0000.wav").is_file()  # Test3
    assert not manifest.utterances["id"].str.startswith("MSP-PODCAST_0009").any()
    (tmp_path / "a" / "Audios").rename(tmp_path / "a" / "Audio")
    assert read_data(f"msp_podcast:{tmp_path}").utterances["duration"].notna().sum() == 39
    (tmp_path / "a" / "Labels" / "labels_detailed.csv").unlink()
    assert read_data(f"msp_podcast:{tmp_path}").ratings is None


def test_podcast_ratings_of_other_utterances(tmp_path: Path) -> None:
    file = podcast(tmp_path) / "Labels" / "labels_consensus.csv"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:11]))
    short = read_data(f"msp_podcast:{tmp_path}")
    assert len(short) == 10
    assert short.ratings is not None
    assert set(short.ratings["utterance"]) == set(short.utterances["id"])
    rated = tmp_path / "Labels" / "labels_detailed.csv"
    rated.write_bytes(rated.read_bytes().replace(b"MSP-PODCAST_0", b"MSP-PODCAST_7"))
    assert "rates none of the 10 utterances of the consensus" in error("msp_podcast", tmp_path)


def test_podcast_ratings_outside_the_scale_and_odd_text(tmp_path: Path) -> None:
    file = podcast(tmp_path) / "Labels" / "labels_detailed.csv"
    lines = file.read_text().splitlines()
    name = "MSP-PODCAST_0001_0000.wav"
    mine = [i for i, line in enumerate(lines) if line.startswith(name)]
    odd = "WORKER00000001; Other-so; so A: she says; Happy,Concerned; A:0.000000; V:nan; D:7.000000;"
    lines[mine[0]] = f'{name},"{odd}"'
    file.write_text("\n".join(lines) + "\n")
    rated = ratings_of(read_data(f"msp_podcast:{tmp_path}"), name.removesuffix(".wav"))
    own = {attribute: value for (rater, attribute), value in rated.items() if rater == "WORKER00000001"}
    assert own == {"emotion": "other", "dominance": 7.0}
    lines[mine[1]] = f"{name},WORKER00000002 Neutral"
    file.write_text("\n".join(lines) + "\n")
    said = error("msp_podcast", tmp_path)
    assert f"{file}, line {mine[1] + 1}: expected a rating such as 'WORKER00000001;" in said


def test_podcast_protocols(tmp_path: Path) -> None:
    for release, dev in (("1.10", "Validation"), ("1.12", "Development")):
        frame = read_data(f"msp_podcast:{podcast(tmp_path / release, release)}").utterances
        for test in ("Test1", "Test2"):
            (fold,) = published("msp_podcast", f"msp-podcast-{test.lower()}").cut(frame)
            assert values(frame, fold, "part") == ({"Train"}, {dev}, {test})
            assert not fold.missing
            train, chosen, tested = values(frame, fold, "speaker")
            assert train.isdisjoint(chosen | tested)
        assert corpus("msp_podcast").PROTOCOLS[0].name == "msp-podcast-test1"
        (fold,) = published("msp_podcast", "msp-podcast-test3").cut(frame)
        assert fold.missing == (("test", "part Test3"),)
    some = frame[frame["part"] != "Development"].reset_index(drop=True)
    assert published("msp_podcast", "msp-podcast-test1").cut(some)[0].missing == (("dev", "part Development"),)


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (
            "readme.txt",
            "Release 1.12",
            "Release 1.7",
            "readme.txt: release 1.7 of MSP-Podcast is not known; known are 1.10",
        ),
        ("Labels/labels_consensus.csv", "EmoAct", "Act", "no column EmoAct (found FileName, EmoClass"),
        ("Labels/labels_consensus.csv", ".wav,U,", ".wav,Q,", "csv, line 2: unknown emotion 'Q' (known: A, C, D"),
        (
            "Labels/labels_consensus.csv",
            ",Train\r\n",
            ",Held-out\r\n",
            "line 2: MSP-PODCAST_0001_0000.wav has an unknown part",
        ),
        ("Labels/labels_detailed.csv", "EmoDetail", "Details", "no column WorkerID, EmoClass_Major"),
    ],
)
def test_podcast_errors(tmp_path: Path, file: str, old: str, new: str, words: str) -> None:
    replaced(podcast(tmp_path) / file, old, new)
    assert words in error("msp_podcast", tmp_path)


def test_podcast_utterances_without_a_part(tmp_path: Path) -> None:
    replaced(podcast(tmp_path) / "Labels" / "labels_consensus.csv", ",Train\r\n", ",\r\n")
    assert len(read_data(f"msp_podcast:{tmp_path}")) == 40  # Partition.txt says it
    (tmp_path / "Partition.txt").unlink()
    assert "line 2: MSP-PODCAST_0001_0000.wav has no part" in error("msp_podcast", tmp_path)


def test_podcast_no_agreement_in_words(tmp_path: Path) -> None:
    before = read_data(f"msp_podcast:{podcast(tmp_path)}").utterances["emotion"].tolist()
    for _ in range(2):
        replaced(tmp_path / "Labels" / "labels_consensus.csv", ",X,", ",NoAgreement,")
    assert before.count(None) == 2
    assert read_data(f"msp_podcast:{tmp_path}").utterances["emotion"].tolist() == before


def test_podcast_json_that_is_none(tmp_path: Path) -> None:
    labels = podcast(tmp_path) / "Labels"
    (labels / "labels_consensus.csv").unlink()
    (labels / "labels_consensus.json").write_text("{")
    assert "labels_consensus.json: not JSON" in error("msp_podcast", tmp_path)
    (labels / "labels_consensus.json").write_text("[1]")
    assert "labels_consensus.json: expected file names, each with its labels" in error("msp_podcast", tmp_path)


def test_podcast_older_releases_and_no_audio(tmp_path: Path) -> None:
    file = podcast(tmp_path) / "Labels" / "labels_consensus.csv"
    for wav in (tmp_path / "Audios").glob("*.wav"):
        wav.unlink()
    assert "half a corpus: none of the 40 labelled files is there" in error("msp_podcast", tmp_path)
    file.rename(file.with_name("labels_concensus.csv"))
    assert "a release of MSP-Podcast before 1.10" in error("msp_podcast", tmp_path)
    (tmp_path / "Labels" / "labels_concensus.csv").unlink()
    assert "looked for" in error("msp_podcast", tmp_path)


# MSP-Improv


def test_improv_activation_is_turned_round(tmp_path: Path) -> None:
    file = made("msp_improv", tmp_path) / "Evalution.txt"
    file.write_text(
        "UTD-IMPROV-S01A-F01-T-FM01.avi; A; A:1.500000; V:2.250000; D:3.750000 ; N:4.000000;\n"
        "W1; Angry; Angry,Frustrated; A:1.000000; V:2.000000; D:4.000000; N:4.000000;\n"
        "W2; Other; ; A:2.000000; V:2.500000; D:NaN; N:NaN;\n"
        "W2; Angry; a b: c; A:4.000000; V:2.500000; D:NaN; N:5.000000;\n"
    )
    for wav in sorted((tmp_path / "Audio").rglob("[!.]*.wav")):
        if wav.stem != "MSP-IMPROV-S01A-F01-T-FM01":
            wav.unlink()
    manifest = read_data(f"msp_improv:{tmp_path}")
    turn = manifest.utterances.iloc[0]
    assert turn[["arousal", "valence", "dominance", "naturalness"]].tolist() == [4.5, 2.25, 3.75, 4.0]
    assert ratings_of(manifest, turn["id"]) == {
        ("W1", "emotion"): "anger",
        ("W1", "arousal"): 5,
        ("W1", "valence"): 2,
        ("W1", "dominance"): 4,
        ("W2", "emotion"): "other",  # the first of two
        ("W2", "arousal"): 3,  # the mean of 6 - 2 and 6 - 4
        ("W2", "valence"): 2.5,
    }


def test_improv_values(tmp_path: Path) -> None:
    root = made("msp_improv", tmp_path / "release")
    manifest = read_data(f"msp_improv:{root}")
    frame = manifest.utterances
    assert len(frame) == 60
    read = row(manifest, "MSP-IMPROV-S02S-M03-R-MF04")
    columns = ["speaker", "gender", "session", "text", "scenario", "intended", "recording", "emotion"]
    assert read[columns].tolist() == ["M03", "male", "session3", "S02", "S02S", "sadness", "read", "sadness"]
    assert frame["text"].notna().tolist() == frame["recording"].isin(["read", "target"]).tolist()
    assert row(manifest, "MSP-IMPROV-S01A-F01-P-FM05")["emotion"] is None  # X
    assert row(manifest, "MSP-IMPROV-S01A-M01-P-MF05")["emotion"] == "other"
    assert np.isnan(row(manifest, "MSP-IMPROV-S01A-F01-P-FM05")["dominance"])
    lost = frame[frame["duration"].isna()]
    assert lost["id"].tolist() == ["MSP-IMPROV-S01A-M06-P-MF05"]
    assert lost["file"].iat[0] == str(root / "Audio/session6/S01A/P/MSP-IMPROV-S01A-M06-P-MF05.wav")
    assert not frame["id"].str.endswith("FM99").any()
    (root / "Evalution.txt").rename(root / "Evaluation.txt")
    assert len(read_data(f"msp_improv:{tmp_path}")) == 60


def test_improv_protocols(tmp_path: Path) -> None:
    frame = read_data(f"msp_improv:{made('msp_improv', tmp_path)}").utterances
    folds = published("msp_improv", "msp-improv-6fold").cut(frame)
    assert [values(frame, fold, "session")[1:] for fold in folds] == [
        ({"session6"}, {"session1"}),
        ({"session6"}, {"session2"}),
        ({"session6"}, {"session3"}),
        ({"session6"}, {"session4"}),
        ({"session6"}, {"session5"}),
        ({"session5"}, {"session6"}),
    ]
    for fold in folds:
        train, dev, test = values(frame, fold, "speaker")
        assert (len(train), len(dev), len(test)) == (8, 2, 2)
        assert train.isdisjoint(dev | test)
        assert dev.isdisjoint(test)
    (fold,) = published("msp_improv", "msp-improv-paper-b").cut(frame)
    assert values(frame, fold, "speaker") == (
        {"F01", "F03", "F05", "F06", "M02", "M03", "M04", "M06"},
        {"F02", "M01"},
        {"F04", "M05"},
    )


def test_improv_errors(tmp_path: Path) -> None:
    file = made("msp_improv", tmp_path) / "Evalution.txt"
    whole = file.read_bytes()
    replaced(file, ".avi; A;", ".avi; Q;")
    assert f"{file}, line 1: unknown emotion 'Q' (known: A, H, N, O, S, X)" in error("msp_improv", tmp_path)
    file.write_bytes(b"W1; Happy; Happy; A:1.0; V:2.0; D:3.0; N:4.0;\r\n" + whole)
    assert f"{file}, line 1: a rating by 'W1' before the first turn" in error("msp_improv", tmp_path)
    file.write_bytes(whole.replace(b"S01A-F01-T-FM01.avi", b"S01-F01-T-FM01.avi", 1))
    assert "line 1: 'UTD-IMPROV-S01-F01-T-FM01' is no name of a turn" in error("msp_improv", tmp_path)
    file.write_bytes(whole.replace(b"UTD-IMPROV-S01A-F01-T-FM01.avi; A; A:", b"UTD-IMPROV-S01A-F01-T-FM01.avi A A:", 1))
    assert f"{file}, line 1: expected a turn such as" in error("msp_improv", tmp_path)
    file.write_bytes(whole[: whole.index(b"UTD-IMPROV-S01A-F05")])
    assert "half a corpus: session5, session6 has audio but no labels" in error("msp_improv", tmp_path)
    file.write_bytes(b"")
    assert "no turn in it" in error("msp_improv", tmp_path)
    file.write_bytes(whole)
    (tmp_path / "Audio").rename(tmp_path / "Audio.zip")
    for wav in (tmp_path / "Audio.zip").rglob("*.wav"):
        wav.unlink()
    assert "half a corpus: no audio for the 60 turns" in error("msp_improv", tmp_path)
    file.unlink()
    assert f"looked for {file}, Evaluation.txt" in error("msp_improv", tmp_path)


# MuSE


def test_muse_values_and_ratings(tmp_path: Path) -> None:
    made("muse", tmp_path)
    (table,) = tmp_path.rglob("Emotion data*.csv")
    replaced(
        table, "sentence_1.wav,0.3,F,S,Positive,", "sentence_1.wav,0.3,F,S,Positive,4.5,6.25,1;;9;12,5;6;7,3,8\r\n#"
    )
    lines = table.read_bytes().split(b"\r\n")
    table.write_bytes(b"\r\n".join(line for line in lines if not line.startswith(b"#")))
    manifest = read_data(f"muse:{tmp_path}")
    first = manifest.utterances.iloc[0]
    columns = ["id", "speaker", "gender", "session", "condition", "question", "arousal", "valence"]
    assert first[columns].tolist() == [
        "01_DR-100_0090_1_sentence_1",
        "01",
        "female",
        "01_DR-100_0090",
        "stressed",
        "Positive",
        4.5,
        6.25,
    ]
    assert ratings_of(manifest, first["id"]) == {
        ("place-1", "arousal"): 1,
        ("place-3", "arousal"): 9,
        ("self-01", "arousal"): 3,
        ("place-1", "valence"): 5,
        ("place-2", "valence"): 6,
        ("place-3", "valence"): 7,
        ("self-01", "valence"): 8,
    }
    assert list(manifest.schemes) == ["arousal", "valence"]
    assert manifest.schemes["valence"].scale == (1.0, 9.0)
    assert manifest.utterances["condition"].value_counts().to_dict() == {"stressed": 16, "not stressed": 16}
    assert manifest.utterances["duration"].isna().sum() == 1
    assert ("self-03", "arousal") not in ratings_of(manifest, "03_DR-100_0095_3_sentence_1")


def test_muse_errors(tmp_path: Path) -> None:
    made("muse", tmp_path)
    (table,) = tmp_path.rglob("Emotion data*.csv")
    whole = table.read_bytes()
    table.write_bytes(whole.replace(b"01_DR-100_0090_1_sentence_2", b"DR-100_0090_1", 1))
    assert f"{table}, line 3: 'DR-100_0090_1' is no name of a sentence" in error("muse", tmp_path)
    table.write_bytes(whole.replace(b",4,6\r\n", b",low,6\r\n", 1))
    assert f"{table}, line 2, Activation: expected ratings such as 3;4;2, found 'low'" in error("muse", tmp_path)
    table.write_bytes(whole.replace(b"Valence_Mean", b"Valence", 1))
    assert "no column 'Valence_Mean'" in error("muse", tmp_path)
    table.write_bytes(whole)
    for wav in tmp_path.rglob("*.wav"):
        wav.unlink()
    assert "half a corpus: none of the 32 sentences" in error("muse", tmp_path)
    table.unlink()
    assert "Emotion data from crowdsourcing" in error("muse", tmp_path)


# All of them


@pytest.mark.parametrize("name", ["iemocap", "msp_improv", "msp_podcast"])
def test_published_splits_keep_speakers_apart(name: str, tmp_path: Path) -> None:
    frame = read_data(f"{name}:{made(name, tmp_path)}").utterances
    frame = frame[frame["speaker"].notna()].reset_index(drop=True)  # some of MSP-Podcast's are unknown
    protocols = corpus(name).PROTOCOLS
    for protocol in protocols:
        if protocol.name == "msp-podcast-test3":
            with pytest.raises(SertuneError, match=r"the test part of fold 'Test3' is empty.* part Test3"):
                make_protocol(frame, protocol.name, labels=None, published=protocols)
        else:
            assert make_protocol(frame, protocol.name, labels=None, published=protocols).speaker_independent


@pytest.mark.parametrize("name", ["iemocap", "msp_improv", "msp_podcast", "muse"])
def test_a_broken_file_is_left_for_the_check(name: str, tmp_path: Path) -> None:
    before = read_data(f"{name}:{made(name, tmp_path)}").utterances
    file = Path(before["file"].tolist()[0])
    assert soundfile.info(file).duration == pytest.approx(before["duration"].iat[0])
    file.write_bytes(b"")
    after = read_data(f"{name}:{tmp_path}").utterances
    assert len(after) == len(before)
    assert np.isnan(after["duration"].tolist()[0])


@pytest.mark.parametrize("name", ["iemocap", "msp_improv", "msp_podcast", "muse"])
def test_a_manifest_is_saved_with_its_ratings_and_read_again(name: str, tmp_path: Path) -> None:
    before = read_data(f"{name}:{made(name, tmp_path / 'root')}")
    before.save(tmp_path / "saved")
    after = read_data(str(tmp_path / "saved"))
    pd.testing.assert_frame_equal(before.utterances, after.utterances)
    assert before.ratings is not None
    assert after.ratings is not None
    pd.testing.assert_frame_equal(before.ratings, after.ratings)
    assert after.schemes == before.schemes
