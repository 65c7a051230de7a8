"""What the layers of student and teacher know of emotion: frozen linear models on labelled data."""

import json
import re
from pathlib import Path
from typing import Any

from sertune.config import AudioConfig, RunConfig, from_dict
from sertune.progress import say
from sertune.train.choose import choose_target
from sertune.train.prepare import read
from sertune.train.run import train


def probe_config(data: str, encoder: str, audio: AudioConfig, seed: int, out: Path) -> RunConfig:
    """A run with a frozen encoder, whose baseline is the probe; the split is the corpus's own."""
    heard = {"silence": audio.silence, "level": audio.level}
    settings = {"data": [data], "encoder": encoder, "method": "frozen", "audio": heard, "precision": "fp32"}
    return from_dict({**settings, "seed": seed, "out": str(out)})


def check_probe(data: str, audio: AudioConfig, heard: list[str]) -> str:
    """Reads labelled data before the long part, so that a mistake in it shows early.

    Args:
        data: as ``--data`` of training.
        audio: how clips are heard.
        heard: files that are distilled from.

    Returns:
        A warning where files are among those; empty where none is.

    Raises:
        SertuneError: it can't be read, or has nothing to predict.
    """
    reading, _ = read(probe_config(data, "builtin", audio, 0, Path("unused")))
    manifest, _ = choose_target(reading.manifest, probe_config(data, "builtin", audio, 0, Path("unused")))
    own = {Path(file).resolve() for file in heard}
    shared = sum(Path(file).resolve() in own for file in manifest.utterances["file"].unique())
    return f"{shared} files of the probe {data} were also distilled from: its figures are too good" if shared else ""


def run_probe(data: str, encoders: dict[str, str], audio: AudioConfig, seed: int, folder: Path) -> dict[str, Any]:
    """The frozen linear model on every layer of some encoders.

    Args:
        data: as ``--data`` of training.
        encoders: what is shown -> name or folder.
        audio: how clips are heard.
        seed: of splits and intervals.
        folder: for a run per encoder; one that is finished is not run again.

    Returns:
        ``data``, ``protocol``, ``task``, and ``rows``: {``encoder``, ``name`` of the layers, ``dev``, ``chosen``,
        ``metrics``}.
    """
    found: dict[str, Any] = {"data": data, "rows": []}
    for who, encoder in encoders.items():
        out = folder / f"{_plain(data)}-{who}"
        if not (out / "report.json").is_file():
            say(f"Probing the {who} on {data}")
            train(probe_config(data, encoder, audio, seed, out))
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        found |= {"protocol": report["protocol"], "task": report["task"]}
        found["rows"] += [{"encoder": who, **row} for row in report["baseline"]]
    return found


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text)[-60:].strip("_")
