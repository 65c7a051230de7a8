"""What a report says of opinions: agreement ceilings, whether predicted spread is real, and annotator by annotator."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sertune.metrics.ceilings import Ceiling, dimension_ceiling, label_ceiling, plane_ceiling
from sertune.metrics.distributions import spread_calibration
from sertune.metrics.intervals import Interval, category_intervals, dimension_intervals
from sertune.metrics.raters import per_rater, per_rater_labels, response
from sertune.metrics.scores import Floats, Integers
from sertune.metrics.summary import distribution_kind

SINGLE: Final = "a single annotator against the mean of the others"
VOTE: Final = "a single vote against the majority of the others"
FLOOR: Final = (
    "{} of what random halves of a clip's annotators differ by: about how near the truth of so few annotators a "
    "perfect prediction comes"
)
PLANE_DRAWS: Final = 2
"""Draws of halves for the plane's ceiling: each needs two planes per clip."""
_DIGITS: Final = 5
_EMOTION: Final = "emotion"


@dataclass(frozen=True)
class Planes:
    """What the ceiling of the plane needs.

    Attributes:
        values: (N, R, 2) ratings of arousal and valence, NaN where there is none.
        cells_of: makes (n, G) distributions over the cells of (n, r, 2) ratings without gaps.
    """

    values: Floats
    cells_of: Callable[[Floats], ArrayLike]


@dataclass(frozen=True)
class OwnParts:
    """What a model has learnt of each annotator: names (A), and the own parts as rows (A, P)."""

    raters: Sequence[str]
    values: Floats


def has_opinions(task: Mapping[str, Any]) -> bool:
    """Whether a task, or one that is joined with it, is about opinions."""
    return any("opinions" in part for part in tasks_of(task))


def tasks_of(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The task itself, and those that are joined with it."""
    return [task, *task.get("also", ())]


def opinions(
    table: Any,
    ratings: Any,
    rated: Any,
    task: Mapping[str, Any],
    *,
    planes: Planes | None = None,
    own: OwnParts | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The part ``opinions`` of a report. Numbers have five digits; what is undefined is None.

    Args:
        table: columns of ``predictions.parquet`` (a DataFrame will do).
        ratings: the data's single ratings, columns utterance, rater, attribute, value; other clips' don't count.
        rated: columns of ``ratings.parquet``; None, or without a row, where single annotators are not predicted.
        task: ``task`` of ``report.json``, with `has_opinions`.
        planes: of some of the clips; without, the plane has no ceiling.
        own: of the annotators whom the model knows; without, there is no map.
        seed: of the draws.

    Returns:
        - ``kind``, ``grid``, ``labels``, ``dimensions`` of the task;
        - ``ceilings``: ``metric``, ``value``, ``low``, ``high``, and in words what it is, ``text``. ``ccc_X`` and
          ``uar``: what one person reaches against the others. ``tvd`` and ``jsd``: the floor of `label_ceiling`, half
          and a quarter of what halves of the annotators differ by, which is how near the truth of so many annotators
          the perfect prediction comes (Spearman and Brown; too low by a few per cent and more with few annotators);
        - ``spread``: dimension -> `spread_calibration`, where the table has predicted and true spread;
        - ``raters``, where ``rated`` has rows: ``count``, ``met`` (by the model in training), ``rows``, and with
          ``own`` a ``map``.
    """
    parts = [part for part in tasks_of(task) if "opinions" in part]
    first = parts[0]
    grid = next((part["grid"] for part in parts if "grid" in part), None)
    dimensions = list(dict.fromkeys(name for part in parts for name in part.get("dimensions", ())))
    labels = _labels_of(parts)
    # the second kind of distribution is named after its kind, as its metrics are
    kinds = list(dict.fromkeys(kind for part in parts if (kind := distribution_kind(part)) is not None))
    suffix = {kind: f"_{kind}" if place else "" for place, kind in enumerate(kinds)}
    ceilings = _dimension_ceilings(table, ratings, dimensions, seed)
    if grid is not None and planes is not None:
        halves = plane_ceiling(planes.cells_of, planes.values, draws=PLANE_DRAWS, seed=seed)
        ceilings += _floors(halves, suffix["plane"])
    if labels is not None:
        ceilings += _label_ceilings(table, ratings, labels, suffix["votes"], seed)
    found: dict[str, Any] = {
        "kind": first["opinions"],
        "grid": list(grid) if grid is not None else None,
        "labels": list(labels) if labels is not None else None,
        "dimensions": dimensions or None,
        "ceilings": ceilings,
        "spread": _spreads(table, dimensions),
    }
    if rated is not None and len(rated):
        found["raters"] = _raters(rated, labels)
        if own is not None and len(own.raters) > 1:
            found["raters"]["map"] = _map(own)
    return found


def rating_metrics(rated: Any, task: Mapping[str, Any], seed: int = 0) -> dict[str, dict[str, float | None]]:
    """How near predictions come to the single ratings of annotators whom the model has met.

    Args:
        rated: columns of ``ratings.parquet``.
        task: ``task`` of ``report.json``.
        seed: of the bootstrap over speakers.

    Returns:
        ``ccc_rating_X`` for each dimension X, ``uar_rating`` for labels: ``value``, ``low``, ``high``; nothing where
        there is no such rating.
    """
    known = np.asarray(rated["known"], dtype=np.bool_)
    attribute = np.asarray(rated["attribute"], dtype=object)
    speakers = np.array([s if isinstance(s, str) else None for s in rated["speaker"]], dtype=object)
    found: dict[str, Interval] = {}
    for name in dict.fromkeys(attribute[known].tolist()):
        rows = known & (attribute == name)
        true, made = (np.asarray(rated[column], dtype=object)[rows] for column in ("true", "predicted"))
        if name == _EMOTION:
            labels = _labels(rated, _labels_of(tasks_of(task)) or ())
            own = speakers[rows].tolist()
            scored, _ = category_intervals(_codes(true, labels), _codes(made, labels), len(labels), own, seed=seed)
            found["uar_rating"] = scored["uar"]
        else:
            numbers = true.astype(np.float64), made.astype(np.float64)
            found[f"ccc_rating_{name}"] = dimension_intervals(*numbers, speakers[rows].tolist(), seed=seed)["ccc"]
    return {name: {"value": _exact(i.value), "low": _exact(i.low), "high": _exact(i.high)} for name, i in found.items()}


def rater_map(own: ArrayLike) -> tuple[Floats, Floats]:
    """Annotators in two dimensions: the first two principal components of their own parts.

    The side of each axis on which the annotator farthest out lies is the positive one.

    Args:
        own: (A, P), the own part of each annotator as a row.

    Returns:
        (A, 2) places, and (2,) the share of the variance along each axis; 0 where nothing varies.

    Raises:
        ValueError: another shape, no annotator, or values that are not finite.
    """
    rows = np.asarray(own, dtype=np.float64)
    if rows.ndim != 2 or not len(rows) or not np.isfinite(rows).all():
        raise ValueError(f"own parts have shape {rows.shape}, expected (A, P) finite numbers with A of at least 1")
    left, strength, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    places, shares = np.zeros((len(rows), 2)), np.zeros(2)
    total = float((strength**2).sum())
    axes = min(2, len(strength)) if total > 0 else 0
    places[:, :axes] = left[:, :axes] * strength[:axes]
    far = np.abs(places).argmax(axis=0)
    places *= np.where(places[far, [0, 1]] < 0, -1.0, 1.0)
    shares[:axes] = strength[:axes] ** 2 / total if axes else 0.0
    return places, shares


def _map(own: OwnParts) -> dict[str, Any]:
    places, shares = rater_map(own.values)
    return {
        "raters": [str(name) for name in own.raters],
        "x": [_number(x) for x in places[:, 0]],
        "y": [_number(y) for y in places[:, 1]],
        "share": [_number(share) for share in shares],
    }


def _dimension_ceilings(table: Any, ratings: Any, dimensions: Sequence[str], seed: int) -> list[dict[str, Any]]:
    found = []
    for name in dimensions:
        clips, raters, values = _ratings_of(table, ratings, name)
        ceiling = dimension_ceiling(clips, raters, values.astype(np.float64), seed=seed)["ccc"]
        found.append(_ceiling(f"ccc_{name}", ceiling, SINGLE))
    return [entry for entry in found if entry["value"] is not None]


def _label_ceilings(table: Any, ratings: Any, labels: Sequence[str], suffix: str, seed: int) -> list[dict[str, Any]]:
    clips, _, values = _ratings_of(table, ratings, _EMOTION)
    codes = _codes(values, labels)
    votes = np.zeros((len(table["utterance"]), len(labels)), dtype=np.int64)
    np.add.at(votes, (clips[codes >= 0], codes[codes >= 0]), 1)
    found = label_ceiling(votes, seed=seed)
    uar = _ceiling("uar", found["uar"], VOTE)
    return [*([uar] if uar["value"] is not None else []), *_floors(found, suffix)]


def _floors(found: Mapping[str, Ceiling], suffix: str) -> list[dict[str, Any]]:
    """How near the truth the perfect prediction comes, from what random halves of the annotators differ by."""
    made = []
    for name, share, words in (("tvd", 0.5, "half"), ("jsd", 0.25, "a quarter")):
        half = found[f"{name}_halves"]
        floor = replace(half, value=share * half.value, low=share * half.low, high=share * half.high)
        made.append(_ceiling(name + suffix, floor, FLOOR.format(words)))
    return [entry for entry in made if entry["value"] is not None]


def _ceiling(metric: str, ceiling: Ceiling, text: str) -> dict[str, Any]:
    numbers = {key: _number(getattr(ceiling, key)) for key in ("value", "low", "high")}
    return {"metric": metric, **numbers, "text": text}


def _spreads(table: Any, dimensions: Sequence[str]) -> dict[str, Any]:
    """Calibration of the spread of each dimension that has a predicted and a true one."""
    found = {}
    for name in dimensions:
        if f"spread_{name}" not in table or f"true_spread_{name}" not in table:
            continue
        true, made = (np.asarray(table[c], dtype=np.float64) for c in (f"true_spread_{name}", f"spread_{name}"))
        if np.isnan(true).all():
            continue
        fit = spread_calibration(true, made)
        bins = zip(fit.predicted, fit.true, fit.count, strict=True)
        found[name] = {
            **{key: _number(getattr(fit, key)) for key in ("slope", "intercept", "pearson", "ccc", "ratio")},
            "bins": [{"predicted": _number(p), "true": _number(t), "count": int(n)} for p, t, n in bins],
        }
    return found


def _raters(rated: Any, labels: Sequence[str] | None) -> dict[str, Any]:
    """Every annotator with his ratings in the table, and how the predictions of them do."""
    names, who = _numbered(rated["rater"])
    _, clips = _numbered(rated["utterance"])
    attribute = np.asarray(rated["attribute"], dtype=object)
    met = np.bincount(who, weights=np.asarray(rated["known"], dtype=np.float64)) > 0
    # a rating is a clip's, whatever number of attributes it has
    pairs = np.unique(np.stack([who, clips], axis=1), axis=0)
    count = np.bincount(pairs[:, 0])
    rows: list[dict[str, Any]] = [
        {"rater": name, "met": bool(met[place]), "ratings": int(count[place])} for place, name in enumerate(names)
    ]
    for name in dict.fromkeys(attribute.tolist()):
        here = attribute == name
        true, made = (np.asarray(rated[column], dtype=object)[here] for column in ("true", "predicted"))
        if name == _EMOTION:
            known_labels = _labels(rated, labels or ())
            codes = _codes(true, known_labels), _codes(made, known_labels)
            scored = per_rater_labels(who[here], *codes, len(names), len(known_labels))
            for row, accuracy in zip(rows, scored.accuracy, strict=True):
                row["accuracy"] = _number(accuracy)
        else:
            _add_dimension(rows, name, clips[here], who[here], true.astype(np.float64), made.astype(np.float64))
    return {"count": len(rows), "met": sum(row["met"] for row in rows), "rows": rows}


def _add_dimension(
    rows: list[dict[str, Any]], name: str, clips: Integers, who: Integers, true: Floats, made: Floats
) -> None:
    """Adds one dimension to the rows: errors of the predictions, and how each annotator differs from the others."""
    scored, fit = per_rater(who, true, made, len(rows)), response(clips, who, true, len(rows))
    for place, row in enumerate(rows):
        for key, values in (("bias", scored.bias), ("rmse", scored.rmse), ("ccc", scored.ccc)):
            row.setdefault(key, {})[name] = _number(values[place])
        own = {"bias": fit.bias[place], "gain": fit.gain[place], "noise": fit.noise[place]}
        there = scored.ratings[place] > 0
        row.setdefault("response", {})[name] = {k: _number(v) if there else None for k, v in own.items()}


def _ratings_of(table: Any, ratings: Any, attribute: str) -> tuple[Integers, Integers, NDArray[Any]]:
    """Clip (its row in the table), annotator and value of each rating of an attribute of the table's clips."""
    if ratings is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=object)
    here = np.asarray(ratings["attribute"], dtype=object) == attribute
    place = {name: row for row, name in enumerate(table["utterance"])}
    utterances, raters, values = (
        np.asarray(ratings[column], dtype=object)[here] for column in ("utterance", "rater", "value")
    )
    clips = np.array([place.get(name, -1) for name in utterances], dtype=np.int64)
    inside = clips >= 0
    _, who = _numbered(raters[inside])
    return clips[inside], who, values[inside]


def _numbered(values: Any) -> tuple[list[str], Integers]:
    """The names, sorted, and (N,) the number of each."""
    column = [str(value) for value in values]
    names = sorted(set(column))
    place = {name: number for number, name in enumerate(names)}
    return names, np.array([place[name] for name in column], dtype=np.int64)


def _labels_of(tasks: Sequence[Mapping[str, Any]]) -> Sequence[str] | None:
    return next((part["labels"] for part in tasks if part["target"] == "category"), None)


def _labels(rated: Any, labels: Sequence[str]) -> list[str]:
    """The task's labels, and after them whatever else the table has."""
    rows = np.asarray(rated["attribute"], dtype=object) == _EMOTION
    given = [v for column in ("true", "predicted") for v in np.asarray(rated[column], dtype=object)[rows].tolist()]
    return list(dict.fromkeys([*labels, *sorted(set(given))]))


def _codes(values: Any, labels: Sequence[str]) -> Integers:
    place = {label: code for code, label in enumerate(labels)}
    return np.array([place.get(value, -1) for value in values], dtype=np.int64)


def _number(value: Any) -> float | None:
    return round(float(value), _DIGITS) + 0.0 if math.isfinite(value) else None


def _exact(value: float) -> float | None:
    return value if math.isfinite(value) else None
