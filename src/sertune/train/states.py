"""States of the frozen part, computed once per run and kept in memory.

`States` is what the loop sees. Frames that do not fit the limit are computed again for every batch: the same
numbers, only slower.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sertune.config import AudioConfig
from sertune.data.audio import read_audio, samples_digest
from sertune.data.batch import ClipStates
from sertune.errors import AudioError, SertuneError
from sertune.model.encoder import Encoder
from sertune.progress import progress

READERS = 2
AHEAD = 16
"""Clips read ahead of the encoder."""
GIB = 2**30

NOT_FINITE = "its states are not finite, with a peak of {:g} times full scale; 1 is usual, or try --precision fp32"

Autocast = Callable[[], AbstractContextManager[None]]


@dataclass
class States:
    """What the encoder knows of every clip of a run.

    Attributes:
        pooled: (N, layers + 1, 2 * width) pooled states with pre-trained weights; see `ClipStates`.
        frames: states where replay starts, per clip; None where they are computed for every batch.
        seconds: (N,) length of each clip as used.
        digests: of each clip's samples.
        live: computes the states of a row, where `frames` is None.
    """

    pooled: Tensor
    frames: list[Tensor] | None
    seconds: np.ndarray
    digests: list[str]
    live: Callable[[int], ClipStates] | None = None

    def clip(self, row: int) -> ClipStates:
        """The states of one clip."""
        if self.frames is not None:
            return ClipStates(self.frames[row], self.pooled[row])
        if self.live is not None:
            return ClipStates(self.live(row).states, self.pooled[row])
        return ClipStates(None, self.pooled[row])

    @property
    def nbytes(self) -> int:
        """Memory taken, in bytes."""
        return self.pooled.nbytes + sum(frames.nbytes for frames in self.frames or [])


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
        if len(samples) < self.audio.min_seconds * self.rate:
            least = f"{self.audio.min_seconds:g} s (audio.min_seconds)"
            raise AudioError(file, f"too short: {len(samples)} samples at {self.rate} Hz, expected at least {least}")
        return samples

    def ahead(self, rows: Sequence[int]) -> Iterator[tuple[int, "Future[np.ndarray]"]]:
        """The rows in order, read by threads while the caller works on earlier ones."""
        with ThreadPoolExecutor(READERS) as pool:
            waiting: deque[tuple[int, Future[np.ndarray]]] = deque()
            for row in rows:
                waiting.append((row, pool.submit(self, row)))
                if len(waiting) >= AHEAD:
                    yield waiting.popleft()
            yield from waiting


def frames_nbytes(encoder: Encoder, frame: pd.DataFrame, audio: AudioConfig) -> int:
    """Memory that the frames of all clips would take, in bytes; unknown durations count as the crop."""
    seconds = frame["duration"].fillna(audio.crop).clip(upper=audio.crop).sum()
    return math.ceil(float(seconds) * encoder.frames_per_second * encoder.width * 4)


def compute_states(
    encoder: Encoder,
    reader: Reader,
    start: int | None,
    *,
    keep: bool,
    skip_bad: bool,
    autocast: Autocast,
) -> tuple[States, np.ndarray, list[dict[str, str]]]:
    """Runs every clip through the encoder, alone and unpadded.

    Args:
        encoder: with the weights as pre-trained.
        reader: of the clips.
        start: layer whose input is kept frame by frame; None where pooled vectors are enough.
        keep: whether to keep the frames in memory.
        skip_bad: leave out files that can't be used, instead of stopping at the first.
        autocast: context in which the encoder computes.

    Returns:
        The states of the usable rows, the positions of these, and the files left out with the reason.

    Raises:
        SertuneError: a bad file without ``skip_bad``, or no usable file.
    """
    rows = range(len(reader.frame))
    pooled: list[Tensor] = []
    frames: list[Tensor] = []
    seconds: list[float] = []
    digests: list[str] = []
    usable: list[int] = []
    skipped: list[dict[str, str]] = []
    with progress("Encoding", len(rows)) as advance:
        for row, future in reader.ahead(rows):
            file = str(reader.frame["file"].iat[row])
            advance(1)
            try:
                audio = future.result()
                with autocast():
                    clip = encoder.clip_states(audio, start if keep else None)
                if not bool(clip.pooled.isfinite().all()):
                    peak = float(np.abs(audio).max())
                    raise AudioError(file, NOT_FINITE.format(peak))
            except AudioError as error:
                skipped.append({"file": file, "reason": error.reason})
                if not skip_bad:
                    hint = "sertune check lists all bad files, --skip-bad goes on without them"
                    raise SertuneError(f"{file}: {error.reason} ({hint})") from None
                continue
            usable.append(row)
            pooled.append(clip.pooled.float())
            seconds.append(len(audio) / reader.rate)
            digests.append(samples_digest(audio))
            if clip.states is not None:
                frames.append(clip.states)
    if not usable:
        raise SertuneError(f"none of the {len(rows)} files can be used; the first: {_first(skipped)}")
    kept = np.array(usable, dtype=np.int64)
    states = States(torch.stack(pooled), frames if keep and start is not None else None, np.array(seconds), digests)
    if start is not None and not keep:
        states.live = _live(encoder, reader, kept, start, autocast)
    return states, kept, skipped


def _first(skipped: list[dict[str, str]]) -> str:
    return f"{skipped[0]['file']}: {skipped[0]['reason']}"


def _live(
    encoder: Encoder, reader: Reader, rows: np.ndarray, start: int, autocast: Autocast
) -> Callable[[int], ClipStates]:
    def compute(position: int) -> ClipStates:
        with autocast():
            return encoder.clip_states(reader(int(rows[position])), start, top=start)

    return compute
