"""What a search optimises, and what a trial must keep to."""

import re
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sertune.config import RunConfig
from sertune.errors import SertuneError, unknown
from sertune.model.emotion_model import EmotionModel
from sertune.model.targets import CategoryTarget, Target, singles
from sertune.train.judge import judged_by
from sertune.train.loop import count_parameters
from sertune.train.search.store import Direction

MIB = 2**20
LATENCY_RUNS = 7

COSTS = {
    "seconds": "s",
    "energy": "Wh",
    "parameters": "trainable parameters",
    "latency": "ms",
    "size": "MiB",
}
"""What may be kept small, with its unit; see `describe`."""


@dataclass(frozen=True)
class Objective:
    """Something to make large or small.

    Attributes:
        name: ``score``, or one of `COSTS`.
        shown: as a person knows it, e.g. "UAR".
        direction: which way is better.
    """

    name: str
    shown: str
    direction: Direction


@dataclass(frozen=True)
class Constraint:
    """A cost that a trial must not pass, ``most`` in the cost's own unit."""

    name: str
    most: float

    @property
    def text(self) -> str:
        """As it was given."""
        return f"{self.name}<={self.most:g}"


def describe(name: str) -> str:
    """A cost in words."""
    return {
        "seconds": "seconds that the trial took, without the states that all share",
        "energy": "watt-hours that the trial took, without the states that all share",
        "parameters": "parameters that train, the head's included",
        "latency": "milliseconds from a clip of median length to its prediction, alone, on this machine",
        "size": "MiB of the weights that a prediction needs, as they are saved (float32)",
    }[name]


def read_objectives(names: Sequence[str], target: Target) -> list[Objective]:
    """The objectives of a command; the score is the first.

    Args:
        names: ``score`` (or its own name for the target: ``uar``, ``ccc``), and costs.
        target: that is scored.

    Raises:
        SertuneError: an unknown name, one twice, or no score.
    """
    judged = judged_by(target)
    aliases = {"score", *_aliases(target)}
    found: list[Objective] = []
    for name in names or ["score"]:
        if name in aliases:
            found.insert(0, Objective("score", judged, "maximize"))
        elif name in COSTS:
            found.append(Objective(name, name, "minimize"))
        else:
            raise unknown(f"objective for target {target.name}:", name, (*sorted(aliases), *COSTS))
    if len({objective.name for objective in found}) < len(found):
        raise SertuneError(f"--objectives {' '.join(names)}: each once")
    if found[0].name != "score":
        raise SertuneError(f"--objectives {' '.join(names)}: without the score the cheapest model wins; add score")
    return found


def _aliases(target: Target) -> list[str]:
    if isinstance(target, CategoryTarget):
        return ["uar", "bca"]
    return ["ccc"] if "CCC" in judged_by(target) and len(singles(target)) == 1 else []


def read_constraints(texts: Sequence[str]) -> list[Constraint]:
    """Constraints such as ``latency<20``.

    Raises:
        SertuneError: a name or a number that makes no sense.
    """
    found = []
    for text in texts:
        match = re.fullmatch(r"\s*(\w+)\s*<=?\s*([0-9.eE+-]+)\s*", text)
        if match is None:
            raise SertuneError(f"--constraints {text}: expected NAME<NUMBER, e.g. 'latency<20' (in quotes)")
        if match[1] not in COSTS:
            raise unknown(f"cost in --constraints {text}:", match[1], COSTS)
        try:
            most = float(match[2])
        except ValueError:
            raise SertuneError(f"--constraints {text}: {match[2]!r} is no number") from None
        found.append(Constraint(match[1], most))
    return found


@dataclass
class Costs:
    """What a model costs, by the names of `COSTS`; None where it was not measured."""

    seconds: float
    cpu_seconds: float
    energy: float | None
    parameters: int
    size: float
    latency: float | None = None

    def of(self, name: str) -> float:
        """A cost.

        Raises:
            SertuneError: it was not measured.
        """
        value = getattr(self, name)
        if value is None:
            raise SertuneError(f"{name}: was not measured")
        return float(value)


def trained_parameters(model: EmotionModel) -> int:
    """Parameters that train, the head's included."""
    return count_parameters(model.trained_parameters()) + count_parameters(list(model.head.parameters()))


def needed_mib(model: EmotionModel) -> float:
    """MiB of the weights that a prediction needs, in float32: the head, and the encoder as far up as the head reads."""
    encoder, highest = model.encoder, max(model.head.layers)
    above = {id(p) for layer in encoder.layers[highest:] for p in layer.parameters()}
    if highest < encoder.depth:
        above |= {id(p) for module in encoder.tail for p in module.parameters()}
    count = count_parameters([p for p in encoder.parameters() if id(p) not in above])
    head = sum(int(tensor.numel()) for tensor in model.head.state_dict().values())
    return 4 * (count + head) / MIB


def measure_latency(model: EmotionModel, audio: np.ndarray) -> float:
    """Median milliseconds from one clip's samples to its outputs, in float32 as `sertune predict` computes.

    Args:
        model: in float32, with the encoder as `load_model` gives it; weights do not matter.
        audio: (samples,) at the encoder's rate.
    """
    times = []
    with torch.no_grad():
        for _ in range(LATENCY_RUNS + 1):
            began = time.perf_counter()
            model.predict_audio([audio])
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[1:])


def values_of(objectives: Sequence[Objective], score: float, costs: Costs) -> list[float]:
    """The values of all objectives, in order."""
    return [score if objective.name == "score" else costs.of(objective.name) for objective in objectives]


def violations(constraints: Sequence[Constraint], costs: Costs) -> dict[str, float]:
    """By how much each constraint is passed; 0 or less where it is kept."""
    return {constraint.text: costs.of(constraint.name) - constraint.most for constraint in constraints}


def needs_latency(objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> bool:
    """Whether latency has to be measured."""
    return "latency" in _named(objectives, constraints)


def needs_energy(objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> bool:
    """Whether energy has to be measured."""
    return "energy" in _named(objectives, constraints)


def _named(objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> set[str]:
    return {objective.name for objective in objectives} | {constraint.name for constraint in constraints}


def same_structure(config: RunConfig) -> str:
    """What latency depends on: settings that are equal take equally long."""
    head: Mapping[str, object] = {
        key: getattr(config.head, key) for key in ("layers", "mix", "pooling", "convolutions", "hidden", "blend")
    }
    return repr((config.encoder, config.method, head, config.audio, config.target.name))
