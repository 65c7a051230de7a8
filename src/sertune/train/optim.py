"""Optimiser and learning rates."""

import math
from typing import Any

import torch
from torch import nn

from sertune.config import MethodConfig, TrainConfig
from sertune.model.emotion_model import EmotionModel

RATES = {"frozen": 0.0, "full": 1e-4, "partial": 3e-4, "lora": 3e-3, "adapter": 3e-3, "prompt": 3e-3, "bias": 1e-3}
"""Peak rates of the methods."""


def make_optimizer(model: EmotionModel, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with separate rates for encoder and head; vectors (biases, norms) do not decay."""
    encoder = model.trained_parameters()
    groups: list[dict[str, Any]] = []
    for parameters, rate in ((encoder, peak_rate(model, config)), (list(model.head.parameters()), config.head_lr)):
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
        for group, decay in ((matrices, config.weight_decay), (vectors, 0.0)):
            if group:
                groups.append({"params": group, "lr": rate, "peak": rate, "weight_decay": decay})
    return torch.optim.AdamW(groups, fused=True)


def peak_rate(model: EmotionModel, config: TrainConfig) -> float:
    """The encoder's peak rate; `auto`: the lowest of those that suit the methods that are joined (chosen by dev)."""
    return auto_rate(model.spec.method) if config.lr == "auto" else config.lr


def auto_rate(method: MethodConfig) -> float:
    """What `train.lr: auto` stands for."""
    return min((RATES[part] for part in method.parts), default=0.0)


def rate_factor(step: int, total: int, config: TrainConfig, halvings: int) -> float:
    """Share of the peak rate at a step.

    Linear warm-up over ``config.warmup`` of all steps, then cosine to zero, or constant halved ``halvings`` times.

    Args:
        step: from 0.
        total: steps of the whole training.
        config: warm-up and schedule.
        halvings: how often `plateau` has halved the rates.
    """
    warmup = config.warmup * total
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(total - warmup, 1), 1.0)))
    return 0.5**halvings if config.schedule == "plateau" else 1.0


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's rate to ``factor`` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak"]


def clip_gradients(parameters: list[nn.Parameter], largest: float) -> float:
    """Scales gradients to at most this norm (0: as they are); returns the norm before."""
    return float(nn.utils.clip_grad_norm_(parameters, largest if largest > 0 else math.inf))
