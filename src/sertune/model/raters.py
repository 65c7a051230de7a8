"""The last layer for annotators: the average one, and what each of the others adds (arXiv 2408.11956)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

MOST_NOISE = 4.0
HIDDEN = 64
"""Width of the shared head behind annotators' embeddings."""


@dataclass(frozen=True)
class RaterForm:
    """How annotators differ.

    Attributes:
        kind: ``heads``, weights of their own, or ``embedding``, a vector each at the input of one shared head.
        branch: widths of the branch between the head's vector and the annotators; empty: none.
        rank: shared directions in which they differ, or the length of the vectors.
        min_ratings: below so many in the training part an annotator counts as the average one.
    """

    kind: str = "heads"
    branch: tuple[int, ...] = ()
    rank: int = 0
    min_ratings: int = 1

    @property
    def biases_alone(self) -> bool:
        """Whether annotators differ from the average one in bias and gain alone, which can be solved for."""
        return self.kind == "heads" and not self.branch and self.rank == 0

    def describe(self) -> dict[str, Any]:
        """As saved in model.json."""
        return {**asdict(self), "branch": list(self.branch)}

    @staticmethod
    def of(described: dict[str, Any]) -> "RaterForm":
        """What `describe` described."""
        return RaterForm(**{**described, "branch": tuple(described["branch"])})


class RaterLayer(nn.Module):
    """Values of the average annotator and of every other, from the head's vector.

    The values of group g (a dimension; or all labels as one group) for annotator a are

        y_ga(h) = C_g(h) + b_ga + W_ga f_g(h)

    with the average annotator C, a shared branch f and, for each annotator alone, theta_a = (b_a, W_a), which starts
    from 0 and is drawn there by a Gaussian prior: it weighs as much as `shrinkage` ratings of the average annotator.
    That is the published layer of [A, 1, D] weights (arXiv 2408.11956) around its mean. Only the annotators who are
    asked for are gathered, so that thousands of them cost no more than a few.

    Without a branch C is linear in h, and f(h) = (C_g(h), P_g h) with learnt directions P: bias, gain, and `rank`
    further ways to differ. With a branch of hidden layers, one per group, f is its output and C linear in it. With
    embeddings y_ga(h) = C_g(h) + V_g (relu(A h + B e_a) - relu(A h)) and theta_a = e_a.

    Args:
        width: of the head's vector.
        groups: G.
        each: values per group, E.
        raters: A.
        form: how annotators differ.
        cells: of the plane, where there is one.

    Attributes:
        counts: (A,) ratings of each in the training part.
        shrinkage: (), lambda: ratings that the prior weighs.
        noise: (G E,) standard deviation of single ratings around the annotators' values, in [-1, 1], on a usual clip.
        noise_slope, noise_offset: (G E, width), (G E,) how its logarithm depends on the head's vector h: slope h -
            offset, as some clips are heard in more ways than others.
        middle: (G E,) mean of the annotators' mean over clips.
        gain, stretch, bandwidth, noisy: (), for a plane: factor on how far a clip's mean is from `middle`, factor on
            how far its annotators are from their mean, standard deviation of a Gaussian kernel (0: the target's own
            kernel), and factor on the clip's noise, which widens that kernel.
        cell_weight, cell_bias: (cells, width), (cells,) a solved softmax over the cells, with which the annotators'
            plane is blended; share: (), of the annotators' in it.
    """

    counts: Tensor
    shrinkage: Tensor
    noise: Tensor
    noise_slope: Tensor
    noise_offset: Tensor
    middle: Tensor
    gain: Tensor
    stretch: Tensor
    bandwidth: Tensor
    noisy: Tensor
    cell_weight: Tensor
    cell_bias: Tensor
    share: Tensor

    def __init__(self, width: int, groups: int, each: int, raters: int, form: RaterForm, cells: int = 0) -> None:
        super().__init__()
        self.groups, self.each, self.form = groups, each, form
        self.linear = not form.branch
        inner = form.branch[-1] if form.branch else width
        self.branches = nn.ModuleList(_branch(width, form.branch) for _ in range(groups)) if form.branch else None
        self.average = nn.ModuleList(nn.Linear(inner, each) for _ in range(groups))
        embeds = form.kind == "embedding"
        if embeds:
            self.features_width = 0
            self.own = nn.Parameter(torch.zeros(raters, form.rank))
            nn.init.normal_(self.own, std=0.1)
            self.enter = nn.ModuleList(nn.Linear(inner, HIDDEN) for _ in range(groups))
            self.mix = nn.ModuleList(nn.Linear(form.rank, HIDDEN, bias=False) for _ in range(groups))
            self.leave = nn.ModuleList(_zero_linear(HIDDEN, each) for _ in range(groups))
        else:
            self.features_width = inner if form.branch else each + form.rank
            self.own = nn.Parameter(torch.zeros(raters, groups, each, 1 + self.features_width))
            learns = not form.branch and form.rank > 0
            self.directions = nn.ModuleList(nn.Linear(width, form.rank) for _ in range(groups)) if learns else None
        self.register_buffer("counts", torch.zeros(raters))
        self.register_buffer("shrinkage", torch.ones(()))
        self.register_buffer("noise", torch.zeros(groups * each))
        self.register_buffer("noise_slope", torch.zeros(groups * each, width))
        self.register_buffer("noise_offset", torch.zeros(groups * each))
        self.register_buffer("middle", torch.zeros(groups * each))
        self.register_buffer("gain", torch.ones(()))
        self.register_buffer("stretch", torch.ones(()))
        self.register_buffer("bandwidth", torch.zeros(()))
        self.register_buffer("noisy", torch.zeros(()))
        self.register_buffer("cell_weight", torch.zeros(cells, width))
        self.register_buffer("cell_bias", torch.zeros(cells))
        self.register_buffer("share", torch.ones(()))

    @property
    def known(self) -> Tensor:
        """(A,) bool: annotators with enough ratings in the training part."""
        return self.counts >= max(self.form.min_ratings, 1)

    @torch.no_grad()
    def start_from(self, weight: Tensor, bias: Tensor) -> None:
        """Sets the average annotator to a linear model: weight (K, F), bias (K,), of which the first G E rows count."""
        for group, layer in enumerate(self.average):
            assert isinstance(layer, nn.Linear)
            rows = slice(group * self.each, (group + 1) * self.each)
            layer.weight.copy_(weight[rows])
            layer.bias.copy_(bias[rows])

    @torch.no_grad()
    def start_biases(self, biases: Tensor, gains: Tensor | None = None) -> None:
        """Sets each annotator's bias (A, G E) and, where the layer has them, gains (A, G) on the average annotator.

        Embeddings have no such part, and a branch no gain: they learn from scratch.
        """
        if self.form.kind == "embedding":
            return
        self.own[..., 0] = biases.reshape(self.own.shape[:3]).to(self.own)
        if gains is not None and not self.form.branch and self.each == 1:
            self.own[:, :, 0, 1] = gains.to(self.own)

    def forward(self, hidden: Tensor, slots: Tensor | None = None) -> Tensor:
        """Columns: the average annotator (G E), the slots (R G E), and then penalty (R) or all known ones (A' G E).

        Args:
            hidden: (B, width).
            slots: (B, R) annotators' numbers; negative or unknown ones are the average.

        The penalty comes in training mode, everybody known otherwise.
        """
        average, features = self.parts(hidden)
        made = [average]
        count = 0 if slots is None else slots.shape[1]
        if slots is not None and count:
            own, present = self._gather(slots)
            made.append(self._values(average[:, None], features, own, present).flatten(1))
        if not self.training:
            return torch.cat([*made, self.everyone(average, features).flatten(1)], dim=1)
        if slots is not None and count:
            squares = own.flatten(2).square().sum(2) * present
            share = self.counts[slots.clamp_min(0)].clamp_min(1) if len(self.counts) else torch.ones_like(squares)
            made.append(self.shrinkage * squares / share)
        return torch.cat(made, dim=1)

    def parts(self, hidden: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The average annotator (B, G E), and what the others' own weights act on: (B, .) for each group."""
        hidden = hidden.float()
        inner = [branch(hidden) for branch in self.branches] if self.branches is not None else [hidden] * self.groups
        averages = [layer(part) for layer, part in zip(self.average, inner, strict=True)]
        average = torch.cat(averages, dim=1)
        if self.form.kind == "embedding" or self.form.branch:
            return average, inner
        if self.directions is None:
            return average, averages
        return average, [torch.cat([c, p(hidden)], dim=1) for c, p in zip(averages, self.directions, strict=True)]

    def everyone(self, average: Tensor, features: Sequence[Tensor], *, unknown: bool = False) -> Tensor:
        """(B, A', G E) values of all known annotators, or of all; arguments as `parts` gives them."""
        own = self.own if unknown else self.own[self.known]
        if unknown:
            own = own * self.known.to(own).reshape(-1, *[1] * (own.dim() - 1))
        return self.values(average, features, own)

    def values(self, average: Tensor, features: Sequence[Tensor], own: Tensor) -> Tensor:
        """(B, A', G E) values of annotators by their own parts (A', ...); `parts` gives the rest."""
        if self.form.kind == "embedding":
            added = [self._embedded(group, part, own[None]) for group, part in enumerate(features)]
        else:
            added = [
                own[:, group, :, 0] + torch.einsum("aew,bw->bae", own[:, group, :, 1:], part)
                for group, part in enumerate(features)
            ]
        return average[:, None] + torch.cat(added, dim=2)

    def noise_of(self, hidden: Tensor) -> Tensor:
        """(B, G E) noise of single ratings on clips (B, width); within a factor of `MOST_NOISE` of the usual."""
        factor = (hidden.float() @ self.noise_slope.T - self.noise_offset).exp()
        return self.noise * factor.clamp(1 / MOST_NOISE, MOST_NOISE)

    def blended(self, cells: Tensor, hidden: Tensor) -> Tensor:
        """The annotators' plane (B, gx, gy) blended with that of the solved softmax on the head's vector (B, width)."""
        if float(self.share) == 1:
            return cells
        solved = (hidden.double() @ self.cell_weight.T.double() + self.cell_bias.double()).softmax(1)
        return self.share * cells + (1 - self.share) * solved.reshape(cells.shape)

    def _gather(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Own parts (B, R, ...) of the annotators in the slots, and (B, R) whether each is known."""
        if not len(self.own):
            return self.own.new_zeros(*slots.shape, *self.own.shape[1:]), torch.zeros_like(slots, dtype=torch.bool)
        place = slots.clamp_min(0)
        present = (slots >= 0) & self.known[place]
        return nn.functional.embedding(place, self.own.flatten(1)).unflatten(2, self.own.shape[1:]), present

    def _values(self, average: Tensor, features: Sequence[Tensor], own: Tensor, present: Tensor) -> Tensor:
        """Average (B, 1, G E) and own parts (B, R, ...) -> (B, R, G E)."""
        if self.form.kind == "embedding":
            added = [self._embedded(group, part, own) for group, part in enumerate(features)]
        else:
            # one product per group: weights (B, R, E, 1 + W) with features (B, W)
            added = [
                own[:, :, group, :, 0] + torch.einsum("brew,bw->bre", own[:, :, group, :, 1:], part)
                for group, part in enumerate(features)
            ]
        return average + torch.cat(added, dim=2) * present[..., None]

    def _embedded(self, group: int, part: Tensor, own: Tensor) -> Tensor:
        """What embeddings (B, R, rank) add to the average annotator: (B, R, E)."""
        entered = self.enter[group](part)[:, None]
        moved = (entered + self.mix[group](own)).relu() - entered.relu()
        found: Tensor = self.leave[group](moved)
        return found


def _zero_linear(before: int, after: int) -> nn.Linear:
    """Without a bias, and without an effect at first."""
    layer = nn.Linear(before, after, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def _branch(width: int, widths: Sequence[int]) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for before, after in pairwise([width, *widths]):
        blocks += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*blocks)
