"""Published protocols: taken by name, said in words, checked against what the data at hand has."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sertune.data.protocols import Fold, Published, fold_by
from sertune.data.splits import make_protocol
from sertune.errors import SertuneError

SESSIONS = ("1", "2", "3")


def corpus(sessions: Sequence[str] = SESSIONS, clips: int = 6) -> tuple[pd.DataFrame, np.ndarray]:
    """Two speakers per session, F and M; three classes."""
    rows = [(s, f"{s}{g}", i) for s in sessions for g in "FM" for i in range(clips)]
    frame = pd.DataFrame(
        {
            "id": [f"{who}-{i}" for _, who, i in rows],
            "file": [f"/x/{who}-{i}.wav" for _, who, i in rows],
            "session": [s for s, _, _ in rows],
            "speaker": [who for _, who, _ in rows],
            "partition": [None] * len(rows),
            "emotion": [("anger", "fear", "neutral")[i % 3] for _, _, i in rows],
        },
        dtype=object,
    )
    return frame, np.array([i % 3 for _, _, i in rows])


def by_session(frame: pd.DataFrame) -> list[Fold]:
    """A session tests and chooses, by speaker; the others train."""
    return [
        fold_by(
            frame,
            "speaker",
            s,
            test=[f"{s}M"],
            dev=[f"{s}F"],
            train=[f"{o}{g}" for o in SESSIONS if o != s for g in "FM"],
        )
        for s in SESSIONS
    ]


def one_split(frame: pd.DataFrame) -> list[Fold]:
    return [fold_by(frame, "speaker", "only", test=["3M"], dev=["3F"], train=["1F", "1M"])]


FOLDS = Published("three", "Doe 2020", "one speaker of a session tests, the other is dev", by_session)
ONE = Published("one", "Roe 2021", "3M tests", one_split)
BOTH = (FOLDS, ONE)


def rows_of(frame: pd.DataFrame, column: str, *values: str) -> list[int]:
    return np.flatnonzero(frame[column].isin(values)).tolist()


def test_auto_takes_the_first_published_protocol_and_a_name_takes_its_own() -> None:
    frame, labels = corpus()
    auto = make_protocol(frame, "auto", labels=labels, published=BOTH)
    assert (auto.split, auto.source, len(auto.folds)) == ("three", "Doe 2020", 3)
    assert auto.text == "three (Doe 2020): one speaker of a session tests, the other is dev"
    assert auto.speaker_independent
    assert auto.warnings == ()
    assert auto.folds[1].test.tolist() == rows_of(frame, "speaker", "2M")
    assert make_protocol(frame, "one", labels=labels, published=BOTH).split == "one"
    assert make_protocol(frame, "loso", labels=labels, published=BOTH).split == "loso"
    assert make_protocol(frame, "auto", labels=labels).split == "speaker"


def test_several_folds_have_a_final_fit_on_all_but_the_first_dev_part() -> None:
    frame, labels = corpus()
    protocol = make_protocol(frame, "three", labels=labels, published=BOTH)
    assert protocol.final is not None
    assert protocol.final.dev.tolist() == rows_of(frame, "speaker", "1F")
    assert sorted([*protocol.final.train, *protocol.final.dev]) == list(range(len(frame)))
    assert len(protocol.final.test) == 0
    assert not protocol.own_parts


def test_one_fold_saves_its_own_model_and_says_what_is_left_out() -> None:
    frame, labels = corpus()
    protocol = make_protocol(frame, "one", labels=labels, published=BOTH)
    assert protocol.final is None
    assert protocol.own_parts
    assert protocol.text.endswith("; 12 of 36 utterances are in no part and left out")
    used = np.concatenate([protocol.folds[0].train, protocol.folds[0].dev, protocol.folds[0].test])
    assert set(frame["speaker"].iloc[used]) == {"1F", "1M", "3F", "3M"}


def test_own_parts_are_the_official_ones_too() -> None:
    frame, labels = corpus()
    frame["partition"] = frame["session"].map({"1": "train", "2": "dev", "3": "test"})
    assert make_protocol(frame, "official", labels=labels).own_parts
    assert not make_protocol(frame, "speaker", labels=labels).own_parts


def test_speaker_independence_is_found_not_believed() -> None:
    frame, labels = corpus()

    def halves(frame: pd.DataFrame) -> list[Fold]:
        rows = np.arange(len(frame))
        return [Fold("halves", rows[rows % 3 == 0], rows[rows % 3 == 1], rows[rows % 3 == 2])]

    labels = np.arange(len(frame)) // 3 % 3
    liar = Published("halves", "Poe 2019", "speaker-independent, they say", halves)
    protocol = make_protocol(frame, "halves", labels=labels, published=[liar])
    assert not protocol.speaker_independent
    assert any("speaker-dependent: 6 test speakers" in warning for warning in protocol.warnings)


def test_auto_without_a_protocol_tells_of_a_full_partition_column() -> None:
    frame, labels = corpus()
    frame["partition"] = frame["session"].map({"1": "train", "2": "dev", "3": "test"})
    assert any("--split official" in w for w in make_protocol(frame, "auto", labels=labels).warnings)
    assert not any("--split official" in w for w in make_protocol(frame, "speaker", labels=labels).warnings)
    frame.loc[3, "partition"] = None
    assert not any("--split official" in w for w in make_protocol(frame, "auto", labels=labels).warnings)


def bad(frame: pd.DataFrame, split: str, words: str, published: Sequence[Published], **options: Any) -> None:
    with pytest.raises(SertuneError, match=words) as caught:
        make_protocol(frame, split, published=published, **{"labels": None, **options})
    assert "\n" not in str(caught.value)


def test_half_a_corpus_says_who_is_missing() -> None:
    frame, labels = corpus(sessions=("1", "2"))
    bad(frame, "three", "the dev part of fold '3' is empty: there is no usable utterance of speaker 3F", [FOLDS])
    whole, labels = corpus()
    part = whole["speaker"].ne("2F").to_numpy()

    def without_dev(frame: pd.DataFrame) -> list[Fold]:
        return [fold_by(frame, "speaker", "x", test=["1M"], dev=["1F"], train=["2F", "2M", "3F", "3M"])]

    thin = Published("thin", "Doe 2020", "1 tests", without_dev)
    left = whole[part].reset_index(drop=True)
    protocol = make_protocol(left, "thin", labels=labels[part], published=[thin])
    assert "thin is not whole: the data has no usable utterance of speaker 2F" in protocol.warnings
    assert not make_protocol(whole, "thin", labels=labels, published=[thin]).warnings


def test_parts_that_overlap_or_lack_a_class() -> None:
    frame, labels = corpus()

    def overlapping(frame: pd.DataFrame) -> list[Fold]:
        rows = np.arange(len(frame))
        return [Fold("x", rows[:20], rows[15:25], rows[25:])]

    bad(frame, "o", r"5 utterances are in two parts of fold 'x', the first is row 16 \(/x/2F-3.wav\)",
        [Published("o", "Doe", "", overlapping)])  # fmt: skip
    labels[frame["speaker"].eq("2M").to_numpy() & (labels == 1)] = 0
    protocol = make_protocol(frame, "three", labels=labels, published=[FOLDS])
    assert protocol.warnings == ("the class 'fear' is absent from the test part of fold 2",)
    bad(frame, "n", "has no folds for this data", [Published("n", "Doe", "", lambda frame: [])])


def test_unknown_names_list_what_there_is() -> None:
    frame, _ = corpus()
    bad(frame, "iemocap-5fold", r"unknown split 'iemocap-5fold' \(known: auto, three, one, official, loso", BOTH)
    bad(frame, "tree", "did you mean 'three'", BOTH)


def test_a_protocol_by_a_column_that_is_empty() -> None:
    frame, labels = corpus()
    cut = Published("s", "Doe", "", lambda frame: [fold_by(frame, "session", "x", test=["1"], dev=["2"])])
    assert len(make_protocol(frame, "s", labels=labels, published=[cut]).folds[0].train) == 12
    nothing = frame.assign(session=pd.Series([None] * len(frame), dtype=object))
    bad(nothing, "s", "no utterance has a session, which this protocol cuts by", [cut])


def test_a_large_table_is_split_at_once() -> None:
    count, speakers = 150_000, 2_000
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, count)
    frame = pd.DataFrame(
        {
            "id": [f"u{i:06d}" for i in range(count)],
            "file": "/x.wav",
            "speaker": pd.Series([f"spk{k}" for k in rng.integers(0, speakers, count)], dtype=object),
            "partition": pd.Series(rng.choice(["train", "dev", "test"], count), dtype=object),
            "emotion": pd.Series([f"class {k}" for k in labels], dtype=object),
        }
    )
    half = [f"spk{k}" for k in range(speakers // 2)]
    own = Published("own", "Doe", "", lambda f: [fold_by(f, "speaker", "x", test=half[:100], dev=half[100:])])
    make = partial(make_protocol, frame, labels=labels, published=[own])
    for split in ("official", "speaker", "kfold", "random", "own"):
        began = time.process_time()
        make(split)
        assert time.process_time() - began < 1.0, split
