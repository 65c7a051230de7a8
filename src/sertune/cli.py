"""The command line: a name for each function. Heavy imports happen inside the command that needs them."""

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from sertune import __version__
from sertune.errors import SertuneError, unknown, unknown_flag
from sertune.progress import say

USAGE = """\
usage: sertune COMMAND ...

Fine-tune pre-trained speech encoders for speech emotion recognition, and say honestly how good the result is.

commands:
  train      train and test a model:  sertune train --data emodb:FOLDER --encoder NAME --out RUN
  compare    compare methods:         sertune compare --methods frozen partial-2 full --data D --out DIR
  search     search for settings:     sertune search --preset method --data D --encoder E --out DIR
  transfer   train here, test there:  sertune transfer --data A --data B [--data C ...] --out DIR
  evaluate   score a saved model:     sertune evaluate RUN --data D --out DIR
  audit      fairness and robustness: sertune audit RUN --data D --out DIR
  distil     shrink an encoder:       sertune distil --teacher E --data FOLDER --out DIR
  predict    predict files:           sertune predict RUN FILE|FOLDER ... [--json | --csv] [--as-rater NAME]
  merge      fold LoRA into weights:  sertune merge RUN --out FOLDER [--as-encoder]
  check      look for what is wrong with data, file by file
  raters     what can be known of annotators from tables alone:  sertune raters DATA [--out DIR]
  cache      states on disk:          sertune cache ls | verify | prune | build
  corpora    list the corpora that have a reader, or tell all of one:  sertune corpora [NAME]
  fetch      fetch a corpus that may be had freely:  sertune fetch NAME [--to FOLDER]
  demo       all of it in a minute, on a synthetic corpus, without a download

sertune COMMAND --help tells more of each; sertune --version prints the version.
"""


TRAIN_SWITCHES = """
Not settings:
  --print-config        Print all settings as YAML, which --config reads, and stop.
  --overwrite           Replace the run that is in --out.
  --dry-run             Try what it would cost (time, memory, size of the states, trainable parameters), and stop.
"""


def train(arguments: Sequence[str]) -> int:
    """Train, choose by dev, test once, save the model and the report."""
    from sertune import config as settings

    flags = list(arguments)
    if {"-h", "--help"} & set(flags):
        print(settings.flags_help() + TRAIN_SWITCHES, end="")
        return 0
    print_config = _take(flags, "--print-config")
    overwrite = _take(flags, "--overwrite")
    dry_run = _take(flags, "--dry-run")
    config = settings.from_flags(flags)
    if print_config:
        print(settings.dump_yaml(config), end="")
        return 0
    if not config.data:
        raise SertuneError("no data: say what to train on with --data, e.g. --data emodb:FOLDER, or try sertune demo")
    if dry_run:
        from sertune.train.plan import describe, plan

        print(describe(plan(config)))
        return 0
    run = run_and_report(config, overwrite=overwrite)
    print_results(run)
    return 0


def run_and_report(config: Any, *, overwrite: bool = False) -> Path:
    """A training run with its HTML report; returns the run folder."""
    from sertune.apps.report import write_report
    from sertune.train.run import train as train_run

    run = train_run(config, overwrite=overwrite)
    try:
        write_report(run)
    except SertuneError:
        (run / "report.json").unlink()  # without it the run is not finished, and the same command goes on
        raise
    return run


def print_results(folder: Path) -> None:
    """The headline, the warnings and where to look."""
    from sertune.apps.report import BESIDE, headline

    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    print(headline(report))
    chosen = next((row for row in report.get("baseline", []) if row["chosen"]), None)
    if chosen:
        print(f"frozen baseline ({chosen['name']}): {headline({**report, 'metrics': chosen['metrics']})}")
    for key, words in BESIDE.items():
        if key in report:
            print(f"{words}: {headline({**report, 'metrics': report[key]['metrics']})}")
    for warning in report["warnings"]:
        print(f"- {warning}")
    print(f"report: {folder / 'report.html'}")


COMPARE_HELP = """\
usage: sertune compare --data D --out DIR [--methods METHOD ...] [--seeds N ...] [...]

Train and test several methods on the same data, splits and seeds: quality with intervals and paired tests, time,
memory, parameters. The same command goes on after a stop; methods and seeds can be added to it.

  --methods METHOD ...  NAME, NAME-LAYERS or NAME-all, with suffixes: frozen partial-2 full lora-2@bf16
                        lora+prompt-all partial-2@cached@fp32. Names are those of sertune train --method.
                        @cached, @live: states of the frozen part are kept, or computed for every batch.
                        @fp32, @bf16, @fp16: precision. (default: {defaults})
  --seeds N ...         Seeds of every method. (default: that of --seed)

All other flags are those of sertune train --help and hold for every method, e.g. --method.lora.rank 16.
"""


def compare(arguments: Sequence[str]) -> int:
    """Several methods on the same data, splits and seeds."""
    from sertune import config as settings
    from sertune.train.compare import DEFAULT_METHODS, open_comparison, run_all, same_settings

    flags = list(arguments)
    if {"-h", "--help"} & set(flags):
        print(COMPARE_HELP.format(defaults=" ".join(DEFAULT_METHODS)), end="")
        return 0
    methods = _take_values(flags, "--methods")
    seeds = [_whole("--seeds", text) for text in _take_values(flags, "--seeds")]
    for flag in ("--method", "--method.name", "--overwrite", "--print-config"):
        if any(item.partition("=")[0] == flag for item in flags):
            hint = "; name methods with --methods" if flag.startswith("--method") else ""
            raise SertuneError(f"{flag}: is a flag of sertune train, not of sertune compare{hint}")
    base = settings.from_flags(flags)
    if not base.data:
        raise SertuneError("no data: say what to compare on with --data, e.g. --data emodb:FOLDER")
    comparison = open_comparison(base, methods, seeds)
    failures = run_all(comparison)
    from sertune.apps.compare import show, write_comparison

    failed = [(failure.label, failure.seed, failure.error) for failure in failures]
    show(write_comparison(comparison.folder, failed, same_settings(comparison)))
    print(f"report: {comparison.folder / 'report.html'}")
    if failures:
        first = failures[0]
        raise SertuneError(
            f"{len(failures)} of {len(comparison.variants)} methods failed: {first.label}, seed {first.seed}: "
            f"{first.error}; the others are in the report, and the same command tries again"
        )
    return 0


TRANSFER_HELP = """\
usage: sertune transfer --data A --data B [--data C ...] --out DIR [--adapt METHOD ...] [--leave-one-out] [...]

Train on each corpus, test on each other one: a matrix of figures with intervals. The diagonal is each run's own test,
on speakers that training left out. The same command goes on after a stop; adaptations and --leave-one-out can be
added to it.

  --adapt METHOD ...    Test every model also after label-free adaptation to the clips of the test: corpus, speaker,
                        centroids, neighbours. A matrix of its own for each, beside the plain one.
  --leave-one-out       Train also on all corpora but one, and test on that one.
  --weights N ...       Sampling weight of each --data in those runs, in their order. (default: all clips alike)
  --absent POLICY       A class that a corpus lacks. In tests as for sertune evaluate (default: mask), in runs on
                        several corpora as for sertune train (default: keep). Clips of a class that the model lacks
                        are left out; each cell says how many classes are left.

All other flags are those of sertune train --help and hold for every run, e.g. --label-map 4class --method frozen.
"""


def transfer(arguments: Sequence[str]) -> int:
    """Train on each corpus, test on each other one."""
    from sertune import config as settings

    flags = list(arguments)
    if {"-h", "--help"} & set(flags):
        print(TRANSFER_HELP, end="")
        return 0
    adapt = _take_values(flags, "--adapt")
    leave_one_out = _take(flags, "--leave-one-out")
    for flag in ("--overwrite", "--print-config", "--dry-run"):
        if any(item.partition("=")[0] == flag for item in flags):
            raise SertuneError(f"{flag}: is a flag of sertune train, not of sertune transfer")
    stated = any(item.partition("=")[0] == "--absent" for item in flags)
    base = settings.from_flags(flags)
    absent = base.absent if stated or base.absent != "keep" else "mask"
    from sertune.train.transfer import open_transfer, run_all

    plan = open_transfer(base, adapt, leave_one_out=leave_one_out, absent=absent)
    failed = [(failure.name, failure.error) for failure in run_all(plan, run_and_report)]
    from sertune.apps.transfer import run_tests, show, write_transfer

    failed += [(failure.name, failure.error) for failure in run_tests(plan.folder)]
    show(write_transfer(plan.folder, failed))
    print(f"report: {plan.folder / 'report.html'}")
    if failed:
        name, error = failed[0]
        raise SertuneError(
            f"{len(failed)} of the runs and tests failed, the first: {name}: {error}; the others are in the report, "
            "and the same command tries again"
        )
    return 0


SEARCH_HELP = """\
usage: sertune search --data D --encoder E --preset PRESET --out DIR [...]
       sertune search show DIR [--json]
       sertune search show --storage URL --study NAME [--json]

Search for settings on dev parts, train what wins anew, and test it once on what the search never saw. The same command
goes on after a stop, also with more trials; given on several machines with one --storage it makes them work together.

  --preset PRESET       paper-d: rate, epochs, unfreeze epoch, maximum length (arXiv 2510.07052). head: what is read of
                        a frozen encoder, and how. method: which method trains what, how fast, how regularised.
  --space FILE.yaml     Keys of sertune train with what they may be, beside the preset or instead of it, e.g.
                        train.lr: {{log: [1e-5, 1e-3]}}, method.name: [partial, lora], lora.rank: {{int: [2, 32]}}.
                        A value alone fixes its key; null takes it out of the preset.
  --sampler NAME        gp (Gaussian process), tpe, random, grid or cmaes. (default: gp)
  --pruner NAME         none, median or hyperband: end trials early that do worse than others. (default: none)
  --trials N            Trials of the search; of each search where --split has several folds. (default: 15; grid: all)
  --minutes M           Time for this command. With both, whichever ends first.
  --protocol NAME       nested: dev speakers in turn, --inner-folds of them, outside the test speakers. holdout: one dev
                        part of speakers. paper-d: 80/20 at random, dev cut from the 80. (default: nested)
  --inner-folds N       Folds of nested, against the luck of one dev part. (default: 4)
  --objectives NAME ... The score (uar, ccc), and what to keep small beside it: seconds, energy, parameters, latency,
                        size. Several give the Pareto front. (default: the score)
  --constraints C ...   Such as 'latency<20' (ms) 'size<10' (MiB).
  --confirm N           The N best trials, and the settings at the beginning, are scored again on other folds, which
                        choose: the best of many scores is the luckiest too. 0: the best score wins. (default: 3)
  --winner-seeds N      Seeds with which the winner is trained. (default: 3)
  --workers N           Trials side by side on this machine, sharing its threads. With several the order in which they
                        end decides what is tried next; 1 gives the same search every time. (default: the cores, at
                        most {most}; 1 on a GPU)
  --storage WHERE       A Journal file, or postgresql://USER:PASSWORD@HOST/DATABASE. (default: DIR/study.journal)
  --study NAME          Name of the study in the storage. (default: that of DIR)

All other flags are those of sertune train --help and hold for every trial. A flag for a key of the space fixes it.
show tells how far a search is, also while it runs.
"""


def search(arguments: Sequence[str]) -> int:
    """Search for settings."""
    flags = list(arguments)
    if {"-h", "--help"} & set(flags):
        print(SEARCH_HELP.format(most=4), end="")
        return 0
    if flags and flags[0] == "show":
        return _search_show(flags[1:])
    base, options = _search_options(flags)
    from sertune.train.search.run import run_search

    folder = run_search(base, options)
    if folder is None:
        return 0
    from sertune.apps.search import show, write_search

    print(show(write_search(folder)))
    print(f"report: {folder / 'report.html'}")
    return 0


SEARCH_NUMBERS = {
    "inner_folds": "--inner-folds",
    "confirm": "--confirm",
    "seeds": "--winner-seeds",
    "workers": "--workers",
}
"""Options of a search that are whole numbers."""


def _search_options(flags: list[str]) -> tuple[Any, Any]:
    """The settings that trials start from, and how to search."""
    from sertune import config as settings
    from sertune.train.search.options import SearchOptions

    space = _take_value(flags, "--space")
    minutes = _take_value(flags, "--minutes")
    trials = _take_value(flags, "--trials")
    sampler = _take_value(flags, "--sampler") or "gp"
    for flag in ("--overwrite", "--print-config", "--dry-run"):
        if any(item.partition("=")[0] == flag for item in flags):
            raise SertuneError(f"{flag}: is a flag of sertune train, not of sertune search")
    numbers: dict[str, Any] = {
        name: _whole(flag, text) for name, flag in SEARCH_NUMBERS.items() if (text := _take_value(flags, flag))
    }
    texts: dict[str, Any] = {
        name: text
        for name in ("preset", "pruner", "protocol", "storage", "study")
        if (text := _take_value(flags, f"--{name}"))
    }
    unlimited = not trials and (bool(minutes) or sampler == "grid")
    options = SearchOptions(
        space=settings.load_yaml(space) if space else {},
        sampler=sampler,
        trials=0 if unlimited else _whole("--trials", trials or "15"),
        minutes=_minutes(minutes) if minutes else 0.0,
        objectives=tuple(_take_values(flags, "--objectives")),
        constraints=tuple(_take_values(flags, "--constraints")),
        given=frozenset(settings.given_keys(flags)),
        **numbers,
        **texts,
    )
    if trials and options.trials == 0:
        raise SertuneError("--trials 0: a budget too small for one trial; expected 1 or more")
    base = settings.from_flags(flags)
    if not base.data:
        raise SertuneError("no data: say what to search on with --data, e.g. --data emodb:FOLDER")
    return base, options


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise SertuneError(f"--minutes {text}: expected a number above 0")
    return minutes


def _take_value(flags: list[str], flag: str) -> str:
    """Removes a flag with one value; the value, empty if it was not there."""
    values = _take_values(flags, flag)
    if len(values) > 1:
        raise SertuneError(f"{flag}: expected one value, found {len(values)}: {' '.join(values)}")
    return values[0] if values else ""


def _search_show(arguments: Sequence[str]) -> int:
    """How far a search is."""
    parser = _parser("search show", "How far a search is, also while it runs.")
    parser.add_argument("folder", nargs="?", help="the search's folder")
    parser.add_argument("--storage", default="", help="where the study is, if not in the folder")
    parser.add_argument("--study", default="", help="its name (default: that of the folder)")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    options = parser.parse_args(arguments)
    from sertune.apps.search import show_snapshot
    from sertune.train.search.run import snapshot

    found = snapshot(Path(options.folder) if options.folder else None, options.storage, options.study)
    print(json.dumps(found, indent=1, ensure_ascii=False) if options.json else show_snapshot(found))
    return 0


def _take_values(flags: list[str], flag: str) -> list[str]:
    """Removes a flag with one or more values; the values, none if it was not there."""
    values: list[str] = []
    rest: list[str] = []
    waiting = False  # for the first value
    inside = False
    for item in flags:
        name, equals, value = item.partition("=")
        if name == flag:
            values += [value] if equals else []
            waiting = inside = not equals
        elif inside and not item.startswith("--"):
            values.append(item)
            waiting = False
        else:
            if waiting:
                break
            inside = False
            rest.append(item)
    if waiting or "" in values:
        raise SertuneError(f"{flag}: expected a value")
    flags[:] = rest
    return values


def _whole(flag: str, text: str) -> int:
    """A whole number of 0 or more."""
    if not (text.isascii() and text.isdigit()):
        raise SertuneError(f"{flag}: expected whole numbers of 0 or more, found {text!r}")
    return int(text)


def distil(arguments: Sequence[str]) -> int:
    """Shrink an encoder, or an emotion model."""
    from sertune.train.distil.config import DISTIL

    flags = list(arguments)
    if {"-h", "--help"} & set(flags):
        print(DISTIL.flags_help() + DISTIL_SWITCHES, end="")
        return 0
    print_config = _take(flags, "--print-config")
    overwrite = _take(flags, "--overwrite")
    config = DISTIL.from_flags(flags)
    if print_config:
        from sertune.config import dump_yaml

        print(dump_yaml(config), end="")
        return 0
    run = distil_and_report(config, overwrite=overwrite)
    from sertune.apps.distil import show

    print(show(run))
    print(f"report: {run / 'report.html'}")
    return 0


def distil_and_report(config: Any, *, overwrite: bool = False) -> Path:
    """A distillation with its HTML report; returns the run folder."""
    from sertune.apps.distil import write_report
    from sertune.train.distil.run import distil as distil_run

    run = distil_run(config, overwrite=overwrite)
    write_report(run)
    return run


DISTIL_SWITCHES = """
Not settings:
  --print-config        Print all settings as YAML, which --config reads, and stop.
  --overwrite           Replace the run that is in --out.

OUT/encoder is a transformers folder for --encoder; of an emotion model OUT is also a model for sertune predict,
evaluate and audit.
"""


def evaluate(arguments: Sequence[str]) -> int:
    """Score a saved model on labelled data."""
    parser = _parser("evaluate", "Score a saved model on labelled data.")
    parser.add_argument("model", help="a run folder, its model/, or a model of SpeechBrain: its folder or hub name")
    parser.add_argument("--data", action="append", required=True, help="as for train; repeatable")
    parser.add_argument("--out", required=True, help="folder for report.json, report.html and predictions.parquet")
    _add_label_map(parser)
    parser.add_argument(
        "--absent", default="mask", choices=("keep", "mask", "drop"),
        help="a class of the model that the data lacks: keep: may be predicted, and is then wrong; mask: gets no "
        "probability (default); drop: taken out of the labels",
    )  # fmt: skip
    _add_adapt(parser)
    parser.add_argument("--encoder", help="where the base encoder is now, if it moved")
    parser.add_argument("--skip-bad", action="store_true", help="go on without files that can't be used")
    _add_columns(parser)
    options = parser.parse_args(_columns_as_pairs(arguments))
    from sertune.apps.evaluate import Options, check_out, read_for
    from sertune.apps.evaluate import evaluate as score
    from sertune.model.emotion_model import load_model

    check_out(Path(options.out))
    model = load_model(options.model, encoder=options.encoder)
    data = read_for(model, options.data, dict(options.columns), options.label_map)
    print_results(
        score(model, data, Path(options.out), Options(options.adapt, options.absent, skip_bad=options.skip_bad))
    )
    return 0


def _add_label_map(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--label-map", default="", metavar="MAP",
        help="as for train; none: labels as they are (default: the map that the model was trained with)",
    )  # fmt: skip


def _add_adapt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adapt", default="none", metavar="METHOD",
        help="label-free adaptation to the new clips: corpus, speaker, centroids or neighbours (default: none)",
    )  # fmt: skip


def audit(arguments: Sequence[str]) -> int:
    """Fairness and robustness of a saved model."""
    parser = _parser("audit", "How a saved model treats groups of people, and what it makes of distorted speech.")
    parser.add_argument("model", help="a run folder, its model/, or a model of SpeechBrain: its folder or hub name")
    parser.add_argument("--data", action="append", required=True, help="as for train; repeatable")
    parser.add_argument("--out", required=True, help="folder for report.json, report.html and predictions.parquet")
    parser.add_argument(
        "--groups", nargs="+", metavar="COLUMN",
        help="columns of the data to compare by (default: gender, language and age where there are groups)",
    )  # fmt: skip
    parser.add_argument(
        "--conditions", nargs="+", metavar="NAME",
        help="distortions such as telephone or babble-10, or kinds: noise level clipping bandwidth speed codec room "
        "faults (default: all)",
    )  # fmt: skip
    _add_label_map(parser)
    parser.add_argument("--clips", type=int, default=500, help="most clips to distort (default 500); groups take all")
    parser.add_argument("--seed", type=int, default=0, help="of the clips, the noise and the draws (default 0)")
    parser.add_argument("--encoder", help="where the base encoder is now, if it moved")
    parser.add_argument("--skip-bad", action="store_true", help="go on without files that can't be used")
    _add_columns(parser)
    options = parser.parse_args(_columns_as_pairs(arguments))
    from sertune.apps.audit import audit as look
    from sertune.apps.audit import check_request, show
    from sertune.apps.evaluate import read_for
    from sertune.model.emotion_model import load_model

    out = Path(options.out)
    check_request(out, options.conditions, options.clips)
    model = load_model(options.model, encoder=options.encoder)
    data = read_for(model, options.data, dict(options.columns), options.label_map)
    look(
        model, data.manifest, out, groups=options.groups, conditions=options.conditions, clips=options.clips,
        skip_bad=options.skip_bad, seed=options.seed,
    )  # fmt: skip
    show(json.loads((out / "report.json").read_text(encoding="utf-8")))
    print(f"report: {out / 'report.html'}")
    return 0


def predict(arguments: Sequence[str]) -> int:
    """Predict files and folders with a saved model."""
    parser = _parser("predict", "Predict files and folders with a saved model.")
    parser.add_argument("model", help="a run folder, its model/, or a model of SpeechBrain: its folder or hub name")
    parser.add_argument("files", nargs="*", help="audio files, or folders with audio")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--csv", action="store_true", help="CSV with a header")
    parser.add_argument(
        "--distribution", action="store_true",
        help="also the distribution of opinions: the cells of the arousal-valence plane (labels: their probabilities)",
    )  # fmt: skip
    parser.add_argument(
        "--as-rater", action="append", default=[], metavar="NAME",
        help="also what an annotator would say: a known one, or FILE.json of --save-rater; repeatable",
    )  # fmt: skip
    parser.add_argument("--raters", action="store_true", help="list the annotators that the model knows, and stop")
    parser.add_argument(
        "--like", metavar="RATINGS.csv",
        help="also what a new annotator would say, who gave these ratings: columns file, and arousal, valence ... or "
        "emotion",
    )  # fmt: skip
    parser.add_argument("--save-rater", metavar="FILE.json", help="keep the annotator of --like for --as-rater")
    _add_adapt(parser)
    parser.add_argument("--encoder", help="where the base encoder is now, if it moved")
    parser.add_argument("--skip-bad", action="store_true", help="go on after files that can't be used")
    options = parser.parse_args(arguments)
    if not (options.files or options.raters or options.like):
        parser.error("the following arguments are required: files")
    if options.save_rater and not options.like:
        parser.error("--save-rater: keeps the annotator of --like, which is missing")
    from sertune.apps.predict import check_ask, csv_columns, csv_row, in_words, predict_adapted, predict_files
    from sertune.model.emotion_model import load_model

    model = load_model(options.model, encoder=options.encoder)
    if options.raters:
        from sertune.apps.annotators import rater_rows, rater_table

        rows = rater_rows(model)
        print(json.dumps(rows, indent=1, ensure_ascii=False) if options.json else rater_table(rows))
        return 0
    ask = _asked(model, options)
    check_ask(model, ask, options.adapt)
    if not options.files:
        return 0
    if options.adapt == "none":
        results = predict_files(model, options.files, skip_bad=options.skip_bad, ask=ask)
    else:
        results = iter(predict_adapted(model, options.files, options.adapt, skip_bad=options.skip_bad, ask=ask))
    if options.csv:
        import csv

        writer = csv.DictWriter(sys.stdout, csv_columns(model, ask), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(csv_row(result) for result in results)
        return 0
    for result in results:
        print(json.dumps(result, ensure_ascii=False) if options.json else in_words(result), flush=True)
    return 0


def _asked(model: Any, options: argparse.Namespace) -> Any:
    """What is asked of the model beside its usual prediction; a new annotator is fitted, described and kept."""
    from sertune.apps.annotators import find_rater, fitted_words, save_rater
    from sertune.apps.predict import Ask, rater_like

    raters = [find_rater(model, name) for name in options.as_rater]
    if options.like is not None:
        new = rater_like(model, options.like)
        for line in fitted_words(new):
            say(line)
        if options.save_rater:
            save_rater(new, options.save_rater)
        raters.append(new)
    return Ask(options.distribution, tuple(raters))


def merge(arguments: Sequence[str]) -> int:
    """Fold LoRA's updates into the weights of a saved model."""
    parser = _parser("merge", "Fold LoRA's updates into the weights: a model of the same outputs whose layers trained.")
    parser.add_argument("model", help="run folder or its model/")
    parser.add_argument("--out", required=True, help="folder to make for the merged model")
    parser.add_argument("--encoder", help="where the base encoder is now, if it moved")
    parser.add_argument(
        "--as-encoder", action="store_true", help="also write the encoder to OUT/encoder, which transformers loads"
    )
    options = parser.parse_args(arguments)
    from sertune.files import check_writable, new_folder
    from sertune.model.emotion_model import load_model
    from sertune.model.merge import merge as fold_in
    from sertune.model.merge import save_encoder

    out = Path(options.out)
    check_writable(out)
    if out.is_dir() and any(out.iterdir()):
        raise SertuneError(f"--out {out}: is not empty; choose another folder")
    model = load_model(options.model, encoder=options.encoder)
    merged = fold_in(model)
    if merged is model and not options.as_encoder:
        raise SertuneError(
            f"{options.model}: method {model.spec.method.name} has no updates to merge; --as-encoder would write the "
            "encoder as it is"
        )
    with new_folder(out) as work:
        merged.save(work)
        if options.as_encoder:
            save_encoder(merged.encoder, work / "encoder")
    print(f"merged model: {out}" + (f"; encoder for transformers: {out / 'encoder'}" if options.as_encoder else ""))
    return 0


def check(arguments: Sequence[str]) -> int:
    """Look for what is wrong with data."""
    parser = _parser("check", "Read every file of a corpus or table, and say what is wrong, file by file.")
    parser.add_argument("data", nargs="+", help="as for train --data")
    parser.add_argument("--max-seconds", type=_seconds, default=60.0, help="longer clips are named (default 60)")
    parser.add_argument("--min-seconds", type=_seconds, default=0.1, help="shorter clips are named (default 0.1)")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    parser.add_argument("--split", metavar="NAME", help="what the parts of a split share (names: sertune train --help)")
    for name, kind in (("folds", int), ("test", float), ("dev", float), ("dev_speakers", int)):
        parser.add_argument(f"--split.{name}", dest=name, type=kind, metavar="N", help="as for train")
    parser.add_argument("--seed", type=int, default=0, help="of the split (default 0)")
    parser.add_argument("--label-map", default="", metavar="MAP", help="look at the split under this map, as for train")
    _add_columns(parser)
    options = parser.parse_args(_columns_as_pairs(arguments))
    from sertune.apps.check import audit, show, show_split, with_agreement
    from sertune.config import SplitConfig
    from sertune.corpora import read_all
    from sertune.corpora.reading import protocol_map
    from sertune.data.audit import check as look
    from sertune.data.label_map import apply_map, find_map
    from sertune.progress import progress

    if options.label_map and options.split is None:
        raise SertuneError("--label-map: is for a split; name one with --split")
    label_map = find_map(options.label_map) if options.label_map not in ("", "none") else None
    manifest = read_all(options.data, dict(options.columns), strict=False)
    done = 0
    with progress("Checking", len(manifest)) as advance:

        def follow(now: int, _: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        found = look(
            manifest, max_seconds=options.max_seconds, min_seconds=options.min_seconds, workers=2, progress=follow
        )
    found = with_agreement(manifest, found)
    given = {name: getattr(options, name) for name in ("folds", "test", "dev", "dev_speakers")}
    given = {name: value for name, value in given.items() if value is not None}
    if given and options.split is None:
        raise SertuneError(f"--split.{next(iter(given))}: there is no split to look at; name one with --split")
    split = None
    if options.split is not None:
        label_map = label_map if options.label_map else protocol_map(manifest, options.split)
        mapped = apply_map(manifest, label_map).manifest if label_map is not None else manifest
        split = audit(mapped, found, SplitConfig(name=options.split, **given), options.seed)
    if options.json:
        print(found.to_json(split))
    else:
        print("\n".join([show(manifest, found), *([show_split(split)] if split is not None else [])]))
    return 1 if any(problem.severity == "error" for problem in found.problems) else 0


def raters(arguments: Sequence[str]) -> int:
    """What can be known of annotators before anything is trained."""
    parser = _parser(
        "raters",
        "How much annotators rate, how far they agree, how they differ, and what a perfect model could reach; "
        "from tables alone, audio need not be there.",
    )
    parser.add_argument("data", nargs="+", help="as for train --data")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    parser.add_argument("--out", help="new folder for raters.csv, targets.parquet and report.json")
    _add_columns(parser)
    options = parser.parse_args(_columns_as_pairs(arguments))
    from time import perf_counter

    from sertune.apps.raters import as_json, check_out, show, survey
    from sertune.corpora import read_all

    out = Path(options.out) if options.out is not None else None
    if out is not None:
        check_out(out)
    began = perf_counter()
    manifest = read_all(options.data, dict(options.columns), strict=False)
    report = survey(manifest, out, spent=perf_counter() - began)
    print(as_json(report) if options.json else show(report))
    if out is not None and not options.json:
        print(f"tables: {out / 'raters.csv'}, {out / 'targets.parquet'}")
    return 0


CACHE_HELP = """\
usage: sertune cache ls [--json]
       sertune cache verify [--repair]
       sertune cache prune [ID ...] [--older DAYS] [--to GIB] [--all]
       sertune cache build --data D [...]

States of the frozen part of an encoder, kept on disk for all runs.

  ls      what is there, the last used first
  verify  read everything and name what is damaged (status 1); --repair removes it, and it is computed again when needed
  prune   remove sets by the beginning of their ids, those not used for DAYS, or all; with --to the least recently used
          until the folder takes at most GIB
  build   compute the states that sertune train with the same flags would need, and stop

The folder is --folder FOLDER (build: --cache.folder FOLDER), or else the environment variable SERTUNE_CACHE.
"""


def cache(arguments: Sequence[str]) -> int:
    """States on disk."""
    actions = {"ls": _cache_ls, "verify": _cache_verify, "prune": _cache_prune, "build": _cache_build}
    if not arguments or {"-h", "--help"} & set(arguments):
        print(CACHE_HELP, end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] not in actions:
        raise unknown("cache command", arguments[0], actions)
    return actions[arguments[0]](arguments[1:])


def _cache_parser(name: str) -> "_Parser":
    parser = _parser(f"cache {name}", "See sertune cache --help.")
    parser.add_argument("--folder", default="", help="the cache folder (default: SERTUNE_CACHE)")
    return parser


def _cache_ls(arguments: Sequence[str]) -> int:
    parser = _cache_parser("ls")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parser.parse_args(arguments)
    from sertune.train.cache_tools import as_json, as_table, find_cache, list_sets

    folder = find_cache(options.folder)
    sets = list_sets(folder)
    print(as_json(sets) if options.json else as_table(sets) if sets else f"{folder}: no states")
    return 0


def _cache_verify(arguments: Sequence[str]) -> int:
    parser = _cache_parser("verify")
    parser.add_argument("--repair", action="store_true", help="remove what is damaged")
    options = parser.parse_args(arguments)
    from sertune.train.cache_tools import find_cache, verify

    folder = find_cache(options.folder)
    damaged = verify(folder, repair=options.repair)
    for file, reason in damaged:
        print(f"{file}: damaged ({reason}){'; removed' if options.repair else ''}")
    if not damaged:
        print(f"{folder}: all sound")
    return 1 if damaged and not options.repair else 0


def _cache_prune(arguments: Sequence[str]) -> int:
    parser = _cache_parser("prune")
    parser.add_argument("ids", nargs="*", metavar="ID", help="beginnings of the ids that ls shows")
    parser.add_argument("--older", type=_number, metavar="DAYS", help="sets not used for this long")
    parser.add_argument("--to", type=_number, metavar="GIB", help="until the folder takes no more")
    parser.add_argument("--all", action="store_true", help="all sets")
    options = parser.parse_args(arguments)
    if not (options.ids or options.all or options.older is not None or options.to is not None):
        raise SertuneError("cache prune: say what to remove: ids that sertune cache ls shows, --older, --to or --all")
    from sertune.train.cache_tools import find_cache, prune

    folder = find_cache(options.folder)
    removed = prune(folder, options.ids, older=options.older, to=options.to)
    for entry in removed:
        print(f"removed {entry.id}: {entry.nbytes / 2**20:.1f} MiB")
    if not removed:
        print(f"{folder}: nothing to remove")
    return 0


def _cache_build(arguments: Sequence[str]) -> int:
    from sertune import config as settings
    from sertune.train.cache_tools import build

    config = settings.from_flags(list(arguments))
    if not config.data:
        raise SertuneError("no data: say whose states to build with --data, e.g. --data emodb:FOLDER")
    states, seconds = build(config)
    print(
        f"{len(states.digests)} clips, {states.disk_bytes / 2**20:.1f} MiB on disk; {states.passes} passes through the "
        f"encoder, {seconds:.1f} s"
    )
    return 0


def _number(text: str, expected: str = "a number of 0 or more") -> float:
    """A number of 0 or more for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
    return number


def corpora(arguments: Sequence[str]) -> int:
    """List the corpora that have a reader."""
    parser = _parser("corpora", "List the corpora that have a reader, or tell all of one.")
    parser.add_argument("name", nargs="?", help="a corpus, to tell all of it")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    options = parser.parse_args(arguments)
    from sertune.apps.corpora import about, as_data, table
    from sertune.corpora import corpus, list_corpora

    known = [corpus(options.name).INFO] if options.name else list_corpora()
    if options.json:
        data = [as_data(info) for info in known]
        print(json.dumps(data[0] if options.name else data, indent=1, ensure_ascii=False))
    else:
        print(about(options.name) if options.name else table(known))
    return 0


def fetch(arguments: Sequence[str]) -> int:
    """Fetch a corpus that may be had freely."""
    parser = _parser("fetch", "Fetch a corpus that may be had freely, or say how to get it.")
    parser.add_argument("name", help="a corpus; sertune corpora lists them")
    parser.add_argument("--to", metavar="FOLDER", help="folder to make for it (default: its name)")
    parser.add_argument("--yes", action="store_true", help="agree to its licence, which is shown first")
    options = parser.parse_args(arguments)
    from sertune.corpora.fetch import fetch as fetch_corpus

    folder = Path(options.to or options.name)
    count = fetch_corpus(options.name, folder, yes=options.yes)
    print(f"{options.name}: {count} utterances; --data {options.name}:{folder}")
    return 0


def demo(arguments: Sequence[str]) -> int:
    """Everything in a minute."""
    parser = _parser("demo", "Make a synthetic corpus, train, test, report and predict; no download.")
    parser.add_argument("--out", default="demo", help="folder for all of it (default: demo)")
    options = parser.parse_args(arguments)
    from sertune.apps.demo import run_demo

    run_demo(Path(options.out), run_and_report)
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "compare": compare,
    "search": search,
    "transfer": transfer,
    "distil": distil,
    "evaluate": evaluate,
    "audit": audit,
    "predict": predict,
    "merge": merge,
    "check": check,
    "raters": raters,
    "cache": cache,
    "corpora": corpora,
    "fetch": fetch,
    "demo": demo,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; a user's mistake is one line on standard error and a non-zero status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(USAGE, end="", file=sys.stdout if given else sys.stderr)
        return 0 if given else 2
    if given[0] == "--version":
        print(f"sertune {__version__}")
        return 0
    try:
        if given[0] not in COMMANDS:
            raise unknown("command", given[0], COMMANDS)
        return COMMANDS[given[0]](given[1:])
    except SertuneError as error:
        return _fail(str(error))
    except BrokenPipeError:
        raise  # the reader of a pipe went away, which is no mistake; see `entry`
    except OSError as error:
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}")
    except UnicodeEncodeError as error:
        return _fail(f"a name is not valid UTF-8 and can't be written down ({error.object!a}); rename the file")
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        smaller = SMALLER.get(given[0], "batch of files")
        return _fail(f"not enough memory ({str(error) or 'none left'}); try again with a smaller {smaller}")
    except KeyboardInterrupt:
        return _fail("stopped; the same command goes on from there" if given[0] in GOES_ON else "stopped", 130)


GOES_ON = ("train", "compare", "search", "transfer", "distil", "cache", "fetch")
"""Commands that go on where they were stopped."""

SMALLER = {
    "train": "--train.batch_seconds or --audio.crop",
    "transfer": "--train.batch_seconds or --audio.crop",
    "search": "--train.batch_seconds or --audio.crop",
    "distil": "--train.batch_seconds or --audio.crop",
    "check": "--max-seconds",
}
"""What needs less memory, by command."""


def _out_of_memory(error: Exception) -> bool:
    """Python's error or one of torch's, told by name and words so that torch need not be imported."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "t allocate memory" in str(error)


def _fail(message: str, status: int = 1) -> int:
    print(f"sertune: {' '.join(message.split())}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, with the nearest flag for one that is unknown."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but a flag that isn't known comes before an argument that is missing."""
        known = [flag for action in self._actions for flag in action.option_strings]
        for item in takewhile(lambda item: item != "--", args):
            flag = item.partition("=")[0]
            if flag.startswith("--") and flag not in known:
                raise unknown_flag(flag, known, f"{self.prog} --help")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> Any:
        """Raises what argparse would print with its usage."""
        raise SertuneError(f"{message}; {self.prog} --help tells more")


def _parser(name: str, description: str) -> _Parser:
    return _Parser(prog=f"sertune {name}", description=description, allow_abbrev=False)


def _seconds(text: str) -> float:
    """A length of time for argparse."""
    return _number(text, "seconds")


def _take(flags: list[str], flag: str) -> bool:
    """Removes a switch that is not a setting; whether it was there."""
    found = flag in flags
    flags[:] = [item for item in flags if item != flag]
    return found


def _add_columns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--columns", action="append", nargs=2, default=[], metavar=("NAME", "COLUMN"),
        help="name of a table's column, e.g. --columns.emotion my_label",
    )  # fmt: skip


def _columns_as_pairs(arguments: Sequence[str]) -> list[str]:
    """``--columns.emotion my_label`` as argparse can read it."""
    flags: list[str] = []
    rest = iter(arguments)
    for item in rest:
        if item.startswith("--columns."):
            name, equals, value = item.removeprefix("--columns.").partition("=")
            column = value if equals else next(rest, "")
            if not column or (not equals and column.startswith("--")):
                raise SertuneError(f"--columns.{name}: expected the name of a column")
            flags += ["--columns", name, column]
        else:
            flags.append(item)
    return flags


def entry() -> None:
    """The ``sertune`` command."""
    if sys.stdout is None:  # closed by whoever started this
        sys.stdout = io.StringIO()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be valid text
    status = 0
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe went away
        status = 141
    except OSError as error:
        status = status or _fail(f"output: {error.strerror}")
    else:
        sys.exit(status)
    # what is left of the output has nowhere to go; Python would try once more and show a trace
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
