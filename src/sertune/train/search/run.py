"""`sertune search` from beginning to end, and a look at a search from outside."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from sertune.config import RunConfig, load_yaml
from sertune.errors import SertuneError
from sertune.progress import progress, say
from sertune.train.search.confirm import confirm_jobs
from sertune.train.search.options import SearchOptions
from sertune.train.search.search import (
    ENDLESS,
    FILE,
    JOURNAL,
    Search,
    check_results,
    ended_trials,
    open_search,
    run_trials,
)
from sertune.train.search.store import (
    ERROR,
    SLOT,
    WORKER,
    Turns,
    Worker,
    beating,
    close_storage,
    latest,
    open_storage,
    open_study,
    patience,
    shown,
)
from sertune.train.search.winner import winner_jobs, write_results
from sertune.train.search.workers import Counter, choose_workers, in_parallel

REPORTING = "report"
"""Suffix of the study whose one trial is to train what won and to write the report: one worker does it."""


def run_search(base: RunConfig, options: SearchOptions) -> Path | None:
    """Searches, trains what won, tests it, and writes what is known into the folder.

    Args:
        base: settings that trials start from; ``out`` names the folder.
        options: how to search.

    Returns:
        The folder, with ``report.json``; None where another worker writes the report.

    Raises:
        SertuneError: a mistake in the settings, the space or the data; all trials fail; the storage can't be used.
    """
    search = open_search(base, options)
    try:
        return _run(search)
    finally:
        close_storage(search.storage)


def _run(search: Search) -> Path | None:
    _run_trials(search)
    turns = _reporting(search)
    claim = turns.claim()
    if claim is None:
        if not turns.finished():
            say("All trials are done; another worker trains what won and writes the report into its own folder")
            return None
        return _report(search)  # it was written before, perhaps elsewhere, perhaps of fewer trials
    try:
        with beating(claim):
            folder = _report(search)
    except BaseException:
        turns.stop(claim)
        raise
    turns.complete(claim, [0.0])
    return folder


def _run_trials(search: Search) -> None:
    """All trials, by several workers where that pays."""
    budget = sum(outer.turns.budget for outer in search.outers)
    count = choose_workers(search.options.workers, budget)
    with progress("Searching", min(budget, ENDLESS - 1)) as advance:
        shown = 0

        def look() -> None:
            nonlocal shown
            done = sum(len(ended_trials(outer)) for outer in search.outers)
            advance(done - shown)
            shown = done

        def work(place: int) -> None:
            if count == 1:
                run_trials(search, look)
                return
            own = search.of_this_process()
            try:
                run_trials(own)
            finally:
                close_storage(own.storage)

        in_parallel(count, work, look)
    check_results(search)


def _report(search: Search) -> Path:
    _do(search, "Scoring the best again", confirm_jobs(search))
    _do(search, "Training what won", winner_jobs(search))
    return write_results(search)


def _do(search: Search, title: str, jobs: Sequence[Callable[[], None]]) -> None:
    """Jobs that don't depend on each other, by several workers where that pays."""
    count = choose_workers(search.options.workers, len(jobs))
    done = Counter(len(jobs))

    def work(place: int) -> None:
        for job in jobs[place::count]:
            job()
            done.up()

    with progress(title, len(jobs)) as advance:
        shown = 0

        def look() -> None:
            nonlocal shown
            now = done.value
            advance(now - shown)
            shown = now

        in_parallel(count, work, look)


def _reporting(search: Search) -> Turns:
    """The one turn to write the report."""
    name = f"{search.name}, {REPORTING}"
    study = open_study(search.storage, name, {"of": search.name}, ["minimize"], search.where)
    return Turns(search.storage, study, 1, search.worker, search.where)


def snapshot(folder: Path | None, storage: str = "", name: str = "") -> dict[str, Any]:
    """How far a search is: its studies with their trials, as plain data.

    Args:
        folder: of the search; None where storage and name are given.
        storage: where its studies are; empty: as the folder says.
        name: of its studies; empty: that of the folder.

    Raises:
        SertuneError: no such search.
    """
    record: dict[str, Any] = {}
    if folder is not None:
        if not (folder / FILE).is_file():
            raise SertuneError(f"{folder}: no {FILE} in it; expected the folder of a search")
        record = load_yaml(folder / FILE)
        name = name or str(record.get("study") or folder.resolve().name)
    elif not storage or not name:
        raise SertuneError("search show: name the search's folder, or --storage and --study")
    where = storage or str(record.get("storage") or (folder or Path()) / JOURNAL)
    if "***" in where:
        raise SertuneError(f"the search is in {where}, whose password is not kept; give it with --storage")
    if "://" not in where and not Path(where).is_file():
        raise SertuneError(f"storage {where}: no such file; has the search begun?")
    opened = open_storage(where)
    try:
        with patience(where):
            every = optuna.get_all_study_names(opened)
            names = [own for own in every if own == name or own.startswith(f"{name}, fold ")]
            if not names:
                raise SertuneError(f"study {name!r} in {shown(where)}: there is none; has the search begun?")
            studies = [_study(optuna.load_study(study_name=own, storage=opened)) for own in names]
    finally:
        close_storage(opened)
    budget = record.get("trials") or None
    return {"name": name, "storage": shown(where), "budget": budget, "studies": studies}


def _study(study: optuna.Study) -> dict[str, Any]:
    worker = Worker.here()
    rows = []
    for trial in latest(study.get_trials(deepcopy=False)):
        owner = trial.user_attrs.get(WORKER) or {}
        rows.append(
            {
                "trial": trial.number,
                "slot": trial.user_attrs.get(SLOT),
                "state": trial.state.name.lower(),
                "values": trial.values if trial.state == TrialState.COMPLETE else None,
                "parameters": dict(trial.params),
                "error": trial.user_attrs.get(ERROR),
                "worker": owner.get("name"),
                "dead": bool(trial.state == TrialState.RUNNING and owner and worker.knows_dead(owner)),
                "began": trial.datetime_start.isoformat() if trial.datetime_start else None,
                "ended": trial.datetime_complete.isoformat() if trial.datetime_complete else None,
                "feasible": all(value <= 0 for value in trial.constraints.values()),
            }
        )
    record = study.user_attrs.get("sertune", {})
    return {
        "study": study.study_name,
        "objectives": record.get("objectives", ["score"]),
        "directions": [direction.name.lower() for direction in study.directions],
        "trials": rows,
    }
