"""Label-free adaptation: what it does to shifted data, what it leaves alone, and at prediction time."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import sertune
from sertune.apps.evaluate import Options, evaluate, read_for
from sertune.cli import main
from sertune.data.audio import read_audio
from sertune.errors import SertuneError
from sertune.model.adapt import (
    METHODS,
    Unlabelled,
    adapted_outputs,
    near_centroids,
    over_neighbours,
)
from sertune.model.emotion_model import EmotionModel, Vectors, load_model
from sertune.model.targets import CategoryTarget


@pytest.fixture(scope="module")
def runs(tiny_corpus: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved models: frozen, fine-tuned with a readout below the cut, and of dimensions."""
    folder = tmp_path_factory.mktemp("runs")
    common = [
        "--encoder",
        "builtin:random",
        "--data",
        f"synthetic:{tiny_corpus}",
        "--baseline",
        "false",
        "--train.epochs",
        "1",
        "--split",
        "speaker",
    ]
    for name, flags in {
        "partial": ["--method", "partial", "--method.layers", "1"],
        "convolutions": ["--method", "partial", "--head.convolutions", "8", "--head.blend", "0"],
        "dimension": ["--method", "frozen", "--target", "dimension"],
    }.items():
        assert main(["train", *common, *flags, "--out", str(folder / name)]) == 0
    return {"frozen": tiny_run, **{name: folder / name for name in ("partial", "convolutions", "dimension")}}


def unlabelled(model: EmotionModel, corpus: Path) -> Unlabelled:
    table = pd.read_csv(corpus / "utterances.csv")
    clips = [model.clip_vectors(read_audio(corpus / file, model.encoder.rate)) for file in table["file"]]
    return Unlabelled.of(clips, table["speaker"].tolist())


@pytest.mark.parametrize("kind", ["frozen", "partial", "convolutions", "dimension"])
def test_without_adaptation_the_vectors_give_what_prediction_gives(
    kind: str, runs: dict[str, Path], tiny_corpus: Path
) -> None:
    model = load_model(runs[kind])
    table = pd.read_csv(tiny_corpus / "utterances.csv")
    data = unlabelled(model, tiny_corpus)
    plain = torch.cat([model.predict_audio([read_audio(tiny_corpus / f, model.encoder.rate)]) for f in table["file"]])
    torch.testing.assert_close(adapted_outputs(model, data, "none"), plain)


@pytest.mark.parametrize("kind", ["frozen", "partial", "convolutions", "dimension"])
def test_a_shifted_and_stretched_corpus_comes_out_as_if_it_were_not(
    kind: str, runs: dict[str, Path], tiny_corpus: Path
) -> None:
    """Standardisation takes away any shift and scale of single channels, wherever the vectors go."""
    model = load_model(runs[kind])
    data = unlabelled(model, tiny_corpus)
    head, below = data.vectors.head, data.vectors.below
    moved = Vectors(3 * head + torch.randn(head.shape[1:]), None if below is None else 0.5 * below - 2)
    for method in ("corpus", "speaker"):
        one = adapted_outputs(model, data, method)
        two = adapted_outputs(model, Unlabelled(moved, data.owner, data.speakers), method)
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(one, adapted_outputs(model, data, "none"), atol=1e-3)


def test_the_training_clips_themselves_are_left_as_they_are(runs: dict[str, Path], tiny_corpus: Path) -> None:
    """The statistics that training saved are those of the trained model's vectors on the training part."""
    for kind in ("frozen", "partial", "convolutions", "dimension"):
        model = load_model(runs[kind])
        fold = json.loads((runs[kind] / "report.json").read_text())["folds"][0]
        (predictions,) = (runs[kind] / "folds").glob("*/test.parquet")
        tested = set(pd.read_parquet(predictions)["utterance"])
        table = pd.read_csv(tiny_corpus / "utterances.csv")
        rows = [i for i, name in enumerate(_ids(tiny_corpus)) if name not in tested]
        assert len(rows) == fold["train"] + fold["dev"]
        clips = [model.clip_vectors(read_audio(tiny_corpus / table["file"][i], model.encoder.rate)) for i in rows]
        data = Unlabelled.of(clips, [None] * len(rows))
        plain, adapted = adapted_outputs(model, data, "none"), adapted_outputs(model, data, "corpus")
        torch.testing.assert_close(adapted, plain, rtol=0.01, atol=0.01)


def _ids(corpus: Path) -> list[str]:
    from sertune.corpora import read_data

    return read_data(f"synthetic:{corpus}").utterances["id"].tolist()


def test_a_speaker_of_few_clips_leans_on_the_corpus(runs: dict[str, Path], tiny_corpus: Path) -> None:
    model = load_model(runs["frozen"])
    data = unlabelled(model, tiny_corpus)
    alone = Unlabelled(data.vectors, data.owner, [f"s{i}" for i in range(len(data.speakers))])
    one = adapted_outputs(model, alone, "speaker")
    assert one.isfinite().all()
    # a single clip's own spread is 0: without the corpus beside it every clip would come out alike
    assert one.std(0).min() > 0.01
    named = Unlabelled(data.vectors, data.owner, ["one"] * len(data.speakers))
    torch.testing.assert_close(adapted_outputs(model, named, "speaker"), adapted_outputs(model, data, "corpus"))


def test_masked_categories_get_no_probability(runs: dict[str, Path], tiny_corpus: Path) -> None:
    model = load_model(runs["frozen"])
    assert isinstance(model.target, CategoryTarget)
    data = unlabelled(model, tiny_corpus)
    allowed = torch.tensor([True, False, True, True])
    for method in METHODS:
        probabilities = model.target.decode(adapted_outputs(model, data, method, allowed))["probabilities"]
        assert (probabilities[:, 1] == 0).all(), method
        np.testing.assert_allclose(probabilities.sum(1), 1)


def clusters(distance: float = 4.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (60, 8) of three classes in a row, and their classes."""
    torch.manual_seed(0)
    truth = torch.arange(3).repeat_interleave(20)
    centres = distance * torch.eye(3, 8)
    return torch.randn(60, 8) * 0.5 + centres[truth] - centres.mean(0), truth


@pytest.mark.parametrize("method", [near_centroids, over_neighbours])
def test_weak_opinions_become_clear_where_the_clips_form_clusters(method: object) -> None:
    vectors, truth = clusters()
    outputs = 3 * torch.nn.functional.one_hot(truth, 3).float() + 2 * torch.randn(60, 3)
    assert callable(method)
    before = (outputs.argmax(1) == truth).float().mean()
    after = (method(outputs, vectors).argmax(1) == truth).float().mean()
    assert before < 0.9
    assert after > before + 0.03


@pytest.mark.parametrize("method", [near_centroids, over_neighbours])
def test_the_order_of_the_clips_does_not_matter(method: object) -> None:
    vectors, _ = clusters(1.0)
    outputs = torch.randn(60, 3)
    order = torch.randperm(60)
    assert callable(method)
    torch.testing.assert_close(method(outputs, vectors)[order], method(outputs[order], vectors[order]))


def test_what_adaptation_refuses(runs: dict[str, Path], tiny_corpus: Path) -> None:
    model, numbers = load_model(runs["frozen"]), load_model(runs["dimension"])
    data = unlabelled(model, tiny_corpus)
    nameless = Unlabelled(data.vectors, data.owner, [None] * len(data.speakers))
    clip = Unlabelled.of([model.clip_vectors(np.random.default_rng(0).normal(size=16000).astype("f4"))], ["s"])
    for used, given, method, words in (
        (model, data, "corpsu", "unknown adaptation 'corpsu'; did you mean 'corpus'"),
        (model, nameless, "speaker", "no clip has a speaker; use --adapt corpus"),
        (model, clip, "corpus", "needs at least two clips"),
        (numbers, data, "centroids", "is for categories, and the model predicts dimensions"),
    ):
        with pytest.raises(SertuneError, match=words):
            adapted_outputs(used, given, method)
    model.head.source_mean.fill_(torch.nan)
    with pytest.raises(SertuneError, match="saved by an earlier sertune"):
        adapted_outputs(model, data, "corpus")


# Where it is used


def test_evaluate_reports_the_plain_figure_beside(runs: dict[str, Path], tiny_corpus: Path, tmp_path: Path) -> None:
    found = {}
    for method in ("none", "corpus"):
        flags = ["--data", f"synthetic:{tiny_corpus}", "--adapt", method, "--out", str(tmp_path / method)]
        assert main(["evaluate", str(runs["frozen"]), *flags]) == 0
        found[method] = json.loads((tmp_path / method / "report.json").read_text())
    assert "plain" not in found["none"]
    assert found["corpus"]["plain"]["metrics"] == found["none"]["metrics"]
    assert set(found["corpus"]["plain"]["difference"]["uar"]) == {"value", "low", "high", "p"}
    assert "standardised" in found["corpus"]["protocol"]["adaptation"]
    table = pd.read_parquet(tmp_path / "corpus" / "predictions.parquet")
    plain = pd.read_parquet(tmp_path / "none" / "predictions.parquet")
    assert table["predicted_plain"].tolist() == plain["predicted"].tolist()
    page = (tmp_path / "corpus" / "report.html").read_text()
    assert "UAR without adaptation" in page


def test_two_corpora_are_adapted_to_one_by_one(runs: dict[str, Path], tiny_corpus: Path, tmp_path: Path) -> None:
    """A second, much louder and filtered copy must not change what the first gives."""
    table = pd.read_csv(tiny_corpus / "utterances.csv")
    (tmp_path / "wav").mkdir()
    for i, file in enumerate(table["file"]):
        audio = read_audio(tiny_corpus / file, 16000)
        soundfile.write(tmp_path / "wav" / f"{i}.wav", np.diff(audio, prepend=0.0), 16000)
    second = table[["emotion", "speaker"]].assign(file=[f"wav/{i}.wav" for i in range(len(table))])
    second.to_csv(tmp_path / "second.csv", index=False)
    model = load_model(runs["frozen"])
    specs = [f"synthetic:{tiny_corpus}", str(tmp_path / "second.csv")]
    tables = []
    for number, chosen in enumerate((specs, specs[:1])):
        out = evaluate(model, read_for(model, chosen), tmp_path / f"out{number}", Options(adapt="corpus"))
        tables.append(pd.read_parquet(out / "predictions.parquet"))
    columns = [column for column in tables[0] if str(column).startswith("p_")]
    np.testing.assert_allclose(tables[0][columns][: len(table)], tables[1][columns], atol=1e-6)


def test_predicting_a_folder_adapted_to_itself(
    runs: dict[str, Path], tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tiny_corpus / "wav")
    capsys.readouterr()
    rows = {}
    for method in ("none", "corpus", "neighbours"):
        assert main(["predict", str(runs["frozen"]), folder, "--json", "--adapt", method]) == 0
        rows[method] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows["none"]] == [row["file"] for row in rows["corpus"]]
    assert rows["none"] != rows["corpus"] != rows["neighbours"]
    predictor = sertune.load(runs["frozen"])
    files = [row["file"] for row in rows["corpus"]]
    by_hand = predictor.predict(files, adapt="corpus")
    for one, two in zip(rows["corpus"], by_hand, strict=True):
        assert one["label"] == two["label"]
        assert one["probabilities"] == pytest.approx(two["probabilities"], abs=1e-6)
    with pytest.raises(SertuneError, match="needs a list of clips"):
        predictor.predict(files[0], adapt="corpus")
    with pytest.raises(SertuneError, match="3 speakers for 16 clips"):
        predictor.predict(files, adapt="speaker", speakers=["a", "b", "c"])


def test_bad_files_do_not_stop_an_adapted_prediction(
    runs: dict[str, Path], tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, file in enumerate(sorted((tiny_corpus / "wav").glob("*.wav"))[:3]):
        (tmp_path / f"{i}.wav").write_bytes(file.read_bytes())
    (tmp_path / "1b.wav").write_bytes(b"RIFF")
    assert main(["predict", str(runs["frozen"]), str(tmp_path), "--adapt", "corpus"]) == 1
    assert "1b.wav" in capsys.readouterr().err
    flags = ["--adapt", "corpus", "--skip-bad", "--json"]
    assert main(["predict", str(runs["frozen"]), str(tmp_path), *flags]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["error" in row for row in rows] == [False, False, True, False]
    assert main(["predict", str(runs["frozen"]), str(tmp_path / "0.wav"), "--adapt", "corpus"]) == 1
    assert "at least two clips" in capsys.readouterr().err
