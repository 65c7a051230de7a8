"""Consensus, softmax and annotators on corpora with 60 simulated annotators of known bias: who comes closest?

Trains on one synthetic corpus and tests on its own held-out speakers and on a second one, with other speakers and other
annotators. Prints, over seeds, TVD, JSD and the CCC of the mean within and across, and how well the annotators' biases
are recovered. The encoder, builtin:random, is not pre-trained: the figures compare ways to learn, nothing else.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sertune.apps.evaluate import evaluate, read_for
from sertune.config import from_flags
from sertune.data.panel import read_panel, write_rated_corpus
from sertune.metrics import distributions, scores
from sertune.model.density import gaussian_cells
from sertune.model.emotion_model import load_model
from sertune.train.run import train

GRID = (4, 4)
MANY = 10
"""Ratings in the training part from which on an annotator is scored once more."""
NAMES = ("arousal", "valence")
COMMON = ["--encoder", "builtin:random", "--target.dimensions", *NAMES, "--split", "speaker"]
CONSENSUS = "consensus, fitted spread"
WAYS: dict[str, list[str]] = {
    CONSENSUS: ["--target", "dimension"],
    "softmax of 16 cells": ["--target", "distribution", "--target.distribution.of", "plane"],
    "Gaussian per clip": ["--target", "distribution", "--target.distribution.of", "gaussian"],
    "annotators, plain KDE": ["--target", "rater", "--target.plane.calibrate", "false"],
    "annotators, differentiable KDE": ["--target", "rater+density", "--target.plane.calibrate", "false"],
    "annotators, calibrated": ["--target", "rater"],
    "annotators + density, calibrated": ["--target", "rater+density"],
}


def scored(table: pd.DataFrame, true: pd.DataFrame, cells: np.ndarray) -> dict[str, float]:
    """TVD, JSD and CCC of one table of predictions; ``true`` holds the true planes of the same utterances."""
    planes = np.array(true.set_index("utterance").loc[table["utterance"], "true_plane"].tolist())
    found = {
        "tvd": float(distributions.tvd(planes, cells).mean()),
        "jsd": float(distributions.jsd(planes, cells).mean()),
    }
    for name in NAMES:
        found[f"ccc {name}"] = scores.ccc(table[f"{name}_true"].to_numpy(), table[name].to_numpy())
    return found


def cells_of(table: pd.DataFrame, spread: Sequence[float] | None) -> np.ndarray:
    """The predicted planes; of a consensus model with one spread for all clips, in [-1, 1]."""
    if spread is None:
        return np.array(table["plane"].tolist())
    mean = torch.tensor(np.stack([(table[name] - 3) / 2 for name in NAMES], axis=1))
    cells: np.ndarray = gaussian_cells(mean, torch.tensor(spread).expand_as(mean), GRID).flatten(1).numpy()
    return cells


def fitted_spread(run: Path, corpus: Path) -> list[float]:
    """Standard deviation of the single ratings of dev clips around their prediction, in [-1, 1]."""
    ratings = pd.read_csv(corpus / "ratings.csv")
    dev = pd.concat([pd.read_parquet(file) for file in sorted(run.glob("folds/*/dev.parquet"))]).set_index("utterance")
    found = []
    for name in NAMES:
        part = ratings[(ratings["attribute"] == name) & ratings["utterance"].isin(dev.index)]
        errors = part["value"].astype(float).to_numpy() - dev.loc[part["utterance"], name].to_numpy()
        found.append(float(np.sqrt(np.mean(errors**2))) / 2)
    return found


def biases(run: Path, corpus: Path) -> dict[str, float]:
    """Correlation of the annotators' biases in the model with the true ones: of all, and of those with many ratings."""
    model = load_model(run)
    assert model.rater_part is not None
    target, layer = model.rater_part
    panel = read_panel(corpus)
    own, counts = layer.own.detach().numpy(force=True), layer.counts.numpy(force=True)
    places = [panel.names.index(name) for name in target.raters]
    found = {}
    for least in (1, MANY):
        met = counts >= least
        for k, name in enumerate(NAMES):
            # an annotator says C + b + W f(h): b is the distance from the average one in the middle of the scale, C = 0
            r = float(np.corrcoef(own[met, k, 0, 0], panel.bias[places, k][met])[0, 1])
            found[f"bias {name}" + (f", {least} ratings or more" if least > 1 else "")] = r
    return found


def one_seed(
    seed: int, root: Path, ways: Sequence[str], method: Sequence[str], size: dict[str, int]
) -> list[dict[str, Any]]:
    """Some ways, trained on the first corpus and tested on both."""
    corpora = {}
    for place, (name, prefix) in enumerate((("within", "p"), ("across", "q"))):
        corpora[name] = root / f"{name}-{seed}"
        write_rated_corpus(
            corpora[name],
            annotators=60,
            prefix=prefix,
            seed=100 * place + seed,
            speakers=size["speakers"],
            per_emotion=size["per_emotion"],
        )
    rows: list[dict[str, Any]] = []
    truth: dict[str, pd.DataFrame] = {}
    for way in sorted(ways, key=lambda way: way == CONSENSUS):  # the first one brings the true planes
        began = time.perf_counter()
        out = root / f"{seed}-{way.replace(' ', '-').replace(',', '')}"
        flags = ["--data", f"synthetic:{corpora['within']}", *COMMON, *method, *WAYS[way], "--seed", str(seed)]
        run = train(from_flags([*flags, "--out", str(out)]))
        seconds = time.perf_counter() - began
        model = load_model(run)
        evaluate(model, read_for(model, [f"synthetic:{corpora['across']}"]), out / "across")
        tables = {
            "within": pd.read_parquet(run / "predictions.parquet"),
            "across": pd.read_parquet(out / "across" / "predictions.parquet"),
        }
        truth = truth or tables
        spread = fitted_spread(run, corpora["within"]) if "plane" not in tables["within"] else None
        row: dict[str, Any] = {"way": way, "seed": seed, "seconds": round(seconds, 1)}
        for name, table in tables.items():
            found = scored(table, truth[name], cells_of(table, spread))
            row |= {f"{name} {key}": value for key, value in found.items()}
        if "annotators" in way:
            row |= biases(run, corpora["within"])
        rows.append(row)
        print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--speakers", type=int, default=12)
    parser.add_argument("--per-emotion", type=int, default=12)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    options, flags = parser.parse_known_args()  # the others are flags of sertune train, e.g. --method frozen
    size = {"speakers": options.speakers, "per_emotion": options.per_emotion}
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for seed in range(options.seeds) for row in one_seed(seed, Path(folder), options.ways, flags, size)]
    show(pd.DataFrame(rows).drop(columns="seed"))


def show(rows: pd.DataFrame) -> None:
    """Mean and standard deviation over the seeds, and the ratio to the consensus model."""
    for column in (name for name in rows.columns if name != "way"):
        print(f"\n{column}")
        by_way = rows.groupby("way")[column]
        mean, std = by_way.mean(), by_way.std()
        for way in WAYS:
            if way in mean and not np.isnan(mean[way]):
                ratio = mean[way] / mean.get(CONSENSUS, np.nan)
                against = f"  x{ratio:.3f} of the consensus" if np.isfinite(ratio) else ""
                print(f"  {way:34s} {mean[way]:.3f} +- {std[way]:.3f}{against}")


if __name__ == "__main__":
    main()
