"""The HTML report of a run folder: one file that needs no network, for the screen, the phone and paper."""

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sertune.errors import SertuneError
from sertune.files import replacing

FILE_NAME = "report.html"
MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"

_MISTAKES = 12
_POINTS = 1200
"""Most points a scatter draws; more would only blacken it and swell the file."""
_ROWS_IN_VIEW = 30
_PAD = 0.03
_Dict = dict[str, Any]


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder, replacing an older one in one step.

    Args:
        run: a folder with ``report.json`` and, where there are any, ``predictions.parquet``, ``ratings.parquet``,
            ``log.jsonl`` and ``config.yaml``. Keys that the report lacks leave their section out.

    Returns:
        The path of the file. The same folder always gives the same bytes.

    Raises:
        SertuneError: no ``report.json``, or a file that can't be read.
    """
    html = template("report.html.jinja").render(
        _view(
            _read_report(run),
            _read_table(run / "predictions.parquet"),
            _read_table(run / "ratings.parquet"),
            _read_log(run),
            _read_text(run / "config.yaml"),
        )
    )
    target = run / FILE_NAME
    with replacing(target) as part:
        part.write_bytes(html.encode("utf-8", errors="replace"))
    return target


def headline(report: Mapping[str, Any]) -> str:
    """The result in one plain line, e.g. "UAR .912 [.880, .938] over 10 speakers, 535 utterances"."""
    parts = []
    for name in _main_metrics(report):
        value, low, high = interval_of(dict_at(report, "metrics").get(name))
        text = f"{metric_name(name)} {number(name, value)}"
        parts.append(text if low is None or high is None else f"{text} {bracket(name, low, high)}")
    line = ", ".join(parts) or "no scores"
    size = _test_size(report)
    return f"{line} over {size}".replace(MINUS, "-") if size else line.replace(MINUS, "-")


# Reading


def _read_report(run: Path) -> _Dict:
    path = run / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SertuneError(f"{run}: no report.json here; expected the folder of a finished run") from error
    except (OSError, ValueError) as error:
        raise SertuneError(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(report, dict):
        raise SertuneError(f"{path}: expected a JSON object with the results of a run")
    return report


def _read_table(path: Path) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame()
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise SertuneError(f"{path}: not a readable Parquet file ({error})") from error


def _read_log(run: Path) -> list[_Dict]:
    """The epochs in order. A resumed run may log an epoch twice (the later counts), a killed one half a line."""
    epochs: dict[tuple[str, int], _Dict] = {}
    for line in _read_text(run / "log.jsonl").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("epoch"), int):
            epochs[str(row.get("fold", "")), row["epoch"]] = row
    return [epochs[key] for key in sorted(epochs)]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise SertuneError(f"{path}: can't be read ({error.strerror})") from error


# Names and numbers


def metric_name(name: str) -> str:
    """A metric as a reader knows it: "ccc_arousal" -> "CCC arousal"."""
    if name in _NAMES:
        return _NAMES[name]
    base, _, kind = name.rpartition("_")
    if kind in _KINDS and base in _NAMES:
        return f"{_NAMES[base]} of the {kind}"
    for start, words in _LONG_NAMES.items():
        if name.startswith(start):
            return f"{words} {name.removeprefix(start).replace('_', ' ')}"
    kind, _, of = name.partition("_")
    return f"{kind.upper() if kind in {'ccc', 'rmse'} else kind.capitalize()} {of.replace('_', ' ')}".strip()


_NAMES = {
    "uar": "UAR",
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "tvd": "TVD",
    "jsd": "JSD",
    "kl": "KL divergence",
    "emd": "EMD",
    "entropy_r": "Entropy correlation",
    "uar_largest": "UAR of the largest share",
    "uar_rating": "UAR of single ratings",
}
_KINDS = {"plane", "votes"}
"""What a second distribution is over: its metrics are named after it."""
_LONG_NAMES = {"ccc_expected_": "CCC of expected", "ccc_rating_": "CCC of single ratings,"}


def lower_is_better(name: str) -> bool:
    """Whether a metric is an error or a distance, whose best value is 0."""
    return name.partition("_")[0] in {"rmse", "tvd", "jsd", "kl", "emd"}


def number(name: str, value: float | None) -> str:
    """A score as text: ".912" for what lies within -1..1, "0.53" for an error on a rating scale."""
    if value is None:
        return NONE
    if name.startswith("rmse"):
        return f"{value:.2f}"
    text = f"{abs(value):.3f}"
    sign = MINUS if value < 0 and float(text) != 0 else ""
    return sign + (text[1:] if text.startswith("0") else text)


def bracket(name: str, low: float | None, high: float | None) -> str:
    """An interval as text, "[.880, .938]"; empty where there is none."""
    if low is None or high is None:
        return ""
    return f"[{number(name, low)}, {number(name, high)}]"


def plain(value: object) -> str:
    """Any other value of the report as text: thousands with commas, floats to three digits."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items()) or NONE
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(plain(v) for v in value) or NONE
    return str(value)


def seconds(value: float | None) -> str:
    """A duration as text: "4.2 s", "5 min 12 s", "2 h 03 min"."""
    if value is None:
        return NONE
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def counted(n: int, noun: str) -> str:
    """A number of things as text: "1 clip", "1,200 clips"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def dict_at(source: Mapping[str, Any], key: str) -> _Dict:
    """The dict at a key; empty where there is none."""
    value = source.get(key)
    return value if isinstance(value, dict) else {}


def list_at(source: Mapping[str, Any], key: str) -> list[Any]:
    """The list at a key; empty where there is none."""
    value = source.get(key)
    return value if isinstance(value, list) else []


def rows_at(source: Mapping[str, Any], key: str) -> list[_Dict]:
    """The dicts in the list at a key."""
    return [row for row in list_at(source, key) if isinstance(row, dict)]


def as_float(value: object) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    return float(value) if math.isfinite(value) else None


def interval_of(metric: object) -> tuple[float | None, float | None, float | None]:
    """Value, low and high of a metric, each None where it is missing."""
    if not isinstance(metric, Mapping):
        return as_float(metric), None, None
    return as_float(metric.get("value")), as_float(metric.get("low")), as_float(metric.get("high"))


# What the report shows


@dataclass(frozen=True)
class Strip:
    """A score drawn on a line: positions in percent of the line's width."""

    text: str
    range: str
    dot: float | None = None
    left: float | None = None
    width: float | None = None


@dataclass(frozen=True)
class Axis:
    """A linear scale with round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    digits: int

    @classmethod
    def over(cls, values: Iterable[float | None], wanted: int = 5) -> "Axis":
        """The axis that holds the values, its ends on ticks."""
        finite = [v for v in values if v is not None and math.isfinite(v)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5
        rough = (high - low) / wanted
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = tuple(i * step for i in range(first, last + 1))
        return cls(ticks[0], ticks[-1], ticks, max(0, -math.floor(math.log10(step) + 1e-9)))

    @classmethod
    def snug(cls, values: Iterable[float | None], wanted: int = 5, pad: float = 0.0) -> "Axis":
        """The axis that ends ``pad`` of its length beyond the values, with the round ticks inside."""
        finite = [v for v in values if v is not None and math.isfinite(v)] or [0.0, 1.0]
        whole = cls.over(finite, wanted)
        low, high = min(finite), max(finite)
        if high - low < 1e-9:
            return whole
        low, high = low - pad * (high - low), high + pad * (high - low)
        slack = 1e-9 * (high - low)
        ticks = tuple(t for t in whole.ticks if low - slack <= t <= high + slack)
        return cls(low, high, ticks, whole.digits)

    def share(self, value: float) -> float:
        """Where on the axis a value lies, 0..1."""
        return (value - self.low) / (self.high - self.low)

    def label(self, tick: float) -> str:
        """The tick's text."""
        text = f"{abs(tick):.{self.digits}f}"
        text = text[1:] if text.startswith("0.") else text
        return MINUS + text if tick < -1e-12 else text

    def percent_ticks(self) -> list[tuple[float, str]]:
        """(position in percent, text) of each tick."""
        return [(round(100 * self.share(t), 2), self.label(t)) for t in self.ticks]

    def strip(self, name: str, metric: object) -> Strip:
        """A metric as a dot with its interval."""
        value, low, high = interval_of(metric)
        dot = None if value is None else round(100 * self.share(value), 2)
        if low is None or high is None:
            return Strip(number(name, value), "", dot)
        left, right = 100 * self.share(low), 100 * self.share(high)
        return Strip(number(name, value), bracket(name, low, high), dot, round(left, 2), round(right - left, 2))


@dataclass(frozen=True)
class Mark:
    """A labelled point with its interval, in units of a plot's viewBox.

    Attributes:
        x, y: of the point.
        low, high: the y of the interval's ends.
        label: its text.
        best: drawn strong.
        label_x, label_y: the middle of the label.
        tie: where a line from the point meets the label, if it stands away from it.
    """

    x: float
    y: float
    low: float
    high: float
    label: str
    best: bool = False
    label_x: float = 0.0
    label_y: float = 0.0
    tie: tuple[float, float] | None = None


@dataclass
class Plot:
    """An SVG of lines and points on two axes, in units of the viewBox."""

    title: str
    x: Axis
    y: Axis
    x_label: str
    y_label: str
    width: int = 440
    height: int = 270
    left: int = 46
    top: int = 12
    bottom: int = 44
    lines: list[tuple[str, str]] = field(default_factory=list)
    points: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""

    @property
    def right(self) -> int:
        """The x of the plot's right edge."""
        return self.width - 14

    @property
    def floor(self) -> int:
        """The y of the plot's lower edge."""
        return self.height - self.bottom

    def at(self, x: float, y: float) -> tuple[str, str]:
        """A data point in the viewBox, as text."""
        px = self.left + self.x.share(x) * (self.right - self.left)
        py = self.floor - self.y.share(y) * (self.floor - self.top)
        return f"{px:.1f}", f"{py:.1f}"

    def add_line(self, style: str, points: Iterable[tuple[float, float | None]]) -> None:
        """A line through the points; it breaks where y is missing. A lone point becomes a dot."""
        piece: list[tuple[str, str]] = []
        for x, y in [*points, (0.0, None)]:
            if y is not None:
                piece.append(self.at(x, y))
            elif piece:
                if len(piece) == 1:
                    self.points.append((style, piece))
                else:
                    self.lines.append((style, " ".join(f"{a},{b}" for a, b in piece)))
                piece = []

    def ticks(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """(x position, text) of the x ticks and (y position, text) of the y ticks."""
        across = [(self.at(t, self.y.low)[0], self.x.label(t)) for t in self.x.ticks]
        up = [(self.at(self.x.low, t)[1], self.y.label(t)) for t in self.y.ticks]
        return across, up


def _view(report: _Dict, predictions: pd.DataFrame, ratings: pd.DataFrame, log: list[_Dict], config: str) -> _Dict:
    """All that the template shows, ready as text and positions."""
    from sertune.apps.opinions import opinions_view  # it draws with the plots of this file

    labels = [str(label) for label in list_at(dict_at(report, "task"), "labels")]
    return {
        "title": str(report.get("name") or "Speech emotion recognition"),
        "kind": "Evaluation" if report.get("kind") == "evaluate" else "Training and test",
        "created": str(report.get("created") or "").replace("T", " ").replace("Z", " UTC"),
        "version": str(report.get("sertune") or ""),
        "heroes": [_hero(name, report) for name in _main_metrics(report)],
        "size": _test_size(report),
        "sentence": _sentence(report),
        "others": [*_beside(report), *(_other(name, report) for name in _other_metrics(report))],
        "main_dev": [_dev_fact(name, report) for name in _main_metrics(report) if _dev(name, report)],
        "warnings": [str(w) for w in list_at(report, "warnings")],
        "baseline": _baseline(report),
        "protocol": _protocol(report),
        "leaks": _leaks(report),
        "confusion": _confusion(report, labels),
        "per_class": _per_class(report),
        "speakers": _speakers(report),
        "curves": _curves(log),
        "scatters": _scatters(report, predictions),
        "mistakes": _mistakes(report, predictions, labels),
        "opinions": opinions_view(report, predictions, ratings),
        "folds": _folds(report),
        "cost": _cost(report),
        "data": _data(report),
        "skipped": [(str(row.get("file", NONE)), str(row.get("reason", NONE))) for row in rows_at(report, "skipped")],
        "config": config.strip(),
        "environment": _environment(report),
        "rows_in_view": _ROWS_IN_VIEW,
    }


def _main_metrics(report: Mapping[str, Any]) -> list[str]:
    metrics = dict_at(report, "metrics")
    means = [name for name in metrics if name.startswith("ccc_") and not name.startswith(tuple(_LONG_NAMES))]
    found = ["uar"] if "uar" in metrics else means
    # A distribution is judged by its distance from the true one, beside its mean or its largest share.
    return [*found, *(["tvd"] if "tvd" in metrics else [])] or list(metrics)[:1]


def _other_metrics(report: Mapping[str, Any]) -> list[str]:
    """The rest, those of a kind (all RMSE, all Pearson) together."""
    main = _main_metrics(report)
    rest = [name for name in dict_at(report, "metrics") if name not in main]
    if "uar" in main:
        return rest
    kinds = list(dict.fromkeys(name.partition("_")[0] for name in rest))
    return sorted(rest, key=lambda name: kinds.index(name.partition("_")[0]))


def _test_size(report: Mapping[str, Any]) -> str:
    """ "10 speakers, 535 utterances" of the test; empty if the report does not tell."""
    rows = rows_at(report, "speakers")
    clips = sum(int(n) for row in list_at(report, "confusion") if isinstance(row, list) for n in row)
    if not clips:
        clips = sum(int(row.get("clips") or 0) for row in rows)
    if not clips:
        clips = int(as_float(dict_at(report, "data").get("utterances")) or 0)
    parts = [counted(len(rows), "speaker")] if rows else []
    return ", ".join([*parts, counted(clips, "utterance")] if clips else parts)


def _hero(name: str, report: _Dict) -> _Dict:
    metric = dict_at(report, "metrics").get(name)
    value, low, high = interval_of(metric)
    lowest = min((v for v in (value, low) if v is not None), default=0.0)
    most = (high or value or 1.0) if name.partition("_")[0] in _UNBOUNDED else 1.0
    people = _people(name, report)
    axis = Axis.over([min(0.0, lowest), most, *(value for value, _ in people)], 4)
    labels = list_at(dict_at(report, "task"), "labels")
    chance = as_float(report.get("chance")) or (1 / len(labels) if len(labels) > 1 else None)
    chance = chance if name == "uar" else None
    return {
        "name": metric_name(name),
        "strip": axis.strip(name, metric),
        "words": "no interval" if low is None else f"95 % interval {number(name, low)} to {number(name, high)}",
        "direction": "Lower is better." if lower_is_better(name) else "",
        "ticks": axis.percent_ticks(),
        "chance": None if chance is None else round(100 * axis.share(chance), 2),
        "chance_text": number(name, chance),
        "people": [(round(100 * axis.share(value), 2), text.partition(":")[0]) for value, text in people],
    }


_UNBOUNDED = {"rmse", "kl", "emd"}


def _people(name: str, report: _Dict) -> list[tuple[float, str]]:
    """(value, what it is in words) of what annotators reach in a metric."""
    found = []
    for row in rows_at(dict_at(report, "opinions"), "ceilings"):
        value = as_float(row.get("value"))
        if row.get("metric") == name and value is not None:
            found.append((value, f"{number(name, value)}, {row.get('text') or 'what annotators reach'}"))
    return found


def _other(name: str, report: _Dict) -> _Dict:
    value, low, high = interval_of(dict_at(report, "metrics").get(name))
    return {
        "name": metric_name(name),
        "value": number(name, value),
        "range": bracket(name, low, high),
        "dev": _dev(name, report),
        "people": ", ".join(number(name, value) for value, _ in _people(name, report)),
    }


BESIDE = {"plain": "without adaptation", "absent_kept": "with all classes of the model"}
"""Figures of an evaluation that stand beside the main one."""


def _beside(report: _Dict) -> list[_Dict]:
    """The main metrics of an evaluation that was done another way on the same clips."""
    return [
        {**_other(name, {"metrics": dict_at(dict_at(report, key), "metrics")}), "name": f"{metric_name(name)} {words}"}
        for key, words in BESIDE.items()
        for name in _main_metrics(dict_at(report, key))
    ]


def _dev(name: str, report: _Dict) -> str:
    value = interval_of(dict_at(report, "dev_metrics").get(name))[0]
    return "" if value is None else number(name, value)


def _dev_fact(name: str, report: _Dict) -> _Dict:
    value, low, high = interval_of(dict_at(report, "dev_metrics").get(name))
    return {"name": metric_name(name), "value": number(name, value), "range": bracket(name, low, high)}


def _encoder_name(report: _Dict) -> str:
    """The encoder's name; of a folder only the last part, which is what a reader needs."""
    name = str(dict_at(report, "encoder").get("name") or "")
    path = PurePath(name)
    return path.name if path.is_absolute() or name.startswith(".") else name


def _sentence(report: _Dict) -> str:
    """What was done, in one sentence."""
    method, data, protocol = dict_at(report, "method"), dict_at(report, "data"), dict_at(report, "protocol")
    encoder = _encoder_name(report)
    kind, layers = str(method.get("name") or ""), method.get("layers")
    how = {
        "frozen": "frozen, with a trained head",
        "full": "fine-tuned whole",
        "partial": f"with its last {layers} layers fine-tuned" if layers != 1 else "with its last layer fine-tuned",
        "": "",
    }.get(kind, f"fine-tuned with {kind}")
    model = f"{f'The encoder {encoder}' if encoder else 'An encoder'} {how}".strip() if encoder or how else "A model"
    names = " and ".join(str(n) for n in list_at(data, "names"))
    verb = "evaluated on" if report.get("kind") == "evaluate" else "trained and tested on"
    size = [counted(int(data[key]), noun) for key, noun in _SIZES if as_float(data.get(key)) is not None]
    sentence = f"{model}, {verb} {names or 'labelled speech'}"
    sentence += f" ({', '.join(size)})" if size else ""
    split = _SPLITS.get(str(protocol.get("split") or ""), "")
    sentence += f"; {split}" if split else ""
    independent = protocol.get("speaker_independent")
    if independent is True:
        sentence += "; no test speaker was heard in training"
    elif independent is False:
        sentence += "; test speakers were also heard in training"
    return sentence + "."


_SIZES = (("utterances", "utterance"), ("speakers", "speaker"))
_SPLITS = {
    "loso": "leave one speaker out",
    "kfold": "speaker-disjoint folds",
    "speaker": "speaker-disjoint parts",
    "official": "the corpus's own parts",
    "random": "random parts",
}


def _protocol(report: _Dict) -> _Dict:
    protocol = dict_at(report, "protocol")
    words = ("text", "selection", "interval", "notes")
    notes = [str(note) for note in list_at(protocol, "notes")]
    sentences = [str(protocol[key]) for key in words[:2] if protocol.get(key)]
    return {
        "sentences": [_sentence_case(text) for text in sentences]
        + ([f"Train shares with the other parts, by design of the corpus: {'; '.join(notes)}."] if notes else []),
        "facts": [(_words(key), plain(value)) for key, value in protocol.items() if key not in words]
        + ([("Interval", str(protocol["interval"]))] if protocol.get("interval") else []),
    }


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


# Leaks and shortcuts


def _leaks(report: _Dict) -> _Dict | None:
    """What train shares with the other parts, near-duplicates, and what trivial features predict."""
    audit = dict_at(report, "audit")
    if not audit:
        return None
    metrics = dict_at(dict_at(audit, "trivial"), "metrics")
    scored = {
        name: of for name, of in metrics.items() if isinstance(of, dict) and as_float(of.get("value")) is not None
    }
    features = [str(name) for name in list_at(dict_at(audit, "trivial"), "features")] if scored else []

    def row(name: str, values: Iterable[tuple[str, object]], strong: bool = False) -> _Dict:
        return {"name": name, "cells": [number(of, as_float(value)) for of, value in values], "strong": strong}

    near = dict_at(audit, "near_duplicates")
    return {
        "shared": [
            {
                "what": str(of.get("kind")),
                "part": str(of.get("part")),
                "cells": [
                    f"{plain(of.get('values'))} of {plain(of.get('of_values'))}",
                    f"{plain(of.get('clips'))} of {plain(of.get('of_clips'))}",
                    plain(of.get("folds")),
                ],
                "examples": plain(of.get("examples")),
            }
            for of in rows_at(audit, "shared")
        ],
        "pairs": int(as_float(near.get("pairs")) or 0),
        "near": [
            (
                str(of.get("file", NONE)),
                str(of.get("other", NONE)),
                f"{100 * (as_float(of.get('similarity')) or 0):.0f} %",
            )
            for of in rows_at(near, "list")
        ],
        "sentences": [_sentence_case(str(of["text"])) for of in scored.values() if of.get("text")],
        "columns": [metric_name(name) for name in scored],
        "rows": [row(f, [(name, dict_at(of, "each").get(f)) for name, of in scored.items()]) for f in features]
        + [
            row(words, [(name, of.get(key)) for name, of in scored.items()], key == "value")
            for key, words in (("value", "all together"), ("threshold", "95 % of shuffled labels below"))
            if scored
        ],
    }


# Did fine-tuning pay?


def _baseline(report: _Dict) -> _Dict | None:
    rows = rows_at(report, "baseline")
    names = [n for n in _main_metrics(report) if any(n in dict_at(row, "metrics") for row in rows)]
    if not rows or not names:
        return None
    ours = dict_at(report, "metrics")
    columns: list[_Dict] = []
    for name in names:
        found = [interval_of(dict_at(row, "metrics").get(name)) for row in rows] + [interval_of(ours.get(name))]
        axis = Axis.over([v for triple in found for v in triple], 4)
        columns.append(
            {
                "name": metric_name(name),
                "ticks": axis.percent_ticks(),
                "ours": axis.strip(name, ours.get(name)),
                "strips": [axis.strip(name, dict_at(row, "metrics").get(name)) for row in rows],
            }
        )
    chosen = _chosen(rows)
    frozen = dict_at(report, "method").get("name") == "frozen"
    return {
        "title": "How good is each frozen layer?" if frozen else "Did fine-tuning pay?",
        "intro": _intro(chosen, frozen),
        "verdict": [] if chosen is None else [_verdict(name, report, chosen, frozen) for name in names],
        "columns": columns,
        "rows": [
            {
                "name": str(row.get("name") or plain(row.get("layers"))),
                "dev": number(names[0], as_float(row.get("dev"))),
                "chosen": row is chosen,
                "strips": [column["strips"][i] for column in columns],
            }
            for i, row in enumerate(rows)
        ],
        "model": "this model",
        "dev": _dev(names[0], report) or NONE,
    }


def _chosen(rows: Sequence[_Dict]) -> _Dict | None:
    """The baseline that the development set chooses; None if it can't be told."""
    for row in rows:
        if row.get("chosen"):
            return row
    scored = [row for row in rows if as_float(row.get("dev")) is not None]
    return max(scored, key=lambda row: float(row["dev"]), default=None)


def _intro(chosen: _Dict | None, frozen: bool) -> str:
    if chosen is None:
        return "A linear model on the pooled states of each frozen layer, from the same split."
    model = "the trained head" if frozen else "the fine-tuned model"
    label = str(chosen.get("name") or "a frozen layer")
    return (
        "A linear model on the pooled states of each frozen layer, from the same split. The development set chooses "
        f"{label}. Compared with it, {model} reaches"
    )


def _verdict(name: str, report: _Dict, chosen: _Dict, frozen: bool) -> str:
    """What the comparison shows, no more than the figures carry."""
    ours, low, high = interval_of(dict_at(report, "metrics").get(name))
    theirs, *_ = interval_of(dict_at(chosen, "metrics").get(name))
    if ours is None or theirs is None:
        return ""
    text = f"{metric_name(name)} {number(name, ours)} against {number(name, theirs)}"
    difference = dict_at(chosen, "difference")
    paired = dict_at(difference, name) or difference
    value, below, above = interval_of(paired)
    p = as_float(paired.get("p"))
    if value is not None and below is not None and above is not None:
        text += f", a paired difference of {number(name, value)} {bracket(name, below, above)}"
        text += "" if p is None else f" (p = {number('p', p)})" if p >= 0.001 else " (p < .001)"
        clear = below > 0 or above < 0
    elif low is not None and high is not None:
        clear = not low <= theirs <= high
        text += f", which lies {'outside' if clear else 'inside'} the model's interval"
    else:
        return text + "."
    if not clear or ours == theirs:
        return text + ": a difference is not shown."
    if (ours < theirs) if lower_is_better(name) else (ours > theirs):
        return text + (": training the head paid." if frozen else ": fine-tuning paid.")
    return text + ": the linear model is the better one here."


# Tables


def _confusion(report: _Dict, labels: list[str]) -> _Dict | None:
    matrix = [row for row in list_at(report, "confusion") if isinstance(row, list)]
    if not matrix or any(len(row) != len(matrix) for row in matrix):
        return None
    names = labels if len(labels) == len(matrix) else [str(i) for i in range(len(matrix))]
    rows = []
    for name, row in zip(names, matrix, strict=True):
        total = sum(row)
        cells = [{"count": plain(n), "share": round(n / total, 3) if total else 0.0} for n in row]
        rows.append({"name": name, "total": plain(total), "cells": cells})
    return {"names": names, "rows": rows, "upright": len(names) > 8}


def _per_class(report: _Dict) -> list[_Dict]:
    axis = Axis(0.0, 1.0, (0.0, 0.5, 1.0), 1)
    return [
        {
            "name": name,
            "recall": axis.strip("uar", row.get("recall")),
            "precision": number("uar", as_float(row.get("precision"))),
            "f1": number("uar", as_float(row.get("f1"))),
            "support": plain(row.get("support")),
        }
        for name, row in dict_at(report, "per_class").items()
        if isinstance(row, dict)
    ]


def _speakers(report: _Dict) -> _Dict | None:
    rows = rows_at(report, "speakers")
    if not rows:
        return None
    columns = [key for key in rows[0] if key not in ("speaker", "clips") and not key.startswith("pearson")]
    barred = [key for key in columns if key == "uar" or key.startswith("ccc")]

    def worst_first(row: _Dict) -> tuple[bool, float, str]:
        signs = dict.fromkeys(barred, 1.0) or {key: -1.0 for key in columns if lower_is_better(key)}
        found = [sign * v for key, sign in signs.items() if (v := as_float(row.get(key))) is not None]
        return not found, sum(found) / max(1, len(found)), str(row.get("speaker"))

    return {
        "columns": [metric_name(key) for key in columns],
        "rows": [
            {
                "name": str(row.get("speaker") or NONE),
                "clips": plain(row.get("clips")),
                "cells": [
                    {
                        "text": number(key, as_float(row.get(key))),
                        "bar": round(100 * max(0.0, as_float(row.get(key)) or 0.0), 1) if key in barred else None,
                    }
                    for key in columns
                ],
            }
            for row in sorted(rows, key=worst_first)
        ],
    }


def _folds(report: _Dict) -> list[_Dict]:
    metric = next(iter(_main_metrics(report)), "uar")
    return [
        {
            "name": str(row.get("name", i + 1)),
            "sizes": [plain(row.get(key)) for key in ("train", "dev", "test")],
            "epochs": f"{plain(row.get('best_epoch'))} of {plain(row.get('epochs'))}",
            "scores": [number(metric, as_float(row.get(key))) for key in ("dev_score", "test_score")],
            "seconds": seconds(as_float(row.get("seconds"))),
        }
        for i, row in enumerate(rows_at(report, "folds"))
    ]


_COST: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "seconds_total": ("Time, all folds", seconds),
    "seconds_per_epoch": ("Time per epoch", seconds),
    "peak_memory_mib": ("Peak memory", lambda v: f"{v:,.0f} MiB" if v is not None else NONE),
    "states_mib": ("Stored states", lambda v: f"{v:,.1f} MiB" if v is not None else NONE),
    "trainable_parameters": ("Trainable parameters", lambda v: f"{v:,.0f}" if v is not None else NONE),
    "total_parameters": ("All parameters", lambda v: f"{v:,.0f}" if v is not None else NONE),
}


def _cost(report: _Dict) -> list[tuple[str, str]]:
    cost = dict_at(report, "cost")
    known = [(label, show(as_float(cost[key]))) for key, (label, show) in _COST.items() if key in cost]
    rest = [(_words(key), plain(value)) for key, value in cost.items() if key not in _COST]
    return known + rest


def _data(report: _Dict) -> _Dict | None:
    data = dict_at(report, "data")
    if not data:
        return None
    hours = as_float(data.get("hours"))
    facts = [("Corpora", plain(data["names"]))] if data.get("names") else []
    facts += [(key.capitalize(), plain(data[key])) for key, _ in _SIZES if key in data]
    facts += [("Duration", seconds(hours * 3600))] if hours is not None else []
    known = {"names", "utterances", "speakers", "hours", "per_label"}
    facts += [(_words(key), plain(value)) for key, value in data.items() if key not in known]
    counts = {str(k): as_float(v) or 0.0 for k, v in dict_at(data, "per_label").items()}
    most = max(counts.values(), default=0.0)
    bars = [(label, plain(int(n)), round(100 * n / most, 1) if most else 0.0) for label, n in counts.items()]
    return {"facts": facts, "bars": bars}


def _environment(report: _Dict) -> list[tuple[str, str]]:
    rows = [("sertune", str(report["sertune"]))] if report.get("sertune") else []
    encoder = dict_at(report, "encoder")
    rows += [(f"Encoder {key}", plain(value)) for key, value in encoder.items()]
    rows += [(f"Method {key}" if key != "name" else "Method", plain(v)) for key, v in dict_at(report, "method").items()]
    return rows + [(_words(key), plain(value)) for key, value in dict_at(report, "machine").items()]


def _words(key: str) -> str:
    text = key.replace("_", " ")
    return {"cpu": "CPU", "gpu": "GPU"}.get(text, text[:1].upper() + text[1:])


def _mistakes(report: _Dict, predictions: pd.DataFrame, labels: list[str]) -> _Dict | None:
    if {"true", "predicted"} <= set(predictions.columns):
        return _wrong_labels(predictions, labels)
    dimensions = dimensions_of(predictions)
    return _largest_errors(report, predictions, dimensions) if dimensions else None


def _wrong_labels(predictions: pd.DataFrame, labels: list[str]) -> _Dict | None:
    """The wrong answers that the model was surest of."""
    columns = [f"p_{label}" for label in labels if f"p_{label}" in predictions.columns]
    true, predicted = predictions["true"], predictions["predicted"]
    wrong = predictions[true.notna() & predicted.notna() & (true != predicted)]
    if not columns or wrong.empty:
        return None
    sure = wrong[columns].to_numpy(dtype=np.float64).max(axis=1)
    order = np.lexsort((wrong.get("utterance", wrong["true"]).astype(str).to_numpy(), -sure))[:_MISTAKES]
    rows = [
        [
            clip_name(row),
            text_at(row, "speaker"),
            str(row["true"]),
            str(row["predicted"]),
            number("uar", float(sure[i])),
        ]
        for i in order
        for row in [wrong.iloc[int(i)]]
    ]
    return {
        "title": "Most confident mistakes",
        "note": f"{counted(len(wrong), 'clip')} of {plain(len(predictions))} got a wrong label. Of those the model was "
        "surest of these; worth listening to, for they may be mislabelled.",
        "head": ["Clip", "Speaker", "True", "Predicted", "Probability"],
        "numeric": [False, False, False, False, True],
        "rows": rows,
    }


def _largest_errors(report: _Dict, predictions: pd.DataFrame, dimensions: list[str]) -> _Dict | None:
    """The largest errors, in shares of the rating scale so that dimensions compare."""
    found: list[tuple[float, str, int, str]] = []
    for name in dimensions:
        true, predicted = pair_of(predictions, name)
        low, high = scale_of(report, name, true)
        for i in np.flatnonzero(np.isfinite(true) & np.isfinite(predicted)):
            share = abs(predicted[i] - true[i]) / (high - low)
            found.append((-share, text_at(predictions.iloc[int(i)], "utterance"), int(i), name))
    rows = []
    for share, _, position, name in sorted(found)[:_MISTAKES]:
        row = predictions.iloc[position]
        values = [f"{float(row[column]):.2f}" for column in (f"{name}_true", name)]
        values = [value.replace("-", MINUS) for value in values]
        rows.append([clip_name(row), text_at(row, "speaker"), name, *values, f"{-100 * share:.0f} %"])
    if not rows:
        return None
    return {
        "title": "Largest errors",
        "note": "In percent of the rating scale; worth listening to, for they may be mislabelled.",
        "head": ["Clip", "Speaker", "Dimension", "True", "Predicted", "Error"],
        "numeric": [False, False, False, True, True, True],
        "rows": rows,
    }


def clip_name(row: "pd.Series[Any]") -> str:
    """A clip's file name, with its segment where it is a part of the file."""
    name = PurePath(text_at(row, "file")).name if "file" in row.index else text_at(row, "utterance")
    start, end = (as_float(row.get(key)) for key in ("start", "end"))
    if start is None and end is None:
        return name
    return f"{name} ({start or 0:.1f}{NONE}{'end' if end is None else f'{end:.1f}'} s)"


def text_at(row: "pd.Series[Any]", key: str) -> str:
    """A cell as text; a dash where it is missing."""
    value = row.get(key)
    return NONE if value is None or value != value else str(value)


# Plots


def _curves(log: list[_Dict]) -> list[Plot]:
    """Loss and development score over the epochs: a thin line for each fold, a strong one for their mean."""
    folds: dict[str, list[_Dict]] = {}
    for row in log:
        folds.setdefault(str(row.get("fold", "")), []).append(row)
    plots = [
        _curve("Loss", folds, [("loss", "one", "training"), ("dev_loss", "two", "development")]),
        _curve("Development score", folds, [("dev_score", "one", "development")]),
    ]
    return [plot for plot in plots if plot is not None]


def _curve(title: str, folds: dict[str, list[_Dict]], series: list[tuple[str, str, str]]) -> Plot | None:
    shown = [s for s in series if any(as_float(row.get(s[0])) is not None for rows in folds.values() for row in rows)]
    if not shown:
        return None
    rows = [row for fold in folds.values() for row in fold]
    values = [as_float(row.get(key)) for key, _, _ in shown for row in rows]
    epochs = sorted({int(row["epoch"]) for row in rows})
    x = Axis.snug([epochs[0], max(epochs[-1], epochs[0] + 1)], min(8, max(1, epochs[-1] - epochs[0])))
    plot = Plot(title, x, Axis.over(values, 4), "epoch", "")
    means = []
    for key, style, name in shown:
        curves = [{int(r["epoch"]): as_float(r.get(key)) for r in fold} for fold in folds.values()]
        if len(curves) > 1:
            for curve in curves:
                plot.add_line(f"{style} thin", list(curve.items()))
        # Folds stop at different epochs: a mean over the last few of them would only show who is left.
        mean: list[tuple[float, float | None]] = []
        for epoch in epochs:
            there = [v for curve in curves if (v := curve.get(epoch)) is not None]
            mean.append((epoch, sum(there) / len(there) if 2 * len(there) >= len(curves) else None))
        means.append((f"{style} mean", mean))
        plot.legend.append((style, name))
    for style, mean in means:
        plot.add_line(style, mean)
    many = len(folds) > 1
    plot.note = f"Thin: each of {len(folds)} folds. Strong: their mean, while half of them run." if many else ""
    return plot


def dimensions_of(predictions: pd.DataFrame) -> list[str]:
    """The dimensions that have a true and a predicted column."""
    return [c for c in predictions.columns if f"{c}_true" in predictions.columns]


def pair_of(predictions: pd.DataFrame, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) true and (N,) predicted values of a dimension, NaN where missing."""
    true = predictions[f"{name}_true"].to_numpy(dtype=np.float64, na_value=np.nan)
    return true, predictions[name].to_numpy(dtype=np.float64, na_value=np.nan)


def scale_of(report: _Dict, name: str, true: NDArray[np.float64]) -> tuple[float, float]:
    """The rating scale of a dimension; where the report lacks it, the range of the ratings."""
    task = dict_at(report, "task")
    scales = [list_at(dict_at(part, "scales"), name) for part in (task, *rows_at(task, "also"))]
    found = [as_float(v) for v in next((scale for scale in scales if scale), [])]
    if len(found) == 2 and found[0] is not None and found[1] is not None and found[0] < found[1]:
        return found[0], found[1]
    finite = true[np.isfinite(true)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _scatters(report: _Dict, predictions: pd.DataFrame) -> list[Plot]:
    names = dimensions_of(predictions)
    plots = [_scatter(report, predictions, name) for name in names]
    if {"arousal", "valence"} <= set(names):
        plots.append(_plane(report, predictions))
    return plots


def _scatter(report: _Dict, predictions: pd.DataFrame, name: str) -> Plot:
    true, predicted = pair_of(predictions, name)
    scale = scale_of(report, name, true)
    kept = thinned(np.isfinite(true) & np.isfinite(predicted))
    axis = Axis.snug([*scale, *predicted[kept].tolist(), *true[kept].tolist()], pad=_PAD)
    plot = Plot(name.capitalize(), axis, axis, "true", "predicted", width=340, height=340)
    plot.add_line("diagonal", [(axis.low, axis.low), (axis.high, axis.high)])
    plot.points.append(("one", [plot.at(true[i], predicted[i]) for i in kept]))
    value, low, high = interval_of(dict_at(report, "metrics").get(f"ccc_{name}"))
    if value is not None:
        plot.note = f"CCC {number('ccc', value)} {bracket('ccc', low, high)}".strip() + ". "
    plot.note += drawn(len(kept), int((np.isfinite(true) & np.isfinite(predicted)).sum()))
    return plot


def _plane(report: _Dict, predictions: pd.DataFrame) -> Plot:
    true_v, valence = pair_of(predictions, "valence")
    true_a, arousal = pair_of(predictions, "arousal")
    there = np.isfinite(true_v) & np.isfinite(true_a) & np.isfinite(valence) & np.isfinite(arousal)
    kept = thinned(there)
    scale_v, scale_a = scale_of(report, "valence", true_v), scale_of(report, "arousal", true_a)
    x = Axis.snug([*scale_v, *true_v[kept].tolist(), *valence[kept].tolist()], pad=_PAD)
    y = Axis.snug([*scale_a, *true_a[kept].tolist(), *arousal[kept].tolist()], pad=_PAD)
    plot = Plot("Valence-arousal plane", x, y, "valence", "arousal", width=340, height=340)
    plot.add_line("diagonal", [(sum(scale_v) / 2, y.low), (sum(scale_v) / 2, y.high)])
    plot.add_line("diagonal", [(x.low, sum(scale_a) / 2), (x.high, sum(scale_a) / 2)])
    plot.points.append(("one", [plot.at(valence[i], arousal[i]) for i in kept]))
    plot.points.append(("two", [plot.at(true_v[i], true_a[i]) for i in kept]))
    plot.legend = [("two", "true"), ("one", "predicted")]
    plot.note = drawn(len(kept), int(there.sum()))
    return plot


def thinned(there: NDArray[np.bool_]) -> list[int]:
    """At most ``_POINTS`` of the rows, evenly spaced."""
    rows = np.flatnonzero(there)
    if len(rows) > _POINTS:
        rows = rows[np.linspace(0, len(rows) - 1, _POINTS).round().astype(np.int64)]
    return [int(i) for i in rows]


def drawn(shown: int, total: int) -> str:
    """How many clips a plot shows, in words."""
    return f"{shown:,} of {total:,} clips are drawn." if shown < total else f"{counted(total, 'clip')}."


@functools.cache
def template(name: str) -> jinja2.Template:
    """A template of this folder, with what it includes."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sertune.apps", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
