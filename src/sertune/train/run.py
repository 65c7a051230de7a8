"""A whole run: data in; folds trained, chosen by dev and tested once; one saved model and a report's figures out."""

import datetime
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sertune import __version__
from sertune.config import RunConfig
from sertune.data.splits import Protocol
from sertune.metrics.opinions import OwnParts, Planes, has_opinions, opinions, rating_metrics
from sertune.metrics.summary import compare, summarise
from sertune.model.emotion_model import EmotionModel
from sertune.model.predictions import plane_maker, task_of
from sertune.model.targets import RaterLabelTarget, RaterTarget, Target, labels_of, lead_of, singles
from sertune.train.device import describe_machine
from sertune.train.folder import fold_folder, open_run, start_run, write_json, write_text
from sertune.train.folds import refits, run_fold, write_table
from sertune.train.judge import judged_by
from sertune.train.loop import count_parameters
from sertune.train.prepare import Prepared, prepare

ABSENT = {
    "keep": "a class that a corpus lacks is a class as any other",
    "drop": "classes that a corpus lacks are left out of all",
    "mask": "clips of a corpus say nothing about classes that it lacks, and are not taken for them",
}

CHOSEN = {
    "within-error": ", and the latest epoch within one standard error of the best one",
    "best": ", and the best epoch",
    "last": "; the last epoch is kept",
}
"""What dev chooses beside the strength of the regularisation."""


def train(config: RunConfig, *, overwrite: bool = False) -> Path:
    """Runs a configuration; goes on where an earlier run of it stopped.

    Args:
        config: what to do; `RunConfig.out` names the run folder.
        overwrite: replace a run that is already there.

    Returns:
        The run folder, with ``report.json``, ``predictions.parquet``, ``log.jsonl``, ``config.yaml``, ``model/``.

    Raises:
        SertuneError: a mistake in the settings or the data; nothing is left half-written.
    """
    began = time.perf_counter()
    run = open_run(config, overwrite=overwrite)
    prepared = prepare(config)
    start_run(run, config, overwrite=overwrite)
    folds = [*prepared.protocol.folds] + ([prepared.protocol.final] if prepared.protocol.final else [])
    for index, fold in enumerate(folds):
        run_fold(run, index, fold, prepared, config)
    _gather(run, prepared, config, time.perf_counter() - began)
    return run


def _gather(run: Path, prepared: Prepared, config: RunConfig, seconds: float) -> None:
    """Pools the folds' predictions and writes report.json, predictions.parquet and log.jsonl."""
    protocol, task = prepared.protocol, task_of(prepared.target)
    folders = [fold_folder(run, index, fold.name) for index, fold in enumerate(protocol.folds)]
    results = [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in folders]
    if protocol.final is not None:
        last = fold_folder(run, len(folders), protocol.final.name) / "result.json"
        results.append(json.loads(last.read_text(encoding="utf-8")))
    test = pd.concat([pd.read_parquet(folder / "test.parquet") for folder in folders], ignore_index=True)
    dev = pd.concat([pd.read_parquet(folder / "dev.parquet") for folder in folders], ignore_index=True)
    summary = summarise(test, task, config.seed)
    dev_summary = summarise(dev, task, config.seed)
    write_table(run / "predictions.parquet", test)
    rated = _rated(run, folders)
    if rated is not None:
        summary["metrics"] |= rating_metrics(rated, task, config.seed)
    write_text(run / "log.jsonl", "".join(json.dumps(row) + "\n" for result in results for row in result["log"]))
    interval, extra = summary.pop("interval"), summary.pop("warnings")
    method = prepared.encoder.resolved(config.method)
    report = {
        "format": 1,
        "sertune": __version__,
        "kind": "train",
        "name": f"{prepared.manifest.name}, {method.label}, {protocol.split}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "task": task,
        **summary,
        "dev_metrics": dev_summary["metrics"],
        **({"opinions": _opinions(run, prepared, test, rated, task, config)} if has_opinions(task) else {}),
        "baseline": _baseline(folders, results, test, task, config.seed),
        "folds": [result["fold"] for result in results],
        "protocol": _protocol(protocol, prepared.target, config, interval, prepared.notes),
        "audit": prepared.audit,
        "cost": _cost(results, prepared, seconds),
        "encoder": prepared.encoder.described(),
        "method": {**method.described(), "cut": prepared.encoder.cut},
        "data": _data(prepared, config),
        "warnings": [*prepared.warnings, *extra],
        "skipped": prepared.skipped,
        "machine": describe_machine(prepared.device),
    }
    write_json(run / "report.json", report)


def _rated(run: Path, folders: list[Path]) -> pd.DataFrame | None:
    """The single ratings of all test parts beside what was predicted for them, also as ratings.parquet."""
    files = [folder / "test_ratings.parquet" for folder in folders]
    if not all(file.is_file() for file in files):
        return None
    rated = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    write_table(run / "ratings.parquet", rated)
    return rated


def _opinions(
    run: Path,
    prepared: Prepared,
    test: pd.DataFrame,
    rated: pd.DataFrame | None,
    task: dict[str, Any],
    config: RunConfig,
) -> dict[str, Any]:
    """Ceilings, spread and annotators of the test clips; the annotators' map is the saved model's."""
    ratings, frame = prepared.manifest.ratings, prepared.manifest.utterances
    tested = frame[frame["id"].isin(test["utterance"])]
    made = plane_maker(prepared.target, tested, ratings)
    planes = Planes(*made) if made is not None else None
    own = _own_parts(run / "model" / "model.safetensors", prepared.target) if rated is not None else None
    return opinions(test, ratings, rated, task, planes=planes, own=own, seed=config.seed)


def _own_parts(file: Path, target: Target) -> OwnParts | None:
    """What the saved model has learnt of each annotator whom it has met in training."""
    from safetensors.numpy import load_file

    part = next((part for part in singles(target) if isinstance(part, (RaterTarget, RaterLabelTarget))), None)
    if part is None:
        return None
    tensors = load_file(file)
    # the last layer is the head's output, or one of several there
    (name,) = (name for name in tensors if name.startswith("head.output") and name.endswith(".own"))
    counts = tensors[f"{name.removesuffix('own')}counts"]
    met = counts >= max(part.form.min_ratings, 1)
    names = [rater for rater, there in zip(part.raters, met, strict=True) if there]
    return OwnParts(names, tensors[name].reshape(len(counts), -1)[met].astype(np.float64))


def _baseline(
    folders: list[Path], results: list[dict[str, Any]], test: pd.DataFrame, task: dict[str, Any], seed: int
) -> list[dict[str, Any]]:
    """The pooled metrics of every set of layers; the one with the best mean dev score is marked and compared."""
    files = [folder / "baseline.parquet" for folder in folders]
    if not all(file.is_file() for file in files):
        return []
    table = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    folds = results[: len(folders)]
    rows: list[dict[str, Any]] = []
    for name, part in table.groupby("baseline", sort=False):
        dev = float(np.mean([result["baseline"][name] for result in folds]))
        metrics = summarise(part, task, seed, transport=False)["metrics"]
        rows.append({"name": str(name), "dev": dev, "chosen": False, "metrics": metrics})
    best = max(rows, key=lambda row: row["dev"])
    chosen = table[table["baseline"] == best["name"]]
    best |= {"chosen": True, "metrics": summarise(chosen, task, seed)["metrics"]}
    best["difference"] = compare(test, chosen, task, seed)
    return rows


def _protocol(protocol: Protocol, target: Target, config: RunConfig, interval: str, notes: list[str]) -> dict[str, Any]:
    frozen = config.method.name == "frozen" and config.head.start == "probe" and target.solvable
    judge = judged_by(target)
    what = f"strength of the regularisation by dev {judge}"
    if not frozen:
        what += CHOSEN[config.train.choose]
    again = ""
    if refits(config, protocol):
        whole = frozen or config.train.refit == "all"
        again = f"; then {'the model' if whole else 'what is solved in it'} is fitted on train and dev together"
        again += ", for all epochs" if whole and not frozen else ""
    text = protocol.text
    if protocol.final is not None:
        text += ". The saved model is one more fit, without a test part; the figures are those of the folds' own models"
    return {
        "text": text,
        "split": protocol.split,
        "folds": len(protocol.folds),
        "speaker_independent": protocol.speaker_independent,
        "selection": f"{what}{again}; the test part is scored once, after that",
        "interval": interval,
        "seed": config.seed,
        "crop_seconds": config.audio.crop,
        "notes": notes,
    }


def _cost(results: list[dict[str, Any]], prepared: Prepared, seconds: float) -> dict[str, Any]:
    epochs = sum(result["fold"]["epochs"] for result in results)
    training = sum(result["fold"]["train_seconds"] for result in results)
    model = EmotionModel(prepared.encoder, prepared.spec)
    head = count_parameters(list(model.head.parameters()))
    states = prepared.clips.states
    return {
        "seconds_total": round(seconds, 3),
        "seconds_per_epoch": round(training / epochs, 4) if epochs else 0.0,
        "seconds_states": round(prepared.states_seconds, 3),
        "peak_memory_mib": round(prepared.device.peak_memory_mib(), 1),
        "trainable_parameters": count_parameters(model.trained_parameters()) + head,
        "total_parameters": count_parameters(list(prepared.encoder.parameters())) + head,
        "states_mib": round(max(states.nbytes, states.disk_bytes) / 2**20, 1),
        "cache_mib": round(states.disk_bytes / 2**20, 1),
        "clips_encoded": states.passes,
    }


def _data(prepared: Prepared, config: RunConfig) -> dict[str, Any]:
    frame = prepared.manifest.utterances
    described: dict[str, Any] = {
        "utterances": len(frame),
        "speakers": int(frame["speaker"].nunique()),
        "hours": round(float(prepared.clips.states.seconds.sum()) / 3600, 4),
        "names": list(prepared.reading.names),
    }
    if len(config.data) > 1:
        described["absent"] = f"{config.absent}: {ABSENT[config.absent]}"
    if config.weights:
        described["weights"] = dict(zip(prepared.reading.names, config.weights, strict=True))
    if prepared.label_map is not None:
        described["label_map"] = prepared.label_map.name
    if prepared.reading.notes:
        described["label_space"] = list(prepared.reading.notes)
    lead = lead_of(prepared.target)
    if lead.categorical:
        counts = frame["emotion"].value_counts()
        described["per_label"] = {label: int(counts.get(label, 0)) for label in labels_of(lead)}
    return described
