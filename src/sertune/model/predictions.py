"""Predictions as a table: one row per clip."""

from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from sertune.model.targets import CategoryTarget, Target

CLIP_COLUMNS = ("file", "start", "end", "duration", "speaker")


def prediction_table(utterances: pd.DataFrame, target: Target, outputs: Tensor) -> pd.DataFrame:
    """The table of ``predictions.parquet``, with what is true where that is known.

    Args:
        utterances: (N rows) of a manifest.
        target: decodes the outputs.
        outputs: (N, K).

    Returns:
        Columns utterance, file, start, end, duration, speaker, and for a category ``true``, ``predicted`` and
        ``p_<label>``; for dimensions ``arousal_true``, ``arousal`` and so on, on their own scale.
    """
    table = pd.DataFrame({"utterance": utterances["id"].to_numpy()})
    for name in CLIP_COLUMNS:
        table[name] = utterances[name].to_numpy()
    decoded = target.decode(outputs)
    if isinstance(target, CategoryTarget):
        table["true"] = utterances["emotion"].to_numpy(dtype=object)
        table["predicted"] = np.array(target.labels, dtype=object)[decoded["predicted"]]
        for column, label in enumerate(target.labels):
            table[f"p_{label}"] = decoded["probabilities"][:, column]
    else:
        for column, name in enumerate(target.dimensions):
            table[f"{name}_true"] = utterances[name].to_numpy(dtype=np.float64)
            table[name] = decoded["values"][:, column]
    return table


def task_of(target: Target) -> dict[str, Any]:
    """The ``task`` of report.json."""
    if isinstance(target, CategoryTarget):
        return {"target": "category", "labels": list(target.labels)}
    scales = {name: list(scale) for name, scale in zip(target.dimensions, target.scales, strict=True)}
    return {"target": "dimension", "dimensions": list(target.dimensions), "scales": scales}
