"""Reading audio: WAV, FLAC, OGG (Vorbis and Opus) and MP3 by soundfile, resampled by soxr.

Times are in seconds, rates in Hz, arrays float32 with full scale at 1.0.
"""

import hashlib
import math
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from sertune.errors import AudioError, SertuneError, SilentError

EXTENSIONS: Final = (".wav", ".flac", ".ogg", ".mp3", ".opus")
SILENCE: Final = 1e-4
"""Peak (full scale 1.0, so -80 dB) below which a clip counts as digital silence."""
END_TOLERANCE: Final = 0.1
"""Seconds by which a segment may end after its file: tables round their times."""

# How the file begins that git leaves where git-lfs is not installed.
_POINTER: Final = b"version https://git-lfs"

# Sizes from here on are what a program writes that streams a WAV and does not know its length.
_STREAMED: Final = 0x7FFFF000


@dataclass(frozen=True)
class AudioInfo:
    """What the header says: length in seconds, sampling rate in Hz, number of channels."""

    seconds: float
    rate: int
    channels: int


def audio_info(file: str | os.PathLike[str]) -> AudioInfo:
    """Length, rate and channels from the header alone, without decoding.

    Raises:
        AudioError: the file is missing, a folder, empty or not audio.
    """
    with _open(file) as sound:
        return AudioInfo(sound.frames / sound.samplerate, int(sound.samplerate), int(sound.channels))


def header_seconds(file: str | os.PathLike[str]) -> float:
    """Length in seconds by the header; NaN where there is none to read, which `sertune check` then explains."""
    try:
        return audio_info(file).seconds
    except AudioError:
        return math.nan


def read_audio(
    file: str | os.PathLike[str],
    rate: int,
    start: float = math.nan,
    end: float = math.nan,
    crop: float | None = None,
) -> NDArray[np.float32]:
    """One utterance as mono samples at ``rate`` Hz; only the segment asked for is read.

    Args:
        file: path of the audio file; two channels are averaged.
        rate: sampling rate wanted, in Hz.
        start: where the segment begins, in seconds; NaN: at the beginning of the file.
        end: where it ends, in seconds; NaN: at the end of the file. It may lie up to `END_TOLERANCE` after
            the end of the file.
        crop: the longest part kept, in seconds, counted from the start of the segment.

    Returns:
        float32 array of shape (samples,), never empty.

    Raises:
        AudioError: missing, a folder, empty, not audio, truncated, more than two channels, NaN or Inf
            samples, silent (`SilentError`: peak below `SILENCE` in the part read), or a segment outside the
            file. A cut-off OGG can't be told from a short one.
    """
    with _open(file) as sound:
        source_rate = int(sound.samplerate)
        first, count = _frames(file, sound.frames, source_rate, start, end, crop)
        if sound.channels > 2:
            raise AudioError(
                file, f"has {sound.channels} channels, expected 1 or 2: mix it down first, or pick a channel"
            )
        promised = _missing_wav_bytes(file) if sound.format in ("WAV", "WAVEX") else 0
        if promised:
            raise AudioError(file, f"truncated: the header promises {promised} bytes more than the file has")
        try:
            if first:
                sound.seek(first)
            audio = sound.read(count, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise AudioError(file, "damaged or truncated: its samples can't be decoded") from error
        # MP3 headers give the length to a few frames only.
        slack = 0.1 * source_rate + 0.02 * count if sound.format == "MP3" else 0
    if len(audio) < count - slack:
        raise AudioError(file, f"truncated: {len(audio)} of {count} samples could be read")
    mono = as_mono(audio)
    if not np.isfinite(mono).all():
        raise AudioError(file, "holds NaN or Inf samples")
    if float(np.abs(mono).max(initial=0.0)) < SILENCE:
        raise SilentError(file, f"silent: its peak is below {SILENCE:g} of full scale")
    result = resample(mono, source_rate, rate)
    if not len(result):
        raise AudioError(file, f"too short: {len(mono)} samples at {source_rate} Hz leave none at {rate} Hz")
    return result


def as_mono(array: NDArray[Any]) -> NDArray[np.float32]:
    """Samples of shape (samples,) or (samples, channels), averaged over the channels, as float32.

    Raises:
        SertuneError: any other shape, or no floating-point samples.
    """
    if array.ndim not in (1, 2):
        raise SertuneError(f"audio has shape {array.shape}, expected (samples,) or (samples, channels)")
    if not np.issubdtype(array.dtype, np.floating):
        raise SertuneError(f"audio has type {array.dtype}, expected float samples between -1 and 1")
    mono = array if array.ndim == 1 else array[:, 0] if array.shape[1] == 1 else array.mean(axis=1)
    return np.ascontiguousarray(mono, dtype=np.float32)


def resample(audio: NDArray[np.float32], source_rate: int, rate: int) -> NDArray[np.float32]:
    """Mono samples (samples,) at ``source_rate`` Hz, brought to ``rate`` Hz by soxr's "HQ" setting."""
    if source_rate <= 0 or rate <= 0:
        raise SertuneError(f"sampling rates must be positive, got {source_rate} and {rate} Hz")
    if source_rate == rate:
        return audio
    resampled: NDArray[np.float32] = soxr.resample(audio, source_rate, rate, quality="HQ")
    return resampled.astype(np.float32, copy=False)


def samples_digest(audio: NDArray[np.float32]) -> str:
    """Digest (32 hex digits) of the samples as little-endian float32: equal audio, equal digest."""
    data = np.ascontiguousarray(audio, dtype="<f4")
    return hashlib.blake2b(data.tobytes(), digest_size=16).hexdigest()


def find_audio(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Audio files among ``paths``; folders are searched at all depths, in sorted order.

    Hidden files (among them macOS's ``._*``) and other extensions than `EXTENSIONS` are passed over within
    folders. A file named outright is always taken.

    Raises:
        SertuneError: a path doesn't exist, or a folder holds no audio.
    """
    found: list[Path] = []
    for name in paths:
        path = Path(name)
        if not os.fspath(name):  # an unset variable of a shell; as a path it would mean the current folder
            raise SertuneError("a file's name is empty; name audio files or folders")
        if path.is_dir():
            inside = sorted(f for f in path.rglob("*") if _is_audio(f.relative_to(path)) and f.is_file())
            if not inside:
                raise SertuneError(f"no audio in folder {path} (looked for {', '.join(EXTENSIONS)})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise SertuneError(f"no such file or folder: {path}")
    return list(dict.fromkeys(found))


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in path.parts)


def _open(file: str | os.PathLike[str]) -> soundfile.SoundFile:
    path = Path(file)
    try:
        # bytes where the system's names are bytes: they need not be valid text
        return soundfile.SoundFile(os.fsencode(file) if os.name == "posix" else os.fspath(file))
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        # The reasons are looked for only now, so that the usual case costs no extra system call.
        try:
            if path.is_dir():
                reason = "is a folder, expected an audio file"
            elif not path.exists():
                reason = "no such file"
            elif path.stat().st_size == 0:
                reason = "empty file (0 bytes)"
            elif not os.access(path, os.R_OK):
                reason = "may not be read (permissions)"
            elif _is_pointer(path):
                reason = "a git-lfs pointer, not the audio itself; run `git lfs pull` in the corpus's folder"
            else:
                reason = "not audio that can be read (WAV, FLAC, OGG and MP3 are)"
        except OSError as problem:
            reason = problem.strerror or "can't be read"
        raise AudioError(file, reason) from error


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def _frames(file: object, total: int, rate: int, start: float, end: float, crop: float | None) -> tuple[int, int]:
    """First frame and number of frames of a segment."""
    if total <= 0:
        raise AudioError(file, "holds no samples")
    seconds = total / rate
    begin = 0.0 if math.isnan(start) else start
    stop = seconds if math.isnan(end) else end
    if begin < 0 or begin >= seconds:
        raise AudioError(file, f"the segment starts at {begin:g} s, but the file lasts {seconds:.3f} s")
    if stop > seconds + END_TOLERANCE:
        raise AudioError(file, f"the segment ends at {stop:g} s, but the file lasts {seconds:.3f} s")
    if stop <= begin:
        raise AudioError(file, f"the segment ends at {stop:g} s, not after its start at {begin:g} s")
    if crop is not None:
        if not crop > 0:
            raise SertuneError(f"the crop length must be more than 0 seconds, got {crop:g}")
        stop = min(stop, begin + crop)
    first = round(begin * rate)
    last = min(total, round(stop * rate))
    if last <= first:
        raise AudioError(file, f"the segment from {begin:g} to {stop:g} s holds no samples")
    return first, last - first


def _missing_wav_bytes(file: str | os.PathLike[str]) -> int:
    """Bytes that a WAV's ``data`` chunk promises beyond the end of the file (libsndfile reads on silently)."""
    with Path(file).open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if stream.read(4) != b"RIFF":
            return 0
        position = 12
        while position + 8 <= size:
            stream.seek(position)
            kind, length = struct.unpack("<4sI", stream.read(8))
            position += 8
            if kind == b"data":
                return max(0, position + length - size) if length < _STREAMED else 0
            position += length + length % 2
    return 0
