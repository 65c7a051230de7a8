"""Predictions as tables: one row per clip, and one per single rating."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sertune.data.labels import POSITIONS, label_distances
from sertune.model.planes import cell_targets, within_spread
from sertune.model.probe import rating_moments
from sertune.model.targets import (
    CategoryTarget,
    DimensionTarget,
    PlaneTarget,
    RaterLabelTarget,
    RaterTarget,
    Single,
    SpreadTarget,
    Target,
    dimensions_of,
    labels_of,
    parts_of,
    singles,
)
from sertune.model.targets.dimension import to_unit
from sertune.model.targets.distribution import PLANE, half_widths
from sertune.model.targets.slots import rating_slots, split_slots

CLIP_COLUMNS = ("file", "start", "end", "duration", "speaker")
CEILING_CLIPS = 200
"""Most clips whose annotators are compared with each other on the plane."""
CEILING_FINE = 128
"""Cells per axis of the histogram behind these planes: four times as fast as 512, and less than .01 TVD from it."""


def prediction_table(
    utterances: pd.DataFrame, target: Target, outputs: Tensor, targets: np.ndarray | None = None
) -> pd.DataFrame:
    """The table of ``predictions.parquet``, with what is true where that is known.

    Args:
        utterances: (N rows) of a manifest.
        target: decodes the outputs.
        outputs: (N, K), finished.
        targets: (N, ...) as `Target.encode` gives them: the truth of distributions, for targets that predict one.

    Returns:
        Columns utterance, file, start, end, duration, speaker, and for a category ``true``, ``predicted`` and
        ``p_<label>``; for dimensions ``arousal_true``, ``arousal`` and so on, on their own scale. For distributions
        also ``v_<label>``, the shares of the votes; ``true_spread_arousal`` and ``spread_arousal``, the standard
        deviation of the ratings; ``true_plane`` and ``plane``, lists of the cells' shares, valence fastest; and
        ``raters``, how many there were. Joined tasks stand side by side.
    """
    table = pd.DataFrame({"utterance": utterances["id"].to_numpy()})
    for name in CLIP_COLUMNS:
        table[name] = utterances[name].to_numpy()
    blank = target.missing(len(table)).numpy() if targets is None else targets
    made: dict[str, Any] = {}
    parts = parts_of(target, outputs, blank)
    for part, own, true in sorted(parts, key=lambda entry: singles(target).index(entry[0])):
        made = {**_columns(utterances, part, own, true), **made}
    return pd.concat([table, pd.DataFrame(made, index=table.index)], axis=1)


def _columns(utterances: pd.DataFrame, target: Single, outputs: Tensor, targets: np.ndarray) -> dict[str, Any]:
    decoded = target.decode(outputs)
    found: dict[str, Any] = {}
    if target.categorical:
        labels = labels_of(target)
        found["true"] = utterances["emotion"].to_numpy(dtype=object)
        found["predicted"] = np.array(labels, dtype=object)[decoded["predicted"]]
        found |= {f"p_{label}": decoded["probabilities"][:, column] for column, label in enumerate(labels)}
        if not isinstance(target, CategoryTarget):
            found |= {f"v_{label}": targets[:, column].astype(np.float64) for column, label in enumerate(labels)}
        if isinstance(target, RaterLabelTarget):
            _, votes = split_slots(torch.from_numpy(targets), len(labels), 1)
            found["raters"] = (~votes[:, :, 0].isnan()).sum(1).numpy()
        return found
    for column, name in enumerate(dimensions_of(target)):
        found[f"{name}_true"] = utterances[name].to_numpy(dtype=np.float64)
        found[name] = decoded["values"][:, column]
        if "spread" in decoded:
            found[f"spread_{name}"] = decoded["spread"][:, column]
    if isinstance(target, (RaterTarget, SpreadTarget)):
        _, spread = rating_moments(targets, target)
        for column, name in enumerate(target.dimensions):
            found[f"true_spread_{name}"] = spread[:, column] * half_widths(target.scales)[column]
        _, ratings = split_slots(torch.from_numpy(targets), target.before, len(target.dimensions))
        found["raters"] = (~ratings.isnan().all(2)).sum(1).numpy()
    if "cells" in decoded:
        true = targets[:, : decoded["cells"].shape[1]].astype(np.float64)
        found["true_plane"] = [None if np.isnan(row).any() else row for row in true]
        found["plane"] = list(decoded["cells"])
    return found


def rating_table(
    utterances: pd.DataFrame, ratings: pd.DataFrame | None, target: Target, outputs: Tensor
) -> pd.DataFrame:
    """Every single rating beside what was predicted for it: the table of ``ratings.parquet``.

    Args:
        utterances: (N rows) of a manifest.
        ratings: of the same manifest.
        target: that the model predicts; it has rows only where it predicts annotators.
        outputs: (N, K), finished, of clips whose slots were filled by the target's own `encode`.

    Returns:
        Columns utterance, speaker, rater, known (whether the model has met the rater), attribute, true, predicted.
        Values are labels, or numbers on their own scales; an unknown rater's prediction is the average annotator's.
    """
    columns = ["utterance", "speaker", "rater", "known", "attribute", "true", "predicted"]
    parts = parts_of(target, outputs, np.zeros((len(outputs), target.missing(0).shape[1]), dtype=np.float32))
    rated = [(part, own) for part, own, _ in parts if isinstance(part, (RaterTarget, RaterLabelTarget))]
    if not rated or ratings is None:
        return pd.DataFrame(columns=columns)
    part, own = rated[0]
    attributes = part.dimensions if isinstance(part, RaterTarget) else ("emotion",)
    labels = part.labels if isinstance(part, RaterLabelTarget) else ()
    names = np.array(sorted(set(ratings["rater"])), dtype=object)
    slots = rating_slots(utterances, ratings, attributes, names.tolist(), labels)
    decoded = part.decode(own)
    predicted = decoded["ratings"] if isinstance(part, RaterTarget) else decoded["votes"][:, :, None]
    clip, slot, column = np.nonzero(~np.isnan(slots[:, :, 1:]))
    rater = names[slots[clip, slot, 0].astype(np.int64)]
    true, made = slots[clip, slot, 1 + column], predicted[clip, slot, column]
    table = pd.DataFrame(
        {
            "utterance": utterances["id"].to_numpy()[clip],
            "speaker": utterances["speaker"].to_numpy()[clip],
            "rater": rater,
            "known": np.isin(rater, np.array(part.raters, dtype=object)),
            "attribute": np.array(attributes, dtype=object)[column],
        }
    )
    if labels:
        table["true"] = np.array(labels, dtype=object)[true.astype(np.int64)]
        table["predicted"] = np.array(labels, dtype=object)[made.astype(np.int64)]
    else:
        table["true"], table["predicted"] = true.astype(np.float64), made
    return table[columns]


def plane_maker(
    target: Target, utterances: pd.DataFrame, ratings: pd.DataFrame | None
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]] | None:
    """Ratings of `CEILING_CLIPS` of the clips at most, evenly drawn, and what makes planes of ratings.

    Args:
        target: that the model predicts.
        utterances: (N rows) of a manifest.
        ratings: of the same.

    Returns:
        (n, R, 2) ratings of arousal and valence in [-1, 1], NaN where there is none, and a function from (m, r, 2)
        ratings to (m, cells) distributions: those of `cell_targets`, from a histogram of `CEILING_FINE` cells per axis.
        None where the target has no plane.
    """
    with_plane = [part for part in singles(target) if isinstance(part, (PlaneTarget, RaterTarget, SpreadTarget))]
    part = next((part for part in with_plane if part.plane is not None), None)
    if part is None or part.plane is None:
        return None
    chosen = utterances.iloc[:: max(1, -(-len(utterances) // CEILING_CLIPS))]
    scales = dict(zip(part.dimensions, part.scales, strict=True))
    values = to_unit(
        rating_slots(chosen, ratings, PLANE, ())[:, :, 1:].astype(np.float64), [scales[name] for name in PLANE]
    )
    alone = within_spread(np.where(np.isnan(values).any(axis=2, keepdims=True), np.nan, values))
    grid, truth = part.plane.grid, replace(part.plane.truth, fine=CEILING_FINE)

    def cells_of(given: np.ndarray) -> np.ndarray:
        return cell_targets(given, grid, range(len(given)), truth, alone).reshape(len(given), -1)

    return values, cells_of


def task_of(target: Target) -> dict[str, Any]:
    """The ``task`` of report.json: of the lead, with ``also`` the others that are joined with it.

    ``target`` is ``category`` or ``dimension``: what the headline is about. ``opinions`` says how a distribution is
    predicted (``votes``, ``plane``, ``gaussian``, ``beta``, ``rater``), ``grid`` the plane's cells, and ``cost`` how
    far labels are from each other, where all of them have a place in the plane.
    """
    first, *others = (_task(part) for part in singles(target))
    return {**first, **({"also": others} if others else {})}


def _task(target: Single) -> dict[str, Any]:
    if target.categorical:
        task: dict[str, Any] = {"target": "category", "labels": list(labels_of(target))}
        if not isinstance(target, CategoryTarget):
            task["opinions"] = "rater" if isinstance(target, RaterLabelTarget) else "votes"
            if set(task["labels"]) <= set(POSITIONS):
                task["cost"] = label_distances(task["labels"]).round(5).tolist()
        return task
    names: Sequence[str] = dimensions_of(target)
    scales: dict[str, list[float]] = {}
    if isinstance(target, (DimensionTarget, RaterTarget, SpreadTarget, PlaneTarget)):
        scales = {name: list(scale) for name, scale in zip(names, target.scales, strict=True)}
    task = {"target": "dimension", "dimensions": list(names), "scales": scales}
    if isinstance(target, (RaterTarget, SpreadTarget, PlaneTarget)):
        task["opinions"] = target.family if isinstance(target, SpreadTarget) else target.name
        if target.plane is not None:
            task["grid"] = list(target.plane.grid)
    return task
