"""One fold: train, choose by dev, go on with dev's clips where that is allowed, test once."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sertune import __version__
from sertune.config import RunConfig
from sertune.data.splits import Fold, Protocol
from sertune.files import replacing
from sertune.model.emotion_model import EmotionModel
from sertune.model.predictions import prediction_table, rating_table
from sertune.model.targets import RaterTarget, possible
from sertune.progress import say
from sertune.train.baseline import Strengths, fit_baseline, solve_readout, start_head
from sertune.train.folder import fold_folder, write_json
from sertune.train.judge import score
from sertune.train.loop import Fit, FitResult, derive_seed, each_batch, model_outputs, model_vectors
from sertune.train.prepare import Prepared
from sertune.train.raters import Heard, calibrate, fit_cells, fit_noise

FINAL = "final"
CALIBRATION_CLIPS = 300
"""Most dev clips that choose how far predicted annotators spread."""
NOISE_CLIPS = 5000
"""Most training clips that tell on which clips annotators disagree."""


def run_fold(
    run: Path, index: int, fold: Fold, prepared: Prepared, config: RunConfig, *, keep_model: bool = True
) -> None:
    """Trains, chooses and tests one fold, unless that was done before.

    Args:
        run: the run folder.
        index: of the fold.
        fold: its parts.
        prepared: of the run.
        config: of the run.
        keep_model: save the model of the last fold, or of the only one.
    """
    folder = fold_folder(run, index, fold.name)
    if (folder / "result.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    fitted = fit_fold(prepared, fold, config, folder / "checkpoint.safetensors")
    model, result = fitted.model, fitted.result
    calibrate_raters(model, fold, prepared, config)
    write_predictions(folder / "dev.parquet", model, fold.name, fold.dev, prepared, config)
    known, refit = fitted.sampled, refits(config, prepared.protocol)
    if refit:
        model, known, again = fit_again(prepared, fold, config, fitted, folder / "refit.safetensors")
        result.log += again
    tested = write_predictions(folder / "test.parquet", model, fold.name, fold.test, prepared, config)
    baseline = _fold_baseline(folder, fitted.sampled, prepared, config, refit=refit)
    if keep_model and (fold.name == FINAL or prepared.protocol.final is None):
        measure_source(model, known.train, prepared, config)
        model.save(run / "model", model_info(prepared, fold))
    row = {
        "name": fold.name,
        "train": len(fold.train),
        "dev": len(fold.dev),
        "test": len(fold.test),
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "dev_score": result.dev_score,
        "test_score": tested,
        "seconds": round(time.perf_counter() - began, 3),
        "train_seconds": round(result.train_seconds, 3),
    }
    write_json(folder / "result.json", {"fold": row, "log": result.log, "baseline": baseline})
    for name in ("checkpoint.safetensors", "refit.safetensors"):
        (folder / name).unlink(missing_ok=True)
    say(_fold_line(row, index, prepared.protocol))


@dataclass
class Fitted:
    """A model that was started on a fold's training part, and trained and chosen there if ``result`` says so.

    Attributes:
        model: with the weights of the chosen epoch.
        strengths: regularisation of what is solved, as dev chose it.
        result: how training went; without epochs where only the head was started.
        sampled: the fold with the training rows that were drawn for what is solved.
    """

    model: EmotionModel
    strengths: Strengths
    result: FitResult
    sampled: Fold


def start_fold(prepared: Prepared, fold: Fold, config: RunConfig) -> Fitted:
    """Solves what is solved on a fold's training part, with the strength that its dev part chooses; trains nothing."""
    # what is solved sees each corpus as often as an epoch does
    drawn = prepared.clips.training_rows(fold.train, config.weights, config.seed, fold.name)
    sampled = replace(fold, train=drawn)
    model, strengths = _fresh_model(prepared, sampled, config)
    return Fitted(model, strengths, FitResult(0, 0, math.nan), sampled)


def fit_fold(
    prepared: Prepared,
    fold: Fold,
    config: RunConfig,
    checkpoint: Path | None = None,
    watch: Callable[[dict[str, Any]], None] | None = None,
) -> Fitted:
    """Trains on a fold's training part and chooses by its dev part.

    Args:
        prepared: of the run.
        fold: who trains and who chooses.
        config: of the run.
        checkpoint: as of `Fit`.
        watch: as of `Fit`.
    """
    fitted = start_fold(prepared, fold, config)
    options = replace(config, train=replace(config.train, epochs=0)) if solved(fitted.model, config) else config
    result = Fit(fitted.model, prepared.clips, fold, options, prepared.device, checkpoint, watch).run()
    return replace(fitted, result=result)


def fit_again(
    prepared: Prepared, fold: Fold, config: RunConfig, fitted: Fitted, checkpoint: Path | None = None
) -> tuple[EmotionModel, Fold, list[dict[str, Any]]]:
    """Fits what is solved, or with ``train.refit: all`` the whole model, on train and dev, with what dev chose.

    The whole model is trained once more from the start, for all epochs; the last one is kept.

    Args:
        prepared: of the run.
        fold: whose parts are put together.
        config: of the run.
        fitted: the fold's model; with `all` a started one is enough.
        checkpoint: as of `Fit`.

    Returns:
        The model, the fold with the rows that it knows, and rows for the log.
    """
    both = np.sort(np.concatenate([fold.train, fold.dev]))
    known = replace(fold, train=prepared.clips.training_rows(both, config.weights, config.seed, fold.name))
    if config.train.refit != "all" or solved(fitted.model, config):
        _solve_again(fitted.model, known, fitted.strengths, prepared, config)
        return fitted.model, known, []
    model, _ = _fresh_model(prepared, known, config, fitted.strengths)
    options = replace(config, train=replace(config.train, choose="last", patience=0))
    alone = replace(fold, train=both, dev=fold.dev[:0])
    result = Fit(model, prepared.clips, alone, options, prepared.device, checkpoint).run()
    return model, known, [{**row, "fold": f"{fold.name}, with dev"} for row in result.log]


def measure_source(model: EmotionModel, rows: np.ndarray, prepared: Prepared, config: RunConfig) -> None:
    """Keeps the moments of the trained model's vectors on the clips that its solved parts know."""
    once, back = np.unique(rows, return_inverse=True)
    vectors = model_vectors(model, prepared.clips, once, config, prepared.device)
    model.head.measure_source(vectors[torch.from_numpy(back)])


def refits(config: RunConfig, protocol: Protocol) -> bool:
    """Whether the model, or what is solved in it, is fitted on train and dev together once dev has chosen."""
    if config.train.refit == "auto":
        return not protocol.own_parts
    return config.train.refit in ("solved", "all")


def _solve_again(model: EmotionModel, known: Fold, strengths: Strengths, prepared: Prepared, config: RunConfig) -> None:
    """Fits what is solved, not trained, on train and dev together."""
    prepared.target.balance(prepared.clips.targets[known.train])
    if solved(model, config):
        start_head(model, prepared.clips, known, config.head, config.target.rater, strengths)
    else:
        solve_readout(model, prepared.clips, known, config.head, strengths)


def solved(model: EmotionModel, config: RunConfig) -> bool:
    """Whether nothing is left to train after the head's start."""
    probed = config.head.start == "probe" and model.head.linear and model.target.solvable
    return config.method.name == "frozen" and probed


def write_predictions(
    file: Path, model: EmotionModel, name: str, rows: np.ndarray, prepared: Prepared, config: RunConfig
) -> float | None:
    """Writes what is predicted for some clips; returns their score, as dev is judged, None where it is undefined."""
    outputs = model_outputs(model, prepared.clips, rows, config, prepared.device)
    targets = prepared.clips.targets[rows]
    outputs = possible(prepared.target, outputs, targets)
    utterances = prepared.manifest.utterances.iloc[rows]
    table = prediction_table(utterances, prepared.target, outputs, targets)
    table.insert(1, "fold", name)
    write_table(file, table)
    if model.rater_part is not None:
        rated = rating_table(utterances, prepared.manifest.ratings, prepared.target, outputs)
        met = model.rater_part[1].known.cpu().numpy()
        names = np.array(model.rater_part[0].raters, dtype=object)[met]
        rated["known"] = np.isin(rated["rater"].to_numpy(dtype=object), names)
        rated.insert(1, "fold", name)
        write_table(file.with_name(f"{file.stem}_ratings.parquet"), rated)
    judged = score(prepared.target, outputs, targets) if len(rows) else math.nan
    return judged if math.isfinite(judged) else None


def calibrate_raters(model: EmotionModel, fold: Fold, prepared: Prepared, config: RunConfig) -> None:
    """Lets dev choose how far predicted annotators spread; see `calibrate`."""
    options = config.target.plane
    if model.rater_part is None or not isinstance(model.rater_part[0], RaterTarget) or not options.calibrate:
        return
    rows = _some(fold.dev, CALIBRATION_CLIPS)
    train = _heard(model, _some(np.unique(fold.train), NOISE_CLIPS), prepared, config)
    dev = _heard(model, rows, prepared, config)
    fit_noise(model, train, dev, config.head.regularisation)
    fit_cells(model, train, dev, config.head.regularisation)
    known = each_batch(model, prepared.clips, rows, config, prepared.device, model.batch_annotators)
    calibrate(model, dev, known)


def _heard(model: EmotionModel, rows: np.ndarray, prepared: Prepared, config: RunConfig) -> Heard:
    """What the model makes of some clips, in one pass."""
    width = model.head.output_width
    both = each_batch(model, prepared.clips, rows, config, prepared.device, model.hidden_and_outputs)
    return Heard(both[:, :width], both[:, width:], prepared.clips.targets[rows])


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of some rows, evenly drawn."""
    return rows[:: -(-len(rows) // most)]


def _fresh_model(
    prepared: Prepared, fold: Fold, config: RunConfig, chosen: Strengths | None = None
) -> tuple[EmotionModel, Strengths]:
    """The pre-trained encoder with a head started on this fold's training part, and the strengths that dev chose."""
    torch.manual_seed(derive_seed(config.seed, fold.name, "head"))
    model = EmotionModel(prepared.encoder, prepared.spec)
    with torch.no_grad():
        for name, tensor in prepared.initial.items():
            prepared.encoder.model.get_parameter(name).copy_(tensor)
    prepared.target.balance(prepared.clips.targets[fold.train])
    strengths = start_head(model, prepared.clips, fold, config.head, config.target.rater, chosen)
    prepared.device.prepare(model)
    return model, strengths


def _fold_baseline(folder: Path, fold: Fold, prepared: Prepared, config: RunConfig, *, refit: bool) -> dict[str, float]:
    """Dev score of every set of layers; the predictions on the test part are written beside."""
    if not config.baseline or not len(fold.test):
        return {}
    encoder = prepared.encoder
    found = fit_baseline(
        prepared.clips,
        fold,
        prepared.target,
        config.head.regularisation,
        encoder.depth,
        encoder.width,
        refit=refit,
    )
    rows = prepared.manifest.utterances.iloc[fold.test]
    tables = []
    for name, (_, outputs) in found.items():
        targets = prepared.clips.targets[fold.test]
        table = prediction_table(rows, prepared.target, possible(prepared.target, outputs, targets), targets)
        table.insert(0, "baseline", name)
        tables.append(table)
    write_table(folder / "baseline.parquet", pd.concat(tables, ignore_index=True))
    return {name: dev for name, (dev, _) in found.items()}


def model_info(prepared: Prepared, fold: Fold) -> dict[str, Any]:
    """What the saved model was trained on, so that a later evaluation can tell whether its data is new."""
    frame = prepared.manifest.utterances
    known = np.concatenate([fold.train, fold.dev])
    return {
        "sertune": __version__,
        "data": prepared.manifest.name,
        "speakers": sorted(set(frame["speaker"].iloc[known].dropna())),
        "clips": len(known),
        "label_map": prepared.label_map.describe() if prepared.label_map else None,
        "digests": sorted({prepared.clips.states.digests[row][:16] for row in known}),
    }


def write_table(file: Path, table: pd.DataFrame) -> None:
    """Writes Parquet, complete or not at all."""
    with replacing(file) as part:
        table.to_parquet(part, index=False)


def _fold_line(row: dict[str, Any], index: int, protocol: Protocol) -> str:
    total = len(protocol.folds) + (protocol.final is not None)
    test = f", test {row['test_score']:.3f}" if row["test_score"] is not None else ""
    best = f"best epoch {row['best_epoch']} of {row['epochs']}" if row["epochs"] else "solved"
    return f"[{index + 1}/{total}] {row['name']}: {best}, dev {row['dev_score']:.3f}{test}, {row['seconds']:.1f} s"
