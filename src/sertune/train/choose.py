"""The target that a configuration asks for and the data allows, and the clips that have it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sertune.config import RunConfig
from sertune.data.manifest import Manifest
from sertune.errors import SertuneError, unknown
from sertune.model.density import Kernel
from sertune.model.planes import Truth
from sertune.model.raters import RaterForm
from sertune.model.targets import (
    CategoryTarget,
    DimensionTarget,
    JoinedTarget,
    Plane,
    PlaneTarget,
    RaterLabelTarget,
    RaterTarget,
    Single,
    SpreadTarget,
    Target,
    VotesTarget,
    dimensions_of,
    labels_of,
    lead_of,
    rater_names,
)
from sertune.model.targets.distribution import PLANE

DIMENSIONS = ("arousal", "valence", "dominance")
EMBEDDING = 8
"""Length of annotators' vectors where none is named."""
ANONYMOUS = "anonymous-"
"""How readers call raters of whom only their votes are known."""

Scales = tuple[tuple[float, float], ...]


def choose_target(manifest: Manifest, config: RunConfig) -> tuple[Manifest, Target]:
    """The target that the data allows, and the clips that have it (with joined tasks: any of it).

    Consensus values that are missing become the mean, or the majority, of the single ratings.

    Raises:
        SertuneError: the data lacks it, or there is nothing to learn from it.
    """
    manifest = manifest.with_consensus()
    tasks = [part for part in config.target.parts if part != "density"]
    made = {task: _single(task, manifest, config) for task in tasks}
    kept = np.any([rows for _, rows in made.values()], axis=0)
    if len(config.target.parts) == 1:
        return manifest.select(kept), made[tasks[0]][0]
    return manifest.select(kept), _joined({task: target for task, (target, _) in made.items()}, config)


def _single(task: str, manifest: Manifest, config: RunConfig) -> tuple[Single, np.ndarray]:
    """The target of one task, and (N,) the clips that have it."""
    if task == "category":
        return _category(manifest, config)
    if task == "dimension":
        return _dimension(manifest, config)
    if task == "rater":
        return _rater(manifest, config)
    return _distribution(manifest, config)


def _joined(targets: dict[str, Single], config: RunConfig) -> JoinedTarget:
    """The target that learns single ratings goes last, as the number of its columns depends on the data."""
    slotted = (RaterTarget, RaterLabelTarget, SpreadTarget)
    rated = [task for task, target in targets.items() if isinstance(target, slotted)]
    if len(rated) > 1:
        raise SertuneError(
            f"target {config.target.name}: a gaussian or beta distribution can't be joined with rater; take "
            "--target.distribution.of plane or votes"
        )
    names = config.target.parts
    given = dict(zip(names, config.target.weights or [1.0] * len(names), strict=True))
    order = sorted(targets, key=lambda task: task in rated)
    weights: list[float] = []
    for task in order:
        weights.append(given[task])
        if task == "rater" and "density" in names:
            weights.append(given["density"])
    lead = order.index(next(task for task in names if task != "density"))
    return JoinedTarget(tuple(targets[task] for task in order), tuple(weights), config.target.schedule, lead)


def _category(manifest: Manifest, config: RunConfig) -> tuple[CategoryTarget, np.ndarray]:
    options = config.target
    if "emotion" not in manifest.schemes:
        there = _there(manifest)
        hint = f"; it has {', '.join(there)}: use --target dimension" if there else ""
        raise SertuneError(f"target category: {manifest.name} has no emotion labels{hint}")
    present = _labels(manifest, manifest.utterances["emotion"], config, "clip of {} is labelled")
    target = CategoryTarget(present, options.label_smoothing, options.adjustment, options.class_weights)
    return target, manifest.utterances["emotion"].isin(present).to_numpy()


def _labels(manifest: Manifest, values: "pd.Series[Any]", config: RunConfig, nobody: str) -> tuple[str, ...]:
    """The labels that are asked for and given, in the order of the scheme."""
    scheme = manifest.schemes["emotion"].labels
    labels = tuple(config.target.labels) or scheme
    for label in labels:
        if label not in scheme:
            raise unknown(f"label of {manifest.name} in target.labels:", label, scheme)
    given = set(values.dropna())
    present = [label for label in labels if label in given]
    if config.target.labels and (absent := [label for label in labels if label not in present]):
        raise SertuneError(f"target.labels: no {nobody.format(manifest.name)} {absent[0]!r}")
    if len(present) < 2:
        one = present[0] if present else "none"
        raise SertuneError(f"{manifest.name}: only one label ({one}); a category needs at least two")
    return tuple(present)


def _dimension(manifest: Manifest, config: RunConfig) -> tuple[DimensionTarget, np.ndarray]:
    there = _there(manifest)
    wanted = _wanted(config) or there
    for name in wanted:
        if name not in there:
            raise SertuneError(f"target dimension: {manifest.name} has no {name} (it has {', '.join(there) or 'none'})")
    if not wanted:
        hint = "; it has labels: use --target category" if "emotion" in manifest.schemes else ""
        raise SertuneError(f"target dimension: {manifest.name} has no arousal, valence or dominance{hint}")
    _enough_for_ccc(config)
    _varied(manifest, wanted)
    known = manifest.utterances[wanted].notna().any(axis=1).to_numpy()
    return DimensionTarget(tuple(wanted), _scales(manifest, wanted)), known


def _rater(manifest: Manifest, config: RunConfig) -> tuple[Single, np.ndarray]:
    options = config.target.rater
    categorical = options.of == "category"
    names = ["emotion"] if categorical else _rated_dimensions(manifest, config, "rater")
    raters = rater_names(_ratings(manifest, names, "rater", config), names)
    if all(name.startswith(ANONYMOUS) for name in raters):
        raise SertuneError(
            f"target rater: {manifest.name} does not say who gave which rating, so that annotators can't be told "
            "apart; use --target distribution"
        )
    if len(raters) < 2:
        raise SertuneError(
            f"target rater: {manifest.name} has one annotator only ({raters[0]}); use --target dimension or category"
        )
    _enough_ratings(manifest, names, options.min_ratings)
    rank = options.rank or (EMBEDDING if options.form == "embedding" else 0)
    form = RaterForm(options.form, tuple(options.branch), rank, options.min_ratings)
    rows = _rated(manifest, names, options.min_raters)
    if categorical:
        labels = _labels(manifest, _values(manifest, "emotion"), config, "rating in {} is")
        return RaterLabelTarget(labels, raters, config.target.label_smoothing, form), rows
    _enough_for_ccc(config)
    _varied(manifest, names)
    _varied_ratings(manifest, names)
    plane = _plane(config) if set(PLANE) <= set(names) else None
    density = "density" in config.target.parts
    if density and plane is None:
        raise SertuneError(f"target density: needs ratings of arousal and valence, and {manifest.name} has {names[0]}")
    options_plane = config.target.plane
    kernel = Kernel(
        options_plane.kernel,
        options_plane.bandwidth,
        options_plane.fine,
        options_plane.temperature,
        options_plane.gradient,
    )
    return RaterTarget(tuple(names), _scales(manifest, names), raters, plane, density, kernel, form), rows


def _distribution(manifest: Manifest, config: RunConfig) -> tuple[Single, np.ndarray]:
    options, ratings = config.target.distribution, manifest.ratings
    given = set(ratings["attribute"].unique()) if ratings is not None else set()
    kind = options.of
    if kind == "auto":
        kind = "votes" if "emotion" in given else "plane" if set(PLANE) <= given else "gaussian"
    if kind == "votes":
        _ratings(manifest, ["emotion"], "distribution", config)
        labels = _labels(manifest, _values(manifest, "emotion"), config, "rating in {} is")
        return VotesTarget(labels, options.loss), _rated(manifest, ["emotion"], config.target.rater.min_raters)
    if kind == "plane":
        missing = [name for name in PLANE if name not in given]
        if missing:
            _ratings(manifest, missing, "distribution", config)
        rows = np.logical_and.reduce([_rated(manifest, [name], config.target.rater.min_raters) for name in PLANE])
        return PlaneTarget(_scales(manifest, PLANE), _plane(config), options.loss), rows
    if options.loss != "cross-entropy":
        raise SertuneError(
            f"target.distribution.loss = {options.loss}: is for votes and the plane; {kind} is fitted by likelihood"
        )
    names = _rated_dimensions(manifest, config, "distribution")
    _varied_ratings(manifest, names)
    plane = _plane(config) if set(PLANE) <= set(names) else None
    target = SpreadTarget(tuple(names), _scales(manifest, names), kind, plane)
    return target, _rated(manifest, names, config.target.rater.min_raters)


def _wanted(config: RunConfig) -> list[str]:
    named = ["arousal" if name == "activation" else name for name in config.target.dimensions]
    return list(dict.fromkeys(named))


def _there(manifest: Manifest) -> list[str]:
    return [name for name in DIMENSIONS if name in manifest.schemes]


def _scales(manifest: Manifest, names: Sequence[str]) -> Scales:
    return tuple(manifest.schemes[name].scale for name in names)


def _plane(config: RunConfig) -> Plane:
    options = config.target.plane
    return Plane((options.grid[0], options.grid[1]), Truth(subsets=options.truth == "subsets"), config.seed)


def _ratings(manifest: Manifest, names: Sequence[str], task: str, config: RunConfig) -> pd.DataFrame:
    """The single ratings of all named attributes; an error where the data has none of one."""
    ratings = manifest.ratings
    given = set(ratings["attribute"].unique()) if ratings is not None else set()
    for name in names:
        if name not in given:
            others = [other for other in ("emotion", *DIMENSIONS) if other in given]
            has = f"it has ratings of {', '.join(others)}" if others else "only a consensus"
            hint = "--target category or dimension"
            if others and task == "rater":
                hint = "--target.rater.of " + ("category" if others == ["emotion"] else "dimension")
            raise SertuneError(
                f"target {task}: {manifest.name} has no ratings of {name} by single raters, {has}; use {hint}"
            )
    assert ratings is not None
    return ratings


def _rated_dimensions(manifest: Manifest, config: RunConfig, task: str) -> list[str]:
    """The dimensions that are asked for, or else all that have single ratings."""
    given = set(manifest.ratings["attribute"].unique()) if manifest.ratings is not None else set()
    names = _wanted(config) or [name for name in DIMENSIONS if name in given] or ["arousal"]
    for name in names:
        if name not in DIMENSIONS:
            raise unknown("dimension in target.dimensions:", name, DIMENSIONS)
    _ratings(manifest, names, task, config)
    return names


def _rated(manifest: Manifest, names: Sequence[str], least: int) -> np.ndarray:
    """(N,) whether each utterance has enough annotators for any of the attributes.

    Raises:
        SertuneError: none has.
    """
    assert manifest.ratings is not None
    part = manifest.ratings[manifest.ratings["attribute"].isin(names)]
    raters = part.drop_duplicates(["utterance", "rater"])["utterance"].value_counts()
    count = manifest.utterances["id"].map(raters).fillna(0).to_numpy()
    rows = np.asarray(count >= least)
    if not rows.any():
        raise SertuneError(
            f"target.rater.min_raters = {least}: no utterance of {manifest.name} has so many annotators (at most "
            f"{int(count.max())})"
        )
    return rows


def _values(manifest: Manifest, attribute: str) -> "pd.Series[Any]":
    assert manifest.ratings is not None
    return manifest.ratings["value"][manifest.ratings["attribute"] == attribute]


def _enough_for_ccc(config: RunConfig) -> None:
    if config.train.batch_clips < 2:
        raise SertuneError("train.batch_clips = 1: the CCC needs at least two clips in a batch")


def _varied(manifest: Manifest, names: Sequence[str]) -> None:
    for name in names:
        if manifest.utterances[name].nunique() < 2:
            raise SertuneError(f"{manifest.name}: {name} is the same for every clip, so that nothing can be learnt")


def _varied_ratings(manifest: Manifest, names: Sequence[str]) -> None:
    for name in names:
        if _values(manifest, name).nunique() < 2:
            raise SertuneError(f"{manifest.name}: all ratings of {name} are the same, so that nothing can be learnt")


def _enough_ratings(manifest: Manifest, names: Sequence[str], least: int) -> None:
    assert manifest.ratings is not None
    part = manifest.ratings[manifest.ratings["attribute"].isin(names)]
    most = int(part.drop_duplicates(["utterance", "rater"])["rater"].value_counts().max())
    if most < least:
        raise SertuneError(
            f"target.rater.min_ratings = {least}: no annotator of {manifest.name} has so many ratings (at most {most})"
        )


def check_left(manifest: Manifest, target: Target) -> None:
    """Raises `SertuneError` where bad files were all that a label or a dimension had."""
    frame = manifest.utterances
    lead = lead_of(target)
    if lead.categorical:
        there = set(frame["emotion"].dropna())
        if not isinstance(lead, CategoryTarget) and manifest.ratings is not None:
            there |= set(_values(manifest, "emotion"))
        lost = [label for label in labels_of(lead) if label not in there]
        hint = "name the others with --target.labels"
    else:
        lost = [name for name in dimensions_of(lead) if frame[name].nunique() < 2]
        hint = "name the others with --target.dimensions"
    if lost:
        raise SertuneError(f"{manifest.name}: without its bad files it has nothing to learn {lost[0]} from; {hint}")


def consensus_codes(manifest: Manifest, target: Target) -> np.ndarray:
    """(N,) ids of the consensus label (0 where there is none), or (N, D) values in [-1, 1]: what a split looks at."""
    lead = lead_of(target)
    if isinstance(lead, CategoryTarget):
        return np.asarray(np.nan_to_num(lead.encode(manifest.utterances)).argmax(1))
    if isinstance(lead, (VotesTarget, RaterLabelTarget)):
        shares = VotesTarget(lead.labels).encode(manifest.utterances, manifest.ratings)
        return np.asarray(np.nan_to_num(shares).argmax(1))
    return DimensionTarget(lead.dimensions, lead.scales).encode(manifest.utterances).astype(np.float64)
