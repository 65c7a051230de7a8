"""Annotators as targets: slots, the last layer, the losses, joined tasks, and what is saved."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from sertune.model.density import Kernel, expected_value
from sertune.model.planes import plane_targets
from sertune.model.predictions import prediction_table, rating_table, task_of
from sertune.model.raters import RaterForm, RaterLayer
from sertune.model.targets import (
    CategoryTarget,
    DimensionTarget,
    JoinedTarget,
    Plane,
    PlaneTarget,
    RaterLabelTarget,
    RaterTarget,
    Single,
    SpreadTarget,
    Target,
    VotesTarget,
    lead_of,
    parts_of,
    singles,
    target_from,
)
from sertune.model.targets.dimension import ccc_loss
from sertune.model.targets.joined import JoinedLayer
from sertune.model.targets.slots import NOBODY, rating_slots, split_slots

RATERS = ("ann", "bob", "cid", "dee")
LABELS = ("anger", "happiness", "neutral")
SCALES = ((1.0, 5.0), (1.0, 5.0))
PLANE = ("arousal", "valence")
FORMS = {
    "heads": RaterForm(rank=3),
    "heads-rank-0": RaterForm(rank=0),
    "embedding": RaterForm("embedding", rank=3),
    "branch": RaterForm(branch=(256, 256)),
    "embedding-branch": RaterForm("embedding", (6,), 3),
}


@pytest.fixture(scope="module", autouse=True)
def _true_planes_once() -> Iterator[None]:
    """The same few clips are encoded by many tests."""
    kept: dict[str, np.ndarray] = {}
    compute = plane_targets

    def once(values: np.ndarray, ids: list[str], grid: tuple[int, int], *options: Any) -> np.ndarray:
        key = repr((values.tolist(), ids, grid, options))
        if key not in kept:
            kept[key] = compute(values, ids, grid, *options)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sertune.model.targets.distribution.plane_targets", once)
        yield


def panel(seed: int = 0, clips: int = 8) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Clips with labels and dimensions, and ratings of arousal, valence and emotion by two to four annotators each."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, str, str, Any]] = []
    for clip in range(clips):
        for name in rng.permutation(RATERS)[: rng.integers(2, 5)]:
            rows += [(f"c{clip}", str(name), dimension, float(rng.integers(1, 6))) for dimension in PLANE]
            rows.append((f"c{clip}", str(name), "emotion", LABELS[rng.integers(3)]))
    ratings = pd.DataFrame(rows, columns=["utterance", "rater", "attribute", "value"])
    frame = pd.DataFrame(
        {
            "id": [f"c{clip}" for clip in range(clips)],
            "emotion": rng.choice(np.array(LABELS, dtype=object), clips),
            "arousal": rng.uniform(1, 5, clips),
            "valence": rng.uniform(1, 5, clips),
            **dict.fromkeys(("file", "speaker"), "x"),
            **dict.fromkeys(("start", "end", "duration"), 0.0),
        }
    )
    return frame, ratings


def layer_of(form: RaterForm, groups: int = 2, each: int = 1, width: int = 5, known: bool = True) -> RaterLayer:
    """A layer with random weights everywhere."""
    torch.manual_seed(0)
    layer = RaterLayer(width, groups, each, len(RATERS), form)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.3)
    if known:
        layer.counts.fill_(5.0)
    return layer


# -- slots


def test_slots_hold_each_rating_beside_its_rater() -> None:
    ratings = pd.DataFrame(
        [
            ("b", "bob", "arousal", 2.0),
            ("a", "ann", "valence", 4.0),
            ("a", "ann", "arousal", 1.0),
            ("a", "zoe", "arousal", 5.0),
            ("b", "bob", "emotion", "anger"),
            ("elsewhere", "ann", "arousal", 3.0),
        ],
        columns=["utterance", "rater", "attribute", "value"],
    )
    frame = pd.DataFrame({"id": ["a", "b", "c"]})
    slots = rating_slots(frame, ratings, PLANE, RATERS)
    assert slots.shape == (3, 2, 3)
    own = {int(row[0]): row[1:].tolist() for row in slots[0]}
    assert own[0] == [1.0, 4.0]
    assert own[NOBODY][0] == 5.0  # an unknown rater's rating counts all the same
    assert np.isnan(own[NOBODY][1])
    assert slots[1, 0, 0] == 1
    np.testing.assert_array_equal(slots[1, 0, 1:], [2.0, np.nan])
    assert (slots[2, :, 0] == NOBODY).all()
    assert np.isnan(slots[2, :, 1:]).all()


@pytest.mark.parametrize("ratings", [None, panel()[1].iloc[:0], panel()[1].assign(attribute="dominance")])
def test_without_ratings_there_is_one_empty_slot(ratings: pd.DataFrame | None) -> None:
    slots = rating_slots(pd.DataFrame({"id": ["c0", "c1"]}), ratings, PLANE, RATERS)
    assert slots.shape == (2, 1, 3)
    assert (slots[:, :, 0] == NOBODY).all()
    assert np.isnan(slots[:, :, 1:]).all()


def test_the_order_of_ratings_and_of_clips_does_not_matter() -> None:
    frame, ratings = panel()
    target = RaterTarget(PLANE, SCALES, RATERS, Plane())
    encoded = target.encode(frame, ratings)
    np.testing.assert_array_equal(target.encode(frame, ratings.sample(frac=1, random_state=1)), encoded)
    order = np.random.default_rng(0).permutation(len(frame))
    np.testing.assert_array_equal(target.encode(frame.iloc[order], ratings), encoded[order])
    labels = RaterLabelTarget(LABELS, RATERS)
    shuffled = labels.encode(frame, ratings.sample(frac=1, random_state=2))
    np.testing.assert_array_equal(shuffled, labels.encode(frame, ratings))


def test_votes_for_other_labels_are_no_slots() -> None:
    frame, ratings = panel()
    encoded = RaterLabelTarget(LABELS[:2], RATERS).encode(frame, ratings)
    _, votes = split_slots(torch.from_numpy(encoded), 2, 1)
    given = votes[~votes.isnan()]
    assert set(given.tolist()) <= {0.0, 1.0}
    assert len(given) == ratings["value"].isin(LABELS[:2]).sum()


# -- the layer


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("each", [1, 3])
def test_annotators_in_slots_are_those_of_everyone(form: RaterForm, each: int) -> None:
    layer = layer_of(form, 2, each).eval()
    hidden = torch.randn(6, 5)
    slots = torch.tensor([[0, 1, 2], [3, 0, NOBODY], [2, 2, 1], [NOBODY] * 3, [1, NOBODY, 0], [3, 2, 1]])
    made = layer(hidden, slots)
    average, given, everyone = made.split([2 * each, 6 * each, 8 * each], dim=1)
    given, everyone = given.reshape(6, 3, -1), everyone.reshape(6, 4, -1)
    for clip, row in enumerate(slots.tolist()):
        for place, rater in enumerate(row):
            expected = average[clip] if rater == NOBODY else everyone[clip, rater]
            torch.testing.assert_close(given[clip, place], expected)
    assert (everyone[:, :1] - everyone[:, 1:]).abs().max() > 0.01
    torch.testing.assert_close(layer(hidden), torch.cat([average, everyone.flatten(1)], 1))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_clip_does_not_depend_on_its_batch(form: RaterForm) -> None:
    layer, slots = layer_of(form).eval(), torch.tensor([[0, 1], [2, NOBODY], [3, 3]])
    hidden = torch.randn(3, 5)
    for clip in range(3):
        alone = layer(hidden[clip : clip + 1], slots[clip : clip + 1])
        torch.testing.assert_close(layer(hidden, slots)[clip : clip + 1], alone)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_own_parts_of_zero_are_the_average_annotator(form: RaterForm) -> None:
    layer = layer_of(form).eval()
    torch.nn.init.zeros_(layer.own)
    made = layer(torch.randn(3, 5), torch.tensor([[0, 1], [2, NOBODY], [3, 3]]))
    torch.testing.assert_close(made, made[:, :2].repeat(1, 7))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_fresh_layer_starts_as_the_average_annotator(form: RaterForm) -> None:
    layer = RaterLayer(5, 2, 1, 4, form).eval()
    layer.counts.fill_(1.0)
    made = layer(torch.randn(3, 5))
    torch.testing.assert_close(made, made[:, :2].repeat(1, 5))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_whoever_has_too_few_ratings_is_the_average_annotator(form: RaterForm) -> None:
    layer = layer_of(replace(form, min_ratings=3)).eval()
    layer.counts.copy_(torch.tensor([5.0, 2.0, 3.0, 0.0]))
    hidden = torch.randn(2, 5)
    made = layer(hidden, torch.tensor([[0, 1], [2, 3]]))
    average, given, everyone = made.split([2, 4, 4], dim=1)
    torch.testing.assert_close(given[0, 2:], average[0])
    torch.testing.assert_close(given[1, 2:], average[1])
    torch.testing.assert_close(everyone[0, :2], given[0, :2])
    torch.testing.assert_close(everyone[1, 2:], given[1, :2])
    everybody = layer.everyone(*layer.parts(hidden), unknown=True)
    torch.testing.assert_close(everybody[:, [0, 2]].flatten(1), everyone)
    torch.testing.assert_close(everybody[:, 1], average)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_only_the_annotators_who_are_asked_for_get_a_gradient(form: RaterForm) -> None:
    layer = layer_of(form)
    layer.shrinkage.zero_()
    layer(torch.randn(2, 5), torch.tensor([[1, NOBODY], [3, 1]])).square().sum().backward()
    assert layer.own.grad is not None
    moved = layer.own.grad.flatten(1).abs().amax(1)
    assert (moved[[1, 3]] > 0).all()
    assert (moved[[0, 2]] == 0).all()


def test_a_branch_per_group_is_the_published_layer() -> None:
    """y = C(f(h)) + b_a + W_a f(h), with f of its own for every dimension, from the definition."""
    layer = layer_of(RaterForm(branch=(256, 256))).eval()
    assert layer.branches is not None
    assert [len(layer.branches), len(layer.average)] == [2, 2]
    assert not layer.linear
    assert layer.own.shape == (4, 2, 1, 257)
    hidden = torch.randn(3, 5)
    made = layer(hidden)[:, 2:].reshape(3, 4, 2)
    for group, (branch, average) in enumerate(zip(layer.branches, layer.average, strict=True)):
        inner = branch(hidden)
        assert inner.shape == (3, 256)
        for rater in range(4):
            own = layer.own[rater, group, 0]
            expected = average(inner)[:, 0] + own[0] + inner @ own[1:]
            torch.testing.assert_close(made[:, rater, group], expected, atol=1e-4, rtol=1e-4)


def test_biases_and_gains_start_where_ratings_show_them() -> None:
    layer = layer_of(RaterForm(rank=8)).eval()
    torch.nn.init.zeros_(layer.own)
    biases, gains = torch.randn(4, 2), torch.randn(4, 2) / 4
    layer.start_biases(biases, gains)
    hidden = torch.randn(3, 5)
    average = layer.parts(hidden)[0]
    made = layer(hidden)[:, 2:].reshape(3, 4, 2)
    torch.testing.assert_close(made, average[:, None] * (1 + gains) + biases)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_penalty_is_the_squared_norm_over_the_ratings(form: RaterForm) -> None:
    layer = layer_of(form)
    layer.counts.copy_(torch.tensor([1.0, 4.0, 10.0, 0.0]))
    layer.shrinkage.fill_(3.0)
    penalty = layer(torch.randn(2, 5), torch.tensor([[0, 1], [NOBODY, 3]]))[:, -2:]
    squares = layer.own.flatten(1).square().sum(1)
    torch.testing.assert_close(penalty, torch.stack([3 * squares[:2] / torch.tensor([1.0, 4.0]), torch.zeros(2)]))


# -- the loss of annotators


def prepared(target: Target, seed: int = 0) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """A last layer with random weights, the head's vectors of the panel's clips, and their encoded targets."""
    frame, ratings = panel(seed)
    targets = target.encode(frame, ratings)
    target.balance(targets)
    torch.manual_seed(seed)
    last = target.last_layer(5)
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.normal_(std=0.3)
    for module in last.modules():
        if isinstance(module, RaterLayer):
            module.counts.fill_(7.0)
            module.shrinkage.zero_()
    return last, torch.randn(len(frame), 5), torch.from_numpy(targets)


def made(target: Target, last: torch.nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    """Outputs as the model gives them: finished in eval mode."""
    slots = target.slots(targets)
    outputs: Tensor = last(hidden) if isinstance(last, torch.nn.Linear) else last(hidden, slots)
    return outputs if last.training else target.finish(outputs.float(), slots, last).detach()


RATED: dict[str, Target] = {
    "rater": RaterTarget(PLANE, SCALES, RATERS, Plane(), form=FORMS["heads"]),
    "rater-no-plane": RaterTarget(PLANE[:1], SCALES[:1], RATERS),
    "rater+density": RaterTarget(PLANE, SCALES, RATERS, Plane(), density=True, kernel=Kernel(fine=32)),
    "rater-embedding": RaterTarget(PLANE, SCALES, RATERS, Plane((3, 2)), form=FORMS["embedding"]),
    "rater-branch": RaterTarget(PLANE, SCALES, RATERS, form=FORMS["branch"]),
    "rater-label": RaterLabelTarget(LABELS, RATERS, 0.1),
}


@pytest.mark.parametrize("name", RATED)
def test_training_and_scoring_see_the_same_slots_and_the_same_loss(name: str) -> None:
    target = RATED[name]
    last, hidden, targets = prepared(target)
    trained = made(target, last.train(), hidden, targets)
    scored = made(target, last.eval(), hidden, targets)
    torch.testing.assert_close(target.loss(trained, targets), target.loss(scored, targets))
    count = target.slots(targets).shape[1]  # type: ignore[union-attr]
    width = (trained.shape[1] - count) // (count + 1)
    torch.testing.assert_close(trained[:, width : -count or None], scored[:, target.outputs : -count or None])


def test_the_loss_is_over_all_single_ratings_of_the_batch() -> None:
    target = RATED["rater"]
    last, hidden, targets = prepared(target)
    assert isinstance(last, RaterLayer)
    raters, ratings = split_slots(targets, 16, 2)
    everyone = last.everyone(*last.parts(hidden), unknown=True)
    predicted, true = [], []
    for clip, slot in (~ratings[:, :, 0].isnan()).nonzero().tolist():
        predicted.append(everyone[clip, int(raters[clip, slot])])
        true.append(ratings[clip, slot])
    expected = ccc_loss(torch.stack(predicted), torch.stack(true))
    torch.testing.assert_close(target.loss(made(target, last.train(), hidden, targets), targets), expected)


def test_the_prior_weighs_as_ratings_do() -> None:
    """Over all clips each annotator adds lambda |theta|^2 / M, whatever his ratings, over twice their variance."""
    target = RATED["rater"]
    last, hidden, targets = prepared(target)
    assert isinstance(last, RaterLayer)
    raters, ratings = split_slots(targets, 16, 2)
    there = ~ratings.isnan().all(2)
    last.counts.copy_(torch.bincount(raters[there], minlength=4).float())
    plain = target.loss(made(target, last.train(), hidden, targets), targets)
    last.shrinkage.fill_(2.0)
    penalised = target.loss(made(target, last, hidden, targets), targets)
    variance = ratings[there].var(0, correction=0).mean()
    expected = 2.0 * last.own.square().sum() / there.sum() / (2 * variance)
    torch.testing.assert_close(penalised - plain, expected)


def test_votes_are_single_votes() -> None:
    target = RaterLabelTarget(LABELS, RATERS)
    last, hidden, targets = prepared(target)
    assert isinstance(last, RaterLayer)
    raters, votes = split_slots(targets, 3, 1)
    logs = last.everyone(*last.parts(hidden), unknown=True).log_softmax(2)
    spots = (~votes[:, :, 0].isnan()).nonzero().tolist()
    entropies = [-logs[clip, int(raters[clip, slot]), int(votes[clip, slot, 0])] for clip, slot in spots]
    expected = torch.stack(entropies).mean()
    torch.testing.assert_close(target.loss(made(target, last.train(), hidden, targets), targets), expected)
    last.shrinkage.fill_(2.0)
    penalised = target.loss(made(target, last, hidden, targets), targets)
    prior = torch.stack([2.0 * last.own[int(raters[c, s])].square().sum() / 7 for c, s in spots]).mean()
    torch.testing.assert_close(penalised, expected + prior / 2)


@pytest.mark.parametrize("name", RATED)
@pytest.mark.parametrize("lost", ["one attribute", "all", "apart"])
def test_an_attribute_without_ratings_in_the_batch(name: str, lost: str) -> None:
    """No NaN, and no gradient for what nobody rated; also where nobody rated both."""
    target = RATED[name]
    last, hidden, targets = prepared(target)
    before = len(LABELS) if isinstance(target, RaterLabelTarget) else target.before  # type: ignore[union-attr]
    width = 2 if len(getattr(target, "dimensions", ())) == 2 else 1
    slots = targets[:, before:].reshape(len(targets), -1, 1 + width)
    if lost == "apart":
        slots[::2, :, 1] = torch.nan
        slots[1::2, :, -1] = torch.nan
    else:
        slots[:, :, (1 if lost == "all" else -1) :] = torch.nan
    targets = torch.cat([torch.full_like(targets[:, :before], torch.nan), slots.flatten(1)], dim=1)
    outputs = made(target, last.train(), hidden, targets)
    loss = target.loss(outputs, targets)
    assert loss.isfinite()
    loss.backward()
    for parameter in last.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert isinstance(last, RaterLayer)
    if lost == "one attribute" and width == 2:
        assert float(gradient(last.average[0]).abs().sum()) > 0
        assert float(gradient(last.average[1]).abs().sum()) == 0


def gradient(layer: torch.nn.Module) -> Tensor:
    """Of a linear layer's weight."""
    assert isinstance(layer, torch.nn.Linear)
    assert layer.weight.grad is not None
    return layer.weight.grad


# -- what is predicted


def test_a_blend_moves_everybody_alike() -> None:
    for name, target in RATED.items():
        last, hidden, targets = prepared(target)
        outputs = last.eval()(hidden, target.slots(targets)).detach()
        width = 3 if name == "rater-label" else len(target.dimensions)  # type: ignore[union-attr]
        others = torch.randn(len(hidden), target.linear)
        moved = target.blend(outputs, others, 0.3).reshape(len(hidden), -1, width) - outputs.reshape(
            len(hidden), -1, width
        )
        torch.testing.assert_close(moved, moved[:, :1].expand_as(moved))
        mixed = target.blend(outputs, others, 1.0)[:, :width]
        if name == "rater-label":
            torch.testing.assert_close(mixed.softmax(1), others.softmax(1))
        else:
            torch.testing.assert_close(mixed, others[:, :width])


def test_finished_outputs_are_of_all_known_annotators() -> None:
    target = RATED["rater"]
    assert isinstance(target, RaterTarget)
    last, hidden, targets = prepared(target)
    assert isinstance(last, RaterLayer)
    last.noise.copy_(torch.tensor([0.2, 0.4]))
    known = last.everyone(*last.parts(hidden)).detach()
    decoded = target.decode(made(target, last.eval(), hidden, targets))
    np.testing.assert_allclose(decoded["values"], np.clip(3 + 2 * known.mean(1).numpy(), 1, 5), atol=1e-5)
    spread = (known.var(1, correction=0) + torch.tensor([0.04, 0.16])).sqrt()
    np.testing.assert_allclose(decoded["spread"], 2 * spread.numpy(), atol=1e-5)
    np.testing.assert_allclose(decoded["cells"].sum(1), 1, atol=1e-9)
    cells = target.cells(known[:, :, :2], last.noise.expand(len(known), 2), last).flatten(1)
    np.testing.assert_allclose(decoded["cells"], cells.numpy(), atol=1e-6)
    raters, ratings = split_slots(targets, 16, 2)
    for clip, slot in (~ratings[:, :, 0].isnan()).nonzero().tolist():
        expected = np.clip(3 + 2 * known[clip, int(raters[clip, slot])].numpy(), 1, 5)
        np.testing.assert_allclose(decoded["ratings"][clip, slot], expected, atol=1e-5)


def test_the_plane_of_thousands_is_that_of_some_around_the_mean_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    target = RATED["rater"]
    assert isinstance(target, RaterTarget)
    layer = layer_of(RaterForm(rank=8))
    layer.bandwidth.fill_(0.1)
    noise = torch.full((2, 2), 0.2)
    torch.manual_seed(0)
    known = torch.tensor([0.2, -0.3]) + torch.randn(2, 3000, 2) * 0.25
    some = target.cells(known, noise, layer)
    monkeypatch.setattr("sertune.model.targets.rater.MOST_POINTS", 3000)
    everyone = target.cells(known, noise, layer)
    assert float((some - everyone).abs().sum((1, 2)).max()) / 2 < 0.05
    torch.testing.assert_close(expected_value(some), expected_value(everyone), atol=0.02, rtol=0)


@pytest.mark.parametrize("count", [0, 1])
def test_one_known_annotator_or_none(count: int) -> None:
    target = RATED["rater"]
    last, hidden, targets = prepared(target)
    assert isinstance(last, RaterLayer)
    last.counts.copy_(torch.tensor([3.0 * count, 0, 0, 0]))
    last.noise.fill_(0.25)
    decoded = target.decode(made(target, last.eval(), hidden, targets))
    average, features = last.parts(hidden)
    only = last.everyone(average, features)[:, 0] if count else average
    np.testing.assert_allclose(decoded["values"], np.clip(3 + 2 * only.detach().numpy(), 1, 5), atol=1e-5)
    np.testing.assert_allclose(decoded["spread"], 0.5, atol=1e-6)
    assert np.isfinite(decoded["cells"]).all()
    np.testing.assert_allclose(decoded["cells"].sum(1), 1)


def test_labels_of_annotators_average_as_distributions() -> None:
    target = RATED["rater-label"]
    last, hidden, targets = prepared(target)
    assert isinstance(last, RaterLayer)
    average, features = last.parts(hidden)
    decoded = target.decode(made(target, last.eval(), hidden, targets))
    expected = last.everyone(average, features).softmax(2).mean(1).detach().numpy()
    np.testing.assert_allclose(decoded["probabilities"], expected, atol=1e-6)
    assert decoded["votes"].shape == tuple(target.slots(targets).shape)  # type: ignore[union-attr]
    last.counts.zero_()
    alone = target.decode(made(target, last, hidden, targets))
    np.testing.assert_allclose(alone["probabilities"], average.softmax(1).detach().numpy(), atol=1e-6)


def test_the_lifted_consensus_has_the_columns_of_finished_outputs() -> None:
    for target in [*RATED.values(), *JOINED.values()]:
        last, hidden, targets = prepared(target)
        lifted = target.lift(torch.randn(len(hidden), target.linear), targets)
        assert lifted.shape == made(target, last.eval(), hidden, targets).shape
        assert target.loss(lifted, targets).isfinite()
        for values in target.decode(lifted).values():
            assert np.isfinite(values).all()


# -- joined tasks

PARTS: dict[str, Single] = {
    "category": CategoryTarget(LABELS, 0.1, 1.0),
    "dimension": DimensionTarget(PLANE, SCALES),
    "votes": VotesTarget(LABELS),
    "plane": PlaneTarget(SCALES, Plane((3, 2))),
    "spread": SpreadTarget(PLANE, SCALES, "gaussian", Plane()),
    "rater": RaterTarget(PLANE, SCALES, RATERS, Plane()),
    "density": RaterTarget(PLANE, SCALES, RATERS, Plane(), density=True, kernel=Kernel(fine=32)),
    "rater-label": RaterLabelTarget(LABELS, RATERS),
}
SLOTTED = ("spread", "rater", "density", "rater-label")


def joined(*names: str, schedule: str = "sum", weights: tuple[float, ...] = (), lead: int = 0) -> JoinedTarget:
    count = len(names) + names.count("density")
    return JoinedTarget(tuple(PARTS[name] for name in names), weights or (1.0,) * count, schedule, lead)


def layers_of(last: torch.nn.Module) -> list[torch.nn.Module]:
    assert isinstance(last, JoinedLayer)
    return list(last.layers)


JOINED: dict[str, JoinedTarget] = {
    "+".join(names): joined(*names)
    for names in [
        *(pair for pair in permutations(PARTS, 2) if pair[0] not in SLOTTED),
        ("category", "dimension", "density"),
        ("dimension", "category", "votes"),
    ]
}


@pytest.mark.parametrize("name", JOINED)
def test_joined_columns_are_each_parts_own(name: str) -> None:
    target = JOINED[name]
    last, hidden, targets = prepared(target)
    for training in (True, False):
        outputs = made(target, last.train(training), hidden, targets)
        layers = layers_of(last)
        parts = zip(target.parts, layers, target.split(outputs), target.encoded(targets.numpy()), strict=True)
        for part, layer, own, true in parts:
            frame, ratings = panel()
            np.testing.assert_array_equal(true, part.encode(frame, ratings))
            torch.testing.assert_close(own, made(part, layer, hidden, torch.from_numpy(true)))
    alone = [part.loss(own, torch.from_numpy(true)) for part, own, true in parts_of(target, outputs, targets.numpy())]
    torch.testing.assert_close(target.loss(outputs, targets), torch.stack(alone).sum())
    decoded = target.decode(outputs)
    for values in decoded.values():
        assert np.isfinite(values).all()


def test_joined_blends_are_each_parts_own() -> None:
    for target in JOINED.values():
        last, hidden, targets = prepared(target)
        slots = target.slots(targets)
        outputs, others = last.eval()(hidden, slots), torch.randn(len(hidden), target.linear)
        blended, first = target.split(target.blend(outputs, others, 0.4)), 0
        for part, layer, own in zip(target.parts, layers_of(last), blended, strict=True):
            alone = layer(hidden) if isinstance(layer, torch.nn.Linear) else layer(hidden, slots)
            solved = others[:, first : first + part.linear]
            torch.testing.assert_close(own, part.blend(alone, solved, 0.4))
            first += part.linear


def test_weights_and_turns() -> None:
    """Alternating, each step has one term in turn, and over a cycle their sum; scoring always has the sum."""
    names, weights = ("category", "dimension", "density"), (0.5, 2.0, 3.0, 0.25)
    together = joined(*names, weights=weights)
    last, hidden, targets = prepared(together)
    outputs = made(together, last.train(), hidden, targets)
    own = together.split(outputs)
    true = [torch.from_numpy(part) for part in together.encoded(targets.numpy())]
    assert isinstance(together.parts[2], RaterTarget)
    terms = [
        together.parts[0].loss(own[0], true[0]),
        together.parts[1].loss(own[1], true[1]),
        *together.parts[2].terms(own[2], true[2]),
    ]
    expected = [weight * term for weight, term in zip(weights, terms, strict=True)]
    torch.testing.assert_close(together.loss(outputs, targets, 5), torch.stack(expected).sum())
    turns = replace(together, schedule="alternate")
    for step in range(9):
        torch.testing.assert_close(turns.loss(outputs, targets, step), expected[step % 4])
    torch.testing.assert_close(turns.loss(outputs, targets), together.loss(outputs, targets))


@pytest.mark.parametrize("schedule", ["sum", "alternate"])
def test_clips_that_lack_a_task(schedule: str) -> None:
    """A clip without a label, one without ratings: they count where they have something; a batch of one kind alone."""
    target = joined("category", "dimension", "density", schedule=schedule)
    frame, ratings = panel()
    frame.loc[:3, "emotion"] = None
    frame.loc[4:, ["arousal", "valence"]] = np.nan
    ratings = ratings[ratings["utterance"].isin(["c0", "c1", "c2", "c3"])]
    targets = torch.from_numpy(target.encode(frame, ratings))
    target.balance(targets.numpy())
    last, hidden, _ = prepared(target)
    for rows in (slice(None), slice(0, 4), slice(4, None)):
        for step in range(4):
            last.zero_grad()
            outputs = made(target, last.train(), hidden[rows], targets[rows])
            loss = target.loss(outputs, targets[rows], step)
            assert loss.isfinite()
            loss.backward()
            assert all(p.grad is None or p.grad.isfinite().all() for p in last.parameters())
    whole = target.split(made(target, last.eval(), hidden, targets))[0]
    part = target.parts[0].loss(whole, targets[:, :3])
    torch.testing.assert_close(part, target.parts[0].loss(whole[4:], targets[4:, :3]))


def test_the_lead_is_what_the_tables_are_about() -> None:
    frame, ratings = panel()
    target = joined("category", "rater", lead=1)
    assert isinstance(lead_of(target), RaterTarget)
    assert [part.name for part in singles(target)] == ["rater", "category"]
    assert not target.categorical
    task = task_of(target)
    assert (task["target"], task["opinions"], task["grid"]) == ("dimension", "rater", [4, 4])
    assert task["also"] == [{"target": "category", "labels": list(LABELS)}]
    last, hidden, targets = prepared(target)
    outputs = made(target, last.eval(), hidden, targets).detach()
    table = prediction_table(frame, target, outputs, targets.numpy())
    assert {"true", "predicted", "p_anger", "arousal", "arousal_true", "spread_valence", "plane"} <= set(table)
    assert table["raters"].tolist() == [ratings[ratings["utterance"] == c]["rater"].nunique() for c in frame["id"]]
    rated = rating_table(frame, ratings, target, outputs)
    assert len(rated) == (ratings["attribute"] != "emotion").sum()
    wide = rated.merge(ratings, on=["utterance", "rater", "attribute"])
    assert len(wide) == len(rated)
    np.testing.assert_allclose(wide["true"].astype(float), wide["value"].astype(float))
    layer = layers_of(last)[1]
    assert isinstance(layer, RaterLayer)
    everyone = layer.everyone(*layer.parts(hidden)).detach().numpy()
    for row in rated.itertuples():
        clip, who, column = int(str(row.utterance)[1:]), RATERS.index(str(row.rater)), PLANE.index(str(row.attribute))
        assert row.predicted == pytest.approx(np.clip(3 + 2 * everyone[clip, who, column], 1, 5), abs=1e-5)


def test_ratings_of_people_whom_the_model_never_met() -> None:
    """In a table of another corpus, whose annotators and slots are others."""
    frame, ratings = panel(3)
    ratings["rater"] = ratings["rater"].replace({"ann": "yan", "bob": "zoe"})
    for target in (RATED["rater"], RATED["rater-label"]):
        last, hidden, _ = prepared(target)
        assert isinstance(last, RaterLayer)
        targets = torch.from_numpy(target.encode(frame, ratings))
        table = rating_table(frame, ratings, target, made(target, last.eval(), hidden, targets).detach())
        assert set(table["rater"][~table["known"]]) == {"yan", "zoe"}
        assert set(table["rater"][table["known"]]) == {"cid", "dee"}
        average = last.parts(hidden)[0].detach().numpy()
        for row in table[~table["known"]].itertuples():
            clip = int(str(row.utterance)[1:])
            if isinstance(target, RaterLabelTarget):
                assert row.predicted == LABELS[average[clip].argmax()]
            else:
                expected = np.clip(3 + 2 * average[clip, PLANE.index(str(row.attribute))], 1, 5)
                assert row.predicted == pytest.approx(expected, abs=1e-5)


# -- a batch in parts, and what is saved

EVERY: dict[str, Target] = {
    **RATED,
    **PARTS,
    "beta": SpreadTarget(PLANE, SCALES, "beta", Plane()),
    "votes-emd": VotesTarget(LABELS, "emd"),
    "votes-kl": VotesTarget(LABELS, "kl"),
    "plane-emd": PlaneTarget(SCALES, Plane((3, 2)), "emd"),
    "category+dimension+density": joined("category", "dimension", "density", weights=(1.0, 0.5, 2.0, 0.3), lead=2),
    "votes+rater": joined("votes", "rater", schedule="alternate"),
    "plane+rater-label": joined("plane", "rater-label"),
    "category+spread": joined("category", "spread"),
}


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_in_parts_has_the_gradient_of_the_whole(name: str) -> None:
    """As `train.accumulate` does it: outputs of all parts first, then their gradient part by part."""
    target = EVERY[name]
    last, hidden, targets = prepared(target)
    for module in last.modules():
        if isinstance(module, RaterLayer):
            module.shrinkage.fill_(2.0)
    parameters = list(last.parameters())
    last.train()
    for step in (0, 1):
        whole = target.loss(made(target, last, hidden, targets), targets, step)
        expected = torch.autograd.grad(whole, parameters, allow_unused=True)
        parts = [slice(0, 3), slice(3, 4), slice(4, None)]
        outputs = torch.cat([made(target, last, hidden[p], targets[p]) for p in parts]).detach().requires_grad_()
        loss = target.loss(outputs, targets, step)
        torch.testing.assert_close(loss, whole)
        (slope,) = torch.autograd.grad(loss, outputs)
        last.zero_grad()
        for part in parts:
            (made(target, last, hidden[part], targets[part]) * slope[part]).sum().backward()
        for parameter, gradient in zip(parameters, expected, strict=True):
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(
                own, torch.zeros_like(own) if gradient is None else gradient, atol=1e-6, rtol=1e-4
            )


@pytest.mark.parametrize("name", EVERY)
def test_a_described_target_is_the_same_target(name: str) -> None:
    target = EVERY[name]
    again = target_from(json.loads(json.dumps(target.describe())))
    assert again.describe() == target.describe()
    assert task_of(again) == task_of(target)
    last, hidden, targets = prepared(target)
    frame, ratings = panel()
    np.testing.assert_array_equal(again.encode(frame, ratings), targets.numpy())
    other = again.last_layer(5)
    other.load_state_dict(last.state_dict())
    one, two = made(target, last.eval(), hidden, targets), made(again, other.eval(), hidden, targets)
    torch.testing.assert_close(two, one, atol=0, rtol=0)
    decoded, second = target.decode(one), again.decode(two)
    assert decoded.keys() == second.keys()
    for key, values in decoded.items():
        np.testing.assert_array_equal(second[key], values)
    assert torch.equal(again.missing(2).isnan(), target.missing(2).isnan())
    assert again.missing(2).shape == target.missing(2).shape


@pytest.mark.parametrize("name", EVERY)
def test_clips_of_which_nothing_is_known_can_be_predicted(name: str) -> None:
    target = EVERY[name]
    last, hidden, _ = prepared(target)
    blank = target.missing(len(hidden))
    outputs = made(target, last.eval(), hidden, blank).detach()
    for values in target.decode(outputs).values():
        assert np.isfinite(values).all()
    frame, _ = panel()
    table = prediction_table(frame, target, outputs)
    assert len(table) == len(frame)
    assert target.loss(outputs, blank).isfinite()
