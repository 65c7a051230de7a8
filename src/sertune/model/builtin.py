"""`builtin`: a small Whisper-shaped encoder that needs no download.

Log-mel front, two convolutions, a few transformer layers, from a seeded initialisation. It is not pre-trained: it
is for trying out, for tests and for small tasks, and says nothing of what a pre-trained encoder reaches.
"""

import math

import numpy as np
import torch
from torch import nn

from sertune.errors import unknown
from sertune.model.features import Features

WIDTH, LAYERS, HEADS = 128, 4, 4


def build_builtin(name: str) -> tuple[nn.Module, Features]:
    """The embedded encoder and its features; the same weights on every machine.

    Raises:
        SertuneError: ``name`` is not ``builtin``.
    """
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    if name != "builtin":
        raise unknown("embedded encoder", name, ["builtin"])
    config = WhisperConfig(
        d_model=WIDTH, encoder_layers=LAYERS, encoder_attention_heads=HEADS, encoder_ffn_dim=4 * WIDTH,
        decoder_layers=0, num_mel_bins=80, dropout=0.0, vocab_size=4, pad_token_id=0, bos_token_id=1, eos_token_id=1,
        decoder_start_token_id=1, max_target_positions=4,
    )  # fmt: skip
    model: nn.Module = WhisperEncoder(config).eval()
    _initialise(model)
    return model, Features(WhisperFeatureExtractor(feature_size=80))


@torch.no_grad()
def _initialise(model: nn.Module, seed: int = 0) -> None:
    """Seeded by NumPy, whose streams do not change between versions as torch's may."""
    rng = np.random.default_rng(seed)
    for name, parameter in sorted(model.named_parameters()):
        if "embed_positions" in name:  # sinusoids, as Whisper's encoder has
            parameter.copy_(_sinusoids(*parameter.shape))
        elif parameter.ndim < 2:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            fan_in = parameter[0].numel()
            values = rng.standard_normal(tuple(parameter.shape)).astype(np.float32) / math.sqrt(fan_in)
            parameter.copy_(torch.from_numpy(values))


def _sinusoids(length: int, channels: int) -> torch.Tensor:
    """Sinusoidal positions (Vaswani et al. 2017), sines first as in Whisper."""
    scales = torch.exp(-math.log(10000) / (channels // 2 - 1) * torch.arange(channels // 2))
    angles = torch.arange(length)[:, None] * scales[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)
