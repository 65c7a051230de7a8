"""Databases in audformat: a folder with ``db.yaml``, its tables and the media files (see the audformat library).

What the tables say is found by scheme, as the databases that are published in this format have it:

- labels and dimensions: columns whose scheme or name is emotion, arousal (activation), valence or dominance. Tables
  named ``desired`` hold what an actor was asked for; it is kept as ``intended`` where there is a judgement beside it.
  Of the others, ``gold_standard`` tables come first.
- single ratings: columns of different human raters, or several columns of one scheme in a table (``emotion.0``,
  ``emotion.1`` ...). Without a consensus beside them, the label is the majority and a dimension the mean.
- a segmented table makes each of its segments an utterance.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from sertune.corpora.info import CorpusInfo
from sertune.data import labels
from sertune.data.durations import file_seconds
from sertune.data.manifest import Manifest, Scheme, segment_ids
from sertune.errors import SertuneError, unknown

INFO: Final = CorpusInfo(
    name="audformat",
    title="any database in audformat: tables with schemes, raters and splits (audEERING)",
    language="",
    speakers=0,
    hours=0.0,
    labels=(),
    licence="that of the database",
    where="a folder of yours; published ones come through audb:NAME",
    layout="db.yaml, db.TABLE.csv or .parquet, and the media files",
    kind="format",
)

_NO_LABEL: Final = ("no_agreement", "no agreement", "noagreement")
# What else is known of an utterance: our column -> schemes in use.
_ABOUT: Final = {
    "speaker": ("speaker",),
    "gender": ("gender", "sex"),
    "language": ("language",),
    "session": ("session",),
    "text": ("transcription", "text"),
    "age": ("age",),
}


@dataclass(frozen=True)
class _Column:
    """A column of a table that says something of an attribute."""

    table: str
    name: str
    attribute: str
    rater: str  # "" for a consensus
    rank: int  # of consensus columns: the lowest that has a value counts
    intended: bool


def read(source: str | Path, columns: Mapping[str, str] | None = None, *, strict: bool = True) -> Manifest:
    """Read a database from its folder.

    Args:
        source: the folder with ``db.yaml``.
        columns: attribute or column (speaker, text ...) -> scheme or column of the database.
        strict: False keeps values that are outside their scheme.

    Raises:
        SertuneError: audformat is not installed, no such folder, no database in it, one that can't be read, or one
            without emotions.
    """
    root = Path(source).expanduser()
    if not root.is_dir():
        raise SertuneError(f"{root}: no such folder, expected a database in audformat with {INFO.layout}")
    if not (root / "db.yaml").is_file():
        raise SertuneError(f"no database in audformat in {root}: looked for {root / 'db.yaml'}")
    library = _library()
    try:
        with quiet():
            database = library.Database.load(str(root), load_data=True)
    except Exception as error:  # whatever a header or table made by others may cause
        raise SertuneError(
            f"{root}: can't be read as a database in audformat ({' '.join(str(error).split())})"
        ) from error
    return from_database(database, root, columns or {}, strict=strict)


def from_database(database: Any, root: Path, columns: Mapping[str, str], *, strict: bool = True) -> Manifest:
    """A manifest from a database in memory.

    Args:
        database: an ``audformat.Database``.
        root: relative files are taken from here.
        columns: as for `read`.
        strict: as for `read`.

    Raises:
        SertuneError: it has no emotions, or what ``columns`` names is not in it.
    """
    _check_names(database, columns)
    found = _columns(database, columns)
    if not found:
        listed = ", ".join(database.schemes) or "none"
        raise SertuneError(
            f"{root}: no table has a label (scheme emotion) or a dimension (arousal, valence, dominance); its schemes: "
            f"{listed}; say which with --columns.emotion NAME"
        )
    found = [column for column in found if database[column.table].is_segmented] or found
    frame = pd.concat([_rows(database[column.table].index) for column in found]).drop_duplicates(
        "id", ignore_index=True
    )
    frame = frame.assign(**_about(database, frame, columns))
    frame["partition"] = _partitions(database, found, frame)
    ratings = _ratings(database, found, frame)
    for attribute in dict.fromkeys(column.attribute for column in found):
        mine = [column for column in found if column.attribute == attribute]
        frame = frame.assign(**_values(database, mine, frame, ratings))
    names = frame["file"]
    frame["file"] = [str(root / name) for name in names]
    frame["duration"] = _durations(database, frame, names)
    if len(database.languages) == 1 and "language" not in frame.columns:
        frame["language"] = str(database.languages[0])
    if "language" in frame.columns:
        frame["language"] = frame["language"].map(_short_language, na_action="ignore")
    schemes = {key: stated for key in labels.ATTRIBUTES if (stated := _scheme(database, found, key))}
    return Manifest.of(str(database.name), frame, schemes, ratings, strict=strict)


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings about what the library calls of pandas: they are no business of the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _library() -> Any:
    try:
        import audformat
    except ImportError as error:
        raise SertuneError("audformat databases need the library audformat: pip install 'sertune[audb]'") from error
    return audformat


# Which columns say what


def _check_names(database: Any, columns: Mapping[str, str]) -> None:
    known = {*database.schemes, *(name for table in database.tables for name in database[table].columns)}
    allowed = (*labels.ATTRIBUTES, *_ABOUT)
    for key, name in columns.items():
        if labels.attribute(key) not in allowed:
            raise unknown("column", key, allowed)
        if name not in known:
            raise unknown(f"scheme or column of {database.name}", name, sorted(known))


def _columns(database: Any, columns: Mapping[str, str]) -> list[_Column]:
    """All columns of all tables that hold an attribute, in the tables' order."""
    named = {name: labels.attribute(key) for key, name in columns.items() if labels.attribute(key) in labels.ATTRIBUTES}
    stated = set(named.values())
    found = []
    for table in database.tables:
        for name, column in database[table].columns.items():
            attribute = named.get(name) or named.get(column.scheme_id or "")
            if attribute is None:
                attribute = next(
                    (
                        a
                        for word in (name, column.scheme_id or "")
                        if (a := labels.attribute(word)) in labels.ATTRIBUTES
                    ),
                    None,
                )
                if attribute is None or attribute in stated:
                    continue
            found.append((table, name, column, attribute))
    return [_described(database, table, name, column, attribute, found) for table, name, column, attribute in found]


def _described(
    database: Any, table: str, name: str, column: Any, attribute: str, found: Sequence[tuple[str, str, Any, str]]
) -> _Column:
    """Whether a column holds a consensus, one rater's ratings or what an actor was asked for."""
    words = f"{table}.{name}".lower().split(".")
    gold = any("gold" in word or "consensus" in word for word in (*words, (column.rater_id or "").lower()))
    intended = any(word in ("desired", "intended", "target") for word in words)
    beside = [other for other in found if other[3] == attribute and other[0] == table]
    rater = ""
    if not gold and not intended:
        people = {r for *_, c, a in found if a == attribute and (r := _person(database, c))}
        if len(people) > 1:
            rater = _person(database, column)
        elif len(beside) > 1 and name.rpartition(".")[2].isdigit():
            rater = name.rpartition(".")[2]
    return _Column(table, name, attribute, rater, 0 if gold else 1, intended)


def _person(database: Any, column: Any) -> str:
    """The human rater of a column, "" if it is no single person's."""
    name = column.rater_id or ""
    is_human = name in database.raters and database.raters[name].type == "human"
    return name if is_human and "gold" not in name.lower() else ""


# What they say


def _rows(index: "pd.Index[Any]") -> pd.DataFrame:
    """A table's index as columns id, file, start, end (seconds, NaN where it names whole files)."""
    frame = pd.DataFrame({"file": index.get_level_values("file").astype(object), "start": np.nan, "end": np.nan})
    if "start" in index.names:
        for level in ("start", "end"):
            times = pd.Series(pd.to_timedelta(index.get_level_values(level)))
            frame[level] = times.dt.total_seconds().astype(np.float64)
    frame.insert(0, "id", segment_ids(frame["file"], frame["start"], frame["end"]))
    return frame


def _aligned(values: "pd.Series[Any]", frame: pd.DataFrame) -> "pd.Series[Any]":
    """A column of a table by utterance, (N,) object, None for missing; a whole file's holds for all its segments."""
    own = _rows(values.index)
    known = pd.Series(values.astype(object).to_numpy(), index=pd.Index(own["id"], dtype=object), dtype=object)
    known = known[known.notna()]
    result = frame["id" if "start" in values.index.names else "file"].map(known[~known.index.duplicated()])
    return result.astype(object).where(result.notna(), None)


def _values(
    database: Any, columns: Sequence[_Column], frame: pd.DataFrame, ratings: pd.DataFrame | None
) -> dict[str, "pd.Series[Any]"]:
    """The consensus of one attribute, and the intended label where it is another column."""
    attribute = columns[0].attribute
    judged = sorted((c for c in columns if not c.rater and not c.intended), key=lambda column: column.rank)
    intended = [column for column in columns if column.intended]
    rated = None if ratings is None else ratings[ratings["attribute"] == attribute]
    if judged:
        consensus = _first(database, judged, frame, attribute)
    elif rated is not None and len(rated):
        consensus = _summary(rated, frame["id"], attribute)
    else:
        return {attribute: _first(database, intended, frame, attribute)}
    found = {attribute: consensus}
    if intended and attribute == "emotion":
        found["intended"] = _first(database, intended, frame, attribute)
    return found


def _first(database: Any, columns: Sequence[_Column], frame: pd.DataFrame, attribute: str) -> "pd.Series[Any]":
    """For each utterance the value of the first column that has one."""
    result = pd.Series([None] * len(frame), dtype=object)
    for column in columns:
        result = result.where(result.notna(), _aligned(database[column.table].df[column.name], frame))
    return _cleaned(result, attribute)


def _cleaned(values: "pd.Series[Any]", attribute: str) -> "pd.Series[Any]":
    if attribute != "emotion":
        return pd.to_numeric(values, errors="coerce").astype(np.float64)
    names = values.map(lambda value: labels.canonical(str(value)), na_action="ignore")
    return names.astype(object).mask(names.isin(_NO_LABEL), None)


def _summary(ratings: pd.DataFrame, ids: "pd.Series[Any]", attribute: str) -> "pd.Series[Any]":
    """Majority (None where votes tie) or mean of the raters."""
    groups = ratings.groupby("utterance", sort=False)["value"]
    if attribute == "emotion":

        def winner(values: "pd.Series[Any]") -> str | None:
            top = values.mode()
            return str(top.iloc[0]) if len(top) == 1 else None

        return ids.map(groups.agg(winner)).astype(object)
    return ids.map(groups.agg(lambda values: float(np.mean(values.astype(np.float64))))).astype(np.float64)


def _ratings(database: Any, columns: Sequence[_Column], frame: pd.DataFrame) -> pd.DataFrame | None:
    """The single ratings as `Manifest.ratings` has them, None where there are none."""
    parts = []
    for column in columns:
        if not column.rater:
            continue
        values = _cleaned(_aligned(database[column.table].df[column.name], frame), column.attribute)
        rows = pd.DataFrame(
            {"utterance": frame["id"], "rater": column.rater, "attribute": column.attribute, "value": values}
        )
        parts.append(rows[values.notna()].astype(object))
    # The parts of a corpus (train, test) are tables of their own and can repeat each other.
    return pd.concat(parts).drop_duplicates(["utterance", "rater", "attribute"]) if parts else None


def _about(database: Any, frame: pd.DataFrame, columns: Mapping[str, str]) -> dict[str, "pd.Series[Any]"]:
    """Speaker, gender and so on, also where they are told by the labels of the scheme ``speaker``."""
    found = {}
    for column, schemes in _ABOUT.items():
        for scheme in (columns[column],) if column in columns else schemes:
            with quiet():
                values = database.get(scheme, aggregate_function=lambda same: same.iloc[0])
            if len(values.columns) and values.iloc[:, 0].notna().any():
                found[column] = _aligned(values.iloc[:, 0], frame).infer_objects()
                break
    return found


def _partitions(database: Any, columns: Sequence[_Column], frame: pd.DataFrame) -> "pd.Series[Any]":
    """By the splits of the tables with labels, or by ``train``, ``dev``, ``test`` in their names.

    What two tables put into different parts has none.
    """
    result = pd.Series([None] * len(frame), dtype=object)
    clash = pd.Series(False, index=frame.index)
    for name in dict.fromkeys(column.table for column in columns):
        table = database[name]
        kind = table.split.type if table.split_id else _named_part(name)
        if kind not in labels.PARTITIONS:
            continue
        inside = frame["id"].isin(_rows(table.index)["id"])
        clash |= inside & result.notna() & (result != kind)
        result = result.mask(inside & result.isna(), kind)
    return result.mask(clash, None)


def _named_part(table: str) -> str | None:
    words = map(labels.partition, table.split("."))
    return next((word for word in words if word in labels.PARTITIONS), None)


def _durations(database: Any, frame: pd.DataFrame, names: "pd.Series[Any]") -> "pd.Series[Any]":
    """Seconds of each utterance: its times, what a scheme ``duration`` says of the file, or the file's header."""
    start = frame["start"].fillna(0.0)
    whole = pd.Series(np.nan, index=frame.index)
    ends = frame["end"].notna()
    if not ends.all() and "duration" in database.schemes and database.schemes["duration"].dtype == "time":
        with quiet():
            stated = database.get("duration", aggregate_function=lambda same: same.iloc[0]).iloc[:, 0]
        whole = pd.to_timedelta(_aligned(stated, frame.assign(file=names))).dt.total_seconds()
    headers = ~ends & whole.isna()
    if headers.any():
        rest = frame.loc[headers, "file"]
        whole = whole.mask(headers, pd.Series(file_seconds(rest.tolist()), index=rest.index))
    return (frame["end"].where(ends, whole) - start).astype(np.float64)


def _short_language(name: str) -> str:
    """Two letters (ISO 639-1) where the language has such a code: the format's own are of three."""
    import iso639  # comes with audformat

    try:
        return str(iso639.Lang(str(name)).pt1 or name)
    except iso639.exceptions.InvalidLanguageValue:
        return str(name)


def _scheme(database: Any, columns: Sequence[_Column], attribute: str) -> Scheme | None:
    """What the values of an attribute may be, as far as the database says it."""
    for column in columns:
        if column.attribute != attribute:
            continue
        scheme = database[column.table].columns[column.name].scheme
        if scheme is None:
            continue
        if attribute == "emotion" and scheme.labels is not None:
            names = [labels.canonical(str(name)) for name in scheme.labels_as_list]
            return Scheme(labels=tuple(name for name in names if name not in _NO_LABEL))
        if attribute != "emotion" and scheme.minimum is not None and scheme.maximum is not None:
            return Scheme(low=float(scheme.minimum), high=float(scheme.maximum))
    return None


def example(root: Path, seed: int = 0) -> None:
    """Write an imitation of a published database: 3 actors x 4 emotions of noisy tones, 16 kHz, 16 bit, mono.

    With speakers described by their scheme's labels, an actor's emotion beside the raters' gold standard, its
    ``no_agreement``, three raters in columns of their own, and a train and a test split as tables.
    """
    library = _library()
    rng = np.random.default_rng(seed)
    emotions = ("anger", "happiness", "neutral", "sadness")
    speakers = {
        3: {"gender": "male", "age": 31},
        8: {"gender": "female", "age": 34},
        11: {"gender": "male", "age": 26},
    }
    rows = []
    for i, speaker in enumerate(speakers):
        for j, emotion in enumerate(emotions):
            file = f"wav/{speaker:02d}a0{j % 2 + 1}{emotion[0].upper()}a.wav"
            length = _tone(root / file, 110 + 50 * i + 20 * j, rng)
            others = [emotions[(j + 1) % 4], emotions[(j + 2) % 4]] if i == j else [emotion, emotions[(j + i) % 4]]
            rows.append((file, speaker, f"a0{j % 2 + 1}", emotion, (emotion, *others), length))
    files, who, text, acted, rated, seconds = (list(column) for column in zip(*rows, strict=True))
    database = library.Database(name="imitation", languages=["deu"], license="CC0-1.0")
    database.schemes["speaker"] = library.Scheme(labels=speakers)
    database.schemes["transcription"] = library.Scheme(labels={"a01": "Der Lappen.", "a02": "Das will sie."})
    database.schemes["duration"] = library.Scheme("time")
    database.schemes["emotion"] = library.Scheme(labels=[*emotions, "no_agreement"])
    database.schemes["arousal"] = library.Scheme("float", minimum=1, maximum=5)
    for name in ("r1", "r2", "r3"):
        database.raters[name] = library.Rater()
    for name in ("train", "test"):
        database.splits[name] = library.Split(name)
    whole = library.filewise_index(files)
    about = {"speaker": who, "transcription": text, "duration": pd.to_timedelta(seconds, unit="s")}
    _put(library, database, "files", whole, {key: (key, "", values) for key, values in about.items()})
    given = {f"emotion.{r}": ("emotion", r, [votes[k] for votes in rated]) for k, r in enumerate(database.raters)}
    _put(library, database, "emotion.ratings", whole, given)
    gold = [votes[0] if len(set(votes)) < 3 else "no_agreement" for votes in rated]
    arousal = rng.uniform(1, 5, len(files)).round(2)
    for name, rows_of in (("train", slice(0, 8)), ("test", slice(8, None))):
        index = library.filewise_index(files[rows_of])
        desired = {"emotion": ("emotion", "", acted[rows_of])}
        _put(library, database, f"emotion.categories.{name}.desired", index, desired, split=name)
        judged = {"emotion": ("emotion", "", gold[rows_of]), "arousal": ("arousal", "", arousal[rows_of])}
        _put(library, database, f"emotion.categories.{name}.gold_standard", index, judged, split=name)
    with quiet():
        database.save(str(root), storage_format="csv")


def _put(
    library: Any,
    database: Any,
    name: str,
    index: "pd.Index[Any]",
    columns: Mapping[str, tuple[str, str, Any]],
    split: str | None = None,
) -> None:
    """A table of columns, each with its scheme, its rater and its values."""
    database[name] = library.Table(index, split_id=split)
    for column, (scheme, rater, values) in columns.items():
        database[name][column] = library.Column(scheme_id=scheme, rater_id=rater or None)
        database[name][column].set(values)


def _tone(file: Path, hertz: float, rng: np.random.Generator) -> float:
    """Writes a noisy tone and returns its length in seconds."""
    import soundfile

    file.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(16000 * rng.uniform(0.3, 0.6))) / 16000
    tone = 0.2 * np.sin(2 * np.pi * hertz * time) + 0.01 * rng.standard_normal(len(time))
    soundfile.write(file, tone, 16000, subtype="PCM_16")
    return len(time) / 16000
