"""Augmentation of the samples themselves, below the encoder; training only.

The encoder then sees other samples in every pass, so kept states serve only views that were drawn beforehand. What
acts on the states above the cut is in `augment`.
"""

import numpy as np
import soxr
from numpy.typing import NDArray

from sertune.config import AugmentConfig

SPAN_SECONDS = 0.1
"""Length of one zeroed span (a choice: about a phone; the paper gives none)."""
BANDS = 8
"""Points of a random frequency response, evenly over the square root of the frequency, as low bands are narrow."""
LOW_PASS = 0.4
"""Share of the random frequency responses that end early, as of a narrow microphone or codec."""
LOWEST_CUT = 3000.0


def waveform_active(options: AugmentConfig) -> bool:
    """Whether any of these settings changes samples."""
    single = options.wave_mask or options.wave_gain or options.wave_channel
    return bool(single or options.wave_noise or options.wave_speed or options.wave_reverb)


def augment_waveform(
    audio: NDArray[np.float32], rate: int, options: AugmentConfig, rng: np.random.Generator
) -> NDArray[np.float32]:
    """One clip, changed at random: speed, room, channel, noise, zeroed spans, gain, in this order.

    Gaussian noise and zeroed spans are those of PEFT-SER (arXiv 2306.05350), the others are ours. An encoder that
    normalises its input does not notice the gain.

    Args:
        audio: (samples,) at ``rate``, not empty.
        rate: in Hz.
        options: what to apply; all off gives ``audio`` itself.
        rng: draws everything; equal state, equal result.

    Returns:
        (samples,) float32, never empty; a speed of s makes it 1 / s times as long.
    """
    if options.wave_speed:
        audio = _change_speed(audio, rate, _between(options.wave_speed, rng))
    if options.wave_reverb:
        audio = _reverberate(audio, rate, _between(options.wave_reverb, rng), rng)
    if options.wave_channel:
        audio = _through_channel(audio, rate, options.wave_channel, rng)
    if options.wave_noise:
        audio = _add_noise(audio, _between(options.wave_noise, rng), rng)
    if options.wave_mask:
        audio = _mask_spans(audio, options.wave_mask, round(SPAN_SECONDS * rate), rng)
    if options.wave_gain:
        audio = audio * np.float32(10 ** (rng.uniform(-options.wave_gain, options.wave_gain) / 20))
    return audio


def _change_speed(audio: NDArray[np.float32], rate: int, factor: float) -> NDArray[np.float32]:
    """Speed and pitch times ``factor``: the samples are read as if taken at ``factor`` times the rate."""
    changed: NDArray[np.float32] = soxr.resample(audio, rate * factor, rate, quality="HQ").astype(np.float32)
    return changed if len(changed) else audio


def _reverberate(
    audio: NDArray[np.float32], rate: int, seconds: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """A room: the direct sound, and noise that decays by 60 dB in ``seconds``, of at most a quarter of its energy."""
    length = max(2, round(seconds * rate))
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail *= 0.5 * rng.random() / np.sqrt(np.square(tail).sum())
    tail[0] = 1.0
    size = 1 << (len(audio) + length - 1).bit_length()
    heard = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(tail, size), size)
    return heard[: len(audio)].astype(np.float32)


def _through_channel(
    audio: NDArray[np.float32], rate: int, spread: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """A random smooth frequency response, of a standard deviation of ``spread`` dB; some end above `LOWEST_CUT`."""
    spectrum = np.fft.rfft(audio)
    place = np.linspace(0, 1, len(spectrum))
    gain = np.interp(np.sqrt(place), np.linspace(0, 1, BANDS), rng.normal(0, spread, BANDS))
    if rng.random() < LOW_PASS:
        gain = np.where(place * rate / 2 > rng.uniform(LOWEST_CUT, rate / 2), gain - 60, gain)
    return np.fft.irfft(spectrum * 10 ** (gain / 20), len(audio)).astype(np.float32)


def _add_noise(audio: NDArray[np.float32], decibels: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """White Gaussian noise at a ratio of signal to noise power over the whole clip, in dB."""
    noise = rng.standard_normal(len(audio), dtype=np.float32)
    wanted = _rms(audio) * 10 ** (-decibels / 20)
    return audio + noise * np.float32(wanted / max(_rms(noise), 1e-12))


def _mask_spans(audio: NDArray[np.float32], share: float, span: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Zeroes ``share`` of the samples, in spans of about ``span`` that do not overlap."""
    hidden = min(round(share * len(audio)), len(audio) - 1)
    count = max(1, round(hidden / span))
    lengths = np.diff(np.linspace(0, hidden, count + 1).round().astype(int))
    # where each span begins among the samples that stay, in order
    gaps = np.sort(rng.integers(0, len(audio) - hidden, count, endpoint=True))
    masked = audio.copy()
    for begin, length in zip(gaps + np.cumsum(lengths) - lengths, lengths, strict=True):
        masked[begin : begin + length] = 0
    return masked


def _between(limits: list[float], rng: np.random.Generator) -> float:
    low, high = limits
    return rng.uniform(low, high)


def _rms(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
