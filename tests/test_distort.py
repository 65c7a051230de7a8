"""Distortions: what they promise in numbers, on a clip like speech, on short clips and on silence."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from sertune.data import distort
from sertune.data.distort import CONDITIONS, Condition, find_conditions
from sertune.errors import SertuneError

RATE = 16000


@pytest.fixture(scope="module")
def clip() -> NDArray[np.float32]:
    """Two seconds of noise with formant-like bands, in bursts like syllables; peak about .3."""
    rng = np.random.default_rng(0)
    noise = distort._shaped(2 * RATE, RATE, lambda f: 1 / (1 + (f / 900) ** 2) + 0.02, rng)
    bursts = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * np.arange(2 * RATE) / RATE)
    voiced = noise * bursts
    return np.asarray(0.3 * voiced / np.abs(voiced).max(), dtype=np.float32)


def power(samples: NDArray[np.float32]) -> float:
    return float(np.mean(samples.astype(np.float64) ** 2))


def band_power(samples: NDArray[np.float32], low: float, high: float) -> float:
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    frequency = np.fft.rfftfreq(len(samples), 1 / RATE)
    return float(spectrum[(frequency >= low) & (frequency < high)].sum())


def lag(reference: NDArray[np.float32], other: NDArray[np.float32]) -> int:
    """How many samples ``other`` comes later."""
    size = 2 * max(len(reference), len(other))
    correlation = np.fft.irfft(np.fft.rfft(other, size) * np.conj(np.fft.rfft(reference, size)), size)
    place = int(correlation.argmax())
    return place if place < size // 2 else place - size


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda c: c.name)
def test_every_condition_is_sound(condition: Condition, clip: NDArray[np.float32]) -> None:
    given = clip.copy()
    changed = condition.apply(clip, RATE, 7)
    assert changed.dtype == np.float32
    assert changed.ndim == 1
    assert np.isfinite(changed).all()
    assert not np.array_equal(changed, clip)
    np.testing.assert_array_equal(clip, given)  # the clip itself stays
    np.testing.assert_array_equal(condition.apply(clip, RATE, 7), changed)
    if condition.family == "speed":
        assert len(changed) == pytest.approx(len(clip) / float(condition.name.split("-")[1]), abs=2)
    else:
        assert len(changed) == len(clip) + (RATE // 2 if condition.name.startswith("silence") else 0)


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda c: c.name)
@pytest.mark.parametrize("samples", [np.zeros(RATE), np.full(1, 0.5), np.linspace(-1, 1, 40), np.zeros(1)], ids=len)
def test_silent_and_short_clips_survive(condition: Condition, samples: NDArray[np.float64]) -> None:
    changed = condition.apply(samples.astype(np.float32), RATE, 0)
    assert changed.dtype == np.float32
    assert len(changed) >= 1
    assert np.isfinite(changed).all()


@pytest.mark.parametrize("snr", [30, 5, 0, -5])
@pytest.mark.parametrize("kind", ["white", "pink", "babble"])
def test_noise_has_the_ratio_asked_for(clip: NDArray[np.float32], kind: str, snr: float) -> None:
    if kind == "white":
        noisy = distort.white_noise(clip, snr, 1)
    else:
        noisy = {"pink": distort.pink_noise, "babble": distort.babble_noise}[kind](clip, RATE, snr, 1)
    assert 10 * np.log10(power(clip) / power(noisy - clip)) == pytest.approx(snr, abs=0.1)


def test_noises_have_their_spectra(clip: NDArray[np.float32]) -> None:
    def octaves(kind: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> tuple[float, float]:
        noise = np.mean([[band_power(kind(clip) - clip, low, 2 * low) for low in (500, 2000)]], axis=0)
        return float(noise[0]), float(noise[1])

    low, high = octaves(lambda x: distort.white_noise(x, 0, 2))
    assert high / low == pytest.approx(4, rel=0.2)  # an octave is four times as wide
    low, high = octaves(lambda x: distort.pink_noise(x, RATE, 0, 2))
    assert high / low == pytest.approx(1, rel=0.2)
    low, high = octaves(lambda x: distort.babble_noise(x, RATE, 0, 2))
    assert high / low < 0.2


def test_seeds_draw_other_noise(clip: NDArray[np.float32]) -> None:
    assert not np.array_equal(distort.babble_noise(clip, RATE, 5, 1), distort.babble_noise(clip, RATE, 5, 2))
    # the same noise at every ratio, so that conditions differ by the ratio alone
    loud, faint = (distort.pink_noise(clip, RATE, snr, 3) - clip for snr in (0, 20))
    np.testing.assert_allclose(loud, 10 * faint, atol=1e-5)


def test_levels(clip: NDArray[np.float32]) -> None:
    assert 10 * np.log10(power(distort.gain(clip, 10)) / power(clip)) == pytest.approx(10, abs=1e-3)
    np.testing.assert_array_equal(distort.gain(clip, 0), clip)
    assert np.abs(distort.gain(clip, 20)).max() > 1  # louder is not clipped
    hot = distort.overdrive(clip, 12)
    assert np.abs(hot).max() == 1
    clear = np.abs(clip) < np.abs(clip).max() / 5
    np.testing.assert_allclose(hot[clear], clip[clear] * 10 ** (12 / 20) / np.abs(clip).max(), rtol=1e-5)


def test_clipping_clips_the_share_asked_for(clip: NDArray[np.float32]) -> None:
    clipped = distort.clip_peaks(clip, 0.1)
    assert np.mean(clipped != clip) == pytest.approx(0.1, abs=0.001)
    np.testing.assert_array_equal(distort.clip_peaks(clip, 0.0), clip)


def test_an_offset_is_a_share_of_the_peak(clip: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(distort.dc_offset(clip, 0.1) - clip, 0.1 * np.abs(clip).max(), rtol=1e-4)


def test_low_pass(clip: NDArray[np.float32]) -> None:
    low = distort.low_pass(clip, RATE, 4000)
    assert band_power(low, 4050, 8001) < 1e-4 * band_power(clip, 4050, 8001)
    assert band_power(low - clip, 0, 3700) < 1e-4 * band_power(clip, 0, 3700)
    np.testing.assert_array_equal(distort.low_pass(clip, 8000, 4000), clip)


def test_nothing_is_left_outside_the_telephone_band(clip: NDArray[np.float32]) -> None:
    line = distort.telephone(clip, RATE)
    for low, high in ((0, 280), (3500, 8001)):
        assert band_power(line, low, high) < 1e-4 * band_power(clip, low, high)
    assert band_power(line, 400, 3100) == pytest.approx(band_power(clip, 400, 3100), rel=0.05)
    assert lag(clip, line) == 0


def test_mu_law_keeps_faint_and_loud_alike() -> None:
    levels = np.array([0.0, 1.0, -1.0, 2.0], np.float32)
    np.testing.assert_allclose(distort.mu_law(levels), [0, 1, -1, 1], atol=1e-6)
    wave = np.sin(np.arange(4000) / 7).astype(np.float32)
    for scale in (1.0, 0.1):
        error = power(distort.mu_law(wave * np.float32(scale)) - wave * np.float32(scale))
        assert 30 < 10 * np.log10(power(wave) * scale**2 / error) < 42  # some 38 dB over a range of 40 dB


def test_speed_changes_length_and_pitch() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    fast = distort.speed(tone, RATE, 1.1)
    assert np.fft.rfftfreq(len(fast), 1 / RATE)[np.abs(np.fft.rfft(fast)).argmax()] == pytest.approx(1100, abs=5)
    np.testing.assert_array_equal(distort.speed(tone, RATE, 1.0), tone)


@pytest.mark.parametrize("rate", [8000, 16000, 20000, 44100])
@pytest.mark.parametrize("codec", [distort.mp3, distort.opus])
def test_codecs_keep_place_and_length(
    clip: NDArray[np.float32], codec: Callable[[NDArray[np.float32], int, float], NDArray[np.float32]], rate: int
) -> None:
    loud = clip * np.float32(5)  # beyond full scale
    coded = codec(loud, rate, 32)
    assert len(coded) == len(clip)
    assert abs(lag(loud, coded)) <= 1
    assert np.corrcoef(loud, coded)[0, 1] > 0.6


def test_codecs_have_the_bit_rate_asked_for(clip: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    long = np.tile(clip, 5)
    sizes: list[int] = []
    real = soundfile.write

    def write(file: io.BytesIO, *args: object, **kwargs: object) -> None:
        real(file, *args, **kwargs)
        sizes.append(file.tell())

    monkeypatch.setattr("sertune.data.distort.soundfile.write", write)
    for codec, kbps in ((distort.mp3, 16), (distort.mp3, 32), (distort.opus, 16), (distort.opus, 8)):
        codec(long, RATE, kbps)
        assert sizes[-1] * 8 / 10 / 1000 == pytest.approx(kbps, rel=0.3)


def test_a_codec_that_is_missing_is_said(clip: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise soundfile.LibsndfileError(1, "no encoder: ")

    monkeypatch.setattr("sertune.data.distort.soundfile.write", refuse)
    with pytest.raises(SertuneError, match="libsndfile here can't write OGG"):
        distort.opus(clip, RATE, 16)


def test_a_room_decays_as_stated_and_keeps_the_direct_sound() -> None:
    click = np.zeros(2 * RATE, np.float32)
    click[100] = 1
    room = distort.reverb(click, RATE, 0.5, 0)
    assert int(np.abs(room).argmax()) == 100
    assert np.abs(room[:100]).max() < 1e-6
    assert np.abs(room[101:138]).max() < 1e-6  # 2.5 ms
    tail = room[140:].astype(np.float64)
    assert power(room[100:101]) == pytest.approx((tail**2).sum(), rel=0.01)
    decay = np.cumsum(tail[::-1] ** 2)[::-1]  # Schroeder's backward integration
    level = 10 * np.log10(decay[decay > 0] / decay[0])
    fall = np.interp([-5, -25], level[::-1], np.arange(len(level))[::-1])
    assert 3 * (fall[1] - fall[0]) / RATE == pytest.approx(0.5, rel=0.1)
    assert power(room) == pytest.approx(power(click), rel=1e-3)


def test_silence_is_added_where_asked(clip: NDArray[np.float32]) -> None:
    longer = distort.silence(clip, RATE, 0.5, 0.25)
    np.testing.assert_array_equal(longer[8000:-4000], clip)
    assert not longer[:8000].any()
    assert not longer[-4000:].any()
    np.testing.assert_array_equal(distort.silence(clip, RATE, 0, 0), clip)


def test_dropouts_lose_the_share_asked_for() -> None:
    ones = np.ones(RATE, np.float32)
    gapped = distort.dropouts(ones, RATE, 0.2, 3)
    assert (gapped == 0).mean() == pytest.approx(0.2, abs=1e-4)
    edges = np.flatnonzero(np.diff(gapped))
    assert len(edges) > 8  # several gaps, not one
    np.testing.assert_array_equal(distort.dropouts(ones, RATE, 0.0, 3), ones)


def test_conditions_by_name_and_family() -> None:
    assert [c.name for c in find_conditions(None)] == [c.name for c in CONDITIONS]
    assert len({c.name for c in CONDITIONS}) == len(CONDITIONS)
    assert [c.name for c in find_conditions(["telephone", "room", "telephone"])] == [
        "telephone",
        "reverb-0.3",
        "reverb-1.0",
    ]
    with pytest.raises(SertuneError, match="unknown condition 'telefone'; did you mean 'telephone'"):
        find_conditions(["telefone"])
