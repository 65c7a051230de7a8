"""The report of a search, for a browser and a terminal, and the command line's mistakes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sertune.apps.search import NamedAxis, headline, show, show_snapshot, write_search
from sertune.cli import main
from sertune.errors import SertuneError

SPACE: dict[str, Any] = {
    "method.name": ["frozen", "partial"],
    "head.pooling": ["mean", "mean+std"],
    "head.regularisation": {"log": [1e-3, 1.0]},
    "method.layers": {"int": [1, 2]},
    "train.epochs": 1,
}


def flags(corpus: Path, out: Path, *more: str) -> list[str]:
    own = ["--split", "speaker", "--split.test", "0.3", "--split.dev", "0.25", "--precision", "fp32", "--workers", "1"]
    return [
        "search",
        "--encoder",
        "builtin:random",
        "--data",
        f"synthetic:{corpus}",
        "--out",
        str(out),
        "--protocol",
        "holdout",
        *own,
        *more,
    ]


@pytest.fixture(autouse=True)
def _no_codecarbon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sertune.train.search.energy._codecarbon", lambda: None)


@pytest.fixture(scope="module")
def finished(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search with two objectives, made by the command line."""
    out = tmp_path_factory.mktemp("report") / "s"
    (out.parent / "space.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
    told = ["--space", str(out.parent / "space.yaml"), "--objectives", "uar", "size", "--trials", "10"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sertune.train.search.energy._codecarbon", lambda: None)
        assert main(flags(tiny_corpus, out, *told, "--sampler", "tpe", "--winner-seeds", "1")) == 0
    return out


def report_of(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def test_the_page_shows_all_that_was_found_and_loads_nothing(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    report = report_of(finished)
    for words in (
        "On what the search never saw", "What won", "How the search went", "Quality against cost", "winner.yaml",
        "Each setting by itself", "All settings together", "The best, scored again", "Frozen baseline",
        "Settings at the beginning",
    ):  # fmt: skip
        assert words in page, words
    for name in report["winners"][0]["parameters"]:
        assert name in page
    assert "not measured" in page  # of energy
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<circle") >= len(report["trials"])
    assert write_search(finished) == report
    assert (finished / "report.html").read_text() == page


def test_every_trial_is_a_line_over_the_settings_and_a_row(finished: Path) -> None:
    page, report = (finished / "report.html").read_text(), report_of(finished)
    rows = [row for row in report["trials"] if row["score"] is not None]
    lines = re.findall(r'<polyline points="([^"]+)" style="--p:([\d.]+)"', page)
    assert len(lines) >= len(rows)
    assert max(float(share) for _, share in lines) == 1.0
    body = page[page.index("<h2>Trials</h2>") :]
    assert body[: body.index("</table>")].count("<tr>") == len(report["trials"]) + 1


def test_the_headline_tells_test_dev_and_the_gap(finished: Path) -> None:
    report = report_of(finished)
    line = headline(report)
    uar = report["metrics"]["uar"]
    assert f"UAR {uar['value']:.3f}".replace("0.", ".") in line.replace("1.000", "1.000")
    assert "on test" in line
    assert "dev UAR of the winner" in line
    assert "dev minus test" in line


def test_the_terminal_says_what_was_brought_and_warns(finished: Path) -> None:
    text = show(report_of(finished))
    assert "settings at the beginning: UAR" in text
    assert "the search brought" in text
    assert "frozen baseline (" in text
    assert "10 trials" in text
    assert "energy not measured" in text
    assert "winner: method.name" in text


def test_one_seed_has_no_mean_over_seeds(finished: Path) -> None:
    assert "mean of" not in headline(report_of(finished))


def test_a_snapshot_for_the_terminal() -> None:
    trial = {
        "trial": 3,
        "slot": 0,
        "parameters": {"train.lr": 0.00012345},
        "error": None,
        "worker": "pc:1",
        "dead": False,
    }
    found = {
        "name": "s", "storage": "x", "budget": 9,
        "studies": [{"study": "s", "objectives": ["score"], "trials": [
            {**trial, "state": "complete", "values": [0.91], "feasible": True},
            {**trial, "trial": 4, "state": "running", "values": None, "feasible": True, "dead": True},
            {**trial, "trial": 5, "state": "fail", "values": None, "feasible": True, "error": "the loss is nan"},
            {**trial, "trial": 6, "state": "waiting", "values": None, "feasible": True},
        ]}],
    }  # fmt: skip
    text = show_snapshot(found)
    assert (
        "s: 4 of 9 trials: 1 complete, 1 failed, 1 running (1 of a worker that is gone), 1 to be taken up again" in text
    )
    assert "trial 3: score 0.91: train.lr 0.000123" in text
    assert "at work: pc:1" in text
    assert "the first failure: the loss is nan" in text


def test_an_axis_of_names_shortens_long_ones() -> None:
    axis = NamedAxis.of(["mean", "[0.75, 1.0, 2.0]"])
    assert [axis.label(tick) for tick in axis.ticks] == ["mean", "[0.75, 1.0,…"]
    assert 0 < axis.share(0) < axis.share(1) < 1


def test_an_unfinished_search_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(SertuneError, match=r"no report.json; is the search finished\?"):
        write_search(tmp_path)


# -- the command line's mistakes -------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    line = captured.err.splitlines()[-1]
    assert line.startswith("sertune: ")
    assert "Traceback" not in captured.err
    return line.removeprefix("sertune: ")


MISTAKES: dict[str, tuple[list[str], str]] = {
    "nothing to search": (
        [],
        "nothing to search: name a --preset (paper-d, head, method), or keys in --space FILE.yaml",
    ),
    "preset": (["--preset", "heads"], "unknown preset 'heads'; did you mean 'head'?"),
    "sampler": (["--preset", "head", "--sampler", "gpp"], "unknown sampler 'gpp'; did you mean 'gp'?"),
    "pruner": (["--preset", "head", "--pruner", "mean"], "unknown pruner 'mean'; did you mean 'median'?"),
    "protocol": (["--preset", "head", "--protocol", "nest"], "unknown protocol 'nest'; did you mean 'nested'?"),
    "trials": (
        ["--preset", "head", "--trials", "0"],
        "--trials 0: a budget too small for one trial; expected 1 or more",
    ),
    "trials text": (
        ["--preset", "head", "--trials", "few"],
        "--trials: expected whole numbers of 0 or more, found 'few'",
    ),
    "minutes": (["--preset", "head", "--minutes", "-1"], "--minutes -1: expected a number above 0"),
    "folds": (
        ["--preset", "head", "--protocol", "nested", "--inner-folds", "1"],
        "--inner-folds 1: expected 2 or more, or --protocol holdout",
    ),
    "confirm": (
        ["--preset", "head", "--confirm", "two"],
        "--confirm: expected whole numbers of 0 or more, found 'two'",
    ),
    "seeds": (["--preset", "head", "--winner-seeds", "0"], "--winner-seeds 0: expected 1 or more"),
    "no value": (["--preset", "head", "--sampler"], "--sampler: expected a value"),
    "two values": (["--preset", "head", "method"], "--preset: expected one value, found 2: head method"),
    "objective": (["--preset", "head", "--objectives", "uar", "latencyy"], "did you mean 'latency'?"),
    "ccc": (["--preset", "head", "--objectives", "ccc"], "unknown objective for target category: 'ccc'"),
    "no score": (
        ["--preset", "head", "--objectives", "latency"],
        "without the score the cheapest model wins; add score",
    ),
    "twice": (["--preset", "head", "--objectives", "uar", "score"], "--objectives uar score: each once"),
    "constraint": (["--preset", "head", "--constraints", "latency"], "--constraints latency: expected NAME<NUMBER"),
    "constraint name": (
        ["--preset", "head", "--constraints", "speed<3"],
        "unknown cost in --constraints speed<3: 'speed'",
    ),
    "constraint number": (["--preset", "head", "--constraints", "size<1.2.3"], "'1.2.3' is no number"),
    "cmaes": (
        ["--preset", "head", "--sampler", "cmaes", "--objectives", "uar", "size"],
        "--sampler cmaes: knows one objective only; take gp or tpe for several",
    ),
    "pruner of several": (
        ["--preset", "head", "--pruner", "median", "--objectives", "uar", "size"],
        "--pruner median: can't compare trials by several objectives; take none",
    ),
    "random split": (
        ["--preset", "head", "--split", "random"],
        "speakers would be on both sides; take --protocol paper-d",
    ),
    "paper-d split": (
        ["--preset", "head", "--protocol", "paper-d", "--split", "loso"],
        "the protocol paper-d splits at random",
    ),
    "no file": (["--space", "nowhere.yaml"], "nowhere.yaml: no such configuration file"),
    "train's flag": (
        ["--preset", "head", "--overwrite"],
        "--overwrite: is a flag of sertune train, not of sertune search",
    ),
    "unknown flag": (["--preset", "head", "--trails", "3"], "unknown flag --trails"),
    "sqlite": (["--preset", "head", "--storage", "sqlite:///s.db"], "SQLite loses studies on shared disks"),
    "unreachable": (
        ["--preset", "head", "--storage", "postgresql://me:secret@127.0.0.1:9/x"],
        "storage postgresql://me:***@127.0.0.1:9/x: can't be reached",
    ),
    "layers": (["--preset", "head", "--head.layers", "9"], "head.layers = [9]: the encoder has layers 0 to 4"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(
    name: str, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, expected = MISTAKES[name]
    base = flags(tiny_corpus, tmp_path / "s")
    for flag in ("--protocol", "--split"):
        if flag in more:
            place = base.index(flag)
            del base[place : place + 2]
    if "paper-d" in more:
        base = [item for item in base if item not in ("--split.test", "0.3", "--split.dev", "0.25")]
    line = said(capsys, [*base, *more])
    assert expected in line
    assert "secret" not in line
    assert not (tmp_path / "s" / "report.json").exists()


def test_no_data_and_no_folder(tiny_corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no data: say what to search on" in said(capsys, ["search", "--preset", "head", "--out", "s"])
    line = said(capsys, ["search", "--preset", "head", "--data", f"synthetic:{tiny_corpus}"])
    assert "no folder: say where the search goes with --out DIR" in line


def test_a_folder_with_something_else(tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").write_text("precious")
    line = said(capsys, [*flags(tiny_corpus, tmp_path / "s"), "--preset", "head"])
    assert "the folder holds something else than a search; choose another --out" in line
    assert sorted(entry.name for entry in (tmp_path / "s").iterdir()) == ["thesis.tex"]


def test_a_flag_fixes_a_key_of_the_preset(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [
        "--preset",
        "head",
        "--head.pooling",
        "mean+std",
        "--trials",
        "2",
        "--sampler",
        "random",
        "--baseline",
        "false",
    ]
    assert main([*flags(tiny_corpus, tmp_path / "s"), *more]) == 0
    report = report_of(tmp_path / "s")
    assert all("head.pooling" not in row["settings"] for row in report["trials"])
    assert "head.pooling is given by a flag, and is not searched" in report["protocol"]["notes"]
    assert "pooling: mean+std" in (tmp_path / "s" / "winner.yaml").read_text()
    capsys.readouterr()


def test_null_takes_a_key_out_of_a_preset(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "less.yaml").write_text(
        "head.pooling: null\nhead.mix: concat\nhead.standardise: null\naugment.wave_speed: null\ncache.views: null\n"
    )
    more = ["--preset", "head", "--space", str(tmp_path / "less.yaml"), "--trials", "1", "--baseline", "false"]
    assert main([*flags(tiny_corpus, tmp_path / "s"), *more]) == 0
    searched = report_of(tmp_path / "s")["search"]["space"]["searched"]
    assert set(searched) == {"head.layers (from)", "head.layers (to)", "head.regularisation"}
    capsys.readouterr()


def test_help_tells_all_flags_and_needs_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--help"]) == 0
    text = capsys.readouterr().out
    for flag in (
        "--preset", "--space", "--sampler", "--pruner", "--trials", "--minutes", "--protocol", "--inner-folds",
        "--objectives", "--constraints", "--winner-seeds", "--workers", "--storage", "--study",
    ):  # fmt: skip
        assert flag in text
    assert max(len(line) for line in text.splitlines()) <= 120
