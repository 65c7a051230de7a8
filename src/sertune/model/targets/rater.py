"""Individual annotators: what each of them says of a clip (arXiv 2408.11956)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sertune.model.density import Kernel, cell_density, gaussian_cells
from sertune.model.raters import RaterForm, RaterLayer
from sertune.model.targets.dimension import ccc_loss, from_unit
from sertune.model.targets.distribution import PLANE, Plane, encode_ratings, half_widths, vote_shares
from sertune.model.targets.plain import Plain
from sertune.model.targets.slots import rating_slots, split_slots

MOST_POINTS = 256
"""Annotators of whom a predicted plane is made at most: thousands would change it little, and take a second a batch."""


@dataclass
class RaterTarget(Plain):
    """Each annotator's values of the dimensions.

    Encoded targets are the true plane, where there is one, and then the single ratings (`rating_slots`). The last layer
    gives the average annotator, the annotators in the slots, their prior's penalty and, to be scored, all that are
    known; `finish` makes of these, column by column: mean (D), spread (D), cells, slots (R D), penalty (R).

    Attributes:
        dimensions: in the order of the outputs.
        scales: lowest and highest rating of each.
        raters: all annotators, by number.
        plane: its cells; None unless arousal and valence are both there.
        density: whether the loss has a second term, for the plane that the annotators make.
        kernel: how they make it.
        form: of the last layer.
    """

    dimensions: tuple[str, ...]
    scales: tuple[tuple[float, float], ...]
    raters: tuple[str, ...]
    plane: Plane | None = None
    density: bool = False
    kernel: Kernel = field(default_factory=Kernel)
    form: RaterForm = field(default_factory=RaterForm)
    name: str = "rater"

    @property
    def before(self) -> int:
        """Columns of encoded targets before the ratings."""
        return self.plane.cells if self.plane else 0

    @property
    def outputs(self) -> int:
        """Columns of the finished outputs without slots."""
        return 2 * len(self.dimensions) + self.before

    @property
    def linear(self) -> int:
        """The solved model gives the consensus and the log of its fixed spread."""
        return 2 * len(self.dimensions)

    @property
    def solvable(self) -> bool:
        """Whether a frozen encoder leaves nothing to train: where annotators differ in bias and gain alone."""
        return self.form.biases_alone and not self.density

    def last_layer(self, width: int) -> nn.Module:
        """The average annotator and the others on the head's vector (B, width)."""
        return RaterLayer(width, len(self.dimensions), 1, len(self.raters), self.form, self.before)

    def missing(self, count: int) -> Tensor:
        """Encoded targets of clips of which nothing is known."""
        return torch.full((count, self.before + 1 + len(self.dimensions)), torch.nan)

    def encode(self, utterances: pd.DataFrame, ratings: pd.DataFrame | None = None) -> np.ndarray:
        """(N, cells + R (1 + D)) float32: the true plane, and each rating in [-1, 1] with its rater's number."""
        return encode_ratings(self, utterances, ratings, self.raters)

    def slots(self, targets: Tensor) -> Tensor:
        """(B, R) raters of each clip."""
        return split_slots(targets, self.before, len(self.dimensions))[0]

    def terms(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        """The losses: 1 - CCC over all single ratings of the batch, and with `density` that of the plane.

        The first adds the prior of the annotators' own parts (`RaterLayer`): under squared errors it would be
        lambda |theta_a|^2 for each annotator, and 1 - CCC is close to the squared error over twice the variance.

        Args:
            outputs: (B, ... + R D + R), of the last layer or finished.
            targets: (B, cells + R (1 + D)).
        """
        width = len(self.dimensions)
        _, ratings = split_slots(targets, self.before, width)
        count = ratings.shape[1]
        given, penalty = outputs[:, -count * (width + 1) :].float().split([count * width, count], dim=1)
        values = given.reshape(len(given), count, width)
        there = ~ratings.isnan().all(2)
        known = ratings.reshape(-1, width)
        loss = ccc_loss(values.reshape(-1, width), known)
        variance = (known - known.nanmean(0)).square().nanmean(0).nanmean().nan_to_num(1.0)
        prior = (penalty * there).sum() / there.sum().clamp_min(1)
        found = [loss + prior / (2 * variance.clamp_min(0.01))]
        if self.density:
            found.append(self._plane_loss(values, ratings, targets[:, : self.before]))
        return found

    def _plane_loss(self, values: Tensor, ratings: Tensor, true: Tensor) -> Tensor:
        """Cross-entropy between the true plane and that of the annotators who rated the clip."""
        assert self.plane is not None
        places = [self.dimensions.index(name) for name in PLANE]
        present = ~ratings[:, :, places].isnan().any(2)
        rows = present.any(1) & ~true.isnan().any(1)
        if not bool(rows.any()):
            return values.sum() * 0
        cells = cell_density(values[rows][:, :, places], present[rows], self.plane.grid, self.kernel)
        return -(true[rows].double() * cells.flatten(1).clamp_min(1e-12).log()).sum(1).mean().float()

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """The sum of `terms`."""
        return torch.stack(self.terms(outputs, targets)).sum()

    def blend(self, outputs: Tensor, others: Tensor, share: float) -> Tensor:
        """Moves all annotators by what the consensus of the others, (B, D, ...), differs from their own mean."""
        width = len(self.dimensions)
        moved = share * (others[:, :width].float() - outputs[:, :width].float())
        count = outputs.shape[1] // width
        return outputs.float() + moved.repeat(1, count)

    def finish(self, outputs: Tensor, slots: Tensor | None, last: nn.Module, hidden: Tensor | None = None) -> Tensor:
        """Mean, spread, cells, slots and penalty, from the layer's average, slots and known annotators.

        The spread of the ratings is that of the annotators and their noise together.
        """
        assert isinstance(last, RaterLayer)
        width, count = len(self.dimensions), 0 if slots is None else slots.shape[1]
        average, given, everyone = outputs.float().split(
            [width, count * width, outputs.shape[1] - (count + 1) * width], dim=1
        )
        known = everyone.reshape(len(everyone), -1, width) if everyone.shape[1] else average[:, None]
        mean = known.mean(1)
        noise = last.noise.expand_as(mean) if hidden is None else last.noise_of(hidden)
        spread = (known.var(1, correction=0) + noise.square()).sqrt()
        parts = [mean, spread]
        if self.plane is not None:
            places = [self.dimensions.index(name) for name in PLANE]
            cells = self.cells(known[:, :, places], noise[:, places], last)
            parts.append((cells if hidden is None else last.blended(cells, hidden)).flatten(1).float())
        penalty = torch.zeros(len(outputs), count, device=outputs.device)
        return torch.cat([*parts, given, penalty], dim=1)

    def cells(self, known: Tensor, noise: Tensor, last: RaterLayer) -> Tensor:
        """(B, gx, gy) plane of annotators (B, A, 2) with noise (B, 2), placed as dev chose (`RaterLayer.gain` ...).

        Of more than `MOST_POINTS` annotators it is made of as many, around the mean of all.
        """
        assert self.plane is not None
        middle = last.middle[[self.dimensions.index(name) for name in PLANE]]
        mean = known.mean(1, keepdim=True)
        if known.shape[1] > MOST_POINTS:
            known = known[:, np.linspace(0, known.shape[1] - 1, MOST_POINTS).round().astype(int)]
        points = middle + last.gain * (mean - middle) + last.stretch * (known - known.mean(1, keepdim=True))
        present = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
        width = float(last.bandwidth)
        if not width:
            return cell_density(points, present, self.plane.grid, self.kernel)
        return cell_density(points, present, self.plane.grid, Kernel("gaussian", width), blur=last.noisy * noise)

    def lift(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Consensus and fixed log spread (B, 2 D) as finished outputs: a Gaussian plane, and all annotators alike."""
        width = len(self.dimensions)
        mean, spread = outputs[:, :width].float(), outputs[:, width:].float().exp()
        parts = [mean, spread]
        if self.plane is not None:
            places = [self.dimensions.index(name) for name in PLANE]
            cells = gaussian_cells(mean[:, places].double(), spread[:, places].double(), self.plane.grid)
            parts.append(cells.flatten(1).float())
        count = (targets.shape[1] - self.before) // (1 + width)
        return torch.cat([*parts, mean.repeat(1, count), torch.zeros(len(mean), count)], dim=1)

    def decode(self, outputs: Tensor) -> dict[str, np.ndarray]:
        """Finished outputs -> ``values``, ``spread`` (B, D) on the own scales, ``cells``, ``ratings`` (B, R, D)."""
        width = len(self.dimensions)
        made = outputs.double().cpu().numpy()
        found = {
            "values": from_unit(made[:, :width], self.scales),
            "spread": made[:, width : 2 * width] * half_widths(self.scales),
        }
        if self.plane is not None:
            cells = np.clip(made[:, 2 * width : self.outputs], 0, None)
            found["cells"] = cells / cells.sum(axis=1, keepdims=True)
        count = (made.shape[1] - self.outputs) // (width + 1)
        slots = made[:, self.outputs : self.outputs + count * width]
        found["ratings"] = from_unit(slots.reshape(len(made), count, width), self.scales)
        return found

    def describe(self) -> dict[str, Any]:
        """As saved in model.json."""
        return {
            "name": self.name,
            "dimensions": list(self.dimensions),
            "scales": [list(s) for s in self.scales],
            "raters": list(self.raters),
            "plane": self.plane.describe() if self.plane else None,
            "density": self.density,
            "kernel": dict(self.kernel.__dict__),
            "form": self.form.describe(),
        }


@dataclass
class RaterLabelTarget(Plain):
    """Each annotator's distribution over the labels.

    Encoded targets are the shares of the votes (K) and then the slots of (rater, label). Finished outputs are the log
    of the annotators' mean distribution (K), then logits in the slots (R K) and their penalty (R).

    Attributes:
        labels: in the order of the outputs.
        raters: all annotators, by number.
        smoothing: share of each vote's probability spread over all labels.
        form: of the last layer.
    """

    categorical = True
    labels: tuple[str, ...]
    raters: tuple[str, ...]
    smoothing: float = 0.0
    form: RaterForm = field(default_factory=RaterForm)
    name: str = "rater-label"

    @property
    def outputs(self) -> int:
        """Columns of the finished outputs without slots."""
        return len(self.labels)

    @property
    def solvable(self) -> bool:
        """Whether a frozen encoder leaves nothing to train: no, the annotators are."""
        return False

    def last_layer(self, width: int) -> nn.Module:
        """The average annotator and the others on the head's vector (B, width)."""
        return RaterLayer(width, 1, len(self.labels), len(self.raters), self.form)

    def missing(self, count: int) -> Tensor:
        """Encoded targets of clips of which nothing is known."""
        return torch.full((count, len(self.labels) + 2), torch.nan)

    def encode(self, utterances: pd.DataFrame, ratings: pd.DataFrame | None = None) -> np.ndarray:
        """(N, K + 2 R) float32: the shares of the votes, then (rater, label) of each."""
        slots = rating_slots(utterances, ratings, ("emotion",), self.raters, self.labels)
        shares = vote_shares(slots, len(self.labels))
        return np.concatenate([shares, slots.reshape(len(slots), -1)], axis=1)

    def slots(self, targets: Tensor) -> Tensor:
        """(B, R) raters of each clip."""
        return split_slots(targets, len(self.labels), 1)[0]

    def loss(self, outputs: Tensor, targets: Tensor, step: int | None = None) -> Tensor:
        """Cross-entropy over all single votes of the batch, plus the prior lambda |theta_a|^2 / 2 of each annotator."""
        width = len(self.labels)
        _, votes = split_slots(targets, width, 1)
        count = votes.shape[1]
        given, penalty = outputs[:, -count * (width + 1) :].float().split([count * width, count], dim=1)
        there = ~votes[:, :, 0].isnan()
        if not bool(there.any()):
            return outputs.sum() * 0
        logits = given.reshape(len(given), count, width)[there]
        entropy = nn.functional.cross_entropy(logits, votes[:, :, 0][there].long(), label_smoothing=self.smoothing)
        loss: Tensor = entropy + penalty[there].mean() / 2
        return loss

    def blend(self, outputs: Tensor, others: Tensor, share: float) -> Tensor:
        """Moves the log-probabilities of all annotators by what the others differ from the average annotator."""
        width = len(self.labels)
        moved = share * (others.float().log_softmax(1) - outputs[:, :width].float().log_softmax(1))
        return outputs.float() + moved.repeat(1, outputs.shape[1] // width)

    def finish(self, outputs: Tensor, slots: Tensor | None, last: nn.Module, hidden: Tensor | None = None) -> Tensor:
        """The log of the mean distribution of all known annotators, then slots and penalty."""
        width, count = len(self.labels), 0 if slots is None else slots.shape[1]
        average, given, everyone = outputs.float().split(
            [width, count * width, outputs.shape[1] - (count + 1) * width], dim=1
        )
        known = everyone.reshape(len(everyone), -1, width) if everyone.shape[1] else average[:, None]
        mean = known.softmax(2).mean(1).clamp_min(1e-12).log()
        return torch.cat([mean, given, torch.zeros(len(outputs), count, device=outputs.device)], dim=1)

    def lift(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Consensus logits (B, K) as finished outputs: all annotators alike."""
        count = (targets.shape[1] - len(self.labels)) // 2
        log_p = outputs.float().log_softmax(1)
        return torch.cat([log_p, log_p.repeat(1, count), torch.zeros(len(log_p), count)], dim=1)

    def decode(self, outputs: Tensor) -> dict[str, np.ndarray]:
        """Finished outputs -> ``probabilities`` (B, K), ``predicted`` (B,), and ``votes`` (B, R): in the slots."""
        width = len(self.labels)
        probabilities = outputs[:, :width].double().softmax(1).cpu().numpy()
        count = (outputs.shape[1] - width) // (width + 1)
        slots = outputs[:, width : width + count * width].reshape(len(outputs), count, width)
        return {
            "probabilities": probabilities,
            "predicted": probabilities.argmax(1),
            "votes": slots.argmax(2).cpu().numpy(),
        }

    def describe(self) -> dict[str, Any]:
        """As saved in model.json."""
        return {
            "name": self.name,
            "labels": list(self.labels),
            "raters": list(self.raters),
            "smoothing": self.smoothing,
            "form": self.form.describe(),
        }


def rater_names(ratings: pd.DataFrame | None, attributes: Sequence[str]) -> tuple[str, ...]:
    """Everybody who rated one of some attributes, sorted."""
    if ratings is None:
        return ()
    return tuple(sorted({str(name) for name in ratings["rater"][ratings["attribute"].isin(attributes)].unique()}))
