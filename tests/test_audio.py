"""Audio files as users have them: every format, and every way of being broken."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from sertune.data.audio import (
    as_mono,
    audio_info,
    find_audio,
    read_audio,
    resample,
    samples_digest,
)
from sertune.errors import AudioError, SertuneError

RATE = 16000


def tone(seconds: float, rate: int, frequency: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def refused(file: Path, words: str, **options: float) -> None:
    with pytest.raises(AudioError, match=words) as caught:
        read_audio(file, RATE, **options)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000, 384000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_mono_or_stereo_gives_the_same_tone(tmp_path: Path, rate: int, channels: int) -> None:
    file = tmp_path / "a b ü.wav"
    soundfile.write(file, np.stack([tone(0.5, rate)] * channels, axis=1), rate, subtype="FLOAT")
    audio = read_audio(file, RATE)
    assert audio.dtype == np.float32
    assert audio.shape == (RATE // 2,)
    middle = slice(1000, -1000)
    np.testing.assert_allclose(audio[middle], tone(0.5, RATE)[middle], atol=2e-3)
    info = audio_info(file)
    assert (info.seconds, info.rate, info.channels) == (0.5, rate, channels)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == ".opus" else {}
    soundfile.write(file, tone(1.0, RATE), RATE, **options)
    audio = read_audio(file, RATE)
    assert abs(len(audio) - RATE) < 0.1 * RATE
    assert np.abs(audio[4000:8000]).max() == pytest.approx(0.5, abs=0.05)


def test_stereo_is_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "s.wav", np.array([[0.5, 0.25]] * 800), RATE, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "s.wav", RATE), np.full(800, 0.375, np.float32))


def test_segments_and_crop_are_cut_from_the_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.flac"
    soundfile.write(file, np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE), RATE)
    whole = read_audio(file, RATE)
    np.testing.assert_array_equal(read_audio(file, RATE, start=0.5, end=1.25), whole[8000:20000])
    np.testing.assert_array_equal(read_audio(file, RATE, start=1.5), whole[24000:])
    np.testing.assert_array_equal(read_audio(file, RATE, end=0.25), whole[:4000])
    np.testing.assert_array_equal(read_audio(file, RATE, start=0.5, end=1.25, crop=0.5), whole[8000:16000])
    np.testing.assert_array_equal(read_audio(file, RATE, crop=9.0), whole)
    # Tables round their times.
    np.testing.assert_array_equal(read_audio(file, RATE, start=1.5, end=2.05), whole[24000:])


def test_only_the_segment_is_read(tmp_path: Path) -> None:
    """Damage elsewhere in the file does no harm: a long file costs what its segment costs."""
    audio = tone(2.0, RATE)
    audio[: RATE // 2] = np.nan
    soundfile.write(tmp_path / "a.wav", audio, RATE, subtype="FLOAT")
    assert len(read_audio(tmp_path / "a.wav", RATE, start=1.0, end=1.5)) == RATE // 2
    refused(tmp_path / "a.wav", "NaN")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": 1.0}, r"starts at 1 s, but the file lasts 1\.000 s"),
        ({"start": -0.5}, "starts at -0.5 s"),
        ({"end": 1.5}, r"ends at 1\.5 s, but the file lasts"),
        ({"start": 0.5, "end": 0.5}, "not after its start"),
        ({"start": 0.5, "end": 0.2}, "not after its start"),
        ({"start": 0.5, "end": 0.500001}, "no samples"),
    ],
)
def test_bad_segments(tmp_path: Path, options: dict[str, float], words: str) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0, RATE), RATE)
    refused(tmp_path / "a.wav", words, **options)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("This is not audio.\n" * 50)
    (tmp_path / "text.mp3").write_text("This is not audio.\n" * 50)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "eight.wav", np.stack([tone(0.1, RATE)] * 8, axis=1), RATE)
    soundfile.write(tmp_path / "silent.wav", np.full(RATE, 5e-5), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan, 0.1]), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "inf.wav", np.array([0.1, np.inf, 0.1]), RATE, subtype="FLOAT")
    refused(tmp_path / "missing.wav", "no such file")
    refused(tmp_path, "is a folder")
    refused(tmp_path / "empty.wav", "empty file")
    refused(tmp_path / "text.wav", "not audio")
    refused(tmp_path / "text.mp3", "not audio")
    refused(tmp_path / "none.wav", "no samples")
    refused(tmp_path / "eight.wav", "8 channels, expected 1 or 2: mix it down")
    refused(tmp_path / "silent.wav", "silent")
    refused(tmp_path / "nan.wav", "NaN or Inf")
    refused(tmp_path / "inf.wav", "NaN or Inf")
    for name in ("missing.wav", "empty.wav", "text.wav"):
        with pytest.raises(AudioError):
            audio_info(tmp_path / name)


def test_one_sample_is_read_or_refused_but_never_empty(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.wav", np.array([0.5]), RATE)
    assert read_audio(tmp_path / "one.wav", RATE).shape == (1,)
    soundfile.write(tmp_path / "one384.wav", np.array([0.5]), 384000)
    refused(tmp_path / "one384.wav", "too short: 1 samples at 384000 Hz")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3"])
def test_truncated_files_are_told(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    soundfile.write(file, 0.3 * np.random.default_rng(0).standard_normal(3 * RATE), RATE)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(file, "truncated")


def test_a_wav_of_unknown_length_is_no_truncated_one(tmp_path: Path) -> None:
    """A program that streams a WAV writes the largest size into its header."""
    file = tmp_path / "a.wav"
    soundfile.write(file, tone(0.5, RATE), RATE)
    data = bytearray(file.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    file.write_bytes(bytes(data))
    assert len(read_audio(file, RATE)) == RATE // 2


def test_chunks_after_the_samples_are_no_samples(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, tone(0.5, RATE), RATE)
    data = bytearray(file.read_bytes() + b"LIST\x04\x00\x00\x00INFO")
    data[4:8] = (len(data) - 8).to_bytes(4, "little")
    file.write_bytes(bytes(data))
    assert len(read_audio(file, RATE)) == RATE // 2


def test_arrays() -> None:
    stereo = np.array([[1.0, 0.0], [0.5, 0.5]])
    np.testing.assert_array_equal(as_mono(stereo), np.array([0.5, 0.5], np.float32))
    with pytest.raises(SertuneError, match="shape"):
        as_mono(np.zeros((1, 2, 3)))
    with pytest.raises(SertuneError, match="int16"):
        as_mono(np.zeros(10, np.int16))
    with pytest.raises(SertuneError, match="positive"):
        resample(np.zeros(10, np.float32), 0, RATE)
    assert resample(np.zeros(4410, np.float32), 44100, RATE).shape == (1600,)


def test_digests_tell_samples_apart() -> None:
    audio = tone(0.1, RATE).astype(np.float32)
    other = audio.copy()
    other[-1] += 1e-4
    assert samples_digest(audio) == samples_digest(audio.copy()) == samples_digest(audio[::1])
    assert samples_digest(audio) != samples_digest(other)
    assert samples_digest(audio) == samples_digest(audio.astype(">f4"))
    assert samples_digest(audio[::2]) == samples_digest(audio[::2].copy())


def test_find_audio(tmp_path: Path) -> None:
    for name in ("b.WAV", "a.flac", "sub/c.mp3", "sub/._c.mp3", ".hidden/d.wav", "notes.txt", "._a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_audio([tmp_path])
    assert [f.relative_to(tmp_path).as_posix() for f in found] == ["a.flac", "b.WAV", "sub/c.mp3"]
    assert find_audio([tmp_path / "sub" / "c.mp3", tmp_path / "sub"]) == [tmp_path / "sub" / "c.mp3"]
    # The folder's own name doesn't count: only what lies hidden within it.
    assert find_audio([tmp_path / ".hidden"]) == [tmp_path / ".hidden" / "d.wav"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SertuneError, match="no audio in folder"):
        find_audio([tmp_path / "empty"])
    with pytest.raises(SertuneError, match="no such file or folder"):
        find_audio([tmp_path / "gone"])


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    file = tmp_path / "1001_DFA_ANG_XX.wav"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 72810\n")
    with pytest.raises(AudioError, match="a git-lfs pointer, not the audio itself; run `git lfs pull`"):
        read_audio(file, 16000)
