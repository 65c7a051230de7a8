"""Scores a saved model on labelled data, and says so when it has seen that data."""

import datetime
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sertune import __version__
from sertune.apps.predict import outputs_of
from sertune.apps.report import write_report
from sertune.data.audio import read_audio, samples_digest
from sertune.data.manifest import Manifest
from sertune.errors import AudioError, SertuneError
from sertune.files import check_writable, new_folder
from sertune.metrics.summary import summarise
from sertune.model.emotion_model import EmotionModel
from sertune.model.predictions import prediction_table, task_of
from sertune.model.targets import CategoryTarget, Target
from sertune.progress import progress


def evaluate(model: EmotionModel, manifest: Manifest, out: Path, *, skip_bad: bool = False, seed: int = 0) -> Path:
    """Predicts every clip that has the target; ``out`` gets ``report.json``, ``report.html``, ``predictions.parquet``.

    It appears when it is complete.

    Args:
        model: loaded.
        manifest: labelled data.
        out: a new or empty folder.
        skip_bad: go on without files that can't be used.
        seed: of the bootstrap.

    Raises:
        SertuneError: no clip has the target, the folder is taken or can't be written, or a file can't be used.
    """
    check_out(out)
    began = time.perf_counter()
    trained_on = model.info.get("data", "unknown data")
    chosen, warnings = scorable(manifest, model.target)
    outputs, rows, digests, skipped, seconds = _predict(model, chosen, skip_bad)
    chosen = chosen.select(rows)
    task = task_of(model.target)
    table = prediction_table(chosen.utterances, model.target, outputs)
    table.insert(1, "fold", "test")
    summary = summarise(table, task, seed)
    interval, extra = summary.pop("interval"), summary.pop("warnings")
    seen = _seen(model, chosen.utterances, digests)
    report = {
        "format": 1,
        "sertune": __version__,
        "kind": "evaluate",
        "name": f"{chosen.name}, model trained on {trained_on}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "task": task,
        **summary,
        "protocol": {
            "text": f"a saved model, trained on {trained_on}, scored on all of {chosen.name}",
            "split": "evaluate",
            "folds": 1,
            "speaker_independent": not seen["speakers"] and not seen["clips"],
            "selection": "none: the model is as it was saved",
            "interval": interval,
        },
        "cost": {
            "seconds_total": round(time.perf_counter() - began, 3),
            "seconds_per_epoch": None,
            "peak_memory_mib": _peak_memory_mib(),
            "trainable_parameters": 0,
            "real_time_factor": round((time.perf_counter() - began) / max(seconds, 1e-9), 5),
        },
        "encoder": {
            "name": model.encoder.name,
            "digest": model.encoder.digest,
            "layers": model.encoder.depth,
            "width": model.encoder.width,
        },
        "method": model.spec.method.described(),
        "data": {
            "utterances": len(chosen),
            "speakers": int(chosen.utterances["speaker"].nunique()),
            "hours": round(seconds / 3600, 4),
            "names": [chosen.name],
        },
        "warnings": [*warnings, *_seen_warnings(seen, len(chosen)), *extra],
        "skipped": skipped,
    }
    _write(out, report, table)
    return out


def check_out(out: Path) -> None:
    """Raises `SertuneError` unless ``out`` is missing or empty and can be written."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise SertuneError(f"{out}: already there; choose another --out")
    check_writable(out)


def scorable(manifest: Manifest, target: Target) -> tuple[Manifest, list[str]]:
    """The clips whose truth the target can express, and what a reader must know of the others.

    Raises:
        SertuneError: there is none.
    """
    frame = manifest.utterances
    if isinstance(target, CategoryTarget):
        emotion = frame["emotion"]
        known = emotion.isin(target.labels).to_numpy()
        other = emotion[~known].dropna().value_counts()
        if not known.any():
            raise SertuneError(
                f"{manifest.name}: no clip has a label of the model ({', '.join(target.labels)}); "
                f"its labels: {', '.join(map(str, other.index)) or 'none'}"
            )
        warnings = [
            f"{count} clips labelled {label} left out: not among the model's labels" for label, count in other.items()
        ]
        absent = [label for label in target.labels if label not in set(emotion)]
        if absent:
            warnings.append(f"no clip is labelled {', '.join(absent)}; the model may still predict it")
        return manifest.select(known), warnings
    missing = [name for name in target.dimensions if name not in manifest.schemes]
    if missing:
        raise SertuneError(f"{manifest.name}: has no {missing[0]}, which the model predicts")
    for name, scale in zip(target.dimensions, target.scales, strict=True):
        if manifest.schemes[name].scale != scale:
            raise SertuneError(
                f"{manifest.name}: {name} is rated {manifest.schemes[name].scale}, the model's scale is {scale}; "
                "bring the ratings to that scale first"
            )
    known = frame[list(target.dimensions)].notna().any(axis=1).to_numpy()
    if not known.any():
        raise SertuneError(f"{manifest.name}: no clip has a value of {', '.join(target.dimensions)}")
    return manifest.select(known), []


def _predict(
    model: EmotionModel, manifest: Manifest, skip_bad: bool
) -> tuple[torch.Tensor, np.ndarray, list[str], list[dict[str, str]], float]:
    """Outputs, positions of the good rows, digests of their samples, bad files, and seconds of audio."""
    frame = manifest.utterances
    outputs, rows, digests, skipped, seconds = [], [], [], [], 0.0
    columns = (frame[name].tolist() for name in ("file", "start", "end"))
    with progress("Predicting", len(frame)) as advance:
        for row, (file, start, end) in enumerate(zip(*columns, strict=True)):
            advance(1)
            try:
                samples = read_audio(file, model.encoder.rate, start, end)
                outputs.append(outputs_of(model, samples))
            except AudioError as error:
                if not skip_bad:
                    raise SertuneError(f"{file}: {error.reason} (--skip-bad goes on without it)") from None
                skipped.append({"file": file, "reason": error.reason})
                continue
            rows.append(row)
            crop = int(model.spec.audio.crop * model.encoder.rate)
            digests.append(samples_digest(samples[:crop])[:16])
            seconds += len(samples) / model.encoder.rate
    if not rows:
        raise SertuneError(
            f"{manifest.name}: none of the {len(frame)} files can be used; the first: "
            f"{skipped[0]['file']}: {skipped[0]['reason']}"
        )
    return torch.cat(outputs), np.array(rows, dtype=np.int64), digests, skipped, seconds


def _seen(model: EmotionModel, frame: pd.DataFrame, digests: list[str]) -> dict[str, int]:
    """How many clips and speakers were in the model's training or dev part."""
    known = set(model.info.get("digests", []))
    names = set(model.info.get("speakers", [])) if model.info.get("data") else set()
    clips = sum(digest in known for digest in digests)
    speakers = len(names & set(frame["speaker"].dropna())) if clips else 0
    return {"clips": clips, "speakers": speakers}


def _seen_warnings(seen: dict[str, int], total: int) -> list[str]:
    if not seen["clips"]:
        return []
    return [
        f"{seen['clips']} of {total} clips were in the model's training or dev part, so this is no test; "
        "the honest figures are in the report of the training run"
    ]


def _peak_memory_mib() -> float:
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _write(out: Path, report: dict[str, Any], table: pd.DataFrame) -> None:
    with new_folder(out) as work:
        table.to_parquet(work / "predictions.parquet", index=False)
        (work / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
        write_report(work)
