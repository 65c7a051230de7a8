"""Augmentation of samples: what is asked for is what comes out."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sertune.config import AugmentConfig, from_flags
from sertune.data.waveform import augment_waveform, waveform_active
from sertune.errors import SertuneError

RATE = 16000


def tone(seconds: float = 1.0, hertz: float = 440.0) -> NDArray[np.float32]:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def changed(audio: NDArray[np.float32], seed: int = 0, **options: Any) -> NDArray[np.float32]:
    config = AugmentConfig(**options)
    assert waveform_active(config)
    return augment_waveform(audio, RATE, config, np.random.default_rng(seed))


def decibels(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.square(one, dtype=float).mean() / np.square(other, dtype=float).mean()))


def test_off_is_the_very_same_audio() -> None:
    audio = tone()
    assert not waveform_active(AugmentConfig())
    assert np.array_equal(augment_waveform(audio, RATE, AugmentConfig(), np.random.default_rng(0)), audio)


@pytest.mark.parametrize("ratio", [-5.0, 10.0, 30.0])
def test_the_noise_has_the_level_asked_for(ratio: float) -> None:
    audio = tone()
    noise = changed(audio, wave_noise=[ratio, ratio]) - audio
    assert decibels(audio, noise) == pytest.approx(ratio, abs=0.05)
    assert abs(float(np.corrcoef(noise[1:], noise[:-1])[0, 1])) < 0.05, "not white"


def test_the_level_of_the_noise_is_drawn_from_the_whole_range() -> None:
    audio = tone(0.2)
    found = [decibels(audio, changed(audio, seed, wave_noise=[10.0, 30.0]) - audio) for seed in range(60)]
    assert 9.9 < min(found) < 14 < 26 < max(found) < 30.1


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_the_share_asked_for_is_zeroed_in_spans(share: float) -> None:
    audio = np.ones(3 * RATE, dtype=np.float32)
    masks = [changed(audio, seed, wave_mask=share) == 0 for seed in range(20)]
    for mask in masks:
        assert mask.mean() == pytest.approx(share, abs=1e-4)
        starts = np.flatnonzero(np.diff(mask.astype(int), prepend=0) == 1)
        assert len(starts) <= np.ceil(share * 30), "shorter spans than a tenth of a second"
    assert 0.5 * share < np.mean(masks, axis=0)[: RATE // 2].mean() < 1.5 * share, "the beginning is spared"


def test_speed_changes_length_and_pitch() -> None:
    audio = tone(2.0)
    fast, slow = changed(audio, wave_speed=[1.25, 1.25]), changed(audio, wave_speed=[0.8, 0.8])
    assert len(fast) == pytest.approx(len(audio) / 1.25, abs=2)
    assert len(slow) == pytest.approx(len(audio) / 0.8, abs=2)
    for samples, hertz in ((fast, 550), (slow, 352)):
        peak = np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples)
        assert peak == pytest.approx(hertz, abs=2)


def test_gain_goes_both_ways_within_its_limit() -> None:
    audio = tone(0.1)
    found = [decibels(changed(audio, seed, wave_gain=6.0), audio) for seed in range(40)]
    assert -6.01 < min(found) < -3 < 3 < max(found) < 6.01


def test_a_channel_changes_the_spectrum_smoothly_and_not_the_timing() -> None:
    noise = np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    gains = []
    for seed in range(40):
        heard = changed(noise, seed, wave_channel=6.0)
        assert len(heard) == len(noise)
        ratio = np.abs(np.fft.rfft(heard)) / np.abs(np.fft.rfft(noise))
        gains.append(20 * np.log10(ratio[100 : int(0.97 * len(ratio)) : len(ratio) // 40]))
        assert np.argmax(np.correlate(heard[:4000], noise[:4000], "full")) == pytest.approx(3999, abs=8)
    low = np.array(gains)[:, :8]
    assert 2 < low.std() < 8
    assert np.abs(np.diff(low, axis=1)).mean() < low.std()
    cut = np.mean([gain[-1] < -40 for gain in gains])
    assert 0.15 < cut < 0.65, "some channels end early"


def test_a_room_rings_on_and_keeps_the_direct_sound() -> None:
    click = np.zeros(RATE, dtype=np.float32)
    click[100] = 1.0
    energies = []
    for seed in range(20):
        heard = changed(click, seed, wave_reverb=[0.5, 0.5])
        assert np.argmax(np.abs(heard)) == 100
        assert heard[100] == pytest.approx(1.0, abs=1e-4)
        assert np.abs(heard[:100]).max() < 1e-5
        energies.append(float(np.square(heard[101:]).sum()))
        tail = np.square(heard[101 : 101 + RATE // 2])
        assert tail[: RATE // 20].sum() >= 10 * tail[-RATE // 20 :].sum()
    assert 0 <= min(energies) < 0.1 < max(energies) <= 0.26


@pytest.mark.parametrize("samples", [1, 2, 40, 12345])
def test_equal_draws_give_equal_audio_that_is_finite_and_not_empty(samples: int) -> None:
    options: dict[str, Any] = {
        "wave_noise": [10.0, 30.0],
        "wave_mask": 0.5,
        "wave_speed": [0.5, 2.0],
        "wave_gain": 20.0,
        "wave_channel": 6.0,
        "wave_reverb": [0.1, 0.6],
    }
    audio = np.random.default_rng(1).standard_normal(samples).astype(np.float32)
    before = audio.copy()
    results = [changed(audio, seed, **options) for seed in (3, 3, 4)]
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    for result in [*results, changed(np.zeros(samples, dtype=np.float32), **options)]:
        assert result.dtype == np.float32
        assert len(result)
        assert np.isfinite(result).all()
    assert np.array_equal(audio, before), "the clip itself was changed"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--augment.wave_noise", "10"], "augment.wave_noise = [10.0]: expected two ratios in dB"),
        (["--augment.wave_noise", "30", "10"], "the smaller one first"),
        (["--augment.wave_mask", "1"], "augment.wave_mask = 1.0: expected a share"),
        (["--augment.wave_speed", "0", "1"], "augment.wave_speed = [0.0, 1.0]: expected two factors from 0.5 to 2"),
        (["--augment.wave_gain", "-3"], "augment.wave_gain = -3.0: expected 0 or more"),
        (["--augment.wave_gain", "6"], "augment.wave_gain = 6: has no effect, as audio.level brings every clip"),
        (["--augment.wave_channel", "50"], "augment.wave_channel = 50.0: expected dB, at most 40"),
        (["--augment.wave_reverb", "0.6", "0.1"], "the smaller one first, or none"),
    ],
)
def test_settings_that_make_no_sense(flags: list[str], words: str) -> None:
    with pytest.raises(SertuneError) as caught:
        from_flags(flags)
    assert words in str(caught.value)
