"""What `sertune check` prints."""

from typing import Any

from sertune.data.audit import Check
from sertune.data.manifest import Manifest

MOST_SPEAKERS = 30


def show(manifest: Manifest, found: Check) -> str:
    """The summary and every problem, for a person: counts first, then file by file."""
    summary = found.summary
    lines = [
        f"{summary['name']}: {summary['utterances']} utterances in {summary['files']} files, "
        f"{summary['hours']:.2f} h, {summary['usable']} usable",
        _durations(summary["durations"]),
        _line("sampling rates (Hz)", summary["rates"]),
        _line("channels", summary["channels"]),
        _line("labels", summary["labels"]),
    ]
    for name, entry in summary["dimensions"].items():
        mean = f", mean {entry['mean']:.2f}, std {entry['std']:.2f}" if entry["mean"] is not None else ""
        lines.append(f"{name}: {entry['count']} values on {entry['low']:g} to {entry['high']:g}{mean}")
    speakers = summary["speakers"]
    if len(speakers) > MOST_SPEAKERS:
        lines.append(f"speakers: {len(speakers)}, with {min(speakers.values())} to {max(speakers.values())} clips each")
    else:
        lines.append(_line("speakers", speakers))
    lines += [_line(name, summary[name]) for name in ("genders", "languages", "partitions")]
    if ratings := summary.get("ratings"):
        lines.append(f"ratings: {ratings['ratings']} by {ratings['raters']} raters")
    lines = [line for line in lines if line]
    errors = sum(problem.severity == "error" for problem in found.problems)
    warnings = len(found.problems) - errors
    if not found.problems:
        return "\n".join([*lines, "nothing wrong was found"])
    lines.append(f"{errors} errors, {warnings} warnings:")
    for problem in found.problems:
        where = f"{problem.file} (row {problem.row}): " if problem.row is not None else ""
        lines.append(f"  {problem.severity}: {where}{problem.message}")
    return "\n".join(lines)


def _line(name: str, counts: dict[str, Any]) -> str:
    return f"{name}: {', '.join(f'{key} {count}' for key, count in counts.items())}" if counts else ""


def _durations(quantiles: dict[str, float | None]) -> str:
    if quantiles["median"] is None:
        return ""
    return "durations (s): " + ", ".join(f"{name} {value:.2f}" for name, value in quantiles.items())
