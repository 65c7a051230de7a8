"""What a run would cost, found by trying: ``sertune train --dry-run``.

A few clips of noise, as long as the corpus's own, go through the frozen part, and a few batches through real training
steps; time is extrapolated over all clips, memory is what the process took.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sertune.config import RunConfig
from sertune.data.batch import make_batches
from sertune.data.splits import Fold
from sertune.model.emotion_model import EmotionModel
from sertune.model.encoder import Encoder, half_where_autocast
from sertune.train.cache import cache_folder, disk_dtype, row_bytes
from sertune.train.folds import solved
from sertune.train.loop import EVAL_CLIPS, Clips, Fit, count_parameters
from sertune.train.prepare import Parts, assemble, split
from sertune.train.states import GIB, Reader, States, frames_nbytes

MIB = 2**20
STEPS = 3
"""Steps timed per size of batch, after one that is not."""
SPARE = 0.9
"""Share of the free memory that a batch may plan with."""
BACKWARD = 1.5
"""What a step takes at its peak, in units of what its forward pass keeps for the backward pass."""


@dataclass(frozen=True)
class Plan:
    """What a run would cost.

    Attributes:
        clips: of the run.
        seconds: of audio, as used.
        folds: models that are trained.
        trainable_parameters: of encoder and head.
        total_parameters: of encoder and head.
        cut: first layer that trains.
        states_mib: size of the states that are kept.
        kept: `memory`, the cache's folder, or `not kept`.
        seconds_states: to compute them once.
        seconds_per_epoch: of one fold.
        seconds_total: states, and all epochs of all folds; without the frozen baseline.
        peak_memory_mib: of the process, or on a GPU of its memory.
        largest_batch_seconds: audio per batch (`train.batch_seconds`) that fits the free memory; 0: nothing trains.
        free_memory_mib: now, with what the trial holds counted as free.
        precision: what `auto` chose.
        device: where.
    """

    clips: int
    seconds: float
    folds: int
    trainable_parameters: int
    total_parameters: int
    cut: int
    states_mib: float
    kept: str
    seconds_states: float
    seconds_per_epoch: float
    seconds_total: float
    peak_memory_mib: float
    largest_batch_seconds: float
    free_memory_mib: float
    precision: str
    device: str


def plan(config: RunConfig) -> Plan:
    """Tries what `train` would do; nothing is written.

    Raises:
        SertuneError: a mistake in the settings or the data.
    """
    parts = assemble(config)
    seconds = parts.manifest.utterances["duration"].fillna(config.audio.crop).clip(upper=config.audio.crop).to_numpy()
    protocol = split(parts.manifest, parts.target, config)
    folds = [*protocol.folds] + ([protocol.final] if protocol.final else [])
    model, encoder, device = parts.model, parts.encoder, parts.device
    kept, states_bytes = _states(config, parts, len(seconds))
    start = None if encoder.front_trains else model.start
    frozen = _frozen_cost(parts, seconds, start, None)
    states_seconds = float(frozen(seconds).sum())
    trains = not solved(model, config)
    per_epoch, largest, free = 0.0, 0.0, device.free_memory_mib()
    if trains:
        fold = folds[0]
        trial = _Trial(parts, config, seconds[fold.train], [seconds[fold.dev], seconds[fold.test]])
        per_epoch = trial.seconds_per_epoch()
        largest = trial.largest_batch_seconds(device.peak_memory_mib() + states_bytes / MIB)
        if kept == "not kept" and start is not None:
            per_epoch += float(_frozen_cost(parts, seconds, start, start)(seconds[fold.train]).sum())
    in_memory = states_bytes if kept == "memory" else _pooled_bytes(parts, len(seconds))
    head = count_parameters(list(model.head.parameters()))
    epochs = config.train.epochs if trains else 0
    return Plan(
        clips=len(seconds),
        seconds=round(float(seconds.sum()), 1),
        folds=len(folds),
        trainable_parameters=count_parameters(model.trained_parameters()) + head,
        total_parameters=count_parameters(list(encoder.parameters())) + head,
        cut=encoder.cut,
        states_mib=round(states_bytes / MIB, 1),
        kept=kept,
        seconds_states=round(states_seconds, 2),
        seconds_per_epoch=round(per_epoch, 3),
        seconds_total=round(states_seconds + per_epoch * epochs * len(folds), 1),
        peak_memory_mib=round(device.peak_memory_mib() + (in_memory / MIB if device.torch.type == "cpu" else 0), 1),
        largest_batch_seconds=round(largest, 1),
        free_memory_mib=round(free),
        precision=device.precision,
        device=torch.cuda.get_device_name() if device.torch.type == "cuda" else "cpu",
    )


def describe(made: Plan) -> str:
    """A plan in lines for a person."""
    share = made.trainable_parameters / made.total_parameters
    where = {"memory": "in memory", "not kept": "not kept: computed again for every batch"}.get(made.kept, made.kept)
    lines = [
        f"{made.clips} clips, {made.seconds / 60:.1f} minutes of audio; {made.folds} models; "
        f"{made.device}, {made.precision}",
        f"trainable parameters: {made.trainable_parameters:,} of {made.total_parameters:,} ({share:.1%}); "
        f"the first layer that trains is {made.cut}",
        f"states of the frozen part: {made.states_mib:,.0f} MiB, {where}; computed once in {made.seconds_states:.0f} s",
        f"one epoch: {made.seconds_per_epoch:.1f} s" if made.seconds_per_epoch else "one epoch: solved, not trained",
        f"all models: {made.seconds_total / 60:.1f} minutes, without the frozen baseline",
        f"peak memory: {made.peak_memory_mib:,.0f} MiB of {made.free_memory_mib:,.0f} MiB that are free"
        + (
            ": too much; try a smaller train.batch_seconds, train.checkpointing, or a method with a higher cut"
            if made.peak_memory_mib > made.free_memory_mib
            else ""
        ),
    ]
    if made.largest_batch_seconds:
        lines.append(f"largest batch that fits: train.batch_seconds = {made.largest_batch_seconds:.0f}")
    return "\n".join(lines)


def _pooled_bytes(parts: Parts, clips: int) -> int:
    return clips * (parts.encoder.depth + 1) * 2 * parts.encoder.width * 4


def _states(config: RunConfig, parts: Parts, clips: int) -> tuple[str, int]:
    """Where the states would be kept, and their size in bytes, pooled vectors included."""
    encoder, start = parts.encoder, parts.model.start
    pooled = _pooled_bytes(parts, clips)
    if encoder.front_trains or not config.cache.states:
        return "not kept", pooled
    views = config.cache.views
    floats = 0 if start is None else frames_nbytes(encoder, parts.manifest.utterances, config.audio)
    folder = cache_folder(config.cache)
    if folder is not None:
        frames = (
            floats
            // (4 * encoder.width)
            * row_bytes(disk_dtype(config.cache.dtype, parts.device.precision), encoder.width)
        )
        return str(folder), views * (pooled + frames)
    half = parts.device.precision == "bf16"
    fits = views * floats <= config.cache.limit_gib * GIB
    return ("memory", views * (pooled + floats // (2 if half else 1))) if fits else ("not kept", pooled)


def _frozen_cost(
    parts: Parts, seconds: np.ndarray, start: int | None, top: int | None
) -> Callable[[np.ndarray], np.ndarray]:
    """Seconds that the frozen part takes for clips of given lengths: interpolated between measured lengths, as the
    cost of attention grows faster than the length.
    """
    encoder = parts.encoder
    lengths, costs = np.quantile(seconds, [0.05, 0.4, 0.8, 1.0]), []
    for length in lengths:
        noise = encoder.noise(float(length))
        took = []
        for _ in range(STEPS):
            began = time.perf_counter()
            with parts.device.autocast():
                encoder.clip_states(noise, start, top=top)
            took.append(time.perf_counter() - began)
        costs.append(min(took))
    return lambda at: np.interp(at, lengths, costs)


def _line(sizes: np.ndarray, costs: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """cost = fixed + slope * size by least squares, neither below zero."""
    if np.ptp(sizes) < 1e-6 * sizes.max():
        return lambda at: costs.mean() / sizes.mean() * at
    slope, fixed = np.polyfit(sizes, costs, 1)
    if slope <= 0:
        return lambda at: np.full(len(at), costs.mean())
    if fixed < 0:
        slope, fixed = (sizes * costs).sum() / (sizes**2).sum(), 0.0
    return lambda at: fixed + slope * at


class _Trial:
    """Real training steps on noise, in batches as long as the corpus's own.

    Args:
        parts: of the run.
        config: of the run.
        train: seconds of each training clip.
        scored: of each dev clip, and of each test clip.
    """

    def __init__(self, parts: Parts, config: RunConfig, train: np.ndarray, scored: list[np.ndarray]) -> None:
        self.parts, self.config = parts, replace(config, train=replace(config.train, unfreeze_epoch=0))
        options = config.train
        limits: dict[str, Any] = {"max_clips": options.batch_clips, "max_seconds": options.batch_seconds}
        self.batches = [train[rows] for rows in make_batches(train, **limits, rng=np.random.default_rng(config.seed))]
        self.batches.sort(key=self._size)
        limits = {"max_clips": EVAL_CLIPS, "max_seconds": 2 * options.batch_seconds}
        self.scored = max(
            (part[rows] for part in scored for rows in make_batches(part, **limits, rng=None)), key=self._size
        )
        self.usual, self.largest = self.batches[len(self.batches) // 2], self.batches[-1]

    def _size(self, seconds: np.ndarray) -> float:
        """Seconds that a batch computes, padding included where there is any."""
        return float(seconds.sum() if self.parts.encoder.packs else seconds.max() * len(seconds))

    def seconds_per_epoch(self) -> float:
        """Of all batches, without scoring."""
        tried = [self.usual, self.largest]
        costs = [self._time(batch) for batch in tried]
        line = _line(np.array([self._size(batch) for batch in tried]), np.array(costs))
        self._finish_epoch()
        return float(line(np.array([self._size(batch) for batch in self.batches])).sum())

    def largest_batch_seconds(self, other_mib: float) -> float:
        """Audio per batch that fits the memory that is free.

        Args:
            other_mib: what a run takes whatever its batches are.
        """
        fit, rows = self._fit(self.largest, self.largest[:1]), np.arange(len(self.largest))
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            fit._step(rows, 0)
        for parameter in self.parts.model.parameters():
            kept.pop(parameter.untyped_storage().data_ptr(), None)
        per_second = BACKWARD * sum(kept.values()) / MIB / self._size(self.largest)
        return max(SPARE * self.parts.device.free_memory_mib() - other_mib, 0.0) / per_second

    def _time(self, batch: np.ndarray) -> float:
        fit, rows = self._fit(batch, batch[:1]), np.arange(len(batch))
        fit._step(rows, 0)
        began = time.perf_counter()
        for step in range(STEPS):
            fit._step(rows, step)
        self.parts.device.wait()
        return (time.perf_counter() - began) / STEPS

    def _finish_epoch(self) -> None:
        """What comes after an epoch and needs memory of its own: scoring, the best weights, the checkpoint."""
        fit = self._fit(self.largest, self.scored)
        fit._step(np.arange(len(self.largest)), 0)
        fit._finish_epoch(None)
        with tempfile.TemporaryDirectory() as folder:
            fit.checkpoint_file = Path(folder) / "checkpoint.safetensors"
            fit._save()

    def _fit(self, train: np.ndarray, dev: np.ndarray) -> Fit:
        seconds = np.concatenate([train, dev])
        rows = np.arange(len(seconds))
        fold = Fold("trial", rows[: len(train)], rows[len(train) :], rows[:0])
        clips = _noise_clips(self.parts, self.parts.model, seconds)
        self.parts.device.prepare(self.parts.model)
        return Fit(self.parts.model, clips, fold, self.config, self.parts.device)


class _NoiseReader:
    """Reads noise where `Reader` reads files."""

    def __init__(self, encoder: Encoder, seconds: np.ndarray) -> None:
        self.encoder, self.rate, self.seconds = encoder, encoder.rate, seconds

    def __call__(self, row: int) -> np.ndarray:
        return self.encoder.noise(float(self.seconds[row]))


def _noise_clips(parts: Parts, model: EmotionModel, seconds: np.ndarray) -> Clips:
    """Clips of these lengths whose states and samples are noise, and whose targets are drawn from the corpus's."""
    encoder = parts.encoder
    rng = torch.Generator().manual_seed(0)
    pooled = torch.randn(len(seconds), encoder.depth + 1, 2 * encoder.width, generator=rng)
    frames: Sequence[Tensor] | None = None
    if model.start is not None and not encoder.front_trains:
        with parts.device.autocast():
            frames = [
                half_where_autocast(torch.randn(max(1, round(s * encoder.frames_per_second)), encoder.width))
                for s in seconds
            ]
    states = States(pooled, frames, seconds, [""] * len(seconds))
    every = parts.target.encode(parts.manifest.utterances, parts.manifest.ratings)
    targets = every[np.linspace(0, len(every) - 1, len(seconds)).round().astype(int)]
    reader = cast("Reader", _NoiseReader(encoder, seconds))
    return Clips(states, targets, ["noise"] * len(seconds), reader)
