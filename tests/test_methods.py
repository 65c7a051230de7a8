"""The contract of the methods: every one on every family."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, save_family
from safetensors.torch import load_file

import sertune
from sertune.config import AdapterConfig, AudioConfig, HeadConfig, LoraConfig, MethodConfig, PromptConfig
from sertune.data.batch import collate, pad_states
from sertune.errors import SertuneError
from sertune.model.emotion_model import EmotionModel, ModelSpec, load_model
from sertune.model.encoder import Encoder, load_encoder
from sertune.model.merge import merge
from sertune.model.methods import apply_methods
from sertune.model.methods.adapter import Adapter
from sertune.model.methods.lora import LoraLinear, lora_modules, scale_of
from sertune.model.structure import FeedForward, attention_linears, feed_forwards
from sertune.model.targets import CategoryTarget
from sertune.train.loop import Fit
from sertune.train.run import train
from test_training import assert_same_result, settings

ALL = [*FAMILIES, "builtin"]
BOTH = LoraConfig(rank=4, targets=["attention", "feed-forward"], rslora=True)
SMALL = AdapterConfig(bottleneck=8, scale=0.5)
METHODS = {
    "partial": MethodConfig("partial"),
    "full": MethodConfig("full"),
    "bias": MethodConfig("bias"),
    "lora": MethodConfig("lora", lora=LoraConfig(rank=4)),
    "lora-both": MethodConfig("lora", lora=BOTH),
    "adapter": MethodConfig("adapter", adapter=SMALL),
    "adapter-parallel": MethodConfig("adapter", adapter=replace(SMALL, place="parallel")),
    "prompt": MethodConfig("prompt", prompt=PromptConfig(3)),
    "lora+bias": MethodConfig("lora+bias", lora=BOTH),
    "lora+prompt": MethodConfig("prompt+lora", lora=BOTH),
    "adapter+lora": MethodConfig("adapter+lora", lora=BOTH, adapter=SMALL),
    "partial+prompt": MethodConfig("partial+prompt"),
}
UNLIKE = ("hubert", "wavlm", "sew", "w2v-bert", "whisper", "builtin")
"""Families whose modules have unlike names or places; what only depends on these is tested on them."""
PROMPT_SLACK = {"builtin": 0.03}
"""Trained weights on noise attend to some prompts far more than to a frame, and their gates start at a millionth."""
CONVOLUTIONAL = ("w2v-bert", "w2v-bert-relative")
CASES = [(f, m) for f in ALL for m in METHODS if not (f in CONVOLUTIONAL and "prompt" in m)]
SAVED = [(f, m) for f, m in CASES if f in UNLIKE or m in ("lora+bias", "adapter+lora")]
MERGED = [(f, m) for f in ALL for m in ("lora", "lora-both", "lora+bias")]
UNCHANGED_BIAS = ("k_proj.bias", "k_proj.base.bias", "linear_k.bias", "linear_k.base.bias")
"""A key's bias shifts all scores of a query alike, which the softmax takes out again."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("families")
    return {**{family: save_family(family, root / family) for family in FAMILIES}, "builtin": "builtin"}


Bases = Callable[[str], Encoder]


@pytest.fixture(scope="module")
def shared(folders: dict[str, str]) -> Bases:
    """Each family's encoder, built once, as it was pre-trained."""
    built: dict[str, tuple[Encoder, dict[str, torch.Tensor]]] = {}

    def base(family: str) -> Encoder:
        if family not in built:
            encoder = load_encoder(folders[family], check=False)
            built[family] = (encoder, {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()})
        encoder, weights = built[family]
        encoder.clear()
        encoder.model.load_state_dict(weights)
        encoder.model.zero_grad()
        return encoder

    return base


@pytest.fixture
def load(shared: Bases, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], EmotionModel]:
    """`load_model` onto the shared encoder, whose weights are set back."""

    def loaded(family: str, folder: Path) -> EmotionModel:
        monkeypatch.setattr("sertune.model.emotion_model.load_encoder", lambda *_, **__: shared(family))
        return load_model(folder)

    return loaded


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16000))).astype(np.float32)


def build(encoder: Encoder, method: MethodConfig, **head: Any) -> EmotionModel:
    torch.manual_seed(0)
    options = HeadConfig(**{"dropout": 0.0, "mix": "last", **head})
    spec = ModelSpec(encoder.name, method, options, CategoryTarget(("a", "b", "c")), AudioConfig(silence=0, level=0))
    return EmotionModel(encoder, spec).eval()


@torch.no_grad()
def randomise(model: EmotionModel) -> None:
    """Moves everything that trains away from where it started."""
    torch.manual_seed(1)
    for name, parameter in zip(model.trained_names, model.trained_parameters(), strict=True):
        size = 0.3 if name.endswith(("lora_B", "up.weight", "vectors", "gate")) else 0.05
        parameter.add_(size * torch.randn_like(parameter))
    torch.nn.init.normal_(model.head.output.get_parameter("weight"))


def linears(layer: torch.nn.Module, part: FeedForward) -> tuple[Any, Any]:
    first, last = (layer.get_submodule(path) for path in part.linears)
    return first, last


def tree(encoder: Encoder) -> list[tuple[str, str, int, int]]:
    return [
        (name, type(module).__name__, len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in encoder.model.named_modules()
    ]


@torch.no_grad()
def states(encoder: Encoder, seconds: float = 0.6) -> torch.Tensor:
    return encoder.replay(encoder.front(noise(seconds)), 0)[-1].states


@pytest.mark.parametrize(("family", "method"), CASES)
def test_it_starts_as_the_identity_and_is_taken_away_without_trace(family: str, method: str, shared: Bases) -> None:
    encoder = shared(family)
    before, modules = states(encoder), tree(encoder)
    weights = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    model = build(encoder, METHODS[method])
    size = float(before.abs().max())
    slack = PROMPT_SLACK.get(family, 1e-5) * size if "prompt" in method else 0
    torch.testing.assert_close(states(encoder), before, atol=slack, rtol=0)
    assert encoder.cut == (0 if method == "full" else max(0, encoder.depth - 2))
    if not {"partial", "full", "bias"} & set(METHODS[method].parts):
        randomise(model)
        assert not torch.allclose(states(encoder), before, atol=1e-4)
    encoder.clear()
    assert tree(encoder) == modules
    assert encoder.model.state_dict().keys() == weights.keys()
    for name, tensor in encoder.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert torch.equal(states(encoder), before)
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


@pytest.mark.parametrize(("family", "method"), CASES)
def test_every_trainable_parameter_gets_a_gradient_and_no_other(family: str, method: str, shared: Bases) -> None:
    encoder = shared(family)
    model = build(encoder, METHODS[method], pooling="mean+std")
    randomise(model)
    model.train()
    targets = torch.eye(3)[:2]
    clips = [encoder.clip_states(noise(seconds, seed), model.start) for seed, seconds in enumerate((0.6, 0.8))]
    model.target.loss(model(collate(clips, targets, ["", ""])), targets).backward()
    own = dict(model.encoder.model.named_parameters())
    got = {name for name, parameter in own.items() if parameter.grad is not None and bool(parameter.grad.any())}
    assert {name for name in set(model.trained_names) - got if not name.endswith(UNCHANGED_BIAS)} == set()
    assert got <= set(model.trained_names)
    below = {id(parameter) for layer in encoder.layers[: encoder.cut] for parameter in layer.parameters()}
    assert not any(id(own[name]) in below for name in model.trained_names)


@pytest.mark.parametrize(("family", "method"), CASES)
def test_replay_from_kept_states_equals_the_whole(family: str, method: str, shared: Bases) -> None:
    encoder = shared(family)
    model = build(encoder, METHODS[method])
    randomise(model)
    audio = noise(0.7)
    with torch.no_grad():
        hidden = encoder.replay(encoder.front(audio), 0)
        kept = encoder.clip_states(audio, encoder.cut).states
        assert kept is not None
        replayed = encoder.replay(pad_states([kept]), encoder.cut)[-1].states
        torch.testing.assert_close(replayed, hidden[-1].states, atol=1e-5, rtol=1e-5)
        if "prompt" not in method:  # prompts live beside the model's own forward
            own = encoder._whole(encoder.features(audio))
            torch.testing.assert_close(replayed, own[:, : replayed.shape[1]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_clip_does_not_depend_on_its_batch_mates(family: str, method: str, shared: Bases) -> None:
    encoder = shared(family)
    model = build(encoder, METHODS[method])
    randomise(model)
    with torch.no_grad():
        clips = [encoder.clip_states(noise(seconds, seed), model.start) for seed, seconds in enumerate((0.5, 1.2, 0.9))]
        together = model(collate(clips, torch.zeros(3, 3), ["", "", ""]))
        alone = torch.cat([model(collate([clip], torch.zeros(1, 3), [""])) for clip in clips])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("family", "method"), SAVED)
def test_a_saved_model_gives_the_same_output(
    family: str, method: str, shared: Bases, load: Callable[[str, Path], EmotionModel], tmp_path: Path
) -> None:
    encoder = shared(family)
    model = build(encoder, METHODS[method])
    randomise(model)
    expected = model.predict_audio([noise(0.7)])
    model.save(tmp_path / "model")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert ("lora" in method) == (tmp_path / "model" / "adapter" / "adapter_config.json").is_file()
    assert not [name for name in stored if "lora" in name]
    torch.testing.assert_close(load(family, tmp_path).predict_audio([noise(0.7)]), expected, atol=0, rtol=0)


@pytest.mark.parametrize(("family", "method"), MERGED)
def test_merged_equals_unmerged(family: str, method: str, shared: Bases) -> None:
    encoder = shared(family)
    before = tree(encoder)
    model = build(encoder, METHODS[method], mix="concat")
    randomise(model)
    clips = [noise(0.7), noise(1.0, 1)]
    expected = model.predict_audio(clips)
    merged = merge(model)
    assert tree(encoder) == before
    assert merged.spec.method == MethodConfig("partial", min(2, encoder.depth))
    torch.testing.assert_close(merged.predict_audio(clips), expected, atol=1e-4, rtol=1e-4)
    once = merged.predict_audio(clips)
    torch.testing.assert_close(merge(merged).predict_audio(clips), once, atol=0, rtol=0)


def test_what_is_nonlinear_is_not_merged(shared: Bases) -> None:
    for method, reason in (("adapter+lora", "adapters are nonlinear"), ("lora+prompt", "prompts are inputs")):
        with pytest.raises(SertuneError, match=f"can't be merged, as {reason}"):
            merge(build(shared("hubert"), METHODS[method]))


# -- what is found ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ALL)
def test_projections_and_feed_forward_parts_are_found(family: str, shared: Bases) -> None:
    encoder = shared(family)
    layer = encoder.layers[0]
    found = attention_linears(layer)
    words = {word for path in found for word in path.rpartition(".")[2].split("_")}
    assert len(found) == 4
    assert {"q", "k", "v", "out"} <= words
    parts = feed_forwards(layer, encoder.width)
    assert len(parts) == (2 if family in CONVOLUTIONAL else 1)
    for part in parts:
        wide, narrow = linears(layer, part)
        assert wide.in_features == narrow.out_features == encoder.width < wide.out_features == narrow.in_features


def test_an_encoder_without_what_is_asked_for_is_an_error(shared: Bases) -> None:
    encoder = shared("wav2vec2-group")
    layers = list(encoder.layers)
    for index in range(len(layers)):
        encoder.layers[index] = torch.nn.Identity()
    try:
        for method, key in (
            ("lora", r"method\.lora\.targets = feed-forward"),
            ("adapter", "adapter"),
            ("bias", "bias"),
        ):
            encoder._tail_paths, tail = (), encoder._tail_paths
            with pytest.raises(SertuneError, match=f"{key}.*no module matched"):
                apply_methods(encoder, METHODS[method])
            encoder._tail_paths = tail
    finally:
        for index, layer in enumerate(layers):
            encoder.layers[index] = layer


def test_mistakes_are_named(shared: Bases) -> None:
    encoder = shared("whisper")
    before = tree(encoder)
    for method in ("lora", "adapter", "prompt", "bias"):
        with pytest.raises(SertuneError, match=r"method\.layers = 4: .* has 3 layers; choose 1 to 3"):
            build(encoder, replace(METHODS[method], layers=4))
    with pytest.raises(SertuneError, match=r"method\.lora\.rank = 33: above the width 32 of fc1 in layer 1 .*1 to 32"):
        build(encoder, MethodConfig("lora", lora=LoraConfig(rank=33)))
    encoder.clear()
    assert tree(encoder) == before
    for family in CONVOLUTIONAL:
        with pytest.raises(SertuneError, match=r"prompt.*convolutions"):
            build(shared(family), METHODS["prompt"])


def test_added_parameters_are_those_of_the_paper() -> None:
    """PEFT-SER (arXiv 2306.05350) on wav2vec 2.0 base: adapters of width 128, LoRA of rank 8, 16 and 32."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    with torch.device("meta"):
        model = Wav2Vec2Model(Wav2Vec2Config())
        added = dict.fromkeys((8, 16, 32), 0)
        adapters = 0
        for layer in model.encoder.layers:
            for part in feed_forwards(layer, 768):
                adapters += sum(p.numel() for p in Adapter(768, AdapterConfig()).parameters())
                for rank in added:
                    for path in part.linears:
                        update = LoraLinear(layer.get_submodule(path), rank, 1.0, 0.0)
                        added[rank] += update.lora_A.numel() + update.lora_B.numel()
    assert round(adapters / 1e6, 2) == 2.37
    assert {rank: round(count / 1e6, 2) for rank, count in added.items()} == {8: 0.74, 16: 1.47, 32: 2.95}


# -- what they compute -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rslora", [False, True])
def test_the_update_is_that_of_lora_on_both_paths(rslora: bool) -> None:
    torch.manual_seed(0)
    base = torch.nn.Linear(6, 5)
    scale = 12 / (4**0.5 if rslora else 4)
    options = LoraConfig(rank=4, alpha=12, rslora=rslora)
    update = LoraLinear(base, 4, scale_of(options), 0.0)
    torch.nn.init.normal_(update.lora_B)
    states = torch.randn(2, 3, 6)
    weight = base.weight + scale * update.lora_B @ update.lora_A
    expected = torch.nn.functional.linear(states, weight, base.bias)
    torch.testing.assert_close(update(states), expected)
    torch.testing.assert_close(torch.nn.functional.linear(states, update.weight, update.bias), expected)


def test_dropout_acts_on_the_update_alone(shared: Bases) -> None:
    encoder = shared("hubert")
    model = build(encoder, MethodConfig("lora", lora=LoraConfig(rank=4, dropout=0.5)))
    randomise(model)
    linear = next(iter(lora_modules(encoder).values()))
    states = torch.randn(1, 400, linear.in_features)
    with torch.no_grad():
        calm = linear.eval()(states)
        noisy = linear.train()(states)
        mean = torch.stack([linear(states) for _ in range(200)]).mean(0)
        assert not torch.allclose(noisy, calm, atol=1e-2)
        assert float((mean - calm).abs().mean()) < 0.2 * float((noisy - calm).abs().mean())
        linear.lora_B.zero_()
        torch.testing.assert_close(linear(states), linear.base(states), atol=0, rtol=0)


@pytest.mark.parametrize("family", ["wavlm", "wavlm-layer"])
def test_attention_updates_act_on_wavlm(family: str, shared: Bases) -> None:
    """Its attention reads raw weights, so that a wrapped forward alone would silently do nothing."""
    encoder = shared(family)
    before = states(encoder)
    build(encoder, MethodConfig("lora", 1, lora=LoraConfig(rank=4, targets=["attention"])))
    paths = list(lora_modules(encoder))
    assert {path.rpartition(".")[2] for path in paths} == {"q_proj", "k_proj", "v_proj", "out_proj"}
    for path in paths:
        module = lora_modules(encoder)[path]
        with torch.no_grad():
            torch.nn.init.normal_(module.lora_B)
            assert not torch.allclose(states(encoder), before, atol=1e-4), path
            module.lora_B.zero_()
            assert torch.equal(states(encoder), before)


@pytest.mark.parametrize("family", ["hubert", "whisper"])
def test_the_order_of_joined_methods_changes_nothing(family: str, shared: Bases) -> None:
    found = []
    for name in ("lora+adapter", "adapter+lora"):
        encoder = shared(family)
        randomise(build(encoder, MethodConfig(name, lora=BOTH, adapter=SMALL)))
        found.append(states(encoder))
    assert torch.equal(*found)


@pytest.mark.parametrize("family", ["hubert", "whisper", "w2v-bert"])
@pytest.mark.parametrize("place", ["sequential", "parallel"])
def test_adapters_add_to_the_output_of_the_feed_forward_part(family: str, place: Any, shared: Bases) -> None:
    encoder = shared(family)
    model = build(encoder, MethodConfig("adapter", 1, adapter=replace(SMALL, place=place)))
    randomise(model)
    model.eval()
    layer = encoder.layers[-1]
    part = feed_forwards(layer, encoder.width)[-1]
    adapter: Any = part.owner.get_submodule("adapter")
    x = torch.randn(1, 7, encoder.width)
    first, last = linears(layer, part)

    def feed_forward() -> Any:
        if part.path:
            return part.owner(x)
        return last(torch.nn.functional.gelu(first(x)))

    with torch.no_grad():
        found = feed_forward()
        encoder.clear()
        plain = feed_forward()
        entered = plain if place == "sequential" else x
        by_hand = torch.relu(entered @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T
        torch.testing.assert_close(found, plain + SMALL.scale * (by_hand + adapter.up.bias))


def test_bias_trains_biases_and_nothing_else(shared: Bases) -> None:
    encoder = shared("whisper")
    model = build(encoder, MethodConfig("bias", 1))
    last = [
        f"layers.2.{name}" for name, p in encoder.layers[2].named_parameters() if p.ndim == 1 and "weight" not in name
    ]
    assert sorted(model.trained_names) == sorted([*last, "layer_norm.bias"])
    assert any("norm" in name for name in last)


def test_lora_with_bias_trains_the_biases_of_what_it_wraps(shared: Bases) -> None:
    model = build(shared("hubert"), METHODS["lora+bias"])
    assert "encoder.layers.2.feed_forward.output_dense.base.bias" in model.trained_names
    assert "encoder.layers.2.feed_forward.output_dense.base.weight" not in model.trained_names


# -- training --------------------------------------------------------------------------------------------------


def as_settings(method: MethodConfig) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(method), "layers": 1}


@pytest.mark.parametrize("method", ["lora-both", "adapter-parallel", "prompt", "bias", "lora+bias", "lora+prompt"])
def test_a_run_saves_what_it_tested(method: str, tiny_corpus: Path, tmp_path: Path) -> None:
    options = {"epochs": 2, "batch_clips": 8, "lr": 1e-2}
    run = train(
        settings(tiny_corpus, tmp_path / "run", split="speaker", method=as_settings(METHODS[method]), train=options)
    )
    import pandas as pd

    row = pd.read_parquet(run / "predictions.parquet").iloc[0]
    found = sertune.load(run).predict(row["file"])["probabilities"]
    assert found["anger"] == pytest.approx(row["p_anger"], abs=1e-4)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert rows[1]["dev_loss"] != rows[0]["dev_loss"]


class KilledError(Exception):
    """Stands for a kill."""


def test_folds_start_alike_and_go_on_to_the_same_result(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fold draws its own updates and starts from the pre-trained biases, whatever ran before in the process."""
    method = as_settings(MethodConfig("lora+adapter+bias", lora=BOTH, adapter=SMALL))
    options = {"epochs": 2, "batch_clips": 4, "checkpoint_minutes": 0.0}

    def config(name: str) -> Any:
        return settings(tiny_corpus, tmp_path / name, split="loso", method=method, train=options)

    train(config("whole"))
    step, done = Fit._step, 0

    def stopping(self: Fit, rows: np.ndarray, number: int) -> float:
        nonlocal done
        done += 1
        if done == 7:
            raise KilledError
        return step(self, rows, number)

    monkeypatch.setattr(Fit, "_step", stopping)
    with pytest.raises(KilledError):
        train(config("stopped"))
    monkeypatch.setattr(Fit, "_step", step)
    train(config("stopped"))
    assert_same_result(tmp_path / "whole", tmp_path / "stopped")
    files = [tmp_path / name / "model" / "adapter" / "adapter_model.safetensors" for name in ("whole", "stopped")]
    one, other = (load_file(file) for file in files)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_lora_needs_no_gradient_of_the_full_weight(shared: Bases) -> None:
    """Where a plain forward is called, the update's own path is taken: no matrix of the full size is kept."""
    encoder = shared("hubert")
    build(encoder, MethodConfig("lora", 1, lora=LoraConfig(rank=2)))
    linear = next(iter(lora_modules(encoder).values()))
    shapes: list[torch.Size] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        shapes.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        linear(torch.randn(1, 50, linear.in_features)).sum().backward()
    full = torch.Size([linear.out_features, linear.in_features])
    assert linear.base.weight.grad is None
    assert full not in shapes
