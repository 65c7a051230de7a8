"""What can be known of a corpus's annotators before anything is trained: from its tables alone, without audio."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import pandas as pd

from sertune import __version__
from sertune.corpora.cremad import ANONYMOUS
from sertune.data.manifest import Manifest, Scheme, outside_scheme
from sertune.errors import SertuneError
from sertune.files import check_writable, new_folder
from sertune.metrics import scores
from sertune.metrics.agreement import alpha_interval, alpha_nominal, majority_share
from sertune.metrics.ceilings import DRAWS, Ceiling, dimension_ceiling, label_ceiling, plane_ceiling
from sertune.metrics.distributions import entropy, tvd
from sertune.metrics.intervals import row_sums
from sertune.metrics.raters import Response, response, shrinkage
from sertune.metrics.scores import Floats, Integers
from sertune.progress import Advance, progress

FEW: Final = 5
"""Annotators with fewer ratings are counted as rare ones."""
ENOUGH: Final = 10
"""Ratings from which on a habit of an annotator is no chance."""
GRID: Final = (4, 4)
SAMPLED: Final = 300
"""Most utterances whose planes are compared: where annotators agree closely, a plane takes up to fifty milliseconds."""

_PLANES: Final = 300  # utterances times draws whose planes are compared
_DRAWN: Final = 2_000_000  # utterances times draws of the other ceilings, roughly
_LEAST_DRAWS: Final = 20  # of the other ceilings; with fewer there is no interval
_LISTED: Final = 5
_HARDLY: Final = 1000  # ratings after which a bias is not worth the name
_AGAINST: Final = 0.05  # chance that any annotator without a relation to the others is taken to be against them


@dataclass(frozen=True, eq=False)
class _Raters:
    """All annotators: their names (R,), and which are people and not `ANONYMOUS` (R,)."""

    names: np.ndarray
    named: np.ndarray


@dataclass(frozen=True, eq=False)
class _Ratings:
    """The M usable ratings of one attribute: row of the utterance, place of the annotator, number or label's place."""

    attribute: str
    scheme: Scheme
    clip: Integers
    rater: Integers
    value: Floats
    raters: _Raters

    @property
    def by_people(self) -> np.ndarray:
        """(M,) which are not anonymous."""
        return np.asarray(self.raters.named[self.rater])


@dataclass(frozen=True, eq=False)
class _Found:
    """What is said of one attribute: its entry in the report, columns (R,) for `raters.csv`, warnings."""

    entry: dict[str, Any]
    columns: dict[str, Floats]
    warnings: list[str]


def check_out(out: Path) -> None:
    """Raises `SertuneError` unless ``out`` is missing or empty and can be written."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise SertuneError(f"--out {out}: already there; choose a new or an empty folder")
    check_writable(out)


def survey(manifest: Manifest, out: Path | None = None, *, seed: int = 0, spent: float = 0.0) -> dict[str, Any]:
    """How much annotators rate, how far they agree, how they differ, and what a perfect model could reach.

    Ratings outside their scheme are left out, with a warning. Where readers know votes only (`ANONYMOUS`), nothing is
    said of annotators.

    Args:
        manifest: with single ratings.
        out: new or empty folder for ``report.json`` (what is returned), ``raters.csv`` and ``targets.parquet``, each
            utterance's true distribution: mean and standard deviation of its ratings by dimension (``arousal``,
            ``spread_arousal``, own scale), shares of the votes (``v_anger`` ...), ``plane`` (list of `GRID` shares,
            valence fastest, as `sertune train` has them with this seed), ``entropy`` of the votes (nats).
        seed: of the draws.
        spent: seconds that reading took, to be counted.

    Returns:
        ``name``, ``utterances``, ``rated`` (those with a rating), ``attributes`` by name, ``plane`` (None without
        arousal and valence), ``warnings``, ``seconds``. None stands for a figure that is undefined, and for a
        ``shrinkage`` that is infinite: the annotators' biases do not differ.

    Raises:
        SertuneError: no single ratings, or the folder can't be written.
    """
    began = time.perf_counter() - spent
    usable, parts, warnings = _parts(manifest)
    said: list[tuple[str | None, str]] = [(None, text) for text in warnings]
    entries: dict[str, Any] = {}
    columns: dict[str, Floats] = {}
    with progress("Annotators", 2 * sum(len(part.clip) for part in parts)) as advance:
        for part in parts:
            found = _category(part, seed, advance) if part.scheme.labels else _dimension(part, seed, advance)
            entries[part.attribute] = found.entry
            columns |= found.columns
            said += [(part.attribute, text) for text in found.warnings]
    rated = np.unique(np.concatenate([part.clip for part in parts]))
    report: dict[str, Any] = {
        "sertune": __version__,
        "name": manifest.name,
        "utterances": len(manifest),
        "rated": len(rated),
        "seed": seed,
        "attributes": entries,
        "plane": _plane_entry(manifest, usable, parts, seed),
        "warnings": _joined(said),
    }
    if out is None:
        return _finished(report, began)
    with new_folder(out) as work:
        _raters_table(parts, columns).to_csv(work / "raters.csv", index=False, lineterminator="\n", float_format="%.6g")
        _targets_table(manifest, usable, parts, rated, seed).to_parquet(work / "targets.parquet", index=False)
        report = _finished(report, began)
        (work / "report.json").write_text(as_json(report), encoding="utf-8")
    return report


def _finished(report: dict[str, Any], began: float) -> dict[str, Any]:
    done: dict[str, Any] = _plain({**report, "seconds": time.perf_counter() - began})
    return done


def as_json(report: dict[str, Any]) -> str:
    """The report as JSON text."""
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)


# -- reading ---------------------------------------------------------------------------------------------------------


def _parts(manifest: Manifest) -> tuple[pd.DataFrame, list[_Ratings], list[str]]:
    """The usable ratings as a table and by attribute, and what is wrong with the others."""
    ratings = manifest.ratings
    if ratings is None or not len(ratings):
        raise SertuneError(
            f"{manifest.name} has no ratings by single raters, only a consensus: nothing can be known of its annotators"
        )
    clip = pd.Index(manifest.utterances["id"]).get_indexer(pd.Index(ratings["utterance"])).astype(np.int64)
    rater, found = pd.factorize(ratings["rater"], sort=True)
    names = np.array(found, dtype=object)
    # several corpora together have the corpus's name and a slash before it
    raters = _Raters(names, np.array([not str(n).rpartition("/")[2].startswith(f"{ANONYMOUS}-") for n in names]))
    parts, warnings, kept = [], [], np.zeros(len(ratings), dtype=np.bool_)
    for attribute, scheme in manifest.schemes.items():
        rows = np.flatnonzero(ratings["attribute"] == attribute)
        values = ratings["value"].iloc[rows]
        outside = outside_scheme(values, scheme)
        if outside.any():
            warnings.append(
                f"{attribute}: {outside.sum()} ratings are outside the {'labels' if scheme.labels else 'scale'} and "
                "are left out"
            )
        good = values.notna().to_numpy() & ~outside
        rows, values = rows[good], values[good]
        kept[rows] = True
        if len(rows):
            place = pd.Index(scheme.labels).get_indexer(pd.Index(values)) if scheme.labels else values
            number = np.asarray(place, dtype=np.float64)
            parts.append(_Ratings(attribute, scheme, clip[rows], rater[rows].astype(np.int64), number, raters))
    if not parts:
        raise SertuneError(f"{manifest.name}: no rating that can be used; {'; '.join(warnings)}")
    if (anonymous := ~raters.named).any():
        who = "all" if anonymous.all() else "some"
        warnings.append(
            f"{who} annotators are anonymous: only an utterance's votes are known, not who gave them, so that these "
            "annotators can't be modelled; use --target distribution"
        )
    return ratings[kept], parts, warnings


# -- what every attribute has ----------------------------------------------------------------------------------------


def _counts(part: _Ratings) -> tuple[dict[str, Any], list[str]]:
    """How many rated what, with the warnings that follow."""
    each = np.bincount(part.clip)
    each = each[each > 0]
    by_rater = np.bincount(part.rater[part.by_people])
    by_rater = by_rater[by_rater > 0]
    alike = [str(part.raters.names[i]) for i in _one_value(part)]
    entry: dict[str, Any] = {
        "ratings": len(part.clip),
        "utterances": len(each),
        "raters": len(by_rater) if len(by_rater) else None,
        "anonymous": int((~part.by_people).sum()),
        "per_utterance": _range(each),
        "per_rater": _range(by_rater),
        "fewer_than_5": int((by_rater < FEW).sum()) if len(by_rater) else None,
        "one_rating": int((each == 1).sum()),
        "one_value": alike,
    }
    warnings = []
    if len(by_rater) == 1 and not entry["anonymous"]:
        only = part.raters.names[part.rater[0]]
        warnings.append(f"one annotator only ({only}): agreement is not known; use --target dimension or category")
    elif each.max() == 1:
        warnings.append(
            "no utterance has two ratings, so that agreement is not known, nor what annotators add to what they rate"
        )
    elif lone := entry["one_rating"]:
        warnings.append(f"{lone} of {len(each)} utterances have one rating only: their distribution is a guess")
    if alike:
        one = "1 annotator gives" if len(alike) == 1 else f"{len(alike)} annotators give"
        warnings.append(f"{one} the same value in all of {ENOUGH} ratings or more: {_names(alike)}")
    return entry, warnings


def _one_value(part: _Ratings) -> Integers:
    """Annotators with `ENOUGH` ratings who use one value only."""
    size = len(part.raters.names)
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, part.rater, part.value)
    np.maximum.at(high, part.rater, part.value)
    often = np.bincount(part.rater, minlength=size) >= ENOUGH
    return np.flatnonzero(part.raters.named & often & (low == high))


def _range(counts: Integers) -> dict[str, float] | None:
    if not len(counts):
        return None
    return {"min": int(counts.min()), "median": float(np.median(counts)), "max": int(counts.max())}


def _draws(utterances: int) -> int:
    return max(_LEAST_DRAWS, min(DRAWS, _DRAWN // max(utterances, 1)))


def _ceiling(metric: str, found: Ceiling, text: str) -> dict[str, Any]:
    few = found.draws < _LEAST_DRAWS
    return {
        "metric": metric,
        "value": found.value,
        "low": None if few else found.low,
        "high": None if few else found.high,
        "text": text,
        "utterances": found.clips,
        "draws": found.draws,
    }


def _halves(found: dict[str, Ceiling]) -> list[dict[str, Any]]:
    """Of `label_ceiling` or `plane_ceiling`; what they say of the least distance that a prediction could have."""
    text = "one half of the annotators against the other"
    return [
        _ceiling(name, found[f"{name}_halves"], text) | {"floor": found[f"{name}_halves"].value * share}
        for name, share in (("tvd", 0.5), ("jsd", 0.25))
    ]


# -- categories ------------------------------------------------------------------------------------------------------


def _category(part: _Ratings, seed: int, advance: Advance) -> _Found:
    entry, warnings = _counts(part)
    labels = part.scheme.labels
    votes = _votes(part)
    votes = votes[votes.any(axis=1)]
    several = votes[votes.sum(axis=1) > 1]
    overall = votes.sum(axis=0) / votes.sum()
    entry |= {
        "labels": list(labels),
        "shares": dict(zip(labels, overall.tolist(), strict=True)),
        "alpha": alpha_nominal(votes),
        "majority": majority_share(votes),
        "distribution": _distribution(several, overall) if len(several) else None,
    }
    advance(len(part.clip))
    agreement = _with_majority(part)
    often = agreement[~np.isnan(agreement) & (np.bincount(part.rater, minlength=len(agreement)) >= FEW)]
    entry["agreement"] = (
        dict(zip(("low", "median", "high"), np.quantile(often, [0.05, 0.5, 0.95]).tolist(), strict=True))
        if len(often)
        else None
    )
    found = label_ceiling(several, draws=_draws(len(several)), seed=seed) if len(several) else None
    entry["ceilings"] = (
        [_ceiling("uar", found["uar"], "a single annotator against the majority of the others"), *_halves(found)]
        if found
        else []
    )
    advance(len(part.clip))
    columns = {f"agreement_{part.attribute}": agreement}
    return _Found(entry, columns, warnings)


def _votes(part: _Ratings) -> Integers:
    """(utterances, L) counts, as far as the last utterance with a vote."""
    width = len(part.scheme.labels)
    cells = part.clip * width + part.value.astype(np.int64)
    return np.bincount(cells, minlength=(int(part.clip.max()) + 1) * width).reshape(-1, width).astype(np.int64)


def _distribution(votes: Integers, overall: Floats) -> dict[str, Any]:
    """Of the utterances with two votes or more: entropy, and how far a hard label is from the votes.

    The TVDs are means over the utterances that have a majority: to the majority with certainty, and to the shares that
    the labels have in the corpus.
    """
    shares = votes / votes.sum(axis=1, keepdims=True)
    clear = shares[(votes == votes.max(axis=1, keepdims=True)).sum(axis=1) == 1]
    hard = np.eye(votes.shape[1])[clear.argmax(axis=1)]
    some = len(clear) > 0
    return {
        "utterances": len(votes),
        "entropy": float(entropy(shares).mean()),
        "most_entropy": math.log(votes.shape[1]),
        "tvd_majority": float(tvd(clear, hard).mean()) if some else None,
        "tvd_shares": float(tvd(clear, np.broadcast_to(overall, clear.shape)).mean()) if some else None,
    }


def _with_majority(part: _Ratings) -> Floats:
    """(R,) share of an annotator's votes that are the majority of the others on that utterance.

    NaN for nobody's, and without a vote on an utterance whose others have a majority.
    """
    votes = _votes(part)
    others = np.full(votes.shape, -1, dtype=np.int64)
    for label in range(votes.shape[1]):
        rows = np.flatnonzero(votes[:, label])
        rest = votes[rows]
        rest[:, label] -= 1
        best = rest.max(axis=1)
        single = (best > 0) & ((rest == best[:, None]).sum(axis=1) == 1)
        others[rows, label] = np.where(single, rest.argmax(axis=1), -1)
    own = part.value.astype(np.int64)
    majority = others[part.clip, own]
    counted = (majority >= 0) & part.by_people
    size = len(part.raters.names)
    n = np.bincount(part.rater[counted], minlength=size)
    right = np.bincount(part.rater[counted & (majority == own)], minlength=size)
    share: Floats = np.divide(right, n, out=np.full(size, np.nan), where=n > 0)
    return share


# -- dimensions ------------------------------------------------------------------------------------------------------


def _dimension(part: _Ratings, seed: int, advance: Advance) -> _Found:
    entry, warnings = _counts(part)
    each, _, spread = _means(part)
    spread = spread[each > 1]
    entry |= {
        "scale": list(part.scheme.scale),
        "alpha": alpha_interval(part.clip, part.value),
        "spread": {"mean": float(spread.mean()), "sd": float(spread.std())} if len(spread) else None,
    }
    fitted = _response(part)
    entry["response"] = None
    columns = {f"{name}_{part.attribute}": np.full(len(part.raters.names), np.nan) for name in _PARTS}
    if fitted is not None:
        entry["response"] = {
            "bias_sd": math.sqrt(fitted.bias_variance),
            "gain_sd": math.sqrt(fitted.gain_variance),
            "noise": math.sqrt(fitted.noise_variance),
            "shrinkage": shrinkage(fitted),
        }
        columns = {
            f"{name}_{part.attribute}": np.where(fitted.ratings > 0, getattr(fitted, name), np.nan) for name in _PARTS
        }
        if not fitted.converged:
            warnings.append(f"bias, gain and noise had not settled after {fitted.steps} steps: take them as rough")
    advance(len(part.clip))
    entry["against"] = _against(part)
    if entry["against"]:
        listed = [f"{one['rater']} ({one['correlation']:.2f}, {one['ratings']} ratings)" for one in entry["against"]]
        whose = "1 annotator's ratings fall" if len(listed) == 1 else f"the ratings of {len(listed)} annotators fall"
        warnings.append(f"{whose} where the others' rise, maybe on a flipped scale: {_names(listed)}")
    entry["ceilings"] = []
    if len(spread):
        found = dimension_ceiling(part.clip, part.rater, part.value, draws=_draws(len(spread)), seed=seed)
        text = "a single annotator against the mean of the others"
        entry["ceilings"] = [_ceiling(f"ccc_{part.attribute}", found["ccc"], text)]
    advance(len(part.clip))
    return _Found(entry, columns, warnings)


_PARTS: Final = ("bias", "gain", "noise")


def _response(part: _Ratings) -> Response | None:
    """None where no utterance has been rated by two people: annotators and utterances can't be told apart."""
    mine = part.by_people
    if not mine.any() or np.bincount(part.clip[mine]).max() < 2:
        return None
    return response(part.clip[mine], part.rater[mine], part.value[mine], len(part.raters.names))


def _means(part: _Ratings) -> tuple[Integers, Floats, Floats]:
    """Of each utterance with ratings: how many, their mean, their standard deviation (NaN for one)."""
    count = np.bincount(part.clip)
    total = np.bincount(part.clip, weights=part.value)
    mean = total / np.maximum(count, 1)
    squares = np.bincount(part.clip, weights=(part.value - mean[part.clip]) ** 2)
    there = count > 0
    free = np.where(count > 1, count - 1.0, np.nan)
    return count[there].astype(np.int64), mean[there], np.sqrt(squares / free)[there]


def _against(part: _Ratings) -> list[dict[str, Any]]:
    """Annotators whose ratings correlate negatively with the mean of the others', beyond chance.

    Of those with `ENOUGH` ratings; by Fisher's z, with Bonferroni's correction for their number.
    """
    count, total = np.bincount(part.clip), np.bincount(part.clip, weights=part.value)
    rows = part.by_people & (count[part.clip] > 1)
    clip, rater, value = part.clip[rows], part.rater[rows], part.value[rows]
    others = (total[clip] - value) / (count[clip] - 1)
    terms, _ = scores.moments(others, value)
    sums = row_sums(terms, rater, len(part.raters.names))
    n, r = sums[:, 0], scores.pearson_of(sums)
    tested = np.flatnonzero((n >= ENOUGH) & ~np.isnan(r))
    if not len(tested):
        return []
    limit = NormalDist().inv_cdf(_AGAINST / len(tested))
    z = np.arctanh(np.clip(r[tested], -1 + 1e-12, 1 - 1e-12)) * np.sqrt(n[tested] - 3)
    order = tested[np.argsort(z, kind="stable")][: int((z < limit).sum())]
    return [
        {"rater": str(part.raters.names[i]), "correlation": float(r[i]), "ratings": int(n[i])} for i in order.tolist()
    ]


# -- the plane -------------------------------------------------------------------------------------------------------


def _plane_parts(parts: Sequence[_Ratings]) -> list[_Ratings]:
    """Those of arousal and valence; empty unless both are rated."""
    both = [part for name in ("arousal", "valence") for part in parts if part.attribute == name]
    return both if len(both) == 2 else []


def _plane_entry(
    manifest: Manifest, usable: pd.DataFrame, parts: Sequence[_Ratings], seed: int
) -> dict[str, Any] | None:
    """How far the planes of two halves of the annotators differ, of at most `SAMPLED` utterances."""
    both = _plane_parts(parts)
    if not both:
        return None
    size = len(both[0].raters.names)
    arousal, valence = (part.clip * size + part.rater for part in both)
    pairs = np.intersect1d(arousal, valence, assume_unique=True)
    count = np.bincount(pairs // size, minlength=len(manifest))
    rows = np.flatnonzero(count >= 3)
    entry: dict[str, Any] = {
        "grid": list(GRID),
        "utterances": int((count > 0).sum()),
        "three_raters": len(rows),
        "ceilings": [],
    }
    if not len(rows):
        return entry
    rng = np.random.default_rng(seed)
    if len(rows) > SAMPLED:
        rows = np.sort(rng.choice(rows, SAMPLED, replace=False))
    values = _plane_values(manifest.utterances.iloc[rows], usable, both)
    found = plane_ceiling(_cells_of(values, rng), values, draws=min(_LEAST_DRAWS, _PLANES // len(rows)), seed=seed)
    return entry | {"ceilings": _halves(found)}


def _plane_values(some: pd.DataFrame, usable: pd.DataFrame, both: Sequence[_Ratings]) -> Floats:
    """(N, R, 2) ratings in [-1, 1] of some utterances, NaN where there is none."""
    from sertune.model.targets.dimension import to_unit
    from sertune.model.targets.distribution import PLANE
    from sertune.model.targets.slots import rating_slots

    mine = usable[usable["utterance"].isin(some["id"])]
    slots = rating_slots(some, mine, PLANE, ())[:, :, 1:].astype(np.float64)
    return to_unit(slots, tuple(part.scheme.scale for part in both))


def _cells_of(values: Floats, rng: np.random.Generator) -> Callable[[Floats], Floats]:
    """Ratings (n, r, 2) -> shares of the cells (n, G); each call draws anew, so that two halves share no draw."""
    from sertune.model.planes import cell_targets, within_spread

    alone = within_spread(values)

    def cells(some: Floats) -> Floats:
        seeds = rng.integers(0, 2**63, len(some)).tolist()
        return cell_targets(some, GRID, seeds, alone=alone).reshape(len(some), -1)

    return cells


# -- tables ----------------------------------------------------------------------------------------------------------


def _raters_table(parts: Sequence[_Ratings], columns: dict[str, Floats]) -> pd.DataFrame:
    """A row for each annotator who is not anonymous, by name; ``ratings`` is the number of utterances that he rated."""
    raters = parts[0].raters
    size = len(raters.names)
    pairs = np.unique(np.concatenate([part.clip * size + part.rater for part in parts]))
    table = pd.DataFrame({"rater": raters.names, "ratings": np.bincount(pairs % size, minlength=size)} | columns)
    return table[raters.named & (table["ratings"] > 0).to_numpy()]


def _targets_table(
    manifest: Manifest, usable: pd.DataFrame, parts: Sequence[_Ratings], rated: Integers, seed: int
) -> pd.DataFrame:
    """A row for each utterance with a rating."""
    size = len(parts[0].raters.names)
    pairs = np.unique(np.concatenate([part.clip * size + part.rater for part in parts]))
    frame = manifest.utterances.iloc[rated]
    columns: dict[str, Any] = {
        "utterance": frame["id"].to_numpy(dtype=object),
        "raters": np.bincount(pairs // size)[rated],
    }
    for part in parts:
        where = np.searchsorted(rated, np.unique(part.clip))
        if part.scheme.labels:
            votes = _votes(part)
            votes = votes[votes.any(axis=1)]
            shares = _spread_out(votes / votes.sum(axis=1, keepdims=True), where, len(rated))
            columns |= {f"v_{label}": shares[:, i] for i, label in enumerate(part.scheme.labels)}
        else:
            _, mean, spread = _means(part)
            columns[part.attribute] = _spread_out(mean, where, len(rated))
            columns[f"spread_{part.attribute}"] = _spread_out(spread, where, len(rated))
    if both := _plane_parts(parts):
        from sertune.model.targets.distribution import Plane

        planes = Plane(GRID, seed=seed).encode(frame, usable, tuple(part.scheme.scale for part in both))
        columns["plane"] = [None if np.isnan(row[0]) else row for row in planes]
    if any(part.scheme.labels for part in parts):
        columns["entropy"] = entropy(shares)
    return pd.DataFrame(columns)


def _spread_out(values: Floats, where: Integers, size: int) -> Floats:
    """Rows put in their places among ``size``, NaN elsewhere."""
    full = np.full((size, *values.shape[1:]), np.nan)
    full[where] = values
    return full


# -- words -----------------------------------------------------------------------------------------------------------


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _joined(said: Sequence[tuple[str | None, str]]) -> list[str]:
    """Warnings, those that several attributes share only once."""
    about: dict[str, list[str]] = {}
    for attribute, text in said:
        about.setdefault(text, []).extend([attribute] if attribute else [])
    return [f"{', '.join(names)}: {text}" if names else text for text, names in about.items()]


def _plain(value: Any) -> Any:
    """As JSON can say it: None for what is undefined or infinite."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(report: dict[str, Any]) -> str:
    """The report for a person."""
    lines = [f"{report['name']}: {report['rated']} of {report['utterances']} utterances have single ratings"]
    for name, entry in report["attributes"].items():
        lines += _lines_of(name, entry)
    if plane := report["plane"]:
        grid = "x".join(map(str, plane["grid"]))
        lines.append(f"plane of arousal and valence, {grid} cells: {plane['utterances']} utterances")
        if plane["ceilings"]:
            one = plane["ceilings"][0]
            times = f"{one['draws']} draw{'s' * (one['draws'] > 1)} of {one['utterances']} utterances"
            lines += [*_ceiling_lines(plane["ceilings"]), f"  (from {times} with three annotators or more)"]
        else:
            lines.append("  no utterance has three annotators, whose halves could be compared")
    lines += [f"warning: {text}" for text in report["warnings"]]
    return "\n".join([*lines, f"{report['seconds']:.1f} s"])


def _lines_of(name: str, entry: dict[str, Any]) -> list[str]:
    what = f"{len(entry['labels'])} labels" if "labels" in entry else "{:g} to {:g}".format(*entry["scale"])
    who = "anonymous annotators" if entry["raters"] is None else f"{entry['raters']} annotators"
    if entry["raters"] is not None and entry["anonymous"]:
        who += f" and, {entry['anonymous']} of them, anonymous ones"
    lines = [f"{name} ({what}): {entry['ratings']} ratings of {entry['utterances']} utterances by {who}"]
    counts = [f"ratings per utterance {_range_text(entry['per_utterance'])}"]
    if entry["per_rater"]:
        counts.append(f"per annotator {_range_text(entry['per_rater'])}; {entry['fewer_than_5']} have fewer than {FEW}")
    lines += [f"  {', '.join(counts)}", f"  Krippendorff's alpha {_figure(entry['alpha'])}"]
    lines += _category_lines(entry) if "labels" in entry else _dimension_lines(entry)
    return lines + _ceiling_lines(entry["ceilings"])


def _category_lines(entry: dict[str, Any]) -> list[str]:
    lines = [f"  {entry['majority']:.1%} of the utterances have a majority label"]
    if found := entry["distribution"]:
        most = found["most_entropy"]
        lines += [
            f"  mean entropy of an utterance's votes {_figure(found['entropy'])} nats (at most {most:.3f})",
            f"  what a hard label loses: mean TVD {_figure(found['tvd_majority'])} from votes to majority label "
            f"({_figure(found['tvd_shares'])} to the corpus's overall shares)",
        ]
    if found := entry["agreement"]:
        lines.append(
            f"  an annotator votes as the majority of the others in {found['median']:.1%} (median; 5 to 95 % of the "
            f"annotators: {found['low']:.1%} to {found['high']:.1%})"
        )
    return lines


def _dimension_lines(entry: dict[str, Any]) -> list[str]:
    lines = []
    if found := entry["response"]:
        lines.append(
            f"  between annotators: SD of bias {found['bias_sd']:.3f}, of gain {found['gain_sd']:.3f}; noise of a "
            f"single rating {found['noise']:.3f}"
        )
        lines.append(f"  {_half_text(found['shrinkage'])}")
    if found := entry["spread"]:
        lines.append(f"  SD of an utterance's ratings: mean {found['mean']:.3f}, spread {found['sd']:.3f}")
    return lines


def _half_text(ratings: float | None) -> str:
    """After how many ratings an annotator's own bias counts half; None: never."""
    if ratings is None:
        return "annotators' biases do not differ"
    if ratings > _HARDLY:
        return f"annotators' biases hardly differ (one of his own would count half after {ratings:.0f} ratings)"
    if ratings < 1:
        return "an annotator's own bias counts more than half from his first rating on"
    return f"an annotator needs about {ratings:.{1 if ratings < 10 else 0}f} ratings until his own bias counts half"


def _ceiling_lines(ceilings: Sequence[dict[str, Any]]) -> list[str]:
    """The ceilings, those with one text in one line."""
    by_text: dict[str, list[dict[str, Any]]] = {}
    for one in ceilings:
        by_text.setdefault(one["text"], []).append(one)
    lines = []
    for text, some in by_text.items():
        figures = [f"{one['metric'].partition('_')[0].upper()} {_figure(one['value'])}{_interval(one)}" for one in some]
        lines.append(f"  {text}: {', '.join(figures)}")
        if floors := [one for one in some if one.get("floor") is not None]:
            least = ", ".join(f"{one['metric'].upper()} {one['floor']:.3f}" for one in floors)
            lines.append(f"  so even a perfect prediction would be off by about {least}, more with few ratings")
    return lines


def _interval(one: dict[str, Any]) -> str:
    return "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"


def _range_text(found: dict[str, float]) -> str:
    return f"{found['min']} to {found['max']} (median {found['median']:g})"


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
