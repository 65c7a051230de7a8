"""Augmentation in feature space: on the states that enter the trainable part, so it works with the cache.

All functions draw from torch's global generator, which the loop seeds for every step.
"""

import torch
from torch import Tensor

from sertune.config import AugmentConfig
from sertune.data.batch import LayerStates


def augment_states(entering: LayerStates, options: AugmentConfig, frames_per_second: float) -> LayerStates:
    """Time masks, channel masks and noise on a padded batch; padding stays as it is.

    Args:
        entering: (B, T, D) states.
        options: what to apply.
        frames_per_second: of the states.
    """
    least, most = options.time_crop
    if least < 1:
        entering = time_crop(entering, least, most)
    states = entering.states
    inside = torch.arange(states.shape[1], device=states.device)[None, :] < entering.lengths[:, None]
    if options.noise:
        spread = states[inside].float().std().to(states.dtype)
        states = states + options.noise * spread * torch.randn_like(states) * inside[:, :, None]
    if options.time_mask:
        span = max(1, round(options.time_span * frames_per_second))
        hidden = time_mask(entering.lengths, states.shape[1], options.time_mask, span)
        count = entering.lengths.clamp_min(1)[:, None, None]
        mean = (states * inside[:, :, None]).sum(1, keepdim=True) / count
        states = torch.where(hidden[:, :, None], mean.to(states.dtype), states)
    if options.channel_mask:
        keep = torch.rand(len(states), 1, states.shape[2], device=states.device) >= options.channel_mask
        states = states * keep
    return LayerStates(states, entering.lengths)


def time_crop(entering: LayerStates, least: float, most: float) -> LayerStates:
    """A random window of each clip: a share of its frames, drawn for the whole batch from ``least`` to ``most``."""
    share = least + (most - least) * float(torch.rand(()))
    lengths = (entering.lengths * share).ceil().long()
    room = (entering.lengths - lengths + 1) * torch.rand(len(lengths), device=lengths.device)
    position = room.long()[:, None] + torch.arange(int(lengths.max()), device=lengths.device)[None, :]
    position = position.clamp_max(entering.states.shape[1] - 1)[:, :, None]
    states = entering.states.gather(1, position.expand(-1, -1, entering.states.shape[2]))
    inside = torch.arange(states.shape[1], device=lengths.device)[None, :] < lengths[:, None]
    return LayerStates(states * inside[:, :, None], lengths)


def time_mask(lengths: Tensor, frames: int, share: float, span: int) -> Tensor:
    """Random spans to hide, (B, T) bool: about ``share`` of each clip, never all of it, never its padding.

    Args:
        lengths: (B,) frames of each clip.
        frames: T.
        share: expected share of hidden frames (spans may overlap).
        span: frames per span; clips shorter than two spans are left whole.
    """
    position = torch.arange(frames, device=lengths.device)[None, :]
    start_chance = share / span
    starts = (torch.rand(len(lengths), frames, device=lengths.device) < start_chance).float()
    hidden = torch.nn.functional.max_pool1d(
        torch.nn.functional.pad(starts, (span - 1, 0))[:, None], kernel_size=span, stride=1
    )[:, 0].bool()
    hidden &= position < lengths[:, None]
    whole = hidden.sum(1, keepdim=True) >= lengths[:, None]
    return hidden & ~whole & (lengths[:, None] >= 2 * span)


def mixup_pairs(count: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Partners and weights of mixup (Zhang et al. 2018): a permutation (B,) and weights (B, 1) in [.5, 1]."""
    weight = torch.distributions.Beta(alpha, alpha).sample((count, 1))
    return torch.randperm(count), torch.maximum(weight, 1 - weight)
