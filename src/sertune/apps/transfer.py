"""Transfer between corpora: every saved model tested on every other corpus, and what comes out as JSON, CSV and HTML.

It reads what ``DIR/transfer.yaml`` names: the runs in ``DIR/runs`` and, once made, the tests in ``DIR/tests``.
"""

import csv
import datetime
import io
import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from sertune import __version__
from sertune.apps.compare import signed
from sertune.apps.evaluate import (
    ABSENT,
    Clips,
    Options,
    encode,
    evaluate,
    read_for,
    scales_of,
    scorable,
    votes_of,
)
from sertune.apps.report import MINUS, NONE, bracket, metric_name, number, plain, template
from sertune.config import load_yaml
from sertune.corpora import columns_for
from sertune.corpora.reading import Reading
from sertune.data.label_map import known_labels
from sertune.data.manifest import Manifest, Scheme
from sertune.errors import SertuneError
from sertune.files import new_folder, replacing
from sertune.metrics.summary import distributions_of, lower_is_better, main_metrics
from sertune.model.adapt import METHODS
from sertune.model.emotion_model import EmotionModel, load_model
from sertune.model.targets import CategoryTarget, dimensions_of, labels_of, lead_of
from sertune.progress import say

PLAIN: Final = "none"
"""The matrix of the models as they are."""
EMPTY: Final = "empty.json"
"""In the folder of a test that can't be had: why."""
OTHERS: Final = "all others"
"""The row of the models that trained on all corpora but the one they are tested on."""
DEEP: Final = 0.8
"""Share of the colour from which text on it is of the other lightness: there both read equally well."""

_Dict = dict[str, Any]


@dataclass(frozen=True)
class _Test:
    """A model tested on a corpus that it did not train on.

    Attributes:
        run: the model's folder in ``DIR/runs``.
        row: of the matrix.
        source: the corpus: its name, its data and the corpus that it is a copy of.
    """

    run: str
    row: str
    source: Mapping[str, str]

    def folder(self, root: Path, method: str) -> Path:
        """Where its report is."""
        return root / "tests" / f"{self.run}-on-{self.source['name']}{'' if method == PLAIN else f'@{method}'}"


@dataclass(frozen=True)
class _Plan:
    """``transfer.yaml``."""

    folder: Path
    corpora: list[dict[str, str]]
    adapt: list[str]
    leave_one_out: bool
    absent: Any
    settings: _Dict
    text: str

    @property
    def names(self) -> list[str]:
        return [source["name"] for source in self.corpora]

    @property
    def methods(self) -> list[str]:
        """The matrices."""
        return [PLAIN, *self.adapt]

    def tests(self) -> Iterator[_Test]:
        """What is to be tested, the tests of one model after another."""
        for run in self.names:
            yield from (_Test(run, run, source) for source in self.corpora if source["name"] != run)
        for source in self.corpora if self.leave_one_out else ():
            yield _Test(f"all-but-{source['name']}", OTHERS, source)


@dataclass(frozen=True)
class Failure:
    """A test that failed: its folder's name, and why in one line."""

    name: str
    error: str


def _read_plan(folder: Path) -> _Plan:
    file = folder / "transfer.yaml"
    listed = load_yaml(file)
    try:
        return _Plan(
            folder, listed["corpora"], listed["adapt"], listed["leave_one_out"], listed["absent"], listed["settings"],
            file.read_text(encoding="utf-8"),
        )  # fmt: skip
    except KeyError as error:
        raise SertuneError(f"{file}: has no {error}; choose another --out") from None


# Testing


def run_tests(folder: Path) -> list[Failure]:
    """Makes every test that is not there yet, of the models that are. One that fails does not stop the others.

    A test is an ordinary evaluation, in ``DIR/tests/NAME-on-OTHER`` and for an adaptation ``...@METHOD``. One that the
    label spaces do not allow leaves its reason there.

    Args:
        folder: with ``transfer.yaml`` and the finished runs.

    Returns:
        The tests that failed.
    """
    plan = _read_plan(folder)
    failures: list[Failure] = []
    tests = list(plan.tests())
    loaded: tuple[str, EmotionModel] | None = None
    for place, test in enumerate(tests, start=1):
        todo = [method for method in plan.methods if not _made(test.folder(folder, method))]
        if not todo or not (folder / "runs" / test.run / "report.json").is_file():
            continue
        say(f"Testing {place} of {len(tests)}: {_words(test.folder(folder, PLAIN).name)}")
        try:
            if loaded is None or loaded[0] != test.run:
                loaded = test.run, load_model(folder / "runs" / test.run)
            failures += _test(plan, test, loaded[1], todo)
        except SertuneError as error:
            failures.append(Failure(test.folder(folder, PLAIN).name, str(error)))
            say(f"  failed: {error}")
    return failures


def _made(folder: Path) -> bool:
    return (folder / "report.json").is_file() or (folder / EMPTY).is_file()


def _test(plan: _Plan, test: _Test, model: EmotionModel, methods: Iterable[str]) -> list[Failure]:
    """One model on one corpus, as it is and adapted; the adaptations that failed."""
    settings, spec = plan.settings, test.source["data"]
    reading = read_for(model, [spec], columns_for([spec], settings["columns"]))
    reading, why = _comparable(model, reading, test.source["name"])
    failures = []
    clips: Clips | None = None  # encoded once for all methods
    for method in methods:
        out = test.folder(plan.folder, method)
        reason = why or _no_adaptation(reading.manifest, method)
        if reason:
            with new_folder(out) as work:
                (work / EMPTY).write_text(json.dumps({"reason": reason}, ensure_ascii=False), encoding="utf-8")
            continue
        options = Options(method, plan.absent, settings["skip_bad"], settings["seed"])
        try:
            clips = clips or encode(model, scorable(reading.manifest, model.target)[0], skip_bad=options.skip_bad)
            evaluate(model, reading, out, options, clips)
        except SertuneError as error:
            failures.append(Failure(out.name, str(error)))
            say(f"  failed: {error}")
    return failures


def _comparable(model: EmotionModel, data: Reading, name: str) -> tuple[Reading, str]:
    """The data in the model's space, and why it can't be scored there; empty if it can.

    A dimension that the data lacks has no truth, so that the others can still be scored.
    """
    lead, manifest = lead_of(model.target), data.manifest.with_consensus()
    if lead.categorical:
        labels, there = labels_of(lead), set(known_labels(manifest))
        votes = votes_of(manifest) if not isinstance(lead, CategoryTarget) else None
        if votes is not None:
            there |= set(votes["value"])
        shared = [label for label in labels if label in there]
        if len(shared) > 1:
            return data, ""
        own = manifest.schemes["emotion"].labels if "emotion" in manifest.schemes else ()
        has = ", ".join(label for label in own if label in there) or "no labels"
        what = f"one class ({shared[0]})" if shared else "no class"
        return data, f"shares {what} with the model; {name} has {has}, the model {', '.join(labels)}"
    names, scales = dimensions_of(lead), scales_of(model.target)
    missing = [d for d in names if d not in manifest.schemes or not manifest.utterances[d].notna().any()]
    if len(missing) == len(names):
        return data, f"{name} has no {' and no '.join(missing)}"
    schemes = {**manifest.schemes, **{d: Scheme(low=scales[d][0], high=scales[d][1]) for d in missing}}
    return replace(data, manifest=replace(manifest, schemes=schemes)), ""


def _no_adaptation(manifest: Manifest, method: str) -> str:
    if method == "speaker" and not manifest.utterances["speaker"].notna().any():
        return f"no clip of {manifest.name} has a speaker"
    return ""


def _words(name: str) -> str:
    """The name of a run or test as it is shown: ``all-but-a-on-a`` is "all but a on a"."""
    return name.replace("all-but-", "all but ").replace("-on-", " on ")


# Figures


def write_transfer(folder: Path, failures: Iterable[tuple[str, str]] = ()) -> _Dict:
    """Write ``report.json``, ``table.csv`` and ``report.html`` of a transfer.

    Args:
        folder: with ``transfer.yaml``, the runs and the tests.
        failures: (name of the run or test, error) of those that failed.

    Returns:
        The report. ``matrices.<adaptation>.<metric>[i][j]`` is the cell of the model that trained on ``corpora[i]``,
        tested on ``corpora[j]``, and ``leave_one_out.<adaptation>.<metric>[j]`` that of the model that trained on all
        but ``corpora[j]``. A cell has ``value``, ``low``, ``high``, ``classes`` (those that both have) and ``labels``,
        ``chance``, ``corrected`` (0 at chance, 1 if all is right; of ``tvd`` 1 - TVD), ``clips``, ``speakers``,
        ``shared_speakers`` (trained on and tested on), ``own`` (tested within its corpus, on speakers that training
        left out), ``difference`` (adapted minus plain: ``value``, ``low``, ``high``, ``p``; None where nothing is
        adapted), and ``reason``, why it is empty. ``adaptation`` ``none`` are the models as they are.

    Raises:
        SertuneError: no run is finished, or a file can't be read or written.
    """
    plan = _read_plan(folder)
    failed = [{"name": name, "error": error} for name, error in failures]
    runs = {name: report for name in _run_names(plan) if (report := _read(folder / "runs" / name)) is not None}
    if not runs:
        why = f": {failed[0]['name']}: {failed[0]['error']}" if failed else ""
        raise SertuneError(f"{folder}: no run of the transfer is finished{why}")
    report = _report(plan, runs, failed)
    page = template("transfer.html.jinja").render(_view(report, plan.text))
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    for name, content in (("table.csv", _csv(report)), ("report.html", page), ("report.json", text)):
        with replacing(folder / name) as part:
            part.write_bytes(content.encode("utf-8", errors="replace"))
    return report


def _run_names(plan: _Plan) -> list[str]:
    return plan.names + ([f"all-but-{name}" for name in plan.names] if plan.leave_one_out else [])


def _read(folder: Path) -> _Dict | None:
    """The report of a run or test; None if there is none."""
    file = folder / "report.json"
    if not file.is_file():
        return None
    try:
        report: _Dict = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SertuneError(
            f"{file}: can't be read ({' '.join(str(error).split())}); move its folder away to make it again"
        ) from None
    return report


class _Cells:
    """Makes the cells of all matrices from the reports of runs and tests."""

    def __init__(self, plan: _Plan, runs: Mapping[str, _Dict], failed: Sequence[Mapping[str, str]]) -> None:
        self.plan, self.runs = plan, runs
        self.errors = {row["name"]: row["error"] for row in failed}
        self.tests: dict[tuple[str, str, str], _Dict | str] = {}
        self.shared: dict[tuple[str, str], int] = {}
        for test in plan.tests():
            for method in plan.methods:
                self.tests[test.run, test.source["name"], method] = self._found(test, method)

    def _found(self, test: _Test, method: str) -> _Dict | str:
        """The report of a test, or why there is none."""
        folder = test.folder(self.plan.folder, method)
        if (report := _read(folder)) is not None:
            if method == PLAIN:
                self.shared[test.run, test.source["name"]] = self._shared(test, folder)
            return report
        if (folder / EMPTY).is_file():
            return str(load_yaml(folder / EMPTY).get("reason", ""))
        if test.run not in self.runs:
            return f"training failed: {self.errors.get(test.run, 'it is not finished')}"
        error = self.errors.get(folder.name) or self.errors.get(test.folder(self.plan.folder, PLAIN).name)
        return f"the test failed: {error or 'it is not finished'}"

    def _shared(self, test: _Test, folder: Path) -> int:
        """How many speakers of a test were trained on: those of the same name in another copy of the same corpus."""
        of = test.source["corpus"]
        trained = [s for s in self.plan.corpora if s["name"] in self._trained_on(test.run) and s["corpus"] == of]
        if not trained:
            return 0
        file = self.plan.folder / "runs" / test.run / "model" / "model.json"
        known = set(json.loads(file.read_text(encoding="utf-8"))["info"].get("speakers", []))
        known |= {name.removeprefix(f"{of}/") for name in known}  # as names of several corpora are told apart
        table = pd.read_parquet(folder / "predictions.parquet", columns=["speaker"])
        return len(known & set(table["speaker"].dropna()))

    def _trained_on(self, run: str) -> list[str]:
        names = self.plan.names
        return [run] if run in names else [name for name in names if f"all-but-{name}" != run]

    def cell(self, run: str, tested: str, method: str, metric: str) -> _Dict:
        """The cell of a model and the corpus that it is tested on."""
        own = run == tested
        cell: _Dict = {
            "trained_on": self._trained_on(run),
            "tested_on": tested,
            "own": own,
            "value": None, "low": None, "high": None, "classes": None, "labels": None, "chance": None,
            "corrected": None, "clips": None, "speakers": None, "shared_speakers": 0, "difference": None, "reason": "",
        }  # fmt: skip
        if own and method != PLAIN:
            return {**cell, "reason": "nothing is adapted within a corpus"}
        found = self._own(run) if own else self.tests[run, tested, method]
        if isinstance(found, str):
            return {**cell, "reason": found}
        cell["shared_speakers"] = 0 if own else self.shared.get((run, tested), 0)
        what = metric.removeprefix("ccc_")
        if metric not in main_metrics(self.runs.get(run, found)["task"]):
            predicts = "predicts no distribution" if lower_is_better(metric) else f"has no {what} to train on"
            return {**cell, "reason": f"{run} {predicts}"}
        scored = found["metrics"].get(metric, {"value": None})
        if scored["value"] is None:
            lacks = "ratings by single annotators" if lower_is_better(metric) else what
            return {**cell, "reason": f"{tested} has no {lacks}"}
        place = self.plan.folder / ("runs" if own else "tests")
        place = place / (run if own else f"{run}-on-{tested}{'' if method == PLAIN else f'@{method}'}")
        cell |= {key: scored[key] for key in ("value", "low", "high")} | _size(found, place, metric)
        if lower_is_better(metric):
            cell["corrected"] = 1 - cell["value"]
        else:
            cell["corrected"] = (cell["value"] - cell["chance"]) / (1 - cell["chance"])
        if method != PLAIN:
            cell["difference"] = found["plain"]["difference"][metric]
        return cell

    def _own(self, run: str) -> _Dict | str:
        if run in self.runs:
            return self.runs[run]
        return f"training failed: {self.errors.get(run, 'it is not finished')}"

    def notes(self) -> dict[str, list[str]]:
        """What every test's own report warns of, by its name."""
        said = {
            _words(f"{run}-on-{tested}"): found["warnings"]
            for (run, tested, method), found in self.tests.items()
            if method == PLAIN and isinstance(found, dict) and found["warnings"]
        }
        return {_words(name): report["warnings"] for name, report in self.runs.items() if report["warnings"]} | said


def _size(report: _Dict, folder: Path, metric: str) -> _Dict:
    """What a figure is over: classes that truth has, chance, clips and speakers that have a truth."""
    table = pd.read_parquet(folder / "predictions.parquet")
    task, labels, chance = report["task"], None, 0.0
    if lower_is_better(metric):
        scored = table[~np.isnan(distributions_of(table, task)[0][:, 0])]
    elif task["target"] == "category":
        scored = table[table["true"].notna()]
        labels = [label for label, row in report["per_class"].items() if row["support"]]
        chance = 1 / len(labels)
    else:
        scored = table[table[f"{metric.removeprefix('ccc_')}_true"].notna()]
    return {
        "classes": len(labels) if labels is not None else None,
        "labels": labels,
        "chance": None if lower_is_better(metric) else chance,
        "clips": len(scored),
        "speakers": int(scored["speaker"].nunique()),
    }


def _report(plan: _Plan, runs: Mapping[str, _Dict], failed: list[dict[str, str]]) -> _Dict:
    cells = _Cells(plan, runs, failed)
    metrics = list(dict.fromkeys(name for report in runs.values() for name in main_metrics(report["task"])))
    names = plan.names
    matrices = {
        method: {
            metric: [[cells.cell(run, tested, method, metric) for tested in names] for run in names]
            for metric in metrics
        }
        for method in plan.methods
    }
    others = {
        method: {
            metric: [cells.cell(f"all-but-{tested}", tested, method, metric) for tested in names if plan.leave_one_out]
            for metric in metrics
        }
        for method in plan.methods
    }
    first = next(iter(runs.values()))
    report: _Dict = {
        "format": 1,
        "sertune": __version__,
        "kind": "transfer",
        "name": f"{', '.join(names)}: {first['method']['label']}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "target": first["task"]["target"],
        "metrics": metrics,
        "corpora": [{**source, **_facts_of(runs.get(source["name"]))} for source in plan.corpora],
        "adaptations": {method: METHODS[method] for method in plan.methods},
        "absent": f"{plan.absent}: {ABSENT[plan.absent]}",
        "label_map": plan.settings["label_map"] or None,
        "matrices": matrices,
        "leave_one_out": others if plan.leave_one_out else None,
        "runs": {name: _facts_of(run) for name, run in runs.items()},
        "encoder": first["encoder"],
        "method": first["method"],
        "failed": failed,
        "notes": cells.notes(),
    }
    return {**report, "warnings": _warnings(report, failed)}


def _facts_of(run: _Dict | None) -> _Dict:
    """What a run trained on and how."""
    if run is None:
        return {"utterances": None, "speakers": None, "hours": None, "labels": None, "protocol": None, "split": None}
    return {
        **{key: run["data"][key] for key in ("utterances", "speakers", "hours")},
        "labels": run["task"].get("labels", run["task"].get("dimensions")),
        "protocol": run["protocol"]["text"],
        "split": run["protocol"]["split"],
        "speaker_independent": run["protocol"]["speaker_independent"],
    }


def _warnings(report: _Dict, failed: Iterable[Mapping[str, str]]) -> list[str]:
    """What a reader of the matrix must know."""
    why: dict[str, list[str]] = {}
    for row in failed:
        why.setdefault(row["error"], []).append(_words(row["name"]))
    said = [f"{', '.join(names)} failed: {error}" for error, names in why.items()]
    metric = report["metrics"][0]
    same = [
        f"{_trained(cell)} on {cell['tested_on']} ({cell['shared_speakers']} of {cell['speakers']} speakers)"
        for cell in _cells(report, PLAIN, metric)
        if cell["shared_speakers"]
    ]
    if same:
        said.append(
            "Tested on people that were trained on, as two data are of one corpus or name their speakers alike, so no "
            f"test on new people: {'; '.join(same)}"
        )
    for name, facts in report["runs"].items():
        if facts["speaker_independent"] is False and not name.startswith("all-but-"):
            said.append(f"{name}: test speakers were also heard in training, so its own figure is too good")
    for name, notes in report["notes"].items():
        said += [f"{name}: {note}" for note in notes if "so this is no test" in note]
    sizes = {cell["classes"] for cell in _cells(report, PLAIN, metric) if cell["value"] is not None}
    if report["target"] == "category" and len(sizes) > 1:
        said.append(
            f"The cells are over {min(sizes)} to {max(sizes)} classes: their UARs can't be compared as they stand; the "
            "colours take chance out, and not how hard the classes are to tell"
        )
    return list(dict.fromkeys(said))


def _cells(report: _Dict, method: str, metric: str) -> list[_Dict]:
    """All cells of a matrix, those of the models of all others too."""
    rows = [*report["matrices"][method][metric]]
    if report["leave_one_out"]:
        rows.append(report["leave_one_out"][method][metric])
    return [cell for row in rows for cell in row]


def _trained(cell: _Dict) -> str:
    return " + ".join(cell["trained_on"])


# Words


def findings(report: _Dict) -> list[str]:
    """What the matrices show, in a few plain sentences."""
    said = [sentence for metric in report["metrics"] for sentence in _about_metric(report, metric)]
    return said or ["No model could be tested on another corpus with other people."]


def _about_metric(report: _Dict, metric: str) -> list[str]:
    name = metric_name(metric)
    matrix = report["matrices"][PLAIN][metric]
    own = {row[i]["tested_on"]: row[i] for i, row in enumerate(matrix) if row[i]["value"] is not None}
    across = [c for row in matrix for c in row if not c["own"] and c["value"] is not None and not c["shared_speakers"]]
    if not across:
        return []
    of = "chance-corrected " if metric == "uar" else ""
    inside = f"{_mean(metric, own.values())} within a corpus and " if own else ""
    sentences = [f"Mean {of}{name}: {inside}{_mean(metric, across)} on another one ({_count(len(across), 'pair')})."]
    drops = [cell for cell in across if cell["tested_on"] in own]
    if drops:
        worst = max(drops, key=lambda cell: float(own[cell["tested_on"]]["corrected"] - cell["corrected"]))
        sentences.append(_drop(metric, own[worst["tested_on"]], worst, of))
    alone = {cell["tested_on"] for cell in across}
    if report["leave_one_out"]:
        cells = [c for c in report["leave_one_out"][PLAIN][metric] if c["value"] is not None]
        cells = [c for c in cells if c["tested_on"] in alone and not c["shared_speakers"]]
        if cells:
            there = [c["tested_on"] for c in cells]
            singles = [c for c in across if c["tested_on"] in there]
            sentences.append(
                f"Trained on all others: {of}{name} {_mean(metric, cells)}, against {_mean(metric, singles)} of the "
                f"models of one corpus, on {', '.join(there)}."
            )
    return sentences + [_adapted(report, method, metric) for method in report["adaptations"] if method != PLAIN]


def _drop(metric: str, own: _Dict, cell: _Dict, of: str) -> str:
    name = metric_name(metric)
    text = f"{name} {number(metric, cell['value'])} {bracket(metric, cell['low'], cell['high'])}".strip()
    over = f" over {cell['classes']} classes" if cell["classes"] else ""
    fell = own["corrected"] > cell["corrected"]
    if lower_is_better(metric):
        start = "Largest rise" if fell else "No rise; the least fall"
    else:
        start = "Largest drop" if fell else "No drop; the least gain"
    within = f"{name} {number(metric, own['value'])}" + (f" over {own['classes']} classes" if own["classes"] else "")
    both = ""
    if of:
        both = f" ({of.strip()}: {number(metric, cell['corrected'])} against {number(metric, own['corrected'])})"
    return (
        f"{start}: {_trained(cell)} on {cell['tested_on']} reaches {text}{over}, where {within} is reached within "
        f"{cell['tested_on']}{both}."
    )


def _adapted(report: _Dict, method: str, metric: str) -> str:
    """What an adaptation changes."""
    cells = [c for c in _cells(report, method, metric) if c["difference"] and not c["shared_speakers"]]
    cells = [c for c in cells if c["difference"]["value"] is not None]
    if not cells:
        return f"Adaptation {method}: no test on other people could be adapted."
    values = [cell["difference"]["value"] for cell in cells]
    clear = [cell["difference"] for cell in cells if _is_clear(cell["difference"])]
    better = sum((difference["value"] > 0) != lower_is_better(metric) for difference in clear)
    return (
        f"Adaptation {method} changes {metric_name(metric)} by {signed(metric, statistics.fmean(values))} on average "
        f"over {_count(len(cells), 'test')}: clearly better in {better}, clearly worse in {len(clear) - better}."
    )


def _is_clear(difference: _Dict) -> bool:
    """Whether a paired difference's interval leaves out 0."""
    low, high = difference["low"], difference["high"]
    return low is not None and high is not None and (low > 0 or high < 0)


def _mean(metric: str, cells: Iterable[_Dict]) -> str:
    """The mean without chance; of a distance as it is."""
    values = [cell["value" if lower_is_better(metric) else "corrected"] for cell in cells]
    return number(metric, statistics.fmean(values)) if values else NONE


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


# Text


def _row_names(report: _Dict) -> list[str]:
    return [source["name"] for source in report["corpora"]] + ([OTHERS] if report["leave_one_out"] else [])


def _rows(report: _Dict, method: str, metric: str) -> list[tuple[str, list[_Dict]]]:
    """Every row of a matrix with its name."""
    rows = [*report["matrices"][method][metric]]
    if report["leave_one_out"]:
        rows.append(report["leave_one_out"][method][metric])
    return list(zip(_row_names(report), rows, strict=True))


def text_table(report: _Dict, method: str, metric: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a matrix, as text."""
    header = ["trained on", *(f"on {source['name']}" for source in report["corpora"])]
    return header, [[name, *(_cell_text(metric, cell) for cell in row)] for name, row in _rows(report, method, metric)]


def _cell_text(metric: str, cell: _Dict) -> str:
    if cell["value"] is None:
        return NONE
    marks = " own" if cell["own"] else " same people" if cell["shared_speakers"] else ""
    classes = f" /{cell['classes']}" if cell["classes"] else ""
    text = f"{number(metric, cell['value'])} {bracket(metric, cell['low'], cell['high'])}".strip()
    return f"{text}{classes}{marks}"


def show(report: _Dict) -> None:
    """Prints every matrix, what it shows and what a reader must know."""
    for method in report["adaptations"]:
        for metric in report["metrics"]:
            if all(cell["value"] is None for cell in _cells(report, method, metric)):
                continue
            words = "as they are" if method == PLAIN else f"adapted: {method}"
            unit = ", /classes" if metric == "uar" else ", lower is better" if lower_is_better(metric) else ""
            _show_table(f"{metric_name(metric)} [95 %]{unit}, models {words}", *text_table(report, method, metric))
    for sentence in findings(report):
        print(sentence.replace(MINUS, "-"))
    for warning in report["warnings"]:
        print(f"- {warning}")


def _show_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    print(title)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for i, name in enumerate(header):
            table.add_column(name, justify="right" if i else "left")
        for row in rows:
            table.add_row(*row)
        Console(markup=False).print(table)
    else:
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        for row in [header, *rows]:
            cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            print("  ".join(cells).replace(MINUS, "-").replace(NONE, "-").rstrip())
    print()


_FIGURES: Final = ("value", "low", "high", "classes", "chance", "corrected", "clips", "speakers", "shared_speakers")


def _csv(report: _Dict) -> str:
    """One row for each cell, with every figure in full."""
    file = io.StringIO()
    paired = ("value", "low", "high", "p")
    head = [
        "adaptation",
        "metric",
        "trained_on",
        "tested_on",
        *_FIGURES,
        *(f"difference_{k}" for k in paired),
        "reason",
    ]
    writer = csv.DictWriter(file, head, lineterminator="\n")
    writer.writeheader()
    for method in report["adaptations"]:
        for metric in report["metrics"]:
            for cell in _cells(report, method, metric):
                difference = cell["difference"] or {}
                row = {"adaptation": method, "metric": metric, "trained_on": _trained(cell)}
                row |= {key: cell[key] for key in ("tested_on", *_FIGURES, "reason")}
                writer.writerow(row | {f"difference_{key}": difference.get(key) for key in paired})
    return file.getvalue()


# HTML


def _view(report: _Dict, settings: str) -> _Dict:
    """All that the template shows, as text."""
    category = report["target"] == "category"
    shown = {
        method: [m for m in report["metrics"] if any(c["value"] is not None for c in _cells(report, method, m))]
        for method in report["adaptations"]
    }
    return {
        "title": report["name"],
        "created": report["created"].replace("T", " ").replace("+00:00", " UTC"),
        "version": report["sertune"],
        "sentences": findings(report),
        "warnings": report["warnings"],
        "category": category,
        "distances": any(lower_is_better(metric) for metric in report["metrics"]),
        "columns": [source["name"] for source in report["corpora"]],
        "matrices": [
            {"method": method, "words": words, "metrics": [_matrix(report, method, name) for name in shown[method]]}
            for method, words in report["adaptations"].items()
        ],
        "deep": DEEP,
        "legend": [(share, number("uar", share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)],
        "runs": [_run_row(name, facts) for name, facts in report["runs"].items()],
        "empty": _reasons(report),
        "notes": list(report["notes"].items()),
        "facts_shown": _facts(report),
        "settings": settings.strip(),
    }


def _matrix(report: _Dict, method: str, metric: str) -> _Dict:
    rows = [
        {"name": name, "cells": [_shown(metric, cell) for cell in row], "others": name == OTHERS}
        for name, row in _rows(report, method, metric)
    ]
    lower = " (lower is better)" if lower_is_better(metric) else ""
    return {"metric": f"{metric_name(metric)}{lower}", "rows": rows}


def _shown(metric: str, cell: _Dict) -> _Dict:
    """A cell as text, with the strength of its colour."""
    if cell["value"] is None:
        return {"text": "", "reason": cell["reason"], "difference": None}
    share = min(1.0, max(0.0, cell["corrected"]))
    size = [f"{cell['classes']} classes"] if cell["classes"] else []
    tags = ["own corpus"] if cell["own"] else ["same people"] if cell["shared_speakers"] else []
    if cell["corrected"] <= 0:
        tags.append("no better than chance" if cell["classes"] else "no agreement")
    styles = [
        "deep" if share > DEEP else "", "own" if cell["own"] else "", "same" if cell["shared_speakers"] else "",
    ]  # fmt: skip
    return {
        "text": number(metric, cell["value"]),
        "range": bracket(metric, cell["low"], cell["high"]),
        "size": ", ".join([*size, f"{plain(cell['clips'])} clips"]),
        "tags": tags,
        "share": round(share, 3),
        "style": " ".join(style for style in styles if style),
        "difference": _difference(metric, cell["difference"]),
    }


def _difference(metric: str, difference: _Dict | None) -> _Dict | None:
    if not difference or difference["value"] is None:
        return None
    p = difference["p"]
    chance = "" if p is None else "p < .001" if p < 0.001 else f"p = {number('p', p)}"
    better = (difference["value"] > 0) != lower_is_better(metric)
    sign = 0 if not _is_clear(difference) else 1 if better else -1
    return {
        "text": signed(metric, difference["value"]),
        "range": bracket(metric, difference["low"], difference["high"]),
        "p": chance,
        "verdict": ("worse", "", "better")[1 + sign],
    }


def _run_row(name: str, facts: _Dict) -> list[str]:
    return [
        _words(name),
        plain(facts["utterances"]),
        plain(facts["speakers"]),
        plain(facts["labels"]),
        str(facts["protocol"]),
    ]


def _reasons(report: _Dict) -> list[tuple[str, str]]:
    """Why cells are empty, each reason once."""
    found: dict[str, str] = {}
    for method in report["adaptations"]:
        for metric in report["metrics"]:
            for cell in _cells(report, method, metric):
                if cell["value"] is None and not cell["own"]:
                    found.setdefault(f"{_trained(cell)} on {cell['tested_on']}", cell["reason"])
    return list(found.items())


def _facts(report: _Dict) -> list[tuple[str, str]]:
    encoder = report["encoder"]
    return [
        ("Encoder", Path(str(encoder["name"])).name),
        ("Encoder digest", str(encoder["digest"])),
        ("Method", str(report["method"]["label"])),
        ("Label map", plain(report["label_map"])),
        *([("Classes that a corpus lacks", report["absent"])] if report["target"] == "category" else []),
        ("Split within a corpus", plain(list(dict.fromkeys(run["split"] for run in report["runs"].values())))),
        ("Interval", "95 % bootstrap over speakers of the test"),
    ]
