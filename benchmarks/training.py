"""Seconds per epoch and peak memory of the methods, as ratios to full fine-tuning in fp32 in the same run.

The encoder has the configuration of wav2vec2-base and random weights (94 M parameters): it says nothing of accuracy.
Each case runs in a process of its own, so that peak memory is its own.

    python benchmarks/training.py --data emodb:FOLDER --clips 64
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

CASES = [("full", "fp32"), ("full", "bf16"), ("partial-3", "fp32"), ("partial-3", "bf16")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic", help="as for sertune train")
    parser.add_argument("--clips", type=int, default=64, help="how many clips, evenly over the lengths; 0: all")
    parser.add_argument("--batch", type=int, default=16, help="clips per batch")
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--encoder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run_case(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_encoder(Path(folder))
        rows = [measure(method, precision, folder, options) for method, precision in CASES]
    show(rows, options)
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


def make_encoder(folder: Path) -> None:
    """wav2vec2-base's configuration with random weights, as a transformers folder."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)


def measure(method: str, precision: str, encoder: str, options: argparse.Namespace) -> dict[str, Any]:
    """One case in its own process."""
    given = ["--data", options.data, "--clips", str(options.clips), "--batch", str(options.batch)]
    command = [sys.executable, __file__, *given, "--case", f"{method}/{precision}", "--encoder", encoder]
    print(f"{method} {precision} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def run_case(options: argparse.Namespace) -> dict[str, Any]:
    """States, then one epoch (after two steps of warm-up, which are not counted)."""
    import numpy as np

    from sertune.config import from_dict
    from sertune.corpora import read_all
    from sertune.data.splits import Fold
    from sertune.train.folds import _fresh_model
    from sertune.train.loop import Fit
    from sertune.train.prepare import prepare

    method, precision = options.case.split("/")
    name, _, layers = method.partition("-")
    config = from_dict(
        {
            "data": [options.data],
            "encoder": options.encoder,
            "method": {"name": name, "layers": int(layers or 1)},
            "precision": precision,
            "head": {"start": "random"},
            "split": "random",
            "train": {"batch_clips": options.batch, "batch_seconds": 1e9, "epochs": 1},
            "augment": {"time_crop": [1.0, 1.0]},
        }
    )
    manifest = read_all(config.data, {})
    if options.clips and options.clips < len(manifest):
        order = np.argsort(manifest.utterances["duration"].to_numpy(), kind="stable")
        manifest = manifest.select(np.sort(order[np.linspace(0, len(order) - 1, options.clips).round().astype(int)]))
    with tempfile.TemporaryDirectory() as folder:
        manifest.save(Path(folder) / "data")
        prepared = prepare(replace(config, data=[str(Path(folder) / "data")]))
        every = np.arange(len(prepared.manifest))
        fold = Fold("bench", every, every[:1], every[:0])
        model, _ = _fresh_model(prepared, fold, config)
        fit = Fit(model, prepared.clips, fold, config, prepared.device)
        batches = fit._batches(0)
        for batch in batches[:2]:
            fit._step(batch, 0)
        began = time.perf_counter()
        for number, batch in enumerate(batches):
            fit._step(batch, number)
        seconds = time.perf_counter() - began
    trained = sum(p.numel() for p in fit.parameters)
    return {
        "method": method,
        "precision": precision,
        "cache": True,
        "seconds_per_epoch": round(seconds, 3),
        "seconds_states": round(prepared.states_seconds, 3),
        "states_mib": round(prepared.clips.states.nbytes / 2**20, 1),
        "peak_memory_mib": round(prepared.device.peak_memory_mib()),
        "trainable_parameters": trained,
        "clips": len(every),
        "audio_seconds": round(float(prepared.clips.states.seconds.sum()), 1),
    }


def show(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """The table, with the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    what = f"{rows[0]['clips']} clips, {rows[0]['audio_seconds']} s of audio, {options.batch} per batch"
    print(f"{what}; {cpu}, {os.cpu_count()} cores")
    print("| method | precision | s per epoch | speed-up | states, once (s) | peak memory (MiB) | trainable |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        row["speedup"] = round(rows[0]["seconds_per_epoch"] / row["seconds_per_epoch"], 2)
        print(
            f"| {row['method']} | {row['precision']} | {row['seconds_per_epoch']:.1f} | {row['speedup']:.1f} "
            f"| {row['seconds_states']:.1f} | {row['peak_memory_mib']} | {row['trainable_parameters']:,} |"
        )


if __name__ == "__main__":
    main()
