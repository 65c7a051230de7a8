"""Whole runs of every target of opinions: the saved model, resume, kept states, simulated panels, published layouts."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sertune.cli import main
from sertune.config import RaterConfig, RunConfig, from_dict
from sertune.corpora import iemocap, msp_improv, msp_podcast
from sertune.corpora.synthetic import read
from sertune.data.audio import read_audio
from sertune.data.labels import DIMENSIONS
from sertune.data.manifest import Manifest
from sertune.data.panel import simulated
from sertune.data.synthetic import FELT_COLUMNS, write_corpus
from sertune.model.emotion_model import load_model
from sertune.model.encoder import load_encoder
from sertune.model.planes import Truth
from sertune.model.predictions import prediction_table
from sertune.model.probe import fit_linear
from sertune.model.raters import RaterLayer
from sertune.model.targets import RaterTarget, rater_names
from sertune.model.targets.slots import split_slots
from sertune.train.folds import _fresh_model
from sertune.train.loop import Fit
from sertune.train.prepare import prepare
from sertune.train.raters import start_raters
from sertune.train.run import train
from test_training import KilledError, assert_same_result, settings

FORMS: dict[str, dict[str, Any]] = {
    "category": {"name": "category"},
    "dimension": {"name": "dimension"},
    "votes": {"name": "distribution", "distribution": {"loss": "emd"}},
    "plane": {"name": "distribution", "distribution": {"of": "plane"}},
    "gaussian": {"name": "distribution", "distribution": {"of": "gaussian"}},
    "beta": {"name": "distribution", "distribution": {"of": "beta"}},
    "rater": {"name": "rater"},
    "rater-embedding": {"name": "rater", "rater": {"form": "embedding", "rank": 4}},
    "rater-branch": {"name": "rater", "rater": {"branch": [16, 16]}},
    "rater-label": {"name": "rater", "rater": {"of": "category"}},
    "rater+density": {"name": "rater+density", "dimensions": ["arousal", "valence"], "plane": {"fine": 32}},
    "rater+category": {"name": "rater+category"},
    "dimension+category": {"name": "dimension+category", "schedule": "alternate", "weights": [1.0, 0.5]},
}
METHODS: dict[str, dict[str, Any]] = {
    "partial": {"name": "partial", "layers": 1},
    "lora": {"name": "lora", "layers": 1, "lora": {"rank": 2}},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 clips, half of them to train on, with 5 raters."""
    root = tmp_path_factory.mktemp("rated") / "corpus"
    return write_corpus(root, speakers=4, sentences=3, per_emotion=2, raters=5)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """States on disk, which most runs here share."""
    return tmp_path_factory.mktemp("states")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Every run is given the same pre-trained weights, as building them takes a second, and rough true planes."""
    from sertune.model import emotion_model
    from sertune.train import prepare as prepared

    encoder = load_encoder("builtin:random")
    weights = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}

    def again(*_: Any, **__: Any) -> Any:
        encoder.clear()
        encoder.model.load_state_dict(weights)
        encoder.model.zero_grad()
        return encoder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emotion_model, "load_encoder", again)
        patch.setattr(prepared, "load_encoder", again)
        # true planes of fewer draws on a coarser histogram: what they are is tested elsewhere
        patch.setattr("sertune.train.choose.Truth", partial(Truth, draws=40, fine=64))
        patch.setattr("sertune.model.predictions.CEILING_CLIPS", 4)
        patch.setattr("sertune.model.predictions.CEILING_FINE", 32)
        patch.setattr("sertune.train.judge.RESAMPLES", 10)
        yield


def options(corpus: Path, out: Path, form: str, method: str = "partial", **changes: Any) -> RunConfig:
    """A quick run of a target."""
    values = {
        "target": FORMS[form],
        "method": METHODS[method],
        "train": {"epochs": 2, "batch_clips": 8, "lr": 1e-3, "head_lr": 5e-3, "average": 0.5},
    }
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value}
    return settings(corpus, out, **values)


Run = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def whole(small: Path, kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Finished runs by target and method, each made once."""

    @lru_cache
    def run(form: str, method: str) -> Path:
        out = tmp_path_factory.mktemp("whole") / "run"
        return train(options(small, out, form, method, cache={"folder": str(kept)}))

    return run


# -- every target with the encoder


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", FORMS)
def test_a_saved_model_predicts_as_its_run_did(form: str, method: str, whole: Run, small: Path) -> None:
    run = whole(form, method)
    table = pd.read_parquet(run / "predictions.parquet")
    assert len(table) == 8
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [0, 1, 2]
    assert all(np.isfinite([row["dev_score"], row["dev_loss"]]).all() for row in log)
    report = json.loads((run / "report.json").read_text())
    assert all(metric["value"] is not None for metric in report["metrics"].values())
    model = load_model(run)
    frame = read(small).utterances.set_index("id", drop=False).loc[table["utterance"][:3]]
    outputs = model.predict_audio([read_audio(file, model.encoder.rate) for file in frame["file"]])
    again = prediction_table(frame, model.target, outputs)
    told = [
        c for c in map(str, again) if c in ("arousal", "valence", "dominance") or c[:2] == "p_" or c[:6] == "spread"
    ]
    assert told
    for name in told:
        np.testing.assert_allclose(again[name], table[name][:3], atol=1e-4)
    if "plane" in again:
        np.testing.assert_allclose(np.stack(list(again["plane"])), np.stack(list(table["plane"][:3])), atol=1e-4)


@pytest.mark.parametrize("form", ["rater", "rater-embedding", "rater-branch", "rater-label", "rater+category"])
def test_single_ratings_are_predicted_as_the_model_knows_its_annotators(form: str, whole: Run, small: Path) -> None:
    run = whole(form, "lora")
    rated = pd.read_parquet(next(run.glob("folds/*/test_ratings.parquet")))
    manifest = read(small)
    table = pd.read_parquet(run / "predictions.parquet")
    assert manifest.ratings is not None
    attributes = ["emotion"] if form == "rater-label" else ["arousal", "valence", "dominance"]
    true = manifest.ratings[manifest.ratings["attribute"].isin(attributes)]
    both = rated.merge(true, on=["utterance", "rater", "attribute"], validate="one_to_one")
    assert len(both) == len(rated) == true["utterance"].isin(table["utterance"]).sum()
    assert (both["true"] == both["value"]).all()
    assert both["known"].all()
    model = load_model(run)
    assert model.rater_part is not None
    target, _ = model.rater_part
    files = manifest.utterances.set_index("id")["file"]
    for name in table["utterance"][:2]:
        vectors = model.clip_vectors(read_audio(files[name], model.encoder.rate))
        everyone = model.annotators(vectors)[0]
        for row in rated[rated["utterance"] == name].itertuples():
            own = everyone[target.raters.index(str(row.rater))]
            if isinstance(target, RaterTarget):
                value = 3 + 2 * float(own[target.dimensions.index(str(row.attribute))])
                assert row.predicted == pytest.approx(np.clip(value, 1, 5), abs=1e-3)
            else:
                assert row.predicted == target.labels[int(own.argmax())]


@pytest.mark.parametrize(
    ("form", "method", "stop_at"),
    [
        ("rater+density", "partial", 4),
        ("rater-embedding", "lora", 3),
        ("dimension+category", "lora", 2),
        ("beta", "lora", 4),
    ],
)
def test_a_run_goes_on_to_the_same_result(
    form: str,
    method: str,
    stop_at: int,
    whole: Run,
    small: Path,
    kept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = options(
        small, tmp_path / "run", form, method, train={"checkpoint_minutes": 0.0}, cache={"folder": str(kept)}
    )
    step, done = Fit._step, 0

    def stopping(self: Fit, rows: np.ndarray, number: int) -> float:
        nonlocal done
        done += 1
        if done == stop_at:
            raise KilledError
        return step(self, rows, number)

    monkeypatch.setattr(Fit, "_step", stopping)
    with pytest.raises(KilledError):
        train(config)
    monkeypatch.setattr(Fit, "_step", step)
    train(config)
    assert_same_result(whole(form, method), tmp_path / "run")


@pytest.mark.parametrize(("form", "method"), [("rater+category", "partial"), ("rater-label", "lora")])
def test_kept_states_are_those_computed_live(form: str, method: str, whole: Run, small: Path, tmp_path: Path) -> None:
    train(options(small, tmp_path / "live", form, method, cache={"states": False}))
    assert_same_result(whole(form, method), tmp_path / "live")


@pytest.mark.parametrize("form", ["rater+density", "rater-label", "rater+category", "gaussian"])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(form: str, small: Path, kept: Path, tmp_path: Path) -> None:
    gradients = []
    for accumulate in (1, 3):
        config = options(
            small,
            tmp_path / "run",
            form,
            train={"accumulate": accumulate, "clip": 0.0},
            head={"dropout": 0.0},
            augment={"time_crop": [1.0, 1.0]},  # each part would draw its own
            cache={"folder": str(kept)},
        )
        prepared = prepare(config)
        fold = prepared.protocol.folds[0]
        fit = Fit(_fresh_model(prepared, fold, config)[0], prepared.clips, fold, config, prepared.device)
        fit.model.train()
        loss = fit._backward(fit._load(fold.train[:13]), 0)
        gradients.append((loss, [p.grad.clone() for p in fit.parameters if p.grad is not None]))
    assert gradients[0][0] == pytest.approx(gradients[1][0], abs=1e-6)
    assert len(gradients[0][1]) == len(gradients[1][1]) > 5
    for whole_, split in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(split, whole_, atol=1e-5, rtol=1e-3)


# -- who the annotators are


def test_somebody_who_rates_in_the_test_part_only_counts_as_the_average(
    small: Path, kept: Path, tmp_path: Path
) -> None:
    manifest = read(small)
    assert manifest.ratings is not None
    ratings, frame = manifest.ratings.copy(), manifest.utterances
    test = frame["id"][frame["partition"] == "test"]
    mine = ratings["utterance"].isin(test) & (ratings["rater"] == "r01")
    ratings.loc[mine, "rater"] = "stranger"
    replace(manifest, ratings=ratings).save(tmp_path / "data")
    config = options(small, tmp_path / "run", "rater", cache={"folder": str(kept)})
    run = train(replace(config, data=[str(tmp_path / "data")]))
    rated = pd.read_parquet(next(run.glob("folds/*/test_ratings.parquet")))
    assert set(rated["rater"][~rated["known"]]) == {"stranger"}
    model = load_model(run)
    assert model.rater_part is not None
    target, layer = model.rater_part
    assert isinstance(target, RaterTarget)
    place = target.raters.index("stranger")
    assert not layer.known[place]
    row = rated[~rated["known"]].iloc[0]
    file = frame.set_index("id")["file"][row["utterance"]]
    vectors = model.clip_vectors(read_audio(file, model.encoder.rate))
    average = model.annotators(vectors, torch.zeros(1, *layer.own.shape[1:]))[0, 0]
    value = 3 + 2 * float(average[target.dimensions.index(row["attribute"])])
    assert row["predicted"] == pytest.approx(np.clip(value, 1, 5), abs=1e-3)
    assert len(model.annotators(vectors)[0]) == 5


def trained_panel(manifest: Manifest, seed: int) -> tuple[RaterTarget, RaterLayer, torch.Tensor, torch.Tensor]:
    """Annotators trained on what can be heard of simulated clips, two of three for training; with the vectors of all.

    The vectors are random maps of the clips' truth with noise, in place of an encoder's.
    """
    frame = manifest.utterances
    assert manifest.ratings is not None
    names = rater_names(manifest.ratings, DIMENSIONS)
    target = RaterTarget(DIMENSIONS, ((1.0, 5.0),) * 3, names)
    targets = target.encode(frame, manifest.ratings)
    rng = np.random.default_rng(seed)
    heard = frame[list(FELT_COLUMNS)].to_numpy(dtype=np.float64)
    mapped = (heard - heard.mean(0)) @ rng.standard_normal((3, 12)) + 0.2 * rng.standard_normal((len(frame), 12))
    vectors = torch.from_numpy(mapped).float()
    torch.manual_seed(seed)
    layer = target.last_layer(12)
    assert isinstance(layer, RaterLayer)
    rows = np.flatnonzero((frame["partition"] == "train").to_numpy())
    solved = fit_linear(vectors[rows], targets[rows], target, 0.01)
    layer.start_from(solved.weight, solved.bias)
    model: Any = SimpleNamespace(target=target, rater_part=(target, layer))
    start_raters(model, targets[rows], RaterConfig())
    optimizer = torch.optim.AdamW(layer.parameters(), lr=3e-3)
    for _ in range(10):
        for part in np.array_split(rng.permutation(rows), max(1, len(rows) // 16)):
            own = torch.from_numpy(targets[part])
            optimizer.zero_grad()
            target.loss(layer(vectors[part], target.slots(own)), own).backward()
            optimizer.step()
    layer.eval().requires_grad_(False)
    return target, layer, vectors, torch.from_numpy(targets)


def copies(corpus: Path, times: int) -> Manifest:
    """The synthetic corpus several times, every third clip for testing; without ratings."""
    manifest = read(corpus)
    frame = pd.concat([manifest.utterances.assign(id=manifest.utterances["id"] + f"-{n}") for n in range(times)])
    frame = frame.reset_index(drop=True)
    frame["partition"] = np.where(np.arange(len(frame)) % 3 < 2, "train", "test")
    return replace(manifest, utterances=frame, ratings=None)


def test_a_given_shrinkage_takes_the_place_of_the_fitted_one(small: Path) -> None:
    """With n ratings an annotator keeps n / (n + shrinkage) of what they show, also where nothing else is trained."""
    manifest, _ = simulated(copies(small, 2), 8, seed=0, per_clip=(3, 5))
    assert manifest.ratings is not None
    target = RaterTarget(DIMENSIONS, ((1.0, 5.0),) * 3, rater_names(manifest.ratings, DIMENSIONS))
    targets = target.encode(manifest.utterances, manifest.ratings)
    layers: dict[float, RaterLayer] = {}
    for shrinkage in (0.0, 10.0, 1e6):
        layer = target.last_layer(4)
        assert isinstance(layer, RaterLayer)
        model: Any = SimpleNamespace(target=target, rater_part=(target, layer))
        start_raters(model, targets, RaterConfig(shrinkage=shrinkage))
        layers[shrinkage] = layer
    own = {shrinkage: layer.own.detach().clone() for shrinkage, layer in layers.items()}
    counts = layers[0.0].counts[:, None, None, None]
    torch.testing.assert_close(own[10.0], own[0.0] * counts / (counts + 10))
    assert float(own[1e6].abs().max()) < 0.01 < float(own[10.0].abs().mean())
    last: Any = SimpleNamespace(target=target, rater_part=(target, layers[1e6]))
    start_raters(last, targets, RaterConfig(shrinkage=0.0), start=False)
    assert torch.equal(layers[1e6].own.detach(), own[1e6])


def test_what_is_solved_again_with_dev_keeps_the_annotators_settings(small: Path, tmp_path: Path) -> None:
    """A frozen model is fitted once more on train and dev together, under the same shrinkage."""
    values = {
        "encoder": "builtin:random",
        "data": f"synthetic:{small}",
        "target": {"name": "rater", "dimensions": ["arousal"], "rater": {"shrinkage": 7.0}},
        "method": "frozen",
        "split": "speaker",
        "baseline": False,
        "out": str(tmp_path / "run"),
    }
    found = load_model(train(from_dict(values))).rater_part
    assert found is not None
    assert float(found[1].shrinkage) == 7


def test_biases_are_recovered_where_ratings_are_dense(small: Path) -> None:
    """Of annotators of known bias: what they add for clips in the middle of the scale."""
    for seed in range(3):
        manifest, panel = simulated(copies(small, 9), 20, seed=seed, per_clip=(10, 20))
        target, layer, vectors, _ = trained_panel(manifest, seed)
        middle = (manifest.utterances[list(FELT_COLUMNS)].abs() < 0.5).to_numpy()
        values = layer.everyone(*layer.parts(vectors)).numpy()
        order = [target.raters.index(name) for name in panel.names]
        for column, name in enumerate(DIMENSIONS):
            own = values[middle[:, column]][:, order, column]
            bias = (own - own.mean(1, keepdims=True)).mean(0)
            assert np.corrcoef(bias, panel.bias[:, column])[0, 1] > 0.9, (seed, name)


def test_annotators_with_five_ratings_are_no_worse_than_the_average(small: Path) -> None:
    """Three annotators rate all that they can, the others five clips each; by the ratings of the test clips."""
    errors = []
    for seed in range(5):
        manifest, panel = simulated(copies(small, 5), 15, seed=seed, per_clip=(8, 15))
        assert manifest.ratings is not None
        frame, ratings = manifest.utterances, manifest.ratings
        training = ratings["utterance"].isin(frame["id"][frame["partition"] == "train"])
        rng, few = np.random.default_rng(seed), set()
        for name in panel.names[3:]:
            own = ratings["utterance"][training & (ratings["rater"] == name)].unique()
            few |= {(name, clip) for clip in rng.permutation(own)[:5]}
        pairs = zip(ratings["rater"], ratings["utterance"], strict=True)
        chosen = np.array([pair in few for pair in pairs])
        kept = ~(training & ratings["rater"].isin(panel.names[3:])) | chosen
        target, layer, vectors, targets = trained_panel(replace(manifest, ratings=ratings[kept]), seed)
        sparse = torch.tensor([target.raters.index(name) for name in panel.names[3:]])
        assert (layer.counts[sparse] == 5).all()
        average, features = layer.parts(vectors)
        everyone = layer.everyone(average, features)
        raters, true = split_slots(targets, 0, 3)
        test = torch.tensor((frame["partition"] == "test").to_list())[:, None] & torch.isin(raters, sparse)
        clip, slot = test.nonzero(as_tuple=True)
        made = everyone[clip, raters[clip, slot]]
        errors.append([float((values - true[clip, slot]).square().mean()) for values in (made, average[clip])])
    own_error, mean_error = np.mean(errors, axis=0)
    assert own_error <= mean_error


# -- published layouts, end to end

LAYOUTS = {"iemocap": iemocap, "msp_improv": msp_improv, "msp_podcast": msp_podcast}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Imitations of the corpora, in which valence and dominance differ too."""
    root, rng = tmp_path_factory.mktemp("layouts"), np.random.default_rng(0)

    def some(match: re.Match[bytes]) -> bytes:
        return match[1] + str(rng.integers(1, 5)).encode()

    for name, module in LAYOUTS.items():
        module.example(root / name)
    tables = [*root.glob("iemocap/*/*/dialog/EmoEvaluation/Ses*.txt"), *root.glob("msp_improv/Eval*.txt")]
    assert len(tables) == 11
    for file in tables:
        given = rb"(\[[\d.]+, [\d.]+, |\[|val |dom  |V:|D:)\d"
        file.write_bytes(re.sub(given, some, re.sub(rb"(\[)\d(?=[\d.]+, )", some, file.read_bytes())))
    return {name: root / name for name in LAYOUTS}


@pytest.fixture(scope="module")
def published(layouts: dict[str, Path], kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs of the command line on the layouts, by corpus and method."""

    @lru_cache
    def run(name: str, method: str) -> Path:
        out = tmp_path_factory.mktemp("published") / "run"
        split = {"iemocap": "speaker", "msp_improv": "speaker", "msp_podcast": "msp-podcast-test1"}[name]
        flags = ["--method", method, "--method.layers", "1", "--train.epochs", "1", "--baseline", "false"]
        data = [
            "--encoder",
            "builtin:random",
            "--data",
            f"{name}:{layouts[name]}",
            "--split",
            split,
            "--target",
            "rater",
            "--skip-bad",
            "true",
        ]
        cache = ["--cache.folder", str(kept), "--head.regularisation", "[0.1]"]
        assert main(["train", *data, *flags, *cache, "--out", str(out)]) == 0
        return out

    return run


@pytest.mark.parametrize("method", ["partial", "lora"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layouts_train(name: str, method: str, published: Run) -> None:
    run = published(name, method)
    report = json.loads((run / "report.json").read_text())
    assert report["task"]["opinions"] == "rater"
    assert report["task"]["grid"] == [4, 4]
    table = pd.read_parquet(run / "predictions.parquet")
    assert np.isfinite(table[["arousal", "valence", "dominance", "spread_arousal"]].to_numpy()).all()
    np.testing.assert_allclose(np.stack(list(table["plane"])).sum(1), 1)
    rated = pd.read_parquet(next(run.glob("folds/*/test_ratings.parquet")))
    assert np.isfinite(rated["predicted"].astype(float)).all()
    assert len(rated) > 20


@pytest.mark.parametrize(
    ("name", "method", "other"),
    [
        ("iemocap", "partial", "msp_improv"),
        ("msp_improv", "lora", "msp_podcast"),
        ("msp_podcast", "lora", "iemocap"),
    ],
)
def test_published_layouts_are_evaluated_on_each_other(
    name: str, method: str, other: str, published: Run, layouts: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "evaluated"
    run = published(name, method)
    command = ["evaluate", str(run), "--data", f"{other}:{layouts[other]}", "--skip-bad", "--out", str(out)]
    assert main(command) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["task"]["opinions"] == "rater"
    table = pd.read_parquet(out / "predictions.parquet")
    low, high = LAYOUTS[other].read(layouts[other]).schemes["arousal"].scale
    assert table["arousal_true"].dropna().between(low, high).all()
    np.testing.assert_allclose(np.stack(list(table["plane"])).sum(1), 1)
