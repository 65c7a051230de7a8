"""The parts of ``report.json`` that follow from predictions alone."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sertune.metrics import scores
from sertune.metrics.intervals import Interval, category_intervals, dimension_intervals, paired_difference, speaker_name


def summarise_categories(
    true: ArrayLike,
    predicted: ArrayLike,
    labels: Sequence[str],
    speakers: Sequence[str | None] | None,
    seed: int = 0,
) -> dict[str, Any]:
    """Score predictions of a category, with intervals, per class and per speaker.

    Args:
        true: (N,) indices into ``labels``, -1 where missing.
        predicted: (N,) indices into ``labels``.
        labels: the class names, in order.
        speakers: (N,) names, None where unknown.
        seed: of the bootstrap.

    Returns:
        ``metrics``, ``per_class``, ``confusion`` and ``speakers`` in the shapes of ``report.json`` (undefined
        scores are None), ``interval``: the interval's method in words, and ``warnings``: what a reader of the
        intervals must know.
    """
    t, p = np.asarray(true), np.asarray(predicted)
    matrix = scores.confusion(t, p, len(labels))
    metrics, recalls = category_intervals(t, p, len(labels), speakers, seed=seed)
    precision, f1 = scores.precision_of(matrix), scores.f1_of(matrix)
    per_class = {
        label: {
            "recall": _entry(recalls[c]),
            "precision": _number(precision[c]),
            "f1": _number(f1[c]),
            "support": int(matrix[c].sum()),
        }
        for c, label in enumerate(labels)
    }

    def row(mask: NDArray[np.bool_]) -> dict[str, Any]:
        own = scores.confusion(t[mask], p[mask], len(labels))
        return {
            "clips": int(own.sum()),
            "uar": _number(scores.uar_of(own)),
            "accuracy": _number(scores.accuracy_of(own)),
        }

    return {
        "metrics": {name: _entry(interval) for name, interval in metrics.items()},
        "per_class": per_class,
        "confusion": matrix.tolist(),
        "speakers": [{"speaker": s, **row(mask)} for s, mask in _by_speaker(speakers, t >= 0)],
        "interval": metrics["uar"].text,
        "warnings": _warnings(metrics["uar"]),
    }


def summarise_dimensions(
    true: Mapping[str, ArrayLike],
    predicted: Mapping[str, ArrayLike],
    speakers: Sequence[str | None] | None,
    seed: int = 0,
) -> dict[str, Any]:
    """Score predictions of dimensions, with intervals and per speaker.

    Args:
        true: dimension -> (N,) values on the corpus's scale, NaN where missing.
        predicted: dimension -> (N,) values on the same scale.
        speakers: (N,) names, None where unknown.
        seed: of the bootstrap.

    Returns:
        ``metrics`` (``ccc_X``, ``rmse_X``, ``pearson_X`` of each dimension X), ``speakers``, ``interval`` and
        ``warnings``, as of :func:`summarise_categories`.

    Raises:
        ValueError: no dimension.
    """
    if not true:
        raise ValueError("no dimension to score")
    t = {name: np.asarray(values, dtype=np.float64) for name, values in true.items()}
    p = {name: np.asarray(predicted[name], dtype=np.float64) for name in t}
    found = {name: dimension_intervals(t[name], p[name], speakers, seed=seed) for name in t}
    scored = np.any([~np.isnan(values) for values in t.values()], axis=0)

    def row(mask: NDArray[np.bool_]) -> dict[str, Any]:
        values: dict[str, Any] = {"clips": int(mask.sum())}
        for name in t:
            terms, gap = scores.moments(t[name][mask], p[name][mask])
            for score, value in scores.dimension_scores_of(terms.sum(axis=0), gap).items():
                values[f"{score}_{name}"] = _number(value)
        return values

    # Dimensions may lack truths for different clips; the one with the most units speaks for the method.
    widest = max((intervals["ccc"] for intervals in found.values()), key=lambda i: i.clusters)
    return {
        "metrics": {f"{score}_{name}": _entry(interval) for name in t for score, interval in found[name].items()},
        "speakers": [{"speaker": s, **row(mask)} for s, mask in _by_speaker(speakers, scored)],
        "interval": widest.text,
        "warnings": _warnings(widest),
    }


def _by_speaker(
    speakers: Sequence[str | None] | None, scored: NDArray[np.bool_]
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Each named speaker with the mask of its scored clips, in the order of the names."""
    if speakers is None:
        return []
    names = np.array([speaker_name(s) for s in speakers], dtype=object)
    present = sorted({str(name) for name in names[scored] if name is not None})
    return [(name, np.asarray(names == name, dtype=np.bool_) & scored) for name in present]


def _entry(interval: Interval) -> dict[str, float | None]:
    return {"value": _number(interval.value), "low": _number(interval.low), "high": _number(interval.high)}


def _number(value: float | np.floating[Any] | NDArray[np.float64]) -> float | None:
    number = float(value)
    return None if math.isnan(number) else number


def _warnings(interval: Interval) -> list[str]:
    if interval.unit == "utterances":
        return [
            "The intervals treat every utterance as independent, because fewer than two speakers of the test "
            "set are known. They are probably too narrow."
        ]
    if interval.few:
        return [
            f"The test set has only {interval.clusters} speakers. The intervals are a rough guide, and other "
            "speakers may be scored quite differently."
        ]
    return []


def summarise(table: Any, task: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """Score a table of predictions, as `summarise_categories` or `summarise_dimensions` do.

    Args:
        table: columns of ``predictions.parquet`` (a DataFrame will do).
        task: ``task`` of ``report.json``.
        seed: of the bootstrap.
    """
    speakers = _speakers(table)
    if task["target"] == "category":
        true, predicted = _codes(table, "true", task), _codes(table, "predicted", task)
        return summarise_categories(true, predicted, task["labels"], speakers, seed)
    names = task["dimensions"]
    return summarise_dimensions(
        {name: table[f"{name}_true"] for name in names}, {name: table[name] for name in names}, speakers, seed
    )


def main_metrics(task: dict[str, Any]) -> list[str]:
    """The metrics that a task is judged by."""
    return ["uar"] if task["target"] == "category" else [f"ccc_{name}" for name in task["dimensions"]]


def compare(table: Any, other: Any, task: Mapping[str, Any], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Paired differences of the main metrics between two tables of predictions for the same clips, in one order.

    Args:
        table: columns of ``predictions.parquet``.
        other: of the one to compare with.
        task: ``task`` of ``report.json``.
        seed: of the bootstrap.

    Returns:
        Main metric -> ``value`` (table minus other), ``low``, ``high``, ``p``.
    """
    speakers = _speakers(table)
    found = {}
    if task["target"] == "category":
        true, a, b = (_codes(t, c, task) for t, c in ((table, "true"), (table, "predicted"), (other, "predicted")))
        found["uar"] = paired_difference(true, a, b, speakers, "uar", seed=seed)
    else:
        for name in task["dimensions"]:
            true, a, b = table[f"{name}_true"], table[name], other[name]
            found[f"ccc_{name}"] = paired_difference(true, a, b, speakers, "ccc", seed=seed)
    return {
        key: {"value": _number(d.value), "low": _number(d.low), "high": _number(d.high), "p": _number(d.p)}
        for key, d in found.items()
    }


def _speakers(table: Any) -> list[str | None]:
    return [speaker if isinstance(speaker, str) else None for speaker in table["speaker"]]


def _codes(table: Any, column: str, task: Mapping[str, Any]) -> NDArray[np.int64]:
    """(N,) positions of a column's labels among the task's, -1 where missing."""
    position = {label: code for code, label in enumerate(task["labels"])}
    return np.array([position.get(label, -1) for label in table[column]], dtype=np.int64)
