"""Heads, targets, probes and augmentation: the algebra."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from families import save_family
from sklearn.linear_model import LogisticRegression, Ridge

from sertune.config import AugmentConfig, HeadConfig, from_dict
from sertune.data.audio import read_audio
from sertune.data.augment import augment_states, mixup_pairs, time_crop, time_mask
from sertune.data.batch import LayerStates, make_batches, pad_states
from sertune.errors import SertuneError
from sertune.metrics import scores
from sertune.model.emotion_model import load_model
from sertune.model.encoder import mean_and_std
from sertune.model.head import AttentivePooling, Head, chosen_layers
from sertune.model.probe import fit_logistic, fit_ridge
from sertune.model.targets import CategoryTarget, DimensionTarget, target_from
from sertune.train.prepare import assemble
from sertune.train.run import train


def clips(*lengths: int, width: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, width, generator=generator) for length in lengths]


# -- pooling and heads


def test_pooling_ignores_padding() -> None:
    parts = clips(5, 9, 1)
    pooled = mean_and_std(pad_states(parts))
    attend = AttentivePooling(6)
    torch.nn.init.normal_(attend.score.weight)
    attended = attend(pad_states(parts))
    for row, part in enumerate(parts):
        expected = torch.cat([part.mean(0), (part.var(0, correction=0) + 1e-12).sqrt()])
        torch.testing.assert_close(pooled[row], expected)
        torch.testing.assert_close(attended[row], attend(pad_states([part]))[0])


def test_attention_starts_as_plain_statistics() -> None:
    layer = pad_states(clips(4, 7))
    torch.testing.assert_close(AttentivePooling(6)(layer), mean_and_std(layer))


def test_pooling_layers_then_mixing_is_mixing_then_pooling() -> None:
    first, second = clips(8, 8)
    mixed = 0.3 * first + 0.7 * second
    pooled = [mean_and_std(pad_states([c]))[0, :6] for c in (first, second, mixed)]
    torch.testing.assert_close(0.3 * pooled[0] + 0.7 * pooled[1], pooled[2])


def test_a_short_clip_has_finite_gradients() -> None:
    states = torch.randn(1, 1, 4, requires_grad=True)
    mean_and_std(LayerStates(states, torch.tensor([1]))).sum().backward()
    assert states.grad is not None
    assert states.grad.isfinite().all()


@pytest.mark.parametrize(
    ("config", "depth", "cut", "layers"),
    [
        (HeadConfig(), 12, 9, (10, 11, 12)),
        (HeadConfig(), 12, 0, tuple(range(1, 13))),
        (HeadConfig(), 4, 4, (1, 2, 3)),
        (HeadConfig(), 1, 1, (1,)),
        (HeadConfig(mix="last"), 4, 2, (4,)),
        (HeadConfig(layers=[3, 1, 3]), 4, 4, (3, 1)),
    ],
)
def test_default_layers(config: HeadConfig, depth: int, cut: int, layers: tuple[int, ...]) -> None:
    assert chosen_layers(config, depth, cut) == layers


def test_layers_that_are_not_there() -> None:
    with pytest.raises(SertuneError, match=r"head\.layers = \[5\].*layers 0 to 4"):
        chosen_layers(HeadConfig(layers=[5]), 4, 4)


def test_a_started_head_is_the_linear_model() -> None:
    pooled = torch.randn(20, 4, 12)
    head = Head(HeadConfig(layers=[1, 3]), 3, 3, 6, 2).eval()
    features = head.standardise(pooled)
    torch.testing.assert_close(features.mean(0), torch.zeros(12), atol=1e-6, rtol=0)
    weight, bias = torch.randn(2, 12), torch.randn(2)
    head.start_from(weight, bias)
    torch.testing.assert_close(head(head.pool([], 3, pooled)), features @ weight.T + bias)


# -- heads with pointwise convolutions

CONVOLVED = {"convolutions": [8, 5], "hidden": [7], "dropout": 0.0}


def convolved_head(**options: Any) -> Head:
    """A head over layers 1 to 3 of width 6, standardised, with unequal weights of the layers."""
    head = Head(HeadConfig(**{"layers": [1, 2, 3], "mix": "weighted", **CONVOLVED, **options}), 3, 1, 6, 2).eval()
    head.standardise(torch.stack([torch.randn(9, 4, 6), torch.rand(9, 4, 6) + 0.5], 2).flatten(2))
    if head.weights is not None:
        torch.nn.init.normal_(head.weights)
    return head


def layers_of(*lengths: int) -> list[LayerStates]:
    """What replay from layer 1 gives: layers 1 to 3."""
    return [pad_states([part + layer for part in clips(*lengths)]) for layer in (1, 2, 3)]


@pytest.mark.parametrize("mix", ["weighted", "concat", "last"])
@pytest.mark.parametrize("pooling", ["mean", "mean+std"])
def test_convolutions_are_what_conv1d_computes(mix: str, pooling: str) -> None:
    """One clip at a time, from the definition: standardise, mix, convolve, pool, two linear maps."""
    torch.manual_seed(0)
    head, hidden = convolved_head(mix=mix, pooling=pooling), layers_of(5, 9, 1)
    assert head.convolutions is not None
    outputs = head(head.pool(hidden, 1, None))
    maps = [module for module in head.convolutions.blocks if isinstance(module, torch.nn.Linear)]
    for row, length in enumerate((5, 9, 1)):
        chosen = hidden if mix != "last" else hidden[-1:]
        frames = [(h.states[row, :length] - m) / s for h, m, s in zip(chosen, head.mean, head.spread, strict=True)]
        if head.weights is not None:
            shares = head.weights.exp() / head.weights.exp().sum()
            mixed = sum((w * f for w, f in zip(shares, frames, strict=True)), torch.zeros(()))
        else:
            mixed = torch.cat(frames, 1)
        channels = mixed.T[None]
        for linear in maps:
            channels = torch.nn.functional.conv1d(channels, linear.weight[:, :, None], linear.bias).relu()
        vector = channels[0].mean(1)
        if pooling == "mean+std":
            vector = torch.cat([vector, (channels[0].var(1, correction=0) + 1e-12).sqrt()])
        inner, outer = head.blocks[1], head.output
        assert isinstance(inner, torch.nn.Linear)
        assert isinstance(outer, torch.nn.Linear)
        expected = outer.weight @ (inner.weight @ vector + inner.bias).relu() + outer.bias
        torch.testing.assert_close(outputs[row], expected)


@pytest.mark.parametrize("pooling", ["mean", "mean+std", "attentive"])
def test_convolved_clips_do_not_see_padding_or_packing(pooling: str) -> None:
    head, lengths = convolved_head(pooling=pooling), (5, 9, 1)
    if head.attention is not None:
        torch.nn.init.normal_(head.attention.score.weight)
    hidden = layers_of(*lengths)
    together = head.pool(hidden, 1, None)
    for layer in hidden:
        layer.states[~layer.inside()] = 1e3
    torch.testing.assert_close(head.pool(hidden, 1, None), together)
    for row, length in enumerate(lengths):
        alone = [LayerStates(h.states[row : row + 1, :length], torch.tensor([length])) for h in hidden]
        torch.testing.assert_close(head.pool(alone, 1, None)[0], together[row])
    torch.testing.assert_close(head.pool([layer.pack() for layer in hidden], 1, None), together)


def test_frames_are_standardised_by_the_training_part() -> None:
    """Every clip counts the same: of clips of one length it is the mean and spread of all frames."""
    parts = [3 * torch.randn(7, 6) + shift for shift in (0.0, 4.0, -9.0)]
    pooled = torch.stack([mean_and_std(pad_states([part])) for part in parts])
    head = Head(HeadConfig(layers=[0], mix="weighted", convolutions=[4]), 3, 1, 6, 2)
    head.standardise(pooled)
    frames = torch.cat(parts)
    torch.testing.assert_close(head.mean[0], frames.mean(0))
    torch.testing.assert_close(head.spread[0], frames.std(0, correction=0))


@pytest.mark.parametrize("mix", ["weighted", "concat"])
def test_every_parameter_of_a_convolved_head_learns(mix: str) -> None:
    torch.manual_seed(1)
    head = convolved_head(mix=mix).train()
    head(head.pool(layers_of(5, 9), 1, None)).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_layers_of_different_frame_rates_are_not_mixed() -> None:
    hidden = layers_of(6, 4)
    hidden[-1] = LayerStates(hidden[-1].states.repeat_interleave(2, 1), hidden[-1].lengths * 2)
    with pytest.raises(SertuneError, match="different frame rates"):
        convolved_head().pool(hidden, 1, None)
    convolved_head(mix="last").pool(hidden, 1, None)


def test_different_frame_rates_are_refused_before_states_are_computed(tiny_corpus: Path, tmp_path: Path) -> None:
    values = {
        "data": f"synthetic:{tiny_corpus}",
        "encoder": save_family("sew", tmp_path / "sew"),
        "head": {"mix": "weighted", "layers": [2, 3], "convolutions": [8]},
    }
    with pytest.raises(SertuneError, match="different frame rates"):
        assemble(from_dict(values))


@pytest.mark.parametrize("method", [{"name": "frozen"}, {"name": "partial", "layers": 1}, {"name": "full"}])
def test_a_convolved_head_trains_and_is_saved(method: dict[str, Any], tiny_corpus: Path, tmp_path: Path) -> None:
    values = {
        "encoder": "builtin:random",
        "data": f"synthetic:{tiny_corpus}",
        "method": method,
        "head": {"mix": "weighted", "layers": [2, 3, 4], "convolutions": [32, 32], "hidden": [32], "dropout": 0.0},
        "augment": {"time_crop": [1.0, 1.0]},
        "train": {"epochs": 8, "average": 0.0, "lr": 3e-5, "head_lr": 0.003, "batch_clips": 4, "schedule": "constant"},
        "baseline": False,
        "out": str(tmp_path / "run"),
    }
    run = train(from_dict(values))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[1]["loss"] - 0.05
    model = load_model(run)
    assert model.spec.head.convolutions == [32, 32]
    table = pd.read_parquet(run / "predictions.parquet")
    audio = read_audio(table["file"].iloc[0], model.encoder.rate)
    label = model.target.decode(model.predict_audio([audio]))["predicted"][0]
    assert table["predicted"].iloc[0] == model.spec.target.labels[label]  # type: ignore[union-attr]


# -- targets


def test_ccc_loss_is_one_minus_the_metric() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 50, 2)).astype(np.float32)
    y = 0.5 * x + 0.5 * y
    target = DimensionTarget(("arousal", "valence"), ((-1.0, 1.0), (-1.0, 1.0)))
    expected = 1 - np.mean([scores.ccc(y[:, k], x[:, k]) for k in range(2)])
    assert float(target.loss(torch.from_numpy(x), torch.from_numpy(y))) == pytest.approx(expected, abs=1e-6)


def test_missing_ratings_are_left_out_of_their_dimension() -> None:
    target = DimensionTarget(("arousal", "valence"), ((1.0, 5.0), (1.0, 5.0)))
    x, y = torch.randn(9, 2), torch.randn(9, 2)
    gappy = y.clone()
    gappy[:4, 1] = float("nan")
    expected = (target.loss(x[:, :1], y[:, :1]) + target.loss(x[4:, 1:], y[4:, 1:])) / 2
    torch.testing.assert_close(target.loss(x, gappy), expected)


def test_dimensions_go_to_their_scale_and_back() -> None:
    target = DimensionTarget(("arousal", "valence"), ((1.0, 7.0), (-1.0, 1.0)))
    frame = pd.DataFrame({"arousal": [1.0, 4.0, 7.0, np.nan], "valence": [-1.0, 0.5, 1.0, 0.0]})
    encoded = target.encode(frame)
    assert encoded[:3, 0].tolist() == [-1.0, 0.0, 1.0]
    assert np.isnan(encoded[3, 0])
    decoded = target.decode(torch.from_numpy(encoded[:3]))["values"]
    np.testing.assert_allclose(decoded, frame.to_numpy()[:3], atol=1e-6)
    assert target.decode(torch.tensor([[9.0, -9.0]]))["values"].tolist() == [[7.0, -1.0]]


def test_category_loss_against_torch() -> None:
    target = CategoryTarget(("a", "b", "c"))
    targets = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1, 2]]
    outputs = torch.randn(6, 3)
    plain = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(targets))
    torch.testing.assert_close(target.loss(outputs, torch.from_numpy(targets)), plain)
    target.balance(targets)
    weighted = torch.nn.functional.cross_entropy(
        outputs, torch.tensor([0, 0, 0, 1, 1, 2]), weight=torch.tensor([6 / 9, 1.0, 2.0])
    )
    torch.testing.assert_close(target.loss(outputs, torch.from_numpy(targets)), weighted)


def test_logit_adjustment_moves_the_decision_to_rare_classes() -> None:
    """Where the loss is smallest without a feature, the plain logits undo the class shares (Menon et al. 2021)."""
    targets = np.eye(2, dtype=np.float32)[[0] * 8 + [1] * 2]
    target = CategoryTarget(("often", "rare"), adjustment=1.0, weighted=False)
    target.balance(targets)
    outputs = torch.zeros(2, requires_grad=True)
    solver = torch.optim.LBFGS([outputs], max_iter=100)

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = target.loss(outputs.expand(10, 2), torch.from_numpy(targets))
        loss.backward()
        return loss

    solver.step(closure)
    assert float(outputs.detach().diff()) == pytest.approx(0, abs=1e-3)


def test_labels_that_are_not_known_are_missing() -> None:
    target = CategoryTarget(("anger", "sadness"))
    encoded = target.encode(pd.DataFrame({"emotion": ["sadness", None, "joy"]}))
    assert encoded[0].tolist() == [0, 1]
    assert np.isnan(encoded[1:]).all()


def test_blends_lie_between() -> None:
    category, dimension = CategoryTarget(("a", "b")), DimensionTarget(("arousal",), ((1.0, 5.0),))
    one, other = torch.randn(4, 2), torch.randn(4, 2)
    assert torch.equal(category.blend(one, other, 0.0).softmax(1), one.log_softmax(1).softmax(1))
    torch.testing.assert_close(category.blend(one, one, 0.3).softmax(1), one.softmax(1))
    torch.testing.assert_close(dimension.blend(one[:, :1], other[:, :1], 0.25), 0.75 * one[:, :1] + 0.25 * other[:, :1])


@pytest.mark.parametrize("target", [CategoryTarget(("a", "b"), 0.1, 0.5), DimensionTarget(("arousal",), ((1.0, 5.0),))])
def test_targets_survive_being_described(target: CategoryTarget | DimensionTarget) -> None:
    assert target_from(target.describe()).describe() == target.describe()


# -- solved models


def test_logistic_regression_is_that_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 5))
    y = (x @ rng.standard_normal((5, 3)) + rng.gumbel(size=(80, 3))).argmax(1)
    target = CategoryTarget(("a", "b", "c"))
    found = fit_logistic(torch.from_numpy(x).float(), np.eye(3, dtype=np.float32)[y], target, 0.05, None)
    theirs = LogisticRegression(C=1 / (0.05 * 80), tol=1e-10, max_iter=1000).fit(x.astype(np.float32), y)
    np.testing.assert_allclose(found(torch.from_numpy(x).float()).softmax(1), theirs.predict_proba(x), atol=2e-4)


@pytest.mark.parametrize("width", [5, 90])
def test_ridge_regression_is_that_of_sklearn(width: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, width)).astype(np.float32)
    y = rng.standard_normal((60, 2)).astype(np.float32)
    y[:10, 1] = np.nan
    found = fit_ridge(torch.from_numpy(x), y, 0.1)
    for column, rows in ((0, slice(None)), (1, slice(10, None))):
        count = len(y[rows])
        theirs = Ridge(alpha=0.1 * count).fit(x[rows].astype(float), y[rows, column].astype(float))
        np.testing.assert_allclose(found(torch.from_numpy(x))[:, column], theirs.predict(x.astype(float)), atol=1e-4)


# -- batches and augmentation


def test_every_clip_is_in_one_batch_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    seconds = rng.gamma(2.0, 2.0, 500) + 0.3
    seconds[0] = 60.0
    batches = make_batches(seconds, max_clips=16, max_seconds=40.0, rng=rng)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * seconds[batch].max() <= 40.0
        assert len(batch) <= 16


def test_batches_are_of_about_equal_length_and_drawn_anew() -> None:
    seconds = np.random.default_rng(0).gamma(2.0, 2.0, 1000) + 0.3
    padded, random = 0.0, 0.0
    batches = make_batches(seconds, max_clips=16, max_seconds=1e9, rng=np.random.default_rng(1))
    order = np.random.default_rng(2).permutation(1000)
    for start, batch in zip(range(0, 1000, 16), batches, strict=False):
        padded += len(batch) * seconds[batch].max()
        random += 16 * seconds[order[start : start + 16]].max()
    assert padded < 1.25 * seconds.sum() < random
    again = make_batches(seconds, max_clips=16, max_seconds=1e9, rng=np.random.default_rng(3))
    assert [b.tolist() for b in again] != [b.tolist() for b in batches]


@pytest.mark.parametrize("count", [1, 2, 16, 17, 33, 50])
def test_no_batch_is_a_leftover(count: int) -> None:
    batches = make_batches(np.ones(count), max_clips=16, max_seconds=1e9, rng=np.random.default_rng(0))
    assert sum(map(len, batches)) == count
    assert min(map(len, batches)) >= min(count, 8)


def test_windows_are_pieces_of_the_clip() -> None:
    parts = [torch.arange(n, dtype=torch.float32)[:, None] + 100 * i for i, n in enumerate((40, 9))]
    torch.manual_seed(0)
    for _ in range(20):
        cropped = time_crop(pad_states(parts), 0.5, 1.0)
        for row, part in enumerate(parts):
            kept = cropped.states[row, : int(cropped.lengths[row]), 0]
            assert len(part) / 2 <= len(kept) <= len(part)
            assert torch.equal(kept.diff(), torch.ones(len(kept) - 1))
            assert {*kept.tolist()} <= {*part[:, 0].tolist()}
            assert not cropped.states[row, int(cropped.lengths[row]) :].any()


def test_masks_hide_about_their_share_and_never_a_whole_clip() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([200] * 200 + [3] * 50)
    hidden = time_mask(lengths, 200, 0.2, 10)
    assert 0.12 < float(hidden[:200].float().mean()) < 0.24
    assert not hidden[200:].any()
    assert (hidden.sum(1) < lengths).all()


def test_augmentation_leaves_padding_and_lengths_alone() -> None:
    entering = pad_states(clips(30, 12))
    options = AugmentConfig(time_crop=[1.0, 1.0], time_mask=0.3, time_span=0.1, channel_mask=0.2, noise=0.3)
    torch.manual_seed(1)
    out = augment_states(entering, options, 50.0)
    assert torch.equal(out.lengths, entering.lengths)
    assert not out.states[1, 12:].any()
    assert not torch.equal(out.states, entering.states)
    same = augment_states(entering, AugmentConfig(time_crop=[1.0, 1.0]), 50.0)
    assert torch.equal(same.states, entering.states)


def test_mixup_keeps_the_larger_half() -> None:
    torch.manual_seed(0)
    partner, weight = mixup_pairs(64, 0.4)
    assert sorted(partner.tolist()) == list(range(64))
    assert ((weight >= 0.5) & (weight <= 1)).all()
