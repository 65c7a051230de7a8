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
from sertune.errors import SertuneError, unknown
from sertune.model.emotion_model import EmotionModel, ModelSpec
from sertune.model.encoder import Encoder, load_encoder
from sertune.model.methods import apply_methods
from sertune.model.targets import MASKED, CategoryTarget, DimensionTarget, Target
from sertune.progress import say
from sertune.train.cache import DiskCache, disk_dtype, open_cache
from sertune.train.device import Device
from sertune.train.loop import Clips
from sertune.train.states import GIB, Reader, States, choose_views, compute_states, frames_nbytes

DIMENSIONS = ("arousal", "valence", "dominance")


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
    reading, label_map = _read(config)
    manifest, target = choose_target(reading.manifest, config)
    if not config.skip_bad:
        _check_there(manifest)
    encoder = load_encoder(config.encoder)
    _ = encoder.digest  # before anything trains
    device = Device(config.precision, encoder.width)
    device.prepare(encoder)
    spec = ModelSpec(config.encoder, config.method, config.head, target, config.audio)
    pretrained = {id(parameter) for parameter in encoder.model.parameters()}
    model = EmotionModel(encoder, spec)
    _try_head(model)
    trained = zip(model.trained_names, model.trained_parameters(), strict=True)
    initial = {name: parameter.detach().clone() for name, parameter in trained if id(parameter) in pretrained}
    device.set_up(encoder, config)
    split(manifest, target, config)  # mistakes in the split show before the long part
    return Parts(manifest, target, encoder, initial, spec, model, device, reading, label_map)


def _read(config: RunConfig) -> tuple[Reading, LabelMap | None]:
    """The data, and the label map that it passed through: the one that is named, or else that of the protocol."""
    label_map = find_map(config.label_map) if config.label_map not in ("", "none") else None
    reading = read_spaces(config.data, config.columns, label_map=label_map, absent=config.absent)
    if config.label_map or config.target.name != "category" or config.target.labels:
        return reading, label_map
    label_map = protocol_map(reading.manifest, config.split.name)
    if label_map is None:
        return reading, None
    say(f"Label map {label_map.name}, as the corpus's protocol has it (--label-map none: labels as they are)")
    return under(reading, label_map), label_map


def _check_there(manifest: Manifest) -> None:
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
def _try_head(model: EmotionModel) -> None:
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
        _check_left(manifest, target)
    several = len(config.data) > 1
    clips = Clips(
        states,
        _encoded(manifest, target, parts.reading, config),
        frame["file"].tolist(),
        Reader(frame, encoder.rate, config.audio),
        sources(manifest) if several else np.zeros(0, dtype=np.int64),
    )
    protocol = split(manifest, target, config)
    audit = _audit(manifest, target, protocol, states, config)
    notes, warnings = audit.pop("notes"), [*protocol.warnings, *audit.pop("warnings")]
    if encoder.features.assumed:
        warnings.append(encoder.features.assumed)
    if encoder.name == "builtin":
        warnings.append("the builtin encoder is not pre-trained; a pre-trained one (--encoder) will do better")
    return Prepared(
        manifest, target, encoder, parts.initial, parts.spec, clips, protocol, device, skipped, warnings, notes,
        seconds, parts.reading, parts.label_map, audit,
    )  # fmt: skip


def _encoded(manifest: Manifest, target: Target, reading: Reading, config: RunConfig) -> np.ndarray:
    """The targets (N, K); with ``absent: mask``, `MASKED` for the classes that a clip's corpus lacks."""
    encoded = target.encode(manifest.utterances)
    if config.absent == "mask" and isinstance(target, CategoryTarget) and len(reading.labels) > 1:
        source = sources(manifest)
        for number, known in enumerate(reading.labels):
            lacking = np.array([label not in known for label in target.labels])
            encoded[np.ix_(source == number, lacking)] = MASKED
    return encoded


def choose_target(manifest: Manifest, config: RunConfig) -> tuple[Manifest, Target]:
    """The target that the data allows, and the clips that have it.

    Raises:
        SertuneError: the data lacks it, or it has one label only.
    """
    options = config.target
    has_dimensions = [name for name in DIMENSIONS if name in manifest.schemes]
    if options.name == "category":
        if "emotion" not in manifest.schemes:
            hint = f"; it has {', '.join(has_dimensions)}: use --target dimension" if has_dimensions else ""
            raise SertuneError(f"target category: {manifest.name} has no emotion labels{hint}")
        return _category(manifest, config)
    named = ["arousal" if name == "activation" else name for name in options.dimensions]
    wanted = list(dict.fromkeys(named)) or has_dimensions
    for name in wanted:
        if name not in has_dimensions:
            raise SertuneError(
                f"target dimension: {manifest.name} has no {name} (it has {', '.join(has_dimensions) or 'none'})"
            )
    if not wanted:
        hint = "; it has labels: use --target category" if "emotion" in manifest.schemes else ""
        raise SertuneError(f"target dimension: {manifest.name} has no arousal, valence or dominance{hint}")
    if min(config.train.batch_clips, config.train.accumulate) < 1 or config.train.batch_clips < 2:
        raise SertuneError("train.batch_clips = 1: the CCC needs at least two clips in a batch")
    for name in wanted:
        if manifest.utterances[name].nunique() < 2:
            raise SertuneError(f"{manifest.name}: {name} is the same for every clip, so that nothing can be learnt")
    known = manifest.utterances[wanted].notna().any(axis=1).to_numpy()
    target = DimensionTarget(tuple(wanted), tuple(manifest.schemes[name].scale for name in wanted))
    return manifest.select(known), target


def _category(manifest: Manifest, config: RunConfig) -> tuple[Manifest, Target]:
    options = config.target
    scheme, emotion = manifest.schemes["emotion"].labels, manifest.utterances["emotion"]
    labels = tuple(options.labels) or scheme
    for label in labels:
        if label not in scheme:
            raise unknown(f"label of {manifest.name} in target.labels:", label, scheme)
    present = [label for label in labels if bool((emotion == label).any())]
    if config.target.labels and (absent := [label for label in labels if label not in present]):
        raise SertuneError(f"target.labels: no clip of {manifest.name} is labelled {absent[0]!r}")
    if len(present) < 2:
        one = present[0] if present else "none"
        raise SertuneError(f"{manifest.name}: only one label ({one}); a category needs at least two")
    target = CategoryTarget(tuple(present), options.label_smoothing, options.adjustment, options.class_weights)
    return manifest.select(emotion.isin(present).to_numpy()), target


def _check_left(manifest: Manifest, target: Target) -> None:
    """Raises `SertuneError` where bad files were all that a label or a dimension had."""
    frame = manifest.utterances
    if isinstance(target, CategoryTarget):
        lost = [label for label in target.labels if not bool((frame["emotion"] == label).any())]
        hint = "name the others with --target.labels"
    else:
        lost = [name for name in target.dimensions if frame[name].nunique() < 2]
        hint = "name the others with --target.dimensions"
    if lost:
        raise SertuneError(f"{manifest.name}: without its bad files it has nothing to learn {lost[0]} from; {hint}")


def split(manifest: Manifest, target: Target, config: RunConfig) -> Protocol:
    """The folds of a configuration."""
    options = config.split
    return make_protocol(
        manifest.utterances,
        options.name,
        labels=_labels(manifest, target),
        folds=options.folds,
        test=options.test,
        dev=options.dev,
        dev_speakers=options.dev_speakers,
        seed=config.seed,
        published=published(manifest),
    )


def _labels(manifest: Manifest, target: Target) -> np.ndarray:
    """(N,) label ids, or (N, D) values."""
    encoded = target.encode(manifest.utterances)
    return encoded.argmax(1) if isinstance(target, CategoryTarget) else encoded.astype(np.float64)


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


def _audit(manifest: Manifest, target: Target, protocol: Protocol, states: States, config: RunConfig) -> dict[str, Any]:
    """What the parts share, and what trivial features predict (`audit_split`)."""
    names = target.labels if isinstance(target, CategoryTarget) else target.dimensions
    values = _labels(manifest, target)
    return audit_split(manifest.utterances, protocol, values, names, states.digests, states.heard, config.seed)
