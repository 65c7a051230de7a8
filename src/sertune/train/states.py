"""States of the frozen part, computed once: kept on disk for all runs (`cache`), or in memory for this one.

`States` is what the loop sees. Frames that are not kept are computed again for every batch: the same numbers, only
slower.
"""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sertune.config import AudioConfig, AugmentConfig, RunConfig, to_dict
from sertune.data.audio import read_audio, samples_digest
from sertune.data.batch import ClipStates
from sertune.data.trivial import Heard, HeardTable, listen
from sertune.data.waveform import augment_waveform, waveform_active
from sertune.errors import AudioError, SertuneError, SilentError
from sertune.model.encoder import Encoder
from sertune.progress import progress, say
from sertune.train.cache import DiskCache, FileDigests, StateSet, Stored, row_bytes, show_bytes

READERS = 2
AHEAD = 16
"""Clips read ahead of the encoder."""
GIB = 2**30
PASSES = 3
"""Over the clips whose states are missing, before a disk that damages what it is given is given up on."""

NO_WAVES = to_dict(AugmentConfig())
OCCASIONAL = ("wave_reverb", "wave_channel", "wave_noise", "wave_mask", "wave_gain")
"""Effects that `Views.share` may leave out of a view."""

NOT_FINITE = "its states are not finite, with a peak of {:g} times full scale; 1 is usual, or try --precision fp32"

Autocast = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Views:
    """Versions of a clip by waveform augmentation.

    Attributes:
        options: what is applied.
        seed: of the run.
        count: versions that are kept; view 0 is the clip as it is, each of the others is drawn once. 1: none is kept,
            training draws afresh in every epoch.
        crop: the longest part kept of a slowed-down clip, in seconds.
        share: how likely each effect but the speed is part of a view; 1: all are.
    """

    options: AugmentConfig
    seed: int
    count: int
    crop: float
    share: float = 1.0

    def name(self, digest: str, view: int) -> str:
        """What a view's states are kept under: the clip's digest, and for views above 0 all that made it."""
        if not view:
            return digest
        waves = {key: value for key, value in to_dict(self.options).items() if key.startswith("wave_")}
        made = repr((sorted(waves.items()), self.seed, view, *([self.share] if self.share < 1 else [])))
        return f"{digest}-{hashlib.blake2b(made.encode(), digest_size=6).hexdigest()}"

    def kept(self, audio: np.ndarray, rate: int, digest: str, view: int) -> np.ndarray:
        """Samples of a kept view, seeded by run, clip and view."""
        return (
            self._augmented(audio, rate, np.random.default_rng((self.seed, int(digest, 16), view))) if view else audio
        )

    def fresh(self, audio: np.ndarray, rate: int, draw: int | None) -> np.ndarray:
        """Samples drawn afresh with a seed; None leaves them as they are."""
        return audio if draw is None else self._augmented(audio, rate, np.random.default_rng(draw))

    def _augmented(self, audio: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
        options = self.options
        if self.share < 1:
            left_out = [name for name in OCCASIONAL if rng.random() >= self.share]
            options = replace(options, **{name: NO_WAVES[name] for name in left_out})
        return augment_waveform(audio, rate, options, rng)[: int(self.crop * rate)]


def choose_views(config: RunConfig, *, kept: bool) -> Views | None:
    """The views that a configuration asks for; None without waveform augmentation.

    Args:
        config: of the run.
        kept: whether states are kept.

    Raises:
        SertuneError: kept states would never see the augmentation, or several views would all be the same.
    """
    count, active = config.cache.views, waveform_active(config.augment)
    if active and kept and count == 1:
        raise SertuneError(
            "waveform augmentation (augment.wave_...) changes what the encoder hears, and kept states would never see "
            "it: keep augmented views with --cache.views N (e.g. 4), or compute states anew with --cache.states false"
        )
    if count > 1 and not active:
        raise SertuneError(
            f"cache.views = {count}: all views would be the same; say how they differ, e.g. "
            "--augment.wave_noise 10 20, or leave it at 1"
        )
    if count > 1 and not kept:
        why = "the front trains" if config.cache.states else "cache.states is false"
        raise SertuneError(
            f"cache.views = {count}: no states are kept, as {why}; leave it at 1, and every epoch draws its own"
        )
    return Views(config.augment, config.seed, count, config.audio.crop) if active else None


@dataclass
class View:
    """Kept states of one view of every clip: pooled vectors, and frames where replay starts."""

    pooled: Tensor | Stored
    frames: Sequence[Tensor] | None


@dataclass
class States:
    """What the encoder knows of every clip of a run.

    Attributes:
        pooled: (N, layers + 1, 2 * width) pooled states with pre-trained weights; see `ClipStates`.
        frames: states where replay starts, per clip, as they are kept; None where they are computed for every batch.
        seconds: (N,) length of each clip as used.
        digests: of each clip's samples.
        lift: makes of a clip's kept frames those where replay starts, where only those of a lower layer are kept.
        live: computes the states of a row, where they are not kept, with the seed of its waveform augmentation.
        views: how the waveforms are augmented, if they are.
        augmented: kept states of views 1, 2, ...
        disk_bytes: size of these states on disk; 0 in memory.
        passes: clips and views that were run through the encoder for them.
        heard: of each clip, for the audit; empty where nobody listened.
    """

    pooled: Tensor
    frames: Sequence[Tensor] | None
    seconds: np.ndarray
    digests: list[str]
    lift: Callable[[Tensor], Tensor] | None = None
    live: Callable[[int, int | None], ClipStates] | None = None
    views: Views | None = None
    augmented: list[View] = field(default_factory=list)
    disk_bytes: int = 0
    passes: int = 0
    heard: list[Heard] = field(default_factory=list)

    def clip(self, row: int, draw: int | None = None) -> ClipStates:
        """The states of one clip.

        Args:
            row: its position.
            draw: a random number that chooses the view, or seeds the augmentation where states are not kept; None is
                the clip as it is.
        """
        if self.live is None:
            view = draw % (len(self.augmented) + 1) if draw is not None else 0
            frames = self.augmented[view - 1].frames if view else self.frames
            kept = frames[row] if frames is not None else None
            if kept is not None and self.lift is not None:
                kept = self.lift(kept)
            return ClipStates(kept, self.pooled_of(row, draw))
        draw = draw if self.views is not None else None
        clip = self.live(row, draw)
        if draw is None:
            return ClipStates(clip.states, self.pooled[row])
        # above the layer where replay starts no pooled vector is read while training
        return ClipStates(clip.states, torch.cat([clip.pooled, self.pooled[row, len(clip.pooled) :]]))

    def pooled_of(self, row: int, draw: int | None = None) -> Tensor:
        """The pooled vectors of one clip, of the view that `clip` takes; of those that are kept, never computed."""
        view = draw % (len(self.augmented) + 1) if draw is not None else 0
        return self.augmented[view - 1].pooled[row] if view else self.pooled[row]

    def of_all_views(self, rows: np.ndarray) -> Tensor:
        """(views * len(rows), layers + 1, 2 * width) pooled vectors of every kept view, view by view."""
        others = [torch.stack([view.pooled[row] for row in rows.tolist()]) for view in self.augmented]
        return torch.cat([self.pooled[rows], *others])

    def audio(self, samples: np.ndarray, rate: int, draw: int | None) -> np.ndarray:
        """Samples as a front that trains hears them; see `clip`."""
        return samples if self.views is None else self.views.fresh(samples, rate, draw)

    @property
    def nbytes(self) -> int:
        """Memory taken, in bytes."""
        views = [View(self.pooled, self.frames), *self.augmented]
        pooled = sum(view.pooled.nbytes for view in views if isinstance(view.pooled, Tensor))
        return pooled + sum(frames.nbytes for view in views for frames in _in_memory(view.frames))


def _in_memory(frames: Sequence[Tensor] | None) -> Sequence[Tensor]:
    return frames if isinstance(frames, list) else []


@dataclass
class Reader:
    """Reads the rows of a table as samples at one rate.

    Attributes:
        frame: utterances.
        rate: in Hz.
        audio: crop and shortest clip.
    """

    frame: pd.DataFrame
    rate: int
    audio: AudioConfig
    _rows: list[tuple[str, float, float]] = field(init=False)

    def __post_init__(self) -> None:
        columns = (self.frame[name].tolist() for name in ("file", "start", "end"))
        self._rows = list(zip(*columns, strict=True))

    def __call__(self, row: int) -> np.ndarray:
        """(samples,) float32.

        Raises:
            AudioError: the file can't be used.
        """
        file, start, end = self._rows[row]
        samples = read_audio(file, self.rate, start, end, self.audio.crop)
        if len(samples) < self.shortest:
            least = f"{self.audio.min_seconds:g} s (audio.min_seconds)"
            raise AudioError(file, f"too short: {len(samples)} samples at {self.rate} Hz, expected at least {least}")
        return samples

    @property
    def shortest(self) -> float:
        """Fewest samples of a clip that can be used."""
        return self.audio.min_seconds * self.rate

    def key(self, row: int) -> str:
        """The name of what would be read, in the table of digests."""
        file, start, end = self._rows[row]
        return FileDigests.key(file, start, end, self.audio.crop, self.rate)

    def listened(self, row: int) -> tuple[np.ndarray, Heard]:
        """The samples, and what the audit needs of them.

        Raises:
            AudioError: the file can't be used.
        """
        samples = self(row)
        return samples, listen(samples, self.rate)

    def ahead(self, rows: Sequence[int]) -> Iterator[tuple[int, "Future[tuple[np.ndarray, Heard]]"]]:
        """The rows in order, read by threads while the caller works on earlier ones."""
        with ThreadPoolExecutor(READERS) as pool:
            waiting: deque[tuple[int, Future[tuple[np.ndarray, Heard]]]] = deque()
            for row in rows:
                waiting.append((row, pool.submit(self.listened, row)))
                if len(waiting) >= AHEAD:
                    yield waiting.popleft()
            yield from waiting


def frames_nbytes(encoder: Encoder, frame: pd.DataFrame, audio: AudioConfig) -> int:
    """Memory that the frames of all clips would take, in bytes; unknown durations count as the crop."""
    seconds = frame["duration"].fillna(audio.crop).clip(upper=audio.crop).sum()
    return math.ceil(float(seconds) * encoder.frames_per_second * encoder.width * 4)


class Kept(Protocol):
    """Where states are kept: in memory (`MemorySet`) or on disk (`StateSet`)."""

    def __contains__(self, clip: str) -> bool:
        """Whether a clip is there."""

    def add(self, clip: str, rows: Tensor) -> None:
        """Takes the rows (T, D) of a clip."""

    def read(self, clip: str) -> Tensor:
        """The rows of a clip."""


class MemorySet(dict[str, Tensor]):
    """States kept for one run."""

    def add(self, clip: str, rows: Tensor) -> None:
        """Takes the rows (T, D) of a clip."""
        self[clip] = rows

    def read(self, clip: str) -> Tensor:
        """The rows of a clip."""
        return self[clip]


@dataclass(frozen=True)
class Extra:
    """What is kept of every clip and view beside the encoder's states, of the very samples that it hears.

    Attributes:
        kept: where.
        compute: (samples,) -> rows (T, D).
        row_bytes: size of a row on disk.
        rows_per_second: of them; 0: one row a clip.
    """

    kept: Kept
    compute: Callable[[np.ndarray], Tensor]
    row_bytes: int = 0
    rows_per_second: float = 0.0


@dataclass
class Builder:
    """Runs the clips whose states are missing through the encoder.

    Attributes:
        encoder: with the weights as pre-trained.
        reader: of the clips.
        pooled: where pooled vectors are kept.
        frames: where the frames that enter a layer are kept, by layer.
        views: of each clip, if they are kept.
        autocast: context in which the encoder computes.
        skip_bad: leave out files that can't be used, instead of stopping at the first.
        skip_silent: leave out what is silent, whatever ``skip_bad``.
        extras: what else is kept of each clip.
        known: digest and number of the samples of each row that was read.
        heard: for the audit, by digest.
        skipped: why a row can't be used.
        passes: clips and views run through the encoder.
    """

    encoder: Encoder
    reader: Reader
    pooled: Kept
    frames: dict[int, Kept]
    views: Views | None
    autocast: Autocast
    skip_bad: bool
    skip_silent: bool = False
    extras: Sequence[Extra] = ()
    known: dict[int, tuple[str, int]] = field(default_factory=dict)
    heard: dict[str, Heard] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    passes: int = 0

    @property
    def count(self) -> int:
        """Views of each clip."""
        return self.views.count if self.views is not None else 1

    def names(self, digest: str) -> list[str]:
        """What each view of a clip is kept under."""
        return [self.views.name(digest, view) for view in range(self.count)] if self.views is not None else [digest]

    def missing(self, rows: Sequence[int]) -> list[int]:
        """The rows, among those that can be used, that were not read, or some of whose states are not there."""
        return [row for row in rows if row not in self.skipped and not self._complete(row)]

    def _complete(self, row: int) -> bool:
        if row not in self.known:
            return False
        kept = [self.pooled, *self.frames.values(), *(extra.kept for extra in self.extras)]
        return all(name in states for name in self.names(self.known[row][0]) for states in kept)

    def run(self, rows: Sequence[int], title: str = "Encoding", *, encode: bool = True) -> None:
        """Reads rows, and computes what is missing of their states.

        Args:
            rows: to read.
            title: for the progress bar.
            encode: else they are only read, to know their digests, and bad files are passed over.

        Raises:
            SertuneError: a bad file without ``skip_bad``, or states that the cache can't hold.
        """
        with progress(title, len(rows)) as advance:
            for row, future in self.reader.ahead(rows):
                advance(1)
                try:
                    audio, heard = future.result()
                    digest = samples_digest(audio)
                    if encode:
                        self._encode(row, audio, digest)
                except AudioError as error:
                    if encode:
                        self._skip(row, error)
                    continue
                self.known[row] = digest, len(audio)
                self.heard[digest] = heard

    def _encode(self, row: int, audio: np.ndarray, digest: str) -> None:
        for view, name in enumerate(self.names(digest)):
            pooled = name not in self.pooled
            layers = [layer for layer, kept in self.frames.items() if name not in kept]
            extras = [extra for extra in self.extras if name not in extra.kept]
            if not (pooled or layers or extras):
                continue
            heard = self.views.kept(audio, self.reader.rate, digest, view) if self.views is not None else audio
            for extra in extras:
                extra.kept.add(name, extra.compute(heard))
            if not pooled and not layers:
                continue
            highest = max(layers, default=self.encoder.depth)
            top = highest if not pooled and highest != self.encoder.depth else None
            with self.autocast():
                frames, vectors = self.encoder.clip_layers(heard, layers, top=top)
            self.passes += 1
            if not bool(vectors.isfinite().all()):
                raise AudioError(self._file(row), NOT_FINITE.format(float(np.abs(heard).max())))
            if pooled:
                self.pooled.add(name, vectors.float())
            for layer, states in frames.items():
                self._add_frames(row, self.frames[layer], name, states)

    def _add_frames(self, row: int, kept: Kept, name: str, states: Tensor) -> None:
        try:
            kept.add(name, states)
        except OverflowError as error:
            raise SertuneError(
                f"{self._file(row)}: its states reach {error}, and float16 ends at 65504; choose --cache.dtype bfloat16"
            ) from None

    def _skip(self, row: int, error: AudioError) -> None:
        self.skipped[row] = error.reason
        if not self.skip_bad and not (self.skip_silent and isinstance(error, SilentError)):
            hint = "sertune check lists all bad files, --skip-bad goes on without them"
            raise SertuneError(f"{self._file(row)}: {error.reason} ({hint})") from None

    def _file(self, row: int) -> str:
        return str(self.reader.frame["file"].iat[row])


def compute_states(
    encoder: Encoder,
    reader: Reader,
    start: int | None,
    *,
    keep: bool,
    skip_bad: bool,
    autocast: Autocast,
    layers: Sequence[int] | None = None,
    views: Views | None = None,
    cache: DiskCache | None = None,
    dtype: str = "float16",
    precision: str = "fp32",
    extras: Sequence[Extra] = (),
    skip_silent: bool = False,
) -> tuple[States, np.ndarray, list[dict[str, str]]]:
    """Runs every clip through the encoder, alone and unpadded, unless its states are on disk.

    Args:
        encoder: with the weights as pre-trained.
        reader: of the clips.
        start: layer where replay starts; None where pooled vectors are enough.
        keep: whether to keep the frames.
        skip_bad: leave out files that can't be used, instead of stopping at the first.
        autocast: context in which the encoder computes.
        layers: whose frames are kept, all in one pass; None: those of ``start``. Where ``start`` is not among them its
            frames are computed from those of the next lower one whenever they are asked for.
        views: waveform augmentation, if there is any.
        cache: where to keep states on disk; None: in memory.
        dtype: of frames on disk.
        precision: in which the encoder computes, which the disk has to know.
        extras: what else is kept of each clip and view.
        skip_silent: leave out what is silent, whatever ``skip_bad``.

    Returns:
        The states of the usable rows, the positions of these, and the files left out with the reason.

    Raises:
        SertuneError: a bad file without ``skip_bad``, no usable file, or no place for the states.
    """
    kept_layers = [] if not keep else layers if layers is not None else [] if start is None else [start]
    base = max((layer for layer in kept_layers if start is not None and layer <= start), default=None)
    pooled: StateSet | MemorySet = MemorySet()
    frames: dict[int, StateSet | MemorySet] = {layer: MemorySet() for layer in kept_layers}
    if cache is not None:
        pooled = cache.open(encoder, precision, None, dtype)
        frames = {layer: cache.open(encoder, precision, layer, dtype) for layer in kept_layers}
    builder = Builder(encoder, reader, pooled, dict(frames), views, autocast, skip_bad, skip_silent, extras)
    rows = range(len(reader.frame))
    if cache is None:
        builder.run(rows)
    else:
        _build_on_disk(builder, cache, dtype)
    usable = [row for row in rows if row not in builder.skipped]
    skipped = [{"file": builder._file(row), "reason": reason} for row, reason in sorted(builder.skipped.items())]
    if not usable:
        raise SertuneError(f"none of the {len(rows)} files can be used; the first: {_first(skipped)}")
    digests = [builder.known[row][0] for row in usable]
    seconds = np.array([builder.known[row][1] for row in usable]) / reader.rate
    names = [builder.names(digest) for digest in digests]
    native = torch.bfloat16 if precision == "bf16" else torch.float32
    kept = frames[base] if base is not None else None
    views_of = [_view([own[view] for own in names], pooled, kept, view, native) for view in range(builder.count)]
    plain, *augmented = views_of
    assert isinstance(plain.pooled, Tensor)
    states = States(plain.pooled, plain.frames, seconds, digests, views=views, augmented=augmented)
    states.passes = builder.passes
    states.heard = [builder.heard[digest] for digest in digests]
    if cache is not None:
        every = _all_names(builder, usable)
        states.disk_bytes = sum(own.nbytes(name) for own in _sets(builder) for name in every)
    if base is not None and base != start:
        states.lift = _lift(encoder, base, start, autocast)
    elif (start is not None and base is None) or (views is not None and not keep):
        states.live = _live(encoder, reader, np.array(usable), start, autocast, views)
    return states, np.array(usable, dtype=np.int64), skipped


def _view(
    names: list[str],
    pooled: StateSet | MemorySet,
    frames: StateSet | MemorySet | None,
    view: int,
    native: torch.dtype,
) -> View:
    """The states of one view of the clips. The pooled vectors of view 0, which heads start from, are in memory."""
    if isinstance(pooled, StateSet) and view:
        vectors: Tensor | Stored = Stored(pooled, names, torch.float32)
    else:
        vectors = torch.stack([pooled.read(name) for name in names])
    if isinstance(frames, StateSet):
        return View(vectors, Stored(frames, names, native))
    return View(vectors, [frames[name] for name in names] if frames is not None else None)


def _build_on_disk(builder: Builder, cache: DiskCache, dtype: str) -> None:
    """Computes what is not on disk yet, after its size was said and the folder was found to hold it."""
    rows, reader = range(len(builder.reader.frame)), builder.reader
    keys = [reader.key(row) for row in rows]
    for row, key in enumerate(keys):
        found = cache.files.find(key)
        if found is not None and found[1] >= reader.shortest:
            builder.known[row] = found
    listened = HeardTable(cache.folder / "files")
    for digest, _ in builder.known.values():
        if (heard := listened.find(digest)) is not None:
            builder.heard[digest] = heard
    todo = _reserve(builder, cache, dtype)
    try:
        for _ in range(PASSES):
            builder.run(todo)
            _close(builder)
            todo = builder.missing(rows)  # not empty where a shard was found damaged meanwhile
            if not todo:
                break
        else:
            raise SertuneError(f"cache {cache.folder}: what was written can't be read again; choose another folder")
        if silent := [row for row, (digest, _) in builder.known.items() if digest not in builder.heard]:
            builder.run(silent, "Listening", encode=False)  # their states are from an earlier version
    except BaseException:
        _close(builder)
        raise
    finally:
        for row, (digest, samples) in builder.known.items():
            cache.files.note(keys[row], digest, samples)
        cache.files.save()
        for digest, heard in builder.heard.items():
            listened.note(digest, heard)
        listened.save()


def _close(builder: Builder) -> None:
    for states in _sets(builder):
        states.close()


def _sets(builder: Builder) -> list[StateSet]:
    kept = [*builder.frames.values(), builder.pooled, *(extra.kept for extra in builder.extras)]
    return [states for states in kept if isinstance(states, StateSet)]


def _all_names(builder: Builder, rows: Iterable[int]) -> set[str]:
    return {name for row in rows for name in builder.names(builder.known[row][0])}


def _reserve(builder: Builder, cache: DiskCache, dtype: str) -> list[int]:
    """The rows to compute, once there is room for them."""
    rows = range(len(builder.reader.frame))
    _ = builder.missing(rows)  # a shard that is found damaged takes clips with it that were looked at before
    todo = builder.missing(rows)
    size = _disk_size(builder, todo, dtype)
    if todo:
        try:
            cache.reserve(size)
        except SertuneError:
            unknown = [row for row in todo if row not in builder.known]
            held = isinstance(builder.pooled, StateSet) and len(builder.pooled)
            if not unknown or not held:
                raise
            builder.run(unknown, "Reading", encode=False)  # their states may be there, under other files' names
            todo = builder.missing(rows)
            size = _disk_size(builder, todo, dtype)
            if todo:
                cache.reserve(size)
    held = sum(states.nbytes(name) for states in _sets(builder) for name in _all_names(builder, builder.known))
    there = f"{len(rows) - len(todo)} of {len(rows)} clips are there, {show_bytes(held)}"
    layers = ", ".join(map(str, builder.frames))
    frames = f"states of layer {layers} in {dtype} and " if builder.frames else ""
    views = f", {builder.count} views" if builder.count > 1 else ""
    room = f"; up to {show_bytes(size)} to write" if todo else ""
    say(f"Cache {cache.folder}: {frames}pooled vectors{views}; {there}{room} (cache.disk_gib = {cache.disk_gib:g})")
    return todo


def _disk_size(builder: Builder, rows: Sequence[int], dtype: str) -> int:
    """Bytes that the missing states of rows would take at most on disk; unknown durations count as the crop."""
    encoder, reader = builder.encoder, builder.reader
    durations = reader.frame["duration"].fillna(reader.audio.crop).clip(upper=reader.audio.crop).tolist()
    vectors, seconds, beside = 0, 0.0, 0.0
    for row in rows:
        if row not in builder.known:
            vectors += builder.count
            seconds += builder.count * len(builder.frames) * durations[row]
            beside += builder.count * sum(_extra_size(extra, durations[row]) for extra in builder.extras)
            continue
        digest, samples = builder.known[row]
        for name in builder.names(digest):
            vectors += name not in builder.pooled
            seconds += samples / reader.rate * sum(name not in kept for kept in builder.frames.values())
            missing = [extra for extra in builder.extras if name not in extra.kept]
            beside += sum(_extra_size(extra, samples / reader.rate) for extra in missing)
    frames = math.ceil(seconds * encoder.frames_per_second)
    vector = (encoder.depth + 1) * row_bytes("float32", 2 * encoder.width)
    return vectors * vector + frames * row_bytes(dtype, encoder.width) + math.ceil(beside)


def _extra_size(extra: Extra, seconds: float) -> float:
    return extra.row_bytes * max(1.0, extra.rows_per_second * seconds)


def _first(skipped: list[dict[str, str]]) -> str:
    return f"{skipped[0]['file']}: {skipped[0]['reason']}"


def _lift(encoder: Encoder, base: int, start: int | None, autocast: Autocast) -> Callable[[Tensor], Tensor]:
    assert start is not None

    def compute(frames: Tensor) -> Tensor:
        with autocast():
            return encoder.lift(frames, base, [start])[0][start]

    return compute


def _live(
    encoder: Encoder, reader: Reader, rows: np.ndarray, start: int | None, autocast: Autocast, views: Views | None
) -> Callable[[int, int | None], ClipStates]:
    def compute(position: int, draw: int | None) -> ClipStates:
        if draw is None and start is None:
            return ClipStates(None, torch.empty(0))
        audio = reader(int(rows[position]))
        if views is not None:
            audio = views.fresh(audio, reader.rate, draw)
        with autocast():
            return encoder.clip_states(audio, start, top=start)

    return compute
