"""Whether a model treats groups of people alike, and how large a gap between groups is by chance alone.

With groups g, h, classes c, truth y and prediction ŷ, all as shares of the clips of a group:

- gap of a score: that of the best group minus that of the worst. UAR is taken over the classes that every compared
  group has, so that a class that one group lacks makes no gap.
- demographic parity of class c: max over g, h of |P(ŷ=c | g) - P(ŷ=c | h)|; overall: the largest over classes.
- statistical parity: max over g, h of 1/2 sum_c |P(ŷ=c | g) - P(ŷ=c | h)|, the total variation distance.
- equality of opportunity of class c: max over g, h of |P(ŷ=c | y=c, g) - P(ŷ=c | y=c, h)|, the gap in recall;
  overall: the largest over classes.

What the code of TrustSER (arXiv 2305.11229) and PEFT-SER (arXiv 2306.05350) computes as statistical parity is the one
above. Under the names of the first and the last it computes other figures, which are given beside them:

- joint parity (their demographic parity): max over c, g, h of |P(ŷ=c, y=c | g) - P(ŷ=c, y=c | h)|. It mixes in the
  shares of the classes: a model that is always right has a gap where these differ.
- confusion parity (their equality of opportunity): max over g, h of
  1/(2C) sum_c sum_k |P(ŷ=k | y=c, g) - P(ŷ=k | y=c, h)|. It averages over classes, and counts what a class is taken
  for, not only whether it is found. Theirs takes a class that a group lacks as predicted uniformly; here only classes
  that both groups have count.

For a dimension: gaps of CCC and RMSE, and of the mean error (prediction minus truth).

**A simulated fair model.** Small groups have large gaps by chance, and the clips of a speaker are alike. So a model
is simulated whose class-conditional confusion is the same for all groups, with speakers as unlike as they are: every
speaker keeps the truths of his clips, n[s, y], and is predicted as

    P*(k | y, s) = Q(k | y) + sqrt(v_y(n[s, y]) / v_y(n[d, y])) (P(k | y, d) - Q(k | y)),   v_y(n) = t_y^2 + w_y^2 / n,

where d is the speaker dealt to s in a random permutation, t_y^2 the variance between speakers beyond chance, w_y^2 that
within, and Q the common confusion, in which a speaker weighs 1 / v_y(n[s, y]). With as many clips from everybody this
is the permutation of speakers between groups. The square root makes up for speakers with few clips, who differ more by
chance; without it groups with few clips for each speaker would be flagged. What differs because groups have
other shares of the classes stays in the simulation. For a dimension the regression of prediction on truth takes the
place of Q, and the level and the slope of each speaker are dealt out. If a column divides the clips of the same
speaker, clips are dealt out within speaker and class (dimension: residuals within speaker); if no speakers are known,
within class. Simulated fair models as the yardstick of gaps: Derington et al. (arXiv 2312.06270), who draw random
predictions; dealing out speakers is ours.

The threshold of a statistic is the 95 % point over the draws, p the share of draws that reach the observed value, one
added to both counts (Davison and Hinkley 1997, section 4.2). Over all statistics of a column p is corrected by the
step-down minP procedure (Westfall and Young 1993), which takes their dependence from the draws, and over columns by
Holm's. A gap is "more than chance" where the corrected p is at most .05.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sertune.metrics import scores
from sertune.metrics.intervals import RESAMPLES, draw_weights, percentile_range, row_sums, speaker_name
from sertune.metrics.scores import Floats, Integers

DRAWS: Final = 2000
"""Simulated fair models."""
MIN_CLIPS: Final = 20
"""A smaller group is shown, but not compared."""
MIN_SPEAKERS: Final = 2
"""A group of fewer speakers is shown, but not compared: it can't be told from its speaker."""
MIN_PER_CLASS: Final = 5
"""A group with fewer clips of a class is not compared in its recall."""
ALPHA: Final = 0.05
PURE: Final = 0.9
"""Share of clips in their speaker's commonest group from which on a column counts as one of speakers."""

SPEAKERS: Final = "speakers"
WITHIN: Final = "clips within speakers"
CLIPS: Final = "clips"

MORE: Final = "more than chance"
CHANCE: Final = "within chance"
NO_VERDICT: Final = "no verdict"

FORMULAS: Final[dict[str, str]] = {
    "uar": "Gap in UAR: best minus worst group, over the classes that every compared group has.",
    "accuracy": "Gap in accuracy: best minus worst group. Groups with other shares of easy classes differ in it.",
    "demographic_parity": (
        "Demographic parity of class c: max over groups g, h of |P(ŷ=c | g) − P(ŷ=c | h)|; overall: the "
        "largest over classes."
    ),
    "statistical_parity": "Statistical parity: max over g, h of ½ Σ_c |P(ŷ=c | g) − P(ŷ=c | h)|.",
    "equality_of_opportunity": (
        "Equality of opportunity of class c: max over g, h of |P(ŷ=c | y=c, g) − P(ŷ=c | y=c, h)|, the gap in "
        "recall; overall: the largest over classes."
    ),
    "joint_parity": (
        "Demographic parity as the code of TrustSER and PEFT-SER has it: max over c of |P(ŷ=c, y=c | g) − P(ŷ=c, y=c | "
        "h)|. It mixes in the shares of the classes: a model that is always right has a gap where these differ."
    ),
    "confusion_parity": (
        "Equality of opportunity as their code has it: max over g, h of 1/(2C) Σ_c Σ_k |P(ŷ=k | y=c, g) − P(ŷ=k | "
        "y=c, h)|. It averages over classes and counts what a class is taken for. Theirs takes a class that a group "
        "lacks as predicted uniformly; here only classes that both groups have count."
    ),
    "ccc": "Gap in CCC: best minus worst group.",
    "rmse": "Gap in RMSE: worst minus best group.",
    "bias": "Gap in bias: largest minus smallest mean error (prediction minus truth) of a group.",
}
"""Statistic -> what it is, for readers of a report."""

_Dict = dict[str, Any]
_Key = tuple[str, int | None]
"""A statistic and the class or dimension it is of."""
_DRAWS_AT_ONCE = 4_000_000
_LEAST_DIVISIONS = 1 / ALPHA


@dataclass(frozen=True)
class _Design:
    """Who is compared with whom, and what moves as one.

    Attributes:
        names: of the G groups.
        group: (N,) index of each clip's group, -1 where it has none or no truth.
        speaker: (N,) index of each clip's speaker.
        counts: clips and speakers (None where unknown) of each group.
        why_not: of each group why it is not compared; empty where it is.
        unit: SPEAKERS, WITHIN or CLIPS.
        obstacle: why no verdict is possible at all; empty where it is.
    """

    names: list[str]
    group: Integers
    speaker: Integers
    counts: list[tuple[int, int | None]]
    why_not: list[str]
    unit: str
    obstacle: str

    @property
    def compared(self) -> Integers:
        """Indices of the groups that are compared."""
        return np.array([g for g, why in enumerate(self.why_not) if not why], dtype=np.int64)

    def strata(self) -> Integers:
        """(N,) among which clips labels are shuffled where clips move alone."""
        return self.speaker if self.unit == WITHIN else np.zeros_like(self.speaker)

    def clusters(self) -> tuple[Integers, Integers]:
        """(N,) the index of what moves as one (-1 outside all groups), and (U,) the group of each."""
        inside = self.group >= 0
        if self.unit == SPEAKERS:
            keys = self.speaker * len(self.names) + self.group
            found, index = np.unique(keys[inside], return_inverse=True)
            owners = found % len(self.names)
        else:
            index = np.arange(int(inside.sum()))
            owners = self.group[inside]
        cluster = np.full(len(self.group), -1, dtype=np.int64)
        cluster[inside] = index
        return cluster, owners.astype(np.int64)


def compare_categories(
    true: ArrayLike,
    predicted: ArrayLike,
    labels: Sequence[str],
    groups: Sequence[str | None],
    speakers: Sequence[str | None] | None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> _Dict:
    """How a model of categories treats the groups of one column.

    Args:
        true: (N,) indices into ``labels``, -1 where missing.
        predicted: (N,) indices into ``labels``.
        labels: the class names, in order.
        groups: (N,) names, None where unknown; those clips are left out.
        speakers: (N,) names, None where unknown.
        draws: simulated fair models.
        seed: of draws and bootstrap; equal seed, equal result.

    Returns:
        ``groups``: for each ``name``, ``clips``, ``speakers``, ``compared``, ``why_not``, ``support`` per class, and
        ``scores`` (``uar``, ``accuracy``) and ``recall``, ``predicted`` per class as ``value``, ``low``, ``high``
        (95 % percentile bootstrap over speakers, within the group).
        ``gaps``: for each ``statistic`` (of `FORMULAS`) and ``class`` (None: overall) the ``value``, ``low`` and
        ``high`` (of the difference between the same two groups; None for what is a maximum over several differences,
        whose bootstrap is biased), ``top`` and ``bottom`` group, ``threshold``, ``p``; ``at``: the class of the
        largest difference. `correct` adds ``p_corrected`` and ``verdict``.
        ``unit``: what the fair model deals out; ``obstacle``: why there is no verdict; ``missing``: clips without a
        group; ``uar_classes``; ``draws``.

    Raises:
        ValueError: shapes that differ, or a class index outside the labels.
    """
    classes = len(labels)
    cells, scored = scores.cells_of(true, predicted, classes)
    design = _design(groups, speakers, scored)
    rows = np.zeros((len(cells), classes * classes))
    rows[np.flatnonzero(scored), cells[scored]] = 1.0
    cluster, owners = design.clusters()
    inside = cluster >= 0
    tables = row_sums(rows[inside], cluster[inside], len(owners))
    observed = row_sums(rows[inside], design.group[inside], len(design.names)).reshape(-1, classes, classes)
    enough = observed.sum(axis=-1) >= MIN_PER_CLASS
    compared = design.compared
    common = enough[compared].all(axis=0) if len(compared) > 1 else observed.sum(axis=(0, 2)) > 0

    def of_groups(sums: Floats) -> dict[_Key, Floats]:
        return _category_scores(sums.reshape(*sums.shape[:-1], classes, classes), common)

    resampled = of_groups(_resampled(design, rows, tables, owners, seed))
    point = of_groups(observed.reshape(len(observed), -1))
    result = _head(design, scored, draws)
    result["uar_classes"] = [label for label, there in zip(labels, common, strict=True) if there]
    entries = {key: _entries(point[key], resampled[key], design) for key in point}
    for g, group in enumerate(result["groups"]):
        group["support"] = dict(zip(labels, observed[g].sum(axis=-1).astype(int).tolist(), strict=True))
        group["scores"] = {name: entries[name, None][g] for name in ("uar", "accuracy")}
        for name, key in (("recall", "equality_of_opportunity"), ("predicted", "demographic_parity")):
            group[name] = {label: entries[key, c][g] for c, label in enumerate(labels)}
    if len(compared) < 2:
        return result
    mask = enough[compared]

    def statistics(sums: Floats) -> dict[_Key, Floats]:
        return _category_gaps(sums, mask, common)

    own = observed[compared]
    if design.unit == SPEAKERS:
        taken = np.isin(owners, compared)
        places = np.searchsorted(compared, owners[taken])
        blocks = _fair_speakers(tables[taken].reshape(-1, classes, classes), places, draws, seed)
    else:
        taken = np.isin(design.group, compared)
        places = np.searchsorted(compared, design.group[taken])
        blocks = _fair_clips(cells[taken], places, design.strata()[taken], classes, draws, seed)
    per_class = np.where(enough[..., None], observed, 0.0)  # groups with too few clips of a class have no part in it
    masked = of_groups(per_class.reshape(len(observed), -1)) | {
        key: value for key, value in point.items() if key[0] != "equality_of_opportunity"
    }
    values = statistics(own)
    simulated = _simulated(blocks, statistics)
    overall = {"demographic_parity", "equality_of_opportunity"}
    for (name, c), value in values.items():
        gap = _gap(name, None if c is None else labels[c], value, simulated[name, c], design)
        if (name, c) in masked:
            _between(gap, masked[name, c], resampled[name, c], design)
        elif name in overall:
            known = [(float(values[name, k]), k) for k in range(classes) if not math.isnan(values[name, k])]
            if known:
                worst = max(known)[1]
                _between(gap, masked[name, worst], None, design)
                gap["at"] = labels[worst]
        result["gaps"].append(gap)
    return result


def compare_dimensions(
    true: Mapping[str, ArrayLike],
    predicted: Mapping[str, ArrayLike],
    groups: Sequence[str | None],
    speakers: Sequence[str | None] | None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> _Dict:
    """How a model of dimensions treats the groups of one column.

    Args:
        true: dimension -> (N,) values, NaN where missing; only clips with all of them count.
        predicted: dimension -> (N,) values on the same scale.
        groups, speakers, draws, seed: as of :func:`compare_categories`.

    Returns:
        As of :func:`compare_categories`; ``scores`` are ``ccc_X``, ``rmse_X`` and ``bias_X`` (mean error) of each
        dimension X, and ``class`` of a gap is the dimension.
    """
    names = list(true)
    t = np.column_stack([np.asarray(true[name], dtype=np.float64) for name in names])
    p = np.column_stack([np.asarray(predicted[name], dtype=np.float64) for name in names])
    scored = np.asarray(~np.isnan(t).any(axis=1), dtype=np.bool_)
    design = _design(groups, speakers, scored)
    if scored.any():  # both shifted by the mean truth, so that squares keep their digits
        shift = t[scored].mean(axis=0)
        t, p = t - shift, p - shift
    rows = np.where(scored[:, None, None], _moments(t, p), 0.0).reshape(len(t), -1)
    cluster, owners = design.clusters()
    inside = cluster >= 0
    tables = row_sums(rows[inside], cluster[inside], len(owners))
    observed = row_sums(rows[inside], design.group[inside], len(design.names))

    def of_groups(sums: Floats) -> dict[_Key, Floats]:
        moments = sums.reshape(*sums.shape[:-1], len(names), 6)
        return {
            (score, d): value
            for d in range(len(names))
            for score, value in _dimension_scores(moments[..., d, :]).items()
        }

    resampled = of_groups(_resampled(design, rows, tables, owners, seed))
    point = of_groups(observed)
    result = _head(design, scored, draws)
    entries = {key: _entries(point[key], resampled[key], design) for key in point}
    for g, group in enumerate(result["groups"]):
        group["scores"] = {f"{score}_{names[d]}": entries[score, d][g] for score, d in entries if d is not None}
    compared = design.compared
    if len(compared) < 2:
        return result

    def statistics(sums: Floats) -> dict[_Key, Floats]:
        return {key: _range(value, np.ones(value.shape[-1], bool)) for key, value in of_groups(sums).items()}

    if design.unit == SPEAKERS:
        taken = np.isin(owners, compared)
        places = np.searchsorted(compared, owners[taken])
        blocks = _fair_regressions(tables[taken].reshape(-1, len(names), 6), places, draws, seed)
    else:
        taken = np.isin(design.group, compared)
        places = np.searchsorted(compared, design.group[taken])
        blocks = _fair_residuals(t[taken], p[taken], places, design.strata()[taken], draws, seed)
    values = statistics(observed[compared])
    simulated = _simulated(blocks, statistics)
    for (name, d), value in values.items():
        gap = _gap(name, None if d is None else names[d], value, simulated[name, d], design)
        _between(gap, point[name, d], resampled[name, d], design)
        result["gaps"].append(gap)
    return result


def correct(columns: Sequence[_Dict]) -> int:
    """Adds ``p_corrected`` and ``verdict`` to every gap of several columns; see the module's text.

    Within a column p is corrected by step-down minP over the draws, over columns by Holm's procedure. The draws are
    taken out of the gaps.

    Args:
        columns: results of :func:`compare_categories` or :func:`compare_dimensions`; changed in place.

    Returns:
        How many comparisons there are.
    """
    tested = [(column, [gap for gap in column["gaps"] if gap["p"] is not None]) for column in columns]
    tested = [(column, gaps) for column, gaps in tested if gaps and not column["obstacle"]]
    within = []
    for _, gaps in tested:
        simulated = np.stack([gap["simulated"] for gap in gaps], axis=1)
        within.append(_min_p(np.array([gap["value"] for gap in gaps]), simulated))
    order = sorted(range(len(tested)), key=lambda k: within[k].min())
    floor = 0.0
    for rank, k in enumerate(order):
        factor = len(order) - rank
        adjusted = np.maximum(np.minimum(1.0, factor * within[k]), floor)
        floor = float(adjusted.min())
        for gap, p in zip(tested[k][1], adjusted, strict=True):
            gap["p_corrected"] = float(p)
            gap["verdict"] = MORE if p <= ALPHA else CHANCE
    for column in columns:
        for gap in column["gaps"]:
            gap.pop("simulated")
            if "verdict" not in gap:
                gap |= {"p": None, "p_corrected": None, "verdict": NO_VERDICT}
    return sum(len(gaps) for _, gaps in tested)


# Groups


def _design(groups: Sequence[str | None], speakers: Sequence[str | None] | None, scored: NDArray[np.bool_]) -> _Design:
    if len(groups) != len(scored) or (speakers is not None and len(speakers) != len(scored)):
        raise ValueError("groups and speakers must have one entry for each clip")
    named = [speaker_name(g) if keep else None for g, keep in zip(groups, scored, strict=True)]
    names = sorted({name for name in named if name is not None})
    place = {name: g for g, name in enumerate(names)}
    group = np.array([-1 if name is None else place[name] for name in named], dtype=np.int64)
    known = [None] * len(named) if speakers is None else [speaker_name(s) for s in speakers]
    order = {name: s for s, name in enumerate(sorted({s for s in known if s is not None}))}
    speaker = np.array([len(order) if s is None else order[s] for s in known], dtype=np.int64)
    inside = group >= 0
    unit = _unit(group[inside], speaker[inside], len(names), len(order))
    counts: list[tuple[int, int | None]] = []
    why_not = []
    for g in range(len(names)):
        own = group == g
        clips, heads = int(own.sum()), len(np.unique(speaker[own]))
        counts.append((clips, None if len(order) < 2 else heads))
        few = f"only {clips} clips" if clips < MIN_CLIPS else ""
        alone = f"only {heads} speaker" if unit == SPEAKERS and heads < MIN_SPEAKERS else ""
        why_not.append(few or alone)
    design = _Design(names, group, speaker, counts, why_not, unit, "")
    return _Design(names, group, speaker, counts, why_not, unit, _obstacle(design))


def _unit(group: Integers, speaker: Integers, groups: int, named: int) -> str:
    """What the fair model deals out; see the module's text."""
    if named < 2 or not len(group):
        return CLIPS
    counts = np.zeros((int(speaker.max()) + 1, groups))
    np.add.at(counts, (speaker, group), 1)
    return SPEAKERS if counts.max(axis=1).sum() >= PURE * len(group) else WITHIN


def _obstacle(design: _Design) -> str:
    """Why no gap of this column could be told from chance; empty if one could."""
    compared = design.compared
    if len(compared) < 2:
        return f"fewer than two groups have {MIN_CLIPS} clips and {MIN_SPEAKERS} speakers"
    if design.unit != SPEAKERS:
        return ""
    _, owners = design.clusters()
    sizes = [int((owners == g).sum()) for g in compared]
    ways = math.lgamma(sum(sizes) + 1) - sum(math.lgamma(n + 1) for n in sizes)
    # groups of one size can be exchanged without a change of the gap
    ways -= sum(math.lgamma(sizes.count(n) + 1) for n in set(sizes))
    if round(math.exp(min(ways, 50))) >= _LEAST_DIVISIONS:
        return ""
    return (
        f"{' and '.join(map(str, sizes))} speakers can be dealt to the groups in only {round(math.exp(ways))} ways, so "
        "no gap could be told from chance"
    )


def _head(design: _Design, scored: NDArray[np.bool_], draws: int) -> _Dict:
    return {
        "groups": [
            {"name": name, "clips": clips, "speakers": heads, "compared": not why, "why_not": why}
            for name, (clips, heads), why in zip(design.names, design.counts, design.why_not, strict=True)
        ],
        "missing": int((scored & (design.group < 0)).sum()),
        "unit": design.unit,
        "obstacle": design.obstacle,
        "draws": draws,
        "gaps": [],
    }


# Scores and statistics


def _conditional(matrix: Floats, otherwise: Floats) -> Floats:
    """P(predicted | true) of (..., C, C) counts; the rows of ``otherwise`` where a class does not occur."""
    total = matrix.sum(axis=-1, keepdims=True)
    return np.where(total > 0, matrix / np.where(total > 0, total, 1.0), otherwise)


def _category_scores(matrix: Floats, common: NDArray[np.bool_]) -> dict[_Key, Floats]:
    """(..., C, C) -> score: (...), NaN where undefined."""
    recall = scores.recall_of(matrix)
    total = matrix.sum(axis=(-2, -1))
    share = matrix.sum(axis=-2) / np.where(total > 0, total, np.nan)[..., None]
    found: dict[_Key, Floats] = {
        ("uar", None): _mean_where(recall, np.broadcast_to(common, recall.shape) & ~np.isnan(recall)),
        ("accuracy", None): scores.accuracy_of(matrix),
    }
    for c in range(matrix.shape[-1]):
        found["demographic_parity", c] = share[..., c]
        found["equality_of_opportunity", c] = recall[..., c]
    return found


def _category_gaps(matrix: Floats, enough: NDArray[np.bool_], common: NDArray[np.bool_]) -> dict[_Key, Floats]:
    """(..., G, C, C) -> statistic and class: (...); ``enough`` (G, C) says who is compared in which class."""
    everyone = np.ones(len(enough), dtype=bool)
    of = _category_scores(matrix, common)
    classes = range(matrix.shape[-1])
    parity = [_range(of["demographic_parity", c], everyone) for c in classes]
    opportunity = [_range(of["equality_of_opportunity", c], enough[:, c]) for c in classes]
    total = matrix.sum(axis=(-2, -1))[..., None]
    share = matrix.sum(axis=-2) / total
    joint = np.einsum("...ii->...i", matrix) / total
    rows = _conditional(matrix, np.zeros(matrix.shape[-2:]))
    both = enough[:, None, :] & enough[None, :, :]
    distance = np.abs(rows[..., :, None, :, :] - rows[..., None, :, :, :]).sum(axis=-1) / 2
    found: dict[_Key, Floats] = {
        ("uar", None): _range(of["uar", None], everyone),
        ("accuracy", None): _range(of["accuracy", None], everyone),
        ("demographic_parity", None): _largest(np.stack(parity, axis=-1)),
        ("statistical_parity", None): (np.abs(share[..., :, None, :] - share[..., None, :, :]).sum(-1) / 2).max(
            (-2, -1)
        ),
        ("equality_of_opportunity", None): _largest(np.stack(opportunity, axis=-1)),
        ("joint_parity", None): (joint.max(axis=-2) - joint.min(axis=-2)).max(axis=-1),
        ("confusion_parity", None): _largest(_flat_pairs(_mean_where(distance, np.broadcast_to(both, distance.shape)))),
    }
    for c in classes:
        found |= {("demographic_parity", c): parity[c], ("equality_of_opportunity", c): opportunity[c]}
    return found


def _flat_pairs(values: Floats) -> Floats:
    """(..., G, G) -> (..., pairs): what two different groups have."""
    first, second = np.triu_indices(values.shape[-1], 1)
    return values[..., first, second]


def _range(values: Floats, taken: NDArray[np.bool_]) -> Floats:
    """Largest minus smallest over the last axis of the ``taken``; NaN with fewer than two, or where one is NaN."""
    if taken.sum() < 2:
        return np.full(values.shape[:-1], np.nan)
    spread: Floats = values[..., taken].max(axis=-1) - values[..., taken].min(axis=-1)
    return spread


def _largest(values: Floats) -> Floats:
    """Largest over the last axis of what is not NaN; NaN where nothing is."""
    filled = np.where(np.isnan(values), -1.0, values).max(axis=-1)
    return np.where(filled < 0, np.nan, filled)


def _mean_where(values: Floats, taken: NDArray[np.bool_]) -> Floats:
    """Mean over the last axis of the ``taken``; NaN where none is."""
    count = taken.sum(axis=-1)
    mean: Floats = np.where(taken, values, 0.0).sum(axis=-1) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)


def _moments(true: Floats, predicted: Floats) -> Floats:
    """(..., 6): 1, t, p, tt, pp, tp."""
    return np.stack([np.ones_like(true), true, predicted, true**2, predicted**2, true * predicted], axis=-1)


def _central(sums: Floats) -> tuple[Floats, ...]:
    """Count, means of truth and prediction, variances and covariance of (..., 6) sums."""
    n = sums[..., 0]
    t, p, tt, pp, tp = (sums[..., i] / np.where(n > 0, n, np.nan) for i in range(1, 6))
    return n, t, p, np.maximum(tt - t * t, 0.0), np.maximum(pp - p * p, 0.0), tp - t * p


def _dimension_scores(sums: Floats) -> dict[str, Floats]:
    """(..., 6) sums -> CCC, RMSE and mean error, NaN where undefined."""
    n, t, p, var_t, var_p, cov = _central(sums)
    bias = p - t
    whole = var_t + var_p + bias**2
    ccc = 2 * cov / np.where((n >= 2) & (whole > 0), whole, np.nan)
    rmse = np.sqrt(np.maximum(bias**2 + var_t + var_p - 2 * cov, 0.0))
    return {"ccc": ccc, "rmse": rmse, "bias": bias}


# Draws


def _resampled(design: _Design, rows: Floats, tables: Floats, owners: Integers, seed: int) -> Floats:
    """(RESAMPLES, G, K) sums of each group over speakers drawn with replacement.

    Speakers who belong to one group are drawn within it; those with clips in several, with all their clips.
    """
    width = tables.shape[1]
    if design.unit == WITHIN:
        inside = design.group >= 0
        known, speaker = np.unique(design.speaker[inside], return_inverse=True)
        spread = np.zeros((len(known), len(design.names), width))
        np.add.at(spread, (speaker, design.group[inside]), rows[inside])
        flat = spread.reshape(len(known), -1)
        joint = np.concatenate([weights @ flat for weights in draw_weights(len(known), RESAMPLES, seed)])
        return joint.reshape(RESAMPLES, len(design.names), width)
    found = np.zeros((RESAMPLES, len(design.names), width))
    for g in range(len(design.names)):
        own = tables[owners == g]
        found[:, g] = np.concatenate([w @ own for w in draw_weights(len(own), RESAMPLES, seed * 1000 + g)])
    return found


def _fair_speakers(tables: Floats, places: Integers, draws: int, seed: int) -> Iterator[Floats]:
    """Confusion matrices of the groups under a fair model with unlike speakers; see the module's text.

    Args:
        tables: (U, C, C) counts of each speaker.
        places: (U,) the group of each.
        draws, seed: of the permutations.

    Yields:
        (b, G, C, C).
    """
    counts = tables.sum(axis=-1)
    pooled = tables.sum(axis=0)
    own = _conditional(tables, _conditional(pooled, np.zeros_like(pooled)))
    spread = counts * (1 - (own**2).sum(axis=-1))
    spread_of_all = 1 - (_conditional(pooled, np.zeros_like(pooled)) ** 2).sum(axis=-1)
    within = _ratio(spread.sum(axis=0), np.maximum(counts - 1, 0).sum(axis=0), spread_of_all)
    confusion, deviation, scale = _standardised(own, counts, within, seed)
    groups = int(places.max()) + 1
    for dealt in _permutations(len(tables), max(len(tables), groups**2) * deviation[0].size, draws, seed):
        sums = []
        for g in range(groups):
            slots = places == g
            noise = np.einsum("uy,buyk->byk", (counts * scale)[slots], deviation[dealt[:, slots]])
            sums.append(counts[slots].sum(axis=0)[:, None] * confusion + noise)
        yield np.stack(sums, axis=1)


def _fair_clips(
    cells: Integers, places: Integers, strata: Integers, classes: int, draws: int, seed: int
) -> Iterator[Floats]:
    """(b, G, C, C) matrices with the groups' labels shuffled among the clips of one class and stratum."""
    width = classes * classes
    groups = int(places.max()) + 1
    size = max(4 * len(cells), groups**2 * width)
    for shuffled, order in _shuffled(places, strata * classes + cells // classes, size, draws, seed):
        keys = (np.arange(len(shuffled))[:, None] * groups + shuffled) * width + cells[order]
        counts = np.bincount(keys.ravel(), minlength=len(shuffled) * groups * width)
        yield counts.reshape(-1, groups, classes, classes).astype(np.float64)


def _fair_regressions(tables: Floats, places: Integers, draws: int, seed: int) -> Iterator[Floats]:
    """Moments of the groups under a fair model of dimensions with unlike speakers.

    Args:
        tables: (U, D, 6) sums of each speaker.
        places: (U,) the group of each.
        draws, seed: of the permutations.

    Yields:
        (b, G, D * 6): each speaker keeps his truths t; p = a + b t + m + s (t - his mean t) + e, with level m,
        slope s and the variance of e of the speaker dealt to him, the first two scaled as in the module's text.
    """
    n, t, p, var_t, var_p, cov = _central(tables)
    _, mean_t, mean_p, all_t, _, all_cov = _central(tables.sum(axis=0))
    known = var_t > 1e-9 * np.maximum(all_t, 1e-300)
    slopes = np.where(known, _ratio(cov, var_t, np.zeros_like(cov)), 0.0)
    left = np.maximum(var_p - slopes * cov, 0.0)  # of e, within each speaker
    free = np.maximum(n - 1 - known, 0)
    common = _ratio(all_cov, all_t, np.zeros_like(all_t))
    rough = (p - mean_p - common * (t - mean_t)) ** 2
    within = _ratio((n * left).sum(axis=0), free.sum(axis=0), (n * rough).sum(axis=0) / n.sum(axis=0))
    slope, lean, steepness = _standardised(slopes[..., None], np.where(known, n * var_t, 0.0), within, seed)
    slope = np.where(known.any(axis=0), slope[:, 0], common)
    levels = p - slope * (t - mean_t)
    level, offset, height = _standardised(levels[..., None], n, within, seed)
    variance = _ratio(n * left, free, np.broadcast_to(within, left.shape))
    groups = range(int(places.max()) + 1)
    for dealt in _permutations(len(n), 3 * tables.size, draws, seed):
        total = slope + steepness * lean[dealt][..., 0]
        mean = level[:, 0] + height * offset[dealt][..., 0] + slope * (t - mean_t)
        rest = variance[dealt] * free / n
        own = [np.ones_like(mean), t, mean, var_t + t**2, total**2 * var_t + rest + mean**2, total * var_t + t * mean]
        sums = np.stack([n * np.broadcast_to(term, mean.shape) for term in own], axis=-1)
        yield np.stack([sums[:, places == g].sum(axis=1).reshape(len(dealt), -1) for g in groups], axis=1)


def _fair_residuals(
    true: Floats, predicted: Floats, places: Integers, strata: Integers, draws: int, seed: int
) -> Iterator[Floats]:
    """(b, G, D * 6) moments, the residuals of the common regression (N, D) shuffled among the clips of a stratum."""
    mean_t, mean_p = true.mean(axis=0), predicted.mean(axis=0)
    cov = ((true - mean_t) * (predicted - mean_p)).mean(axis=0)
    line = mean_p + _ratio(cov, true.var(axis=0), np.zeros_like(cov)) * (true - mean_t)
    groups = range(int(places.max()) + 1)
    for shuffled, order in _shuffled(np.arange(len(places)), strata, 12 * true.size, draws, seed):
        moments = _moments(
            np.broadcast_to(true[order], (len(shuffled), *true.shape)), line[order] + (predicted - line)[shuffled]
        )
        flat = moments.reshape(len(shuffled), len(places), -1)
        yield np.stack([flat[:, places[order] == g].sum(axis=1) for g in groups], axis=1)


def _standardised(estimates: Floats, information: Floats, within: Floats, seed: int) -> tuple[Floats, Floats, Floats]:
    """What speakers have in common, and what they differ by, freed of how well each is known.

    The variance of an estimate is v = t^2 + within / information, t^2 that between speakers by the method of moments
    (DerSimonian and Laird 1986, eq. 8). The common value is the mean weighted by 1 / v; a deviation from it has the
    variance v - 1 / sum(1 / v).

    Args:
        estimates: (U, J, K) of each speaker, in J respects.
        information: (U, J) clips that an estimate rests on, 0 where there is none.
        within: (J,) variance within speakers, summed over K.
        seed: of the donors for those who are not known in a respect.

    Returns:
        (J, K) common values, (U, J, K) deviations in units of the standard deviation, and (U, J) that deviation
        sqrt(v), 0 where nothing is known; there the deviation is that of some other speaker.
    """
    known = information > 0
    count = known.sum(axis=0)
    weight = np.where(known, information, 0.0)
    total = weight.sum(axis=0)
    centre = _ratio(np.einsum("uj,ujk->jk", weight, estimates), total[:, None], np.zeros(estimates.shape[1:]))
    heterogeneity = (weight * ((estimates - centre) ** 2).sum(axis=-1)).sum(axis=0) - (count - 1) * within
    reduced = total - _ratio((weight**2).sum(axis=0), total, np.zeros_like(total))
    between = np.maximum(_ratio(heterogeneity, reduced, np.zeros_like(total)), 0.0)
    variance = np.maximum(between + within / np.where(known, information, 1.0), 1e-12)
    weight = np.where(known, 1 / variance, 0.0)
    total = weight.sum(axis=0)
    centre = _ratio(np.einsum("uj,ujk->jk", weight, estimates), total[:, None], np.zeros(estimates.shape[1:]))
    own = variance - _ratio(np.ones_like(total), total, np.zeros_like(total))
    usable = known & (count > 1)
    # a permutation deals without replacement, which spreads sums by (U - 1) / U less than independent draws
    shrink = np.sqrt(np.maximum(count - 1, 0) / np.maximum(count, 1) / np.where(usable, np.maximum(own, 1e-15), 1.0))
    deviation = np.where(usable[..., None], (estimates - centre) * shrink[..., None], 0.0)
    rng = np.random.default_rng([seed, 1])
    for j in range(estimates.shape[1]):
        there = np.flatnonzero(known[:, j])
        if len(there):
            deviation[~known[:, j], j] = deviation[rng.choice(there, int((~known[:, j]).sum())), j]
    return centre, deviation, np.where(known, np.sqrt(variance), 0.0)


def _permutations(units: int, size: int, draws: int, seed: int) -> Iterator[Integers]:
    """(b, units) random permutations, as many at once as ``size`` numbers for each leave room for."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // size)
    for start in range(0, draws, at_once):
        yield rng.permuted(np.tile(np.arange(units), (min(at_once, draws - start), 1)), axis=1)


def _shuffled(
    values: Integers, strata: Integers, size: int, draws: int, seed: int
) -> Iterator[tuple[Integers, Integers]]:
    """(b, N) the values, shuffled within each stratum, and the (N,) order of the clips that they are given to.

    As many at once as ``size`` numbers for each leave room for.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(strata, kind="stable")
    _, rank = np.unique(strata[order], return_inverse=True)
    at_once = max(1, _DRAWS_AT_ONCE // size)
    for start in range(0, draws, at_once):
        keys = rank + rng.random((min(at_once, draws - start), len(values)))
        yield values[order][np.argsort(keys, axis=1)], order


def _simulated(blocks: Iterator[Floats], statistics: Callable[[Floats], dict[_Key, Floats]]) -> dict[_Key, Floats]:
    """Statistic -> (draws,) values under a fair model; what is undefined in a draw shows no gap there."""
    found = [statistics(sums) for sums in blocks]
    return {key: np.nan_to_num(np.concatenate([block[key] for block in found])) for key in found[0]}


def _ratio(part: Floats, whole: Floats, otherwise: Floats) -> Floats:
    """``part / whole``, ``otherwise`` where ``whole`` is not positive."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), otherwise)


def _reach(simulated: Floats, value: float) -> NDArray[np.bool_]:
    """Which draws reach a value, up to rounding."""
    reached: NDArray[np.bool_] = simulated >= value - 1e-12
    return reached


def _min_p(values: Floats, simulated: Floats) -> Floats:
    """(M,) corrected p of (M,) values from their (B, M) draws: step-down minP, the values counted as one more draw."""
    pooled = np.concatenate([values[None], simulated])
    ranked = np.empty_like(pooled)
    for m in range(pooled.shape[1]):  # the share of draws that reach each
        ranked[:, m] = 1 - np.searchsorted(np.sort(pooled[:, m]), pooled[:, m] - 1e-12) / len(pooled)
    order = np.argsort(ranked[0], kind="stable")
    least = np.minimum.accumulate(ranked[:, order][:, ::-1], axis=1)[:, ::-1]
    stepped = (least <= ranked[0, order] + 1e-12).mean(axis=0)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(stepped)
    return corrected


# Entries


def _entries(point: Floats, resampled: Floats, design: _Design) -> list[_Dict]:
    """Value and interval of each group; no interval over a single speaker."""
    found = []
    for g in range(len(design.names)):
        clips, heads = design.counts[g]
        alone = (clips if heads is None else heads) < 2
        low, high = (math.nan, math.nan) if alone else percentile_range(resampled[:, g])
        found.append({"value": _number(point[g]), "low": _number(low), "high": _number(high)})
    return found


def _gap(name: str, of: str | None, value: Floats, simulated: Floats, design: _Design) -> _Dict:
    observed = float(value)
    known = not math.isnan(observed)
    usable = known and not design.obstacle
    return {
        "statistic": name,
        "class": of,
        "value": _number(observed),
        "low": None,
        "high": None,
        "top": None,
        "bottom": None,
        "threshold": _number(np.quantile(simulated, 1 - ALPHA, method="higher")) if usable else None,
        "p": float((1 + _reach(simulated, observed).sum()) / (1 + len(simulated))) if usable else None,
        "simulated": simulated,
    }


def _between(gap: _Dict, point: Floats, resampled: Floats | None, design: _Design) -> None:
    """Names the two groups of a gap, and gives the interval of the difference between these two."""
    known = [g for g in design.compared if not math.isnan(point[g])]
    if len(known) < 2 or not gap["value"]:
        return
    top, bottom = max(known, key=lambda g: point[g]), min(known, key=lambda g: point[g])
    gap |= {"top": design.names[top], "bottom": design.names[bottom]}
    if resampled is not None:
        low, high = percentile_range(resampled[:, top] - resampled[:, bottom])
        gap |= {"low": _number(low), "high": _number(high)}


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
