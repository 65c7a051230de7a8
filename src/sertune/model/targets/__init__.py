"""Targets: what is predicted. Each owns encoding, loss and decoding, so that they cannot disagree.

A target turns a manifest into encoded targets (N, columns), makes the head's last layer, gives the loss of its outputs,
and decodes finished outputs. `Plain` says what those do whose outputs are those of a linear layer, clip by clip; the
others have the single ratings of each clip as slots, side by side.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sertune.errors import SertuneError
from sertune.model.density import Kernel
from sertune.model.raters import RaterForm
from sertune.model.targets.category import MASKED, CategoryTarget, label_codes
from sertune.model.targets.dimension import DimensionTarget
from sertune.model.targets.distribution import Plane, PlaneTarget, SpreadTarget, VotesTarget
from sertune.model.targets.joined import JoinedTarget, Single
from sertune.model.targets.rater import RaterLabelTarget, RaterTarget, rater_names

Target = Single | JoinedTarget

__all__ = [
    "MASKED",
    "CategoryTarget",
    "DimensionTarget",
    "JoinedTarget",
    "Plane",
    "PlaneTarget",
    "RaterLabelTarget",
    "RaterTarget",
    "Single",
    "SpreadTarget",
    "Target",
    "VotesTarget",
    "dimensions_of",
    "label_codes",
    "labels_of",
    "lead_of",
    "parts_of",
    "possible",
    "rater_names",
    "singles",
    "target_from",
]


def possible(target: Target, outputs: Tensor, targets: np.ndarray) -> Tensor:
    """Outputs (N, K) without the classes that each clip's corpus lacks: -inf where ``targets`` are `MASKED`."""
    if not isinstance(target, CategoryTarget):
        return outputs
    lacking = torch.from_numpy(targets < 0).to(outputs.device)
    return outputs.masked_fill(lacking, float("-inf"))


def parts_of(target: Target, outputs: Tensor, targets: np.ndarray) -> list[tuple[Single, Tensor, np.ndarray]]:
    """Every single target with its finished outputs and its encoded targets."""
    if not isinstance(target, JoinedTarget):
        return [(target, outputs, targets)]
    return list(zip(target.parts, target.split(outputs), target.encoded(targets), strict=True))


def lead_of(target: Target) -> Single:
    """The single target that the headline is about."""
    return target.first if isinstance(target, JoinedTarget) else target


def singles(target: Target) -> tuple[Single, ...]:
    """The target itself, or those that are joined, the lead first."""
    if not isinstance(target, JoinedTarget):
        return (target,)
    return (target.first, *(part for part in target.parts if part is not target.first))


def labels_of(target: Single) -> tuple[str, ...]:
    """Labels of a target that is about labels; none of another."""
    return target.labels if isinstance(target, (CategoryTarget, VotesTarget, RaterLabelTarget)) else ()


def dimensions_of(target: Single) -> tuple[str, ...]:
    """Dimensions of a target that has them."""
    return target.dimensions if isinstance(target, (DimensionTarget, RaterTarget, SpreadTarget, PlaneTarget)) else ()


def target_from(description: Mapping[str, Any]) -> Target:
    """The target that `describe` described.

    Raises:
        SertuneError: a target that this version does not know.
    """
    if description["name"] == "joined":
        parts = tuple(_single(part) for part in description["parts"])
        weights = tuple(map(float, description["weights"]))
        return JoinedTarget(parts, weights, description["schedule"], description["lead"])
    return _single(description)


def _single(description: Mapping[str, Any]) -> Single:
    name = description["name"]
    scales = tuple((float(low), float(high)) for low, high in description.get("scales", ()))
    labels = tuple(description.get("labels", ()))
    plane = Plane.of(description["plane"]) if description.get("plane") else None
    if name == "category":
        return CategoryTarget(labels, float(description["smoothing"]))
    if name == "dimension":
        return DimensionTarget(tuple(description["dimensions"]), scales)
    if name == "votes":
        return VotesTarget(labels, description["measure"])
    if name == "plane" and plane is not None:
        return PlaneTarget(scales, plane, description["measure"])
    if name == "spread":
        return SpreadTarget(tuple(description["dimensions"]), scales, description["family"], plane)
    if name == "rater":
        return RaterTarget(
            tuple(description["dimensions"]),
            scales,
            tuple(description["raters"]),
            plane,
            bool(description["density"]),
            Kernel(**description["kernel"]),
            RaterForm.of(description["form"]),
        )
    if name == "rater-label":
        form = RaterForm.of(description["form"])
        return RaterLabelTarget(labels, tuple(description["raters"]), float(description["smoothing"]), form)
    raise SertuneError(f"unknown target {name!r}; was it saved by a newer sertune?")
