"""Mistakes around annotators and distributions: one clear line, a non-zero status, and nothing left behind."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sertune.cli import main
from sertune.corpora import cremad
from test_bad_input import Refuse, refuse

__all__ = ["refuse"]
Corpus = Callable[..., Path]
Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture
def rated(tiny_corpus: Path, tmp_path: Path) -> Corpus:
    """The tiny corpus as a user's table, with its ratings changed, or without."""

    def write(ratings: Change | None = None, utterances: Change | None = None) -> Path:
        frame = pd.read_csv(tiny_corpus / "utterances.csv")
        frame = frame.assign(file=[str(tiny_corpus / file) for file in frame["file"]])
        (utterances or (lambda table: table))(frame).to_csv(tmp_path / "table.csv", index=False)
        if ratings is not None:
            given = ratings(pd.read_csv(tiny_corpus / "ratings.csv"))
            given.to_csv(tmp_path / "table.ratings.csv", index=False)
        return tmp_path / "table.csv"

    return write


@pytest.fixture
def train(refuse: Refuse) -> Refuse:
    """Trains on data and must fail."""

    def run(data: object, *flags: object) -> str:
        fixed = [
            "--encoder",
            "builtin:random",
            "--data",
            data,
            "--out",
            "out",
            "--baseline",
            "false",
            "--method",
            "frozen",
        ]
        return refuse("train", *fixed, *flags)

    return run


def same(ratings: pd.DataFrame) -> pd.DataFrame:
    return ratings


def only(*attributes: str) -> Change:
    return lambda ratings: ratings[ratings["attribute"].isin(attributes)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--target rater", "target rater: table has no ratings of arousal by single raters, only a consensus; use"),
        ("--target rater --target.rater.of category", "has no ratings of emotion by single raters, only a consensus"),
        ("--target rater+density", "target rater: table has no ratings of arousal by single raters"),
        (
            "--target distribution --target.distribution.of votes",
            "target distribution: table has no ratings of emotion",
        ),
        (
            "--target distribution --target.distribution.of plane",
            "target distribution: table has no ratings of arousal",
        ),
        ("--target distribution", "target distribution: table has no ratings of arousal by single raters"),
    ],
)
def test_no_ratings(flags: str, words: str, train: Refuse, rated: Corpus) -> None:
    assert words in train(rated(), *flags.split())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--target raters", "unknown target 'raters'; did you mean 'rater'?"),
        ("--target rater+rater", "target.name = rater+rater: expected each task once"),
        ("--target dimension+", "unknown target ''"),
        ("--target density", "target.name = density: expected density together with rater (of dimensions)"),
        ("--target category+density", "expected density together with rater"),
        ("--target rater+density --target.rater.of category", "expected density together with rater (of dimensions)"),
        (
            "--target rater+density --target.dimensions [arousal]",
            "target density: needs ratings of arousal and valence",
        ),
        (
            "--target rater --target.weights [1,2]",
            "target.weights = [1.0, 2.0]: expected a number above 0 for each task",
        ),
        ("--target rater+category --target.weights [1,0]", "expected a number above 0 for each task of rater+category"),
        ("--target rater --target.plane.grid [1,4]", "target.plane.grid = [1, 4]: expected two numbers of cells"),
        ("--target rater --target.plane.grid [4]", "target.plane.grid = [4]: expected two numbers of cells"),
        ("--target rater --target.plane.grid [4,400]", "each from 2 to 64"),
        ("--target rater --target.plane.bandwidth 0.2", "is for the gaussian kernel; diffusion finds its own"),
        ("--target rater --target.plane.fine 4", "target.plane.fine = 4: expected 16 to 256"),
        ("--target rater --target.rater.rank -1", "target.rater.rank = -1: expected 0 or more"),
        ("--target rater --target.rater.branch [0]", "target.rater.branch = [0]: expected widths above 0"),
        ("--target rater --target.rater.shrinkage -1", "target.rater.shrinkage = -1.0: expected 0 or more, or auto"),
        (
            "--target rater --target.rater.shrinkage some",
            "target.rater.shrinkage: expected float or 'auto', found some",
        ),
        ("--target rater --target.rater.form tree", "target.rater.form: expected one of 'heads', 'embedding'"),
        ("--target rater --target.rater.min_ratings 0", "target.rater.min_ratings = 0: expected 1 or more"),
        ("--target rater --target.rater.min_raters 7", "no utterance of table has so many annotators (at most 3)"),
        ("--target rater --target.rater.min_ratings 999", "no annotator of table has so many ratings (at most 1"),
        ("--target distribution --target.rater.min_raters 4", "target.rater.min_raters = 4: no utterance of table has"),
        ("--target rater --augment.mixup 0.4", "augment.mixup = 0.4: can't be had with target rater"),
        ("--target distribution --augment.mixup 0.4", "can't be had with target distribution"),
        ("--target rater --train.batch_clips 1", "train.batch_clips = 1: the CCC needs at least two clips in a batch"),
        ("--target rater --target.dimensions [tension]", "unknown dimension in target.dimensions: 'tension'"),
        ("--target rater --target.rater.of category --target.labels [anger,joy]", "unknown label of table"),
        ("--target rater+distribution --target.distribution.of gaussian", "can't be joined with rater"),
        (
            "--target distribution --target.distribution.of beta --target.distribution.loss emd",
            "is fitted by likelihood",
        ),
        (
            "--target distribution+rater --target.distribution.of beta",
            "a gaussian or beta distribution can't be joined",
        ),
    ],
)
def test_settings(flags: str, words: str, train: Refuse, rated: Corpus) -> None:
    assert words in train(rated(same), *flags.split())


def test_one_annotator(train: Refuse, rated: Corpus) -> None:
    line = train(rated(lambda r: r[r["rater"] == "r01"]), "--target", "rater")
    assert "table has one annotator only (r01); use --target dimension or category" in line
    line = train(rated(lambda r: r[r["rater"] == "r01"]), "--target", "rater", "--target.rater.of", "category")
    assert "table has one annotator only (r01)" in line


def test_nameless_annotators(train: Refuse, refuse: Refuse, tmp_path: Path) -> None:
    """As of CREMA-D where only its table of counted votes is there."""
    root = tmp_path / "cremad"
    cremad.example(root)
    answers = root / "finishedResponses.csv"
    answers.unlink()
    names = sorted(file.stem for file in (root / "AudioWAV").glob("1*.wav"))
    (root / "processedResults").mkdir()
    rows = [f"{100001 + i},{(i % 3) + 1},0,0,2,1,{i % 2},{name}" for i, name in enumerate(names)]
    header = ",A,D,F,H,N,S,fileName"
    (root / "processedResults" / "tabulatedVotes.csv").write_text("\n".join([header, *rows]) + "\n")
    line = train(f"cremad:{root}", "--target", "rater", "--target.rater.of", "category", "--skip-bad", "true")
    assert (
        "does not say who gave which rating, so that annotators can't be told apart; use --target distribution" in line
    )
    line = train(f"cremad:{root}", "--target", "rater")
    assert "has no ratings of arousal by single raters" in line
    assert "use --target.rater.of category" in line


def with_values(attribute: str, value: object) -> Change:
    """All ratings of an attribute are one value."""

    def change(ratings: pd.DataFrame) -> pd.DataFrame:
        return ratings.assign(value=ratings["value"].where(ratings["attribute"] != attribute, str(value)))

    return change


RATER = "--target rater"
LABELS = "--target rater --target.rater.of category"
PLANE = "--target distribution --target.distribution.of plane"
GAUSSIAN = "--target distribution --target.distribution.of gaussian"
RATINGS: dict[str, tuple[Change, str, str]] = {
    "labels alone": (only("emotion"), RATER, "has ratings of emotion; use --target.rater.of category"),
    "one dimension alone": (only("arousal"), LABELS, "has ratings of arousal; use --target.rater.of dimension"),
    "no valence": (only("arousal"), "--target rater+density", "target density: needs ratings of arousal and valence"),
    "no plane": (only("arousal"), PLANE, "has no ratings of valence"),
    "beyond the scale": (with_values("arousal", 9), RATER, "has arousal 9.0, outside the scale 1 to 5"),
    "below the scale": (with_values("valence", -3), GAUSSIAN, "has valence -3.0, outside the scale 1 to 5"),
    "no number": (with_values("arousal", "loud"), RATER, "'loud'"),
    "twice": (lambda r: pd.concat([r, r[:1]]), RATER, "is the second rating by rater 'r01'"),
    "of another": (
        lambda r: r.assign(utterance="elsewhere"),
        RATER,
        "'elsewhere', which is not the id of an utterance",
    ),
    "all the same": (with_values("arousal", 3), RATER, "all ratings of arousal are the same"),
    "all the same, gaussian": (with_values("valence", 3), GAUSSIAN, "all ratings of valence are the same"),
}


@pytest.mark.parametrize("name", RATINGS)
def test_ratings(name: str, train: Refuse, rated: Corpus, tmp_path: Path) -> None:
    change, flags, words = RATINGS[name]
    scales = {dimension: {"low": 1, "high": 5} for dimension in ("arousal", "valence", "dominance")}
    (tmp_path / "table.schemes.json").write_text(json.dumps(scales))
    assert words in train(rated(change), *flags.split())


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("rater+category", "no annotator has a rating in the training part"),
        ("rater", "no utterance is in the partition 'train'"),
    ],
)
def test_nobody_rated_the_training_part(
    target: str, words: str, rated: Corpus, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv(tiny_corpus / "utterances.csv")
    data = rated(lambda r: r[r["utterance"].isin(frame["id"][frame["partition"] != "train"])])
    fixed = [
        "--encoder",
        "builtin:random",
        "--out",
        str(tmp_path / "out"),
        "--method",
        "frozen",
        "--split",
        "official",
        "--target",
        target,
    ]
    assert main(["train", "--data", str(data), *fixed]) == 1
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_dev_part_without_ratings_chooses_by_labels(rated: Corpus, tiny_corpus: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(tiny_corpus / "utterances.csv")
    dev = frame["id"][frame["partition"] == "dev"]
    data = rated(lambda r: r[~r["utterance"].isin(dev)])
    fixed = [
        "--encoder",
        "builtin:random",
        "--out",
        str(tmp_path / "out"),
        "--method",
        "frozen",
        "--split",
        "official",
        "--baseline",
        "false",
    ]
    assert main(["train", "--data", str(data), *fixed, "--target", "rater+category"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert np.isfinite([fold["dev_score"] for fold in report["folds"]]).all()
