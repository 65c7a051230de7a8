"""A user's own table of utterances: CSV, TSV or Parquet."""

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from sertune.data import labels
from sertune.data.manifest import (
    NUMBER_COLUMNS,
    RATING_COLUMNS,
    TEXT_COLUMNS,
    UTTERANCE_COLUMNS,
    Manifest,
    Scheme,
    absolute_files,
    number_column,
    ratings_beside,
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

    Single ratings stand in ``<table>.ratings.csv`` or ``.ratings.parquet`` beside the table, one row each:
    ``utterance`` (the table's ``id``; without that column its ``file``, with ``:start-end`` for a segment),
    ``rater``, ``attribute`` (``emotion``, ``arousal`` ...) and ``value``.

    Args:
        path: the table.
        columns: canonical column name -> name of the column in this table.
        strict: False keeps values that are outside their scheme.

    Raises:
        SertuneError: with the row where there is one; rows count from 1, without the header.
    """
    path = Path(path)
    raw, decimal_comma = _read_any(path)
    return from_frame(
        raw,
        str(path),
        folder=path.parent,
        name=path.stem,
        columns=columns,
        schemes=_schemes(schemes_beside(path)),
        ratings=_ratings(path),
        decimal_comma=decimal_comma,
        strict=strict,
    )


def from_frame(
    raw: pd.DataFrame,
    where: str,
    *,
    folder: Path,
    name: str,
    columns: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
    schemes: Mapping[str, Scheme] | None = None,
    ratings: pd.DataFrame | None = None,
    decimal_comma: bool = False,
    strict: bool = True,
) -> Manifest:
    """A manifest from a table in memory, with everything that `read` mends and refuses.

    Args:
        raw: one row per utterance; columns as in `read`.
        where: what the table is called in errors.
        folder: relative files are taken from here.
        name: of the manifest.
        columns: canonical column name -> name of the column in this table.
        aliases: names, in lower case, that a format has for canonical columns, beside those of every table.
        schemes: attribute -> scheme, where known.
        ratings: columns `RATING_COLUMNS`.
        decimal_comma: numbers in text columns have a decimal comma.
        strict: False keeps values that are outside their scheme.

    Raises:
        SertuneError: as `read`.
    """
    if not len(raw):
        raise SertuneError(f"{where}: the table has no rows")
    frame = _named(where, raw, columns or {}, {**_ALIASES, **(aliases or {})})
    if not any(attribute in frame.columns for attribute in labels.ATTRIBUTES):
        raise SertuneError(
            f"{where}: neither a label (column emotion or label) nor a dimension (arousal, valence, dominance); "
            f"found {_listed(raw)}; say which with --columns.emotion NAME"
        )
    for column in frame.columns:
        if column in TEXT_COLUMNS:
            frame[column] = _text(frame[column])
        elif column in NUMBER_COLUMNS:
            frame[column] = _numbers(f"{where}, column {column}", frame[column], decimal_comma)
    if ratings is not None and decimal_comma:
        ratings = ratings.assign(value=ratings["value"].astype(object))
        is_number = ratings["attribute"].map(lambda key: labels.attribute(str(key)) in labels.DIMENSIONS)
        ratings.loc[is_number, "value"] = [str(value).replace(",", ".") for value in ratings.loc[is_number, "value"]]
    frame = _with_ids(where, frame, folder)
    return replace(Manifest.of(where, frame, schemes, ratings, strict=strict), name=name)


def _read_any(path: Path, dtype: Any = str) -> tuple[pd.DataFrame, bool]:
    """A table as it is (text columns of CSV as ``dtype``), and whether its numbers may have a decimal comma."""
    if not path.is_file():
        raise SertuneError(f"{path}: {'is a folder, expected a table' if path.is_dir() else 'no such file'}")
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path), False
    raw, separator = _read_text(path, dtype)
    return raw, separator == ";"


def _ratings(table: Path) -> pd.DataFrame | None:
    """The single ratings beside a table, if there are any."""
    found = [file for suffix in (".csv", ".parquet") if (file := ratings_beside(table, suffix)).is_file()]
    if not found:
        return None
    if len(found) > 1:
        raise SertuneError(f"{table} has two tables of ratings, {found[0].name} and {found[1].name}; keep one of them")
    raw, _ = _read_any(found[0], "category")  # long columns that repeat themselves
    raw.columns = pd.Index([str(column).strip().lower() for column in raw.columns])
    missing = [column for column in RATING_COLUMNS if column not in raw.columns]
    if missing:
        raise SertuneError(
            f"{found[0]}: no column {', '.join(map(repr, missing))}; found {_listed(raw)}; expected "
            f"{', '.join(RATING_COLUMNS)}"
        )
    text = {column: _text(raw[column]) for column in RATING_COLUMNS if not _is_number(raw[column])}
    return raw[list(RATING_COLUMNS)].assign(**text)


def _is_number(values: "pd.Series[Any]") -> bool:
    return bool(pd.api.types.is_numeric_dtype(values.dtype))


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


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise SertuneError(f"{path}: not a Parquet table that can be read") from error


def _read_text(path: Path, dtype: Any) -> tuple[pd.DataFrame, str]:
    """All columns as text, and the separator that the header line has most of."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            header = stream.readline()
        separator = max(_SEPARATORS, key=header.count)
        plain = _read_plain(path, header, separator, dtype)
        if plain is not None:
            return plain, separator
        with warnings.catch_warnings():
            # pandas would drop what a first row has beyond the header.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=separator,
                dtype=dtype,
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


def _read_plain(path: Path, header: str, separator: str, dtype: Any) -> pd.DataFrame | None:
    """The table by Arrow, several times faster; None for all that pandas must mend or explain."""
    import pyarrow
    from pyarrow import csv

    names = [name.strip("\r\n") for name in header.split(separator)]
    data = path.read_bytes()
    if (
        '"' in header
        or not all(names)
        or len(set(names)) < len(names)
        or f"{separator} ".encode() in data  # a quote after a blank is none to Arrow
    ):
        return None
    kind = pyarrow.dictionary(pyarrow.int32(), pyarrow.string()) if dtype == "category" else pyarrow.string()
    try:
        content = csv.read_csv(
            pyarrow.BufferReader(data),
            parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, kind)),
        )
    except pyarrow.ArrowInvalid:
        return None
    frame: pd.DataFrame = content.to_pandas()
    return frame if list(frame.columns) == names else None


def _named(where: str, raw: pd.DataFrame, columns: Mapping[str, str], aliases: Mapping[str, str]) -> pd.DataFrame:
    """The table under canonical column names."""
    found = {str(column).strip(): column for column in raw.columns}
    names: dict[Any, str] = {}
    for key, column in columns.items():
        name = _canonical(key, aliases)
        if name not in UTTERANCE_COLUMNS:
            raise unknown("column", key, (*UTTERANCE_COLUMNS, *aliases))
        if column not in found:
            raise SertuneError(
                f"{where}: no column {column!r} (meant for {key}){_nearest(column, found)}; found {_listed(raw)}"
            )
        names[found[column]] = name
    taken = set(names.values())
    frame = raw[[c for c in raw.columns if c in names or _canonical(c, aliases) not in taken]]
    renamed = {c: names.get(c) or _canonical(c, aliases) for c in frame.columns}
    frame = frame.rename(columns={c: n if n in UTTERANCE_COLUMNS else str(c).strip() for c, n in renamed.items()})
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        both = [repr(str(c)) for c, name in renamed.items() if name == twice[0]]
        raise SertuneError(
            f"{where}: {len(both)} columns for {twice[0]} ({', '.join(both)}); choose one with "
            f"--columns.{twice[0]} NAME"
        )
    if "file" not in frame.columns:
        raise SertuneError(
            f"{where}: no column 'file'{_nearest('file', found)}; found {_listed(raw)}; say which with "
            "--columns.file NAME"
        )
    return frame


def _canonical(column: object, aliases: Mapping[str, str]) -> str:
    name = str(column).strip().lower()
    return aliases.get(name, name)


def _listed(raw: pd.DataFrame) -> str:
    names = [str(column) for column in raw.columns]
    return f"columns {', '.join(names[:20])}" + (", ..." if len(names) > 20 else "")


def _nearest(name: str, found: Mapping[str, object]) -> str:
    near = get_close_matches(name, list(found), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _text(values: "pd.Series[Any]") -> "pd.Series[Any]":
    return pd.Series(text_values(values, _MISSING), dtype=object)


def _numbers(where: str, values: "pd.Series[Any]", decimal_comma: bool) -> "pd.Series[Any]":
    if pd.api.types.is_string_dtype(values.dtype):
        if decimal_comma:
            values = values.str.replace(",", ".", regex=False)
        parsed = _parsed(values)
        values = _text(values) if parsed is None else parsed
    return number_column(values, where)


def _parsed(values: "pd.Series[Any]") -> "pd.Series[Any] | None":
    """Numbers from text, NaN for missing; None where one can't be read. Arrow is ten times faster at it than pandas."""
    import pyarrow
    from pyarrow import compute

    try:
        text = compute.utf8_trim_whitespace(pyarrow.array(values, from_pandas=True))
        missing = compute.is_in(text, value_set=pyarrow.array(_MISSING, text.type))
        numbers = compute.if_else(missing, None, text).cast(pyarrow.float64())
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, pyarrow.ArrowTypeError):
        return None
    return pd.Series(numbers.to_numpy(zero_copy_only=False), index=values.index)


def _with_ids(where: str, frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The table with absolute files and ids that need no folder: the file as the table names it."""
    empty = pd.Series(np.nan, index=frame.index)
    start, end = (frame[c] if c in frame.columns else empty for c in ("start", "end"))
    files = pd.Series(absolute_files(frame["file"].tolist(), folder), dtype=object)
    segments = pd.DataFrame({"file": files, "start": start, "end": end})
    twice = np.flatnonzero(files.notna() & segments.duplicated())
    if len(twice):
        i = int(twice[0])
        same = np.flatnonzero(
            (segments == segments.iloc[i]).mask(segments.isna() & segments.iloc[i].isna(), True).all(axis=1)
        )
        more = f" (and {len(twice) - 1} more rows like it)" if len(twice) > 1 else ""
        raise SertuneError(
            f"{where}, row {i + 1}: the same file and segment as row {int(same[0]) + 1} ({frame['file'].iat[i]}); "
            f"keep one of them{more}"
        )
    if "id" not in frame.columns:
        frame = frame.assign(id=pd.Series(segment_ids(frame["file"], start, end), dtype=object))
    return frame.assign(file=files)
