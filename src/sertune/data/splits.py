"""Who trains, who chooses the model, who tests: protocols with train, dev and test parts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sertune.data.protocols import Fold, Positions, Published, natural_order, rows_of
from sertune.errors import SertuneError, unknown

__all__ = ["SPLITS", "Fold", "Protocol", "inner_folds", "make_protocol", "random_folds"]

SPLITS: Final = ("official", "loso", "kfold", "speaker", "random")

_TRIES: Final = 50
_BINS: Final = 5


@dataclass(frozen=True)
class Protocol:
    """A split of a corpus and how to say it in a paper.

    Attributes:
        split: one of `SPLITS`, or the name of a published protocol.
        text: the protocol in words.
        speaker_independent: no test speaker is in the train or dev part of its fold, as far as speakers are
            known; False where one isn't.
        folds: every fold to run.
        final: where there are several folds, one more without test part, for the model that is saved.
        warnings: what a reader of the result should know.
        source: who published it; empty for `SPLITS`.
    """

    split: str
    text: str
    speaker_independent: bool
    folds: tuple[Fold, ...]
    final: Fold | None
    warnings: tuple[str, ...]
    source: str = ""

    @property
    def own_parts(self) -> bool:
        """One fold with train, dev and test as the corpus gives them: others choose on dev and never train on it."""
        return self.split == "official" or bool(self.source and self.final is None)


def make_protocol(
    utterances: pd.DataFrame,
    split: str,
    *,
    labels: NDArray[Any] | None,
    folds: int = 5,
    test: float = 0.2,
    dev: float = 0.1,
    dev_speakers: int = 1,
    seed: int = 0,
    published: Sequence[Published] = (),
) -> Protocol:
    """Cut all rows of ``utterances`` into parts.

    Everything follows from the arguments, and the parts don't depend on the order of the rows.

    Args:
        utterances: a manifest's utterances, N rows.
        split: ``official``: the partition column (dev is cut from train where there is none). ``loso``:
            leave one speaker out. ``kfold``: ``folds`` groups of speakers, alike in clips and labels.
            ``speaker``: one split by speakers. ``random``: one split by clips, stratified by label, in
            which a speaker can be on both sides. The name of a published protocol of the corpus.
            ``auto``: the first of these, or else ``speaker``.
        labels: (N,) label ids (int, -1 = missing) or values (float, NaN = missing; (N, D) for several
            dimensions), for stratification and for the warnings.
        folds: number of groups of ``kfold``, at least 3.
        test: share of the clips in test (``speaker``, ``random``).
        dev: share of the clips in dev (``speaker``, ``random``; of train for ``official`` without dev).
        dev_speakers: speakers in dev (``loso``).
        seed: of every choice that is free.
        published: protocols of the corpus from the literature, the one that ``auto`` takes first. With several
            folds their ``final`` trains on everything but the dev part of the first fold.

    Raises:
        SertuneError: too few speakers, a speaker missing where the split needs it, an option out of range,
            an unknown split, an empty part, or a class that a train part lacks.
    """
    named = {protocol.name: protocol for protocol in published}
    auto = split == "auto"
    if auto:
        split = next(iter(named), "speaker")
    if split not in SPLITS and split not in named:
        raise unknown("split", split, ("auto", *named, *SPLITS))
    if not len(utterances):
        raise SertuneError("there are no utterances to split")
    rows = _Rows.of(utterances, labels)
    rng = np.random.default_rng(seed)
    if split in named:
        protocol = _published(rows, named[split])
    elif split == "official":
        protocol = _official(rows, _share("dev", dev), rng)
    elif split == "loso":
        protocol = _loso(rows, dev_speakers, rng)
    elif split == "kfold":
        protocol = _kfold(rows, folds, rng)
    else:
        _share("test", test)
        _share("dev", dev)
        if test + dev >= 1:
            raise SertuneError(f"test {test:g} and dev {dev:g} leave nothing to train on; their sum must be below 1")
        make = _speaker if split == "speaker" else _random
        protocol = make(rows, test, dev, rng)
    warnings = (*protocol.warnings, *_check_folds(rows, protocol))
    if auto and split == "speaker" and not utterances["partition"].isna().any():
        warnings = (*warnings, "the data has train, dev and test parts of its own, which --split official takes")
    return replace(protocol, warnings=warnings)


def inner_folds(
    utterances: pd.DataFrame, outer: Fold, count: int, *, labels: NDArray[Any] | None, seed: int = 0
) -> list[Fold]:
    """Folds over the speakers of a fold's train and dev parts, without a test part: for choosing settings.

    Each group of speakers, alike in clips and labels, is the dev part of one of them; all others train.

    Args:
        utterances: a manifest's utterances, N rows.
        outer: whose test part none of them sees.
        count: of folds; fewer where there are not as many speakers.
        labels: (N,) as of `make_protocol`.
        seed: of the groups.

    Raises:
        SertuneError: a speaker is missing, there are fewer than two, or a train part lacks a class.
    """
    inside = np.sort(np.concatenate([outer.train, outer.dev]))
    frame = utterances.iloc[inside]
    rows = _Rows.of(frame, None if labels is None else np.asarray(labels)[inside])
    speakers = rows.known_speakers("nested")
    if len(speakers) < 2:
        raise SertuneError(
            f"nested folds need at least two speakers outside the test part of fold {outer.name!r}, there is "
            f"{_people(len(speakers))}; use --protocol holdout"
        )
    groups = _balanced_groups(rows, speakers, min(count, len(speakers)), np.random.default_rng(seed))
    made = [_fold(rows, f"{outer.name}, inner {i + 1}", group, []) for i, group in enumerate(groups)]
    for fold in made:
        lacking = sorted(set(rows.names) - set(rows.strata[fold.train].tolist()))
        if lacking:
            raise SertuneError(
                f"the class {rows.names[lacking[0]]!r} is absent from the train part of fold {fold.name!r}, so that it "
                "can't be learnt; take more --inner-folds, or leave the class out (--target.labels, --label-map)"
            )
    return [replace(fold, train=inside[fold.train], dev=inside[fold.dev]) for fold in made]


def random_folds(
    utterances: pd.DataFrame, outer: Fold, count: int, *, labels: NDArray[Any] | None, seed: int = 0
) -> list[Fold]:
    """Stratified folds over the clips of a fold's train and dev parts, without a test part; speakers are on both sides.

    Args:
        utterances, outer, labels: as of `inner_folds`.
        count: of folds.
        seed: of the parts.
    """
    inside = np.sort(np.concatenate([outer.train, outer.dev]))
    rows = _Rows.of(utterances, labels)
    rng = np.random.default_rng(seed)
    left, parts = inside, []
    for number in range(count):
        part = _stratified(rows, left, [1 / (count - number)], rng)[0] if number < count - 1 else left
        parts.append(part)
        left = np.setdiff1d(left, part)
    nothing = inside[:0]
    return [Fold(f"{outer.name}, {i + 1}", np.setdiff1d(inside, part), part, nothing) for i, part in enumerate(parts)]


@dataclass(frozen=True)
class _Rows:
    """What the splits look at: N rows, their speakers and strata."""

    frame: pd.DataFrame
    speakers: NDArray[Any]  # (N,) str, None = unknown
    strata: NDArray[np.int64]  # (N,) label ids or quantile bins, -1 = missing
    has_labels: bool
    names: dict[int, str]  # of the classes; empty for dimensions

    @classmethod
    def of(cls, frame: pd.DataFrame, labels: NDArray[Any] | None) -> "_Rows":
        count = len(frame)
        speakers = frame["speaker"].to_numpy(dtype=object)
        if labels is None:
            nothing = np.full(count, -1, dtype=np.int64)
            return cls(frame, speakers, nothing, False, {})
        values = np.asarray(labels)
        if len(values) != count:
            raise SertuneError(f"{len(values)} labels for {count} utterances")
        if not np.issubdtype(values.dtype, np.integer):
            table = values.astype(np.float64).reshape(count, -1)
            return cls(frame, speakers, _bins(table), True, {})
        codes, first = np.unique(values, return_index=True)
        names = {
            int(code): str(name) if isinstance(name := frame["emotion"].iat[int(i)], str) else f"class {code}"
            for code, i in zip(codes, first, strict=True)
            if code >= 0
        }
        if len(names) < 2:
            only = ", ".join(names.values()) or "none"
            raise SertuneError(f"the data has fewer than two classes ({only}); nothing can be told apart")
        return cls(frame, speakers, values.astype(np.int64), True, names)

    def known_speakers(self, split: str) -> list[str]:
        """All speakers in natural order ("9" before "10"); an error where one is missing."""
        codes, names = self._coded
        missing = np.flatnonzero(codes < 0)
        if len(missing):
            i = int(missing[0])
            raise SertuneError(
                f"{len(missing)} of {len(self.frame)} utterances have no speaker, the first is row {i + 1} "
                f"({self.frame['file'].iat[i]}): the split {split!r} needs them; fill them in or use --split random"
            )
        return sorted(names, key=natural_order)

    def spoken_by(self, names: Iterable[str]) -> Positions:
        """The rows of some speakers, sorted."""
        pieces = [self._by_speaker[name] for name in names]
        return np.sort(np.concatenate(pieces)) if pieces else np.zeros(0, dtype=np.int64)

    @cached_property
    def _coded(self) -> tuple[NDArray[np.int64], list[str]]:
        """Every row's speaker as a number, -1 = unknown, and whom the numbers mean."""
        codes, names = pd.factorize(self.speakers)
        return codes.astype(np.int64), list(names)

    @cached_property
    def _by_speaker(self) -> dict[str, Positions]:
        """The rows of every speaker."""
        codes, names = self._coded
        order = np.argsort(codes, kind="stable").astype(np.int64)
        ends = np.cumsum(np.bincount(codes + 1, minlength=len(names) + 1))
        return {name: order[ends[i] : ends[i + 1]] for i, name in enumerate(names)}

    def loads(self, speakers: Sequence[str], within: Positions | None = None) -> NDArray[np.float64]:
        """(speakers, 1 + strata): share of each speaker in all clips and in each stratum, columns sum to 1."""
        rows = np.arange(len(self.frame)) if within is None else within
        codes, names = self._coded
        index = {name: i for i, name in enumerate(speakers)}
        who = np.array([index.get(name, -1) for name in names], dtype=np.int64)[codes[rows]]
        strata = self.strata[rows]
        columns = [np.bincount(who, minlength=len(speakers))]
        columns += [np.bincount(who[strata == k], minlength=len(speakers)) for k in np.unique(strata[strata >= 0])]
        table = np.stack(columns, axis=1).astype(np.float64)
        return np.asarray(table / table.sum(axis=0))


# The splits


def _published(rows: _Rows, source: Published) -> Protocol:
    """A protocol from the literature, as the data at hand has it."""
    folds = tuple(_clean(rows, source, fold) for fold in source.cut(rows.frame))
    if not folds:
        raise SertuneError(f"protocol {source.name}: it has no folds for this data; use another split")
    used = np.zeros(len(rows.frame), dtype=bool)
    for fold in folds:
        for part in (fold.train, fold.dev, fold.test):
            used[part] = True
    final = None
    if len(folds) > 1:
        rest = used.copy()
        rest[folds[0].dev] = False
        final = Fold("final", rows_of(rest), folds[0].dev, np.zeros(0, dtype=np.int64))
    text = f"{source.name} ({source.source}): {source.text}"
    if left_out := int((~used).sum()):
        text += f"; {left_out} of {len(used)} utterances are in no part and left out"
    found = [_independence(rows, fold) for fold in folds]
    warnings = list(dict.fromkeys(line for _, said in found for line in said))
    if lacking := list(dict.fromkeys(words for fold in folds for _, words in fold.missing)):
        warnings.append(f"{source.name} is not whole: the data has no usable utterance of {_some(lacking)}")
    independent = all(yes for yes, _ in found)
    return Protocol(source.name, text, independent, folds, final, tuple(warnings), source.source)


def _clean(rows: _Rows, source: Published, fold: Fold) -> Fold:
    """The fold, once its parts are known to be apart and not empty."""
    taken = np.zeros(len(rows.frame), dtype=np.int8)
    parts = {"train": fold.train, "dev": fold.dev, "test": fold.test}
    for part, positions in parts.items():
        if len(positions):
            taken[positions] += 1
            continue
        lacking = [words for of, words in fold.missing if of == part]
        why = f": there is no usable utterance of {_some(lacking)}" if lacking else ""
        raise SertuneError(
            f"protocol {source.name}: the {part} part of fold {fold.name!r} is empty{why}; complete the corpus or use "
            "another split"
        )
    twice = np.flatnonzero(taken > 1)
    if len(twice):
        i = int(twice[0])
        raise SertuneError(
            f"protocol {source.name}: {len(twice)} utterances are in two parts of fold {fold.name!r}, the first is row "
            f"{i + 1} ({rows.frame['file'].iat[i]})"
        )
    train, dev, test = (np.sort(positions).astype(np.int64) for positions in parts.values())
    return replace(fold, train=train, dev=dev, test=test)


def _official(rows: _Rows, dev: float, rng: np.random.Generator) -> Protocol:
    partition = rows.frame["partition"]
    if partition.isna().all():
        raise SertuneError("the data has no partition column: use another split than 'official'")
    missing = np.flatnonzero(partition.isna())
    if len(missing):
        i = int(missing[0])
        raise SertuneError(
            f"{len(missing)} of {len(partition)} utterances have no partition, the first is row {i + 1} "
            f"({rows.frame['file'].iat[i]}); fill it in or use another split than 'official'"
        )
    parts = {name: rows_of(partition == name) for name in ("train", "dev", "test")}
    for name in ("train", "test"):
        if not len(parts[name]):
            raise SertuneError(f"no utterance is in the partition {name!r}: use another split than 'official'")
    text = "the corpus's own train, dev and test partitions"
    warnings = []
    if not len(parts["dev"]):
        text = "the corpus's own train and test partitions; "
        known = {s for s in rows.speakers[parts["train"]] if s is not None}
        if len(known) >= 2 and all(s is not None for s in rows.speakers[parts["train"]]):
            chosen = _speakers_by_share(rows, sorted(known, key=natural_order), [dev], rng, parts["train"])[0]
            parts["dev"] = np.intersect1d(parts["train"], rows.spoken_by(chosen))
            text += f"dev: {_people(len(chosen))} of train"
        else:
            parts["dev"] = _stratified(rows, parts["train"], [dev], rng)[0]
            text += f"dev: {dev:.0%} of train at random, stratified"
            warnings.append(
                "dev is a random part of train, as its speakers are not known or only one: dev scores will be too good"
            )
        parts["train"] = np.setdiff1d(parts["train"], parts["dev"])
    fold = Fold("official", parts["train"], parts["dev"], parts["test"])
    independent, said = _independence(rows, fold)
    return Protocol("official", text, independent, (fold,), None, (*warnings, *said))


def _loso(rows: _Rows, dev_speakers: int, rng: np.random.Generator) -> Protocol:
    speakers = rows.known_speakers("loso")
    count = len(speakers)
    if dev_speakers < 1:
        raise SertuneError(f"dev_speakers must be at least 1, got {dev_speakers}: dev chooses the model")
    if count < dev_speakers + 2:
        raise SertuneError(
            f"leaving one speaker out with {_people(dev_speakers)} in dev needs at least {dev_speakers + 2} "
            f"speakers, the data has {count}; use --split random"
        )
    result = []
    for i, speaker in enumerate(speakers):
        others = [speakers[(i + 1 + k) % count] for k in range(dev_speakers)]
        result.append(_fold(rows, speaker, others, [speaker]))
    next_one = "the next speaker" if dev_speakers == 1 else f"the next {dev_speakers} speakers"
    is_dev = "is" if dev_speakers == 1 else "are"
    rest = count - 1 - dev_speakers
    text = (
        f"leave one speaker out: {count} folds, each tests one speaker, {next_one} in turn {is_dev} the dev set, "
        f"the other {rest} train; predictions are pooled over the folds"
    )
    order = rng.permutation(count)[:dev_speakers]
    final = _fold(rows, "final", [speakers[i] for i in order], [])
    return Protocol("loso", text, True, tuple(result), final, ())


def _kfold(rows: _Rows, folds: int, rng: np.random.Generator) -> Protocol:
    speakers = rows.known_speakers("kfold")
    if folds < 3:
        raise SertuneError(
            f"kfold needs at least 3 folds (one group tests, the next is dev, the others train), got {folds}"
        )
    if len(speakers) < folds:
        raise SertuneError(
            f"{folds} folds need at least {folds} speakers, the data has {len(speakers)}; use fewer folds or "
            "--split random"
        )
    groups = _balanced_groups(rows, speakers, folds, rng)
    result = [_fold(rows, str(i + 1), groups[(i + 1) % folds], groups[i]) for i in range(folds)]
    sizes = sorted({len(group) for group in groups})
    each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    text = (
        f"{folds} folds over speakers: groups of {each} of the {len(speakers)} speakers, alike in clips and labels; "
        f"each fold tests one group, the next group in turn is the dev set, the other {folds - 2} train; "
        "predictions are pooled over the folds"
    )
    final = _fold(rows, "final", groups[int(rng.integers(folds))], [])
    return Protocol("kfold", text, True, tuple(result), final, ())


def _speaker(rows: _Rows, test: float, dev: float, rng: np.random.Generator) -> Protocol:
    speakers = rows.known_speakers("speaker")
    if len(speakers) < 3:
        raise SertuneError(
            f"a split by speakers needs at least 3 speakers (train, dev, test), the data has {len(speakers)}; "
            "use --split random"
        )
    for_test, for_dev = _speakers_by_share(rows, speakers, [test, dev], rng)
    fold = _fold(rows, "speaker", for_dev, for_test)
    text = (
        f"one split by speakers: {_people(len(speakers) - len(for_test) - len(for_dev))} train, "
        f"{len(for_dev)} dev, {len(for_test)} test"
    )
    return Protocol("speaker", text, True, (fold,), None, ())


def _random(rows: _Rows, test: float, dev: float, rng: np.random.Generator) -> Protocol:
    everything = np.arange(len(rows.frame), dtype=np.int64)
    for_test, for_dev = _stratified(rows, everything, [test, dev], rng)
    train = np.setdiff1d(everything, np.union1d(for_test, for_dev))
    fold = Fold("random", train, for_dev, for_test)
    independent, warnings = _independence(rows, fold)
    text = (
        f"one random split of the clips, stratified by label: {1 - test - dev:.0%} train, {dev:.0%} dev, "
        f"{test:.0%} test; " + ("no speaker is shared" if independent else "speaker-dependent")
    )
    absent = {s for s in rows.speakers if s is not None} - set(rows.speakers[for_test])
    if absent:
        warnings = (*warnings, f"no clip in test of {_listed(sorted(absent, key=natural_order), 'speaker')}")
    return Protocol("random", text, independent, (fold,), None, warnings)


# Their parts


def _fold(rows: _Rows, name: str, dev: Sequence[str], test: Sequence[str]) -> Fold:
    """A fold by speakers: those of dev and test, all others train."""
    for_dev, for_test = rows.spoken_by(dev), rows.spoken_by(test)
    rest = np.ones(len(rows.frame), dtype=bool)
    rest[for_dev] = rest[for_test] = False
    return Fold(name, rows_of(rest), for_dev, for_test)


def _balanced_groups(rows: _Rows, speakers: Sequence[str], count: int, rng: np.random.Generator) -> list[list[str]]:
    """Groups of speakers alike in clips and labels: greedy, large speakers first, the best of ten orders."""
    loads = rows.loads(speakers)
    # Clips in all count as much as all labels together.
    weights = np.ones(loads.shape[1])
    weights[1:] /= max(1, loads.shape[1] - 1)
    best: tuple[float, list[list[str]]] | None = None
    for _ in range(10):
        order = np.argsort(-loads[:, 0] * np.exp(0.2 * rng.standard_normal(len(speakers))))
        sums = np.zeros((count, loads.shape[1]))
        groups: list[list[str]] = [[] for _ in range(count)]
        for i in order:
            # The group where the sum of squared loads grows least; empty groups are first in line.
            group = int(np.argmin(sums @ (weights * loads[i])))
            sums[group] += loads[i]
            groups[group].append(speakers[i])
        cost = float((sums**2 @ weights).sum()) + (0 if all(groups) else np.inf)
        if best is None or cost < best[0]:
            best = (cost, [sorted(group, key=natural_order) for group in groups])
    assert best is not None
    return best[1] if all(best[1]) else [list(part) for part in np.array_split(list(speakers), count)]


def _speakers_by_share(
    rows: _Rows,
    speakers: Sequence[str],
    shares: Sequence[float],
    rng: np.random.Generator,
    within: Positions | None = None,
) -> list[list[str]]:
    """Speakers for parts of about the given shares of the clips, each part and the rest at least one.

    Of random orders, the one with the best shares of clips and of every label.
    """
    loads = rows.loads(speakers, within)
    count = len(speakers)
    best: tuple[float, list[list[str]]] | None = None
    for _ in range(_TRIES):
        order = rng.permutation(count)
        clips = np.cumsum(loads[order, 0])
        parts, cost, used = [], 0.0, 0
        for k, share in enumerate(shares):
            before = clips[used - 1] if used else 0.0
            # As near to the share as whole speakers come, with one left for each part to follow.
            ends = np.arange(used + 1, count - (len(shares) - 1 - k))
            end = int(ends[np.argmin(np.abs(clips[ends - 1] - before - share))])
            got = loads[order[used:end]].sum(axis=0)
            cost += float((((got - share) / share) ** 2).mean() + ((got[0] - share) / share) ** 2)
            parts.append(sorted((speakers[i] for i in order[used:end]), key=natural_order))
            used = end
        left = loads[order[used:]].sum(axis=0)
        cost += 1e6 * float((left <= 0).sum())  # a class that nobody in train has
        if best is None or cost < best[0]:
            best = (cost, parts)
    assert best is not None
    return best[1]


def _stratified(rows: _Rows, within: Positions, shares: Sequence[float], rng: np.random.Generator) -> list[Positions]:
    """Parts of about the given shares of every stratum; a stratum of few clips stays in the rest first."""
    # By id, so that the draw doesn't depend on the order of the rows.
    ids = rows.frame["id"].to_numpy(dtype=object)[within].astype(str)
    ordered = within[np.argsort(ids, kind="stable")]
    parts: list[list[Positions]] = [[] for _ in shares]
    for stratum in np.unique(rows.strata[within]):
        members = rng.permutation(ordered[rows.strata[ordered] == stratum])
        left = len(members) - 1
        used = 0
        for k, share in enumerate(shares):
            size = min(left, max(int(len(members) > len(shares)), int(len(members) * share + 0.5)))
            parts[k].append(members[used : used + size])
            used, left = used + size, left - size
    return [np.sort(np.concatenate(part)).astype(np.int64) for part in parts]


def _bins(table: NDArray[np.float64]) -> NDArray[np.int64]:
    """Quantile bins of the first dimension that a row has (N, D) -> (N,), -1 where it has none."""
    bins = np.full(len(table), -1, dtype=np.int64)
    for column in table.T:
        free = (bins < 0) & ~np.isnan(column)
        if free.any():
            edges = np.unique(np.nanquantile(column, np.linspace(0, 1, _BINS + 1)[1:-1]))
            bins[free] = np.searchsorted(edges, column[free], side="right")
    return bins


# What is said about them


def _independence(rows: _Rows, fold: Fold) -> tuple[bool, tuple[str, ...]]:
    """Whether no test speaker is in train or dev, and a warning otherwise."""
    others = np.concatenate([fold.train, fold.dev])
    tested = set(rows.speakers[fold.test])
    if None in tested or None in set(rows.speakers[others]):
        return False, ("speakers are not known for every clip, so that test speakers may have been trained on",)
    shared = tested & set(rows.speakers[others])
    if shared:
        names = _listed(sorted(shared, key=natural_order), "test speaker")
        return False, (
            f"speaker-dependent: {names} also in train or dev, so that the scores say nothing about new speakers",
        )
    return True, ()


def _check_folds(rows: _Rows, protocol: Protocol) -> list[str]:
    """Warnings about classes that parts lack.

    Raises:
        SertuneError: an empty part, a part without labels, or a class that a train part lacks.
    """
    final = () if protocol.final is None else (protocol.final,)
    count = int(rows.strata.max(initial=-1)) + 2
    everything = np.bincount(rows.strata + 1, minlength=count)
    lacking: dict[tuple[str, str], list[str]] = {}
    for fold in (*protocol.folds, *final):
        parts = {"dev": fold.dev} | ({} if fold is protocol.final else {"test": fold.test})
        counts = {part: np.bincount(rows.strata[of] + 1, minlength=count) for part, of in parts.items()}
        if len(fold.train) + len(fold.dev) + len(fold.test) == len(rows.strata):  # the large part is what is left
            counts["train"] = everything - sum(counts.values())
        else:
            counts["train"] = np.bincount(rows.strata[fold.train] + 1, minlength=count)
        for part, found in counts.items():
            if not found.any():
                raise SertuneError(f"the {part} part of fold {fold.name!r} is empty; change the shares or the split")
            if rows.has_labels and not found[1:].any():
                raise SertuneError(
                    f"no clip in the {part} part of fold {fold.name!r} has a label; change the split or fill them in"
                )
            for code, name in rows.names.items():
                if not found[code + 1]:
                    lacking.setdefault((part, name), []).append(fold.name)
    for (part, name), where in lacking.items():
        if part == "train":
            raise SertuneError(
                f"the class {name!r} is absent from the train part of fold {where[0]!r}, so that it can't be learnt; "
                "use another split or seed, or leave the class out (--target.labels, --label-map)"
            )
    return [
        f"the class {name!r} is absent from the {part} part of {_listed(where, 'fold')}"
        for (part, name), where in lacking.items()
    ]


def _share(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise SertuneError(f"the share of {name} must be between 0 and 1, got {value:g}")
    return value


def _people(count: int) -> str:
    return f"{count} speaker" if count == 1 else f"{count} speakers"


def _some(names: Sequence[str]) -> str:
    """At most six names."""
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _listed(names: Sequence[str], what: str) -> str:
    """E.g. ``"3 speakers (03, 08, 09)"``, at most six names."""
    return f"{what} {names[0]}" if len(names) == 1 else f"{len(names)} {what}s ({_some(names)})"
