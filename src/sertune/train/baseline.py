"""The frozen linear models of a fold: the start of the head, and the baseline beside every result."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sertune.data.splits import Fold
from sertune.model.emotion_model import EmotionModel
from sertune.model.probe import LinearModel, fit_linear
from sertune.model.targets import Target
from sertune.train.loop import Clips, score


@dataclass
class Probe:
    """A linear model with the strength that dev chose.

    Attributes:
        model: on standardised features.
        dev_score: of the chosen strength.
    """

    model: LinearModel
    dev_score: float


def fit_probe(
    train: Tensor, dev: Tensor, clips: Clips, fold: Fold, target: Target, strengths: Sequence[float]
) -> Probe:
    """The linear model of each strength, strongest first; the best dev score wins, the stronger of equals.

    Args:
        train: (N, F) standardised features of the training part.
        dev: (M, F) standardised features of the dev part.
        clips: of the run, for the targets.
        fold: who trains and who chooses.
        target: what is predicted.
        strengths: see `RunConfig.head.regularisation`.
    """
    best: Probe | None = None
    model: LinearModel | None = None
    for strength in sorted(strengths, reverse=True):
        model = fit_linear(train, clips.targets[fold.train], target, strength, model)
        dev_score = score(target, model(dev), clips.targets[fold.dev])
        if best is None or dev_score > best.dev_score:
            best = Probe(model, dev_score)
    assert best is not None
    return best


def start_head(model: EmotionModel, clips: Clips, fold: Fold, strengths: Sequence[float], *, probe: bool) -> None:
    """Standardises the head by the training part and, if ``probe``, starts it from the linear model."""
    pooled = clips.states.pooled
    train = model.head.standardise(pooled[fold.train])
    if probe and model.head.linear:
        found = fit_probe(train, model.head.standardised(pooled[fold.dev]), clips, fold, model.target, strengths)
        model.head.start_from(found.model.weight, found.model.bias)


def baseline_sets(depth: int) -> dict[str, tuple[int, ...]]:
    """The sets of layers that the baseline scores: each alone, the inner ones side by side, all side by side."""
    sets: dict[str, tuple[int, ...]] = {f"layer {layer}": (layer,) for layer in range(depth + 1)}
    if depth > 2:
        sets[f"layers 1 to {depth - 1} side by side"] = tuple(range(1, depth))
    sets["all layers side by side"] = tuple(range(depth + 1))
    return sets


def fit_baseline(
    clips: Clips, fold: Fold, target: Target, strengths: Sequence[float], depth: int, width: int
) -> dict[str, tuple[float, Tensor]]:
    """The linear model on mean-pooled states of every set of layers: dev score and outputs on the test part."""
    pooled = clips.states.pooled[:, :, :width]
    found = {}
    for name, layers in baseline_sets(depth).items():
        train = pooled[fold.train][:, list(layers)].flatten(1)
        mean, spread = train.mean(0), train.std(0, correction=0).clamp_min(1e-6)

        def features(
            rows: np.ndarray, chosen: tuple[int, ...] = layers, m: Tensor = mean, s: Tensor = spread
        ) -> Tensor:
            return (pooled[torch.from_numpy(rows)][:, list(chosen)].flatten(1) - m) / s

        probe = fit_probe(features(fold.train), features(fold.dev), clips, fold, target, strengths)
        found[name] = (probe.dev_score, probe.model(features(fold.test)))
    return found
