"""Speech-like emotional utterances from a seed: a source-filter synthesiser, speakers and raters.

For trying out, for tests and for the demo: small, free of rights, and with a known truth. It is no model of
human emotion, but its cues are those that the literature reports (Juslin & Laukka 2003, "Communication of
emotions in vocal expression and music performance", tables 7 and 11; Goudbeek & Scherer 2010, "Beyond
arousal"): arousal raises pitch, pitch range, level and rate and flattens the spectrum; valence moves formants
(smiling), brightness, the timing of accents and the regularity of the voice; dominance, weakly, lowers pitch
and formants. Speakers differ in pitch, vocal-tract length, tempo, timbre, level and expressiveness, and every
utterance is produced with some noise, so that no single cue tells the emotion.
"""

import io
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import soundfile
from numpy.typing import NDArray

from sertune.data.labels import DIMENSIONS
from sertune.errors import SertuneError, unknown

RATE = 16_000
"""Sampling rate in Hz."""

SCALE = (1.0, 5.0)
"""Range of the rating scale (self-assessment manikin, five pictures)."""

UTTERANCES_FILE = "utterances.csv"
RATINGS_FILE = "ratings.csv"

FELT_COLUMNS = tuple(f"felt_{dimension}" for dimension in DIMENSIONS)
"""Columns of the utterances with the affect that was spoken, on axes from -1 to 1: the truth behind the ratings."""

Signal = NDArray[np.float64]


class Affect(NamedTuple):
    """A point in the space of emotion; each axis runs from -1 to 1."""

    arousal: float
    valence: float
    dominance: float


EMOTIONS: dict[str, Affect] = {
    "anger": Affect(0.70, -0.60, 0.60),
    "boredom": Affect(-0.75, -0.10, 0.00),
    "fear": Affect(0.55, -0.60, -0.70),
    "happiness": Affect(0.55, 0.70, 0.35),
    "neutral": Affect(-0.10, 0.05, 0.10),
    "sadness": Affect(-0.70, -0.60, -0.50),
}
"""Centre of each emotion, in the order of the labels, which never depends on what is drawn."""

# Each thing drawn has its own stream of random numbers, so that adding a speaker changes no other.
_SPEAKER, _SESSION, _CLIP, _RATER, _RATING, _SENTENCE = range(6)


# ----------------------------------------------------------------------------------------------------
# Sentences


@dataclass(frozen=True)
class _Phone:
    """Targets of one speech sound: formants of an average male in Hz, levels relative to a vowel."""

    formants: tuple[float, float, float]
    voicing: float
    seconds: float = 0.0
    noise: float = 0.0
    noise_hz: float = 4000.0
    noise_width: float = 1500.0


_VOWELS = {
    "a": _Phone((730, 1150, 2450), 1.0),
    "e": _Phone((440, 1950, 2600), 0.9),
    "i": _Phone((290, 2250, 2950), 0.75),
    "o": _Phone((480, 880, 2450), 0.9),
    "u": _Phone((320, 920, 2250), 0.75),
}
_CONSONANTS = {
    "m": _Phone((250, 1100, 2200), 0.35, 0.070),
    "n": _Phone((250, 1600, 2500), 0.35, 0.065),
    "l": _Phone((340, 1250, 2800), 0.55, 0.060),
    "w": _Phone((300, 700, 2200), 0.50, 0.065),
    "b": _Phone((220, 900, 2200), 0.12, 0.055),
    "d": _Phone((220, 1700, 2650), 0.12, 0.050),
    "g": _Phone((220, 2000, 2300), 0.12, 0.055),
    "z": _Phone((260, 1700, 2600), 0.25, 0.080, 0.10, 5500.0, 1300.0),
    "s": _Phone((300, 1700, 2600), 0.0, 0.105, 0.22, 5800.0, 1300.0),
    "f": _Phone((300, 1000, 2300), 0.0, 0.095, 0.08, 4500.0, 2800.0),
    "h": _Phone((500, 1500, 2500), 0.0, 0.060, 0.08, 1600.0, 900.0),
    "p": _Phone((300, 900, 2200), 0.0, 0.085, 0.16, 900.0, 800.0),
    "t": _Phone((300, 1700, 2650), 0.0, 0.080, 0.24, 4200.0, 1500.0),
    "k": _Phone((300, 2000, 2300), 0.0, 0.090, 0.22, 2000.0, 800.0),
}
_STOPS = frozenset("bdgptk")
_BURST_SECONDS = 0.020


def sentence_text(index: int) -> str:
    """Nonsense sentence ``index``: words of open syllables (consonant, vowel), a comma where one pauses.

    The same for every seed: corpora share their sentences, as read corpora do.
    """
    rng = np.random.default_rng([_SENTENCE, index])
    words = ["".join(_syllable(rng) for _ in range(size)) for size in rng.permutation([2, 2, 3])]
    pause = int(rng.integers(0, 2))
    words[pause] += ","
    return " ".join(words)


def _syllable(rng: np.random.Generator) -> str:
    return str(rng.choice(list(_CONSONANTS))) + str(rng.choice(list(_VOWELS)))


# ----------------------------------------------------------------------------------------------------
# Who speaks, and how


@dataclass(frozen=True)
class Speaker:
    """What a speaker brings to every utterance.

    Attributes:
        name: e.g. ``"sp01"``.
        gender: ``"female"`` or ``"male"``.
        f0: habitual pitch in Hz.
        tract: factor on all formants (inverse vocal-tract length; 1 = average male).
        rate: syllables per second.
        tilt: roll-off of the source in dB per octave, beyond that of the glottal pulse.
        level: dB above the average speaker.
        expressiveness: factor on how far emotion moves the voice.
    """

    name: str
    gender: str
    f0: float
    tract: float
    rate: float
    tilt: float
    level: float
    expressiveness: float


def make_speaker(index: int, seed: int = 0) -> Speaker:
    """Speaker ``index`` of the corpus of ``seed``; even ones are female, odd ones male."""
    rng = np.random.default_rng([seed, _SPEAKER, index])

    def draw(deviation: float) -> float:
        return deviation * float(np.clip(rng.normal(), -2, 2))  # no freaks: speakers are few

    female = index % 2 == 0
    return Speaker(
        name=f"sp{index + 1:02d}",
        gender="female" if female else "male",
        f0=(205.0 if female else 115.0) * float(np.exp(draw(0.09))),
        tract=(1.15 if female else 1.0) * float(np.exp(draw(0.03))),
        rate=4.4 * float(np.exp(draw(0.08))),
        tilt=2.4 + draw(0.4),
        level=draw(1.2),
        expressiveness=float(rng.uniform(0.85, 1.2)),
    )


@dataclass(frozen=True)
class Voice:
    """How one utterance is spoken: all that the synthesiser needs to know.

    Attributes:
        f0: geometric mean of the pitch over voiced frames, in Hz.
        span: height of accents and declination, in semitones.
        accent_delay: where the pitch peak lies after the middle of an accented syllable, in seconds.
        final: movement of pitch at the end, in semitones (up > 0).
        rate: syllables per second.
        pause: pause at a comma, in seconds.
        tilt: roll-off of the source in dB per octave above 500 Hz, beyond that of the glottal pulse.
        open_quotient: part of a pitch period in which the glottis is open (0.4 pressed, 0.85 breathy).
        breath: level of aspiration noise relative to the voice, in dB.
        jitter: standard deviation of the period from one period to the next, relative.
        shimmer: standard deviation of the amplitude from one period to the next, relative.
        tract: factor on all formants.
        smile: factor on the second formant; the first and third move less.
        brightness: gain above about 2.5 kHz, in dB.
        level: RMS level of the spoken parts in dB re full scale.
    """

    f0: float
    span: float
    accent_delay: float
    final: float
    rate: float
    pause: float
    tilt: float
    open_quotient: float
    breath: float
    jitter: float
    shimmer: float
    tract: float
    smile: float
    brightness: float
    level: float


def make_voice(speaker: Speaker, affect: Affect, rng: np.random.Generator | None = None) -> Voice:
    """How ``speaker`` sounds at the point ``affect``; ``rng`` adds variation between utterances."""
    a, v, d = (speaker.expressiveness * x for x in affect)

    def noise(deviation: float) -> float:
        return 0.0 if rng is None else float(rng.normal(0, deviation))

    harshness = float(np.exp(-0.9 * v + 0.2 * abs(a) + noise(0.25)))
    return Voice(
        f0=speaker.f0 * 2 ** ((4.0 * a + 0.5 * v - 0.8 * d + noise(0.8)) / 12),
        span=4.0 * 2 ** (0.75 * a + 0.25 * v + noise(0.2)),
        accent_delay=0.03 + 0.045 * v + noise(0.015),
        final=-1.0 + 1.5 * v - 1.0 * d + noise(0.6),
        rate=speaker.rate * float(np.exp(0.16 * a + noise(0.06))),
        pause=0.15 * float(np.exp(-0.5 * a + noise(0.2))),
        tilt=float(np.clip(speaker.tilt - 1.8 * a + noise(0.3), 0.0, 6.0)),
        open_quotient=float(np.clip(0.62 - 0.13 * a + noise(0.03), 0.4, 0.85)),
        breath=-36.0 - 4.0 * a + noise(1.5),
        jitter=min(0.007 * harshness, 0.03),
        shimmer=min(0.05 * harshness, 0.25),
        tract=speaker.tract * (1 - 0.02 * d),
        smile=1.0 + 0.09 * v + noise(0.015),
        brightness=4.5 * v + noise(1.0),
        level=-30.0 + speaker.level + 7.0 * a + noise(1.5),
    )


# ----------------------------------------------------------------------------------------------------
# The synthesiser

_HOP = RATE // 200
"""Samples per control frame: 5 ms."""
_FFT = 512
_LEAD = 0.08
"""Silence before and after an utterance, in seconds."""


@dataclass(frozen=True)
class _Tracks:
    """Control tracks, one value per frame of 5 ms."""

    formants: Signal  # (frames, 3), Hz
    voicing: Signal
    noise: Signal
    noise_hz: Signal
    noise_width: Signal
    accents: tuple[tuple[float, float], ...]  # (time in seconds, weight)
    begin: float
    end: float


def make_utterance(text: str, voice: Voice, rng: np.random.Generator) -> NDArray[np.float32]:
    """Speak ``text``.

    A Rosenberg (1971) glottal pulse with jitter, shimmer and pitch-synchronous aspiration excites a cascade
    of six second-order resonators (Klatt 1980) whose coefficients move every 5 ms; band noise makes the
    unvoiced consonants.

    Args:
        text: words of consonant-vowel syllables, as :func:`sentence_text` gives; a comma is a pause.
        voice: how it is spoken.
        rng: random numbers for timing, jitter, shimmer and noise.

    Returns:
        Mono signal of shape (samples,) at 16 kHz, peak at most 0.98.

    Raises:
        SertuneError: for a text that is not made of such syllables.
    """
    tracks = _articulate(text, voice, rng)
    frames = len(tracks.voicing)
    samples = frames * _HOP
    f0 = _pitch(tracks, voice, rng)
    source = _glottal_source(f0, _to_samples(tracks.voicing), voice, rng)
    frication = 4.0 * rng.standard_normal(samples) * _to_samples(tracks.noise)
    spectrum = _frames(source) / _tract_denominator(tracks.formants, voice)
    spectrum += _frames(frication) * _noise_band(tracks.noise_hz * voice.smile, tracks.noise_width)
    signal = _overlap_add(spectrum, samples)
    active = _to_samples(((tracks.voicing + tracks.noise) > 0.05).astype(float)) > 0.5
    signal *= 10 ** (voice.level / 20) / np.sqrt(np.mean(signal[active] ** 2))
    peak = np.max(np.abs(signal))
    return np.asarray(signal * min(1.0, 0.98 / peak), dtype=np.float32)


def _syllables(text: str) -> list[list[str]]:
    """Words of two-letter syllables; a comma ends a word as its own entry."""
    words: list[list[str]] = []
    for word in text.replace(",", " , ").split():
        parts = [word] if word == "," else [word[i : i + 2] for i in range(0, len(word), 2)]
        if word != "," and not all(len(p) == 2 and p[0] in _CONSONANTS and p[1] in _VOWELS for p in parts):
            raise SertuneError(
                f"cannot speak {word!r}: expected syllables of a consonant ({''.join(_CONSONANTS)}) "
                f"and a vowel ({''.join(_VOWELS)}), e.g. {sentence_text(0)!r}"
            )
        words.append(parts)
    if all(word == [","] for word in words):
        raise SertuneError(f"cannot speak {text!r}: no syllable in it, e.g. {sentence_text(0)!r}")
    return words


def _articulate(text: str, voice: Voice, rng: np.random.Generator) -> _Tracks:
    """Lay the sounds of ``text`` on the time line and let them run into each other."""
    rest = _Phone((500, 1500, 2500), 0.0)
    segments: list[tuple[_Phone, float]] = [(rest, _LEAD)]
    accents: list[tuple[float, float]] = []
    now = _LEAD
    words = _syllables(text)
    tempo = 4.4 / voice.rate
    for number, word in enumerate(words):
        if word == [","]:
            segments.append((rest, voice.pause))
            now += voice.pause
            continue
        before_pause = number + 1 == len(words) or words[number + 1] == [","]
        for place, syllable in enumerate(word):
            stressed = place == 0
            slow = tempo * float(np.exp(rng.normal(0, 0.06)))
            long = (1.25 if stressed else 0.95) * (1.35 if before_pause and place == len(word) - 1 else 1.0)
            sounds = _consonant(syllable[0], slow)
            sounds.append((_louder(_VOWELS[syllable[1]], 1.2 if stressed else 0.9), 0.135 * slow * long))
            onset = sum(seconds for _, seconds in sounds[:-1])
            if stressed:
                accents.append((now + onset + sounds[-1][1] / 2, float(rng.uniform(0.8, 1.2))))
            segments += sounds
            now += onset + sounds[-1][1]
    segments.append((rest, _LEAD))
    return _lay(segments, tuple(accents), now)


def _louder(phone: _Phone, factor: float) -> _Phone:
    return _Phone(phone.formants, phone.voicing * factor)


def _consonant(name: str, tempo: float) -> list[tuple[_Phone, float]]:
    phone = _CONSONANTS[name]
    seconds = phone.seconds * tempo
    if name not in _STOPS:
        return [(phone, seconds)]
    closure = _Phone(phone.formants, phone.voicing)
    burst = _Phone(phone.formants, 0.0, 0.0, phone.noise or 0.12, phone.noise_hz, phone.noise_width)
    return [(closure, max(seconds - _BURST_SECONDS, 0.02)), (burst, _BURST_SECONDS)]


def _lay(segments: list[tuple[_Phone, float]], accents: tuple[tuple[float, float], ...], end: float) -> _Tracks:
    ends = np.cumsum([seconds for _, seconds in segments])
    frames = round(float(ends[-1]) * RATE / _HOP)
    which = np.searchsorted(ends, (np.arange(frames) + 0.5) * _HOP / RATE).clip(max=len(segments) - 1)
    phones = [phone for phone, _ in segments]
    # In a pause the tract holds its last shape: no glide through a neutral vowel is heard there.
    shapes = [phones[0].formants]
    for phone in phones[1:]:
        shapes.append(phone.formants if phone.voicing or phone.noise else shapes[-1])
    return _Tracks(
        formants=_smooth(np.array(shapes)[which], 0.055),
        voicing=_smooth(np.array([phone.voicing for phone in phones])[which], 0.025),
        noise=_smooth(np.array([phone.noise for phone in phones])[which], 0.015),
        noise_hz=np.array([phone.noise_hz for phone in phones])[which],
        noise_width=np.array([phone.noise_width for phone in phones])[which],
        accents=accents,
        begin=_LEAD,
        end=end,
    )


def _smooth(track: Signal, seconds: float) -> Signal:
    """Weighted running mean over ``seconds`` along the first axis; the ends are held."""
    half = max(1, round(seconds * RATE / _HOP / 2))
    kernel = np.hanning(2 * half + 3)[1:-1]
    padded = np.concatenate([np.repeat(track[:1], half, axis=0), track, np.repeat(track[-1:], half, axis=0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=0)
    return np.asarray(windows @ (kernel / kernel.sum()), dtype=np.float64)


def _to_samples(track: Signal) -> Signal:
    centres = (np.arange(len(track)) + 0.5) * _HOP
    return np.interp(np.arange(len(track) * _HOP), centres, track)


def _pitch(tracks: _Tracks, voice: Voice, rng: np.random.Generator) -> Signal:
    """F0 in Hz per frame: declination, accents, a final movement and slow drift about ``voice.f0``."""
    time = (np.arange(len(tracks.voicing)) + 0.5) * _HOP / RATE
    place = np.clip((time - tracks.begin) / (tracks.end - tracks.begin), 0, 1)
    semitones = 0.5 * voice.span * (0.5 - place)
    for moment, weight in tracks.accents:
        semitones += weight * 0.8 * voice.span * np.exp(-0.5 * ((time - moment - voice.accent_delay) / 0.07) ** 2)
    semitones += voice.final * np.clip((place - 0.8) / 0.2, 0, 1) ** 2
    semitones += _smooth(rng.normal(0, 1.0, len(time)), 0.12)
    semitones -= np.average(semitones, weights=tracks.voicing)
    return np.asarray(voice.f0 * 2 ** (semitones / 12), dtype=np.float64)


def _glottal_source(f0: Signal, voicing: Signal, voice: Voice, rng: np.random.Generator) -> Signal:
    """Derivative of the glottal flow, tilted, with RMS ``voicing``, and aspiration; (samples,)."""
    # Jitter: the period wanders at about the rate of the periods themselves, along the 5 ms grid.
    jittered = f0 * (1 + voice.jitter * rng.standard_normal(len(f0)))
    turns = np.cumsum(_to_samples(jittered)) / RATE
    period = turns.astype(np.int64)
    phase = turns - period
    shimmer = np.maximum(1 + voice.shimmer * rng.standard_normal(int(period[-1]) + 1), 0.1)
    rise, fall = 0.68 * voice.open_quotient, 0.32 * voice.open_quotient
    flow = np.where(
        phase < rise,
        0.5 - 0.5 * np.cos(np.pi * phase / rise),
        np.cos(0.5 * np.pi * np.clip((phase - rise) / fall, 0, 1)),
    )
    # The flow is sampled, then differenced: its spectrum falls by 12 dB per octave, so little of it aliases.
    pulses = np.diff(flow * shimmer[period] * voicing, prepend=0.0)
    pulses = _shape(pulses, voice)
    pulses *= np.sqrt(np.mean(voicing**2) / np.mean(pulses**2))
    aspiration = rng.standard_normal(len(pulses)) * (0.3 + flow) * voicing
    aspiration *= 10 ** (voice.breath / 20) * np.sqrt(np.mean(pulses**2) / np.mean(aspiration**2))
    return np.asarray(pulses + aspiration, dtype=np.float64)


def _shape(signal: Signal, voice: Voice) -> Signal:
    """Spectral tilt and brightness, without phase."""
    hertz = np.fft.rfftfreq(len(signal), 1 / RATE)
    decibels = -voice.tilt * 0.5 * np.log2(1 + (hertz / 500) ** 2)
    decibels += voice.brightness / (1 + np.exp(-(hertz - 2500) / 400))
    return np.fft.irfft(np.fft.rfft(signal) * 10 ** (decibels / 20), len(signal))


def _frames(signal: Signal) -> NDArray[np.complex128]:
    """Spectra of 10 ms Hann windows every 5 ms, zero-padded so that a filter can ring; (frames + 1, bins)."""
    padded = np.concatenate([np.zeros(_HOP), signal, np.zeros(_HOP)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _HOP)[::_HOP]
    hann = 0.5 - 0.5 * np.cos(np.pi * np.arange(2 * _HOP) / _HOP)
    return np.fft.rfft(windows * hann, _FFT)


def _overlap_add(spectrum: NDArray[np.complex128], samples: int) -> Signal:
    blocks = np.fft.irfft(spectrum, _FFT)
    blocks = np.pad(blocks, ((0, 0), (0, -_FFT % _HOP)))
    parts = blocks.shape[1] // _HOP
    out = np.zeros((len(blocks) + parts, _HOP))
    for part in range(parts):
        out[part : part + len(blocks)] += blocks[:, part * _HOP : (part + 1) * _HOP]
    return out.reshape(-1)[_HOP : _HOP + samples]


def _edges(track: Signal) -> Signal:
    """A control track at the windows of :func:`_frames`, which lie on the borders of the control frames."""
    return np.concatenate([track[:1], 0.5 * (track[1:] + track[:-1]), track[-1:]])


def _tract_denominator(formants: Signal, voice: Voice) -> NDArray[np.complex128]:
    """One over the transfer function of the vocal tract at each window; (frames + 1, bins).

    Klatt's resonator: y[n] = A x[n] + B y[n-1] + C y[n-2], C = -exp(-2 pi bw T), B = 2 exp(-pi bw T)
    cos(2 pi f T), A = 1 - B - C (gain 1 at 0 Hz).
    """
    first, second, third = _edges(formants).T * voice.tract
    tracks = [first * voice.smile**0.3, second * voice.smile, third * voice.smile**0.5]
    tracks += [np.full_like(first, hertz * voice.tract) for hertz in (3500, 4500, 5500)]
    widths = [70 + 60 * voice.open_quotient, 90.0, 140.0, 220.0, 300.0, 400.0]
    denominator = np.ones((len(first), 1))
    for track, width in zip(tracks, widths, strict=True):
        c = -np.exp(-2 * np.pi * width / RATE)
        b = 2 * np.exp(-np.pi * width / RATE) * np.cos(2 * np.pi * track / RATE)
        product = np.zeros((len(first), denominator.shape[1] + 2))
        product[:, :-2] += denominator
        product[:, 1:-1] -= denominator * b[:, None]
        product[:, 2:] -= denominator * c
        denominator = product / (1 - b - c)[:, None]
    return np.fft.rfft(denominator, _FFT)


def _noise_band(centre: Signal, width: Signal) -> Signal:
    hertz = np.fft.rfftfreq(_FFT, 1 / RATE)
    return np.asarray(np.exp(-0.5 * ((hertz - _edges(centre)[:, None]) / _edges(width)[:, None]) ** 2))


# ----------------------------------------------------------------------------------------------------
# Rooms


def record(signal: NDArray[np.float32], room: np.random.Generator, noise: np.random.Generator) -> NDArray[np.float32]:
    """The signal as a microphone takes it: its gain, its tilt and its noise floor are drawn from ``room``.

    Args:
        signal: (samples,) at 16 kHz.
        room: the same stream for all clips of a session gives all the same room.
        noise: random numbers for the noise itself.
    """
    gain, tilt, floor = room.normal(0, 1.0), room.normal(0, 0.3), room.uniform(-72, -62)
    hertz = np.fft.rfftfreq(len(signal), 1 / RATE)
    colour = 10 ** (-tilt * 0.5 * np.log2(1 + (hertz / 500) ** 2) / 20)
    taken = np.fft.irfft(np.fft.rfft(signal.astype(np.float64)) * colour, len(signal)) * 10 ** (gain / 20)
    taken += 10 ** (floor / 20) * noise.standard_normal(len(signal))
    peak = np.max(np.abs(taken))
    return np.asarray(taken * min(1.0, 0.98 / peak), dtype=np.float32)


# ----------------------------------------------------------------------------------------------------
# Raters


@dataclass(frozen=True)
class Rater:
    """Someone who rates.

    Attributes:
        name: e.g. ``"r01"``.
        bias: shift on each dimension, in steps of the scale.
        spread: factor on the distance from the middle of the scale (below 1: avoids the ends).
        noise: standard deviation of what is perceived, on the axes of :class:`Affect`.
    """

    name: str
    bias: Affect
    spread: float
    noise: float

    def perceive(self, affect: Affect, rng: np.random.Generator) -> Affect:
        """The point as this rater hears it."""
        return Affect(*(x + float(rng.normal(0, self.noise)) for x in affect))

    def rate(self, perceived: Affect) -> tuple[int, int, int]:
        """Arousal, valence and dominance on the scale 1 to 5."""
        low, high = SCALE
        middle, half = (low + high) / 2, (high - low) / 2
        marks = (middle + b + half * self.spread * x for x, b in zip(perceived, self.bias, strict=True))
        arousal, valence, dominance = (round(min(max(mark, low), high)) for mark in marks)
        return arousal, valence, dominance


def make_rater(index: int, seed: int = 0) -> Rater:
    """Rater ``index`` of the corpus of ``seed``."""
    rng = np.random.default_rng([seed, _RATER, index])
    return Rater(
        name=f"r{index + 1:02d}",
        bias=Affect(*(float(x) for x in rng.normal(0, 0.35, 3))),
        spread=float(rng.uniform(0.75, 1.15)),
        noise=float(rng.uniform(0.2, 0.45)),
    )


def nearest_emotion(affect: Affect, emotions: Sequence[str]) -> str:
    """The emotion whose centre is closest to ``affect``."""
    return min(emotions, key=lambda name: sum((x - y) ** 2 for x, y in zip(affect, EMOTIONS[name], strict=True)))


def majority(votes: Sequence[str], intended: str, emotions: Sequence[str]) -> str:
    """The label with most votes; in a tie the intended one if it is in it, else the first of ``emotions``."""
    counts = Counter(votes)
    most = max(counts.values())
    tied = [name for name in emotions if counts[name] == most]
    return intended if intended in tied else tied[0]


# ----------------------------------------------------------------------------------------------------
# The corpus


def write_corpus(
    root: str | Path,
    *,
    speakers: int = 8,
    sentences: int = 6,
    per_emotion: int = 8,
    emotions: Sequence[str] = ("anger", "happiness", "neutral", "sadness"),
    raters: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a corpus: ``wav/*.wav`` (16 kHz, 16 bit, mono), ``utterances.csv`` and ``ratings.csv``.

    Everything follows from the arguments: the same ones give the same bytes (on one machine and version of
    numpy). A speaker or a rater stays the same whatever the number of the others. ``root`` appears only
    when it is complete.

    Consensus: ``arousal``, ``valence``, ``dominance`` are the means of 3 to 5 raters, ``emotion`` their
    majority (see :func:`majority` for ties), so it is not always what was acted; that is in ``intended``, and
    the point that was spoken in :data:`FELT_COLUMNS`. :func:`sertune.data.panel.write_rated_corpus` has other raters.

    Args:
        root: folder to make; it must be missing or empty.
        speakers: at least 3; the last quarter is the test part, the quarter before that the dev part.
        sentences: nonsense sentences, spoken by all in turn.
        per_emotion: clips per speaker and emotion.
        emotions: two or more of :data:`EMOTIONS`.
        raters: at least 3.
        seed: of everything but the sentences.
        progress: called with (clips done, clips in all) after each clip.

    Returns:
        ``root``.

    Raises:
        SertuneError: for a folder that is not empty or cannot be written, or an argument out of range.
    """
    root = Path(root)
    labels = _check(root, speakers, sentences, per_emotion, emotions, raters, seed)
    crew = [make_rater(i, seed) for i in range(raters)]
    plan = [(s, e, k) for s in range(speakers) for e in labels for k in range(per_emotion)]
    target = root.resolve()
    work = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        (work / "wav").mkdir(parents=True)
        rows: list[dict[str, object]] = []
        ratings: list[tuple[str, str, str, object]] = []
        for done, (s, emotion, take) in enumerate(plan, 1):
            row, votes = _clip(work, s, emotion, take, labels, sentences, speakers, crew, seed)
            rows.append(row)
            ratings += votes
            if progress is not None:
                progress(done, len(plan))
        pd.DataFrame(ratings, columns=["utterance", "rater", "attribute", "value"]).to_csv(
            work / RATINGS_FILE, index=False, lineterminator="\n"
        )
        pd.DataFrame(rows).to_csv(work / UTTERANCES_FILE, index=False, lineterminator="\n")
        if target.is_dir():
            target.rmdir()  # it is empty: not every system renames onto a folder
        work.replace(target)
    except OSError as error:
        raise SertuneError(f"{root}: can't write the synthetic corpus there ({error.strerror or error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return root


def _check(
    root: Path,
    speakers: int,
    sentences: int,
    per_emotion: int,
    emotions: Sequence[str],
    raters: int,
    seed: int,
) -> list[str]:
    """The emotions in the order of the labels, once all arguments are right."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise SertuneError(f"{root}: exists and is not an empty folder; name another one for the synthetic corpus")
    least = {"speakers": (speakers, 3), "sentences": (sentences, 1), "per_emotion": (per_emotion, 1)}
    least |= {"raters": (raters, 3), "seed": (seed, 0)}
    for name, (value, lowest) in least.items():
        if value < lowest:
            raise SertuneError(f"synthetic corpus: {name} is {value}, expected at least {lowest}")
    for emotion in emotions:
        if emotion not in EMOTIONS:
            raise unknown("emotion of the synthetic corpus", emotion, EMOTIONS)
    if len(set(emotions)) < 2:
        raise SertuneError("synthetic corpus: expected at least two different emotions")
    return [name for name in EMOTIONS if name in emotions]


def _clip(
    folder: Path,
    number: int,
    emotion: str,
    take: int,
    labels: Sequence[str],
    sentences: int,
    speakers: int,
    crew: Sequence[Rater],
    seed: int,
) -> tuple[dict[str, object], list[tuple[str, str, str, object]]]:
    """Speak, record, write and rate one clip; its row of the table and its ratings."""
    code = list(EMOTIONS).index(emotion)
    speaker = make_speaker(number, seed)
    sentence = (take + number + code) % sentences  # so that no sentence goes with an emotion or a speaker
    session = take % 2
    rng = np.random.default_rng([seed, _CLIP, number, code, take])
    affect = Affect(*(float(np.clip(x + rng.normal(0, 0.16), -1, 1)) for x in EMOTIONS[emotion]))
    text = sentence_text(sentence)
    signal = make_utterance(text, make_voice(speaker, affect, rng), rng)
    signal = record(signal, np.random.default_rng([seed, _SESSION, number, session]), rng)
    name = f"{speaker.name}_s{sentence + 1:02d}_{emotion}_{take + 1:02d}"
    packed = io.BytesIO()  # a full disk is an OSError here; libsndfile would only fail an assertion
    soundfile.write(packed, signal, RATE, subtype="PCM_16", format="WAV")
    (folder / "wav" / f"{name}.wav").write_bytes(packed.getvalue())

    rng = np.random.default_rng([seed, _RATING, number, code, take])
    chosen = sorted(rng.choice(len(crew), size=int(rng.integers(3, min(5, len(crew)) + 1)), replace=False))
    ratings: list[tuple[str, str, str, object]] = []
    votes: list[str] = []
    marks: list[tuple[int, int, int]] = []
    for rater in (crew[i] for i in chosen):
        perceived = rater.perceive(affect, rng)
        votes.append(nearest_emotion(perceived, labels))
        marks.append(rater.rate(perceived))
        ratings.append((name, rater.name, "emotion", votes[-1]))
        ratings += [(name, rater.name, d, mark) for d, mark in zip(DIMENSIONS, marks[-1], strict=True)]
    row: dict[str, object] = {
        "id": name,
        "file": f"wav/{name}.wav",
        "duration": len(signal) / RATE,
        "speaker": speaker.name,
        "gender": speaker.gender,
        "language": "zxx",  # ISO 639-2: no linguistic content
        "session": f"{speaker.name}-{session + 1}",
        "text": text,
        "partition": _partition(number, speakers),
        "emotion": majority(votes, emotion, labels),
    }
    row |= {d: round(float(m), 4) for d, m in zip(DIMENSIONS, np.mean(marks, axis=0), strict=True)}
    row["intended"] = emotion
    return row | {name: round(x, 4) for name, x in zip(FELT_COLUMNS, affect, strict=True)}, ratings


def _partition(number: int, speakers: int) -> str:
    part = max(1, speakers // 4)
    if number >= speakers - part:
        return "test"
    return "dev" if number >= speakers - 2 * part else "train"
