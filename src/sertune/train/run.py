"""A whole run: data in; folds trained, chosen by dev and tested once; one saved model and a report's figures out."""

import datetime
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sertune import __version__
from sertune.config import RunConfig
from sertune.corpora import read_all
from sertune.data.audit import leaks
from sertune.data.manifest import Manifest
from sertune.data.splits import Fold, Protocol, make_protocol
from sertune.errors import SertuneError, unknown
from sertune.files import replacing
from sertune.metrics.summary import compare, summarise
from sertune.model.emotion_model import EmotionModel, ModelSpec
from sertune.model.encoder import Encoder, load_encoder
from sertune.model.predictions import prediction_table, task_of
from sertune.model.targets import CategoryTarget, DimensionTarget, Target
from sertune.progress import say
from sertune.train.baseline import fit_baseline, start_head
from sertune.train.device import Device, describe_machine
from sertune.train.folder import fold_folder, open_run, start_run, write_json, write_text
from sertune.train.loop import Clips, Fit, count_parameters, derive_seed, model_outputs
from sertune.train.states import GIB, Reader, compute_states, frames_nbytes

DIMENSIONS = ("arousal", "valence", "dominance")
FINAL = "final"


@dataclass
class Prepared:
    """What every fold of a run shares.

    Attributes:
        manifest: the usable clips that have the target.
        target: without class weights, which each fold sets.
        encoder: with the weights as pre-trained.
        initial: these weights, where the method will change them.
        clips: states and targets, in the order of the manifest.
        protocol: the folds.
        skipped: files left out.
        warnings: for the report.
        notes: what train and test share by design, such as texts.
        states_seconds: spent on computing the states.
    """

    manifest: Manifest
    target: Target
    encoder: Encoder
    initial: dict[str, Tensor]
    spec: ModelSpec
    clips: Clips
    protocol: Protocol
    device: Device
    skipped: list[dict[str, str]]
    warnings: list[str]
    notes: list[str]
    states_seconds: float


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
        _run_fold(run, index, fold, prepared, config)
    _gather(run, prepared, config, time.perf_counter() - began)
    return run


# -- preparing -------------------------------------------------------------------------------------------------------


def prepare(config: RunConfig) -> Prepared:
    """Reads the data, loads the encoder, makes the folds and computes the states."""
    manifest, target = choose_target(read_all(config.data, config.columns), config)
    encoder = load_encoder(config.encoder)
    _ = encoder.digest  # before anything trains
    device = Device(config.precision, encoder.width)
    device.prepare(encoder)
    spec = ModelSpec(config.encoder, config.method, config.head, target, config.audio)
    model = EmotionModel(encoder, spec)
    initial = {name: tensor.clone() for name, tensor in model.trained_state().items() if name.startswith("encoder.")}
    split(manifest, target, config)  # mistakes in the split show before the long part
    reader = Reader(manifest.utterances, encoder.rate, config.audio)
    began = time.perf_counter()
    states, rows, skipped = compute_states(
        encoder,
        reader,
        None if encoder.front_trains else model.start,
        keep=_fits(config, encoder, manifest, model.start),
        skip_bad=config.skip_bad,
        autocast=device.autocast,
    )
    seconds = time.perf_counter() - began
    manifest = manifest.select(rows)
    frame = manifest.utterances
    if skipped:
        _check_left(manifest, target)
    clips = Clips(states, target.encode(frame), frame["file"].tolist(), Reader(frame, encoder.rate, config.audio))
    protocol = split(manifest, target, config)
    shared = _shared(manifest, protocol, states.digests)
    notes = [line.removeprefix("note: ") for line in shared if line.startswith("note: ")]
    leaked = [line.removeprefix("warning: ") for line in shared if line.startswith("warning: ")]
    warnings = [*protocol.warnings, *leaked]
    if encoder.features.assumed:
        warnings.append(encoder.features.assumed)
    if encoder.name == "builtin":
        warnings.append("the builtin encoder is not pre-trained; a pre-trained one (--encoder) will do better")
    return Prepared(
        manifest, target, encoder, initial, spec, clips, protocol, device, skipped, warnings, notes, seconds
    )  # fmt: skip


def choose_target(manifest: Manifest, config: RunConfig) -> tuple[Manifest, Target]:
    """The target that the data allows, and the clips that have it.

    Raises:
        SertuneError: the data lacks it, or it has one label only.
    """
    options = config.target
    has_dimensions = [name for name in DIMENSIONS if name in manifest.schemes]
    if options.name == "category":
        if "emotion" not in manifest.schemes:
            hint = f"; it has {', '.join(has_dimensions)}: use --target dimension" if has_dimensions else ""
            raise SertuneError(f"target category: {manifest.name} has no emotion labels{hint}")
        return _category(manifest, config)
    named = ["arousal" if name == "activation" else name for name in options.dimensions]
    wanted = list(dict.fromkeys(named)) or has_dimensions
    for name in wanted:
        if name not in has_dimensions:
            raise SertuneError(
                f"target dimension: {manifest.name} has no {name} (it has {', '.join(has_dimensions) or 'none'})"
            )
    if not wanted:
        hint = "; it has labels: use --target category" if "emotion" in manifest.schemes else ""
        raise SertuneError(f"target dimension: {manifest.name} has no arousal, valence or dominance{hint}")
    if min(config.train.batch_clips, config.train.accumulate) < 1 or config.train.batch_clips < 2:
        raise SertuneError("train.batch_clips = 1: the CCC needs at least two clips in a batch")
    for name in wanted:
        if manifest.utterances[name].nunique() < 2:
            raise SertuneError(f"{manifest.name}: {name} is the same for every clip, so that nothing can be learnt")
    known = manifest.utterances[wanted].notna().any(axis=1).to_numpy()
    target = DimensionTarget(tuple(wanted), tuple(manifest.schemes[name].scale for name in wanted))
    return manifest.select(known), target


def _category(manifest: Manifest, config: RunConfig) -> tuple[Manifest, Target]:
    scheme, emotion = manifest.schemes["emotion"].labels, manifest.utterances["emotion"]
    labels = tuple(config.target.labels) or scheme
    for label in labels:
        if label not in scheme:
            raise unknown(f"label of {manifest.name} in target.labels:", label, scheme)
    present = [label for label in labels if bool((emotion == label).any())]
    if config.target.labels and (absent := [label for label in labels if label not in present]):
        raise SertuneError(f"target.labels: no clip of {manifest.name} is labelled {absent[0]!r}")
    if len(present) < 2:
        one = present[0] if present else "none"
        raise SertuneError(f"{manifest.name}: only one label ({one}); a category needs at least two")
    target = CategoryTarget(tuple(present), config.target.label_smoothing)
    return manifest.select(emotion.isin(present).to_numpy()), target


def _check_left(manifest: Manifest, target: Target) -> None:
    """Raises `SertuneError` where bad files were all that a label or a dimension had."""
    frame = manifest.utterances
    if isinstance(target, CategoryTarget):
        lost = [label for label in target.labels if not bool((frame["emotion"] == label).any())]
        hint = "name the others with --target.labels"
    else:
        lost = [name for name in target.dimensions if frame[name].nunique() < 2]
        hint = "name the others with --target.dimensions"
    if lost:
        raise SertuneError(f"{manifest.name}: without its bad files it has nothing to learn {lost[0]} from; {hint}")


def split(manifest: Manifest, target: Target, config: RunConfig) -> Protocol:
    """The folds of a configuration."""
    encoded = target.encode(manifest.utterances)
    labels = encoded.argmax(1) if isinstance(target, CategoryTarget) else encoded.astype(np.float64)
    options = config.split
    return make_protocol(
        manifest.utterances,
        options.name,
        labels=labels,
        folds=options.folds,
        test=options.test,
        dev=options.dev,
        dev_speakers=options.dev_speakers,
        seed=config.seed,
    )


def _fits(config: RunConfig, encoder: Encoder, manifest: Manifest, start: int | None) -> bool:
    """Whether frames are kept; says how large they are."""
    if start is None or encoder.front_trains or not config.cache.states:
        return False
    size = frames_nbytes(encoder, manifest.utterances, config.audio) / GIB
    if size <= config.cache.limit_gib:
        say(f"States of layer {start}: {size * 1024:.0f} MiB in memory (limit {config.cache.limit_gib:g} GiB)")
        return True
    say(
        f"States of layer {start} would take {size:.1f} GiB, above cache.limit_gib = {config.cache.limit_gib:g}: "
        "they are computed again for every batch"
    )
    return False


def _shared(manifest: Manifest, protocol: Protocol, digests: list[str]) -> list[str]:
    """What train shares with dev and test, as `leaks` says it, once for all folds."""
    said: Counter[str] = Counter()
    example: dict[str, str] = {}
    for fold in protocol.folds:
        for line in leaks(manifest.utterances, fold, digests):
            kind = line.split(" in ")[0].split(" of ")[-1] + (" in test" if " in test" in line else " in dev")
            said[kind] += 1
            example.setdefault(kind, line)
    many = len(protocol.folds) > 1
    return [
        f"{line}{f' ({said[k]} of {len(protocol.folds)} folds alike)' if many else ''}" for k, line in example.items()
    ]


# -- folds -----------------------------------------------------------------------------------------------------------


def _run_fold(run: Path, index: int, fold: Fold, prepared: Prepared, config: RunConfig) -> None:
    """Trains, chooses and tests one fold, unless that was done before."""
    folder = fold_folder(run, index, fold.name)
    if (folder / "result.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    model = _fresh_model(prepared, fold, config)
    solved = config.method.name == "frozen" and config.head.start == "probe" and model.head.linear
    options = config if not solved else _without_epochs(config)
    fit = Fit(model, prepared.clips, fold, options, prepared.device, folder / "checkpoint.safetensors")
    result = fit.run()
    parts = {}
    for part, rows in (("dev", fold.dev), ("test", fold.test)):
        outputs = model_outputs(model, prepared.clips, rows, config, prepared.device)
        parts[part] = outputs
        table = prediction_table(prepared.manifest.utterances.iloc[rows], prepared.target, outputs)
        table.insert(1, "fold", fold.name)
        _write_table(folder / f"{part}.parquet", table)
    baseline = _fold_baseline(folder, fold, prepared, config)
    if fold.name == FINAL or prepared.protocol.final is None:
        model.save(run / "model", _model_info(prepared, fold))
    task = task_of(prepared.target)
    row = {
        "name": fold.name,
        "train": len(fold.train),
        "dev": len(fold.dev),
        "test": len(fold.test),
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "dev_score": result.dev_score,
        "test_score": _headline(folder / "test.parquet", task) if len(fold.test) else None,
        "seconds": round(time.perf_counter() - began, 3),
        "train_seconds": round(result.train_seconds, 3),
    }
    write_json(folder / "result.json", {"fold": row, "log": result.log, "baseline": baseline})
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    say(_fold_line(row, index, prepared.protocol))


def _fresh_model(prepared: Prepared, fold: Fold, config: RunConfig) -> EmotionModel:
    """The pre-trained encoder with a head started on this fold's training part."""
    torch.manual_seed(derive_seed(config.seed, fold.name, "head"))
    model = EmotionModel(prepared.encoder, prepared.spec)
    with torch.no_grad():
        for name, tensor in prepared.initial.items():
            prepared.encoder.model.get_parameter(name.removeprefix("encoder.")).copy_(tensor)
    if isinstance(prepared.target, CategoryTarget) and config.target.class_weights:
        prepared.target.balance(prepared.clips.targets[fold.train])
    start_head(model, prepared.clips, fold, config.head.regularisation, probe=config.head.start == "probe")
    prepared.device.prepare(model)
    return model


def _without_epochs(config: RunConfig) -> RunConfig:
    from dataclasses import replace

    return replace(config, train=replace(config.train, epochs=0))


def _fold_baseline(folder: Path, fold: Fold, prepared: Prepared, config: RunConfig) -> dict[str, float]:
    """Dev score of every set of layers; the predictions on the test part are written beside."""
    if not config.baseline or not len(fold.test):
        return {}
    encoder = prepared.encoder
    found = fit_baseline(
        prepared.clips, fold, prepared.target, config.head.regularisation, encoder.depth, encoder.width
    )
    rows = prepared.manifest.utterances.iloc[fold.test]
    tables = []
    for name, (_, outputs) in found.items():
        table = prediction_table(rows, prepared.target, outputs)
        table.insert(0, "baseline", name)
        tables.append(table)
    _write_table(folder / "baseline.parquet", pd.concat(tables, ignore_index=True))
    return {name: dev for name, (dev, _) in found.items()}


def _model_info(prepared: Prepared, fold: Fold) -> dict[str, Any]:
    """What the saved model was trained on, so that a later evaluation can tell whether its data is new."""
    frame = prepared.manifest.utterances
    known = np.concatenate([fold.train, fold.dev])
    return {
        "sertune": __version__,
        "data": prepared.manifest.name,
        "speakers": sorted(set(frame["speaker"].iloc[known].dropna())),
        "clips": len(known),
        "digests": sorted({prepared.clips.states.digests[row][:16] for row in known}),
    }


def _write_table(file: Path, table: pd.DataFrame) -> None:
    with replacing(file) as part:
        table.to_parquet(part, index=False)


def _headline(file: Path, task: dict[str, Any]) -> float | None:
    metrics = summarise(pd.read_parquet(file), task)["metrics"]
    values = [metrics[name]["value"] for name in main_metrics(task)]
    return float(np.mean(values)) if None not in values else None


def main_metrics(task: dict[str, Any]) -> list[str]:
    """The metrics that a task is judged by."""
    return ["uar"] if task["target"] == "category" else [f"ccc_{name}" for name in task["dimensions"]]


def _fold_line(row: dict[str, Any], index: int, protocol: Protocol) -> str:
    total = len(protocol.folds) + (protocol.final is not None)
    test = f", test {row['test_score']:.3f}" if row["test_score"] is not None else ""
    best = f"best epoch {row['best_epoch']} of {row['epochs']}" if row["epochs"] else "solved"
    return f"[{index + 1}/{total}] {row['name']}: {best}, dev {row['dev_score']:.3f}{test}, {row['seconds']:.1f} s"


# -- gathering -------------------------------------------------------------------------------------------------------


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
    _write_table(run / "predictions.parquet", test)
    write_text(run / "log.jsonl", "".join(json.dumps(row) + "\n" for result in results for row in result["log"]))
    interval, extra = summary.pop("interval"), summary.pop("warnings")
    report = {
        "format": 1,
        "sertune": __version__,
        "kind": "train",
        "name": f"{prepared.manifest.name}, {_method_name(config)}, {config.split.name}",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "task": task,
        **summary,
        "dev_metrics": dev_summary["metrics"],
        "baseline": _baseline(folders, results, test, task, config.seed),
        "folds": [result["fold"] for result in results],
        "protocol": _protocol(protocol, config, interval, prepared.notes),
        "cost": _cost(results, prepared, seconds),
        "encoder": _encoder(prepared.encoder),
        "method": {"name": config.method.name, "layers": config.method.layers, "cut": prepared.encoder.cut},
        "data": _data(prepared),
        "warnings": [*prepared.warnings, *extra],
        "skipped": prepared.skipped,
        "machine": describe_machine(prepared.device),
    }
    write_json(run / "report.json", report)


def _method_name(config: RunConfig) -> str:
    return f"partial-{config.method.layers}" if config.method.name == "partial" else config.method.name


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
        metrics = summarise(part, task, seed)["metrics"]
        rows.append({"name": str(name), "dev": dev, "chosen": False, "metrics": metrics})
    best = max(rows, key=lambda row: row["dev"])
    best["chosen"] = True
    best["difference"] = compare(test, table[table["baseline"] == best["name"]], task, seed)
    return rows


def _protocol(protocol: Protocol, config: RunConfig, interval: str, notes: list[str]) -> dict[str, Any]:
    judge = "UAR" if config.target.name == "category" else "mean CCC"
    frozen = config.method.name == "frozen" and config.head.start == "probe"
    what = "strength of the regularisation" if frozen else "epoch"
    text = protocol.text
    if protocol.final is not None:
        text += (
            ". The saved model is one more fit, on all speakers but its dev speakers; "
            "the figures are those of the folds' own models"
        )
    return {
        "text": text,
        "split": protocol.split,
        "folds": len(protocol.folds),
        "speaker_independent": protocol.speaker_independent,
        "selection": f"{what} by dev {judge}; the test part is scored once, after that",
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
    return {
        "seconds_total": round(seconds, 3),
        "seconds_per_epoch": round(training / epochs, 4) if epochs else 0.0,
        "seconds_states": round(prepared.states_seconds, 3),
        "peak_memory_mib": round(prepared.device.peak_memory_mib(), 1),
        "trainable_parameters": count_parameters(model.trained_parameters()) + head,
        "total_parameters": count_parameters(list(prepared.encoder.parameters())) + head,
        "states_mib": round(prepared.clips.states.nbytes / 2**20, 1),
    }


def _encoder(encoder: Encoder) -> dict[str, Any]:
    return {"name": encoder.name, "digest": encoder.digest, "layers": encoder.depth, "width": encoder.width}


def _data(prepared: Prepared) -> dict[str, Any]:
    frame = prepared.manifest.utterances
    described: dict[str, Any] = {
        "utterances": len(frame),
        "speakers": int(frame["speaker"].nunique()),
        "hours": round(float(prepared.clips.states.seconds.sum()) / 3600, 4),
        "names": [prepared.manifest.name],
    }
    if isinstance(prepared.target, CategoryTarget):
        counts = frame["emotion"].value_counts()
        described["per_label"] = {label: int(counts.get(label, 0)) for label in prepared.target.labels}
    return described
