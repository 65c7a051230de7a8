"""What teacher and student make of the same samples: kept on disk, or computed for every batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sertune.config import CacheConfig
from sertune.model.features import Features
from sertune.model.student import MELS, mel_features
from sertune.train.cache import (
    DiskCache,
    StateSet,
    cache_folder,
    inputs_key,
    outputs_key,
    row_bytes,
)
from sertune.train.distil.config import DistilConfig
from sertune.train.distil.teacher import Teacher
from sertune.train.distil.windows import Windows
from sertune.train.loop import derive_seed
from sertune.train.states import Extra, Reader, Views, compute_states

_Clip = tuple[Tensor, dict[int, Tensor], Tensor | None]
"""Log-mel spectrum (T, 80), the teacher's states by layer and its outputs, float32."""
MELS_PER_SECOND = 100.0
SAMPLED = 1000
"""Clips whose states tell the mean and spread of each channel; half as many start the maps."""
FEW = 8
"""Clips in a batch of those."""


@dataclass
class PairBatch:
    """Some clips as the student takes them and as the teacher gives them.

    Attributes:
        mels: (B, T, 80) log-mel spectra, zeros after each clip.
        lengths: (B,) their frames.
        states: the teacher's, by layer: (sum of the student's frames, D), clip after clip.
        outputs: (B, K) of the teacher's head; None where it has none.
        files: of each clip, for messages.
    """

    mels: Tensor
    lengths: Tensor
    states: dict[int, Tensor]
    outputs: Tensor | None
    files: list[str]

    def __len__(self) -> int:
        return len(self.files)

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on another device."""
        states = {layer: tensor.to(device) for layer, tensor in self.states.items()}
        outputs = None if self.outputs is None else self.outputs.to(device)
        return PairBatch(self.mels.to(device), self.lengths.to(device), states, outputs, self.files)


@dataclass
class Pairs:
    """All clips of a run, by position.

    Attributes:
        reader: of the usable clips, at the student's rate.
        teacher: of them.
        features: the student's.
        views: how clips are augmented; None: they are not.
        seconds: (N,) length of each clip.
        train, held: positions that are trained on, and those held out.
        names: what each view of each clip is kept under; empty where nothing is kept.
        states, inputs, outputs: where the teacher's states are kept by layer, the log-mel spectra and its outputs.
        disk_bytes: size of what is kept.
        passes: clips and views that were run through the teacher.
        skipped: clips that can't be used, with the reason.
    """

    reader: Reader
    teacher: Teacher
    features: Features
    views: Views | None
    seconds: np.ndarray
    train: np.ndarray
    held: np.ndarray
    names: list[list[str]]
    states: dict[int, StateSet]
    inputs: StateSet | None
    outputs: StateSet | None
    disk_bytes: int = 0
    passes: int = 0
    skipped: Sequence[dict[str, str]] = ()

    def batch(self, rows: Sequence[int], epoch: tuple[object, ...]) -> PairBatch:
        """The clips of some rows, each in a view that is drawn for an epoch.

        Args:
            rows: positions of the clips.
            epoch: what seeds the view of each clip.
        """
        return self._collated(rows, [self._clip(row, derive_seed(*epoch, "view", row)) for row in rows])

    def view(self, rows: Sequence[int], view: int = 0) -> PairBatch:
        """The clips of some rows, all in the same view; 0: as they are."""
        kept = bool(self.names)
        draws = [None if not view else view if kept else derive_seed("view", view, row) for row in rows]
        return self._collated(rows, [self._clip(row, draw) for row, draw in zip(rows, draws, strict=True)])

    def _collated(self, rows: Sequence[int], clips: list[_Clip]) -> PairBatch:
        lengths = torch.tensor([len(clip[0]) for clip in clips])
        mels = nn.utils.rnn.pad_sequence([clip[0] for clip in clips], batch_first=True)
        states = {
            layer: torch.cat([_aligned(clip[1][layer], (len(clip[0]) + 1) // 2) for clip in clips])
            for layer in self.teacher.layers
        }
        outputs = [clip[2] for clip in clips if clip[2] is not None]
        files = [str(self.reader.frame["file"].iat[row]) for row in rows]
        return PairBatch(mels, lengths, states, torch.cat(outputs) if outputs else None, files)

    def _clip(self, row: int, draw: int | None) -> _Clip:
        """One clip; ``draw`` chooses the kept view, or seeds the augmentation. None: as it is."""
        if self.inputs is not None:
            name = self.names[row][draw % len(self.names[row]) if draw is not None else 0]
            states = {layer: kept.read(name).float() for layer, kept in self.states.items()}
            return self.inputs.read(name).float(), states, None if self.outputs is None else self.outputs.read(name)
        audio = self.reader(row)
        if self.views is not None:
            audio = self.views.fresh(audio, self.reader.rate, draw)
        with self.teacher.autocast():
            states, _ = self.teacher.encoder.clip_layers(audio, self.teacher.layers, top=max(self.teacher.layers))
        outputs = self.teacher.outputs(audio) if self.teacher.model is not None else None
        return mel_rows(self.features, audio), {layer: tensor.float() for layer, tensor in states.items()}, outputs

    def some(self, seed: int, device: torch.device) -> Iterator[PairBatch]:
        """Some training clips as they are, in small batches."""
        order = np.random.default_rng(derive_seed(seed, "maps")).permutation(self.train)[: SAMPLED // 2].tolist()
        for start in range(0, len(order), FEW):
            yield self.view(order[start : start + FEW]).to(device)

    def moments(self, seed: int) -> dict[int, tuple[Tensor, Tensor]]:
        """Mean and spread (D,) of each channel of the teacher's layers, over the frames of some training clips."""
        order = np.random.default_rng(derive_seed(seed, "moments")).permutation(self.train)[:SAMPLED]
        sums: dict[int, list[Tensor]] = {}
        count = 0
        for row in order.tolist():
            states = self._clip(row, None)[1]
            count += len(states[self.teacher.layers[0]])
            for layer, frames in states.items():
                frames = frames.double()
                own = sums.setdefault(layer, [torch.zeros(frames.shape[1]).double() for _ in range(2)])
                own[0] += frames.sum(0)
                own[1] += frames.square().sum(0)
        found = {}
        for layer, (total, squares) in sums.items():
            mean = total / count
            spread = (squares / count - mean.square()).clamp_min(0).sqrt()
            found[layer] = mean.float(), spread.clamp_min(1e-3 * float(spread.max()) + 1e-12).float()
        return found


def _aligned(states: Tensor, frames: int) -> Tensor:
    """States (T, D) of a clip at the student's number of frames, which span the same seconds; linear in between."""
    if len(states) == frames:
        return states
    return nn.functional.interpolate(states.T[None], size=frames, mode="linear", align_corners=False)[0].T


def mel_rows(features: Features, audio: np.ndarray) -> Tensor:
    """The student's input for samples (N,): log-mel spectrum (T, 80)."""
    return features(audio)["input_features"][0].T.contiguous()


def student_features(teacher: Teacher) -> Features:
    """Log-mel spectra of clips that are cut and brought to a level as the teacher's are."""
    features = mel_features()
    features.silence, features.level = teacher.audio.silence, teacher.audio.level
    return features


def make_pairs(windows: Windows, teacher: Teacher, config: DistilConfig, own_cache: Path) -> Pairs:
    """Runs every clip and view through the teacher, unless it is on disk or nothing is to be kept.

    Args:
        windows: the clips.
        teacher: of them.
        config: of the run.
        own_cache: folder of the run's own cache, where no other is named.

    Raises:
        SertuneError: a file that can't be used, or no room for the states.
    """
    features, keep = student_features(teacher), config.cache
    frame = windows.frame
    reader = Reader(frame, features.rate, teacher.audio)
    count = keep.views if keep.states else 1
    active = keep.views > 1 or not keep.states
    views = Views(config.augment.options, config.seed, count, teacher.audio.crop, config.augment.share)
    pairs = Pairs(
        reader, teacher, features, views if active else None, frame["duration"].to_numpy(), np.zeros(0), np.zeros(0),
        [], {}, None, None,
    )  # fmt: skip
    usable = np.arange(len(frame))
    if keep.states:
        usable = _keep(pairs, config, own_cache)
    out = windows.held_out[usable]
    places = np.arange(len(usable))
    pairs.train, pairs.held = places[~out], places[out]
    return pairs


def _keep(pairs: Pairs, config: DistilConfig, own_cache: Path) -> np.ndarray:
    """Puts on disk what is missing, and opens it; the rows that can be used."""
    teacher, keep = pairs.teacher, config.cache
    folder = cache_folder(CacheConfig(folder=keep.folder)) or own_cache
    cache = DiskCache(folder, keep.disk_gib)
    pairs.inputs = cache.open_extra("log-mel", inputs_key(pairs.features, keep.dtype))
    mels = Extra(
        pairs.inputs, lambda audio: mel_rows(pairs.features, audio), row_bytes(keep.dtype, MELS), MELS_PER_SECOND
    )
    extras = [mels]
    if teacher.model is not None:
        key = outputs_key(teacher.encoder, teacher.head_digest, teacher.precision)
        pairs.outputs = cache.open_extra(teacher.name, key)
        extras.append(Extra(pairs.outputs, teacher.outputs, row_bytes("float32", teacher.model.target.linear)))
    states, usable, skipped = compute_states(
        teacher.encoder,
        pairs.reader,
        None,
        keep=True,
        skip_bad=config.skip_bad,
        autocast=teacher.autocast,
        layers=teacher.layers,
        views=pairs.views,
        cache=cache,
        dtype=keep.dtype,
        precision=teacher.precision,
        extras=extras,
        skip_silent=True,
    )
    pairs.states = {
        layer: cache.open(teacher.encoder, teacher.precision, layer, keep.dtype) for layer in teacher.layers
    }
    pairs.inputs = cache.open_extra("log-mel", inputs_key(pairs.features, keep.dtype))
    count = pairs.views.count if pairs.views is not None else 1
    named = pairs.views
    pairs.names = [
        [named.name(digest, view) if named is not None else digest for view in range(count)]
        for digest in states.digests
    ]
    pairs.seconds, pairs.disk_bytes, pairs.passes, pairs.skipped = (
        states.seconds,
        states.disk_bytes,
        states.passes,
        skipped,
    )
    pairs.reader = Reader(pairs.reader.frame.iloc[usable].reset_index(drop=True), pairs.reader.rate, pairs.reader.audio)
    return usable
