"""`sertune compare`: the plan, what is run again and what is not, the figures and the report."""

import csv
import json
import re
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sertune
from sertune.apps.compare import LogAxis, headline, place_labels, show, text_table, write_comparison
from sertune.apps.report import Axis, Mark, Plot
from sertune.cli import main
from sertune.config import RunConfig, from_dict
from sertune.errors import SertuneError
from sertune.metrics.intervals import category_intervals, dimension_intervals, paired_difference
from sertune.metrics.repeated import Predicted, category_draws, dimension_draws, mean_of
from sertune.train.compare import (
    CHILD,
    Comparison,
    open_comparison,
    read_variant,
    run_all,
    run_in_child,
    same_settings,
)

METHODS = ("frozen", "partial-1@live", "full")
SEEDS = (0, 1)


def base(corpus: Path, out: Path, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "encoder": "builtin:random",
        "data": [f"synthetic:{corpus}"],
        "split": "official",
        "train": {"epochs": 2, "batch_clips": 8, "average": 0.5},
        "head": {"regularisation": [0.1]},
        "precision": "fp32",
        "out": str(out),
    }
    return from_dict({**values, **changes})


def run_here(config: RunConfig) -> None:
    """A run in this process, which spares the start of another."""
    sertune.run(config)


@pytest.fixture(scope="module")
def finished(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, dict[str, Any]]:
    comparison = open_comparison(base(tiny_corpus, tmp_path_factory.mktemp("compare") / "out"), METHODS, SEEDS)
    assert run_all(comparison, run_here) == []
    return comparison, write_comparison(comparison.folder)


def made(comparison: Comparison) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in sorted(comparison.folder.glob("runs/*/*/report.json"))}


# Methods


def test_a_method_is_a_name_with_layers_and_suffixes() -> None:
    config = from_dict({"data": ["a.csv"], "method": {"layers": 3, "lora": {"rank": 4}}, "precision": "fp32"})
    lora = read_variant("lora+prompt-all@bf16@live", config)
    assert lora.label == "lora+prompt-all@live@bf16"  # one label, whatever the order
    assert (lora.config.method.name, lora.config.method.layers, lora.config.method.lora.rank) == (
        "lora+prompt",
        "all",
        4,
    )
    assert (lora.config.precision, lora.config.cache.states) == ("bf16", False)
    assert read_variant("partial", config).label == "partial-3"
    assert read_variant("full", config).config == replace(config, method=replace(config.method, name="full"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("partail-2", r"unknown method .*'partail'; did you mean 'partial'"),
        ("lora+promt-2", "'promt'; did you mean 'prompt'"),
        ("partial-two", "unknown method"),
        ("partial-0", "method.layers = 0"),
        ("full-2", "full takes no number of layers"),
        ("frozen+lora", "frozen alone"),
        ("partial-2@cahced", "unknown suffix .*'cahced'; did you mean 'cached'"),
        ("partial-2@cached@live", "exclude each other"),
        ("full@fp32@bf16", "exclude each other"),
        ("", "unknown method"),
    ],
)
def test_a_method_that_makes_no_sense_is_an_error_that_names_it(spec: str, message: str) -> None:
    with pytest.raises(SertuneError, match=message) as error:
        read_variant(spec, RunConfig(data=["a.csv"]))
    assert "\n" not in str(error.value)


def test_two_names_for_the_same_settings_are_said(tmp_path: Path, tiny_corpus: Path) -> None:
    same = open_comparison(base(tiny_corpus, tmp_path / "a"), ["partial-2", "partial-2@cached"])
    assert len(same_settings(same)) == 1
    apart = open_comparison(base(tiny_corpus, tmp_path / "b"), ["partial-2@live", "partial-2@cached"])
    assert same_settings(apart) == []


# Running


def test_what_is_finished_is_not_run_again(finished: tuple[Comparison, dict[str, Any]]) -> None:
    comparison, _ = finished
    before = made(comparison)
    assert len(before) == len(METHODS) * len(SEEDS)

    def never(config: RunConfig) -> None:
        raise AssertionError(config.out)

    assert run_all(open_comparison(comparison.base, METHODS, SEEDS), never) == []
    assert made(comparison) == before


def test_a_comparison_goes_on_after_a_kill_and_takes_more_methods_and_seeds(tiny_corpus: Path, tmp_path: Path) -> None:
    config = base(tiny_corpus, tmp_path / "out")
    started: list[tuple[str, int]] = []

    def run_two(config: RunConfig) -> None:
        if len(started) == 2:
            raise KeyboardInterrupt
        started.append((config.method.label, config.seed))
        run_here(config)

    first = open_comparison(config, ["frozen", "bias-1"], [0, 1])
    with pytest.raises(KeyboardInterrupt):
        run_all(first, run_two)
    before = made(first)
    assert started == [("frozen", 0), ("bias-1", 0)]
    started.clear()

    def note(config: RunConfig) -> None:
        started.append((config.method.label, config.seed))
        run_here(config)

    more = open_comparison(config, ["frozen", "bias-1", "partial-1"], [0, 1])
    assert run_all(more, note) == []
    assert started == [("partial-1", 0), ("frozen", 1), ("bias-1", 1), ("partial-1", 1)]
    assert {file: made(more)[file] for file in before} == before
    report = write_comparison(more.folder)
    assert [method["label"] for method in report["methods"]] == ["frozen", "bias-1", "partial-1"]
    assert report["reference"] in ("bias-1", "partial-1")  # the slowest, as full is not there
    assert "slowest" in report["reference_why"]
    # fewer methods: the table has what was named, and nothing is lost
    fewer = open_comparison(config, ["partial-1"], [1])
    assert [m["label"] for m in write_comparison(fewer.folder)["methods"]] == ["partial-1"]
    assert len(made(fewer)) == 6


def test_the_frozen_baseline_is_scored_once_for_each_seed(finished: tuple[Comparison, dict[str, Any]]) -> None:
    comparison, report = finished
    assert report["baseline"]["scored_in"] == ["frozen", "frozen"]
    for label in METHODS:
        run = json.loads((comparison.run_folder(label, 1) / "report.json").read_text())
        assert bool(run["baseline"]) is (label == "frozen")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"epochs": 3}}, "train.epochs = 2, not 3"),
        ({"split": "kfold"}, "split.name = 'official', not 'kfold'"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    finished: tuple[Comparison, dict[str, Any]], tiny_corpus: Path, change: dict[str, Any], message: str
) -> None:
    comparison, _ = finished
    values = {"train": {"epochs": 2, "batch_clips": 8, "average": 0.5}} | change
    if "train" in change:
        values["train"] = {"epochs": 3, "batch_clips": 8, "average": 0.5}
    with pytest.raises(SertuneError, match=message):
        open_comparison(base(tiny_corpus, comparison.folder, **values), METHODS)


def test_a_folder_of_something_else_is_refused(tiny_corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SertuneError, match="something else than a comparison"):
        open_comparison(base(tiny_corpus, tmp_path))
    with pytest.raises(SertuneError, match="--out DIR"):
        open_comparison(replace(base(tiny_corpus, tmp_path), out=""))


def test_a_failed_run_stops_its_own_method_alone(tiny_corpus: Path, tmp_path: Path) -> None:
    comparison = open_comparison(base(tiny_corpus, tmp_path / "out"), ["frozen", "partial-9", "bias-1"], [0, 1])
    failures = run_all(comparison, run_here)
    assert [(failure.label, failure.seed) for failure in failures] == [("partial-9", 0)]
    report = write_comparison(comparison.folder, [(f.label, f.seed, f.error) for f in failures])
    assert [method["label"] for method in report["methods"]] == ["frozen", "bias-1"]
    assert report["failed"][0]["method"] == "partial-9"
    assert report["warnings"][0].startswith("partial-9, seed 0 failed: ")


def test_what_fails_every_method_stops_at_once(tiny_corpus: Path, tmp_path: Path) -> None:
    comparison = open_comparison(base(tiny_corpus, tmp_path / "out"), ["frozen", "bias-1", "full"])
    tried = []

    def fail(config: RunConfig) -> None:
        tried.append(config.method.label)
        raise SertuneError("no such corpus")

    with pytest.raises(SertuneError, match=r"^no such corpus$"):
        run_all(comparison, fail)
    assert tried == ["frozen", "bias-1"]
    with pytest.raises(SertuneError, match="no run of the comparison is finished"):
        write_comparison(comparison.folder)


def stand_in(folder: Path, script: str) -> str:
    """A shell script in Python's place; the sixth argument of a run is the file of its settings."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)


def test_the_command_runs_every_method_in_its_own_process(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail = "echo loading >&2; echo 'sertune: method.layers = 9: it has 4' >&2; exit 1"
    script = f"""if grep -q "name: partial" "$6"; then {fail}; fi\nexec '{sys.executable}' "$@" """
    monkeypatch.setattr("sys.executable", stand_in(tmp_path, script))
    command = [
        "compare",
        "--methods",
        "frozen",
        "partial-9",
        "--encoder",
        "builtin:random",
        "--data",
        f"synthetic:{tiny_corpus}",
        "--split=official",
    ]
    command += ["--baseline", "false", "--out", str(tmp_path / "out")]
    assert main(command) == 1
    captured = capsys.readouterr()
    said = captured.err.splitlines()
    assert "  loading" in said  # what the runs say is passed on
    assert any(line.startswith("  [1/1]") for line in said)
    assert re.match("sertune: 1 of 2 methods failed: partial-9, seed 0: method.layers = 9: it has 4; the oth", said[-1])
    assert "Traceback" not in captured.err
    assert re.search(r"^frozen +[01]?\.\d{3} \[", captured.out, re.MULTILINE)
    assert (tmp_path / "out" / "runs" / "frozen" / "seed-0" / "report.html").is_file()
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_run_that_dies_without_a_word_is_one_line(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", stand_in(tmp_path, "echo dying >&2; kill -9 $$"))
    with pytest.raises(SertuneError, match="ended by signal 9"):
        run_in_child(base(tiny_corpus, tmp_path / "run"))


def test_a_run_does_not_outlive_who_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", CHILD, "demo", "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert not (tmp_path / "demo" / "category").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods"], "--methods: expected a value"),
        (["--seeds", "1", "x"], "--seeds: expected whole numbers of 0 or more, found 'x'"),
        (["--method", "full"], "name methods with --methods"),
        (["--overwrite"], "--overwrite: is a flag of sertune train"),
        (["--trian.epochs", "2"], "did you mean --train.epochs"),
        ([], "no data"),
    ],
)
def test_mistakes_in_the_command_are_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--out", str(tmp_path / "out"), *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


# Figures


def test_means_and_costs_are_those_of_the_runs(finished: tuple[Comparison, dict[str, Any]]) -> None:
    comparison, report = finished
    assert [method["label"] for method in report["methods"]] == list(METHODS)
    for method in report["methods"]:
        runs = [
            json.loads((comparison.run_folder(method["label"], seed) / "report.json").read_text()) for seed in SEEDS
        ]
        for name, entry in method["metrics"].items():
            values = [run["metrics"][name]["value"] for run in runs]
            assert entry["value"] == pytest.approx(statistics.fmean(values))
            assert entry["spread"] == pytest.approx(statistics.stdev(values))
            assert list(entry["seeds"].values()) == pytest.approx(values)
            assert entry["low"] <= entry["value"] <= entry["high"]
        dev = [statistics.fmean(f["dev_score"] for f in run["folds"] if f["test"]) for run in runs]
        assert method["dev"]["value"] == pytest.approx(statistics.fmean(dev))
        cost = method["cost"]
        assert cost["trainable_parameters"] == runs[0]["cost"]["trainable_parameters"]
        model = comparison.run_folder(method["label"], 0) / "model"
        assert cost["model_bytes"] == pytest.approx(sum(file.stat().st_size for file in model.iterdir()), rel=0.01)
        folds = [fold for run in runs for fold in run["folds"]]
        epochs = [fold["train_seconds"] / fold["epochs"] for fold in folds if fold["epochs"]]
        assert cost["seconds_per_epoch"] == (statistics.median(epochs) if epochs else 0)
    frozen, partial, full = (method["cost"] for method in report["methods"])
    assert report["reference"] == "full"
    assert frozen["speedup"] is None
    assert full["speedup"] == 1
    assert partial["speedup"] == pytest.approx(full["seconds_per_epoch"] / partial["seconds_per_epoch"])
    assert frozen["trainable_parameters"] < partial["trainable_parameters"] < full["trainable_parameters"]


def test_paired_differences_are_antisymmetric(finished: tuple[Comparison, dict[str, Any]]) -> None:
    _, report = finished
    matrix = report["differences"]["uar"]
    for i in range(len(METHODS)):
        assert matrix[i][i] is None
        for j in range(i):
            one, other = matrix[i][j], matrix[j][i]
            assert one["value"] == pytest.approx(-other["value"])
            assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]))
            assert one["p"] == pytest.approx(other["p"])
            means = [report["methods"][k]["metrics"]["uar"]["value"] for k in (i, j)]
            assert one["value"] == pytest.approx(means[0] - means[1])


def example(rng: np.random.Generator, speakers: list[str | None], true: Any, *, kind: str) -> Predicted:
    clips = [f"u{i}" for i in range(len(speakers))]
    if kind == "category":
        return Predicted(
            true, np.where(rng.random(len(true)) < 0.6, true, rng.integers(0, 3, len(true))), speakers, clips
        )
    return Predicted(true, true + rng.normal(size=len(true)), speakers, clips)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("kind", ["category", "dimension"])
def test_one_seed_has_the_intervals_of_its_run(kind: str, known: bool) -> None:
    rng = np.random.default_rng(0)
    speakers: list[str | None] = [f"s{i % 7}" if known else None for i in range(90)]
    true: Any = (
        rng.integers(0, 3, 90) if kind == "category" else np.where(rng.random(90) < 0.1, np.nan, rng.normal(size=90))
    )
    a, b = (example(rng, speakers, true, kind=kind) for _ in range(2))
    if kind == "category":
        draws = category_draws([a, b], 3, seed=5)
        expected, _ = category_intervals(true, a.predicted, 3, speakers, seed=5)
    else:
        draws = dimension_draws([a, b], seed=5)
        expected = dimension_intervals(true, a.predicted, speakers, seed=5)
    for name, interval in expected.items():
        assert draws[0][name].interval() == interval
        paired = paired_difference(true, a.predicted, b.predicted, speakers, name, seed=5)
        found = draws[0][name].minus(draws[1][name])
        assert (found.value, found.low, found.high) == pytest.approx((paired.value, paired.low, paired.high))
        assert (found.p, found.unit, found.clusters) == (paired.p, paired.unit, paired.clusters)


def test_seeds_that_err_apart_are_steadier_together() -> None:
    """The mean of independent runs has a narrower interval; the mean of one run with itself has that run's own."""
    rng = np.random.default_rng(1)
    speakers: list[str | None] = [f"s{i % 30}" for i in range(600)]
    true = rng.integers(0, 3, 600)
    runs = category_draws([example(rng, speakers, true, kind="category") for _ in range(6)], 3)
    uar = [run["uar"] for run in runs]
    assert mean_of([uar[0], uar[0]]).interval() == uar[0].interval()
    widths = [run.interval().high - run.interval().low for run in uar]
    mean = mean_of(uar).interval()
    assert mean.high - mean.low < 0.6 * min(widths)
    assert mean.value == pytest.approx(statistics.fmean(run.value for run in uar))


def test_seeds_may_test_other_speakers() -> None:
    rng = np.random.default_rng(2)
    parts = [[f"s{i % 4}" for i in range(40)], [f"s{4 + i % 4}" for i in range(40)]]
    runs = category_draws([example(rng, list(part), rng.integers(0, 3, 40), kind="category") for part in parts], 3)
    mean = mean_of([run["uar"] for run in runs]).interval()
    assert mean.clusters == 8
    assert mean.low <= mean.value <= mean.high


def test_clips_that_one_method_lacks_do_not_count(finished: tuple[Comparison, dict[str, Any]], tmp_path: Path) -> None:
    import shutil

    comparison, _ = finished
    folder = tmp_path / "copy"
    shutil.copytree(comparison.folder, folder)
    file = folder / "runs" / "full" / "seed-0" / "predictions.parquet"
    pd.read_parquet(file).iloc[:-1].to_parquet(file)
    report = write_comparison(folder)
    assert any("no prediction for some clips" in warning for warning in report["warnings"])
    file.write_bytes(b"no parquet")
    with pytest.raises(SertuneError, match=r"full.*can't be read") as error:
        write_comparison(folder)
    assert "\n" not in str(error.value)


# Outputs


def test_the_csv_has_every_figure(finished: tuple[Comparison, dict[str, Any]]) -> None:
    comparison, report = finished
    rows = list(csv.DictReader((comparison.folder / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["method"] for row in rows] == list(METHODS)
    for row, method in zip(rows, report["methods"], strict=True):
        for name, entry in method["metrics"].items():
            assert float(row[name]) == entry["value"]
            assert float(row[f"{name}_low"]) == entry["low"]
        for key, value in method["cost"].items():
            assert row[key] == "" if value is None else float(row[key]) == value


def test_the_page_shows_all_and_loads_nothing(finished: tuple[Comparison, dict[str, Any]]) -> None:
    comparison, report = finished
    page = (comparison.folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script|<link|<img|url\(|@import", page)
    table = re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    for method in report["methods"]:
        assert f">{method['label']}<" in table
        assert drawn.count(f">{method['label']}</text>") == 2  # against time and against size
        assert f"{method['cost']['trainable_parameters']:,}" in table
    assert "All seeds test the same clips" in page
    assert "solved" in drawn


def test_the_table_in_plain_text_is_aligned(
    finished: tuple[Comparison, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, report = finished
    show(report)
    out = capsys.readouterr().out.splitlines()
    for sentence in headline(report):
        assert sentence.replace("\N{MINUS SIGN}", "-") in out
    header, rows = text_table(report)
    start = next(i for i, line in enumerate(out) if line.startswith("Method"))
    assert [line.split()[0] for line in out[start + 1 : start + 4]] == list(METHODS)
    assert len({len(line) for line in out[start : start + 4]}) == 1  # the last column is flush right
    assert all(len(row) == len(header) for row in rows)


def test_dimensions_have_a_column_and_a_matrix_each(tiny_corpus: Path, tmp_path: Path) -> None:
    config = base(tiny_corpus, tmp_path / "out", target={"name": "dimension", "dimensions": ["arousal", "valence"]})
    comparison = open_comparison(config, ["frozen", "bias-1"])
    assert run_all(comparison, run_here) == []
    report = write_comparison(comparison.folder)
    assert set(report["differences"]) == {"ccc_arousal", "ccc_valence"}
    run = json.loads((comparison.run_folder("bias-1", 0) / "report.json").read_text())
    for name, entry in run["metrics"].items():
        found = report["methods"][1]["metrics"][name]
        assert (found["value"], found["low"], found["high"]) == pytest.approx(
            (entry["value"], entry["low"], entry["high"])
        )
        assert found["spread"] is None  # one seed
    page = (comparison.folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4
    assert "CCC valence against time" in page


@pytest.mark.parametrize("seed", range(3))
def test_labels_of_a_crowded_plot_do_not_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plot = Plot("", LogAxis.of([0.1, 10]), Axis.over([0, 1]), "", "", height=380)
    for i in range(14):
        x, y = (float(v) for v in plot.at(float(rng.choice([0.2, 0.21, 3, 8])), float(rng.uniform(0.5, 0.6))))
        plot.marks.append(Mark(x, y, y + 40, y - 40, f"partial-{i}@cached"))
    marks = place_labels(plot)
    assert [mark.label for mark in marks] == [mark.label for mark in plot.marks]
    half = 6.7 * len("partial-0@cached") / 2
    for i, one in enumerate(marks):
        assert plot.left <= one.label_x - half
        assert one.label_x + half <= plot.width + 1
        for other in marks[:i]:
            assert abs(one.label_x - other.label_x) > 2 * half - 1 or abs(one.label_y - other.label_y) > 12


def test_a_log_axis_keeps_the_order_and_puts_nothing_first() -> None:
    axis = LogAxis.of([0, 0.2, 4, 90], "solved")
    places = [axis.share(value) for value in (0, 0.2, 4, 90)]
    assert places == sorted(places)
    assert 0 < places[0] < 0.1 < places[1]
    assert places[-1] < 1
    assert [axis.label(t) for t in axis.ticks] == ["solved", "1", "10", "100"][: len(axis.ticks)]
    assert LogAxis.of([5.0, 5.0]).ticks  # one value alone still has a tick
    assert LogAxis.of([2e3, 3e7]).label(1e4) == "10k"
