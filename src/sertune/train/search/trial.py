"""One trial: settings trained on inner folds and scored on their dev parts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sertune.config import RunConfig
from sertune.data.splits import Fold
from sertune.errors import SertuneError
from sertune.model.emotion_model import EmotionModel, ModelSpec
from sertune.train.folds import fit_fold
from sertune.train.loop import FitResult
from sertune.train.search.bench import Bench
from sertune.train.search.energy import Meter, Spent
from sertune.train.search.objectives import Costs, measure_latency, needed_mib, same_structure, trained_parameters

FoldScore = dict[str, Any]
"""What is kept of a fold: ``fold``, ``score``, ``best_epoch``, ``epochs``, ``seconds``, ``cpu_seconds``, ``energy``,
``parameters``, ``size``."""


class PrunedError(Exception):
    """The trial is worse than others at the same point, and ends."""


class OutOfTimeError(Exception):
    """The time that the search was given is over."""


@dataclass
class Trials:
    """Runs trials of a search, one after the other.

    Attributes:
        bench: what they share.
        meter: of what they cost.
        latency: whether it is measured.
        out_of_time: whether the search's time is over.
    """

    bench: Bench
    meter: Meter
    latency: bool
    out_of_time: Callable[[], bool]

    def __post_init__(self) -> None:
        self._latencies: dict[str, float] = {}

    def run(
        self,
        config: RunConfig,
        folds: Sequence[Fold],
        known: Sequence[FoldScore],
        report: Callable[[float, float, int], bool],
        keep: Callable[[list[FoldScore]], None],
    ) -> tuple[float, Costs, list[FoldScore]]:
        """Trains on every fold, and scores it on the fold's dev part.

        Args:
            config: settings of the trial.
            folds: inner folds.
            known: of the first of them, from a worker that went away.
            report: is told the mean score so far after every epoch, its standard error, and the number of the epoch
                over all folds; True ends the trial.
            keep: is told of every fold that is done.

        Returns:
            The mean score over folds, what the trial cost, and what is known of each fold.

        Raises:
            PrunedError: ``report`` said so.
            OutOfTimeError: the time is over.
            SertuneError: the settings can't be had, or the score is undefined.
        """
        done = list(known)
        for place, fold in enumerate(folds):
            if place < len(done):
                continue
            before = [row["score"] for row in done]

            def watch(row: dict[str, Any], place: int = place, before: list[float] = before) -> None:
                if self.out_of_time():
                    raise OutOfTimeError
                step = place * (config.train.epochs + 1) + row["epoch"]
                error = (row["dev_spread"] or 0.0) / math.sqrt(place + 1)
                if report(float(np.mean([*before, row["dev_score"]])), error, step):
                    raise PrunedError

            with self.meter.measured() as spent:
                fitted = fit_fold(self.bench.prepared(config), fold, config, watch=watch)
            done.append(_row(fold, fitted.result, spent(), fitted.model))
            keep(done)
        return float(np.mean([row["score"] for row in done])), self._costs(config, done), done

    def _costs(self, config: RunConfig, done: Sequence[FoldScore]) -> Costs:
        energy = [row["energy"] for row in done]
        return Costs(
            sum(row["seconds"] for row in done),
            sum(row["cpu_seconds"] for row in done),
            None if None in energy else sum(energy),
            done[-1]["parameters"],
            done[-1]["size"],
            self._latency(config) if self.latency else None,
        )

    def _latency(self, config: RunConfig) -> float:
        """Measured once for all settings that take equally long."""
        key = same_structure(config)
        if key not in self._latencies:
            bench = self.bench
            encoder = bench.loaded(config.encoder).restore()
            model = EmotionModel(
                encoder, ModelSpec(config.encoder, config.method, config.head, bench.target, config.audio)
            )
            encoder.use_attention("sdpa")
            self._latencies[key] = measure_latency(model.eval(), bench.median_clip(config))
        return self._latencies[key]


def _row(fold: Fold, result: FitResult, spent: Spent, model: EmotionModel) -> FoldScore:
    if not math.isfinite(result.dev_score):
        raise SertuneError(
            f"its score on the dev part of fold {fold.name!r} is not defined (NaN): all predictions are the same, or "
            "the part has no true values"
        )
    return {
        "fold": fold.name,
        "score": result.dev_score,
        "best_epoch": result.best_epoch,
        "seconds": round(spent.seconds, 4),
        "cpu_seconds": round(spent.cpu_seconds, 4),
        "energy": spent.watt_hours,
        "parameters": trained_parameters(model),
        "size": round(needed_mib(model), 4),
    }
