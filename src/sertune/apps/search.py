"""The report of a search: what it found, what that reaches on test, and how it got there; as HTML and as text.

It reads ``report.json`` of a search's folder, and the settings that lie beside it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sertune.apps.compare import LogAxis, place_labels, signed
from sertune.apps.report import (
    MINUS,
    NONE,
    Axis,
    Mark,
    Plot,
    bracket,
    counted,
    metric_name,
    number,
    plain,
    seconds,
    template,
)
from sertune.errors import SertuneError
from sertune.files import replacing
from sertune.metrics.summary import main_metrics

SLICE_NAMES = 12
"""Most characters of a choice below a slice."""
UNITS = {"seconds": "s", "energy": "Wh", "parameters": "", "latency": "ms", "size": "MiB"}
WIDE, HIGH, MARGIN = 900, 300, 46
"""Of the parallel coordinates, in units of the viewBox."""

_Dict = dict[str, Any]


def write_search(folder: Path) -> _Dict:
    """Writes ``report.html`` of a search's folder; returns its ``report.json``.

    Raises:
        SertuneError: the search is not finished, or a file can't be read or written.
    """
    file = folder / "report.json"
    if not file.is_file():
        raise SertuneError(f"{folder}: no report.json; is the search finished?")
    report: _Dict = json.loads(file.read_text(encoding="utf-8"))
    texts = {name: (folder / f"{name}.yaml").read_text(encoding="utf-8") for name in ("winner", "search")}
    page = template("search.html.jinja").render(_view(report, texts))
    with replacing(folder / "report.html") as part:
        part.write_bytes(page.encode("utf-8", errors="replace"))
    return report


# Text


def show(report: _Dict) -> str:
    """The result for a terminal."""
    lines = [headline(report)]
    beside = report["defaults"]
    if beside:
        lines.append(f"settings at the beginning: {_reached(report, beside['metrics'])}; {_gained(report)}")
    chosen = next((row for row in report["baseline"] if row["chosen"]), None)
    if chosen:
        lines.append(f"frozen baseline ({chosen['name']}): {_reached(report, chosen['metrics'])}")
    lines.append(_effort(report))
    lines += [f"winner{_of_fold(report, row)}: {_settings_text(row['parameters'])}" for row in report["winners"][-1:]]
    lines += [f"- {warning}" for warning in report["warnings"]]
    return "\n".join(lines).replace(MINUS, "-")


def headline(report: _Dict) -> str:
    """The figures in one line: test with its interval, dev, and the gap between the two."""
    found = report["search"]
    test = _reached(report, report["metrics"])
    seeds = len(next(iter(report["metrics"].values()))["seeds"])
    mean = f", mean of {seeds} seeds" if seeds > 1 else ""
    whose = "of the winner" if len(report["winners"]) == 1 else "of the winners, on average,"
    dev = f"dev {found['judged']} {whose} {number('uar', found['winner_dev'])}"
    if found["again_dev"] is not None:
        dev += f", {number('uar', found['again_dev'])} on other folds"
    gap = f", dev minus test {signed('uar', found['gap'])}" if found["gap"] is not None else ""
    return f"{test} on test{mean} ({dev}{gap})".replace(MINUS, "-")


def _reached(report: _Dict, metrics: Mapping[str, Any]) -> str:
    parts = []
    for name in main_metrics(report["task"]):
        entry = metrics[name]
        parts.append(
            f"{metric_name(name)} {number(name, entry['value'])} {bracket(name, entry['low'], entry['high'])}".strip()
        )
    return ", ".join(parts)


def _gained(report: _Dict) -> str:
    """The paired difference from the settings at the beginning, in words."""
    parts = []
    for name, cell in report["defaults"]["difference"].items():
        if cell["value"] is not None:
            parts.append(f"{signed(name, cell['value'])} {bracket(name, cell['low'], cell['high'])}".strip())
    return f"the search brought {', '.join(parts)}" if parts else "no difference can be told"


def _effort(report: _Dict) -> str:
    found = report["search"]
    counts = [f"{found['trials']} trials"]
    for key, words in (("pruned", "ended early"), ("failed", "failed"), ("repeated", "repeats")):
        if found[key]:
            counts.append(f"{found[key]} {words}")
    reached = [
        f"dev {level.lstrip('0')} after {seconds(time)}"
        for level, time in found["times"][0].items()
        if time is not None
    ]
    took = f"{', '.join(counts)} in {seconds(found['seconds_total'])}, all included"
    return "; ".join([took, *reached]) + _energy_text(report)


def _energy_text(report: _Dict) -> str:
    cost = report["cost"]
    used = f"{cost['energy_wh']:.3g} Wh ({cost['energy']})" if cost["energy_wh"] is not None else "energy not measured"
    return f"; {cost['cpu_seconds']:,.0f} s of CPU, {used}"


def _of_fold(report: _Dict, row: _Dict) -> str:
    return f" ({row['fold']})" if len(report["winners"]) > 1 else ""


def _settings_text(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {short(value)}" for name, value in values.items())


def short(value: Any) -> str:
    """A value of a setting in few characters."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return "[" + ", ".join(short(item) for item in value) + "]"
    return str(value)


def show_snapshot(found: _Dict) -> str:
    """How far a search is, for a terminal."""
    lines = []
    for study in found["studies"]:
        trials = study["trials"]
        states = [trial["state"] for trial in trials]
        counts = {state: states.count(state) for state in ("complete", "pruned", "fail", "running", "waiting")}
        names = {"complete": "complete", "pruned": "ended early", "fail": "failed", "running": "running"}
        said = ", ".join(f"{counts[state]} {word}" for state, word in names.items() if counts[state])
        again = f", {counts['waiting']} to be taken up again" if counts["waiting"] else ""
        dead = sum(trial["dead"] for trial in trials)
        gone = f" ({dead} of a worker that is gone)" if dead else ""
        of = f" of {found['budget']}" if found["budget"] else ""
        lines.append(f"{study['study']}: {len(trials)}{of} trials: {said or 'none'}{gone}{again}")
        lines += [f"  {line}" for line in _best_lines(study)]
        workers = sorted({trial["worker"] for trial in trials if trial["state"] == "running" and trial["worker"]})
        if workers:
            lines.append(f"  at work: {', '.join(workers)}")
        error = next((trial["error"] for trial in trials if trial["error"]), None)
        if error:
            lines.append(f"  the first failure: {error}")
    return "\n".join(lines)


def _best_lines(study: _Dict) -> list[str]:
    kept = [trial for trial in study["trials"] if trial["values"] and trial["feasible"]]
    kept.sort(key=lambda trial: -trial["values"][0])
    rows = []
    for trial in kept[:3]:
        pairs = zip(study["objectives"], trial["values"], strict=True)
        values = ", ".join(f"{name} {value:.4g}" for name, value in pairs)
        rows.append(f"trial {trial['trial']}: {values}: {_settings_text(trial['parameters'])}")
    return rows


# HTML


def _view(report: _Dict, texts: Mapping[str, str]) -> _Dict:
    """All that the template shows, as text and positions."""
    names = main_metrics(report["task"])
    found = report["search"]
    return {
        "title": report["name"],
        "created": report["created"].replace("T", " ").replace("+00:00", " UTC"),
        "version": report["sertune"],
        "headline": headline(report),
        "lead": _lead(report),
        "warnings": report["warnings"],
        "compared": [_compared(report, name) for name in names],
        "winners": _winners(report),
        "changed": _changed(report),
        "again": _again(report),
        "history": _history(report),
        "importance": _importance(report),
        "slices": _slices(report),
        "parallel": _parallel(report),
        "fronts": _fronts(report),
        "front_rows": _front_rows(report),
        "objectives": [objective["name"] for objective in found["objectives"]],
        "trials": _trials(report),
        "protocol": _protocol_text(report),
        "facts_shown": _facts(report),
        "winner": texts["winner"].strip(),
        "settings": texts["search"].strip(),
    }


def _lead(report: _Dict) -> str:
    """What a reader should take away, in plain sentences."""
    found, beside = report["search"], report["defaults"]
    sentences = [_effort(report) + "."]
    if beside:
        name = main_metrics(report["task"])[0]
        cell = beside["difference"].get(name, {})
        unsure = cell.get("low") is None or cell["low"] <= 0 <= cell["high"]
        start = f"The settings at the beginning reach {_reached(report, beside['metrics'])}; {_gained(report)}"
        end = ", so that the search is not shown to have brought anything" if unsure else ""
        sentences.append(f"{start}{end}.")
    if found["gap"] is not None and found["gap"] > 0:
        sentences.append("A dev score that chose is too good: the test figure is the one to quote.")
    return " ".join(sentences)


def _compared(report: _Dict, name: str) -> _Dict:
    """The winner, the settings at the beginning and the frozen baseline on test, as strips on one axis."""
    rows = [("Found by the search", report["metrics"][name], report["search"]["winner_dev"])]
    if report["defaults"]:
        rows.append(("Settings at the beginning", report["defaults"]["metrics"][name], report["defaults"]["dev"]))
    chosen = next((row for row in report["baseline"] if row["chosen"]), None)
    if chosen:
        rows.append((f"Frozen baseline ({chosen['name']})", chosen["metrics"][name], chosen["dev"]))
    axis = Axis.over([entry[key] for _, entry, _ in rows for key in ("value", "low", "high")], 4)
    return {
        "name": metric_name(name),
        "ticks": axis.percent_ticks(),
        "rows": [
            {"name": words, "dev": number(name, dev), "strip": axis.strip(name, entry)} for words, entry, dev in rows
        ],
    }


def _winners(report: _Dict) -> _Dict | None:
    """One row for each outer fold, where there are several."""
    if len(report["winners"]) < 2:
        return None
    keys = list(dict.fromkeys(name for row in report["winners"] for name in row["parameters"]))
    rows = []
    for row in report["winners"]:
        tested = [seed["test_score"] for seed in row["seeds"] if seed["test_score"] is not None]
        test = f"{sum(tested) / len(tested):.3f}".removeprefix("0") if tested else NONE
        values = [short(row["parameters"][key]) if key in row["parameters"] else NONE for key in keys]
        rows.append([row["fold"], number("uar", row["dev_score"]), test, *values])
    return {"head": ["Fold", "Dev", "Test", *keys], "rows": rows}


def _again(report: _Dict) -> list[list[str]]:
    """The candidates with their scores in the search and on other folds, of the last search."""
    rows = []
    settings = {
        row["trial"]: row["parameters"] for row in report["trials"] if row["fold"] == report["winners"][-1]["fold"]
    }
    for row in report["winners"][-1]["again"]:
        what = _settings_text(settings[row["trial"]])
        rows.append([str(row["trial"]), number("uar", row["dev_score"]), number("uar", row["again"]), what])
    return rows


def _changed(report: _Dict) -> list[tuple[str, str]]:
    """The winner's settings."""
    return [(name, short(value)) for name, value in report["winners"][-1]["parameters"].items()]


def _history(report: _Dict) -> Plot | None:
    """Scores of the trials and the best so far against time, of every study."""
    rows = [row for row in report["trials"] if row["score"] is not None and row["ended"] is not None]
    if not rows:
        return None
    offset = report["search"]["seconds_states"]
    longest = max(row["ended"] for row in rows) + offset
    scale, unit = (60.0, "minutes") if longest > 180 else (1.0, "seconds")
    levels = [row["score"] for row in rows]
    test = report["search"]["test"]
    x = Axis.over([0.0, longest / scale], 6)
    y = Axis.over([*levels, test] if test is not None else levels, 5)
    judged = report["search"]["judged"]
    plot = Plot(f"{judged} on dev against time", x, y, f"{unit}, the states' included", judged, width=620, height=320)
    places = sorted({row["place"] for row in rows})
    for place in places:
        own = sorted((row for row in rows if row["place"] == place), key=lambda row: row["ended"])
        plot.points.append(("one", [plot.at((row["ended"] + offset) / scale, row["score"]) for row in own]))
        best = -math.inf
        line: list[tuple[float, float | None]] = []
        for row in own:
            if row["feasible"] and row["score"] > best:
                if line:
                    line.append(((row["ended"] + offset) / scale, best))
                best = row["score"]
                line.append(((row["ended"] + offset) / scale, best))
        if line:
            line.append((longest / scale, best))
            plot.add_line("strong" if len(places) == 1 else "two thin", line)
    plot.legend = [("one", "a trial"), ("strong", "best so far")] if len(places) == 1 else [("one", "a trial")]
    if test is not None:
        plot.add_line("diagonal", [(x.low, test), (x.high, test)])
        plot.note = "Dashed: what the winner reaches on test."
    return plot


def _importance(report: _Dict) -> list[tuple[str, str, float]]:
    rows = sorted(report["importance"].items(), key=lambda item: -item[1])
    return [(name, f"{100 * share:.0f} %", round(100 * share, 1)) for name, share in rows]


@dataclass(frozen=True)
class NamedAxis(Axis):
    """A place for each of some names.

    Attributes:
        names: in order.
    """

    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str]) -> "NamedAxis":
        """The axis of some names, with the first at 0."""
        return cls(-0.6, len(names) - 0.4, tuple(float(i) for i in range(len(names))), 0, tuple(names))

    def label(self, tick: float) -> str:
        """The name at a place."""
        name = self.names[round(tick)]
        return name if len(name) <= SLICE_NAMES else name[: SLICE_NAMES - 1] + "…"


def _axis_of(name: str, searched: Mapping[str, Any], values: Sequence[Any]) -> tuple[Axis, list[float]]:
    """The axis of a setting, and where each value lies on it."""
    about = searched.get(name, {})
    if "choice" in about:
        names = [short(choice) for choice in about["choice"]]
        return NamedAxis.of(names), [
            float(names.index(short(value))) if short(value) in names else 0.0 for value in values
        ]
    ends = about.get("int") or about.get("float") or [min(values), max(values)]
    numbers = [float(value) for value in values]
    if about.get("log"):
        return LogAxis.of([*numbers, *map(float, ends)]), numbers
    return Axis.over([*numbers, *map(float, ends)], 4), numbers


def _scored(report: _Dict) -> list[_Dict]:
    return [row for row in report["trials"] if row["score"] is not None]


def _slices(report: _Dict) -> list[Plot]:
    """The score of every trial against each setting by itself."""
    rows = _scored(report)
    if not rows:
        return []
    y = Axis.over([row["score"] for row in rows], 4)
    searched = report["search"]["space"]["searched"]
    plots = []
    for name in searched:
        own = [row for row in rows if name in row["parameters"]]
        if not own:
            continue
        x, places = _axis_of(name, searched, [row["parameters"][name] for row in own])
        plot = Plot(name, x, y, "", report["search"]["judged"], height=240)
        plot.points.append(("one", [plot.at(at, row["score"]) for at, row in zip(places, own, strict=True)]))
        plots.append(plot)
    return plots


def _parallel(report: _Dict) -> _Dict | None:
    """Every trial as a line over all settings; a line breaks where a setting does not count."""
    rows = sorted(_scored(report), key=lambda row: row["score"])
    searched = report["search"]["space"]["searched"]
    names = [name for name in searched if any(name in row["parameters"] for row in rows)]
    if len(rows) < 2 or not names:
        return None
    judged = report["search"]["judged"]
    columns: list[_Dict] = []
    step = (WIDE - 2 * MARGIN) / len(names)
    for place, name in enumerate([*names, judged]):
        known = [row for row in rows if place == len(names) or name in row["parameters"]]
        values = [row["score"] if place == len(names) else row["parameters"][name] for row in known]
        axis, at = _axis_of(name, searched, values) if place < len(names) else (Axis.over(values, 4), values)
        heights = {id(row): _height(axis, value) for row, value in zip(known, at, strict=True)}
        columns.append(
            {
                "name": name.removeprefix("method.").removeprefix("train."),
                "x": round(MARGIN + place * step, 1),
                "ticks": [(round(_height(axis, tick), 1), axis.label(tick)) for tick in axis.ticks],
                "heights": heights,
                "high": place % 2,
            }
        )
    lines = []
    for rank, row in enumerate(rows):
        pieces: list[list[str]] = [[]]
        for column in columns:
            if id(row) in column["heights"]:
                pieces[-1].append(f"{column['x']},{column['heights'][id(row)]:.1f}")
            else:
                pieces.append([])
        share = rank / (len(rows) - 1)
        lines += [{"points": " ".join(piece), "share": round(share**2, 3)} for piece in pieces if len(piece) > 1]
    return {"columns": columns, "lines": lines, "width": WIDE, "height": HIGH, "floor": HIGH - 24, "top": 44}


def _height(axis: Axis, value: float) -> float:
    return (HIGH - 24) - axis.share(value) * (HIGH - 24 - 44)


def _fronts(report: _Dict) -> list[Plot]:
    """The score against every other objective; what nothing beats is labelled with its trial."""
    objectives = report["search"]["objectives"]
    rows = [row for row in _scored(report) if row["values"]]
    if len(objectives) < 2 or not rows:
        return []
    best = {(place, entry["trial"]) for place, front in enumerate(report["front"]) for entry in front}
    judged = report["search"]["judged"]
    plots = []
    for number_, objective in enumerate(objectives[1:], start=1):
        costs = [float(row["values"][number_]) for row in rows]
        y = Axis.over([row["score"] for row in rows], 5)
        unit = UNITS.get(objective["name"], "")
        label = f"{objective['name']} ({unit})" if unit else objective["name"]
        plot = Plot(f"{judged} against {objective['name']}", LogAxis.of(costs), y, label, judged, height=340)
        for row, cost in zip(rows, costs, strict=True):
            px, py = (float(part) for part in plot.at(cost, row["score"]))
            if (row["place"], row["trial"]) in best:
                plot.marks.append(Mark(px, py, py, py, str(row["trial"]), best=True))
            else:
                plot.points.append(("two", [plot.at(cost, row["score"])]))
        plot.marks = place_labels(plot)
        plots.append(plot)
    return plots


def _front_rows(report: _Dict) -> list[list[str]]:
    """The trials of the front with their values and settings."""
    if len(report["search"]["objectives"]) < 2:
        return []
    rows = []
    for front in report["front"]:
        for entry in front:
            values = [f"{value:.4g}" for value in entry["values"]]
            rows.append([str(entry["trial"]), *values, _settings_text(entry["settings"])])
    return rows


def _trials(report: _Dict) -> _Dict:
    """All trials, best first, then those without a score."""
    several = len(report["winners"]) > 1
    rows = sorted(report["trials"], key=lambda row: (row["score"] is None, -(row["score"] or 0.0)))
    cells = []
    for row in rows:
        state = {"complete": "", "pruned": "ended early", "fail": "failed"}.get(row["state"], row["state"])
        state = "repeat" if row["same_as"] is not None else state
        if row["score"] is not None and not row["feasible"]:
            state = "breaks a constraint"
        took = seconds(row["costs"]["seconds"]) if row["costs"] and row["same_as"] is None else NONE
        name = f"{row['fold']}, {row['trial']}" if several else str(row["trial"])
        what = row["error"] or _settings_text(row["parameters"])
        cells.append([name, number("uar", row["score"]), took, state, what])
    return {"head": ["Trial", "Dev", "Time", "", "Settings"], "rows": cells}


def _protocol_text(report: _Dict) -> list[str]:
    protocol = report["protocol"]
    sentences = [text[:1].upper() + text[1:].rstrip(".") + "." for text in (protocol["text"], protocol["selection"])]
    return [*sentences, *(f"{note.rstrip('.')}." for note in protocol["notes"])]


def _facts(report: _Dict) -> list[tuple[str, str]]:
    found, data, encoder, machine = report["search"], report["data"], report["encoder"], report["machine"]
    reached = [
        (f"Time to dev {level.lstrip('0')}", seconds(time) if time is not None else "not reached")
        for level, time in found["times"][0].items()
    ]
    limits = [("Constraints", ", ".join(found["constraints"]))] if found["constraints"] else []
    return [
        ("Corpora", " and ".join(map(str, data["names"]))),
        ("Utterances, speakers", f"{plain(data['utterances'])}, {plain(data['speakers'])}"),
        ("Sampler", found["sampler"]),
        ("Pruner", found["pruner"]),
        ("Trials", plain(found["trials"])),
        ("Inner folds", plain(found["inner_folds"])),
        ("Objectives", ", ".join(objective["name"] for objective in found["objectives"])),
        *limits,
        *reached,
        ("Time, all included", seconds(found["seconds_total"])),
        ("of it, states", seconds(found["seconds_states"])),
        ("CPU time", f"{report['cost']['cpu_seconds']:,.0f} s"),
        ("Energy", _energy_fact(report)),
        ("Workers", counted(len(found["workers"]), "process").replace("processs", "processes")),
        ("Storage", str(found["storage"])),
        ("Study", str(found["study"])),
        ("Interval", report["protocol"]["interval"]),
        ("Encoder", Path(str(encoder["name"])).name),
        ("Encoder digest", str(encoder["digest"])),
        ("Device", f"{machine['cpu']}, {machine['cores']} cores, {machine['device']}, {machine['precision']}"),
        ("torch, transformers", f"{machine['torch']}, {machine['transformers']}"),
    ]


def _energy_fact(report: _Dict) -> str:
    cost = report["cost"]
    return f"{cost['energy_wh']:.3g} Wh ({cost['energy']})" if cost["energy_wh"] is not None else "not measured"
