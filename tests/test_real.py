"""On real speech, with the real encoder: what the README says, in small."""

import json
from pathlib import Path

import pytest

import sertune
from sertune.cli import main
from sertune.config import from_dict

pytestmark = pytest.mark.real


def test_frozen_whisper_on_emodb_and_then_on_urdu(real_data: Path, whisper: str, tmp_path: Path) -> None:
    config = {"data": [f"emodb:{real_data / 'emodb-2s'}"], "encoder": whisper, "method": "frozen", "split": "loso"}
    run = sertune.run(from_dict({**config, "baseline": False, "out": str(tmp_path / "run")}))
    report = json.loads((run / "report.json").read_text())
    assert report["metrics"]["uar"]["value"] > 0.86
    assert report["metrics"]["uar"]["low"] > 0.80
    assert report["protocol"]["folds"] == 10
    assert report["cost"]["seconds_total"] < 120
    file = real_data / "emodb-2s" / "wav" / "03a01Fa.wav"
    assert sertune.load(run).predict(file)["label"] == "happiness"
    flags = ["--data", f"urdu:{real_data / 'urdu'}", "--adapt", "corpus", "--out", str(tmp_path / "urdu")]
    assert main(["evaluate", str(run), *flags]) == 0
    report = json.loads((tmp_path / "urdu" / "report.json").read_text())
    plain, adapted = report["plain"]["metrics"]["uar"], report["metrics"]["uar"]
    assert plain["value"] > 0.42
    assert adapted["value"] > 0.54
    assert adapted["low"] < adapted["value"] < adapted["high"]
    assert report["plain"]["difference"]["uar"]["value"] == pytest.approx(adapted["value"] - plain["value"])
    assert report["protocol"]["absent classes"].startswith("mask")


def test_the_embedded_encoder_on_emodb(real_data: Path, tmp_path: Path) -> None:
    config = {"data": [f"emodb:{real_data / 'emodb-2s'}"], "encoder": "builtin", "method": "frozen", "split": "loso"}
    run = sertune.run(from_dict({**config, "baseline": False, "out": str(tmp_path / "run")}))
    report = json.loads((run / "report.json").read_text())
    assert report["metrics"]["uar"]["value"] > 0.79
    assert report["cost"]["seconds_total"] < 60


def test_the_split_holds_for_a_real_encoder(whisper: str) -> None:
    from sertune.model.encoder import load_encoder

    encoder = load_encoder(whisper, check=True)
    assert (encoder.depth, encoder.width, encoder.rate) == (4, 384, 16000)
