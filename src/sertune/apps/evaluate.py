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
from sertune.corpora import names
from sertune.corpora.reading import Reading, read_spaces, sources
from sertune.data.audio import read_audio, samples_digest
from sertune.data.label_map import Absent, find_map, map_from
from sertune.data.manifest import Manifest
from sertune.errors import AudioError, SertuneError, unknown
from sertune.files import check_writable, new_folder
from sertune.metrics.opinions import OwnParts, Planes, has_opinions, opinions, rating_metrics, tasks_of
from sertune.metrics.summary import compare, main_metrics, summarise
from sertune.model.adapt import METHODS, Unlabelled, adapted_outputs, check_method, masked
from sertune.model.emotion_model import EmotionModel, Vectors
from sertune.model.predictions import plane_maker, prediction_table, rating_table, task_of
from sertune.model.targets import (
    CategoryTarget,
    JoinedTarget,
    RaterLabelTarget,
    Single,
    Target,
    VotesTarget,
    dimensions_of,
    labels_of,
    lead_of,
    singles,
)
from sertune.model.targets.distribution import PLANE
from sertune.progress import progress

ABSENT: Final = {
    "keep": "it may be predicted, and is then wrong",
    "mask": "its probability is set to 0",
    "drop": "it is taken out of the model's labels",
}
"""What becomes of a class of the model that the data lacks."""
UNKNOWN_TRAINING: Final = "it is not recorded what the model was trained on; clips and speakers here may be among it"


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
    scales = scales_of(model.target)
    about_labels = any(labels_of(part) for part in singles(model.target))
    if label_map not in ("", "none") and not about_labels:
        raise SertuneError(f"label map {label_map}: the model predicts {', '.join(scales)}, not labels")
    found = None
    if about_labels and label_map != "none":
        own = model.info.get("label_map")
        found = find_map(label_map) if label_map else map_from(own) if own else None
    return read_spaces(specs, columns, label_map=found, scales=scales or None)


def scales_of(target: Target) -> dict[str, tuple[float, float]]:
    """Dimension -> scale, of all that a target predicts."""
    found: dict[str, tuple[float, float]] = {}
    for part in singles(target):
        if not isinstance(part, (CategoryTarget, VotesTarget, RaterLabelTarget)):
            found = {**dict(zip(part.dimensions, part.scales, strict=True)), **found}
    return found


def evaluate(
    model: EmotionModel, data: Reading, out: Path, options: Options | None = None, clips: "Clips | None" = None
) -> Path:
    """Predicts every clip that has the target; ``out`` gets ``report.json``, ``report.html``, ``predictions.parquet``.

    It appears when it is complete. With adaptation ``metrics`` are those of the adapted model, and ``plain`` holds
    those of the model as it is, beside the paired difference.

    Where it is not recorded what the model was trained on, nothing is said of its speakers, and a warning stands there.

    A model of opinions is scored by distributions, too, where the data has single ratings; where it has a consensus
    alone, by that. One that predicts annotators is scored on the single ratings (``ratings.parquet``), unless it is
    adapted: annotators whom it has not met are predicted as the average one.

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
    trained_on = training_data(model)
    chosen, warnings = scorable(data.manifest, model.target)
    chosen, said = _told_apart(model, chosen)
    warnings = [*warnings, *said]
    target, present = _label_space(model.target, chosen, options.absent)
    allowed = present if options.absent != "keep" else None
    if clips is not None:
        began -= clips.spent
    clips = clips or encode(model, chosen, skip_bad=options.skip_bad)
    chosen = chosen.select(clips.rows)
    score = _Scorer(model, target, chosen, clips, options.seed)
    table, summary, rated = score(options.adapt, allowed)
    interval, extra = summary.pop("interval"), summary.pop("warnings")
    seen = _seen(model, chosen.utterances, clips.digests)
    report = {
        "format": 1,
        "sertune": __version__,
        "kind": "evaluate",
        "name": f"{chosen.name}, model trained on {trained_on}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "task": score.task,
        **summary,
        **({"opinions": score.opinions(table, rated)} if has_opinions(score.task) else {}),
        **_beside(score, table, options, allowed),
        **({"chance": 1 / int(allowed.sum())} if allowed is not None else {}),
        "protocol": {
            "text": f"a saved model, trained on {trained_on}, scored on all of {chosen.name}",
            "split": "evaluate",
            "folds": 1,
            "speaker_independent": not seen["speakers"] and not seen["clips"] if seen is not None else None,
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
    _write(out, report, table, rated)
    return out


def check_out(out: Path) -> None:
    """Raises `SertuneError` unless ``out`` is missing or empty and can be written."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise SertuneError(f"{out}: already there; choose another --out")
    check_writable(out)


def scorable(manifest: Manifest, target: Target) -> tuple[Manifest, list[str]]:
    """The clips whose truth the target can express, and what a reader must know of the others.

    Where a consensus is missing, it is that of the single ratings. Joined tasks go by the first one.

    Raises:
        SertuneError: there is none.
    """
    manifest, lead = manifest.with_consensus(), lead_of(target)
    if lead.categorical:
        return _with_labels(manifest, lead)
    frame, wanted, scales = manifest.utterances, dimensions_of(lead), scales_of(target)
    missing = [name for name in wanted if name not in manifest.schemes]
    if missing:
        raise SertuneError(f"{manifest.name}: has no {missing[0]}, which the model predicts")
    for name in wanted:
        if manifest.schemes[name].scale != scales[name]:
            raise SertuneError(
                f"{manifest.name}: {name} is rated {manifest.schemes[name].scale}, the model's scale is "
                f"{scales[name]}; bring the ratings to that scale first"
            )
    known = frame[list(wanted)].notna().any(axis=1).to_numpy()
    if not known.any():
        raise SertuneError(f"{manifest.name}: no clip has a value of {', '.join(wanted)}")
    return manifest.select(known), []


def _with_labels(manifest: Manifest, lead: Single) -> tuple[Manifest, list[str]]:
    """The clips with a label of the model: as consensus, or, for a model of votes, among the votes."""
    labels, emotion = labels_of(lead), manifest.utterances["emotion"]
    known = emotion.isin(labels).to_numpy()
    voted = votes_of(manifest) if not isinstance(lead, CategoryTarget) else None
    if voted is not None:
        known = known | manifest.utterances["id"].isin(voted["utterance"][voted["value"].isin(labels)]).to_numpy()
    other = emotion[~known].dropna().value_counts()
    if not known.any():
        raise SertuneError(
            f"{manifest.name}: no clip has a label of the model ({', '.join(labels)}); its labels: "
            f"{', '.join(map(str, other.index)) or 'none'}; --label-map can bring them together"
        )
    warnings = [
        f"{count} clips labelled {label} left out: not among the model's labels" for label, count in other.items()
    ]
    there = set(emotion) if voted is None else set(emotion) | set(voted["value"])
    absent = [label for label in labels if label not in there]
    if absent:
        warnings.append(f"no clip is labelled {', '.join(absent)}")
    return manifest.select(known), warnings


def _told_apart(model: EmotionModel, manifest: Manifest) -> tuple[Manifest, list[str]]:
    """The data with its annotators named so that the model takes for known only whom it has met.

    Within a corpus that it was trained on, they are those of training, who have the corpus's name before their own
    where it was one of several. Annotators of another corpus are other people, whatever their names. Of tables nobody
    can tell, so equal names count as one, and a reader is told.
    """
    if model.rater_part is None or manifest.ratings is None:
        return manifest, []
    trained, known = str(model.info.get("data", "")).split("+"), set(model.rater_part[0].raters)
    own = manifest.ratings["rater"].astype(str)
    prefixed = manifest.name + "/" + own
    if manifest.name in trained:
        named = own.where(~prefixed.isin(known), prefixed)
    elif manifest.name in names() and set(trained) <= set(names()):
        named = own.where(~own.isin(known), prefixed)
    else:
        named = own
    same = int(named[named.isin(known)].nunique()) if manifest.name not in trained else 0
    said = f"{same} annotators have names of annotators of {' and '.join(trained)}, and are taken for them"
    told = replace(manifest, ratings=manifest.ratings.assign(rater=named.astype(object)))
    return told, [said] if same else []


def votes_of(manifest: Manifest) -> pd.DataFrame | None:
    """The single ratings that are labels; None where there are none."""
    if manifest.ratings is None:
        return None
    votes = manifest.ratings[manifest.ratings["attribute"] == "emotion"]
    return votes if len(votes) else None


def scored_task(target: Target, manifest: Manifest) -> dict[str, Any]:
    """The ``task`` of a report on data, without the opinions that nothing in the data can be held against."""
    given = set(manifest.ratings["attribute"]) if manifest.ratings is not None else set()
    task = task_of(target)
    made = [_known_part(part, given) for part in tasks_of(task)]
    return {**made[0], **({"also": made[1:]} if made[1:] else {})}


def _known_part(task: Mapping[str, Any], given: set[str]) -> dict[str, Any]:
    kept = {key: value for key, value in task.items() if key != "also"}
    if not given & ({"emotion"} if task["target"] == "category" else set(task["dimensions"])):
        return {key: value for key, value in kept.items() if key not in ("opinions", "grid", "cost")}
    return kept if set(PLANE) <= given else {key: value for key, value in kept.items() if key != "grid"}


def _label_space(target: Target, manifest: Manifest, absent: Absent) -> tuple[Target, Tensor | None]:
    """The target that is scored, and the mask of the categories that the data has, where it lacks some.

    Raises:
        SertuneError: one category alone is left, which every clip would get.
    """
    lead = lead_of(target)
    if not isinstance(lead, (CategoryTarget, VotesTarget, RaterLabelTarget)):
        return target, None
    there = manifest.utterances["emotion"].tolist()
    voted = votes_of(manifest) if not isinstance(lead, CategoryTarget) else None
    if voted is not None:
        there += voted["value"].tolist()
    present = torch.from_numpy(np.isin(np.array(lead.labels, dtype=object), there))
    if bool(present.all()):
        return target, None
    if absent != "keep" and int(present.sum()) < 2:
        one = lead.labels[int(present.nonzero()[0])]
        raise SertuneError(
            f"{manifest.name}: shares one class ({one}) with the model, which every clip would get; --absent keep "
            "scores it against all classes of the model"
        )
    if absent == "drop":
        labels = tuple(label for label, keep in zip(lead.labels, present.tolist(), strict=True) if keep)
        return _with_lead(target, replace(lead, labels=labels)), present
    return target, present


def _with_lead(target: Target, lead: Single) -> Target:
    """The target with another one in the lead's place."""
    if not isinstance(target, JoinedTarget):
        return lead
    return replace(target, parts=tuple(lead if part is target.first else part for part in target.parts))


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
        self.task = scored_task(target, manifest)
        self.encoded = target.encode(manifest.utterances, manifest.ratings)

    def __call__(self, method: str, allowed: Tensor | None) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame | None]:
        """The table of predictions and its summary; and the single ratings, where these are predicted."""
        slots = None
        if method == "none" and self.model.rater_part is not None and has_opinions(self.task):
            slots = self.target.slots(torch.from_numpy(self.encoded))
        outputs = self._outputs(method, allowed, slots)
        frame = self.manifest.utterances
        table = prediction_table(frame, self.target, outputs, self.encoded)
        table.insert(1, "fold", "test")
        summary = summarise(table, self.task, self.seed)
        if slots is None:
            return table, summary, None
        rated = self._rated(outputs)
        summary["metrics"] |= rating_metrics(rated, self.task, self.seed)
        return table, summary, rated

    def _rated(self, outputs: Tensor) -> pd.DataFrame:
        """Every single rating beside what was predicted for it."""
        rated = rating_table(self.manifest.utterances, self.manifest.ratings, self.target, outputs)
        rated["known"] = np.isin(rated["rater"].to_numpy(dtype=object), np.array(self._met, dtype=object))
        rated.insert(1, "fold", "test")
        return rated

    @property
    def _met(self) -> list[str]:
        """Annotators whom the model knows."""
        assert self.model.rater_part is not None
        part, layer = self.model.rater_part
        return [name for name, known in zip(part.raters, layer.known.tolist(), strict=True) if known]

    def opinions(self, table: pd.DataFrame, rated: pd.DataFrame | None) -> dict[str, Any]:
        """The report's part of opinions: ceilings of this data's annotators, spread, and each annotator."""
        frame, ratings = self.manifest.utterances, self.manifest.ratings
        made = plane_maker(self.target, frame, ratings)
        own = None
        if rated is not None and self.model.rater_part is not None:
            layer = self.model.rater_part[1]
            parts = layer.own[layer.known].detach().flatten(1).double().cpu().numpy()
            own = OwnParts(self._met, parts)
        planes = Planes(*made) if made is not None else None
        return opinions(table, ratings, rated, self.task, planes=planes, own=own, seed=self.seed)

    def _outputs(self, method: str, allowed: Tensor | None, slots: Tensor | None) -> Tensor:
        """Outputs of all clips, each corpus adapted to by itself, and of the annotators in ``slots`` (N, R)."""
        speakers = self.manifest.utterances["speaker"].tolist()
        source = sources(self.manifest)
        whole = allowed if slots is None and not isinstance(self.model.target, JoinedTarget) else None
        made: dict[int, Tensor] = {}
        for number in np.unique(source).tolist():
            rows = np.flatnonzero(source == number).tolist()
            part = Unlabelled.of([self.clips.vectors[row] for row in rows], [speakers[row] for row in rows])
            if slots is None:
                outputs = adapted_outputs(self.model, part, method, whole)
            else:
                with torch.no_grad():
                    windows = self.model.outputs(part.vectors, slots[rows][part.owner])
                outputs = part.per_clip(windows.cpu())
            made |= dict(zip(rows, outputs, strict=True))
        outputs = torch.stack([made[row] for row in range(len(speakers))])
        if allowed is None:
            return outputs
        if whole is None:
            outputs = _masked(self.model.target, outputs, allowed)
        return outputs if self.target is self.model.target else _dropped(self.model.target, outputs, allowed)


def _label_columns(target: Target, width: int) -> tuple[int, int, int]:
    """Where the columns of the lead's labels begin in outputs of a width, how many labels, how often they stand there.

    The first time as what is predicted of the clip, then once for every annotator in a slot.
    """
    lead, begin = lead_of(target), 0
    if isinstance(target, JoinedTarget):
        begin = sum(part.outputs for part in target.parts[: target.lead])
        width = width - begin if target.lead == len(target.parts) - 1 else lead.outputs
    labels = len(labels_of(lead))
    slots = (width - labels) // (labels + 1) if isinstance(lead, RaterLabelTarget) else 0
    return begin, labels, 1 + slots


def _masked(target: Target, outputs: Tensor, allowed: Tensor) -> Tensor:
    """Outputs (N, K) without the categories that are not allowed, of the clip and of every annotator."""
    begin, labels, times = _label_columns(target, outputs.shape[1])
    outputs = outputs.clone()
    for start in range(begin, begin + times * labels, labels):
        columns = slice(start, start + labels)
        outputs[:, columns] = masked(outputs[:, columns], allowed)
    return outputs


def _dropped(target: Target, outputs: Tensor, allowed: Tensor) -> Tensor:
    """Outputs (N, K) without the columns of the categories that are not allowed."""
    begin, labels, times = _label_columns(target, outputs.shape[1])
    kept = torch.ones(outputs.shape[1], dtype=torch.bool)
    kept[begin : begin + times * labels] = allowed.repeat(times)
    return outputs[:, kept]


def _beside(score: _Scorer, table: pd.DataFrame, options: Options, allowed: Tensor | None) -> dict[str, Any]:
    """What stands beside the figures: those without adaptation, and those with the absent classes kept."""
    found: dict[str, Any] = {}
    if options.adapt != "none":
        plain, summary, _ = score("none", allowed)
        found["plain"] = {
            "metrics": summary["metrics"],
            "difference": compare(table, plain, score.task, options.seed),
            "text": "the model as it is, each clip as if it were alone",
        }
        for name in ["predicted"] if score.task["target"] == "category" else score.task["dimensions"]:
            table[f"{name}_plain"] = plain[name].to_numpy()
    if allowed is not None:
        whole = _Scorer(score.model, score.model.target, score.manifest, score.clips, options.seed)
        _, summary, _ = whole(options.adapt, None)
        found["absent_kept"] = {"metrics": {name: summary["metrics"][name] for name in main_metrics(score.task)}}
    return found


def training_data(model: EmotionModel) -> str:
    """What a model was trained on, in words; where that is not recorded, where the model is from."""
    source = model.info.get("source")
    return str(model.info.get("data") or (f"unknown data ({source})" if source else "unknown data"))


def seen_clips(model: EmotionModel, digests: Sequence[str]) -> int:
    """How many clips, named by their digests, were in the model's training or dev part."""
    known = set(model.info.get("digests", []))
    return sum(digest in known for digest in digests)


def _seen(model: EmotionModel, frame: pd.DataFrame, digests: Sequence[str]) -> dict[str, int] | None:
    """How many clips and speakers were in the model's training or dev part; None where that is not recorded."""
    if "digests" not in model.info:
        return None
    names = set(model.info.get("speakers", [])) if model.info.get("data") else set()
    clips = seen_clips(model, digests)
    speakers = len(names & set(frame["speaker"].dropna())) if clips else 0
    return {"clips": clips, "speakers": speakers}


def _seen_warnings(seen: dict[str, int] | None, total: int) -> list[str]:
    if seen is None:
        return [f"{UNKNOWN_TRAINING}, so this may be no test"]
    if not seen["clips"]:
        return []
    return [
        f"{seen['clips']} of {total} clips were in the model's training or dev part, so this is no test; "
        "the honest figures are in the report of the training run"
    ]


def _peak_memory_mib() -> float:
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _write(out: Path, report: dict[str, Any], table: pd.DataFrame, rated: pd.DataFrame | None) -> None:
    with new_folder(out) as work:
        table.to_parquet(work / "predictions.parquet", index=False)
        if rated is not None:
            rated.to_parquet(work / "ratings.parquet", index=False)
        (work / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
        write_report(work)
