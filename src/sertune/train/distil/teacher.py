"""What the student learns from: an encoder, or an emotion model with its head."""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sertune.config import AudioConfig
from sertune.errors import SertuneError
from sertune.model.emotion_model import EmotionModel, is_model, load_model
from sertune.model.encoder import Encoder, load_encoder
from sertune.model.targets import CategoryTarget, DimensionTarget, PlaneTarget, Target, VotesTarget
from sertune.train.device import choose_precision
from sertune.train.distil.config import WindowConfig, heard_as

Soft = CategoryTarget | VotesTarget | PlaneTarget
"""Targets whose outputs are logits of a distribution."""


@dataclass
class Teacher:
    """What the student learns from.

    Attributes:
        name: as the user gave it.
        encoder: takes samples at the student's rate, whatever its own.
        layers: that the student is to give.
        model: the emotion model; None where the teacher is an encoder.
        audio: how clips are heard.
        precision: in which it computes.
    """

    name: str
    encoder: Encoder
    layers: tuple[int, ...]
    model: EmotionModel | None
    audio: AudioConfig
    precision: str

    @property
    def target(self) -> Target | None:
        """What the emotion model predicts; None where the teacher is an encoder."""
        return None if self.model is None else self.model.target

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which it computes."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        kind = self.encoder.device.type
        return cast("AbstractContextManager[None]", torch.autocast(kind, dtype, enabled=self.precision != "fp32"))

    @torch.no_grad()
    def outputs(self, audio: np.ndarray) -> Tensor:
        """(1, K) outputs of the emotion model for samples (N,) at the student's rate."""
        assert self.model is not None
        with self.autocast():
            return self.model.predict_audio([audio]).float().cpu()

    @property
    def head_digest(self) -> str:
        """Digest of the emotion model's head, which its outputs depend on beside the encoder."""
        assert self.model is not None
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.model.head.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        return digest.hexdigest()

    def described(self) -> dict[str, Any]:
        """What a report says of it."""
        kind = "emotion model" if self.model is not None else "encoder"
        parameters = sum(parameter.numel() for parameter in self.encoder.model.parameters())
        return {**self.encoder.described(), "name": self.name, "kind": kind, "parameters": parameters}


def load_teacher(name: str, layers: Sequence[int], window: WindowConfig, precision: str, rate: int) -> Teacher:
    """The teacher by hub name, folder or run folder, ready to hear what the student hears.

    Args:
        name: of an encoder, or the folder of an emotion model.
        layers: that the student is to give; empty: the inner ones, or those that the emotion model's head reads.
        window: how clips are heard.
        precision: as the user gave it.
        rate: of the student's samples in Hz. A teacher with another rate hears them resampled.

    Raises:
        SertuneError: no such teacher, layers that it does not have, or an emotion model whose outputs can't be given.
    """
    if not name:
        raise SertuneError("no teacher: say what the student learns from with --teacher ENCODER or --teacher RUN")
    model = load_model(name) if is_model(name) else None
    encoder = load_encoder(name) if model is None else model.encoder
    if model is not None and not isinstance(model.target, (CategoryTarget, VotesTarget, PlaneTarget, DimensionTarget)):
        raise SertuneError(
            f"teacher {name}: target {model.target.name} can't be distilled, as a student has a linear head; expected "
            "categories, votes, the plane or dimensions"
        )
    for layer in layers:
        if not 0 <= layer <= encoder.depth:
            raise SertuneError(f"layers = {layer}: teacher {name} has layers 0 to {encoder.depth}, the output")
    usual = tuple(range(1, encoder.depth)) or (encoder.depth,)
    chosen = tuple(sorted(layers)) or (tuple(sorted(model.head.layers)) if model is not None else usual)
    audio = heard_as(window, None if model is None else model.spec.audio)
    if model is not None:
        encoder.forget_digest()  # until here it was that of the base
    encoder.features.silence, encoder.features.level = audio.silence, audio.level
    encoder.features.rate = rate
    found = choose_precision(encoder.width) if precision == "auto" else precision
    if found == "bf16" and encoder.device.type == "cpu" and not torch.cuda.is_available():
        encoder.use_attention("plain")
    return Teacher(name, encoder, chosen, model, audio, found)
