"""The synthetic corpus: it sounds as told, it can be learnt across speakers, and it comes whole or not at all."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from numpy.typing import NDArray

from sertune.corpora import synthetic as reader
from sertune.data import synthetic
from sertune.data.synthetic import EMOTIONS, Affect, make_rater, make_speaker, make_utterance, make_voice
from sertune.errors import SertuneError

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write_corpus(tmp_path_factory.mktemp("synthetic") / "corpus")


def small(root: Path, seed: int = 0) -> Path:
    reader.example(root, seed)
    return root


def say(affect: Affect, speaker: int = 0, sentence: int = 0, seed: int = 0) -> Array:
    voice = make_voice(make_speaker(speaker), affect)
    text = synthetic.sentence_text(sentence)
    return make_utterance(text, voice, np.random.default_rng(seed)).astype(np.float64)


def pitch(signal: Array) -> float:
    """Geometric mean of F0 in Hz, by the autocorrelation of 80 ms windows (Boersma 1993)."""
    window, shape = 1280, np.hanning(1280)
    frames = np.lib.stride_tricks.sliding_window_view(signal, window)[::160]
    power = np.mean(frames**2, axis=1)
    frames = frames[power > 0.05 * power.max()]
    spectra = np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * shape, 4096)
    correlation = np.fft.irfft(np.abs(spectra) ** 2)[:, :260]
    own = np.fft.irfft(np.abs(np.fft.rfft(shape, 4096)) ** 2)[:260]
    correlation = correlation / correlation[:, :1] / (own / own[0])
    inner = correlation[:, 1:-1]
    peaks = (inner >= correlation[:, :-2]) & (inner >= correlation[:, 2:]) & (np.arange(1, 259) >= 32)
    best = np.where(peaks, inner, 0).max(axis=1)
    # Twice the period fits as well: the shortest lag that is nearly as good is the period.
    lags = 1 + np.argmax(peaks & (inner >= 0.85 * best[:, None]), axis=1)
    return float(np.exp(np.mean(np.log(16_000 / lags[best > 0.6]))))


def log_mel_statistics(signal: Array) -> Array:
    """Mean and standard deviation over time of 40 log-mel bands; (80,)."""
    hertz = np.fft.rfftfreq(512, 1 / 16_000)
    mel = 2595 * np.log10(1 + hertz / 700)
    edges = np.linspace(2595 * np.log10(1 + 50 / 700), mel[-1], 42)
    rising = (mel - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - mel) / np.diff(edges)[1:, None]
    bank = np.maximum(0, np.minimum(rising, falling))
    frames = np.lib.stride_tricks.sliding_window_view(signal, 400)[::160] * np.hanning(400)
    bands = np.log(np.abs(np.fft.rfft(frames, 512)) ** 2 @ bank.T + 1e-7)
    return np.concatenate([bands.mean(axis=0), bands.std(axis=0)])


def ridge(x: Array, y: Array, held_out: NDArray[np.bool_]) -> Array:
    """Predictions for the rows held out, of a linear model trained on the others; (rows, targets)."""
    mean, deviation = x[~held_out].mean(axis=0), x[~held_out].std(axis=0)
    z = (x - mean) / deviation
    a, b = z[~held_out], y[~held_out]
    weights = np.linalg.solve(a.T @ a + 100 * np.eye(a.shape[1]), a.T @ (b - b.mean(axis=0)))
    return np.asarray(z[held_out] @ weights + b.mean(axis=0), dtype=np.float64)


def over_speakers(x: Array, y: Array, speakers: NDArray[np.object_]) -> Array:
    predicted = np.empty_like(y)
    for speaker in np.unique(speakers):
        predicted[speakers == speaker] = ridge(x, y, speakers == speaker)
    return predicted


def ccc(a: Array, b: Array) -> float:
    return float(2 * np.mean((a - a.mean()) * (b - b.mean())) / (a.var() + b.var() + (a.mean() - b.mean()) ** 2))


def uar(true: NDArray[np.object_], predicted: NDArray[np.object_]) -> float:
    return float(np.mean([np.mean(predicted[true == label] == label) for label in np.unique(true)]))


def classify(x: Array, labels: NDArray[np.object_], speakers: NDArray[np.object_]) -> float:
    names = np.unique(labels)
    one_hot = (labels[:, None] == names).astype(np.float64)
    return uar(labels, names[np.argmax(over_speakers(x, one_hot, speakers), axis=1)])


# The signal


@pytest.mark.parametrize("emotion", EMOTIONS)
@pytest.mark.parametrize("speaker", [0, 1])
def test_utterance_is_sound_audio_at_the_pitch_asked_for(emotion: str, speaker: int) -> None:
    affect = EMOTIONS[emotion]
    signal = say(affect, speaker)
    assert signal.ndim == 1
    assert 0.9 < len(signal) / 16_000 < 3.5
    assert np.isfinite(signal).all()
    assert 0.02 < np.abs(signal).max() < 0.985
    assert abs(signal.mean()) < 1e-3
    assert pitch(signal) == pytest.approx(make_voice(make_speaker(speaker), affect).f0, rel=0.05)


def test_female_voices_lie_above_male_ones() -> None:
    neutral = EMOTIONS["neutral"]
    assert pitch(say(neutral, 0)) > 1.3 * pitch(say(neutral, 1))


def decibels_above(signal: Array, hertz: float) -> float:
    """Power above a frequency relative to all, in dB."""
    power = np.abs(np.fft.rfft(signal)) ** 2
    return float(10 * np.log10(power[round(hertz * len(signal) / 16_000) :].sum() / power.sum()))


@pytest.mark.parametrize("speaker", [0, 1])
def test_arousal_raises_level_pitch_rate_and_flattens_the_spectrum(speaker: int) -> None:
    def measure(arousal: float) -> tuple[float, float, float, float]:
        voice = make_voice(make_speaker(speaker), Affect(arousal, 0.0, 0.0))
        signal = make_utterance("mana, luwe lonamo", voice, np.random.default_rng(0)).astype(np.float64)
        level = float(10 * np.log10(np.mean(signal**2)))
        return level, 12 * np.log2(pitch(signal)), -len(signal) / 16_000, decibels_above(signal, 1500)

    calm, middle, aroused = (np.array(measure(arousal)) for arousal in (-0.8, 0.0, 0.8))
    least = np.array([4.0, 2.0, 0.1, 0.7])  # dB, semitones, seconds, dB
    assert np.all(middle - calm > least), middle - calm
    assert np.all(aroused - middle > least), aroused - middle


def test_valence_moves_the_spectrum_up_and_steadies_the_voice() -> None:
    sad, glad = (make_voice(make_speaker(0), Affect(0.0, valence, 0.0)) for valence in (-0.8, 0.8))
    assert glad.jitter < 0.5 * sad.jitter
    assert glad.smile > 1.0 > sad.smile
    dull, bright = (decibels_above(say(Affect(0.0, valence, 0.0)), 3000) for valence in (-0.8, 0.8))
    assert bright > dull + 4.0


def test_level_is_the_one_asked_for_and_loud_voices_do_not_clip() -> None:
    voice = make_voice(make_speaker(1), EMOTIONS["neutral"])
    text = synthetic.sentence_text(1)
    soft, loud = (
        make_utterance(text, replace(voice, level=level), np.random.default_rng(0)) for level in (-40.0, -34.0)
    )
    np.testing.assert_allclose(loud, soft * 10 ** (6 / 20), rtol=1e-3, atol=1e-5)
    assert np.abs(make_utterance(text, replace(voice, level=6.0), np.random.default_rng(0))).max() < 0.985


def test_a_comma_is_a_pause() -> None:
    voice = replace(make_voice(make_speaker(0), EMOTIONS["neutral"]), pause=0.4)
    texts = ("mana, lono", "mana lono")
    paused, fluent = (make_utterance(text, voice, np.random.default_rng(0)) for text in texts)
    power = np.convolve(paused.astype(np.float64) ** 2, np.ones(160) / 160, mode="valid")
    silent = power[2400:-2400] < 1e-4 * power.max()
    assert silent.sum() / 16_000 == pytest.approx(0.4, abs=0.1)
    assert len(paused) > len(fluent) + 4000


@pytest.mark.parametrize("text", ["", ",", "hello", "ma!", "MA"])
def test_text_that_cannot_be_spoken(text: str) -> None:
    with pytest.raises(SertuneError, match="cannot speak"):
        make_utterance(text, make_voice(make_speaker(0), EMOTIONS["anger"]), np.random.default_rng(0))


# The corpus


def test_seed_decides_every_byte(tmp_path: Path) -> None:
    first, again, other = (small(tmp_path / name, seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    names = sorted(str(path.relative_to(first)) for path in first.rglob("*") if path.is_file())
    assert len(names) == 48 + 2
    assert names == sorted(str(path.relative_to(again)) for path in again.rglob("*") if path.is_file())
    for name in names:
        assert (first / name).read_bytes() == (again / name).read_bytes()
        assert (first / name).read_bytes() != (other / name).read_bytes()


def test_more_speakers_leave_the_others_as_they_were(tmp_path: Path) -> None:
    few = synthetic.write_corpus(tmp_path / "few", speakers=3, per_emotion=1, emotions=["anger", "fear"])
    more = synthetic.write_corpus(tmp_path / "more", speakers=5, per_emotion=2, emotions=["fear", "anger"])
    for path in (few / "wav").iterdir():
        assert path.read_bytes() == (more / "wav" / path.name).read_bytes()


def test_read_gives_a_whole_manifest(corpus: Path) -> None:
    manifest = reader.read(corpus)
    table = manifest.utterances
    assert manifest.schemes["emotion"].labels == ("anger", "happiness", "neutral", "sadness")
    assert manifest.schemes["valence"].scale == (1.0, 5.0)
    assert len(table) == 256
    for row in table.itertuples():
        info = soundfile.info(str(row.file))
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert info.frames / info.samplerate == pytest.approx(row.duration)
    assert table["duration"].between(1.0, 3.5).all()
    parts = table.groupby("partition")["speaker"].unique()
    assert {part: len(names) for part, names in parts.items()} == {"train": 4, "dev": 2, "test": 2}
    assert table.groupby("speaker")["partition"].nunique().eq(1).all()
    assert table.groupby("partition")["gender"].nunique().eq(2).all()
    assert table.groupby("emotion")["text"].nunique().eq(6).all()


def test_ratings_agree_with_the_consensus(corpus: Path) -> None:
    manifest = reader.read(corpus)
    assert manifest.ratings is not None
    raters = manifest.ratings.groupby("utterance")["rater"].nunique()
    assert len(raters) == len(manifest)
    assert raters.between(3, 5).all()
    table = manifest.utterances.set_index("id")
    for dimension in ("arousal", "valence", "dominance"):
        rated = manifest.ratings[manifest.ratings["attribute"] == dimension].astype({"value": float})
        assert set(rated["value"]) == {1.0, 2.0, 3.0, 4.0, 5.0}
        mean = rated.groupby("utterance")["value"].mean()
        np.testing.assert_allclose(mean.loc[table.index], table[dimension], atol=1e-4)
    votes = manifest.ratings[manifest.ratings["attribute"] == "emotion"]
    counts = votes.groupby(["utterance", "value"]).size().unstack(fill_value=0).loc[table.index]
    chosen = counts.to_numpy()[np.arange(len(table)), counts.columns.get_indexer(pd.Index(table["emotion"]))]
    np.testing.assert_array_equal(chosen, counts.max(axis=1))
    assert 0.9 < (table["emotion"] == table["intended"]).mean() < 1.0
    intended = votes["utterance"].map(table["intended"])
    assert 0.75 < (votes["value"] == intended).mean() < 0.97


def test_raters_have_the_bias_they_were_given(corpus: Path) -> None:
    ratings = reader.read(corpus).ratings
    assert ratings is not None
    rated = ratings[ratings["attribute"] == "valence"].astype({"value": float})
    rest = rated["value"] - rated.groupby("utterance")["value"].transform("mean")
    found = rest.groupby(rated["rater"]).mean()
    given = pd.Series({rater.name: rater.bias.valence for rater in map(make_rater, range(8))})
    # Against the mean of the others: the shift that all raters share cannot be seen.
    np.testing.assert_allclose(found - found.mean(), (given - given.mean()).loc[found.index], atol=0.25)
    assert np.corrcoef(found, given.loc[found.index])[0, 1] > 0.9


def test_ties_go_to_the_acted_emotion_then_to_the_order() -> None:
    labels = ("anger", "neutral", "sadness")
    assert synthetic.majority(["sadness", "anger", "sadness"], "anger", labels) == "sadness"
    assert synthetic.majority(["sadness", "neutral"], "sadness", labels) == "sadness"
    assert synthetic.majority(["sadness", "neutral"], "anger", labels) == "neutral"


def test_a_linear_model_learns_it_across_speakers_but_not_from_shuffled_labels(corpus: Path) -> None:
    table = reader.read(corpus).utterances
    x = np.stack([log_mel_statistics(soundfile.read(file)[0]) for file in table["file"]])
    speakers = table["speaker"].to_numpy(dtype=object)
    labels = table["emotion"].to_numpy(dtype=object)
    dimensions = table[["arousal", "valence"]].to_numpy(dtype=np.float64)
    order = np.random.default_rng(0).permutation(len(table))

    assert 0.6 < classify(x, labels, speakers) < 0.95
    assert classify(x, labels[order], speakers) < 0.4
    loudness = x[:, :40].mean(axis=1, keepdims=True)  # no single feature gives it away
    assert classify(loudness, labels, speakers) < classify(x, labels, speakers) - 0.1

    predicted = over_speakers(x, dimensions, speakers)
    assert ccc(dimensions[:, 0], predicted[:, 0]) > 0.6
    assert ccc(dimensions[:, 1], predicted[:, 1]) > 0.3
    shuffled = over_speakers(x, dimensions[order], speakers)
    assert abs(ccc(dimensions[order, 0], shuffled[:, 0])) < 0.25
    assert abs(ccc(dimensions[order, 1], shuffled[:, 1])) < 0.25


# Whole or not at all


class Stop(BaseException):
    """As KeyboardInterrupt, which pytest takes for its own."""


def test_a_stopped_writer_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 48
        if done == 20:
            assert not (tmp_path / "c").exists()
            # What a killed writer leaves beside it cannot be read either.
            (unfinished,) = tmp_path.iterdir()
            assert len(list((unfinished / "wav").iterdir())) == 20
            with pytest.raises(SertuneError, match="not a synthetic corpus"):
                reader.read(unfinished)
            raise Stop

    with pytest.raises(Stop):
        synthetic.write_corpus(tmp_path / "c", speakers=4, per_emotion=3, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SertuneError, match="No space left on device"):
        reader.example(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SertuneError, match="not an empty folder"):
        reader.example(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    assert len(reader.read(small(tmp_path / "empty"))) == 48


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (partial(synthetic.write_corpus, speakers=2), "speakers is 2, expected at least 3"),
        (partial(synthetic.write_corpus, raters=1), "raters is 1"),
        (partial(synthetic.write_corpus, seed=-1), "seed is -1"),
        (partial(synthetic.write_corpus, emotions=["anger", "fera"]), "did you mean 'fear'"),
        (partial(synthetic.write_corpus, emotions=["anger"]), "at least two"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, write: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(SertuneError, match=message):
        write(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SertuneError, match=r"no utterances.csv; make .* `sertune demo`"):
        reader.read(tmp_path)
    reader.example(tmp_path / "c")
    (tmp_path / "c" / "ratings.csv").write_bytes(b"")
    with pytest.raises(SertuneError, match=r"ratings.csv: can't be read"):
        reader.read(tmp_path / "c")
    (tmp_path / "c" / "utterances.csv").write_text("file,emotion\na.wav,anger\n")
    (tmp_path / "c" / "ratings.csv").write_text("utterance\n1\n")
    with pytest.raises(SertuneError, match="no column arousal, dominance"):
        reader.read(tmp_path / "c")


def test_the_point_that_was_spoken_stands_beside_the_ratings(corpus: Path) -> None:
    table = reader.read(corpus).utterances
    for dimension in ("arousal", "valence", "dominance"):
        felt = table[f"felt_{dimension}"]
        assert felt.between(-1, 1).all()
        assert np.corrcoef(felt, table[dimension])[0, 1] > 0.85
        centres = table["intended"].map({name: getattr(affect, dimension) for name, affect in EMOTIONS.items()})
        assert (felt - centres).std() == pytest.approx(0.16, abs=0.02)
