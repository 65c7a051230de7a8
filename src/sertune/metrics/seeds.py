"""Figures of runs with several seeds: the mean over them, its interval, and their spread."""

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from sertune.metrics.distributions import jsd, tvd
from sertune.metrics.repeated import Predicted, Resampled, category_draws, dimension_draws, mean_draws, mean_of
from sertune.metrics.summary import distribution_kind, distributions_of

Key = TypeVar("Key")

_Dict = dict[str, Any]

_ROWS = (("tvd", tvd), ("jsd", jsd))
"""Distances of single clips whose mean is a score."""
_CATEGORY = ("true", "predicted")


def scores_of_runs(tables: Mapping[Key, Any], task: _Dict, seed: int) -> dict[Key, dict[str, Resampled]]:
    """Every score of every run, all on the same resamples of the speakers.

    Args:
        tables: predictions of each run (a pandas table).
        task: as in ``report.json``.
        seed: of the draws.
    """
    if task["target"] == "category":
        code = {label: position for position, label in enumerate(task["labels"])}
        runs = [
            _predicted(table, *(np.array([code.get(v, -1) for v in table[c]], dtype=np.int64) for c in _CATEGORY))
            for table in tables.values()
        ]
        found = dict(zip(tables, category_draws(runs, len(code), seed=seed), strict=True))
    else:
        found = _dimension_scores(tables, task, seed)
    if distribution_kind(task) is not None:
        measured = {name: [_distances(table, task, measure) for table in tables.values()] for name, measure in _ROWS}
        for name, rows in measured.items():
            for key, draws in zip(tables, mean_draws(rows, seed=seed), strict=True):
                found[key][name] = draws
    return found


def _dimension_scores(tables: Mapping[Key, Any], task: _Dict, seed: int) -> dict[Key, dict[str, Resampled]]:
    found: dict[Key, dict[str, Resampled]] = {key: {} for key in tables}
    for name in task["dimensions"]:
        runs = [
            _predicted(table, *(table[c].to_numpy(dtype=np.float64, na_value=np.nan) for c in (f"{name}_true", name)))
            for table in tables.values()
        ]
        for key, draws in zip(tables, dimension_draws(runs, seed=seed), strict=True):
            found[key] |= {f"{score}_{name}": value for score, value in draws.items()}
    return found


def _distances(table: Any, task: _Dict, measure: Callable[[Any, Any], Any]) -> tuple[Any, list[str | None], list[str]]:
    true, made = distributions_of(table, task)
    speakers = [speaker if isinstance(speaker, str) else None for speaker in table["speaker"]]
    return measure(true, made), speakers, table["utterance"].astype(str).tolist()


def _predicted(table: Any, true: Any, predicted: Any) -> Predicted:
    speakers = [speaker if isinstance(speaker, str) else None for speaker in table["speaker"]]
    return Predicted(true, predicted, speakers, table["utterance"].astype(str).tolist())


def metrics_over_seeds(scores: Mapping[int, Mapping[str, Resampled]]) -> _Dict:
    """Mean over seeds with its interval, the spread, and the value of each seed."""
    metrics: _Dict = {}
    for name in next(iter(scores.values())):
        of_seed = {seed: runs[name] for seed, runs in scores.items()}
        interval = mean_of(list(of_seed.values())).interval()
        values = [run.value for run in of_seed.values() if not math.isnan(run.value)]
        metrics[name] = {
            "value": finite_or_none(interval.value),
            "low": finite_or_none(interval.low),
            "high": finite_or_none(interval.high),
            "spread": statistics.stdev(values) if len(values) > 1 else None,
            "seeds": {str(seed): finite_or_none(run.value) for seed, run in of_seed.items()},
        }
    return metrics


def finite_or_none(value: float) -> float | None:
    """A number that JSON can hold."""
    return float(value) if math.isfinite(value) else None
