"""What every fold of a run shares: data, target, encoder, states, folds."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sertune.config import RunConfig
from sertune.corpora import published
from sertune.corpora.reading import Reading, protocol_map, read_spaces, sources, under
from sertune.data.audit import audit_split
from sertune.data.label_map import LabelMap, find_map
from sertune.data.manifest import Manifest
from sertune.data.splits import Protocol, make_protocol
from sertune.errors import SertuneError
from sertune.model.builtin import RANDOM
from sertune.model.emotion_model import EmotionModel, ModelSpec
from sertune.model.encoder import Encoder, load_encoder
from sertune.model.methods import apply_methods
from sertune.model.targets import MASKED, CategoryTarget, Target, dimensions_of, labels_of, lead_of
from sertune.progress import say
from sertune.train.cache import DiskCache, disk_dtype, open_cache
from sertune.train.choose import check_left, choose_target, consensus_codes
from sertune.train.device import Device
from sertune.train.loop import Clips
from sertune.train.states import GIB, Reader, States, choose_views, compute_states, frames_nbytes


@dataclass
class Prepared:
    """What every fold of a run shares.

    Attributes:
        manifest: the usable clips that have the target.
        target: without class weights, which each fold sets.
        encoder: with the weights as pre-trained.
        initial: these weights, by their name in the encoder's model, where the method will change them. What it adds
            is drawn anew for every fold.
        clips: states and targets, in the order of the manifest.
        protocol: the folds.
        skipped: files left out.
        warnings: for the report.
        notes: what train and test share by design, such as texts.
        states_seconds: spent on computing the states.
        reading: the data as it was read: what was mapped, left out and converted.
        label_map: that the labels passed through.
        audit: what the parts share in detail, and what trivial features predict, for the report.
    """

    manifest: Manifest
    target: Target
    encoder: Encoder
    initial: dict[str, Tensor]
    spec: ModelSpec
    clips: Clips
    protocol: Protocol
    device: Device
    skipped: list[dict[str, str]]
    warnings: list[str]
    notes: list[str]
    states_seconds: float
    reading: Reading
    label_map: LabelMap | None
    audit: dict[str, Any]


@dataclass
class Parts:
    """Data, target and model of a run, before anything is computed; attributes as of `Prepared`."""

    manifest: Manifest
    target: Target
    encoder: Encoder
    initial: dict[str, Tensor]
    spec: ModelSpec
    model: EmotionModel
    device: Device
    reading: Reading
    label_map: LabelMap | None


def assemble(config: RunConfig) -> Parts:
    """Reads the data, loads the encoder and applies the method."""
    reading, label_map = read(config)
    manifest, target = choose_target(reading.manifest, config)
    if not config.skip_bad:
        check_there(manifest)
    encoder = load_encoder(config.encoder)
    _ = encoder.digest  # before anything trains
    device = Device(config.precision, encoder.width)
    device.prepare(encoder)
    spec = ModelSpec(config.encoder, config.method, config.head, target, config.audio)
    pretrained = {id(parameter) for parameter in encoder.model.parameters()}
    model = EmotionModel(encoder, spec)
    try_head(model)
    trained = zip(model.trained_names, model.trained_parameters(), strict=True)
    initial = {name: parameter.detach().clone() for name, parameter in trained if id(parameter) in pretrained}
    device.set_up(encoder, config)
    split(manifest, target, config)  # mistakes in the split show before the long part
    return Parts(manifest, target, encoder, initial, spec, model, device, reading, label_map)


def read(config: RunConfig) -> tuple[Reading, LabelMap | None]:
    """The data, and the label map that it passed through: the one that is named, or else that of the protocol."""
    label_map = find_map(config.label_map) if config.label_map not in ("", "none") else None
    reading = read_spaces(config.data, config.columns, label_map=label_map, absent=config.absent)
    if config.label_map or not config.target.about_labels or config.target.labels:
        return reading, label_map
    label_map = protocol_map(reading.manifest, config.split.name)
    if label_map is None:
        return reading, None
    say(f"Label map {label_map.name}, as the corpus's protocol has it (--label-map none: labels as they are)")
    return under(reading, label_map), label_map


def check_there(manifest: Manifest) -> None:
    """Raises `SertuneError` where several files are missing, as of half a corpus; one is named when it is read."""
    frame = manifest.utterances
    unknown_length = frame["file"][frame["duration"].isna()]  # a reader that found a file knows its length
    missing = [file for file in unknown_length if not Path(file).exists()]
    if len(missing) > 1:
        raise SertuneError(
            f"{manifest.name}: {len(missing)} of {len(frame)} audio files are not there, the first: {missing[0]}; is "
            "the copy complete? (--skip-bad goes on without them)"
        )


@torch.no_grad()
def try_head(model: EmotionModel) -> None:
    """Raises `SertuneError` where the head would mix layers of different frame rates, before the long part."""
    if model.head.convolutions is not None:
        encoder = model.encoder
        model.head.pool(encoder.replay(encoder.front(encoder.noise(0.5)), 0), 0, None)


def prepare(config: RunConfig) -> Prepared:
    """Assembles a run, and computes the states."""
    parts = assemble(config)
    manifest, target, encoder, device = parts.manifest, parts.target, parts.encoder, parts.device
    reader = Reader(manifest.utterances, encoder.rate, config.audio)
    views = choose_views(config, kept=config.cache.states and not encoder.front_trains)
    cache = open_cache(config.cache)
    start = None if encoder.front_trains else parts.model.start
    keep = _keeps(config, encoder, manifest, start, cache)
    encoder.clear()  # pooled states above the cut, too, are those of the pre-trained encoder, whatever the method
    began = time.perf_counter()
    states, rows, skipped = compute_states(
        encoder,
        reader,
        start,
        keep=keep,
        skip_bad=config.skip_bad,
        autocast=device.autocast,
        views=views if keep or views is None else replace(views, count=1),
        cache=cache,
        dtype=disk_dtype(config.cache.dtype, device.precision),
        precision=device.precision,
    )
    apply_methods(encoder, config.method)
    seconds = time.perf_counter() - began
    manifest = manifest.select(rows)
    frame = manifest.utterances
    if skipped:
        check_left(manifest, target)
    several = len(config.data) > 1
    clips = Clips(
        states,
        encode_targets(manifest, target, parts.reading, config),
        frame["file"].tolist(),
        Reader(frame, encoder.rate, config.audio),
        sources(manifest) if several else np.zeros(0, dtype=np.int64),
    )
    protocol = split(manifest, target, config)
    audit = audit_data(manifest, target, protocol, states, config)
    notes, warnings = audit.pop("notes"), [*protocol.warnings, *audit.pop("warnings")]
    if encoder.features.assumed:
        warnings.append(encoder.features.assumed)
    if encoder.name == RANDOM:
        warnings.append("builtin:random is not pre-trained; builtin or another encoder (--encoder) will do better")
    return Prepared(
        manifest, target, encoder, parts.initial, parts.spec, clips, protocol, device, skipped, warnings, notes,
        seconds, parts.reading, parts.label_map, audit,
    )  # fmt: skip


def encode_targets(manifest: Manifest, target: Target, reading: Reading, config: RunConfig) -> np.ndarray:
    """The targets (N, K); with ``absent: mask``, `MASKED` for the classes that a clip's corpus lacks."""
    encoded = target.encode(manifest.utterances, manifest.ratings)
    if config.absent == "mask" and isinstance(target, CategoryTarget) and len(reading.labels) > 1:
        source = sources(manifest)
        for number, known in enumerate(reading.labels):
            lacking = np.array([label not in known for label in target.labels])
            encoded[np.ix_(source == number, lacking)] = MASKED
    return encoded


def split(manifest: Manifest, target: Target, config: RunConfig) -> Protocol:
    """The folds of a configuration."""
    options = config.split
    return make_protocol(
        manifest.utterances,
        options.name,
        labels=consensus_codes(manifest, target),
        folds=options.folds,
        test=options.test,
        dev=options.dev,
        dev_speakers=options.dev_speakers,
        seed=config.seed,
        published=published(manifest),
    )


def _keeps(config: RunConfig, encoder: Encoder, manifest: Manifest, start: int | None, cache: DiskCache | None) -> bool:
    """Whether states are kept; says how large their frames are in memory."""
    if encoder.front_trains or not config.cache.states:
        return False
    if start is None or cache is not None:
        return True
    size = config.cache.views * frames_nbytes(encoder, manifest.utterances, config.audio) / GIB
    if size <= config.cache.limit_gib:
        say(f"States of layer {start}: {size * 1024:.0f} MiB in memory (limit {config.cache.limit_gib:g} GiB)")
        return True
    say(
        f"States of layer {start} would take {size:.1f} GiB, above cache.limit_gib = {config.cache.limit_gib:g}: "
        "they are computed again for every batch; --cache.folder keeps them on disk"
    )
    return False


def audit_data(
    manifest: Manifest, target: Target, protocol: Protocol, states: States, config: RunConfig
) -> dict[str, Any]:
    """What the parts share, and what trivial features predict (`audit_split`)."""
    lead = lead_of(target)
    names = labels_of(lead) or dimensions_of(lead)
    values = consensus_codes(manifest, target)
    return audit_split(manifest.utterances, protocol, values, names, states.digests, states.heard, config.seed)
