"""A search: opened, run by any number of workers, and gone on with after any stop.

Every outer fold of the protocol has a study of its own. Its trials are scored on inner folds, in which its test part
has no share; what wins is trained anew and tested once (`winner`).
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from sertune.config import RunConfig, dump_yaml, to_dict, validate, with_values
from sertune.corpora import published
from sertune.data.manifest import Manifest
from sertune.data.splits import Fold, Protocol, inner_folds
from sertune.errors import SertuneError
from sertune.files import check_writable
from sertune.progress import say
from sertune.train.choose import consensus_codes
from sertune.train.compare import check_set
from sertune.train.folder import write_text
from sertune.train.search.bench import Bench
from sertune.train.search.energy import Meter
from sertune.train.search.objectives import (
    Constraint,
    Objective,
    needs_energy,
    needs_latency,
    read_constraints,
    read_objectives,
    values_of,
    violations,
)
from sertune.train.search.options import SearchOptions
from sertune.train.search.presets import PRESETS, preset
from sertune.train.search.samplers import PRUNERS, SAMPLERS, SpaceSampler, ask_values, falls_behind, make_pruner
from sertune.train.search.space import Space, check_space, read_space, without
from sertune.train.search.store import (
    ERROR,
    FOLDS,
    Claim,
    Turns,
    Worker,
    beating,
    latest,
    open_storage,
    open_study,
    patience,
    shown,
    was_given_up,
)
from sertune.train.search.trial import OutOfTimeError, PrunedError, Trials

FILE = "search.yaml"
JOURNAL = "study.journal"
FREE = ("out", "cache.folder", "cache.disk_gib", "cache.limit_gib", "baseline")
"""Settings that may differ when a search goes on."""
ENDLESS = 1_000_000
"""Trials of a search that has only minutes."""
DOOMED = 5
"""Trials that fail with the same words before anything succeeds, after which a search ends."""
POLL_SECONDS = 1.0
PAPER_D_TEST = 0.2
PAPER_D_DEV = 0.16
"""A fifth of the 80 % that paper D trains on."""
SETTINGS, COSTS, SAME_AS = "settings", "costs", "same_as"


@dataclass
class Outer:
    """An outer fold, and the search in it.

    Attributes:
        fold: its test part is not looked at before the search is over.
        inner: folds of the others.
        turns: hands out the study's trials.
        sampler: chooses their values.
    """

    fold: Fold
    inner: list[Fold]
    turns: Turns
    sampler: SpaceSampler


@dataclass
class Search:
    """A search that is ready to run.

    Attributes:
        folder: of its report.
        base: settings that trials start from.
        options: how to search.
        bench: what trials share.
        protocol: the outer folds.
        outers: with a study each.
        objectives, constraints: what trials are judged by.
        worker: this process.
        meter: of what trials cost.
        where: the storage's address.
        name: of the studies, before that of the fold.
        began: when the command began, in seconds of a clock that only runs forward.
    """

    folder: Path
    base: RunConfig
    options: SearchOptions
    bench: Bench
    protocol: Protocol
    outers: list[Outer]
    objectives: list[Objective]
    constraints: list[Constraint]
    worker: Worker
    meter: Meter
    where: str
    name: str
    storage: Any
    began: float
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def space(self) -> Space:
        """What is searched."""
        return self.bench.space

    def of_this_process(self) -> "Search":
        """The same search for a forked process, with connections and an identity of its own."""
        worker, storage = Worker.here(), open_storage(self.where)
        own = replace(self, worker=worker, storage=storage, meter=Meter(), failures={})
        own.outers = [_open_outer(own, outer.fold, several=len(self.outers) > 1) for outer in self.outers]
        return own

    def config_of(self, trial: FrozenTrial) -> RunConfig:
        """The settings of a trial."""
        return with_values(self.base, trial.user_attrs[SETTINGS])

    def out_of_time(self) -> bool:
        """Whether the minutes of this command are over."""
        return bool(self.options.minutes) and time.monotonic() - self.began > 60 * self.options.minutes


def open_search(base: RunConfig, options: SearchOptions) -> Search:
    """Everything before the first trial: data, encoder, space, states, studies.

    Args:
        base: settings that trials start from; ``out`` names the folder.
        options: how to search.

    Raises:
        SertuneError: a mistake in the settings, the space or the data, or a storage that can't be used.
    """
    began = time.monotonic()
    if not options.pruner:
        options = replace(options, pruner="median" if len(options.objectives) < 2 else "none")
    options.check(SAMPLERS, PRUNERS, PRESETS)
    if not base.out:
        raise SertuneError("no folder: say where the search goes with --out DIR")
    folder = Path(base.out)
    base = _with_protocol(base, options)
    where = options.storage or str(folder / JOURNAL)
    name = options.study or folder.resolve().name
    check_writable(folder)
    storage = open_storage(options.storage) if options.storage else None
    bench = Bench.over(base, folder / "states")
    bench.base = base = _with_split(base, bench)
    validate(base)
    bench.space = make_space(base, options, bench)
    objectives = read_objectives(options.objectives, bench.target)
    constraints = read_constraints(options.constraints)
    meter = Meter()
    if needs_energy(objectives, constraints) and not meter.measures_energy:
        raise SertuneError(
            "energy: can't be measured here (no RAPL counters that may be read, and no codecarbon: pip install "
            "'sertune[energy]'); take seconds"
        )
    _open_folder(folder, base, options, bench.space, where)
    storage = storage or open_storage(where)
    protocol = bench.begin()
    worker = Worker.here()
    search = Search(
        folder, base, options, bench, protocol, [], objectives, constraints, worker, meter, where, name, storage, began
    )
    folds = [*protocol.folds] + ([protocol.final] if protocol.final is not None else [])
    search.outers = [_open_outer(search, fold, several=len(folds) > 1) for fold in folds]
    return search


def _with_protocol(base: RunConfig, options: SearchOptions) -> RunConfig:
    """The settings with the outer split that a protocol has."""
    own = base.split
    if options.protocol != "paper-d":
        if own.name == "random":
            raise SertuneError(
                "--split random: speakers would be on both sides; take --protocol paper-d, or another split"
            )
        return base
    if "split.name" in options.given and own.name != "random":
        raise SertuneError(f"--split {own.name}: the protocol paper-d splits at random; leave it out")
    test = own.test if "split.test" in options.given else PAPER_D_TEST
    dev = own.dev if "split.dev" in options.given else PAPER_D_DEV
    return replace(base, split=replace(own, name="random", test=test, dev=dev))


def _with_split(base: RunConfig, bench: Bench) -> RunConfig:
    """The settings with the outer split by name.

    A published protocol of many folds would be as many searches, so `auto` takes one only if it has one fold; its label
    map is taken in any case.
    """
    if base.split.name != "auto":
        return base
    first = next(iter(published(bench.manifest)), None)
    single = first is not None and len(first.cut(bench.manifest.utterances)) == 1
    name = first.name if single and first is not None else "speaker"
    if first is not None and not single:
        say(f"One split by speakers; --split {first.name} searches anew in each of its folds")
    label_map = bench.label_map.name if bench.label_map is not None and not base.label_map else base.label_map
    return replace(base, split=replace(base.split, name=name), label_map=label_map)


def make_space(base: RunConfig, options: SearchOptions, bench: Bench) -> Space:
    """The space of a preset and of a file, without what flags fix and what can change nothing here.

    Raises:
        SertuneError: a key, a range or a value that makes no sense.
    """
    depth = bench.depth(base.encoder)
    entries = {**(preset(options.preset, depth) if options.preset else {}), **options.space}
    space = read_space({key: value for key, value in entries.items() if value is not None}, depth)
    fixed = {key: f"{key} is given by a flag, and is not searched" for key in options.given}
    space = without(space, fixed)
    space = _without_idle_crops(space, bench.manifest)
    for note in space.notes:
        say(note)
    check_space(space, base, bench.possible, base.seed)
    return space


def _without_idle_crops(space: Space, manifest: Manifest) -> Space:
    """Crop lengths that leave all clips whole are one."""
    own = next((d for d in space.dimensions if d.key == "audio.crop" and d.kind == "choice"), None)
    frame = manifest.utterances
    lengths = (frame["end"] - frame["start"]).fillna(frame["duration"])
    if own is None or lengths.isna().any():
        return space
    longest = float(lengths.max())
    whole = sorted(crop for crop in own.choices if crop >= longest)
    if len(whole) < 2:
        return space
    left = tuple(crop for crop in own.choices if crop not in whole[1:])
    if len(left) == 1:
        note = f"audio.crop is not searched: no clip is longer than {longest:.2f} s, so that it changes nothing"
        return without(space, {"audio.crop": note})
    note = f"audio.crop: no clip is longer than {longest:.2f} s, so that longer crops than {whole[0]:g} s are left out"
    dimensions = tuple(replace(d, choices=left) if d is own else d for d in space.dimensions)
    return replace(space, dimensions=dimensions, notes=(*space.notes, note))


def _open_folder(folder: Path, base: RunConfig, options: SearchOptions, space: Space, where: str) -> None:
    """Writes ``search.yaml``, if the folder is new or holds the same search."""
    extra: dict[str, Any] = {
        "protocol": options.protocol,
        "inner_folds": options.inner_folds,
        "objectives": list(options.objectives) or ["score"],
        "constraints": list(options.constraints),
        "space": space.describe(),
    }
    if not (folder / FILE).is_file() and folder.is_dir():
        left = {entry.name for entry in folder.iterdir()} - {"states", JOURNAL, f"{JOURNAL}.lock", f"{FILE}.part"}
        if left:
            raise SertuneError(f"{folder}: the folder holds something else than a search; choose another --out")
    else:
        check_set(folder, FILE, "search", base, FREE, extra)
    folder.mkdir(parents=True, exist_ok=True)
    record: Any = _Record(
        **extra,
        sampler=options.sampler,
        pruner=options.pruner,
        trials=options.trials,
        minutes=options.minutes,
        seeds=options.seeds,
        storage=shown(where),
        settings=base,
    )
    write_text(folder / FILE, dump_yaml(record))


@dataclass(frozen=True)
class _Record:
    """``search.yaml``."""

    protocol: str
    inner_folds: int
    objectives: list[str]
    constraints: list[str]
    space: dict[str, Any]
    sampler: str
    pruner: str
    trials: int
    minutes: float
    seeds: int
    storage: str
    settings: RunConfig


def _open_outer(search: Search, fold: Fold, *, several: bool) -> Outer:
    """The study of an outer fold."""
    bench, options = search.bench, search.options
    inner = [fold]
    if options.protocol == "nested":
        labels = consensus_codes(bench.manifest, bench.target)
        frame = bench.manifest.utterances
        inner = inner_folds(frame, fold, options.inner_folds, labels=labels, seed=search.base.seed)
    name = f"{search.name}, fold {fold.name}" if several else search.name
    study = open_study(
        search.storage,
        name,
        _record(search, fold),
        [objective.direction for objective in search.objectives],
        search.where,
    )
    turns = Turns(search.storage, study, 1, search.worker, search.where)
    sampler = SpaceSampler(
        options.sampler, bench.space, search.base, search.base.seed, turns.trials, several=len(search.objectives) > 1
    )
    turns.budget = options.trials or (sampler.grid_size if options.sampler == "grid" else ENDLESS)
    if options.sampler == "grid":
        turns.budget = min(turns.budget, sampler.grid_size)
    study.sampler = sampler
    study.pruner = make_pruner(options.pruner, len(inner), most_epochs(search.space, search.base))
    return Outer(fold, inner, turns, sampler)


def most_epochs(space: Space, base: RunConfig) -> int:
    """Epochs of the longest trial."""
    own = [d for d in space.dimensions if d.key == "train.epochs"]
    ends = [int(value) for dimension in own for value in dimension.ends()]
    return max(ends, default=int(space.fixed.get("train.epochs", base.train.epochs)))


def _record(search: Search, fold: Fold) -> dict[str, Any]:
    """What makes the trials of a study comparable, whatever the machine."""
    bench, options = search.bench, search.options
    settings = to_dict(search.base)
    for key in ("out", "cache", "data", "columns", "encoder", "baseline", "skip_bad"):
        del settings[key]
    encoder = bench.loaded(search.base.encoder).encoder
    return {
        "space": bench.space.describe(),
        "data": {"clips": len(bench.manifest.utterances), "digest": data_digest(bench.manifest)},
        "encoder": encoder.digest,
        "objectives": [objective.name for objective in search.objectives],
        "constraints": [constraint.text for constraint in search.constraints],
        "protocol": options.protocol,
        "inner folds": options.inner_folds if options.protocol == "nested" else 1,
        "fold": fold.name,
        "settings": settings,
    }


def data_digest(manifest: Manifest) -> str:
    """Digest of the clips' names, speakers and labels; not of where the files lie."""
    frame = manifest.utterances
    columns = [name for name in ("id", "speaker", "emotion", "arousal", "valence", "dominance") if name in frame]
    text = frame[columns].astype(str).to_csv(index=False)
    return hashlib.blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=8).hexdigest()


# -- running -------------------------------------------------------------------------------------------------------


def run_trials(search: Search, look: Callable[[], None] | None = None) -> None:
    """Runs trials until the budget or the time is used up.

    Args:
        search: of this process.
        look: is called after each trial.

    Raises:
        SertuneError: nothing but failures.
    """
    runner = Trials(
        search.bench, search.meter, needs_latency(search.objectives, search.constraints), search.out_of_time
    )
    while not search.out_of_time():
        claimed = _next(search.outers)
        if claimed is not None:
            _run_one(search, runner, *claimed)
        elif all(outer.turns.finished() for outer in search.outers):
            break
        else:
            time.sleep(POLL_SECONDS)  # others work on the last trials; if they go away, these are taken over
        if look is not None:
            look()


def _next(outers: Sequence[Outer]) -> tuple[Outer, Claim] | None:
    for outer in outers:
        claim = outer.turns.claim()
        if claim is not None:
            return outer, claim
    return None


def _run_one(search: Search, runner: Trials, outer: Outer, claim: Claim) -> None:
    """One trial, whatever becomes of it."""
    turns, trial = outer.turns, claim.trial
    try:
        with beating(claim):
            _score(search, runner, outer, claim)
    except PrunedError:
        turns.prune(claim)
        say(f"[{claim.slot + 1}] ended early, as it was worse than others at this point: {_shown(search, trial)}")
    except OutOfTimeError:
        turns.stop(claim)
    except KeyboardInterrupt:
        turns.stop(claim)
        raise
    except optuna.exceptions.UpdateFinishedTrialError:
        say(f"[{claim.slot + 1}] another worker took this trial over while this one was away")
    except SertuneError as error:
        _failed(search, turns, claim, str(error))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        _failed(search, turns, claim, f"not enough memory ({' '.join(str(error).split())[:120] or 'none left'})")


def _out_of_memory(error: Exception) -> bool:
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "t allocate memory" in str(error)


def _failed(search: Search, turns: Turns, claim: Claim, error: str) -> None:
    """Notes a failure; ends the search where nothing but it happens."""
    turns.fail(claim, error)
    say(f"[{claim.slot + 1}] failed: {error}")
    search.failures[error] = search.failures.get(error, 0) + 1
    done = any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in turns.trials())
    if search.failures[error] >= DOOMED and not done:
        raise SertuneError(f"the first {DOOMED} trials failed, and none succeeded: {error}")


def _score(search: Search, runner: Trials, outer: Outer, claim: Claim) -> None:
    """Asks for values, trains and scores."""
    turns, trial = outer.turns, claim.trial
    with patience(search.where):
        values = ask_values(trial, search.space, search.base)
        for key, note in outer.sampler.note.items():
            trial.set_user_attr(key, note)
        config = search.space.config(search.base, values)
        trial.set_user_attr(SETTINGS, search.space.settings(values))
        twin = _twin(turns.trials(), trial.number, search.space.settings(values))
    began = time.perf_counter()
    if twin is not None:
        _copy(search, turns, claim, twin)
        return

    seen: list[float] = []

    def report(value: float, error: float, step: int) -> bool:
        if search.options.pruner == "none":
            return False
        seen.append(value)
        with patience(search.where):
            trial.report(value, step)
            if search.options.pruner == "hyperband":
                return bool(trial.should_prune())
            others = [other for other in turns.trials() if other.number != trial.number]
        return falls_behind(others, max(seen), error, step)

    def keep(folds: list[dict[str, Any]]) -> None:
        with patience(search.where):
            trial.set_user_attr(FOLDS, folds)

    score, costs, _ = runner.run(config, outer.inner, claim.folds, report, keep)
    with patience(search.where):
        trial.set_user_attr(COSTS, to_dict(costs))
        for name, value in violations(search.constraints, costs).items():
            trial.set_constraint(name, value)
    if not turns.complete(claim, values_of(search.objectives, score, costs)):
        raise optuna.exceptions.UpdateFinishedTrialError
    _say_score(search, outer, claim, score, time.perf_counter() - began)


def _twin(trials: Sequence[FrozenTrial], number: int, settings: Mapping[str, Any]) -> FrozenTrial | None:
    """A finished trial with the same settings, whose result would be the same."""
    return next(
        (
            trial
            for trial in trials
            if trial.state == TrialState.COMPLETE
            and trial.number != number
            and trial.user_attrs.get(SETTINGS) == dict(settings)
        ),
        None,
    )


def _copy(search: Search, turns: Turns, claim: Claim, twin: FrozenTrial) -> None:
    with patience(search.where):
        claim.trial.set_user_attr(SAME_AS, twin.number)
        for key in (FOLDS, COSTS):
            claim.trial.set_user_attr(key, twin.user_attrs.get(key))
        for name, value in twin.constraints.items():
            claim.trial.set_constraint(name, value)
    turns.complete(claim, twin.values)
    say(f"[{claim.slot + 1}] the same settings as trial {twin.number}, not run again")


def _say_score(search: Search, outer: Outer, claim: Claim, score: float, seconds: float) -> None:
    best = best_trial(search, outer)
    judged = search.objectives[0].shown
    top = f" (best {best.values[0]:.3f})" if best is not None else ""
    where = f"{outer.fold.name}: " if len(search.outers) > 1 else ""
    budget = outer.turns.budget
    place = f"{claim.slot + 1}/{budget}" if budget < ENDLESS else str(claim.slot + 1)
    say(f"[{place}] {where}dev {judged} {score:.3f}{top}, {seconds:.1f} s: {_shown(search, claim.trial)}")


def _shown(search: Search, trial: Any) -> str:
    """The values of a trial in one line."""
    return ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# -- results -------------------------------------------------------------------------------------------------------


def ended_trials(outer: Outer) -> list[FrozenTrial]:
    """The trials that came to an end, whatever it was, by slot."""
    return [trial for trial in latest(outer.turns.trials()) if trial.state.is_finished() and not was_given_up(trial)]


def finished_trials(outer: Outer) -> list[FrozenTrial]:
    """The trials that were scored to the end, by slot."""
    return [trial for trial in latest(outer.turns.trials()) if trial.state == TrialState.COMPLETE]


def feasible(trial: FrozenTrial) -> bool:
    """Whether a trial keeps to all constraints."""
    return all(value <= 0 for value in trial.constraints.values())


def best_trial(search: Search, outer: Outer) -> FrozenTrial | None:
    """The feasible trial with the best score, the first of equals; None where there is none."""
    kept = [trial for trial in finished_trials(outer) if feasible(trial)]
    return max(kept, key=lambda trial: trial.values[0], default=None)


def front(search: Search, outer: Outer) -> list[FrozenTrial]:
    """The feasible trials that no other one beats in all objectives, best score first."""
    kept = [trial for trial in finished_trials(outer) if feasible(trial)]
    signs = np.array([1.0 if objective.direction == "maximize" else -1.0 for objective in search.objectives])
    points = np.array([trial.values for trial in kept], dtype=np.float64).reshape(len(kept), len(signs)) * signs
    left: dict[tuple[float, ...], FrozenTrial] = {}
    for place, trial in enumerate(kept):
        beaten = (points >= points[place]).all(axis=1) & (points > points[place]).any(axis=1)
        if not beaten.any():
            left.setdefault(tuple(points[place]), trial)
    return sorted(left.values(), key=lambda trial: -trial.values[0])


def check_results(search: Search) -> None:
    """Raises `SertuneError` where a fold's search has no result."""
    for outer in search.outers:
        _check_any(search, outer)


def _check_any(search: Search, outer: Outer) -> None:
    if best_trial(search, outer) is not None:
        return
    trials = latest(outer.turns.trials())
    errors = [trial.user_attrs[ERROR] for trial in trials if ERROR in trial.user_attrs]
    name = f" of fold {outer.fold.name}" if len(search.outers) > 1 else ""
    if finished_trials(outer):
        nearest = min(finished_trials(outer), key=lambda trial: max(trial.constraints.values()))
        missed = ", ".join(f"{text} by {value:.3g}" for text, value in nearest.constraints.items() if value > 0)
        raise SertuneError(
            f"no trial{name} keeps to {', '.join(c.text for c in search.constraints)}; the nearest, trial "
            f"{nearest.number}, misses {missed}; give more --trials, or a weaker constraint"
        )
    if errors:
        raise SertuneError(f"all {len(errors)} trials{name} failed; the first: {errors[0]}")
    if any(was_given_up(trial) for trial in trials) and not search.out_of_time():
        raise SertuneError(
            f"the workers of all {len(trials)} trials{name} went away before they were done; where that was for want "
            "of memory, take a smaller --train.batch_seconds"
        )
    raise SertuneError(
        f"--minutes {search.options.minutes:g}: too small a budget for one trial{name}; the same command with more "
        "goes on"
    )
