"""Shared by all tests: one thread each (two workers share two cores), and small corpora and models made once."""

import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is written to the user's cache folder."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real speech, where it is."""
    folder = os.environ.get("SERTUNE_REAL_DATA")
    if not folder:
        pytest.skip("SERTUNE_REAL_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def whisper(real_data: Path) -> str:
    """The one real encoder, beside the real data."""
    folder = real_data.parent / "encoders" / "whisper-tiny.en-encoder"
    if not folder.is_dir():
        pytest.skip("no real encoder beside SERTUNE_REAL_DATA")
    return str(folder)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic corpus: 4 speakers, 4 emotions, ratings."""
    from sertune.corpora.synthetic import example

    root = tmp_path_factory.mktemp("synthetic") / "corpus"
    example(root)
    return root


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest synthetic corpus that every split can cut: 4 speakers, 16 clips."""
    from sertune.data.synthetic import write_corpus

    return write_corpus(tmp_path_factory.mktemp("tiny") / "corpus", speakers=4, sentences=2, per_emotion=1, raters=3)


@pytest.fixture(scope="session")
def tiny_run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on it: a frozen builtin encoder, four labels."""
    from sertune.cli import main

    run = tmp_path_factory.mktemp("tiny") / "run"
    flags = ["--method", "frozen", "--baseline", "false", "--out", str(run)]
    assert main(["train", "--encoder", "builtin:random", "--data", f"synthetic:{tiny_corpus}", *flags]) == 0
    return run
