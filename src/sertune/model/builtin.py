"""Models that come with the package and need no download.

`builtin` is a small encoder (`sertune.model.student`) that was distilled from Whisper tiny.en's; its card is
``embedded/encoder/CARD.md``. `builtin:emotion` is an emotion model on it (``embedded/emotion/CARD.md``).
`builtin:random` has the shape that `builtin` once had, and weights from a seeded initialisation: for tests, and to see
what pre-training brings.
"""

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from sertune.errors import SertuneError, unknown
from sertune.model.features import Features
from sertune.model.student import POSITIONS, Shape, build_student, mel_features, sinusoids

EMBEDDED = Path(__file__).with_name("embedded")
BUILTIN, RANDOM, EMOTION = "builtin", "builtin:random", "builtin:emotion"
RANDOM_SHAPE = Shape(layers=4, width=128, heads=4)
RANDOM_DIGEST = "6459c52d4b49a740aa21d8065d33243f"
"""Of `builtin:random`: models that were trained when `builtin` was that are still loaded."""


def build_builtin(name: str) -> tuple[nn.Module, Features]:
    """An embedded encoder and its features; the same weights on every machine.

    Raises:
        SertuneError: ``name`` is neither `BUILTIN` nor `RANDOM`.
    """
    if name == EMOTION:
        raise SertuneError(
            f"encoder {EMOTION}: is an emotion model, as for sertune predict {EMOTION}; its encoder is builtin"
        )
    if name not in (BUILTIN, RANDOM):
        raise unknown("embedded encoder", name, [BUILTIN, RANDOM])
    if name == RANDOM:
        return build_student(RANDOM_SHAPE, positions=_sinusoids), mel_features()
    return _embedded(EMBEDDED / "encoder"), mel_features()


def _embedded(folder: Path) -> nn.Module:
    """The encoder of a folder in transformers' layout, without positions, which are a formula."""
    from safetensors.torch import load_file

    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = Shape(told["encoder_layers"], told["d_model"], told["encoder_attention_heads"], told["encoder_ffn_dim"])
    weights = load_file(folder / "model.safetensors")
    model = build_student(shape)
    own = {name.removeprefix("encoder."): tensor.float() for name, tensor in weights.items()}
    model.load_state_dict({**own, "embed_positions.weight": sinusoids(POSITIONS, shape.width)})
    return model


def _sinusoids(length: int, channels: int) -> Tensor:
    """As `sertune.model.student.sinusoids`, with the last digits that it always had."""
    scales = torch.exp(-math.log(10000) / (channels // 2 - 1) * torch.arange(channels // 2))
    angles = torch.arange(length)[:, None] * scales[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)
