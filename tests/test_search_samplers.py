"""Which values are tried: within bounds, the same for the same slot, and better than chance where a model proposes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from optuna.trial import TrialState

from sertune.config import from_dict
from sertune.train.search.samplers import (
    PRUNERS,
    SAMPLERS,
    SpaceSampler,
    ask_values,
    distribution,
    falls_behind,
    make_pruner,
)
from sertune.train.search.space import Space, Values, read_space

BASE = from_dict({})
SPACE = """
train.lr: {log: [1e-6, 1e-3]}
train.epochs: {int: [1, 10]}
train.unfreeze_epoch: {int: [0, 5], below: train.epochs}
method.name: [partial, lora]
lora.rank: {int: [2, 64], log: true}
head.hidden: [[], [64]]
"""
MODELS = ("gp", "tpe", "cmaes")
MANY = ("gp", "tpe", "random", "grid")


def space_of(text: str = SPACE) -> Space:
    return read_space(yaml.safe_load(text), 4)


def value_of(values: Values) -> float:
    """Largest, 0, at a rate of 1e-4, 7 epochs and no waiting."""
    rank = abs(np.log2(values.get("method.lora.rank", 8)) - 3)
    far = abs(np.log10(values["train.lr"]) + 4) + 0.1 * abs(values["train.epochs"] - 7) + 0.1 * rank
    return -float(far) - 0.2 * float(values.get("train.unfreeze_epoch", 0))


def search(
    kind: str,
    count: int,
    seed: int = 0,
    study: optuna.Study | None = None,
    text: str = SPACE,
    told: Callable[[int], TrialState] = lambda number: TrialState.COMPLETE,
) -> tuple[optuna.Study, list[Values]]:
    """So many trials, as `sertune search` makes them; a new sampler each time, as of a new process."""
    space = space_of(text)
    made = study or optuna.create_study(direction="maximize")
    sampler = SpaceSampler(kind, space, BASE, seed, lambda: made.get_trials(deepcopy=False))
    made.sampler = sampler
    tried = []
    for _ in range(count):
        trial = made.ask()
        values = ask_values(trial, space, BASE)
        for key, note in sampler.note.items():
            trial.set_user_attr(key, note)
        tried.append(values)
        state = told(trial.number)
        if state == TrialState.PRUNED:
            trial.report(value_of(values), 1)
        made.tell(trial, value_of(values) if state == TrialState.COMPLETE else None, state=state)
    return made, tried


@pytest.mark.parametrize("kind", SAMPLERS)
def test_every_sampler_stays_within_the_space(kind: str) -> None:
    space = space_of()
    study, tried = search(kind, 25)
    for values, trial in zip(tried, study.trials, strict=True):
        settings = space.settings(values)
        assert settings["train.unfreeze_epoch"] < settings["train.epochs"]
        assert 1e-6 <= settings["train.lr"] <= 1e-3
        assert ("method.lora.rank" in settings) == (settings["method.name"] == "lora")
        assert settings["head.hidden"] in ([], [64])
        space.config(BASE, values)
        # what the study keeps is what was tried
        assert {name: space.dimensions[0].encode(value) for name, value in values.items()} == trial.params


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(kind: str) -> None:
    whole, _ = search(kind, 14)
    half, _ = search(kind, 8)
    again, _ = search(kind, 6, study=half)
    assert [trial.params for trial in again.trials] == [trial.params for trial in whole.trials]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_another_seed_tries_other_values(kind: str) -> None:
    _, one = search(kind, 12, seed=0)
    _, other = search(kind, 12, seed=1)
    assert one[0] == other[0] or kind in ("random", "grid")  # models begin with the settings at the beginning
    assert one[1:] != other[1:]


@pytest.mark.parametrize("kind", MODELS)
def test_models_begin_with_the_settings_at_the_beginning(kind: str) -> None:
    _, (first, *_) = search(kind, 1)
    assert first == space_of().nearest(BASE)


@pytest.mark.parametrize("kind", ["gp", "tpe"])
def test_models_find_more_than_chance(kind: str) -> None:
    def best(name: str) -> float:
        return float(np.mean([search(name, 18, seed)[0].best_value for seed in range(3)]))

    assert best(kind) > best("random") + 0.1


def test_cmaes_goes_uphill_and_keeps_no_pickle() -> None:
    text = "{train.lr: {log: [1e-6, 1e-3]}, train.epochs: {int: [1, 10]}, train.unfreeze_epoch: {int: [0, 5]}}"
    study, tried = search("cmaes", 60, text=text)
    scores = [value_of(values) for values in tried]
    assert np.mean(scores[-15:]) > np.mean(scores[4:19]) + 0.3
    generations = [trial.user_attrs["cma"]["generation"] for trial in study.trials if "cma" in trial.user_attrs]
    assert max(generations) >= 5
    assert generations == sorted(generations)
    assert not any("optimizer" in key for trial in study.trials for key in trial.system_attrs)


def test_the_gaussian_process_learns_from_trials_that_were_ended_early() -> None:
    """Optuna's own passes over them; here a pruned bad region is not proposed again and again."""

    def bad_half(number: int) -> TrialState:
        return TrialState.PRUNED if number % 2 else TrialState.COMPLETE

    kept = [search("gp", 16, seed, told=bad_half)[0] for seed in range(3)]
    best = [max(t.values[0] for t in study.trials if t.values) for study in kept]
    chance = [search("random", 16, seed)[0].best_value for seed in range(3)]
    assert np.mean(best) > np.mean(chance)


def test_the_grid_tries_each_point_once_in_an_order_that_sees_all_of_the_space() -> None:
    text = "{train.lr: {log: [1e-6, 1e-3], points: 3}, train.epochs: {int: [1, 9], points: 3}}"
    study = optuna.create_study(direction="maximize")
    sampler = SpaceSampler("grid", space_of(text), BASE, 0, lambda: study.get_trials(deepcopy=False))
    assert sampler.grid_size == 9
    _, tried = search("grid", 9, text=text)
    points = [(values["train.lr"], values["train.epochs"]) for values in tried]
    assert len(set(points)) == 9
    assert points != sorted(points)


def test_workers_at_the_same_time_do_not_propose_the_same() -> None:
    space = space_of()
    study = optuna.create_study(direction="maximize")
    sampler = SpaceSampler("gp", space, BASE, 0, lambda: study.get_trials(deepcopy=False))
    study.sampler = sampler
    running = []
    for number in range(24):
        trial = study.ask()
        running.append((trial, ask_values(trial, space, BASE)))
        if number % 4 == 3:
            for done, values in running[-4:]:
                study.tell(done, value_of(values))
    tried = [tuple(map(str, values.values())) for _, values in running]
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize("kind", ["gp", "tpe", "random"])
def test_several_objectives_with_constraints(kind: str) -> None:
    space = space_of()
    study = optuna.create_study(directions=["maximize", "minimize"])
    sampler = SpaceSampler(kind, space, BASE, 0, lambda: study.get_trials(deepcopy=False), several=True)
    study.sampler = sampler
    for _ in range(12):
        trial = study.ask()
        values = ask_values(trial, space, BASE)
        trial.set_constraint("epochs<=6", values["train.epochs"] - 6)
        study.tell(trial, [value_of(values), float(values["train.epochs"])])
    assert any(all(limit <= 0 for limit in trial.constraints.values()) for trial in study.best_trials)


def test_distributions_hold_the_ends_of_their_dimensions() -> None:
    text = "{head.dropout: {float: [0, 0.55], step: 0.1}, train.lr: {log: [1e-6, 1e-3]}, head.layers: {span: [0, 4]}}"
    for dimension in space_of(text).dimensions:
        of = distribution(dimension)
        for value in dimension.ends():
            if dimension.step:
                continue
            assert of._contains(of.to_internal_repr(value))
    steps: Any = distribution(space_of(text).dimensions[0])
    assert (steps.low, steps.high, steps.step) == (0.0, 0.5, 0.1)


def reported(levels: list[float], epochs: int = 7) -> optuna.Study:
    """A study of trials that report a level, rising a little with each epoch."""
    study = optuna.create_study(direction="maximize")
    for level in levels:
        trial = study.ask()
        for epoch in range(epochs):
            trial.report(level + 0.001 * epoch, epoch)
        study.tell(trial, level)
    return study


def test_a_trial_falls_behind_where_it_is_below_the_median_by_more_than_chance() -> None:
    others = reported([0.85, 0.9, 0.9, 0.95]).trials
    assert falls_behind(others, best=0.85, error=0.03, step=2)
    assert not falls_behind(others, best=0.88, error=0.03, step=2)
    assert falls_behind(others, best=0.88, error=0.0, step=2)
    assert not falls_behind(others, best=0.1, error=0.0, step=0)  # before anything was trained
    assert not falls_behind(others, best=0.1, error=0.0, step=20)  # nobody has come so far
    assert not falls_behind(others[:3], best=0.1, error=0.0, step=2)


def test_hyperband_ends_trials_by_optunas_own_rule() -> None:
    study = optuna.create_study(direction="maximize", pruner=make_pruner("hyperband", folds=1, epochs=9))
    ended = 0
    for number in range(20):
        trial = study.ask()
        for epoch in range(10):
            trial.report(0.9 if number % 2 else 0.3, epoch)
            if trial.should_prune():
                ended += 1
                break
        study.tell(trial, 0.9 if number % 2 else 0.3)
    assert ended
    assert not make_pruner("none", 1, 9).prune(study, study.trials[0])
    assert set(PRUNERS) == {"none", "median", "hyperband"}
