"""Packed and padded batches give the same; dropout, attention kernels, checkpointing and half-precision weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, save_family
from torch.nn import functional as F

from sertune.config import HeadConfig, MethodConfig
from sertune.data.batch import LayerStates, collate, pad_states
from sertune.errors import SertuneError
from sertune.model.attention import NAME, Kernel, Packing, attend
from sertune.model.dropout import FastDropout, dropout
from sertune.model.emotion_model import EmotionModel, ModelSpec
from sertune.model.encoder import Encoder, load_encoder, mean_and_std
from sertune.model.methods import apply_methods
from sertune.model.targets import CategoryTarget

ALL = [*FAMILIES, "builtin"]
SLACK = {"builtin": 0.03}
"""Trained weights on noise attend to some prompts far more than to a frame, and their gates start at a millionth."""
PACKED = [family for family in ALL if not family.startswith(("wavlm", "w2v-bert"))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("families")
    return {**{family: save_family(family, root / family) for family in FAMILIES}, "builtin": "builtin"}


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16000))).astype(np.float32)


@torch.no_grad()
def entering(encoder: Encoder, *seconds: float) -> LayerStates:
    return pad_states([encoder.front(noise(length)).states[0] for length in seconds or (0.6, 1.4, 0.9)])


def assert_same(one: LayerStates, other: LayerStates) -> None:
    assert one.lengths.tolist() == other.lengths.tolist()
    inside = one.inside()
    torch.testing.assert_close(one.states[inside], other.states[inside], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ALL)
def test_packing_where_the_family_allows_it(family: str, folders: dict[str, str]) -> None:
    assert load_encoder(folders[family], check=False).packs == (family in PACKED)


@pytest.mark.parametrize("family", PACKED)
@pytest.mark.parametrize("kernel", ["plain", "sdpa"])
def test_packed_equals_padded(family: str, kernel: str, folders: dict[str, str]) -> None:
    encoder = load_encoder(folders[family], check=False)
    encoder.use_attention(kernel)  # type: ignore[arg-type]
    with torch.no_grad():
        for states in (entering(encoder), entering(encoder, 0.7, 0.7)):
            for packed, padded in zip(encoder.replay(states.pack(), 0), encoder.replay(states, 0), strict=True):
                assert packed.packed
                assert_same(packed.pad(), padded)


@pytest.mark.parametrize("lengths", [[5, 4], [5, 5, 5]])
def test_packed_attention_stays_within_a_clip(lengths: list[int]) -> None:
    """Another clip beside it changes nothing, also in the gradients."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, sum(lengths), 4, requires_grad=True) for _ in range(3))
    kernels: tuple[Kernel, ...] = ("plain", "sdpa")
    for kernel in kernels:
        both, _ = attend(torch.nn.Identity(), query, key, value, Packing(lengths, kernel))
        assert both.shape == (1, sum(lengths), 2, 4)
        alone = F.scaled_dot_product_attention(query[:, :, :5], key[:, :, :5], value[:, :, :5]).transpose(1, 2)
        torch.testing.assert_close(both[:, :5], alone)
        last = F.scaled_dot_product_attention(query[:, :, 5:9], key[:, :, 5:9], value[:, :, 5:9]).transpose(1, 2)
        if len(lengths) == 2:
            torch.testing.assert_close(both[:, 5:], last)
        (slope,) = torch.autograd.grad(both[:, :5].sum(), value, retain_graph=True)
        assert not slope[:, :, 5:].any()


def test_statistics_do_not_depend_on_the_layout() -> None:
    torch.manual_seed(0)
    padded = pad_states([torch.randn(frames, 6) for frames in (3, 1, 8)])
    torch.testing.assert_close(mean_and_std(padded.pack()), mean_and_std(padded))
    assert torch.equal(padded.pack().pad().states, padded.states)
    expected = torch.stack([padded.states[row, :frames].mean(0) for row, frames in enumerate((3, 1, 8))])
    torch.testing.assert_close(mean_and_std(padded)[:, :6], expected)


@pytest.mark.parametrize("family", [family for family in ALL if not family.startswith("w2v-bert")])
def test_prompts_that_act_are_the_same_packed_padded_and_alone(family: str, folders: dict[str, str]) -> None:
    encoder = load_encoder(folders[family], check=False)
    states = entering(encoder)
    with torch.no_grad():
        before = encoder.replay(encoder.lay_out(states), 0)[-1].pad()
        torch.manual_seed(0)
        apply_methods(encoder, MethodConfig("prompt", "all"))
        start = encoder.replay(encoder.lay_out(states), 0)[-1].pad()
        scale = max(1.0, float(before.states.abs().max()))
        torch.testing.assert_close(start.states, before.states, atol=SLACK.get(family, 1e-5) * scale, rtol=1e-5)
        for name, parameter in encoder.model.named_parameters():
            if name.endswith("prompt.gate"):
                parameter.fill_(0.1)  # each prompt counts as one frame
        acting = encoder.replay(encoder.lay_out(states), 0)[-1].pad()
        assert_same(acting, encoder.replay(states, 0)[-1])
        alone = encoder.replay(encoder.front(noise(0.6)), 0)[-1].states[0]
    torch.testing.assert_close(acting.states[0, : len(alone)], alone, atol=2e-5, rtol=1e-4)
    assert float((acting.states - before.states).abs().max()) > 1e-3


def test_the_gate_of_a_prompt_has_its_gradient_from_the_start(folders: dict[str, str]) -> None:
    """By finite differences: the factor is tiny at first, its slope is not."""
    encoder = load_encoder(folders["wav2vec2-group"], check=False)
    torch.manual_seed(0)
    apply_methods(encoder, MethodConfig("prompt", 1))
    states = entering(encoder)
    gate = encoder.layers[-1].get_parameter("prompt.gate")
    weights = torch.linspace(-1, 1, encoder.width)

    def value() -> torch.Tensor:
        return (mean_and_std(encoder.replay(states.pack(), encoder.cut)[-1])[:, : encoder.width] * weights).sum()

    with torch.no_grad():
        states = encoder.replay(states.pack(), 0, encoder.cut)[-1].pad()
    (slope,) = torch.autograd.grad(value(), gate)
    with torch.no_grad():
        before = value()
        gate[0] += 3e-4
        after = value()
    assert abs(float(slope[0])) > 1e-4
    assert float(after - before) / 3e-4 == pytest.approx(float(slope[0]), rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    states = torch.ones(1000, 1000, dtype=dtype, requires_grad=True)
    for rate in (0.1, 0.5, 0.999):
        made = dropout(states, rate)
        kept = made != 0
        assert float(kept.float().mean()) == pytest.approx(1 - rate, abs=2e-3)
        assert float(made.detach().float().mean()) == pytest.approx(1, abs=0.06 if rate > 0.9 else 5e-3)
        (slope,) = torch.autograd.grad(made.sum(), states)
        assert torch.equal(slope != 0, kept)
    # rows and columns are as likely as each other: no pattern from the way bits are drawn
    kept = dropout(torch.ones(4096, 64), 0.5) != 0
    assert float((kept.float().mean(0) - 0.5).abs().max()) < 0.04
    assert dropout(states, 0.0) is states


def test_dropout_of_torch_is_replaced_and_seeded() -> None:
    states, layer = torch.ones(50, 50), torch.nn.Dropout(0.3)
    with FastDropout():
        torch.manual_seed(1)
        first = layer(states)
        torch.manual_seed(1)
        again = F.dropout(states, 0.3)
        off = F.dropout(states, 0.3, training=False)
    assert torch.equal(first, again)
    torch.manual_seed(1)
    assert torch.equal(first, dropout(states, 0.3))
    assert torch.equal(off, states)


@pytest.mark.parametrize("family", ["wav2vec2-group", "wavlm", "whisper", "w2v-bert"])
def test_checkpointing_gives_the_same_gradients_with_dropout(family: str, folders: dict[str, str]) -> None:
    gradients = []
    for checkpointing in (False, True):
        encoder = load_encoder(folders[family], check=False)
        for module in encoder.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.2
        encoder.set_trainable(encoder.parameters_from(1), 1)
        encoder.checkpointing = checkpointing
        with torch.no_grad():
            states = encoder.replay(encoder.lay_out(entering(encoder)), 0, 1)[-1]
        encoder.train()
        torch.manual_seed(3)
        mean_and_std(encoder.replay(states, 1)[-1])[:, :8].sum().backward()
        gradients.append([p.grad for p in encoder.parameters_from(1)])
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["wav2vec2-group", "wavlm", "whisper", "w2v-bert"])
def test_frozen_weights_in_half_precision_change_nothing_under_autocast(family: str, folders: dict[str, str]) -> None:
    outputs = []
    for halved in (False, True):
        encoder = load_encoder(folders[family], check=False)
        spec = ModelSpec("", MethodConfig("lora", 2), HeadConfig(), CategoryTarget(("a", "b")))
        torch.manual_seed(0)
        model = EmotionModel(encoder, spec)
        if halved:
            encoder.halve_frozen(torch.bfloat16)
            assert all(p.dtype == torch.float32 for p in model.trained_parameters())
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            clips = [encoder.clip_states(noise(seconds), model.start) for seconds in (0.6, 1.0)]
            outputs.append(model.eval()(collate(clips, torch.zeros(2, 2), ["", ""])))
            outputs.append(torch.stack([clip.pooled for clip in clips]))
    torch.testing.assert_close(outputs[0], outputs[2], atol=0, rtol=0)
    torch.testing.assert_close(outputs[1], outputs[3], atol=0, rtol=0)


def test_saving_a_merged_encoder_does_not_name_our_attention(folders: dict[str, str], tmp_path: Path) -> None:
    encoder = load_encoder(folders["wav2vec2-group"], check=False)
    encoder.model.save_pretrained(tmp_path)  # type: ignore[operator]
    assert NAME not in (tmp_path / "config.json").read_text()


def test_flash_needs_a_family_that_packs(folders: dict[str, str]) -> None:
    with pytest.raises(SertuneError, match=r"attention = flash: encoder .* has an attention of its own"):
        load_encoder(folders["wavlm"], check=False).use_attention("flash")
