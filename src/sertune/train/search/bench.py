"""What all trials of a search share: the data, the encoders as they were pre-trained, and their states.

States are computed in one pass for every layer where a trial may start to train, as far as the disk has room for them;
where it has not, those of the lowest layer are kept, and lifted to a higher one batch by batch. They lie in the disk
cache, so that workers and searches share them, and a search that goes on computes nothing again.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sertune.config import AugmentConfig, MethodConfig, RunConfig, auto_layers, to_dict
from sertune.corpora.reading import sources
from sertune.data.manifest import Manifest
from sertune.data.splits import Protocol
from sertune.errors import SertuneError
from sertune.model.emotion_model import EmotionModel, ModelSpec
from sertune.model.encoder import Encoder, load_encoder
from sertune.model.head import chosen_layers
from sertune.model.targets import Target
from sertune.progress import say
from sertune.train.cache import GIB, DiskCache, cache_folder, disk_dtype, folder_bytes, row_bytes
from sertune.train.choose import check_left, choose_target
from sertune.train.device import Device
from sertune.train.loop import Clips
from sertune.train.prepare import Prepared, audit_data, check_there, encode_targets, read, split, try_head
from sertune.train.search.space import Space, combinations
from sertune.train.states import Reader, States, choose_views, compute_states, frames_nbytes

START_KEYS = (
    "encoder", "method.name", "method.layers", "method.front", "head.layers", "head.mix", "head.pooling",
    "head.convolutions",
)  # fmt: skip
"""What decides where replay starts."""


def cut_of(method: MethodConfig, depth: int) -> int:
    """The first layer of an encoder that a method trains.

    Raises:
        SertuneError: the encoder has fewer layers.
    """
    if method.name == "frozen":
        return depth
    if "full" in method.parts or method.layers == "all":
        return 0
    if method.layers == "auto":
        return depth - auto_layers(depth)
    if method.layers > depth:
        raise SertuneError(f"method.layers = {method.layers}: the encoder has {depth} layers")
    return depth - method.layers


def start_of(config: RunConfig, depth: int) -> int | None:
    """Where replay starts; None where pooled vectors are enough, or where nothing is kept. See `EmotionModel.start`.

    Raises:
        SertuneError: layers that the encoder does not have, or that don't go together.
    """
    cut = cut_of(config.method, depth)
    layers = chosen_layers(config.head, depth, cut)
    if cut < depth and depth not in layers:
        raise SertuneError(
            f"head.layers = {list(layers)}: the head must read layer {depth}, the output, or the last layers, which "
            f"method {config.method.name} trains, would learn nothing"
        )
    if config.method.front and "full" in config.method.parts:
        return None
    if config.head.pooling == "attentive" or config.head.convolutions:
        return min(cut, *layers)
    return cut if cut < depth else None


@dataclass
class Loaded:
    """An encoder that many trials use one after the other.

    Attributes:
        encoder: that methods are applied to and taken away from again.
        weights: as pre-trained, by name.
    """

    encoder: Encoder
    weights: dict[str, Tensor]

    @staticmethod
    def of(name: str) -> "Loaded":
        """Loads an encoder and remembers its weights."""
        encoder = load_encoder(name)
        _ = encoder.digest, encoder.frames_per_second
        return Loaded(encoder, {name: p.detach().clone() for name, p in encoder.model.named_parameters()})

    @torch.no_grad()
    def restore(self) -> Encoder:
        """The encoder as it was pre-trained, in float32, with nothing applied."""
        self.encoder.clear()
        self.encoder.checkpointing = False
        for name, parameter in self.encoder.model.named_parameters():
            known = self.weights[name].to(parameter.device)
            if parameter.dtype == known.dtype:
                parameter.copy_(known)
            else:  # held in half precision while it did not train
                parameter.data = known.clone()
        return self.encoder


class Cropped(Sequence[Tensor]):
    """Frames of clips, each cut to its first few.

    Args:
        frames: of whole clips.
        most: frames that are left.
    """

    def __init__(self, frames: Sequence[Tensor], most: int) -> None:
        self.frames, self.most = frames, most

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, row: Any) -> Any:
        return self.frames[row][: self.most]


@dataclass
class Bench:
    """Data, encoders and states of a search.

    Attributes:
        base: settings that trials start from.
        space: of the search; empty until it is known.
        manifest: the clips that have the target, and once states are computed those that can be used.
        target: of all trials.
        folder: of the cache.
        seconds_states: spent on computing states.
        passes: clips and views that were run through an encoder.
        notes: for the report.
    """

    base: RunConfig
    manifest: Manifest
    target: Target
    reading: Any
    label_map: Any
    folder: Path
    space: Space = field(default_factory=lambda: Space(()))
    seconds_states: float = 0.0
    passes: int = 0
    notes: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    heard: States | None = None
    _loaded: dict[str, Loaded] = field(default_factory=dict)
    _devices: dict[tuple[str, int], Device] = field(default_factory=dict)
    _states: dict[str, States] = field(default_factory=dict)
    _targets: dict[str, np.ndarray] = field(default_factory=dict)
    _rows: np.ndarray | None = None

    @staticmethod
    def over(base: RunConfig, folder: Path) -> "Bench":
        """Reads the data.

        Args:
            base: settings that trials start from.
            folder: of the cache, where none is named.
        """
        reading, label_map = read(base)
        manifest, target = choose_target(reading.manifest, base)
        if not base.skip_bad:
            check_there(manifest)
        return Bench(base, manifest, target, reading, label_map, cache_folder(base.cache) or folder)

    def loaded(self, name: str) -> Loaded:
        """An encoder, loaded once."""
        if name not in self._loaded:
            self._loaded[name] = Loaded.of(name)
        return self._loaded[name]

    def depth(self, name: str) -> int:
        """Layers of an encoder."""
        return self.loaded(name).encoder.depth

    def possible(self, config: RunConfig) -> None:
        """Raises `SertuneError` for settings that the encoder or the data can't have."""
        start_of(config, self.depth(config.encoder))
        choose_views(config, kept=self._keeps(config))

    def _keeps(self, config: RunConfig) -> bool:
        return config.cache.states and not (config.method.front and "full" in config.method.parts)

    def device(self, config: RunConfig) -> Device:
        """Where a configuration computes, with the encoder moved there."""
        encoder = self.loaded(config.encoder).encoder
        key = config.precision, encoder.width
        if key not in self._devices:
            self._devices[key] = Device(*key)
        self._devices[key].prepare(encoder)
        return self._devices[key]

    def begin(self) -> Protocol:
        """Computes the states of the base settings, which tells the clips that can be used; the folds of the search."""
        first = next(self._starting_points(), self.base)
        crops = self._crops()
        if crops:
            first = replace(first, audio=replace(first.audio, crop=max(crops)))
        self.states(first, exact=True)
        return self.protocol()

    def protocol(self) -> Protocol:
        """The outer folds."""
        return split(self.manifest, self.target, self.base)

    def _starting_points(self) -> Iterator[RunConfig]:
        """Settings of the space that can be had, in what decides where replay starts."""
        for config in combinations(self.space, self.base, START_KEYS):
            try:
                start_of(config, self.depth(config.encoder))
            except SertuneError:
                continue
            yield config

    def starts(self, encoder: str) -> list[int]:
        """Layers of an encoder where trials may start to replay."""
        depth = self.depth(encoder)
        found = {start_of(config, depth) for config in self._starting_points() if config.encoder == encoder}
        return sorted(start for start in found if start is not None)

    def states(self, config: RunConfig, *, exact: bool = False) -> States:
        """States of all clips for a configuration, of the encoder as it was pre-trained.

        Args:
            config: of a trial.
            exact: encode the audio as it is cropped, also where states of longer clips would do.
        """
        encoder = self.loaded(config.encoder).encoder
        longest = max((crop for crop in self._crops() if crop > config.audio.crop), default=None)
        if longest is not None and not exact and self.crops_states(config):
            whole = replace(config, audio=replace(config.audio, crop=longest))
            return self._cropped(self.states(whole), config, start_of(config, encoder.depth))
        start = start_of(config, encoder.depth)
        key = repr(
            (config.encoder, config.precision, to_dict(config.audio), self._waves(config), start, self._keeps(config))
        )
        if key not in self._states:
            self._states[key] = self._compute(config, start)
        return self._states[key]

    def _crops(self) -> list[float]:
        """Crop lengths of the space."""
        own = [d for d in self.space.dimensions if d.key == "audio.crop"]
        return [float(value) for dimension in own for value in dimension.ends()]

    def crops_states(self, config: RunConfig) -> bool:
        """Whether a shorter crop may be applied to the states of longer clips.

        It may where training starts at the cut and the head reads layers above it alone: all that it needs follows from
        the frames there. They come from a frozen part that heard what was cropped.
        """
        depth = self.depth(config.encoder)
        start, cut = start_of(config, depth), cut_of(config.method, depth)
        above = min(chosen_layers(config.head, depth, cut)) > cut
        return start is not None and start == cut and above and self._keeps(config) and not self._waves(config)

    def _waves(self, config: RunConfig) -> Any:
        """Waveform augmentation, as far as states depend on it."""
        waves = {key: value for key, value in to_dict(config.augment).items() if key.startswith("wave_")}
        off = {key: value for key, value in to_dict(AugmentConfig()).items() if key.startswith("wave_")}
        return None if waves == off else (sorted(waves.items()), config.cache.views, config.seed)

    def _compute(self, config: RunConfig, start: int | None) -> States:
        encoder, device = self.loaded(config.encoder).restore(), self.device(config)
        encoder.features.silence, encoder.features.level = config.audio.silence, config.audio.level
        began = time.perf_counter()
        keep = self._keeps(config)
        views = choose_views(config, kept=keep)
        cache = DiskCache(self.folder, config.cache.disk_gib) if keep else None
        dtype = disk_dtype(config.cache.dtype, device.precision)
        layers = self._layers(config, encoder, dtype, cache) if keep and cache is not None else None
        states, rows, skipped = compute_states(
            encoder,
            Reader(self.manifest.utterances, encoder.rate, config.audio),
            start,
            keep=keep,
            skip_bad=config.skip_bad and self._rows is None,
            autocast=device.autocast,
            layers=layers,
            views=views if keep or views is None else replace(views, count=1),
            cache=cache,
            dtype=dtype,
            precision=device.precision,
        )
        self._take(rows, skipped)
        self.seconds_states += time.perf_counter() - began
        self.passes += states.passes
        self.heard = self.heard or states
        return states

    def _take(self, rows: np.ndarray, skipped: list[dict[str, str]]) -> None:
        """The first pass over the clips says which of them can be used."""
        if self._rows is not None:
            return
        self._rows = rows
        self.manifest, self.skipped = self.manifest.select(rows), skipped
        if skipped:
            check_left(self.manifest, self.target)

    def _layers(self, config: RunConfig, encoder: Encoder, dtype: str, cache: DiskCache) -> list[int]:
        """Layers whose frames are kept: all where trials may start, if there is room for them, or else the lowest."""
        layers = self.starts(config.encoder)
        if len(layers) < 2:
            return layers
        floats = frames_nbytes(encoder, self.manifest.utterances, config.audio) * config.cache.views
        each = floats // (4 * encoder.width) * row_bytes(dtype, encoder.width)
        room = min(cache.disk_gib * GIB, folder_bytes(self.folder) + _free(self.folder)) - folder_bytes(self.folder)
        if each * len(layers) <= room:
            return layers
        note = (
            f"states of layers {', '.join(map(str, layers))} would take {each * len(layers) / GIB:.1f} GiB: those of "
            f"layer {layers[0]} are kept, and lifted to higher ones batch by batch; a higher --cache.disk_gib is faster"
        )
        if note not in self.notes:
            say(note)
            self.notes.append(note)
        return layers[:1]

    @torch.no_grad()
    def _cropped(self, whole: States, config: RunConfig, start: int | None) -> States:
        """States of clips of which the first ``audio.crop`` seconds are left."""
        assert start is not None
        assert whole.frames is not None
        key = repr((id(whole), config.audio.crop))
        if key in self._states:
            return self._states[key]
        encoder, device = self.loaded(config.encoder).restore(), self.device(config)
        most = max(1, round(config.audio.crop * encoder.frames_per_second))
        frames = whole.frames if whole.lift is None else _Lifted(whole.frames, whole.lift)
        pooled = whole.pooled.clone()
        for row in range(len(frames)):
            own = frames[row]
            if len(own) > most:
                with device.autocast():
                    _, vectors = encoder.lift(own[:most], start, [encoder.depth])
                pooled[row] = torch.nan  # lower layers are not read
                pooled[row, start:] = vectors
        states = replace(
            whole,
            pooled=pooled,
            frames=Cropped(frames, most),
            seconds=np.minimum(whole.seconds, config.audio.crop),
            lift=None,
        )
        self._states[key] = states
        return states

    def prepared(self, config: RunConfig, *, exact: bool = False) -> Prepared:
        """All that folds of a configuration need, with the method applied.

        Args:
            config: of a trial.
            exact: see `states`.
        """
        states = self.states(config, exact=exact)
        encoder, device = self.loaded(config.encoder).restore(), self.device(config)
        target = self._target(config)
        spec = ModelSpec(config.encoder, config.method, config.head, target, config.audio)
        known = {id(parameter) for parameter in encoder.model.parameters()}
        model = EmotionModel(encoder, spec)
        try_head(model)
        trained = zip(model.trained_names, model.trained_parameters(), strict=True)
        initial = {name: parameter.detach().clone() for name, parameter in trained if id(parameter) in known}
        device.set_up(encoder, config)
        frame = self.manifest.utterances
        clips = Clips(
            states,
            self._encoded(config, target),
            frame["file"].tolist(),
            Reader(frame, encoder.rate, config.audio),
            sources(self.manifest) if len(config.data) > 1 else np.zeros(0, dtype=np.int64),
        )
        return Prepared(
            self.manifest, target, encoder, initial, spec, clips, self.protocol(), device, self.skipped, [], [],
            self.seconds_states, self.reading, self.label_map, {},
        )  # fmt: skip

    def _target(self, config: RunConfig) -> Target:
        """The target with a trial's options."""
        if config.target == self.base.target:
            return self.target
        return choose_target(self.manifest, config)[1]

    def _encoded(self, config: RunConfig, target: Target) -> np.ndarray:
        key = repr(to_dict(config.target))
        if key not in self._targets:
            self._targets[key] = encode_targets(self.manifest, target, self.reading, config)
        return self._targets[key]

    def median_clip(self, config: RunConfig) -> np.ndarray:
        """Samples of the clip of median length."""
        encoder, seconds = self.loaded(config.encoder).encoder, self.states(config).seconds
        row = int(np.argsort(seconds, kind="stable")[len(seconds) // 2])
        return Reader(self.manifest.utterances, encoder.rate, config.audio)(row)

    def audit(self, protocol: Protocol) -> dict[str, Any]:
        """What the outer parts share, for the report."""
        assert self.heard is not None
        return audit_data(self.manifest, self.target, protocol, self.heard, self.base)


class _Lifted(Sequence[Tensor]):
    """Frames of a higher layer, computed from those of a lower one when they are asked for."""

    def __init__(self, frames: Sequence[Tensor], lift: Any) -> None:
        self.frames, self.lift = frames, lift

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, row: Any) -> Any:
        return self.lift(self.frames[row])


def _free(folder: Path) -> int:
    import shutil

    above = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(above).free
