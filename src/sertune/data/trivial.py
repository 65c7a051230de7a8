"""What anyone could tell without listening: length, level, silence, bandwidth; and how far that alone predicts labels.

A corpus whose classes were recorded, cut or coded differently can be told apart without any speech. Some of it is
emotion (anger is loud), some an accident (one class from another session). Either way a result should be read beside
what these few numbers reach from the same split.
"""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from sertune.data.audio import resample
from sertune.data.fingerprint import HOP, RATE, WINDOW, Prints, Spectrum, fingerprint, spectrum
from sertune.data.protocols import Fold
from sertune.errors import SertuneError
from sertune.files import replacing

FEATURES: Final = (
    "duration",
    "level",
    "peak",
    "share of silence",
    "leading silence",
    "trailing silence",
    "noise floor",
    "clipping",
    "bandwidth",
    "DC offset",
)
"""Names, in the order of `Heard.features`."""

_SILENT_DB: Final = 30.0
"""A frame this far below the loud ones (their 95th percentile) is silent."""
_ROUNDING: Final = 4 * (2.0**-30 / 12) * float(np.sum(np.hanning(WINDOW + 1)[:-1] ** 2))
"""Power in one bin above which there is more than four times the noise of rounding to 16 bits."""
_HIGHEST: Final = 100.0
"""Peak beyond which a clip is taken as if it were that loud (full scale is 1)."""
_SHRINK: Final = 0.1
_MOST_FOLDS: Final = 10
_MOST_CLIPS: Final = 20_000
_DRAWS: Final = 200
_CLEAR: Final = {"uar": 0.05, "ccc": 0.1}
"""How far above chance is worth a warning, besides being above what shuffled labels give."""
_MOST_NAMED: Final = 3
_MOST_FILES: Final = 20


@dataclass(frozen=True, eq=False)
class Heard:
    """What is kept of a clip for the audit.

    Attributes:
        features: (10,) float32, see `FEATURES`: duration in seconds; level (RMS) and peak in dB re full scale; share of
            silent frames; silence before and after in seconds; noise floor (5th percentile of the frames' levels) in
            dB; log10 of the share of samples within 1 % of the peak; highest frequency above the noise of 16 bits,
            in kHz; mean.
        prints: fingerprint (`sertune.data.fingerprint`).
    """

    features: NDArray[np.float32]
    prints: Prints


def listen(audio: NDArray[np.float32], rate: int) -> Heard:
    """Trivial features and fingerprint of a clip.

    Args:
        audio: (samples,), not empty.
        rate: in Hz; both are taken at 16 kHz.
    """
    audio = resample(audio, rate, RATE)
    peak = float(max(audio.max(), -audio.min()))
    if peak > _HIGHEST:  # a broken file; the squares of its samples must still be numbers
        audio = audio * np.float32(_HIGHEST / peak)
    clip = spectrum(audio)
    return Heard(_features(audio, clip), fingerprint(clip))


def _features(audio: NDArray[np.float32], clip: Spectrum) -> NDArray[np.float32]:
    peak = float(max(audio.max(), -audio.min()))
    level = _decibel(clip.energy)
    floor, loud = np.quantile(level, (0.05, 0.95)).tolist()
    audible = np.flatnonzero(level > loud - _SILENT_DB)
    above = np.flatnonzero(clip.mean > _ROUNDING)
    values = [
        len(audio) / RATE,
        float(_decibel(np.dot(audio, audio) / len(audio))),
        float(_decibel(peak**2)),
        1 - len(audible) / len(level),
        audible[0] * HOP / RATE,
        (len(level) - 1 - audible[-1]) * HOP / RATE,
        floor,
        float(np.log10(np.mean(np.abs(audio) >= 0.99 * peak))),
        float(above[-1] if len(above) else 0) * RATE / WINDOW / 1000,
        float(audio.mean()),
    ]
    return np.array(values, dtype=np.float32)


def _decibel(power: Any) -> NDArray[np.float64]:
    return np.asarray(10 * np.log10(np.maximum(power, 1e-12)), dtype=np.float64)


# Kept on disk


class HeardTable:
    """What was heard of clips in earlier runs, by the digest of their samples.

    The table is the union of files, each written once, so several processes may add to it.

    Args:
        folder: where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, Heard] = {}
        self._new: dict[str, Heard] = {}
        self._read: list[Path] = []
        for file in sorted(folder.glob("*.npz")):
            try:
                with file.open("rb") as stream, np.load(stream) as stored:
                    self._known |= _unpack(stored)
            except FileNotFoundError:
                continue  # put together with others meanwhile
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                pass  # what is not known is heard again
            self._read.append(file)

    def find(self, digest: str) -> Heard | None:
        """What was heard of a clip, if it was."""
        return self._known.get(digest)

    def note(self, digest: str, heard: Heard) -> None:
        """Remembers a clip."""
        if digest not in self._known:
            self._new[digest] = self._known[digest] = heard

    def save(self) -> None:
        """Writes what is new, and puts the files together where there are many."""
        if not self._new:
            return
        many = len(self._read) > _MOST_FILES
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / f"{uuid4().hex}.npz") as part, part.open("wb") as stream:
                np.savez(stream, **_pack(self._known if many else self._new))
        except (OSError, SertuneError):
            return  # nothing but time is lost
        self._new = {}
        if many:
            for file in self._read:
                with suppress(OSError):
                    file.unlink(missing_ok=True)


def _pack(heard: dict[str, Heard]) -> dict[str, Any]:
    every = list(heard.values())
    return {
        "digests": np.array(list(heard)),
        "features": np.stack([h.features for h in every]),
        "sizes": np.array([len(h.prints) for h in every], dtype=np.int64),
        "prints": np.concatenate([h.prints for h in every]),
    }


def _unpack(stored: Any) -> dict[str, Heard]:
    features = stored["features"]
    if features.shape[1:] != (len(FEATURES),):
        return {}
    ends = np.cumsum(stored["sizes"])
    pieces = np.split(stored["prints"], ends[:-1])
    digests = stored["digests"].tolist()
    return {digest: Heard(*of) for digest, *of in zip(digests, features, pieces, strict=True)}


# What it predicts


def trivial_baseline(
    features: NDArray[Any],
    targets: NDArray[Any],
    folds: Sequence[Fold],
    speakers: Sequence[str | None],
    names: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """How far trivial features alone predict labels or values, trained and tested on the parts of a protocol.

    Labels: linear discriminant analysis with equal priors, the pooled covariance of standardised features shrunk by
    adding 0.1 to its diagonal. Values: ridge regression with the same 0.1. Predictions are pooled over the folds (ten
    of them, evenly spread, where there are more; 20,000 clips each of train and test at most, drawn at random).

    What chance gives is found with 200 random orders of the true labels: 95 % of these score below ``threshold``. With
    labels shuffled within each speaker 95 % score below ``threshold_speakers``, which is higher where who speaks tells
    something of the label. "Above chance" is a score above the first and at least .05 (UAR) or .1 (CCC) above
    guessing; a score that is not above the second may come from knowing speakers apart. The features named are chosen
    on the dev parts: the best one, then the one that adds most, up to three, until they reach nine tenths of what all
    do.

    Args:
        features: (N, 10) as of `Heard`; rows of NaN are left out.
        targets: (N,) label ids (int, -1 = missing), or (N, D) values (NaN = missing).
        folds: of the protocol; those without test part are passed over.
        speakers: (N,) of each clip.
        names: of the labels, or of the D dimensions.
        seed: of what is drawn.

    Returns:
        ``metrics``: ``uar``, or ``ccc_arousal`` ..., each with ``value``, ``chance``, ``threshold``,
        ``threshold_speakers`` (None where no speaker has two labels), ``above_chance``, ``beyond_speakers``, ``each``
        (a score per feature), ``named`` (``features``, ``value``) and ``text``, a sentence; ``model``, ``folds`` and
        ``clips``. Scores are None where they are not defined, and there is no text then.
    """
    rng = np.random.default_rng(seed)
    values = np.asarray(features, dtype=np.float64)
    usable = np.isfinite(values).all(axis=1)
    tested = [fold for fold in folds if len(fold.test)]
    chosen = [tested[i] for i in np.unique(np.linspace(0, len(tested) - 1, _MOST_FOLDS).round().astype(int))]
    who = np.unique([f"={s}" if s is not None else "" for s in speakers], return_inverse=True)[1]
    labels = np.asarray(targets)
    categories = np.issubdtype(labels.dtype, np.integer)
    columns = {"uar": labels} if categories else {f"ccc_{name}": labels[:, i] for i, name in enumerate(names)}
    metrics: dict[str, Any] = {}
    clips = 0
    for metric, truth in columns.items():
        known = usable & (truth >= 0 if categories else ~np.isnan(truth.astype(np.float64)))
        fits = [
            fit for fold in chosen if (fit := _Fit.of(values, truth, _drawn(fold, known, len(chosen), rng))) is not None
        ]
        clips = max(clips, sum(len(fit.rows["test"]) for fit in fits))
        found = _scored(fits, truth, who, len(names) if categories else 0, rng)
        metrics[metric] = found | {"text": _sentence(metric, found) if found["value"] is not None else ""}
    return {
        "features": list(FEATURES),
        "model": "linear discriminant analysis" if categories else "ridge regression",
        "folds": len(chosen),
        "clips": clips,
        "metrics": metrics,
    }


Rows = NDArray[np.int64]
Scorer = Callable[[NDArray[Any], NDArray[Any]], float]


def _drawn(fold: Fold, known: NDArray[np.bool_], folds: int, rng: np.random.Generator) -> dict[str, Rows]:
    parts = {"train": fold.train, "dev": fold.dev, "test": fold.test}
    most = {"train": _MOST_CLIPS, "dev": _MOST_CLIPS // folds, "test": _MOST_CLIPS // folds}
    drawn = {part: rows[known[rows]] for part, rows in parts.items()}
    return {
        part: rows if len(rows) <= most[part] else np.sort(rng.choice(rows, most[part], replace=False))
        for part, rows in drawn.items()
    }


@dataclass(frozen=True, eq=False)
class _Fit:
    """What any model on some of the features of one fold needs."""

    rows: dict[str, Rows]
    values: dict[str, NDArray[np.float64]]  # standardised by train, at most 3 deviations off
    labels: NDArray[Any]  # of the rows of ``means``; empty for values
    means: NDArray[np.float64]  # (K, F), or (1, F): covariance with the target
    covariance: NDArray[np.float64]
    scale: tuple[float, float]  # mean and deviation of values

    @classmethod
    def of(cls, values: NDArray[np.float64], truth: NDArray[Any], rows: dict[str, Rows]) -> "_Fit | None":
        train, target = values[rows["train"]], truth[rows["train"]]
        if len(train) < 2 or not len(rows["test"]):
            return None
        centre, spread = train.mean(axis=0), train.std(axis=0)
        spread[spread < 1e-9] = 1.0
        scaled = {part: np.clip((values[of] - centre) / spread, -3, 3) for part, of in rows.items()}
        x = scaled["train"]
        if np.issubdtype(target.dtype, np.integer):
            labels, codes = np.unique(target, return_inverse=True)
            means = np.stack([x[codes == k].mean(axis=0) for k in range(len(labels))])
            left = x - means[codes]
            return cls(rows, scaled, labels, means, left.T @ left / len(x), (0.0, 1.0))
        mean, deviation = float(target.mean()), float(target.std()) or 1.0
        x = x - x.mean(axis=0)
        towards = ((target - mean) / deviation) @ x / len(x)
        return cls(rows, scaled, np.zeros(0), towards[None], x.T @ x / len(x), (mean, deviation))

    def predict(self, part: str, columns: Sequence[int]) -> NDArray[Any]:
        """Labels or values of the rows of a part, from some of the features."""
        use = list(columns)
        covariance = self.covariance[np.ix_(use, use)] + _SHRINK * np.eye(len(use))
        weights = np.linalg.solve(covariance, self.means[:, use].T)
        outputs = self.values[part][:, use] @ weights
        if not len(self.labels):
            mean, deviation = self.scale
            return np.asarray(mean + deviation * outputs[:, 0])
        best = (outputs - 0.5 * np.sum(self.means[:, use].T * weights, axis=0)).argmax(axis=1)
        return np.asarray(self.labels[best])


def _scored(
    fits: Sequence[_Fit], truth: NDArray[Any], who: NDArray[np.int64], classes: int, rng: np.random.Generator
) -> dict[str, Any]:
    """The entry of one metric."""
    score: Scorer = _uar if classes else _ccc
    chance = 1 / classes if classes else 0.0
    empty: dict[str, Any] = {"value": None, "chance": chance, "threshold": None, "threshold_speakers": None}
    empty |= {"above_chance": False, "beyond_speakers": False, "each": {}, "named": None}
    if not fits:
        return empty

    def reaches(part: str, columns: Sequence[int]) -> float:
        predicted = np.concatenate([fit.predict(part, columns) for fit in fits])
        return score(truth[np.concatenate([fit.rows[part] for fit in fits])], predicted)

    every = range(len(FEATURES))
    rows = np.concatenate([fit.rows["test"] for fit in fits])
    value = reaches("test", every)
    if not np.isfinite(value):
        return empty
    predicted = np.concatenate([fit.predict("test", every) for fit in fits])

    def chance_reaches(group: NDArray[np.int64]) -> float:
        return float(np.quantile([score(truth[rows][o], predicted) for o in _shuffles(group, rng)], 0.95))

    threshold = chance_reaches(np.zeros(len(rows), dtype=np.int64))
    within = chance_reaches(who[rows]) if _mixed(truth[rows], who[rows]) else None
    named = _named(lambda columns: reaches("dev", columns), chance)
    return {
        "value": value,
        "chance": chance,
        "threshold": threshold,
        "threshold_speakers": within,
        "above_chance": bool(value > threshold and value - chance >= _CLEAR["uar" if classes else "ccc"]),
        "beyond_speakers": within is None or value > within,
        "each": {name: _number(reaches("test", [i])) for i, name in enumerate(FEATURES)},
        "named": {"features": [FEATURES[i] for i in named], "value": _number(reaches("test", named))},
    }


def _named(reaches: Callable[[Sequence[int]], float], chance: float) -> list[int]:
    """The few features that carry most: the best, then the one that adds most."""
    enough = chance + 0.9 * (np.nan_to_num(reaches(range(len(FEATURES))), nan=chance) - chance)
    taken: list[int] = []
    best = -np.inf
    while len(taken) < _MOST_NAMED and best < enough:
        left = [i for i in range(len(FEATURES)) if i not in taken]
        scores = [float(np.nan_to_num(reaches([*taken, i]), nan=chance)) for i in left]
        if taken and max(scores) <= best:
            break
        best = max(scores)
        taken.append(left[int(np.argmax(scores))])
    return taken


def _mixed(truth: NDArray[Any], who: NDArray[np.int64]) -> bool:
    """Whether any speaker has two labels."""
    return len(np.unique(np.stack([truth.astype(np.float64), who]), axis=1)[0]) > len(np.unique(who))


def _shuffles(group: NDArray[np.int64], rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Random orders of rows, within groups."""
    places = np.argsort(group, kind="stable")
    for _ in range(_DRAWS):
        order = np.empty(len(group), dtype=np.int64)
        order[places] = np.lexsort((rng.random(len(group)), group))
        yield order


def _uar(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Mean recall of the classes that are there; NaN without clips."""
    codes = truth.astype(np.int64)
    counts = np.bincount(codes)
    right = np.bincount(codes[truth == predicted], minlength=len(counts))
    there = counts > 0
    return float(np.mean(right[there] / counts[there])) if there.any() else float("nan")


def _ccc(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Concordance correlation, population moments; NaN without spread."""
    if not len(truth):
        return float("nan")
    x, y = truth.astype(np.float64), predicted.astype(np.float64)
    bottom = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    return float(2 * np.mean((x - x.mean()) * (y - y.mean())) / bottom) if bottom > 0 else float("nan")


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _sentence(metric: str, found: dict[str, Any]) -> str:
    """E.g. "duration and level alone reach UAR .41, all 10 trivial features .45 (chance .14, ...)"."""
    name = "UAR" if metric == "uar" else f"CCC {metric.removeprefix('ccc_')}"
    around = f"chance {_short(found['chance'])}; 95 % of shuffled labels below {_short(found['threshold'])}"
    if not found["above_chance"]:
        return (
            f"duration, level, silence and bandwidth reach {name} {_short(found['value'])} ({around}): not clearly "
            "more than chance"
        )
    *others, last = found["named"]["features"]
    words = f"{', '.join(others)} and {last} alone reach" if others else f"{last} alone reaches"
    text = (
        f"{words} {name} {_short(found['named']['value'])}, all {len(FEATURES)} trivial features "
        f"{_short(found['value'])} ({around})"
    )
    if not found["beyond_speakers"]:
        within = _short(found["threshold_speakers"])
        text += f"; knowing the speakers apart explains it (95 % below {within} with labels shuffled within speakers)"
    return text


def _short(value: float | None) -> str:
    """ ".41"; "-.02"."""
    return "none" if value is None else f"{value:.2f}".replace("0.", ".", 1)
