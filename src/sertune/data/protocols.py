"""Protocols from the literature: which utterances train, choose and test, fold by fold, by name.

A corpus's file lists those that it is tested by (``PROTOCOLS``); ``--split NAME`` takes one, ``--split auto`` the
first.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sertune.errors import SertuneError

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """One train, dev and test part as row positions: int64, sorted, without overlap.

    Attributes:
        name: of the fold.
        train: rows that train.
        dev: rows that choose.
        test: rows that test.
        missing: what a published part should hold and the data has not: (part, "speaker 1091").
    """

    name: str
    train: Positions
    dev: Positions
    test: Positions
    missing: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Published:
    """A protocol from the literature.

    Attributes:
        name: for ``--split``, e.g. ``iemocap-5fold``.
        source: who published it, e.g. "arXiv 2306.05350".
        text: the folds in words, as a paper would say them; choices of ours are named as such.
        cut: utterances (a manifest's frame, or some of its rows) -> folds. Rows that no part of a fold holds are left
            out of that fold; folds must not be empty. Raises `SertuneError` where the columns it needs are missing.
        label_map: the label map that goes with it, e.g. ``4class``; it is applied unless another is named. Empty: none.
    """

    name: str
    source: str
    text: str
    cut: Callable[[pd.DataFrame], Sequence[Fold]]
    label_map: str = ""


def fold_by(
    frame: pd.DataFrame,
    column: str,
    name: str,
    *,
    test: Collection[str],
    dev: Collection[str],
    train: Collection[str] | None = None,
) -> Fold:
    """A fold by the values of one column.

    Args:
        frame: utterances.
        column: e.g. ``speaker``, ``session`` or ``partition``.
        name: of the fold.
        test: values that test.
        dev: values that choose.
        train: values that train; None: all others that are not missing.

    Raises:
        SertuneError: the frame has no such column, or nothing in it.
    """
    if column not in frame or frame[column].isna().all():
        raise SertuneError(f"no utterance has a {column}, which this protocol cuts by; fill it in or use another split")
    values = frame[column]
    in_test, in_dev = values.isin(list(test)), values.isin(list(dev))
    in_train = values.notna() & ~in_test & ~in_dev if train is None else values.isin(list(train))
    there = set(values.dropna())
    missing = tuple(
        (part, f"{column} {value}")
        for part, wanted in (("train", train or ()), ("dev", dev), ("test", test))
        for value in wanted
        if value not in there
    )
    return Fold(name, rows_of(in_train), rows_of(in_dev & ~in_test), rows_of(in_test), missing)


def rows_of(mask: "NDArray[np.bool_] | pd.Series[bool]") -> Positions:
    """Positions of the rows under a mask."""
    return np.flatnonzero(np.asarray(mask)).astype(np.int64, copy=False)


def natural_order(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key by numbers within names: "s9" before "s10"."""
    pieces = re.findall(r"\d+|\D+", name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces], name
