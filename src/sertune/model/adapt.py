"""Label-free adaptation of a trained model to a new corpus, from the new corpus's own unlabelled clips.

Nothing is trained: the pooled vectors are brought to the place and spread that they had in training, and, where asked
for, the clips' neighbourhood among themselves is used. The result is another protocol than plain zero-shot and is
always reported beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from sertune.errors import SertuneError, unknown
from sertune.model.emotion_model import EmotionModel, Vectors
from sertune.model.targets import CategoryTarget

METHODS: Final = {
    "none": "none: each clip as if it were alone",
    "corpus": "pooled vectors standardised by the mean and spread of all clips of the new corpus",
    "speaker": "pooled vectors standardised by the mean and spread of the speaker's own clips",
    "centroids": "as corpus, then blended with the nearest of the classes' centroids among the new clips",
    "neighbours": "as corpus, then probabilities spread over each clip's nearest neighbours among the new clips",
}
"""What ``--adapt`` takes, and what each does in words."""

FOR_CATEGORIES: Final = ("centroids", "neighbours")
"""Those that dimensions can't have."""

SPEAKER_CLIPS: Final = 5
"""A speaker's statistics count as n / (n + 5) beside the corpus's: few clips say little of a speaker."""
TEMPERATURE: Final = 0.1
NEIGHBOURS: Final = 10
SPREAD: Final = 0.5
ROUNDS: Final = 10
_ROWS: Final = 1024


@dataclass
class Unlabelled:
    """The vectors of all clips of a new corpus.

    Attributes:
        vectors: of all windows of all clips, W in all.
        owner: (W,) which clip each window is of.
        speakers: (N,) names of the clips' speakers, None where unknown.
    """

    vectors: Vectors
    owner: Tensor
    speakers: Sequence[str | None]

    @classmethod
    def of(cls, clips: Sequence[Vectors], speakers: Sequence[str | None]) -> "Unlabelled":
        """From the vectors of each clip's windows."""
        owner = torch.repeat_interleave(torch.arange(len(clips)), torch.tensor([len(clip) for clip in clips]))
        return cls(Vectors.cat(clips), owner, list(speakers))

    def per_clip(self, windows: Tensor) -> Tensor:
        """(W, ...) -> (N, ...), the mean over each clip's windows."""
        count = len(self.speakers)
        sums = torch.zeros(count, *windows.shape[1:], dtype=windows.dtype).index_add(0, self.owner, windows)
        sizes = torch.bincount(self.owner, minlength=count)
        return sums / sizes.reshape(-1, *[1] * (windows.dim() - 1))


@torch.no_grad()
def adapted_outputs(model: EmotionModel, data: Unlabelled, method: str, allowed: Tensor | None = None) -> Tensor:
    """The model's outputs (N, K) for clips of a new corpus.

    Args:
        model: in eval mode.
        data: all its clips; with any method but ``none`` the result for a clip depends on the others.
        method: a key of `METHODS`.
        allowed: (K,) bool, categories that the corpus can have; the others get no probability.

    Raises:
        SertuneError: an unknown method; fewer than two clips; a method for categories with dimensions; no speaker
            known; a model that an earlier version saved without what adaptation needs.
    """
    check_method(model, method)
    if method == "none":
        return masked(data.per_clip(model.outputs(data.vectors).cpu()), allowed)
    if len(data.speakers) < 2:
        raise SertuneError(f"adapt {method}: needs at least two clips of the new corpus; with one there is no spread")
    if not bool(model.head.source_mean.isfinite().all()):
        raise SertuneError(
            f"adapt {method}: the model has no statistics of its training clips, as it was saved by an earlier sertune "
            "or is SpeechBrain's; train one with sertune"
        )
    groups = _groups(data) if method == "speaker" else torch.zeros(len(data.speakers), dtype=torch.long)
    standard = _standardised(data.vectors.head.flatten(1), groups[data.owner])
    outputs = data.per_clip(model.outputs(_as_trained(model, data, standard, groups[data.owner])).cpu())
    outputs = masked(outputs, allowed)
    if method == "centroids":
        return near_centroids(outputs, data.per_clip(standard))
    if method == "neighbours":
        return over_neighbours(outputs, data.per_clip(standard))
    return outputs


def check_method(model: EmotionModel, method: str) -> None:
    """Raises `SertuneError` for a method that is unknown or not for the model's target."""
    if method not in METHODS:
        raise unknown("adaptation", method, METHODS)
    if method in FOR_CATEGORIES and not isinstance(model.target, CategoryTarget):
        raise SertuneError(
            f"adapt {method}: is for categories, and the model predicts dimensions; corpus and speaker do"
        )


def masked(outputs: Tensor, allowed: Tensor | None) -> Tensor:
    """Log-probabilities (N, K) over the allowed categories alone, -inf elsewhere; None leaves them as they are."""
    if allowed is None:
        return outputs
    return outputs.masked_fill(~allowed, float("-inf")).log_softmax(1)


def _groups(data: Unlabelled) -> Tensor:
    """(N,) number of each clip's speaker; clips without a name are one more."""
    names = [speaker if isinstance(speaker, str) else None for speaker in data.speakers]
    if not any(names):
        raise SertuneError("adapt speaker: no clip has a speaker; use --adapt corpus")
    position = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([position[name] for name in names])


def _moments(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread (W, F) of each row's group; small groups lean on all rows together (`SPEAKER_CLIPS`).

    With n rows of mean m_g and variance v_g, and m, v of all: m' = (n m_g + k m) / (n + k), and v' the variance of n
    rows and k that have the moments of all, about m'. One group has its own moments.
    """
    mean, variance = values.mean(0), values.var(0, correction=0)
    means, variances = mean.expand_as(values).clone(), variance.expand_as(values).clone()
    labels = groups.unique()
    for group in labels.tolist() if len(labels) > 1 else []:
        rows = groups == group
        own, n, k = values[rows], int(rows.sum()), SPEAKER_CLIPS
        middle = (n * own.mean(0) + k * mean) / (n + k)
        within = own.var(0, correction=0) + (own.mean(0) - middle).square()
        means[rows] = middle
        variances[rows] = (n * within + k * (variance + (mean - middle).square())) / (n + k)
    return means, variances.sqrt().clamp_min(1e-6)


def _standardised(values: Tensor, groups: Tensor) -> Tensor:
    mean, spread = _moments(values, groups)
    return (values - mean) / spread


def _as_trained(model: EmotionModel, data: Unlabelled, standard: Tensor, groups: Tensor) -> Vectors:
    """Standardised vectors with the mean and spread that training had."""
    head = model.head
    moved = standard.reshape(data.vectors.head.shape) * head.source_spread.cpu() + head.source_mean.cpu()
    below = data.vectors.below
    if below is not None and head.readout is not None:
        below = _standardised(below, groups) * head.readout.spread.cpu() + head.readout.mean.cpu()
    return Vectors(moved, below)


def near_centroids(outputs: Tensor, standard: Tensor) -> Tensor:
    """Log-probabilities (N, K) plus those of the nearest class centroid among the new clips.

    Centroid k is the mean of the vectors weighted by p(k | clip), and a clip's second opinion the softmax of its cosine
    similarity to the centroids over `TEMPERATURE` (Liang et al. 2020, "Do we really need to access the source data?",
    eq. 4 and 5; the blend with the model's own opinion and the temperature are our choice).

    Args:
        outputs: (N, K) logits, -inf where a category is masked.
        standard: (N, F) standardised vectors.
    """
    own = outputs.log_softmax(1)
    weights = own.exp()
    centroids = weights.T @ standard / weights.sum(0)[:, None].clamp_min(1e-9)
    cosine = _unit(standard) @ _unit(centroids).T
    second = (cosine / TEMPERATURE).masked_fill(outputs.isneginf(), float("-inf"))
    return own + second.log_softmax(1)


def over_neighbours(outputs: Tensor, standard: Tensor) -> Tensor:
    """Log-probabilities (N, K) spread over the new clips: P <- (1 - a) P0 + a mean of the k nearest clips' P.

    Label propagation (Zhou et al. 2004, "Learning with local and global consistency") with a = `SPREAD`, k =
    `NEIGHBOURS` by cosine, `ROUNDS` rounds (our choices), from the model's own probabilities P0.

    Args:
        outputs, standard: as of `near_centroids`.
    """
    unit, count = _unit(standard), len(standard)
    nearest = torch.zeros(count, min(NEIGHBOURS, count - 1), dtype=torch.long)
    for first in range(0, count, _ROWS):
        rows = slice(first, first + _ROWS)
        similar = unit[rows] @ unit.T
        similar[torch.arange(len(similar)), torch.arange(first, first + len(similar))] = -2.0
        nearest[rows] = similar.topk(nearest.shape[1], dim=1).indices
    start = outputs.softmax(1)
    made = start
    for _ in range(ROUNDS):
        made = (1 - SPREAD) * start + SPREAD * made[nearest].mean(1)
    return made.log()


def _unit(values: Tensor) -> Tensor:
    lengths: Tensor = values.norm(dim=1, keepdim=True)
    return values / lengths.clamp_min(1e-9)
