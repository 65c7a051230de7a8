"""Fairness and robustness of a saved model on labelled data, as one report.

``report.json`` of an audit has, beside ``format``, ``sertune``, ``kind`` ("audit"), ``name``, ``created``, ``task``,
``data``, ``encoder``, ``method``, ``cost``, ``warnings`` and ``skipped`` (bad files) as in every report:

- ``metrics``, ``interval``: of the clean clips, as in a report of ``sertune evaluate``;
- ``fairness``: ``columns``, for each ``column`` with its ``bands`` (None unless numbers were put in bands) what
  `sertune.metrics.fairness.compare_categories` or ``compare_dimensions`` gives; ``left_out``: columns without a
  comparison, and why; ``comparisons``: how many gaps were tested; ``formulas``: statistic -> its definition;
- ``robustness``: ``clips`` tried of ``of``, ``sampled``; ``conditions``, for each ``name``, ``family``, ``text``,
  ``clips`` (predicted), ``failed``, ``changed`` (share of the clips whose label changes; dimensions: ``shift``, the
  mean absolute change of each in units of its scale, and ``shift_share``, as a share of the scale's range),
  ``metrics`` (distorted), ``differences``: metric -> distorted minus clean as ``value``, ``low``, ``high`` (95 % paired
  bootstrap over speakers), ``p``, ``p_corrected`` (Holm, over conditions and metrics), and ``per_class``: label ->
  ``clean`` and ``distorted`` recall; ``skipped``: conditions that can't be had here, and why; ``comparisons``.
"""

import datetime
import itertools
import json
import math
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from sertune import __version__
from sertune.apps.evaluate import UNKNOWN_TRAINING, check_out, scorable, scored_task, seen_clips, training_data
from sertune.apps.predict import outputs_of
from sertune.apps.report import MINUS, NONE, Axis, Strip, bracket, metric_name, number, plain, seconds, template
from sertune.data.audio import read_audio, samples_digest
from sertune.data.distort import Condition, find_conditions
from sertune.data.manifest import Manifest
from sertune.errors import AudioError, SertuneError, unknown
from sertune.files import new_folder
from sertune.metrics import fairness, scores
from sertune.metrics.distributions import tvd
from sertune.metrics.intervals import RESAMPLES
from sertune.metrics.summary import compare, distributions_of, lower_is_better, main_metrics, summarise
from sertune.model.emotion_model import EmotionModel
from sertune.model.predictions import prediction_table
from sertune.model.targets import dimensions_of, label_codes, lead_of
from sertune.progress import progress

COLUMNS = ("gender", "language", "age")
"""Columns that are compared unless others are asked for."""
CLIPS = 500
"""Most clips that are distorted unless more are asked for."""
AGES = (18, 30, 45, 60)
"""Where the age bands begin."""
MOST_VALUES = 12
"""A column of numbers with more values is cut into three bands."""
MOST_GROUPS = 30
"""A column with more groups is refused."""
_PER_COMPARISON = 100
SERIOUS = 0.05
"""Corrected p from which on a drop counts as more than chance."""

_Dict = dict[str, Any]


@dataclass
class _Tried:
    """What became of the clips.

    Attributes:
        outputs: of the clean clips, each (1, K).
        rows: their positions in the table.
        digests: of their samples.
        skipped: bad files.
        seconds: of audio.
        distorted: condition -> position -> outputs (1, K); a clip that can't be predicted has none.
    """

    outputs: list[torch.Tensor] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    distorted: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)


def audit(
    model: EmotionModel,
    manifest: Manifest,
    out: Path,
    *,
    groups: Sequence[str] | None = None,
    conditions: Sequence[str] | None = None,
    clips: int = CLIPS,
    skip_bad: bool = False,
    seed: int = 0,
) -> Path:
    """How a model treats groups of people, and what it makes of distorted speech.

    ``out`` gets ``report.json``, ``report.html`` and ``predictions.parquet`` (clean predictions with the columns of
    groups), and appears when it is complete.

    Args:
        model: loaded.
        manifest: labelled data.
        out: a new or empty folder.
        groups: columns to compare; `COLUMNS` where the data has groups in them if None.
        conditions: names or families of `sertune.data.distort.CONDITIONS`; all if None.
        clips: most clips to distort, drawn evenly over labels and speakers. Fairness always uses all.
        skip_bad: go on without files that can't be used.
        seed: of the sample, the distortions, the draws and the bootstrap.

    Raises:
        SertuneError: an unknown column or condition, a column with one group only, no clip with the target, a folder
            that is taken, a file that can't be used.
    """
    wanted = check_request(out, conditions, clips)
    began = time.perf_counter()
    chosen, warnings = scorable(manifest, model.target)
    named = _columns(chosen, groups)
    possible, missing = _possible(wanted, model.encoder.rate)
    sample = _sample(chosen, model, clips, seed)
    tried = _try(model, chosen, possible, sample, skip_bad, seed)
    kept = chosen.select(np.array(tried.rows, dtype=np.int64))
    task = scored_task(model.target, kept)
    encoded = model.target.encode(kept.utterances, kept.ratings)
    table = prediction_table(kept.utterances, model.target, torch.cat(tried.outputs), encoded)
    divided = {name: _grouped(kept.utterances[name], name) for name in named}
    for name, (values, _) in divided.items():
        if name not in table.columns:
            table[name] = values
        elif name != "speaker":
            table[f"group_{name}"] = values
    summary = summarise(table, task, seed)
    fair = _fairness(table, task, divided, explicit=groups is not None, seed=seed)
    robust = _robustness(model, kept, encoded, table, task, tried, possible, seed)
    seen = _seen(model, tried.digests)
    trained_on = training_data(model)
    report = {
        "format": 1,
        "sertune": __version__,
        "kind": "audit",
        "name": f"Audit of a model trained on {trained_on}, with {chosen.name}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "task": task,
        "metrics": summary["metrics"],
        "interval": summary["interval"],
        "fairness": fair,
        "robustness": {**robust, "of": len(kept), "sampled": len(sample) < len(chosen), "skipped": missing},
        "data": {
            "utterances": len(kept),
            "speakers": int(kept.utterances["speaker"].nunique()),
            "hours": round(tried.seconds / 3600, 4),
            "names": [chosen.name],
        },
        "encoder": model.encoder.described(),
        "method": model.spec.method.described(),
        "cost": {"seconds_total": round(time.perf_counter() - began, 3)},
        "warnings": [*seen, *warnings, *summary["warnings"]],
        "skipped": tried.skipped,
    }
    page = template("audit.html.jinja").render(_view(report))
    with new_folder(out) as work:
        table.to_parquet(work / "predictions.parquet", index=False)
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
        (work / "report.json").write_text(text, encoding="utf-8", errors="replace")
        (work / "report.html").write_text(page, encoding="utf-8", errors="replace")
    return out


def check_request(out: Path, conditions: Sequence[str] | None, clips: int) -> list[Condition]:
    """What can be told before anything is read; the conditions.

    Raises:
        SertuneError: an unknown condition, no clips, or a folder that is taken.
    """
    check_out(out)
    if clips < 1:
        raise SertuneError(f"--clips {clips}: expected 1 or more")
    return find_conditions(conditions)


# Predicting


def _try(
    model: EmotionModel,
    manifest: Manifest,
    conditions: Sequence[Condition],
    sample: NDArray[np.int64],
    skip_bad: bool,
    seed: int,
) -> _Tried:
    """Predicts every clip, and those of the sample under every condition; a clip is read once."""
    tried = _Tried(distorted={condition.name: {} for condition in conditions})
    frame, rate = manifest.utterances, model.encoder.rate
    inside = set(sample.tolist())
    columns = (frame[name].tolist() for name in ("file", "start", "end"))
    with progress("Auditing", len(frame) + len(inside) * len(conditions)) as advance:
        for row, (file, start, end) in enumerate(zip(*columns, strict=True)):
            try:
                samples = read_audio(file, rate, start, end)
                outputs = outputs_of(model, samples)
            except AudioError as error:
                if not skip_bad:
                    raise SertuneError(f"{file}: {error.reason} (--skip-bad goes on without it)") from None
                tried.skipped.append({"file": file, "reason": error.reason})
                advance(1 + (row in inside) * len(conditions))
                continue
            digest = samples_digest(samples[: int(model.spec.audio.crop * rate)])[:16]
            tried.outputs.append(outputs)
            tried.rows.append(row)
            tried.digests.append(digest)
            tried.seconds += len(samples) / rate
            advance(1)
            if row in inside:
                own = zlib.crc32(f"{digest} {seed}".encode())  # the noise of a clip is its own, and always the same
                for condition in conditions:
                    try:
                        changed = condition.apply(samples, rate, own)
                        tried.distorted[condition.name][len(tried.rows) - 1] = outputs_of(model, changed)
                    except AudioError:
                        pass  # counted as failed: the clip is too short now, or gives no finite output
                    advance(1)
    if not tried.rows:
        first = tried.skipped[0]
        raise SertuneError(
            f"{manifest.name}: none of the {len(frame)} files can be used; the first: {first['file']}: "
            f"{first['reason']}"
        )
    return tried


def _possible(wanted: Sequence[Condition], rate: int) -> tuple[list[Condition], list[dict[str, str]]]:
    """The conditions that can be had on this machine, and why the others can't."""
    probe = np.random.default_rng(0).standard_normal(rate).astype(np.float32) * np.float32(0.1)
    possible, missing = [], []
    for condition in wanted:
        try:
            condition.apply(probe, rate, 0)
        except SertuneError as error:
            missing.append({"name": condition.name, "reason": str(error)})
        else:
            possible.append(condition)
    return possible, missing


def _sample(manifest: Manifest, model: EmotionModel, clips: int, seed: int) -> NDArray[np.int64]:
    """Positions of at most ``clips`` clips, spread evenly over labels (or values) and speakers."""
    frame = manifest.utterances
    if len(frame) <= clips:
        return np.arange(len(frame), dtype=np.int64)
    lead = lead_of(model.target)
    first = frame["emotion"] if lead.categorical else frame[dimensions_of(lead)[0]].round(1)
    keys = pd.DataFrame({"first": first, "speaker": frame["speaker"].fillna("")})
    keys["random"] = np.random.default_rng(seed).random(len(frame))
    order = keys.sort_values(["first", "speaker", "random"], na_position="last").index.to_numpy()
    taken = order[np.floor((np.arange(clips) + 0.5) * len(frame) / clips).astype(np.int64)]
    return np.sort(taken).astype(np.int64)


def _seen(model: EmotionModel, digests: Sequence[str]) -> list[str]:
    """A warning where the model was trained on these clips, or where nobody can tell."""
    if "digests" not in model.info:
        return [f"{UNKNOWN_TRAINING}, and gaps and drops on clips that it has learnt may be smaller than on new ones"]
    count = seen_clips(model, digests)
    if not count:
        return []
    return [
        f"{count} of {len(digests)} clips were in the model's training or dev part: its scores here are too good, and "
        "gaps and drops on clips that it has learnt may be smaller than on new ones"
    ]


# Fairness


def _columns(manifest: Manifest, groups: Sequence[str] | None) -> list[str]:
    """The columns to compare.

    Raises:
        SertuneError: one that isn't there, is not one of groups, or has one group only.
    """
    frame = manifest.utterances
    if groups is None:
        return [name for name in COLUMNS if name in frame.columns and _grouped(frame[name], name)[0].nunique() > 1]
    known = [str(name) for name in frame.columns if name not in ("id", "file")]
    for name in groups:
        if name not in known:
            raise unknown(f"column of {manifest.name}", name, known)
        found = sorted(_grouped(frame[name], name)[0].dropna().unique())
        if len(found) < 2:
            only = f"only one group, {found[0]}" if found else "no values"
            raise SertuneError(f"--groups {name}: {manifest.name} has {only}; two are needed to compare")
        if len(found) > MOST_GROUPS:
            raise SertuneError(
                f"--groups {name}: {manifest.name} has {len(found)} groups, expected at most {MOST_GROUPS}; put them "
                "together in a column of their own"
            )
    return list(dict.fromkeys(groups))


def _grouped(values: "pd.Series[Any]", name: str) -> "tuple[pd.Series[Any], str | None]":
    """The group of each clip as text (None where unknown), and how numbers were put in bands."""
    present = values.notna()
    numbers = pd.to_numeric(values, errors="coerce").astype(np.float64)
    numeric = bool(present.any()) and bool(numbers[present].notna().all())
    if numeric and name.lower().startswith("age"):
        names = [f"under {AGES[0]}", *(f"{a} to {b - 1}" for a, b in itertools.pairwise(AGES))]
        return _banded(numbers, list(AGES), [*names, f"{AGES[-1]} and over"]), "age bands"
    if numeric and values.nunique() > MOST_VALUES:
        low, high = (float(v) for v in numbers.quantile([1 / 3, 2 / 3]))
        names = [f"below {low:.4g}", f"{low:.4g} to {high:.4g}", f"{high:.4g} and over"]
        return _banded(numbers, [low, high], names), "thirds"
    words = [f"{v:g}" if isinstance(v, float) else str(v) for v in values]
    text = pd.Series([word if there else None for word, there in zip(words, present, strict=True)], dtype=object)
    return text, None


def _banded(numbers: "pd.Series[Any]", edges: Sequence[float], names: Sequence[str]) -> "pd.Series[Any]":
    band = np.searchsorted(np.asarray(edges), numbers.to_numpy(), side="right")
    known = numbers.notna()
    return pd.Series([names[b] if there else None for b, there in zip(band, known, strict=True)], dtype=object)


def _fairness(
    table: pd.DataFrame,
    task: _Dict,
    divided: "Mapping[str, tuple[pd.Series[Any], str | None]]",
    *,
    explicit: bool,
    seed: int,
) -> _Dict:
    speakers = [s if isinstance(s, str) else None for s in table["speaker"]]
    columns, left_out = [], []
    for name, (values, bands) in divided.items():
        groups = values.tolist()
        if task["target"] == "category":
            true, predicted = (label_codes(table[c], task["labels"]) for c in ("true", "predicted"))
            found = fairness.compare_categories(true, predicted, task["labels"], groups, speakers, seed=seed)
        else:
            rated = {d: table[f"{d}_true"].to_numpy(dtype=np.float64) for d in task["dimensions"]}
            values_of = {d: table[d].to_numpy(dtype=np.float64) for d in task["dimensions"]}
            found = fairness.compare_dimensions(rated, values_of, groups, speakers, seed=seed)
        if not explicit and sum(group["compared"] for group in found["groups"]) < 2:
            left_out.append({"column": name, "reason": found["obstacle"]})
        else:
            columns.append({"column": name, "bands": bands, **found})
    if not divided:
        reason = f"the data has no two groups in {', '.join(COLUMNS)}; name other columns with --groups"
        left_out.append({"column": ", ".join(COLUMNS), "reason": reason})
    comparisons = fairness.correct(columns)
    used = {gap["statistic"] for column in columns for gap in column["gaps"]}
    formulas = {name: text for name, text in fairness.FORMULAS.items() if name in used}
    return {"columns": columns, "left_out": left_out, "comparisons": comparisons, "formulas": formulas}


# Robustness


def _robustness(
    model: EmotionModel,
    kept: Manifest,
    encoded: NDArray[Any],
    table: pd.DataFrame,
    task: _Dict,
    tried: _Tried,
    conditions: Sequence[Condition],
    seed: int,
) -> _Dict:
    rows = []
    total = max((len(found) for found in tried.distorted.values()), default=0)
    # so many that the smallest p there can be is small after the correction, too
    resamples = max(RESAMPLES, _PER_COMPARISON * len(conditions) * len(main_metrics(task)))
    for condition in conditions:
        outputs = tried.distorted[condition.name]
        row: _Dict = {"name": condition.name, "family": condition.family, "text": condition.text}
        row |= {"clips": len(outputs), "failed": total - len(outputs)}
        if outputs:
            places = list(outputs)
            clean, utterances = table.iloc[places].reset_index(drop=True), kept.utterances.iloc[places]
            made = torch.cat(list(outputs.values()))
            distorted = prediction_table(utterances, model.target, made, encoded[places])
            row |= _changes(clean, distorted, task, resamples, seed)
        rows.append(row)
    tested = [entry for row in rows for entry in row.get("differences", {}).values() if entry["p"] is not None]
    _holm(tested)
    return {"clips": total, "conditions": rows, "comparisons": len(tested)}


def _changes(clean: pd.DataFrame, distorted: pd.DataFrame, task: _Dict, resamples: int, seed: int) -> _Dict:
    """What a condition does to the predictions of (N rows) clips."""
    found = compare(distorted, clean, task, seed, resamples=resamples)
    differences = {name: {**entry, "p_corrected": None} for name, entry in found.items()}
    metrics: dict[str, float | None] = {}
    if "tvd" in differences:
        true, made = distributions_of(distorted, task)
        known = ~np.isnan(true[:, 0])
        metrics["tvd"] = _number(tvd(true[known], made[known]).mean()) if known.any() else None
    if task["target"] == "category":
        codes, before = (label_codes(clean[c], task["labels"]) for c in ("true", "predicted"))
        after = label_codes(distorted["predicted"], task["labels"])
        matrices = [scores.confusion(codes, p, len(task["labels"])) for p in (before, after)]
        recalls = [scores.recall_of(matrix) for matrix in matrices]
        of_labels = {name: _number(value) for name, value in scores.category_scores_of(matrices[1]).items()}
        return {
            "changed": float(np.mean(before != after)),
            "metrics": of_labels | metrics,
            "differences": differences,
            "per_class": {
                label: {"clean": _number(recalls[0][c]), "distorted": _number(recalls[1][c])}
                for c, label in enumerate(task["labels"])
            },
        }
    shift, share = {}, {}
    for name in task["dimensions"]:
        rated, before, after = (
            table[c].to_numpy(dtype=np.float64)
            for table, c in ((clean, f"{name}_true"), (clean, name), (distorted, name))
        )
        low, high = task["scales"][name]
        shift[name] = float(np.mean(np.abs(after - before)))
        share[name] = shift[name] / (high - low)
        for score, value in (("ccc", scores.ccc(rated, after)), ("rmse", scores.rmse(rated, after))):
            metrics[f"{score}_{name}"] = _number(value)
    return {"shift": shift, "shift_share": share, "metrics": metrics, "differences": differences}


def _holm(entries: Sequence[_Dict]) -> None:
    """Adds ``p_corrected`` (Holm 1979)."""
    floor = 0.0
    for rank, entry in enumerate(sorted(entries, key=lambda entry: float(entry["p"]))):
        floor = max(floor, min(1.0, (len(entries) - rank) * entry["p"]))
        entry["p_corrected"] = floor


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


# Words


def statistic_name(gap: Mapping[str, Any]) -> str:
    """A statistic as a reader knows it: "Recall of anger (equality of opportunity)"."""
    name, of = gap["statistic"], gap["class"]
    if of is None:
        return _OVERALL[name]
    if name in ("ccc", "rmse", "bias"):
        return f"{_OVERALL[name]}, {of}"
    return {"demographic_parity": f"Predicted as {of}", "equality_of_opportunity": f"Recall of {of}"}[name]


_IN_UNITS = ("rmse", "bias")
"""Statistics in units of a rating scale."""

_OVERALL = {
    "uar": "UAR",
    "accuracy": "Accuracy",
    "demographic_parity": "Demographic parity",
    "statistical_parity": "Statistical parity",
    "equality_of_opportunity": "Equality of opportunity",
    "joint_parity": "Demographic parity as in TrustSER",
    "confusion_parity": "Equality of opportunity as in TrustSER",
    "ccc": "CCC",
    "rmse": "RMSE",
    "bias": "Bias",
}


def headlines(report: Mapping[str, Any]) -> list[str]:
    """What the audit shows: a sentence for each column, one for the conditions."""
    found = [f"{column['column'].capitalize()}: {_column_words(column)}" for column in report["fairness"]["columns"]]
    found += [f"{row['column'].capitalize()}: not compared; {row['reason']}." for row in report["fairness"]["left_out"]]
    words = _robust_words(report)
    return [*found, words] if words else found


def _column_words(column: _Dict) -> str:
    compared = [group["name"] for group in column["groups"] if group["compared"]]
    if column["obstacle"]:
        return f"no verdict; {column['obstacle']}."
    flagged = [gap for gap in column["gaps"] if gap["verdict"] == fairness.MORE]
    if not flagged:
        two = f"between {' and '.join(compared)}"
        among = two if len(compared) == 2 else f"among {', '.join(compared[:4])}{', ...' if len(compared) > 4 else ''}"
        return f"no gap {among} is larger than a fair model has by chance."
    flagged.sort(key=lambda gap: (gap["class"] is not None, gap["p_corrected"]))
    first = flagged[0]
    more = f", and {len(flagged) - 1} more" if len(flagged) > 1 else ""
    sides = f" ({first['top']} above {first['bottom']})" if first["top"] else ""
    unit = "rmse" if first["statistic"] in _IN_UNITS else ""
    gap = f"{number(unit, first['value'])}, by chance up to {number(unit, first['threshold'])}"
    return f"a gap more than chance in {statistic_name(first)}{sides}: {gap}{more}."


def _robust_words(report: Mapping[str, Any]) -> str:
    conditions = [row for row in report["robustness"]["conditions"] if row["clips"]]
    if not conditions:
        return ""
    name = main_metrics(report["task"])[0]
    worst = min(conditions, key=lambda row: row["differences"][name]["value"] or 0.0)
    drop = worst["differences"][name]
    serious = sum(_is_drop(key, row["differences"][key]) for row in conditions for key in main_metrics(report["task"]))
    total = len(conditions) * len(main_metrics(report["task"]))
    return (
        f"Robustness: {serious} of {total} drops are more than chance; the largest is {_signed(name, drop['value'])} "
        f"{bracket(name, drop['low'], drop['high'])} in {metric_name(name)}, with {worst['text']}."
    )


def _is_drop(name: str, entry: Mapping[str, Any]) -> bool:
    """Whether a metric is worse by more than chance: lower, or of a distance higher."""
    worse = (entry["value"] or 0) * (-1 if lower_is_better(name) else 1) < 0
    return entry["p_corrected"] is not None and entry["p_corrected"] <= SERIOUS and worse


def _signed(name: str, value: float | None) -> str:
    text = number(name, value)
    return f"+{text}" if value is not None and value > 0 and text.strip(".0") else text


def _chance(value: float | None) -> str:
    if value is None:
        return NONE
    return "< .001" if value < 0.001 else number("", value)


def _change(row: _Dict) -> str:
    """How much the predictions change: "12 %", or in units of the scales "0.21, 0.10"."""
    if not row["clips"]:
        return NONE
    if "changed" in row:
        return f"{100 * row['changed']:.0f} %"
    return ", ".join(f"{value:.2f}" for value in row["shift"].values())


def _worst_classes(row: _Dict, most: int = 2) -> str:
    """The classes whose recall falls most: "anger −.21, fear −.10"."""
    falls = [
        (entry["distorted"] - entry["clean"], label)
        for label, entry in row.get("per_class", {}).items()
        if entry["clean"] is not None and entry["distorted"] is not None
    ]
    worst = [f"{label} {_signed('', fall)}" for fall, label in sorted(falls)[:most] if fall <= -0.01]
    return ", ".join(worst)


def show(report: Mapping[str, Any]) -> None:
    """Prints the audit on one screen: the sentences, gaps beyond chance, and the worst condition of each family."""
    lines = [*headlines(report), ""]
    for column in report["fairness"]["columns"]:
        for group in column["groups"]:
            shown = {k: v for k, v in group["scores"].items() if not k.startswith(_IN_UNITS)}
            parts = [f"{metric_name(k)} {_with_interval(k, v)}" for k, v in shown.items()]
            note = "" if group["compared"] else f"  (not compared: {group['why_not']})"
            lines.append(f"  {column['column']} {group['name']}: {group['clips']} clips, {', '.join(parts)}{note}")
    names = main_metrics(report["task"])
    worst: dict[str, _Dict] = {}
    for row in report["robustness"]["conditions"]:
        if row["clips"]:
            value = row["differences"][names[0]]["value"] or 0.0
            if row["family"] not in worst or value < worst[row["family"]]["differences"][names[0]]["value"]:
                worst[row["family"]] = row
    if worst:
        lines += ["", f"  the worst of each kind, {report['robustness']['clips']} clips:"]
    for row in worst.values():
        drops = [f"{metric_name(n)} {_signed(n, e['value'])}" for n in names for e in [row["differences"][n]]]
        mark = " *" if any(_is_drop(n, row["differences"][n]) for n in names) else ""
        lines.append(f"  {row['text']:<36} {_change(row):>6} changed, {', '.join(drops)}{mark}")
    if worst:
        lines.append("  * more than chance, corrected for the number of conditions")
    for row in report["robustness"]["skipped"]:
        lines.append(f"- {row['name']} left out: {row['reason']}")
    lines += [f"- {warning}" for warning in report["warnings"]]
    print("\n".join(lines).replace(MINUS, "-"))


def _with_interval(name: str, entry: Mapping[str, float | None]) -> str:
    return f"{number(name, entry['value'])} {bracket(name, entry['low'], entry['high'])}".strip()


# HTML


def _view(report: _Dict) -> _Dict:
    """All that the template shows, as text and positions."""
    fair, robust = report["fairness"], report["robustness"]
    return {
        "title": report["name"],
        "created": report["created"].replace("T", " ").replace("+00:00", " UTC"),
        "version": report["sertune"],
        "sentences": headlines(report),
        "warnings": report["warnings"],
        "columns": [_column_view(column, report["task"]) for column in fair["columns"]],
        "left_out": fair["left_out"],
        "comparisons": fair["comparisons"],
        "formulas": list(fair["formulas"].values()),
        "least": {"clips": fairness.MIN_CLIPS, "speakers": fairness.MIN_SPEAKERS, "of_class": fairness.MIN_PER_CLASS},
        "draws": fairness.DRAWS,
        "robust": _robust_view(report),
        "skipped": robust["skipped"],
        "skipped_files": report["skipped"],
        "facts_shown": _facts(report),
    }


def _column_view(column: _Dict, task: _Dict) -> _Dict:
    groups = column["groups"]
    names = list(groups[0]["scores"])
    shown = [name for name in names if name.startswith(("uar", "accuracy", "ccc"))]
    heads = []
    for name in shown:
        entries = [group["scores"][name] for group in groups]
        axis = Axis.over([entry[key] for entry in entries for key in ("value", "low", "high")], 3)
        strips = [axis.strip(name, entry) for entry in entries]
        heads.append({"name": metric_name(name), "ticks": axis.percent_ticks(), "strips": strips})
    sections = []
    for title, kept in (("Overall", True), ("By class" if task["target"] == "category" else "By dimension", False)):
        gaps = [gap for gap in column["gaps"] if (gap["class"] is None) == kept and gap["value"] is not None]
        if gaps:
            sections.append(_gaps_view(title, gaps))
    classes = []
    for label in task.get("labels", []):
        cells = [(_with_interval("", g["recall"][label]), g["support"][label]) for g in groups]
        classes.append({"name": label, "cells": cells})
    return {
        "name": column["column"],
        "bands": column["bands"],
        "words": _column_words(column),
        "groups": [
            {**{k: g[k] for k in ("name", "clips", "why_not")}, "speakers": plain(g["speakers"])} for g in groups
        ],
        "heads": heads,
        "sections": sections,
        "classes": classes if len(groups) <= 6 else [],
        "unit": column["unit"],
        "missing": column["missing"],
        "uar_classes": column.get("uar_classes", []),
        "all_classes": len(column.get("uar_classes", [])) == len(task.get("labels", [])),
    }


def _gaps_view(title: str, gaps: Sequence[_Dict]) -> _Dict:
    rows = []
    scales = {
        own: Axis.over(
            [0.0, *(gap[key] for gap in gaps if (gap["statistic"] in _IN_UNITS) == own for key in _DRAWN)], 4
        )
        for own in (False, True)
    }
    for gap in gaps:
        own = gap["statistic"] in _IN_UNITS
        name = "rmse" if own else ""
        drawn = scales[own].strip(name, gap)
        strip = replace(drawn, range=drawn.range.replace("-", MINUS))
        threshold = gap["threshold"]
        rows.append(
            {
                "name": statistic_name(gap),
                "at": gap.get("at", ""),
                "sides": f"{gap['top']} − {gap['bottom']}" if gap["top"] else "",
                "strip": strip,
                "chance": None if threshold is None else round(100 * scales[own].share(threshold), 2),
                "threshold": number(name, threshold),
                "p": _chance(gap["p_corrected"]),
                "verdict": gap["verdict"],
                "flagged": gap["verdict"] == fairness.MORE,
            }
        )
    mixed = len({(gap["statistic"] in _IN_UNITS) for gap in gaps}) > 1
    return {
        "title": title,
        "rows": rows,
        "ticks": [] if mixed else scales[gaps[0]["statistic"] in _IN_UNITS].percent_ticks(),
    }


_DRAWN = ("value", "low", "high", "threshold")


def _robust_view(report: _Dict) -> _Dict:
    robust = report["robustness"]
    names = main_metrics(report["task"])
    rows = [row for row in robust["conditions"] if row["clips"]]
    columns = []
    for name in names:
        entries = [row["differences"][name] for row in rows]
        axis = Axis.over([0.0, *(entry[key] for entry in entries for key in ("value", "low", "high"))], 4)
        columns.append(
            {
                "name": metric_name(name),
                "zero": round(100 * axis.share(0.0), 2),
                "ticks": axis.percent_ticks(),
                "cells": [
                    {
                        "strip": _signed_strip(axis, name, entry),
                        "score": number(name, row["metrics"][name]),
                        "p": _chance(entry["p_corrected"]),
                        "flagged": _is_drop(name, entry),
                    }
                    for row, entry in zip(rows, entries, strict=True)
                ],
            }
        )
    category = report["task"]["target"] == "category"
    dimensions = report["task"].get("dimensions", [])
    return {
        "category": category,
        "change_name": "Labels that change" if category else f"Mean change ({', '.join(dimensions)})",
        "rows": [
            {
                "text": row["text"],
                "name": row["name"],
                "family": row["family"] if i == 0 or rows[i - 1]["family"] != row["family"] else "",
                "change": _change(row),
                "share": round(100 * row.get("changed", 0.0), 1),
                "worst": _worst_classes(row),
                "failed": row["failed"],
            }
            for i, row in enumerate(rows)
        ],
        "columns": columns,
        "clips": robust["clips"],
        "of": robust["of"],
        "sampled": robust["sampled"],
        "comparisons": robust["comparisons"],
        "clean": [f"{metric_name(name)} {_with_interval(name, report['metrics'][name])}" for name in names],
    }


def _signed_strip(axis: Axis, name: str, entry: Mapping[str, Any]) -> Strip:
    strip = axis.strip(name, entry)
    return Strip(_signed(name, entry["value"]), strip.range, strip.dot, strip.left, strip.width)


def _facts(report: _Dict) -> list[tuple[str, str]]:
    data, encoder = report["data"], report["encoder"]
    return [
        ("Data", ", ".join(data["names"])),
        ("Utterances", plain(data["utterances"])),
        ("Speakers", plain(data["speakers"])),
        ("Duration", seconds(3600 * data["hours"])),
        ("Clean", ", ".join(_robust_view(report)["clean"])),
        ("Interval", report["interval"]),
        ("Encoder", Path(str(encoder["name"])).name),
        ("Method", str(report["method"].get("name", ""))),
        ("Time", seconds(report["cost"]["seconds_total"])),
    ]
