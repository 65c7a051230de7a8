"""`builtin`: a small encoder that comes with the package and needs no download.

Log-mel front, two convolutions, a few transformer layers (`sertune.model.student`). `builtin:random` has the shape that
`builtin` once had, and weights from a seeded initialisation: for tests, and to see what pre-training brings.
"""

import math

import torch
from torch import Tensor, nn

from sertune.errors import unknown
from sertune.model.features import Features
from sertune.model.student import Shape, build_student, mel_features

RANDOM = Shape(layers=4, width=128, heads=4)
NAMES = ("builtin", "builtin:random")


def build_builtin(name: str) -> tuple[nn.Module, Features]:
    """An embedded encoder and its features; the same weights on every machine.

    Raises:
        SertuneError: ``name`` is none of `NAMES`.
    """
    if name not in NAMES:
        raise unknown("embedded encoder", name, NAMES)
    return build_student(RANDOM, positions=_sinusoids), mel_features()


def _sinusoids(length: int, channels: int) -> Tensor:
    """As `sertune.model.student.sinusoids`, with the last digits that it always had."""
    scales = torch.exp(-math.log(10000) / (channels // 2 - 1) * torch.arange(channels // 2))
    angles = torch.arange(length)[:, None] * scales[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)
