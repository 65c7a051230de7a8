"""Emozionalmente, crowd-sourced Italian emotional speech with five listeners per clip."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from sertune.corpora.info import CorpusInfo
from sertune.corpora.layout import MAC_LEFTOVER, folder_with, need_folder, nothing_found, read_table, write_tone
from sertune.data.durations import file_seconds
from sertune.data.labels import canonical
from sertune.data.manifest import Manifest
from sertune.errors import SertuneError

INFO: Final = CorpusInfo(
    name="emozionalmente",
    title="Emozionalmente, a crowd-sourced Italian speech emotional corpus (Catania et al.)",
    language="it",
    speakers=431,
    hours=7.3,
    labels=("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    licence="CC BY 4.0",
    where="Zenodo 6569824, emozionalmente_dataset.zip",
    layout="audio/1612877880295.wav and metadata/{samples,evaluations,users}.csv, or these tables in the folder",
    raters=829,
    ratings="the emotion that each of five listeners heard in a clip",
)

_SAMPLES: Final = ("file_name", "sentence", "actor", "emotion_expressed")
_EVALUATIONS: Final = ("file_name", "evaluator", "emotion_recognized")
_USERS: Final = ("username", "gender", "age", "mother_tongue")


def read(root: Path) -> Manifest:
    """Read the clips of ``samples.csv`` and the listeners' answers of ``evaluations.csv``.

    The label is the emotion that the actor meant. ``text`` is the sentence; ``age`` (of the actor, NaN without
    ``users.csv``) and ``bad_audio`` (how many listeners called the recording bad) are extra columns. A file that is
    not there has no duration. Who the listeners are says `raters`.

    In the published table 42 of the 34,510 answers are a second or third one by the same listener to the same clip.
    The last one counts, so that there are 34,468 ratings.

    Raises:
        SertuneError: no such folder, none of the tables in it, a table without a column, a clip named twice, an
            unknown emotion, or an answer to a clip that ``samples.csv`` doesn't have.
    """
    home, folder = _folders(root)
    samples = read_table(folder / "samples.csv", _SAMPLES)
    path = folder / "evaluations.csv"
    answers = read_table(path, _EVALUATIONS) if path.is_file() else None
    if (again := samples["file_name"].duplicated()).any():
        i = int(np.flatnonzero(again)[0])
        raise SertuneError(
            f"{folder / 'samples.csv'}, row {i + 1}: names {samples['file_name'].iat[i]} a second time; keep one row"
        )
    files = [home / "audio" / name for name in samples["file_name"]]
    frame = pd.DataFrame(
        {
            "id": [file.stem for file in files],
            "file": [str(file) for file in files],
            "duration": file_seconds(files),
            "speaker": samples["actor"],
            "language": INFO.language,
            "text": samples["sentence"],
            "emotion": _labels(folder / "samples.csv", samples, "emotion_expressed"),
        }
    )
    frame = _with_people(frame, folder / "users.csv")
    if answers is None:
        return Manifest.of(INFO.name, frame)
    known = answers["file_name"].isin(samples["file_name"])
    if not known.all():
        i = int(np.flatnonzero(~known)[0])
        raise SertuneError(
            f"{path}, row {i + 1}: rates {answers['file_name'].iat[i]!r}, which {folder / 'samples.csv'} does not have"
        )
    ratings = pd.DataFrame(
        {
            "utterance": [Path(name).stem for name in answers["file_name"]],
            "rater": answers["evaluator"],
            "attribute": "emotion",
            "value": _labels(path, answers, "emotion_recognized"),
        }
    )
    last = ~ratings.duplicated(["utterance", "rater"], keep="last")
    if "audio_quality" in answers.columns:
        bad = ratings.loc[last & (answers["audio_quality"] == "bad"), "utterance"].value_counts()
        frame["bad_audio"] = frame["id"].map(bad).fillna(0).astype(np.int64)
    return Manifest.of(INFO.name, frame, ratings=ratings[last])


def raters(root: Path) -> pd.DataFrame:
    """Who the listeners are: one row for each whose ratings `read` gives, by name.

    Returns:
        Columns ``rater`` (as in the manifest's ratings), ``gender``, ``age`` (years, as stated: the least is 1),
        ``mother_tongue``, ``ratings`` (how many clips).

    Raises:
        SertuneError: a table is not there or can't be read.
    """
    _, folder = _folders(root)
    users = read_table(folder / "users.csv", _USERS).drop_duplicates("username").set_index("username")
    answers = read_table(folder / "evaluations.csv", _EVALUATIONS).drop_duplicates(["file_name", "evaluator"])
    counts = answers["evaluator"].value_counts().sort_index()
    table = users.reindex(counts.index)[list(_USERS[1:])]
    table["age"] = pd.to_numeric(table["age"], errors="coerce")
    return table.assign(ratings=counts).rename_axis("rater").reset_index()


def _folders(root: Path) -> tuple[Path, Path]:
    """The corpus's folder, and the one that holds its tables."""
    need_folder(root, INFO)
    home = folder_with(root, "metadata/samples.csv", "samples.csv")
    if home is None:
        raise nothing_found(root, INFO, [root / "metadata" / "samples.csv", root / "samples.csv"])
    tables = home / "metadata"
    return home, tables if (tables / "samples.csv").is_file() else home


def _labels(path: Path, table: pd.DataFrame, column: str) -> list[str]:
    labels = {name: canonical(name) for name in table[column].unique()}
    for name, label in labels.items():
        if label not in INFO.labels:
            i = int(np.flatnonzero(table[column] == name)[0])
            raise SertuneError(f"{path}, row {i + 1}: {column} {name!r}, expected one of {', '.join(INFO.labels)}")
    return [labels[name] for name in table[column]]


def _with_people(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """With gender and age of the actors, where they are known."""
    if not path.is_file():
        return frame.assign(age=np.nan)
    users = read_table(path, _USERS).drop_duplicates("username").set_index("username")
    age = frame["speaker"].map(pd.to_numeric(users["age"], errors="coerce"))
    return frame.assign(gender=frame["speaker"].map(users["gender"]), age=age.astype(np.float64))


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: 4 actors x 7 emotions, 5 answers to each clip by 8 listeners, 16 kHz, 16 bit, mono.

    One listener answers twice, one clip is missing, one table has a BOM and Windows line ends, and there is
    what macOS leaves.
    """
    rng = np.random.default_rng(seed)
    emotions = ("anger", "disgust", "fear", "joy", "neutrality", "sadness", "surprise")
    people = [f"{i:064x}" for i in range(1, 13)]
    samples = ["file_name,sentence,sentence_language,actor,emotion_expressed"]
    answers = ["file_name,evaluator,audio_quality,emotion_recognized"]
    users = ["username,gender,age,mother_tongue"]
    for i, person in enumerate(people):
        users.append(f"{person},{('female', 'male', 'other')[i % 3]},{20 + i},italian")
    for i in range(4):
        for j, emotion in enumerate(emotions):
            name = f"16128778{i}{j:04d}.wav"
            write_tone(root / "audio" / name, rng.uniform(0.2, 0.3), 16000, 100 + 40 * i + 20 * j, rng)
            sentence = ("Vado in biblioteca", "Tornerà a casa presto", '"Sì, certo"')[(i + j) % 3]
            samples.append(f'{name},"{sentence.replace(chr(34), chr(34) * 2)}",italian,{people[i]},{emotion}')
            for rater in rng.permutation(8)[:5]:
                heard = emotion if rng.random() < 0.7 else emotions[int(rng.integers(7))]
                quality = "bad" if rng.random() < 0.1 else "good"
                answers.append(f"{name},{people[4 + int(rater)]},{quality},{heard}")
    (root / "audio" / name).unlink()
    first = answers[1].rsplit(",", 1)[0]
    answers.insert(1, f"{first},surprise")
    folder = root / "metadata"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "samples.csv").write_bytes(("\ufeff" + "\r\n".join(samples) + "\r\n").encode())
    (folder / "evaluations.csv").write_text("\n".join(answers) + "\n", "utf-8")
    (folder / "users.csv").write_text("\n".join(users) + "\n", "utf-8")
    (root / "audio" / "._161287780000.wav").write_bytes(MAC_LEFTOVER)
