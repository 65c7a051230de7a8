"""Label spaces: how labels and scales of corpora are brought together, and what is said of it.

A label map names, for each canonical label, the label it becomes; what it does not name is left out, and counted. A map
can also make categories from regions of arousal and valence. Dimensions are converted by their known scales.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sertune.data import labels
from sertune.data.manifest import Manifest, Scheme
from sertune.errors import SertuneError, unknown

Others = Literal["drop", "keep", "error"]


@dataclass(frozen=True)
class Region:
    """A label for a part of the arousal-valence-dominance space.

    Attributes:
        label: canonical or any other name.
        bounds: dimension -> (low, high) on -1 to 1, the ends of every corpus's scale; a value on the low end is inside,
            one on the high end only where that is 1.
    """

    label: str
    bounds: Mapping[str, tuple[float, float]]

    def holds(self, values: pd.DataFrame) -> NDArray[np.bool_]:
        """(N,) bool: which rows of dimensions on -1 to 1 are inside; a missing value is not."""
        inside = np.ones(len(values), dtype=bool)
        for name, (low, high) in self.bounds.items():
            column = values[name].to_numpy(dtype=np.float64)
            inside &= (column >= low) & ((column < high) | ((high >= 1) & (column <= high)))
        return inside


@dataclass(frozen=True)
class LabelMap:
    """What becomes of each label.

    Attributes:
        name: of a map here, or the file.
        rename: canonical label -> label it becomes; None leaves it out.
        others: what becomes of labels that `rename` does not name.
        regions: categories made from dimensions instead, the first that holds a clip.
        order: of the resulting labels, where it is stated.
        source: who uses it.
    """

    name: str
    rename: Mapping[str, str | None] = field(default_factory=dict)
    others: Others = "drop"
    regions: tuple[Region, ...] = ()
    order: tuple[str, ...] = ()
    source: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that it can give, in order; with ``others: keep`` there may be more."""
        made = [region.label for region in self.regions] or [label for label in self.rename.values() if label]
        return tuple(dict.fromkeys([*self.order, *made]))

    def describe(self) -> dict[str, Any]:
        """As a saved model remembers it; `map_from` reads it."""
        regions = [{"label": region.label, **{k: list(v) for k, v in region.bounds.items()}} for region in self.regions]
        return {
            "name": self.name,
            "map": dict(self.rename),
            "others": self.others,
            "regions": regions,
            "labels": list(self.order),
        }


def _same(*names: str, **merged: str | None) -> dict[str, str | None]:
    return {**{name: name for name in names}, **merged}


_EMODB: Final = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")
_HALF: Final = (-1.0, 0.0), (0.0, 1.0)
_THIRDS: Final = (-1.0, -1 / 3), (-1 / 3, 1 / 3), (1 / 3, 1.0)

MAPS: Final = {
    "4class": LabelMap(
        "4class",
        _same("anger", "happiness", "neutral", "sadness", excitement="happiness"),
        source="the usual four classes of IEMOCAP, excited counted as happy (arXiv 2306.05350)",
    ),
    "big6": LabelMap(
        "big6",
        _same("anger", "disgust", "fear", "happiness", "sadness", "surprise"),
        source="Ekman's six basic emotions; neutral is none of them",
    ),
    "emodb7": LabelMap("emodb7", _same(*_EMODB), source="the seven labels of EmoDB"),
    "paper-d": LabelMap(
        "paper-d",
        _same(*_EMODB, calm="boredom"),
        source="arXiv 2510.07052, zero-shot tests of a model of EmoDB: calm counts as boredom, surprise is left out",
    ),
    "quadrants": LabelMap(
        "quadrants",
        regions=tuple(
            Region(f"{a_name} arousal, {v_name} valence", {"arousal": a, "valence": v})
            for a, a_name in zip(_HALF, ("low", "high"), strict=True)
            for v, v_name in zip(_HALF, ("negative", "positive"), strict=True)
        ),
        source="the quadrants of arousal and valence (Russell 1980), cut at the middle of the scale",
    ),
    "valence3": LabelMap(
        "valence3",
        regions=tuple(
            Region(name, {"valence": third})
            for name, third in zip(("negative", "medium", "positive"), _THIRDS, strict=True)
        ),
        source="thirds of the valence scale",
    ),
    "arousal3": LabelMap(
        "arousal3",
        regions=tuple(
            Region(name, {"arousal": third}) for name, third in zip(("low", "medium", "high"), _THIRDS, strict=True)
        ),
        source="thirds of the arousal scale",
    ),
}


def map_from(description: Mapping[str, Any]) -> LabelMap:
    """The map that `LabelMap.describe` described."""
    regions = tuple(
        Region(entry["label"], {k: (v[0], v[1]) for k, v in entry.items() if k != "label"})
        for entry in description["regions"]
    )
    order, others = tuple(description["labels"]), description["others"]
    return LabelMap(description["name"], dict(description["map"]), others, regions, order)


def find_map(name: str) -> LabelMap:
    """A named map, or that of a YAML file.

    Raises:
        SertuneError: no such map or file, or a file with mistakes.
    """
    if name in MAPS:
        return MAPS[name]
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml") or path.is_file():
        return _from_yaml(path)
    raise unknown("label map", name, (*MAPS, "FILE.yaml"))


def _from_yaml(path: Path) -> LabelMap:
    """A map from a file with ``map`` (label: label, or null), ``others``, ``regions``, ``labels`` (their order)."""
    from sertune.config import load_yaml

    document = load_yaml(path)
    for key in document:
        if key not in ("map", "others", "regions", "labels"):
            raise SertuneError(f"{path}: {unknown('key', key, ('map', 'others', 'regions', 'labels'))}")
    if ("map" in document) == ("regions" in document):
        raise SertuneError(f"{path}: expected either 'map' (label: label) or 'regions' (a list), and one of them")
    others = document.get("others", "drop")
    if others not in ("drop", "keep", "error"):
        raise SertuneError(f"{path}: others = {others}: expected drop, keep or error")
    order = _texts(document.get("labels", []), path, "labels")
    found = LabelMap(
        path.name, _rename(document.get("map"), path), others, _regions(document.get("regions"), path), source=str(path)
    )
    made = found.labels
    if lost := [label for label in order if label not in made and others != "keep"]:
        raise SertuneError(f"{path}: labels: nothing becomes {lost[0]!r}; the map gives {', '.join(made)}")
    return replace(found, order=order)


def _texts(value: object, path: Path, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SertuneError(f"{path}: {key}: expected a list of labels, found {value!r}")
    return tuple(dict.fromkeys(map(labels.canonical, value)))


def _rename(value: object, path: Path) -> dict[str, str | None]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not value:
        raise SertuneError(f"{path}: map: expected lines such as excitement: happiness, found {value!r}")
    rename: dict[str, str | None] = {}
    for old, new in value.items():
        if not isinstance(old, str) or not (new is None or isinstance(new, str)):
            raise SertuneError(f"{path}: map: {old!r}: {new!r}: expected a label and what it becomes (null: left out)")
        before, after = labels.canonical(old), labels.canonical(new) if new else None
        if rename.get(before, after) != after:
            raise SertuneError(f"{path}: map: {before} becomes both {rename[before]} and {after}; keep one of them")
        rename[before] = after
    return rename


def _regions(value: object, path: Path) -> tuple[Region, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise SertuneError(f"{path}: regions: expected a list such as - {{label: calm, arousal: [-1, 0]}}")
    return tuple(_region(entry, path, i + 1) for i, entry in enumerate(value))


def _region(entry: object, path: Path, number: int) -> Region:
    where = f"{path}: region {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str) or len(entry) < 2:
        raise SertuneError(f"{where}: expected a label and bounds such as arousal: [0, 1], found {entry!r}")
    bounds = {}
    for key, value in entry.items():
        if key == "label":
            continue
        name = labels.attribute(str(key))
        if name not in labels.DIMENSIONS:
            raise SertuneError(f"{where}: {unknown('dimension', str(key), labels.DIMENSIONS)}")
        good = isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
        if not good or not -1 <= value[0] < value[1] <= 1:
            raise SertuneError(f"{where}: {name}: expected [low, high] between -1 and 1, found {value!r}")
        bounds[name] = (float(value[0]), float(value[1]))
    return Region(labels.canonical(entry["label"]), bounds)


@dataclass(frozen=True)
class Mapped:
    """A corpus under a label map.

    Attributes:
        manifest: with the new labels; clips whose label was left out have none. The extra column ``label_before`` holds
            the corpus's own label.
        renamed: (label, what it became) -> clips, where the two differ.
        dropped: label -> clips left out.
    """

    manifest: Manifest
    renamed: dict[tuple[str, str], int]
    dropped: dict[str, int]

    @property
    def notes(self) -> tuple[str, ...]:
        """In words, for a report; empty where nothing changed."""
        said = [f"{old} counted as {new} ({count} clips)" for (old, new), count in self.renamed.items()]
        said += [f"{label} left out ({count} clips)" for label, count in self.dropped.items()]
        return tuple(said)


def apply_map(manifest: Manifest, label_map: LabelMap) -> Mapped:
    """A corpus's emotion, consensus and single ratings, under a label map.

    Raises:
        SertuneError: the corpus has no emotion labels (or lacks a dimension of a region), nothing is left, or a label
            is not in the map where ``others: error`` forbids it.
    """
    if label_map.regions:
        return _by_regions(manifest, label_map)
    if "emotion" not in manifest.schemes:
        raise SertuneError(f"label map {label_map.name}: {manifest.name} has no emotion labels")
    scheme, emotion = manifest.schemes["emotion"].labels, manifest.utterances["emotion"]
    new = {label: _becomes(label, manifest, label_map) for label in scheme}
    counts = emotion.value_counts()
    renamed = {
        (label, to): int(counts.get(label, 0))
        for label, to in new.items()
        if to is not None and to != label and counts.get(label, 0)
    }
    dropped = {label: int(counts.get(label, 0)) for label, to in new.items() if to is None and counts.get(label, 0)}
    made = tuple(dict.fromkeys(to for to in new.values() if to is not None))
    if not made:
        raise SertuneError(
            f"label map {label_map.name}: no label of {manifest.name} ({', '.join(scheme)}) is in it "
            f"({', '.join(label_map.rename)})"
        )
    order = [*(label for label in label_map.labels if label in made), *(m for m in made if m not in label_map.labels)]
    frame = manifest.utterances.assign(emotion=_mapped(emotion, new), label_before=_own_labels(manifest))
    ratings = manifest.ratings
    if ratings is not None:
        rated = ratings["attribute"] == "emotion"
        value = ratings["value"].where(~rated, _mapped(ratings["value"].where(rated, None), new))
        ratings = ratings.assign(value=value)[~rated | value.notna()].reset_index(drop=True)
    schemes = {**manifest.schemes, "emotion": Scheme(labels=tuple(order))}
    return Mapped(Manifest(manifest.name, frame, schemes, ratings), renamed, dropped)


def _own_labels(manifest: Manifest) -> "pd.Series[Any]":
    """The corpus's own labels, also where an earlier map changed them."""
    frame = manifest.utterances
    return frame["label_before"] if "label_before" in frame.columns else frame["emotion"]


def _becomes(label: str, manifest: Manifest, label_map: LabelMap) -> str | None:
    if label in label_map.rename:
        return label_map.rename[label]
    if label_map.others == "error":
        raise SertuneError(
            f"label map {label_map.name}: {label!r} of {manifest.name} is not in it; add it to 'map' (null leaves it "
            "out), or set 'others' to drop or keep"
        )
    return label if label_map.others == "keep" else None


def _mapped(values: "pd.Series[Any]", new: Mapping[str, str | None]) -> "pd.Series[Any]":
    return pd.Series([new.get(v) if isinstance(v, str) else None for v in values], dtype=object, index=values.index)


def _by_regions(manifest: Manifest, label_map: LabelMap) -> Mapped:
    needed = list(dict.fromkeys(name for region in label_map.regions for name in region.bounds))
    for name in needed:
        if name not in manifest.schemes:
            has = ", ".join(manifest.schemes) or "no labels"
            raise SertuneError(f"label map {label_map.name}: {manifest.name} has no {name} to make labels from ({has})")
    frame = manifest.utterances
    values = pd.DataFrame({name: _to_scale(frame[name], manifest.schemes[name].scale, (-1.0, 1.0)) for name in needed})
    emotion = np.full(len(frame), None, dtype=object)
    for region in reversed(label_map.regions):
        emotion[region.holds(values)] = region.label
    if not any(label is not None for label in emotion):
        raise SertuneError(f"label map {label_map.name}: no clip of {manifest.name} lies in any of its regions")
    known = values.notna().all(axis=1).to_numpy()
    outside = int((known & pd.isna(emotion)).sum())
    made = set(emotion)
    order = tuple(label for label in label_map.labels if label in made)
    frame = frame.assign(emotion=pd.Series(emotion, dtype=object), label_before=_own_labels(manifest))
    ratings = manifest.ratings
    if ratings is not None:  # votes for other labels say nothing about the new ones
        ratings = ratings[ratings["attribute"] != "emotion"].reset_index(drop=True)
    schemes = {**manifest.schemes, "emotion": Scheme(labels=order)}
    dropped = {"outside the regions": outside} if outside else {}
    return Mapped(Manifest(manifest.name, frame, schemes, ratings), {}, dropped)


# Scales


def _to_scale(values: "pd.Series[Any]", old: tuple[float, float], new: tuple[float, float]) -> "pd.Series[Any]":
    """Values of one rating scale on another, end to end: linear, low to low and high to high."""
    share = (values.astype(np.float64) - old[0]) / (old[1] - old[0])
    return new[0] + share * (new[1] - new[0])


def rescaled(manifest: Manifest, scales: Mapping[str, tuple[float, float]]) -> tuple[Manifest, tuple[str, ...]]:
    """A corpus with its dimensions on other scales, consensus and single ratings.

    Args:
        manifest: with known scales.
        scales: dimension -> (low, high) wanted; dimensions that the corpus lacks are passed over.

    Returns:
        The corpus, and what was converted, in words.
    """
    change = {
        name: (manifest.schemes[name].scale, wanted)
        for name, wanted in scales.items()
        if name in manifest.schemes and manifest.schemes[name].scale != wanted
    }
    if not change:
        return manifest, ()
    frame, ratings, schemes = manifest.utterances.copy(), manifest.ratings, dict(manifest.schemes)
    for name, (old, new) in change.items():
        frame[name] = _to_scale(frame[name], old, new)
        schemes[name] = Scheme(low=new[0], high=new[1])
        if ratings is not None:
            mine = (ratings["attribute"] == name).to_numpy()
            value = ratings["value"].to_numpy(dtype=object, copy=True)
            value[mine] = _to_scale(ratings["value"][mine], old, new).to_numpy()
            ratings = ratings.assign(value=pd.Series(value, dtype=object))
    said = tuple(
        f"{name} of {manifest.name} converted from {old[0]:g}..{old[1]:g} to {new[0]:g}..{new[1]:g}"
        for name, (old, new) in change.items()
    )
    return Manifest(manifest.name, frame, schemes, ratings), said


def to_one_scale(manifests: Sequence[Manifest]) -> tuple[list[Manifest], tuple[str, ...]]:
    """Corpora on the scales of the first that has each dimension; and what was converted, in words."""
    scales: dict[str, tuple[float, float]] = {}
    for manifest in manifests:
        for name, scheme in manifest.schemes.items():
            if not scheme.labels:
                scales.setdefault(name, scheme.scale)
    made = [rescaled(manifest, scales) for manifest in manifests]
    return [manifest for manifest, _ in made], tuple(note for _, notes in made for note in notes)


# Classes that a corpus lacks

Absent = Literal["keep", "drop", "mask"]


def known_labels(manifest: Manifest) -> tuple[str, ...]:
    """The labels that some clip of a corpus has, in the scheme's order."""
    if "emotion" not in manifest.schemes:
        return ()
    present = set(manifest.utterances["emotion"].dropna())
    return tuple(label for label in manifest.schemes["emotion"].labels if label in present)


def drop_unshared(manifests: Sequence[Manifest]) -> tuple[list[Manifest], tuple[str, ...]]:
    """Corpora without the labels that one of them lacks, and what was left out, in words.

    Raises:
        SertuneError: they share fewer than two labels.
    """
    sets = {m.name: known_labels(m) for m in manifests}
    shared = [label for label in known_labels(manifests[0]) if all(label in known for known in sets.values())]
    if len(shared) < 2:
        have = "; ".join(f"{name}: {', '.join(known) or 'none'}" for name, known in sets.items())
        raise SertuneError(f"absent: drop leaves {len(shared)} labels that all corpora have ({have})")
    keep = LabelMap("shared labels", {label: label for label in shared}, order=tuple(shared))
    mapped = [apply_map(m, keep) for m in manifests]
    notes = [
        f"{m.name}: {label} left out, as another corpus lacks it ({count} clips)"
        for m, one in zip(manifests, mapped, strict=True)
        for label, count in one.dropped.items()
    ]
    return [one.manifest for one in mapped], tuple(notes)
