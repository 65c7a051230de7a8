"""Splits: disjoint, speaker-independent where they say so, the same whatever the order of the rows."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from sertune.data.splits import SPLITS, Fold, Protocol, make_protocol
from sertune.errors import SertuneError

NAMES = ["anger", "fear", "neutral"]


def corpus(speakers: int = 10, clips: int = 12, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Speakers of uneven size; every speaker has every class."""
    rng = np.random.default_rng(seed)
    who = [f"s{s + 1}" for s in range(speakers) for _ in range(clips + 3 * (s % 3))]
    count = len(who)
    labels = np.array([i % 3 for i in range(count)])
    frame = pd.DataFrame(
        {
            "id": [f"u{i:04d}" for i in range(count)],
            "file": [f"/x/u{i:04d}.wav" for i in range(count)],
            "speaker": pd.Series(who, dtype=object),
            "partition": pd.Series(rng.choice(["train", "dev", "test"], count), dtype=object),
            "emotion": pd.Series([NAMES[k] for k in labels], dtype=object),
        }
    )
    return frame, labels


def names(protocol: Protocol, frame: pd.DataFrame) -> list[tuple[set[str], set[str], set[str]]]:
    folds = (*protocol.folds, *([protocol.final] if protocol.final else []))
    return [
        (set(frame["id"].iloc[f.train]), set(frame["id"].iloc[f.dev]), set(frame["id"].iloc[f.test])) for f in folds
    ]


def speakers_of(frame: pd.DataFrame, rows: np.ndarray) -> set[str]:
    return set(frame["speaker"].iloc[rows])


@pytest.mark.parametrize("split", SPLITS)
def test_parts_are_disjoint_and_whole(split: str) -> None:
    frame, labels = corpus()
    protocol = make_protocol(frame, split, labels=labels)
    for fold in (*protocol.folds, *([protocol.final] if protocol.final else [])):
        rows = np.concatenate([fold.train, fold.dev, fold.test])
        assert sorted(rows) == list(range(len(frame)))
        for part in (fold.train, fold.dev, fold.test):
            assert part.dtype == np.int64
            assert (np.diff(part) > 0).all()
        assert len(fold.train) > 0
        assert len(fold.dev) > 0
    assert all(len(fold.test) for fold in protocol.folds)
    assert protocol.split == split
    assert protocol.text


@pytest.mark.parametrize("split", ["loso", "kfold", "speaker"])
def test_speaker_splits_share_no_speaker(split: str) -> None:
    frame, labels = corpus()
    protocol = make_protocol(frame, split, labels=labels)
    assert protocol.speaker_independent
    for fold in protocol.folds:
        train, dev, test = (speakers_of(frame, part) for part in (fold.train, fold.dev, fold.test))
        assert not train & dev
        assert not train & test
        assert not dev & test


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", [0, 3])
def test_the_same_seed_gives_the_same_parts_in_any_order_of_rows(split: str, seed: int) -> None:
    frame, labels = corpus()
    order = np.random.default_rng(1).permutation(len(frame))
    shuffled = frame.iloc[order].reset_index(drop=True)
    one = make_protocol(frame, split, labels=labels, seed=seed)
    two = make_protocol(shuffled, split, labels=labels[order], seed=seed)
    assert names(one, frame) == names(two, shuffled)
    assert (one.text, one.warnings) == (two.text, two.warnings)


@pytest.mark.parametrize("split", ["kfold", "speaker", "random"])
def test_another_seed_gives_other_parts(split: str) -> None:
    frame, labels = corpus()
    drawn = [names(make_protocol(frame, split, labels=labels, seed=s), frame) for s in range(4)]
    assert any(other != drawn[0] for other in drawn[1:])


def test_loso_tests_every_speaker_once_and_has_each_as_dev() -> None:
    frame, labels = corpus()
    protocol = make_protocol(frame, "loso", labels=labels, dev_speakers=2)
    assert [fold.name for fold in protocol.folds] == [f"s{i}" for i in range(1, 11)]  # s10 last
    devs = [speaker for fold in protocol.folds for speaker in speakers_of(frame, fold.dev)]
    assert {devs.count(f"s{i}") for i in range(1, 11)} == {2}
    assert [speakers_of(frame, fold.test) for fold in protocol.folds] == [{f.name} for f in protocol.folds]
    assert protocol.final is not None
    assert len(protocol.final.test) == 0
    assert len(speakers_of(frame, protocol.final.dev)) == 2
    one = make_protocol(frame, "loso", labels=labels)
    assert one.text == (
        "leave one speaker out: 10 folds, each tests one speaker, the next speaker in turn is the dev set, "
        "the other 8 train; predictions are pooled over the folds"
    )


def test_kfold_tests_every_clip_once_in_groups_alike() -> None:
    frame, labels = corpus(speakers=20)
    protocol = make_protocol(frame, "kfold", labels=labels, folds=5)
    tested = np.concatenate([fold.test for fold in protocol.folds])
    assert sorted(tested) == list(range(len(frame)))
    for fold, after in zip(protocol.folds, protocol.folds[1:] + protocol.folds[:1], strict=True):
        np.testing.assert_array_equal(fold.dev, after.test)
        assert len(fold.test) == pytest.approx(len(frame) / 5, rel=0.2)
        for k in range(3):
            assert (labels[fold.test] == k).sum() == pytest.approx((labels == k).sum() / 5, rel=0.25)


def test_kfold_spreads_a_rare_class() -> None:
    """Five of ten speakers have one clip each of class 0: every fold can test it."""
    frame = pd.DataFrame({"id": [f"u{i:03d}" for i in range(100)], "file": "/x"}).assign(emotion=None)
    frame["speaker"] = pd.Series([f"s{i // 10}" for i in range(100)], dtype=object)
    labels = np.array([0 if s < 5 and i == 0 else 1 + i % 2 for s in range(10) for i in range(10)])
    for seed in range(5):
        protocol = make_protocol(frame, "kfold", labels=labels, folds=5, seed=seed)
        assert [(labels[fold.test] == 0).sum() for fold in protocol.folds] == [1] * 5


def test_kfold_leaves_one_large_speaker_alone() -> None:
    frame = pd.DataFrame({"id": [f"u{i:03d}" for i in range(200)], "file": "/x"}).assign(emotion=None)
    frame["speaker"] = pd.Series([f"s{max(0, i - 100) // 10}" for i in range(200)], dtype=object)
    for seed in range(5):
        protocol = make_protocol(frame, "kfold", labels=None, folds=5, seed=seed)
        assert sorted(len(fold.test) for fold in protocol.folds) == [20, 20, 20, 30, 110]


def test_shares_of_the_speaker_split() -> None:
    frame, labels = corpus(speakers=40)
    fold = make_protocol(frame, "speaker", labels=labels, test=0.3, dev=0.2).folds[0]
    assert len(fold.test) / len(frame) == pytest.approx(0.3, abs=0.03)
    assert len(fold.dev) / len(frame) == pytest.approx(0.2, abs=0.03)


def test_random_is_stratified_and_flagged() -> None:
    frame, labels = corpus()
    protocol = make_protocol(frame, "random", labels=labels, test=0.25, dev=0.25)
    fold = protocol.folds[0]
    for k in range(3):
        assert (labels[fold.test] == k).sum() == pytest.approx((labels == k).sum() / 4, abs=1)
    assert not protocol.speaker_independent
    assert "speaker-dependent" in protocol.text
    assert "speaker-dependent" in protocol.warnings[0]
    alone = frame.assign(speaker=frame["id"].astype(object))
    independent = make_protocol(alone, "random", labels=labels)
    assert independent.speaker_independent
    unknown = frame.assign(speaker=pd.Series([None] * len(frame), dtype=object))
    protocol = make_protocol(unknown, "random", labels=labels)
    assert not protocol.speaker_independent
    assert "not known" in protocol.warnings[0]


def test_random_strata_of_values() -> None:
    frame, _ = corpus()
    values = np.random.default_rng(0).normal(size=len(frame))
    values[:5] = np.nan
    fold = make_protocol(frame, "random", labels=values, test=0.25).folds[0]
    low = values < np.nanquantile(values, 0.2)
    assert low[fold.test].sum() == pytest.approx(low.sum() / 4, abs=1)
    many = np.stack([values, values[::-1]], axis=1)
    assert len(make_protocol(frame, "random", labels=many).folds[0].test)


def test_a_class_of_one_clip_is_learnt_not_tested() -> None:
    frame, labels = corpus()
    labels[7] = 3
    frame.loc[7, "emotion"] = "contempt"
    for seed in range(5):
        protocol = make_protocol(frame, "random", labels=labels, seed=seed)
        assert 7 in protocol.folds[0].train
        assert "the class 'contempt' is absent from the test part of fold random" in protocol.warnings


def test_official_takes_the_corpus_at_its_word() -> None:
    frame, labels = corpus()
    protocol = make_protocol(frame, "official", labels=labels)
    (fold,) = protocol.folds
    for part, rows in (("train", fold.train), ("dev", fold.dev), ("test", fold.test)):
        assert set(frame["partition"].iloc[rows]) == {part}
    assert not protocol.speaker_independent
    by_speaker = frame["speaker"].map(lambda s: "test" if s in ("s1", "s2") else "dev" if s == "s3" else "train")
    assert make_protocol(
        frame.assign(partition=by_speaker.astype(object)), "official", labels=labels
    ).speaker_independent


def test_official_without_dev_cuts_it_from_train_by_speaker() -> None:
    frame, labels = corpus()
    partition = frame["speaker"].map(lambda s: "test" if s in ("s1", "s2") else "train").astype(object)
    frame["partition"] = partition
    protocol = make_protocol(frame, "official", labels=labels)
    (fold,) = protocol.folds
    assert speakers_of(frame, fold.test) == {"s1", "s2"}
    assert len(speakers_of(frame, fold.dev)) == 1
    assert not speakers_of(frame, fold.dev) & speakers_of(frame, fold.train)
    assert protocol.speaker_independent
    assert not protocol.warnings
    nobody = frame.assign(speaker=pd.Series([None] * len(frame), dtype=object))
    protocol = make_protocol(nobody, "official", labels=labels)
    assert len(protocol.folds[0].dev) == pytest.approx(0.1 * (partition == "train").sum(), rel=0.2)
    assert any("dev is a random part of train" in warning for warning in protocol.warnings)


def bad(frame: pd.DataFrame, split: str, words: str, labels: np.ndarray | None = None, **options: Any) -> None:
    with pytest.raises(SertuneError, match=words) as caught:
        make_protocol(frame, split, labels=labels, **options)
    assert "\n" not in str(caught.value)


def test_bad_requests() -> None:
    frame, labels = corpus(speakers=4)
    bad(frame, "losso", "unknown split 'losso'; did you mean 'loso'")
    bad(frame, "kfold", "at least 5 speakers, the data has 4", folds=5)
    bad(frame, "kfold", "at least 3 folds", folds=1)
    bad(frame, "kfold", "at least 3 folds", folds=2)
    bad(frame, "loso", "at least 5 speakers, the data has 4", dev_speakers=3)
    bad(frame, "loso", "dev_speakers must be at least 1", dev_speakers=0)
    bad(frame, "speaker", "share of test must be between 0 and 1", test=1.5)
    bad(frame, "random", "share of dev must be between 0 and 1", dev=0.0)
    bad(frame, "random", "leave nothing to train on", test=0.7, dev=0.3)
    bad(frame, "random", "3 labels for", labels[:3])
    bad(frame, "loso", "fewer than two classes", np.zeros(len(frame), dtype=int))
    bad(frame.iloc[:0], "loso", "no utterances")
    two = frame[frame["speaker"].isin(["s1", "s2"])].reset_index(drop=True)
    bad(two, "speaker", "at least 3 speakers")
    bad(two, "loso", "at least 3 speakers, the data has 2")
    holed = frame.copy()
    holed.loc[4, "speaker"] = None
    holed["speaker"] = holed["speaker"].astype(object).where(holed["speaker"].notna(), None)
    bad(holed, "loso", r"1 of \d+ utterances have no speaker, the first is row 5 \(/x/u0004.wav\).*--split random")


def test_bad_partitions() -> None:
    frame, _ = corpus()
    nothing = pd.Series([None] * len(frame), dtype=object)
    bad(frame.assign(partition=nothing), "official", "no partition column")
    bad(frame.assign(partition=frame["partition"].replace("test", "dev")), "official", "partition 'test'")
    bad(frame.assign(partition=frame["partition"].replace("train", "dev")), "official", "partition 'train'")
    holed = frame["partition"].copy()
    holed[2] = None
    bad(frame.assign(partition=holed.astype(object)), "official", "have no partition, the first is row 3")


def test_a_class_that_train_lacks_is_an_error_elsewhere_a_warning() -> None:
    frame, labels = corpus()
    only_one = labels.copy()
    only_one[(labels == 1) & (frame["speaker"] != "s4").to_numpy()] = 0
    frame["emotion"] = [NAMES[k] for k in only_one]
    frame["emotion"] = frame["emotion"].astype(object)
    bad(frame, "loso", "class 'fear' is absent from the train part of fold 's3'", only_one)
    two = labels.copy()
    two[(labels == 1) & ~frame["speaker"].isin(["s4", "s8"]).to_numpy()] = 0
    protocol = make_protocol(frame, "loso", labels=two)
    said = "the class 'fear' is absent from the test part of 8 folds (s1, s2, s3, s5, s6, s7, ...)"
    assert said in protocol.warnings


def test_unlabelled_parts() -> None:
    frame, _ = corpus()
    values = np.where(frame["speaker"] == "s2", np.nan, 1.0)
    bad(frame, "loso", "no clip in the dev part of fold 's1' has a label", values)
    assert isinstance(make_protocol(frame, "speaker", labels=None).folds[0], Fold)
