"""Training on several corpora and testing on others: weights, classes that one lacks, label maps, scales."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sertune.cli import main
from sertune.config import from_dict
from sertune.data.synthetic import write_corpus
from sertune.errors import SertuneError
from sertune.model.emotion_model import load_model
from sertune.model.probe import fit_logistic
from sertune.model.targets import MASKED, CategoryTarget
from sertune.train.prepare import assemble, prepare
from sertune.train.run import train
from sertune.train.sampling import weighted_rows


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three tables: all four emotions; one without sadness, with excitement, on a scale of 1 to 7; one sad one."""
    root = tmp_path_factory.mktemp("tables")
    found = {}
    for number, name in enumerate(("whole", "part", "sad")):
        corpus = write_corpus(root / name, speakers=4, sentences=2, per_emotion=1, raters=3, seed=number)
        table = pd.read_csv(corpus / "utterances.csv").drop(columns="partition")
        if name == "part":
            table = table[table["emotion"] != "sadness"]
            table["emotion"] = table["emotion"].replace("happiness", "excitement")
            for dimension in ("arousal", "valence", "dominance"):
                table[dimension] = 1 + (table[dimension] - 1) * 1.5
            scale = {"low": 1, "high": 7}
            schemes = dict.fromkeys(("arousal", "valence", "dominance"), scale)
            (corpus / "part.schemes.json").write_text(json.dumps(schemes))
        if name == "sad":
            table = table[table["emotion"] == "sadness"]
        table["speaker"] = name + table["speaker"].astype(str)
        table.to_csv(corpus / f"{name}.csv", index=False)
        found[name] = str(corpus / f"{name}.csv")
    return found


def settings(tables: dict[str, str], *names: str, **more: Any) -> dict[str, Any]:
    data = [tables[name] for name in names]
    return {
        "encoder": "builtin:random",
        "data": data,
        "method": "frozen",
        "baseline": False,
        "split": "kfold",
        "precision": "fp32",
        **more,
    }


# Weights


def test_weights_are_the_shares_of_an_epoch() -> None:
    rows = np.arange(100)
    source = np.repeat([0, 1], [80, 20])
    drawn = weighted_rows(rows, source, [1, 1], np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=100)
    assert (counts[:80].sum(), counts[80:].sum()) == (50, 50)
    assert counts[:80].max() == 1
    assert set(counts[80:]) == {2, 3}
    again = weighted_rows(rows, source, [1, 1], np.random.default_rng(1))
    assert not np.array_equal(drawn, again)
    odd = weighted_rows(rows[:81], source, [1, 2], np.random.default_rng(0))
    assert len(odd) == 81
    assert (source[odd] == 1).sum() == 54
    alone = weighted_rows(rows[:10], source, [1, 9], np.random.default_rng(0))
    assert alone.tolist() == list(range(10))


def test_a_model_leans_to_the_corpus_that_weighs_more(tables: dict[str, str], tmp_path: Path) -> None:
    means = []
    for weights in ([1000.0, 1.0], [1.0, 1000.0]):
        values = settings(tables, "whole", "part", weights=weights, label_map="4class", split="speaker")
        run = train(from_dict({**values, "out": str(tmp_path / str(weights[0]))}))
        means.append(load_model(run).head.mean.clone())
        assert json.loads((run / "report.json").read_text())["data"]["weights"] == {
            "whole": weights[0],
            "part": weights[1],
        }
    assert not torch.allclose(means[0], means[1])


def test_weights_that_do_not_fit(tables: dict[str, str]) -> None:
    for weights in ([1.0], [1.0, 0.0], [1.0, -1.0]):
        with pytest.raises(SertuneError, match=r"weights = .* expected a number above 0 for each of the 2 data"):
            from_dict(settings(tables, "whole", "part", weights=weights))


# Classes that a corpus lacks


def test_policies_for_a_class_that_a_corpus_lacks(tables: dict[str, str]) -> None:
    labels = {}
    for absent in ("keep", "drop", "mask"):
        prepared = prepare(from_dict(settings(tables, "whole", "part", absent=absent, label_map="4class")))
        assert isinstance(prepared.target, CategoryTarget)
        labels[absent] = prepared.target.labels
        encoded = prepared.clips.targets
        second = prepared.clips.source == 1
        if absent == "mask":
            sad = prepared.target.labels.index("sadness")
            assert (encoded[second, sad] == MASKED).all()
            assert (encoded[~second] >= 0).all()
        else:
            assert (encoded >= 0).all()
        words = [note for note in prepared.reading.notes if "excitement counted as happiness" in note]
        assert len(words) == 1
    assert labels["keep"] == labels["mask"] == ("anger", "happiness", "neutral", "sadness")
    assert labels["drop"] == ("anger", "happiness", "neutral")


def test_masked_classes_get_no_gradient() -> None:
    target = CategoryTarget(("a", "b", "c"), smoothing=0.1, adjustment=1.0, weighted=True)
    encoded = np.array([[1, 0, 0], [0, 1, MASKED], [0, 0, 1], [1, 0, MASKED]], dtype=np.float32)
    target.balance(encoded)
    np.testing.assert_allclose(target.shares, [0.5, 0.25, 0.25])
    outputs = torch.randn(4, 3, requires_grad=True)
    target.loss(outputs, torch.from_numpy(encoded)).backward()
    assert outputs.grad is not None
    assert (outputs.grad[[1, 3], 2] == 0).all()
    assert (outputs.grad[[0, 2]] != 0).all()
    features = torch.randn(4, 5)
    found = fit_logistic(features, encoded, target, 0.1, None)
    assert found.weight.isfinite().all()


def test_without_masks_the_loss_is_the_plain_cross_entropy() -> None:
    target = CategoryTarget(("a", "b", "c"), smoothing=0.1)
    outputs, truth = torch.randn(8, 3), torch.randint(0, 3, (8,))
    loss = target.loss(outputs, torch.nn.functional.one_hot(truth, 3).float())
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(outputs, truth, label_smoothing=0.1))


def test_a_masked_run_trains_and_mixup_is_refused(tables: dict[str, str], tmp_path: Path) -> None:
    values = settings(tables, "whole", "part", absent="mask", label_map="4class", split="speaker")
    values |= {"method": {"name": "partial", "layers": 1}, "train": {"epochs": 1}, "out": str(tmp_path / "run")}
    report = json.loads((train(from_dict(values)) / "report.json").read_text())
    assert report["data"]["absent"].startswith("mask: ")
    assert report["data"]["names"] == ["whole", "part"]
    assert report["data"]["label_map"] == "4class"
    assert any("excitement counted as happiness" in note for note in report["data"]["label_space"])
    parts = [pd.read_parquet(file) for file in (tmp_path / "run" / "folds").glob("*/*.parquet")]
    predicted = pd.concat(parts)
    other = predicted["speaker"].str.startswith("part")
    assert set(other) == {True, False}
    assert (predicted.loc[other, "p_sadness"] == 0).all()
    assert (predicted.loc[~other, "p_sadness"] > 0).all()
    with pytest.raises(SertuneError, match=r"absent = mask: can't be had with augment.mixup"):
        from_dict({**values, "augment": {"mixup": 0.2}})


# Scales


def test_corpora_on_unlike_scales_train_together(tables: dict[str, str]) -> None:
    parts = assemble(from_dict(settings(tables, "whole", "part", target="dimension")))
    frame = parts.manifest.utterances
    assert list(parts.manifest.schemes["arousal"].scale) == [1, 5]
    assert frame["arousal"].max() <= 5
    assert any("arousal of part converted from 1..7 to 1..5" in note for note in parts.reading.notes)


def test_evaluation_converts_to_the_models_scale(tables: dict[str, str], tmp_path: Path) -> None:
    values = settings(tables, "whole", target="dimension", split="speaker", out=str(tmp_path / "run"))
    train(from_dict(values))
    assert main(["evaluate", str(tmp_path / "run"), "--data", tables["part"], "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["task"]["scales"]["arousal"] == [1, 5]
    assert any("converted from 1..7 to 1..5" in note for note in report["data"]["label_space"])


# Testing on another corpus


@pytest.fixture(scope="module")
def run(tables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = settings(tables, "whole", split="speaker", out=str(tmp_path_factory.mktemp("run") / "run"))
    return train(from_dict({**values, "label_map": "4class"}))


def score(run: Path, out: Path, *flags: str) -> dict[str, Any]:
    assert main(["evaluate", str(run), "--out", str(out), *flags]) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def test_policies_when_testing(run: Path, tables: dict[str, str], tmp_path: Path) -> None:
    found = {
        absent: score(run, tmp_path / absent, "--data", tables["part"], "--absent", absent)
        for absent in ("keep", "mask", "drop")
    }
    uar = {absent: report["metrics"]["uar"]["value"] for absent, report in found.items()}
    assert uar["mask"] == uar["drop"] >= uar["keep"]
    assert found["mask"]["absent_kept"]["metrics"]["uar"]["value"] == uar["keep"]
    assert "absent_kept" not in found["keep"]
    assert found["mask"]["chance"] == pytest.approx(1 / 3)
    assert "Dashed: chance, .333" in (tmp_path / "mask" / "report.html").read_text()
    assert "Dashed: chance, .250" in (tmp_path / "keep" / "report.html").read_text()
    assert found["mask"]["task"]["labels"] == ["anger", "happiness", "neutral", "sadness"]
    assert found["drop"]["task"]["labels"] == ["anger", "happiness", "neutral"]
    assert found["mask"]["protocol"]["absent classes"].startswith("mask: ")
    table = pd.read_parquet(tmp_path / "mask" / "predictions.parquet")
    assert (table["p_sadness"] == 0).all()
    assert "p_sadness" not in pd.read_parquet(tmp_path / "drop" / "predictions.parquet").columns


def test_the_models_own_label_map_is_the_default(run: Path, tables: dict[str, str], tmp_path: Path) -> None:
    own = score(run, tmp_path / "own", "--data", tables["part"])
    none = score(run, tmp_path / "none", "--data", tables["part"], "--label-map", "none")
    assert own["data"]["utterances"] == 12
    assert none["data"]["utterances"] == 8
    assert any("excitement" in warning for warning in none["warnings"])
    assert own["data"]["label_space"] == ["label map 4class: excitement counted as happiness (4 clips)"]


def test_a_map_from_a_file_is_remembered(tables: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("map: {anger: anger, happiness: happiness, excitement: happiness}\n")
    values = settings(tables, "whole", split="speaker", label_map=str(file), out=str(tmp_path / "run"))
    train(from_dict(values))
    file.unlink()
    report = score(tmp_path / "run", tmp_path / "out", "--data", tables["part"])
    emotions = pd.read_csv(tables["part"])["emotion"]
    assert report["data"]["utterances"] == emotions.isin(["anger", "excitement"]).sum()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "{sad}"], "shares one class (sadness) with the model"),
        (["--data", "{part}", "--label-map", "big7"], "unknown label map 'big7'; did you mean 'big6'"),
        (["--data", "{part}", "--label-map", "{missing}"], "no such configuration file"),
        (["--data", "{part}", "--adapt", "corpsu"], "unknown adaptation 'corpsu'; did you mean 'corpus'"),
        (["--data", "{part}", "--absent", "hide"], "invalid choice: 'hide'"),
        (["--data", "{bored}"], "no clip has a label of the model (anger, happiness, neutral, sadness)"),
    ],
)
def test_mistakes_when_testing(
    flags: list[str], words: str, run: Path, tables: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bored = Path(tables["sad"]).with_name("bored.csv")
    bored.write_text(Path(tables["sad"]).read_text().replace("sadness", "boredom"))
    places = {**tables, "bored": str(bored), "missing": str(tmp_path / "gone.yaml")}
    filled = [flag.format(**places) for flag in flags]
    if flags == ["--data", "{bored}"]:
        filled += ["--label-map", "none"]
    assert main(["evaluate", str(run), "--out", str(tmp_path / "out"), *filled]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_shared_class_can_be_scored_against_all(run: Path, tables: dict[str, str], tmp_path: Path) -> None:
    report = score(run, tmp_path / "out", "--data", tables["sad"], "--absent", "keep")
    assert 0 <= report["metrics"]["uar"]["value"] <= 1


def test_a_split_is_looked_at_under_a_map(tables: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    def trivial(*flags: str) -> dict[str, Any]:
        assert main(["check", tables["whole"], tables["part"], "--split", "speaker", "--json", *flags]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)["split"]["trivial"]["metrics"]["uar"]
        return found

    assert trivial("--label-map", "4class")["chance"] == pytest.approx(1 / 4)
    assert trivial()["chance"] == pytest.approx(1 / 5)
    assert main(["check", tables["part"], "--label-map", "4class"]) == 1
    assert "--label-map: is for a split; name one with --split" in capsys.readouterr().err
    assert main(["check", tables["part"], "--split", "speaker", "--label-map", "4clas"]) == 1
    assert "did you mean '4class'" in capsys.readouterr().err


def test_an_audit_knows_the_models_label_map(run: Path, tables: dict[str, str], tmp_path: Path) -> None:
    flags = ["--data", tables["part"], "--out", str(tmp_path / "audit"), "--clips", "4", "--conditions", "telephone"]
    assert main(["audit", str(run), *flags]) == 0
    assert json.loads((tmp_path / "audit" / "report.json").read_text())["data"]["utterances"] == 12


def test_a_protocol_brings_its_label_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sertune.corpora import corpus

    corpus("iemocap").example(tmp_path / "iemocap")
    spec = f"iemocap:{tmp_path / 'iemocap'}"
    for split in ("auto", "iemocap-10fold"):
        parts = assemble(
            from_dict(
                {"encoder": "builtin:random", "data": [spec], "method": "frozen", "split": split, "skip_bad": True}
            )
        )
        assert isinstance(parts.target, CategoryTarget)
        assert parts.label_map is not None
        assert set(parts.target.labels) <= {"anger", "happiness", "neutral", "sadness"}
        assert any("excitement counted as happiness" in note for note in parts.reading.notes)
    assert "Label map 4class, as the corpus's protocol has it" in capsys.readouterr().err
    with pytest.raises(SertuneError, match="the class 'other' is absent"):
        assemble(
            from_dict(
                {"encoder": "builtin:random", "data": [spec], "method": "frozen", "label_map": "none", "skip_bad": True}
            )
        )
    assert "Label map" not in capsys.readouterr().err


# The level


def test_a_quieter_recording_gives_the_same_answer(run: Path, tables: dict[str, str]) -> None:
    model = load_model(run)
    audio = np.random.default_rng(0).normal(scale=0.1, size=16000).astype(np.float32)
    loud, quiet = (model.predict_audio([gain * audio]) for gain in (1.0, 0.01))
    torch.testing.assert_close(loud, quiet, rtol=1e-3, atol=1e-3)
    model.encoder.features.level = 0.0
    loud, quiet = (model.predict_audio([gain * audio]) for gain in (1.0, 0.01))
    assert not torch.allclose(loud, quiet, rtol=1e-2, atol=1e-2)


def test_silence_around_a_clip_does_not_matter(run: Path) -> None:
    model = load_model(run)
    rng = np.random.default_rng(0)
    speech = rng.normal(scale=0.1, size=16000).astype(np.float32)
    quiet = (1e-5 * rng.normal(size=16000)).astype(np.float32)
    tight, padded = (np.concatenate(parts) for parts in ((quiet[:1600], speech, quiet[:1600]), (quiet, speech, quiet)))
    one, two = model.predict_audio([tight]), model.predict_audio([padded])
    torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-2)
    model.encoder.features.silence = 0.0
    assert not torch.allclose(one, model.predict_audio([padded]), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("samples", [1, 10, 159, 160, 400, 16000])
def test_trimming_leaves_the_loud_part_whole(samples: int) -> None:
    from sertune.model.features import at_level, trimmed

    loud = np.random.default_rng(0).normal(size=samples).astype(np.float32)
    assert np.array_equal(trimmed(loud, 16000, 0.1), loud)
    padded = np.concatenate([np.zeros(5000, dtype=np.float32), loud, np.zeros(5000, dtype=np.float32)])
    found = trimmed(padded, 16000, 0.1)
    assert samples <= len(found) <= samples + 2 * 1600 + 2 * 160
    assert np.square(found).sum() == pytest.approx(np.square(loud).sum(), rel=1e-5)
    silence = np.zeros(samples, dtype=np.float32)
    assert np.array_equal(at_level(trimmed(silence, 16000, 0.1), -26), silence)


def test_a_model_from_before_the_level_takes_samples_as_they_are(run: Path, tmp_path: Path) -> None:
    description = json.loads((run / "model" / "model.json").read_text())
    assert description["audio"]["level"] == -26.0
    del description["audio"]["level"], description["audio"]["silence"]
    (tmp_path / "model.json").write_text(json.dumps(description))
    (tmp_path / "model.safetensors").write_bytes((run / "model" / "model.safetensors").read_bytes())
    features = load_model(tmp_path).encoder.features
    assert (features.level, features.silence) == (0.0, 0.0)
    assert load_model(run).encoder.features.level == -26.0
