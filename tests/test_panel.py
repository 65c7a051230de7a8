"""A simulated panel rates as its equation says: every annotator, unevenly, and from the seed alone."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from sertune.corpora import synthetic as reader
from sertune.data import labels
from sertune.data.manifest import Manifest
from sertune.data.panel import (
    AMBIGUITY,
    POSITIONS,
    Panel,
    clip_truth,
    make_panel,
    rate,
    read_panel,
    simulated,
    write_rated_corpus,
)
from sertune.data.synthetic import EMOTIONS, write_corpus
from sertune.errors import SertuneError

Array = NDArray[np.float64]
FOUR = ("anger", "happiness", "neutral", "sadness")


def corpus(clips: int = 200, emotions: tuple[str | None, ...] = FOUR, **columns: Any) -> Manifest:
    table = {
        "file": [f"{i:04d}.wav" for i in range(clips)],
        "emotion": [emotions[i % len(emotions)] for i in range(clips)],
    }
    return Manifest.of("toy", pd.DataFrame(table | columns))


def dense(
    truth: Array,
    annotators: int = 30,
    quality: Array | None = None,
    ambiguity: Array | float = 0.0,
    panel: Panel | None = None,
    **options: Any,
) -> Manifest:
    """Everybody rates everything."""
    panel = panel or make_panel(annotators)
    clips = len(truth)
    return rate(
        corpus(clips),
        panel,
        truth=truth,
        quality=np.zeros(clips) if quality is None else quality,
        ambiguity=np.broadcast_to(ambiguity, (clips,)) if np.ndim(ambiguity) == 0 else ambiguity,
        per_clip=(len(panel), len(panel)),
        **options,
    )


def matrix(manifest: Manifest, dimension: str) -> Array:
    """(clips, annotators) on the axis from -1 to 1."""
    return (manifest.rater_matrix(dimension)[0] - 3) / 2


def numbers(manifest: Manifest, dimension: str) -> pd.DataFrame:
    assert manifest.ratings is not None
    return manifest.ratings[manifest.ratings["attribute"] == dimension].astype({"value": float})


def spread(manifest: Manifest, dimension: str = "arousal") -> Array:
    return np.asarray(matrix(manifest, dimension).std(axis=1, ddof=1))


def quiet(panel: Panel, **parts: Any) -> Panel:
    """Without noise, so that few annotators show what is asked; ``parts`` replace others."""
    return replace(panel, noise=np.zeros(len(panel)), **parts)


# Who rates


def test_tables_have_every_emotion_inside_the_axes() -> None:
    assert set(POSITIONS) == set(AMBIGUITY) == set(labels.CATEGORIES)
    assert np.abs(np.array(list(POSITIONS.values()))).max() <= 1
    assert np.array(list(AMBIGUITY.values())).min() >= 0
    assert all(POSITIONS[name] == affect for name, affect in EMOTIONS.items())


def test_annotators_are_as_they_are_told_and_stay_so() -> None:
    panel = make_panel(2000, seed=1)
    assert panel.names[:2] == ("p01", "p02")
    assert panel.bias.shape == panel.gain.shape == panel.taste.shape == (2000, 3)
    np.testing.assert_allclose(panel.bias.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(panel.bias.std(axis=0), 0.2, atol=0.01)
    np.testing.assert_allclose(panel.taste.std(axis=0), 0.15, atol=0.01)
    assert 0.6 <= panel.gain.min() < 0.61 < 1.29 < panel.gain.max() <= 1.3
    assert 0.1 <= panel.noise.min() < 0.11 < 0.29 < panel.noise.max() <= 0.3
    assert np.log(panel.activity).std() == pytest.approx(1.0, abs=0.05)
    few = make_panel(5, seed=1, prefix="q")
    assert few.names == ("q01", "q02", "q03", "q04", "q05")
    np.testing.assert_array_equal(few.bias, panel.bias[:5])
    np.testing.assert_array_equal(few.activity, panel.activity[:5])
    assert not np.allclose(make_panel(5, seed=2).bias, few.bias)


# What is rated


def test_truth_of_a_corpus_lies_about_its_emotions() -> None:
    table = corpus(700, ("disgust", "surprise", "neutral"), gender=["female", "male"] * 350)
    truth, quality, ambiguity = clip_truth(table)
    assert truth.shape == ambiguity.shape == (700, 3)
    disgust = (table.utterances["emotion"] == "disgust").to_numpy()
    np.testing.assert_allclose(truth[disgust].mean(axis=0), POSITIONS["disgust"], atol=0.03)
    np.testing.assert_allclose(truth[disgust].std(axis=0), 0.1, atol=0.02)
    np.testing.assert_array_equal(ambiguity[disgust], np.tile(AMBIGUITY["disgust"], (disgust.sum(), 1)))
    np.testing.assert_allclose(quality, np.tile([1.0, -1.0], 350))
    np.testing.assert_array_equal(clip_truth(corpus()).quality, 0)  # nothing is known that could be heard
    np.testing.assert_array_equal(clip_truth(table)[0], truth)
    assert not np.allclose(clip_truth(table, seed=1)[0], truth)


def test_a_clip_without_emotion_is_not_rated() -> None:
    rated, _ = simulated(corpus(60, ("anger", "sadness", None)), annotators=10)
    assert rated.ratings is not None
    without = rated.utterances["emotion"].isna()
    assert without.sum() == 20
    assert rated.utterances.loc[without, "arousal"].isna().all()
    assert rated.utterances.loc[~without, "arousal"].notna().all()
    assert set(rated.ratings["utterance"]) == set(rated.utterances.loc[~without, "id"])


# The equation


def test_without_noise_and_ambiguity_ratings_follow_the_equation() -> None:
    rng = np.random.default_rng(0)
    truth, quality = rng.uniform(-1, 1, (40, 3)), rng.normal(size=40)
    panel = quiet(make_panel(12))
    rated = dense(truth, quality=quality, panel=panel)
    for d, dimension in enumerate(labels.DIMENSIONS):
        expected = panel.bias[:, d] + panel.gain[:, d] * truth[:, d, None] + panel.taste[:, d] * quality[:, None]
        assert (np.abs(expected) > 1).any()
        np.testing.assert_allclose(matrix(rated, dimension), np.clip(expected, -1, 1), atol=1e-12)
    other = dense(truth, quality=quality, panel=panel, scale=(1.0, 7.0))
    assert other.schemes["valence"].scale == (1.0, 7.0)
    np.testing.assert_allclose(other.rater_matrix("valence")[0], 4 + 3 * matrix(rated, "valence"), atol=1e-12)


def test_steps_are_the_nearest_points_of_the_scale() -> None:
    truth = np.random.default_rng(0).uniform(-1, 1, (40, 2))
    exact, stepped = (dense(truth, steps=steps).rater_matrix("arousal")[0] for steps in (None, 9))
    assert set(np.unique(stepped)) == set(np.arange(1, 5.5, 0.5))
    assert np.abs(stepped - exact).max() <= 0.25


def test_variance_of_a_clip_is_the_sum_of_its_parts() -> None:
    parts = [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.3), (-0.4, -0.5, 0.15)]
    x, q, s = np.array(parts).T
    panel = make_panel(4000)
    panel = replace(panel, bias=panel.bias / 4, noise=panel.noise / 4)  # away from the ends of the scale
    found = spread(dense(np.stack([x, x], axis=1), panel=panel, quality=q, ambiguity=s)) ** 2
    gain, noise = 0.7**2 / 12, (0.04 + 0.2**2 / 12) / 16  # of a uniform: width^2 / 12
    expected = 0.05**2 + gain * x**2 + 0.15**2 * q**2 + s**2 + noise
    np.testing.assert_allclose(found, expected, rtol=0.07)


def test_spread_rises_with_ambiguity_and_through_gain_with_the_distance_from_the_middle() -> None:
    by_ambiguity = spread(dense(np.zeros((5, 2)), 400, ambiguity=np.array([0, 0.1, 0.2, 0.3, 0.4])))
    assert np.all(np.diff(by_ambiguity) > 0.005)
    panel = quiet(make_panel(100), bias=np.zeros((100, 3)))
    for sign in (1, -1):
        x = sign * np.array([0, 0.2, 0.4, 0.6])
        by_distance = spread(dense(np.stack([x, x], axis=1), panel=panel))
        assert by_distance[0] == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(by_distance, np.abs(x) * panel.gain[:, 0].std(ddof=1), atol=1e-12)


def test_ambiguity_may_differ_by_dimension() -> None:
    ambiguity = np.tile([0.0, 0.5], (50, 1))
    rated = dense(np.zeros((50, 2)), 20, panel=quiet(make_panel(20), bias=np.zeros((20, 3))), ambiguity=ambiguity)
    np.testing.assert_allclose(spread(rated, "arousal"), 0, atol=1e-12)
    assert spread(rated, "valence").mean() == pytest.approx(0.47, abs=0.03)  # the ends of the scale take some


def test_a_dense_panel_gives_its_biases_away() -> None:
    panel = make_panel(40)
    truth, quality, ambiguity = clip_truth(corpus(400))
    rated = rate(
        corpus(400), panel, truth=truth, quality=quality, ambiguity=ambiguity, per_clip=(40, 40)
    )  # 400 clips each: an error of about .02
    for d, dimension in enumerate(labels.DIMENSIONS):
        values = matrix(rated, dimension)
        shift = panel.bias[:, d] + (panel.gain[:, d] - panel.gain[:, d].mean()) * truth[:, d].mean()
        found, given = values.mean(axis=0) - values.mean(), shift - shift.mean()
        assert np.corrcoef(found, given)[0, 1] > 0.97


def test_votes_are_the_nearest_emotions_of_the_corpus() -> None:
    truth = np.array([POSITIONS[name] for name in FOUR * 5])
    still = quiet(make_panel(5), bias=np.zeros((5, 3)), gain=np.ones((5, 3)))
    votes = dense(truth, panel=still).votes()
    np.testing.assert_array_equal(votes.to_numpy(), np.tile(5 * np.eye(4), (5, 1)))
    rated, _ = simulated(corpus(100, ("anger", "disgust", "other")))
    assert rated.ratings is not None
    assert rated.schemes["emotion"].labels == ("anger", "disgust", "other")
    given = rated.ratings.loc[rated.ratings["attribute"] == "emotion", "value"]
    assert set(given) == {"anger", "disgust"}
    assert len(given) == rated.ratings.groupby(["utterance", "rater"]).ngroups


def test_consensus_is_the_mean_of_the_ratings() -> None:
    rated, _ = simulated(corpus())
    table = rated.utterances.set_index("id")
    assert table["emotion"].tolist() == corpus().utterances["emotion"].tolist()
    for dimension in labels.DIMENSIONS:
        assert rated.schemes[dimension].scale == (1.0, 5.0)
        mean = numbers(rated, dimension).groupby("utterance")["value"].mean()
        np.testing.assert_allclose(mean.loc[table.index], table[dimension], rtol=1e-12)


def test_two_dimensions_leave_the_third_alone() -> None:
    before = corpus(20, dominance=[2.5] * 20)
    truth = np.zeros((20, 2))
    after = rate(before, make_panel(10), truth=truth, quality=np.zeros(20), ambiguity=np.zeros(20))
    assert after.ratings is not None
    assert set(after.ratings["attribute"]) == {"emotion", "arousal", "valence"}
    assert after.utterances["dominance"].tolist() == [2.5] * 20


# Who rates what


def test_coverage_is_uneven_but_everybody_rates() -> None:
    rated, panel = simulated(corpus(400), per_clip=(5, 10))
    assert rated.ratings is not None
    each = numbers(rated, "valence").groupby("utterance")["rater"].agg(["size", "nunique"])
    assert each["size"].equals(each["nunique"])
    assert (each["size"].min(), each["size"].max(), len(each)) == (5, 10, 400)
    counts = numbers(rated, "valence")["rater"].value_counts().reindex(panel.names, fill_value=0)
    assert counts.min() >= 3
    assert counts.min() < 15 < 100 < counts.max()
    assert np.corrcoef(np.log(counts), np.log(panel.activity))[0, 1] > 0.9


@pytest.mark.parametrize(("clips", "annotators", "least"), [(40, 60, 3), (2, 8, 1), (1, 60, 0), (12, 60, 1)])
def test_few_clips_are_shared_out(clips: int, annotators: int, least: int) -> None:
    activity = np.geomspace(1, 1e6, annotators)  # without sharing out, the same few would rate everything
    panel = replace(make_panel(annotators), activity=activity)
    truth, quality, ambiguity = clip_truth(corpus(clips))
    rated = rate(corpus(clips), panel, truth=truth, quality=quality, ambiguity=ambiguity, per_clip=(5, 8))
    counts = numbers(rated, "arousal")["rater"].value_counts().reindex(panel.names, fill_value=0)
    assert counts.min() == least
    assert numbers(rated, "arousal").groupby("utterance")["rater"].nunique().between(5, 8).all()


def test_the_seed_decides_every_rating() -> None:
    first, again, other = (simulated(corpus(50), seed=seed)[0] for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first.utterances, again.utterances)
    assert first.ratings is not None
    assert again.ratings is not None
    assert other.ratings is not None
    pd.testing.assert_frame_equal(first.ratings, again.ratings)
    assert not np.allclose(first.utterances["arousal"], other.utterances["arousal"])


# The synthetic corpus


@pytest.fixture(scope="module")
def rated_corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Panel]:
    return small(tmp_path_factory.mktemp("panel") / "c")


def small(root: Path, seed: int = 2, **options: Any) -> tuple[Path, Panel]:
    return write_rated_corpus(root, seed=seed, speakers=3, sentences=2, per_emotion=4, **options)


def test_rated_corpus_has_the_clips_of_the_plain_one_and_ratings_of_its_own(
    rated_corpus: tuple[Path, Panel], tmp_path: Path
) -> None:
    root, panel = rated_corpus
    plain = write_corpus(tmp_path / "plain", seed=2, speakers=3, sentences=2, per_emotion=4)
    for path in (plain / "wav").iterdir():
        assert path.read_bytes() == (root / "wav" / path.name).read_bytes()
    before, after = reader.read(plain).utterances, reader.read(root).utterances
    own = ["file", "emotion", *labels.DIMENSIONS]
    pd.testing.assert_frame_equal(before.drop(columns=own), after.drop(columns=own))
    manifest = reader.read(root)
    for dimension in labels.DIMENSIONS:
        rated = numbers(manifest, dimension)
        assert set(rated["rater"]) == set(panel.names)
        mean = rated.groupby("utterance")["value"].mean().loc[after["id"]]
        np.testing.assert_allclose(mean, after[dimension], atol=1.01e-4)
        assert np.corrcoef(after[dimension], after[f"felt_{dimension}"])[0, 1] > 0.9
    counts = manifest.votes().to_numpy()
    chosen = [manifest.schemes["emotion"].labels.index(name) for name in after["emotion"]]
    np.testing.assert_array_equal(counts[np.arange(len(after)), chosen], counts.max(axis=1))
    assert (after["emotion"] == after["intended"]).mean() > 0.75


def test_what_is_written_is_what_is_simulated(rated_corpus: tuple[Path, Panel]) -> None:
    written = reader.read(rated_corpus[0])
    again, _ = simulated(written, seed=2)
    assert written.ratings is not None
    assert again.ratings is not None
    pd.testing.assert_frame_equal(written.ratings.drop(columns="value"), again.ratings.drop(columns="value"))
    for dimension in labels.DIMENSIONS:
        np.testing.assert_allclose(numbers(written, dimension)["value"], numbers(again, dimension)["value"], atol=1e-4)


def test_panel_is_read_back_to_the_last_bit(rated_corpus: tuple[Path, Panel]) -> None:
    root, panel = rated_corpus
    back = read_panel(root)
    assert back.names == panel.names
    for part in ("bias", "gain", "taste", "noise", "activity"):
        np.testing.assert_array_equal(getattr(back, part), getattr(panel, part))


def test_seed_decides_every_byte(rated_corpus: tuple[Path, Panel], tmp_path: Path) -> None:
    first, (again, _) = rated_corpus[0], small(tmp_path / "again")
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(names) == 48 + 3
    assert names == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for name in names:
        assert (first / name).read_bytes() == (again / name).read_bytes()


class Stop(BaseException):
    """As KeyboardInterrupt, which pytest takes for its own."""


def test_a_stopped_writer_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert not (tmp_path / "c").exists()
        if done == total:
            raise Stop

    with pytest.raises(Stop):
        small(tmp_path / "c", progress=stop)
    assert list(tmp_path.iterdir()) == []


# Bad input


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (partial(write_rated_corpus, annotators=0), "annotators is 0, expected at least 1"),
        (partial(write_rated_corpus, annotators=7), "5 to 10, more than the 7 annotators; lower it"),
        (partial(write_rated_corpus, per_clip=(0, 3)), "per_clip is 0 to 3"),
        (partial(write_rated_corpus, per_clip=(5, 4)), "per_clip is 5 to 4"),
        (partial(write_rated_corpus, steps=1), "steps is 1"),
        (partial(write_rated_corpus, seed=-1), "seed is -1"),
        (partial(write_rated_corpus, speakers=2), "speakers is 2, expected at least 3"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    with pytest.raises(SertuneError, match=message) as caught:
        write(tmp_path / "c")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SertuneError, match="not an empty folder"):
        small(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_corpora_that_cannot_be_rated() -> None:
    with pytest.raises(SertuneError, match="toy: no clip has an emotion"):
        simulated(Manifest.of("toy", pd.DataFrame({"file": ["a.wav"], "arousal": [3.0]})))
    with pytest.raises(SertuneError, match=r"unknown emotion of toy for a simulated panel 'pride'.*known: anger"):
        simulated(corpus(20, ("anger", "pride")))
    with pytest.raises(SertuneError, match="toy: has no emotions"):
        simulated(corpus(20, ("other",)))
    with pytest.raises(SertuneError, match="the scale is 5 to 1"):
        dense(np.zeros((4, 2)), scale=(5.0, 1.0))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"truth": np.zeros((4, 4))}, r"truth has shape \(4, 4\)"),
        ({"truth": np.full((4, 2), 1.1)}, "truth must lie"),
        ({"quality": np.zeros(3)}, r"quality has shape \(3,\)"),
        ({"quality": np.full(4, np.nan)}, "quality a finite"),
        ({"ambiguity": np.zeros((4, 3))}, r"ambiguity has shape \(4, 3\)"),
        ({"ambiguity": np.full(4, -0.1)}, "ambiguity must"),
    ],
    ids=["width", "range", "quality", "missing", "ambiguity", "negative"],
)
def test_arrays_that_do_not_fit(arrays: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"truth": np.zeros((4, 2)), "quality": np.zeros(4), "ambiguity": np.zeros(4)}
    with pytest.raises(ValueError, match=message):
        rate(corpus(4), make_panel(10), **(good | arrays))


def test_reading_a_panel_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SertuneError, match=r"has no panel\.csv"):
        read_panel(tmp_path)
    (tmp_path / "panel.csv").write_text("rater,noise\np01,0.1\n")
    with pytest.raises(SertuneError, match=r"panel\.csv: lacks a column"):
        read_panel(tmp_path)
    (tmp_path / "panel.csv").write_bytes(b"")
    with pytest.raises(SertuneError, match=r"panel\.csv: can't be read"):
        read_panel(tmp_path)
