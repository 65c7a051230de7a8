import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sertune.apps import raters
from sertune.apps.raters import show, survey
from sertune.cli import main
from sertune.corpora import corpus as corpus_named
from sertune.data.manifest import Manifest, Scheme
from sertune.data.panel import write_rated_corpus
from sertune.errors import SertuneError
from sertune.metrics.agreement import alpha_interval

SCALE = Scheme(low=1, high=5)


def rated(rows: Sequence[tuple[int, str, str, Any]], schemes: Mapping[str, Scheme]) -> Manifest:
    """A corpus without audio, from (utterance, rater, attribute, value)."""
    ids = [f"u{i}" for i in range(1 + max(row[0] for row in rows))]
    table = pd.DataFrame([(ids[i], *rest) for i, *rest in rows], columns=["utterance", "rater", "attribute", "value"])
    frame = pd.DataFrame({"id": ids, "file": [f"{name}.wav" for name in ids]})
    return Manifest.of("own", frame, schemes, table, strict=False)


def voted(votes: Sequence[str], labels: str = "ahn", raters: Sequence[str] | None = None) -> Manifest:
    """Each text has one letter per vote: the first of each utterance is by the first rater, and so on."""
    names = raters or [f"r{i}" for i in range(max(map(len, votes)))]
    rows = [(i, names[k], "emotion", label) for i, text in enumerate(votes) for k, label in enumerate(text)]
    return rated(rows, {"emotion": Scheme(labels=tuple(labels))})


def panel(clips: int = 60, people: int = 6, seed: int = 0, flipped: bool = False) -> Manifest:
    """Arousal by annotators of different bias, of whom the last may have turned the scale around."""
    rng = np.random.default_rng(seed)
    true, bias = rng.normal(3, 0.7, clips), np.linspace(-0.5, 0.5, people)
    value = true[:, None] + bias + rng.normal(0, 0.2, (clips, people))
    if flipped:
        value[:, -1] = 6 - value[:, -1]
    value = np.clip(value, 1, 5)
    rows = [(i, f"p{k}", "arousal", value[i, k]) for i in range(clips) for k in range(people)]
    return rated(rows, {"arousal": SCALE})


# -- figures ---------------------------------------------------------------------------------------------------------


def test_counts() -> None:
    entry = survey(voted(["aaa", "ah", "n"]))["attributes"]["emotion"]
    assert (entry["ratings"], entry["utterances"], entry["raters"], entry["anonymous"]) == (6, 3, 3, 0)
    assert entry["per_utterance"] == {"min": 1, "median": 2.0, "max": 3}
    assert entry["per_rater"] == {"min": 1, "median": 2.0, "max": 3}
    assert (entry["fewer_than_5"], entry["one_rating"]) == (3, 1)
    assert entry["shares"] == pytest.approx({"a": 4 / 6, "h": 1 / 6, "n": 1 / 6})
    assert entry["majority"] == pytest.approx(2 / 3)


def test_what_a_hard_label_loses() -> None:
    """Ties have no hard label; an utterance with one vote says nothing."""
    found = survey(voted(["aah", "hhh", "ah", "n"]))["attributes"]["emotion"]["distribution"]
    assert found["utterances"] == 3
    assert found["tvd_majority"] == pytest.approx((1 / 3 + 0) / 2)
    overall = np.array([3, 5, 1]) / 9
    away = [0.5 * np.abs(np.array(votes) - overall).sum() for votes in ((2 / 3, 1 / 3, 0), (0, 1, 0))]
    assert found["tvd_shares"] == pytest.approx(np.mean(away))
    thirds = np.log(3) - 2 / 3 * np.log(2)
    assert found["entropy"] == pytest.approx((thirds + 0 + np.log(2)) / 3)


def test_agreement_with_the_majority_of_the_others(tmp_path: Path) -> None:
    """r0 is against two that agree; nobody is counted where the others tie."""
    survey(voted(["haa", "haa", "aaa", "ahn"]), tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "raters.csv").set_index("rater")
    assert table["agreement_emotion"].to_dict() == pytest.approx({"r0": 1 / 3, "r1": 1.0, "r2": 1.0})
    assert table["ratings"].to_dict() == {"r0": 4, "r1": 4, "r2": 4}


def test_biases_are_found(tmp_path: Path) -> None:
    manifest = panel()
    entry = survey(manifest, tmp_path / "out")["attributes"]["arousal"]
    assert entry["response"]["bias_sd"] == pytest.approx(np.linspace(-0.5, 0.5, 6).std(), rel=0.15)
    assert entry["response"]["noise"] == pytest.approx(0.2, rel=0.15)
    assert entry["response"]["shrinkage"] == pytest.approx(0.2**2 / entry["response"]["bias_sd"] ** 2, rel=0.3)
    matrix, _ = manifest.rater_matrix("arousal")
    assert entry["alpha"] == pytest.approx(alpha_interval(np.repeat(np.arange(60), 6), matrix.ravel()))
    assert entry["spread"]["mean"] == pytest.approx(matrix.std(axis=1, ddof=1).mean())
    table = pd.read_csv(tmp_path / "out" / "raters.csv")
    assert table["bias_arousal"].to_numpy() == pytest.approx(np.linspace(-0.5, 0.5, 6), abs=0.1)
    (ceiling,) = entry["ceilings"]
    assert ceiling["metric"] == "ccc_arousal"
    assert 0.5 < ceiling["low"] < ceiling["value"] < ceiling["high"] < 1


def test_the_order_of_the_ratings_does_not_matter() -> None:
    manifest = panel()
    assert manifest.ratings is not None
    mixed = manifest.ratings.sample(frac=1, random_state=0, ignore_index=True)
    one, other = survey(manifest), survey(Manifest(manifest.name, manifest.utterances, manifest.schemes, mixed))
    a, b = one["attributes"]["arousal"], other["attributes"]["arousal"]
    assert a["alpha"] == pytest.approx(b["alpha"])
    assert a["response"] == pytest.approx(b["response"])
    assert [c["value"] for c in a["ceilings"]] == pytest.approx([c["value"] for c in b["ceilings"]])


# -- warnings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flipped", [False, True])
def test_a_flipped_scale_is_named(flipped: bool) -> None:
    report = survey(panel(flipped=flipped))
    assert [one["rater"] for one in report["attributes"]["arousal"]["against"]] == (["p5"] if flipped else [])
    assert any("maybe on a flipped scale: p5 (-0." in text for text in report["warnings"]) == flipped


def test_chance_is_no_flipped_scale() -> None:
    rng = np.random.default_rng(0)
    rows = [(i, f"p{k}", "arousal", float(rng.integers(1, 6))) for i in range(40) for k in range(30)]
    assert survey(rated(rows, {"arousal": SCALE}))["attributes"]["arousal"]["against"] == []


def test_one_value_only() -> None:
    report = survey(voted(["aah", "hah", "aaa", "hha"] * 3, raters=["x", "y", "z"]))
    assert report["attributes"]["emotion"]["one_value"] == []
    report = survey(voted(["aan", "han", "aan", "hhn"] * 3, raters=["x", "y", "z"]))
    assert report["attributes"]["emotion"]["one_value"] == ["z"]
    assert report["warnings"] == ["emotion: 1 annotator gives the same value in all of 10 ratings or more: z"]


def test_one_annotator() -> None:
    report = survey(voted(["a", "h", "n"]))
    assert report["warnings"] == [
        "emotion: one annotator only (r0): agreement is not known; use --target dimension or category"
    ]
    entry = report["attributes"]["emotion"]
    assert (entry["alpha"], entry["distribution"], entry["ceilings"]) == (None, None, [])
    assert "Krippendorff's alpha undefined" in show(report)


def test_utterances_with_one_rating() -> None:
    rows = [(i, f"p{i % 3}", name, float(i % 5 + 1)) for i in range(9) for name in ("arousal", "valence")]
    report = survey(rated(rows, {"arousal": SCALE, "valence": SCALE}))
    assert len(report["warnings"]) == 1
    assert report["warnings"][0].startswith("arousal, valence: no utterance has two ratings")
    assert report["attributes"]["arousal"]["response"] is None
    assert report["plane"]["ceilings"] == []
    assert "no utterance has three annotators" in show(report)
    some = survey(voted(["aa", "h", "n"]))["warnings"]
    assert some == ["emotion: 2 of 3 utterances have one rating only: their distribution is a guess"]


@pytest.mark.parametrize("prefix", ["", "cremad/"])
def test_anonymous_annotators_are_nobody(prefix: str, tmp_path: Path) -> None:
    names = [f"{prefix}anonymous-{k}" for k in range(3)]
    report = survey(voted(["aaa", "ahh", "hhh", "nnn"] * 4, raters=names), tmp_path / "out")
    entry = report["attributes"]["emotion"]
    assert (entry["raters"], entry["anonymous"], entry["per_rater"], entry["one_value"]) == (None, 48, None, [])
    assert entry["agreement"] is None
    assert [c["metric"] for c in entry["ceilings"]] == ["uar", "tvd", "jsd"]
    assert "use --target distribution" in report["warnings"][0]
    assert "by anonymous annotators" in show(report)
    assert (tmp_path / "out" / "raters.csv").read_text() == "rater,ratings,agreement_emotion\n"


def test_some_annotators_are_anonymous() -> None:
    report = survey(voted(["aaa", "ahh", "hhh"], raters=["x", "y", "anonymous-1"]))
    assert (report["attributes"]["emotion"]["raters"], report["attributes"]["emotion"]["anonymous"]) == (2, 3)
    assert report["warnings"][0].startswith("some annotators are anonymous")


def test_ratings_outside_the_scale_are_left_out() -> None:
    rows = [(0, "x", "arousal", 2.0), (0, "y", "arousal", 3.0), (0, "z", "arousal", 9.0)]
    report = survey(rated(rows, {"arousal": SCALE}))
    assert report["attributes"]["arousal"]["ratings"] == 2
    assert report["warnings"][0] == "arousal: 1 ratings are outside the scale and are left out"
    with pytest.raises(SertuneError, match="own: no rating that can be used; arousal: 1 ratings are outside"):
        survey(rated(rows[2:], {"arousal": SCALE}))


# -- files and the command -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rated_corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("rated") / "corpus"
    write_rated_corpus(root, annotators=10, speakers=4, sentences=2, per_emotion=1)
    for file in root.rglob("*.wav"):
        file.unlink()
    return f"synthetic:{root}"


def test_command(
    rated_corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without audio; what it says is what it writes, and the targets are those of a training."""
    from sertune.corpora import read_data
    from sertune.model.targets.distribution import Plane

    monkeypatch.setattr(raters, "_PLANES", 16)  # one draw
    out = tmp_path / "deep" / "out"
    assert main(["raters", rated_corpus, "--json", "--out", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert sorted(file.name for file in out.iterdir()) == ["raters.csv", "report.json", "targets.parquet"]
    assert report == json.loads((out / "report.json").read_text())
    for words in ("alpha", "SD of bias", "CCC", "UAR", "TVD", "plane of arousal and valence, 4x4", "1 draw of 16"):
        assert words in show(report)
    assert list(report["attributes"]) == ["emotion", "arousal", "valence", "dominance"]
    manifest = read_data(rated_corpus)
    table = pd.read_parquet(out / "targets.parquet").set_index("utterance")
    assert table.index.tolist() == manifest.utterances["id"].tolist()
    shares = table.filter(regex="^v_").to_numpy()
    votes = manifest.votes().to_numpy()
    assert shares == pytest.approx(votes / votes.sum(axis=1, keepdims=True))
    scales = (manifest.schemes["arousal"].scale, manifest.schemes["valence"].scale)
    planes = Plane((4, 4)).encode(manifest.utterances, manifest.ratings, scales)
    assert np.stack(table["plane"].tolist()) == pytest.approx(planes)
    assert table["arousal"].to_numpy() == pytest.approx(manifest.utterances["arousal"].to_numpy(), abs=1e-3)
    matrix, _ = manifest.rater_matrix("arousal")
    assert table["raters"].tolist() == (~np.isnan(matrix)).sum(axis=1).tolist()


def test_without_ratings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("file,label\na.wav,anger\nb.wav,fear\n")
    assert main(["raters", str(tmp_path / "t.csv"), "--columns.emotion", "label"]) == 1
    assert "t has no ratings by single raters, only a consensus" in capsys.readouterr().err


def test_a_taken_folder_is_refused_before_reading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept").write_text("mine")
    for out in (tmp_path, tmp_path / "kept"):
        assert main(["raters", "nowhere.csv", "--out", str(out)]) == 1
        assert f"--out {out}: already there; choose a new or an empty folder" in capsys.readouterr().err


def test_a_folder_is_written_wholly_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(raters, "_targets_table", full)
    with pytest.raises(SertuneError, match="out: can't be written"):
        survey(voted(["aa", "hh"]), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cremad", "emozionalmente"])
def test_examples_of_corpora(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / name, tmp_path / "out"
    corpus_named(name).example(root)
    out.mkdir()
    assert main(["raters", f"{name}:{root}", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{name}: ")
    assert show(json.loads((out / "report.json").read_text())) in said
    assert said.endswith(f"tables: {out / 'raters.csv'}, {out / 'targets.parquet'}\n")
