"""What a search finds and what it costs, each beside a baseline of the same run.

    python benchmarks/search.py samplers --data emodb:FOLDER --encoder WHISPER --seeds 0 1 2 3 4
    python benchmarks/search.py sharing --data emodb:FOLDER --clips 32
    python benchmarks/search.py workers --data emodb:FOLDER --encoder WHISPER --storage postgresql://USER:PW@HOST/DB

samplers: the preset and protocol of arXiv 2510.07052, by each sampler and seed; the baseline is the random sampler.
sharing: trials of the preset `method` on kept states with pruning, and live without; the encoder has wav2vec2-base's
configuration with random weights, so this says nothing of scores. workers: one search by one worker, then by several
commands that join a study, of which one is killed in the middle.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dry_run import prepare

LEVELS = ("0.80", "0.90")
SAMPLERS = ("random", "gp", "tpe", "grid")
SMALL_GRID = """\
train.lr: {log: [1.0e-6, 1.0e-3], points: 3}
train.epochs: {int: [1, 10], points: 2}
train.unfreeze_epoch: {int: [0, 5], below: train.epochs, points: 2}
audio.crop: [2.0, 10.0]
"""
SHORT = "train.epochs: {int: [2, 4]}\n"
"""Epochs of `sharing`, so that live trials end within an hour."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["samplers", "sharing", "workers"])
    parser.add_argument("--data", required=True, help="as for sertune search")
    parser.add_argument("--encoder", help="a folder or name; sharing: without it wav2vec2-base's configuration")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), help="the first is the baseline")
    parser.add_argument("--trials", type=int, default=15)
    parser.add_argument("--clips", type=int, default=32, help="of sharing, evenly over the lengths")
    parser.add_argument("--workers", type=int, default=3, help="commands of workers")
    parser.add_argument("--storage", default="", help="of workers; empty: a Journal file")
    parser.add_argument("--out", help="folder to keep the searches in; those that are there are not run again")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="flags for every search; the last one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.out or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        {"samplers": samplers, "sharing": sharing, "workers": workers}[options.what](options, folder)


def search(folder: Path, flags: list[str]) -> dict[str, Any]:
    """The report of a search, which is run unless it is there; with the seconds of the whole command."""
    took = folder.with_suffix(".seconds")
    if not took.is_file():
        began = time.perf_counter()
        done = subprocess.run([*command(folder), *flags], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        took.write_text(str(time.perf_counter() - began), encoding="utf-8")
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {**report, "seconds": float(took.read_text(encoding="utf-8"))}


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "sertune", "search", "--out", str(folder)]


# -- samplers --------------------------------------------------------------------------------------------------------


def samplers(options: argparse.Namespace, folder: Path) -> None:
    """A row for each sampler, over all seeds."""
    print("| sampler | trials | best dev | test BCA | lowest to highest | gap | minutes | ratio | to .80 | to .90 |")
    print("|---" * 10 + "|")
    grid = folder / "grid.yaml"
    grid.write_text(SMALL_GRID, encoding="utf-8")
    base = 0.0
    for sampler in options.samplers:
        own = ["--space", str(grid)] if sampler == "grid" else ["--trials", str(options.trials)]
        reports = []
        for seed in options.seeds[:1] if sampler == "grid" else options.seeds:
            flags = ["--data", options.data, "--encoder", options.encoder, "--preset", "paper-d", "--seed", str(seed)]
            flags += ["--protocol", "paper-d", "--sampler", sampler, *own, *options.more]
            reports.append(search(folder / f"{sampler}-{seed}", flags))
        base = base or statistics.mean(report["seconds"] for report in reports)
        show_sampler(sampler, reports, base)


def show_sampler(sampler: str, reports: list[dict[str, Any]], base: float) -> None:
    found = [report["search"] for report in reports]
    dev = statistics.mean(own["best_dev"] for own in found)
    tests = [report["metrics"]["uar"]["value"] for report in reports]
    gap = statistics.mean(own["gap"] for own in found)
    seconds = statistics.mean(report["seconds"] for report in reports)
    times = [reached([own["times"][0][level] for own in found]) for level in LEVELS]
    print(
        f"| {sampler}, {len(reports)} seeds | {found[0]['trials']} | {dev:.3f} | {statistics.mean(tests):.3f} "
        f"| {min(tests):.3f} to {max(tests):.3f} | {gap:+.3f} | {seconds / 60:.1f} | {seconds / base:.2f} "
        f"| {times[0]} | {times[1]} |",
        flush=True,
    )


def reached(times: list[float | None]) -> str:
    """Median seconds of those that reached a score, and how many did."""
    known = [time for time in times if time is not None]
    return f"{statistics.median(known):.0f} s ({len(known)} of {len(times)})" if known else "never"


# -- sharing ---------------------------------------------------------------------------------------------------------


def sharing(options: argparse.Namespace, folder: Path) -> None:
    """Trials on kept states with pruning, and live without."""
    if not (folder / "data").is_dir():
        prepare(options, folder)
    space = folder / "short.yaml"
    space.write_text(SHORT, encoding="utf-8")
    flags = ["--data", str(folder / "data"), "--encoder", options.encoder or str(folder / "encoder")]
    flags += ["--preset", "method", "--space", str(space), "--protocol", "holdout", "--trials", str(options.trials)]
    flags += ["--confirm", "0", "--winner-seeds", "1", *options.more]
    cases = {
        "live, no pruning": ["--cache.states", "false", "--pruner", "none"],
        "kept, no pruning": ["--pruner", "none"],
        "kept, median": ["--pruner", "median"],
    }
    base = 0.0
    print("| states, pruning | trials ended early | seconds of trials, with states | whole command | ratio |")
    print("|---" * 5 + "|")
    for name, own in cases.items():
        report = search(folder / name.replace(", ", "-").replace(" ", "-"), [*flags, *own])
        found = report["search"]
        seconds = found["seconds_trials"] + found["seconds_states"]
        base = base or seconds
        print(
            f"| {name} | {found['pruned']} of {found['trials']} | {seconds:.0f} | {report['seconds']:.0f} "
            f"| {seconds / base:.3f} |",
            flush=True,
        )


# -- workers ---------------------------------------------------------------------------------------------------------


def workers(options: argparse.Namespace, folder: Path) -> None:
    """Several commands on one study, one killed in the middle; every trial is accounted for."""
    flags = ["--data", options.data, "--encoder", options.encoder, "--preset", "method", "--protocol", "holdout"]
    flags += ["--trials", str(options.trials), "--sampler", "random", "--workers", "1", "--confirm", "0"]
    flags += ["--winner-seeds", "1", "--cache.folder", str(folder / "states"), *options.more]
    alone = search(folder / "alone", [*flags, "--storage", str(folder / "alone.journal")])
    again = search(folder / "alone-again", [*flags, "--storage", str(folder / "alone-again.journal")])
    storage = options.storage or str(folder / "shared.journal")
    rows = together(options, folder, [*flags, "--storage", storage, "--study", f"bench-{os.getpid()}"])
    base = again["search"]["seconds_trials"]
    seconds = rows["seconds"]
    print("| | trials | completed | run twice to the end | seconds of the trials | trials a minute | ratio |")
    print("|---" * 7 + "|")
    for name, own in (("one worker, states anew", alone), ("one worker, states there", again)):
        taken, trials = own["search"]["seconds_trials"], own["search"]["trials"]
        print(
            f"| {name} | {trials} | {own['search']['complete']} | 0 | {taken:.0f} | {60 * trials / taken:.1f} "
            f"| {base / taken:.2f} |"
        )
    print(
        f"| {options.workers} workers, one killed | {rows['slots']} | {rows['complete']} | {rows['twice']} "
        f"| {seconds:.0f} | {60 * rows['slots'] / seconds:.1f} | {base / seconds:.2f} |"
    )
    print(f"killed after {rows['killed_at']:.0f} s; trials that its death cost and that were run again: {rows['lost']}")


def together(options: argparse.Namespace, folder: Path, flags: list[str]) -> dict[str, Any]:
    """Starts the commands, kills one once it is in a trial, waits for the others, and counts."""
    began = time.time()
    storage, study = flags[flags.index("--storage") + 1], flags[flags.index("--study") + 1]
    processes = []
    for place in range(options.workers):
        with (folder / f"worker-{place}.log").open("w") as log:
            processes.append(subprocess.Popen([*command(folder / f"shared-{place}"), *flags], stdout=log, stderr=log))
    victim = processes[0]
    while not has_begun(storage, study, victim.pid):
        time.sleep(0.5)
    killed = time.time() - began
    victim.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait()
    if any(process.returncode for process in processes[1:]):
        sys.exit("\n".join(file.read_text(encoding="utf-8") for file in folder.glob("worker-*.log")))
    trials = every_trial(storage, study)
    ended = [trial["slot"] for trial in trials if trial["state"] in ("COMPLETE", "PRUNED")]
    return {
        "slots": len({trial["slot"] for trial in trials if trial["slot"] is not None}),
        "complete": len(set(ended)),
        "twice": len(ended) - len(set(ended)),
        "lost": sum(trial["state"] == "FAIL" for trial in trials),
        "seconds": max(trial["ended"] for trial in trials) - min(trial["began"] for trial in trials),
        "killed_at": killed,
    }


def has_begun(storage: str, study: str, pid: int) -> bool:
    """Whether a process is in a trial."""
    return any(row["state"] == "RUNNING" and row["worker"].endswith(f":{pid}") for row in every_trial(storage, study))


def every_trial(storage: str, study: str) -> list[dict[str, Any]]:
    """All trials of a study, those that were given up too; none before it is there."""
    import optuna

    from sertune.train.search.store import WORKER, close_storage, open_storage, slots

    if "://" not in storage and not Path(storage).is_file():
        return []
    opened = open_storage(storage)
    if study not in optuna.get_all_study_names(opened):
        return []
    trials = optuna.load_study(study_name=study, storage=opened).get_trials(deepcopy=False)
    close_storage(opened)
    where = slots(trials)
    return [
        {
            "slot": where.get(trial.number),
            "state": trial.state.name,
            "worker": str((trial.user_attrs.get(WORKER) or {}).get("name")),
            "began": trial.datetime_start.timestamp() if trial.datetime_start else time.time(),
            "ended": trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0,
        }
        for trial in trials
    ]


if __name__ == "__main__":
    main()
