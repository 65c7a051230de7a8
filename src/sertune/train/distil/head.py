"""The student of an emotion model: a linear head on its pooled states, solved on what the teacher says of the audio."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sertune.config import HeadConfig, MethodConfig
from sertune.data.batch import make_batches
from sertune.metrics.scores import ccc
from sertune.model.emotion_model import EmotionModel, ModelSpec
from sertune.model.encoder import Encoder, mean_and_std
from sertune.model.probe import fit_linear
from sertune.model.student import batched_front
from sertune.model.targets import DimensionTarget, Target, dimensions_of, lead_of
from sertune.progress import progress
from sertune.train.distil.config import DistilConfig
from sertune.train.distil.loss import output_distance
from sertune.train.distil.pairs import PairBatch, Pairs

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Regularisation that is tried; the held-out clips choose."""
UNCHOSEN = 1e-2
"""Where nothing is held out."""
MOST_VIEWS = 4


@dataclass
class Pooled:
    """What the student makes of clips, and what the teacher says of them.

    Attributes:
        vectors: (N, depth + 1, 2 D) mean and standard deviation of every layer.
        outputs: (N, K) of the teacher.
    """

    vectors: Tensor
    outputs: Tensor


def fit_head(
    encoder: Encoder, pairs: Pairs, config: DistilConfig, info: dict[str, Any]
) -> tuple[EmotionModel, dict[str, Any]]:
    """The student with a head that says what the teacher says, and how far it does.

    Args:
        encoder: the student, as it was saved.
        pairs: clips that were distilled from.
        config: of the run.
        info: what the model is to remember.

    Returns:
        The model, and for the report the agreement with the teacher on the clips that are held out; empty where there
        are none.
    """
    teacher = pairs.teacher
    assert teacher.model is not None
    target = teacher.model.target
    head = HeadConfig(layers=list(range(1, encoder.depth + 1)), dropout=0.0)
    audio = teacher.model.spec.audio
    spec = ModelSpec(encoder.name, MethodConfig("frozen"), head, target, audio)
    model = EmotionModel(encoder, spec)
    encoder.features.silence, encoder.features.level = teacher.audio.silence, teacher.audio.level
    views = min(MOST_VIEWS, len(pairs.names[0]) if pairs.names else 2)
    known = _pooled(encoder, pairs, pairs.train, config, range(views), "Solving the head")
    held = _pooled(encoder, pairs, pairs.held, config, range(1), "Held out") if len(pairs.held) else None
    features = model.head.standardise(known.vectors)
    wanted = _wanted(target, known.outputs)
    best, least, start = None, float("inf"), None
    for strength in sorted(STRENGTHS if held is not None else (UNCHOSEN,), reverse=True):
        start = fit_linear(features, wanted, target, strength, start)
        if held is None:
            best = start
            break
        found = float(output_distance(target, start(model.head.standardised(held.vectors)), held.outputs))
        if found < least:
            best, least = start, found
    assert best is not None
    model.head.start_from(best.weight, best.bias)
    layers = list(model.head.layers)
    model.head.measure_source(known.vectors[:, layers, : model.head.statistics])
    model.info = info
    said = {} if held is None else _agreement(target, best(model.head.standardised(held.vectors)), held.outputs)
    return model.eval(), said


@torch.no_grad()
def _pooled(encoder: Encoder, pairs: Pairs, rows: np.ndarray, config: DistilConfig, views: range, title: str) -> Pooled:
    """Some views of some clips; 0 is the clip as it is."""
    options = config.train
    batches = make_batches(
        pairs.seconds[rows], max_clips=options.batch_clips, max_seconds=options.batch_seconds, rng=None
    )
    vectors, outputs = [], []
    encoder.eval()
    with progress(title, len(views) * len(batches)) as advance:
        for view in views:
            for position in batches:
                batch = pairs.view(rows[position].tolist(), view)
                vectors.append(_vectors(encoder, batch))
                assert batch.outputs is not None
                outputs.append(batch.outputs)
                advance(1)
    return Pooled(torch.cat(vectors), torch.cat(outputs))


def _vectors(encoder: Encoder, batch: PairBatch) -> Tensor:
    entering = batched_front(encoder, batch.mels, batch.lengths)
    return torch.stack([mean_and_std(layer) for layer in encoder.replay(encoder.lay_out(entering), 0)], dim=1)


def _wanted(target: Target, outputs: Tensor) -> np.ndarray:
    """What the linear model is fitted to, (N, K): probabilities, or values."""
    wanted = outputs if isinstance(target, DimensionTarget) else outputs.softmax(1)
    return wanted.numpy().astype(np.float32)


def _agreement(target: Target, given: Tensor, true: Tensor) -> dict[str, Any]:
    """How far student and teacher say the same of N clips."""
    lead = lead_of(target)
    found: dict[str, Any] = {"clips": len(given), "distance": float(output_distance(target, given, true))}
    if isinstance(target, DimensionTarget):
        own, theirs = (values.double().numpy() for values in (given, true))
        names = dimensions_of(lead)
        return {**found, "ccc": {name: float(ccc(theirs[:, k], own[:, k])) for k, name in enumerate(names)}}
    return {**found, "same": float((given.argmax(1) == true.argmax(1)).float().mean())}
