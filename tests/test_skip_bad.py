"""--skip-bad goes on without the files that can't be used, and says which and why."""

import json
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from bad_audio import BAD, noise, write
from sertune.cli import main


@pytest.fixture
def mixed(tiny_corpus: Path, tmp_path: Path) -> Path:
    """A table of the tiny corpus with one of each bad file between its clips, and its folder of bad files."""
    frame = pd.read_csv(tiny_corpus / "utterances.csv")[["file", "speaker", "emotion"]]
    frame = frame.assign(file=[str(tiny_corpus / file) for file in frame["file"]])
    folder = tmp_path / "schlechte Dateien"
    folder.mkdir()
    for name, (make, _) in BAD.items():
        make(folder / name)
    bad = pd.DataFrame({"file": [f"{folder.name}/{name}" for name in BAD], "speaker": "sp01", "emotion": "anger"})
    pd.concat([frame[:5], bad, frame[5:]]).to_csv(tmp_path / "mixed.csv", index=False)
    return tmp_path


def same_reasons(skipped: list[dict[str, str]], folder: Path, names: list[str]) -> None:
    """Each file once, in order, with its own reason."""
    assert [entry["file"] for entry in skipped] == [str(folder / "schlechte Dateien" / name) for name in names]
    for entry, name in zip(skipped, names, strict=True):
        assert BAD[name][1] in entry["reason"]


def test_training_goes_on_without_bad_files(mixed: Path, tiny_run: Path) -> None:
    flags = ["--method", "frozen", "--baseline", "false", "--out", str(mixed / "run"), "--skip-bad"]
    assert main(["train", "--encoder", "builtin:random", "--data", str(mixed / "mixed.csv"), *flags]) == 0
    report = json.loads((mixed / "run" / "report.json").read_text())
    same_reasons(report["skipped"], mixed, list(BAD))
    assert report["data"]["utterances"] == 16
    clean = json.loads((tiny_run / "report.json").read_text())
    assert report["metrics"] == clean["metrics"]  # what is left is the tiny corpus
    page = (mixed / "run" / "report.html").read_text()
    assert all(name in page for name in BAD)


def test_evaluation_goes_on_without_bad_files(mixed: Path, tiny_run: Path, tiny_corpus: Path) -> None:
    out = mixed / "scores"
    command = ["evaluate", str(tiny_run), "--data", str(mixed / "mixed.csv"), "--out", str(out), "--skip-bad"]
    assert main(command) == 0
    report = json.loads((out / "report.json").read_text())
    same_reasons(report["skipped"], mixed, list(BAD))
    scored = pd.read_parquet(out / "predictions.parquet")
    assert len(scored) == 16
    assert not scored["file"].str.contains("schlechte").any()


def test_prediction_goes_on_without_bad_files(
    mixed: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mixed)
    write(mixed / "schlechte Dateien" / "gut.wav", noise(16000))
    assert main(["predict", str(tiny_run), "schlechte Dateien", "--skip-bad", "--json"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {Path(result["file"]).name: result for result in results}
    assert set(found) == set(BAD) - {"gone.wav", "a folder.wav"} | {"gut.wav"}
    assert sum(found["gut.wav"]["probabilities"].values()) == pytest.approx(1)
    for name in set(found) - {"gut.wav"}:
        assert set(found[name]) == {"file", "error"}
        assert BAD[name][1] in found[name]["error"]
    assert main(["predict", str(tiny_run), "schlechte Dateien", "--skip-bad", "--csv"]) == 0
    rows = pd.read_csv(StringIO(capsys.readouterr().out)).set_index("file")
    assert list(rows.columns) == ["label", "p_anger", "p_happiness", "p_neutral", "p_sadness", "error"]
    assert rows["error"].notna().sum() == len(found) - 1
    assert rows.loc["schlechte Dateien/gut.wav", "label"] == found["gut.wav"]["label"]


def test_check_names_every_bad_file(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(mixed / "mixed.csv"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    errors = [Path(p["file"]).name for p in found["problems"] if p["severity"] == "error"]
    assert errors == [name for name in BAD if name != "huge.wav"]  # its samples are numbers; what they do, a model says
    assert found["summary"]["usable"] == 17
    assert main(["check", str(mixed / "mixed.csv")]) == 1
    page = capsys.readouterr().out
    assert f"error: {mixed / 'schlechte Dateien' / 'empty.wav'} (row 6): empty file (0 bytes)" in page


@pytest.mark.parametrize(
    ("lost", "words"),
    [("all", "none of the 16 files can be used; the first: "), ("anger", "it has nothing to learn anger from")],
)
def test_too_few_left_is_an_error(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str, words: str
) -> None:
    frame = pd.read_csv(tiny_corpus / "utterances.csv")[["file", "speaker", "emotion"]]
    gone = (frame["emotion"] == lost) | (lost == "all")
    names = [f"gone/{file}" if bad else str(tiny_corpus / file) for file, bad in zip(frame["file"], gone, strict=True)]
    frame.assign(file=names).to_csv(tmp_path / "t.csv", index=False)
    flags = ["--method", "frozen", "--baseline", "false", "--out", str(tmp_path / "run"), "--skip-bad"]
    assert main(["train", "--encoder", "builtin:random", "--data", str(tmp_path / "t.csv"), *flags]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_nothing_to_predict_is_an_error(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    assert main(["predict", str(tiny_run), str(tmp_path), "--skip-bad"]) == 1
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path / 'a.wav'}: not predicted: empty file (0 bytes)\n"
    assert shown.err == "sertune: none of the 1 files can be used\n"


def test_half_a_corpus(tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv(tiny_corpus / "utterances.csv")
    table["file"] = [str(tiny_corpus / f) if i % 2 else f"/half/{i}.wav" for i, f in enumerate(table["file"])]
    table[["file", "emotion", "speaker"]].to_csv(tmp_path / "half.csv", index=False)
    assert (
        main(
            [
                "train",
                "--encoder",
                "builtin:random",
                "--data",
                str(tmp_path / "half.csv"),
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 1
    )
    said = capsys.readouterr().err
    assert "half: 8 of 16 audio files are not there, the first: /half/0.wav; is the copy complete?" in said
    assert not (tmp_path / "run").exists()


def test_what_many_files_share_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{i}.wav,anger,s{i % 3}" for i in range(40)]
    (tmp_path / "gone.csv").write_text("\n".join(["file,emotion,speaker", *rows]))
    assert main(["check", str(tmp_path / "gone.csv")]) == 1
    said = capsys.readouterr().out
    assert said.count("no such file") == 6
    assert "error: no such file: 35 more files (--json lists all)" in said
    assert main(["check", str(tmp_path / "gone.csv"), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 40
