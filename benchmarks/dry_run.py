"""What `sertune train --dry-run` predicts against what the run then takes, as ratios.

    python benchmarks/dry_run.py --data emodb:FOLDER --methods partial-3 lora-3

The encoder has wav2vec2-base's configuration with random weights, or is the one of --encoder. Prediction and run have a
process each.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

COLUMNS = {
    "seconds_states": "states, once (s)",
    "seconds_per_epoch": "s per epoch",
    "peak_memory_mib": "peak memory (MiB)",
    "states_mib": "states (MiB)",
    "trainable_parameters": "trainable",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="as for sertune train")
    parser.add_argument("--encoder", help="a folder or name; without it wav2vec2-base's configuration")
    parser.add_argument("--methods", nargs="+", default=["partial-3", "lora-3"], help="NAME-LAYERS, or full")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--clips", type=int, default=64, help="how many, evenly over the lengths")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(predicted(options.job)))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(options, Path(folder))
        print("| method | | " + " | ".join(COLUMNS.values()) + " |\n" + "|---" * (len(COLUMNS) + 2) + "|")
        for method in options.methods:
            show(method, *try_and_run(method, options, Path(folder)))


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """The clips as a saved manifest, and the encoder."""
    import numpy as np

    from sertune.corpora import read_all

    manifest = read_all([options.data], {})
    order = np.argsort(manifest.utterances["duration"].to_numpy(), kind="stable")
    even = np.linspace(0, len(order) - 1, min(options.clips, len(order))).round().astype(int)
    manifest.select(np.sort(order[even])).save(folder / "data")
    if options.encoder:
        return
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config(layerdrop=0.0)).save_pretrained(folder / "encoder")
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder / "encoder")


def try_and_run(method: str, options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the dry run says, and the cost in the report of the run."""
    name, _, layers = method.partition("-")
    run = folder / method
    settings = {
        "data": [str(folder / "data")],
        "encoder": options.encoder or str(folder / "encoder"),
        "method": {"name": name, "layers": layers if layers == "all" else int(layers or 1)},
        "precision": options.precision,
        "split": {"name": "random"},
        "train": {"epochs": 4},
        "baseline": False,
        "out": str(run),
    }
    file = folder / "settings.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    said = json.loads(child([__file__, "--data", options.data, "--job", str(file)]).splitlines()[-1])
    child(["-m", "sertune", "train", "--config", str(file)])
    return said, json.loads((run / "report.json").read_text(encoding="utf-8"))["cost"]


def predicted(file: str) -> dict[str, Any]:
    """The plan of a configuration."""
    from sertune.config import from_dict
    from sertune.train.plan import plan

    return asdict(plan(from_dict(json.loads(Path(file).read_text(encoding="utf-8")))))


def child(arguments: list[str]) -> str:
    """Output of a Python process."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def show(method: str, said: dict[str, Any], took: dict[str, Any]) -> None:
    """Three rows: predicted, measured, and their ratio."""
    for title, values in (("predicted", said), ("measured", took)):
        print(f"| {method} | {title} | " + " | ".join(f"{values[key]:,.4g}" for key in COLUMNS) + " |")
    print(f"| {method} | ratio | " + " | ".join(f"{said[key] / took[key]:.2f}" for key in COLUMNS) + " |", flush=True)


if __name__ == "__main__":
    main()
