"""The table of a comparison of methods: what each reaches and what it costs, as JSON, CSV, HTML and text.

It reads the finished runs in ``DIR/runs/LABEL/seed-N`` and what ``DIR/compare.yaml`` names. Paper A's table (arXiv
2503.03756) for any corpus and encoder.
"""

import csv
import datetime
import io
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from sertune import __version__
from sertune.apps.report import MINUS, NONE, Axis, Mark, Plot, bracket, metric_name, number, plain, seconds, template
from sertune.config import load_yaml
from sertune.errors import SertuneError
from sertune.files import replacing
from sertune.metrics.intervals import RESAMPLES
from sertune.metrics.repeated import Resampled, mean_of
from sertune.metrics.seeds import finite_or_none, metrics_over_seeds, scores_of_runs
from sertune.metrics.summary import lower_is_better, main_metrics

SOLVED = "solved"
"""Shown instead of the time per epoch of a method that has none."""

_Dict = dict[str, Any]
_Key = tuple[str, int]


@dataclass
class _Run:
    """One finished run: its report, its predictions on test, and what its folder tells."""

    report: _Dict
    table: pd.DataFrame
    settings: _Dict
    model_bytes: int


def write_comparison(
    folder: Path, failures: Iterable[tuple[str, int, str]] = (), warnings: Iterable[str] = ()
) -> _Dict:
    """Write ``report.json``, ``table.csv`` and ``report.html`` of a comparison.

    Args:
        folder: with ``compare.yaml`` and the runs it names.
        failures: label, seed and error of the runs that failed.
        warnings: to show beside those of the runs.

    Returns:
        The report. ``methods`` has a row for each method: ``metrics.<name>`` = {``value``: the mean over seeds,
        ``low``, ``high``: its 95 % interval, ``spread``: the sample standard deviation over seeds, ``seeds``}, ``dev``,
        ``cost``. ``differences.<metric>[i][j]`` is method i minus method j: {``value``, ``low``, ``high``, ``p``}.

    Raises:
        SertuneError: no run is finished, or a file can't be read or written.
    """
    listed = load_yaml(folder / "compare.yaml")
    failed = [{"method": label, "seed": seed, "error": error} for label, seed, error in failures]
    runs = {
        (label, seed): found
        for label in listed["methods"]
        for seed in listed["seeds"]
        if (found := _read_run(folder / "runs" / label / f"seed-{seed}")) is not None
    }
    if not runs:
        why = f": {failed[0]['method']}, seed {failed[0]['seed']}: {failed[0]['error']}" if failed else ""
        raise SertuneError(f"{folder}: no run of the comparison is finished{why}")
    report = _report(runs, failed, list(warnings))
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    page = template("compare.html.jinja").render(_view(report, (folder / "compare.yaml").read_text(encoding="utf-8")))
    for name, content in (("table.csv", _csv(report)), ("report.html", page), ("report.json", text)):
        with replacing(folder / name) as part:
            part.write_bytes(content.encode("utf-8", errors="replace"))
    return report


# Reading


def _read_run(run: Path) -> _Run | None:
    """A run; None if it is not finished."""
    if not (run / "report.json").is_file():
        return None
    try:
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
        table = pd.read_parquet(run / "predictions.parquet")
    except (OSError, ValueError) as error:
        raise SertuneError(
            f"{run}: can't be read ({' '.join(str(error).split())}); move it away to run it again"
        ) from None
    size = sum(file.stat().st_size for file in (run / "model").rglob("*") if file.is_file())
    return _Run(report, table, load_yaml(run / "config.yaml"), size)


def _on_common_clips(runs: Mapping[_Key, _Run]) -> tuple[dict[_Key, pd.DataFrame], list[str]]:
    """The predictions of every run on the clips that all methods of its seed have, and a warning if these are fewer."""
    tables: dict[_Key, pd.DataFrame] = {}
    dropped = 0
    for seed in {seed for _, seed in runs}:
        alike = {key: run.table for key, run in runs.items() if key[1] == seed}
        common = set.intersection(*(set(table["utterance"]) for table in alike.values()))
        for key, table in alike.items():
            tables[key] = table[table["utterance"].isin(common)]
            dropped += len(table) - len(tables[key])
    said = "some methods have no prediction for some clips (see their runs' skipped files); only the clips of all count"
    return {key: tables[key] for key in runs}, [said] if dropped else []


# Figures


def _report(runs: Mapping[_Key, _Run], failed: list[_Dict], warnings: list[str]) -> _Dict:
    labels = list(dict.fromkeys(label for label, _ in runs))
    seeds = list(dict.fromkeys(seed for _, seed in runs))
    first = next(iter(runs.values())).report
    task = first["task"]
    tables, missing = _on_common_clips(runs)
    scores = scores_of_runs(tables, task, seeds[0])
    methods = [_method(label, {seed: runs[label, seed] for seed in seeds if (label, seed) in runs}) for label in labels]
    for method in methods:
        method["metrics"] = metrics_over_seeds({seed: scores[method["label"], seed] for seed in method["seeds"]})
    reference, why = _reference(methods)
    for method in methods:
        for key in ("seconds_per_epoch", "seconds_total"):
            of = reference["cost"][key] if reference else 0.0
            own = method["cost"][key]
            method["cost"]["speedup" if key == "seconds_per_epoch" else "speedup_total"] = of / own if own else None
    said = [warning for run in runs.values() for warning in run.report["warnings"]]
    lost = [f"{row['method']}, seed {row['seed']} failed: {row['error']}" for row in failed]
    return {
        "format": 1,
        "sertune": __version__,
        "kind": "compare",
        "name": f"{_names(first)}, {_encoder(first)}: {len(methods)} methods",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "task": task,
        "seeds": seeds,
        "methods": methods,
        "reference": reference["label"] if reference else None,
        "reference_why": why,
        "differences": {name: _differences(labels, seeds, scores, name) for name in main_metrics(task)},
        "baseline": _baseline(runs, task),
        "cache_folder": any(bool(run.settings["cache"]["folder"]) for run in runs.values()),
        "protocol": _protocol(tables, first, seeds, next(iter(scores.values()))),
        "data": first["data"],
        "encoder": first["encoder"],
        "machine": first["machine"],
        "warnings": list(dict.fromkeys([*lost, *warnings, *missing, *said])),
        "failed": failed,
    }


def _names(report: _Dict) -> str:
    return " and ".join(str(name) for name in report["data"]["names"])


def _encoder(report: _Dict) -> str:
    """The encoder's name; of a folder only the last part."""
    path = PurePath(str(report["encoder"]["name"]))
    return path.name if path.is_absolute() or str(path).startswith(".") else str(path)


def _method(label: str, runs: Mapping[int, _Run]) -> _Dict:
    """What a method is and costs; its seeds are those that are finished."""
    reports = [run.report for run in runs.values()]
    folds = [fold for report in reports for fold in report["folds"]]
    epochs = [fold["train_seconds"] / fold["epochs"] for fold in folds if fold["epochs"]]
    dev = {seed: _mean(f["dev_score"] for f in run.report["folds"] if f["test"]) for seed, run in runs.items()}
    whole = [
        max(
            report["cost"]["seconds_total"],
            report["cost"]["seconds_states"] + sum(f["seconds"] for f in report["folds"]),
        )
        for report in reports  # a run that was stopped counts in seconds_total only what came after
    ]
    cost = reports[0]["cost"]
    return {
        "label": label,
        "method": reports[0]["method"],
        "precision": reports[0]["machine"]["precision"],
        "cache": bool(next(iter(runs.values())).settings["cache"]["states"]),
        "seeds": list(runs),
        "dev": {"value": _mean(dev.values()), "seeds": {str(seed): value for seed, value in dev.items()}},
        "cost": {
            "seconds_per_epoch": statistics.median(epochs) if epochs else 0.0,
            "seconds_total": _mean(whole),
            "seconds_states": _mean(report["cost"]["seconds_states"] for report in reports),
            "peak_memory_mib": max(report["cost"]["peak_memory_mib"] for report in reports),
            "trainable_parameters": cost["trainable_parameters"],
            "total_parameters": cost["total_parameters"],
            "model_bytes": max(run.model_bytes for run in runs.values()),
            "states_mib": max(report["cost"]["states_mib"] for report in reports),
        },
    }


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None


def _reference(methods: Sequence[_Dict]) -> tuple[_Dict | None, str]:
    """The method that speed-ups are against, and why it is this one."""
    trained = [method for method in methods if method["cost"]["seconds_per_epoch"]]
    if not trained:
        return None, "no method trains by epochs"
    full = [method for method in trained if method["method"]["name"] == "full"]
    slowest = max(full or trained, key=lambda method: float(method["cost"]["seconds_per_epoch"]))
    if not full:
        return slowest, "the slowest, as full is not compared"
    return slowest, "full fine-tuning" if len(full) == 1 else "the slowest full fine-tuning"


def _differences(
    labels: Sequence[str], seeds: Sequence[int], scores: Mapping[_Key, Mapping[str, Resampled]], name: str
) -> list[list[_Dict | None]]:
    """Row minus column, over the seeds that both have; None on the diagonal and where no seed is shared."""

    def cell(row: str, column: str) -> _Dict | None:
        shared = [seed for seed in seeds if (row, seed) in scores and (column, seed) in scores]
        if row == column or not shared:
            return None
        one, other = (mean_of([scores[label, seed][name] for seed in shared]) for label in (row, column))
        found = one.minus(other)
        return {key: finite_or_none(getattr(found, key)) for key in ("value", "low", "high", "p")}

    return [[cell(row, column) for column in labels] for row in labels]


def _baseline(runs: Mapping[_Key, _Run], task: _Dict) -> _Dict | None:
    """The frozen baseline that dev chooses, of the runs that scored it; the mean over their seeds."""
    chosen = {
        seed: row for (_, seed), run in runs.items() for row in run.report["baseline"] if row["chosen"]
    }  # one run of each seed has it
    if not chosen:
        return None
    return {
        "names": list(dict.fromkeys(row["name"] for row in chosen.values())),
        "seeds": list(chosen),
        "metrics": {
            name: _mean(row["metrics"][name]["value"] for row in chosen.values()) for name in main_metrics(task)
        },
        "scored_in": [label for (label, _), run in runs.items() if run.report["baseline"]],
    }


def _protocol(
    tables: Mapping[_Key, pd.DataFrame], first: _Dict, seeds: Sequence[int], scores: Mapping[str, Resampled]
) -> _Dict:
    """The protocol of the runs, how seeds are treated and what the figures are, in words."""
    unit = next(iter(scores.values()))
    by_seed: dict[int, frozenset[str]] = {seed: frozenset(table["utterance"]) for (_, seed), table in tables.items()}
    text = str(first["protocol"]["text"]).rstrip(".")
    # with several seeds the details of the first one's split need not be those of the others
    alike = len(set(by_seed.values())) == 1
    drawn = "All seeds test the same clips" if alike else "Each seed draws its own test part"
    several = len(seeds) > 1
    interval = f"95 % percentile bootstrap over {unit.clusters} {unit.unit}, {RESAMPLES} resamples"
    return {
        "text": text,
        "split": first["protocol"]["split"],
        "seeds": f"{drawn}, and every method has the same split with the same seed" if several else "",
        "same_test": alike,
        "selection": first["protocol"]["selection"],
        "interval": interval,
        "treatment": (
            "A score is the mean over seeds of each seed's score on all its test clips; the spread is the sample "
            f"standard deviation over seeds. The bootstrap draws {unit.unit} jointly for all methods and seeds and "
            "averages over the seeds within each resample; seeds are not drawn."
            if several
            else f"The bootstrap draws {unit.unit} jointly for all methods."
        ),
        "speaker_independent": first["protocol"]["speaker_independent"],
        "notes": first["protocol"]["notes"],
    }


# Words


def headline(report: _Dict) -> list[str]:
    """What the comparison shows, in one or two plain sentences."""
    methods = report["methods"]
    best = max(methods, key=lambda m: (m["dev"]["value"] or -math.inf, -m["cost"]["seconds_per_epoch"]))
    reference = next((m for m in methods if m["label"] == report["reference"]), None)
    lead = " is the best on dev and" if len(methods) > 1 else ""
    sentence = f"{best['label']}{lead} reaches {_reached(report, best)} on test"
    if reference and reference is not best:
        sentence += f"; {reference['label']} reaches {_reached(report, reference)}{_paired(report, best, reference)}"
    sentences = [sentence + "."]
    trained = [m for m in methods if m["cost"]["seconds_per_epoch"]]
    if not reference or len(trained) < 2:
        return sentences
    fastest = min(trained, key=lambda m: float(m["cost"]["seconds_per_epoch"]))
    gain = f"{fastest['cost']['speedup']:.3g} times as fast as one of {reference['label']}"
    text = f"An epoch of {fastest['label']} is {gain}"
    if fastest is not best:
        text += f"; it reaches {_reached(report, fastest)}{_paired(report, fastest, reference)}"
    return [*sentences, text + "."]


def _reached(report: _Dict, method: _Dict) -> str:
    parts = []
    for name in main_metrics(report["task"]):
        entry = method["metrics"][name]
        interval = bracket(name, entry["low"], entry["high"])
        parts.append(f"{metric_name(name)} {number(name, entry['value'])} {interval}".strip())
    return ", ".join(parts)


def _paired(report: _Dict, one: _Dict, other: _Dict) -> str:
    """ ", a paired difference of ..." of two methods."""
    place = {method["label"]: i for i, method in enumerate(report["methods"])}
    several = len(main_metrics(report["task"])) > 1
    parts = []
    for name, matrix in report["differences"].items():
        cell = matrix[place[one["label"]]][place[other["label"]]]
        if cell is None or cell["value"] is None:
            continue
        text = f"{signed(name, cell['value'])} {bracket(name, cell['low'], cell['high'])}"
        parts.append(f"{text} in {metric_name(name)}" if several else text)
    return f", a paired difference of {', '.join(parts)}" if parts else ""


def signed(name: str, value: float | None) -> str:
    """A difference as text, with its sign: "+.012"."""
    text = number(name, value)
    return f"+{text}" if value is not None and value > 0 and text.strip(".0") else text


def epoch_seconds(value: float) -> str:
    """The time of an epoch as text, "0.043 s"; "solved" where a method has no epochs."""
    if not value:
        return SOLVED
    return seconds(value) if value >= 10 else f"{value:.2g} s"


def _times(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}×" if value < 100 else f"{value:,.0f}×"


def _mib(value: float) -> str:
    if value < 0.1:
        return f"{value * 1024:.0f} KiB"
    return f"{value:,.0f} MiB" if value >= 10 else f"{value:.1f} MiB"


def _scored(name: str, entry: _Dict) -> str:
    return f"{number(name, entry['value'])} {bracket(name, entry['low'], entry['high'])}".strip()


_COST: dict[str, tuple[str, Callable[[Any], str]]] = {
    "seconds_per_epoch": ("Epoch", epoch_seconds),
    "speedup": ("Speed-up", _times),
    "seconds_total": ("Run", seconds),
    "peak_memory_mib": ("Peak memory", _mib),
    "trainable_parameters": ("Trainable", plain),
    "model_bytes": ("Model", lambda value: _mib(value / 2**20)),
    "states_mib": ("States", _mib),
}
"""Columns of cost: header and text."""


def text_table(report: _Dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, as text."""
    names = main_metrics(report["task"])
    spread = len(report["seeds"]) > 1
    header = ["Method"]
    for name in names:
        header += [f"{metric_name(name)} [95 %]"] + (["Spread"] if spread else [])
    rows = []
    for method in report["methods"]:
        row = [method["label"]]
        for name in names:
            entry = method["metrics"][name]
            row += [_scored(name, entry)] + ([number(name, entry["spread"])] if spread else [])
        row += [number(names[0], method["dev"]["value"])]
        rows.append(row + [show(method["cost"][key]) for key, (_, show) in _COST.items()])
    return [*header, "Dev", *(title for title, _ in _COST.values())], rows


_LEAST = ("States", "Model", "Run", "Dev", "Spread", "Peak memory")
"""Columns that a narrow terminal goes without, the first ones first; the files have them all."""


def show(report: _Dict) -> None:
    """Prints the headline and the table: on a terminal what fits its width, elsewhere all as aligned text."""
    header, rows = text_table(report)
    for sentence in headline(report):
        print(sentence.replace(MINUS, "-"))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        console = Console(markup=False)
        kept = _fitting([header, *rows], console.width)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for i in kept:
            table.add_column(header[i], justify="right" if i else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(row[i] for i in kept))
        console.print(table)
    else:
        widths = _widths([header, *rows])
        for row in [header, *rows]:
            cells = [row[0].ljust(widths[0]), *(c.rjust(width) for c, width in zip(row[1:], widths[1:], strict=True))]
            print("  ".join(cells).replace(MINUS, "-"))
    if report["reference"]:
        print(f"Speed-up is against {report['reference']} ({report['reference_why']}).")
    for warning in report["warnings"]:
        print(f"- {warning}")


def _widths(rows: list[list[str]]) -> list[int]:
    return [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]


def _fitting(rows: list[list[str]], width: int) -> list[int]:
    """The columns that stay where a table of text (its header first) has this much room."""
    widths = _widths(rows)
    kept = list(range(len(widths)))
    for name in _LEAST:
        if sum(widths[i] + 2 for i in kept) - 2 > width:
            kept = [i for i in kept if rows[0][i] != name]
    return kept


def _csv(report: _Dict) -> str:
    """One row for each method, with every figure in full."""
    rows = []
    for method in report["methods"]:
        row: _Dict = {"method": method["label"], "precision": method["precision"], "seeds": len(method["seeds"])}
        for name, entry in method["metrics"].items():
            row |= {name: entry["value"]} | {f"{name}_{key}": entry[key] for key in ("low", "high", "spread")}
        rows.append({**row, "dev": method["dev"]["value"], **method["cost"]})
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


# HTML


def _view(report: _Dict, settings: str) -> _Dict:
    """All that the template shows, as text and positions."""
    names = main_metrics(report["task"])
    columns = [_quality(report, name) for name in names]
    return {
        "title": report["name"],
        "created": report["created"].replace("T", " ").replace("+00:00", " UTC"),
        "version": report["sertune"],
        "sentences": headline(report),
        "warnings": report["warnings"],
        "seeds": len(report["seeds"]),
        "columns": columns,
        "methods": [method["label"] for method in report["methods"]],
        "dev": [number(names[0], method["dev"]["value"]) for method in report["methods"]],
        "reference": report["reference"],
        "costs": {
            "head": [title for title, _ in _COST.values()],
            "rows": [[text(m["cost"][key]) for key, (_, text) in _COST.items()] for m in report["methods"]],
        },
        "cost_note": _cost_note(report),
        "plots": [plot for name in names for plot in _plots(report, name)],
        "matrices": [_matrix(report, name) for name in names],
        "baseline": _baseline_text(report),
        "protocol": _protocol_text(report["protocol"]),
        "facts_shown": _facts(report),
        "settings": settings.strip(),
    }


def _quality(report: _Dict, name: str) -> _Dict:
    entries = [method["metrics"][name] for method in report["methods"]]
    axis = Axis.over([entry[key] for entry in entries for key in ("value", "low", "high")], 4)
    several = len(report["seeds"]) > 1
    return {
        "name": metric_name(name),
        "ticks": axis.percent_ticks(),
        "strips": [axis.strip(name, entry) for entry in entries],
        "spreads": [
            f"± {number(name, entry['spread'])}" if several and entry["spread"] is not None else "" for entry in entries
        ],
    }


def _cost_note(report: _Dict) -> str:
    parts = [
        "Epoch: the median over folds and seeds, without scoring. Run: states, training, scoring and all folds, "
        "the mean over seeds. Peak memory is that of the run's own process, or of the GPU. Trainable: parameters. "
        "Model: its folder on disk, without the base encoder. States: what is kept of the frozen part."
    ]
    if report["reference"]:
        parts.append(f"Speed-up is that of an epoch against {report['reference']}: {report['reference_why']}.")
    if report["baseline"]:
        within = ", ".join(dict.fromkeys(report["baseline"]["scored_in"]))
        parts.append(f"The time of the frozen baseline is in the run of {within}.")
    if report["cache_folder"]:
        parts.append("States kept in a folder are computed by the first run that needs them, and read by the others.")
    return " ".join(parts)


def _baseline_text(report: _Dict) -> str:
    baseline = report["baseline"]
    if not baseline:
        return ""
    figures = ", ".join(f"{metric_name(k)} {number(k, v)}" for k, v in baseline["metrics"].items())
    return f"A linear model on frozen states ({', '.join(baseline['names'])}, chosen on dev) reaches {figures}."


def _protocol_text(protocol: _Dict) -> list[str]:
    keys = ("text", "seeds", "selection", "treatment")
    sentences = [text[:1].upper() + text[1:].rstrip(".") + "." for key in keys if (text := protocol[key])]
    if protocol["notes"]:
        sentences.append(f"Train shares with the other parts, by design of the corpus: {'; '.join(protocol['notes'])}.")
    return sentences


def _facts(report: _Dict) -> list[tuple[str, str]]:
    data, encoder, machine = report["data"], report["encoder"], report["machine"]
    return [
        ("Corpora", _names(report)),
        ("Utterances", plain(data["utterances"])),
        ("Speakers", plain(data["speakers"])),
        ("Duration", seconds(3600 * data["hours"])),
        ("Seeds", ", ".join(map(str, report["seeds"]))),
        ("Split", report["protocol"]["split"]),
        ("Interval", report["protocol"]["interval"]),
        ("Encoder", _encoder(report)),
        ("Encoder layers", plain(encoder["layers"])),
        ("Encoder digest", str(encoder["digest"])),
        ("Precision", ", ".join(dict.fromkeys(method["precision"] for method in report["methods"]))),
        ("CPU", f"{machine['cpu']}, {machine['cores']} cores"),
        ("Device", machine["device"]),
        ("torch, transformers", f"{machine['torch']}, {machine['transformers']}"),
    ]


def _matrix(report: _Dict, name: str) -> _Dict:
    """Paired differences as text; ``verdict`` is empty where the interval holds 0."""
    labels = [method["label"] for method in report["methods"]]
    rows = []
    for label, cells in zip(labels, report["differences"][name], strict=True):
        rows.append({"name": label, "cells": [_cell(name, cell) for cell in cells]})
    return {"metric": metric_name(name), "names": labels, "rows": rows}


def _cell(name: str, cell: _Dict | None) -> _Dict | None:
    if cell is None or cell["value"] is None:
        return None
    low, high, p = cell["low"], cell["high"], cell["p"]
    sign = 0 if low is None or high is None else int(low > 0) - int(high < 0)
    sign = -sign if lower_is_better(name) else sign
    chance = "" if p is None else "p < .001" if p < 0.001 else f"p = {number('p', p)}"
    return {
        "text": signed(name, cell["value"]),
        "range": bracket(name, low, high),
        "p": chance,
        "verdict": ("worse", "", "better")[1 + sign],
    }


# Plots


@dataclass(frozen=True)
class LogAxis(Axis):
    """A logarithmic scale; what is 0 has a place of its own at the left edge.

    Attributes:
        zero: the text at that place; empty where nothing is 0.
    """

    zero: str = ""

    @classmethod
    def of(cls, values: Iterable[float], zero: str = "") -> "LogAxis":
        """The axis that holds the values, over a factor of 4 at least, with ticks at 1, 2, 5 or at powers of 10."""
        positive = [value for value in values if value > 0] or [1.0]
        margin = max(1.25, 2 / math.sqrt(max(positive) / min(positive)))
        low, high = min(positive) / margin, max(positive) * margin
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        fine = [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]
        coarse = [10.0**d for d in decades if low <= 10.0**d <= high]
        ticks = fine if len(fine) <= 6 else coarse[:: math.ceil(len(coarse) / 6)]
        return cls(low, high, tuple([0.0] * bool(zero) + ticks), 0, zero)

    def share(self, value: float) -> float:
        """Where on the axis a value lies, 0..1."""
        if value <= 0:
            return 0.06
        start = 0.18 if self.zero else 0.0
        along = math.log(value / self.low) / math.log(self.high / self.low)
        return start + (1 - start) * along

    def label(self, tick: float) -> str:
        """The tick's text: "0.05", "20", "5k", "10M"."""
        if tick <= 0:
            return self.zero
        for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if tick >= size * 0.999:
                return f"{tick / size:g}{letter}"
        return f"{tick:g}"


def _plots(report: _Dict, name: str) -> list[Plot]:
    """Quality against the time of an epoch and against the parameters that train."""
    of = metric_name(name)
    return [
        _plot(report, name, "seconds_per_epoch", f"{of} against time", "seconds per epoch", SOLVED),
        _plot(report, name, "trainable_parameters", f"{of} against size", "trainable parameters", ""),
    ]


def _plot(report: _Dict, name: str, key: str, title: str, x_label: str, zero: str) -> Plot:
    shown = [m for m in report["methods"] if m["metrics"][name]["value"] is not None]
    costs = [float(m["cost"][key]) for m in shown]
    entries = [m["metrics"][name] for m in shown]
    y = Axis.over([entry[k] for entry in entries for k in ("value", "low", "high")], 5)
    x = LogAxis.of(costs, zero if 0.0 in costs else "")
    plot = Plot(title, x, y, x_label, f"{metric_name(name)} on test", height=380)
    good = -1 if lower_is_better(name) else 1
    for method, entry, cost in zip(shown, entries, costs, strict=True):
        bars = [float(plot.at(cost, entry[k])[1]) for k in ("low", "high") if entry[k] is not None]
        px, py = (float(v) for v in plot.at(cost, entry["value"]))
        beaten = any(
            (c <= cost and good * e["value"] >= good * entry["value"])
            and (c < cost or good * e["value"] > good * entry["value"])
            for e, c in zip(entries, costs, strict=True)
        )
        plot.marks.append(Mark(px, py, max(bars, default=py), min(bars, default=py), method["label"], best=not beaten))
    plot.marks = place_labels(plot)
    return plot


_CHARACTER = 6.7
"""Width of a character of a label, in units of the plot; generous, so that it holds for most fonts."""
_LINE = 14.0
_CROSSING = 0.25
"""How many units further away a label goes rather than cover one unit of area of an interval."""

_Box = tuple[float, float, float, float]


def place_labels(plot: Plot) -> list[Mark]:
    """The plot's marks with a place for each label, where it covers no point and no other label.

    Near its point is better than far, beside an interval better than on it. A label that has to stand away from its
    point is tied to it by a line.
    """
    frame = (plot.left + 2.0, plot.top - 10.0, plot.width + 0.0, plot.floor - 2.0)
    taken = [(mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5) for mark in plot.marks]
    bars = [(mark.x - 2, mark.high, mark.x + 2, mark.low) for mark in plot.marks]
    placed = {}
    for mark in sorted(plot.marks, key=lambda mark: (mark.x, mark.y)):
        half = len(mark.label) * _CHARACTER / 2

        def box(spot: tuple[float, float], half: float = half) -> _Box:
            return spot[0] - half, spot[1] - _LINE / 2, spot[0] + half, spot[1] + _LINE / 2

        def cost(candidate: tuple[float, tuple[float, float]], box: Callable[..., _Box] = box) -> float:
            distance, spot = candidate
            own = box(spot)
            inside = own[0] >= frame[0] and own[1] >= frame[1] and own[2] <= frame[2] and own[3] <= frame[3]
            if not inside or any(_overlap(own, other) for other in taken):
                return math.inf
            return distance + _CROSSING * sum(_overlap(own, bar) for bar in bars)

        distance, spot = min(_spots(mark, half), key=cost)
        taken.append(box(spot))
        x, y = spot
        meets = min(max(mark.x, x - half), x + half), y + math.copysign(_LINE / 2 - 1, mark.y - y)
        tie = meets if distance else None
        placed[mark.label] = replace(mark, label_x=round(x, 1), label_y=round(y, 1), tie=tie)
    return [placed[mark.label] for mark in plot.marks]


def _spots(mark: Mark, half: float) -> list[tuple[float, tuple[float, float]]]:
    """Where a label's middle may be, with how far that is: beside its point, then all around it."""
    beside = [(0.0, (mark.x + side * (8 + half), mark.y + dy)) for dy in (0, -7, 7) for side in (1, -1)]
    around = [
        (distance, (mark.x + (distance + half) * math.cos(turn), mark.y + distance * math.sin(turn)))
        for distance in (14.0 + 6 * i for i in range(66))
        for turn in (i * math.pi / 12 for i in range(24))
    ]
    return beside + around


def _overlap(one: _Box, other: _Box) -> float:
    """The area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
