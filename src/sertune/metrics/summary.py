"""The parts of ``report.json`` that follow from predictions alone."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sertune.metrics import scores
from sertune.metrics.distributions import (
    ROW_MEASURES,
    cell_distances,
    distribution_difference,
    distribution_intervals,
)
from sertune.metrics.intervals import (
    RESAMPLES,
    Interval,
    category_intervals,
    dimension_intervals,
    paired_difference,
    speaker_name,
)
from sertune.metrics.scores import Floats


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


LOWER: Final = ("tvd", "jsd", "kl", "emd", "rmse")
"""Metrics that are better where they are lower."""


def lower_is_better(name: str) -> bool:
    """Whether less of a metric is better, as of a distance or an error: ``tvd``, ``rmse_arousal``."""
    return name.partition("_")[0] in LOWER


def summarise(table: Any, task: Mapping[str, Any], seed: int = 0, *, transport: bool = True) -> dict[str, Any]:
    """Score a table of predictions, as `summarise_categories` or `summarise_dimensions` do.

    Where the task has ``opinions``, also as distributions (`distributions.distribution_intervals`): of the plane's
    cells, or of the labels' shares. The metrics of joined tasks (``also``) follow those of the first; of equal names
    the first one's count, but a distribution of another kind than the first is named after its kind (``tvd_votes``).

    Args:
        table: columns of ``predictions.parquet`` (a DataFrame will do).
        task: ``task`` of ``report.json``.
        seed: of the bootstrap.
        transport: whether ``emd`` is among them, which takes .2 ms and more for each clip.
    """
    found = _summarised(table, task, seed, transport)
    for other in task.get("also", ()):
        found = _joined(found, _summarised(table, other, seed, transport))
    found.pop("distribution", None)
    return found


def _summarised(table: Any, task: Mapping[str, Any], seed: int, transport: bool) -> dict[str, Any]:
    """The summary of one task alone."""
    speakers = _speakers(table)
    if task["target"] == "category":
        true, predicted = _codes(table, "true", task), _codes(table, "predicted", task)
        found = summarise_categories(true, predicted, task["labels"], speakers, seed)
    else:
        names = task["dimensions"]
        found = summarise_dimensions(
            {name: table[f"{name}_true"] for name in names}, {name: table[name] for name in names}, speakers, seed
        )
    if (kind := distribution_kind(task)) is None:
        return found
    rows, predicted_rows = distributions_of(table, task)
    grid = (task["grid"][0], task["grid"][1]) if kind == "plane" else None
    cost = _cost(task) if transport else None
    made = distribution_intervals(rows, predicted_rows, speakers, cost=cost, grid=grid, seed=seed)
    found["metrics"] |= {_AXES.get(name, name): _entry(interval) for name, interval in made.items()}
    return {**found, "distribution": kind}


_AXES: Final = {"ccc_expected_0": "ccc_expected_arousal", "ccc_expected_1": "ccc_expected_valence"}


def _joined(first: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The summaries of two tasks of one table; what both have is the first one's."""
    metrics = other["metrics"]
    kind = other.get("distribution")
    if kind is not None and first.get("distribution") not in (None, kind):
        metrics = {f"{name}_{kind}" if name in _SHARED else name: entry for name, entry in metrics.items()}
    speakers = {row["speaker"]: row for row in first["speakers"]}
    rows = [{**row, **speakers.pop(row["speaker"], {})} for row in other["speakers"]]
    return {
        **other,
        **first,
        "metrics": {**first["metrics"], **{k: v for k, v in metrics.items() if k not in first["metrics"]}},
        "speakers": sorted([*speakers.values(), *rows], key=lambda row: str(row["speaker"])),
        "warnings": list(dict.fromkeys([*first["warnings"], *other["warnings"]])),
    }


_SHARED: Final = (*ROW_MEASURES, "entropy_r", "uar_largest")


def distribution_kind(task: Mapping[str, Any]) -> str | None:
    """What a task's distribution is over: ``plane``, ``votes``, or None where it predicts none."""
    if "opinions" not in task:
        return None
    if task["target"] == "category":
        return "votes"
    return "plane" if "grid" in task else None


def distributions_of(table: Any, task: Mapping[str, Any]) -> tuple[Floats, Floats]:
    """True and predicted distributions of a task that has them, (N, K) each; NaN rows where the truth is unknown.

    Args:
        table: columns of ``predictions.parquet``.
        task: of which `distribution_kind` is not None.
    """
    if distribution_kind(task) == "plane":
        cells = task["grid"][0] * task["grid"][1]
        return _rows(table["true_plane"], cells), _rows(table["plane"], cells)
    true, predicted = (
        np.column_stack([np.asarray(table[f"{kind}_{label}"], dtype=np.float64) for label in task["labels"]])
        for kind in "vp"
    )
    # joined with a category that has other labels, the shares of some are another model's
    total = predicted.sum(axis=1, keepdims=True)
    return true, np.divide(predicted, total, out=np.full_like(predicted, 1 / predicted.shape[1]), where=total > 0)


def _rows(column: Any, width: int) -> Floats:
    """(N, width) of a column of lists, NaN where it has none."""
    rows = np.full((len(column), width), np.nan)
    for place, values in enumerate(column):
        if values is not None and np.ndim(values) == 1:
            rows[place] = values
    return rows


def _cost(task: Mapping[str, Any]) -> Floats | None:
    """What moving from one bin to another costs; None for labels whose places are unknown."""
    if distribution_kind(task) == "plane":
        return cell_distances((task["grid"][0], task["grid"][1]))
    return np.array(task["cost"], dtype=np.float64) if "cost" in task else None


def main_metrics(task: Mapping[str, Any]) -> list[str]:
    """The metrics that a task is judged by; where it has a distribution, the last one is ``tvd``, lower is better."""
    names = ["uar"] if task["target"] == "category" else [f"ccc_{name}" for name in task["dimensions"]]
    return names if distribution_kind(task) is None else [*names, "tvd"]


def compare(
    table: Any, other: Any, task: Mapping[str, Any], seed: int = 0, *, resamples: int = RESAMPLES
) -> dict[str, dict[str, Any]]:
    """Paired differences of the main metrics between two tables of predictions for the same clips, in one order.

    Args:
        table: columns of ``predictions.parquet``.
        other: of the one to compare with.
        task: ``task`` of ``report.json``.
        seed: of the bootstrap.
        resamples: how many.

    Returns:
        Main metric -> ``value`` (table minus other: of ``tvd`` a negative one is better), ``low``, ``high``, ``p``.
    """
    speakers = _speakers(table)
    found = {}
    if task["target"] == "category":
        true, a, b = (_codes(t, c, task) for t, c in ((table, "true"), (table, "predicted"), (other, "predicted")))
        found["uar"] = paired_difference(true, a, b, speakers, "uar", resamples=resamples, seed=seed)
    else:
        for name in task["dimensions"]:
            true, a, b = table[f"{name}_true"], table[name], other[name]
            found[f"ccc_{name}"] = paired_difference(true, a, b, speakers, "ccc", resamples=resamples, seed=seed)
    if distribution_kind(task) is not None:
        rows, own = distributions_of(table, task)
        _, others = distributions_of(other, task)
        found["tvd"] = distribution_difference(rows, own, others, speakers, "tvd", resamples=resamples, seed=seed)
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
