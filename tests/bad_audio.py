"""Audio files that can't be used, one of each kind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile


def noise(samples: int, channels: int | None = None) -> np.ndarray:
    shape = (samples,) if channels is None else (samples, channels)
    return 0.1 * np.random.default_rng(0).standard_normal(shape)


def write(file: Path, samples: np.ndarray, rate: int = 16000, subtype: str = "PCM_16") -> None:
    soundfile.write(file, samples, rate, subtype=subtype)


def cut(file: Path) -> None:
    """A file whose second half is lost."""
    write(file, noise(16000))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def with_value(value: float) -> np.ndarray:
    samples = noise(16000)
    samples[5] = value
    return samples


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.wav": (lambda f: f.write_bytes(b""), "empty file (0 bytes)"),
    "no samples.wav": (lambda f: write(f, noise(0)), "holds no samples"),
    "one.wav": (lambda f: write(f, noise(1)), "too short: 1 samples"),
    "short.wav": (lambda f: write(f, noise(400)), "too short: 400 samples"),
    "silent.wav": (lambda f: write(f, np.zeros(16000)), "silent"),
    "nan.wav": (lambda f: write(f, with_value(np.nan), subtype="FLOAT"), "holds NaN or Inf samples"),
    "inf.wav": (lambda f: write(f, with_value(np.inf), subtype="FLOAT"), "holds NaN or Inf samples"),
    "huge.wav": (lambda f: write(f, 1e30 * noise(16000), subtype="DOUBLE"), "has a peak of 4"),
    "eight.wav": (lambda f: write(f, noise(16000, 8)), "has 8 channels, expected 1 or 2"),
    "text.wav": (lambda f: f.write_text("I am not a sound. " * 99), "not audio that can be read"),
    "cut.wav": (cut, "truncated: the header promises 16"),
    "cut.flac": (cut, "damaged or truncated"),
    "a folder.wav": (lambda f: f.mkdir(), "is a folder, expected an audio file"),
    "gone.wav": (lambda f: None, "no such file"),
}
"""Name of the file -> what makes it, and words of the reason that is given."""
