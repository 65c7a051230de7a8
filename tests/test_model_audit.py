"""``sertune audit``: the report as a whole, its sample, its groups, and what is refused."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sertune.apps import audit as app
from sertune.cli import main
from sertune.corpora import read_all
from sertune.data.distort import CONDITIONS, Condition
from sertune.errors import SertuneError
from sertune.metrics import fairness
from sertune.model.emotion_model import load_model

FEW = ("white-5", "telephone", "quiet-20", "silence-after")


@pytest.fixture(scope="module")
def ratings_run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("ratings") / "run"
    flags = ["--method", "frozen", "--baseline", "false", "--target", "dimension", "--out", str(run)]
    assert main(["train", "--encoder", "builtin:random", "--data", f"synthetic:{tiny_corpus}", *flags]) == 0
    return run


@pytest.fixture(scope="module")
def plane_run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("plane") / "run"
    flags = ["--target", "distribution", "--target.distribution.of", "plane", "--out", str(run)]
    assert (
        main(
            [
                "train",
                "--encoder",
                "builtin:random",
                "--data",
                f"synthetic:{tiny_corpus}",
                "--method",
                "frozen",
                "--baseline",
                "false",
                *flags,
            ]
        )
        == 0
    )
    return run


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups and classes of the tiny corpus count."""
    monkeypatch.setattr(fairness, "MIN_CLIPS", 4)
    monkeypatch.setattr(fairness, "MIN_PER_CLASS", 1)


@pytest.fixture
def table(tiny_corpus: Path, tmp_path: Path) -> pd.DataFrame:
    """The tiny corpus as a user's table, with columns of his own."""
    frame = pd.read_csv(tiny_corpus / "utterances.csv")
    frame["file"] = [str(tiny_corpus / file) for file in frame["file"]]
    frame["age"] = np.where(frame["speaker"] == frame["speaker"].iloc[0], 25, 52)
    frame["accent"] = np.where(np.arange(len(frame)) % 2, "north", "south")
    frame["loudness"] = np.linspace(40, 80, len(frame))
    frame["country"] = "here"
    return frame


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def audit(run: Path, data: object, out: Path, *flags: object, conditions: Sequence[str] = FEW) -> dict[str, Any]:
    assert main(["audit", *map(str, (run, "--data", data, "--out", out, "--conditions", *conditions, *flags))]) == 0
    return report_of(out)


def test_the_report_of_categories(
    tiny_run: Path, tiny_corpus: Path, tmp_path: Path, small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    report = audit(tiny_run, f"synthetic:{tiny_corpus}", tmp_path / "out")
    said = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "predictions.parquet",
        "report.html",
        "report.json",
    ]
    (column,) = report["fairness"]["columns"]
    assert column["column"] == "gender"
    assert {group["name"] for group in column["groups"]} == {"female", "male"}
    # 2 + 2 speakers can be dealt out in three ways
    assert {g["verdict"] for g in column["gaps"]} == {fairness.NO_VERDICT}
    assert "only 3 ways" in column["obstacle"]
    assert {g["statistic"] for g in column["gaps"]} == set(report["fairness"]["formulas"])
    assert [row["name"] for row in report["robustness"]["conditions"]] == [c.name for c in CONDITIONS if c.name in FEW]
    for row in report["robustness"]["conditions"]:
        assert (row["clips"], row["failed"]) == (16, 0)
        assert 0 <= row["changed"] <= 1
        difference = row["differences"]["uar"]
        assert difference["value"] == pytest.approx(row["metrics"]["uar"] - report["metrics"]["uar"]["value"])
        assert difference["low"] <= difference["value"] <= difference["high"]
        assert difference["p"] <= difference["p_corrected"] <= 1
    assert any("were in the model's training or dev part" in warning for warning in report["warnings"])
    assert said.startswith("Gender: no verdict; 2 and 2 speakers can be dealt")
    assert "Robustness:" in said
    assert len(said.splitlines()) < 30

    clips = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert len(clips) == 16
    assert {"true", "predicted", "gender", "p_anger"} <= set(clips.columns)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for outside in ("http:", "https:", "<script", "src=", "@import"):
        assert outside not in page
    assert "P(ŷ=c | y=c, g)" in page
    assert "300 to 3400 Hz" in page


def test_it_is_the_same_again_and_clean_figures_are_those_of_evaluate(
    tiny_run: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    data = f"synthetic:{tiny_corpus}"
    first, second = (audit(tiny_run, data, tmp_path / name, conditions=["babble-5"]) for name in "ab")
    for key in ("metrics", "fairness", "robustness"):
        assert first[key] == second[key]
    assert main(["evaluate", str(tiny_run), "--data", data, "--out", str(tmp_path / "scores")]) == 0
    assert first["metrics"] == report_of(tmp_path / "scores")["metrics"]


def test_the_report_of_dimensions(
    ratings_run: Path, tiny_corpus: Path, tmp_path: Path, small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    report = audit(ratings_run, f"synthetic:{tiny_corpus}", tmp_path / "out", conditions=FEW[:2])
    (column,) = report["fairness"]["columns"]
    assert {(g["statistic"], g["class"]) for g in column["gaps"]} == {
        (s, d) for s in ("ccc", "rmse", "bias") for d in ("arousal", "valence", "dominance")
    }
    for row in report["robustness"]["conditions"]:
        for name, shift in row["shift"].items():
            low, high = report["task"]["scales"][name]
            assert row["shift_share"][name] == pytest.approx(shift / (high - low))
        assert set(row["differences"]) == {"ccc_arousal", "ccc_valence", "ccc_dominance"}
    assert "CCC arousal" in capsys.readouterr().out
    assert "Mean change (arousal, valence, dominance)" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_columns_of_ones_own(
    tiny_run: Path, table: pd.DataFrame, tmp_path: Path, small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    table.to_csv(tmp_path / "mine.csv", index=False)
    flags = ["--groups", "age", "accent", "loudness"]
    report = audit(tiny_run, tmp_path / "mine.csv", tmp_path / "out", *flags, conditions=["quiet-10"])
    age, accent, loudness = report["fairness"]["columns"]
    assert [group["name"] for group in age["groups"]] == ["18 to 29", "45 to 59"]
    assert age["bands"] == "age bands"
    assert accent["unit"] == fairness.WITHIN
    assert len(loudness["groups"]) == 3
    assert loudness["bands"] == "thirds"
    clips = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert clips["age"].value_counts().to_dict() == {"18 to 29": 4, "45 to 59": 12}
    assert report["fairness"]["comparisons"] == sum(
        g["p"] is not None for column in (age, accent, loudness) for g in column["gaps"]
    )
    assert capsys.readouterr().out


def test_without_groups_it_says_so(tiny_run: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    table.drop(columns=["gender", "age"]).to_csv(tmp_path / "mine.csv", index=False)
    report = audit(tiny_run, tmp_path / "mine.csv", tmp_path / "out", conditions=["quiet-10"])
    assert report["fairness"]["columns"] == []
    assert "name other columns with --groups" in report["fairness"]["left_out"][0]["reason"]
    assert report["fairness"]["comparisons"] == 0


def test_small_groups_are_left_out_by_default_and_shown_on_request(
    tiny_run: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    data = f"synthetic:{tiny_corpus}"
    report = audit(tiny_run, data, tmp_path / "a", conditions=["quiet-10"])
    assert report["fairness"]["columns"] == []
    assert report["fairness"]["left_out"][0]["column"] == "gender"
    report = audit(tiny_run, data, tmp_path / "b", "--groups", "gender", conditions=["quiet-10"])
    (column,) = report["fairness"]["columns"]
    assert [group["why_not"] for group in column["groups"]] == ["only 8 clips"] * 2
    assert column["gaps"] == []
    assert all(group["scores"]["uar"]["value"] is not None for group in column["groups"])


def test_a_sample_takes_every_label_and_is_said(tiny_run: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    data = f"synthetic:{tiny_corpus}"
    report = audit(tiny_run, data, tmp_path / "out", "--clips", "8", conditions=["quiet-10"])
    assert (report["robustness"]["clips"], report["robustness"]["of"]) == (8, 16)
    assert report["robustness"]["sampled"]
    assert "8 of 16 clips, drawn evenly" in (tmp_path / "out" / "report.html").read_text("utf-8")
    model, manifest = load_model(tiny_run), read_all([data], {})
    taken = manifest.utterances.iloc[app._sample(manifest, model, 8, seed=1)]
    assert taken["emotion"].value_counts().to_dict() == dict.fromkeys(taken["emotion"].unique(), 2)
    assert taken["emotion"].nunique() == 4


def test_what_changes_nothing_changes_nothing_and_the_rest_is_counted(
    tiny_run: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> Any:
        raise SertuneError("libsndfile here can't write WAX")

    def alternately_short(samples: Any, rate: int, seed: int) -> Any:
        return samples[:10] if samples[0] > 0 and len(samples) != rate else samples

    own = [
        Condition("same", "a", "nothing", lambda samples, rate, seed: samples),
        Condition("short", "a", "some cut to nothing", alternately_short),
        Condition("wax", "b", "a wax cylinder", never),
    ]
    monkeypatch.setattr(app, "find_conditions", lambda names: own)
    model, manifest = load_model(tiny_run), read_all([f"synthetic:{tiny_corpus}"], {})
    report = report_of(app.audit(model, manifest, tmp_path / "out"))
    same, short = report["robustness"]["conditions"]
    assert same["changed"] == 0
    assert same["differences"]["uar"] | {"p": 1.0} == {"value": 0, "low": 0, "high": 0, "p": 1.0, "p_corrected": 1.0}
    assert short["failed"] > 0
    assert short["clips"] + short["failed"] == 16
    assert report["robustness"]["skipped"] == [{"name": "wax", "reason": "libsndfile here can't write WAX"}]
    assert "wax: libsndfile here" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_a_real_drop_survives_the_correction(
    tiny_run: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    same = [Condition(f"same-{i}", "a", "nothing", lambda x, rate, seed: x) for i in range(4)]
    drowned = Condition("drowned", "b", "the same noise for all", lambda x, rate, seed: noise)
    monkeypatch.setattr(app, "find_conditions", lambda names: [*same, drowned])
    model, manifest = load_model(tiny_run), read_all([f"synthetic:{tiny_corpus}"], {})
    report = report_of(app.audit(model, manifest, tmp_path / "out"))
    *others, worst = report["robustness"]["conditions"]
    assert worst["metrics"]["uar"] == pytest.approx(0.25)
    assert worst["differences"]["uar"]["p_corrected"] <= 0.05
    assert {row["differences"]["uar"]["p_corrected"] for row in others} == {1.0}
    assert report["robustness"]["comparisons"] == 5


def test_bad_files(tiny_run: Path, table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.wav").write_bytes(b"")
    table.loc[3, "file"] = str(tmp_path / "bad.wav")
    table.to_csv(tmp_path / "mine.csv", index=False)
    arguments = ["audit", str(tiny_run), "--data", str(tmp_path / "mine.csv"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--conditions", "quiet-10"]) == 1
    assert "bad.wav: empty file (0 bytes) (--skip-bad goes on without it)" in capsys.readouterr().err
    report = audit(tiny_run, tmp_path / "mine.csv", tmp_path / "out", "--skip-bad", conditions=["quiet-10"])
    assert len(report["skipped"]) == 1
    assert report["data"]["utterances"] == report["robustness"]["clips"] == 15


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--groups gendr", "unknown column of synthetic 'gendr'; did you mean 'gender'?"),
        ("--groups country", "unknown column of synthetic 'country'"),
        ("--groups text id", "unknown column of synthetic 'id'"),
        ("--groups", "argument --groups: expected at least one argument"),
        ("--conditions telefone", "unknown condition 'telefone'; did you mean 'telephone'?"),
        ("--clips 0", "--clips 0: expected 1 or more"),
        ("--clips many", "argument --clips: invalid int value: 'many'"),
        ("--condition room", "unknown flag --condition; did you mean --conditions?"),
    ],
)
def test_what_is_refused(
    tiny_run: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, words: str
) -> None:
    arguments = ["audit", str(tiny_run), "--data", f"synthetic:{tiny_corpus}", "--out", str(tmp_path / "out")]
    assert main([*arguments, *flags.split()]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("sertune: ")
    assert words in line
    assert not list(tmp_path.iterdir())


def test_data_that_can_not_be_compared(
    tiny_run: Path,
    table: pd.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table["own"] = [f"x{i}" for i in range(len(table))]
    monkeypatch.setattr(app, "MOST_GROUPS", 8)
    table.to_csv(tmp_path / "mine.csv", index=False)
    table.assign(emotion="boredom").to_csv(tmp_path / "bored.csv", index=False)
    shutil.copytree(tmp_path, tmp_path / "taken")
    for data, out, flags, words in (
        ("mine.csv", "out", ["--groups", "country"], "--groups country: mine has only one group, here; two are needed"),
        ("mine.csv", "out", ["--groups", "own"], "--groups own: mine has 16 groups, expected at most 8"),
        ("mine.csv", "out", ["--groups", "file"], "unknown column of mine 'file'"),
        ("bored.csv", "out", [], "no clip has a label of the model"),
        ("mine.csv", "taken", [], "already there; choose another --out"),
    ):
        arguments = ["audit", str(tiny_run), "--data", str(tmp_path / data), "--out", str(tmp_path / out), *flags]
        assert main(arguments) == 1
        assert words in capsys.readouterr().err


def test_corrected_p_are_holms() -> None:
    entries: list[dict[str, Any]] = [{"p": p} for p in (0.04, 0.01, 0.03, 0.5)]
    app._holm(entries)
    assert [entry["p_corrected"] for entry in entries] == pytest.approx([0.09, 0.04, 0.09, 0.5])


def test_a_distribution_is_worse_where_its_distance_rises(
    plane_run: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = f"synthetic:{tiny_corpus}"
    report = audit(plane_run, data, tmp_path / "out", conditions=["white-5"])
    (row,) = report["robustness"]["conditions"]
    assert list(row["differences"]) == ["ccc_arousal", "ccc_valence", "tvd"]
    clean = report["metrics"]["tvd"]["value"]
    assert row["differences"]["tvd"]["value"] == pytest.approx(row["metrics"]["tvd"] - clean)
    assert "TVD" in capsys.readouterr().out.upper()
    rise, fall = ({"value": value, "p_corrected": 0.01} for value in (0.2, -0.2))
    assert [app._is_drop("tvd", rise), app._is_drop("tvd", fall)] == [True, False]
    assert [app._is_drop("uar", rise), app._is_drop("uar", fall)] == [False, True]
