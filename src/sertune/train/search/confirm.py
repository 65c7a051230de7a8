"""The winner's curse, fought: the best trials are scored again on other folds, and those scores choose among them.

The best of many noisy scores is the luckiest one, too. What wins is therefore chosen by scores that had no part in
making it a candidate; the settings at the beginning are always among the candidates.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from sertune.data.splits import Fold, inner_folds, random_folds
from sertune.errors import SertuneError
from sertune.progress import say
from sertune.train.choose import consensus_codes
from sertune.train.folder import fold_folder, write_json
from sertune.train.folds import fit_fold
from sertune.train.search.search import SETTINGS, Outer, Search, best_trial, feasible, finished_trials

OTHER = 1000
"""Added to the seed of the folds."""
FOLDS = 3
"""Where trials are scored on one dev part."""


def candidates(search: Search, outer: Outer) -> list[FrozenTrial]:
    """The trials with the best scores, each with settings of its own, and the settings at the beginning if tried."""
    kept: dict[str, FrozenTrial] = {}
    done = [trial for trial in finished_trials(outer) if feasible(trial)]
    for trial in sorted(done, key=lambda trial: -trial.values[0]):
        kept.setdefault(_name(trial), trial)
    best = list(kept.values())[: search.options.confirm]
    start = search.space.settings(search.space.nearest(search.base))
    first = next((trial for trial in kept.values() if trial.user_attrs[SETTINGS] == start), None)
    if first is not None and search.options.confirm and first not in best:
        best.append(first)
    return best


def _name(trial: FrozenTrial) -> str:
    text = json.dumps(trial.user_attrs[SETTINGS], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def other_folds(search: Search, outer: Outer) -> list[Fold]:
    """Folds of the same train and dev parts, cut anew."""
    bench, seed = search.bench, search.base.seed + OTHER
    labels = consensus_codes(bench.manifest, bench.target)
    frame, fold = bench.manifest.utterances, replace(outer.fold, name=f"{outer.fold.name}, again")
    if search.options.protocol == "paper-d":
        share = len(fold.dev) / (len(fold.train) + len(fold.dev))
        return random_folds(frame, fold, max(2, round(1 / share)), labels=labels, seed=seed)[:FOLDS]
    if search.options.protocol == "nested":
        return inner_folds(frame, fold, len(outer.inner), labels=labels, seed=seed)
    speakers = frame["speaker"].iloc[np.concatenate([fold.train, fold.dev])].nunique()
    dev = frame["speaker"].iloc[fold.dev].nunique()
    return inner_folds(frame, fold, max(2, round(speakers / max(dev, 1))), labels=labels, seed=seed)[:FOLDS]


def _file(search: Search, place: int, outer: Outer, trial: FrozenTrial, number: int) -> Path:
    folder = fold_folder(search.folder, place, outer.fold.name)
    return folder.with_name(f"{folder.name}-again") / f"{_name(trial)}-{number + 1}.json"


def confirm_jobs(search: Search) -> list[Callable[[], None]]:
    """What is left of scoring the candidates again; jobs don't depend on each other."""
    jobs: list[Callable[[], None]] = []
    for place, outer in enumerate(search.outers):
        chosen = candidates(search, outer)
        if len(chosen) < 2:
            continue
        folds = _folds_or_none(search, outer)
        for trial in chosen:
            for number, fold in enumerate(folds):
                file = _file(search, place, outer, trial, number)
                if not file.is_file():
                    jobs.append(partial(_score_again, search, trial, fold, file))
    return jobs


def _folds_or_none(search: Search, outer: Outer) -> list[Fold]:
    """Other folds, if the data can be cut in another way."""
    try:
        return other_folds(search, outer)
    except SertuneError as error:
        say(f"The best trials are not scored again: {error}")
        return []


def _score_again(search: Search, trial: FrozenTrial, fold: Fold, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    config = search.config_of(trial)
    with search.meter.measured() as spent:
        try:
            score: float | None = fit_fold(search.bench.prepared(config), fold, config).result.dev_score
        except SertuneError as error:
            say(f"trial {trial.number} can't be scored again: {error}")
            score = None
    used = spent()
    write_json(
        file,
        {
            "trial": trial.number,
            "fold": fold.name,
            "score": score,
            "seconds": round(used.seconds, 3),
            "cpu_seconds": round(used.cpu_seconds, 3),
            "energy": used.watt_hours,
        },
    )


def scored_again(search: Search, place: int, outer: Outer) -> list[dict[str, Any]]:
    """The candidates with their scores on other folds, best first; empty where there are none."""
    rows = []
    for trial in candidates(search, outer):
        files = [_file(search, place, outer, trial, number) for number in range(max(FOLDS, len(outer.inner)))]
        found = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
        scores = [row["score"] for row in found]
        if scores and None not in scores:
            mean = float(np.mean(scores))
            rows.append({"trial": trial.number, "dev_score": trial.values[0], "again": mean, "folds": found})
    most = max((len(row["folds"]) for row in rows), default=0)
    return sorted((row for row in rows if len(row["folds"]) == most), key=lambda row: -row["again"])


def winner(search: Search, place: int, outer: Outer) -> FrozenTrial:
    """The candidate that is best on other folds, or else the trial with the best score."""
    rows = scored_again(search, place, outer)
    if rows:
        return next(trial for trial in finished_trials(outer) if trial.number == rows[0]["trial"])
    best = best_trial(search, outer)
    assert best is not None  # as run_trials has looked
    return best
