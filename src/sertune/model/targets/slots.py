"""The single ratings of each clip, side by side: slots of (rater, values), as many as the most rated clip has."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

NOBODY = -1
"""In place of a rater: an empty slot, or somebody of whom nothing is known, who counts as the average annotator."""


def rating_slots(
    utterances: pd.DataFrame,
    ratings: pd.DataFrame | None,
    attributes: Sequence[str],
    raters: Sequence[str],
    labels: Sequence[str] = (),
) -> np.ndarray:
    """(N, R, 1 + V) float32: the rater's number and the values, NaN where not given; R is at least 1.

    Args:
        utterances: of a manifest.
        ratings: of the same manifest; None: all slots are empty.
        attributes: V of them, e.g. arousal and valence, or emotion alone.
        raters: whose numbers are their places here; others are `NOBODY`, and their values count all the same.
        labels: what emotions stand for; others are left out.
    """
    count = len(utterances)
    part = ratings[ratings["attribute"].isin(attributes)] if ratings is not None else None
    if part is None or not len(part):
        return _empty(count, 1, len(attributes))
    value = part["value"].map({label: place for place, label in enumerate(labels)}) if labels else part["value"]
    clip = pd.Index(utterances["id"]).get_indexer(pd.Index(part["utterance"]))
    who, _ = pd.factorize(part["rater"], sort=True)  # so that the order of the rows does not matter
    numbers = value.to_numpy(dtype=np.float64, na_value=np.nan)
    column = pd.Index(attributes).get_indexer(pd.Index(part["attribute"]))
    good = (clip >= 0) & ~np.isnan(numbers)
    clip, who, numbers, column = clip[good], who[good], numbers[good], column[good]
    if not len(clip):
        return _empty(count, 1, len(attributes))
    pair, row = np.unique(clip.astype(np.int64) * (int(who.max()) + 1) + who, return_inverse=True)
    owner = pair // (int(who.max()) + 1)
    # pairs are sorted by clip: the place within the clip is the distance from its first one
    place = np.arange(len(pair)) - np.searchsorted(owner, owner)
    slots = _empty(count, int(place.max()) + 1, len(attributes))
    slots[owner[row], place[row], 1 + column] = numbers
    known = pd.Index(raters).get_indexer(pd.Index(part["rater"]))[good]
    slots[owner[row], place[row], 0] = known
    return slots


def _empty(count: int, raters: int, values: int) -> np.ndarray:
    slots = np.full((count, raters, 1 + values), np.nan, dtype=np.float32)
    slots[:, :, 0] = NOBODY
    return slots


def split_slots(targets: Tensor, before: int, values: int) -> tuple[Tensor, Tensor]:
    """Raters (B, R) int64 and values (B, R, V) of encoded targets (B, before + R (1 + V))."""
    count = (targets.shape[1] - before) // (1 + values)
    slots = targets[:, before:].reshape(len(targets), count, 1 + values)
    return slots[:, :, 0].nan_to_num(nan=NOBODY).long(), slots[:, :, 1:]
