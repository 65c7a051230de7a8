"""What the readers of corpora share: finding files as real copies have them, and reading their label files."""

import filecmp
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sertune.corpora.info import CorpusInfo
from sertune.data import labels
from sertune.data.audio import EXTENSIONS
from sertune.data.protocols import Fold, fold_by, natural_order
from sertune.errors import SertuneError

MAC_LEFTOVER = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X"
"""What macOS leaves in a ``._name`` file beside each file on a foreign disk; for examples."""


def files_below(root: Path, suffixes: Sequence[str] = EXTENSIONS) -> list[Path]:
    """All files below a folder with one of some suffixes (in any case), sorted.

    Hidden files and folders (among them macOS's ``._name``) and ``__MACOSX`` are passed over. Links are followed once.
    """
    found: list[Path] = []
    for folder, below, files in os.walk(root, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "__MACOSX")
        found += [
            Path(folder, name)
            for name in sorted(files)
            if not name.startswith(".") and name[name.rfind(".") :].lower() in suffixes
        ]
    return found


def need_folder(root: Path, info: CorpusInfo) -> None:
    """Raises `SertuneError` unless ``root`` is a folder."""
    if not root.is_dir():
        raise SertuneError(f"{root}: no such folder, expected {info.title} with {info.layout}")


def nothing_found(root: Path, info: CorpusInfo, looked_for: Iterable[Path | str]) -> SertuneError:
    """The error for a folder that does not hold the corpus: it says which files were looked for."""
    return SertuneError(f"no {info.name} in {root}: looked for {', '.join(map(str, looked_for))}")


def read_text(path: Path) -> str:
    """A label file as text: UTF-8 with or without BOM, or else Latin-1; any line ends become ``\\n``.

    Raises:
        SertuneError: it can't be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SertuneError(f"{path}: can't be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_table(path: Path, columns: Sequence[str], separator: str = ",", **options: Any) -> pd.DataFrame:
    """A label table, all columns as text, "" where empty; names of columns are stripped.

    Args:
        path: CSV or the like, read as `read_text` does.
        columns: that must be there.
        separator: between the fields.
        options: for `pandas.read_csv`.

    Raises:
        SertuneError: it can't be read, is not a table, is empty, or lacks a column.
    """
    from io import StringIO

    try:
        table: pd.DataFrame = pd.read_csv(
            StringIO(read_text(path)), sep=separator, dtype=str, keep_default_na=False, **options
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise SertuneError(f"{path}: not a proper table ({' '.join(str(error).split())})") from error
    table.columns = pd.Index([str(column).strip() for column in table.columns])
    if missing := [column for column in columns if column not in table.columns]:
        raise SertuneError(
            f"{path}: no column {', '.join(map(repr, missing))}; found {', '.join(map(str, table.columns[:20]))}"
        )
    if not len(table):
        raise SertuneError(f"{path}: the table has no rows")
    return table


def folder_with(root: Path, *names: str) -> Path | None:
    """The folder that holds one of some files: ``root``, or one just below it, as archives unpack; None: neither."""
    below = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))
    return next((folder for folder in (root, *below) if any((folder / name).is_file() for name in names)), None)


def one_each(found: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """The file of each utterance: utterance id -> the first file; a later copy with the same bytes is passed over.

    Archives unpacked twice, and copies such as Kaggle's of RAVDESS and TESS, hold everything two times.

    Raises:
        SertuneError: two files of one utterance that differ.
    """
    files: dict[str, Path] = {}
    for name, file in found:
        first = files.setdefault(name, file)
        if first != file and not _same(first, file):
            raise SertuneError(f"{file}: not the same as {first}, but both are {name}; remove one of them")
    return files


def _same(first: Path, second: Path) -> bool:
    try:
        return filecmp.cmp(first, second)
    except OSError:  # a link to nowhere
        return False


def leave_one_speaker_out(frame: pd.DataFrame) -> list[Fold]:
    """One fold per speaker, who tests; the next one in turn is dev, all others train. "9" comes before "10"."""
    speakers = sorted(set(frame["speaker"].dropna()), key=natural_order)
    return [
        fold_by(frame, "speaker", name, test=[name], dev=[speakers[(i + 1) % len(speakers)]])
        for i, name in enumerate(speakers)
    ]


def leave_one_session_out(frame: pd.DataFrame, sessions: Sequence[str]) -> list[Fold]:
    """One fold per session, which tests; the last of the others is dev, all others train."""
    folds = []
    for session in sessions:
        others = [other for other in sessions if other != session]
        folds.append(fold_by(frame, "session", session, test=[session], dev=others[-1:], train=others[:-1]))
    return folds


def long_ratings(wide: pd.DataFrame) -> pd.DataFrame:
    """Ratings for `Manifest.of` from a table with one row per rater and utterance.

    Where a rater rated an utterance twice, the mean of each dimension counts (as in arXiv 2408.11956), and the first
    label.

    Args:
        wide: columns utterance, rater, and any of emotion, arousal, valence and dominance; None or NaN where missing.
    """
    attributes = [name for name in labels.ATTRIBUTES if name in wide]
    utterance, rater = (pd.factorize(wide[column])[0].astype(np.int64) for column in ("utterance", "rater"))
    twice = pd.Series(utterance * (len(wide) + 1) + rater, index=wide.index).duplicated(keep=False)
    if twice.any():
        how = {name: "first" if name == "emotion" else "mean" for name in attributes}
        merged = wide[twice].groupby(["utterance", "rater"], sort=False).agg(how).reset_index()
        wide = pd.concat([wide[~twice], merged], ignore_index=True)
    parts = []
    for name in attributes:
        rated = wide[wide[name].notna()].astype(object)
        columns = {"utterance": rated["utterance"], "rater": rated["rater"], "attribute": name, "value": rated[name]}
        parts.append(pd.DataFrame(columns, dtype=object))
    return pd.concat(parts, ignore_index=True)


def write_tone(
    path: Path, seconds: float, rate: int, pitch: float, rng: np.random.Generator, channels: int = 1
) -> None:
    """A noisy tone as a 16-bit WAV file, folder and all; for examples.

    Args:
        path: of the file.
        seconds: its length.
        rate: sampling rate in Hz.
        pitch: frequency in Hz.
        rng: of the noise.
        channels: each with noise of its own.
    """
    import soundfile

    time = np.arange(int(rate * seconds))[:, None] / rate
    noise = 0.01 * rng.standard_normal((len(time), channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * pitch * time) + noise, rate, subtype="PCM_16")
