"""A small Whisper-shaped encoder of any size: log-mel front, two convolutions, a few transformer layers.

It is the shape of `builtin`, and of what `sertune distil` trains. Its front also runs on a batch of clips, as no front
that is found in an arbitrary model could: every clip comes out as it does alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sertune.data.batch import LayerStates
from sertune.errors import SertuneError
from sertune.model.encoder import Encoder
from sertune.model.features import Features

MELS = 80
"""Bands of the log-mel front."""
HEAD_WIDTH = 64
"""Channels of one attention head, where the number of heads is not named."""
CHANNELS_PER_LAYER = 16
"""A student has at most one layer for so many channels (a choice: narrow and deep ones hardly train)."""
POSITIONS = 1500
"""Frames of the longest clip: 30 s, as Whisper's."""


@dataclass(frozen=True)
class Shape:
    """Size of a student.

    Attributes:
        layers: transformer layers.
        width: channels of the states.
        heads: of the attention; 0: one for every `HEAD_WIDTH` channels.
        feed_forward: width inside the feed-forward parts; 0: four times ``width``.
    """

    layers: int = 3
    width: int = 192
    heads: int = 0
    feed_forward: int = 0

    def check(self, section: str = "student") -> None:
        """Raises `SertuneError` for a size that can't be built, naming its key.

        Args:
            section: what the keys are below.
        """
        if self.layers < 1:
            raise SertuneError(f"{section}.layers = {self.layers}: expected 1 or more")
        if self.width < CHANNELS_PER_LAYER or self.width % 2:
            raise SertuneError(f"{section}.width = {self.width}: expected an even number from {CHANNELS_PER_LAYER} on")
        most = self.width // CHANNELS_PER_LAYER
        if self.layers > most:
            raise SertuneError(
                f"{section}.layers = {self.layers}: a width of {self.width} allows {most}, one for every "
                f"{CHANNELS_PER_LAYER} channels; take fewer layers or a larger {section}.width"
            )
        if self.heads < 0 or self.width % self.all_heads:
            raise SertuneError(
                f"{section}.heads = {self.heads or self.all_heads}: expected a number that divides the width, "
                f"{self.width}"
            )
        if self.feed_forward < 0:
            raise SertuneError(f"{section}.feed_forward = {self.feed_forward}: expected a width above 0, or 0 for auto")

    @property
    def all_heads(self) -> int:
        """Attention heads."""
        return self.heads or max(1, self.width // HEAD_WIDTH)

    @property
    def inner(self) -> int:
        """Width inside the feed-forward parts."""
        return self.feed_forward or 4 * self.width

    def config(self) -> Any:
        """As transformers describes it."""
        from transformers import WhisperConfig

        return WhisperConfig(
            d_model=self.width, encoder_layers=self.layers, encoder_attention_heads=self.all_heads,
            encoder_ffn_dim=self.inner, decoder_layers=0, num_mel_bins=MELS, max_source_positions=POSITIONS,
            dropout=0.0, vocab_size=4, pad_token_id=0, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1,
            max_target_positions=4,
        )  # fmt: skip


def mel_features() -> Features:
    """Whisper's log-mel spectra of clips at 16 kHz, 100 frames a second."""
    from transformers import WhisperFeatureExtractor

    return Features(WhisperFeatureExtractor(feature_size=MELS))


def sinusoids(length: int, channels: int) -> Tensor:
    """Sinusoidal positions (Vaswani et al. 2017), sines first as in Whisper: (length, channels) float32.

    In double precision, then rounded to what float16 holds: so no weight file needs them, and their last digits do not
    depend on a machine's sine.
    """
    scales = np.exp(-math.log(10000) / (channels // 2 - 1) * np.arange(channels // 2))
    angles = np.arange(length)[:, None] * scales[None, :]
    rounded = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float16)
    return torch.from_numpy(rounded.astype(np.float32))


@torch.no_grad()
def build_student(shape: Shape, seed: int = 0, positions: Callable[[int, int], Tensor] = sinusoids) -> nn.Module:
    """A student with random weights, in eval mode; the same ones on every machine.

    Seeded by NumPy, whose streams do not change between versions as torch's may.

    Args:
        shape: its size.
        seed: of the weights.
        positions: gives (length, channels).
    """
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    model: nn.Module = WhisperEncoder(shape.config()).eval()
    rng = np.random.default_rng(seed)
    for name, parameter in sorted(model.named_parameters()):
        if "embed_positions" in name:
            parameter.copy_(positions(*parameter.shape))
        elif parameter.ndim < 2:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            fan_in = parameter[0].numel()
            values = rng.standard_normal(tuple(parameter.shape)).astype(np.float32) / math.sqrt(fan_in)
            parameter.copy_(torch.from_numpy(values))
    return model


@torch.no_grad()
def start_from(model: nn.Module, teacher: nn.Module, spread: Tensor) -> None:
    """Gives a student a part of its teacher's weights: its first layers, with some of their channels and heads.

    Kept are the channels of the states that spread most, heads evenly over the teacher's, and the inner channels of the
    feed-forward parts with the largest product of the norms of what goes in and out. Sums over fewer channels are
    scaled up by the square root of what is left out. This is a choice; it is a start, and far from what it becomes.

    Args:
        model: a student (`build_student`).
        teacher: of its shape, see `can_start_from`.
        spread: (D,) standard deviation of the channels of the teacher's states.
    """
    own: Any = model.config
    theirs: Any = teacher.config
    width, heads, inner = own.d_model, own.encoder_attention_heads, own.encoder_ffn_dim
    channels = spread.argsort(descending=True)[:width].sort().values
    side = theirs.d_model // theirs.encoder_attention_heads
    picked = np.linspace(0, theirs.encoder_attention_heads - 1, heads).round().astype(int).tolist()
    rows = torch.cat([torch.arange(head * side, (head + 1) * side) for head in picked])
    scale = math.sqrt(theirs.d_model / width)
    weights = teacher.state_dict()
    for name, parameter in model.named_parameters():
        if "embed_positions" in name:
            continue
        given = weights[name]
        if name == "conv1.weight":
            chosen = given[channels]
        elif name == "conv2.weight":
            chosen = given[channels][:, channels] * scale
        elif ".fc" in name:
            chosen = _feed_forward(weights, name, channels, inner, scale)
        elif name.endswith("out_proj.weight"):
            chosen = given[channels][:, rows] * scale
        elif name.endswith("_proj.weight"):
            chosen = given[rows][:, channels] * scale
        elif name.endswith("_proj.bias") and "out_proj" not in name:
            chosen = given[rows]
        else:
            chosen = given[channels]
        parameter.copy_(chosen)


def _feed_forward(weights: dict[str, Tensor], name: str, channels: Tensor, inner: int, scale: float) -> Tensor:
    """The chosen part of a weight or bias of a feed-forward part."""
    layer, _, which = name.partition(".fc")
    into, out = weights[f"{layer}.fc1.weight"][:, channels], weights[f"{layer}.fc2.weight"][channels]
    kept = (into.norm(dim=1) * out.norm(dim=0)).argsort(descending=True)[:inner].sort().values
    if which == "1.weight":
        return into[kept] * scale
    if which == "1.bias":
        return weights[name][kept]
    if which == "2.weight":
        return out[:, kept] * math.sqrt(out.shape[1] / inner)
    return weights[name][channels]


def can_start_from(shape: Shape, teacher: nn.Module) -> str:
    """Why a student can't start from a teacher's weights; empty where it can."""
    config: Any = teacher.config
    if config.model_type != "whisper" or config.num_mel_bins != MELS:
        return "it has another shape than the student; expected Whisper's, with 80 bands"
    if config.d_model // config.encoder_attention_heads != shape.width // shape.all_heads:
        side = config.d_model // config.encoder_attention_heads
        return f"its attention heads have {side} channels, the student's {shape.width // shape.all_heads}"
    for what, own, theirs in (
        ("layers", shape.layers, config.encoder_layers),
        ("channels", shape.width, config.d_model),
        ("channels inside its feed-forward parts", shape.inner, config.encoder_ffn_dim),
    ):
        if own > theirs:
            return f"it has {theirs} {what}, the student {own}"
    names = set(teacher.state_dict())
    if "layers.0.fc1.weight" not in names or "layers.0.self_attn.q_proj.weight" not in names:
        return "a method has changed its modules; merge it first (sertune merge)"
    return ""


def batched_front(encoder: Encoder, mels: Tensor, lengths: Tensor) -> LayerStates:
    """States that enter the first layer, for several clips at once; each as `Encoder.front` gives it alone.

    Args:
        encoder: a student.
        mels: (B, T, 80) log-mel spectra, zeros after each clip.
        lengths: (B,) their frames.

    Returns:
        Padded states (B, ceil(T / 2), D).
    """
    model: Any = encoder.model
    inside = torch.arange(mels.shape[1], device=mels.device)[None] < lengths[:, None]
    states = nn.functional.gelu(model.conv1(mels.transpose(1, 2)))
    # beyond its end a clip alone sees the zeros of the padding, here it would see what the first convolution makes of
    # them
    states = nn.functional.gelu(model.conv2(states * inside[:, None])).transpose(1, 2)
    states = states + model.embed_positions.weight[: states.shape[1]]
    frames = (lengths + 1) // 2
    own = LayerStates(states, frames)
    return LayerStates(states * own.inside()[:, :, None], frames)
