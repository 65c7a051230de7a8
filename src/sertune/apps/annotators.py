"""Annotators of a saved model: who is known, and new ones from a table of ratings or a file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sertune.corpora.table import from_frame
from sertune.data.labels import attribute, canonical
from sertune.data.manifest import Scheme
from sertune.errors import SertuneError, unknown
from sertune.files import check_writable, replacing
from sertune.model.emotion_model import EmotionModel, Vectors
from sertune.model.new_rater import Fitted, fit_rater, rater_part
from sertune.model.targets import RaterLabelTarget, RaterTarget
from sertune.model.targets.distribution import half_widths

FORMAT: Final = 1
LISTED: Final = 30
"""Most names that an error lists."""


@dataclass(frozen=True, eq=False)
class Rater:
    """An annotator, known to a model or new, as predictions take one.

    Attributes:
        name: of the annotator.
        own: (1, ...) own part, as a row of `sertune.model.raters.RaterLayer.own`.
        digest: of the model that it belongs to.
        fitted: how a new one was fitted; None for a known one, and for one that was read from a file.
    """

    name: str
    own: Tensor
    digest: str
    fitted: Fitted | None = None


def digest_of(model: EmotionModel) -> str:
    """Digest (32 hex digits) of the model's head, with its annotators: what an own part fits to."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.head.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# ----------------------------------------------------------------------------------------------------
# Known annotators


def known_names(model: EmotionModel) -> list[str]:
    """Names of the annotators that the model has met often enough in training; none where it predicts none."""
    if model.rater_part is None:
        return []
    target, layer = model.rater_part
    return [name for name, known in zip(target.raters, layer.known.tolist(), strict=True) if known]


def find_rater(model: EmotionModel, name: str) -> Rater:
    """A known annotator by name, or a new one by the file that `save_rater` wrote.

    Raises:
        SertuneError: the model predicts no annotators, or the name is empty, unknown, or that of an annotator whose
            ratings it has not learnt from; or the file is not one of a new annotator, or of another model.
    """
    target, layer = rater_part(model)
    if not name:
        raise SertuneError(f"an annotator's name is empty; known are {_some(known_names(model))}")
    if name in target.raters:
        place = target.raters.index(name)
        if not bool(layer.known[place]):
            raise SertuneError(f"annotator {name!r} is not predicted: {_too_few(layer.counts[place], layer.form)}")
        return Rater(name, layer.own[place : place + 1].detach().cpu(), digest_of(model))
    if name.endswith(".json"):
        return load_rater(model, Path(name))
    known = known_names(model)
    if len(known) <= LISTED:
        raise unknown("annotator", name, known)
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SertuneError(f"unknown annotator {name!r}{hint} (known: {_some(known)})")


def _too_few(count: Tensor, form: Any) -> str:
    least = max(form.min_ratings, 1)
    if not int(count):
        return "the model has learnt from none of its ratings, which are all in other parts of the corpus"
    few = f"{int(count)} rating{'s' * (int(count) > 1)}"
    return f"it has {few} in the training part, fewer than the {least} of target.rater.min_ratings"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more, which sertune predict RUN --raters lists" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more if names else "none"


@torch.no_grad()
def rater_rows(model: EmotionModel) -> list[dict[str, Any]]:
    """Everybody who rated the corpus: ``rater``, ``ratings`` in the training part, ``met``, and ``bias`` if met.

    The bias is what an annotator adds to the average annotator for the mean of the training clips: on the own scale of
    each dimension, or in the probability of each label.

    Raises:
        SertuneError: the model predicts no annotators.
    """
    target, layer = rater_part(model)
    readout = model.head.readout
    middle = Vectors(model.head.source_mean[None], readout.mean[None] if readout is not None else None)
    blank = torch.zeros_like(layer.own[:1])
    values = model.annotators(middle)[0].double().cpu()
    average = model.annotators(middle, blank)[0].double().cpu()
    if isinstance(target, RaterLabelTarget):
        names, added = target.labels, (values.softmax(1) - average.softmax(1)).numpy()
    else:
        names, added = target.dimensions, (values - average).numpy() * half_widths(target.scales)
    biases = iter(added.tolist())
    rows: list[dict[str, Any]] = []
    for name, count, met in zip(target.raters, layer.counts.tolist(), layer.known.tolist(), strict=True):
        row = {"rater": name, "ratings": int(count), "met": met}
        rows.append({**row, "bias": dict(zip(names, next(biases), strict=True))} if met else row)
    return rows


def rater_table(rows: Sequence[dict[str, Any]]) -> str:
    """`rater_rows` for a person."""
    met = [row for row in rows if row["met"]]
    names = list(met[0]["bias"]) if met else []
    width = max([len("annotator"), *(len(row["rater"]) for row in met)])
    lines = [f"{'annotator':<{width}}  ratings" + "".join(f"  {name:>6}" for name in names)]
    for row in met:
        added = "".join(f"  {row['bias'][name]:>+{max(len(name), 6)}.2f}" for name in names)
        lines.append(f"{row['rater']:<{width}}  {row['ratings']:>7}{added}")
    if met:
        lines.append("The columns after the ratings: what each adds to the average annotator for the mean clip.")
    if rest := len(rows) - len(met):
        lines.append(f"Too few ratings in the training part, and so as the average annotator: {rest} more.")
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------------------
# New annotators


@dataclass(frozen=True, eq=False)
class RatedClips:
    """What a new annotator has rated, as a table tells it.

    Attributes:
        rows: of the table, from 1, without the header.
        clips: file, start and end in seconds (NaN: of the file) of each.
        values: (N, D) on the own scales, NaN where missing, or (N,) numbers of labels.
    """

    rows: list[int]
    clips: list[tuple[str, float, float]]
    values: np.ndarray


def read_ratings(model: EmotionModel, table: str | Path) -> RatedClips:
    """A new annotator's ratings: a CSV with a column ``file``, and ``arousal``, ``valence`` ... or ``emotion``.

    Relative files are taken from the table's folder; ``start`` and ``end`` name a segment. Other columns are ignored,
    and so are rows without a rating.

    Args:
        model: that predicts annotators.
        table: the file.

    Raises:
        SertuneError: no ratings, a value outside its scale or that is no number, an unknown label, or a file that is
            named twice or not there: with the row.
    """
    target, _ = rater_part(model)
    path = Path(table)
    raw, decimal_comma = _read_text(path)
    wanted = ("emotion",) if isinstance(target, RaterLabelTarget) else target.dimensions
    columns = {name: attribute(name) for name in raw.columns}
    if not set(wanted) & set(columns.values()):
        raise SertuneError(
            f"{path}: no column {' or '.join(wanted)}, which the model's annotators give; found columns "
            f"{', '.join(columns) or 'none'}"
        )
    manifest = from_frame(
        raw[[name for name, known in columns.items() if known in (*wanted, "file", "start", "end")]],
        str(path),
        folder=path.parent,
        name=path.stem,
        schemes={name: scheme for name, scheme in _schemes(target).items() if name in columns.values()},
        decimal_comma=decimal_comma,
    )
    frame = manifest.utterances
    values: np.ndarray
    if isinstance(target, RaterLabelTarget):
        places = {canonical(label): place for place, label in enumerate(target.labels)}
        values = frame["emotion"].map(places).to_numpy(dtype=np.float64)
    else:
        values = frame[list(wanted)].to_numpy(dtype=np.float64)
    there = ~np.isnan(values.reshape(len(values), -1)).all(axis=1)
    if not there.any():
        raise SertuneError(f"{path}: no ratings, all rows of {', '.join(wanted)} are empty")
    rows = np.flatnonzero(there).tolist()
    clips = list(zip(frame["file"], frame["start"], frame["end"], strict=True))
    return RatedClips([row + 1 for row in rows], [clips[row] for row in rows], values[there])


def _read_text(path: Path) -> tuple[pd.DataFrame, bool]:
    """All columns as text, and whether numbers may have a decimal comma: columns are separated by semicolons."""
    if not path.is_file():
        raise SertuneError(f"{path}: {'is a folder, expected a table' if path.is_dir() else 'no such file'}")
    try:
        with path.open(encoding="utf-8-sig") as stream:
            header = stream.readline()
        separator = max((",", ";", "\t"), key=header.count)
        raw = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except UnicodeDecodeError:
        raise SertuneError(f"{path}: not UTF-8 text; save the table as CSV in UTF-8") from None
    except pd.errors.EmptyDataError:
        raise SertuneError(f"{path}: the table is empty, expected a header line and rows") from None
    except (pd.errors.ParserError, OSError) as error:
        raise SertuneError(f"{path}: not a table that can be read ({' '.join(str(error).split())})") from None
    if not len(raw):
        raise SertuneError(f"{path}: no ratings, the table has no rows")
    return raw.rename(columns=lambda name: str(name).strip()), separator == ";"


def _schemes(target: RaterTarget | RaterLabelTarget) -> dict[str, Scheme]:
    if isinstance(target, RaterLabelTarget):
        return {"emotion": Scheme(labels=target.labels)}
    pairs = zip(target.dimensions, target.scales, strict=True)
    return {name: Scheme(low=low, high=high) for name, (low, high) in pairs}


def rating_values(
    model: EmotionModel, count: int, ratings: Mapping[str, Sequence[float]] | Sequence[str]
) -> np.ndarray:
    """Ratings of ``count`` clips as `fit_rater` takes them, from values by dimension or a list of labels.

    Raises:
        SertuneError: the model predicts no annotators or gives other things than these, or a value outside its scale.
    """
    target, _ = rater_part(model)
    if isinstance(target, RaterLabelTarget):
        if isinstance(ratings, Mapping):
            raise SertuneError("ratings: expected a list of labels, as the model's annotators give an emotion")
        places = {canonical(label): place for place, label in enumerate(target.labels)}
        for label in ratings:
            if canonical(label) not in places:
                raise unknown("label", label, target.labels)
        _check_count("labels", len(ratings), count)
        return np.array([places[canonical(label)] for label in ratings], dtype=np.float64)
    if not isinstance(ratings, Mapping):
        raise SertuneError(f"ratings: expected values of {', '.join(target.dimensions)} by name, found a list")
    values = np.full((count, len(target.dimensions)), np.nan)
    for name, given in ratings.items():
        if attribute(name) not in target.dimensions:
            raise unknown("dimension", name, target.dimensions)
        _check_count(f"ratings of {name}", len(given), count)
        values[:, target.dimensions.index(attribute(name))] = given
    for column, (name, (low, high)) in enumerate(zip(target.dimensions, target.scales, strict=True)):
        outside = np.flatnonzero((values[:, column] < low) | (values[:, column] > high)).tolist()
        if outside:
            place = outside[0]
            value = values[place, column]
            raise SertuneError(f"clip {place + 1} has {name} {value:g}, outside the scale {low:g} to {high:g}")
    if empty := np.flatnonzero(np.isnan(values).all(axis=1)).tolist():
        raise SertuneError(f"clip {empty[0] + 1} has no rating")
    return values


def _check_count(what: str, found: int, count: int) -> None:
    if found != count:
        raise SertuneError(f"{found} {what} for {count} clips")


def new_rater(model: EmotionModel, name: str, clips: Sequence[Vectors], values: np.ndarray) -> Rater:
    """A new annotator: `sertune.model.new_rater.fit_rater` under a name."""
    if not name:
        raise SertuneError("an annotator's name is empty; give the new one a name")
    fitted = fit_rater(model, clips, values)
    return Rater(name, fitted.own, digest_of(model), fitted)


def fitted_words(rater: Rater) -> list[str]:
    """Who is near a new annotator, and whether the fit helps, in lines for a person."""
    fitted = rater.fitted
    if fitted is None:
        return []
    near = ", ".join(f"{n.rater} (weight {n.weight:.2f}, distance {n.distance:.2f})" for n in fitted.nearest)
    lines = [f"{rater.name}: {fitted.clips} clip{'s' * (fitted.clips > 1)} rated; nearest annotators: {near}"]
    if not fitted.errors:
        return [*lines, f"{rater.name}: no leave-one-out error, which needs two clips"]
    labels = "cross-entropy" in fitted.errors["fitted"]
    unit = "" if labels else " (root mean square, on the own scale)"
    parts = [
        f"{name} " + ", ".join(f"{key} {value:.2f}" for key, value in errors.items())
        for name, errors in fitted.errors.items()
    ]
    lines.append(f"{rater.name}: leave-one-out error{unit}: {'; '.join(parts)}")
    if _total(fitted, "fitted") >= _total(fitted, "average"):
        lines.append(
            f"{rater.name}: the fit is no better than the average annotator; more ratings may show a difference"
        )
    return lines


def _total(fitted: Fitted, name: str) -> float:
    errors = fitted.errors[name]
    return errors.get("cross-entropy", sum(errors.values()))


def save_rater(rater: Rater, file: str | Path) -> None:
    """Writes a new annotator's own part as JSON, for `find_rater`.

    Raises:
        SertuneError: the file can't be written, or its name does not end with .json.
    """
    path = Path(file)
    if path.suffix != ".json":
        raise SertuneError(f"{path}: expected a name that ends with .json")
    check_writable(path.parent)
    document = {"format": FORMAT, "name": rater.name, "model": rater.digest, "own": rater.own.tolist()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def load_rater(model: EmotionModel, file: Path) -> Rater:
    """A new annotator that `save_rater` wrote.

    Raises:
        SertuneError: no such file, not one of an annotator, or of another model.
    """
    _, layer = rater_part(model)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        name, of = str(document["name"]), str(document["model"])
        own = torch.tensor(document["own"], dtype=torch.float32)
        newer = document["format"] > FORMAT
    except FileNotFoundError:
        raise SertuneError(
            f"{file}: no such file, and no annotator of that name (known: {_some(known_names(model))})"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        raise SertuneError(f"{file}: not a file of a new annotator, as --save-rater writes it") from None
    if newer:
        raise SertuneError(f"{file}: written by a newer sertune; update sertune")
    digest = digest_of(model)
    if of != digest or own.shape != (1, *layer.own.shape[1:]) or not bool(own.isfinite().all()):
        raise SertuneError(f"{file}: belongs to another model; make it again with --like and this one")
    return Rater(name, own, digest)
