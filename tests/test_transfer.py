"""`sertune transfer`: what is trained and tested, what is made again and what is not, the matrices and the report."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from sertune.apps.transfer import _difference, findings, text_table
from sertune.cli import main
from sertune.config import RunConfig
from sertune.data.synthetic import write_corpus
from sertune.errors import SertuneError
from sertune.model.adapt import METHODS
from sertune.train.transfer import name_sources, open_transfer

FAST = ["--encoder", "builtin:random", "--method", "frozen", "--baseline", "false"]
METHODS_MADE = ["none", "corpus"]


def table(corpus: Path, file: Path, prefix: str, **changes: Any) -> Path:
    """A corpus as a table, its speakers with names of their own."""
    frame = pd.read_csv(corpus / "utterances.csv")
    frame = frame.assign(file=[str(corpus / f) for f in frame["file"]], speaker=prefix + frame["speaker"])
    frame.drop(columns=changes.get("without", [])).to_csv(file, index=False)
    return file


def made(folder: Path) -> dict[str, int]:
    """What runs and tests left, with the time of its last change."""
    files = [f for part in ("runs", "tests") for f in sorted((folder / part).rglob("*")) if f.is_file()]
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def cells(report: dict[str, Any], method: str = "none", metric: str = "uar") -> dict[tuple[str, str], dict[str, Any]]:
    """Every cell by its row and column."""
    names = [corpus["name"] for corpus in report["corpora"]]
    rows = dict(zip(names, report["matrices"][method][metric], strict=True))
    if report["leave_one_out"]:
        rows["others"] = report["leave_one_out"][method][metric]
    return {(row, column): cell for row in rows for column, cell in zip(names, rows[row], strict=True)}


@pytest.fixture(scope="module")
def specs(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A corpus, a table with a class of its own, and what is called as the first is and shares one class with it."""
    root = tmp_path_factory.mktemp("data")
    size: dict[str, Any] = {"speakers": 4, "sentences": 2, "per_emotion": 1, "raters": 3}
    bored = write_corpus(root / "bored", seed=1, emotions=("anger", "boredom", "happiness"), **size)
    feared = write_corpus(root / "feared", seed=2, emotions=("anger", "fear"), **size)
    return [
        f"synthetic:{tiny_corpus}",
        str(table(bored, root / "bored.csv", "b-")),
        f"synthetic:{feared}",
    ]


def command(specs: list[str], out: Path, *more: str) -> list[str]:
    return ["transfer", *(part for spec in specs for part in ("--data", spec)), *FAST, "--out", str(out), *more]


@pytest.fixture(scope="module")
def finished(specs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("transfer") / "out"
    assert main(command(specs, out, "--adapt", "corpus", "--leave-one-out", "--weights", "1", "2", "3")) == 0
    return out


# Figures


def test_the_diagonal_is_each_run_s_own_test(finished: Path) -> None:
    found = cells(read(finished))
    for name in ("synthetic", "bored", "synthetic-2"):
        run = read(finished / "runs" / name)
        cell = found[name, name]
        assert {key: cell[key] for key in ("value", "low", "high")} == run["metrics"]["uar"]
        assert cell["own"]
        assert cell["clips"] == sum(row["support"] for row in run["per_class"].values()) > 0
        assert run["protocol"]["speaker_independent"]


@pytest.mark.parametrize(("run", "name"), [("synthetic", "synthetic"), ("all-but-bored", "others")])
def test_a_cell_is_what_a_separate_evaluation_finds(
    finished: Path, specs: list[str], tmp_path: Path, run: str, name: str
) -> None:
    flags = ["--data", specs[1], "--out", str(tmp_path / "scores"), "--adapt", "corpus"]
    assert main(["evaluate", str(finished / "runs" / run), *flags]) == 0
    separate, report = read(tmp_path / "scores"), read(finished)
    plain, adapted = cells(report)[name, "bored"], cells(report, "corpus")[name, "bored"]
    figures = ("value", "low", "high")
    assert {key: plain[key] for key in figures} == {key: separate["plain"]["metrics"]["uar"][key] for key in figures}
    assert {key: adapted[key] for key in figures} == separate["metrics"]["uar"]
    assert adapted["difference"] == separate["plain"]["difference"]["uar"]
    assert plain["difference"] is None


def test_a_cell_says_how_many_classes_it_is_over(finished: Path) -> None:
    found = cells(read(finished))
    own, across = found["synthetic", "synthetic"], found["synthetic", "bored"]
    assert (own["classes"], own["chance"]) == (4, 0.25)
    assert (across["classes"], across["labels"], across["chance"]) == (2, ["anger", "happiness"], 0.5)
    assert across["clips"] == 8  # boredom is left out
    assert across["corrected"] == pytest.approx(2 * across["value"] - 1)
    assert found["others", "bored"]["trained_on"] == ["synthetic", "synthetic-2"]


def test_corpora_that_share_one_class_have_an_empty_cell_with_the_reason(finished: Path) -> None:
    report = read(finished)
    for method in ("none", "corpus"):
        cell = cells(report, method)["bored", "synthetic-2"]
        assert cell["value"] is None
        assert cell["reason"] == (
            "shares one class (anger) with the model; synthetic-2 has anger, fear, the model anger, boredom, happiness"
        )
    assert cell["reason"] in (finished / "report.html").read_text(encoding="utf-8")


def test_nothing_adapted_is_in_the_plain_matrix(finished: Path) -> None:
    report = read(finished)
    assert list(report["matrices"]) == METHODS_MADE
    assert [cells(report, "corpus")[name, name]["value"] for name in ("synthetic", "bored")] == [None, None]
    for method in METHODS_MADE:
        test = finished / "tests" / f"synthetic-on-bored{'' if method == 'none' else f'@{method}'}"
        assert read(test)["protocol"]["adaptation"] == METHODS[method]


# Training


def test_all_but_one_trains_on_the_others_alone(finished: Path, specs: list[str]) -> None:
    run = finished / "runs" / "all-but-bored"
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["data"] == [specs[0], specs[2]]
    assert settings["weights"] == [1.0, 3.0]
    assert read(run)["data"]["names"] == ["synthetic", "synthetic"]
    speakers = json.loads((run / "model" / "model.json").read_text())["info"]["speakers"]
    assert speakers
    assert not any("b-" in speaker for speaker in speakers)
    assert yaml.safe_load((finished / "runs" / "bored" / "config.yaml").read_text())["weights"] == []


def test_the_same_command_makes_nothing_twice(finished: Path, specs: list[str]) -> None:
    before = made(finished)
    assert main(command(specs, finished, "--adapt", "corpus", "--leave-one-out", "--weights", "1", "2", "3")) == 0
    assert made(finished) == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--seed", "1"], "holds a transfer with seed = 0, not 1; give the same settings to go on"),
        (["--absent", "keep"], "holds a transfer with absent = 'mask', not 'keep'"),
        (["--split", "loso"], "holds a transfer with split.name = 'auto', not 'loso'"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    finished: Path, specs: list[str], capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    before = made(finished)
    assert main(command(specs, finished, *more)) == 1
    assert words in capsys.readouterr().err
    assert made(finished) == before


def test_a_corpus_that_fails_does_not_stop_the_others_and_more_can_be_added(
    specs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late, out = tmp_path / "late.csv", tmp_path / "out"
    data = [str(late), specs[0]]
    assert main(command(data, out)) == 1
    captured = capsys.readouterr()
    assert re.search(r"sertune: 2 of the runs and tests failed, the first: late: .*late\.csv", captured.err)
    assert "Traceback" not in captured.err
    report = read(out)
    assert cells(report)["synthetic", "synthetic"]["value"] is not None
    assert cells(report)["late", "synthetic"]["reason"].startswith("training failed: ")
    assert cells(report)["synthetic", "late"]["reason"].startswith("the test failed: ")
    assert report["warnings"][0].startswith("late, synthetic on late failed: ")
    before = made(out)
    table(Path(specs[0].partition(":")[2]), late, "late-")
    assert main(command(data, out)) == 0  # mended: the same command does what is left
    report = read(out)
    assert all(cell["value"] is not None for cell in cells(report).values())
    assert (report["leave_one_out"], report["failed"]) == (None, [])
    assert {file: made(out)[file] for file in before} == before
    before = made(out)
    assert main(command(data, out, "--adapt", "none", "speaker")) == 0  # an adaptation is added, all else is there
    after = made(out)
    assert {file: after[file] for file in before} == before
    new = {file.split("/")[1] for file in after.keys() - before.keys()}
    assert new == {"late-on-synthetic@speaker", "synthetic-on-late@speaker"}
    assert list(read(out)["matrices"]) == ["none", "speaker"]
    assert cells(read(out)) == cells(report)


def test_what_fails_every_corpus_is_said_once(
    specs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(specs, tmp_path / "out", "--encoder", str(tmp_path / "nowhere"))) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("sertune: encoder ")
    assert not (tmp_path / "out" / "report.json").exists()


# The report


def test_a_test_on_the_people_that_were_trained_on_is_said(finished: Path) -> None:
    report = read(finished)
    found = cells(report)
    # synthetic and synthetic-2 are of one corpus; their speakers are called alike, and where the corpora are together
    # with the table, the corpus's name need not be in front
    info = json.loads((finished / "runs" / "all-but-synthetic" / "model" / "model.json").read_text())["info"]
    people = {name.rpartition("/")[2] for name in info["speakers"] if not name.startswith("b-")}
    assert found["others", "synthetic"]["shared_speakers"] == len(people) > 0
    assert found["synthetic", "bored"]["shared_speakers"] == found["others", "bored"]["shared_speakers"] == 0
    said = f"bored + synthetic-2 on synthetic ({len(people)} of 4 speakers)"
    assert any(
        warning.startswith("Tested on people that were trained on") and said in warning
        for warning in report["warnings"]
    )
    assert "same people" in (finished / "report.html").read_text(encoding="utf-8")
    assert text_table(report, "none", "uar")[1][-1][1].endswith("same people")


def test_json_table_and_page_agree(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = read(finished)
    with (finished / "table.csv").open(encoding="utf-8") as file:
        rows = {(row["adaptation"], row["trained_on"], row["tested_on"]): row for row in csv.DictReader(file)}
    page = (finished / "report.html").read_text(encoding="utf-8")
    shown = 0
    for method in report["matrices"]:
        for cell in cells(report, method).values():
            row = rows[method, " + ".join(cell["trained_on"]), cell["tested_on"]]
            for key in ("value", "low", "high", "chance", "clips", "classes"):
                assert row[key] == ("" if cell[key] is None else str(cell[key]))
            assert row["reason"] == cell["reason"]
            if cell["value"] is not None:
                text = f"{cell['value']:.3f}".removeprefix("0")
                assert f"<b>{text}</b>" in page
                assert f"{cell['classes']} classes, {cell['clips']} clips" in page
                shown += 1
    assert len(rows) == 2 * 12
    assert page.count("<b>") >= shown
    _, lines = text_table(report, "none", "uar")
    assert [line[0] for line in lines] == ["synthetic", "bored", "synthetic-2", "all others"]
    assert re.search(r"/2$", lines[0][2])


def test_the_page_needs_no_network(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert re.search(r"https?:|//[a-z]|\bsrc=|\bhref=|<script|<link|@import|url\(", page) is None


def test_the_largest_drop_is_that_of_the_cells(finished: Path) -> None:
    report = read(finished)
    found = cells(report)
    drops = {
        pair: found[pair[1], pair[1]]["corrected"] - cell["corrected"]
        for pair, cell in found.items()
        if cell["value"] is not None and not cell["own"] and pair[0] != "others" and not cell["shared_speakers"]
    }
    trained, tested = max(drops, key=lambda pair: drops[pair])
    sentence = next(text for text in findings(report) if "rop" in text)
    assert f": {trained} on {tested} reaches UAR " in sentence
    assert any(text.startswith("Trained on all others: ") for text in findings(report))
    assert any(text.startswith("Adaptation corpus changes UAR by ") for text in findings(report))


def test_a_dimension_that_a_corpus_lacks_has_an_empty_cell(tiny_corpus: Path, specs: list[str], tmp_path: Path) -> None:
    lacks = table(tiny_corpus, tmp_path / "lacks.csv", "x-", without=["valence", "dominance"])
    none = table(tiny_corpus, tmp_path / "none.csv", "y-", without=["arousal", "valence", "dominance"])
    out = tmp_path / "out"
    flags = ["--target", "dimension", "--adapt", "corpus"]
    assert main(command([specs[1], str(lacks), str(none)], out, *flags)) == 1  # nothing to train on in the last
    report = read(out)
    for method in METHODS_MADE:
        arousal, valence = (cells(report, method, f"ccc_{name}") for name in ("arousal", "valence"))
        scored = read(out / "tests" / f"bored-on-lacks{'' if method == 'none' else '@corpus'}")["metrics"][
            "ccc_arousal"
        ]
        assert {key: arousal["bored", "lacks"][key] for key in scored} == scored
        assert (arousal["bored", "lacks"]["chance"], arousal["bored", "lacks"]["classes"]) == (0, None)
        assert arousal["lacks", "bored"]["value"] is not None
        assert arousal["lacks", "none"]["reason"] == "none has no arousal"
        assert valence["bored", "lacks"]["reason"] == "lacks has no valence"
        assert valence["lacks", "bored"]["reason"] == "lacks has no valence to train on"
        assert valence["bored", "none"]["reason"] == "none has no arousal and no valence and no dominance"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "lacks has no valence to train on" in page
    assert f"<b>{arousal['bored', 'lacks']['value']:.3f}</b>".replace("0.", ".").replace("-", "\N{MINUS SIGN}") in page


# Names and mistakes


def test_every_data_has_a_name_of_its_own() -> None:
    found = name_sources(["emodb:a", "emodb:b", "urdu:c", "x/my-table on.csv", "y/my-table on.csv"])
    assert [source.name for source in found] == ["emodb", "emodb-2", "urdu", "my_table_on", "my_table_on-2"]
    assert [source.corpus for source in found] == ["emodb", "emodb", "urdu", "", ""]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--data emodb:a", "transfer needs at least two corpora; emodb:a is one: repeat --data"),
        ("", "transfer needs at least two corpora: repeat --data"),
        ("--data emodb:a --data emodb:a", "--data emodb:a: given twice"),
        ("--data emodb:a --data urdo:b", "unknown corpus 'urdo'; did you mean 'urdu'?"),
        ("--data emodb:a --data urdu:b --adapt corpsu", "unknown adaptation 'corpsu'; did you mean 'corpus'?"),
        ("--data emodb:a --data urdu:b --adapt", "--adapt: expected a value"),
        (
            "--data emodb:a --data urdu:b --target dimension --adapt corpus neighbours",
            "adapt neighbours: is for categories, not for dimensions",
        ),
        ("--data emodb:a --data urdu:b --leave-one-out", "--leave-one-out: needs at least three --data"),
        ("--data emodb:a --data urdu:b --weights 1 2", "--weights: are those of the runs on all but one"),
        ("--data emodb:a --data urdu:b --absent hide", "absent: expected one of"),
        ("--data emodb:a --data urdu:b --overwrite", "--overwrite: is a flag of sertune train"),
        ("--data emodb:a --data urdu:b --columns.emotion x", "--columns.emotion: names a column of a table"),
        ("--data emodb:a --data urdu:b --methd frozen", "unknown flag --methd; did you mean --method?"),
    ],
)
def test_a_mistake_is_one_line_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, words: str
) -> None:
    assert main(["transfer", *flags.split(), "--out", str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    base = RunConfig(data=["emodb:a", "urdu:b"])
    with pytest.raises(SertuneError, match="--out DIR"):
        open_transfer(base)
    (tmp_path / "notes.txt").touch()
    for place, words in ((tmp_path, "something else than a transfer"), (tmp_path / "notes.txt", "is a file")):
        with pytest.raises(SertuneError, match=words):
            open_transfer(RunConfig(data=["emodb:a", "urdu:b"], out=str(place)))


# Opinions


def test_distributions_are_tested_by_their_distance(tiny_corpus: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other", seed=5, speakers=4, sentences=2, per_emotion=1, raters=4)
    specs = [f"synthetic:{tiny_corpus}", f"synthetic:{other}"]
    out = tmp_path / "out"
    flags = ["--target", "distribution", "--target.distribution.of", "plane", "--adapt", "corpus"]
    assert main(command(specs, out, *flags)) == 0
    report = read(out)
    assert report["metrics"] == ["ccc_arousal", "ccc_valence", "tvd"]
    for (row, column), cell in cells(report, metric="tvd").items():
        folder = out / "runs" / row if row == column else out / "tests" / f"{row}-on-{column}"
        assert cell["value"] == read(folder)["metrics"]["tvd"]["value"]
        assert cell["corrected"] == pytest.approx(1 - cell["value"])
        assert cell["chance"] is None
        assert cell["clips"] > 0
    adapted = cells(report, "corpus", "tvd")["synthetic", "synthetic-2"]
    test = read(out / "tests" / "synthetic-on-synthetic-2@corpus")
    assert adapted["difference"] == test["plain"]["difference"]["tvd"]
    assert "lower is better" in (out / "report.html").read_text(encoding="utf-8")


def test_a_distance_that_falls_is_better() -> None:
    entry = {"value": -0.1, "low": -0.2, "high": -0.05, "p": 0.01}
    verdicts = [shown["verdict"] for name in ("tvd", "uar") if (shown := _difference(name, entry)) is not None]
    assert verdicts == ["better", "worse"]
