"""The space of a search: what may be written, what it means, and what is refused in one line."""

import json
from typing import Any

import numpy as np
import pytest
import yaml

from sertune.config import RunConfig, all_keys, check_type, from_dict, given_keys, validate, value_at, with_values
from sertune.errors import SertuneError
from sertune.train.search.bench import cut_of, start_of
from sertune.train.search.presets import PRESETS, preset
from sertune.train.search.space import Space, check_space, combinations, read_space, without

BASE = from_dict({})
DEPTH = 4
MANY = """
train.lr: {log: [1e-6, 1e-3]}
head.dropout: {float: [0, 0.5], step: 0.1}
train.epochs: {int: [1, 10]}
train.unfreeze_epoch: {int: [0, 5], below: train.epochs}
method.name: [partial, lora, frozen]
lora.rank: {int: [2, 64], log: true}
head.layers: {span: [0, depth]}
head.hidden: {choice: [[], [256]], when: {method.name: partial}}
train.head_lr: 1e-2
"""


def space_of(text: str, depth: int = DEPTH) -> Space:
    return read_space(yaml.safe_load(text), depth)


def draws(space: Space, count: int = 300, base: RunConfig = BASE) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [space.at(base, rng.random(len(space.dimensions)).tolist()) for _ in range(count)]


def test_every_value_lies_where_it_may_and_conditions_hold() -> None:
    space = space_of(MANY)
    seen = draws(space)
    for values in seen:
        settings = space.settings(values)
        assert 1e-6 <= settings.get("train.lr", 1e-4) <= 1e-3
        assert settings["train.head_lr"] == 1e-2
        if "head.dropout" in settings:
            assert settings["head.dropout"] * 10 == pytest.approx(round(settings["head.dropout"] * 10))
        if "train.unfreeze_epoch" in settings:
            assert settings["train.unfreeze_epoch"] < settings["train.epochs"]
        assert ("method.lora.rank" in settings) == (settings["method.name"] == "lora")
        assert ("head.hidden" in settings) == (settings["method.name"] == "partial")
        layers = settings["head.layers"]
        assert layers == list(range(layers[0], layers[-1] + 1))
        assert 0 <= layers[0] <= layers[-1] <= DEPTH
    assert {values["method.name"] for values in seen} == {"partial", "lora", "frozen"}
    assert {tuple(space.settings(values)["head.layers"]) for values in seen} >= {(0,), (4,), (0, 1, 2, 3, 4)}


def test_nothing_that_trains_counts_where_all_is_solved() -> None:
    """A trial with a setting that changes nothing is a trial wasted."""
    space = space_of(
        "{method.name: [frozen, partial], train.epochs: {int: [1, 9]}, augment.mixup: [0, 0.4], head.dropout: [0, 0.5],"
        " head.hidden: [[], [32]], augment.wave_noise: [[], [5, 30]]}"
    )
    for values in draws(space):
        trains = values["method.name"] == "partial" or values["head.hidden"] == [32]
        assert {name in values for name in ("train.epochs", "augment.mixup", "head.dropout")} == {trains}
        assert "augment.wave_noise" in values


def test_what_others_depend_on_comes_first_however_it_is_written() -> None:
    space = space_of("{train.unfreeze_epoch: {int: [0, 5], below: train.epochs}, train.epochs: {int: [1, 3]}}")
    assert [dimension.key for dimension in space.dimensions] == ["train.epochs", "train.unfreeze_epoch"]
    assert {v["train.unfreeze_epoch"] for v in draws(space)} == {0, 1, 2}
    base = with_values(BASE, {"train.epochs": 2})
    alone = space_of("{train.unfreeze_epoch: {int: [0, 5], below: train.epochs}}")
    assert {v["train.unfreeze_epoch"] for v in draws(alone, base=base)} == {0, 1}


def test_cases_of_a_key_have_ranges_of_their_own() -> None:
    space = space_of(
        """
        method.name: [partial, lora, bias]
        train.lr:
        - {log: [1e-5, 1e-4], when: {method.name: partial}}
        - {log: [1e-3, 1e-2], when: {method.name: [lora, bias]}}
        """
    )
    for values in draws(space):
        rate = space.settings(values)["train.lr"]
        assert rate <= 1e-4 if values["method.name"] == "partial" else rate >= 1e-3
    assert len({dimension.name for dimension in space.dimensions}) == 3


def test_shares_cover_whole_numbers_evenly_also_by_logarithm() -> None:
    space = space_of("{train.epochs: {int: [1, 4]}, method.name: lora, lora.rank: {int: [1, 63], log: true}}")
    values = draws(space, 4000)
    epochs = np.bincount([v["train.epochs"] for v in values], minlength=5)[1:]
    assert epochs.min() > 850
    ranks = np.array([v["method.lora.rank"] for v in values])
    assert (ranks == 1).mean() == pytest.approx(1 / 6, abs=0.03)  # log2(2) of log2(64)
    assert (ranks >= 32).mean() == pytest.approx(1 / 6, abs=0.03)


@pytest.mark.parametrize("value", [1, 3, 17, 63])
def test_a_share_leads_back_to_its_number(value: int) -> None:
    (dimension,) = space_of("{method.name: lora, lora.rank: {int: [1, 63], log: true}}").dimensions
    assert dimension.at(dimension.share(value), dimension.low, dimension.high) == value
    (plain,) = space_of("{train.epochs: {int: [0, 63]}}").dimensions
    assert plain.at(plain.share(value), plain.low, plain.high) == value


def test_the_grid_has_every_combination_once() -> None:
    space = space_of(
        "{method.name: [partial, lora], lora.rank: {int: [2, 8], points: 2}, train.lr: {log: [1e-5, 1e-3], points: 3}}"
    )
    grid = space.grid(BASE)
    assert len(grid) == 3 + 2 * 3
    assert len({json.dumps(values, sort_keys=True) for values in grid}) == len(grid)
    rates = sorted({values["train.lr"] for values in grid})
    assert rates == [pytest.approx(rate) for rate in (1e-5, 1e-4, 1e-3)]
    bounded = space_of("{train.epochs: {int: [1, 3]}, train.unfreeze_epoch: {int: [0, 5], below: train.epochs}}")
    pairs = {(v["train.epochs"], v["train.unfreeze_epoch"]) for v in bounded.grid(BASE)}
    assert pairs == {(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)}


def test_the_point_nearest_to_the_settings_at_the_beginning() -> None:
    space = space_of(MANY)
    base = from_dict({"method": {"name": "lora", "lora": {"rank": 16}}, "head": {"layers": [1, 2]}})
    values = space.nearest(base)
    settings = space.settings(values)
    assert (settings["method.name"], settings["method.lora.rank"], settings["head.layers"]) == ("lora", 16, [1, 2])
    assert settings["train.epochs"] == base.train.epochs
    assert settings["train.lr"] == pytest.approx(1e-3)  # auto is above the range for LoRA


def test_the_first_point_has_what_auto_and_an_empty_list_stand_for() -> None:
    paper = read_space(preset("paper-d", 4), 4)
    assert paper.settings(paper.nearest(BASE))["train.lr"] == pytest.approx(3e-4)
    head = read_space(preset("head", 4), 4)
    assert head.settings(head.nearest(BASE))["head.layers"] == [1, 2, 3]
    method = read_space(preset("method", 4), 4)
    named = with_values(BASE, {"method.name": "adapter"})
    assert method.settings(method.nearest(named))["train.lr"] == pytest.approx(3e-3)
    assert method.settings(method.nearest(BASE))["method.layers"] == 2


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("depth", [1, 2, 4, 12, 24])
def test_presets_fit_any_depth(name: str, depth: int) -> None:
    space = read_space(preset(name, depth), depth)
    base = with_values(BASE, {"method.layers": min(2, depth)})
    check_space(space, base, lambda config: start_of(config, depth))
    for values in draws(space, 50, base):
        start_of(space.config(base, values), depth)


def test_paper_d_has_its_four_dimensions() -> None:
    space = read_space(preset("paper-d", 4), 4)
    assert set(space.keys) == {"train.lr", "train.epochs", "train.unfreeze_epoch", "audio.crop"}
    by_key = {dimension.key: dimension for dimension in space.dimensions}
    assert (by_key["train.lr"].low, by_key["train.lr"].high, by_key["train.lr"].log) == (1e-6, 1e-3, True)
    assert (by_key["train.epochs"].low, by_key["train.epochs"].high) == (1, 10)
    assert (by_key["train.unfreeze_epoch"].low, by_key["train.unfreeze_epoch"].high) == (0, 5)
    assert [16_000 * crop for crop in by_key["audio.crop"].choices] == [32e3, 48e3, 64e3, 80e3, 112e3, 160e3]


BAD = {
    "{train.lrr: {log: [1, 2]}}": "unknown key 'train.lrr'; did you mean 'train.lr'?",
    "{rank: {int: [1, 2]}}": "'rank' could be target.rater.rank or method.lora.rank; write the whole key",
    "{train.lr: {log: [1, 2]}, lr: {log: [1, 2]}}": "train.lr is there twice",
    "{train.lr: {logg: [1, 2]}}": "train.lr: unknown 'logg'; expected one of {log: [low, high]}",
    "{train.lr: {when: {method.name: lora}}}": "train.lr: no range; expected one of",
    "{train.lr: {log: [1, 2], float: [1, 2]}}": "train.lr: log and float; expected one of",
    "{train.lr: {log: [0, 1]}}": "train.lr: [0, 1]: a range by logarithm begins above 0",
    "{train.lr: {log: [1e-3, 1e-5]}}": "train.lr: [0.001, 1e-05]: the range is empty; the smaller number first",
    "{train.lr: {log: [1e-3]}}": "train.lr: log: expected two numbers, [low, high], found [0.001]",
    "{train.lr: {log: [a, 1]}}": "train.lr: log: expected two numbers, [low, high], found ['a', 1]",
    "{train.epochs: {int: [1, 2.5]}}": "train.epochs: int: expected two whole numbers, [low, high], found [1, 2.5]",
    "{train.epochs: {float: [1, 9]}}": "train.epochs = 1.0: expected a whole number",
    "{method.name: []}": "method.name: no values to choose from",
    "{method.name: [lora, lora]}": "method.name: a value is there twice",
    "{method.name: [1, 2]}": "method.name = 1: expected text",
    "{head.pooling: [max, mean]}": "head.pooling = 'max': expected mean or mean+std or attentive",
    "{train.epochs: {span: [1, 3]}}": "train.epochs: span is for lists of layers, such as head.layers",
    "{head.dropout: {float: [0, 0.5], step: -1}}": "head.dropout: step = -1: expected a number above 0",
    "{train.lr: {log: [1e-5, 1], points: 0}}": "train.lr: points = 0: expected a whole number, 1 or more",
    "{seed: [1, 2]}": "seed can't be searched: scores under different values could not be compared",
    "{split.name: [loso, kfold]}": "split.name can't be searched",
    "{data: [[a], [b]]}": "data can't be searched",
    "{train.lr: [{log: [1e-5, 1]}, {log: [1, 2]}]}": "train.lr: each of several cases needs when: {key: values}",
    "{train.lr: {log: [1e-5, 1], when: lora}}": "train.lr: when: expected {key: values}, found 'lora'",
    "{train.epochs: many}": "train.epochs = 'many': expected a whole number",
}


@pytest.mark.parametrize("text", BAD)
def test_what_makes_no_sense_is_said_in_one_line(text: str) -> None:
    with pytest.raises(SertuneError) as caught:
        check_space(space_of(text), BASE, lambda config: None)
    assert BAD[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_that_can_never_be_had_are_found_before_a_search_begins() -> None:
    def said(text: str) -> str:
        with pytest.raises(SertuneError) as caught:
            check_space(space_of(text), BASE, lambda config: start_of(config, DEPTH))
        return str(caught.value)

    assert said("{head.dropout: {float: [0, 1.5]}}").endswith("head.dropout = 1.5: head.dropout = 1.5: expected 0 to 1")
    assert "the encoder has 4 layers" in said("{method.layers: {int: [1, 5]}}")
    assert "the encoder has layers 0 to 4" in said("{method.name: frozen, head.layers: {span: [0, 6]}}")
    assert "method.lora.rank: never counts" in said("{lora.rank: {int: [1, 8]}}")
    assert "expected 0 or more" in said("{train.unfreeze_epoch: {int: [-1, 2], below: train.epochs}}")
    assert "unknown method 'loraa'" in said("{method.name: [partial, loraa]}")
    assert "empty, there is nothing to search" in said("{train.epochs: 3}")
    assert "depend on each other" in said(
        "{train.epochs: {int: [1, 9], when: {train.warmup: 0.1}}, "
        "train.warmup: {choice: [0.1], when: {train.epochs: 2}}}"
    )
    assert "has conditions of its own" in said(
        "{method.name: [lora, bias], train.epochs: {int: [1, 9], when: {method.name: lora}},"
        " train.unfreeze_epoch: {int: [0, 3], below: train.epochs}}"
    )


def test_ends_that_only_some_of_the_others_allow_are_fine() -> None:
    check_space(space_of(MANY), BASE, lambda config: start_of(config, DEPTH))
    views = (
        "{augment.wave_speed: [[], [0.9, 1.1]], cache.views: {int: [2, 3], when: {augment.wave_speed: [[0.9, 1.1]]}}}"
    )
    space = space_of(views)
    check_space(space, BASE, lambda config: None)
    for values in draws(space):
        assert ("cache.views" in values) == (values["augment.wave_speed"] == [0.9, 1.1])


def test_a_key_that_a_flag_gives_is_left_out_with_a_note() -> None:
    space = without(space_of(MANY), {"train.epochs": "train.epochs is given by a flag", "seed": "never there"})
    assert "train.epochs" not in space.keys
    assert space.notes == ("train.epochs is given by a flag",)


def test_combinations_hold_every_value_of_some_keys() -> None:
    space = space_of("{method.name: [partial, frozen], method.layers: {int: [1, 3]}, train.lr: {log: [1e-5, 1e-3]}}")
    found = {(c.method.name, c.method.layers) for c in combinations(space, BASE, ["method.name", "method.layers"])}
    assert found == {(name, layers) for name in ("partial", "frozen") for layers in (1, 2, 3)}


def test_where_replay_starts_follows_from_the_settings_alone() -> None:
    def start(**values: Any) -> int | None:
        return start_of(from_dict(values), 12)

    assert start(method={"name": "partial", "layers": 3}) == 9
    assert start(method={"name": "lora", "layers": "all"}) == 0
    assert start(method="frozen") is None
    assert start(method="full") == 0
    assert start(method={"name": "full", "front": True}) is None
    assert start(method="frozen", head={"pooling": "attentive", "layers": [4, 6]}) == 4
    assert cut_of(from_dict({"method": {"name": "lora+bias", "layers": 2}}).method, 12) == 10
    with pytest.raises(SertuneError, match="the encoder has 12 layers"):
        start(method={"name": "partial", "layers": 13})
    with pytest.raises(SertuneError, match="must read layer 12"):
        start(method={"name": "partial", "layers": 2}, head={"layers": [3]})


def test_keys_of_the_configuration() -> None:
    keys = all_keys()
    assert "train.lr" in keys
    assert "method.lora.rank" in keys
    assert "method.lora" not in keys
    changed = with_values(BASE, {"method.lora.rank": 3, "precision": "fp32"})
    assert (changed.method.lora.rank, changed.precision, value_at(changed, "method.lora.rank")) == (3, "fp32", 3)
    validate(changed)
    check_type("train.lr", "auto")
    check_type("train.lr", 1)
    check_type("method.layers", "all")
    check_type("head.layers", [1, 2])
    for key, value in (("train.lr", "fast"), ("train.epochs", True), ("head.layers", [1.5]), ("skip_bad", 1)):
        with pytest.raises(SertuneError, match="expected"):
            check_type(key, value)
    flags = ["--train.lr", "1", "--method", "lora", "--config", "x.yaml", "--split.folds=3"]
    assert given_keys(flags) == {"train.lr", "method.name", "split.folds"}
