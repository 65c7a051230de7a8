"""Folds that come with the data: columns ``fold_1``, ``fold_2`` ..., each says train, dev or test (or nothing)."""

import re
from collections.abc import Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import pandas as pd

from sertune.data import labels
from sertune.data.protocols import Fold, Positions, Published, rows_of
from sertune.errors import SertuneError

DEV_SHARE: Final = 0.2
"""Of a fold's train part where the fold has no dev part: EmoBox's toolkit takes as much, by chance."""

_COLUMN: Final = re.compile(r"fold_(\d+)")


def fold_columns(frame: pd.DataFrame) -> list[str]:
    """The columns ``fold_1``, ``fold_2`` ... of a table that name parts, by number."""
    found = {int(match[1]): str(column) for column in frame.columns if (match := _COLUMN.fullmatch(str(column)))}
    named = [found[number] for number in sorted(found)]
    return [column for column in named if _names(frame, column).isin(labels.PARTITIONS).any()]


def own_folds(frame: pd.DataFrame, source: str) -> Published | None:
    """The protocol ``folds`` made of the columns ``fold_1``, ``fold_2`` ... of a manifest's utterances, if any.

    Where a fold has no dev part, `DEV_SHARE` of its train part is taken: whole speakers where all are known, else
    clips of every label. Which ones follows from the ids or the speakers' names, so that it is the same whenever and
    wherever it is drawn, whatever else is in the table.

    Args:
        frame: utterances.
        source: who made the folds.
    """
    columns = fold_columns(frame)
    if not columns:
        return None
    text = f"the {len(columns)} folds that come with the data" if len(columns) > 1 else "the fold of the data"
    lacking = [column for column in columns if not (_names(frame, column) == "dev").any()]
    if lacking:
        where = "" if len(lacking) == len(columns) else f" in {', '.join(lacking)}"
        text += f"; dev{where}: {DEV_SHARE:.0%} of train, chosen by sertune"
    return Published("folds", source, text, partial(_cut, columns=columns))


def _cut(frame: pd.DataFrame, columns: Sequence[str]) -> list[Fold]:
    return [_fold(frame, column) for column in columns]


def _fold(frame: pd.DataFrame, column: str) -> Fold:
    if column not in frame.columns:
        raise SertuneError(f"the split 'folds' needs the column {column} of the data, and it is not there")
    parts = _parts(frame, column)
    for part in ("train", "test"):
        if part not in parts:
            raise SertuneError(f"column {column}: no utterance is in its part {part!r}; every fold needs one")
    train, dev = parts["train"], parts.get("dev")
    if dev is None:
        dev = _dev_of(frame, train)
        train = np.setdiff1d(train, dev)
    return Fold(column.replace("fold_", ""), train, dev, parts["test"])


def _parts(frame: pd.DataFrame, column: str) -> dict[str, Positions]:
    """Positions of the rows of each part that the column names.

    Raises:
        SertuneError: a value is none of train, dev and test, with its row.
    """
    names = _names(frame, column)
    wrong = np.flatnonzero((names.notna() & ~names.isin([*labels.PARTITIONS, ""])).to_numpy())
    if len(wrong):
        i = int(wrong[0])
        raise SertuneError(
            f"row {i + 1} ({frame['file'].iat[i]}) has {column} {frame[column].iat[i]!r}, expected train, dev or test"
        )
    found = {part: rows_of(names == part) for part in labels.PARTITIONS}
    return {part: rows for part, rows in found.items() if len(rows)}


def _names(frame: pd.DataFrame, column: str) -> "pd.Series[Any]":
    """The canonical names of the parts that a column says."""
    return frame[column].map(lambda value: labels.partition(str(value)), na_action="ignore")


def _dev_of(frame: pd.DataFrame, train: Positions) -> Positions:
    """`DEV_SHARE` of the train part."""
    speakers = frame["speaker"].iloc[train]
    known = bool(speakers.notna().all()) and speakers.nunique() > 2
    if known:
        left = DEV_SHARE * len(train)
        chosen: list[str] = []
        counts = speakers.value_counts()
        for speaker in sorted(counts.index, key=_draw):
            # As near to the share as whole speakers come, at least one, and one stays in train.
            if chosen and (counts[speaker] / 2 > left or len(chosen) == len(counts) - 1):
                break
            chosen.append(speaker)
            left -= counts[speaker]
        return train[speakers.isin(chosen).to_numpy()]
    rows = pd.DataFrame({"position": train, "label": frame["emotion"].iloc[train].to_numpy()})
    rows["draw"] = [_draw(str(name)) for name in frame["id"].iloc[train]]
    parts = []
    for _, group in rows.sort_values("draw").groupby("label", dropna=False, sort=True):
        parts.append(group["position"].to_numpy()[: max(int(len(group) * DEV_SHARE + 0.5), int(len(group) > 1))])
    return np.sort(np.concatenate(parts)).astype(np.int64)


def _draw(name: str) -> str:
    """A number that follows from a name, as text; it is like chance, and the same everywhere."""
    return blake2b(name.encode(errors="surrogatepass"), digest_size=8).hexdigest()
