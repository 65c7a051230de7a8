"""What the loop passes to the model: padded batches, drawn from length buckets within a budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BUCKET_BATCHES = 20
"""Clips are sorted by length within groups of about this many batches: little padding, still shuffled."""


@dataclass
class ClipStates:
    """What the encoder knows of one clip.

    Attributes:
        states: what enters the layer where replay starts, (frames, width); None where nothing is replayed.
        pooled: mean and standard deviation over time of every layer's states, (layers + 1, 2 * width), float32;
            layer l < L is what enters layer l, layer L is the model's output. Computed in eval mode with the
            weights as pre-trained.
    """

    states: Tensor | None
    pooled: Tensor

    @property
    def nbytes(self) -> int:
        """Memory taken, in bytes."""
        return self.pooled.nbytes + (self.states.nbytes if self.states is not None else 0)


@dataclass
class LayerStates:
    """Hidden states of one layer for a batch, padded or packed.

    Attributes:
        states: (B, T, D), zeros after each clip; or, packed, (1, N, D): the clips one after the other, no padding.
        lengths: (B,) frames of each clip.
        packed: which of the two.
    """

    states: Tensor
    lengths: Tensor
    packed: bool = False

    def inside(self) -> Tensor:
        """(B, T) bool: frames of the padded form that are not padding."""
        frames = int(self.lengths.max()) if self.packed else self.states.shape[1]
        return torch.arange(frames, device=self.lengths.device)[None, :] < self.lengths[:, None]

    def pack(self) -> "LayerStates":
        """The same without padding."""
        if self.packed:
            return self
        return LayerStates(self.states[self.inside()][None], self.lengths, packed=True)

    def pad(self) -> "LayerStates":
        """The same with padding."""
        if not self.packed:
            return self
        clips = self.states[0].split(self.lengths.tolist())
        return LayerStates(torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True), self.lengths)

    def sums(self) -> Tensor:
        """(B, D) float32 sums over the frames of each clip."""
        states = self.states.float()
        if not self.packed:
            return (states * self.inside()[:, :, None]).sum(1)
        count = len(self.lengths)
        owner = torch.repeat_interleave(torch.arange(count, device=states.device), self.lengths)
        return torch.zeros(count, states.shape[2], device=states.device).index_add(0, owner, states[0])


@dataclass
class Batch:
    """Clips side by side.

    Attributes:
        entering: states where replay starts, padded; None if only pooled vectors or audio are needed.
        pooled: (B, layers + 1, 2 * width) pooled states with pre-trained weights; None with `audio`.
        audio: samples of each clip, only where the front trains.
        targets: (B, K) float32; NaN where missing.
        files: of each clip, for messages.
    """

    entering: LayerStates | None
    pooled: Tensor | None
    audio: list[np.ndarray] | None
    targets: Tensor
    files: list[str]

    def __len__(self) -> int:
        return len(self.files)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        entering = self.entering
        if entering is not None:
            entering = LayerStates(entering.states.to(device), entering.lengths.to(device))
        pooled = self.pooled.to(device) if self.pooled is not None else None
        return Batch(entering, pooled, self.audio, self.targets.to(device), self.files)


def pad_states(clips: Sequence[Tensor]) -> LayerStates:
    """Clips (T_i, D) as one zero-padded batch (B, T, D) with lengths."""
    lengths = torch.tensor([len(clip) for clip in clips], device=clips[0].device)
    return LayerStates(torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True), lengths)


def collate(
    clips: Sequence[ClipStates], targets: Tensor, files: Sequence[str], audio: list[np.ndarray] | None = None
) -> Batch:
    """One batch of clips, or of audio where the front trains."""
    if audio is not None:
        return Batch(None, None, audio, targets, list(files))
    states = [clip.states for clip in clips if clip.states is not None]
    entering = pad_states(states) if states else None
    return Batch(entering, torch.stack([clip.pooled for clip in clips]), None, targets, list(files))


def make_batches(
    seconds: np.ndarray, *, max_clips: int, max_seconds: float, rng: np.random.Generator | None
) -> list[np.ndarray]:
    """Positions of the clips of each batch.

    Args:
        seconds: (N,) length of each clip.
        max_clips: most clips in a batch.
        max_seconds: most seconds in a batch, padding included; a longer clip is alone.
        rng: draws the order; None sorts all clips by length (for scoring).

    Returns:
        Arrays of positions; every clip is in exactly one.
    """
    count = len(seconds)
    order = rng.permutation(count) if rng is not None else np.arange(count)
    group = max_clips * BUCKET_BATCHES if rng is not None else max(count, 1)
    batches: list[np.ndarray] = []
    for first in range(0, count, group):
        part = order[first : first + group]
        part = part[np.argsort(seconds[part], kind="stable")]
        batches += _cut(part, seconds[part], max_clips, max_seconds)
    if rng is not None:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    return batches


def _cut(part: np.ndarray, seconds: np.ndarray, max_clips: int, max_seconds: float) -> list[np.ndarray]:
    """Cuts sorted clips into as few batches as the budget allows, of about equal cost."""
    stops, start = [], 0
    for position in range(1, len(part) + 1):
        full = position - start >= max_clips
        if position == len(part) or full or (position + 1 - start) * seconds[position] > max_seconds:
            stops.append(position)
            start = position
    batches = np.split(part, stops[:-1])
    if len(batches) > 1 and len(batches[-1]) < len(batches[-2]) // 2:
        # a last batch of a few clips would have a noisy loss: share with the one before it
        both = np.concatenate(batches[-2:])
        batches[-2:] = np.array_split(both, 2)
        if len(batches[-1]) * seconds[-1] > max_seconds:
            batches[-2:] = np.split(both, [stops[-2] - (stops[-3] if len(stops) > 2 else 0)])
    return [batch for batch in batches if len(batch)]
