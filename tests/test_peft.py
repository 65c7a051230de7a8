"""LoRA's weights pass between sertune and PEFT; merged models and encoders; damaged and unfitting adapters."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, save_family
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification
from transformers.utils import logging

import sertune
from sertune.cli import main
from sertune.config import AudioConfig, HeadConfig, LoraConfig, MethodConfig
from sertune.errors import SertuneError
from sertune.model.emotion_model import EmotionModel, ModelSpec, load_model
from sertune.model.encoder import Encoder, load_encoder
from sertune.model.merge import save_encoder
from sertune.model.methods.lora import lora_modules
from sertune.model.targets import CategoryTarget
from sertune.train.folds import _fresh_model
from sertune.train.prepare import prepare
from sertune.train.run import train
from test_training import settings

# PEFT 0.21 asks transformers 5.23 for what that calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

UNREAD = ("wavlm", "wavlm-layer", "speechbrain")
"""Families on which PEFT changes nothing, or that transformers alone can't load."""
BOTH = LoraConfig(rank=4, alpha=12, targets=["attention", "feed-forward"])
SUFFIXES = {
    "wav2vec2-group": ["q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense"],
    "whisper": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "w2v-bert": ["linear_q", "linear_k", "linear_v", "linear_out", "intermediate_dense", "output_dense"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("families")
    return {family: save_family(family, root / family) for family in FAMILIES}


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """transformers says on standard error that Whisper's folders here have no decoder."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(verbosity)


def noise(seconds: float) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(int(seconds * 16000))).astype(np.float32)


def build(name: str, lora: LoraConfig, layers: Any = 2, method: str = "lora") -> EmotionModel:
    audio = AudioConfig(silence=0, level=0)  # the encoder alone takes samples as they are
    spec = ModelSpec(name, MethodConfig(method, layers, lora=lora), HeadConfig(), CategoryTarget(("a", "b")), audio)
    return EmotionModel(load_encoder(name, check=False), spec).eval()


@torch.no_grad()
def randomise(modules: Any) -> None:
    torch.manual_seed(3)
    for module in modules:
        torch.nn.init.normal_(module.lora_B, std=0.3)


@torch.no_grad()
def states(encoder: Encoder) -> torch.Tensor:
    return encoder.replay(encoder.front(noise(0.7)), 0)[-1].states


def as_encoder(model: Any, like: Encoder) -> Encoder:
    """A transformers model, with what PEFT put into it, as sertune's encoder."""
    inner = model.get_encoder() if model.config.is_encoder_decoder else model
    return Encoder(inner.eval(), like.features, "peft", check=False)


@pytest.mark.parametrize(
    ("family", "rslora"), [*((family, False) for family in FAMILIES if family not in UNREAD), ("whisper", True)]
)
def test_peft_reads_ours(family: str, rslora: bool, folders: dict[str, str], tmp_path: Path) -> None:
    model = build(folders[family], LoraConfig(rank=4, alpha=12, rslora=rslora, targets=BOTH.targets))
    before = states(model.encoder)
    randomise(lora_modules(model.encoder).values())
    model.save(tmp_path)
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(folders[family]), tmp_path / "adapter")
    ours = states(model.encoder)
    torch.testing.assert_close(states(as_encoder(theirs.base_model.model, model.encoder)), ours, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, before, atol=1e-3)


def test_peft_leaves_the_attention_of_wavlm_as_it_was(folders: dict[str, str], tmp_path: Path) -> None:
    """Why the guide says to merge first; the day this fails, the warning can go."""
    model = build(folders["wavlm"], LoraConfig(rank=4, targets=["attention"]))
    before = states(model.encoder)
    randomise(lora_modules(model.encoder).values())
    model.save(tmp_path)
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(folders["wavlm"]), tmp_path / "adapter")
    torch.testing.assert_close(states(as_encoder(theirs.base_model.model, model.encoder)), before)
    assert not torch.allclose(states(model.encoder), before, atol=1e-3)


def made_by_peft(base: Any, folder: Path, family: str = "wav2vec2-group", **options: Any) -> Any:
    """An adapter of random weights, saved; the model that carries it."""
    values = {"r": 4, "lora_alpha": 12, "target_modules": SUFFIXES[family], **options}
    torch.manual_seed(5)
    wrapped = get_peft_model(base, PeftConfig(**values))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    wrapped.save_pretrained(str(folder))
    return wrapped.base_model.model


@pytest.mark.parametrize("family", SUFFIXES)
def test_ours_starts_from_peft(family: str, folders: dict[str, str], tmp_path: Path) -> None:
    theirs = made_by_peft(AutoModel.from_pretrained(folders[family]), tmp_path / "made", family)
    model = build(
        folders[family], LoraConfig(rank=4, alpha=12, targets=BOTH.targets, start=str(tmp_path / "made")), "all"
    )
    expected = states(as_encoder(theirs, model.encoder))
    torch.testing.assert_close(states(model.encoder), expected, atol=1e-5, rtol=1e-5)
    model.save(tmp_path / "model")
    shutil.rmtree(tmp_path / "made")
    assert torch.equal(states(load_model(tmp_path / "model").encoder), states(model.encoder))


def test_what_an_adapter_does_to_a_decoder_is_left_over(folders: dict[str, str], tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(
        folders["whisper"], decoder_layers=1, decoder_ffn_dim=64, decoder_attention_heads=4
    )
    base = AutoModel.from_config(config)
    base.encoder.load_state_dict(AutoModel.from_pretrained(folders["whisper"]).encoder.state_dict())
    theirs = made_by_peft(base, tmp_path, "whisper")
    assert any(".decoder." in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    model = build(folders["whisper"], LoraConfig(rank=4, alpha=12, targets=BOTH.targets, start=str(tmp_path)), "all")
    expected = states(as_encoder(theirs, model.encoder))
    torch.testing.assert_close(states(model.encoder), expected, atol=1e-5, rtol=1e-5)


def test_ours_starts_from_an_adapter_of_a_task_model(folders: dict[str, str], tmp_path: Path) -> None:
    """Its names have the task model's prefix, and its head is left over."""
    base = AutoModelForAudioClassification.from_pretrained(folders["wav2vec2-group"])
    targets = ["intermediate_dense", "output_dense"]
    theirs = made_by_peft(base, tmp_path, target_modules=targets, modules_to_save=["projector", "classifier"])
    model = build(folders["wav2vec2-group"], LoraConfig(rank=4, alpha=12, start=str(tmp_path)), "all")
    expected = states(as_encoder(theirs.wav2vec2, model.encoder))
    torch.testing.assert_close(states(model.encoder), expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def adapter(folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEFT adapter of rank 4 on both feed-forward maps of all layers."""
    folder = tmp_path_factory.mktemp("adapter") / "a"
    targets = ["intermediate_dense", "output_dense"]
    made_by_peft(AutoModel.from_pretrained(folders["wav2vec2-group"]), folder, target_modules=targets)
    return folder


def changed(adapter: Path, folder: Path, **values: Any) -> Path:
    shutil.copytree(adapter, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return folder


Options = dict[str, Any]


@pytest.mark.parametrize(
    ("options", "layers", "message"),
    [
        ({"rank": 8}, "all", r"r is 4, but method\.lora\.rank = 8; set it to 4"),
        ({"alpha": 16.0}, "all", r"lora_alpha is 12, but method\.lora\.alpha = 16\.0; set it to 12"),
        ({"rslora": True}, "all", r"use_rslora is False, but method\.lora\.rslora = True"),
        ({}, 2, r"updates encoder\.layers\.0\.feed_forward\S+, which method\.lora does not .*method\.layers"),
        ({"targets": ["attention"]}, "all", r"updates \S+, which method\.lora does not .*method\.lora\.targets"),
        ({"targets": BOTH.targets}, "all", r"has no update of encoder\.layers\.0\.attention\.\w+, which method\.lora"),
    ],
)
def test_an_adapter_that_does_not_fit_is_an_error(
    options: Options, layers: Any, message: str, folders: dict[str, str], adapter: Path
) -> None:
    lora = LoraConfig(**{"rank": 4, "alpha": 12.0, "start": str(adapter), **options})
    with pytest.raises(SertuneError, match=rf"^method\.lora\.start = {adapter}: {message}"):
        build(folders["wav2vec2-group"], lora, layers)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_dora": True}, "made with use_dora, which sertune does not have"),
        ({"alpha_pattern": {"layers.0": 3}}, "made with alpha_pattern"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = pissa_niter_4, which changes the base"),
        ({"peft_type": "IA3"}, "expected an adapter of type LORA, found IA3"),
    ],
)
def test_other_kinds_of_adapters_are_an_error(
    values: Options, message: str, folders: dict[str, str], adapter: Path, tmp_path: Path
) -> None:
    start = str(changed(adapter, tmp_path / "other", **values))
    with pytest.raises(SertuneError, match=message):
        build(folders["wav2vec2-group"], LoraConfig(rank=4, alpha=12, start=start), "all")


def test_damaged_adapters_are_named(folders: dict[str, str], adapter: Path, tmp_path: Path) -> None:
    def start(folder: Path) -> None:
        build(folders["wav2vec2-group"], LoraConfig(rank=4, alpha=12, start=str(folder)), "all")

    with pytest.raises(SertuneError, match=r"nowhere: no PEFT adapter there, it has no adapter_config\.json"):
        start(tmp_path / "nowhere")
    folder = changed(adapter, tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}  # not a map of the file
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(SertuneError, match=r"adapter_model\.safetensors: damaged"):
        start(folder)
    name = next(name for name in tensors if "layers.1" in name and "lora_A" in name)
    save_file({**tensors, name: torch.zeros(4, 7)}, weights)
    with pytest.raises(SertuneError, match=r"layers\.1\.\S+lora_A\.weight has shape \(4, 7\), expected \(4, \d+\)"):
        start(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(SertuneError, match=r"adapter_config\.json: damaged"):
        start(folder)
    weights.unlink()
    with pytest.raises(SertuneError, match=r"it has no adapter_model\.safetensors"):
        start(folder)


def test_a_saved_model_without_its_adapter_is_an_error(folders: dict[str, str], tmp_path: Path) -> None:
    model = build(folders["hubert"], BOTH)
    model.save(tmp_path / "model")
    model.save(tmp_path / "model")  # over itself
    load_model(tmp_path / "model")
    (tmp_path / "model" / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(SertuneError, match=r"model/adapter: no PEFT adapter there"):
        load_model(tmp_path / "model")


def test_an_adapter_is_written_whole_or_not_at_all(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(folders["hubert"], BOTH)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(SertuneError, match=r"adapter: can't be written \(No space left on device\)"):
        model.save(tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


# -- merge -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lora_run(
    folders: dict[str, str], tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    runs: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in runs:
            method = {"name": name, "layers": 2, "lora": {"rank": 4, "targets": ["attention", "feed-forward"]}}
            out = tmp_path_factory.mktemp("runs") / "run"
            options = {"epochs": 1, "lr": 1e-2}
            runs[name] = train(
                settings(tiny_corpus, out, split="speaker", method=method, train=options, encoder=folders["wavlm"])
            )
        return runs[name]

    return run


def test_merge_writes_a_model_of_the_same_outputs(
    lora_run: Callable[[str], Path], tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(next(tiny_corpus.rglob("*.wav")))
    run, out = lora_run("lora+bias"), tmp_path / "merged"
    assert main(["merge", str(run), "--out", str(out), "--as-encoder"]) == 0
    assert str(out) in capsys.readouterr().out
    expected = sertune.load(run).predict(file)["probabilities"]
    found = sertune.load(out).predict(file)["probabilities"]
    assert found == pytest.approx(expected, abs=1e-5)
    assert json.loads((out / "model.json").read_text())["method"]["name"] == "partial"
    assert not (out / "adapter").exists()
    assert main(["merge", str(run), "--out", str(out)]) == 1
    assert "is not empty; choose another folder" in capsys.readouterr().err
    assert main(["merge", str(out), "--out", str(tmp_path / "again")]) == 1
    assert "method partial has no updates to merge" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
    assert main(["merge", str(out), "--out", str(tmp_path / "again"), "--as-encoder"]) == 0  # of layers that trained
    one, other = (load_file(folder / "encoder" / "model.safetensors") for folder in (out, tmp_path / "again"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("family", ["wavlm", "whisper", "sew", "w2v-bert", "builtin"])
def test_a_merged_encoder_is_one_for_transformers(family: str, folders: dict[str, str], tmp_path: Path) -> None:
    model = build(folders.get(family, "builtin"), BOTH, layers="auto")
    randomise(lora_modules(model.encoder).values())
    expected = states(model.encoder)
    model.save(tmp_path / "model")
    assert main(["merge", str(tmp_path / "model"), "--out", str(tmp_path / "merged"), "--as-encoder"]) == 0
    folder = tmp_path / "merged" / "encoder"
    torch.testing.assert_close(states(load_encoder(str(folder))), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(states(load_model(tmp_path / "merged").encoder), expected, atol=1e-5, rtol=1e-4)
    theirs = as_encoder(AutoModel.from_pretrained(folder), model.encoder)
    torch.testing.assert_close(states(theirs), expected, atol=1e-5, rtol=1e-4)


def test_an_encoder_is_written_without_its_decoder(folders: dict[str, str], tmp_path: Path) -> None:
    encoder = load_encoder(folders["whisper"], check=False)
    config: Any = encoder.model.config
    config.decoder_layers = 2
    save_encoder(encoder, tmp_path)
    assert len(AutoModel.from_pretrained(tmp_path).decoder.layers) == 0
    assert config.decoder_layers == 2


def test_what_cannot_be_merged_says_why(
    folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(folders["hubert"], BOTH, method="lora+adapter").save(tmp_path / "model")
    assert main(["merge", str(tmp_path / "model"), "--out", str(tmp_path / "merged")]) == 1
    assert "method lora+adapter: can't be merged, as adapters are nonlinear" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_every_fold_starts_from_the_adapter(
    folders: dict[str, str], adapter: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    method = {"name": "lora+bias", "layers": "all", "lora": {"rank": 4, "alpha": 12, "start": str(adapter)}}
    encoder = folders["wav2vec2-group"]
    config = settings(tiny_corpus, tmp_path / "run", split="loso", method=method, encoder=encoder)
    prepared = prepare(config)
    given = [tensor.clone() for _, tensor in sorted(load_file(adapter / "adapter_model.safetensors").items())]
    biases = {name: tensor.clone() for name, tensor in prepared.initial.items()}
    assert biases
    assert all(name.endswith("bias") for name in biases)
    for fold in prepared.protocol.folds[:2]:
        model, _ = _fresh_model(prepared, fold, config)
        own = dict(model.encoder.model.named_parameters())
        updates = [own[name] for name in sorted(own) if "lora_" in name]
        for found, wanted in zip(updates, given, strict=True):
            assert torch.equal(found, wanted)
        for name, wanted in biases.items():
            assert torch.equal(own[name], wanted)
        with torch.no_grad():  # as training would
            for parameter in model.trained_parameters():
                parameter.add_(1)
