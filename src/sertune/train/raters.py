"""Annotators in a run: where they start, and what dev says of how far they spread."""

import numpy as np
import torch
from torch import Tensor

from sertune.config import RaterConfig
from sertune.metrics.raters import Response, response, shrinkage
from sertune.model.emotion_model import EmotionModel
from sertune.model.targets import JoinedTarget, RaterLabelTarget, RaterTarget, Target
from sertune.model.targets.distribution import PLANE
from sertune.model.targets.slots import split_slots

STRETCHES = (0.4, 0.55, 0.7, 0.85, 1.0, 1.2, 1.5)
BLURS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
MOST_SHRINKAGE = 1000.0
"""Where annotators don't differ: an own part needs as many ratings to show."""


def start_raters(model: EmotionModel, targets: np.ndarray, options: RaterConfig) -> None:
    """Counts the training part's ratings, and starts each annotator at the bias and gain that his ratings show.

    These are fitted to the ratings alone, with shrinkage (`sertune.metrics.raters.response`); an annotator's value is
    then C + b_a + (g_a - 1)(C - m) with the average annotator C.

    Args:
        model: with annotators, or without: then nothing is done.
        targets: of the training part, (N, ...).
        options: of the annotators.
    """
    found = model.rater_part
    if found is None:
        return
    target, layer = found
    raters, values = long_ratings(model, targets)
    clip, slot = np.nonzero((raters >= 0) & ~np.isnan(values).all(axis=2))
    who = raters[clip, slot]
    layer.counts.copy_(torch.from_numpy(np.bincount(who, minlength=len(target.raters)).astype(np.float32)))
    if isinstance(target, RaterLabelTarget) or not len(who):
        layer.shrinkage.fill_(_fixed(options, 10.0))
        return
    fits = [response(clip, who, values[clip, slot, k], len(target.raters)) for k in range(values.shape[2])]
    automatic = float(np.median([min(shrinkage(fit), MOST_SHRINKAGE) for fit in fits]))
    layer.shrinkage.fill_(_fixed(options, automatic))
    if options.shrinkage == "auto":
        biases = np.stack([fit.bias - (fit.gain - 1) * fit.mean for fit in fits], axis=1)
        gains = np.stack([fit.gain - 1 for fit in fits], axis=1)
        known = (layer.counts.numpy(force=True) >= max(options.min_ratings, 1))[:, None]
        layer.start_biases(torch.from_numpy(biases * known).float(), torch.from_numpy(gains * known).float())
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


def calibrate(model: EmotionModel, known: Tensor, targets: np.ndarray) -> None:
    """Lets clips choose how far the annotators are drawn apart, and how far the plane is blurred.

    The pair of `STRETCHES` and `BLURS` with the smallest cross-entropy between the true planes and those that the
    annotators make. Then the noise: the standard deviation of single ratings that with the annotators' own spread gives
    the mean variance of the ratings.

    Args:
        model: with annotators of dimensions.
        known: (N, A, D) values of all known annotators for the clips that choose.
        targets: (N, ...) of these clips.
    """
    assert model.rater_part is not None
    target, layer = model.rater_part
    assert isinstance(target, RaterTarget)
    _, values = long_ratings(model, targets)
    several = (~np.isnan(values)).sum(axis=1) > 1
    for column in range(values.shape[2]):
        rows = several[:, column]
        if rows.any():
            true = float(np.nanvar(values[rows, :, column], axis=1, ddof=1).mean())
            own = float(known[torch.from_numpy(rows), :, column].var(1, correction=0).mean())
            layer.noise[column] = float(np.sqrt(max(true - own, 0.0)))
    if target.plane is None:
        return
    true_cells = torch.from_numpy(rater_columns(model.target, targets)[:, : target.before]).double()
    rows_there = ~true_cells.isnan().any(1)
    if not bool(rows_there.any()):
        return
    places = [target.dimensions.index(name) for name in PLANE]
    points = known[rows_there][:, :, places]
    best: tuple[float, float, float] | None = None
    for stretch in STRETCHES if points.shape[1] > 1 else (1.0,):
        for blur in BLURS:
            cells = target.cells(points, torch.tensor(stretch), torch.tensor(blur)).flatten(1)
            entropy = float(-(true_cells[rows_there] * cells.clamp_min(1e-12).log()).sum(1).mean())
            if best is None or entropy < best[0]:
                best = (entropy, stretch, blur)
    assert best is not None
    layer.stretch.fill_(best[1])
    layer.blur.fill_(best[2])
