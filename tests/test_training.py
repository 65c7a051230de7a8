"""The loop: resume, accumulation, selection by dev alone, cached equals live."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from sertune.config import RunConfig, dump_yaml, from_dict
from sertune.errors import SertuneError
from sertune.model.targets import DimensionTarget
from sertune.train.checkpoint import Checkpoint
from sertune.train.folds import _fresh_model
from sertune.train.loop import Fit
from sertune.train.prepare import prepare
from sertune.train.run import train


def settings(corpus: Path, out: Path, **changes: Any) -> RunConfig:
    """A quick run: builtin encoder, last layer, few epochs."""
    values: dict[str, Any] = {
        "encoder": "builtin:random",
        "data": [f"synthetic:{corpus}"],
        "split": "official",
        "method": {"name": "partial", "layers": 1},
        "train": {"epochs": 3, "batch_clips": 8, "lr": 1e-3, "head_lr": 1e-2, "average": 0.5},
        "head": {"regularisation": [0.1]},
        "baseline": False,
        "out": str(out),
    }
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(values.get(key), dict) else value
    return from_dict(values)


def result(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], pd.DataFrame]:
    report = json.loads((run / "report.json").read_text())
    return load_file(run / "model" / "model.safetensors"), report, pd.read_parquet(run / "predictions.parquet")


def assert_same_result(one: Path, other: Path) -> None:
    first, second = result(one), result(other)
    assert first[0].keys() == second[0].keys()
    for name, tensor in first[0].items():
        assert torch.equal(tensor, second[0][name]), name
    assert first[1]["metrics"] == second[1]["metrics"]
    assert [fold["best_epoch"] for fold in first[1]["folds"]] == [fold["best_epoch"] for fold in second[1]["folds"]]
    pd.testing.assert_frame_equal(first[2], second[2])
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, other)]
    kept = [[{k: v for k, v in row.items() if "seconds" not in k} for row in log] for log in logs]
    assert kept[0] == kept[1]


class KilledError(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def whole_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    return train(settings(corpus, out, split="loso", augment={"mixup": 0.4, "noise": 0.1, "channel_mask": 0.1}))


@pytest.mark.parametrize("stop_at", [1, 4, 9, 14])
def test_a_run_goes_on_to_the_same_result(
    stop_at: int, corpus: Path, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(
        corpus,
        tmp_path / "run",
        split="loso",
        augment={"mixup": 0.4, "noise": 0.1, "channel_mask": 0.1},
        train={"checkpoint_minutes": 0.0},
    )
    step, done = Fit._step, 0

    def stopping(self: Fit, rows: np.ndarray, number: int) -> float:
        nonlocal done
        done += 1
        if done == stop_at:
            raise KilledError
        return step(self, rows, number)

    monkeypatch.setattr(Fit, "_step", stopping)
    with pytest.raises(KilledError):
        train(config)
    assert not (tmp_path / "run" / "report.json").exists()
    monkeypatch.setattr(Fit, "_step", step)
    train(config)
    assert_same_result(whole_run, tmp_path / "run")


def test_a_killed_process_goes_on_to_the_same_result(corpus: Path, whole_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = settings(corpus, run, split="loso", augment={"mixup": 0.4, "noise": 0.1, "channel_mask": 0.1})
    (tmp_path / "run.yaml").write_text(dump_yaml(config))
    command = [sys.executable, "-m", "sertune", "train", "--config", str(tmp_path / "run.yaml")]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(run.glob("folds/02-*/checkpoint.safetensors")):
        assert first.poll() is None, first.stderr.read() if first.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    finished = {file: file.stat().st_mtime_ns for file in run.glob("folds/*/result.json")}
    assert finished
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert_same_result(whole_run, run)
    assert {file: file.stat().st_mtime_ns for file in finished} == finished, "a finished fold was run again"
    once_more = subprocess.run(command, capture_output=True, text=True, check=False)
    assert once_more.returncode == 1
    assert "holds a finished run" in once_more.stderr


def test_other_settings_do_not_go_on_in_the_same_folder(corpus: Path, tmp_path: Path) -> None:
    config = settings(corpus, tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(dump_yaml(config))
    with pytest.raises(SertuneError, match=r"unfinished run with train\.lr = 0\.001, not 0\.5"):
        train(replace(config, train=replace(config.train, lr=0.5)))


def test_states_in_memory_and_live_give_the_same_model(corpus: Path, tmp_path: Path) -> None:
    train(settings(corpus, tmp_path / "memory"))
    train(settings(corpus, tmp_path / "live", cache={"limit_gib": 1e-6}))
    train(settings(corpus, tmp_path / "none", cache={"states": False}))
    assert_same_result(tmp_path / "memory", tmp_path / "live")
    assert_same_result(tmp_path / "memory", tmp_path / "none")


def test_the_test_part_has_no_say(corpus: Path, tmp_path: Path) -> None:
    """Scrambled test labels change the test score, and neither the model nor the chosen epoch."""
    from sertune.corpora.synthetic import read

    manifest = read(corpus)
    manifest.save(tmp_path / "plain")
    frame = manifest.utterances.copy()
    test = (frame["partition"] == "test").to_numpy()
    frame.loc[test, "emotion"] = frame.loc[test, "emotion"].to_numpy()[::-1]
    replace(manifest, utterances=frame).save(tmp_path / "scrambled")
    runs = []
    for name in ("plain", "scrambled"):
        runs.append(result(train(settings(corpus, tmp_path / f"run-{name}", data=[str(tmp_path / name)]))))
    for name, tensor in runs[0][0].items():
        assert torch.equal(tensor, runs[1][0][name])
    assert runs[0][1]["folds"][0]["best_epoch"] == runs[1][1]["folds"][0]["best_epoch"]
    assert runs[0][1]["metrics"]["uar"]["value"] != runs[1][1]["metrics"]["uar"]["value"]


@pytest.mark.parametrize("target", ["category", "dimension"])
@pytest.mark.parametrize("parts", [2, 5])
def test_accumulation_gives_the_gradient_of_the_whole_batch(
    target: str, parts: int, corpus: Path, tmp_path: Path
) -> None:
    gradients = []
    for accumulate in (1, parts):
        config = settings(
            corpus,
            tmp_path / "run",
            target=target,
            train={"accumulate": accumulate, "clip": 0.0},
            head={"dropout": 0.0, "pooling": "mean+std"},
            augment={"time_crop": [1.0, 1.0]},  # each part would draw its own
        )
        prepared = prepare(config)
        fold = prepared.protocol.folds[0]
        fit = Fit(_fresh_model(prepared, fold, config)[0], prepared.clips, fold, config, prepared.device)
        fit.model.train()
        rows = fold.train[:16]
        loss = fit._backward(fit._load(rows), 0)
        gradients.append((loss, [p.grad.clone() for p in fit.parameters if p.grad is not None]))
    assert gradients[0][0] == pytest.approx(gradients[1][0], abs=1e-6)
    assert len(gradients[0][1]) == len(gradients[1][1]) > 5
    for whole, split in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(split, whole, atol=1e-6, rtol=1e-4)


def test_the_ccc_of_parts_is_not_the_ccc_of_the_whole() -> None:
    """What averaging over micro-batches would give differs, so the test above can fail."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((32, 1))).float()
    y = 0.6 * x + 0.5 * torch.from_numpy(rng.standard_normal((32, 1))).float()
    target = DimensionTarget(("arousal",), ((-1.0, 1.0),))
    whole = float(target.loss(x, y))
    averaged = float(torch.stack([target.loss(a, b) for a, b in zip(x.split(4), y.split(4), strict=True)]).mean())
    assert abs(whole - averaged) > 0.03


def test_a_loss_that_is_not_finite_stops_with_step_and_files(corpus: Path, tmp_path: Path) -> None:
    config = settings(corpus, tmp_path / "run", train={"lr": 1e30, "head_lr": 1e30, "clip": 0.0, "warmup": 0.0})
    with pytest.raises(SertuneError, match=r"step \d+ of fold official: the loss is .*files of the batch: .*\.wav"):
        train(config)
    assert not (tmp_path / "run" / "report.json").exists()


def test_early_stopping_ends_where_dev_stops_improving(corpus: Path, tmp_path: Path) -> None:
    config = settings(corpus, tmp_path / "run", train={"epochs": 30, "patience": 2, "lr": 0.0, "head_lr": 0.0})
    _, report, _ = result(train(config))
    fold = report["folds"][0]
    assert (fold["best_epoch"], fold["epochs"]) == (2, 2)


def test_the_latest_epoch_within_one_standard_error_is_chosen() -> None:
    scores = [(0.50, 0.02), (0.80, 0.03), (0.78, 0.03), (0.60, 0.04), (0.79, 0.03), (0.70, 0.03)]
    state = Checkpoint()
    for epoch, (dev, spread) in enumerate(scores):
        state.epoch = epoch
        if state.choose(dev, spread):
            state.best = {"w": torch.zeros(1)}
    assert (state.best_epoch, state.top_epoch, state.best_score) == (4, 1, 0.79)


def test_plateau_halves_the_rates(corpus: Path, tmp_path: Path) -> None:
    options = {"epochs": 5, "schedule": "plateau", "plateau_patience": 2, "lr": 1e-30, "head_lr": 1e-30, "warmup": 0.0}
    run = train(settings(corpus, tmp_path / "run", train=options))
    rates = [json.loads(line)["lr"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert rates[1:] == [1e-30, 1e-30, 5e-31, 5e-31, 2.5e-31]


def test_until_it_is_unfrozen_the_encoder_stays_as_it_was(corpus: Path, tmp_path: Path) -> None:
    config = settings(corpus, tmp_path / "run", train={"epochs": 3, "unfreeze_epoch": 2, "average": 0.0})
    prepared = prepare(config)
    fold = prepared.protocol.folds[0]
    fit = Fit(_fresh_model(prepared, fold, config)[0], prepared.clips, fold, config, prepared.device)
    before = [p.clone() for p in fit.model.trained_parameters()]
    head = fit.model.head.output.get_parameter("weight").clone()

    def unchanged() -> list[bool]:
        return [torch.equal(p, old) for p, old in zip(fit.model.trained_parameters(), before, strict=True)]

    for _ in range(2):
        fit._epoch(lambda _: None)
        assert all(unchanged())
    assert not torch.equal(fit.model.head.output.get_parameter("weight"), head)
    fit._epoch(lambda _: None)
    assert not any(unchanged())


def test_loso_pools_every_speaker_once(whole_run: Path, corpus: Path) -> None:
    from sertune.corpora.synthetic import read

    _, report, predictions = result(whole_run)
    frame = read(corpus).utterances
    assert sorted(predictions["utterance"]) == sorted(frame["id"])
    assert (predictions["speaker"] == predictions["fold"]).all()
    assert [fold["name"] for fold in report["folds"]][-1] == "final"
    assert report["protocol"]["folds"] == frame["speaker"].nunique()
    assert report["protocol"]["speaker_independent"] is True
    probabilities = predictions[[c for c in map(str, predictions) if c.startswith("p_")]].sum(axis=1)
    np.testing.assert_allclose(probabilities, 1, atol=1e-9)


def test_report_keeps_what_scripts_rely_on(whole_run: Path) -> None:
    _, report, _ = result(whole_run)
    for name in ("uar", "accuracy", "macro_f1"):
        metric = report["metrics"][name]
        assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
    for key in ("seconds_total", "seconds_per_epoch", "peak_memory_mib", "trainable_parameters"):
        assert report["cost"][key] > 0
    assert isinstance(report["protocol"]["text"], str)
    assert isinstance(report["warnings"], list)


def test_it_learns_across_speakers_and_not_from_scrambled_labels(corpus: Path, tmp_path: Path) -> None:
    from sertune.corpora.synthetic import read

    run = train(settings(corpus, tmp_path / "learnt", split="loso", train={"epochs": 6, "lr": 1e-4, "head_lr": 1e-3}))
    learnt = result(run)[1]["metrics"]["uar"]["value"]
    manifest = read(corpus)
    frame = manifest.utterances.copy()
    rng = np.random.default_rng(0)
    for _, rows in frame.groupby("speaker").groups.items():
        frame.loc[rows, "emotion"] = rng.permutation(frame.loc[rows, "emotion"].to_numpy())
    replace(manifest, utterances=frame).save(tmp_path / "scrambled")
    config = settings(corpus, tmp_path / "chance", data=[str(tmp_path / "scrambled")], split="loso")
    chance = result(train(config))[1]["metrics"]["uar"]["value"]
    assert learnt > 0.55
    assert chance < 0.45


def test_dimensions_keep_their_scale(corpus: Path, tmp_path: Path) -> None:
    run = train(settings(corpus, tmp_path / "run", target="dimension", split="loso"))
    _, report, predictions = result(run)
    assert report["task"]["scales"]["arousal"] == [1, 5]
    assert predictions["arousal"].between(1, 5).all()
    assert report["metrics"]["ccc_arousal"]["value"] > 0.4
    assert math.isclose(
        report["metrics"]["rmse_arousal"]["value"],
        float(np.sqrt(((predictions["arousal"] - predictions["arousal_true"]) ** 2).mean())),
        rel_tol=1e-6,
    )


@pytest.mark.parametrize("method", ["frozen", "full"])
@pytest.mark.parametrize("head", [{"mix": "weighted"}, {"pooling": "attentive"}, {"hidden": [16], "mix": "last"}])
def test_methods_and_heads_run(method: str, head: dict[str, Any], corpus: Path, tmp_path: Path) -> None:
    import sertune

    run = train(settings(corpus, tmp_path / "run", method={"name": method}, head=head, train={"epochs": 1}))
    _, _, predictions = result(run)
    row = predictions.iloc[0]
    predicted = sertune.load(run).predict(row["file"])
    assert predicted["label"] == row["predicted"]
    assert predicted["probabilities"]["anger"] == pytest.approx(row["p_anger"], abs=1e-4)


def test_a_front_that_trains(corpus: Path, tmp_path: Path) -> None:
    import sertune

    method = {"name": "full", "front": True}
    run = train(settings(corpus, tmp_path / "run", method=method, train={"epochs": 1, "batch_clips": 16}))
    tensors, _, predictions = result(run)
    assert any("conv1" in name for name in tensors)
    row = predictions.iloc[0]
    assert sertune.load(run).predict(row["file"])["probabilities"]["anger"] == pytest.approx(row["p_anger"], abs=1e-4)
