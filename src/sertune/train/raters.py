"""Annotators in a run: where they start, and what dev says of how far they spread."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from sertune.config import RaterConfig
from sertune.errors import SertuneError
from sertune.metrics.raters import Response, response, shrinkage
from sertune.model.emotion_model import EmotionModel
from sertune.model.probe import fit_logistic, fit_ridge
from sertune.model.raters import RaterLayer
from sertune.model.targets import CategoryTarget, JoinedTarget, RaterLabelTarget, RaterTarget, Target
from sertune.model.targets.distribution import PLANE
from sertune.model.targets.slots import split_slots

TRIED: Final = {
    "bandwidth": (0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6),
    "noisy": (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5),
    "stretch": (0.0, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.2, 1.5),
    "gain": (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35),
    "share": (1.0, 0.9, 0.75, 0.6, 0.5, 0.4, 0.25, 0.1, 0.0),
}
"""What dev chooses from; see `RaterLayer`."""
LEAST_NOISE: Final = 0.05
FEW_CLIPS: Final = 20
"""With fewer clips of two ratings nothing is learnt of their noise."""
MOST_SHRINKAGE = 1000.0
"""Where annotators don't differ: an own part needs as many ratings to show."""


def start_raters(model: EmotionModel, targets: np.ndarray, options: RaterConfig, *, start: bool = True) -> None:
    """Counts the training part's ratings, and starts each annotator at the bias and gain that his ratings show.

    These are fitted to the ratings alone, with shrinkage (`sertune.metrics.raters.response`); an annotator's value is
    then C + b_a + (g_a - 1)(C - m) with the average annotator C. A shrinkage that is given takes the place of the
    fitted one: an annotator with n ratings keeps n / (n + shrinkage) of what they show.

    Args:
        model: with annotators, or without: then nothing is done.
        targets: of the training part, (N, ...).
        options: of the annotators.
        start: whether they start there, or from the average annotator.

    Raises:
        SertuneError: no annotator has enough ratings.
    """
    found = model.rater_part
    if found is None:
        return
    target, layer = found
    raters, values = long_ratings(model, targets)
    clip, slot = np.nonzero((raters >= 0) & ~np.isnan(values).all(axis=2))
    who = raters[clip, slot]
    layer.counts.copy_(torch.from_numpy(np.bincount(who, minlength=len(target.raters)).astype(np.float32)))
    if not bool(layer.known.any()):
        least = max(options.min_ratings, 1)
        raise SertuneError(
            f"no annotator has {'a rating' if least == 1 else f'{least} ratings'} in the training part "
            f"(target.rater.min_ratings = {least}): there is nothing to learn of annotators; see --split"
        )
    if isinstance(target, RaterLabelTarget) or not len(who):
        layer.shrinkage.fill_(_fixed(options, 10.0))
        return
    fits = [response(clip, who, values[clip, slot, k], len(target.raters)) for k in range(values.shape[2])]
    prior = np.array([min(shrinkage(fit), MOST_SHRINKAGE) for fit in fits])
    layer.shrinkage.fill_(_fixed(options, float(np.median(prior))))
    if start:
        biases = np.stack([fit.bias - (fit.gain - 1) * fit.mean for fit in fits], axis=1)
        gains = np.stack([fit.gain - 1 for fit in fits], axis=1)
        counts = layer.counts.numpy(force=True)[:, None]
        kept = (counts >= max(options.min_ratings, 1)).astype(np.float64)
        if options.shrinkage != "auto":
            kept = kept * (counts + prior) / np.maximum(counts + options.shrinkage, 1e-9)
        layer.start_biases(torch.from_numpy(biases * kept).float(), torch.from_numpy(gains * kept).float())
    if not bool(layer.noise.any()):  # else dev has chosen it
        layer.noise.copy_(torch.tensor([_noise(fit) for fit in fits], dtype=torch.float32))


def _fixed(options: RaterConfig, automatic: float) -> float:
    return automatic if options.shrinkage == "auto" else float(options.shrinkage)


def _noise(fit: Response) -> float:
    return float(np.sqrt(fit.noise_variance))


def long_ratings(model: EmotionModel, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Raters (N, R), negative for nobody, and values (N, R, V), NaN where missing, of a model with annotators."""
    assert model.rater_part is not None
    part = model.rater_part[0]
    before, width = (part.before, len(part.dimensions)) if isinstance(part, RaterTarget) else (len(part.labels), 1)
    raters, values = split_slots(torch.from_numpy(rater_columns(model.target, targets)), before, width)
    return raters.numpy(), values.double().numpy()


def rater_columns(target: Target, targets: np.ndarray) -> np.ndarray:
    """The encoded targets of the annotators alone, who come last."""
    return target.encoded(targets)[-1] if isinstance(target, JoinedTarget) else targets


@dataclass(frozen=True)
class Heard:
    """What a model makes of some clips, before it is calibrated.

    Attributes:
        hidden: (N, width) what the last layer reads.
        outputs: (N, ...) finished.
        targets: (N, ...) encoded.
    """

    hidden: Tensor
    outputs: Tensor
    targets: np.ndarray


def fit_noise(model: EmotionModel, train: Heard, dev: Heard, strengths: Sequence[float]) -> None:
    """Learns on which clips annotators disagree more than their own parts explain (`RaterLayer.noise_slope`).

    Ridge regression of log(s + `LEAST_NOISE`) on the head's vector, where s is the standard deviation of a clip's
    ratings after each annotator's own deviation from the average is taken off. Dev chooses the strength, and whether
    the noise is one for all clips.

    Args:
        model: with annotators of dimensions.
        train, dev: clips of both parts.
        strengths: of the regularisation.
    """
    assert model.rater_part is not None
    layer = model.rater_part[1]
    centre, spread = train.hidden.mean(0), train.hidden.std(0, correction=0).clamp_min(1e-6)
    known, judged = ((part.hidden - centre) / spread for part in (train, dev))
    logs, dev_logs = (torch.from_numpy(_log_noise(model, part)).float() for part in (train, dev))
    layer.noise_slope.zero_()
    layer.noise_offset.zero_()
    for column in range(logs.shape[1]):
        rows, dev_rows = ~logs[:, column].isnan(), ~dev_logs[:, column].isnan()
        if int(rows.sum()) < FEW_CLIPS or int(dev_rows.sum()) < FEW_CLIPS:
            continue
        true = dev_logs[dev_rows, column]
        least = float((true - logs[rows, column].mean()).square().mean())
        for strength in strengths:
            fitted = fit_ridge(known[rows], logs[rows, column, None].numpy(), strength)
            error = float((true - fitted(judged[dev_rows])[:, 0]).square().mean())
            if error < least:
                least = error
                layer.noise_slope[column] = fitted.weight[0] / spread
                layer.noise_offset[column] = (centre / spread) @ fitted.weight[0]


def fit_cells(model: EmotionModel, train: Heard, dev: Heard, strengths: Sequence[float]) -> None:
    """Solves the softmax over the plane's cells with which the annotators' plane is blended; dev chooses its strength.

    Annotators spread around one mean, and a clip may be two things: where emotions lie apart in the plane, a classifier
    of cells says so.

    Args:
        model: with annotators of dimensions.
        train, dev: clips of both parts.
        strengths: of the regularisation.
    """
    assert model.rater_part is not None
    target, layer = model.rater_part
    assert isinstance(target, RaterTarget)
    true, judged = (rater_columns(model.target, part.targets)[:, : target.before] for part in (train, dev))
    rows, dev_rows = ~np.isnan(true).any(axis=1), ~np.isnan(judged).any(axis=1)
    if target.plane is None or rows.sum() < FEW_CLIPS or not dev_rows.any():
        return
    centre, spread = train.hidden.mean(0), train.hidden.std(0, correction=0).clamp_min(1e-6)
    known = ((train.hidden - centre) / spread)[torch.from_numpy(rows)]
    heard = ((dev.hidden - centre) / spread)[torch.from_numpy(dev_rows)]
    cells = CategoryTarget(tuple(map(str, range(target.before))), weighted=False)
    wanted = torch.from_numpy(judged[dev_rows])
    fitted, least = None, math.inf
    for strength in sorted(strengths, reverse=True):
        fitted = fit_logistic(known, true[rows], cells, strength, fitted)
        entropy = float(-(wanted * fitted(heard).log_softmax(1)).sum(1).mean())
        if entropy < least:
            least = entropy
            layer.cell_weight.copy_(fitted.weight / spread)
            layer.cell_bias.copy_(fitted.bias - fitted.weight @ (centre / spread))


def _log_noise(model: EmotionModel, part: Heard) -> np.ndarray:
    """(N, D) log of the spread of each clip's ratings that annotators' own parts leave; NaN with fewer than two."""
    assert model.rater_part is not None
    target = model.rater_part[0]
    _, values = long_ratings(model, part.targets)
    outputs = target_columns(model.target, part.outputs)
    count, width = values.shape[1], values.shape[2]
    given = outputs[:, target.outputs : target.outputs + count * width].reshape(len(values), count, width)
    left = values - given.double().numpy()
    known = ~np.isnan(left)
    several = known.sum(axis=1) > 1
    mean = np.nan_to_num(left).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    squares = np.where(known, (np.nan_to_num(left) - mean[:, None]) ** 2, 0.0).sum(axis=1)
    spread = np.sqrt(squares / np.maximum(known.sum(axis=1) - 1, 1))
    return np.where(several, np.log(spread + LEAST_NOISE), np.nan)


def target_columns(target: Target, outputs: Tensor) -> Tensor:
    """The finished outputs of the annotators alone, who come last."""
    return target.split(outputs)[-1] if isinstance(target, JoinedTarget) else outputs


def calibrate(model: EmotionModel, dev: Heard, known: Tensor) -> None:
    """Lets dev choose the noise of single ratings, and how the plane is made of the annotators.

    The noise is brought to the level that together with the annotators' own spread gives the mean variance of the
    ratings. For the plane the values of `TRIED` are tried in turn, until none lowers the cross-entropy between the true
    planes and those that the annotators make: a model that is trained by CCC overstates how clips differ, and the
    density of a clip must also hold how unsure its mean is.

    Args:
        model: with annotators of dimensions.
        dev: the clips that choose.
        known: (N, A, D) values of all known annotators for them.
    """
    assert model.rater_part is not None
    target, layer = model.rater_part
    assert isinstance(target, RaterTarget)
    _, values = long_ratings(model, dev.targets)
    several = (~np.isnan(values)).sum(axis=1) > 1
    noise = layer.noise_of(dev.hidden)
    for column in range(values.shape[2]):
        rows = several[:, column]
        if rows.any():
            true = float(np.nanvar(values[rows, :, column], axis=1, ddof=1).mean())
            own = float(known[torch.from_numpy(rows), :, column].var(1, correction=0).mean())
            made = float(noise[torch.from_numpy(rows), column].square().mean())
            layer.noise[column] *= float(np.sqrt(max(true - own, 1e-4) / max(made, 1e-12)))
    layer.middle.copy_(known.mean((0, 1)))
    if target.plane is None:
        return
    true_cells = torch.from_numpy(rater_columns(model.target, dev.targets)[:, : target.before]).double()
    there = ~true_cells.isnan().any(1)
    if bool(there.any()):
        places = [target.dimensions.index(name) for name in PLANE]
        _descend(target, layer, known[there][:, :, places], dev.hidden[there], true_cells[there])


def _descend(target: RaterTarget, layer: RaterLayer, points: Tensor, hidden: Tensor, true: Tensor) -> None:
    """Sets the layer's values of `TRIED` one after the other to the best that was tried, until nothing changes."""
    noise = layer.noise_of(hidden)[:, [target.dimensions.index(name) for name in PLANE]]

    def entropy() -> float:
        cells = layer.blended(target.cells(points, noise, layer), hidden).flatten(1).clamp_min(1e-12)
        return float(-(true * cells.log()).sum(1).mean())

    best, changed = math.inf, True
    while changed:
        changed = False
        for name, tried in TRIED.items():
            setting: Tensor = getattr(layer, name)
            chosen = float(setting)
            for value in tried:
                setting.fill_(value)
                if (found := entropy()) < best - 1e-6:
                    best, chosen, changed = found, value, True
            setting.fill_(chosen)
