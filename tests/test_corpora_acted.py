"""The acted corpora: their layouts as real copies have them, their ratings, their protocols, and damaged copies."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from sertune.apps.check import show, with_agreement
from sertune.corpora import corpus, published, read_data
from sertune.corpora.cremad import ANONYMOUS
from sertune.data.audit import check
from sertune.data.manifest import Manifest
from sertune.data.protocols import Fold
from sertune.errors import SertuneError

ACTED = ("ravdess", "cremad", "tess", "savee", "emovo", "nemo", "esd", "emozionalmente")
BY_NAME = ("ravdess", "tess", "savee", "emovo", "esd", "cremad")  # all is in the names of the files


def example(name: str, folder: Path) -> Path:
    corpus(name).example(folder)
    return folder


def read(name: str, folder: Path) -> Manifest:
    return read_data(f"{name}:{folder}")


def row(manifest: Manifest, name: str) -> dict[str, Any]:
    frame = manifest.utterances
    return dict(frame[frame["id"] == name].iloc[0])


def wav(path: Path, seconds: float = 0.2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.linspace(-0.1, 0.1, int(16000 * seconds)), 16000)


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Change the lines of a text file."""
    lines = path.read_bytes().decode("utf-8-sig").splitlines()
    path.write_text("\n".join(change(lines)) + "\n", "utf-8")


def has(manifest: Manifest, name: str, **expected: object) -> None:
    found = row(manifest, name)
    assert {key: found[key] for key in expected} == expected


# What the names and tables say


def test_what_ravdess_says_of_a_file(tmp_path: Path) -> None:
    manifest = read("ravdess", example("ravdess", tmp_path))
    has(
        manifest,
        "03-01-03-01-01-01-01",
        speaker="01",
        gender="male",
        text="01",
        emotion="happiness",
        intensity="normal",
        repetition=1,
    )
    has(manifest, "03-01-07-02-01-01-08", gender="female", text="01", emotion="disgust", intensity="strong")
    assert manifest.schemes["emotion"].labels == corpus("ravdess").INFO.labels


def test_ravdess_twice_in_stereo_and_sung(tmp_path: Path) -> None:
    example("ravdess", tmp_path)
    frame = read("ravdess", tmp_path).utterances
    assert len(frame) == 40  # of 81 audio files: 40 twice, one song
    assert soundfile.info(tmp_path / "Actor_01" / "03-01-02-02-02-01-01.wav").channels == 2
    assert not frame["id"].str.startswith("03-02").any()
    for folder in tmp_path.glob("Actor_*"):
        shutil.rmtree(folder)
    # The official archive has a folder per actor; a copy may have one more around them.
    assert read("ravdess", tmp_path).utterances["id"].tolist() == frame["id"].tolist()
    assert len(read("ravdess", tmp_path / "audio_speech_actors_01-24" / "Actor_03")) == 8
    for file in sorted((tmp_path / "audio_speech_actors_01-24").rglob("*.wav")):
        file.rename(file.with_name(file.name.replace("03-01-", "03-02-", 1)))
    with pytest.raises(SertuneError, match=r"no ravdess in .*: looked for files like Actor_01/03-01-"):
        read("ravdess", tmp_path)


def test_what_tess_says_of_a_file(tmp_path: Path) -> None:
    manifest = read("tess", example("tess", tmp_path))
    has(manifest, "YAF_back_ps", speaker="YAF", gender="female", text="back", emotion="surprise", age=26)
    has(manifest, "OAF_bite_neutral", speaker="OAF", text="bite", emotion="neutral", age=64)
    assert (tmp_path / "OAF_neutral" / "OA_bite_neutral.wav").is_file()
    assert len(manifest) == 28


def test_savee_in_folders_and_flat(tmp_path: Path) -> None:
    manifest = read("savee", example("savee", tmp_path / "a"))
    has(manifest, "JE_sa02", speaker="JE", gender="male", text="sa02", emotion="sadness")
    flat = tmp_path / "flat" / "ALL"
    flat.mkdir(parents=True)
    for file in (tmp_path / "a" / "AudioData").glob("*/[!.]*.wav"):
        shutil.copy(file, flat / f"{file.parent.name}_{file.name}")
    columns = ["id", "speaker", "text", "emotion", "duration"]
    other = read("savee", flat.parent)
    pd.testing.assert_frame_equal(other.utterances[columns], manifest.utterances[columns])
    # Where nothing says who speaks, that is said.
    wav(flat / "a09.wav")
    with pytest.raises(SertuneError, match=r"a09.wav: not named as SAVEE .*speaker DC, JE, JK, KL"):
        read("savee", flat.parent)


def test_what_emovo_says_of_a_file(tmp_path: Path) -> None:
    manifest = read("emovo", example("emovo", tmp_path))
    has(manifest, "gio-m2-d1", speaker="m2", gender="male", text="d1", emotion="happiness")
    codes = {"rab": "anger", "dis": "disgust", "pau": "fear", "neu": "neutral", "tri": "sadness", "sor": "surprise"}
    for code, emotion in codes.items():
        assert set(manifest.utterances.loc[manifest.utterances["id"].str.startswith(code), "emotion"]) == {emotion}


def test_what_nemo_says_of_a_file(tmp_path: Path) -> None:
    manifest = read("nemo", example("nemo", tmp_path))
    has(manifest, "WR0_anger_1", speaker="WR0", gender="male", text="1", age=23, transcript="Lubię czytać przed snem.")
    has(manifest, "EB0_anger_2", speaker="EB0", transcript='Ucho" słyszy.')
    assert set(manifest.utterances.loc[manifest.utterances["id"].str.contains("surprised"), "emotion"]) == {"surprise"}


def test_what_esd_says_of_a_file(tmp_path: Path) -> None:
    manifest = read("esd", example("esd", tmp_path))
    has(
        manifest,
        "0001_000371",
        speaker="0001",
        gender="female",
        language="zh",
        text="zh-021",
        emotion="anger",
        partition="test",
        transcript="他对谁都那么友好。",
    )
    has(
        manifest,
        "0006_001401",
        gender="male",
        emotion="surprise",
        partition="dev",
        transcript="打远一看，它们的确很美。",
    )
    has(manifest, "0016_000751", language="en", emotion="happiness", partition="train", transcript="Dón't be an ass.")
    # The first line of each label file has spaces for tabs.
    has(manifest, "0011_000001", emotion="neutral", text="en-001", transcript="The nine the eggs, I keep.")
    # The folders of the parts and the numbers of the sentences say the same.
    frame = manifest.utterances
    named = frame["file"].map(lambda file: Path(file).parent.name)
    for folder, part in (("evaluation", "dev"), ("test", "test"), ("train", "train")):
        assert set(frame.loc[named == folder, "partition"]) == {part}


def test_esd_without_label_files_or_one_language_alone(tmp_path: Path) -> None:
    example("esd", tmp_path)
    for file in tmp_path.glob("*/*.txt"):
        file.unlink()
    for speaker in ("0001", "0006"):
        shutil.rmtree(tmp_path / speaker)
    frame = read("esd", tmp_path).utterances
    assert set(frame["language"]) == {"en"}
    assert frame["transcript"].isna().all()


# CREMA-D's audio and ratings


def test_what_cremad_says_of_a_file(tmp_path: Path) -> None:
    manifest = read("cremad", example("cremad", tmp_path))
    has(
        manifest,
        "1001_IEO_ANG_LO",
        file=str(tmp_path / "AudioWAV" / "1001_IEO_ANG_LO.wav"),  # not the stub in AudioMP3
        speaker="1001",
        gender="male",
        text="IEO",
        emotion="anger",
        level="low",
        age=51.0,
        race="Caucasian",
    )
    has(manifest, "1040_ITH_SAD_XX", level="unspecified", file=str(tmp_path / "AudioWAV" / "1040_ITH_SAD_X.wav"))
    assert manifest.utterances["duration"].notna().all()


def test_cremad_with_audio_alone(tmp_path: Path) -> None:
    example("cremad", tmp_path)
    before = read("cremad", tmp_path).utterances
    manifest = read("cremad", tmp_path / "AudioWAV")
    assert manifest.ratings is None
    assert manifest.utterances["id"].tolist() == before["id"].tolist()
    assert manifest.utterances["emotion"].tolist() == before["emotion"].tolist()


HEADER = "localid,ans,queryType,clipName"
TABULATED = ["A", "D", "F", "H", "N", "S", "fileName", "numResponses", "meanEmoResp"]


def responses(folder: Path, *lines: str) -> Path:
    (folder / "finishedResponses.csv").write_text("\n".join([HEADER, *lines]) + "\n", "utf-8")
    return folder


def tabulated(folder: Path, *rows: tuple[object, ...]) -> Path:
    table = pd.DataFrame([row[1:] for row in rows], columns=TABULATED, index=[row[0] for row in rows])
    table.to_csv(folder / "tabulatedVotes.csv")
    return folder


def test_cremad_ratings_are_of_the_voice_by_rater(tmp_path: Path) -> None:
    manifest = read(
        "cremad",
        responses(
            tmp_path,
            "7,A_60,1,1001_IEO_ANG_HI",
            "8,D_20,1,1001_IEO_ANG_HI",
            "9,A_40,1,1001_IEO_ANG_HI",
            "7,S_50,2,1001_IEO_ANG_HI",
            "7,N_50,1,1002_IEO_SAD_LO",
            "8,S_50,1,1002_IEO_SAD_LO",
            "8,S_50,3,1002_IEO_SAD_LO",
            "8,H_50,1,SAD_MD_practice",
        ),
    )
    assert manifest.ratings is not None
    assert manifest.ratings[["utterance", "rater", "value"]].to_numpy().tolist() == [
        ["1001_IEO_ANG_HI", "7", "anger"],
        ["1001_IEO_ANG_HI", "8", "disgust"],
        ["1001_IEO_ANG_HI", "9", "anger"],
        ["1002_IEO_SAD_LO", "7", "neutral"],
        ["1002_IEO_SAD_LO", "8", "sadness"],
    ]
    has(manifest, "1001_IEO_ANG_HI", voice_vote="anger", face_vote="sadness", audiovisual_vote=None, voice_level=40.0)
    has(manifest, "1002_IEO_SAD_LO", voice_vote=None, face_vote=None, audiovisual_vote="sadness", emotion="sadness")
    assert manifest.majority().tolist() == ["anger", None]


def test_a_rater_who_answers_twice_is_heard_once(tmp_path: Path) -> None:
    twice = responses(tmp_path, "7,A_60,1,1001_IEO_ANG_HI", "8,F_60,1,1001_IEO_ANG_HI", "7,S_10,1,1001_IEO_ANG_HI")
    ratings = read("cremad", twice).ratings
    assert ratings is not None
    assert dict(zip(ratings["rater"], ratings["value"], strict=True)) == {"7": "sadness", "8": "fear"}


def test_cremad_votes_without_raters(tmp_path: Path) -> None:
    folder = tmp_path / "processedResults"
    folder.mkdir()
    tabulated(
        folder,
        (100001, 2, 0, 1, 0, 0, 0, "1001_IEO_ANG_HI", 3, 55.5),
        (100002, 1, 0, 0, 0, 1, 0, "1002_IEO_SAD_LO", 2, 20),
        (200001, 0, 3, 0, 0, 0, 0, "1001_IEO_ANG_HI", 3, 50),
        (300001, 4, 0, 0, 0, 0, 0, "1001_IEO_ANG_HI", 4, 50),
    )
    manifest = read("cremad", tmp_path)
    assert manifest.ratings is not None
    assert len(manifest.ratings) == 5
    assert set(manifest.ratings["rater"]) == {f"{ANONYMOUS}-{i}" for i in (1, 2, 3)}
    assert manifest.votes()[["anger", "fear"]].to_numpy()[0].tolist() == [2, 1]
    has(
        manifest,
        "1001_IEO_ANG_HI",
        voice_vote="anger",
        face_vote="disgust",
        audiovisual_vote="anger",
        voice_level=55.5,
    )
    assert manifest.majority().tolist() == ["anger", None]
    # The responses go before the counts.
    ratings = read("cremad", responses(tmp_path, "7,A_60,1,1001_IEO_ANG_HI")).ratings
    assert ratings is not None
    assert ratings["rater"].tolist() == ["7"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("7,X_60,1,1001_IEO_ANG_HI", r"row 2: .*ans 'X_60'.*one of ADFHNS"),
        ("7,A_60,4,1001_IEO_ANG_HI", r"row 2: .*queryType '4'.*1, 2 or 3"),
        (",A_60,1,1001_IEO_ANG_HI", r"row 2: localid ''"),
        ("7,A_60,1,1001_IEO_BOR_HI", r"row 2: no clip of CREMA-D is named '1001_IEO_BOR_HI'"),
        ("7,A_60,1,1003_IEO_SAD_HI", r"row 2: rates 1003_IEO_SAD_HI, which is not in SentenceFilenames.csv"),
    ],
)
def test_wrong_responses_say_where(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "SentenceFilenames.csv").write_text('"Stimulus_Number","Filename"\n1,"1001_IEO_ANG_HI"\n', "utf-8")
    with pytest.raises(SertuneError, match=rf"finishedResponses.csv, {words}"):
        read("cremad", responses(tmp_path, "7,A_60,1,1001_IEO_ANG_HI", line))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ((7, 1, 0, 0, 0, 0, 0, "1001_IEO_SAD_HI", 1, 5), r"row 2: expected a number from 100001"),
        ((100002, 1.5, 0, 0, 0, 0, 0, "1001_IEO_SAD_HI", 1, 5), "row 2: expected a number .* counts of votes"),
        ((100002, -1, 0, 0, 0, 0, 0, "1001_IEO_SAD_HI", 1, 5), "row 2: expected a number .* counts of votes"),
        ((100002, 1, 0, 0, 0, 0, 0, "1001_IEO_ANG_HI", 1, 5), "row 2: counts 1001_IEO_ANG_HI a second time"),
    ],
)
def test_wrong_vote_counts_say_where(tmp_path: Path, wrong: tuple[object, ...], words: str) -> None:
    with pytest.raises(SertuneError, match=rf"tabulatedVotes.csv, {words}"):
        read("cremad", tabulated(tmp_path, (100001, 1, 0, 0, 0, 0, 0, "1001_IEO_ANG_HI", 1, 5), wrong))


# Emozionalmente


def test_what_emozionalmente_says_of_a_clip(tmp_path: Path) -> None:
    manifest = read("emozionalmente", example("emozionalmente", tmp_path))
    has(
        manifest,
        "1612877800003",
        speaker=f"{1:064x}",
        gender="female",
        text="Vado in biblioteca",
        emotion="happiness",
        age=20.0,
    )
    assert set(manifest.utterances["text"]) == {"Vado in biblioteca", "Tornerà a casa presto", '"Sì, certo"'}
    assert manifest.ratings is not None
    assert len(manifest.ratings) == 28 * 5
    frame = manifest.utterances
    assert frame.loc[frame["duration"].isna(), "id"].tolist() == ["1612877830006"]  # its file is missing
    # The tables may lie beside the audio.
    for file in (tmp_path / "metadata").iterdir():
        shutil.move(file, tmp_path)
    pd.testing.assert_frame_equal(read("emozionalmente", tmp_path).utterances, manifest.utterances)


def test_emozionalmente_second_answers_and_bad_audio(tmp_path: Path) -> None:
    example("emozionalmente", tmp_path)
    path = tmp_path / "metadata" / "evaluations.csv"
    name, rater = "1612877810000", f"{77:064x}"
    two = [f"{name}.wav,{rater},bad,joy", f"{name}.wav,{rater},good,fear"]
    edit(path, lambda lines: [lines[0], *two, *(f"{name}.wav,{i:064x},bad,anger" for i in (78, 79))])
    manifest = read("emozionalmente", tmp_path)
    assert manifest.ratings is not None
    assert manifest.ratings["value"].tolist() == ["fear", "anger", "anger"]
    has(manifest, name, bad_audio=2)
    has(manifest, "1612877810001", bad_audio=0)


def test_who_rated_emozionalmente(tmp_path: Path) -> None:
    example("emozionalmente", tmp_path)
    people = corpus("emozionalmente").raters(tmp_path)
    manifest = read("emozionalmente", tmp_path)
    assert manifest.ratings is not None
    counts = manifest.ratings["rater"].value_counts().to_dict()
    assert dict(zip(people["rater"], people["ratings"], strict=True)) == counts
    first = people[people["rater"] == f"{5:064x}"].iloc[0]
    assert (first["gender"], first["age"], first["mother_tongue"]) == ("male", 24, "italian")


def test_emozionalmente_without_users_or_answers(tmp_path: Path) -> None:
    example("emozionalmente", tmp_path)
    (tmp_path / "metadata" / "users.csv").unlink()
    frame = read("emozionalmente", tmp_path).utterances
    assert frame["gender"].isna().all()
    assert frame["age"].isna().all()
    (tmp_path / "metadata" / "evaluations.csv").unlink()
    assert read("emozionalmente", tmp_path).ratings is None


@pytest.mark.parametrize(
    ("table", "line", "words"),
    [
        ("samples", "9.wav,a,italian,x,ira funesta", r"row 2: emotion_expressed 'ira funesta', expected one of anger"),
        ("samples", "1612877800000.wav,a,italian,x,joy", r"names 1612877800000.wav a second time"),
        ("evaluations", "9.wav,x,good,joy", r"row 2: rates '9.wav', which .*samples.csv does not have"),
        ("evaluations", "1612877800000.wav,x,good,no idea", r"row 2: emotion_recognized 'no idea'"),
    ],
)
def test_wrong_tables_of_emozionalmente_say_where(tmp_path: Path, table: str, line: str, words: str) -> None:
    example("emozionalmente", tmp_path)
    edit(tmp_path / "metadata" / f"{table}.csv", lambda lines: [*lines[:2], line, *lines[2:]])
    with pytest.raises(SertuneError, match=rf"{table}.csv, .*{words}"):
        read("emozionalmente", tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("\tanger\t", "\thunger\t"), "row 1: 'WR0_anger_1.wav', emotion 'hunger'"),
        (("\tmale\t23", "\tmale\told"), "row 1: .*age 'old'.* an age in years"),
        (("WR0_anger_1.wav", "WR0.wav"), "row 1: 'WR0.wav'"),
        (("WR0_fear_2.wav", "WR0_anger_1.wav"), "row 2: names WR0_anger_1.wav a second time"),
        (("speaker_id", "who"), "no column 'speaker_id'; found file_id"),
    ],
)
def test_wrong_rows_of_nemo_say_where(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    path = example("nemo", tmp_path) / "data.tsv"
    path.write_text(path.read_text("utf-8-sig").replace(*change), "utf-8")
    with pytest.raises(SertuneError, match=rf"data.tsv.*{words}"):
        read("nemo", tmp_path)


# Damaged copies


@pytest.mark.parametrize("name", BY_NAME)
def test_a_second_copy_counts_once_a_different_file_is_refused(name: str, tmp_path: Path) -> None:
    example(name, tmp_path)
    before = read(name, tmp_path).utterances
    file = Path(before["file"].tolist()[0])
    # In SAVEE and ESD the folder's name is part of what is said.
    copy = tmp_path / "zz again" / file.parent.name / file.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(file.read_bytes())
    assert read(name, tmp_path).utterances["file"].tolist() == before["file"].tolist()
    wav(copy, 0.5)
    with pytest.raises(SertuneError, match=f"{copy}: not the same as {file}, but both are {before['id'].iat[0]}"):
        read(name, tmp_path)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_foreign_file_is_named(name: str, tmp_path: Path) -> None:
    example(name, tmp_path)
    wav(tmp_path / "holiday.wav")
    with pytest.raises(SertuneError, match=r"holiday.wav: not named as .* move it out of the folder"):
        read(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("ravdess", "Actor_01/03-01-09-01-01-01-01.wav"),
        ("ravdess", "Actor_01/03-01-01-03-01-01-01.wav"),
        ("cremad", "AudioWAV/1001_IEO_BOR_HI.wav"),
        ("tess", "OAF_bored/OAF_back_bored.wav"),
        ("savee", "AudioData/DC/x01.wav"),
        ("emovo", "f1/noi-f1-b1.wav"),
        ("esd", "0011/Bored/0011_000001.wav"),
        ("esd", "0021/Angry/0021_000351.wav"),
    ],
)
def test_an_unknown_code_is_named(name: str, file: str, tmp_path: Path) -> None:
    example(name, tmp_path)
    if name == "esd" and "Bored" in file:
        (tmp_path / "0011" / "Neutral" / "0011_000001.wav").unlink()
    wav(tmp_path / file)
    with pytest.raises(SertuneError, match=Path(file).name):
        read(name, tmp_path)


@pytest.mark.parametrize("name", ACTED)
def test_an_archive_that_brings_a_folder_of_its_own(name: str, tmp_path: Path) -> None:
    inner = read(name, example(name, tmp_path / "corpus-master"))
    (tmp_path / "__MACOSX").mkdir()
    pd.testing.assert_frame_equal(read(name, tmp_path).utterances, inner.utterances)


@pytest.mark.parametrize("name", ACTED)
def test_half_a_corpus_is_read_as_far_as_it_is_there(name: str, tmp_path: Path) -> None:
    example(name, tmp_path)
    whole = read(name, tmp_path).utterances
    gone = set(whole["file"].iloc[len(whole) // 2 :])
    stems = {Path(file).stem for file in gone}
    for file in tmp_path.rglob("*.wav"):
        if file.stem in stems:
            file.unlink()
    half = read(name, tmp_path).utterances
    there = half[half["duration"].notna()]
    assert set(there["file"]) == set(whole.loc[whole["duration"].notna(), "file"]) - gone
    if name in ("nemo", "cremad", "emozionalmente"):  # their tables know what should be there
        found = check(read(name, tmp_path))
        assert len(half) == len(whole)
        missing = {problem.file for problem in found.problems if "no such file" in problem.message}
        gone = {file.replace("_SAD_X.wav", "_SAD_XX.wav") for file in gone}  # named as it should be
        assert missing == gone | set(whole.loc[whole["duration"].isna(), "file"])


@pytest.mark.parametrize("name", ACTED)
def test_a_git_lfs_stub_is_a_clip_without_a_duration(name: str, tmp_path: Path) -> None:
    example(name, tmp_path)
    before = read(name, tmp_path).utterances
    broken = Path(before["file"].tolist()[0])
    stub = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 127022\n"
    for file in [*tmp_path.rglob(broken.name)]:
        file.write_text(stub, "utf-8")
    frame = read(name, tmp_path).utterances
    assert frame["id"].tolist() == before["id"].tolist()
    assert np.isnan(frame["duration"].to_numpy()[0])
    assert frame["duration"].isna().sum() == before["duration"].isna().sum() + 1


@pytest.mark.parametrize("name", ACTED)
def test_another_corpus_is_not_taken_for_this_one(name: str, tmp_path: Path) -> None:
    other = "emovo" if name != "emovo" else "tess"
    example(other, tmp_path)
    with pytest.raises(SertuneError, match=rf"no {name} in .*: looked for|not named as") as caught:
        read(name, tmp_path)
    assert str(tmp_path) in str(caught.value)


# Protocols


def protocol(name: str, manifest: Manifest) -> list[Fold]:
    chosen = {p.name: p for p in published(manifest)}[name]
    return list(chosen.cut(manifest.utterances))


def people(frame: pd.DataFrame, rows: Any) -> list[str]:
    return sorted(set(frame["speaker"].iloc[rows]))


def actors(name: str, speakers: list[str], *, per_speaker: int = 2) -> Manifest:
    rows = [
        {"id": f"{s}-{k}", "file": f"/x/{s}-{k}.wav", "speaker": s, "emotion": ("anger", "sadness")[k % 2]}
        for s in speakers
        for k in range(per_speaker)
    ]
    return Manifest.of(name, pd.DataFrame(rows))


def test_the_first_protocols() -> None:
    first = {"emodb": "emodb-loso", "cremad": "cremad-5fold", "ravdess": "ravdess-5fold", "esd": "esd-official"}
    for name, expected in {**first, "savee": "savee-loso", "emovo": "emovo-loso"}.items():
        assert corpus(name).PROTOCOLS[0].name == expected
    assert corpus("cremad").PROTOCOLS[0].label_map == ""


def test_cremad_folds_are_those_of_peft_ser() -> None:
    manifest = actors("cremad", [str(actor) for actor in range(1001, 1092)])
    manifest.utterances.loc[manifest.utterances["id"] == "1076-1", "id"] = "1076_MTI_SAD_XX"
    frame = manifest.utterances
    folds = protocol("cremad-5fold", manifest)
    ends = [(people(frame, fold.test)[0], people(frame, fold.test)[-1]) for fold in folds]
    assert ends == [("1001", "1019"), ("1020", "1037"), ("1038", "1055"), ("1056", "1073"), ("1074", "1091")]
    assert [len(people(frame, fold.test)) for fold in folds] == [19, 18, 18, 18, 18]
    assert [len(people(frame, fold.dev)) for fold in folds] == [15] * 5
    assert [len(people(frame, fold.train)) for fold in folds] == [57, 58, 58, 58, 58]
    assert people(frame, folds[0].dev)[0] == "1077"
    assert people(frame, folds[4].dev) == [str(actor) for actor in range(1059, 1074)]
    silent = int(np.flatnonzero(frame["id"] == "1076_MTI_SAD_XX")[0])
    assert not any(silent in part for fold in folds for part in (fold.train, fold.dev, fold.test))
    assert all(fold.missing == () for fold in folds)


def test_ravdess_folds_hold_each_actor_once() -> None:
    manifest = actors("ravdess", [f"{actor:02d}" for actor in range(1, 25)])
    folds = protocol("ravdess-5fold", manifest)
    tested = [people(manifest.utterances, fold.test) for fold in folds]
    assert tested[0] == ["02", "05", "14", "15", "16"]
    assert sorted(actor for group in tested for actor in group) == [f"{actor:02d}" for actor in range(1, 25)]
    for i, fold in enumerate(folds):
        assert people(manifest.utterances, fold.dev) == tested[(i + 1) % 5]
        assert len(fold.train) + len(fold.dev) + len(fold.test) == 48


@pytest.mark.parametrize(("corpus_name", "count"), [("emodb", 10), ("savee", 4), ("emovo", 6)])
def test_leave_one_speaker_out_takes_the_next_as_dev(corpus_name: str, count: int) -> None:
    manifest = actors(corpus_name, [str(speaker) for speaker in range(count, 0, -1)])
    frame = manifest.utterances
    folds = protocol(f"{corpus_name}-loso", manifest)
    assert [fold.name for fold in folds] == [str(speaker) for speaker in range(1, count + 1)]
    assert [people(frame, fold.test) for fold in folds] == [[fold.name] for fold in folds]
    assert [people(frame, fold.dev) for fold in folds] == [[str(i % count + 1)] for i in range(1, count + 1)]
    assert all(len(fold.train) == 2 * (count - 2) for fold in folds)


def test_the_random_split_of_emodb_is_stratified_and_does_not_hang_on_the_order() -> None:
    manifest = actors("emodb", [f"{speaker:02d}" for speaker in range(10)], per_speaker=20)
    (fold,) = protocol("emodb-paper-d", manifest)
    frame = manifest.utterances
    assert [len(fold.train), len(fold.dev), len(fold.test)] == [140, 20, 40]
    assert Counter(frame["emotion"].iloc[fold.test]) == {"anger": 20, "sadness": 20}
    assert len(set(np.concatenate([fold.train, fold.dev, fold.test]))) == 200
    turned = manifest.select(np.arange(200)[::-1])
    (other,) = protocol("emodb-paper-d", turned)
    assert set(turned.utterances["id"].iloc[other.test]) == set(frame["id"].iloc[fold.test])


def test_esd_parts_share_speakers_and_no_sentence(tmp_path: Path) -> None:
    manifest = read("esd", example("esd", tmp_path))
    (fold,) = protocol("esd-official", manifest)
    parts = (fold.train, fold.dev, fold.test)
    texts = [set(manifest.utterances["text"].iloc[part]) for part in parts]
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]
    assert all(people(manifest.utterances, part) == ["0001", "0006", "0011", "0016"] for part in parts)


# Agreement in the check


def test_the_check_says_how_far_raters_agree(tmp_path: Path) -> None:
    manifest = read("emozionalmente", example("emozionalmente", tmp_path))
    found = with_agreement(manifest, check(manifest))
    entry = found.summary["ratings"]["agreement"]["emotion"]
    assert (entry["raters"], entry["ratings"], entry["clips"]) == (8, 140, 28)
    assert entry["per_clip"] == {"min": 5, "median": 5.0, "max": 5}
    assert 0.2 < entry["kappa"] < entry["alpha"] < 0.9
    text = show(manifest, found)
    assert "ratings: 140 by 8 raters" in text
    assert f"emotion: 5 to 5 ratings per clip (median 5), Krippendorff's alpha {entry['alpha']:.3f}" in text


def test_the_check_of_dimensions_and_of_votes_alone(tmp_path: Path) -> None:
    manifest = read("synthetic", example("synthetic", tmp_path / "s"))
    found = with_agreement(manifest, check(manifest)).summary["ratings"]["agreement"]
    assert set(found) == {"emotion", "arousal", "valence", "dominance"}
    assert found["arousal"]["alpha"] > 0.3
    assert found["arousal"]["spread"] > 0
    assert "kappa" not in found["arousal"]
    (tmp_path / "c").mkdir()
    votes = read("cremad", tabulated(tmp_path / "c", (100001, 1, 0, 0, 0, 0, 0, "1001_IEO_ANG_HI", 1, 5)))
    checked = with_agreement(votes, check(votes))
    assert checked.summary["ratings"]["raters"] is None
    assert checked.summary["ratings"]["agreement"]["emotion"]["alpha"] is None
    assert "ratings: 1 by unknown raters" in show(votes, checked)
    assert "alpha undefined" in show(votes, checked)
    checked.to_json()


def test_the_command_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sertune.cli import main

    example("cremad", tmp_path)
    assert main(["check", f"cremad:{tmp_path}"]) == 0
    assert "ratings: 240 by 8 raters\n  emotion: 8 to 8 ratings per clip" in capsys.readouterr().out
    main(["check", f"cremad:{tmp_path}", "--json"])
    entry = json.loads(capsys.readouterr().out)["summary"]["ratings"]["agreement"]["emotion"]
    assert entry["clips"] == 30


# The real tables


@pytest.mark.real
def test_real_emozionalmente(real_data: Path) -> None:
    root = real_data / "emozionalmente-ratings"
    manifest = read("emozionalmente", root)
    frame, ratings = manifest.utterances, manifest.ratings
    assert ratings is not None
    assert (len(frame), frame["speaker"].nunique(), frame["text"].nunique()) == (6902, 431, 18)
    assert set(frame["emotion"].value_counts()) == {986}
    # 34,510 answers, 42 of them a second or third one by the same person to the same clip.
    assert (len(ratings), ratings["rater"].nunique()) == (34468, 829)
    assert frame["duration"].isna().all()
    people = corpus("emozionalmente").raters(root)
    assert (len(people), int(people["ratings"].sum())) == (829, 34468)
    assert people["gender"].value_counts().to_dict() == {"female": 540, "male": 282, "other": 7}


@pytest.mark.real
def test_real_cremad_votes(real_data: Path) -> None:
    root = real_data / "crema-d-votes"
    manifest = read("cremad", root)
    frame, ratings = manifest.utterances, manifest.ratings
    assert ratings is not None
    assert (len(frame), frame["speaker"].nunique(), frame["text"].nunique(), len(ratings)) == (7442, 91, 12, 68568)
    assert Counter(frame["emotion"]) == {
        **dict.fromkeys(("anger", "disgust", "fear", "happiness", "sadness"), 1271),
        "neutral": 1087,
    }
    assert frame.groupby("gender")["speaker"].nunique().to_dict() == {"female": 43, "male": 48}
    assert Counter(frame["level"]) == {"unspecified": 6077, "low": 455, "medium": 455, "high": 455}
    # The corpus's own table of majorities says the same of all clips and all three modalities.
    codes = {"A": "anger", "D": "disgust", "F": "fear", "H": "happiness", "N": "neutral", "S": "sadness"}
    summary = pd.read_csv(root / "summaryTable.csv", keep_default_na=False).set_index("FileName").loc[frame["id"]]
    for column, theirs in (("voice", "VoiceVote"), ("face", "FaceVote"), ("audiovisual", "MultiModalVote")):
        said = [codes.get(vote) for vote in summary[theirs]]
        assert frame[f"{column}_vote"].tolist() == said
    assert manifest.majority().tolist() == frame["voice_vote"].tolist()
    folds = protocol("cremad-5fold", manifest)
    assert sum(len(fold.test) for fold in folds) == 7441


@pytest.mark.real
def test_agreement_on_the_real_tables(real_data: Path) -> None:
    for name, folder, alpha, kappa, majority in (
        ("emozionalmente", "emozionalmente-ratings", 0.476, 0.476, 0.896),
        ("cremad", "crema-d-votes", 0.281, 0.278, 0.913),
    ):
        manifest = read(name, real_data / folder)
        entry = with_agreement(manifest, check(manifest)).summary["ratings"]["agreement"]["emotion"]
        assert entry["alpha"] == pytest.approx(alpha, abs=5e-4)
        assert entry["kappa"] == pytest.approx(kappa, abs=5e-4)
        assert entry["majority"] == pytest.approx(majority, abs=5e-4)


@pytest.mark.real
def test_real_emodb_protocols(real_data: Path) -> None:
    manifest = read("emodb", real_data / "emodb-2s")
    folds = protocol("emodb-loso", manifest)
    assert sum(len(fold.test) for fold in folds) == 535
    assert [fold.name for fold in folds] == ["03", "08", "09", "10", "11", "12", "13", "14", "15", "16"]
    (fold,) = protocol("emodb-paper-d", manifest)
    assert (len(fold.train), len(fold.dev), len(fold.test)) == (374, 55, 106)
