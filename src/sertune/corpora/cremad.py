"""CREMA-D, the Crowd-sourced Emotional Multimodal Actors Dataset: its sound, and how listeners rated it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from sertune.corpora.info import CorpusInfo
from sertune.corpora.layout import (
    MAC_LEFTOVER,
    files_below,
    folder_with,
    need_folder,
    nothing_found,
    one_each,
    read_table,
    write_tone,
)
from sertune.data.durations import file_seconds
from sertune.data.labels import CODES, canonical
from sertune.data.manifest import Manifest
from sertune.data.protocols import Fold, Published, fold_by
from sertune.errors import SertuneError

INFO: Final = CorpusInfo(
    name="cremad",
    title="CREMA-D, Crowd-sourced Emotional Multimodal Actors Dataset (Cao et al., IEEE TAFFC 5(4), 2014)",
    language="en",
    speakers=91,
    hours=5.3,
    labels=("anger", "disgust", "fear", "happiness", "neutral", "sadness"),
    licence="ODbL 1.0, contents DbCL 1.0",
    where="CheyneyComputerScience/CREMA-D on GitHub and cs-cooper-lab/crema-d-mirror on GitLab, with git-lfs",
    layout="AudioWAV/1001_IEO_ANG_HI.wav (or AudioMP3), finishedResponses.csv or processedResults/tabulatedVotes.csv, "
    "VideoDemographics.csv",
    raters=2443,
    ratings="the emotion that listeners heard in the voice alone",
)

ANONYMOUS: Final = "anonymous"
"""Without ``finishedResponses.csv`` only the number of votes is known. Then the raters of a clip are called
``anonymous-1``, ``anonymous-2`` ...: such a name is no person, it means somebody else in each clip."""

LEVELS: Final = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}

MODALITIES: Final = {"1": "voice", "2": "face", "3": "audiovisual"}
"""What raters saw or heard, by ``queryType`` and by the first digit of the rows of ``tabulatedVotes.csv``."""

# Actor, sentence, emotion, level. One file of the corpus lacks a letter: 1040_ITH_SAD_X.wav.
_NAME: Final = re.compile(
    r"(?P<actor>\d{4})_(?P<text>[A-Z]{3})_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_(?P<level>LO|MD|HI|XX?)"
)
_PRACTICE: Final = "_practice"
_TABLES: Final = (
    "SentenceFilenames.csv",
    "finishedResponses.csv",
    "processedResults/finishedResponses.csv",
    "processedResults/tabulatedVotes.csv",
    "tabulatedVotes.csv",
    "VideoDemographics.csv",
)


def read(root: Path) -> Manifest:
    """Read the audio anywhere below ``root``, and the tables in it or in its folder ``processedResults``.

    There is a row for each clip of which there is audio or that a table names; without audio it has no duration. Where
    a clip is there as WAV and MP3, it is the WAV. The label is the emotion that the actor played. ``text`` is the code
    of the sentence. Extra columns: ``level`` that was played; ``age``, ``race`` and ``ethnicity`` of the actor
    (``VideoDemographics.csv``); ``voice_vote``, ``face_vote`` and ``audiovisual_vote``, the emotion with most votes,
    None where votes tie; ``voice_level``, the mean level that was heard, 0 to 100.

    Ratings are those of the voice alone: of ``finishedResponses.csv``, or else the counts of ``tabulatedVotes.csv``
    (see `ANONYMOUS`). The counts leave out answers that took more than ten seconds, the responses don't. Of two
    answers by one person to one clip, of which the responses have a few, the last one counts.

    Raises:
        SertuneError: no such folder, neither audio nor a table of CREMA-D in it, a file or clip that is not named as
            CREMA-D's are, an unknown answer, a rating of a clip that ``SentenceFilenames.csv`` doesn't have, or two
            different files of one clip.
    """
    need_folder(root, INFO)
    files = _audio(root)
    home = folder_with(root, *_TABLES) or root
    listed = _listed(home)
    path, answers = _answers(home)
    names = sorted({*files, *(listed or ()), *answers["clip"]})
    if not names:
        raise nothing_found(
            root,
            INFO,
            [
                "files like AudioWAV/1001_IEO_ANG_HI.wav",
                *(root / name for name in ("SentenceFilenames.csv", "finishedResponses.csv")),
                root / "processedResults" / "tabulatedVotes.csv",
            ],
        )
    if listed is not None and not (known := answers["clip"].isin(listed)).all():
        i = int(np.flatnonzero(~known)[0])
        raise SertuneError(
            f"{path}, row {answers['row'].iat[i]}: rates {answers['clip'].iat[i]}, which is not in "
            "SentenceFilenames.csv"
        )
    frame = pd.DataFrame([_row(name, files.get(name, home / "AudioWAV" / f"{name}.wav")) for name in names])
    frame["duration"] = file_seconds(frame["file"].tolist())
    frame = _with_actors(frame, home / "VideoDemographics.csv")
    if not len(answers):
        return Manifest.of(INFO.name, frame)
    voice = answers[answers["modality"] == "voice"]
    for modality in MODALITIES.values():
        frame[f"{modality}_vote"] = frame["id"].map(_votes(answers[answers["modality"] == modality])).astype(object)
        frame[f"{modality}_vote"] = frame[f"{modality}_vote"].where(frame[f"{modality}_vote"].notna(), None)
    frame["voice_level"] = frame["id"].map(_levels(voice)).astype(np.float64)
    ratings = _ratings(voice)
    return Manifest.of(INFO.name, frame, ratings=ratings if len(ratings) else None)


def _audio(root: Path) -> dict[str, Path]:
    """Clip -> file; WAV goes before other formats."""
    found = []
    for file in files_below(root):
        match = _NAME.fullmatch(file.stem)
        if match is None:
            raise SertuneError(
                f"{file}: not named as CREMA-D names its files (e.g. 1001_IEO_ANG_HI.wav: actor, sentence, one of ANG "
                "DIS FEA HAP NEU SAD, level LO MD HI XX); move it out of the folder"
            )
        found.append((_full_name(match), file))
    wavs = one_each((name, file) for name, file in found if file.suffix.lower() == ".wav")
    return {**one_each((name, file) for name, file in found if name not in wavs), **wavs}


def _full_name(match: "re.Match[str]") -> str:
    return match[0] + "X" if match["level"] == "X" else match[0]


def _row(name: str, file: Path) -> dict[str, object]:
    actor, text, emotion, level = name.split("_")
    return {
        "id": name,
        "file": str(file),
        "speaker": actor,
        "language": INFO.language,
        "text": text,
        "emotion": canonical(emotion),
        "level": LEVELS[level],
    }


def _with_actors(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    if not path.is_file():
        return frame
    people = read_table(path, ("ActorID", "Age", "Sex", "Race", "Ethnicity")).set_index("ActorID")
    people = people[~people.index.duplicated()]
    return frame.assign(
        gender=frame["speaker"].map(people["Sex"]),
        age=frame["speaker"].map(pd.to_numeric(people["Age"], errors="coerce")).astype(np.float64),
        race=frame["speaker"].map(people["Race"]),
        ethnicity=frame["speaker"].map(people["Ethnicity"]),
    )


# Tables


def _listed(root: Path) -> set[str] | None:
    path = root / "SentenceFilenames.csv"
    if not path.is_file():
        return None
    table = read_table(path, ("Filename",))
    return set(_clips(path, table["Filename"]).dropna())


def _clips(path: Path, names: "pd.Series[Any]") -> "pd.Series[Any]":
    """The clips' names checked; missing for practice clips."""
    clean = {}
    for name in names.unique():
        match = _NAME.fullmatch(name)
        if match is None and not name.endswith(_PRACTICE):
            row = int(np.flatnonzero(names == name)[0]) + 1
            raise SertuneError(f"{path}, row {row}: no clip of CREMA-D is named {name!r} (e.g. 1001_IEO_ANG_HI)")
        clean[name] = None if match is None else _full_name(match)
    return names.map(clean)


_ANSWERS: Final = ("clip", "modality", "rater", "emotion", "count", "level", "row")


def _answers(root: Path) -> tuple[Path, pd.DataFrame]:
    """The table that says what raters said, and the answers: columns `_ANSWERS`, row 1 is the first of the table.

    The rater is "" and the count can be over 1 where only counts are known.
    """
    for folder in (root, root / "processedResults"):
        if (path := folder / "finishedResponses.csv").is_file():
            return path, _responses(path)
    for folder in (root / "processedResults", root):
        if (path := folder / "tabulatedVotes.csv").is_file():
            return path, _tabulated(path)
    return root, pd.DataFrame({name: pd.Series(dtype=object) for name in _ANSWERS})


def _responses(path: Path) -> pd.DataFrame:
    columns = ("localid", "ans", "queryType", "clipName")
    table = read_table(path, columns, usecols=lambda name: name.strip() in columns)
    answers = {text: text.strip().partition("_") for text in table["ans"].unique()}
    levels = pd.to_numeric(pd.Series({text: level for text, (_, _, level) in answers.items()}), errors="coerce")
    frame = pd.DataFrame(
        {
            "clip": _clips(path, table["clipName"].str.strip()),
            "modality": table["queryType"].str.strip().map(MODALITIES),
            "rater": table["localid"].str.strip(),
            "emotion": table["ans"].map({text: CODES["cremad"].get(code) for text, (code, _, _) in answers.items()}),
            "count": 1,
            "level": table["ans"].map(levels),
            "row": range(1, len(table) + 1),
        }
    )
    frame = frame[frame["clip"].notna()]
    wrong = frame[["modality", "emotion"]].isna().any(axis=1) | (frame["rater"] == "")
    if wrong.any():
        i = int(frame.index[wrong][0])
        raise SertuneError(
            f"{path}, row {i + 1}: localid {table['localid'].iat[i]!r}, ans {table['ans'].iat[i]!r}, queryType "
            f"{table['queryType'].iat[i]!r}: expected a rater, an answer like N_50 with one of ADFHNS, and 1, 2 or 3"
        )
    return frame.drop_duplicates(["clip", "modality", "rater"], keep="last")


def _tabulated(path: Path) -> pd.DataFrame:
    """Each row of the table is a clip in one modality, which the first digit of the row's number tells."""
    codes = CODES["cremad"]
    table = read_table(path, (*codes, "fileName"))
    number = table.iloc[:, 0].str.strip()
    modality = number.str[0].map(MODALITIES)
    counts = table[list(codes)].apply(pd.to_numeric, errors="coerce")
    wrong = modality.isna() | (number.str.len() != 6) | ~(counts >= 0).all(axis=1) | (counts % 1 != 0).any(axis=1)
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        raise SertuneError(
            f"{path}, row {i + 1}: expected a number from 100001 (voice), 200001 (face) or 300001 (both) in the first "
            f"column and counts of votes in the columns {', '.join(codes)}"
        )
    level = table["meanEmoResp"] if "meanEmoResp" in table.columns else pd.Series([""] * len(table))
    wide = counts.rename(columns=codes).assign(
        clip=_clips(path, table["fileName"].str.strip()),
        modality=modality,
        level=pd.to_numeric(level, errors="coerce"),
        row=range(1, len(table) + 1),
    )
    wide = wide[wide["clip"].notna()]
    twice = wide.duplicated(["clip", "modality"])
    if twice.any():
        i = int(np.flatnonzero(twice)[0])
        raise SertuneError(
            f"{path}, row {wide['row'].iat[i]}: counts {wide['clip'].iat[i]} a second time; keep one of the rows"
        )
    long = wide.melt(["clip", "modality", "level", "row"], var_name="emotion", value_name="count")
    votes: pd.DataFrame = long[long["count"] > 0].assign(rater="")
    return votes


def _votes(answers: pd.DataFrame) -> "pd.Series[Any]":
    """Clip -> the emotion with most votes; clips where several have are left out."""
    counts = answers.groupby(["clip", "emotion"])["count"].sum().unstack(fill_value=0)
    if not len(counts):
        return pd.Series(dtype=object)
    best = counts.eq(counts.max(axis=1), axis=0)
    return counts.idxmax(axis=1)[best.sum(axis=1) == 1]


def _levels(answers: pd.DataFrame) -> "pd.Series[Any]":
    """Clip -> mean level of the answers."""
    return answers.astype({"level": np.float64}).groupby("clip")["level"].mean()


def _ratings(voice: pd.DataFrame) -> pd.DataFrame:
    each = voice.loc[voice.index.repeat(voice["count"].astype(np.int64))].sort_values("clip", kind="stable")
    place = each.groupby("clip").cumcount() + 1
    rater = each["rater"].where(each["rater"] != "", ANONYMOUS + "-" + place.astype(str))
    return pd.DataFrame(
        {"utterance": each["clip"], "rater": rater, "attribute": "emotion", "value": each["emotion"]}
    ).reset_index(drop=True)


# Protocols

_ACTORS: Final = tuple(str(actor) for actor in range(1001, 1092))
_SILENT: Final = "1076_MTI_SAD_XX"


def _five_folds(frame: pd.DataFrame) -> Sequence[Fold]:
    folds = []
    kept = frame.assign(speaker=frame["speaker"].where(frame["id"] != _SILENT, None))
    for i, group in enumerate(np.array_split(np.array(_ACTORS, dtype=object), 5)):
        others = [actor for actor in _ACTORS if actor not in set(group)]
        folds.append(fold_by(kept, "speaker", str(i + 1), test=list(group), dev=others[-15:], train=others[:-15]))
    return folds


PROTOCOLS: Final = (
    Published(
        "cremad-5fold",
        "PEFT-SER, arXiv 2306.05350, and its code",
        "5 folds over the 91 actors in the order of their numbers (19, 18, 18, 18 and 18 test); of the others the last "
        f"15 are dev, the first 57 or 58 train. {_SILENT}, which is silent, is left out. The source's labels are the "
        "audio-visual majority votes, of which it keeps anger, happiness, neutral and sadness (--label-map 4class); "
        "here the label is what the manifest has",
        _five_folds,
    ),
)


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation: 5 actors, who fill each part of the protocol, x 6 emotions, with responses of 8 raters.

    16 kHz, 16 bit, mono. As in copies of the corpus one name lacks a letter, one clip is there as git-lfs's stub of
    an MP3, one rater answers twice, there are answers to faces and to a practice clip, and there is what macOS leaves.
    """
    rng = np.random.default_rng(seed)
    codes = list(CODES["cremad"])
    names = []
    for i, actor in enumerate((1001, 1020, 1040, 1060, 1080)):
        for j, emotion in enumerate(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")):
            level = "XX" if emotion == "NEU" or actor == 1040 else ("LO", "MD", "HI")[(i + j) % 3]
            name = f"{actor}_{'ITH' if actor == 1040 else 'IEO'}_{emotion}_{level}"
            names.append(name)
            stem = "1040_ITH_SAD_X" if name == "1040_ITH_SAD_XX" else name
            write_tone(root / "AudioWAV" / f"{stem}.wav", rng.uniform(0.2, 0.3), 16000, 100 + 40 * i + 20 * j, rng)
    # What a clone without git-lfs has for a file.
    (root / "AudioMP3").mkdir(exist_ok=True)
    stub = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 38014\n"
    (root / "AudioMP3" / f"{names[0]}.mp3").write_text(stub, "utf-8")
    (root / "AudioWAV" / f"._{names[0]}.wav").write_bytes(MAC_LEFTOVER)
    head = ("", "localid", "pos", "ans", "ttr", "queryType", "numTries", "clipNum", "questNum", "subType", "clipName")
    lines = [",".join(f'"{name}"' for name in (*head, "sessionNums", "respEmo", "respLevel"))]
    for k, name in enumerate([*names, "ANG_HI" + _PRACTICE]):
        for rater in range(8):
            for kind in (1, 2):
                right = rng.random() < 0.6
                code = codes[k % 6] if right else codes[int(rng.integers(6))]
                heard = int(rng.integers(20, 90))
                row = (len(lines), rater + 1, k, f"{code}_{heard}", 900, kind, 0, k + 1, k, 4, name, rater, code, heard)
                lines.append(",".join(map(str, row)))
    lines.append(lines[1])
    (root / "finishedResponses.csv").write_bytes(("\r\n".join(lines) + "\r\n").encode())
    listed = "".join(f'{i + 1},"{name}"\n' for i, name in enumerate(names))
    (root / "SentenceFilenames.csv").write_text('"Stimulus_Number","Filename"\n' + listed, "utf-8")
    people = ((1001, 51, "Male"), (1020, 61, "Female"), (1040, 42, "Female"), (1060, 21, "Female"), (1080, 21, "Male"))
    actors = "".join(f'{actor},{age},"{sex}","Caucasian","Not Hispanic"\n' for actor, age, sex in people)
    (root / "VideoDemographics.csv").write_text('"ActorID","Age","Sex","Race","Ethnicity"\n' + actors, "utf-8")
