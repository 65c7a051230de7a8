"""The settings of the papers: complete, as published, and they run."""

import json
from pathlib import Path
from typing import Any

import pytest

from sertune.config import from_dict, from_flags, load_yaml, to_dict
from sertune.train.run import train

FOLDER = Path(__file__).parent.parent / "configs"
GIVEN_BY_THE_USER = {"data", "columns", "weights", "out"}

DIMENSIONAL = {
    "encoder": "facebook/wav2vec2-base",
    "target.name": "dimension",
    "target.dimensions": ["arousal", "valence"],
    "split.name": "official",
    "head.blend": 0.0,
    "train.average": 0.0,
}
LAST_THREE = {**DIMENSIONAL, "method.name": "partial", "method.layers": 3}
PEFT_SER = {
    "label_map": "4class",
    "target.labels": ["neutral", "anger", "sadness", "happiness"],
    "target.class_weights": True,
    "target.adjustment": 0.0,
    "target.label_smoothing": 0.0,
    "head.mix": "weighted",
    "head.convolutions": [256, 256, 256],
    "head.pooling": "mean",
    "head.hidden": [256],
    "head.dropout": 0.1,
    "head.blend": 0.0,
    "augment.time_crop": [1.0, 1.0],
    "augment.wave_noise": [10.0, 30.0],
    "train.epochs": 30,
    "train.choose": "best",
    "train.lr": 5e-4,
    "train.head_lr": 5e-4,
    "train.weight_decay": 0.0,
    "train.schedule": "plateau",
    "train.plateau_patience": 5,
    "train.batch_clips": 32,
    "train.average": 0.0,
    "cache.states": False,
    "audio.crop": 6.0,
}
ANNOTATORS = {
    "target.dimensions": ["arousal", "valence"],
    "target.rater.of": "dimension",
    "target.rater.form": "heads",
    "target.rater.min_raters": 2,
    "target.rater.shrinkage": 0.0,
    "target.plane.grid": [4, 4],
    "target.plane.truth": "subsets",
    "target.plane.kernel": "diffusion",
    "target.plane.temperature": 8.0,
    "target.plane.fine": 64,
    "target.plane.calibrate": False,
    "method.name": "frozen",
    "head.dropout": 0.2,
    "head.start": "random",
    "head.blend": 0.0,
    "split.name": "msp-improv-paper-b",
    "train.average": 0.0,
}
HEADS = {**ANNOTATORS, "head.hidden": [256], "target.rater.branch": [256, 256]}
PUBLISHED: dict[str, dict[str, Any]] = {
    "paper-b-annotators": {**HEADS, "target.name": "rater"},
    "paper-b-density": {**HEADS, "target.name": "rater+density", "target.schedule": "alternate"},
    "paper-b-softmax": {**ANNOTATORS, "target.name": "distribution", "target.distribution.of": "plane"},
    "paper-a-full": {**DIMENSIONAL, "method.name": "full", "precision": "fp32", "cache.states": False},
    "paper-a-partial": {**LAST_THREE, "precision": "fp32", "cache.states": False},
    "paper-a-partial-bf16": {**LAST_THREE, "precision": "bf16", "cache.states": False},
    "paper-a-cached": {**LAST_THREE, "precision": "bf16", "cache.states": True},
    "paper-a-lora": {**DIMENSIONAL, "method.name": "lora"},
    "paper-c-lora": {
        **PEFT_SER,
        "method.name": "lora",
        "method.layers": "all",
        "method.lora.targets": ["feed-forward"],
    },
    "paper-c-adapter": {
        **PEFT_SER,
        "method.name": "adapter",
        "method.layers": "all",
        "method.adapter.bottleneck": 128,
        "method.adapter.scale": 0.1,
        "method.adapter.dropout": 0.1,
    },
    "paper-c-prompt": {**PEFT_SER, "method.name": "prompt", "method.layers": "all", "method.prompt.length": 5},
    "paper-d": {
        "encoder": "speechbrain/emotion-recognition-wav2vec2-IEMOCAP",
        "method.name": "full",
        "head.mix": "last",
        "head.pooling": "mean",
        "head.hidden": [],
        "head.dropout": 0.0,
        "head.start": "random",
        "head.blend": 0.0,
        "split.name": "random",
        "train.schedule": "cosine",
        "train.batch_clips": 1,
        "train.average": 0.0,
        "target.name": "category",
    },
    "paper-c-head": {**PEFT_SER, "method.name": "frozen", "head.layers": list(range(1, 13))},
}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``train.lr``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_there_is_one_file_per_setting() -> None:
    assert sorted(file.stem for file in FOLDER.glob("*")) == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_states_every_key_and_holds_what_the_paper_says(name: str) -> None:
    file = FOLDER / f"{name}.yaml"
    stated = load_yaml(file)
    config = from_dict(stated)
    wanted = {key for key in flat({**to_dict(config), "columns": 0}) if key not in GIVEN_BY_THE_USER}
    assert set(flat(stated)) == wanted
    assert flat(stated) == {key: value for key, value in flat(to_dict(config)).items() if key in wanted}
    assert {key: flat(stated)[key] for key in PUBLISHED[name]} == PUBLISHED[name]
    assert from_flags(["--config", str(file)]) == config


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_trains(name: str, tiny_corpus: Path, tmp_path: Path) -> None:
    stated = load_yaml(FOLDER / f"{name}.yaml")
    stated |= {
        "encoder": "builtin:random",
        "data": f"synthetic:{tiny_corpus}",
        "split": "official",
        "out": str(tmp_path / "run"),
    }
    last = stated["train"]["unfreeze_epoch"] + 1
    stated["train"]["epochs"] = last
    stated["baseline"] = False
    if stated["head"]["layers"]:
        stated["head"]["layers"] = [1, 2, 3, 4]
    run = train(from_dict(stated))
    row = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()][-1]
    assert row["epoch"] == last
    assert row["loss"] > 0


def test_dev_chooses_the_best_epoch_where_that_is_asked_for(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates that ruin the model make the first epoch the best; a wide standard error takes the last for as good."""
    monkeypatch.setattr("sertune.train.loop.score_spread", lambda *_: 1.0)
    chosen = {}
    for choose in ("best", "within-error"):
        values = {
            "encoder": "builtin:random",
            "data": f"synthetic:{tiny_corpus}",
            "split": "official",
            "method": {"name": "partial", "layers": 1},
            "train": {"choose": choose, "epochs": 2, "lr": 0.05, "head_lr": 0.5, "average": 0.0},
            "audio": {"silence": 0.0, "level": 0.0},
            "baseline": False,
            "out": str(tmp_path / choose),
        }
        run = train(from_dict(values))
        report = json.loads((run / "report.json").read_text())
        chosen[choose] = report["folds"][0]["best_epoch"]
        assert ("standard error" in report["protocol"]["selection"]) == (choose == "within-error")
    assert chosen == {"best": 0, "within-error": 2}
