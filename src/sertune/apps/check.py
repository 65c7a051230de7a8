"""What `sertune check` prints."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sertune.config import SplitConfig
from sertune.corpora import published
from sertune.corpora.cremad import ANONYMOUS
from sertune.data.audit import Check, Problem, audit_split
from sertune.data.labels import DIMENSIONS
from sertune.data.manifest import Manifest, outside_scheme
from sertune.data.splits import make_protocol
from sertune.errors import SertuneError
from sertune.metrics.agreement import (
    alpha_interval,
    alpha_nominal,
    fleiss_kappa,
    majority_share,
    mean_spread,
    pairwise_agreement,
)

MOST_SPEAKERS = 30
MOST_FOLDS = 12
MOST_ALIKE = 12
"""Problems of one message that are listed file by file; of more, the first `FIRST_ALIKE` are."""
FIRST_ALIKE = 5


def audit(manifest: Manifest, found: Check, split: SplitConfig, seed: int = 0) -> dict[str, Any]:
    """What a split of the usable clips with a label or value would be, and what its parts share.

    Args:
        manifest: that was checked.
        found: of `sertune.data.audit.check`.
        split: as for training.
        seed: of the split and the baseline.

    Returns:
        ``protocol`` in words, ``folds`` with the sizes of their parts, and what `audit_split` returns.

    Raises:
        SertuneError: the split can't be made.
    """
    targets, names = _targets(manifest)
    known = targets >= 0 if targets.ndim == 1 else ~np.isnan(targets).all(axis=1)
    rows = np.flatnonzero(known & found.usable)
    if not len(rows):
        raise SertuneError(f"--split: {manifest.name} has no usable utterance with a label or value")
    if targets.ndim == 1:  # classes that are left, as training takes them
        present = np.unique(targets[rows])
        names, targets = [names[code] for code in present], np.searchsorted(present, targets)
    kept = manifest.select(rows)
    protocol = make_protocol(
        kept.utterances,
        split.name,
        labels=targets[rows],
        folds=split.folds,
        test=split.test,
        dev=split.dev,
        dev_speakers=split.dev_speakers,
        seed=seed,
        published=published(kept),
    )
    digests, heard = [found.digests[i] for i in rows], [found.heard[i] for i in rows]
    audited = audit_split(kept.utterances, protocol, targets[rows], names, digests, heard, seed)
    return {
        "split": protocol.split,
        "protocol": protocol.text,
        "speaker_independent": protocol.speaker_independent,
        "folds": [
            {"name": fold.name, "train": len(fold.train), "dev": len(fold.dev), "test": len(fold.test)}
            for fold in protocol.folds
        ],
        **audited,
        "warnings": [*protocol.warnings, *audited["warnings"]],
    }


def _targets(manifest: Manifest) -> tuple[NDArray[Any], list[str]]:
    """(N,) label ids, -1 = missing, and the labels; without labels (N, D) values and the dimensions."""
    frame = manifest.utterances
    if "emotion" in manifest.schemes and not frame["emotion"].isna().all():
        labels = manifest.schemes["emotion"].labels
        place = {label: code for code, label in enumerate(labels)}
        return np.array([place.get(label, -1) for label in frame["emotion"]], dtype=np.int64), list(labels)
    names: list[str] = [name for name in DIMENSIONS if name in manifest.schemes]
    return frame[names].to_numpy(dtype=np.float64), names


def show_split(found: dict[str, Any]) -> str:
    """The audit of a split, for a person."""
    lines = [f"split {found['split']}: {found['protocol']}"]
    for fold in found["folds"][:MOST_FOLDS]:
        lines.append(f"  {fold['name']}: {fold['train']} train, {fold['dev']} dev, {fold['test']} test")
    if len(found["folds"]) > MOST_FOLDS:
        lines.append(f"  ... and {len(found['folds']) - MOST_FOLDS} more folds")
    known = found["speaker_independent"]
    lines.append("no test speaker is in train or dev" if known else "test speakers are in train or dev, or not known")
    lines += [f"  warning: {text}" for text in found["warnings"]]
    lines += [f"  note: {text}" for text in found["notes"]]
    if not found["shared"]:
        lines.append("train shares no speaker, session, text, recording or audio with the other parts")
    said = " ".join(found["warnings"])
    lines += [
        f"without listening, {of['text']}"
        for of in found["trivial"]["metrics"].values()
        if of["text"] and of["text"] not in said
    ]
    return "\n".join(lines)


def show(manifest: Manifest, found: Check) -> str:
    """The summary and every problem, for a person: counts first, then file by file."""
    summary = found.summary
    lines = [
        f"{summary['name']}: {summary['utterances']} utterances in {summary['files']} files, "
        f"{summary['hours']:.2f} h, {summary['usable']} usable",
        _durations(summary["durations"]),
        _line("sampling rates (Hz)", summary["rates"]),
        _line("channels", summary["channels"]),
        _line("labels", summary["labels"]),
    ]
    for name, entry in summary["dimensions"].items():
        mean = f", mean {entry['mean']:.2f}, std {entry['std']:.2f}" if entry["mean"] is not None else ""
        lines.append(f"{name}: {entry['count']} values on {entry['low']:g} to {entry['high']:g}{mean}")
    speakers = summary["speakers"]
    if len(speakers) > MOST_SPEAKERS:
        lines.append(f"speakers: {len(speakers)}, with {min(speakers.values())} to {max(speakers.values())} clips each")
    else:
        lines.append(_line("speakers", speakers))
    lines += [_line(name, summary[name]) for name in ("genders", "languages", "partitions")]
    if ratings := summary.get("ratings"):
        raters = "unknown" if ratings["raters"] is None else ratings["raters"]
        lines.append(f"ratings: {ratings['ratings']} by {raters} raters")
        lines += [_agreement_line(name, entry) for name, entry in ratings.get("agreement", {}).items()]
    lines = [line for line in lines if line]
    errors = sum(problem.severity == "error" for problem in found.problems)
    warnings = len(found.problems) - errors
    if not found.problems:
        return "\n".join([*lines, "nothing wrong was found"])
    lines.append(f"{errors} errors, {warnings} warnings:")
    return "\n".join([*lines, *_problem_lines(found.problems)])


def _problem_lines(problems: Sequence[Problem]) -> Iterator[str]:
    """A line each; of one message that many files share the first few, then how many more."""
    total = Counter(problem.message for problem in problems)
    shown: Counter[str] = Counter()
    for problem in problems:
        shown[problem.message] += 1
        many = total[problem.message] > MOST_ALIKE
        if many and shown[problem.message] > FIRST_ALIKE:
            if shown[problem.message] == total[problem.message]:
                rest = total[problem.message] - FIRST_ALIKE
                yield f"  {problem.severity}: {problem.message}: {rest} more files (--json lists all)"
            continue
        where = f"{problem.file} (row {problem.row}): " if problem.row is not None else ""
        yield f"  {problem.severity}: {where}{problem.message}"


def _line(name: str, counts: dict[str, Any]) -> str:
    return f"{name}: {', '.join(f'{key} {count}' for key, count in counts.items())}" if counts else ""


def _durations(quantiles: dict[str, float | None]) -> str:
    if quantiles["median"] is None:
        return ""
    return "durations (s): " + ", ".join(f"{name} {value:.2f}" for name, value in quantiles.items())


def with_agreement(manifest: Manifest, found: Check) -> Check:
    """With how far the raters agree in ``summary["ratings"]["agreement"]``, per attribute; unchanged without ratings.

    Each entry has ``raters``, ``ratings``, ``clips``, ``per_clip`` (least, median, most), ``alpha``, and for emotion
    ``kappa``, ``pairwise`` and ``majority``, for dimensions ``spread`` (`sertune.metrics.agreement`); None where
    undefined. Ratings outside their scheme are left out. Where only votes are known, the number of raters is None.
    """
    if manifest.ratings is None:
        return found
    entries = {
        attribute: _agreement(manifest, attribute)
        for attribute in manifest.schemes
        if (manifest.ratings["attribute"] == attribute).any()
    }
    raters = _raters(manifest.ratings["rater"])
    ratings = {**found.summary["ratings"], "raters": raters, "agreement": entries}
    return replace(found, summary={**found.summary, "ratings": ratings})


def _agreement(manifest: Manifest, attribute: str) -> dict[str, Any]:
    assert manifest.ratings is not None
    scheme = manifest.schemes[attribute]
    rated = manifest.ratings[manifest.ratings["attribute"] == attribute]
    rated = rated[rated["value"].notna().to_numpy() & ~outside_scheme(rated["value"], scheme)]
    clip, _ = pd.factorize(rated["utterance"])
    each = np.bincount(clip)
    entry: dict[str, Any] = {
        "raters": _raters(rated["rater"]),
        "ratings": len(rated),
        "clips": len(each),
        "per_clip": {"min": int(each.min()), "median": float(np.median(each)), "max": int(each.max())}
        if len(each)
        else None,
    }
    if scheme.labels:
        width = len(scheme.labels)
        code = pd.Index(scheme.labels).get_indexer(pd.Index(rated["value"]))
        votes = np.bincount(clip * width + code, minlength=len(each) * width).reshape(len(each), width)
        figures = {
            "alpha": alpha_nominal(votes),
            "kappa": fleiss_kappa(votes),
            "pairwise": pairwise_agreement(votes),
            "majority": majority_share(votes),
        }
    else:
        values = rated["value"].to_numpy(dtype=np.float64)
        figures = {"alpha": alpha_interval(clip, values), "spread": mean_spread(clip, values)}
    return entry | {name: None if math.isnan(value) else value for name, value in figures.items()}


def _raters(names: "pd.Series[Any]") -> int | None:
    return None if names.str.startswith(f"{ANONYMOUS}-").any() else int(names.nunique())


def _agreement_line(name: str, entry: dict[str, Any]) -> str:
    per_clip = entry["per_clip"]
    if per_clip is None:
        return f"  {name}: no rating that can be used"
    said = [f"{per_clip['min']} to {per_clip['max']} ratings per clip (median {per_clip['median']:g})"]
    said.append(f"Krippendorff's alpha {_figure(entry['alpha'])}")
    if "kappa" in entry:
        said.append(f"Fleiss' kappa {_figure(entry['kappa'])}")
        said.append(f"{entry['majority']:.1%} of the clips have a majority label")
    else:
        said.append(f"mean spread {_figure(entry['spread'])}")
    return f"  {name}: {', '.join(said)}"


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
