"""A corpus as tables: utterances, the raters' own ratings where there are any, and what the values may be."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sertune.data import labels
from sertune.errors import SertuneError, unknown

TEXT_COLUMNS: Final = ("id", "file", "speaker", "gender", "language", "session", "text", "partition", "emotion")
NUMBER_COLUMNS: Final = ("start", "end", "duration", *labels.DIMENSIONS)
UTTERANCE_COLUMNS: Final = (
    "id",
    "file",
    "start",
    "end",
    "duration",
    "speaker",
    "gender",
    "language",
    "session",
    "text",
    "partition",
    "emotion",
    "arousal",
    "valence",
    "dominance",
)
RATING_COLUMNS: Final = ("utterance", "rater", "attribute", "value")
KNOWN_SCALES: Final = ((0.0, 1.0), (-1.0, 1.0), (1.0, 5.0), (1.0, 7.0), (1.0, 9.0), (0.0, 100.0))
"""Rating scales in use, by width; an unknown scale is taken to be the first that holds every value."""

_FORMAT: Final = 1


@dataclass(frozen=True)
class Scheme:
    """What the values of one attribute may be.

    Attributes:
        labels: canonical category names in a fixed order (categorical attributes).
        low: lower end of the rating scale (dimensional attributes).
        high: its upper end.
    """

    labels: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    @property
    def scale(self) -> tuple[float, float]:
        """(low, high) of a dimensional attribute."""
        if self.low is None or self.high is None:
            raise SertuneError("a categorical attribute has no scale")
        return self.low, self.high


@dataclass(frozen=True, eq=False)
class Manifest:
    """A corpus. Immutable by convention; made by `Manifest.of`, which normalises and validates.

    Attributes:
        name: name of the corpus, e.g. ``"emodb"``.
        utterances: one row each, RangeIndex, columns `UTTERANCE_COLUMNS` and then any others. Text columns
            are object columns of str with None for missing, number columns float64 with NaN for missing.
            ``file`` is absolute; times are in seconds.
        schemes: attribute -> `Scheme`, for the attributes that the corpus has.
        ratings: columns `RATING_COLUMNS`, one row per rater, utterance and attribute; None where a corpus
            publishes a consensus only. Values are str for emotion and float for dimensions.
    """

    name: str
    utterances: pd.DataFrame
    schemes: dict[str, Scheme]
    ratings: pd.DataFrame | None = None

    @classmethod
    def of(
        cls,
        name: str,
        utterances: pd.DataFrame,
        schemes: Mapping[str, Scheme] | None = None,
        ratings: pd.DataFrame | None = None,
        *,
        strict: bool = True,
    ) -> "Manifest":
        """A validated manifest from tables that need only ``file`` and an attribute or two.

        Missing columns are added, types mended, names brought to their canonical form. A scheme that isn't
        given is inferred: labels in alphabetical order, and for a dimension the first of `KNOWN_SCALES` that
        contains all its values. That is a guess: state the scale wherever it is known.

        Args:
            name: name of the corpus.
            utterances: at least a column ``file``; ``id`` defaults to the file with the segment's times.
            schemes: attribute -> scheme, where known.
            ratings: columns `RATING_COLUMNS`.
            strict: False keeps labels and values that are outside their scheme (`sertune.data.audit` lists
                them file by file) instead of refusing the first.

        Raises:
            SertuneError: anything that `validate` finds, or a value of the wrong type.
        """
        if "file" not in utterances.columns:
            columns = ", ".join(map(str, utterances.columns))
            raise SertuneError(f"{name}: no column 'file' among the utterances' columns ({columns})")
        if not len(utterances):
            raise SertuneError(f"{name}: the table has no utterances")
        frame = _normalised_utterances(name, utterances)
        rated = None if ratings is None else _normalised_ratings(name, ratings)
        given = {labels.attribute(key): scheme for key, scheme in (schemes or {}).items()}
        for key in given:
            if key not in labels.ATTRIBUTES:
                raise unknown("attribute", key, labels.ATTRIBUTES)
        manifest = cls(name, frame, _schemes(name, frame, rated, given), rated)
        manifest.validate(values=strict)
        return manifest

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.utterances)

    def validate(self, *, values: bool = True) -> None:
        """Check everything that a table alone can tell; audio is `sertune.data.audit`'s.

        Args:
            values: also check labels and numbers against the schemes.

        Raises:
            SertuneError: the first problem, with the row (1 is the first data row) and how many rows have it.
        """
        frame = self.utterances
        self._refuse(frame["file"].isna(), "has no file")
        self._refuse(frame["id"].isna(), "has no id")
        self._refuse(frame["id"].duplicated(), lambda i: f"repeats the id {frame['id'].iat[i]!r}")
        start, end = frame["start"].to_numpy(), frame["end"].to_numpy()
        self._refuse(start < 0, lambda i: f"starts at {start[i]:g} s, before the beginning of its file")
        self._refuse(
            end <= np.nan_to_num(start),
            lambda i: f"ends at {end[i]:g} s, not after its start at {np.nan_to_num(start)[i]:g} s",
        )
        duration = frame["duration"].to_numpy()
        self._refuse(duration < 0, lambda i: f"has the negative duration {duration[i]:g} s")
        part = frame["partition"]
        self._refuse(
            part.notna() & ~part.isin(labels.PARTITIONS),
            lambda i: f"has partition {part.iat[i]!r}, expected train, dev or test",
        )
        if values:
            for attribute in self.schemes:
                self._refuse_outside(attribute, frame[attribute], "row")
        if self.ratings is not None:
            self._validate_ratings(self.ratings, values)

    def _validate_ratings(self, ratings: pd.DataFrame, values: bool) -> None:
        column = {name: ratings[name] for name in RATING_COLUMNS}
        ids = column["utterance"]
        for name in RATING_COLUMNS:
            self._refuse(column[name].isna(), f"has no {name}", "ratings row")
        self._refuse(
            ~ids.isin(self.utterances["id"]),
            lambda i: f"rates {ids.iat[i]!r}, which is not the id of an utterance",
            "ratings row",
        )
        self._refuse(
            ratings.duplicated(["utterance", "rater", "attribute"]),
            lambda i: (
                f"is the second rating by rater {column['rater'].iat[i]!r} for the {column['attribute'].iat[i]} of "
                f"{ids.iat[i]!r}; keep one of them"
            ),
            "ratings row",
        )
        codes, rated = pd.factorize(column["attribute"])
        for attribute in self.schemes if values else ():
            if attribute in rated:
                mine = codes == list(rated).index(attribute)
                self._refuse_outside(attribute, column["value"].where(mine, None), "ratings row")

    def _refuse_outside(self, attribute: str, values: "pd.Series[Any]", what: str) -> None:
        scheme = self.schemes[attribute]
        self._refuse(
            outside_scheme(values, scheme),
            lambda i: f"has {outside_words(attribute, values.iat[i], scheme)}",
            what,
        )

    def _refuse(
        self,
        wrong: "pd.Series[bool] | NDArray[np.bool_]",
        words: str | Callable[[int], str],
        what: str = "row",
    ) -> None:
        rows = np.flatnonzero(np.asarray(wrong))
        if len(rows):
            i = int(rows[0])
            file = self.utterances["file"].iat[i] if what == "row" else None
            where = f" ({file})" if isinstance(file, str) else ""
            said = words if isinstance(words, str) else words(i)
            raise SertuneError(f"{self.name}, {what} {i + 1}{where} {said}{_and_more(len(rows))}")

    def select(self, rows: "NDArray[Any] | Sequence[int] | pd.Series[bool]") -> "Manifest":
        """The utterances at some positions (in that order) or under a boolean mask, with their ratings.

        Schemes stay whole, so that label ids don't depend on the selection.
        """
        chosen = np.asarray(rows)
        if chosen.dtype == bool:
            if len(chosen) != len(self):
                raise SertuneError(f"the mask has {len(chosen)} entries for {len(self)} utterances")
            chosen = np.flatnonzero(chosen)
        frame = self.utterances.iloc[chosen.astype(np.int64)].reset_index(drop=True)
        ratings = self.ratings
        if ratings is not None:
            ratings = ratings[ratings["utterance"].isin(frame["id"])].reset_index(drop=True)
        return Manifest(self.name, frame, dict(self.schemes), ratings)

    # Views of the ratings

    def majority(self, attribute: str = "emotion") -> "pd.Series[Any]":
        """The label with most votes per utterance, (N,) object; None where votes tie or there are none."""
        votes = self.votes(attribute)
        counts = votes.to_numpy()
        best = counts.max(axis=1)
        single = (best > 0) & ((counts == best[:, None]).sum(axis=1) == 1)
        names = np.array(votes.columns, dtype=object)[counts.argmax(axis=1)]
        names[~single] = None
        return pd.Series(names, dtype=object, name=attribute)

    def with_consensus(self) -> "Manifest":
        """The same with the mean of the ratings, or the majority of the votes, where a consensus is missing."""
        if self.ratings is None:
            return self
        frame = self.utterances.copy()
        given = set(self.ratings["attribute"].unique())
        for name in (name for name in labels.DIMENSIONS if name in given and frame[name].isna().any()):
            part = self.ratings[self.ratings["attribute"] == name]
            means = part["value"].astype(np.float64).groupby(part["utterance"]).mean()
            frame[name] = frame[name].fillna(frame["id"].map(means))
        if "emotion" in given and frame["emotion"].isna().any():
            frame["emotion"] = frame["emotion"].where(frame["emotion"].notna(), self.majority())
        return Manifest(self.name, frame, dict(self.schemes), self.ratings)

    def votes(self, attribute: str = "emotion") -> pd.DataFrame:
        """How many raters chose each label: (N utterances, L labels) int64, columns in the scheme's order."""
        names = self._scheme(attribute).labels
        if not names:
            raise SertuneError(f"{self.name}: {attribute} is a dimension; only categories have votes")
        utterance, _, value = self._rated(attribute)
        cells = np.bincount(utterance * len(names) + value.astype(np.int64), minlength=len(self) * len(names))
        return pd.DataFrame(cells.reshape(len(self), len(names)), columns=pd.Index(names, dtype=object))

    def rater_matrix(self, attribute: str) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """All ratings of an attribute as one matrix.

        Returns:
            (N utterances, R raters) float64, NaN where a rater gave none; labels stand as their index in the
            scheme, dimensions on their own scale. It takes 8 N R bytes. And the raters, sorted.
        """
        utterance, rater, value = self._rated(attribute)
        raters, column = np.unique(rater, return_inverse=True)
        matrix = np.full((len(self), len(raters)), np.nan)
        matrix[utterance, column] = value
        return matrix, tuple(map(str, raters))

    def _scheme(self, attribute: str) -> Scheme:
        if attribute not in self.schemes:
            raise unknown(f"attribute of {self.name}", attribute, self.schemes)
        return self.schemes[attribute]

    def _rated(self, attribute: str) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.float64]]:
        """Positions of utterances, names of raters, values (labels as indices) of one attribute's ratings."""
        scheme = self._scheme(attribute)
        if self.ratings is None or not (mask := self.ratings["attribute"] == attribute).any():
            raise SertuneError(f"{self.name} has no ratings of {attribute}, only a consensus")
        ratings = self.ratings[mask]
        utterance = pd.Index(self.utterances["id"]).get_indexer(pd.Index(ratings["utterance"]))
        values = ratings["value"]
        if scheme.labels:
            values = values.map({name: i for i, name in enumerate(scheme.labels)})
        return (
            utterance.astype(np.int64),
            ratings["rater"].to_numpy().astype(np.str_),
            values.to_numpy().astype(np.float64),
        )

    # Files

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``utterances.parquet``, ``ratings.parquet`` (if any) and ``schemes.json`` into ``folder``.

        Audio files below the folder's parent are named relative to the folder, so that audio and manifest
        can move together; other files keep their absolute paths. An earlier manifest there is replaced when
        the new one is complete; whatever else lies in its folder stays.

        Raises:
            SertuneError: the folder holds something that is not a manifest, or can't be written.
        """
        target = _absolute(folder)
        if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / "schemes.json").is_file()):
            raise SertuneError(f"{target} exists and is not a saved manifest; name another folder")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        except OSError as error:
            raise SertuneError(f"can't write {target}: {error.strerror}") from error
        try:
            self._write(new, target)
            _put(new, target)
        except OSError as error:
            raise SertuneError(f"can't write {target}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _write(self, folder: Path, home: Path) -> None:
        folder.chmod(0o755)
        frame = self.utterances.copy()
        frame["file"] = _text_series(_relative_files(frame["file"], home, home.parent))
        try:
            frame.to_parquet(folder / "utterances.parquet", index=False)
        except (TypeError, ValueError) as error:  # pyarrow's own errors are among these
            raise SertuneError(
                f"{self.name}: a column mixes types and can't be saved ({' '.join(str(error).split())})"
            ) from error
        if self.ratings is not None:
            # A Parquet column has one type: labels and numbers stand in two.
            number = pd.to_numeric(self.ratings["value"], errors="coerce").astype(np.float64)
            stored = self.ratings.drop(columns="value")
            stored["label"] = self.ratings["value"].where(number.isna(), None)
            stored["number"] = number
            stored.to_parquet(folder / "ratings.parquet", index=False)
        document = {"format": _FORMAT, "name": self.name, "schemes": schemes_to_json(self.schemes)}
        (folder / "schemes.json").write_text(json.dumps(document, indent=2, ensure_ascii=False), "utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Manifest":
        """Read what `save` wrote.

        Raises:
            SertuneError: it isn't a saved manifest, or a newer one than this version can read.
        """
        home = _absolute(folder)
        if not (home / "utterances.parquet").is_file() or not (home / "schemes.json").is_file():
            raise SertuneError(f"{folder} is not a saved manifest: expected utterances.parquet and schemes.json in it")
        try:
            document = json.loads((home / "schemes.json").read_text("utf-8"))
            if document.get("format") != _FORMAT:
                raise SertuneError(
                    f"{home / 'schemes.json'} has format {document.get('format')!r}, "
                    f"this version of sertune reads {_FORMAT}"
                )
            frame = pd.read_parquet(home / "utterances.parquet")
            stored = home / "ratings.parquet"
            ratings = pd.read_parquet(stored) if stored.is_file() else None
            name, schemes = str(document["name"]), schemes_from_json(document["schemes"])
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise SertuneError(f"{folder}: damaged manifest ({' '.join(str(error).split())})") from error
        frame["file"] = _text_series(absolute_files(frame["file"].astype(object).tolist(), home))
        if ratings is not None:
            value = ratings["number"].astype(object).where(ratings["number"].notna(), ratings["label"])
            ratings = ratings.assign(value=value)[list(RATING_COLUMNS)]
        return cls.of(name, frame, schemes, ratings, strict=False)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the utterances as plain CSV (UTF-8) that ``--data FILE.csv`` reads back to the same.

        Files below the table's folder are named relative to it. The schemes go beside it, as
        ``<name>.schemes.json``, and the ratings, if any, as ``<name>.ratings.csv``. Columns without any value are
        left out.

        Raises:
            SertuneError: the file can't be written, or ratings of another table lie beside it.
        """
        target = _absolute(path)
        others = [file for suffix in (".csv", ".parquet") if (file := ratings_beside(target, suffix)).is_file()]
        if self.ratings is not None:
            others = [file for file in others if file.suffix != ".csv"]
        if others:
            raise SertuneError(
                f"can't write {target}: {others[0].name} beside it has ratings of another table; move it"
            )
        frame = self.utterances.copy()
        frame["file"] = _text_series(_relative_files(frame["file"], target.parent, target.parent))
        frame = frame.dropna(axis="columns", how="all")
        texts = {
            target: frame.to_csv(index=False),
            schemes_beside(target): json.dumps(schemes_to_json(self.schemes), indent=2, ensure_ascii=False),
        }
        if self.ratings is not None:
            texts[ratings_beside(target)] = self.ratings.to_csv(index=False)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                temporary = name.with_name(f".{name.name}.{os.getpid()}")
                temporary.write_text(text, "utf-8")
                temporary.replace(name)
        except OSError as error:
            raise SertuneError(f"can't write {target}: {error.strerror or error}") from error


def concat(manifests: Sequence[Manifest]) -> Manifest:
    """Several corpora as one, with a column ``corpus`` that says where each utterance is from.

    Ids get the corpus's name in front (``emodb/03a01Fa``) when two corpora share one. Labels are united in
    the order of first definition. Speakers of one name are taken to be one person: splits that keep them
    together stay speaker-disjoint either way.

    Raises:
        SertuneError: nothing given, or an attribute with different scales.
    """
    if not manifests:
        raise SertuneError("no data given")
    if len(manifests) == 1:
        return manifests[0]
    names = _distinct([m.name for m in manifests])
    clash = bool(pd.concat([m.utterances["id"] for m in manifests]).duplicated().any())
    frames, ratings = [], []
    for name, manifest in zip(names, manifests, strict=True):
        prefix = f"{name}/" if clash else ""
        frame = manifest.utterances.assign(id=_text_series((prefix + manifest.utterances["id"]).tolist()))
        if "corpus" not in frame.columns:
            frame["corpus"] = _text_series([name] * len(frame))
        frames.append(frame)
        if manifest.ratings is not None:
            rated = (prefix + manifest.ratings["utterance"]).tolist()
            ratings.append(manifest.ratings.assign(utterance=_text_series(rated)))
    schemes: dict[str, Scheme] = {}
    for name, manifest in zip(names, manifests, strict=True):
        for attribute, scheme in manifest.schemes.items():
            schemes[attribute] = _merged(attribute, schemes.get(attribute, scheme), scheme, name)
    whole = pd.concat(frames, ignore_index=True)
    for column in whole.columns.difference(list(NUMBER_COLUMNS)):
        if not pd.api.types.is_numeric_dtype(whole[column]):
            whole[column] = whole[column].astype(object).where(whole[column].notna(), None)
    return Manifest("+".join(names), whole, schemes, pd.concat(ratings, ignore_index=True) if ratings else None)


def _distinct(names: list[str]) -> list[str]:
    """The names, the second "a" as "a-2"."""
    result: list[str] = []
    for name in names:
        count = 2
        candidate = name
        while candidate in result:
            candidate = f"{name}-{count}"
            count += 1
        result.append(candidate)
    return result


def _merged(attribute: str, first: Scheme, second: Scheme, name: str) -> Scheme:
    if (first.low, first.high) != (second.low, second.high):
        raise SertuneError(
            f"{attribute} is rated from {_scale_text(first)} before and from {_scale_text(second)} in {name}; "
            "bring the corpora to one scale first"
        )
    return Scheme(tuple(dict.fromkeys(first.labels + second.labels)), first.low, first.high)


def _scale_text(scheme: Scheme) -> str:
    return "labels" if scheme.low is None or scheme.high is None else f"{scheme.low:g} to {scheme.high:g}"


# Values and schemes


def outside_scheme(values: "pd.Series[Any]", scheme: Scheme) -> NDArray[np.bool_]:
    """Which values, of those that aren't missing, their scheme does not allow; (N,) bool."""
    present = values.notna().to_numpy()
    if scheme.labels:
        return np.asarray(present & ~values.isin(scheme.labels).to_numpy(), dtype=bool)
    low, high = scheme.scale
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
    return np.asarray(present & ~((numbers >= low) & (numbers <= high)), dtype=bool)


def outside_words(attribute: str, value: object, scheme: Scheme) -> str:
    """E.g. ``"arousal 6, outside the scale 1 to 5"``."""
    if scheme.labels:
        return f"{attribute} {value!r}, not one of the labels {', '.join(scheme.labels)}"
    return f"{attribute} {value}, outside the scale {_scale_text(scheme)}"


def schemes_to_json(schemes: Mapping[str, Scheme]) -> dict[str, dict[str, Any]]:
    """``{"emotion": {"labels": [...]}, "arousal": {"low": 1.0, "high": 5.0}}``."""
    return {
        name: {"labels": list(s.labels)} if s.labels else {"low": s.low, "high": s.high} for name, s in schemes.items()
    }


def schemes_from_json(document: Mapping[str, Any]) -> dict[str, Scheme]:
    """The reverse of `schemes_to_json`.

    Raises:
        SertuneError: an attribute has neither labels nor a low and a high end.
    """
    schemes = {}
    for name, entry in document.items():
        try:
            if "labels" in entry:
                schemes[name] = Scheme(labels=tuple(map(str, entry["labels"])))
            else:
                schemes[name] = Scheme(low=float(entry["low"]), high=float(entry["high"]))
        except (TypeError, ValueError, KeyError) as error:
            raise SertuneError(
                f"the scheme of {name} needs either 'labels' (a list) or 'low' and 'high' (numbers)"
            ) from error
    return schemes


def schemes_beside(table: Path) -> Path:
    """Where a table's schemes are kept: ``data.csv`` -> ``data.schemes.json``."""
    return table.with_name(f"{table.stem}.schemes.json")


def ratings_beside(table: Path, suffix: str = ".csv") -> Path:
    """Where a table's single ratings are kept: ``data.csv`` -> ``data.ratings.csv``."""
    return table.with_name(f"{table.stem}.ratings{suffix}")


def _schemes(
    name: str, frame: pd.DataFrame, ratings: pd.DataFrame | None, given: Mapping[str, Scheme]
) -> dict[str, Scheme]:
    """The schemes given, normalised, and those inferred for the other attributes that have a value."""
    schemes = {}
    for attribute in labels.ATTRIBUTES:
        if attribute in given:
            schemes[attribute] = _checked_scheme(name, attribute, given[attribute])
            continue
        values = frame[attribute].dropna()
        if ratings is not None:
            rated = ratings.loc[ratings["attribute"] == attribute, "value"].dropna()
            values = pd.concat([values.astype(object), rated.astype(object)])
        if not len(values):
            continue
        if attribute == "emotion":
            schemes[attribute] = Scheme(labels=tuple(sorted(set(values))))
        else:
            numbers = values.to_numpy(dtype=np.float64)
            schemes[attribute] = _inferred_scale(name, attribute, float(numbers.min()), float(numbers.max()))
    return schemes


def _checked_scheme(name: str, attribute: str, scheme: Scheme) -> Scheme:
    if attribute == "emotion":
        if not scheme.labels:
            raise SertuneError(f"{name}: the scheme of emotion has no labels")
        return Scheme(labels=tuple(dict.fromkeys(map(labels.canonical, scheme.labels))))
    if scheme.low is None or scheme.high is None or not scheme.low < scheme.high:
        raise SertuneError(
            f"{name}: the scale of {attribute} must go from a low to a higher number, got {scheme.low} and "
            f"{scheme.high}"
        )
    return Scheme(low=float(scheme.low), high=float(scheme.high))


def _inferred_scale(name: str, attribute: str, least: float, most: float) -> Scheme:
    for low, high in KNOWN_SCALES:
        if low <= least and most <= high:
            return Scheme(low=low, high=high)
    raise SertuneError(
        f"{name}: {attribute} goes from {least:g} to {most:g}, which is none of the known scales; state it, "
        f'for a table as {{"{attribute}": {{"low": ..., "high": ...}}}} in <table>.schemes.json beside it'
    )


# Columns


def _normalised_utterances(name: str, utterances: pd.DataFrame) -> pd.DataFrame:
    source = utterances.reset_index(drop=True)
    columns: dict[str, pd.Series[Any]] = {}
    for column in UTTERANCE_COLUMNS:
        if column not in source.columns:
            columns[column] = (
                _text_series([None] * len(source))
                if column in TEXT_COLUMNS
                else pd.Series(np.nan, index=source.index, dtype=np.float64)
            )
        elif column in TEXT_COLUMNS:
            columns[column] = _text_series(text_values(source[column]))
        else:
            columns[column] = number_column(source[column], f"{name}, column {column}")
    columns["emotion"] = _renamed(columns["emotion"], labels.canonical)
    columns["partition"] = _renamed(columns["partition"], labels.partition)
    columns["gender"] = _renamed(columns["gender"], labels.gender)
    columns["file"] = _text_series(absolute_files(columns["file"].tolist(), Path.cwd()))
    if "id" not in source.columns:
        columns["id"] = _text_series(segment_ids(columns["file"], columns["start"], columns["end"]))
    for column in source.columns.difference(list(UTTERANCE_COLUMNS), sort=False):
        values = source[column]
        is_text = pd.api.types.is_string_dtype(values.dtype) and not pd.api.types.is_object_dtype(values.dtype)
        columns[str(column)] = _text_series(text_values(values)) if is_text else values
    return pd.DataFrame(columns)


def segment_ids(names: "pd.Series[Any]", start: "pd.Series[Any]", end: "pd.Series[Any]") -> list[str | None]:
    """Ids from file names: the name itself, or ``name:start-end`` where a segment is given (seconds)."""
    ids: list[str | None] = names.tolist()
    first, last = start.to_numpy(dtype=np.float64), end.to_numpy(dtype=np.float64)
    begin = np.nan_to_num(first).tolist()
    for i in np.flatnonzero(~(np.isnan(first) & np.isnan(last))).tolist():
        if ids[i] is not None:
            # All digits: two segments must not get one id.
            ids[i] = f"{ids[i]}:{begin[i]!r}-{'' if math.isnan(last[i]) else repr(float(last[i]))}"
    return ids


def _normalised_ratings(name: str, ratings: pd.DataFrame) -> pd.DataFrame:
    for column in RATING_COLUMNS:
        if column not in ratings.columns:
            raise SertuneError(f"{name}: the ratings have no column {column!r}")
    frame = pd.DataFrame({c: _text_series(text_values(ratings[c])) for c in ("utterance", "rater", "attribute")})
    frame["attribute"] = _renamed(frame["attribute"], labels.attribute)
    for attribute in frame["attribute"].dropna().unique():
        if attribute not in labels.ATTRIBUTES:
            raise unknown(f"attribute in the ratings of {name}", attribute, labels.ATTRIBUTES)
    value = ratings["value"].reset_index(drop=True).astype(object)
    result = np.full(len(frame), None, dtype=object)
    emotion = (frame["attribute"] == "emotion").to_numpy()
    texts = _text_series(text_values(value[emotion]))
    result[emotion] = _renamed(texts, labels.canonical).to_numpy()
    if not emotion.all():
        numbers = number_column(value.where(~emotion, None), f"{name}, ratings").to_numpy().astype(object)
        result[~emotion] = numbers[~emotion]
    frame["value"] = pd.Series(result, dtype=object)
    return frame


def text_values(values: "pd.Series[Any]", missing: Collection[str] = ()) -> list[str | None]:
    """Stripped text of a column, None for missing or empty; whole numbers without decimals ("3", not "3.0").

    Args:
        values: of any type.
        missing: texts that stand for a missing value.
    """
    # Each text is worked on once, however often it comes: columns of speakers and raters are long and say little.
    try:
        codes, found = pd.factorize(values)
    except TypeError:  # lists and the like
        codes, found = pd.factorize(values.map(str, na_action="ignore"))
    distinct = pd.Series(found)
    if pd.api.types.is_float_dtype(distinct.dtype) and not (distinct % 1).any():
        distinct = distinct.astype("Int64")
    texts = distinct.astype("string").str.strip().astype(object).tolist()
    table = np.array([*(text if text and text not in missing else None for text in texts), None], dtype=object)
    result: list[str | None] = table[codes].tolist()
    return result


def number_column(values: "pd.Series[Any]", where: str) -> "pd.Series[Any]":
    """A column as float64 with NaN for missing.

    Raises:
        SertuneError: text or Inf where a number is expected, with its row (1 is the first data row).
    """
    values = values.reset_index(drop=True)
    if pd.api.types.is_float_dtype(values.dtype) or pd.api.types.is_integer_dtype(values.dtype):
        numbers = values.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        suspects = np.flatnonzero(values.notna().to_numpy() & np.isnan(numbers)).tolist()
        wrong = [i for i in suspects if str(values.iat[i]).strip().lower() not in ("", "nan")]
        if wrong:
            i = wrong[0]
            raise SertuneError(
                f"{where}, row {i + 1}: expected a number, found {values.iat[i]!r}{_and_more(len(wrong))}"
            )
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        raise SertuneError(f"{where}, row {infinite[0] + 1}: the number is infinite{_and_more(len(infinite))}")
    return pd.Series(numbers, dtype=np.float64)


def _and_more(count: int) -> str:
    return f" (and {count - 1} more rows like it)" if count > 1 else ""


def _text_series(values: Sequence[str | None]) -> "pd.Series[Any]":
    # Said outright: pandas 3 would take a list of str for its own str type, which turns None into NaN.
    return pd.Series(values, dtype=object)


def _renamed(values: "pd.Series[Any]", rename: Callable[[str], str]) -> "pd.Series[Any]":
    codes, found = pd.factorize(values)
    names = np.array([*map(rename, found), None], dtype=object)
    return _text_series(names[codes].tolist())


def absolute_files(files: Sequence[str | None], folder: Path) -> list[str | None]:
    """Absolute, normalised paths; relative ones are taken from ``folder``, missing ones stay None."""
    base = str(_absolute(folder))
    posix = os.sep == "/"

    def absolute(file: str | None) -> str | None:
        if file is None:
            return None
        path = file
        if not file.startswith(os.sep):
            path = f"{base}/{file}" if posix else os.path.join(base, file)  # noqa: PTH118 - text is faster than paths
        # Most are as they should be, which is seen sooner than mended.
        tidy = posix and "//" not in path and "/." not in path and path[-1] != "/"
        return path if tidy else os.path.normpath(path)

    return [absolute(file) for file in files]


def _absolute(path: str | os.PathLike[str]) -> Path:
    """Absolute and without "..", but with its links as they are: what they lead to may move."""
    return Path(os.path.normpath(Path(path).absolute()))


def _relative_files(files: "pd.Series[Any]", home: Path, above: Path) -> list[str | None]:
    """Paths relative to ``home`` for files below ``above`` (``home`` or its parent); others as they are."""
    inside, outside = f"{home}{os.sep}", f"{str(above).rstrip(os.sep)}{os.sep}"
    up = "" if home == above else f"..{os.sep}"

    def relative(file: str | None) -> str | None:
        if file is None:
            return None
        if file.startswith(inside):
            return file[len(inside) :].replace(os.sep, "/")
        return (up + file[len(outside) :]).replace(os.sep, "/") if file.startswith(outside) else file

    return [relative(file) for file in files]


def _put(new: Path, target: Path) -> None:
    """Put a finished folder in its place; in a folder that is there, only the manifest's files change."""
    if not target.exists():
        new.replace(target)
        return
    if not (new / "ratings.parquet").exists():
        (target / "ratings.parquet").unlink(missing_ok=True)
    for file in sorted(new.iterdir()):
        file.replace(target / file.name)
