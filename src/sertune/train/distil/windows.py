"""Unlabelled audio as clips: every file found, cut into windows, some files held out."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sertune.config import AudioConfig
from sertune.data.audio import audio_info, find_audio, read_audio
from sertune.errors import AudioError, SertuneError, SilentError
from sertune.progress import progress
from sertune.train.loop import derive_seed

READERS = 4
TRIED = 200
"""Windows that are read before all of them are taken to be silent."""


@dataclass
class Windows:
    """Clips of unlabelled audio.

    Attributes:
        frame: columns file, start, end, duration, as `sertune.train.states.Reader` takes them.
        held_out: (N,) which of them are not trained on.
        files: how many files they come from.
        skipped: files that can't be used, with the reason.
    """

    frame: pd.DataFrame
    held_out: np.ndarray
    files: int
    skipped: list[dict[str, str]]

    @property
    def hours(self) -> float:
        """Of all clips."""
        return float(self.frame["duration"].sum()) / 3600


def find_windows(paths: Sequence[str], audio: AudioConfig, *, held_out: float, skip_bad: bool, seed: int) -> Windows:
    """Every audio file below ``paths``, in windows of equal length, none longer than the crop.

    Args:
        paths: files, or folders with audio at any depth.
        audio: longest window and shortest file.
        held_out: share of the files to hold out.
        skip_bad: leave out files whose header can't be read, instead of stopping at the first.
        seed: of what is held out.

    Raises:
        SertuneError: no such folder, no audio in it, a file that can't be used, or nothing but silence.
    """
    files = [str(file) for file in find_audio(paths)]
    seconds, skipped = _lengths(files, audio.min_seconds, skip_bad)
    usable = [file for file in files if file in seconds]
    if not usable:
        raise SertuneError(f"none of the {len(files)} audio files can be used; the first: {_words(skipped[0])}")
    rows: list[tuple[str, float, float, float]] = []
    for file in usable:
        count = max(1, math.ceil(seconds[file] / audio.crop))
        edges = np.linspace(0, seconds[file], count + 1)
        # the header's length may be a little off: the last window ends where the file does
        ends = [*edges[1:-1].tolist(), math.nan]
        rows += [
            (file, start, end, seconds[file] / count) for start, end in zip(edges[:-1].tolist(), ends, strict=True)
        ]
    frame = pd.DataFrame(rows, columns=["file", "start", "end", "duration"])
    out = _hold_out(usable, held_out, seed)
    windows = Windows(frame, frame["file"].isin(out).to_numpy(), len(usable), skipped)
    _refuse_silence(windows)
    return windows


def _lengths(files: list[str], shortest: float, skip_bad: bool) -> tuple[dict[str, float], list[dict[str, str]]]:
    """Seconds of every file that can be used, by its header, and why others can't."""

    def look(file: str) -> float | str:
        try:
            found = audio_info(file).seconds
        except AudioError as error:
            return error.reason
        return found if found >= shortest else f"too short: {found:.3f} s, expected at least {shortest:g} s"

    seconds: dict[str, float] = {}
    skipped = []
    with ThreadPoolExecutor(READERS) as pool, progress("Looking at files", len(files)) as advance:
        for file, found in zip(files, pool.map(look, files), strict=True):
            advance(1)
            if isinstance(found, float):
                seconds[file] = found
                continue
            skipped.append({"file": file, "reason": found})
            if not skip_bad:
                raise SertuneError(f"{_words(skipped[0])} (--skip-bad goes on without such files)")
    return seconds, skipped


def _words(row: dict[str, str]) -> str:
    return f"{row['file']}: {row['reason']}"


def _hold_out(files: list[str], share: float, seed: int) -> set[str]:
    """Files that are not trained on: of two or more at least one, and never all."""
    if share == 0 or len(files) < 2:
        return set()
    count = min(len(files) - 1, max(1, round(share * len(files))))
    order = np.random.default_rng(derive_seed(seed, "held out")).permutation(len(files))
    return {files[place] for place in order[:count]}


def _refuse_silence(windows: Windows) -> None:
    """Raises `SertuneError` where there is nothing but silence, before anything is written."""
    columns = (windows.frame[name].tolist() for name in ("file", "start", "end"))
    clips = list(zip(*columns, strict=True))
    order = np.random.default_rng(0).permutation(len(clips))
    for row in order[:TRIED].tolist():
        file, start, end = clips[row]
        try:
            read_audio(file, 16000, start, end)
        except SilentError:
            continue
        except AudioError:  # named when its states are computed
            return
        return
    raise SertuneError(
        f"the audio is silent: of {windows.files} files, {min(TRIED, len(clips))} clips were heard and none has a peak "
        "above -80 dB of full scale; expected speech"
    )
