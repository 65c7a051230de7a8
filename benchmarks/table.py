"""Start-up on a table of 150,000 utterances: read it, split it, make batches, read the audio of the first.

    python benchmarks/table.py [--rows 150000] [--sample 2000]

The table is synthetic: 1,500 speakers, four labels and three dimensions, official parts, durations, five raters beside
it. A few clips hold the audio of all rows. What it replaces, opening each file for its length, is measured on as many
files as --sample says and extrapolated.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import soundfile

from sertune.corpora import read_data
from sertune.data.audio import header_seconds, read_audio
from sertune.data.batch import make_batches
from sertune.data.manifest import Manifest
from sertune.data.splits import make_protocol

T = TypeVar("T")
EMOTIONS = ("anger", "happiness", "neutral", "sadness")
DIMENSIONS = ("arousal", "valence", "dominance")
RATE = 16000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=150_000)
    parser.add_argument("--sample", type=int, default=2000, help="files opened for the comparison")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        frame, ratings = make(root, options.rows)
        opening = opened(root, options.sample) * options.rows
        print(f"{options.rows} utterances; opening each for its length would take {opening:.1f} s")
        print("| table | read | official | kfold | batches | audio | sum | opening / sum |\n" + "|---" * 8 + "|")
        for name, spec in written(root, frame, ratings).items():
            show(name, steps(spec), opening)


def make(root: Path, rows: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table and its ratings, and eight clips."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(1.6, 0.5, rows), 1, 11).round(3)
    (root / "wav").mkdir()
    for k in range(8):
        soundfile.write(root / "wav" / f"{k}.flac", rng.uniform(-0.1, 0.1, 12 * RATE), RATE)
    speakers = rng.integers(0, 1500, rows)
    ids = [f"MSP-X_{i // 90:04d}_{i:06d}" for i in range(rows)]
    frame = pd.DataFrame(
        {
            "id": ids,
            "file": [f"wav/{i % 8}.flac" for i in range(rows)],
            # each utterance is a segment of one of the clips
            "start": rng.uniform(0, 12 - lengths),
            "duration": lengths,
            "speaker": [f"{speaker:04d}" for speaker in speakers],
            "gender": np.where(speakers % 2, "female", "male"),
            "text": [f"what was said in {i % 40000}" for i in range(rows)],
            "partition": np.where(speakers < 1000, "train", np.where(speakers < 1200, "dev", "test")),
            "emotion": rng.choice(EMOTIONS, rows),
            **{name: rng.uniform(1, 7, rows).round(2) for name in DIMENSIONS},
        }
    )
    frame["end"] = frame["start"] + frame["duration"]
    rated = np.repeat(np.arange(rows), 5)
    ratings = pd.DataFrame(
        {
            "utterance": np.array(ids, dtype=object)[rated],
            "rater": [f"r{(7 * i + k) % 900}" for i in range(rows) for k in range(5)],
            "attribute": "emotion",
            "value": rng.choice(EMOTIONS, len(rated)),
        }
    )
    return frame, ratings


def written(root: Path, frame: pd.DataFrame, ratings: pd.DataFrame) -> dict[str, str]:
    """The table in every form that is read: name -> --data."""
    schemes = {name: {"low": 1, "high": 7} for name in DIMENSIONS} | {"emotion": {"labels": list(EMOTIONS)}}
    for name in ("csv", "rated-csv", "parquet", "rated-parquet"):
        suffix = name.removeprefix("rated-")
        table = root / f"{name}.{suffix}"
        (root / f"{name}.schemes.json").write_text(json.dumps(schemes), "utf-8")
        rated = {table.with_name(f"{name}.ratings.{suffix}"): ratings} if name.startswith("rated") else {}
        for file, content in {table: frame, **rated}.items():
            content.to_csv(file, index=False) if suffix == "csv" else content.to_parquet(file, index=False)
    read_data(str(root / "parquet.parquet")).save(root / "saved")
    read_data(str(root / "rated-parquet.parquet")).save(root / "rated-saved")
    return {
        "CSV": str(root / "csv.csv"),
        "CSV, ratings": str(root / "rated-csv.csv"),
        "Parquet": str(root / "parquet.parquet"),
        "Parquet, ratings": str(root / "rated-parquet.parquet"),
        "saved manifest": str(root / "saved"),
        "saved manifest, ratings": str(root / "rated-saved"),
    }


def opened(root: Path, sample: int) -> float:
    """Seconds to open a file of its own for its length."""
    many = root / "many"
    many.mkdir()
    files = [many / f"{i:06d}.flac" for i in range(sample)]
    for i, file in enumerate(files):
        shutil.copyfile(root / "wav" / f"{i % 8}.flac", file)
    began = time.perf_counter()
    for file in files:
        header_seconds(file)
    return (time.perf_counter() - began) / sample


def steps(spec: str) -> dict[str, float]:
    """Seconds of each step from the table to the samples of the first batch."""
    times: dict[str, float] = {}

    def timed(name: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = work()
        times[name] = time.perf_counter() - began
        return result

    manifest = timed("read", lambda: read_data(spec))
    labels = manifest.utterances["emotion"].map({name: i for i, name in enumerate(EMOTIONS)}).to_numpy(dtype=np.int64)
    official = timed("official", lambda: make_protocol(manifest.utterances, "official", labels=labels))
    timed("kfold", lambda: make_protocol(manifest.utterances, "kfold", labels=labels))
    train = official.folds[0].train
    seconds = manifest.utterances["duration"].to_numpy()[train]
    rng = np.random.default_rng(0)
    batches = timed("batches", lambda: make_batches(seconds, max_clips=32, max_seconds=200.0, rng=rng))
    timed("audio", lambda: first_batch(manifest, train[batches[0]]))
    return times


def first_batch(manifest: Manifest, rows: np.ndarray) -> None:
    chosen = manifest.utterances.iloc[rows]
    for file, start, end in zip(chosen["file"], chosen["start"], chosen["end"], strict=True):
        read_audio(file, RATE, start, end)


def show(name: str, times: dict[str, float], opening: float) -> None:
    whole = sum(times.values())
    cells = " | ".join(f"{seconds:.2f}" for seconds in times.values())
    print(f"| {name} | {cells} | {whole:.2f} | {opening / whole:.1f} |")


if __name__ == "__main__":
    main()
