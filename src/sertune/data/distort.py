"""What happens to speech on its way to a model: noise, level, bandwidth, speed, codecs, rooms, faults of recording.

Every function takes mono samples (N,) float32 with full scale at 1.0, N at least 1, and gives new float32 samples, as
many as before unless it says otherwise; equal arguments, equal result. Nothing is clipped unless that is the
distortion. `CONDITIONS` are those that `sertune audit` tries.
"""

import functools
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from sertune.errors import SertuneError, unknown

Samples = NDArray[np.float32]
_Floating = NDArray[np.floating[Any]]
_Amplitude = Callable[[_Floating], _Floating]

MU: Final = 255.0
"""Companding constant of mu-law (ITU-T G.711)."""
TALKERS: Final = 6
"""Voices of the babble-like noise."""
DROPOUT_SECONDS: Final = 0.02
"""Length of a drop-out: a frame of most speech codecs."""
_CODEC_DELAY: Final = 0.2
"""Seconds by which a codec may shift the sound; it is shifted back."""
_MP3_RATES: Final = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_OPUS_RATES: Final = (8000, 12000, 16000, 24000, 48000)


@dataclass(frozen=True)
class Condition:
    """One distortion at one strength.

    Attributes:
        name: as on the command line.
        family: of conditions that belong together.
        text: what it is, in words.
        apply: (samples, rate in Hz, seed) -> samples. Raises `SertuneError` where this machine can't.
    """

    name: str
    family: str
    text: str
    apply: Callable[[Samples, int, int], Samples]


# Noise


def add_noise(samples: Samples, noise: NDArray[np.float64], snr: float) -> Samples:
    """Samples plus noise at a signal-to-noise ratio in dB, both as mean power over the whole clip.

    A clip or noise without power is returned as it is.
    """
    signal = samples.astype(np.float64)
    power, disturbance = float(np.mean(signal**2)), float(np.mean(noise**2))
    if power == 0 or disturbance == 0:
        return samples.copy()
    return (signal + noise * math.sqrt(power / disturbance) * 10 ** (-snr / 20)).astype(np.float32)


def white_noise(samples: Samples, snr: float, seed: int) -> Samples:
    """Gaussian noise of the same power at all frequencies."""
    return add_noise(samples, np.random.default_rng(seed).standard_normal(len(samples)), snr)


def pink_noise(samples: Samples, rate: int, snr: float, seed: int) -> Samples:
    """Noise whose power falls by 3 dB an octave from 20 Hz on, with nothing below."""
    rng = np.random.default_rng(seed)
    return add_noise(samples, _shaped(len(samples), rate, _pink, rng), snr)


def babble_noise(samples: Samples, rate: int, snr: float, seed: int) -> Samples:
    """Babble-like noise: `TALKERS` voices of noise, each rising and falling with syllables of its own.

    The spectrum is flat from 100 to 500 Hz and falls by 9 dB an octave above; the envelopes are random between 2 and
    8 Hz, where the modulation of speech lies. Both are choices of ours: no speech is in it.
    """
    return add_noise(samples, _babble(len(samples), rate, seed), snr)


@functools.lru_cache(maxsize=1)
def _babble(count: int, rate: int, seed: int) -> NDArray[np.float64]:
    """The noise itself; kept, as the same clip usually wants it at several ratios."""
    rng = np.random.default_rng(seed)
    noise = np.zeros(count)
    for _ in range(TALKERS):
        voice = _shaped(count, rate, _voiced, rng)
        envelope = _shaped(count, rate, _syllables, rng)
        scale = float(np.sqrt(np.mean(envelope**2)))
        noise += voice * np.maximum(envelope / scale + 1 if scale else 1.0, 0.0)
    return noise


def _pink(frequency: _Floating) -> _Floating:
    return np.where(frequency >= 20, 1 / np.sqrt(np.maximum(frequency, 20)), 0.0)


def _voiced(frequency: _Floating) -> _Floating:
    slope = 10 ** (-9 / 20 * np.log2(np.maximum(frequency, 500) / 500))
    return np.where(frequency >= 100, slope, 0.0)


def _syllables(frequency: _Floating) -> _Floating:
    return ((frequency >= 2) & (frequency <= 8)).astype(np.float64)


def _shaped(count: int, rate: int, amplitude: _Amplitude, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaussian noise of ``count`` samples with an amplitude that depends on frequency in Hz.

    It is cut from a longer stretch, so that a short clip has its share of low frequencies too.
    """
    whole = _fast_length(max(count, rate))
    spectrum = np.fft.rfft(rng.standard_normal(whole)) * amplitude(np.fft.rfftfreq(whole, 1 / rate))
    noise: NDArray[np.float64] = np.fft.irfft(spectrum, whole)[:count]
    return noise


# Level


def gain(samples: Samples, decibels: float) -> Samples:
    """Louder or quieter, without clipping."""
    return samples * np.float32(10 ** (decibels / 20))


def overdrive(samples: Samples, decibels: float) -> Samples:
    """Recorded too hot: brought to a peak of ``decibels`` above full scale, and clipped there."""
    peak = float(np.abs(samples).max())
    if peak == 0:
        return samples.copy()
    hot: Samples = np.clip(samples * np.float32(10 ** (decibels / 20) / peak), -1.0, 1.0)
    return hot


def clip_peaks(samples: Samples, share: float) -> Samples:
    """Clips at the level that this share of the samples exceeds; the level of the rest stays."""
    limit = np.float32(np.quantile(np.abs(samples), 1 - share))
    clipped: Samples = np.clip(samples, -limit, limit)
    return clipped


def dc_offset(samples: Samples, share: float) -> Samples:
    """Adds a constant: this share of the clip's peak."""
    shifted: Samples = samples + np.float32(share) * np.abs(samples).max()
    return shifted


# Bandwidth


def low_pass(samples: Samples, rate: int, cutoff: float) -> Samples:
    """Nothing above ``cutoff`` in Hz, without a shift in time; the samples themselves at or below twice the rate."""
    return samples.copy() if 2 * cutoff >= rate else _band(samples, rate, 0.0, cutoff)


def telephone(samples: Samples, rate: int) -> Samples:
    """A narrow-band line: 300 to 3400 Hz, 8 kHz, mu-law with 8 bits, and the band once more at the other end."""
    line = 8000
    narrow = _band(samples, rate, 300.0, 3400.0)
    carried = _resampled(narrow, rate, line)
    back = _resampled(mu_law(carried), line, rate)
    return _band(_fitted(back, len(samples)), rate, 300.0, 3400.0)


def mu_law(samples: Samples) -> Samples:
    """Mu-law companding by its formula, rounded to 255 levels and expanded again; beyond full scale it clips."""
    inside = np.clip(samples.astype(np.float64), -1.0, 1.0)
    code = np.sign(inside) * np.log1p(MU * np.abs(inside)) / math.log1p(MU)
    rounded = np.round(code * 127) / 127
    return (np.sign(rounded) * np.expm1(np.abs(rounded) * math.log1p(MU)) / MU).astype(np.float32)


def _band(samples: Samples, rate: int, low: float, high: float) -> Samples:
    """What lies between two frequencies in Hz, without a shift in time; the edges are 5 % wide and lie inside."""
    size = _fast_length(len(samples) + rate // 5)
    frequency = np.fft.rfftfreq(size, 1 / rate)
    response = _edge(frequency, high, 0.95 * high)
    if low > 0:
        response = response * _edge(frequency, low, 1.05 * low)
    spectrum = np.fft.rfft(samples.astype(np.float64), size) * response
    return np.fft.irfft(spectrum, size)[: len(samples)].astype(np.float32)


def _edge(frequency: _Floating, stop: float, passed: float) -> _Floating:
    """0 beyond ``stop``, 1 beyond ``passed``, half a cosine between."""
    along = np.clip((frequency - stop) / (passed - stop), 0.0, 1.0)
    response: _Floating = 0.5 - 0.5 * np.cos(np.pi * along)
    return response


# Speed and codecs


def speed(samples: Samples, rate: int, factor: float) -> Samples:
    """Speed and pitch times ``factor``; about N / factor samples, never none."""
    if factor == 1:
        return samples.copy()
    changed = _resampled(samples, round(rate * factor), rate)
    return changed if len(changed) else samples.copy()


def mp3(samples: Samples, rate: int, kbps: float) -> Samples:
    """Through MP3 at a constant bit rate in kbit/s.

    Raises:
        SertuneError: this libsndfile can't write it.
    """
    coded = _coded_rate(rate, _MP3_RATES)
    # the bit rates of MPEG 2.5, 2 and 1, over which libsndfile spreads its compression level
    low, high = (8, 64) if coded < 16000 else (8, 160) if coded < 32000 else (32, 320)
    level = min(max((high - kbps) / (high - low), 0.0), 0.999)
    return _through(samples, rate, coded, "MP3", "MPEG_LAYER_III", level, "CONSTANT")


def opus(samples: Samples, rate: int, kbps: float) -> Samples:
    """Through OGG/Opus at about a bit rate in kbit/s (6 to 256).

    Raises:
        SertuneError: this libsndfile can't write it.
    """
    level = min(max((256 - kbps) / 250, 0.0), 1.0)
    return _through(samples, rate, _coded_rate(rate, _OPUS_RATES), "OGG", "OPUS", level, None)


def _coded_rate(rate: int, rates: Iterable[int]) -> int:
    """The rate itself where the codec has it, else the lowest one above, or the highest there is."""
    above = [known for known in rates if known >= rate]
    return min(above) if above else max(rates)


def _through(
    samples: Samples, rate: int, coded: int, kind: str, subtype: str, level: float, mode: str | None
) -> Samples:
    """Written and read in memory, then brought back to the same place in time and the same length."""
    if not samples.any():
        return samples.copy()
    scale = max(1.0, float(np.abs(samples).max()))
    file = io.BytesIO()
    options = {"compression_level": level} | ({"bitrate_mode": mode} if mode else {})
    try:
        soundfile.write(
            file, _resampled(samples / np.float32(scale), rate, coded), coded, subtype, format=kind, **options
        )
        file.seek(0)
        decoded, _ = soundfile.read(file, dtype="float32")
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        raise SertuneError(f"libsndfile here can't write {kind} ({' '.join(str(error).split())})") from None
    back = _resampled(decoded, coded, rate)
    return _aligned(samples, back, round(_CODEC_DELAY * rate)) * np.float32(scale)


def _aligned(reference: Samples, shifted: Samples, most: int) -> Samples:
    """``shifted`` moved by the lag of its largest correlation with ``reference``, at most ``most`` samples."""
    if not len(shifted):
        return np.zeros_like(reference)
    size = _fast_length(len(reference) + len(shifted))
    product = np.fft.rfft(shifted, size) * np.conj(np.fft.rfft(reference, size))
    correlation = np.fft.irfft(product, size)
    lags = np.arange(-most, most + 1)
    lag = int(lags[np.argmax(correlation[lags % size])])
    moved = shifted[lag:] if lag >= 0 else np.concatenate([np.zeros(-lag, np.float32), shifted])
    return _fitted(moved, len(reference))


# Rooms and faults


def reverb(samples: Samples, rate: int, rt60: float, seed: int, direct_db: float = 0.0) -> Samples:
    """A synthetic room: the direct sound in its place, then a tail of noise that falls by 60 dB in ``rt60`` seconds.

    The tail begins 2.5 ms after the direct sound, whose energy is ``direct_db`` above the tail's (0 dB is the
    critical distance of a room; a choice). The clip keeps its level.
    """
    start = max(1, round(0.0025 * rate))
    time = np.arange(max(start + 1, round(rt60 * rate))) / rate
    tail = np.random.default_rng(seed).standard_normal(len(time)) * 10 ** (-3 * time / rt60)
    tail[:start] = 0.0
    tail *= 10 ** (-direct_db / 20) / max(math.sqrt(float((tail**2).sum())), 1e-12)
    tail[0] = 1.0
    size = _fast_length(len(samples) + len(tail))
    wet = np.fft.irfft(np.fft.rfft(samples.astype(np.float64), size) * np.fft.rfft(tail, size), size)[: len(samples)]
    power, before = float(np.mean(wet**2)), float(np.mean(samples.astype(np.float64) ** 2))
    return (wet * math.sqrt(before / power)).astype(np.float32) if power else samples.copy()


def silence(samples: Samples, rate: int, before: float, after: float) -> Samples:
    """Digital silence of so many seconds before and after; the clip becomes longer."""
    return np.concatenate(
        [np.zeros(round(before * rate), np.float32), samples, np.zeros(round(after * rate), np.float32)]
    )


def dropouts(samples: Samples, rate: int, share: float, seed: int) -> Samples:
    """Silences this share of the samples, in gaps of `DROPOUT_SECONDS` that don't overlap; one sample stays."""
    lost = min(round(share * len(samples)), len(samples) - 1)
    count = max(1, round(lost / (DROPOUT_SECONDS * rate)))
    lengths = np.diff(np.linspace(0, lost, count + 1).round().astype(int))
    rng = np.random.default_rng(seed)
    between = np.sort(rng.integers(0, len(samples) - lost, count, endpoint=True))
    gapped = samples.copy()
    for begin, length in zip(between + np.cumsum(lengths) - lengths, lengths, strict=True):
        gapped[begin : begin + length] = 0
    return gapped


# Helpers


def _resampled(samples: Samples, source: int, target: int) -> Samples:
    if source == target:
        return samples
    changed: Samples = soxr.resample(samples, source, target, quality="HQ")
    return changed.astype(np.float32, copy=False)


def _fitted(samples: Samples, count: int) -> Samples:
    """Cut or filled with zeros to ``count`` samples."""
    return samples[:count] if len(samples) >= count else np.pad(samples, (0, count - len(samples)))


@functools.cache
def _fast_length(least: int) -> int:
    """The smallest 2^a 3^b 5^c that is no less: what the FFT is fast for."""
    best = 1 << max(0, (least - 1).bit_length())
    five = 1
    while five < best:
        three = five
        while three < best:
            two = three << max(0, (-(-least // three) - 1).bit_length())
            best = min(best, two)
            three *= 3
        five *= 5
    return best


# Conditions


def _conditions() -> Iterable[Condition]:
    for snr in (30, 20, 10, 5):
        yield Condition(f"white-{snr}", "noise", f"white noise, SNR {snr} dB", _white(snr))
    for snr in (30, 20, 10, 5):
        yield Condition(f"pink-{snr}", "noise", f"pink noise, SNR {snr} dB", _pinked(snr))
    for snr in (30, 20, 10, 5):
        yield Condition(f"babble-{snr}", "noise", f"babble-like noise, SNR {snr} dB", _babbled(snr))
    yield Condition("quiet-20", "level", "20 dB quieter", lambda x, rate, seed: gain(x, -20))
    yield Condition("quiet-10", "level", "10 dB quieter", lambda x, rate, seed: gain(x, -10))
    yield Condition("loud-10", "level", "10 dB louder, not clipped", lambda x, rate, seed: gain(x, 10))
    yield Condition("hot-12", "level", "peak 12 dB over full scale, clipped", lambda x, rate, seed: overdrive(x, 12))
    yield Condition("clip-1", "clipping", "1 % of the samples clipped", lambda x, rate, seed: clip_peaks(x, 0.01))
    yield Condition("clip-10", "clipping", "10 % of the samples clipped", lambda x, rate, seed: clip_peaks(x, 0.1))
    yield Condition("lowpass-4000", "bandwidth", "nothing above 4 kHz", lambda x, rate, seed: low_pass(x, rate, 4000))
    yield Condition("telephone", "bandwidth", "300 to 3400 Hz, 8 kHz, mu-law", lambda x, rate, seed: telephone(x, rate))
    yield Condition("speed-0.9", "speed", "10 % slower and lower", lambda x, rate, seed: speed(x, rate, 0.9))
    yield Condition("speed-1.1", "speed", "10 % faster and higher", lambda x, rate, seed: speed(x, rate, 1.1))
    yield Condition("mp3-32", "codec", "MP3, 32 kbit/s", lambda x, rate, seed: mp3(x, rate, 32))
    yield Condition("mp3-16", "codec", "MP3, 16 kbit/s", lambda x, rate, seed: mp3(x, rate, 16))
    yield Condition("opus-16", "codec", "Opus, about 16 kbit/s", lambda x, rate, seed: opus(x, rate, 16))
    yield Condition("opus-8", "codec", "Opus, about 8 kbit/s", lambda x, rate, seed: opus(x, rate, 8))
    yield Condition("reverb-0.3", "room", "reverberation, RT60 0.3 s", lambda x, rate, seed: reverb(x, rate, 0.3, seed))
    yield Condition("reverb-1.0", "room", "reverberation, RT60 1 s", lambda x, rate, seed: reverb(x, rate, 1.0, seed))
    yield Condition("dc-10", "faults", "constant offset of 10 % of the peak", lambda x, rate, seed: dc_offset(x, 0.1))
    yield Condition(
        "silence-before", "faults", "0.5 s of silence before", lambda x, rate, seed: silence(x, rate, 0.5, 0)
    )
    yield Condition("silence-after", "faults", "0.5 s of silence after", lambda x, rate, seed: silence(x, rate, 0, 0.5))
    yield Condition(
        "dropouts-5", "faults", "5 % lost in gaps of 20 ms", lambda x, rate, seed: dropouts(x, rate, 0.05, seed)
    )
    yield Condition(
        "dropouts-20", "faults", "20 % lost in gaps of 20 ms", lambda x, rate, seed: dropouts(x, rate, 0.2, seed)
    )


def _white(snr: float) -> Callable[[Samples, int, int], Samples]:
    return lambda x, rate, seed: white_noise(x, snr, seed)


def _pinked(snr: float) -> Callable[[Samples, int, int], Samples]:
    return lambda x, rate, seed: pink_noise(x, rate, snr, seed)


def _babbled(snr: float) -> Callable[[Samples, int, int], Samples]:
    return lambda x, rate, seed: babble_noise(x, rate, snr, seed)


CONDITIONS: Final = tuple(_conditions())


def find_conditions(names: Sequence[str] | None) -> list[Condition]:
    """The conditions of these names, or of families of them; all if None. In the order of `CONDITIONS`.

    Raises:
        SertuneError: an unknown name, with the nearest one.
    """
    if names is None:
        return list(CONDITIONS)
    families = {condition.family for condition in CONDITIONS}
    known = [condition.name for condition in CONDITIONS]
    wanted = set(names)
    for name in names:
        if name not in families and name not in known:
            raise unknown("condition", name, [*dict.fromkeys(c.family for c in CONDITIONS), *known])
    return [c for c in CONDITIONS if c.name in wanted or c.family in wanted]
