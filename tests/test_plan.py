"""The dry run: what it predicts, and that it leaves nothing behind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sertune.cli import main
from sertune.config import RunConfig, from_dict
from sertune.train.plan import _line, plan
from sertune.train.run import train


def settings(corpus: Path, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "encoder": "builtin:random",
        "data": [f"synthetic:{corpus}"],
        "split": "official",
        "method": {"name": "partial", "layers": 2},
        "head": {"regularisation": [0.1]},
        "train": {"epochs": 1},
        "baseline": False,
    }
    return from_dict({**values, **changes})


@pytest.mark.parametrize("method", ["partial", "full", "lora", "frozen"])
def test_parameters_and_states_are_those_of_the_run(method: str, corpus: Path, tmp_path: Path) -> None:
    changes = {"method": {"name": method, "layers": 2}, "out": str(tmp_path / "run")}
    made = plan(settings(corpus, **changes))
    assert not (tmp_path / "run").exists()
    report = json.loads((train(settings(corpus, **changes)) / "report.json").read_text())
    assert made.trainable_parameters == report["cost"]["trainable_parameters"]
    assert made.total_parameters == report["cost"]["total_parameters"]
    assert made.cut == report["method"]["cut"]
    assert made.states_mib == pytest.approx(report["cost"]["states_mib"], rel=0.1, abs=0.1)
    assert (made.seconds_per_epoch == 0) == (method == "frozen")
    assert made.peak_memory_mib < made.free_memory_mib


def test_what_is_not_kept_costs_time_in_every_epoch(corpus: Path) -> None:
    kept = plan(settings(corpus))
    anew = plan(settings(corpus, cache={"states": False}))
    assert (kept.kept, anew.kept) == ("memory", "not kept")
    assert anew.seconds_per_epoch > kept.seconds_per_epoch
    assert anew.states_mib < kept.states_mib  # pooled vectors stay


def test_checkpointing_fits_more(corpus: Path) -> None:
    plain = plan(settings(corpus)).largest_batch_seconds
    saving = plan(settings(corpus, train={"checkpointing": True})).largest_batch_seconds
    assert saving > 2 * plain


def test_a_front_that_trains_is_tried_on_audio(corpus: Path) -> None:
    made = plan(settings(corpus, method={"name": "full", "front": True}))
    assert made.kept == "not kept"
    assert made.seconds_per_epoch > 0


def test_the_disk_cache_is_named_with_its_size(corpus: Path, tmp_path: Path) -> None:
    sizes = {}
    for dtype in ("float16", "float32"):
        made = plan(settings(corpus, cache={"folder": str(tmp_path / "cache"), "dtype": dtype}))
        assert made.kept == str(tmp_path / "cache")
        sizes[dtype] = made.states_mib
    assert sizes["float16"] < sizes["float32"] < 2 * sizes["float16"]
    assert not list((tmp_path / "cache").glob("*/*.safetensors"))


def test_the_line_through_measured_costs() -> None:
    at = np.array([1.0, 4.0])
    np.testing.assert_allclose(_line(np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.5, 3.5]))(at), [1.5, 4.5])
    # noise may make a line fall or start below zero; costs don't
    assert (_line(np.array([1.0, 2.0]), np.array([3.0, 2.0]))(at) == 2.5).all()
    np.testing.assert_allclose(_line(np.array([1.0, 3.0]), np.array([0.5, 3.0]))(np.array([0.0])), [0.0])
    np.testing.assert_allclose(_line(np.array([2.0, 2.0]), np.array([1.0, 3.0]))(at), [1.0, 4.0])


def test_the_command_prints_it_and_needs_no_folder(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--encoder",
        "builtin:random",
        "--data",
        f"synthetic:{corpus}",
        "--split",
        "official",
        "--method",
        "partial",
        "--dry-run",
    ]
    assert main(["train", *flags]) == 0
    out = capsys.readouterr().out
    for words in ("trainable parameters: ", "in memory", "one epoch: ", "peak memory: ", "train.batch_seconds = "):
        assert words in out
