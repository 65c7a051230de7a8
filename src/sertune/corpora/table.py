"""A user's own table of utterances: CSV, TSV or Parquet."""

import json
import os
import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from sertune.data import labels
from sertune.data.manifest import (
    NUMBER_COLUMNS,
    TEXT_COLUMNS,
    UTTERANCE_COLUMNS,
    Manifest,
    Scheme,
    absolute_files,
    number_column,
    schemes_beside,
    schemes_from_json,
    segment_ids,
    text_values,
)
from sertune.errors import SertuneError, unknown

_ALIASES: Final = {"label": "emotion", "activation": "arousal", "split": "partition"}
_MISSING: Final = ("", "nan", "NaN", "NAN", "NA", "N/A", "<NA>", "null", "NULL", "None")
_SEPARATORS: Final = (",", ";", "\t")


def read(path: str | os.PathLike[str], columns: Mapping[str, str] | None = None, *, strict: bool = True) -> Manifest:
    """Read a table with one row per utterance.

    Columns: ``file`` (required; relative paths are taken from the table's folder), ``label`` or ``emotion``,
    ``arousal`` or ``activation``, ``valence``, ``dominance`` (one attribute at least), ``partition`` or
    ``split``, ``id``, ``start``, ``end``, ``duration`` (seconds), ``speaker``, ``gender``, ``language``,
    ``session``, ``text``. Names are read without regard to case. Other columns are kept.

    CSV is UTF-8 with a header line, separated by comma, semicolon (numbers may then have a decimal comma) or
    tab. All is read as text first, so that speaker "03" stays "03". Empty fields, "NaN", "NA", "null" and
    "None" are missing values.

    Labels and scales are stated in ``<table>.schemes.json`` beside the table, as in
    ``{"emotion": {"labels": ["anger", "neutral"]}, "arousal": {"low": 1, "high": 5}}``; without it they are
    inferred (`Manifest.of`).

    Args:
        path: the table.
        columns: canonical column name -> name of the column in this table.
        strict: False keeps values that are outside their scheme.

    Raises:
        SertuneError: with the row where there is one; rows count from 1, without the header.
    """
    path = Path(path)
    if not path.is_file():
        raise SertuneError(f"{path}: {'is a folder, expected a table' if path.is_dir() else 'no such file'}")
    decimal_comma = False
    if path.suffix.lower() == ".parquet":
        raw = _read_parquet(path)
    else:
        raw, separator = _read_text(path)
        decimal_comma = separator == ";"
    if not len(raw):
        raise SertuneError(f"{path}: the table has no rows")
    frame = _named(path, raw, columns or {})
    if not any(attribute in frame.columns for attribute in labels.ATTRIBUTES):
        raise SertuneError(
            f"{path}: neither a label (column emotion or label) nor a dimension (arousal, valence, dominance); "
            f"found {_listed(raw)}; say which with --columns.emotion NAME"
        )
    for column in frame.columns:
        if column in TEXT_COLUMNS:
            frame[column] = _text(frame[column])
        elif column in NUMBER_COLUMNS:
            frame[column] = _numbers(path, str(column), frame[column], decimal_comma)
    frame = _with_ids(path, frame)
    return _renamed(Manifest.of(str(path), frame, _schemes(schemes_beside(path)), strict=strict), path.stem)


def _schemes(file: Path) -> dict[str, Scheme] | None:
    """The schemes stated beside a table, if there are any."""
    if not file.is_file():
        return None
    try:
        document = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise SertuneError(f"{file}: not a JSON object in UTF-8 ({error})") from error
    if not isinstance(document, dict):
        raise SertuneError(f'{file}: not a JSON object such as {{"arousal": {{"low": 1, "high": 5}}}}')
    for name in document:
        if labels.attribute(name) not in labels.ATTRIBUTES:
            raise unknown(f"attribute in {file}", name, labels.ATTRIBUTES)
    try:
        return schemes_from_json(document)
    except SertuneError as error:
        raise SertuneError(f"{file}: {error}") from None


def _renamed(manifest: Manifest, name: str) -> Manifest:
    """The manifest under its short name; while it is validated, errors name the whole path."""
    return Manifest(name, manifest.utterances, manifest.schemes, manifest.ratings)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise SertuneError(f"{path}: not a Parquet table that can be read") from error


def _read_text(path: Path) -> tuple[pd.DataFrame, str]:
    """All columns as text, and the separator that the header line has most of."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            header = stream.readline()
        separator = max(_SEPARATORS, key=header.count)
        with warnings.catch_warnings():
            # pandas would drop what a first row has beyond the header.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=separator,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                index_col=False,
                skipinitialspace=True,
            )
    except UnicodeDecodeError as error:
        raise SertuneError(f"{path}: not UTF-8 text; save the table as CSV in UTF-8") from error
    except pd.errors.EmptyDataError as error:
        raise SertuneError(f"{path}: the table is empty, expected a header line and rows") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        detail = str(error).strip().rsplit("C error: ", 1)[-1]
        if isinstance(error, pd.errors.ParserWarning):
            detail = "rows have more fields than the header"
        raise SertuneError(f"{path}: not a proper table: {detail} (line 1 is the header)") from error
    except OSError as error:
        raise SertuneError(f"{path}: can't be read: {error.strerror}") from error
    return frame, separator


def _named(path: Path, raw: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The table under canonical column names."""
    found = {str(column).strip(): column for column in raw.columns}
    names: dict[Any, str] = {}
    for key, column in columns.items():
        name = _canonical(key)
        if name not in UTTERANCE_COLUMNS:
            raise unknown("column", key, (*UTTERANCE_COLUMNS, *_ALIASES))
        if column not in found:
            raise SertuneError(
                f"{path}: no column {column!r} (meant for {key}){_nearest(column, found)}; found {_listed(raw)}"
            )
        names[found[column]] = name
    taken = set(names.values())
    frame = raw[[c for c in raw.columns if c in names or _canonical(c) not in taken]]
    renamed = {c: names.get(c) or _canonical(c) for c in frame.columns}
    frame = frame.rename(columns={c: n if n in UTTERANCE_COLUMNS else str(c).strip() for c, n in renamed.items()})
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        both = [repr(str(c)) for c, name in renamed.items() if name == twice[0]]
        raise SertuneError(
            f"{path}: {len(both)} columns for {twice[0]} ({', '.join(both)}); choose one with --columns.{twice[0]} NAME"
        )
    if "file" not in frame.columns:
        raise SertuneError(
            f"{path}: no column 'file'{_nearest('file', found)}; found {_listed(raw)}; say which with "
            "--columns.file NAME"
        )
    return frame


def _canonical(column: object) -> str:
    name = str(column).strip().lower()
    return _ALIASES.get(name, name)


def _listed(raw: pd.DataFrame) -> str:
    names = [str(column) for column in raw.columns]
    return f"columns {', '.join(names[:20])}" + (", ..." if len(names) > 20 else "")


def _nearest(name: str, found: Mapping[str, object]) -> str:
    near = get_close_matches(name, list(found), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _text(values: "pd.Series[Any]") -> "pd.Series[Any]":
    text = pd.Series(text_values(values), dtype=object)
    return text.mask(text.isin(_MISSING), None)


def _numbers(path: Path, column: str, values: "pd.Series[Any]", decimal_comma: bool) -> "pd.Series[Any]":
    if pd.api.types.is_string_dtype(values.dtype):
        values = _text(values)
        if decimal_comma:
            values = values.str.replace(",", ".", regex=False)
    return number_column(values, f"{path}, column {column}")


def _with_ids(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The table with absolute files and ids that need no folder: the file as the table names it."""
    empty = pd.Series(np.nan, index=frame.index)
    start, end = (frame[c] if c in frame.columns else empty for c in ("start", "end"))
    files = pd.Series(absolute_files(frame["file"].tolist(), path.parent), dtype=object)
    segments = pd.DataFrame({"file": files, "start": start, "end": end})
    twice = np.flatnonzero(files.notna() & segments.duplicated())
    if len(twice):
        i = int(twice[0])
        same = np.flatnonzero(
            (segments == segments.iloc[i]).mask(segments.isna() & segments.iloc[i].isna(), True).all(axis=1)
        )
        more = f" (and {len(twice) - 1} more rows like it)" if len(twice) > 1 else ""
        raise SertuneError(
            f"{path}, row {i + 1}: the same file and segment as row {int(same[0]) + 1} ({frame['file'].iat[i]}); "
            f"keep one of them{more}"
        )
    if "id" not in frame.columns:
        frame = frame.assign(id=pd.Series(segment_ids(frame["file"], start, end), dtype=object))
    return frame.assign(file=files)
