"""Scores a saved model on labelled data, as it is or adapted without labels; says so when it has seen that data."""

import datetime
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sertune import __version__
from sertune.apps.predict import vectors_of
from sertune.apps.report import write_report
from sertune.corpora.reading import Reading, read_spaces, sources
from sertune.data.audio import read_audio, samples_digest
from sertune.data.label_map import Absent, find_map, map_from
from sertune.data.manifest import Manifest
from sertune.errors import AudioError, SertuneError, unknown
from sertune.files import check_writable, new_folder
from sertune.metrics.summary import compare, main_metrics, summarise
from sertune.model.adapt import METHODS, Unlabelled, adapted_outputs, allowed_labels, check_method
from sertune.model.emotion_model import EmotionModel, Vectors
from sertune.model.predictions import prediction_table, task_of
from sertune.model.targets import CategoryTarget, Target
from sertune.progress import progress

ABSENT: Final = {
    "keep": "it may be predicted, and is then wrong",
    "mask": "its probability is set to 0",
    "drop": "it is taken out of the model's labels",
}
"""What becomes of a class of the model that the data lacks."""


@dataclass(frozen=True)
class Options:
    """How a model is scored.

    Attributes:
        adapt: a key of `sertune.model.adapt.METHODS`; several corpora are adapted to one by one.
        absent: a key of `ABSENT`.
        skip_bad: go on without files that can't be used.
        seed: of the bootstrap.
    """

    adapt: str = "none"
    absent: Absent = "mask"
    skip_bad: bool = False
    seed: int = 0


def read_for(
    model: EmotionModel, specs: Sequence[str], columns: Mapping[str, str] | None = None, label_map: str = ""
) -> Reading:
    """Labelled data in a model's label space and on its scales.

    Args:
        model: loaded.
        specs: as `sertune.corpora.read_data` takes them.
        columns: canonical column name -> column, for tables.
        label_map: name or file; ``none``: labels as they are; empty: the map that the model was trained with.

    Raises:
        SertuneError: as `sertune.corpora.reading.read_spaces`.
    """
    target = model.target
    if not isinstance(target, CategoryTarget):
        if label_map not in ("", "none"):
            raise SertuneError(f"label map {label_map}: the model predicts {', '.join(target.dimensions)}, not labels")
        scales = dict(zip(target.dimensions, target.scales, strict=True))
        return read_spaces(specs, columns, scales=scales)
    own = model.info.get("label_map")
    if label_map in ("", "none"):
        return read_spaces(specs, columns, label_map=map_from(own) if own and not label_map else None)
    return read_spaces(specs, columns, label_map=find_map(label_map))


def evaluate(
    model: EmotionModel, data: Reading, out: Path, options: Options | None = None, clips: "Clips | None" = None
) -> Path:
    """Predicts every clip that has the target; ``out`` gets ``report.json``, ``report.html``, ``predictions.parquet``.

    It appears when it is complete. With adaptation ``metrics`` are those of the adapted model, and ``plain`` holds
    those of the model as it is, beside the paired difference.

    Args:
        model: loaded.
        data: labelled, in the model's label space and scales.
        out: a new or empty folder.
        options: the defaults if not given.
        clips: what `encode` made of the same data, if it was called before.

    Raises:
        SertuneError: no clip has the target, the folder is taken or can't be written, a file can't be used, or an
            adaptation that can't be had.
    """
    options = options or Options()
    check_out(out)
    check_method(model, options.adapt)
    if options.absent not in ABSENT:
        raise unknown("policy", options.absent, ABSENT)
    began = time.perf_counter()
    trained_on = model.info.get("data", "unknown data")
    chosen, warnings = scorable(data.manifest, model.target)
    target, present = _label_space(model.target, chosen, options.absent)
    allowed = present if options.absent != "keep" else None
    if clips is not None:
        began -= clips.spent
    clips = clips or encode(model, chosen, skip_bad=options.skip_bad)
    chosen = chosen.select(clips.rows)
    score = _Scorer(model, target, chosen, clips, options.seed)
    table, summary = score(options.adapt, allowed)
    interval, extra = summary.pop("interval"), summary.pop("warnings")
    seen = _seen(model, chosen.utterances, clips.digests)
    report = {
        "format": 1,
        "sertune": __version__,
        "kind": "evaluate",
        "name": f"{chosen.name}, model trained on {trained_on}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "task": task_of(target),
        **summary,
        **_beside(score, table, options, allowed),
        **({"chance": 1 / int(allowed.sum())} if allowed is not None else {}),
        "protocol": {
            "text": f"a saved model, trained on {trained_on}, scored on all of {chosen.name}",
            "split": "evaluate",
            "folds": 1,
            "speaker_independent": not seen["speakers"] and not seen["clips"],
            "selection": "none: the model is as it was saved",
            "interval": interval,
            "adaptation": METHODS[options.adapt],
            **({"absent classes": f"{options.absent}: {ABSENT[options.absent]}"} if present is not None else {}),
        },
        "cost": {
            "seconds_total": round(time.perf_counter() - began, 3),
            "seconds_per_epoch": None,
            "peak_memory_mib": _peak_memory_mib(),
            "trainable_parameters": 0,
            "real_time_factor": round((time.perf_counter() - began) / max(clips.seconds, 1e-9), 5),
        },
        "encoder": model.encoder.described(),
        "method": model.spec.method.described(),
        "data": {
            "utterances": len(chosen),
            "speakers": int(chosen.utterances["speaker"].nunique()),
            "hours": round(clips.seconds / 3600, 4),
            "names": list(data.names),
            **({"label_space": list(data.notes)} if data.notes else {}),
        },
        "warnings": [*warnings, *_seen_warnings(seen, len(chosen)), *extra],
        "skipped": clips.skipped,
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
                f"{manifest.name}: no clip has a label of the model ({', '.join(target.labels)}); its labels: "
                f"{', '.join(map(str, other.index)) or 'none'}; --label-map can bring them together"
            )
        warnings = [
            f"{count} clips labelled {label} left out: not among the model's labels" for label, count in other.items()
        ]
        absent = [label for label in target.labels if label not in set(emotion)]
        if absent:
            warnings.append(f"no clip is labelled {', '.join(absent)}")
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


def _label_space(target: Target, manifest: Manifest, absent: Absent) -> tuple[Target, Tensor | None]:
    """The target that is scored, and the mask of the categories that the data has, where it lacks some.

    Raises:
        SertuneError: one category alone is left, which every clip would get.
    """
    if not isinstance(target, CategoryTarget):
        return target, None
    present = allowed_labels(target, manifest.utterances["emotion"].tolist())
    if bool(present.all()):
        return target, None
    if absent != "keep" and int(present.sum()) < 2:
        one = target.labels[int(present.nonzero()[0])]
        raise SertuneError(
            f"{manifest.name}: shares one class ({one}) with the model, which every clip would get; --absent keep "
            "scores it against all classes of the model"
        )
    if absent == "drop":
        labels = tuple(label for label, keep in zip(target.labels, present.tolist(), strict=True) if keep)
        return replace(target, labels=labels), present
    return target, present


@dataclass
class Clips:
    """What was read: vectors, positions of the good rows, digests of their samples, bad files, seconds of audio.

    Attributes:
        spent: seconds that it took.
    """

    vectors: list[Vectors]
    rows: np.ndarray
    digests: list[str]
    skipped: list[dict[str, str]]
    seconds: float
    spent: float


def encode(model: EmotionModel, manifest: Manifest, *, skip_bad: bool = False) -> Clips:
    """Every clip through the encoder; `evaluate` takes it, for several ways to score the same clips.

    Args:
        model: loaded.
        manifest: clips that have the model's target, as `scorable` gives them.
        skip_bad: go on without files that can't be used.

    Raises:
        SertuneError: a file that can't be used, or none that can.
    """
    frame, began = manifest.utterances, time.perf_counter()
    vectors: list[Vectors] = []
    rows, digests, skipped, seconds = [], [], [], 0.0
    columns = (frame[name].tolist() for name in ("file", "start", "end"))
    with progress("Predicting", len(frame)) as advance:
        for row, (file, start, end) in enumerate(zip(*columns, strict=True)):
            advance(1)
            try:
                samples = read_audio(file, model.encoder.rate, start, end)
                vectors.append(vectors_of(model, samples))
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
    return Clips(vectors, np.array(rows, dtype=np.int64), digests, skipped, seconds, time.perf_counter() - began)


class _Scorer:
    """Scores the same clips under one adaptation or another."""

    def __init__(self, model: EmotionModel, target: Target, manifest: Manifest, clips: Clips, seed: int) -> None:
        self.model, self.target, self.manifest, self.clips, self.seed = model, target, manifest, clips, seed
        self.task = task_of(target)

    def __call__(self, method: str, allowed: Tensor | None) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The table of predictions and its summary."""
        outputs = self._outputs(method, allowed)
        if allowed is not None and outputs.shape[1] != self.target.outputs:
            outputs = outputs[:, allowed]
        table = prediction_table(self.manifest.utterances, self.target, outputs)
        table.insert(1, "fold", "test")
        return table, summarise(table, self.task, self.seed)

    def _outputs(self, method: str, allowed: Tensor | None) -> Tensor:
        """Outputs of all clips, each corpus adapted to by itself."""
        speakers = self.manifest.utterances["speaker"].tolist()
        source = sources(self.manifest)
        outputs = torch.zeros(len(speakers), self.model.target.outputs)
        for number in np.unique(source).tolist():
            rows = np.flatnonzero(source == number).tolist()
            part = Unlabelled.of([self.clips.vectors[row] for row in rows], [speakers[row] for row in rows])
            outputs[rows] = adapted_outputs(self.model, part, method, allowed)
        return outputs


def _beside(score: _Scorer, table: pd.DataFrame, options: Options, allowed: Tensor | None) -> dict[str, Any]:
    """What stands beside the figures: those without adaptation, and those with the absent classes kept."""
    found: dict[str, Any] = {}
    if options.adapt != "none":
        plain, summary = score("none", allowed)
        found["plain"] = {
            "metrics": summary["metrics"],
            "difference": compare(table, plain, score.task, options.seed),
            "text": "the model as it is, each clip as if it were alone",
        }
        for name in ["predicted"] if score.task["target"] == "category" else score.task["dimensions"]:
            table[f"{name}_plain"] = plain[name].to_numpy()
    if allowed is not None:
        whole = _Scorer(score.model, score.model.target, score.manifest, score.clips, options.seed)
        _, summary = whole(options.adapt, None)
        found["absent_kept"] = {"metrics": {name: summary["metrics"][name] for name in main_metrics(score.task)}}
    return found


def seen_clips(model: EmotionModel, digests: Sequence[str]) -> int:
    """How many clips, named by their digests, were in the model's training or dev part."""
    known = set(model.info.get("digests", []))
    return sum(digest in known for digest in digests)


def _seen(model: EmotionModel, frame: pd.DataFrame, digests: Sequence[str]) -> dict[str, int]:
    """How many clips and speakers were in the model's training or dev part."""
    names = set(model.info.get("speakers", [])) if model.info.get("data") else set()
    clips = seen_clips(model, digests)
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
