"""What is wrong with a corpus, file by file, and what its parts share that they should not."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sertune.data import labels
from sertune.data.audio import audio_info, read_audio, samples_digest
from sertune.data.fingerprint import Pair, near_duplicates
from sertune.data.manifest import Manifest, outside_scheme, outside_words
from sertune.data.splits import Fold, Protocol
from sertune.data.trivial import FEATURES, Heard, listen, trivial_baseline
from sertune.errors import AudioError

MAX_SECONDS: Final = 60.0
MIN_SECONDS: Final = 0.1

_CHUNK: Final = 512
_MOST_PAIRS: Final = 50
_SHIFTED: Final = 0.1
"""Seconds from which the shift between near-duplicates is told."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        severity: ``error``: the utterance can't be used. ``warning``: it can.
        kind: ``audio``, ``too long``, ``too short``, ``duplicate``, ``near-duplicate``, ``label`` or ``speaker``.
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
        heard: N trivial features and fingerprints, None where they can't be read.
    """

    problems: tuple[Problem, ...]
    summary: dict[str, Any]
    usable: NDArray[np.bool_]
    durations: NDArray[np.float64]
    digests: tuple[str, ...] = ()
    heard: tuple[Heard | None, ...] = ()

    def to_json(self, split: dict[str, Any] | None = None) -> str:
        """The summary and all problems as JSON text, with what `audit_split` found, if it was asked."""
        document: dict[str, Any] = {"summary": self.summary, "problems": [vars(problem) for problem in self.problems]}
        if split is not None:
            document["split"] = split
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class _Clip:
    """What one file says of itself."""

    seconds: float = math.nan
    rate: int = 0
    channels: int = 0
    digest: str = ""
    heard: Heard | None = None
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
    digests, heard = tuple(clip.digest for clip in clips), tuple(clip.heard for clip in clips)
    problems += _label_problems(manifest) + _speaker_problems(frame) + _duplicates(manifest, digests)
    problems += _near_duplicates(manifest, find_pairs(digests, heard))
    problems.sort(key=lambda problem: (problem.row is not None, problem.row or 0))
    usable = np.ones(len(frame), dtype=bool)
    usable[[p.row - 1 for p in problems if p.severity == "error" and p.row is not None]] = False
    durations = np.array([clip.seconds for clip in clips], dtype=np.float64)
    return Check(tuple(problems), _summary(manifest, clips, durations, usable), usable, durations, digests, heard)


def find_pairs(digests: Sequence[str], heard: Sequence[Heard | None]) -> list[Pair]:
    """Near-duplicates among clips whose samples differ; of clips with the same samples the first stands for all.

    Args:
        digests: N digests of the samples, empty = unknown.
        heard: N fingerprints.
    """
    seen: set[str] = set()
    nothing = np.zeros(0, dtype=np.uint32)
    prints = []
    for digest, clip in zip(digests, heard, strict=True):
        again = digest in seen
        prints.append(nothing if clip is None or again else clip.prints)
        if digest:
            seen.add(digest)
    return near_duplicates(prints)


@dataclass(frozen=True)
class Shared:
    """What train and another part of a fold have in common.

    Attributes:
        kind: ``speaker``, ``session``, ``recording``, ``identical clip``, ``near-duplicate clip`` or ``text``.
        part: ``dev`` or ``test``.
        fold: its name.
        values: how many speakers, texts ... of the part are also in train.
        of_values: of how many.
        clips: how many clips of the part that concerns.
        of_clips: of how many.
        examples: up to five of the values.
    """

    kind: str
    part: str
    fold: str
    values: int
    of_values: int
    clips: int
    of_clips: int
    examples: tuple[str, ...]

    @property
    def severity(self) -> str:
        """``note`` for a text, which corpora with scripted sentences share by design; else ``warning``."""
        return "note" if self.kind == "text" else "warning"

    @property
    def text(self) -> str:
        """In words, with counts."""
        names = ", ".join(self.examples) + (", ..." if self.values > len(self.examples) else "")
        if self.kind == "near-duplicate clip":
            is_one = "sounds like one" if self.values == 1 else "sound like ones"
            return f"{self.clips} of {self.of_clips} clips in {self.part} {is_one} in train (near-duplicates): {names}"
        plural = "" if self.of_values == 1 else "s"
        return (
            f"{self.values} of {self.of_values} {self.kind}{plural} in {self.part} ({self.clips} of {self.of_clips} "
            f"clips) {'is' if self.values == 1 else 'are'} also in train: {names}"
        )


def leaks(
    utterances: pd.DataFrame, fold: Fold, digests: Sequence[str] | None = None, pairs: Sequence[Pair] = ()
) -> list[str]:
    """What train shares with dev and test, in words with counts.

    A shared speaker, session, recording or clip starts with ``warning:``, as scores are then too good. A
    shared text (``note:``) is by design in corpora with scripted sentences; the reader should know.

    Args:
        utterances: the frame that the fold's positions count in, N rows.
        fold: the parts.
        digests: N digests of the samples (`sertune.data.audio.samples_digest`), empty = unknown.
        pairs: near-duplicates (`find_pairs`).
    """
    return [f"{found.severity}: {found.text}" for found in shared(utterances, [fold], digests, pairs)]


def shared(
    utterances: pd.DataFrame,
    folds: Sequence[Fold],
    digests: Sequence[str] | None = None,
    pairs: Sequence[Pair] = (),
) -> list[Shared]:
    """What train shares with dev and test in each fold; arguments as of `leaks`."""
    names = utterances["file"].map(lambda file: Path(file).name).to_numpy(dtype=object)
    columns: dict[str, tuple[Any, Any]] = {what: (utterances[what],) * 2 for what in ("speaker", "session")}
    columns["recording"] = utterances["file"], names
    columns["text"] = (utterances["text"],) * 2
    same = np.arange(len(utterances))
    if digests is not None:
        known = np.array([digest or None for digest in digests], dtype=object)
        columns["identical clip"] = known, names
        same = pd.factorize(np.where(pd.isna(known), same, known))[0]
    keys = [_Key.of(what, key, shown) for what, (key, shown) in columns.items()]
    keys = [key for key in keys if key.repeats]
    first = np.array([pair.first for pair in pairs], dtype=np.int64)
    second = np.array([pair.second for pair in pairs], dtype=np.int64)
    found: list[Shared] = []
    for fold in folds:
        for key in keys:
            found += key.within(fold)
        if len(pairs):
            found += _alike(fold, same, first, second, names)
    return found


@dataclass(frozen=True, eq=False)
class _Key:
    """A property of the rows, as numbers."""

    kind: str
    codes: NDArray[np.int64]  # (N,), -1 = missing
    count: int
    shown: NDArray[Any]

    @classmethod
    def of(cls, kind: str, key: Any, shown: Any) -> "_Key":
        codes, values = pd.factorize(np.asarray(key, dtype=object))
        return cls(kind, codes.astype(np.int64), len(values), np.asarray(shown, dtype=object))

    @property
    def repeats(self) -> bool:
        """Whether two rows have the same value, so that anything can be shared."""
        return bool((self.codes >= 0).sum() > self.count)

    def within(self, fold: Fold) -> Iterator[Shared]:
        """What dev and test share with train."""
        trained = np.zeros(self.count + 1, dtype=bool)
        trained[self.codes[fold.train]] = True
        trained[-1] = False  # missing
        for part, rows in (("dev", fold.dev), ("test", fold.test)):
            codes = self.codes[rows]
            hits = rows[trained[codes]]
            if len(hits):
                values, of = len(np.unique(self.codes[hits])), len(np.unique(codes[codes >= 0]))
                examples = tuple(sorted({str(value) for value in self.shown[hits]})[:5])
                yield Shared(self.kind, part, fold.name, values, of, len(hits), len(rows), examples)


def _alike(
    fold: Fold, same: NDArray[Any], first: NDArray[np.int64], second: NDArray[np.int64], names: NDArray[Any]
) -> Iterator[Shared]:
    """Clips of dev and test that a clip of train sounds like; ``same``: (N,) number of each row's samples."""
    trained = np.zeros(len(same), dtype=bool)
    trained[same[fold.train]] = True
    partner = np.full(len(same), -1, dtype=np.int64)
    for one, other in ((first, second), (second, first)):
        near = trained[same[other]]
        partner[same[one[near]]] = other[near]
    for part, rows in (("dev", fold.dev), ("test", fold.test)):
        hits = rows[partner[same[rows]] >= 0]
        if len(hits):
            examples = tuple(f"{names[i]} and {names[partner[same[i]]]}" for i in hits[:5])
            yield Shared("near-duplicate clip", part, fold.name, len(hits), len(rows), len(hits), len(rows), examples)


def audit_split(
    utterances: pd.DataFrame,
    protocol: Protocol,
    targets: NDArray[Any],
    names: Sequence[str],
    digests: Sequence[str],
    heard: Sequence[Heard | None],
    seed: int = 0,
) -> dict[str, Any]:
    """What the parts of a protocol share, and how far trivial features predict the target: the audit of a report.

    Args:
        utterances: the frame that the folds' positions count in, N rows.
        protocol: with its folds.
        targets: (N,) label ids (int, -1 = missing), or (N, D) values (NaN = missing).
        names: of the labels or of the D dimensions.
        digests: N digests of the samples, empty = unknown.
        heard: N trivial features and fingerprints, None = unknown.
        seed: of what is drawn for the trivial baseline.

    Returns:
        Ready for JSON: ``shared``, one row per kind and part, with the fold where most clips are concerned, in how
        many ``folds`` that is so and its ``text``; ``near_duplicates``: number of ``pairs`` in all of the data, and up
        to 50 of them; ``trivial``: see `trivial_baseline`; ``warnings`` and ``notes`` in words.
    """
    pairs = find_pairs(digests, heard)
    rows = _gathered(shared(utterances, protocol.folds, digests, pairs), len(protocol.folds))
    missing = np.full(len(FEATURES), np.nan, dtype=np.float32)
    features = np.stack([missing if clip is None else clip.features for clip in heard])
    speakers = utterances["speaker"].tolist()
    trivial = trivial_baseline(features, targets, protocol.folds, speakers, names, seed)
    files = utterances["file"].tolist()
    return {
        "shared": rows,
        "near_duplicates": {
            "pairs": len(pairs),
            "list": [
                {"file": files[p.first], "other": files[p.second], "similarity": p.similarity, "shift": p.shift}
                for p in sorted(pairs, key=lambda pair: -pair.similarity)[:_MOST_PAIRS]
            ],
        },
        "trivial": trivial,
        "warnings": [row["text"] for row in rows if row["severity"] == "warning"]
        + shortcuts(trivial, protocol.speaker_independent),
        "notes": [row["text"] for row in rows if row["severity"] == "note"],
    }


def shortcuts(trivial: dict[str, Any], speaker_independent: bool) -> list[str]:
    """A warning for every metric that trivial features raise clearly above chance.

    Where test speakers are new, a score that knowing the speakers apart explains is left out: speakers are few.
    """
    return [
        f"without listening, {found['text']}: a model can lean on that"
        for found in trivial["metrics"].values()
        if found["above_chance"] and (found["beyond_speakers"] or not speaker_independent)
    ]


def _gathered(found: Sequence[Shared], folds: int) -> list[dict[str, Any]]:
    """One row per kind and part: the fold where most clips are concerned, and in how many folds that is so."""
    groups: dict[tuple[str, str], list[Shared]] = {}
    for item in found:
        groups.setdefault((item.kind, item.part), []).append(item)
    rows = []
    for items in groups.values():
        worst = max(items, key=lambda item: item.clips)
        alike = f" ({len(items)} of {folds} folds alike)" if folds > 1 else ""
        text = {"severity": worst.severity, "text": worst.text + alike}
        rows.append({**asdict(worst), "examples": list(worst.examples), "folds": len(items), **text})
    return rows


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
            return replace(clip, problem=problem)
        audio = read_audio(file, info.rate, start, end, limits.crop)
        return replace(clip, digest=samples_digest(audio), heard=listen(audio, info.rate))
    except AudioError as error:
        return _Clip(problem=("audio", error.reason))
    except MemoryError:
        return _Clip(problem=("too long", "does not fit into memory; set a crop length or cut it by start and end"))


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
        differ = _differences(manifest, i, j)
        message = f"the same audio as {frame['file'].iat[j]} (row {j + 1})"
        message += f", but {'; '.join(differ)}" if differ else ", with the same labels"
        problems.append(Problem("warning", "duplicate", str(frame["file"].iat[i]), i + 1, message))
    return problems


def _near_duplicates(manifest: Manifest, pairs: Sequence[Pair]) -> list[Problem]:
    """A warning for every clip that sounds like an earlier one, with the one it is most like."""
    frame = manifest.utterances
    best: dict[int, Pair] = {}
    for pair in pairs:
        if pair.second not in best or pair.similarity > best[pair.second].similarity:
            best[pair.second] = pair
    problems = []
    for i, pair in best.items():
        j = pair.first
        message = f"sounds like {frame['file'].iat[j]} (row {j + 1}): {pair.similarity:.0%} of the fingerprint agrees"
        if abs(pair.shift) >= _SHIFTED:
            message += f", {abs(pair.shift):.2f} s {'later' if pair.shift > 0 else 'earlier'} in it"
        differ = _differences(manifest, i, j)
        message += f", but {'; '.join(differ)}" if differ else ", with the same labels"
        problems.append(Problem("warning", "near-duplicate", str(frame["file"].iat[i]), i + 1, message))
    return problems


def _differences(manifest: Manifest, row: int, earlier: int) -> list[str]:
    """How labels and speaker of a copy differ from those of an earlier one."""
    frame = manifest.utterances
    return [
        f"{a} {frame[a].iat[earlier]} there, {frame[a].iat[row]} here"
        for a in (*manifest.schemes, "speaker")
        if not _same(frame[a].iat[row], frame[a].iat[earlier])
    ]


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
