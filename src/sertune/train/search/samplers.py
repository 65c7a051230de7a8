"""Which values a trial tries: Optuna's samplers, drawn anew for each slot so that a search can stop anywhere.

A slot of a study (see `store`) gets values that depend on the seed, the slot and the results so far, not on the process
that asks: a search that was killed goes on as if it had not been, and workers do not propose the same things.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sertune.config import RunConfig
from sertune.train.loop import derive_seed
from sertune.train.search.space import Dimension, Space, Values
from sertune.train.search.store import slots

SAMPLERS = ("gp", "tpe", "random", "grid", "cmaes")
PRUNERS = ("none", "median", "hyperband")
MOST_STARTS = 10
LEAST_OTHERS = 4
"""Trials that have come as far, before one is compared with them."""
CMA_SPREAD = 0.25
"""First standard deviation of CMA-ES, where every range is 0 to 1."""
CMA_NOTE = "cma"

Trials = Callable[[], Sequence[FrozenTrial]]


def distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension as Optuna knows it."""
    if dimension.kind == "choice":
        return CategoricalDistribution([dimension.encode(value) for value in dimension.choices])
    if dimension.kind == "int":
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    if not dimension.step:
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    whole = int((dimension.high - dimension.low) / dimension.step + 1e-9)
    return FloatDistribution(dimension.low, dimension.low + whole * dimension.step, step=dimension.step)


def ask_values(trial: optuna.trial.Trial, space: Space, base: RunConfig) -> Values:
    """The values of a trial, as its study's sampler proposes them."""

    def choose(dimension: Dimension, low: float, high: float) -> Any:
        name, of = dimension.name, distribution(dimension)
        if isinstance(of, CategoricalDistribution):
            return dimension.decode(trial.suggest_categorical(name, of.choices))
        if isinstance(of, IntDistribution):
            return min(max(trial.suggest_int(name, of.low, of.high, log=of.log), int(low)), int(high))
        assert isinstance(of, FloatDistribution)
        return trial.suggest_float(name, of.low, of.high, log=of.log, step=of.step)

    return space.walk(base, choose)


def make_pruner(name: str, folds: int, epochs: int) -> BasePruner:
    """Optuna's pruner of a name; `median` is `falls_behind`.

    Args:
        name: one of `PRUNERS`.
        folds: inner folds of a trial.
        epochs: most epochs of a fold; a trial reports after each.
    """
    if name == "hyperband":
        return HyperbandPruner(min_resource=max(1, epochs // 4), max_resource=folds * epochs + 1, reduction_factor=3)
    return NopPruner()


def falls_behind(others: Sequence[FrozenTrial], best: float, error: float, step: int) -> bool:
    """Whether a trial is worse than the median of the others at the same step, by more than chance.

    Golovin et al. 2017 stop a trial that is below the median. On a dev part of a hundred clips single epochs differ by
    some hundredths for no reason, so a trial is stopped only where it is below by more than a standard error.

    Args:
        others: trials of the study.
        best: highest score of the trial so far.
        error: standard error of a score.
        step: where the trial is.
    """
    known = [trial.intermediate_values[step] for trial in others if step in trial.intermediate_values]
    return step > 0 and len(known) >= LEAST_OTHERS and best + error < float(np.median(known))


class SpaceSampler(BaseSampler):
    """The values of every slot of a study.

    Args:
        kind: one of `SAMPLERS`.
        space: of the search.
        base: settings of everything else; `gp`, `tpe` and `cmaes` try those first.
        seed: of the search.
        trials: all trials of the study, as they are now.
        several: whether there are several objectives.
    """

    def __init__(
        self, kind: str, space: Space, base: RunConfig, seed: int, trials: Trials, *, several: bool = False
    ) -> None:
        self.kind, self.space, self.base, self.seed = kind, space, base, seed
        self.note: dict[str, Any] = {}
        self._trials, self._several = trials, several
        self._by_name = {dimension.name: dimension for dimension in space.dimensions}
        self._grid = self._shuffled_grid() if kind == "grid" else []
        self._planned: Values | None = None
        self._inner: BaseSampler = optuna.samplers.RandomSampler(seed=seed)
        self._slot_seed = seed

    @property
    def grid_size(self) -> int:
        """Points of the grid; 0 for other samplers."""
        return len(self._grid)

    @property
    def starts(self) -> int:
        """Slots whose values do not depend on results."""
        return min(len(self.space.dimensions) + 1, MOST_STARTS)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Seeds everything by the trial's slot."""
        slot = slots(self._trials()).get(trial.number, trial.number)
        self._slot_seed = derive_seed(self.seed, "sampler", slot) % 2**31
        self.note = {}
        self._planned = self._plan(slot)
        self._inner = self._make(self._slot_seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is proposed together."""
        if self._planned is not None:
            return {}
        if self.kind == "cmaes":
            return {dimension.name: distribution(dimension) for dimension in self._always_numbers()}
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values that are proposed together, drawn back to where they can be had together."""
        if self._planned is not None or not search_space:
            return {}
        if self.kind == "cmaes":
            return self._within(self._ask_cma(study))
        if self.kind == "gp" and any(known.state == TrialState.PRUNED for known in self._trials()):
            study, trial = self._with_pruned(study, search_space)
        return self._within(self._inner.sample_relative(study, trial, search_space))

    def _with_pruned(self, study: Study, search_space: dict[str, BaseDistribution]) -> tuple[Study, FrozenTrial]:
        """The study as the Gaussian process should see it: a trial that was ended early has the score that it had.

        Optuna's passes over such trials, and would propose the same things again.
        """
        seen = optuna.create_study(directions=study.directions)
        for known in self._trials():
            if not set(search_space) <= set(known.params) or (known.state.is_finished() and not known.values):
                continue
            state = TrialState.RUNNING if known.state == TrialState.RUNNING else TrialState.COMPLETE
            parts = {name: known.params[name] for name in search_space}
            limits = {key: value for key, value in known.system_attrs.items() if key.startswith("constraints")}
            if known.state != TrialState.WAITING:
                seen.add_trial(
                    optuna.trial.create_trial(
                        params=parts,
                        distributions=dict(search_space),
                        values=known.values if state == TrialState.COMPLETE else None,
                        state=state,
                        system_attrs=limits,
                    )
                )
        asked = seen.ask()
        return seen, next(known for known in seen.get_trials(deepcopy=False) if known.number == asked.number)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value that is proposed by itself."""
        dimension = self._by_name[param_name]
        if self._planned is not None and param_name in self._planned:
            return dimension.encode(self._planned[param_name])
        value = self._inner.sample_independent(study, trial, param_name, param_distribution)
        return self._within({**trial.params, param_name: value})[param_name]

    def _plan(self, slot: int) -> Values | None:
        """The values of a slot that do not depend on results; None where they do."""
        rng = np.random.default_rng(self._slot_seed)
        if self.kind == "random":
            return self.space.at(self.base, rng.random(len(self.space.dimensions)).tolist())
        if self.kind == "grid":
            return self._grid[slot] if slot < len(self._grid) else None
        if slot >= self.starts:
            return None
        return self.space.nearest(self.base) if slot == 0 else self.space.at(self.base, self._spread_out(slot))

    def _spread_out(self, slot: int) -> list[float]:
        """The slot's point of a scrambled Sobol sequence."""
        from torch.quasirandom import SobolEngine

        engine = SobolEngine(len(self.space.dimensions), scramble=True, seed=derive_seed(self.seed, "starts") % 2**31)
        points: list[list[float]] = engine.draw(slot + 1).tolist()
        return points[slot]

    def _shuffled_grid(self) -> list[Values]:
        """All points in random order, so that a part of the budget sees all of the space."""
        points = self.space.grid(self.base)
        order = np.random.default_rng(self.seed).permutation(len(points))
        return [points[place] for place in order]

    def _make(self, seed: int) -> BaseSampler:
        """Optuna's sampler for one slot."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `group` is called experimental
            conditional = any(dimension.when for dimension in self.space.dimensions) or "method.name" in self.space.keys
            tree = TPESampler(
                seed=seed,
                n_startup_trials=min(self.starts, 5),
                multivariate=True,
                group=conditional and not self._several,
            )
            if self.kind == "gp":
                # what does not count in every trial is left to the tree
                return GPSampler(
                    seed=seed, n_startup_trials=2, independent_sampler=tree, warn_independent_sampling=False
                )
        return tree if self.kind == "tpe" else optuna.samplers.RandomSampler(seed=seed)

    def _within(self, params: dict[str, Any]) -> dict[str, Any]:
        """Values with each number drawn back to what those before it allow."""
        values: Values = {}
        for dimension in self.space.dimensions:
            if dimension.name in params:
                value = dimension.decode(params[dimension.name])
                if dimension.kind != "choice":
                    low, high = self.space.bounds(dimension, values, self.base)
                    value = type(value)(min(max(value, low), high))
                values[dimension.name] = value
        return {name: self._by_name[name].encode(value) for name, value in values.items()}

    def _always_numbers(self) -> list[Dimension]:
        """Dimensions that CMA-ES can have: numbers that count in every trial."""
        always = [set(trial.params) for trial in self._trials() if trial.state == TrialState.COMPLETE]
        common = set.intersection(*always) if always else set()
        return [d for d in self.space.dimensions if d.kind != "choice" and d.name in common]

    def _ask_cma(self, study: Study) -> dict[str, Any]:
        """A point of CMA-ES (Hansen 2016), whose state follows from the results of finished generations.

        Optuna's own keeps its state as a pickle, which a shared storage must not hold.
        """
        import cmaes

        numbers = self._always_numbers()
        if len(numbers) < 2:
            return {}
        center = self.space.nearest(self.base)
        mean = np.array([np.clip(d.share(center.get(d.name, d.at(0.5, d.low, d.high))), 0.01, 0.99) for d in numbers])
        bounds = np.tile([0.0, 1.0], (len(numbers), 1))
        optimiser = cmaes.CMA(mean=mean, sigma=CMA_SPREAD, bounds=bounds, seed=self._slot_seed)
        sign = -1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
        generation = 0
        while len(found := self._generation(generation, len(numbers))) >= optimiser.population_size:
            told = [(np.array(point), sign * value) for point, value in found[: optimiser.population_size]]
            optimiser.tell(told)
            generation += 1
        point = optimiser.ask()
        self.note = {CMA_NOTE: {"generation": generation, "point": point.tolist()}}
        return {d.name: d.at(float(share), d.low, d.high) for d, share in zip(numbers, point, strict=True)}

    def _generation(self, generation: int, width: int) -> list[tuple[list[float], float]]:
        """Points and results of a generation's finished trials."""
        notes = [
            (trial.user_attrs.get(CMA_NOTE), trial.value)
            for trial in self._trials()
            if trial.state == TrialState.COMPLETE
        ]
        return [
            (note["point"], value)
            for note, value in notes
            if note and value is not None and note["generation"] == generation and len(note["point"]) == width
        ]
