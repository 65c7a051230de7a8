"""SpeechBrain's emotion recognisers as encoders and as models, against the same weights in transformers."""

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import save_family
from torch import Tensor, nn
from torch.nn.functional import layer_norm

import sertune
from sertune.cli import main
from sertune.config import HeadConfig, MethodConfig
from sertune.data.batch import LayerStates, pad_states
from sertune.errors import SertuneError
from sertune.model.emotion_model import EmotionModel, ModelSpec, load_model
from sertune.model.encoder import Encoder, load_encoder, normalised
from sertune.model.merge import save_encoder
from sertune.model.speechbrain import find_speechbrain
from sertune.model.targets import CategoryTarget
from sertune.train.cache import states_key
from sertune.train.run import train
from speechbrain_folder import CANONICAL, OLD_WRAPPER, base_like, encoder_keys, write_speechbrain
from test_training import settings

NAME = "speechbrain/emotion-recognition-wav2vec2-IEMOCAP"
COMMIT = "117a9c3dff08be81a3628eecf6a66b547ec1659b"
WEIGHT = "encoder.layers.1.attention.k_proj.weight"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of downloads, empty whatever was downloaded on this machine."""
    import huggingface_hub

    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def base() -> nn.Module:
    """A random model of wav2vec2-base's layout, two layers deep."""
    torch.manual_seed(0)
    return base_like(2)


@pytest.fixture(scope="module")
def recogniser(base: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It in SpeechBrain's layout, as published: no file says what the architecture is."""
    torch.manual_seed(1)
    return write_speechbrain(tmp_path_factory.mktemp("speechbrain") / "recogniser", base)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest one; its own ``config.json`` says what it is."""
    return Path(save_family("speechbrain", tmp_path_factory.mktemp("speechbrain") / "small"))


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """A copy of the smallest one, to be damaged."""
    return shutil.copytree(small, tmp_path / "copy")


def noise(seconds: float, size: float = 0.1, seed: int = 0) -> np.ndarray:
    return (size * np.random.default_rng(seed).standard_normal(int(seconds * 16000))).astype(np.float32)


@torch.no_grad()
def frames(model: nn.Module, audio: np.ndarray, *, output_norm: bool = True, normalise: bool = True) -> Tensor:
    """What SpeechBrain computes for one clip, in plain torch and transformers."""
    wave = torch.tensor(audio)[None]
    if normalise:
        wave = layer_norm(wave, wave.shape[1:])
    output: Tensor = model(wave).last_hidden_state
    return layer_norm(output, output.shape[1:]) if output_norm else output


@torch.no_grad()
def states(encoder: Encoder, audio: np.ndarray) -> Tensor:
    return encoder.replay(encoder.lay_out(encoder.front(audio)), 0)[-1].pad().states


def edit(folder: Path, old: str, new: str) -> None:
    """Changes the YAML."""
    file = folder / "hyperparams.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def change(folder: Path, file: str, **weights: Tensor | None) -> None:
    """Sets weights of a checkpoint, or with None takes them away."""
    found = torch.load(folder / file, weights_only=True)
    for name, value in weights.items():
        found.pop(name, None)
        if value is not None:
            found[name] = value
    torch.save(found, folder / file)


# -- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("output_norm", [False, True])
def test_outputs_are_those_of_the_same_weights_in_transformers(stable: bool, output_norm: bool, tmp_path: Path) -> None:
    torch.manual_seed(2)
    reference = base_like(2, stable=stable)
    write_speechbrain(tmp_path / "it", reference, output_norm=output_norm, bias=stable)
    head = torch.load(tmp_path / "it" / "model.ckpt", weights_only=True)
    encoder, model = load_encoder(str(tmp_path / "it")), load_model(tmp_path / "it")
    assert encoder.output_norm is output_norm
    for audio in (noise(1.1), noise(0.6, 0.001, seed=1)):  # a quiet clip, on which the eps of the samples shows
        expected = frames(reference, audio, output_norm=output_norm)
        torch.testing.assert_close(states(encoder, audio), expected, atol=1e-5, rtol=1e-5)
        logits = expected.mean(1) @ head["0.w.weight"].T + head.get("0.w.bias", 0)
        torch.testing.assert_close(model.predict_audio([audio]), logits, atol=1e-4, rtol=1e-4)


def test_samples_are_normalised_as_speechbrain_does_it(recogniser: Path, tmp_path: Path) -> None:
    features = load_encoder(str(recogniser), check=False).features
    quiet = noise(0.5, 0.001)
    made = features(quiet)["input_values"]
    torch.testing.assert_close(made, layer_norm(torch.tensor(quiet)[None], (len(quiet),)), atol=0, rtol=0)
    assert made.std() < 0.5  # transformers' own extractor would bring it to 1
    features.extractor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["do_normalize"] is True


@pytest.mark.parametrize(
    "options",
    [{"old_weight_norm": True}, {"masked": False}, {"wrapper": OLD_WRAPPER}],
    ids=["weight_g", "no masked_spec_embed", "SpeechBrain 0.5"],
)
def test_older_files_give_the_same_encoder(
    options: dict[str, Any], base: nn.Module, recogniser: Path, tmp_path: Path
) -> None:
    write_speechbrain(tmp_path / "older", base, **options)
    older, newer = load_encoder(str(tmp_path / "older")), load_encoder(str(recogniser))
    assert older.digest == newer.digest
    torch.testing.assert_close(states(older, noise(0.5)), states(newer, noise(0.5)), atol=0, rtol=0)


def test_half_precision_files_are_read_as_float32(small: Path, copy: Path) -> None:
    for file in ("wav2vec2.ckpt", "model.ckpt"):
        weights = torch.load(copy / file, weights_only=True)
        torch.save({name: tensor.half() for name, tensor in weights.items()}, copy / file)
    model = load_model(copy)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    expected = load_model(small).predict_audio([noise(0.5)])
    torch.testing.assert_close(model.predict_audio([noise(0.5)]), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("packed", [False, True])
def test_a_clip_is_normalised_over_its_own_frames(packed: bool) -> None:
    torch.manual_seed(0)
    clips = [5 + 3 * torch.randn(length, 4, requires_grad=True) for length in (1, 7, 4)]
    batch = pad_states(clips)
    if packed:
        batch = batch.pack()
    else:  # layers leave something in the padding
        batch = LayerStates(torch.where(batch.inside()[:, :, None], batch.states, 100.0), batch.lengths)
    made = normalised(batch).pad()
    weights = torch.randn(7, 4)
    for row, clip in enumerate(clips):
        expected = layer_norm(clip, clip.shape)
        found = made.states[row, : len(clip)]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        ours, theirs = (
            torch.autograd.grad((x * weights[: len(clip)]).sum(), clip, retain_graph=True)[0] for x in (found, expected)
        )
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_predictions_do_not_depend_on_the_batch(recogniser: Path) -> None:
    model = load_model(recogniser)
    encoder = model.encoder
    assert encoder.packs
    clips = [noise(seconds, seed=seed) for seed, seconds in enumerate((0.4, 0.9, 0.6))]
    entering = pad_states([encoder.front(clip).states[0].detach() for clip in clips])
    with torch.no_grad():
        padded, packed = encoder.replay(entering, 0)[-1], encoder.replay(entering.pack(), 0)[-1].pad()
    for row, clip in enumerate(clips):
        alone = states(encoder, clip)[0]
        for together in (padded, packed):
            torch.testing.assert_close(together.states[row, : len(alone)], alone, atol=1e-5, rtol=1e-5)
    separately = torch.cat([model.predict_audio([clip]) for clip in clips])
    torch.testing.assert_close(model.predict_audio(clips), separately, atol=1e-5, rtol=1e-5)


# -- where the architecture is from ----------------------------------------------------------------------------------


def test_the_shapes_of_published_sizes_are_enough(recogniser: Path) -> None:
    encoder = load_encoder(str(recogniser), check=False)
    config: Any = encoder.model.config
    assert (config.num_attention_heads, config.num_hidden_layers, config.intermediate_size) == (12, 2, 32)
    assert (config.feat_extract_norm, config.do_stable_layer_norm, config.conv_bias) == ("group", False, False)
    assert "assumed its architecture and normalised samples as published" in encoder.features.assumed


def test_a_base_model_that_can_not_be_had_does_no_harm(recogniser: Path, tmp_path: Path) -> None:
    expected = load_encoder(str(recogniser), check=False).digest
    for name in ("x" * 5000, "no name", "../../nowhere", "null"):
        folder = shutil.copytree(recogniser, tmp_path / "copy", dirs_exist_ok=True)
        edit(folder, "wav2vec2_hub: facebook/wav2vec2-base", f"wav2vec2_hub: {name}")
        assert load_encoder(str(folder), check=False).digest == expected


def test_another_size_needs_its_configuration(copy: Path) -> None:
    encoder = load_encoder(str(copy))
    assert encoder.model.config.num_attention_heads == 4  # type: ignore[union-attr]
    assert "assumed normalised samples as published" in encoder.features.assumed
    (copy / "config.json").unlink()
    with pytest.raises(SertuneError, match=r"no published size of wav2vec 2\.0 \(width 32, .*put the config\.json"):
        load_encoder(str(copy))


def downloaded_base(hub: Path, model: nn.Module, **extractor: Any) -> None:
    """facebook/wav2vec2-base among the downloads: its settings alone."""
    from transformers import Wav2Vec2FeatureExtractor

    folder = hub / "models--facebook--wav2vec2-base"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    model.config.save_pretrained(folder / "snapshots" / COMMIT)  # type: ignore[union-attr, operator]
    Wav2Vec2FeatureExtractor(**extractor).save_pretrained(folder / "snapshots" / COMMIT)


def test_the_settings_of_the_base_model_are_taken_where_they_can_be_had(
    base: nn.Module, recogniser: Path, hub: Path
) -> None:
    downloaded_base(hub, base, do_normalize=False)
    encoder = load_encoder(str(recogniser))
    assert encoder.features.assumed == ""
    expected = frames(base, noise(0.5), normalise=False)
    torch.testing.assert_close(states(encoder, noise(0.5)), expected, atol=1e-5, rtol=1e-5)


def test_normalize_wav_and_the_folders_own_extractor_go_over_the_base_model(
    base: nn.Module, recogniser: Path, hub: Path, tmp_path: Path
) -> None:
    downloaded_base(hub, base, do_normalize=False)
    folder = shutil.copytree(recogniser, tmp_path / "own")
    (folder / "preprocessor_config.json").write_text('{"do_normalize": true, "sampling_rate": 16000}')
    assert load_encoder(str(folder), check=False).features.wave_norm_eps == 1e-5
    edit(folder, "freeze: True", "freeze: True\n    normalize_wav: False")
    assert load_encoder(str(folder), check=False).features.wave_norm_eps == 0
    edit(folder, "encoder_dim:", "sample_rate: 8000\nencoder_dim:")
    assert load_encoder(str(folder), check=False).rate == 8000


def test_a_base_model_of_another_family(recogniser: Path, hub: Path) -> None:
    from transformers import WavLMConfig, WavLMModel

    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    downloaded_base(hub, WavLMModel(WavLMConfig(**tiny)))
    with pytest.raises(SertuneError, match=r"its base facebook/wav2vec2-base is a wavlm, expected wav2vec2"):
        load_encoder(str(recogniser))


# -- nothing is run --------------------------------------------------------------------------------------------------


class Command:
    """What a hostile pickle holds: unpickled, it makes a file."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.made}",)


@pytest.mark.parametrize("file", ["wav2vec2.ckpt", "model.ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_a_command_is_refused(file: str, zipped: bool, copy: Path, tmp_path: Path) -> None:
    weights = torch.load(copy / file, weights_only=True)
    hostile = {**weights, "x": Command(tmp_path / "made")}
    torch.save(hostile, copy / file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(SertuneError, match=rf"{file}: holds more than weights \(\w+\.system\); .*runs no code"):
        load_model(copy)
    assert not (tmp_path / "made").exists()


def test_tags_are_data_and_python_files_are_not_opened(copy: Path, small: Path, tmp_path: Path) -> None:
    lines = f"""
__set_seed: !apply:os.system ["touch {tmp_path / "made"}"]
other: !new:os.system
    command: touch {tmp_path / "made"}
third: !name:os.system
    command: !ref <pretrained_path>/x
data_folder: !PLACEHOLDER
copied: !copy <output_mlp>
more: !include:{tmp_path / "nowhere.yaml"}
"""
    with (copy / "hyperparams.yaml").open("a") as file:
        file.write(lines)
    expected = load_model(small).predict_audio([noise(0.5)])
    torch.testing.assert_close(load_model(copy).predict_audio([noise(0.5)]), expected, atol=0, rtol=0)
    assert not (tmp_path / "made").exists()
    assert "custom_interface" not in sys.modules


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "x: !!python/object/apply:os.system ['touch {made}']",
            "hyperparams.yaml: not valid YAML (could not determine",
        ),
        ("x: !!python/name:os.system ''", "hyperparams.yaml: not valid YAML"),
        ("wav2vec2: !apply:os.system ['touch {made}']", "wav2vec2 is no !new: object; expected !new: ... Wav2Vec2"),
        ("wav2vec2: !new:os.system ['touch {made}']", "wav2vec2 is os.system; expected !new: ... Wav2Vec2"),
    ],
)
def test_a_command_in_the_yaml_is_refused(line: str, words: str, copy: Path, tmp_path: Path) -> None:
    with (copy / "hyperparams.yaml").open("a") as file:
        file.write(line.format(made=tmp_path / "made") + "\n")
    with pytest.raises(SertuneError) as error:
        load_encoder(str(copy))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made").exists()


# -- mistakes --------------------------------------------------------------------------------------------------------


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def both_namings(folder: Path) -> None:
    name = "model.encoder.pos_conv_embed.conv"
    weights = torch.load(folder / "wav2vec2.ckpt", weights_only=True)
    change(folder, "wav2vec2.ckpt", **{f"{name}.weight_g": weights[f"{name}.parametrizations.weight.original0"]})


def without_prefix(folder: Path) -> None:
    weights = torch.load(folder / "wav2vec2.ckpt", weights_only=True)
    torch.save({name.removeprefix("model."): tensor for name, tensor in weights.items()}, folder / "wav2vec2.ckpt")


def narrow_head(folder: Path) -> None:
    edit(folder, "encoder_dim: 32", "encoder_dim: 16")
    change(folder, "model.ckpt", **{"0.w.weight": torch.ones(4, 16)})


Damage = Callable[[Path], object]
KEY = f"model.{WEIGHT}"
ENCODER_MISTAKES: list[tuple[Damage, str]] = [
    (lambda f: change(f, "wav2vec2.ckpt", **{KEY: None}), f"wav2vec2.ckpt: misses the weights {KEY}; the model would"),
    (lambda f: change(f, "wav2vec2.ckpt", extra=torch.ones(1)), "wav2vec2.ckpt: has unexpected weights extra; it"),
    (
        lambda f: change(f, "wav2vec2.ckpt", **{"model.encoder.layers.7.x": torch.ones(1)}),
        "wav2vec2.ckpt: has unexpected weights model.encoder.layers.7.x",
    ),
    (
        lambda f: change(f, "wav2vec2.ckpt", **{KEY: torch.ones(32, 31)}),
        f"wav2vec2.ckpt: {KEY} has shape (32, 31), expected (32, 32)",
    ),
    (both_namings, "wav2vec2.ckpt: has unexpected weights model.encoder.pos_conv_embed.conv.weight_g"),
    (without_prefix, "wav2vec2.ckpt: misses the weights model.encoder.layer_norm.bias"),
    (lambda f: change(f, "wav2vec2.ckpt", **{KEY: torch.full((32, 32), torch.nan)}), "its output is not finite"),
    (lambda f: cut(f / "wav2vec2.ckpt"), "wav2vec2.ckpt: damaged, cut off or no checkpoint"),
    (lambda f: (f / "wav2vec2.ckpt").write_bytes(b""), "wav2vec2.ckpt: damaged, cut off or no checkpoint (EOFError)"),
    (lambda f: (f / "wav2vec2.ckpt").write_text("a/path"), "wav2vec2.ckpt: damaged, cut off or no checkpoint"),
    (lambda f: torch.save([1], f / "wav2vec2.ckpt"), "wav2vec2.ckpt: expected weights by name, found list"),
    (lambda f: torch.save({"epoch": 3}, f / "wav2vec2.ckpt"), "expected weights by name, found int under 'epoch'"),
    (lambda f: torch.save({}, f / "wav2vec2.ckpt"), "expected weights by name, found nothing"),
    (lambda f: torch.save(nn.Linear(1, 1), f / "wav2vec2.ckpt"), "holds more than weights (torch.nn.modules.linear"),
    (lambda f: (f / "wav2vec2.ckpt").unlink(), "has no wav2vec2.ckpt; expected the layout of SpeechBrain's"),
    (lambda f: (f / "hyperparams.yaml").unlink(), "has no hyperparams.yaml; expected the layout of SpeechBrain's"),
    (lambda f: (f / "hyperparams.yaml").write_text("a: [1"), "hyperparams.yaml: not valid YAML (while parsing"),
    (lambda f: (f / "hyperparams.yaml").write_bytes(b"a: \xff"), "hyperparams.yaml: not valid YAML"),
    (lambda f: (f / "hyperparams.yaml").write_text("? !x {a: 1}\n: b\n"), "hyperparams.yaml: not valid YAML"),
    (
        lambda f: (f / "hyperparams.yaml").write_text("&a [*a]"),
        "hyperparams.yaml: expected keys and values, found list",
    ),
    (lambda f: (f / "hyperparams.yaml").write_text("[" * 3000), "hyperparams.yaml: not valid YAML"),
    (lambda f: edit(f, "wav2vec2: !new:", "encoder: !new:"), "wav2vec2 is missing; expected !new: ... Wav2Vec2"),
    (lambda f: edit(f, "wav2vec2.Wav2Vec2", "hubert.HuBERT"), "hubert.HuBERT; expected !new: ... Wav2Vec2"),
    (lambda f: edit(f, "freeze: True", "frieze: True"), "wav2vec2 has the option frieze, which sertune does not know"),
    (
        lambda f: edit(f, "output_norm: True", "output_norm: much"),
        "wav2vec2.output_norm: expected True or False, found",
    ),
    (
        lambda f: edit(f, "freeze: True", "output_all_hiddens: True"),
        "wav2vec2.output_all_hiddens: expected False, the last layer",
    ),
    (lambda f: edit(f, "source: !ref <wav2vec2_hub>", "source: !ref <hub>"), "the reference <hub> leads to no value"),
    (
        lambda f: edit(f, "wav2vec2_hub: facebook/wav2vec2-base", "wav2vec2_hub: !ref <b>\nb: !ref <wav2vec2_hub>"),
        "leads to no value",
    ),
    (
        lambda f: edit(f, "encoder_dim:", "sample_rate: fast\nencoder_dim:"),
        "sample_rate: expected a whole number above",
    ),
    (lambda f: (f / "config.json").write_text("{"), "config.json: damaged"),
    (lambda f: (f / "config.json").write_text("[]"), "config.json: damaged"),
    (
        lambda f: (f / "config.json").write_text(
            '{"model_type": "wav2vec2", "hidden_size": 30, "num_attention_heads": 4}'
        ),
        "config.json: describes no wav2vec 2.0 that can be built",
    ),
    (lambda f: (f / "preprocessor_config.json").write_text("["), "preprocessor_config.json: damaged"),
]
DERIVED_MISTAKES: list[tuple[Damage, str]] = [
    (
        lambda f: change(f, "wav2vec2.ckpt", **{"model.encoder.layers.0.feed_forward.intermediate_dense.weight": None}),
        "wav2vec2.ckpt: misses the weights model.encoder.layers.0.feed_forward.intermediate_dense.weight",
    ),
    (
        lambda f: change(f, "wav2vec2.ckpt", **{"model.feature_extractor.conv_layers.3.conv.weight": torch.ones(2)}),
        "model.feature_extractor.conv_layers.3.conv.weight has shape (2,), expected 3 dimensions",
    ),
    (
        lambda f: change(
            f, "wav2vec2.ckpt", **{"model.feature_extractor.conv_layers.7.conv.weight": torch.ones(9, 9, 9)}
        ),
        "wav2vec2.ckpt: no published size of wav2vec 2.0 (width 768, convolutions of [10, 3, 3, 3, 3, 2, 2, 9])",
    ),
    (
        lambda f: change(f, "wav2vec2.ckpt", **{"model.encoder.layers.999999.x": torch.ones(1)}),
        "wav2vec2.ckpt: misses the weights model.encoder.layers.2.",
    ),
    (
        lambda f: change(f, "wav2vec2.ckpt", **{"model.encoder.layer_norm.bias": torch.ones(767)}),
        "model.encoder.layer_norm.bias has shape (767,), expected (768,)",
    ),
]
HEAD_MISTAKES: list[tuple[Damage, str]] = [
    (lambda f: torch.save({"x": torch.ones(1)}, f / "model.ckpt"), "model.ckpt: misses the weights 0.w.weight"),
    (
        lambda f: change(f, "model.ckpt", **{"1.w.weight": torch.ones(1)}),
        "model.ckpt: has unexpected weights 1.w.weight",
    ),
    (lambda f: change(f, "model.ckpt", **{"0.w.bias": torch.ones(4)}), "model.ckpt: has unexpected weights 0.w.bias"),
    (lambda f: edit(f, "bias: False", "bias: True"), "model.ckpt: misses the weights 0.w.bias"),
    (
        lambda f: change(f, "model.ckpt", **{"0.w.weight": torch.ones(4, 31)}),
        "model.ckpt: 0.w.weight has shape (4, 31), expected (4, 32)",
    ),
    (lambda f: cut(f / "model.ckpt"), "model.ckpt: damaged, cut off or no checkpoint"),
    (lambda f: (f / "model.ckpt").unlink(), "has no model.ckpt; expected the layout"),
    (lambda f: (f / "label_encoder.txt").unlink(), "has no label_encoder.txt; expected the layout"),
    (
        lambda f: edit(f, "return_std: False", "return_std: True"),
        "avg_pool: expected the mean alone (return_std: False)",
    ),
    (lambda f: edit(f, "    return_std: False\n", ""), "avg_pool: expected the mean alone"),
    (lambda f: edit(f, "linear.Linear", "attention.Pointer"), "output_mlp is speechbrain.nnet.attention.Pointer"),
    (
        lambda f: edit(f, "out_n_neurons: 4", "out_n_neurons: four"),
        "output_mlp.n_neurons: expected a whole number above",
    ),
    (lambda f: edit(f, "out_n_neurons: 4", "out_n_neurons: 3"), "0.w.weight has shape (4, 32), expected (3, 32)"),
    (
        lambda f: edit(f, "bias: False", "max_norm: 2"),
        "output_mlp has the option max_norm, which sertune does not know",
    ),
    (
        narrow_head,
        "its head reads 16 channels, the encoder has 32",
    ),
]
LABEL_MISTAKES: list[tuple[str | bytes, str]] = [
    ("'neu' => 0\n'ang' => 1\n'hap' => 2\n====\n", "label_encoder.txt: has 3 labels, output_mlp has 4 outputs"),
    ("'neu' => 0\n'ang' 1\n====\n", """label_encoder.txt, line 2: expected a line like 'neu' => 0, found "'ang' 1\""""),
    ("neu => 0\n====\n", "label_encoder.txt, line 1: expected a line like 'neu' => 0"),
    ("0 => 0\n====\n", "line 1: expected a line like"),
    ("__import__('os').system('ls') => 0\n====\n", "line 1: expected a line like"),
    ("'neu' => first\n====\n", "line 1: expected a line like"),
    ("(" * 5000 + " => 0\n====\n", "line 1: expected a line like"),
    ("'neu' => 0\n'ang' => 0\n====\n", "line 2: position 0 is taken twice"),
    ("'neu' => 1\n'ang' => 2\n====\n", "label_encoder.txt: expected the positions 0 to 1, found [1, 2]"),
    ("'hap' => 0\n'happy' => 1\n====\n", "label_encoder.txt: has happiness twice, in one spelling or two"),
    ("'neu' => 0\n'ang' => 1\n", "label_encoder.txt: cut off: expected a line of = after the labels"),
    ("====\n", "label_encoder.txt: expected the positions 0 to 0, found []"),
    ("", "label_encoder.txt: cut off"),
    (b"\xff\xfe", "label_encoder.txt: no text in UTF-8"),
]


@pytest.mark.parametrize(("damage", "words"), ENCODER_MISTAKES, ids=[words[:60] for _, words in ENCODER_MISTAKES])
def test_an_encoder_that_is_damaged_is_one_clear_line(damage: Damage, words: str, copy: Path) -> None:
    damage(copy)
    for load in (load_encoder, load_model):
        with pytest.raises(SertuneError) as error:
            load(str(copy))
        assert words in str(error.value)
        assert str(copy) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("damage", "words"), DERIVED_MISTAKES, ids=[words[-40:] for _, words in DERIVED_MISTAKES])
def test_where_shapes_tell_the_architecture_damage_is_one_clear_line(
    damage: Damage, words: str, recogniser: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(recogniser, tmp_path / "copy")
    damage(copy)
    with pytest.raises(SertuneError) as error:
        load_encoder(str(copy))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("damage", "words"), HEAD_MISTAKES, ids=[words[:60] for _, words in HEAD_MISTAKES])
def test_a_head_that_is_damaged_is_one_clear_line_and_leaves_the_encoder(
    damage: Damage, words: str, copy: Path
) -> None:
    damage(copy)
    with pytest.raises(SertuneError) as error:
        load_model(copy)
    assert words in str(error.value)
    assert str(copy) in str(error.value)
    assert "\n" not in str(error.value)
    load_encoder(str(copy), check=False)


@pytest.mark.parametrize(("text", "words"), LABEL_MISTAKES, ids=[words[:60] for _, words in LABEL_MISTAKES])
def test_labels_that_are_damaged_are_one_clear_line(text: str | bytes, words: str, copy: Path) -> None:
    (copy / "label_encoder.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SertuneError) as error:
        load_model(copy)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_folders_that_only_look_like_it(small: Path, tmp_path: Path) -> None:
    save_family("wav2vec2-group", tmp_path / "transformers")
    shutil.copy(small / "hyperparams.yaml", tmp_path / "transformers")
    assert not load_encoder(str(tmp_path / "transformers")).output_norm
    (tmp_path / "other").mkdir()
    shutil.copy(small / "model.ckpt", tmp_path / "other")
    with pytest.raises(SertuneError, match=r"the folder has no config\.json; expected a transformers model folder"):
        load_encoder(str(tmp_path / "other"))
    with pytest.raises(SertuneError, match=r"no model\.json and model\.safetensors in it"):
        load_model(tmp_path / "other")


# -- as a model ------------------------------------------------------------------------------------------------------


def test_it_is_a_model_on_samples_as_they_are(small: Path) -> None:
    model = load_model(small)
    assert isinstance(model.target, CategoryTarget)
    assert model.target.labels == CANONICAL
    assert model.spec.method == MethodConfig("frozen")
    assert (model.spec.audio.silence, model.spec.audio.level) == (0, 0)
    assert model.info == {"source": f"SpeechBrain model {small}"}
    assert not model.training
    predictor = sertune.load(small)
    assert predictor.labels == CANONICAL
    assert set(predictor.predict(noise(0.5))["probabilities"]) == set(CANONICAL)


def test_saved_by_sertune_it_gives_the_same_outputs_while_its_folder_is_there(copy: Path, tmp_path: Path) -> None:
    model = load_model(copy)
    expected = model.predict_audio([noise(0.5), noise(16, seed=1)])  # the second is cut into windows
    model.save(tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert again.info == model.info
    torch.testing.assert_close(again.predict_audio([noise(0.5), noise(16, seed=1)]), expected, atol=0, rtol=0)
    moved = copy.rename(tmp_path / "moved")
    with pytest.raises(SertuneError, match="its base encoder is no longer at"):
        load_model(tmp_path / "saved")
    again = load_model(tmp_path / "saved", encoder=str(moved))
    torch.testing.assert_close(again.predict_audio([noise(0.5), noise(16, seed=1)]), expected, atol=0, rtol=0)
    edit(moved, "output_norm: True", "output_norm: False")
    with pytest.raises(SertuneError, match=r"trained on encoder .* with digest"):  # the same weights, another encoder
        load_model(tmp_path / "saved", encoder=str(moved))


def test_the_labels_may_have_the_name_that_speechbrain_gives_its_copy(copy: Path) -> None:
    (copy / "label_encoder.txt").rename(copy / "label_encoder.ckpt")
    (copy / "label_encoder.ckpt").write_text(
        "'neu' => 1\n\"ang\" => 0\n'hap' => 3\n'sad' => 2\n====\n'starting_index' => 0\n"
    )
    assert sertune.load(copy).labels == ("anger", "neutral", "sadness", "happiness")


def test_what_it_has_not_is_said(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SertuneError, match="is a model of SpeechBrain and holds its encoder; leave it out"):
        load_model(small, encoder="builtin")
    with pytest.raises(SertuneError, match="adapt corpus: the model has no statistics of its training clips"):
        sertune.load(small).predict([noise(0.5), noise(0.6)], adapt="corpus")
    assert main(["predict", str(small), "--raters"]) == 1
    assert "predicts no" in capsys.readouterr().err


def test_the_command_line_takes_it(
    small: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = next(tiny_corpus.rglob("*.wav"))
    assert main(["predict", str(small), str(file), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["probabilities"]) == set(CANONICAL)
    data, out = f"synthetic:{tiny_corpus}", tmp_path / "scores"
    assert main(["evaluate", str(small), "--data", data, "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["protocol"]["speaker_independent"] is None
    assert f"trained on unknown data (SpeechBrain model {small}), scored on all" in report["protocol"]["text"]
    assert "it is not recorded what the model was trained on" in capsys.readouterr().out
    assert "was heard in training" not in (out / "report.html").read_text()
    assert report["metrics"]["uar"]["value"] > 0
    flags = ["--conditions", "telephone", "--clips", "4", "--groups", "speaker"]
    assert main(["audit", str(small), "--data", data, "--out", str(tmp_path / "audit"), *flags]) == 0
    report = json.loads((tmp_path / "audit" / "report.json").read_text())
    assert any("not recorded what the model was trained on" in warning for warning in report["warnings"])


def test_a_model_that_knows_its_training_still_says_so(tiny_run: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    assert main(["evaluate", str(tiny_run), "--data", f"synthetic:{tiny_corpus}", "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["protocol"]["speaker_independent"] is False
    assert not any("not recorded" in warning for warning in report["warnings"])


@pytest.mark.parametrize("method", ["frozen", "partial"])
def test_a_run_on_it_trains_predicts_and_evaluates(
    method: str, small: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = settings(
        tiny_corpus, tmp_path / "run", split="speaker", method={"name": method}, encoder=str(small),
        train={"epochs": 1}, cache={"folder": str(tmp_path / "cache")},
    )  # fmt: skip
    run = train(config)
    report = json.loads((run / "report.json").read_text())
    assert report["encoder"]["name"] == str(small)
    assert any("its base model can't be looked up" in warning for warning in report["warnings"])
    file = next(tiny_corpus.rglob("*.wav"))
    assert set(sertune.load(run).predict(file)["probabilities"]) == set(CANONICAL)
    out = tmp_path / "scores"
    assert main(["evaluate", str(run), "--data", f"synthetic:{tiny_corpus}", "--out", str(out)]) == 0


def test_other_settings_have_other_states(small: Path, copy: Path) -> None:
    edit(copy, "output_norm: True", "output_norm: False")
    one, other = load_encoder(str(small), check=False), load_encoder(str(copy), check=False)
    keys = [states_key(encoder, "fp32", None, "float32") for encoder in (one, other)]
    assert keys[0] != keys[1]
    assert one.digest != other.digest
    edit(copy, "output_norm: False", "output_norm: True\n    normalize_wav: False")
    third = load_encoder(str(copy), check=False)
    assert third.digest == one.digest
    assert states_key(third, "fp32", None, "float32") != keys[0]


def test_an_encoder_written_for_transformers_keeps_what_speechbrain_adds(small: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(small))
    save_encoder(encoder, tmp_path / "written")
    again = load_encoder(str(tmp_path / "written"))
    assert again.digest == encoder.digest
    assert (again.output_norm, again.features.wave_norm_eps) == (True, 1e-5)
    quiet = noise(0.5, 0.001)
    torch.testing.assert_close(states(again, quiet), states(encoder, quiet), atol=1e-6, rtol=1e-5)


def test_attentive_pooling_and_a_weighted_mix_read_normalised_frames(small: Path) -> None:
    encoder = load_encoder(str(small), check=False)
    head = HeadConfig(pooling="attentive", mix="weighted", layers=[1, encoder.depth])
    model = EmotionModel(encoder, ModelSpec(str(small), MethodConfig("lora"), head, CategoryTarget(("a", "b")))).eval()
    clips = [noise(0.4), noise(0.7, seed=1)]
    together = model.predict_audio(clips)
    torch.testing.assert_close(together[1:], model.predict_audio(clips[1:]), atol=1e-5, rtol=1e-5)


# -- on the hub ------------------------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """Answers for one model as the hub does."""

    folder: Path

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.wfile.write(self.answer())

    def answer(self) -> bytes:
        path = self.path.partition("?")[0]
        mine = any(path.startswith(f"/{NAME}/resolve/{revision}/") for revision in ("main", COMMIT))
        file = self.folder / path.rpartition("/")[2]
        if not mine or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if mine else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return b""
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{file.name}"')
        self.send_header("Content-Length", str(file.stat().st_size))
        self.end_headers()
        return file.read_bytes()

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def server(recogniser: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub on this machine that has `NAME`."""
    import huggingface_hub

    Hub.folder = recogniser
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        place = f"http://127.0.0.1:{running.server_address[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", place)
        template = place + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: False)
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield
        running.shutdown()
        thread.join()


def test_it_is_downloaded_by_name_and_then_there_without_a_network(
    server: None, recogniser: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    expected = load_model(recogniser).predict_audio([noise(0.5)])
    snapshot = hub / f"models--{NAME.replace('/', '--')}" / "snapshots" / COMMIT
    assert load_encoder(NAME, check=False).digest == load_encoder(str(recogniser), check=False).digest
    assert {file.name for file in snapshot.iterdir()} == {"hyperparams.yaml", "wav2vec2.ckpt", "config.json"}
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: True)
    with pytest.raises(SertuneError, match=rf"{NAME}: model.ckpt was not downloaded before, and the model hub can't"):
        load_model(NAME)
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: False)
    load_model(NAME).save(tmp_path / "saved")
    assert not (snapshot / "custom_interface.py").exists()
    with pytest.raises(
        SertuneError, match=r"facebook/hubert: no such model folder, and no model of SpeechBrain .* hub;"
    ):
        load_model("facebook/hubert")
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: True)
    for name in (NAME, tmp_path / "saved"):
        torch.testing.assert_close(load_model(name).predict_audio([noise(0.5)]), expected, atol=0, rtol=0)
    assert "model.ckpt" in {file.name for file in snapshot.iterdir()}


def test_a_file_that_the_model_on_the_hub_lacks(
    server: None, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Hub.folder = shutil.copytree(small, tmp_path / "half")
    (Hub.folder / "config.json").write_text('{"speechbrain_interface": "EncoderWav2vecClassifier"}')
    (Hub.folder / "wav2vec2.ckpt").unlink()
    with pytest.raises(SertuneError, match=rf"^{NAME}: has no wav2vec2\.ckpt; expected the layout"):
        load_encoder(NAME)


def test_a_transformers_model_on_the_hub_with_settings_of_something_else(
    server: None, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Hub.folder = Path(save_family("wav2vec2-group", tmp_path / "transformers"))
    shutil.copy(small / "hyperparams.yaml", Hub.folder)
    assert find_speechbrain(NAME, local=False) is None
    with pytest.raises(SertuneError, match="no such model folder, and no model of SpeechBrain with that name"):
        load_model(NAME)


def test_a_slip_in_the_name_of_a_run_is_not_sent_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sertune.model.emotion_model.hub_answers", lambda name: asked.append(name))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/emodv", "emodv", "./a/b", "a/b/c", "/nowhere/a", "../a", "~/a"):
        with pytest.raises(
            SertuneError, match="no such model folder; give a run folder of sertune train, its model/, or"
        ):
            load_model(name)
    assert asked == []
    with pytest.raises(
        SertuneError, match=r"a/b: no such model folder, and .* was downloaded before, and the model hub"
    ):
        load_model("a/b")
    assert asked == ["a/b"]


def test_the_writer_names_keys_as_speechbrain_does(base: nn.Module) -> None:
    newer, older = encoder_keys(base), encoder_keys(base, old_weight_norm=True, masked=False)
    assert f"model.{WEIGHT}" in newer
    assert "model.encoder.pos_conv_embed.conv.parametrizations.weight.original0" in newer
    assert {"model.encoder.pos_conv_embed.conv.weight_g", "model.encoder.pos_conv_embed.conv.weight_v"} <= set(older)
    assert "model.masked_spec_embed" in newer
    assert "model.masked_spec_embed" not in older
