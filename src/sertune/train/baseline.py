"""The frozen linear models of a fold: the start of the head, and the baseline beside every result."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sertune.config import HeadConfig, RaterConfig
from sertune.data.splits import Fold
from sertune.model.emotion_model import EmotionModel
from sertune.model.probe import LinearModel, fit_linear
from sertune.model.targets import Target
from sertune.train.judge import score
from sertune.train.loop import Clips
from sertune.train.raters import start_raters


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
    train: tuple[Tensor, np.ndarray], dev: tuple[Tensor, np.ndarray], target: Target, strengths: Sequence[float]
) -> Probe:
    """The linear model of each strength, strongest first; the best dev score wins, the stronger of equals.

    Args:
        train: (N, F) standardised features of the training part, and their (N, K) targets.
        dev: (M, F) standardised features of the dev part, and their (M, K) targets.
        target: what is predicted.
        strengths: see `RunConfig.head.regularisation`.
    """
    best: Probe | None = None
    model: LinearModel | None = None
    for strength in sorted(strengths, reverse=True):
        model = fit_linear(*train, target, strength, model)
        dev_score = score(target, target.lift(model(dev[0]), torch.from_numpy(dev[1])), dev[1])
        if best is None or dev_score > best.dev_score:
            best = Probe(model, dev_score)
    assert best is not None
    return best


@dataclass(frozen=True)
class Strengths:
    """Regularisation that dev chose for the solved parts of a model; 0 where there is no such part."""

    head: float = 0.0
    readout: float = 0.0


def start_head(
    model: EmotionModel,
    clips: Clips,
    fold: Fold,
    config: HeadConfig,
    raters: RaterConfig,
    chosen: Strengths | None = None,
) -> Strengths:
    """Standardises the head by the training part, and solves what is solved: the head's start and the readout.

    Args:
        model: with pre-trained weights.
        clips: of the run.
        fold: who trains and who chooses.
        config: strengths to try, and whether the head starts from a linear model.
        raters: options of the annotators, for models that have them.
        chosen: strengths of an earlier choice, which are then taken without looking at dev.
    """
    head = model.head
    known, targets = clips.for_solving(fold.train)
    train = head.standardise(known)
    strengths = Strengths()
    if config.start == "probe" and head.linear:
        trains = model.encoder.cut < model.encoder.depth
        tried = [config.start_regularisation] if trains else _tried(config, chosen.head if chosen else None)
        dev = head.standardised(clips.states.pooled[fold.dev])
        found = fit_probe((train, targets), (dev, clips.targets[fold.dev]), model.target, tried)
        head.start_from(found.model.weight, found.model.bias)
        strengths = replace(strengths, head=found.model.regularisation)
    start_raters(model, targets, raters, start=config.start == "probe")
    readout = solve_readout(model, clips, fold, config, chosen)
    return replace(strengths, readout=readout)


def solve_readout(
    model: EmotionModel, clips: Clips, fold: Fold, config: HeadConfig, chosen: Strengths | None = None
) -> float:
    """Solves the readout below the cut, if the head has one; returns its strength. Arguments as of `start_head`."""
    readout = model.head.readout
    if readout is None:
        return 0.0
    known, targets = clips.for_solving(fold.train)
    train, dev = readout.features(known), readout.features(clips.states.pooled[fold.dev])
    mean, spread = _moments(train)
    found = fit_probe(
        ((train - mean) / spread, targets),
        ((dev - mean) / spread, clips.targets[fold.dev]),
        model.target,
        _tried(config, chosen.readout if chosen else None),
    )
    readout.set(mean, spread, found.model.weight, found.model.bias)
    return found.model.regularisation


def _tried(config: HeadConfig, chosen: float | None) -> Sequence[float]:
    return config.regularisation if chosen is None else [chosen]


def baseline_sets(depth: int) -> dict[str, tuple[int, ...]]:
    """The sets of layers that the baseline scores: each alone, the inner ones side by side, all side by side."""
    sets: dict[str, tuple[int, ...]] = {f"layer {layer}": (layer,) for layer in range(depth + 1)}
    if depth > 2:
        sets[f"layers 1 to {depth - 1} side by side"] = tuple(range(1, depth))
    sets["all layers side by side"] = tuple(range(depth + 1))
    return sets


def fit_baseline(
    clips: Clips, fold: Fold, target: Target, strengths: Sequence[float], depth: int, width: int, *, refit: bool
) -> dict[str, tuple[float, Tensor]]:
    """The linear model on mean-pooled states of every set of layers: dev score and outputs on the test part.

    With ``refit`` the chosen strength is fitted again on train and dev together, as the model itself is.
    """
    pooled = clips.states.pooled[:, :, :width]
    known = np.sort(np.concatenate([fold.train, fold.dev]))
    found = {}
    for name, layers in baseline_sets(depth).items():
        features = pooled[:, list(layers)].flatten(1)
        train, dev, test = _standardised(features, fold.train, fold.dev, fold.test)
        probe = fit_probe((train, clips.targets[fold.train]), (dev, clips.targets[fold.dev]), target, strengths)
        model = probe.model
        if refit:
            train, test = _standardised(features, known, fold.test)
            model = fit_linear(train, clips.targets[known], target, model.regularisation, model)
        found[name] = (probe.dev_score, target.lift(model(test), torch.from_numpy(clips.targets[fold.test])))
    return found


def _standardised(features: Tensor, train: np.ndarray, *others: np.ndarray) -> list[Tensor]:
    """Rows of features (N, F) by the mean and spread of the training part: its own, then those of the others."""
    mean, spread = _moments(features[train])
    return [(features[rows] - mean) / spread for rows in (train, *others)]


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of each feature; constant ones are left as they are."""
    return features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
