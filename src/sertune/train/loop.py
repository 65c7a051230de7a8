"""The loop: one for every method and target.

Every random draw is seeded by (seed, fold, step), so a run goes on from a checkpoint to the very result of an
uninterrupted one, and splitting a batch changes nothing but memory.
"""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sertune.config import RunConfig
from sertune.data.augment import mixup_pairs
from sertune.data.batch import Batch, collate, make_batches
from sertune.data.splits import Fold
from sertune.errors import SertuneError
from sertune.model.emotion_model import EmotionModel
from sertune.progress import progress
from sertune.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sertune.train.device import Device
from sertune.train.judge import score, score_spread
from sertune.train.optim import clip_gradients, make_optimizer, rate_factor, set_rates
from sertune.train.sampling import weighted_rows
from sertune.train.states import Reader, States

EVAL_CLIPS = 64
"""Most clips in a batch that is scored."""


@dataclass
class Clips:
    """All clips of a run, by position: states, targets and how to read them.

    Attributes:
        states: of the frozen part.
        targets: (N, K) as `Target.encode` gives them.
        files: for messages.
        reader: reads samples, where the front trains.
        source: (N,) which of several corpora each clip is from; empty with one.
    """

    states: States
    targets: np.ndarray
    files: list[str]
    reader: Reader
    source: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def training_rows(self, rows: np.ndarray, weights: Sequence[float], *seed: object) -> np.ndarray:
        """The training part's rows, drawn by the corpora's sampling weights where there are any."""
        if not weights or not len(self.source):
            return rows
        return weighted_rows(rows, self.source, weights, np.random.default_rng(derive_seed(*seed, "weights")))

    def for_solving(self, rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Pooled vectors and targets of the training part for what is solved, not trained: of every kept view."""
        return self.states.of_all_views(rows), np.tile(self.targets[rows], (len(self.states.augmented) + 1, 1))

    def batch(
        self, rows: Sequence[int], *, audio: bool, pooled_only: bool = False, epoch: tuple[object, ...] | None = None
    ) -> Batch:
        """The clips of some rows side by side.

        Args:
            rows: positions of the clips.
            audio: their samples instead of their states.
            pooled_only: no more than their pooled vectors.
            epoch: what seeds the waveform augmentation of each clip; None leaves the clips as they are.
        """
        targets = torch.from_numpy(self.targets[list(rows)])
        files = [self.files[row] for row in rows]
        draws = [derive_seed(*epoch, "view", row) if epoch is not None else None for row in rows]
        states = self.states
        if audio and not pooled_only:
            rate = self.reader.rate
            samples = [states.audio(self.reader(row), rate, draw) for row, draw in zip(rows, draws, strict=True)]
            return collate([], targets, files, samples)
        if pooled_only:
            pooled = [states.pooled_of(row, draw) for row, draw in zip(rows, draws, strict=True)]
            return Batch(None, torch.stack(pooled), None, targets, files)
        return collate([states.clip(row, draw) for row, draw in zip(rows, draws, strict=True)], targets, files)


@dataclass
class FitResult:
    """What a fit gave, with the best weights in the model.

    Attributes:
        best_epoch: 0 is the model before training.
        epochs: epochs that were run.
        dev_score: of the best epoch.
        log: one row per epoch.
        train_seconds: of all epochs, without scoring.
    """

    best_epoch: int
    epochs: int
    dev_score: float
    log: list[dict[str, Any]] = field(default_factory=list)
    train_seconds: float = 0.0


def derive_seed(*parts: object) -> int:
    """A seed that depends on all parts, and on nothing else."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


class Fit:
    """Trains one model on one fold.

    Args:
        model: with pre-trained weights and a started head.
        clips: of the whole run.
        fold: who trains and who chooses.
        config: of the run.
        device: where and in which precision.
        checkpoint: file to write to and go on from; None writes nothing.
        watch: is told of every epoch that is done, by its row of the log; what it raises ends training.
    """

    def __init__(
        self,
        model: EmotionModel,
        clips: Clips,
        fold: Fold,
        config: RunConfig,
        device: Device,
        checkpoint: Path | None = None,
        watch: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.model, self.clips, self.fold, self.config, self.device = model, clips, fold, config, device
        self.watch = watch
        self.options = config.train
        self.checkpoint_file = checkpoint
        self.optimizer = make_optimizer(model, self.options)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.state = Checkpoint()
        self.total_steps = self.options.epochs * len(self._batches(0))
        self._saved = time.monotonic()
        self._loaded: tuple[np.ndarray, Future[list[Batch]]] | None = None
        if checkpoint is not None and checkpoint.is_file():
            self.state = load_checkpoint(checkpoint, model, self.optimizer)
            device.set_scale(self.state.scale)

    def run(self) -> FitResult:
        """All epochs; the model is left with the best weights.

        Raises:
            SertuneError: the loss or its gradient is not finite.
        """
        state = self.state
        if not state.log:
            self._finish_epoch(loss=None)
        elif state.finished(self.options.patience):
            state.epoch = self.options.epochs
        title = f"Training {self.fold.name}"
        with progress(title, self.total_steps) as advance:
            advance(state.steps)
            while state.epoch < self.options.epochs:
                self._epoch(advance)
                if state.finished(self.options.patience):
                    break
        self.model.load_trained(state.best)
        result = FitResult(state.best_epoch, state.log[-1]["epoch"], state.best_score, state.log, state.seconds)
        return result

    def _batches(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng(derive_seed(self.config.seed, self.fold.name, "order", epoch))
        rows = self.clips.training_rows(self.fold.train, self.config.weights, self.config.seed, self.fold.name, epoch)
        positions = make_batches(
            self.clips.states.seconds[rows],
            max_clips=self.options.batch_clips,
            max_seconds=self.options.batch_seconds,
            rng=rng,
        )
        return [rows[position] for position in positions]

    def _epoch(self, advance: Callable[[int], None]) -> None:
        state = self.state
        batches = self._batches(state.epoch)
        kept = self.clips.states.live is None and not self.model.encoder.front_trains
        with ThreadPoolExecutor(1) as pool:
            while state.step < len(batches):
                began = time.perf_counter()
                later = batches[state.step + 1] if state.step + 1 < len(batches) else None
                loading = pool.submit(self._load, later) if kept and later is not None else None
                state.losses.append(self._step(batches[state.step], state.steps))
                self._loaded = (later, loading) if later is not None and loading is not None else None
                state.seconds += time.perf_counter() - began
                state.step += 1
                state.steps += 1
                advance(1)
                if time.monotonic() - self._saved > 60 * self.options.checkpoint_minutes and state.step < len(batches):
                    self._save()
        state.epoch += 1
        state.step = 0
        self._finish_epoch(float(np.mean(state.losses)))

    def _finish_epoch(self, loss: float | None) -> None:
        """Scores dev with the averaged weights, keeps them if they are the best, and writes a checkpoint."""
        state, began = self.state, time.perf_counter()
        current = {name: tensor.clone() for name, tensor in self.model.trained_state().items()}
        self.model.load_trained(state.average or current)
        dev_score, dev_loss, spread = self._dev_scores()
        self.model.train()
        if state.choose(dev_score, spread):
            state.best = {name: tensor.clone() for name, tensor in self.model.trained_state().items()}
        self.model.load_trained(current)
        row = {
            "fold": self.fold.name,
            "epoch": state.epoch,
            "loss": loss,
            "dev_loss": dev_loss,
            "dev_score": dev_score,
            "dev_spread": spread if math.isfinite(spread) else None,
            "seconds": round(state.seconds - sum(r["seconds"] for r in state.log), 3),
            "dev_seconds": round(time.perf_counter() - began, 3),
            "lr": self.optimizer.param_groups[0]["lr"] if state.epoch else 0.0,
        }
        state.note(row, self.options.plateau_patience)
        state.losses = []
        if state.epoch:
            self._save()
        if self.watch is not None:
            self.watch(row)

    def _dev_scores(self) -> tuple[float, float, float]:
        """Score and loss on dev, NaN where there is none, and how far an epoch may fall below the best."""
        if not len(self.fold.dev):
            return math.nan, math.nan, math.inf
        outputs, targets = self.outputs(self.fold.dev), self.clips.targets[self.fold.dev]
        loss = float(self.model.target.loss(outputs, torch.from_numpy(targets)))
        spread = {"best": 0.0, "last": math.inf}.get(self.options.choose)
        if spread is None:
            spread = score_spread(self.model.target, outputs, targets)
        return score(self.model.target, outputs, targets), loss, spread

    def _save(self) -> None:
        if self.checkpoint_file is not None:
            self.state.scale = self.device.scale
            save_checkpoint(self.checkpoint_file, self.state, self.model, self.optimizer)
            self._saved = time.monotonic()

    def _step(self, rows: np.ndarray, step: int) -> float:
        """One update; returns the loss of the whole batch."""
        set_rates(self.optimizer, rate_factor(step, self.total_steps, self.options, self.state.halvings))
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(self._parts(rows), step)
        if self._warm:
            for parameter in self.model.trained_parameters():
                parameter.grad = None
        self.device.unscale(self.optimizer)
        norm = clip_gradients(self.parameters, self.options.clip)
        # under fp16 the scaler skips a step whose gradients overflow, and lowers its scale
        if not np.isfinite(loss) or (not np.isfinite(norm) and not self.device.scales):
            self._stop(loss, norm, rows, step)
        self.device.step(self.optimizer)
        self._average(step)
        return loss

    @property
    def _warm(self) -> bool:
        """Whether the head trains alone."""
        return self.state.epoch < self.options.unfreeze_epoch

    def _parts(self, rows: np.ndarray) -> list[Batch]:
        """The parts of a batch: loaded while the one before it was computed, or now."""
        if self._loaded is not None and self._loaded[0] is rows:
            return self._loaded[1].result()
        return self._load(rows)

    def _load(self, rows: np.ndarray) -> list[Batch]:
        audio = self.model.encoder.front_trains
        pooled_only = self._warm and self.model.head.lowest_frames is None
        epoch = (self.config.seed, self.fold.name, self.state.epoch)
        parts = np.array_split(rows, min(self.options.accumulate, len(rows)))
        return [self.clips.batch(part.tolist(), audio=audio, pooled_only=pooled_only, epoch=epoch) for part in parts]

    def _backward(self, parts: list[Batch], step: int) -> float:
        """Gradients of the loss of the whole batch, however many parts it is computed in.

        With several parts the outputs of all are computed first; the gradient of the loss with respect to them
        is then passed back part by part, with the same random draws.
        """
        if len(parts) == 1:
            outputs, targets = self._forward(parts[0], step, 0)
            loss = self.model.target.loss(outputs, targets, step)
            self.device.backward(loss)
            return float(loss.detach())
        with torch.no_grad():
            made = [self._forward(part, step, index) for index, part in enumerate(parts)]
        outputs = torch.cat([output for output, _ in made]).requires_grad_()
        loss = self.model.target.loss(outputs, torch.cat([target for _, target in made]), step)
        (slope,) = torch.autograd.grad(loss, outputs)
        for index, (part, part_slope) in enumerate(zip(parts, slope.split([len(p) for p in parts]), strict=True)):
            output, _ = self._forward(part, step, index)
            self.device.backward((output * part_slope).sum())
        return float(loss.detach())

    def _forward(self, batch: Batch, step: int, part: int) -> tuple[Tensor, Tensor]:
        """Outputs and targets (mixed, if mixup is on) of one part of a batch."""
        batch = batch.to(self.device.torch)
        torch.manual_seed(derive_seed(self.config.seed, self.fold.name, step, part))
        augment, targets, mixup = self.config.augment, batch.targets, None
        if augment.mixup and len(batch) > 1:
            mixup = mixup_pairs(len(batch), augment.mixup)
            weight = mixup[1].to(targets.device)
            targets = weight * targets + (1 - weight) * targets[mixup[0].to(targets.device)]
        with self.device.autocast():
            outputs = self.model(batch, augment, mixup)
        return outputs.float(), targets

    def _average(self, step: int) -> None:
        """Running average of the weights; its decay grows to ``train.average`` over the first steps."""
        if not self.options.average:
            return
        decay = min(self.options.average, (step + 1) / (step + 10))
        own = self.model.trained_state()
        if not self.state.average:
            self.state.average = {name: tensor.clone() for name, tensor in own.items()}
        for name, tensor in self.state.average.items():
            tensor.lerp_(own[name].to(tensor), 1 - decay)

    def _stop(self, loss: float, norm: float, rows: np.ndarray, step: int) -> None:
        files = ", ".join(self.clips.files[row] for row in rows[:5])
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        raise SertuneError(
            f"step {step + 1} of fold {self.fold.name}: the loss is {loss} and its gradient's norm {norm}; "
            f"files of the batch: {files}{more}. Try --precision fp32 or a smaller --train.lr"
        )

    @torch.no_grad()
    def outputs(self, rows: np.ndarray) -> Tensor:
        """Outputs (len(rows), K) in eval mode, in the order of ``rows``."""
        return model_outputs(self.model, self.clips, rows, self.config, self.device)


def model_outputs(model: EmotionModel, clips: Clips, rows: np.ndarray, config: RunConfig, device: Device) -> Tensor:
    """Outputs (len(rows), K) in eval mode on the CPU, in the order of ``rows``."""
    return each_batch(model, clips, rows, config, device, model)


def model_vectors(model: EmotionModel, clips: Clips, rows: np.ndarray, config: RunConfig, device: Device) -> Tensor:
    """Pooled vectors (len(rows), layers, statistics) in eval mode on the CPU, in the order of ``rows``."""
    return each_batch(model, clips, rows, config, device, model.vectors)


@torch.no_grad()
def each_batch(
    model: EmotionModel,
    clips: Clips,
    rows: np.ndarray,
    config: RunConfig,
    device: Device,
    compute: Callable[[Batch], Tensor],
) -> Tensor:
    """What ``compute`` makes of clips in eval mode, (len(rows), ...) on the CPU, in the order of ``rows``."""
    model.eval()
    batches = make_batches(
        clips.states.seconds[rows], max_clips=EVAL_CLIPS, max_seconds=2 * config.train.batch_seconds, rng=None
    )
    made = []
    for positions in batches:
        chosen = rows[positions].tolist()
        batch = clips.batch(chosen, audio=model.encoder.front_trains).to(device.torch)
        with device.autocast():
            made.append(compute(batch).float().cpu())
    if not made:
        return torch.zeros(0, model.target.outputs)
    order = torch.from_numpy(np.argsort(np.concatenate(batches)))
    return torch.cat(made)[order]


def count_parameters(parameters: Sequence[nn.Parameter]) -> int:
    """How many numbers there are."""
    return sum(parameter.numel() for parameter in parameters)
