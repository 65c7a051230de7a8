"""What is wrong with a corpus, file by file, and what its parts share that they should not."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sertune.data import labels
from sertune.data.audio import audio_info, read_audio, samples_digest
from sertune.data.manifest import Manifest, outside_scheme, outside_words
from sertune.data.splits import Fold
from sertune.errors import AudioError

MAX_SECONDS: Final = 60.0
MIN_SECONDS: Final = 0.1

_CHUNK: Final = 512

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        severity: ``error``: the utterance can't be used. ``warning``: it can.
        kind: ``audio``, ``too long``, ``too short``, ``duplicate``, ``label`` or ``speaker``.
        file: absolute path; empty for a problem of the whole corpus.
        row: data row of the table, 1 is the first; None for a problem of the whole corpus.
        message: in words, without the file.
    """

    severity: str
    kind: str
    file: str
    row: int | None
    message: str


@dataclass(frozen=True, eq=False)
class Check:
    """What `check` found.

    Attributes:
        problems: in the order of the rows.
        summary: counts and durations, ready for JSON.
        usable: (N,) bool, no error concerns this utterance.
        durations: (N,) seconds of each utterance, NaN where it can't be read.
        digests: N digests of the samples, empty where they can't be read.
    """

    problems: tuple[Problem, ...]
    summary: dict[str, Any]
    usable: NDArray[np.bool_]
    durations: NDArray[np.float64]
    digests: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The summary and all problems as JSON text."""
        document = {"summary": self.summary, "problems": [vars(problem) for problem in self.problems]}
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class _Clip:
    """What one file says of itself."""

    seconds: float = math.nan
    rate: int = 0
    channels: int = 0
    digest: str = ""
    problem: tuple[str, str] | None = None  # kind, message


@dataclass(frozen=True)
class _Limits:
    most: float
    least: float
    crop: float | None


def check(
    manifest: Manifest,
    *,
    max_seconds: float = MAX_SECONDS,
    min_seconds: float = MIN_SECONDS,
    crop: float | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> Check:
    """Decode every utterance and find what is wrong with it.

    Memory is bounded by ``workers`` clips of ``max_seconds``: a longer clip is told by its header and not
    decoded.

    Args:
        manifest: made with ``strict=False``, it may hold values outside their schemes; they are listed.
        max_seconds: longest utterance that can be used as a whole.
        min_seconds: shortest utterance that can be used.
        crop: seconds that are used of an utterance; then no utterance is too long.
        workers: threads that read.
        progress: called with (utterances done, of how many).
    """
    limits = _Limits(max_seconds, min_seconds, crop)
    clips = list(_look(manifest.utterances, limits, workers, progress))
    frame = manifest.utterances
    problems = [
        Problem("error", clip.problem[0], str(frame["file"].iat[i]), i + 1, clip.problem[1])
        for i, clip in enumerate(clips)
        if clip.problem is not None
    ]
    digests = tuple(clip.digest for clip in clips)
    problems += _label_problems(manifest) + _speaker_problems(frame) + _duplicates(manifest, digests)
    problems.sort(key=lambda problem: (problem.row is not None, problem.row or 0))
    usable = np.ones(len(frame), dtype=bool)
    usable[[p.row - 1 for p in problems if p.severity == "error" and p.row is not None]] = False
    durations = np.array([clip.seconds for clip in clips], dtype=np.float64)
    return Check(tuple(problems), _summary(manifest, clips, durations, usable), usable, durations, digests)


def leaks(utterances: pd.DataFrame, fold: Fold, digests: Sequence[str] | None = None) -> list[str]:
    """What train shares with dev and test, in words with counts.

    A shared speaker, session, recording or clip starts with ``warning:``, as scores are then too good. A
    shared text (``note:``) is by design in corpora with scripted sentences; the reader should know.

    Args:
        utterances: the frame that the fold's positions count in, N rows.
        fold: the parts.
        digests: N digests of the samples (`sertune.data.audio.samples_digest`), empty = unknown.
    """
    values = {
        "speaker": utterances["speaker"].to_numpy(dtype=object),
        "session": utterances["session"].to_numpy(dtype=object),
        "recording": utterances["file"].map(lambda file: Path(file).name).to_numpy(dtype=object),
        "text": utterances["text"].to_numpy(dtype=object),
    }
    keys = {**values, "recording": utterances["file"].to_numpy(dtype=object)}
    if digests is not None:
        keys["identical clip"] = np.array([digest or None for digest in digests], dtype=object)
        values["identical clip"] = values["recording"]
    said = []
    for what, key in keys.items():
        trained = {k for k in key[fold.train] if k is not None}
        for part, rows in (("dev", fold.dev), ("test", fold.test)):
            present = [k is not None for k in key[rows]]
            hits = [i for i in rows if key[i] is not None and key[i] in trained]
            if hits:
                kinds = len({key[i] for i in hits})
                of = len(set(key[rows][present]))
                shown = sorted({str(values[what][i]) for i in hits})
                names = ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")
                plural = "" if of == 1 else "s"
                said.append(
                    f"{'note' if what == 'text' else 'warning'}: {kinds} of {of} {what}{plural} in {part} "
                    f"({len(hits)} of {len(rows)} clips) {'is' if kinds == 1 else 'are'} also in train: {names}"
                )
    return said


# Audio


def _look(frame: pd.DataFrame, limits: _Limits, workers: int, progress: Progress | None) -> Iterator[_Clip]:
    """Every utterance in order. Work is handed out in chunks, so that few results wait at a time."""
    rows: Iterator[tuple[Any, ...]] = zip(*(frame[c].tolist() for c in ("file", "start", "end")), strict=True)
    done = 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        while chunk := list(itertools.islice(rows, _CHUNK)):
            for clip in pool.map(partial(_look_at, limits), chunk):
                done += 1
                if progress is not None:
                    progress(done, len(frame))
                yield clip


def _look_at(limits: _Limits, row: tuple[Any, ...]) -> _Clip:
    file, start, end = row
    try:
        info = audio_info(file)
        begin = 0.0 if math.isnan(start) else start
        stop = info.seconds if math.isnan(end) else min(end, info.seconds)
        clip = _Clip(stop - begin, info.rate, info.channels)
        # An empty file or segment is for `read_audio` to put into words.
        problem = _length_problem(clip.seconds, limits) if clip.seconds > 0 else None
        if problem is not None:
            return _with(clip, problem=problem)
        audio = read_audio(file, info.rate, start, end, limits.crop)
        return _with(clip, digest=samples_digest(audio))
    except AudioError as error:
        return _Clip(problem=("audio", error.reason))
    except MemoryError:
        return _Clip(problem=("too long", "does not fit into memory; set a crop length or cut it by start and end"))


def _with(clip: _Clip, *, digest: str = "", problem: tuple[str, str] | None = None) -> _Clip:
    return _Clip(clip.seconds, clip.rate, clip.channels, digest, problem)


def _length_problem(seconds: float, limits: _Limits) -> tuple[str, str] | None:
    if limits.crop is None and seconds > limits.most:
        return "too long", (
            f"too long: {seconds:.1f} s, the limit is {limits.most:g} s; set a crop length or cut it by start and end"
        )
    if seconds < limits.least:
        return "too short", f"too short: {seconds:.3f} s, the least is {limits.least:g} s"
    return None


# Labels, speakers, duplicates


def _label_problems(manifest: Manifest) -> list[Problem]:
    frame = manifest.utterances
    problems = []
    if not manifest.schemes:
        problems.append(Problem("warning", "label", "", None, "no utterance has a label"))
    for attribute, scheme in manifest.schemes.items():
        values = frame[attribute]
        missing = values.isna().to_numpy()
        for i in np.flatnonzero(outside_scheme(values, scheme)).tolist():
            words = outside_words(attribute, values.iat[i], scheme)
            problems.append(Problem("error", "label", str(frame["file"].iat[i]), i + 1, words))
        if missing.all():
            problems.append(Problem("warning", "label", "", None, f"no utterance has a value of {attribute}"))
            continue
        for i in np.flatnonzero(missing).tolist():
            problems.append(Problem("warning", "label", str(frame["file"].iat[i]), i + 1, f"no value of {attribute}"))
    return problems


def _speaker_problems(frame: pd.DataFrame) -> list[Problem]:
    missing = frame["speaker"].isna().to_numpy()
    if missing.all():
        message = "no utterance has a speaker: splits by speaker and intervals over speakers can't be made"
        return [Problem("warning", "speaker", "", None, message)]
    return [
        Problem("warning", "speaker", str(frame["file"].iat[i]), i + 1, "no speaker")
        for i in np.flatnonzero(missing).tolist()
    ]


def _duplicates(manifest: Manifest, digests: Sequence[str]) -> list[Problem]:
    """A warning for every clip whose samples an earlier one has, with that one's name."""
    frame = manifest.utterances
    first: dict[str, int] = {}
    problems = []
    for i, digest in enumerate(digests):
        if not digest:
            continue
        j = first.setdefault(digest, i)
        if j == i:
            continue
        differ = [
            f"{a} {frame[a].iat[j]} there, {frame[a].iat[i]} here"
            for a in (*manifest.schemes, "speaker")
            if not _same(frame[a].iat[i], frame[a].iat[j])
        ]
        message = f"the same audio as {frame['file'].iat[j]} (row {j + 1})"
        message += f", but {'; '.join(differ)}" if differ else ", with the same labels"
        problems.append(Problem("warning", "duplicate", str(frame["file"].iat[i]), i + 1, message))
    return problems


def _same(first: Any, second: Any) -> bool:
    return first == second or bool(pd.isna(first) and pd.isna(second))


# Summary


def _summary(
    manifest: Manifest,
    clips: Sequence[_Clip],
    durations: NDArray[np.float64],
    usable: NDArray[np.bool_],
) -> dict[str, Any]:
    frame = manifest.utterances
    known = durations[~np.isnan(durations)]
    summary: dict[str, Any] = {
        "name": manifest.name,
        "utterances": len(frame),
        "usable": int(usable.sum()),
        "files": int(frame["file"].nunique()),
        "hours": float(known.sum() / 3600),
        "durations": _quantiles(known),
        "labels": _counts(frame["emotion"], manifest.schemes["emotion"].labels)
        if "emotion" in manifest.schemes
        else {},
        "dimensions": {
            name: _dimension(frame[name], *manifest.schemes[name].scale)
            for name in labels.DIMENSIONS
            if name in manifest.schemes
        },
        "speakers": _counts(frame["speaker"]),
        "genders": _counts(frame["gender"]),
        "languages": _counts(frame["language"]),
        "partitions": _counts(frame["partition"], [p for p in labels.PARTITIONS if (frame["partition"] == p).any()]),
        "rates": _tally(clip.rate for clip in clips if clip.rate),
        "channels": _tally(clip.channels for clip in clips if clip.channels),
    }
    if manifest.ratings is not None:
        summary["ratings"] = {
            "ratings": len(manifest.ratings),
            "raters": int(manifest.ratings["rater"].nunique()),
            "attributes": _counts(manifest.ratings["attribute"]),
        }
    return summary


def _quantiles(seconds: NDArray[np.float64]) -> dict[str, float | None]:
    names = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
    return {name: float(np.quantile(seconds, q)) if len(seconds) else None for name, q in names.items()}


def _dimension(values: "pd.Series[Any]", low: float, high: float) -> dict[str, float | None]:
    numbers = values.dropna().to_numpy(dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    mean, spread = (float(numbers.mean()), float(numbers.std())) if len(numbers) else (None, None)
    return {"count": len(numbers), "low": low, "high": high, "mean": mean, "std": spread}


def _counts(values: "pd.Series[Any]", order: Sequence[str] | None = None) -> dict[str, int]:
    """How often each value stands there, those of ``order`` first (also with 0), the others sorted."""
    counts = {str(name): int(count) for name, count in values.value_counts().items()}
    names = [*(order or ()), *sorted(set(counts) - set(order or ()))]
    return {name: counts.get(name, 0) for name in names}


def _tally(values: Iterable[int]) -> dict[str, int]:
    numbers, counts = np.unique(np.array(list(values), dtype=np.int64), return_counts=True)
    return {str(number): int(count) for number, count in zip(numbers, counts, strict=True)}
