"""What targets share whose outputs are those of a linear layer, clip by clip."""

import numpy as np
import torch
from torch import Tensor, nn


class Plain:
    """Outputs, encoded targets and the solved linear model have the same columns.

    Attributes:
        categorical: whether it is about labels.
    """

    categorical = False

    @property
    def outputs(self) -> int:
        """Number of outputs; every target says it."""
        raise NotImplementedError

    @property
    def linear(self) -> int:
        """Outputs of the linear model that starts the head and stands beside as the baseline."""
        return self.outputs

    @property
    def solvable(self) -> bool:
        """Whether that linear model is all that a frozen encoder with a linear head can learn."""
        return True

    def balance(self, targets: np.ndarray) -> None:
        """Takes what the loss needs to know of the training part's encoded ``targets`` (N, K)."""

    def last_layer(self, width: int) -> nn.Module:
        """From the head's vector (B, width) to the outputs."""
        return nn.Linear(width, self.outputs)

    def missing(self, count: int) -> Tensor:
        """(count, K) encoded targets of clips of which nothing is known."""
        return torch.full((count, self.outputs), torch.nan)

    def slots(self, targets: Tensor) -> Tensor | None:
        """(B, R) raters of each clip, whose own outputs are wanted; None: this target has none."""
        return None

    def lift(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs as they are scored, from those of the solved linear model."""
        return outputs

    def finish(self, outputs: Tensor, slots: Tensor | None, last: nn.Module, hidden: Tensor | None = None) -> Tensor:
        """Outputs as they are scored, from those of the last layer, which read ``hidden``."""
        return outputs


def blend_logits(outputs: Tensor, others: Tensor, share: float) -> Tensor:
    """Weighted mean of two models' log-probabilities (B, K), ``share`` for the others."""
    return (1 - share) * outputs.float().log_softmax(1) + share * others.float().log_softmax(1)


def blend_values(outputs: Tensor, others: Tensor, share: float) -> Tensor:
    """Weighted mean of two models' values (B, K), ``share`` for the others."""
    return (1 - share) * outputs.float() + share * others.float()


def decode_logits(outputs: Tensor) -> dict[str, np.ndarray]:
    """Logits (B, K) -> ``probabilities`` (B, K) float64 that sum to 1, and ``predicted`` (B,): the largest."""
    probabilities = outputs.double().softmax(1).cpu().numpy()
    return {"probabilities": probabilities, "predicted": probabilities.argmax(1)}
