"""Mistakes around sertune distil: one clear line, a non-zero status, and nothing left behind."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bad_audio import BAD, noise, write
from sertune.cli import main
from sertune.errors import SertuneError
from sertune.train.distil.loop import DistilFit
from test_bad_input import Refuse, refuse

__all__ = ["refuse"]
QUICK = ["--student.layers", "1", "--student.width", "16", "--train.epochs", "1", "--cache.views", "1"]


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERTUNE_CACHE", raising=False)


@pytest.fixture
def distil(refuse: Refuse, tiny_corpus: Path) -> Refuse:
    """Distils from the tiny corpus, or from other audio, and must fail."""

    def run(*flags: object, data: object = None, **options: Any) -> str:
        fixed = ["--teacher", "builtin:random", "--data", data or tiny_corpus, "--out", "out", *QUICK]
        return refuse("distil", *fixed, *flags, **options)

    return run


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--teacher ''", "no teacher: say what the student learns from with --teacher ENCODER"),
        ("--teacher ./nowhere", "encoder ./nowhere: no such folder"),
        ("--teacher builtin:tiny", "unknown embedded encoder 'builtin:tiny'"),
        ("--out ''", "no run folder: say where the run goes with --out"),
        ("--layers 5", "layers = 5: teacher builtin:random has layers 0 to 4, the output"),
        ("--layers -1", "layers = -1: teacher builtin:random has layers 0 to 4"),
        ("--layers 1 1", "layers = [1, 1]: expected each layer once"),
        ("--student.layers 9", "student.layers = 9: a width of 16 allows 1, one for every 16 channels; take fewer"),
        ("--student.width 15", "student.width = 15: expected an even number"),
        ("--student.heads 3", "student.heads = 3: expected a number that divides the width, 16"),
        ("--loss.l1 -1", "loss.l1 = -1.0: expected 0 or more"),
        ("--loss.l1 0 --loss.cosine 0 --loss.mean 0", "loss.l1 = 0.0: expected a weight above 0, or one of"),
        ("--loss.match first", "loss.match: expected one of"),
        ("--audio.crop 0", "audio.crop = 0.0: expected seconds above 0"),
        ("--audio.crop 31", "audio.crop = 31.0: expected seconds above 0, no less than audio.min_seconds = 0.05, at"),
        ("--audio.level 3", "audio.level = 3.0: expected dB from -80"),
        ("--audio.silence -1", "audio.silence = -1.0: expected seconds, 0 or more, or auto"),
        ("--augment.wave_speed 3 4", "augment.wave_speed = [3.0, 4.0]: expected two factors from 0.5 to 2"),
        ("--augment.share 2", "augment.share = 2.0: expected a probability"),
        ("--augment.time_mask 0.1", "unknown flag --augment.time_mask; did you mean --augment.wave_mask?"),
        ("--method lora", "unknown flag --method"),
        ("--cache.views 0", "cache.views = 0: expected 1 or more"),
        ("--cache.dtype int4", "cache.dtype: expected one of"),
        ("--cache.disk_gib 0", "more would pass cache.disk_gib = 0; raise it, make room with sertune cache prune"),
        ("--train.epochs 0", "train.epochs = 0: expected 1 or more"),
        ("--train.lr 0", "train.lr = 0.0: expected a rate above 0"),
        ("--train.held_out 1", "train.held_out = 1.0: expected a share from 0, below 1"),
        ("--precision fp16", "precision = fp16: needs a GPU"),
        ("--seed -1", "seed = -1: expected 0 or more"),
        ("--probe nowhere.csv", "nowhere.csv"),
        ("--probe emodb:nowhere", "nowhere"),
        ("--epochs 3", "unknown flag --epochs; did you mean --train.epochs?"),
        ("audio", "expected one value"),
        ("--config nowhere.yaml", "nowhere.yaml: no such configuration file"),
    ],
)
def test_a_setting_that_makes_no_sense(distil: Refuse, flags: str, words: str) -> None:
    assert words in distil(*shlex.split(flags))


def test_no_audio(distil: Refuse, refuse: Refuse, tmp_path: Path) -> None:
    assert "no audio: say what to distil from with --data" in refuse("distil", "--teacher", "builtin", "--out", "out")
    assert "no such file or folder: nowhere" in distil(data="nowhere")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("I am not a sound.")
    assert "no audio in folder texts (looked for .wav" in distil(data="texts")


def test_nothing_but_silence(distil: Refuse, tmp_path: Path) -> None:
    (tmp_path / "quiet").mkdir()
    for name in ("a.wav", "b.wav"):
        write(tmp_path / "quiet" / name, np.zeros(80000))
    line = distil(data="quiet")
    assert "the audio is silent: of 2 files, 4 clips were heard and none has a peak above -80 dB" in line


def test_silent_clips_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    write(tmp_path / "audio" / "a.wav", np.concatenate([noise(64000), np.zeros(64000)]))
    for name in "bc":
        write(tmp_path / "audio" / f"{name}.wav", noise(16000))
    flags = ["--teacher", "builtin:random", "--data", str(tmp_path / "audio"), "--out", str(tmp_path / "out"), *QUICK]
    assert main(["distil", *flags]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["data"]["clips"] == 3
    assert "1 of 4 clips are silent and were left out" in report["warnings"]
    assert report["skipped"] == []


BY_HEADER = ("empty.wav", "no samples.wav", "one.wav", "short.wav", "text.wav")
IN_SAMPLES = ("nan.wav", "inf.wav", "eight.wav", "cut.wav", "cut.flac", "huge.wav")


@pytest.mark.parametrize("name", [*BY_HEADER, *IN_SAMPLES])
def test_a_bad_file(distil: Refuse, tmp_path: Path, name: str) -> None:
    make, _ = BAD[name]
    (tmp_path / "audio").mkdir()
    for good in ("x.wav", "y.wav"):
        write(tmp_path / "audio" / good, noise(16000))
    make(tmp_path / "audio" / name)
    line = distil(data="audio") if name in BY_HEADER else _refused_late(tmp_path)
    assert name in line
    assert "--skip-bad" in line
    flags = ["--teacher", "builtin:random", "--data", str(tmp_path / "audio"), "--out", str(tmp_path / "out"), *QUICK]
    assert main(["distil", *flags, "--skip-bad"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [Path(row["file"]).name for row in report["skipped"]] == [name]
    assert report["data"]["clips"] == 2


def _refused_late(folder: Path) -> str:
    """The error of a file that shows itself only when it is decoded."""
    from sertune.train.distil.config import DISTIL
    from sertune.train.distil.run import distil as run

    flags = ["--teacher", "builtin:random", "--data", str(folder / "audio"), "--out", str(folder / "late"), *QUICK]
    with pytest.raises(SertuneError) as error:
        run(DISTIL.from_flags(flags))
    return str(error.value)


def test_an_out_that_holds_something_else(distil: Refuse, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    assert "other: the folder holds something else than a run" in distil("--out", "other")
    (tmp_path / "file").write_text("mine")
    assert "file: is a file" in distil("--out", "file")
    assert "other: the folder holds something else than a run" in distil("--out", "other", "--overwrite")


def test_the_folder_of_another_kind_of_run(distil: Refuse, tiny_corpus: Path, tmp_path: Path) -> None:
    flags = ["--data", f"synthetic:{tiny_corpus}", "--method", "frozen", "--baseline", "false"]
    assert main(["train", *flags, "--encoder", "builtin:random", "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "run" / "report.json").unlink()
    line = distil("--out", "run")
    assert "config.yaml: unknown key" in line
    assert "choose another --out" in line


def test_other_settings_in_the_same_folder(
    distil: Refuse, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [
        "distil",
        "--teacher",
        "builtin:random",
        "--data",
        str(tiny_corpus),
        "--out",
        str(tmp_path / "out"),
        *QUICK,
    ]

    def stop(*_: object) -> None:
        raise SertuneError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(DistilFit, "_step", stop)
        assert main(flags) == 1
    line = distil("--student.width", "32")
    assert "out: holds an unfinished run with student.width = 16, not 32; give the same settings to go on" in line
    assert main(flags) == 0
    assert "holds a finished run; choose another --out, or --overwrite" in distil()
    assert main([*flags, "--student.width", "32", "--overwrite"]) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["student"]["width"] == 32


def test_a_loss_that_is_not_finite(tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--teacher", "builtin:random", "--data", str(tiny_corpus), "--out", str(tmp_path / "out"), *QUICK]
    assert main(["distil", *flags, "--train.lr", "1e30", "--train.clip", "0", "--train.epochs", "3"]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert "the loss is" in line
    assert "try a lower --train.lr" in line


def test_a_teacher_whose_outputs_cannot_be_given(distil: Refuse, tiny_corpus: Path, tmp_path: Path) -> None:
    flags = ["--data", f"synthetic:{tiny_corpus}", "--encoder", "builtin:random", "--baseline", "false"]
    target = ["--method", "frozen", "--target", "rater", "--target.dimensions", "arousal", "valence"]
    assert main(["train", *flags, *target, "--out", str(tmp_path / "run")]) == 0
    assert "target rater can't be distilled, as a student has a linear head" in distil("--teacher", "run")


def test_a_model_whose_base_is_gone(refuse: Refuse, tiny_corpus: Path, tmp_path: Path) -> None:
    flags = ["--data", f"synthetic:{tiny_corpus}", "--encoder", "builtin:random", "--baseline", "false"]
    assert main(["train", *flags, "--method", "frozen", "--out", str(tmp_path / "run")]) == 0
    file = tmp_path / "run" / "model" / "model.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, "encoder": {**told["encoder"], "path": "../encoder"}}))
    line = refuse("predict", "run", "a.wav")
    assert "run/model: its base encoder is no longer at run/encoder; say where it is with --encoder FOLDER" in line
