"""Checkpoints: all that training needs to go on, in one safetensors file."""

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sertune.errors import SertuneError
from sertune.files import replacing


class Trained(Protocol):
    """What trains: an `EmotionModel`, say."""

    def trained_state(self) -> dict[str, Tensor]:
        """What was trained: name -> tensor."""

    def load_trained(self, tensors: dict[str, Tensor]) -> None:
        """Sets what `trained_state` gave."""


@dataclass
class Checkpoint:
    """Where training is.

    Attributes:
        epoch: epochs done.
        step: steps done in the current epoch.
        steps: steps done in all.
        losses: of these steps.
        seconds: spent in steps.
        best: weights of the chosen epoch, `best_epoch`, with its dev score `best_score`.
        top_epoch: the epoch with the highest dev score, `top_score`, of standard error `top_spread`.
        average: running average of the weights; empty before the first step.
        halvings: how often `plateau` halved the rates.
        scale: of the loss under fp16.
        log: one row per epoch, 0 being the model before training.
    """

    epoch: int = 0
    step: int = 0
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = -math.inf
    top_epoch: int = 0
    top_score: float = -math.inf
    top_spread: float = 0.0
    halvings: int = 0
    scale: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)

    def choose(self, dev_score: float, spread: float) -> bool:
        """Notes an epoch's dev score; True if this epoch is now the chosen one.

        The latest epoch wins whose score is within one standard error of the best (the one-standard-error rule,
        Breiman et al. 1984): on a small dev part, single epochs differ by chance, and later ones, with annealed rates
        and averaged weights, are the better bet; on a large one it is the best epoch.

        Args:
            dev_score: NaN counts as worst.
            spread: standard error of the score; 0 chooses the best epoch itself, the latest of equals, infinity the
                last.
        """
        value = dev_score if not math.isnan(dev_score) else -math.inf
        if value > self.top_score:
            self.top_score, self.top_epoch = value, self.epoch
            self.top_spread = 0.0 if math.isnan(spread) else spread
        if self.best and value < self.top_score - self.top_spread:
            return False
        self.best_epoch, self.best_score = self.epoch, value
        return True

    def note(self, row: dict[str, Any], plateau_patience: int) -> None:
        """Adds an epoch to the log and counts epochs without a better score."""
        self.log.append(row)
        stale = self.epoch - self.top_epoch
        if stale and stale % plateau_patience == 0:
            self.halvings += 1

    def finished(self, patience: int) -> bool:
        """Whether early stopping ends training."""
        return bool(patience) and self.epoch - self.top_epoch >= patience


TENSORS = ("best", "average")
PLAIN = tuple(entry.name for entry in fields(Checkpoint) if entry.name not in TENSORS)


def save_checkpoint(file: Path, state: Checkpoint, model: Trained, optimizer: torch.optim.Optimizer) -> None:
    """Writes everything, all of it or nothing."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": tensor for name, tensor in model.trained_state().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    tensors |= {f"average.{name}": tensor for name, tensor in state.average.items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
    plain = {key: getattr(state, key) for key in PLAIN}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(file) as part:
        save_file(tensors, part, metadata={"state": json.dumps(plain)})


def load_checkpoint(file: Path, model: Trained, optimizer: torch.optim.Optimizer) -> Checkpoint:
    """Sets model and optimiser to where they were, and says where that is.

    Raises:
        SertuneError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            plain = json.loads(stored.metadata()["state"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise SertuneError(f"{file}: damaged checkpoint ({' '.join(str(error).split())}); delete it") from None

    def part(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    model.load_trained(part("model."))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("optimizer.").items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    return Checkpoint(**plain, best=part("best."), average=part("average."))
