"""The space of a search: which settings are tried, from where to where, and when a setting counts.

Written as YAML, one entry per key of `RunConfig`::

    train.lr: {log: [1e-6, 1e-3]}                               # a number, evenly by its logarithm
    head.dropout: {float: [0, 0.5], step: 0.1}                  # a number
    train.epochs: {int: [1, 10]}                                # a whole number
    method.name: [partial, lora]                                # one of these
    lora.rank: {int: [2, 64], log: true}                        # short for method.lora.rank; counts with lora alone
    head.layers: {span: [0, depth]}                             # neighbouring layers; depth is the encoder's
    train.unfreeze_epoch: {int: [0, 5], below: train.epochs}    # never as large as another setting
    head.hidden: {choice: [[], [256]], when: {method.name: partial}}
    train.head_lr: 1e-3                                         # not searched: fixed
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np

from sertune.config import (
    AUTO_LAYERS,
    RunConfig,
    all_keys,
    check_type,
    takes_list,
    takes_text,
    validate,
    value_at,
    with_values,
)
from sertune.errors import SertuneError
from sertune.train.optim import auto_rate

GRID_POINTS = 3
"""Values of a number in a grid, unless the space says."""
TRIES = 50
"""Random settings of the others with which a value is tried before it is called impossible."""
FORMS = ("log", "float", "int", "choice", "span")
OPTIONS = ("step", "points", "when", "below", "log")

FIXED_BY_THE_SEARCH = (
    "data", "columns", "label_map", "absent", "split", "seed", "out", "baseline", "skip_bad", "cache.folder",
    "cache.states", "cache.disk_gib", "cache.limit_gib", "target.name", "target.labels", "target.dimensions",
    "target.rater.of", "target.rater.min_raters", "target.distribution.of", "target.plane.grid", "target.plane.truth",
)  # fmt: skip
"""Keys that say what is scored, or where things lie: scores under different values could not be compared."""

Values = dict[str, Any]
"""Values by the names of dimensions."""


@dataclass(frozen=True)
class Dimension:
    """A setting, or one end of it, with the values that it may take.

    Attributes:
        name: in the study: the key, with what tells several cases of it apart.
        key: of `RunConfig`.
        kind: a number, a whole number, or one of some values.
        low, high: smallest and largest number.
        log: whether the logarithm is searched.
        step: numbers are ``low`` plus a multiple of this; 0: any.
        choices: the values.
        when: keys and the values of which they must have one for this to count.
        below: a whole number that this one stays below; its key.
        role: an end of a span of layers, ``from`` or ``to``; empty: the whole value.
        points: numbers in a grid.
    """

    name: str
    key: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float = 0.0
    choices: tuple[Any, ...] = ()
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    below: str = ""
    role: Literal["", "from", "to"] = ""
    points: int = GRID_POINTS

    def at(self, share: float, low: float, high: float) -> Any:
        """The value at a share, 0 to 1, of the way from ``low`` to ``high``, or through the choices."""
        share = min(max(share, 0.0), 1.0)
        if self.kind == "choice":
            return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]
        if self.kind == "int":
            first, last = (math.log(low), math.log(high + 1)) if self.log else (low, high + 1)
            value = first + share * (last - first)
            return int(min(math.exp(value) if self.log else value, high))
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
            return float(min(max(value, low), high))  # the logarithm there and back is a little off
        value = low + share * (high - low)
        return float(min(low + round((value - low) / self.step) * self.step, high)) if self.step else float(value)

    def share(self, value: float) -> float:
        """Where a number lies on the way from ``low`` to ``high``, 0 to 1; the middle of what `at` takes for it."""
        high = self.high + 1 if self.kind == "int" else self.high
        middle = value + 0.5 if self.kind == "int" else value
        low, high, middle = (math.log(v) for v in (self.low, high, middle)) if self.log else (self.low, high, middle)
        return (middle - low) / (high - low) if high > low else 0.0

    def ends(self) -> list[Any]:
        """The values to look at before a search begins."""
        if self.kind == "choice":
            return list(self.choices)
        return [int(self.low), int(self.high)] if self.kind == "int" else [float(self.low), float(self.high)]

    def grid(self, low: float, high: float) -> list[Any]:
        """Values for a grid between two numbers."""
        if self.kind == "choice":
            return list(self.choices)
        if high <= low or self.points == 1:
            return [self.at(0.0, low, high)]
        shares = np.linspace(0, 1, self.points)
        if self.kind == "float":
            return list(dict.fromkeys(self.at(share, low, high) for share in shares))
        scale = (lambda v: math.log(v)) if self.log else float
        first, last = scale(low), scale(high)
        found = (first + share * (last - first) for share in shares)
        return list(dict.fromkeys(round(math.exp(value) if self.log else value) for value in found))

    def encode(self, value: Any) -> Any:
        """A value as a study can keep it: lists as text."""
        return json.dumps(value) if isinstance(value, list) else value

    def decode(self, value: Any) -> Any:
        """A value of a study."""
        if self.kind == "choice":
            return next((choice for choice in self.choices if self.encode(choice) == value), value)
        return value

    def describe(self) -> dict[str, Any]:
        """For a study's records and the report; without what is at its default."""
        row: dict[str, Any] = {"key": self.key}
        if self.kind == "choice":
            row["choice"] = list(self.choices)
        else:
            row[self.kind] = [self.low, self.high]
        for name, value in (("log", self.log), ("step", self.step), ("below", self.below), ("role", self.role)):
            if value:
                row[name] = value
        if self.when:
            row["when"] = {key: list(values) for key, values in self.when}
        return row


@dataclass(frozen=True)
class Space:
    """What is searched, and what is set beside it.

    Attributes:
        dimensions: in an order in which everything that one depends on comes before it.
        fixed: keys with values that differ from the base settings and are not searched.
        notes: what was left out of the search and why, for the report.
    """

    dimensions: tuple[Dimension, ...]
    fixed: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """Keys that are searched."""
        return list(dict.fromkeys(dimension.key for dimension in self.dimensions))

    def walk(self, base: RunConfig, choose: Callable[[Dimension, float, float], Any]) -> Values:
        """Chooses a value for every dimension that counts.

        Args:
            base: settings of everything else.
            choose: gives a dimension's value, between two bounds that may lie inside the dimension's own.
        """
        base = with_values(base, self.fixed)
        values: Values = {}
        settings: dict[str, Any] = {}
        for dimension in self.dimensions:
            if counts(dimension, settings, base):
                low, high = self.bounds(dimension, values, base)
                values[dimension.name] = choose(dimension, low, high)
                settings |= self._settings(dimension, values)
        return values

    def bounds(self, dimension: Dimension, values: Values, base: RunConfig) -> tuple[float, float]:
        """Between which numbers a dimension may lie, given the values of those before it."""
        low, high = dimension.low, dimension.high
        if dimension.below:
            other = next(
                (values[d.name] for d in self.dimensions if d.key == dimension.below and d.name in values), None
            )
            high = min(high, (value_at(base, dimension.below) if other is None else other) - 1)
        if dimension.role == "to":
            low = max(low, values.get(dimension.name.replace("(to", "(from", 1), low))
        return low, max(low, high)

    def _settings(self, dimension: Dimension, values: Values) -> dict[str, Any]:
        """What a dimension sets; nothing while a span has one end only."""
        value = values[dimension.name]
        if dimension.role == "from":
            return {}
        if dimension.role == "to":
            return {dimension.key: list(range(values[dimension.name.replace("(to", "(from", 1)], value + 1))}
        return {dimension.key: [value] if takes_list(dimension.key) and not isinstance(value, list) else value}

    def settings(self, values: Values) -> dict[str, Any]:
        """Keys and values for `with_values`, fixed ones included.

        Args:
            values: of the dimensions that count, as `walk` gives them.
        """
        found = dict(self.fixed)
        for dimension in self.dimensions:
            if dimension.name in values:
                found |= self._settings(dimension, values)
        return found

    def config(self, base: RunConfig, values: Values) -> RunConfig:
        """The settings of a trial.

        Raises:
            SertuneError: these values can't be had together.
        """
        config = with_values(base, self.settings(values))
        validate(config)
        return config

    def at(self, base: RunConfig, shares: Sequence[float]) -> Values:
        """The point of the space at shares from 0 to 1, one for each dimension in order."""
        given = dict(zip((dimension.name for dimension in self.dimensions), shares, strict=True))
        return self.walk(base, lambda dimension, low, high: dimension.at(given[dimension.name], low, high))

    def nearest(self, base: RunConfig) -> Values:
        """The point nearest to the base settings; the first or the middle of what they don't say."""
        start = with_values(base, self.fixed)
        methods = [d for d in self.dimensions if d.key == "method.name"]
        if methods and start.method.name not in methods[0].choices:
            start = with_values(start, {"method.name": methods[0].choices[0]})

        def choose(dimension: Dimension, low: float, high: float) -> Any:
            own = _meant(start, dimension)
            if dimension.kind == "choice":
                return own if own in dimension.choices else dimension.choices[0]
            if dimension.role and isinstance(own, list) and own:
                own = own[0] if dimension.role == "from" else own[-1]
            elif isinstance(own, list) and len(own) == 1:
                own = own[0]
            if isinstance(own, bool) or not isinstance(own, (int, float)):
                return dimension.at(0.5, low, high)
            clipped = min(max(own, low), high)
            return int(clipped) if dimension.kind == "int" else float(clipped)

        return self.walk(base, choose)

    def grid(self, base: RunConfig) -> list[Values]:
        """Every combination of the dimensions' grids, each once."""
        found: dict[str, Values] = {}
        for values in self._combinations(base):
            found.setdefault(json.dumps(values, sort_keys=True), values)
        return list(found.values())

    def _combinations(self, base: RunConfig, before: tuple[Any, ...] = ()) -> Iterator[Values]:
        """All walks that begin with some values."""
        taken: list[Any] = []
        options: list[Any] = []

        def choose(dimension: Dimension, low: float, high: float) -> Any:
            place = len(taken)
            if place < len(before):
                taken.append(before[place])
            else:
                if place == len(before):
                    options.extend(dimension.grid(low, high))
                taken.append(dimension.grid(low, high)[0])
            return taken[-1]

        values = self.walk(base, choose)
        if len(taken) == len(before):
            yield values
        for option in options:
            yield from self._combinations(base, (*before, option))

    def describe(self) -> dict[str, Any]:
        """For a study's records and the report."""
        rows: dict[str, Any] = {dimension.name: dimension.describe() for dimension in self.dimensions}
        return {"searched": rows, "fixed": self.fixed}


def counts(dimension: Dimension, settings: Mapping[str, Any], base: RunConfig) -> bool:
    """Whether a dimension has an effect under the settings chosen before it."""

    def now(key: str) -> Any:
        return settings[key] if key in settings else value_at(base, key)

    return all(now(key) in values for key, values in dimension.when) and _used(dimension.key, now)


def _used(key: str, now: Callable[[str], Any]) -> bool:
    """Whether a key is read at all under a method."""
    parts = str(now("method.name")).split("+")
    section = key.split(".")
    if section[0] == "method" and len(section) == 3:
        return section[1] in parts
    if key == "method.layers":
        return not {"frozen", "full"} & set(parts)
    if key == "method.front":
        return "full" in parts
    if parts != ["frozen"]:
        return True
    if key in ("train.lr", "train.unfreeze_epoch", "head.blend", "head.start_regularisation"):
        return False
    solved = now("head.start") == "probe" and not now("head.hidden") and not now("head.convolutions")
    return not (solved and _of_training(key))


def _of_training(key: str) -> bool:
    """Whether a key says how something trains, and so nothing where all is solved."""
    if key.startswith("augment."):
        return not key.startswith("augment.wave_")
    return (key.startswith("train.") and key != "train.refit") or key in ("head.dropout", "target.label_smoothing")


def _meant(start: RunConfig, dimension: Dimension) -> Any:
    """The value of a key, or what it stands for where it is left to sertune."""
    own = value_at(start, dimension.key)
    if dimension.key == "train.lr" and own == "auto":
        return auto_rate(start.method)
    if dimension.key == "method.layers" and own == "auto":
        return AUTO_LAYERS
    if dimension.role and own == [] and start.method.name == "frozen":
        return [1, int(dimension.high) - 1]  # a frozen encoder's inner layers
    return own


def read_space(entries: Mapping[str, Any], depth: int) -> Space:
    """The space that entries describe; see the top of this module.

    Args:
        entries: key -> range, choices, or a fixed value.
        depth: layers of the encoder, which ``depth`` in a range stands for.

    Raises:
        SertuneError: a key or a range that makes no sense, named.
    """
    dimensions: list[Dimension] = []
    fixed: dict[str, Any] = {}
    for name, entry in entries.items():
        key = _find_key(str(name))
        if key in fixed or any(dimension.key == key for dimension in dimensions):
            raise SertuneError(f"search space: {key} is there twice")
        if isinstance(entry, list) and any(isinstance(case, dict) for case in entry):
            for case in entry:
                dimensions += _read_case(key, case, depth, several=True)
        elif isinstance(entry, (dict, list)):
            dimensions += _read_case(key, entry, depth, several=False)
        else:
            fixed[key] = [_value(key, entry)] if takes_list(key) else _value(key, entry)
            check_type(key, fixed[key])
    return Space(tuple(_in_order(dimensions)), fixed)


def _find_key(name: str) -> str:
    """A key by its name, or by its end where no other key has that."""
    keys = all_keys()
    found = [name] if name in keys else [key for key in keys if key.endswith(f".{name}")]
    if name in ("method", "target", "split"):
        found = [f"{name}.name"]
    if not found:
        near = get_close_matches(name, keys, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SertuneError(f"search space: unknown key {name!r}{hint} (all keys: sertune train --print-config)")
    if len(found) > 1:
        raise SertuneError(f"search space: {name!r} could be {' or '.join(found)}; write the whole key")
    if any(found[0] == key or found[0].startswith(f"{key}.") for key in FIXED_BY_THE_SEARCH):
        raise SertuneError(
            f"search space: {found[0]} can't be searched: scores under different values could not be compared; give it "
            f"as a flag, --{found[0]}"
        )
    return found[0]


def _read_case(key: str, entry: Any, depth: int, *, several: bool) -> list[Dimension]:
    """The dimensions of one entry: one, or two for a span."""
    if isinstance(entry, list):
        entry = {"choice": entry}
    if not isinstance(entry, dict):
        raise SertuneError(f"search space: {key}: expected ranges with {{...}} for each case, found {entry!r}")
    when = _read_when(key, entry.get("when", {}))
    if several and not when:
        raise SertuneError(f"search space: {key}: each of several cases needs when: {{key: values}}")
    case = " ".join(str(value) for _, values in when for value in values) if several else ""
    forms = [form for form in FORMS if isinstance(entry.get(form), list)]
    strange = sorted(str(name) for name in set(entry) - set(FORMS) - set(OPTIONS))
    if strange or len(forms) != 1:
        wrong = f"unknown {strange[0]!r}" if strange else "no range" if not forms else f"{forms[0]} and {forms[1]}"
        raise SertuneError(
            f"search space: {key}: {wrong}; expected one of {{log: [low, high]}}, {{float: [low, high]}}, "
            "{int: [low, high]}, {choice: [...]}, {span: [low, high]}, or a list of values"
        )
    form = forms[0]
    options: dict[str, Any] = {"when": when, "points": _points(key, entry.get("points", GRID_POINTS))}
    if form == "choice":
        return [_read_choice(_named(key, case), key, entry["choice"], options)]
    low, high = _read_ends(key, form, entry[form], depth)
    if form == "span":
        return _read_span(key, case, low, high, options)
    kind: Literal["float", "int"] = "int" if form == "int" else "float"
    log = form == "log" or bool(entry.get("log", False))
    step = entry.get("step", 0.0)
    if not isinstance(step, (int, float)) or step < 0 or (step and log):
        raise SertuneError(f"search space: {key}: step = {step}: expected a number above 0, and not with log")
    if log and low <= 0:
        raise SertuneError(f"search space: {key}: [{low:g}, {high:g}]: a range by logarithm begins above 0")
    below = _find_key(str(entry["below"])) if "below" in entry else ""
    return [
        Dimension(_named(key, case), key, kind, low, high, log, float(step), below=below, **options),
    ]


def _named(key: str, case: str, role: str = "") -> str:
    inside = " ".join(part for part in (role, case) if part)
    return f"{key} ({inside})" if inside else key


def _read_choice(name: str, key: str, values: list[Any], options: dict[str, Any]) -> Dimension:
    if not values:
        raise SertuneError(f"search space: {key}: no values to choose from")
    plain = [_value(key, value) for value in values]
    wrapped = [value if isinstance(value, list) or not takes_list(key) else [value] for value in plain]
    for value in wrapped:
        try:
            check_type(key, value)
        except SertuneError as error:
            raise SertuneError(f"search space: {error}") from None
    if any(value in wrapped[:place] for place, value in enumerate(wrapped)):
        raise SertuneError(f"search space: {key}: a value is there twice: {values}")
    return Dimension(name, key, "choice", choices=tuple(wrapped), **options)


def _read_span(key: str, case: str, low: float, high: float, options: dict[str, Any]) -> list[Dimension]:
    if not takes_list(key):
        raise SertuneError(f"search space: {key}: span is for lists of layers, such as head.layers")
    return [
        Dimension(_named(key, case, "from"), key, "int", low, high, role="from", **options),
        Dimension(_named(key, case, "to"), key, "int", low, high, role="to", **options),
    ]


def _read_ends(key: str, form: str, ends: list[Any], depth: int) -> tuple[float, float]:
    ends = [depth if end == "depth" else _number(end) for end in ends]
    whole = form in ("int", "span")
    good = len(ends) == 2 and all(isinstance(end, int if whole else (int, float)) for end in ends)
    if not good or any(isinstance(end, bool) for end in ends) or not all(map(math.isfinite, ends)):
        kind = "whole numbers" if whole else "numbers"
        raise SertuneError(f"search space: {key}: {form}: expected two {kind}, [low, high], found {ends}")
    if ends[0] > ends[1] or (ends[0] == ends[1] and form != "span"):
        raise SertuneError(f"search space: {key}: [{ends[0]}, {ends[1]}]: the range is empty; the smaller number first")
    if whole:
        return ends[0], ends[1]
    return float(ends[0]), float(ends[1])


def _number(end: Any) -> Any:
    """A number that YAML 1.1 reads as text, such as 1e-6."""
    if not isinstance(end, str):
        return end
    try:
        return float(end)
    except ValueError:
        return end


def _value(key: str, value: Any) -> Any:
    """A value, as a number where its key wants one."""
    if isinstance(value, list):
        return [_value(key, item) for item in value]
    return value if takes_text(key) else _number(value)


def _points(key: str, points: Any) -> int:
    if not isinstance(points, int) or isinstance(points, bool) or points < 1:
        raise SertuneError(f"search space: {key}: points = {points}: expected a whole number, 1 or more")
    return points


def _read_when(key: str, when: Any) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    if not isinstance(when, dict):
        raise SertuneError(f"search space: {key}: when: expected {{key: values}}, found {when!r}")
    return tuple((_find_key(str(name)), tuple(_values(_find_key(str(name)), values))) for name, values in when.items())


def _values(key: str, values: Any) -> list[Any]:
    """Values of a condition; one may stand alone."""
    if not isinstance(values, list):
        return [[values] if takes_list(key) else values]
    return values if not takes_list(key) or any(isinstance(value, list) for value in values) else [values]


def _in_order(dimensions: list[Dimension]) -> list[Dimension]:
    """Each after those that it depends on; else as given."""
    known = {dimension.key for dimension in dimensions}
    left, done, ordered = list(dimensions), set[str](), []
    while left:
        ready = next((d for d in left if all(key in done or key == d.key for key in _needs(d) & known)), None)
        if ready is None:
            raise SertuneError(f"search space: {left[0].key} and {left[-1].key} depend on each other")
        left.remove(ready)
        ordered.append(ready)
        if all(dimension.key != ready.key for dimension in left):
            done.add(ready.key)
    return ordered


def _needs(dimension: Dimension) -> set[str]:
    """Keys that decide whether a dimension counts and how far it goes."""
    keys = {key for key, _ in dimension.when} | ({dimension.below} if dimension.below else set())
    if _of_training(dimension.key):
        keys |= {"head.start", "head.hidden", "head.convolutions"}
    return (keys | {"method.name"}) - {dimension.key}


def without(space: Space, keys: Mapping[str, str]) -> Space:
    """The space without some keys, each with the reason, which is noted."""
    left = tuple(dimension for dimension in space.dimensions if dimension.key not in keys)
    fixed = {key: value for key, value in space.fixed.items() if key not in keys}
    reasons = [reason for key, reason in keys.items() if key in space.keys or key in space.fixed]
    return replace(space, dimensions=left, fixed=fixed, notes=(*space.notes, *reasons))


def check_space(space: Space, base: RunConfig, possible: Callable[[RunConfig], object], seed: int = 0) -> None:
    """Tries every end and choice of the space with random values of the others.

    Args:
        space: to look at.
        base: settings of everything else.
        possible: raises `SertuneError` for settings that the encoder can't have.
        seed: of the random values.

    Raises:
        SertuneError: nothing to search; a value that can never be had; a setting that never counts.
    """
    if not space.dimensions:
        raise SertuneError(
            "search space: empty, there is nothing to search; name a --preset, or keys in --space FILE.yaml"
        )
    rng = np.random.default_rng(seed)
    for dimension in space.dimensions:
        if dimension.below and any(d.key == dimension.below and d.when for d in space.dimensions):
            raise SertuneError(f"search space: {dimension.key}: below: {dimension.below} has conditions of its own")
        for value in dimension.ends():
            _try_value(space, base, dimension, value, possible, rng)


def _try_value(
    space: Space,
    base: RunConfig,
    dimension: Dimension,
    value: Any,
    possible: Callable[[RunConfig], object],
    rng: np.random.Generator,
) -> None:
    problem = f"search space: {dimension.name}: never counts; look at its conditions, and at method.name"
    for _ in range(TRIES):
        shares = dict(zip((d.name for d in space.dimensions), rng.random(len(space.dimensions)), strict=True))

        def choose(
            other: Dimension, low: float, high: float, shares: dict[str, float] = shares
        ) -> Any:  # bound now, called at once
            if other is not dimension:
                return other.at(shares[other.name], low, high)
            return value if other.kind == "choice" else other.at(0.0 if value <= low else 1.0, low, high)

        values = space.walk(base, choose)
        if dimension.name not in values:
            continue
        try:
            for key, setting in space.settings(values).items():
                check_type(key, setting)
            possible(space.config(base, values))
        except SertuneError as error:
            problem = f"search space: {dimension.name} = {values[dimension.name]}: {error}"
            continue
        return
    raise SertuneError(problem)


def combinations(space: Space, base: RunConfig, keys: Sequence[str], most: int = 20_000) -> Iterator[RunConfig]:
    """Settings with every value that some keys can take together, whatever the other keys are; not validated.

    Args:
        space: of the search.
        base: settings of everything else.
        keys: that matter.
        most: combinations, after which it ends.
    """
    options = []
    for key in keys:
        own = [dimension for dimension in space.dimensions if dimension.key == key]
        if own:
            options.append([(key, value) for value in _all_values(own)])
    base = with_values(base, space.fixed)
    for chosen in itertools.islice(itertools.product(*options), most):
        yield with_values(base, dict(chosen))


def _all_values(own: list[Dimension]) -> list[Any]:
    """Every value of a key, over all its cases; the ends of a range that is not of whole numbers."""
    found: list[Any] = []
    for dimension in own:
        if dimension.role == "to":
            continue
        if dimension.role == "from":
            low, high = int(dimension.low), int(dimension.high)
            found += [list(range(a, b + 1)) for a in range(low, high + 1) for b in range(a, high + 1)]
        elif dimension.kind == "int":
            found += list(range(int(dimension.low), int(dimension.high) + 1))
        else:
            found += dimension.ends()
    return [value for place, value in enumerate(found) if value not in found[:place]]
