"""What a search found: the winner of each outer fold trained anew, tested once, and the figures of the report."""

import datetime
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from sertune import __version__
from sertune.config import RunConfig, dump_yaml, to_dict
from sertune.data.splits import Fold
from sertune.metrics.repeated import Resampled, mean_of
from sertune.metrics.seeds import finite_or_none, metrics_over_seeds, scores_of_runs
from sertune.metrics.summary import main_metrics, summarise
from sertune.model.builtin import RANDOM
from sertune.model.emotion_model import EmotionModel
from sertune.model.predictions import task_of
from sertune.progress import say
from sertune.train.cache import folder_bytes
from sertune.train.device import describe_machine
from sertune.train.folder import fold_folder, write_json, write_text
from sertune.train.folds import (
    FINAL,
    calibrate_raters,
    fit_again,
    fit_fold,
    measure_source,
    model_info,
    refits,
    run_fold,
    solved,
    start_fold,
    write_predictions,
)
from sertune.train.loop import count_parameters
from sertune.train.prepare import Prepared
from sertune.train.search.confirm import scored_again, winner
from sertune.train.search.options import PROTOCOLS
from sertune.train.search.search import (
    COSTS,
    SAME_AS,
    SETTINGS,
    Outer,
    Search,
    best_trial,
    feasible,
    finished_trials,
    front,
)
from sertune.train.search.store import ERROR, FOLDS, GIVEN_UP, RETRIED, WORKER, latest, shown, slots

DEFAULTS = "defaults"
LEVELS = (0.80, 0.90)
"""Scores whose time is told (arXiv 2510.07052)."""


def settings_of(search: Search, trial: FrozenTrial) -> RunConfig:
    """The settings of a trial, as they are trained in the end: on train and dev together where that is allowed."""
    config = search.config_of(trial)
    allowed = config.train.refit == "auto" and not search.protocol.own_parts and "rater" not in config.target.parts
    if allowed and config.train.schedule != "plateau":
        config = replace(config, train=replace(config.train, refit="all"))
    return config


def winner_jobs(search: Search) -> list[Callable[[], None]]:
    """What is left to train before the report: the winner of every outer fold with several seeds, each tested once.

    Jobs don't depend on each other. What is there is not done again; what was trained for another winner is removed.
    """
    jobs: list[Callable[[], None]] = []
    for place, outer in enumerate(search.outers):
        folder = winner_folder(search, place, outer)
        _forget_others(search, folder, winner(search, place, outer))
        for seed in _seeds(search, place, outer):
            if not (folder / f"seed-{seed}" / "result.json").is_file():
                jobs.append(partial(_train_winner, search, place, outer, seed))
    if search.base.baseline:
        folder = _defaults_folder(search)
        for index, fold in enumerate(search.protocol.folds):
            if not (fold_folder(folder, index, fold.name) / "result.json").is_file():
                jobs.append(partial(_train_defaults, search, folder, index, fold))
    return jobs


def _seeds(search: Search, place: int, outer: Outer) -> list[int]:
    """Seeds that make a difference: one for what is solved and hears the clips as they are."""
    first = search.base.seed
    count = search.options.seeds
    if outer.fold.name == FINAL:
        count = 1  # it is the model that is saved, and has no test part
    config = settings_of(search, winner(search, place, outer))
    fixed = config.method.name == "frozen" and config.head.start == "probe" and not config.head.hidden
    plain = fixed and not config.head.convolutions and config.head.pooling != "attentive" and config.cache.views == 1
    if plain and search.bench.target.solvable:
        count = 1
    return list(range(first, first + count))


def winner_folder(search: Search, place: int, outer: Outer) -> Path:
    """Where the winner of an outer fold is."""
    return fold_folder(search.folder, place, outer.fold.name)


def _train_winner(search: Search, place: int, outer: Outer, seed: int) -> None:
    config = replace(settings_of(search, winner(search, place, outer)), seed=seed)
    own = winner_folder(search, place, outer) / f"seed-{seed}"
    own.mkdir(parents=True, exist_ok=True)
    with search.meter.measured() as cost:
        prepared = search.bench.prepared(config, exact=True)
        model, known, dev_score = _fit(prepared, outer.fold, config, own)
        tested = None
        if len(outer.fold.test):
            tested = write_predictions(own / "test.parquet", model, outer.fold.name, outer.fold.test, prepared, config)
        if outer is search.outers[-1] and seed == search.base.seed:
            measure_source(model, known.train, prepared, config)
            model.save(search.folder / "model", model_info(prepared, outer.fold))
    spent = cost()
    parameters = count_parameters(model.trained_parameters()) + count_parameters(list(model.head.parameters()))
    row = {
        "seed": seed,
        "test_score": tested,
        "dev_score": dev_score,
        "seconds": round(spent.seconds, 3),
        "cpu_seconds": round(spent.cpu_seconds, 3),
        "energy": spent.watt_hours,
        "trainable_parameters": parameters,
        "total_parameters": _total(model),
    }
    write_json(own / "result.json", row)
    for name in ("checkpoint.safetensors", "refit.safetensors"):
        (own / name).unlink(missing_ok=True)
    said = f", test {tested:.3f}" if tested is not None else ""
    say(f"Trained what won{'' if len(search.outers) == 1 else f' in fold {outer.fold.name}'}, seed {seed}{said}")


def _total(model: EmotionModel) -> int:
    return count_parameters(list(model.encoder.parameters())) + count_parameters(list(model.head.parameters()))


def _fit(prepared: Prepared, fold: Fold, config: RunConfig, folder: Path) -> tuple[EmotionModel, Fold, float | None]:
    """The model that is tested, the fold with the rows that it knows, and its dev score where dev was left out."""
    again = refits(config, prepared.protocol)
    started = start_fold(prepared, fold, config)
    if not again or config.train.refit != "all" or solved(started.model, config):
        started = fit_fold(prepared, fold, config, folder / "checkpoint.safetensors")
        calibrate_raters(started.model, fold, prepared, config)
    if not again:
        return started.model, started.sampled, started.result.dev_score
    model, known, _ = fit_again(prepared, fold, config, started, folder / "refit.safetensors")
    return model, known, None


def _forget_others(search: Search, folder: Path, trial: FrozenTrial) -> None:
    """Removes what was trained for another winner, before more trials were made; notes this one."""
    note = folder / "winner.json"
    wanted = {"settings": trial.user_attrs[SETTINGS], "trial": trial.number}
    before: dict[str, Any] = {}
    if note.is_file():
        before = json.loads(note.read_text(encoding="utf-8"))
    if before.get("settings") != json.loads(json.dumps(wanted["settings"])):
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(note, wanted)
    write_text(folder / "winner.yaml", winner_yaml(search, trial))


def winner_yaml(search: Search, trial: FrozenTrial) -> str:
    """The winner's settings, ready for `sertune train --config`."""
    config = settings_of(search, trial)
    config = replace(config, out="", cache=replace(config.cache, folder=search.base.cache.folder))
    judged = search.objectives[0].shown
    head = (
        f"# Found by sertune {__version__} search: trial {trial.number}, {judged} {trial.values[0]:.4f} on the dev "
        "parts that chose it.\n# Run it with: sertune train --config winner.yaml --out RUN\n"
    )
    return head + dump_yaml(config)


def _defaults_folder(search: Search) -> Path:
    """Where the settings that the search began with are trained; empty if they were others before."""
    folder = search.folder / DEFAULTS
    key = {"settings": to_dict(replace(search.base, out=""))}
    note = folder / "settings.json"
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) != json.loads(json.dumps(key)):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(note, key)
    return folder


def _train_defaults(search: Search, folder: Path, index: int, fold: Fold) -> None:
    """One fold with the settings that the search began with, as `sertune train` does it, and the frozen baseline."""
    run_fold(folder, index, fold, search.bench.prepared(search.base, exact=True), search.base, keep_model=False)


# -- the report ----------------------------------------------------------------------------------------------------


def write_results(search: Search) -> Path:
    """Writes report.json, predictions.parquet, trials.csv and winner.yaml; returns the folder."""
    tables = _test_tables(search)
    task = task_of(search.bench.target)
    first = tables[search.base.seed]
    summary = summarise(first, task, search.base.seed)
    interval, warnings = summary.pop("interval"), summary.pop("warnings")
    beside = _defaults(search, task)
    runs: dict[Any, pd.DataFrame] = {**tables, **({DEFAULTS: beside["table"]} if beside else {})}
    scores = scores_of_runs(runs, task, search.base.seed)
    metrics = metrics_over_seeds({seed: scores[seed] for seed in tables})
    rows = [row for place, outer in enumerate(search.outers) for row in trial_rows(search, place, outer)]
    report = {
        "format": 1,
        "sertune": __version__,
        "kind": "search",
        "name": f"{search.bench.manifest.name}, {_preset_name(search)}, {search.options.sampler}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "task": task,
        **summary,
        "metrics": metrics,
        "search": _search(search, rows, metrics, task),
        "trials": rows,
        "winners": [_winner_row(search, place, outer) for place, outer in enumerate(search.outers)],
        "front": [[_front_row(search, trial) for trial in front(search, outer)] for outer in search.outers],
        "importance": _importance(search),
        "defaults": _against_defaults(search, scores, tables, beside, task) if beside else None,
        "baseline": beside["baseline"] if beside else [],
        "protocol": _protocol(search, interval),
        "audit": {},
        "cost": _cost(search, rows),
        "encoder": search.bench.loaded(search.base.encoder).encoder.described(),
        "data": {
            "utterances": len(search.bench.manifest.utterances),
            "speakers": int(search.bench.manifest.utterances["speaker"].nunique()),
            "names": list(search.bench.reading.names),
        },
        "warnings": _warnings(search, metrics, task, warnings),
        "skipped": search.bench.skipped,
        "machine": describe_machine(search.bench.device(search.base)),
    }
    audit = search.bench.audit(search.protocol)
    report["protocol"]["notes"] = [*audit.pop("notes"), *search.bench.space.notes, *search.bench.notes]
    report["warnings"] += audit.pop("warnings")
    report["audit"] = audit
    pooled = pd.concat([table.assign(seed=seed) for seed, table in tables.items()], ignore_index=True)
    pooled.to_parquet(search.folder / "predictions.parquet", index=False)
    _table(rows).to_csv(search.folder / "trials.csv", index=False)
    write_text(
        search.folder / "winner.yaml", winner_yaml(search, winner(search, len(search.outers) - 1, search.outers[-1]))
    )
    for place, outer in enumerate(search.outers):
        for number, trial in enumerate(front(search, outer) if len(search.objectives) > 1 else [], start=1):
            write_text(winner_folder(search, place, outer) / f"front-{number:02d}.yaml", winner_yaml(search, trial))
    write_json(search.folder / "report.json", report)
    return search.folder


def _preset_name(search: Search) -> str:
    return search.options.preset or "own space"


def _test_tables(search: Search) -> dict[int, pd.DataFrame]:
    """Predictions of all outer test parts, by seed; where a winner needs one seed only, it stands for all."""
    folds = [(i, outer) for i, outer in enumerate(search.outers) if len(outer.fold.test)]
    seeds = sorted({seed for place, outer in folds for seed in _seeds(search, place, outer)})
    tables: dict[int, pd.DataFrame] = {}
    for seed in seeds:
        parts = []
        for place, outer in folds:
            own = seed if seed in _seeds(search, place, outer) else search.base.seed
            parts.append(pd.read_parquet(winner_folder(search, place, outer) / f"seed-{own}" / "test.parquet"))
        tables[seed] = pd.concat(parts, ignore_index=True)
    return tables


def _defaults(search: Search, task: dict[str, Any]) -> dict[str, Any] | None:
    """Predictions of the settings that the search began with, and the frozen baseline's figures."""
    folder = search.folder / DEFAULTS
    folders = [fold_folder(folder, i, fold.name) for i, fold in enumerate(search.protocol.folds)]
    if not all((own / "result.json").is_file() for own in folders):
        return None
    table = pd.concat([pd.read_parquet(own / "test.parquet") for own in folders], ignore_index=True)
    results = [json.loads((own / "result.json").read_text(encoding="utf-8")) for own in folders]
    rows: list[dict[str, Any]] = []
    if all((own / "baseline.parquet").is_file() for own in folders):
        frozen = pd.concat([pd.read_parquet(own / "baseline.parquet") for own in folders], ignore_index=True)
        for name, part in frozen.groupby("baseline", sort=False):
            dev = sum(float(result["baseline"][name]) for result in results) / len(results)
            metrics = summarise(part, task, search.base.seed, transport=False)["metrics"]
            rows.append({"name": str(name), "dev": dev, "chosen": False, "metrics": metrics})
        max(rows, key=lambda row: row["dev"])["chosen"] = True
    scores = [float(result["fold"]["dev_score"]) for result in results]
    return {"table": table, "baseline": rows, "dev": sum(scores) / len(scores)}


def _against_defaults(
    search: Search,
    scores: dict[Any, dict[str, Resampled]],
    tables: dict[int, pd.DataFrame],
    beside: dict[str, Any],
    task: dict[str, Any],
) -> dict[str, Any]:
    """What the settings at the beginning reach on test, and the paired difference of what was found."""
    own = metrics_over_seeds({search.base.seed: scores[DEFAULTS]})
    differences = {}
    for name in main_metrics(task):
        found = mean_of([scores[seed][name] for seed in tables]).minus(scores[DEFAULTS][name])
        differences[name] = {key: finite_or_none(getattr(found, key)) for key in ("value", "low", "high", "p")}
    return {"metrics": own, "dev": beside["dev"], "difference": differences}


def trial_rows(search: Search, place: int, outer: Outer) -> list[dict[str, Any]]:
    """One row for each slot of a study, as the report and trials.csv have it; times in seconds from its first trial."""
    everything = outer.turns.trials()
    where = slots(everything)
    trials = latest(everything)
    started = [trial.datetime_start for trial in everything if trial.datetime_start is not None]
    zero = min(started, default=None)
    rows = []
    for trial in trials:
        attrs = trial.user_attrs
        rows.append(
            {
                "fold": outer.fold.name,
                "place": place,
                "slot": where[trial.number],
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "score": trial.values[0] if trial.state == TrialState.COMPLETE else None,
                "values": list(trial.values) if trial.state == TrialState.COMPLETE else None,
                "feasible": feasible(trial),
                "parameters": {name: _plain(value) for name, value in trial.params.items()},
                "settings": attrs.get(SETTINGS, {}),
                "costs": attrs.get(COSTS),
                "folds": attrs.get(FOLDS, []),
                "same_as": attrs.get(SAME_AS),
                "error": attrs.get(ERROR),
                "lost": attrs.get(GIVEN_UP),
                "retried": attrs.get(RETRIED, 0),
                "worker": (attrs.get(WORKER) or {}).get("name"),
                "began": _since(zero, trial.datetime_start),
                "ended": _since(zero, trial.datetime_complete),
            }
        )
    return rows


def _plain(value: Any) -> Any:
    """Lists that the study keeps as text."""
    if isinstance(value, str) and value.startswith("["):
        return json.loads(value)
    return value


def _since(zero: datetime.datetime | None, then: datetime.datetime | None) -> float | None:
    return round((then - zero).total_seconds(), 3) if zero is not None and then is not None else None


def busy_seconds(rows: Sequence[dict[str, Any]], until: float | None = None) -> float:
    """Seconds in which at least one trial ran, up to a time; breaks between commands do not count."""
    spans = sorted((row["began"], row["ended"]) for row in rows if None not in (row["began"], row["ended"]))
    total, reached = 0.0, 0.0
    for first, last in spans:
        if until is not None:
            last = min(last, until)
        total += max(0.0, last - max(first, reached))
        reached = max(reached, last)
    return total


def times_to(rows: Sequence[dict[str, Any]], before: float) -> dict[str, float | None]:
    """Seconds of work until the best dev score so far reached a level; None where it never did.

    Args:
        rows: of one study.
        before: seconds spent before the first trial.
    """
    found: dict[str, float | None] = {}
    for level in LEVELS:
        reached = [
            row["ended"] for row in rows if row["score"] is not None and row["feasible"] and row["score"] >= level
        ]
        found[f"{level:.2f}"] = round(before + busy_seconds(rows, min(reached)), 2) if reached else None
    return found


def _search(
    search: Search, rows: list[dict[str, Any]], metrics: dict[str, Any], task: dict[str, Any]
) -> dict[str, Any]:
    tested = [(i, outer) for i, outer in enumerate(search.outers) if len(outer.fold.test)]
    best = [trial.values[0] for _, outer in tested if (trial := best_trial(search, outer)) is not None]
    chosen = [winner(search, i, outer).values[0] for i, outer in tested]
    again = [found[0]["again"] for i, outer in tested if (found := scored_again(search, i, outer))]
    lead = [metrics[name]["value"] for name in main_metrics(task)]
    states = [row["state"] for row in rows]
    best_dev, winner_dev = sum(best) / len(best), sum(chosen) / len(chosen)
    known = [value for value in lead if value is not None]
    test = sum(known) / len(known) if known else None
    options = search.options
    return {
        "best_dev": best_dev,
        "winner_dev": winner_dev,
        "again_dev": sum(again) / len(again) if len(again) == len(tested) else None,
        "test": test,
        "gap": winner_dev - test if test is not None else None,
        "judged": search.objectives[0].shown,
        "seconds_total": round(_seconds_total(search, rows), 3),
        "seconds_states": round(search.bench.seconds_states, 3),
        "seconds_trials": round(
            sum(busy_seconds([r for r in rows if r["place"] == i]) for i in range(len(search.outers))), 3
        ),
        "trials": len(rows),
        "complete": states.count("complete"),
        "pruned": states.count("pruned"),
        "failed": states.count("fail"),
        "repeated": sum(row["same_as"] is not None for row in rows),
        "workers": sorted({row["worker"] for row in rows if row["worker"]}),
        "preset": options.preset,
        "sampler": options.sampler,
        "pruner": options.pruner,
        "protocol": options.protocol,
        "inner_folds": len(search.outers[0].inner),
        "objectives": [{"name": o.name, "shown": o.shown, "direction": o.direction} for o in search.objectives],
        "constraints": [constraint.text for constraint in search.constraints],
        "space": search.space.describe(),
        "storage": shown(search.where),
        "study": search.outers[0].turns.study.study_name,
        "times": [
            times_to([row for row in rows if row["place"] == i], search.bench.seconds_states if i == 0 else 0.0)
            for i in range(len(search.outers))
        ],
        "energy": search.meter.source,
    }


def _seconds_total(search: Search, rows: Sequence[dict[str, Any]]) -> float:
    """Seconds of this command, and those in which trials ran before it."""
    own = time.monotonic() - search.began
    before = 0.0
    for place, outer in enumerate(search.outers):
        started = [t.datetime_start for t in outer.turns.trials() if t.datetime_start is not None]
        if started:
            until = (datetime.datetime.now() - min(started)).total_seconds() - own
            before += busy_seconds([row for row in rows if row["place"] == place], max(until, 0.0))
    return own + before


def _winner_row(search: Search, place: int, outer: Outer) -> dict[str, Any]:
    trial = winner(search, place, outer)
    folder = winner_folder(search, place, outer)
    results = [
        json.loads((folder / f"seed-{seed}" / "result.json").read_text(encoding="utf-8"))
        for seed in _seeds(search, place, outer)
    ]
    return {
        "fold": outer.fold.name,
        "train": len(outer.fold.train),
        "dev": len(outer.fold.dev),
        "test": len(outer.fold.test),
        "trial": trial.number,
        "dev_score": trial.values[0],
        "values": list(trial.values),
        "parameters": {name: _plain(value) for name, value in trial.params.items()},
        "settings": trial.user_attrs[SETTINGS],
        "costs": trial.user_attrs.get(COSTS),
        "inner": trial.user_attrs.get(FOLDS, []),
        "again": scored_again(search, place, outer),
        "seeds": results,
    }


def _front_row(search: Search, trial: FrozenTrial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "values": list(trial.values),
        "settings": trial.user_attrs[SETTINGS],
        "costs": trial.user_attrs.get(COSTS),
    }


def _importance(search: Search) -> dict[str, float]:
    """Share of each setting in what made good trials good (PED-ANOVA, Watanabe et al. 2023), of the last study."""
    outer = search.outers[-1]
    done = finished_trials(outer)
    if len(done) < 2 * len(search.space.dimensions) or len({trial.values[0] for trial in done}) < 3:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [optuna.trial.create_trial(params=t.params, distributions=t.distributions, value=t.values[0]) for t in done]
    )
    try:
        found = optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError):  # nothing differs enough
        return {}
    return {name: float(value) for name, value in found.items() if pd.notna(value)}


def _protocol(search: Search, interval: str) -> dict[str, Any]:
    options = search.options
    inner = len(search.outers[0].inner)
    text = search.protocol.text.rstrip(".")
    how = PROTOCOLS[options.protocol]
    nested = options.protocol == "nested"
    who = f"{inner} inner folds over the other speakers choose" if nested else "one dev part chooses"
    winners = [settings_of(search, winner(search, place, outer)) for place, outer in enumerate(search.outers)]
    on = "on train and dev together" if all(refits(config, search.protocol) for config in winners) else "on train"
    last = f"the winner is trained anew {on}, and its test part is scored once, after the search"
    return {
        "text": f"{text}; {who} among {_trials_text(search)}",
        "split": search.protocol.split,
        "folds": len(search.protocol.folds),
        "speaker_independent": search.protocol.speaker_independent,
        "selection": f"{how}{_confirmed(search)}; {last}",
        "interval": interval,
        "seed": search.base.seed,
        "crop_seconds": search.base.audio.crop,
        "notes": [],
    }


def _confirmed(search: Search) -> str:
    """How the winner was chosen among the best, in words."""
    rows = [scored_again(search, place, outer) for place, outer in enumerate(search.outers)]
    if not any(rows):
        return ""
    folds = max(len(row[0]["folds"]) for row in rows if row)
    most = max(len(row) for row in rows)
    beginning = "the settings at the beginning among them"
    return f"; the {most} best, {beginning}, are scored again on {folds} other folds, which choose"


def _trials_text(search: Search) -> str:
    count = len(latest(search.outers[0].turns.trials()))
    each = " in each fold" if len(search.outers) > 1 else ""
    return f"{count} trials{each}"


def _cost(search: Search, rows: list[dict[str, Any]]) -> dict[str, Any]:
    winners = [_winner_row(search, place, outer) for place, outer in enumerate(search.outers)]
    seeds = [row for own in winners for row in own["seeds"]]
    again = [fold for own in winners for row in own["again"] for fold in row["folds"]]
    spent = [row["costs"] for row in rows if row["costs"] and row["same_as"] is None] + again
    energy = [cost["energy"] for cost in spent] + [row["energy"] for row in seeds]
    return {
        "seconds_total": round(_seconds_total(search, rows), 3),
        "seconds_states": round(search.bench.seconds_states, 3),
        "seconds_again": round(sum(fold["seconds"] for fold in again), 3),
        "seconds_winners": round(sum(row["seconds"] for row in seeds), 3),
        "cpu_seconds": round(sum(cost["cpu_seconds"] for cost in spent) + sum(row["cpu_seconds"] for row in seeds), 1),
        "energy_wh": None if None in energy else round(sum(energy), 4),
        "energy": search.meter.source,
        "peak_memory_mib": round(search.bench.device(search.base).peak_memory_mib(), 1),
        "trainable_parameters": seeds[-1]["trainable_parameters"],
        "total_parameters": seeds[-1]["total_parameters"],
        "states_mib": round(folder_bytes(search.bench.folder) / 2**20, 1),
        "clips_encoded": search.bench.passes,
    }


def _warnings(search: Search, metrics: dict[str, Any], task: dict[str, Any], own: list[str]) -> list[str]:
    """What a reader of the figures must know."""
    said = [*search.protocol.warnings, *own]
    if search.options.protocol == "paper-d":
        said.insert(
            0,
            "the protocol of arXiv 2510.07052 puts every speaker on both sides: its figures say nothing about new "
            "speakers; take --protocol nested for that",
        )
    if search.out_of_time():
        short = [f"{len(latest(outer.turns.trials()))} trials" for outer in search.outers]
        said.append(f"the search ended with its time, after {', '.join(short)}")
    if len(search.outers) > 1:
        said.append(
            "each fold has a search and a winner of its own: the figures are those of the whole procedure, and "
            "winner.yaml is from one more search on all speakers, which has no test part"
        )
    if search.bench.crops_states(search.base) and any(d.key == "audio.crop" for d in search.space.dimensions):
        said.append(
            "in trials the crop was applied to the states of longer clips, whose frozen part had heard the rest; the "
            "winner was trained and tested on audio that is cropped before the encoder"
        )
    if search.bench.loaded(search.base.encoder).encoder.name == RANDOM:
        said.append("builtin:random is not pre-trained; builtin or another encoder (--encoder) will do better")
    return said


def _table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The trials as a flat table."""
    flat = []
    for row in rows:
        plain = {key: row[key] for key in ("fold", "slot", "trial", "state", "score", "feasible", "began", "ended")}
        costs = {f"cost.{key}": value for key, value in (row["costs"] or {}).items()}
        flat.append({**plain, **row["settings"], **costs, "error": row["error"], "worker": row["worker"]})
    return pd.DataFrame(flat)
