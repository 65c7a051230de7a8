"""What the readers of corpora share: finding files as real copies have them, and reading their label files."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sertune.corpora.info import CorpusInfo
from sertune.data.audio import EXTENSIONS
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
