"""Several corpora as one: labels mapped, scales converted, speakers kept apart; and what is said of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sertune.corpora import check_columns, keep_apart, published, read_data
from sertune.data.label_map import (
    Absent,
    LabelMap,
    apply_map,
    drop_unshared,
    find_map,
    known_labels,
    rescaled,
    to_one_scale,
)
from sertune.data.manifest import Manifest, concat
from sertune.errors import SertuneError

SOURCE: Final = "data_index"
"""Column that says which ``--data`` an utterance is from, counted from 0, where there are several."""


@dataclass(frozen=True)
class Reading:
    """What ``--data`` names, under one label space.

    Attributes:
        manifest: all of it.
        labels: for each ``--data``, the labels that its clips have.
        names: of each ``--data``.
        notes: what was renamed, left out and converted, in words.
    """

    manifest: Manifest
    labels: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    notes: tuple[str, ...]


def sources(manifest: Manifest) -> NDArray[np.int64]:
    """(N,) which ``--data`` each utterance of a `Reading`, or of a part of one, is from."""
    frame = manifest.utterances
    if SOURCE not in frame.columns:
        return np.zeros(len(frame), dtype=np.int64)
    return frame[SOURCE].to_numpy(dtype=np.int64)


def read_spaces(
    specs: Sequence[str],
    columns: Mapping[str, str] | None = None,
    *,
    label_map: LabelMap | None = None,
    absent: Absent = "keep",
    scales: Mapping[str, tuple[float, float]] | None = None,
) -> Reading:
    """Reads every ``--data`` and brings them to one space of labels and scales.

    Args:
        specs: as `sertune.corpora.read_data` takes them.
        columns: canonical column name -> column, for tables.
        label_map: None: labels as they are, under canonical names.
        absent: ``drop`` leaves out labels that one of several corpora lacks.
        scales: dimension -> (low, high) wanted; None: those of the first corpus that has the dimension.

    Raises:
        SertuneError: no data, a mistake in one, or a map that leaves nothing of one.
    """
    if not specs:
        raise SertuneError("no data given: name a corpus or a table, e.g. --data emodb:FOLDER")
    check_columns(specs, columns)
    manifests, notes = [read_data(spec, columns) for spec in specs], []
    if label_map is not None:
        made = [apply_map(manifest, label_map) for manifest in manifests]
        manifests = [one.manifest for one in made]
        for one in made:
            where = f"{one.manifest.name}: " if len(made) > 1 else ""
            notes += [f"label map {label_map.name}: {where}{note}" for note in one.notes]
    if absent == "drop" and len(manifests) > 1:
        manifests, said = drop_unshared(manifests)
        notes += said
    if scales is None:
        manifests, said = to_one_scale(manifests)
        notes += said
    else:
        for i, manifest in enumerate(manifests):
            manifests[i], said = rescaled(manifest, scales)
            notes += said
    labels, names = tuple(map(known_labels, manifests)), tuple(m.name for m in manifests)
    sizes = [len(m) for m in manifests]
    whole = concat(keep_apart(manifests))
    if len(sizes) > 1:
        frame = whole.utterances.assign(**{SOURCE: np.repeat(np.arange(len(sizes)), sizes)})
        whole = Manifest(whole.name, frame, whole.schemes, whole.ratings)
    return Reading(whole, labels, names, tuple(notes))


def protocol_map(manifest: Manifest, split: str) -> LabelMap | None:
    """The label map that goes with a corpus's published protocol, if the split is one and has one.

    Args:
        manifest: of one corpus; several have no protocol.
        split: ``auto``, or the name of any split.
    """
    if "emotion" not in manifest.schemes:
        return None
    protocol = next((p for p in published(manifest) if split in ("auto", p.name)), None)
    return find_map(protocol.label_map) if protocol is not None and protocol.label_map else None


def under(reading: Reading, label_map: LabelMap) -> Reading:
    """One corpus that was read as it is, under a label map."""
    one = apply_map(reading.manifest, label_map)
    notes = tuple(f"label map {label_map.name}: {note}" for note in one.notes)
    return Reading(one.manifest, (known_labels(one.manifest),), reading.names, (*reading.notes, *notes))
