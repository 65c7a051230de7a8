"""Predicting with annotators and distributions, on the command line and in Python."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

import sertune
from sertune.apps.annotators import find_rater, rater_rows, rater_table
from sertune.apps.predict import Predictor
from sertune.cli import main
from sertune.config import from_dict
from sertune.data.panel import write_rated_corpus
from sertune.errors import SertuneError
from sertune.train.run import train

RUNS: dict[str, dict[str, Any]] = {
    "rater": {"target": {"name": "rater", "dimensions": ["arousal", "valence"], "rater": {"min_ratings": 2}}},
    "labels": {"target": {"name": "rater", "rater": {"of": "category"}}},
    "joined": {"target": {"name": "category+rater"}},
    "votes": {"target": {"name": "distribution"}},
    "plane": {"target": {"name": "distribution", "distribution": {"of": "plane"}, "plane": {"grid": [2, 3]}}},
    "gaussian": {"target": {"name": "distribution", "distribution": {"of": "gaussian"}, "dimensions": ["dominance"]}},
    "dimension": {"target": {"name": "dimension"}},
}


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus with 6 annotators, and two more: "late" in the test part alone, "once" with one clip."""
    root = tmp_path_factory.mktemp("rated") / "corpus"
    write_rated_corpus(root, annotators=6, per_clip=(5, 6), speakers=4, sentences=2, per_emotion=1)
    clips = pd.read_csv(root / "utterances.csv")
    ratings = pd.read_csv(root / "ratings.csv")
    for name, part in (("late", "test"), ("once", "train")):
        clip = clips["id"][clips["partition"] == part].iloc[0]
        more = ratings[ratings["utterance"] == clip].drop_duplicates("attribute").assign(rater=name)
        ratings = pd.concat([ratings, more])
    ratings.to_csv(root / "ratings.csv", index=False)
    return root


@pytest.fixture(scope="module")
def runs(rated: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("runs")
    for name, changes in RUNS.items():
        partial = name in ("rater", "joined")
        values = {
            "encoder": "builtin:random",
            "data": [f"synthetic:{rated}"],
            "split": "official",
            "method": {"name": "partial" if partial else "frozen", "layers": 1},
            "train": {"epochs": 1, "batch_clips": 16, "lr": 1e-3},
            "audio": {"crop": 3.0},
            "head": {"regularisation": [0.1]},
            "baseline": False,
            "out": str(out / name),
            **changes,
        }
        train(from_dict(values))
    return {name: out / name for name in RUNS}


@pytest.fixture(scope="module")
def files(rated: Path) -> list[str]:
    """Three, of which the last one is cut into windows."""
    found = sorted(map(str, (rated / "wav").glob("*.wav")))[:3]
    samples, rate = soundfile.read(found[0])
    long = rated / "wav" / "sp01_long.wav"
    soundfile.write(long, np.concatenate([samples, soundfile.read(found[1])[0], samples]), rate)
    assert soundfile.info(long).duration > 3
    return [*found[:2], str(long)]


@pytest.fixture(scope="module")
def model(runs: dict[str, Path]) -> Predictor:
    return sertune.load(runs["rater"])


def table(folder: Path, text: str, name: str = "me.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["predict", *arguments]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    return shown.err


# ----------------------------------------------------------------------------------------------------
# What a prediction says


def test_opinions_have_a_spread_and_joined_targets_stand_side_by_side(
    runs: dict[str, Path], files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {
        "rater": {"arousal", "valence"},
        "labels": {"label", "probabilities"},
        "joined": {"label", "probabilities", "arousal", "valence", "dominance"},
        "votes": {"label", "probabilities"},
        "plane": {"arousal", "valence"},
        "gaussian": {"dominance"},
    }
    for name, keys in expected.items():
        assert main(["predict", str(runs[name]), files[0], "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert set(result) == {"file", *keys}
        for entry in (result[key] for key in keys - {"label", "probabilities"}):
            assert set(entry) == {"value", "spread", "scale"}
            assert 1 <= entry["value"] <= 5
            assert 0 < entry["spread"] < 4
        assert main(["predict", str(runs[name]), files[0]]) == 0
        line = capsys.readouterr().out
        assert line.startswith(f"{files[0]}: ")
        assert ("+-" in line) == (name not in ("labels", "votes"))
    assert sertune.load(runs["joined"]).labels == ("anger", "happiness", "neutral", "sadness")


@pytest.mark.parametrize(("name", "grid"), [("rater", (4, 4)), ("plane", (2, 3)), ("joined", (4, 4))])
def test_the_distribution_over_the_plane(
    runs: dict[str, Path], files: list[str], capsys: pytest.CaptureFixture[str], name: str, grid: tuple[int, int]
) -> None:
    assert main(["predict", str(runs[name]), files[1], "--distribution", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    plane = np.array(result["plane"])
    assert plane.shape == grid
    assert plane.sum() == pytest.approx(1)
    assert result["edges"] == {
        "arousal": pytest.approx(np.linspace(1, 5, grid[0] + 1)),
        "valence": pytest.approx(np.linspace(1, 5, grid[1] + 1)),
    }
    if name == "plane":  # its mean is the plane's own: arousal is the first axis
        centres = np.linspace(1, 5, 2 * grid[0] + 1)[1::2]
        assert plane.sum(axis=1) @ centres == pytest.approx(result["arousal"]["value"])
    assert main(["predict", str(runs[name]), files[1], "--distribution", "--csv"]) == 0
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    cells = [[float(row[f"plane_{i}_{j}"]) for j in range(grid[1])] for i in range(grid[0])]
    np.testing.assert_allclose(cells, plane, atol=1e-6)
    assert float(row["arousal_spread"]) == pytest.approx(result["arousal"]["spread"], abs=1e-6)
    assert main(["predict", str(runs[name]), files[1], "--distribution"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2
    assert f": {plane.max():.2f};" in shown[1]


def test_the_distribution_over_labels_are_the_probabilities(runs: dict[str, Path], files: list[str]) -> None:
    votes = sertune.load(runs["votes"])
    assert votes.predict(files[0], distribution=True) == votes.predict(files[0])


@pytest.mark.parametrize(
    ("name", "words"),
    [("dimension", "no distribution of opinions (target dimension)"), ("gaussian", "mean and spread, but no plane")],
)
def test_no_distribution_is_an_error(
    runs: dict[str, Path], files: list[str], capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    assert words in fails(capsys, str(runs[name]), files[0], "--distribution")


# ----------------------------------------------------------------------------------------------------
# Known annotators


def test_known_annotators_say_what_the_run_predicted_for_them(runs: dict[str, Path], rated: Path) -> None:
    """By another route: batches of several clips, the annotators in their slots."""
    saved = pd.read_parquet(next((runs["rater"] / "folds").glob("*/test_ratings.parquet")))
    saved = saved[saved["known"] & saved["rater"].str.startswith("p")]
    places = pd.read_csv(rated / "utterances.csv").set_index("id")["file"]
    model = sertune.load(runs["rater"])
    assert len(saved) > 10
    for row in saved.iloc[::7].to_dict("records"):
        result = model.predict(rated / places[row["utterance"]], rater=row["rater"])["raters"][row["rater"]]
        assert result[row["attribute"]]["value"] == pytest.approx(row["predicted"], abs=1e-4)


def test_a_clip_gives_the_same_numbers_by_every_route(
    model: Predictor, runs: dict[str, Path], files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--as-rater", "p02", "--as-rater", "p05", "--distribution"]
    assert main(["predict", str(runs["rater"]), *files, *flags, "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    together = model.predict(files, rater=["p02", "p05"], distribution=True)
    assert together == printed
    alone = model.predict(files[2], rater=["p02", "p05"], distribution=True)
    assert alone == printed[2]
    samples, rate = soundfile.read(files[2], dtype="float32")
    by_array = model.predict(samples, rate, rater="p05", distribution=True)
    assert by_array["raters"] == {"p05": alone["raters"]["p05"]}
    assert by_array["plane"] == alone["plane"]
    assert model.predict(files[2]) == {key: alone[key] for key in ("file", "arousal", "valence")}
    everybody = model.predict(files[2], rater=model.raters)["raters"]
    mean = np.mean([said["arousal"]["value"] for said in everybody.values()])
    assert mean == pytest.approx(alone["arousal"]["value"], abs=1e-4)
    assert main(["predict", str(runs["rater"]), *files, *flags, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert float(rows[2]["valence[p05]"]) == pytest.approx(alone["raters"]["p05"]["valence"]["value"], abs=1e-6)
    assert main(["predict", str(runs["rater"]), files[2], *flags[:4]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"  p02: arousal {alone['raters']['p02']['arousal']['value']:.2f} of 1..5, valence ")


def test_annotators_of_labels_have_a_distribution_each(
    runs: dict[str, Path], files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(runs["labels"]), files[0], "--as-rater", "p01", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["raters"]["p01"]
    assert sum(said["probabilities"].values()) == pytest.approx(1)
    assert said["label"] == max(said["probabilities"], key=said["probabilities"].get)
    assert main(["predict", str(runs["labels"]), files[0], "--as-rater", "p01", "--csv"]) == 0
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert row["label[p01]"] == said["label"]
    assert float(row["p_anger[p01]"]) == pytest.approx(said["probabilities"]["anger"], abs=1e-6)


def test_the_known_annotators_are_listed(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(runs["rater"]), "--raters", "--json"]) == 0
    rows = {row["rater"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {"late", "once", *(f"p{i:02d}" for i in range(1, 7))}
    assert rows["late"] == {"rater": "late", "ratings": 0, "met": False}
    assert (rows["once"]["ratings"], rows["once"]["met"]) == (1, False)
    assert set(rows["p01"]["bias"]) == {"arousal", "valence"}
    assert main(["predict", str(runs["rater"]), "--raters"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["annotator", "ratings", "arousal", "valence"]
    assert shown[1].split() == [
        "p01",
        str(rows["p01"]["ratings"]),
        *(f"{v:+.2f}" for v in rows["p01"]["bias"].values()),
    ]
    assert shown[-1].endswith("as the average annotator: 2 more.")
    labels = rater_rows(sertune.load(runs["labels"]).model)
    assert sum(labels[-1]["bias"].values()) == pytest.approx(0, abs=1e-6)
    assert len(rater_table(labels).splitlines()) > len(labels)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("p1", "unknown annotator 'p1'; did you mean 'p01'? (known: p01, p02, "),
        ("late", "annotator 'late' is not predicted: the model has learnt from none of its ratings"),
        ("once", "annotator 'once' is not predicted: it has 1 rating in the training part, fewer than the 2 of"),
        ("", "an annotator's name is empty; known are p01, p02"),
        ("gone.json", "gone.json: no such file, and no annotator of that name (known: p01"),
    ],
)
def test_other_annotators_are_an_error(
    runs: dict[str, Path], files: list[str], capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    assert words in fails(capsys, str(runs["rater"]), files[0], "--as-rater", name)


def test_what_does_not_go_together(
    model: Predictor, runs: dict[str, Path], files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(runs["rater"])
    assert "adapt corpus: is for the mean" in fails(capsys, run, *files, "--adapt", "corpus", "--as-rater", "p01")
    assert "'p01' is asked for twice" in fails(capsys, run, files[0], "--as-rater", "p01", "--as-rater", "p01")
    assert "required: files" in fails(capsys, run)
    assert "--like, which is missing" in fails(capsys, run, files[0], "--save-rater", "me.json")
    no_raters = "predicts no single annotators (target dimension); train one with --target rater"
    for flags in (["--as-rater", "p01"], ["--raters"], ["--like", "me.csv"]):
        assert no_raters in fails(capsys, str(runs["dimension"]), files[0], *flags)
    other = find_rater(sertune.load(runs["joined"]).model, "p01")
    with pytest.raises(SertuneError, match="'p01' belongs to another model"):
        model.predict(files[0], rater=other)
    assert sertune.load(runs["dimension"]).raters == ()


def test_adapted_predictions_have_spread_and_distribution(
    model: Predictor, runs: dict[str, Path], files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(runs["rater"]), *files, "--adapt", "corpus", "--distribution", "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(sum(map(sum, result["plane"])) == pytest.approx(1) for result in printed)
    assert model.predict(files, adapt="corpus", distribution=True) == printed
    assert printed[0]["arousal"] != model.predict(files[0])["arousal"]


# ----------------------------------------------------------------------------------------------------
# New annotators


def test_a_new_annotator_by_a_table_by_python_and_from_a_file(
    model: Predictor,
    runs: dict[str, Path],
    rated: Path,
    files: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = "".join(f"wav/{Path(file).name};{4.5 - k};{'1,5' if k else ''}\n" for k, file in enumerate(files))
    like = table(rated, f"file;Activation;valence\n{rows}", "me.csv")
    keep = tmp_path / "kept" / "me.json"
    flags = ["--like", like, "--save-rater", str(keep), "--json"]
    assert main(["predict", str(runs["rater"]), files[0], *flags]) == 0
    shown = capsys.readouterr()
    said = json.loads(shown.out)["raters"]
    assert list(said) == ["me"]
    first, second = shown.err.splitlines()[:2]
    assert first.startswith("me: 3 clips rated; nearest annotators: p0")
    assert second.startswith("me: leave-one-out error (root mean square, on the own scale): fitted arousal ")
    assert "nearest arousal" in second
    assert "average arousal" in second
    fitted = model.fit_rater(files, {"arousal": [4.5, 3.5, 2.5], "valence": [np.nan, 1.5, 1.5]}, name="me")
    assert model.predict(files[0], rater=fitted)["raters"] == said
    assert main(["predict", str(runs["rater"]), files[0], "--as-rater", str(keep), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["raters"] == said
    assert model.predict(files[0], rater=str(keep))["raters"] == said
    assert main(["predict", str(runs["rater"]), "--like", like]) == 0  # only to see who is near
    capsys.readouterr()
    assert "belongs to another model" in fails(capsys, str(runs["joined"]), files[0], "--as-rater", str(keep))
    keep.write_text("[]")
    assert "not a file of a new annotator" in fails(capsys, str(runs["rater"]), files[0], "--as-rater", str(keep))


def test_a_new_annotator_of_labels(
    runs: dict[str, Path], rated: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"wav/{Path(file).name},Wut\n" for file in files)
    like = table(rated, f"file,label\n{rows}", "angry.csv")
    assert main(["predict", str(runs["labels"]), files[0], "--like", like, "--json"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["raters"]["angry"]["probabilities"]["anger"] > result["probabilities"]["anger"]
    assert "angry: leave-one-out error: fitted wrong " in shown.err
    model = sertune.load(runs["labels"])
    fitted = model.fit_rater(files, ["anger"] * 3, name="angry")
    assert model.predict(files[0], rater=fitted)["raters"] == result["raters"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the table is empty"),
        ("file,arousal\n", "no ratings, the table has no rows"),
        ("file,arousal\nFILE,\n", "no ratings, all rows of arousal, valence are empty"),
        ("file,arousal\nFILE,3\nFILE2,6\n", "has arousal 6.0, outside the scale 1 to 5"),
        ("file,arousal\nFILE,-300\n", "has arousal -300.0, outside the scale 1 to 5"),
        ("file,arousal\nFILE,3\nFILE2,much\n", "row 2: expected a number, found 'much'"),
        ("file,arousal\nFILE,3\ngone.wav,2\n", "me.csv, row 2: "),
        ("file,arousal\nFILE,3\nFILE,2\n", "row 2: the same file and segment as row 1"),
        ("file,emotion\nFILE,anger\n", "no column arousal or valence, which the model's annotators give"),
        ("arousal\n3\n", "no column 'file'"),
    ],
)
def test_a_bad_table_of_ratings_is_one_line(
    runs: dict[str, Path], files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    like = table(tmp_path, text.replace("FILE2", files[1]).replace("FILE", files[0]))
    shown = fails(capsys, str(runs["rater"]), files[0], "--like", like)
    assert words in shown
    assert ("outside" not in words) or f"me.csv, row {text.count('FILE')} (" in shown


def test_a_label_that_the_model_lacks_is_an_error(
    runs: dict[str, Path], files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    like = table(tmp_path, f"file,emotion\n{files[0]},anger\n{files[1]},envy\n")
    shown = fails(capsys, str(runs["labels"]), "--like", like)
    assert "me.csv, row 2 (" in shown
    assert "has emotion 'envy', not one of the labels anger, happiness" in shown
    assert "no such file" in fails(capsys, str(runs["labels"]), "--like", str(tmp_path / "gone.csv"))


def test_bad_ratings_in_python(model: Predictor, runs: dict[str, Path], files: list[str]) -> None:
    with pytest.raises(SertuneError, match="clip 2 has valence 9, outside the scale 1 to 5"):
        model.fit_rater(files[:2], {"valence": [3, 9]})
    with pytest.raises(SertuneError, match="unknown dimension 'arousel'; did you mean 'arousal'"):
        model.fit_rater(files[:2], {"arousel": [3, 3]})
    with pytest.raises(SertuneError, match="1 ratings of arousal for 2 clips"):
        model.fit_rater(files[:2], {"arousal": [3]})
    with pytest.raises(SertuneError, match="clip 1 has no rating"):
        model.fit_rater(files[:2], {"arousal": [np.nan, 3]})
    with pytest.raises(SertuneError, match="expected values of arousal, valence by name"):
        model.fit_rater(files[:2], ["anger", "anger"])
    with pytest.raises(SertuneError, match="nothing to fit"):
        model.fit_rater([], {"arousal": []})
    labels = sertune.load(runs["labels"])
    with pytest.raises(SertuneError, match="unknown label 'envy'"):
        labels.fit_rater(files[:1], ["envy"])
    with pytest.raises(SertuneError, match="expected a list of labels"):
        labels.fit_rater(files[:1], {"arousal": [3]})
