"""A simulated panel: annotators of known bias, gain, taste and noise rate clips whose emotion is known.

For tests, for a synthetic corpus with many annotators, and for real audio whose corpus has no single ratings. The
ratings are computed, not judged by people: they show whether a method recovers what was put in, not how people hear.

Annotator a rates dimension d of clip i, both on axes from -1 to 1, as

    y_iad = clip(b_ad + g_ad x_id + t_ad q_i + s_id u_iad + n_a e_iad, -1, 1)

with x the clip's place (`ClipTruth.truth`), q a property of it that can be heard (`ClipTruth.quality`), s its ambiguity
(`ClipTruth.ambiguity`); bias b, gain g, taste t and noise n are the annotator's (`Panel`); u and e are independent
standard normal. But for the clip to the ends of the scale, and if gains, biases and tastes are independent, the ratings
of a clip have the variance Var(b) + Var(g) x^2 + Var(t) q^2 + s^2 + E[n^2]: how far annotators differ depends on the
clip, by what can be heard of it. The vote for an emotion is the one whose place (`POSITIONS`) is nearest to y.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from sertune.data import labels
from sertune.data.labels import DIMENSIONS
from sertune.data.manifest import Manifest, Scheme
from sertune.data.synthetic import (
    EMOTIONS,
    FELT_COLUMNS,
    RATINGS_FILE,
    SCALE,
    UTTERANCES_FILE,
    Affect,
    majority,
    write_corpus,
)
from sertune.errors import SertuneError, unknown
from sertune.files import new_folder

PANEL_FILE: Final = "panel.csv"

Floats = NDArray[np.float64]

_DOMINANCE: Final = {
    "contempt": 0.45,
    "disgust": 0.11,
    "calm": 0.06,
    "surprise": -0.13,
    "excitement": 0.38,
    "frustration": 0.35,
    "other": 0.0,
}

POSITIONS: Final[dict[str, Affect]] = EMOTIONS | {
    name: Affect(*labels.POSITIONS[name], dominance) for name, dominance in _DOMINANCE.items()
}
"""Place of every emotion of `sertune.data.labels`: those of the synthetic corpus, and else those of `labels.POSITIONS`
with the mean ratings of dominance from the same source (Russell & Mehrabian 1977). That of contempt is our choice;
"other" is the middle for want of a place, and nobody votes for it."""

AMBIGUITY: Final[dict[str, Affect]] = {
    "anger": Affect(0.05, 0.15, 0.05),
    "boredom": Affect(0.15, 0.45, 0.40),
    "contempt": Affect(0.35, 0.25, 0.15),
    "disgust": Affect(0.45, 0.10, 0.35),
    "fear": Affect(0.30, 0.20, 0.10),
    "happiness": Affect(0.10, 0.05, 0.35),
    "neutral": Affect(0.25, 0.45, 0.15),
    "calm": Affect(0.10, 0.35, 0.30),
    "sadness": Affect(0.45, 0.15, 0.40),
    "surprise": Affect(0.05, 0.55, 0.40),
    "excitement": Affect(0.05, 0.20, 0.25),
    "frustration": Affect(0.40, 0.10, 0.35),
    "other": Affect(0.40, 0.40, 0.40),
}
"""Standard deviation s of what one clip of an emotion is heard as, by dimension. Our choice, so that clips differ in
spread by what can be heard: neutral, boredom and surprise are unclear in valence, sadness in arousal (is it quiet or
desperate?), anger and happiness are clear where they are strong."""

_JITTER = 0.1
"""How far clips of one emotion lie apart where only the emotion is known, standard deviation."""
_LEAST = 3
"""Clips that every annotator rates, where there are enough."""

# Each thing drawn has its own stream of random numbers; those of the synthetic corpus have tags below 16.
_ANNOTATOR, _TRUTH, _COVERAGE, _RATING = range(16, 20)


# ----------------------------------------------------------------------------------------------------
# Who rates


@dataclass(frozen=True, eq=False)
class Panel:
    """A annotators; the D = 3 columns are arousal, valence and dominance.

    Attributes:
        names: e.g. ``"p01"``.
        bias: (A, D) shift, in units of the axes from -1 to 1.
        gain: (A, D) factor on the distance from the middle; below 1: avoids the ends of the scale.
        taste: (A, D) weight of the property of a clip on which annotators differ.
        noise: (A,) standard deviation of one rating.
        activity: (A,) share of all ratings, relative to the others'.
    """

    names: tuple[str, ...]
    bias: Floats
    gain: Floats
    taste: Floats
    noise: Floats
    activity: Floats

    def __len__(self) -> int:
        """Number of annotators."""
        return len(self.names)


def make_panel(annotators: int = 60, seed: int = 0, prefix: str = "p") -> Panel:
    """Annotators from a seed: bias N(0, .2), gain U(.6, 1.3), taste N(0, .15), noise U(.1, .3), activity log-normal.

    An annotator stays the same whatever the number of the others and the prefix: other people have another seed.

    Args:
        annotators: how many.
        seed: of all that is drawn.
        prefix: of their names.

    Raises:
        SertuneError: no annotators, or a seed below 0.
    """
    if annotators < 1:
        raise SertuneError(f"simulated panel: annotators is {annotators}, expected at least 1")
    _check_seed(seed)
    streams = [np.random.default_rng([seed, _ANNOTATOR, i]) for i in range(annotators)]
    size = len(DIMENSIONS)
    return Panel(
        names=tuple(f"{prefix}{i + 1:02d}" for i in range(annotators)),
        bias=np.stack([rng.normal(0, 0.2, size) for rng in streams]),
        gain=np.stack([rng.uniform(0.6, 1.3, size) for rng in streams]),
        taste=np.stack([rng.normal(0, 0.15, size) for rng in streams]),
        noise=np.array([rng.uniform(0.1, 0.3) for rng in streams]),
        activity=np.array([rng.lognormal(0, 1) for rng in streams]),
    )


# ----------------------------------------------------------------------------------------------------
# What is rated


class ClipTruth(NamedTuple):
    """What is rated of N clips, in the columns of `Panel`; NaN for clips of unknown emotion."""

    truth: Floats
    """(N, D) places on axes from -1 to 1: x."""
    quality: Floats
    """(N,) property that can be heard and on which annotators differ, standardised: q."""
    ambiguity: Floats
    """(N, D) standard deviation of what is heard, at least 0: s."""


def clip_truth(manifest: Manifest, seed: int = 0) -> ClipTruth:
    """What a panel hears in the clips of a corpus.

    In the synthetic corpus, the affect that was spoken (`sertune.data.synthetic.FELT_COLUMNS`), its dominance as the
    quality, and the ambiguity of the intended emotion. In any other, the place of the clip's emotion with N(0, .1) on
    each axis, the speaker's gender as the quality (female is high; 0 for all where it is not known), and the ambiguity
    of the emotion.

    Args:
        manifest: N clips with an emotion.
        seed: of what is drawn.

    Raises:
        SertuneError: no clip has an emotion, an emotion has no place in `POSITIONS`, or a seed below 0.
    """
    _check_seed(seed)
    frame = manifest.utterances
    spoken = {*FELT_COLUMNS, "intended"} <= set(frame.columns)
    named = frame["intended" if spoken else "emotion"]
    if named.isna().all():
        raise SertuneError(f"{manifest.name}: no clip has an emotion, from which simulated ratings are made")
    nowhere = np.full(len(DIMENSIONS), np.nan)
    for name in named.dropna().unique():
        if name not in POSITIONS:
            raise unknown(f"emotion of {manifest.name} for a simulated panel", name, POSITIONS)
    ambiguity = np.stack([np.array(AMBIGUITY.get(name, nowhere)) for name in named])
    if spoken:
        truth = frame[list(FELT_COLUMNS)].to_numpy(dtype=np.float64)
        return ClipTruth(truth, _standardised(truth[:, DIMENSIONS.index("dominance")]), ambiguity)
    truth = np.stack([np.array(POSITIONS.get(name, nowhere)) for name in named])
    truth += np.random.default_rng([seed, _TRUTH]).normal(0, _JITTER, truth.shape)
    gender = frame["gender"].map({"female": 1.0, "male": -1.0}).to_numpy(dtype=np.float64)
    return ClipTruth(np.clip(truth, -1, 1), _standardised(gender), ambiguity)


def _standardised(values: NDArray[Any]) -> Floats:
    """Mean 0 and standard deviation 1 over the values that are there; 0 for missing ones, and all if they are one."""
    there = ~np.isnan(values)
    known = values[there]
    result = np.zeros(len(values))
    if len(known) and (deviation := float(known.std())) > 0:
        result[there] = (known - known.mean()) / deviation
    return result


# ----------------------------------------------------------------------------------------------------
# Ratings


def rate(
    manifest: Manifest,
    panel: Panel,
    *,
    truth: ArrayLike,
    quality: ArrayLike,
    ambiguity: ArrayLike,
    per_clip: tuple[int, int] = (5, 10),
    steps: int | None = None,
    scale: tuple[float, float] = SCALE,
    seed: int = 0,
) -> Manifest:
    """The corpus as ``panel`` rates it, by the equation at the top of this module.

    Each clip has from ``per_clip[0]`` to ``per_clip[1]`` annotators, drawn one after the other by their activity; every
    annotator then rates at least 3 clips, if there are enough, in the place of the busiest annotators of those clips.

    Args:
        manifest: N clips with an emotion.
        panel: who rates.
        truth: (N, 2) arousal and valence, or (N, 3) with dominance; -1 to 1. A row with NaN is not rated.
        quality: (N,) property of the clip on which annotators differ.
        ambiguity: (N,) or as ``truth``, at least 0.
        per_clip: least and greatest number of annotators of a clip, both included.
        steps: points of the scale, evenly spaced with its ends; None for a slider, which has no steps.
        scale: its low and its high end.
        seed: of who rates what, and of u and e.

    Returns:
        The manifest with these ratings in place of its own: the emotion, which is never "other", and the dimensions of
        ``truth``, whose consensus is the mean of the ratings. The consensus of the emotion stays as it was.

    Raises:
        SertuneError: the manifest has no emotion; ``per_clip``, ``steps``, ``scale`` or ``seed`` out of range.
        ValueError: shapes that don't fit together, or a truth or an ambiguity out of range.
    """
    _check_ratings(panel, per_clip, steps, scale, seed)
    choices = _choices(manifest)
    x, q, s = _arrays(len(manifest), truth, quality, ambiguity)
    kept = np.flatnonzero(~np.isnan(x).any(axis=1))
    if not len(kept):
        raise SertuneError(f"{manifest.name}: no clip has an emotion, from which simulated ratings are made")
    rows, rater = np.nonzero(_coverage(len(kept), panel.activity, per_clip, np.random.default_rng([seed, _COVERAGE])))
    clip = kept[rows]
    d = x.shape[1]
    u, e = np.random.default_rng([seed, _RATING]).standard_normal((2, len(clip), d))
    heard = panel.bias[rater, :d] + panel.gain[rater, :d] * x[clip] + panel.taste[rater, :d] * q[clip, None]
    heard = np.clip(heard + s[clip] * u + panel.noise[rater, None] * e, -1, 1)
    share = (heard + 1) / 2
    if steps is not None:
        share = np.round(share * (steps - 1)) / (steps - 1)
    marks = dict(zip(DIMENSIONS, (scale[0] + share * (scale[1] - scale[0])).T, strict=False))
    frame = manifest.utterances.copy()
    for name, values in marks.items():
        frame[name] = np.nan
        frame.loc[kept, name] = np.bincount(rows, weights=values) / np.bincount(rows)
    places = np.array([POSITIONS[name] for name in choices])[:, :d]
    nearest = ((heard[:, None] - places) ** 2).sum(axis=2).argmin(axis=1)
    columns = {"emotion": np.array(choices, dtype=object)[nearest]}
    columns |= {name: values.astype(object) for name, values in marks.items()}
    schemes = manifest.schemes | {name: Scheme(low=scale[0], high=scale[1]) for name in marks}
    return Manifest.of(manifest.name, frame, schemes, _table(frame["id"], panel.names, clip, rater, columns))


def simulated(
    manifest: Manifest,
    annotators: int = 60,
    seed: int = 0,
    prefix: str = "p",
    *,
    per_clip: tuple[int, int] = (5, 10),
    steps: int | None = None,
) -> tuple[Manifest, Panel]:
    """A corpus as a new panel rates it: `make_panel`, `clip_truth` and `rate` with one seed, on the scale 1 to 5.

    Raises:
        SertuneError: as these three.
    """
    panel = make_panel(annotators, seed, prefix)
    return _rated(manifest, panel, per_clip, steps, seed), panel


def _rated(manifest: Manifest, panel: Panel, per_clip: tuple[int, int], steps: int | None, seed: int) -> Manifest:
    clips = clip_truth(manifest, seed)
    return rate(
        manifest,
        panel,
        truth=clips.truth,
        quality=clips.quality,
        ambiguity=clips.ambiguity,
        per_clip=per_clip,
        steps=steps,
        seed=seed,
    )


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise SertuneError(f"simulated panel: seed is {seed}, expected at least 0")


def _check_ratings(
    panel: Panel, per_clip: tuple[int, int], steps: int | None, scale: tuple[float, float], seed: int
) -> None:
    _check_seed(seed)
    least, most = per_clip
    if not 1 <= least <= most:
        raise SertuneError(f"simulated panel: per_clip is {least} to {most}, expected 1 or more, least first")
    if most > len(panel):
        raise SertuneError(
            f"simulated panel: per_clip is {least} to {most}, more than the {len(panel)} annotators; "
            "lower it or add annotators"
        )
    if steps is not None and steps < 2:
        raise SertuneError(f"simulated panel: steps is {steps}, expected at least 2, or none for a slider")
    if not scale[0] < scale[1]:
        raise SertuneError(f"simulated panel: the scale is {scale[0]:g} to {scale[1]:g}, expected low before high")


def _choices(manifest: Manifest) -> list[str]:
    """The labels that can be voted for."""
    known = manifest.schemes["emotion"].labels if "emotion" in manifest.schemes else ()
    choices = [name for name in known if name != "other"]
    if not choices:
        raise SertuneError(f"{manifest.name}: has no emotions, from which simulated ratings are made")
    for name in choices:
        if name not in POSITIONS:
            raise unknown(f"emotion of {manifest.name} for a simulated panel", name, POSITIONS)
    return choices


def _arrays(clips: int, truth: ArrayLike, quality: ArrayLike, ambiguity: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """x (N, D), q (N,), s (N, D)."""
    x, q, s = (np.asarray(values, dtype=np.float64) for values in (truth, quality, ambiguity))
    if x.ndim != 2 or len(x) != clips or x.shape[1] not in (2, 3):
        raise ValueError(f"truth has shape {x.shape}, expected ({clips}, 2) or ({clips}, 3)")
    if q.shape != (clips,):
        raise ValueError(f"quality has shape {q.shape}, expected ({clips},)")
    if s.shape not in ((clips,), x.shape):
        raise ValueError(f"ambiguity has shape {s.shape}, expected ({clips},) or {x.shape}")
    s = np.broadcast_to(s.reshape(clips, -1), x.shape)
    kept = ~np.isnan(x).any(axis=1)
    if (np.abs(x[kept]) > 1).any() or not (s[kept] >= 0).all() or not np.isfinite(q[kept]).all():
        raise ValueError("truth must lie in -1 to 1, ambiguity must be at least 0, and quality a finite number")
    return x, q, s


def _coverage(clips: int, activity: Floats, per_clip: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Who rates what; (clips, annotators)."""
    size = rng.integers(per_clip[0], per_clip[1] + 1, clips)
    # The order of exponential waiting times is that of draws without replacement (Efraimidis & Spirakis 2006).
    waits = rng.exponential(size=(clips, len(activity))) / activity
    chosen = waits.argsort(axis=1).argsort(axis=1) < size[:, None]
    counts = chosen.sum(axis=0)
    least = min(_LEAST, clips, int(size.sum()) // len(activity))
    for rater in np.flatnonzero(counts < least):
        for clip in rng.permutation(clips):
            if counts[rater] >= least:
                break
            busiest = max(np.flatnonzero(chosen[clip]), key=lambda other: int(counts[other]))
            if not chosen[clip, rater] and counts[busiest] > least:
                chosen[clip, [rater, busiest]] = True, False
                counts[rater] += 1
                counts[busiest] -= 1
    return chosen


def _table(
    ids: "pd.Series[Any]",
    names: Sequence[str],
    clip: NDArray[np.int64],
    rater: NDArray[np.int64],
    columns: dict[str, NDArray[np.object_]],
) -> pd.DataFrame:
    """The ratings, clip by clip and annotator by annotator, one row for each attribute."""
    repeat = len(columns)
    return pd.DataFrame(
        {
            "utterance": np.repeat(ids.to_numpy(dtype=object)[clip], repeat),
            "rater": np.repeat(np.array(names, dtype=object)[rater], repeat),
            "attribute": np.tile(np.array(list(columns), dtype=object), len(clip)),
            "value": np.stack(list(columns.values()), axis=1).reshape(-1),
        }
    )


# ----------------------------------------------------------------------------------------------------
# Files


def write_rated_corpus(
    root: str | Path,
    *,
    annotators: int = 60,
    prefix: str = "p",
    seed: int = 0,
    per_clip: tuple[int, int] = (5, 10),
    steps: int | None = None,
    **corpus: Any,
) -> tuple[Path, Panel]:
    """The synthetic corpus (`sertune.data.synthetic.write_corpus`) as a simulated panel rates it.

    The same clips as without a panel; ``ratings.csv`` and the consensus in ``utterances.csv`` are the panel's: means of
    the dimensions, rounded to 4 places as the ratings are, and the majority's emotion (the intended one wins ties).
    The panel itself lies beside as ``panel.csv`` (`read_panel`). ``root`` appears only when it is complete.

    Args:
        root: folder to make; it must be missing or empty.
        annotators: how many, as prefix and seed for `make_panel`.
        prefix: of their names.
        seed: of the clips, the panel and the ratings.
        per_clip: as in `rate`.
        steps: as in `rate`.
        **corpus: further arguments of `write_corpus` (speakers, sentences, per_emotion, emotions, progress).

    Returns:
        ``root`` and the panel.

    Raises:
        SertuneError: for a folder that is not empty or cannot be written, or an argument out of range.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise SertuneError(f"{root}: exists and is not an empty folder; name another one for the synthetic corpus")
    panel = make_panel(annotators, seed, prefix)
    _check_ratings(panel, per_clip, steps, SCALE, seed)
    with new_folder(root.resolve()) as work:
        write_corpus(work, seed=seed, **corpus)
        _rate_corpus(work, panel, per_clip, steps, seed)
        _panel_table(panel).to_csv(work / PANEL_FILE, index=False, lineterminator="\n")
    return root, panel


def _rate_corpus(folder: Path, panel: Panel, per_clip: tuple[int, int], steps: int | None, seed: int) -> None:
    """Puts the panel's ratings and their consensus in the place of those in ``folder``."""
    table = pd.read_csv(folder / UTTERANCES_FILE, dtype=str)  # as text, so that the other columns stay as they are
    labels = tuple(name for name in EMOTIONS if name in set(table["intended"]))
    clips = table.astype(dict.fromkeys(FELT_COLUMNS, np.float64))
    schemes = {"emotion": Scheme(labels=labels)}
    rated = _rated(Manifest.of("synthetic", clips, schemes), panel, per_clip, steps, seed)
    assert rated.ratings is not None
    ratings = rated.ratings
    voted = ratings[ratings["attribute"] == "emotion"].groupby("utterance")["value"].agg(list)
    table["emotion"] = [
        majority(voted[name], intended, labels) for name, intended in zip(table["id"], table["intended"], strict=True)
    ]
    for dimension in DIMENSIONS:
        table[dimension] = rated.utterances[dimension].round(4)
    values = [value if isinstance(value, str) else round(float(value), 4) for value in ratings["value"]]
    ratings.assign(value=values).to_csv(folder / RATINGS_FILE, index=False, lineterminator="\n")
    table.to_csv(folder / UTTERANCES_FILE, index=False, lineterminator="\n")


_PARTS: Final = ("bias", "gain", "taste")


def _panel_table(panel: Panel) -> pd.DataFrame:
    columns: dict[str, Any] = {"rater": panel.names}
    for part in _PARTS:
        columns |= {f"{part}_{d}": getattr(panel, part)[:, i] for i, d in enumerate(DIMENSIONS)}
    return pd.DataFrame(columns | {"noise": panel.noise, "activity": panel.activity})


def read_panel(root: str | Path) -> Panel:
    """The panel of a corpus that `write_rated_corpus` wrote, to the last bit.

    Args:
        root: the corpus's folder.

    Raises:
        SertuneError: its ``panel.csv`` is not there, can't be read, or lacks a column.
    """
    path = Path(root) / PANEL_FILE
    try:
        table = pd.read_csv(path, dtype=str)  # what is text until Python reads it loses no bit
        bias, gain, taste = (table[[f"{part}_{d}" for d in DIMENSIONS]].to_numpy(dtype=np.float64) for part in _PARTS)
        noise, activity = (table[name].to_numpy(dtype=np.float64) for name in ("noise", "activity"))
        return Panel(tuple(table["rater"]), bias, gain, taste, noise, activity)
    except FileNotFoundError:
        raise SertuneError(f"{root}: has no {PANEL_FILE}; it is no synthetic corpus with a simulated panel") from None
    except KeyError as error:
        raise SertuneError(f"{path}: lacks a column of a simulated panel ({' '.join(str(error).split())})") from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise SertuneError(f"{path}: can't be read as a table ({' '.join(str(error).split())})") from error
