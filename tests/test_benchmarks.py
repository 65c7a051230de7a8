"""The benchmark of methods runs, and its rows say what a reader of its JSON expects."""

import importlib.util
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "methods.py"
KEYS = {
    "method": str,
    "precision": str,
    "cache": bool,
    "seconds_per_epoch": float,
    "speedup": float,
    "peak_memory_mib": int,
    "trainable_parameters": int,
    "batch_clips": int,
    "implementation": str,
    "speedup_bucketed": float,
    "cache_mib": float,
    "build_seconds": float,
    "total_10_epochs": float,
}
HIDDEN = """
import sys
from importlib.machinery import PathFinder
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = {"pandas", "soundfile", "soxr", "pyarrow", "jsonargparse", "rich", "jinja2", "peft"}
        return None if name.partition(".")[0] in missing else super().find_spec(name, path, target)
sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""


@pytest.fixture(scope="module")
def methods() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("methods", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["methods"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def encoder(methods: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    methods.prepare({"encoder": str(folder), "tiny": True})
    return str(folder)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's
def test_rows_hold_what_their_readers_look_for(
    methods: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(methods, "in_process", lambda job, title="": methods.JOBS[job["kind"]](job))
    rows = ["*/bucketed", "peft/*/fp32", "sertune/lora-3/fp32/*", "sertune/frozen/bf16/*"]
    file = tmp_path / "rows.json"
    flags = ["--tiny", "--clips", "8", "--batch", "4", "--epochs", "1", "--json", str(file), "--rows", *rows]
    monkeypatch.setattr(sys, "argv", ["methods.py", *flags])
    with pytest.raises(SystemExit) as ended:
        methods.main()
    assert ended.value.code == 0
    found = json.loads(file.read_text())
    for row in found:
        assert {key: type(row[key]) for key in KEYS} == KEYS
    by_name = {row["name"]: row for row in found}
    assert next(iter(by_name)) == "transformers/full/fp32"
    assert by_name["transformers/full/fp32"]["speedup"] == 1.0
    assert by_name["transformers/full/fp32/bucketed"]["speedup_bucketed"] == 1.0
    ours = [row for row in found if row["implementation"] == "sertune"]
    assert len(ours) == 3
    for row in ours:
        assert row["trainable_parameters"] < by_name["transformers/full/fp32"]["trainable_parameters"]
        assert (row["cache_mib"] > 0) == row["cache"]
    assert capsys.readouterr().out.count("\n| ") == 1 + len(found)


@pytest.mark.parametrize("name", ["transformers/full/fp32", "sertune/bias-3/fp32/live"])
def test_a_part_of_an_epoch_is_scaled_up_by_its_audio(methods: Any, encoder: str, name: str) -> None:
    job = {"encoder": encoder, "data": "", "clips": 6, "batch": 1, "epochs": 1, "steps": 2}
    clips = methods.load_clips(job)
    lengths = np.array([len(clip) for clip in clips])
    assert methods.scaled(3.0, np.array([0, 5]), lengths) == pytest.approx(3.0 * lengths.sum() / lengths[[0, 5]].sum())
    updates: list[int] = []
    handle = register_optimizer_step_post_hook(lambda *_: updates.append(1))
    with methods.training(methods.named(name), clips, job) as run:
        assert run.epoch(0) > 0
    handle.remove()
    assert len(updates) == 2


def test_what_fits_is_the_last_batch_before_memory_ran_out(methods: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: a card that holds eleven clips, the longest of which come first."""
    asked: list[list[int]] = []

    def step(rows: Any) -> None:
        asked.append(list(rows))
        if len(rows) > 11:
            raise torch.OutOfMemoryError

    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80e9))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(methods, "training", lambda *_: nullcontext(SimpleNamespace(step=step)))
    row = asdict(methods.named("sertune/lora-3/bf16/cached"))
    assert methods.fit_card({"row": row, "card": 8, "data": "", "clips": 6}) == {"batch_clips": 8}
    assert asked[:3] == [[5], [5, 4], [5, 4, 3, 2]]
    assert shares == [pytest.approx((8 - methods.CONTEXT_GB) / 80)]


def test_it_runs_where_neither_pandas_nor_audio_libraries_are_installed(encoder: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDDEN)
    row = {"by": "sertune", "method": "partial-3", "precision": "fp32", "cached": True}
    job = {"kind": "row", "row": row, "encoder": encoder, "data": "", "clips": 4, "batch": 2, "epochs": 1, "steps": 1}
    command = [sys.executable, str(SCRIPT), "--job", json.dumps(job)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["seconds_per_epoch"] > 0
