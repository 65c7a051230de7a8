"""MSP-Podcast, emotional speech from podcasts: releases 1.10, 1.11, 1.12 and 2.0.

What is read: ``Labels/labels_consensus.csv`` (the label most raters chose, the mean arousal, valence and dominance,
speaker, gender and part), ``Labels/labels_detailed.csv`` (every worker's rating) and the names in ``Audios``. Where a
table is missing, its ``.json`` is read instead; ``Partitions.txt`` (``Partition.txt``) gives the part of utterances
whose ``Split_Set`` is empty. ``labels_detailed.csv`` has one text per rating up to release 1.12, columns in 2.0::

    MSP-PODCAST_0001_0139.wav,"WORKER00000001; Other-confused; Concerned,Confused; A:3.000000; V:3.000000; D:4.000000;"
    MSP-PODCAST_0001_0139.wav,WORKER00000001,Other-confused,"Concerned,Confused",3,3,4

Choices of this reader:

- X (no agreement) is a missing emotion; O, and every word of a worker's own (``Other-confused``), is other;
- of a worker's labels the primary one is kept; secondary ones are not read;
- ``Unknown`` speakers and genders are missing;
- a dimension that is empty or outside 1..7 in a single rating is missing;
- a worker twice for an utterance: `sertune.corpora.layout.long_ratings`;
- ratings of utterances that the consensus does not list are passed over, so that a shortened consensus can be read;
- audio without a consensus is passed over: this is all of Test3, whose labels the releases keep back.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from sertune.corpora.info import CorpusInfo
from sertune.corpora.layout import (
    MAC_LEFTOVER,
    files_below,
    long_ratings,
    need_folder,
    nothing_found,
    read_table,
    read_text,
    write_tone,
)
from sertune.data.durations import file_seconds
from sertune.data.labels import CATEGORIES, CODES, DIMENSIONS, canonical
from sertune.data.manifest import Manifest, Scheme
from sertune.data.protocols import Fold, Published, fold_by
from sertune.errors import SertuneError

INFO: Final = CorpusInfo(
    name="msp_podcast",
    title="MSP-Podcast (Lotfian and Busso, IEEE TAFFC 2019; arXiv 2509.09791); figures of release 1.11",
    language="en",
    speakers=2100,
    hours=238,
    labels=(
        "anger",
        "contempt",
        "disgust",
        "fear",
        "happiness",
        "neutral",
        "other",
        "sadness",
        "surprise",
        "arousal",
        "valence",
        "dominance",
    ),
    licence="for research, after a signed agreement",
    where="University of Texas at Dallas, MSP lab",
    layout="Labels/labels_consensus.csv, Labels/labels_detailed.csv, Audios/MSP-PODCAST_0001_0008.wav",
    kind="natural",
    raters=5,
    ratings="primary emotion and dimensions by at least five crowd workers per utterance, out of thousands, by number",
    request="ask the MSP lab of UT Dallas for the corpus; unpack Audios and Labels into one folder, and name it",
)

RELEASES: Final = ("1.10", "1.11", "1.12", "2.0")
SCALE: Final = (1.0, 7.0)
PARTS: Final = {
    "train": "train",
    "development": "dev",
    "validation": "dev",
    "test1": "test",
    "test2": "test",
    "test3": "test",
}

_DIMENSIONS: Final = {"EmoAct": "arousal", "EmoVal": "valence", "EmoDom": "dominance"}
_CONSENSUS: Final = ("FileName", "EmoClass", *_DIMENSIONS)
_DETAILED: Final = ("FileName", "WorkerID", "EmoClass_Major", *_DIMENSIONS)
_DETAIL: Final = (
    r"(?s)^\s*(?P<WorkerID>[^;]*?)\s*;\s*(?P<EmoClass_Major>[^;]*?)\s*;.*"
    r"A:\s*(?P<EmoAct>[^;]*);\s*V:\s*(?P<EmoVal>[^;]*);\s*D:\s*(?P<EmoDom>[^;]*);?\s*$"
)
_TABLES: Final = (".csv", ".json")
_EMOTIONS: Final = frozenset(CODES["msp_podcast"].values())
_NONE: Final = ("X", "NoAgreement", "No agreement")
_STATED: Final = re.compile(r"\bRelease\s+v?(\d+\.\d+)")
_IN_NAME: Final = re.compile(r"podcast\D*(\d\.\d{1,2})(?!\d)", re.IGNORECASE)


def read(root: Path) -> Manifest:
    """Read a release: ``root`` is the folder with ``Labels`` and ``Audios``, or the one above.

    An utterance whose audio is missing stays, without a duration (release 2.0 lists one such). Beside the usual
    columns: ``part``, the release's own name of the part (Train, Development or Validation, Test1, Test2, Test3);
    ``partition`` is test for all test parts. ``session`` is the number of the podcast.

    Raises:
        SertuneError: no such folder, no MSP-Podcast in it, a release that is not known, an utterance without a part or
            with an unknown part or emotion, ratings that belong to other utterances, or no audio.
    """
    need_folder(root, INFO)
    base, tables = _tables(root)
    _check_release(base)
    path, consensus = _consensus(tables)
    names = consensus["FileName"].str.strip()
    parts = _parts(consensus, names, base, path)
    frame = pd.DataFrame(
        {
            "id": names.str.removesuffix(".wav"),
            "file": _files(base, names.tolist()),
            "speaker": _known(consensus, "SpkrID"),
            "gender": _known(consensus, "Gender"),
            "language": INFO.language,
            "session": names.str.split("_").str[1],
            "partition": parts.str.lower().map(PARTS),
            "emotion": _codes(consensus["EmoClass"], path),
            **{name: consensus[column] for column, name in _DIMENSIONS.items()},
            "part": parts,
        }
    )
    frame["duration"] = file_seconds(frame["file"].tolist())
    schemes = {"emotion": Scheme(labels=tuple(label for label in INFO.labels if label in CATEGORIES))}
    schemes |= {name: Scheme(low=SCALE[0], high=SCALE[1]) for name in DIMENSIONS}
    manifest = Manifest.of(INFO.name, frame, schemes)
    # The ratings are canonical and checked already; once more would take longer than all the rest.
    return replace(manifest, ratings=_ratings(tables, manifest.utterances["id"]))


def _tables(root: Path) -> tuple[Path, dict[str, Path]]:
    """The folder of the release and its label files by name."""
    below = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    for base in (root, *below):
        for found in (files_below(base / "Labels", _TABLES), files_below(base / "labels", _TABLES), _directly(base)):
            found.sort(key=lambda file: len(file.parts))
            tables = {file.name.lower(): file for file in reversed(found)}
            if "labels_consensus.csv" in tables or "labels_consensus.json" in tables:
                return base, tables
            if old := [name for name in tables if name.startswith("labels_concensus")]:
                raise SertuneError(
                    f"{tables[old[0]]}: a release of MSP-Podcast before 1.10, which spells it so; "
                    f"known are {', '.join(RELEASES)}"
                )
    raise nothing_found(root, INFO, [root / "Labels" / "labels_consensus.csv", "labels_consensus.json beside it"])


def _directly(base: Path) -> list[Path]:
    return [file for file in base.iterdir() if file.suffix.lower() in _TABLES and not file.name.startswith(".")]


def _check_release(base: Path) -> None:
    """Raises where the readme, or else the folder's name, states a release that is not known."""
    stated, where = None, base
    for readme in sorted(base.glob("[Rr][Ee][Aa][Dd][Mm][Ee]*.txt")):
        if match := _STATED.search(read_text(readme)):
            stated, where = match[1], readme
    if stated is None and (match := _IN_NAME.search(base.name)):
        stated = match[1]
    if stated is not None and stated not in RELEASES:
        raise SertuneError(f"{where}: release {stated} of MSP-Podcast is not known; known are {', '.join(RELEASES)}")


def _consensus(tables: dict[str, Path]) -> tuple[Path, pd.DataFrame]:
    path = tables.get("labels_consensus.csv") or tables["labels_consensus.json"]
    if path.suffix.lower() == ".json":
        rows = [{"FileName": name, **entry} for name, entry in _entries(path).items()]
        table = pd.DataFrame(rows).astype("string").fillna("").astype(object)
    else:
        table = read_table(path, ["FileName"])
    _need_columns(path, table, _CONSENSUS)
    return path, table


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    """A label file in JSON: file name -> its entry (the first, where it is a list)."""
    try:
        document = json.loads(read_text(path))
    except ValueError as error:
        raise SertuneError(f"{path}: not JSON: {error}") from error
    entries = {
        name: entry[0] if isinstance(entry, list) and entry else entry
        for name, entry in (document.items() if isinstance(document, dict) else ())
    }
    if not entries or not all(isinstance(entry, dict) for entry in entries.values()):
        raise SertuneError(f"{path}: expected file names, each with its labels")
    return entries


def _need_columns(path: Path, table: pd.DataFrame, columns: tuple[str, ...]) -> None:
    if missing := [column for column in columns if column not in table]:
        raise SertuneError(
            f"{path}: no column {', '.join(missing)} (found {', '.join(map(str, table.columns[:12]))}), so it is of no "
            f"known release of MSP-Podcast; known are {', '.join(RELEASES)}"
        )


def _known(table: pd.DataFrame, column: str) -> "pd.Series[Any] | None":
    """A column with None where it says Unknown or nothing."""
    if column not in table:
        return None
    text = table[column].astype(object).str.strip()
    return text.where(~text.str.lower().isin(("", "unknown")), None)


def _codes(column: "pd.Series[Any]", path: Path) -> "pd.Series[Any]":
    codes = {**CODES["msp_podcast"], **dict.fromkeys(_NONE)}
    text = column.str.strip()
    wrong = np.flatnonzero(~text.isin(list(codes)))
    if len(wrong):
        i = int(wrong[0])
        raise SertuneError(
            f"{path}, line {i + 2}: unknown emotion {text.iat[i]!r} (known: {', '.join((*CODES['msp_podcast'], 'X'))})"
        )
    return pd.Series([codes[code] for code in text], dtype=object)


def _parts(table: pd.DataFrame, names: "pd.Series[Any]", base: Path, path: Path) -> "pd.Series[Any]":
    """The part of each utterance, from the consensus or else from the list of parts."""
    parts = table["Split_Set"].str.strip() if "Split_Set" in table else pd.Series([""] * len(table), dtype=object)
    lists = [file for name in ("Partitions.txt", "Partition.txt") if (file := base / name).is_file()]
    if lists and (parts == "").any():
        lines = (line.split(";") for line in read_text(lists[0]).splitlines() if ";" in line)
        listed = {file.strip(): part.strip() for part, file, *_ in lines}
        parts = parts.where(parts != "", names.map(listed).fillna(""))
    for wrong, words in ((parts == "", "has no part"), (~parts.str.lower().isin(list(PARTS)), "has an unknown part")):
        rows = np.flatnonzero(wrong)
        if len(rows):
            i = int(rows[0])
            raise SertuneError(
                f"{path}, line {i + 2}: {names.iat[i]} {words} {parts.iat[i]!r}; expected Split_Set to be one of "
                "Train, Development, Validation, Test1, Test2 and Test3, there or in Partitions.txt "
                f"({len(rows)} such lines)"
            )
    return parts.str.capitalize().astype(object)


def _files(base: Path, names: list[str]) -> list[str]:
    """The path of each audio file, below ``Audios`` or ``Audio``, also where it is not there."""
    folders = [folder for name in ("Audios", "Audio", "audios", "audio") if (folder := base / name).is_dir()]
    where = {file: folder for top in folders for folder, _, files in os.walk(top, followlinks=True) for file in files}
    if not any(name in where for name in names):
        expected = base / "Audios" / names[0]
        raise SertuneError(f"{base}: half a corpus: none of the {len(names)} labelled files is there, e.g. {expected}")
    default = str(folders[0])
    return [f"{where.get(name, default)}{os.sep}{name}" for name in names]


# Single ratings


def _ratings(tables: dict[str, Path], ids: "pd.Series[Any]") -> pd.DataFrame | None:
    """Every worker's rating; None where the release was unpacked without them."""
    path = tables.get("labels_detailed.csv") or tables.get("labels_detailed.json")
    if path is None:
        return None
    table = _detailed(path)
    # A release has a million ratings, but few distinct words: each is looked at once.
    wide = pd.DataFrame(
        {
            "utterance": _each(table["FileName"], _stem),
            "rater": _each(table["WorkerID"], lambda name: name.strip() or None),
            "emotion": _each(table["EmoClass_Major"], _primary),
            **{name: _each(table[column], _rating).astype(np.float64) for column, name in _DIMENSIONS.items()},
        }
    )
    listed = wide["utterance"].isin(ids) & wide["rater"].notna()
    if not listed.any():
        raise SertuneError(
            f"{path}: rates none of the {len(ids)} utterances of the consensus, the first is of "
            f"{wide['utterance'].iat[0]!r}; are the two tables of one release?"
        )
    return long_ratings(wide[listed])


def _each(column: "pd.Series[Any]", value: Callable[[str], object]) -> "pd.Series[Any]":
    """A function of each value as text, once per distinct value; an object column."""
    number, words = pd.factorize(column)
    values = np.empty(len(words) + 1, dtype=object)  # the last is for missing ones, whose number is -1
    values[:-1] = [value(str(word)) for word in words]
    return pd.Series(values[number], dtype=object)


def _stem(name: str) -> str:
    return name.strip().removesuffix(".wav")


def _rating(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if SCALE[0] <= number <= SCALE[1] else None


def _primary(word: str) -> str | None:
    """The canonical label of a worker's primary emotion; what is none of the corpus's eight is other."""
    name = canonical(word)
    return (name if name in _EMOTIONS else "other") if name else None


def _detailed(path: Path) -> pd.DataFrame:
    if path.suffix.lower() == ".json":
        rows = [
            {"FileName": name, "WorkerID": worker, **rating}
            for name, workers in _entries(path).items()
            for worker, rating in workers.items()
            if isinstance(rating, dict)
        ]
        table = pd.DataFrame(rows)
    else:
        table = read_table(path, ["FileName"])
        if "EmoDetail" in table:
            table = _from_detail(path, table)
    _need_columns(path, table, _DETAILED)
    return table


def _from_detail(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The columns of release 2.0 from the text of earlier ones."""
    import pyarrow
    from pyarrow import compute

    # pandas' own takes ten times as long for the million ratings of a release.
    found = compute.extract_regex(pyarrow.array(table["EmoDetail"], pyarrow.large_string()), _DETAIL)
    if found.null_count:
        i = int(np.flatnonzero(compute.is_null(found).to_pandas())[0])
        raise SertuneError(
            f"{path}, line {i + 2}: expected a rating such as 'WORKER00000001; Neutral; Neutral; A:3.000000; "
            f"V:4.000000; D:2.000000;', found {table['EmoDetail'].iat[i]!r} ({found.null_count} such lines)"
        )
    columns = {name: compute.struct_field(found, name).to_pandas() for name in _DETAILED if name != "FileName"}
    return pd.DataFrame({"FileName": table["FileName"], **columns})


def _part_fold(frame: pd.DataFrame, test: str) -> list[Fold]:
    dev = "Validation" if "part" in frame and (frame["part"] == "Validation").any() else "Development"
    return [fold_by(frame, "part", test, test=[test], dev=[dev], train=["Train"])]


def _published(test: str, more: str = "") -> Published:
    return Published(
        f"msp-podcast-{test.lower()}",
        "the releases of MSP-Podcast; arXiv 2306.05350 uses Test1 and --label-map 4class",
        f"the corpus's own parts: Train trains, Development (earlier Validation) chooses, {test} tests{more}",
        partial(_part_fold, test=test),
    )


PROTOCOLS: Final = (
    _published("Test1", "; some speakers of Test1 are in Test2 and Test3 too"),
    _published("Test2", " (whole podcasts, not chosen by a model)"),
    _published("Test3", " (its labels are not in the releases; it needs a consensus that lists them)"),
)


def example(root: Path, seed: int = 0, release: str = "1.12") -> None:
    """Write an imitation of a release: 40 labelled utterances of 9 known and some unknown speakers; 16 kHz, mono.

    With ties (X), a worker who rated twice and one with an own word, an utterance without audio, audio of Test3
    without labels, Windows line ends and a byte-order mark.

    Args:
        root: folder to make.
        seed: of the noise and the ratings.
        release: whose tables to write: 1.10 (Validation, parts in Partitions.txt), 1.11 and 1.12 (one text per rating),
            2.0 (a column per value, one folder deeper).
    """
    rng = np.random.default_rng(seed)
    code_of = {name: code for code, name in CODES["msp_podcast"].items()}
    words = {"A": "Angry", "H": "Happy", "S": "Sad", "N": "Neutral", "U": "Surprise", "C": "Contempt", "D": "Disgust"}
    words |= {"F": "Fear", "O": "Other-Confused"}
    dev = "Validation" if release == "1.10" else "Development"
    speakers = {"Train": ("1", "2", "3", "4", "Unknown"), dev: ("5", "6"), "Test1": ("7", "8"), "Test2": ("8", "9")}
    common = [code_of[name] for name in ("anger", "happiness", "neutral", "sadness")]
    rare = iter("UCXDFO" * 2)
    consensus, detailed, listed = [], [], []
    for p, (part, people) in enumerate(speakers.items()):
        for i in range(16 if part == "Train" else 8):
            speaker = people[i % len(people)]
            code = common[i // 2 % 4] if i % 5 else next(rare)
            name = f"MSP-PODCAST_{p + 1:04d}_{i:04d}.wav"
            values = np.clip(rng.integers(2, 7, size=(5, 3)), 1, 7)
            votes = [code] * 4 + ["N" if code != "N" else "H"] if code != "X" else ["N", "N", "A", "A", "S"]
            raters = [f"WORKER{(i + k) % 7 + 1:08d}" for k in range(5)]
            if i == 1:
                raters[4] = raters[3]
            for rater, vote, (a, v, d) in zip(raters, votes, values, strict=True):
                detailed.append((name, rater, words[vote], f"{words[vote]},Concerned", a, v, d))
            gender = "Unknown" if speaker == "Unknown" else ("Female", "Male")[int(speaker) % 2]
            consensus.append((name, code, *values.mean(axis=0), speaker, gender, part))
            listed.append(f"{part}; {name}")
            if name != "MSP-PODCAST_0001_0015.wav":
                pitch = 100 + 30 * p + 10 * (len(words) if code == "X" else list(words).index(code))
                write_tone(root / "Audios" / name, 0.3 + 0.01 * i, 16000, pitch, rng)
    for i in range(2):
        write_tone(root / "Audios" / f"MSP-PODCAST_0009_{i:04d}.wav", 0.3, 16000, 200, rng)
        listed.append(f"Test3; MSP-PODCAST_0009_{i:04d}.wav")
    (root / "Audios" / "._MSP-PODCAST_0001_0000.wav").write_bytes(MAC_LEFTOVER)
    (root / "readme.txt").write_text(f"#  MSP-PODCAST Database  #\n#  Release {release} (June 6, 2024)  #\n", "utf-8")
    plain = "Partitions.txt" if release in ("1.10", "1.11") else "Partition.txt"
    (root / plain).write_text("\n".join(listed) + "\n", "utf-8")
    folder = root / "Labels" / "Labels" if release == "2.0" else root / "Labels"
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(consensus, columns=[*_CONSENSUS, "SpkrID", "Gender", "Split_Set"])
    if release == "1.10":
        table["Split_Set"] = ""
    (folder / "labels_consensus.csv").write_bytes(
        b"\xef\xbb\xbf" + table.to_csv(index=False, lineterminator="\r\n").encode()
    )
    rated = pd.DataFrame(detailed, columns=["FileName", "WorkerID", "EmoClass_Major", "EmoClass_Second", *_DIMENSIONS])
    if release != "2.0":
        text = [
            f"{rater}; {first}; {second}; A:{a:.6f}; V:{v:.6f}; D:{d:.6f};"
            for _, rater, first, second, a, v, d in detailed
        ]
        rated = pd.DataFrame({"FileName": rated["FileName"], "EmoDetail": text})
    rated.to_csv(folder / "labels_detailed.csv", index=False)
