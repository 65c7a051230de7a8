"""The command line as a new user meets it."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import sertune
from sertune.cli import main
from sertune.config import from_dict
from sertune.errors import SertuneError


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A categorical and a dimensional run, made by the command line."""
    root = tmp_path_factory.mktemp("runs")
    for target in ("category", "dimension"):
        flags = [
            "--data",
            f"synthetic:{corpus}",
            "--encoder",
            "builtin:random",
            "--target",
            target,
            "--method",
            "partial",
        ]
        flags += ["--method.layers", "2", "--split", "official", "--precision", "fp32", "--seed", "1"]
        assert main(["train", *flags, "--train.epochs", "2", "--out", str(root / target)]) == 0
    return {target: root / target for target in ("category", "dimension")}


@pytest.fixture(scope="module")
def files(corpus: Path) -> list[str]:
    return [str(file) for file in sorted((corpus / "wav").glob("*.wav"))[:3]]


def test_train_leaves_the_files_of_a_run(runs: dict[str, Path]) -> None:
    for run in runs.values():
        names = {file.name for file in run.iterdir()}
        assert {"config.yaml", "report.json", "report.html", "predictions.parquet", "log.jsonl", "model"} <= names
        assert not list(run.rglob("*.part"))
        assert not list(run.rglob("checkpoint*"))
        assert {file.name for file in (run / "model").iterdir()} == {"model.safetensors", "model.json"}
    baseline = json.loads((runs["category"] / "report.json").read_text())["baseline"]
    assert sum(row["chosen"] for row in baseline) == 1
    assert all(0 <= row["metrics"]["uar"]["value"] <= 1 for row in baseline)


def test_predictions_as_json(runs: dict[str, Path], files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(runs["category"]), *files, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == files
    for row in rows:
        assert set(row) == {"file", "label", "probabilities"}
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
        assert sum(row["probabilities"].values()) == pytest.approx(1)
    assert main(["predict", str(runs["dimension"] / "model"), files[0], "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    for name in ("arousal", "valence", "dominance"):
        assert row[name]["scale"] == [1, 5]
        assert 1 <= row[name]["value"] <= 5


def test_predictions_as_csv(runs: dict[str, Path], files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(runs["category"]), *files, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["file"] for row in rows] == files
    assert float(rows[0]["p_anger"]) <= 1
    assert main(["predict", str(runs["dimension"]), files[0], "--csv"]) == 0
    assert capsys.readouterr().out.startswith("file,arousal,valence,dominance,error\n")


def test_a_folder_is_predicted_like_its_files(
    runs: dict[str, Path], files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mit Räumen" / "über"
    folder.mkdir(parents=True)
    for file in files:
        samples, rate = soundfile.read(file)
        soundfile.write(folder / Path(file).with_suffix(".flac").name, samples, rate)
    assert main(["predict", str(runs["category"]), str(tmp_path / "mit Räumen"), "--json"]) == 0
    in_folder = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main(["predict", str(runs["category"]), *files, "--json"]) == 0
    alone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for one, other in zip(in_folder, alone, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_python_takes_files_and_arrays(runs: dict[str, Path], files: list[str]) -> None:
    model = sertune.load(runs["category"])
    samples, rate = soundfile.read(files[0], dtype="float32")
    by_file = model.predict(files[0])
    by_array = model.predict(samples, rate)
    assert by_array["probabilities"] == pytest.approx(by_file["probabilities"], abs=1e-6)
    stereo = np.stack([samples, samples], axis=1)
    assert model.predict(stereo)["probabilities"] == pytest.approx(by_file["probabilities"], abs=1e-5)
    several = model.predict([files[0], samples, files[1]])
    assert several[0] == by_file
    assert several[2] == model.predict(files[1])
    with pytest.raises(SertuneError, match="NaN"):
        model.predict(samples * np.float32("nan"))
    with pytest.raises(SertuneError, match="too short"):
        model.predict(samples[:100])


def test_a_longer_file_is_no_error(runs: dict[str, Path], files: list[str], tmp_path: Path) -> None:
    samples, rate = soundfile.read(files[0], dtype="float32")
    soundfile.write(tmp_path / "long.wav", np.tile(samples, 20), rate)
    assert len(samples) * 20 / rate > 20
    assert (
        sertune.load(runs["category"]).predict(tmp_path / "long.wav")["label"] in sertune.load(runs["category"]).labels
    )


def test_evaluate_says_when_the_data_is_not_new(
    runs: dict[str, Path], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(runs["category"]), "--data", f"synthetic:{corpus}", "--out", str(tmp_path / "seen")]
    assert main(command) == 0
    report = json.loads((tmp_path / "seen" / "report.json").read_text())
    assert any("were in the model's training or dev part" in warning for warning in report["warnings"])
    assert report["protocol"]["speaker_independent"] is False
    assert "UAR" in capsys.readouterr().out
    assert (tmp_path / "seen" / "report.html").is_file()


def test_evaluate_on_new_data_gives_the_figures_of_the_run(runs: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    """The official test part, evaluated by itself, scores what the run reported for it."""
    from sertune.corpora.synthetic import read

    manifest = read(corpus)
    test = manifest.select((manifest.utterances["partition"] == "test").to_numpy())
    test.to_csv(tmp_path / "test.csv")
    for target, metric in (("category", "uar"), ("dimension", "ccc_arousal")):
        out = tmp_path / target
        assert main(["evaluate", str(runs[target]), "--data", str(tmp_path / "test.csv"), "--out", str(out)]) == 0
        report, run = (json.loads((folder / "report.json").read_text()) for folder in (out, runs[target]))
        assert report["metrics"][metric]["value"] == pytest.approx(run["metrics"][metric]["value"], abs=1e-4)
        assert not any("no test" in warning for warning in report["warnings"])


def test_a_random_split_is_flagged(corpus: Path, tmp_path: Path) -> None:
    config = {
        "encoder": "builtin:random",
        "data": [f"synthetic:{corpus}"],
        "split": "random",
        "method": "frozen",
        "out": str(tmp_path / "run"),
    }
    run = sertune.run(from_dict(config))
    report = json.loads((run / "report.json").read_text())
    assert report["protocol"]["speaker_independent"] is False
    assert any("speaker" in warning for warning in report["warnings"])


def test_check_lists_what_is_wrong(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"synthetic:{corpus}"]) == 0
    assert "nothing wrong was found" in capsys.readouterr().out
    (tmp_path / "empty.wav").touch()
    (tmp_path / "table.csv").write_text("file,label,speaker\nempty.wav,anger,a\nmissing.wav,sadness,b\n")
    assert main(["check", str(tmp_path / "table.csv")]) == 1
    out = capsys.readouterr().out
    assert "empty.wav" in out
    assert "missing.wav" in out


def test_corpora_and_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpora"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("emodb", "iemocap", "msp_podcast", "ravdess"))
    assert main(["corpora", "emodb"]) == 0
    assert "emodb:FOLDER" in capsys.readouterr().out
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("train", "evaluate", "predict", "check", "corpora", "demo"))
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sertune {sertune.__version__}\n"


def test_printed_settings_are_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "a.csv", "--method", "full", "--print-config"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "run.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text
