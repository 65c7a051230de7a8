"""The field's hand-crafted feature sets on the splits, linear models and intervals of `sertune train`.

python benchmarks/handcrafted.py emodb:DATA/emodb-2s [--split loso] [--sets eGeMAPSv02 ComParE_2016]

It needs `pip install opensmile`. The linear model is that of the frozen baseline: logistic regression on standardised
features, its strength chosen by dev, then fitted on train and dev.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sertune.config import RunConfig, from_dict
from sertune.data.audio import read_audio
from sertune.metrics.summary import summarise
from sertune.model.predictions import prediction_table, task_of
from sertune.model.targets import CategoryTarget
from sertune.train.baseline import fit_baseline
from sertune.train.choose import choose_target
from sertune.train.loop import Clips
from sertune.train.prepare import read, split
from sertune.train.states import Reader, States

RATE = 16000


def features(files: list[str], name: str) -> torch.Tensor:
    """(N, 1, 2 F) functionals of every file, with zeros for the spread that pooled states have."""
    import opensmile

    smile = opensmile.Smile(feature_set=opensmile.FeatureSet[name], feature_level=opensmile.FeatureLevel.Functionals)
    rows = [smile.process_signal(read_audio(file, RATE), RATE).to_numpy()[0] for file in files]
    made = torch.from_numpy(np.nan_to_num(np.array(rows, dtype=np.float32)))
    return torch.cat([made, torch.zeros_like(made)], dim=1)[:, None]


def score(config: RunConfig, name: str) -> tuple[str, float]:
    reading, _ = read(config)
    manifest, target = choose_target(reading.manifest, config)
    assert isinstance(target, CategoryTarget)
    pooled = features(manifest.utterances["file"].tolist(), name)
    files = manifest.utterances["file"].tolist()
    states = States(pooled, None, np.ones(len(files)), [""] * len(files))
    clips = Clips(states, target.encode(manifest.utterances), files, Reader(manifest.utterances, RATE, config.audio))
    tables, devs = [], []
    for fold in split(manifest, target, config).folds:
        target.balance(clips.targets[fold.train])
        width = pooled.shape[2] // 2
        found = fit_baseline(clips, fold, target, config.head.regularisation, 0, width, refit=True)
        dev, outputs = found["layer 0"]
        devs.append(dev)
        tables.append(prediction_table(manifest.utterances.iloc[fold.test], target, outputs, clips.targets[fold.test]))
    summary = summarise(pd.concat(tables, ignore_index=True), task_of(target), config.seed)
    uar = summary["metrics"]["uar"]
    return f"{uar['value']:.3f} [{uar['low']:.3f}, {uar['high']:.3f}]", float(np.mean(devs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--split", default="loso")
    parser.add_argument("--sets", nargs="+", default=["eGeMAPSv02", "ComParE_2016"])
    options = parser.parse_args()
    print("| data | features | UAR test | UAR dev |\n|---|---|---|---|")
    for data in options.data:
        for name in options.sets:
            config = from_dict({"data": [data], "split": options.split, "out": "unused"})
            test, dev = score(config, name)
            print(f"| {Path(data.partition(':')[2]).name} | {name} | {test} | {dev:.3f} |", flush=True)


if __name__ == "__main__":
    main()
