"""What the HTML report shows of opinions: distributions, spread, annotators, and the clips that are hardest to predict.

The figures are those of ``report.json`` (key ``opinions``, made by `sertune.metrics.opinions`); single clips come from
``predictions.parquet``, single ratings from ``ratings.parquet``.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sertune.apps.compare import place_labels
from sertune.apps.report import (
    MINUS,
    NONE,
    Axis,
    Mark,
    Plot,
    as_float,
    bracket,
    clip_name,
    counted,
    dict_at,
    dimensions_of,
    drawn,
    interval_of,
    list_at,
    lower_is_better,
    metric_name,
    number,
    pair_of,
    plain,
    rows_at,
    scale_of,
    text_at,
    thinned,
)
from sertune.metrics import distributions
from sertune.metrics.summary import distribution_kind, distributions_of

_Dict = dict[str, Any]
_Floats = NDArray[np.float64]

_WORST = 3
_DISPUTED = 2
_HARDEST = 8
_ANNOTATORS = 30
"""Most annotators in the table."""
_DOTS = 500
"""Most annotators in a plot."""
_NAMED = 8
"""Most annotators whose names stand in a plot."""
_CELLS = 24
"""Most cells along a side of a drawn plane; finer ones are added up."""
_BARS = 10
"""Most labels in a drawn distribution."""
_RATINGS = 40
"""Most ratings of a clip that are drawn or listed."""
_NAME = 22
"""Most characters of an annotator's or a label's name in a drawing."""


def opinions_view(report: _Dict, predictions: pd.DataFrame, ratings: pd.DataFrame) -> _Dict:
    """What the template shows of opinions, ready as text and positions.

    Args:
        report: ``report.json``.
        predictions: ``predictions.parquet``, without a column where there is none.
        ratings: ``ratings.parquet``, without a column where there is none.

    Returns:
        ``people``, ``planes``, ``votes``, ``spreads``, ``raters`` and ``hardest``: each a section, None where its data
        is missing.
    """
    kinds = {kind: _distributions(report, predictions, kind) for kind in ("plane", "votes")}
    said = _Said.of(ratings)
    return {
        "people": _people(report),
        "planes": _planes(report, predictions, kinds["plane"]),
        "votes": _votes(predictions, kinds["votes"]),
        "spreads": _spreads(report, predictions),
        "raters": _raters(report, predictions, ratings),
        "hardest": _hardest(report, predictions, kinds, said),
    }


# Annotators as the line to read a model against


_WITHIN_ONE = ("ccc", "pearson", "uar", "accuracy", "macro", "tvd", "jsd", "entropy")


def _people(report: _Dict) -> _Dict | None:
    rows = []
    texts: dict[str, list[str]] = {}
    for row in rows_at(dict_at(report, "opinions"), "ceilings"):
        value, low, high = interval_of(row)
        name = str(row.get("metric"))
        if value is None:
            continue
        metric = dict_at(report, "metrics").get(name)
        ours, *ends = interval_of(metric)
        bounded = name.partition("_")[0] in _WITHIN_ONE
        texts.setdefault(str(row.get("text") or "what annotators reach"), []).append(metric_name(name))
        axis = Axis.over([0.0, 1.0, *(v for v in (ours, value, low, *ends) if v is not None and bounded)], 4)
        rows.append(
            {
                "name": metric_name(name),
                "lower": lower_is_better(name),
                "strip": axis.strip(name, metric),
                "mark": round(100 * axis.share(value), 2) if bounded else None,
                "bounded": bounded and ours is not None,
                "value": number(name, value),
                "range": bracket(name, low, high),
                "verdict": _compared(name, interval_of(metric), (value, low, high)),
            }
        )
    return {"rows": rows, "texts": [(", ".join(names), text) for text, names in texts.items()]} if rows else None


_Triple = tuple[float | None, float | None, float | None]


def _compared(name: str, ours: _Triple, people: _Triple) -> str:
    """Whether the model lies on the better side, said only where the intervals do not meet."""
    (_, low, high), (_, below, above) = ours, people
    if low is None or high is None or below is None or above is None:
        return ""
    if low <= above and below <= high:
        return "intervals meet"
    return "the model is better" if (high < below) == lower_is_better(name) else "the model is worse"


# Distributions


@dataclass(frozen=True)
class _Distributions:
    """True and predicted shares (N, K), their distance (N), NaN where one is unknown, and the task they are of."""

    task: _Dict
    true: _Floats
    predicted: _Floats
    tvd: _Floats


def _distributions(report: _Dict, predictions: pd.DataFrame, kind: str) -> _Distributions | None:
    for task in [dict_at(report, "task"), *rows_at(dict_at(report, "task"), "also")]:
        labels, grid = list_at(task, "labels"), list_at(task, "grid")
        if kind == "plane":
            there = len(grid) == 2 and {"plane", "true_plane"} <= set(predictions.columns)
        else:
            there = bool(labels) and {f"{p}_{label}" for p in "pv" for label in labels} <= set(predictions.columns)
        if not there or not task.get("target") or distribution_kind(task) != kind:
            continue
        true, predicted = distributions_of(predictions, task)
        known = np.isfinite(true).all(1) & np.isfinite(predicted).all(1)
        distance = np.full(len(true), np.nan)
        distance[known] = distributions.tvd(true[known], predicted[known])
        return _Distributions(task, true, predicted, distance) if known.any() else None
    return None


def _chosen(found: _Distributions, disputed: _Floats) -> list[tuple[str, int]]:
    """(why, row) of the clips that are drawn: the nearest, the middle, the farthest, and those disputed most."""
    order = [int(i) for i in np.argsort(found.tvd, kind="stable")[: int(np.isfinite(found.tvd).sum())]]
    picked = [("Nearest", order[0]), ("Median", order[len(order) // 2])]
    picked += [("Farthest", row) for row in order[::-1][:_WORST]]
    spread = np.where(np.isfinite(found.tvd), np.nan_to_num(disputed, nan=-math.inf), -math.inf)
    taken = {row for _, row in picked}
    most = [int(i) for i in np.argsort(-spread, kind="stable") if math.isfinite(spread[i]) and int(i) not in taken]
    picked += [("Most disputed", row) for row in most[:_DISPUTED]]
    return [(why, row) for place, (why, row) in enumerate(picked) if row not in {r for _, r in picked[:place]}]


def _about(predictions: pd.DataFrame, found: _Distributions, row: int) -> str:
    """Who speaks, the distance, and how many ratings there were."""
    clip = predictions.iloc[row]
    parts = [f"speaker {text_at(clip, 'speaker')}", f"TVD {number('tvd', float(found.tvd[row]))}"]
    raters = as_float(clip.get("raters"))
    return ", ".join([*parts, *([counted(int(raters), "rating")] if raters else [])])


@dataclass(frozen=True)
class Cell:
    """A cell of a heat map in units of the viewBox; its strength is a share of the largest share that is drawn."""

    x: float
    y: float
    strength: float
    text: str


@dataclass(frozen=True)
class Plane:
    """A heat map: its name, its left edge and its cells."""

    name: str
    left: float
    cells: list[Cell]


@dataclass(frozen=True)
class Pair:
    """The true and the predicted plane of a clip."""

    why: str
    clip: str
    about: str
    planes: list[Plane]


_LEFT, _TOP, _SIDE, _GAP = 40.0, 22.0, 180.0, 26.0


def _planes(report: _Dict, predictions: pd.DataFrame, found: _Distributions | None) -> _Dict | None:
    if found is None:
        return None
    grid = int(found.task["grid"][0]), int(found.task["grid"][1])
    spread = [f"true_spread_{name}" for name in ("arousal", "valence")]
    if set(spread) <= set(predictions.columns):
        disputed = predictions[spread].to_numpy(dtype=np.float64, na_value=np.nan).sum(1)
    else:
        disputed = distributions.entropy(found.true)
    chosen = _chosen(found, disputed)
    blocks = (_block(grid[0]), _block(grid[1]))
    shares = {row: [_coarse(of[row], grid, blocks) for of in (found.true, found.predicted)] for _, row in chosen}
    top = max(float(cells.max()) for both in shares.values() for cells in both)
    shape = next(iter(shares.values()))[0].shape
    pairs = [
        Pair(
            why,
            clip_name(predictions.iloc[row]),
            _about(predictions, found, row),
            [
                Plane(name, left, _cells(cells, left, top))
                for name, left, cells in zip(
                    ("true", "predicted"), (_LEFT, _LEFT + _SIDE + _GAP), shares[row], strict=True
                )
            ],
        )
        for why, row in chosen
    ]
    merged = f" Of {grid[0]} × {grid[1]} cells, {blocks[0]} × {blocks[1]} are drawn as one." if blocks != (1, 1) else ""
    return {
        "note": "How opinions of a clip share out over the plane: on the left as the clip's own ratings have it, on "
        "the right as predicted. TVD is half the sum of the differences: 0 where both are the same, 1 where they "
        f"have no cell in common. All are drawn on one scale.{merged}",
        "numbered": "The numbers are percent; a cell without one has less than 1 %." if max(shape) <= _NUMBERED else "",
        "pairs": pairs,
        "width": _SIDE / shape[1],
        "height": _SIDE / shape[0],
        "side": _SIDE,
        "top": _TOP,
        "across": _ends(report, predictions, "valence"),
        "up": [(round(_SIDE - at, 1), text) for at, text in _ends(report, predictions, "arousal")],
        "most": f"{100 * top:.0f} %",
    }


_NUMBERED = 6
"""Most cells along a side that have their share as a number."""


def _block(size: int) -> int:
    """How many cells along an axis are drawn as one."""
    return next(step for step in range(1, size + 1) if size % step == 0 and size // step <= _CELLS)


def _coarse(shares: _Floats, grid: tuple[int, int], blocks: tuple[int, int]) -> _Floats:
    """(gx gy,) shares -> (arousal, valence) sums of blocks of cells."""
    across, up = grid[1] // blocks[1], grid[0] // blocks[0]
    summed: _Floats = shares.reshape(up, blocks[0], across, blocks[1]).sum(axis=(1, 3))
    return summed


def _cells(shares: _Floats, left: float, top: float) -> list[Cell]:
    """The cells that show; arousal rises upwards."""
    rows, columns = shares.shape
    found = []
    for i, j in np.ndindex(rows, columns):
        share = float(shares[i, j])
        strength = round(share / top, 2) if top > 0 else 0.0
        if strength > 0:
            text = f"{100 * share:.0f}" if max(rows, columns) <= _NUMBERED and share >= 0.01 else ""
            x, y = left + j * _SIDE / columns, _TOP + (rows - 1 - i) * _SIDE / rows
            found.append(Cell(round(x, 2), round(y, 2), strength, text))
    return found


def _ends(report: _Dict, predictions: pd.DataFrame, name: str) -> list[tuple[float, str]]:
    """(distance along a side, text) of the low end, the middle and the high end of a scale."""
    true = pair_of(predictions, name)[0] if name in dimensions_of(predictions) else np.zeros(0)
    low, high = scale_of(report, name, true)
    return [(_SIDE * share, _value(low + share * (high - low))) for share in (0.0, 0.5, 1.0)]


@dataclass(frozen=True)
class Bars:
    """The true and the predicted votes of a clip: (label, true, predicted, both as text) in percent of the longest."""

    why: str
    clip: str
    about: str
    rows: list[tuple[str, float, float, str, str]]
    rest: str


def _votes(predictions: pd.DataFrame, found: _Distributions | None) -> _Dict | None:
    if found is None:
        return None
    chosen = _chosen(found, distributions.entropy(found.true))
    return {
        "note": "The share of each label among the votes for a clip, and as predicted. TVD is half the sum of the "
        "differences: 0 where both are the same, 1 where they have no label in common.",
        "figures": [
            _bars(found, row, why, clip_name(predictions.iloc[row]), _about(predictions, found, row))
            for why, row in chosen
        ],
    }


def _bars(found: _Distributions, row: int, why: str, clip: str, about: str) -> Bars:
    labels = [str(label) for label in found.task["labels"]]
    true, predicted = found.true[row], found.predicted[row]
    # The labels keep their order from clip to clip, so that figures compare.
    shown = sorted(np.argsort(-np.maximum(true, predicted), kind="stable")[:_BARS].tolist())
    rest = len(labels) - len(shown)
    return Bars(
        why,
        clip,
        about,
        [
            (label, round(left, 1), round(right, 1), f"{left:.0f}", f"{right:.0f}")
            for label, left, right in ((labels[k], 100 * float(true[k]), 100 * float(predicted[k])) for k in shown)
        ],
        f"{counted(rest, 'label')} with less not shown." if rest else "",
    )


# Spread


def _spreads(report: _Dict, predictions: pd.DataFrame) -> _Dict | None:
    plots, sentences = [], []
    for name, found in dict_at(dict_at(report, "opinions"), "spread").items():
        if not isinstance(found, dict):
            continue
        plot = _spread_plot(name, found, predictions)
        plots += [plot] if plot is not None else []
        sentences += [s for s in [_spread_words(name, found, predictions)] if s]
    lined = any(plot.legend for plot in plots)
    return {"plots": plots, "sentences": sentences, "lined": lined} if plots or sentences else None


def _spread_columns(predictions: pd.DataFrame, name: str) -> tuple[_Floats, _Floats] | None:
    columns = [f"spread_{name}", f"true_spread_{name}"]
    if not set(columns) <= set(predictions.columns):
        return None
    made, true = (predictions[column].to_numpy(dtype=np.float64, na_value=np.nan) for column in columns)
    return made, true


def _spread_plot(name: str, found: _Dict, predictions: pd.DataFrame) -> Plot | None:
    pair = _spread_columns(predictions, name)
    if pair is None:
        return None
    made, true = pair
    there = np.isfinite(made) & np.isfinite(true)
    kept = thinned(there)
    bins = [(as_float(row.get("predicted")), as_float(row.get("true"))) for row in rows_at(found, "bins")]
    line = [(x, y) for x, y in bins if x is not None and y is not None]
    if not kept:
        return None
    values = [*made[kept].tolist(), *true[kept].tolist(), *(v for point in line for v in point)]
    axis = Axis.snug([0.0, *values], pad=0.03)
    plot = Plot(name.capitalize(), axis, axis, "predicted SD", "SD of the ratings", width=340, height=340)
    plot.add_line("diagonal", [(0.0, 0.0), (axis.high, axis.high)])
    plot.points.append(("one faint", [plot.at(made[i], true[i]) for i in kept]))
    if not _alike(made[there], axis.high - axis.low):
        plot.add_line("strong", line)
        plot.points.append(("strong", [plot.at(x, y) for x, y in line]))
        plot.legend = [("one", "a clip"), ("strong", "mean of a bin")] if line else []
    plot.note = drawn(len(kept), int(there.sum()))
    return plot


def _alike(made: _Floats, reach: float) -> bool:
    """Whether predicted spreads are too alike for bins to mean anything, on an axis of a length."""
    low, high = np.quantile(made, [0.05, 0.95])
    return bool(high - low < _NARROW * reach)


_NARROW = 0.04
_ABOUT_RIGHT = 0.1
"""Differences of the mean spread up to this share count as about right."""


def _spread_words(name: str, found: _Dict, predictions: pd.DataFrame) -> str:
    """Whether the model is too sure, and whether it knows which clips divide people."""
    ratio, pearson, slope = (as_float(found.get(key)) for key in ("ratio", "pearson", "slope"))
    made, true = _spread_columns(predictions, name) or (np.zeros(0), np.zeros(0))
    both = np.isfinite(made) & np.isfinite(true)
    parts = []
    if ratio is not None:
        size = f"the predicted SD is {ratio:.2f} times that of the ratings"
        if both.any():
            size = (
                f"on average the predicted SD is {made[both].mean():.2f}, that of the ratings {true[both].mean():.2f}"
            )
        if abs(ratio - 1) <= _ABOUT_RIGHT:
            parts.append(f"{size}, which is about right")
        else:
            parts.append(f"{size}: the model is too {'sure' if ratio < 1 else 'unsure'}")
    if both.any() and _alike(made[both], float(max(made[both].max(), true[both].max()))):
        parts.append("it predicts nearly the same for every clip")
    if pearson is not None:
        tells = pearson >= _TELLS
        words = (
            "" if tells else f", so it {'hardly tells' if pearson > 0 else 'does not tell'} which clips divide people"
        )
        parts.append(f"clip by clip the correlation is {number('r', pearson)}{words}")
        if tells and slope is not None:
            parts.append(f"where the predicted SD rises by 1, that of the ratings rises by {_value(slope, 2)}")
    text = "; ".join(parts)
    return f"{name.capitalize()}: {text}." if text else ""


_TELLS = 0.1


# Annotators


def _raters(report: _Dict, predictions: pd.DataFrame, ratings: pd.DataFrame) -> _Dict | None:
    found = dict_at(dict_at(report, "opinions"), "raters")
    rows = [row for row in rows_at(found, "rows") if row.get("rater") is not None]
    if not rows:
        return None
    rows.sort(key=lambda row: (-(as_float(row.get("ratings")) or 0.0), str(row["rater"])))
    names = list(dict.fromkeys(name for row in rows for name in dict_at(row, "response")))
    made = _predicted_biases(predictions, ratings, names)
    labelled = any("accuracy" in row for row in rows)
    count, met = int(as_float(found.get("count")) or len(rows)), as_float(found.get("met"))
    return {
        "note": _raters_note(count, None if met is None else int(met), bool(names)),
        "groups": names,
        "heads": ["bias", "predicted", "RMSE"] * len(names) + (["Accuracy"] if labelled else []),
        "rows": [_rater_row(row, names, made, labelled) for row in rows[:_ANNOTATORS]],
        "rest": _rest(rows[_ANNOTATORS:]),
        "plots": [plot for name in names for plot in [_bias_plot(name, rows, made)] if plot is not None],
        "map": _map(dict_at(found, "map")),
    }


def _raters_note(count: int, met: int | None, dimensions: bool) -> str:
    text = f"{counted(count, 'annotator')} rated the test clips"
    text += "" if met is None else f"; the model met {'all' if met == count else plain(met)} of them in training"
    if not dimensions:
        return f"{text}. Accuracy: how often the label predicted for an annotator is the one that the annotator gave."
    return (
        f"{text}. Bias: how much an annotator rates above the others on the same clips, pulled towards 0 where there "
        "are few ratings. Predicted: how much the model predicts for the annotator above the mean of all annotators "
        "it knows, on the same clips. RMSE: error of the prediction for the annotator's single ratings; for a new "
        "one that is the mean's."
    )


def _predicted_biases(
    predictions: pd.DataFrame, ratings: pd.DataFrame, names: Sequence[str]
) -> dict[tuple[str, str], float]:
    """(annotator, dimension) -> mean of what is predicted for a known annotator minus what is for the clip."""
    if not {"utterance", "rater", "known", "attribute", "predicted"} <= set(ratings.columns):
        return {}
    if "utterance" not in predictions.columns:
        return {}
    found: dict[tuple[str, str], float] = {}
    for name in set(names) & set(predictions.columns):
        rows = ratings[(ratings["attribute"] == name) & ratings["known"].astype(bool)]
        mean = predictions.drop_duplicates("utterance").set_index("utterance")[name]
        gap = pd.to_numeric(rows["predicted"], errors="coerce") - rows["utterance"].map(mean).astype(np.float64)
        means = gap.groupby(rows["rater"].astype(str)).mean()
        found |= {(str(rater), name): float(value) for rater, value in means.items() if math.isfinite(value)}
    return found


def _bias(row: _Dict, name: str) -> float | None:
    return as_float(dict_at(dict_at(row, "response"), name).get("bias"))


def _rater_row(row: _Dict, names: Sequence[str], made: Mapping[tuple[str, str], float], labelled: bool) -> _Dict:
    rater = str(row["rater"])
    cells = []
    for name in names:
        cells += [_signed(_bias(row, name)), _signed(made.get((rater, name)))]
        cells.append(number("rmse", as_float(dict_at(row, "rmse").get(name))))
    if labelled:
        cells.append(number("accuracy", as_float(row.get("accuracy"))))
    return {
        "name": rater,
        "met": "met" if row.get("met") else "new",
        "ratings": plain(row.get("ratings")),
        "cells": cells,
    }


def _rest(rows: Sequence[_Dict]) -> str:
    if not rows:
        return ""
    most = max(int(as_float(row.get("ratings")) or 0) for row in rows)
    return f"{counted(len(rows), 'annotator')} more, with {counted(most, 'rating')} at most."


def _bias_plot(name: str, rows: Sequence[_Dict], made: Mapping[tuple[str, str], float]) -> Plot | None:
    """Annotators by their bias, the lowest first; beside it what the model predicts."""
    known = [(bias, str(row["rater"])) for row in rows if (bias := _bias(row, name)) is not None]
    if not known:
        return None
    shown = sorted(known[:_DOTS])
    predicted = [(place, made[rater, name]) for place, (_, rater) in enumerate(shown) if (rater, name) in made]
    y = Axis.over([0.0, *(bias for bias, _ in shown), *(value for _, value in predicted)], 4)
    x = Axis(-0.5, len(shown) - 0.5, (), 0)
    plot = Plot(name.capitalize(), x, y, "annotators, by their bias", "bias", height=290)
    plot.add_line("diagonal", [(x.low, 0.0), (x.high, 0.0)])
    plot.points.append(("two", [plot.at(place, value) for place, value in predicted]))
    plot.points.append(("one", [plot.at(place, bias) for place, (bias, _) in enumerate(shown)]))
    ends = sorted({*range(min(2, len(shown))), *range(max(0, len(shown) - 2), len(shown))})
    plot.marks = _labelled(plot, [(place, shown[place][0], shown[place][1]) for place in ends])
    plot.legend = [("one", "own"), *([("two", "predicted")] if predicted else [])]
    left_out = f" {len(shown)} of {len(known):,} with most ratings are drawn." if len(shown) < len(known) else ""
    plot.note = f"Dashed: the average annotator.{left_out}"
    return plot


def _labelled(plot: Plot, points: Sequence[tuple[float, float, str]]) -> list[Mark]:
    """Points with their names beside them."""
    plot.marks = []
    for x, y, name in points:
        px, py = (float(v) for v in plot.at(x, y))
        plot.marks.append(Mark(px, py, py, py, _short(name), best=True))
    return place_labels(plot)


def _map(found: _Dict) -> Plot | None:
    """Annotators on the two axes along which the model tells them apart most."""
    columns = (list_at(found, "raters"), list_at(found, "x"), list_at(found, "y"))
    points = [
        (px, py, str(rater))
        for rater, x, y in zip(*columns, strict=False)
        if (px := as_float(x)) is not None and (py := as_float(y)) is not None
    ]
    if not points:
        return None
    points.sort(key=lambda point: (-math.hypot(point[0], point[1]), point[2]))
    # One unit is as long on both axes, so that distances can be seen.
    reach = 1.08 * max(max(abs(x), abs(y)) for x, y, _ in points) or 1.0
    axis = Axis.snug([-reach, reach], 4)
    share = [as_float(v) for v in list_at(found, "share")[:2]]
    words = [f" ({100 * s:.0f} % of the differences)" if s is not None else "" for s in [*share, None, None][:2]]
    plot = Plot(
        "Their first two principal components",
        axis,
        axis,
        f"first axis{words[0]}",
        f"second axis{words[1]}",
        width=440,
        height=440,
    )
    plot.add_line("diagonal", [(-reach, 0.0), (reach, 0.0)])
    plot.add_line("diagonal", [(0.0, -reach), (0.0, reach)])
    # The farthest are drawn whatever the number.
    others = points[_NAMED:]
    step = max(1, math.ceil(len(others) / _DOTS))
    plot.points.append(("one", [plot.at(x, y) for x, y, _ in others[::step]]))
    plot.marks = _labelled(plot, points[:_NAMED])
    left_out = len(others) - len(others[::step])
    plot.note = "Named: those farthest from the middle." if len(points) > _NAMED else ""
    plot.note += f" {left_out:,} of {len(points):,} annotators are left out." if left_out else ""
    return plot


# The hardest clips


@dataclass(frozen=True)
class _Said:
    """Single ratings by (utterance, attribute): (annotator, value, predicted)."""

    rows: Mapping[tuple[str, str], list[tuple[str, Any, Any]]]

    @classmethod
    def of(cls, ratings: pd.DataFrame) -> "_Said":
        found: dict[tuple[str, str], list[tuple[str, Any, Any]]] = {}
        columns = ["utterance", "attribute", "rater", "true", "predicted"]
        if set(columns) <= set(ratings.columns):
            for utterance, attribute, *rating in zip(*(ratings[column] for column in columns), strict=True):
                rater, true, predicted = rating
                found.setdefault((str(utterance), str(attribute)), []).append((str(rater), true, predicted))
        return cls(found)


@dataclass(frozen=True)
class Line:
    """The ratings of a clip in a dimension, on its scale: positions in percent, and all of it in words.

    Attributes:
        name: of the dimension.
        strip_left, strip_width: the predicted mean and one SD to each side, within the scale.
        dot: the predicted mean.
        true: the mean of the ratings.
        ratings: (position, how many lie on it already) of single ratings.
        ticks: of the scale.
        high: how many ratings lie on one another at most.
        words: the figures.
    """

    name: str
    strip_left: float | None
    strip_width: float
    dot: float | None
    true: float | None
    ratings: list[tuple[float, int]]
    ticks: list[tuple[float, str]]
    high: int
    words: list[tuple[str, str]]


def _hardest(
    report: _Dict, predictions: pd.DataFrame, kinds: Mapping[str, _Distributions | None], said: _Said
) -> _Dict | None:
    found = next((of for of in kinds.values() if of is not None), None)
    shown = [name for name in dimensions_of(predictions) if name in _spread_names(report)]
    if found is not None:
        badness, unit = found.tvd, "TVD"
    elif shown:
        badness, unit = _mean_errors(report, predictions, shown), "error"
    else:
        return None
    order = np.argsort(np.nan_to_num(-badness, nan=math.inf), kind="stable")
    rows = [int(i) for i in order[:_HARDEST] if math.isfinite(badness[i])]
    if not rows:
        return None
    votes = kinds["votes"]
    cards: list[_Dict] = []
    for row in rows:
        clip = predictions.iloc[row]
        size = number("tvd", float(badness[row])) if unit == "TVD" else f"{100 * badness[row]:.0f} % of the scale"
        cards.append(
            {
                "clip": clip_name(clip),
                "speaker": text_at(clip, "speaker"),
                "size": f"{unit} {size}",
                "audio": _audio(clip),
                "lines": [_line(report, predictions, row, name, said) for name in shown],
                "bars": None if votes is None else _bars(votes, row, "", "", ""),
                "labels": _label_words(said, text_at(clip, "utterance")),
            }
        )
    measured = (
        "Those whose predicted distribution is farthest from the true one"
        if unit == "TVD"
        else "Those whose predicted mean is farthest from the mean of the ratings, in shares of the scale"
    )
    playable = any(card["audio"] for card in cards)
    return {
        "note": f"{measured}.",
        "drawing": bool(shown),
        "singles": any(line.ratings for card in cards for line in card["lines"]),
        "bars": votes is not None,
        "playable": playable,
        "cards": cards,
        "mean": unit == "error",
    }


def _spread_names(report: _Dict) -> set[str]:
    """Dimensions of which opinions are predicted."""
    parts = [dict_at(report, "task"), *rows_at(dict_at(report, "task"), "also")]
    return {str(name) for part in parts if part.get("opinions") for name in list_at(part, "dimensions")}


def _mean_errors(report: _Dict, predictions: pd.DataFrame, names: Sequence[str]) -> _Floats:
    """(N,) the largest error among the dimensions, in shares of the scale; NaN where none is known."""
    worst = np.full(len(predictions), np.nan)
    for name in names:
        true, predicted = pair_of(predictions, name)
        low, high = scale_of(report, name, true)
        worst = np.fmax(worst, np.abs(predicted - true) / (high - low))
    return worst


def _audio(row: "pd.Series[Any]") -> str:
    """The address of a clip's file, with its segment; empty where its place is not known."""
    file = row.get("file")
    if not isinstance(file, str) or not PurePath(file).is_absolute():
        return ""
    start, end = (as_float(row.get(key)) for key in ("start", "end"))
    address = PurePath(file).as_uri()
    if start is None and end is None:
        return address
    return f"{address}#t={start or 0:g}" + ("" if end is None else f",{end:g}")


def _line(report: _Dict, predictions: pd.DataFrame, row: int, name: str, said: _Said) -> Line:
    clip = predictions.iloc[row]
    ratings = [(who, as_float(true)) for who, true, _ in said.rows.get((text_at(clip, "utterance"), name), [])]
    known = [(who, value) for who, value in ratings if value is not None]
    true, mean = as_float(clip.get(f"{name}_true")), as_float(clip.get(name))
    low, high = scale_of(report, name, pair_of(predictions, name)[0])
    made, spread = as_float(clip.get(f"spread_{name}")), as_float(clip.get(f"true_spread_{name}"))
    axis = Axis.snug([low, high, *(v for v in (true, mean) if v is not None), *(value for _, value in known)], 4)

    def at(value: float) -> float:
        return round(100 * min(1.0, max(0.0, axis.share(value))), 2)

    left = None if mean is None or made is None else at(mean - made)
    width = 0.0 if left is None or mean is None or made is None else round(at(mean + made) - left, 2)
    stacked: Counter[float] = Counter()
    dots = []
    for _, value in sorted(known[:_RATINGS], key=lambda rating: rating[1]):
        place = round(at(value) / 2) * 2.0 if len(known) > 1 else at(value)
        dots.append((at(value), stacked[place]))
        stacked[place] += 1
    each = [f"{who} {_value(value)}" for who, value in known[:_RATINGS]]
    each += [f"and {len(known) - _RATINGS} more"] if len(known) > _RATINGS else []
    words = [("predicted", _mean_and_spread(mean, made)), ("true", _mean_and_spread(true, spread))]
    words += [("ratings", ", ".join(each))] if each else []
    return Line(
        name,
        left,
        width,
        None if mean is None else at(mean),
        None if true is None else at(true),
        dots,
        axis.percent_ticks(),
        max(stacked.values(), default=0),
        words,
    )


def _mean_and_spread(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return NONE
    return _value(mean, 2) + ("" if spread is None else f" (SD {spread:.2f})")


def _label_words(said: _Said, utterance: str) -> str:
    """The labels that single annotators gave, in words."""
    rows = said.rows.get((utterance, "emotion"), [])
    each = [f"{who} {true}" for who, true, _ in rows[:_RATINGS]]
    each += [f"and {len(rows) - _RATINGS} more"] if len(rows) > _RATINGS else []
    return ", ".join(each)


def _value(value: float, digits: int | None = None) -> str:
    """A value on a rating scale as text."""
    text = f"{value:g}" if digits is None and value == round(value, 2) else f"{value:.2f}"
    return text.replace("-", MINUS)


def _signed(value: float | None) -> str:
    if value is None:
        return NONE
    text = f"{value:+.2f}"
    return ("0.00" if float(text) == 0 else text).replace("-", MINUS)


def _short(name: str) -> str:
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"
