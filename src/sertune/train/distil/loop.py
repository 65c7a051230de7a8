"""The loop: every random draw is seeded by (seed, epoch, step), so a stopped run goes on to the very result."""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sertune.config import TrainConfig
from sertune.data.batch import make_batches
from sertune.errors import SertuneError
from sertune.progress import progress, say
from sertune.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sertune.train.device import Device
from sertune.train.distil.config import DistilConfig
from sertune.train.distil.loss import Distiller
from sertune.train.distil.pairs import PairBatch, Pairs
from sertune.train.loop import derive_seed
from sertune.train.optim import clip_gradients, rate_factor, set_rates

BETAS = (0.9, 0.98)
"""AdamW's, the second as usual for transformers that start at random."""


class DistilFit:
    """Trains a student.

    Args:
        distiller: the student with its maps.
        pairs: what it learns from.
        config: of the run.
        device: where and in which precision.
        checkpoint: file to write to and go on from.
    """

    def __init__(
        self, distiller: Distiller, pairs: Pairs, config: DistilConfig, device: Device, checkpoint: Path
    ) -> None:
        self.distiller, self.pairs, self.config, self.device = distiller, pairs, config, device
        self.options, self.checkpoint_file = config.train, checkpoint
        self.parameters = distiller.trainable()
        self.optimizer = self._optimizer()
        self.state = Checkpoint()
        self.steps_per_epoch = len(self._batches(0))
        self.total_steps = self.options.epochs * self.steps_per_epoch
        self._saved = time.monotonic()
        if checkpoint.is_file():
            self.state = load_checkpoint(checkpoint, distiller, self.optimizer)
            device.set_scale(self.state.scale)

    def run(self) -> list[dict[str, Any]]:
        """All epochs; returns the log, one row per epoch.

        Raises:
            SertuneError: the loss is not finite.
        """
        state = self.state
        with progress("Distilling", self.total_steps) as advance:
            advance(state.steps)
            while state.epoch < self.options.epochs:
                self._epoch(advance)
        return state.log

    def _optimizer(self) -> torch.optim.AdamW:
        peak = self.options.lr
        groups: list[dict[str, Any]] = []
        matrices = [parameter for parameter in self.parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in self.parameters if parameter.ndim <= 1]
        for group, decay in ((matrices, self.options.weight_decay), (vectors, 0.0)):
            groups.append({"params": group, "lr": peak, "peak": peak, "weight_decay": decay})
        return torch.optim.AdamW(groups, betas=BETAS, fused=True)

    def _batches(self, epoch: int) -> list[np.ndarray]:
        rows = self.pairs.train
        positions = make_batches(
            self.pairs.seconds[rows],
            max_clips=self.options.batch_clips,
            max_seconds=self.options.batch_seconds,
            rng=np.random.default_rng(derive_seed(self.config.seed, "order", epoch)),
        )
        return [rows[position] for position in positions]

    def _epoch(self, advance: Callable[[int], None]) -> None:
        state = self.state
        batches = self._batches(state.epoch)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._load, batches[state.step], state.epoch)
            while state.step < len(batches):
                began = time.perf_counter()
                batch = self._taken(waiting)
                if state.step + 1 < len(batches):
                    waiting = pool.submit(self._load, batches[state.step + 1], state.epoch)
                state.losses += self._step(batch)
                state.seconds += time.perf_counter() - began
                state.step += 1
                state.steps += 1
                advance(1)
                if time.monotonic() - self._saved > 60 * self.options.checkpoint_minutes and state.step < len(batches):
                    self._save()
        state.epoch += 1
        state.step = 0
        self._finish_epoch()

    def _load(self, rows: np.ndarray, epoch: int) -> PairBatch:
        return self.pairs.batch(rows.tolist(), (self.config.seed, epoch))

    def _taken(self, waiting: "Future[PairBatch]") -> PairBatch:
        return waiting.result().to(self.device.torch)

    def _step(self, batch: PairBatch) -> list[float]:
        """One update; the distances before it, in the order of `names`."""
        options = TrainConfig(warmup=self.options.warmup)
        set_rates(self.optimizer, rate_factor(self.state.steps, self.total_steps, options, 0))
        self.distiller.train()
        self.optimizer.zero_grad(set_to_none=True)
        distances = self._distances(batch)
        total = self.distiller.total(distances)
        loss = float(total.detach())
        self.device.backward(total)
        self.device.unscale(self.optimizer)
        norm = clip_gradients(self.parameters, self.options.clip)
        if not math.isfinite(loss) or (not math.isfinite(norm) and not self.device.scales):
            names = ", ".join(dict.fromkeys(batch.files[:3]))
            raise SertuneError(
                f"the loss is {loss:g} and its gradient {norm:g} in step {self.state.steps + 1}, with clips of "
                f"{names}; try a lower --train.lr or --precision fp32"
            )
        self.device.step(self.optimizer)
        return [float(value.detach()) for value in distances.values()]

    def _distances(self, batch: PairBatch) -> dict[str, torch.Tensor]:
        with self.device.autocast():
            hidden, given, outputs = self.distiller.predicted(batch)
        return self.distiller.distances(hidden[0].lengths, given, outputs, batch)

    @property
    def names(self) -> list[str]:
        """What is logged: the teacher's layers, and its outputs."""
        layers = [f"layer {layer}" for layer in self.distiller.pairs]
        return layers + (["outputs"] if self.distiller.readout is not None else [])

    def _finish_epoch(self) -> None:
        """Measures the held-out clips, and writes a checkpoint."""
        state, began = self.state, time.perf_counter()
        train = np.array(state.losses).reshape(-1, len(self.names)).mean(0)
        held = self.held_out()
        row: dict[str, Any] = {
            "epoch": state.epoch,
            "train": dict(zip(self.names, train.tolist(), strict=True)),
            "held_out": held,
            "seconds": round(state.seconds - sum(entry["seconds"] for entry in state.log), 3),
            "held_out_seconds": round(time.perf_counter() - began, 3),
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        state.log.append(row)
        state.losses = []
        self._save()
        shown = held or row["train"]
        words = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
        where = "held out" if held else "train"
        say(f"[{state.epoch}/{self.options.epochs}] {where}: {words}, {row['seconds']:.0f} s")

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Mean distances on the clips that are held out, as they are; empty where there are none."""
        rows = self.pairs.held
        if not len(rows):
            return {}
        self.distiller.eval()
        options = self.options
        batches = make_batches(
            self.pairs.seconds[rows], max_clips=options.batch_clips, max_seconds=options.batch_seconds, rng=None
        )
        sums, count = np.zeros(len(self.names)), 0
        for position in batches:
            batch = self.pairs.view(rows[position].tolist()).to(self.device.torch)
            sums += len(batch) * np.array([float(value) for value in self._distances(batch).values()])
            count += len(batch)
        return dict(zip(self.names, (sums / count).tolist(), strict=True))

    def _save(self) -> None:
        self.state.scale = self.device.scale
        save_checkpoint(self.checkpoint_file, self.state, self.distiller, self.optimizer)
        self._saved = time.monotonic()
