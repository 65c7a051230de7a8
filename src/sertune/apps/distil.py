"""The report of a distillation: what the student's layers know, how near it comes to the teacher, what it costs."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from sertune.apps.report import (
    MINUS,
    Axis,
    Plot,
    bracket,
    counted,
    interval_of,
    metric_name,
    number,
    plain,
    seconds,
    template,
)
from sertune.errors import SertuneError
from sertune.files import replacing
from sertune.metrics.summary import main_metrics

_Dict = dict[str, Any]
MIB = 2**20


def write_report(run: Path) -> Path:
    """Writes ``report.html`` into the folder of a finished distillation.

    Raises:
        SertuneError: no ``report.json`` of a distillation there, or a file that can't be read or written.
    """
    report = _read(run)
    settings = (run / "config.yaml").read_text(encoding="utf-8")
    page = template("distil.html.jinja").render(_view(report, settings))
    with replacing(run / "report.html") as part:
        part.write_bytes(page.encode("utf-8", errors="replace"))
    return run / "report.html"


def show(run: Path) -> str:
    """The result in a few lines for a terminal."""
    report = _read(run)
    lines = _sentences(report) + [f"- {warning}" for warning in report["warnings"]]
    lines.append(f"encoder: {run / 'encoder'}")
    if report["outputs"]:
        lines.append(f"emotion model: {run}")
    return "\n".join(lines).replace(MINUS, "-")


def _read(run: Path) -> _Dict:
    try:
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SertuneError(f"{run}: no report of a distillation that can be read ({error})") from None
    if not isinstance(report, dict) or report.get("kind") != "distil":
        raise SertuneError(f"{run}: expected the folder of a distillation")
    return report


def _view(report: _Dict, settings: str) -> _Dict:
    return {
        "title": _title(report),
        "created": str(report["created"]).replace("T", " ").replace("+00:00", " UTC"),
        "version": report["sertune"],
        "sentences": _sentences(report),
        "warnings": report["warnings"],
        "probes": [_probe(probe) for probe in report["probes"]],
        "outputs": _outputs(report),
        "loss_words": _loss_words(report["loss"]),
        "curves": _curves(report["epochs"]),
        "costs": _costs(report["cost"]),
        "cost_note": f"Clips of the audio one by one, in float32 on {counted(report['cost']['threads'], 'thread')}. "
        "Parameters without positions, which are a formula. The teacher's size is that of its weights in float32.",
        "protocol": _protocol(report),
        "facts_shown": _facts(report),
        "skipped": [(row["file"], row["reason"]) for row in report["skipped"]],
        "settings": settings.strip(),
    }


def _short(name: str) -> str:
    """The last part of a folder's name, or a hub name as it is."""
    path = PurePath(name)
    return path.name if path.is_absolute() or name.startswith((".", "~")) else name


def _title(report: _Dict) -> str:
    student = report["student"]
    return f"{_short(report['teacher']['name'])} distilled into {student['layers']} layers of {student['width']}"


def _sentences(report: _Dict) -> list[str]:
    cost = report["cost"]
    size = cost["student"]["bytes"] / cost["teacher"]["bytes"]
    time = cost["student"]["seconds_per_hour"] / cost["teacher"]["seconds_per_hour"]
    first = (
        f"{cost['student']['bytes'] / MIB:.1f} MiB instead of {cost['teacher']['bytes'] / MIB:.1f} ({_percent(size)}), "
        f"{cost['student']['seconds_per_hour']:.1f} s for an hour of audio instead of "
        f"{cost['teacher']['seconds_per_hour']:.1f} ({_percent(time)})."
    )
    return [first, *(text for probe in report["probes"] for text in _best(probe))]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def _best(probe: _Dict) -> list[str]:
    """What student and teacher reach with the layers that dev chooses, a sentence for each main metric."""
    found = []
    for name in main_metrics(probe["task"]):
        parts = []
        for row in probe["rows"]:
            if row["chosen"] and name in row["metrics"]:
                value, low, high = interval_of(row["metrics"][name])
                parts.append(f"the {row['encoder']} {number(name, value)} {bracket(name, low, high)} ({row['name']})")
        if parts:
            found.append(f"On {_data(probe)}, {metric_name(name)} of a frozen linear model: {', '.join(parts)}.")
    return found


def _data(probe: _Dict) -> str:
    """A labelled set without the folder it is in."""
    corpus, colon, folder = str(probe["data"]).partition(":")
    return f"{corpus} ({PurePath(folder).name})" if colon else PurePath(corpus).name


def _probe(probe: _Dict) -> _Dict:
    metrics = []
    for name in main_metrics(probe["task"]):
        rows = [row for row in probe["rows"] if name in row["metrics"]]
        values = [value for row in rows for value in interval_of(row["metrics"][name])]
        labels = probe["task"].get("labels") or []
        chance = 1 / len(labels) if name == "uar" and labels else None
        axis = Axis.over([*values, chance], 5)
        shown: list[_Dict] = []
        for row in rows:
            shown.append(
                {
                    "who": row["encoder"],
                    "first": not shown or shown[-1]["who"] != row["encoder"],
                    "name": row["name"],
                    "dev": number(name, row["dev"]),
                    "chosen": row["chosen"],
                    "strip": axis.strip(name, row["metrics"][name]),
                }
            )
        metrics.append(
            {
                "name": metric_name(name),
                "rows": shown,
                "ticks": axis.percent_ticks(),
                "chance": None if chance is None else round(100 * axis.share(chance), 2),
            }
        )
    return {"name": _data(probe), "metrics": metrics, "protocol": _sentence(probe["protocol"]["text"])}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _outputs(report: _Dict) -> _Dict | None:
    """How far the student's head says what the teacher's does."""
    outputs = report["outputs"]
    if not outputs:
        return None
    if "clips" not in outputs:
        return {"sentence": "Nothing was held out, so this was not measured.", "facts": []}
    clips = counted(outputs["clips"], "clip")
    if "same" in outputs:
        words = f"On {clips} that were held out, both choose the same in {_percent(outputs['same'])}; the KL divergence"
        return {"sentence": f"{words} of their probabilities is {outputs['distance']:.3f}.", "facts": []}
    ccc = [(f"CCC {name}", number("ccc", value)) for name, value in outputs["ccc"].items()]
    return {"sentence": f"On {clips} that were held out, the student against the teacher:", "facts": ccc}


def _loss_words(loss: Mapping[str, float]) -> str:
    parts = {"l1": "L1 distance", "cosine": "minus log sigmoid of the cosine", "mean": "L1 distance of the means"}
    words = [f"{loss[key]:g} x {name}" for key, name in parts.items() if loss[key]]
    return f"{' + '.join(words)}, of states that are standardised by channel; lower is better."


def _curves(epochs: list[_Dict]) -> list[Plot]:
    """Train and held-out distance over the epochs, a plot for each of the teacher's layers and for its outputs."""
    return [_curve(name, epochs) for name in epochs[0]["train"]]


def _curve(name: str, epochs: list[_Dict]) -> Plot:
    series = [("train", "two", "training")]
    if epochs[0]["held_out"]:
        series.append(("held_out", "one", "held out"))
    last = epochs[-1]["epoch"]
    x = Axis.snug([1, max(last, 2)], min(8, max(1, last - 1)))
    values = [row[key][name] for key, _, _ in series for row in epochs]
    title = "The teacher's outputs" if name == "outputs" else f"The teacher's {name}"
    plot = Plot(title, x, Axis.over(values, 4), "epoch", "")
    for key, style, words in series:
        plot.add_line(f"{style} mean", [(row["epoch"], row[key][name]) for row in epochs])
        plot.legend.append((style, words))
    return plot


def _costs(cost: _Dict) -> _Dict:
    head = ["Parameters", "MiB", "s per hour of audio", "Real-time factor"]
    rows = [
        (
            name,
            [
                plain(cost[name]["parameters"]),
                f"{cost[name]['bytes'] / MIB:.1f}",
                f"{cost[name]['seconds_per_hour']:.1f}",
                f"{cost[name]['real_time_factor']:.4f}",
            ],
        )
        for name in ("student", "teacher")
    ]
    return {"head": head, "rows": rows}


def _protocol(report: _Dict) -> list[str]:
    data, teacher, student = report["data"], report["teacher"], report["student"]
    given = ", ".join(f"{theirs} by the student's {own}" for theirs, own in student["gives"].items())
    views = data["views"]
    heard = "augmented afresh in every epoch" if views is None else counted(views, "view")
    return [
        f"The student learns, without labels, to give what the teacher's layers give of the same samples: {given}; "
        "through linear maps that are not kept.",
        f"{data['hours']:.2f} hours in {counted(data['clips'], 'clip')} of {counted(data['files'], 'file')}, {heard}; "
        f"{counted(data['held_out'], 'clip')} of files apart are held out.",
        *(
            ["The head of the student is a linear model, fitted to the teacher's outputs on all of this."]
            if teacher["kind"] == "emotion model"
            else []
        ),
    ]


def _facts(report: _Dict) -> list[tuple[str, str]]:
    student, teacher, cost, machine = report["student"], report["teacher"], report["cost"], report["machine"]
    return [
        ("Teacher", _short(teacher["name"])),
        ("Teacher's layers, width", f"{teacher['layers']}, {teacher['width']}"),
        ("Teacher's digest", str(teacher["digest"])),
        ("Student's layers, width", f"{student['layers']}, {student['width']}"),
        ("Attention heads, feed-forward", f"{student['heads']}, {student['feed_forward']}"),
        ("Student's digest", str(student["digest"])),
        ("Epochs", str(len(report["epochs"]))),
        ("Time of training", seconds(_sum(row["seconds"] for row in report["epochs"]))),
        ("Time of the teacher", seconds(cost["seconds_states"])),
        ("Peak memory", f"{cost['peak_memory_mib']:,.0f} MiB"),
        ("Seed", str(report["seed"])),
        ("Precision", f"{machine['precision']} (teacher {machine['teacher_precision']})"),
        ("CPU", f"{machine['cpu']}, {machine['cores']} cores"),
        ("Device", machine["device"]),
        ("torch, transformers", f"{machine['torch']}, {machine['transformers']}"),
        *((("Paths", plain(report["data"]["paths"])),) if report["data"]["paths"] else ()),
    ]


def _sum(values: Iterable[float]) -> float:
    return sum(values, 0.0)
