"""Distributions as targets: shares of votes, their losses, Gaussian and Beta ratings, against other implementations."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor

from sertune.data.labels import label_distances
from sertune.metrics.transport import emd
from sertune.model.probe import fit_linear, rating_moments
from sertune.model.targets import (
    CategoryTarget,
    DimensionTarget,
    JoinedTarget,
    Plane,
    PlaneTarget,
    RaterTarget,
    SpreadTarget,
    VotesTarget,
)
from sertune.model.targets.distribution import LEAST_SPREAD, beta_cells, cell_distances, distribution_loss, sinkhorn
from sertune.train.judge import judged_by, score, score_spread

LABELS = ("anger", "happiness", "neutral", "sadness")
PLANE = ("arousal", "valence")
SCALES = ((1.0, 5.0), (1.0, 7.0))


def distributions(count: int, size: int, seed: int = 0, concentration: float = 0.5) -> Tensor:
    """(count, size) random shares."""
    return torch.from_numpy(np.random.default_rng(seed).dirichlet([concentration] * size, count)).float()


def rated(*values: tuple[str, str, str, object]) -> pd.DataFrame:
    return pd.DataFrame(values, columns=["utterance", "rater", "attribute", "value"])


def frame(*names: str) -> pd.DataFrame:
    return pd.DataFrame({"id": list(names)})


# -- shares of votes


def test_shares_of_the_votes() -> None:
    ratings = rated(
        ("a", "1", "emotion", "anger"),
        ("a", "2", "emotion", "anger"),
        ("a", "3", "emotion", "sadness"),
        ("a", "4", "emotion", "disgust"),  # is not asked for
        ("b", "1", "emotion", "disgust"),
        ("b", "1", "arousal", 3.0),
        ("c", "9", "emotion", "neutral"),
    )
    shares = VotesTarget(LABELS).encode(frame("a", "b", "c", "d"), ratings)
    np.testing.assert_allclose(shares[0], [2 / 3, 0, 0, 1 / 3])
    assert np.isnan(shares[[1, 3]]).all()
    np.testing.assert_array_equal(shares[2], [0, 0, 1, 0])
    assert np.isnan(VotesTarget(LABELS).encode(frame("a"), None)).all()


@pytest.mark.parametrize("measure", ["cross-entropy", "kl", "emd"])
def test_clips_without_votes_are_left_out(measure: str) -> None:
    target, logits = VotesTarget(LABELS, measure), torch.randn(6, 4, requires_grad=True)
    shares = distributions(6, 4)
    shares[[1, 4]] = torch.nan
    loss = target.loss(logits, shares)
    known = [0, 2, 3, 5]
    torch.testing.assert_close(loss, target.loss(logits[known], shares[known]))
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[[1, 4]] == 0).all()
    nothing = target.loss(logits, torch.full_like(shares, torch.nan))
    assert float(nothing.detach()) == 0


# -- losses of distributions


def test_kl_is_cross_entropy_minus_entropy() -> None:
    logits, shares = torch.randn(9, 4, requires_grad=True), distributions(9, 4)
    shares[0] = torch.tensor([1.0, 0, 0, 0])
    kl, entropy = (VotesTarget(LABELS, measure).loss(logits, shares) for measure in ("kl", "cross-entropy"))
    own = -torch.special.xlogy(shares, shares).sum(1).mean()
    torch.testing.assert_close(kl, entropy - own)
    expected = torch.nn.functional.kl_div(logits.log_softmax(1), shares, reduction="batchmean")
    torch.testing.assert_close(kl, expected)
    slopes = [torch.autograd.grad(loss, logits)[0] for loss in (kl, entropy)]
    torch.testing.assert_close(slopes[0], slopes[1])


@pytest.mark.parametrize("kind", ["labels", "cells"])
def test_the_transport_is_near_the_exact_one(kind: str) -> None:
    cost = torch.from_numpy(label_distances(LABELS)) if kind == "labels" else cell_distances((4, 4))
    size = len(cost)
    p, q = distributions(40, size, 1), distributions(40, size, 2)
    found = sinkhorn(p.clamp_min(1e-9).log().double(), q.double(), cost).numpy()
    exact = emd(p.double().numpy(), q.double().numpy(), cost.numpy())
    assert np.abs(found - exact).max() < 0.1 * float(cost.max())
    assert np.corrcoef(found, exact)[0, 1] > 0.99


@pytest.mark.parametrize("grid", [(4, 4), (8, 8), (2, 3)])
def test_equal_distributions_are_near_each_other(grid: tuple[int, int]) -> None:
    cost = cell_distances(grid)
    p = distributions(20, len(cost), 3).double()
    same = sinkhorn(p.clamp_min(1e-9).log(), p, cost)
    far = sinkhorn(p.clamp_min(1e-9).log(), p.roll(1, 0), cost)
    assert (same >= 0).all()
    assert float(same.max()) < 0.06 * float(cost.max())
    assert float(same.mean()) < (0.3 if max(grid) > 4 else 0.1) * float(far.mean())  # the entropy blurs small cells


def test_near_cells_are_smaller_mistakes() -> None:
    """Also in the gradient: mass far off is moved harder than mass next door; cross-entropy sees no difference."""
    cost = (torch.arange(5)[:, None] - torch.arange(5)).abs().double()
    true = torch.eye(5)[:1]
    losses = []
    for place in range(5):
        logits = torch.full((1, 5), -4.0)
        logits[0, place] = 4.0
        losses.append(float(distribution_loss(logits, true, "emd", cost)))
    assert losses == sorted(losses)
    assert losses[4] > 3 * losses[1] > 0.5
    logits = torch.zeros(1, 5, requires_grad=True)
    distribution_loss(logits, true, "emd", cost).backward()
    assert logits.grad is not None
    slopes = logits.grad[0]
    assert slopes[0] < 0 < slopes[4]
    assert (slopes.diff() > 0).all()
    (alike,) = torch.autograd.grad(distribution_loss(logits, true, "cross-entropy", None), logits)
    torch.testing.assert_close(alike[0, 1:], alike[0, 1:2].expand(4))


def test_the_transports_gradient_is_that_of_finite_differences() -> None:
    cost = cell_distances((2, 3))
    q = distributions(2, 6, 5).double()
    torch.manual_seed(0)
    logits = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sinkhorn(x.log_softmax(1), q, cost), (logits,), atol=1e-5)


@pytest.mark.parametrize("measure", ["cross-entropy", "kl", "emd"])
@pytest.mark.parametrize("scale", [0.0, 60.0, 1000.0])
def test_losses_stay_finite(measure: str, scale: float) -> None:
    cost = cell_distances((4, 4))
    logits = (scale * torch.randn(5, 16)).requires_grad_()
    shares = torch.eye(16)[[0, 3, 7, 7, 15]]
    loss = distribution_loss(logits, shares, measure, cost)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


# -- the plane by a softmax


@pytest.mark.parametrize("grid", [(4, 4), (2, 5)])
def test_a_softmax_over_cells_has_their_mean_and_spread(grid: tuple[int, int]) -> None:
    target = PlaneTarget(SCALES, Plane(grid))
    cells = distributions(6, target.outputs).double()
    decoded = target.decode(cells.log())
    np.testing.assert_allclose(decoded["cells"], cells.numpy(), atol=1e-7)
    for axis, (low, high) in enumerate(SCALES):
        width = (high - low) / grid[axis]
        centres = low + width * (np.arange(grid[axis]) + 0.5)
        shares = cells.reshape(6, *grid).sum(2 - axis).numpy()
        mean = shares @ centres
        np.testing.assert_allclose(decoded["values"][:, axis], mean, atol=1e-6)
        spread = np.sqrt((shares * (centres - mean[:, None]) ** 2).sum(1))
        np.testing.assert_allclose(decoded["spread"][:, axis], spread, atol=1e-6)


def test_a_clip_is_on_the_plane_where_somebody_rated_both() -> None:
    ratings = rated(
        ("a", "1", "arousal", 5.0),
        ("a", "1", "valence", 1.0),
        ("b", "1", "arousal", 5.0),
        ("b", "2", "valence", 1.0),
        ("c", "1", "arousal", 2.0),
    )
    cells = PlaneTarget(SCALES, Plane()).encode(frame("a", "b", "c", "d"), ratings)
    assert np.isnan(cells[1:]).all()
    assert cells[0].reshape(4, 4)[3, 0] == cells[0].max()  # high arousal, low valence
    assert cells[0].sum() == pytest.approx(1)


# -- a spread per dimension


def spread_of(family: str, dimensions: tuple[str, ...] = PLANE) -> SpreadTarget:
    plane = Plane() if dimensions == PLANE else None
    return SpreadTarget(dimensions, SCALES[: len(dimensions)], family, plane)


def encoded(target: SpreadTarget, clips: int = 30, seed: int = 0) -> np.ndarray:
    """Targets of clips with up to 4 ratings, some of one dimension alone; without a plane's truth."""
    rng = np.random.default_rng(seed)
    width = len(target.dimensions)
    slots = rng.uniform(-1, 1, (clips, 4, 1 + width))
    slots[rng.random(slots.shape) < 0.3] = np.nan
    slots[:, :, 0] = -1
    plane = np.full((clips, target.before), np.nan)
    return np.concatenate([plane, slots.reshape(clips, -1)], 1).astype(np.float32)


@pytest.mark.parametrize("family", ["gaussian", "beta"])
def test_the_likelihood_is_that_of_scipy(family: str) -> None:
    target = spread_of(family)
    outputs, targets = torch.randn(30, 4), encoded(target)
    ratings = targets[:, 16:].reshape(30, 4, 3)[:, :, 1:].astype(np.float64)
    location, scale = outputs.double().numpy()[:, None, :2], outputs.double().numpy()[:, None, 2:]
    if family == "gaussian":
        logs = stats.norm(location, np.exp(scale) + LEAST_SPREAD).logpdf(ratings)
    else:
        mean, concentration = 1 / (1 + np.exp(-location)), np.exp(scale) + 2
        logs = stats.beta(mean * concentration, (1 - mean) * concentration).logpdf((ratings + 1) / 2 * 0.98 + 0.01)
    expected = -np.nanmean(logs, axis=(0, 1)).mean()
    assert float(target.loss(outputs, torch.from_numpy(targets))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", ["gaussian", "beta"])
def test_an_attribute_without_ratings_has_no_loss_and_no_gradient(family: str) -> None:
    target = spread_of(family)
    targets = torch.from_numpy(encoded(target))
    targets[:, 16:].reshape(30, 4, 3)[:, :, 2] = torch.nan
    outputs = torch.randn(30, 4, requires_grad=True)
    loss = target.loss(outputs, targets)
    alone = spread_of(family, PLANE[:1])
    kept = targets[:, 16:].reshape(30, 4, 3)[:, :, :2].flatten(1)
    torch.testing.assert_close(loss, alone.loss(outputs[:, [0, 2]], kept))
    loss.backward()
    assert outputs.grad is not None
    assert (outputs.grad[:, [1, 3]] == 0).all()
    nothing = target.loss(outputs, torch.full_like(targets, torch.nan))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert outputs.grad.isfinite().all()


@pytest.mark.parametrize("family", ["gaussian", "beta"])
@pytest.mark.parametrize("extreme", [-300.0, 30.0])
def test_extreme_outputs_have_finite_likelihoods(family: str, extreme: float) -> None:
    target = spread_of(family)
    targets = torch.from_numpy(encoded(target))
    targets[:, 16:].reshape(30, 4, 3)[:, :, 1:] = targets[:, 16:].reshape(30, 4, 3)[:, :, 1:].sign()
    outputs = torch.full((30, 4), extreme, requires_grad=True)
    loss = target.loss(outputs, targets)
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    for values in target.decode(outputs.detach()).values():
        assert np.isfinite(values).all()


@pytest.mark.parametrize("family", ["gaussian", "beta"])
def test_the_most_likely_outputs_have_the_moments_of_the_ratings(family: str) -> None:
    target = spread_of(family, PLANE[:1])
    rng = np.random.default_rng(0)
    values = 2 * rng.beta(4, 2, 4000) - 1 if family == "beta" else rng.normal(-0.2, 0.3, 4000)
    slots = np.stack([np.full(4000, -1.0), values], 1).reshape(1, -1).astype(np.float32)
    outputs = torch.zeros(1, 2, requires_grad=True)
    solver = torch.optim.LBFGS([outputs], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = target.loss(outputs, torch.from_numpy(slots))
        loss.backward()
        return loss

    solver.step(closure)
    decoded = target.decode(outputs.detach())
    assert decoded["values"].item() == pytest.approx(3 + 2 * values.mean(), abs=0.03)
    assert decoded["spread"].item() == pytest.approx(2 * values.std(), rel=0.05)


@pytest.mark.parametrize("family", ["gaussian", "beta"])
def test_cells_are_the_shares_of_draws(family: str) -> None:
    target, rng, draws = spread_of(family), np.random.default_rng(0), 200_000
    outputs = torch.tensor([[0.3, -0.2, -1.0, -1.3], [-0.1, 0.4, -0.7, -2.0]])
    if family == "beta":
        outputs = torch.tensor([[0.5, -1.0, 1.0, 2.0], [-0.4, 0.2, 2.5, 0.0]])
    cells = target.decode(outputs)["cells"].reshape(-1, 4, 4)
    for row, own in enumerate(outputs.double().numpy()):
        location, scale = own[:2], own[2:]
        if family == "gaussian":
            points = rng.normal(location, np.exp(scale) + LEAST_SPREAD, (draws, 2))
        else:
            mean, concentration = 1 / (1 + np.exp(-location)), np.exp(scale) + 2
            points = 2 * rng.beta(mean * concentration, (1 - mean) * concentration, (draws, 2)) - 1
        inside = points[(np.abs(points) <= 1).all(1)]
        counts, _, _ = np.histogram2d(inside[:, 0], inside[:, 1], bins=4, range=[[-1, 1], [-1, 1]])
        np.testing.assert_allclose(cells[row], counts / len(inside), atol=0.005)


def test_beta_cells_are_differences_of_the_distribution_function() -> None:
    alpha, beta = torch.tensor([[2.0, 0.7], [30.0, 1.0]]).double(), torch.tensor([[3.0, 2.0], [50.0, 1.0]]).double()
    cells = beta_cells(alpha, beta, (4, 3)).numpy()
    for row in range(2):
        own = [
            np.diff(stats.beta(alpha[row, i], beta[row, i]).cdf(np.linspace(0, 1, n + 1))) for i, n in ((0, 4), (1, 3))
        ]
        np.testing.assert_allclose(cells[row], own[0][:, None] * own[1][None, :], atol=0.01)


@pytest.mark.parametrize("family", ["gaussian", "beta"])
def test_a_start_is_what_decoding_gives_back(family: str) -> None:
    target = spread_of(family)
    mean = np.array([[0.0, 0.3], [-0.6, 0.5], [0.2, -0.2]])
    spread = np.array([[0.3, 0.2], [0.25, 0.4], [0.15, 0.5]])
    decoded = target.decode(torch.from_numpy(target.start_of(mean, spread)))
    halves = np.array([2.0, 3.0])
    np.testing.assert_allclose(decoded["values"], [3, 4] + halves * mean, atol=1e-9)
    np.testing.assert_allclose(decoded["spread"], halves * spread, atol=1e-9)


@pytest.mark.parametrize("family", ["gaussian", "beta"])
def test_starts_at_the_ends_of_the_scale_are_finite(family: str) -> None:
    target = spread_of(family)
    for mean, spread in ((1.0, 0.0), (-1.0, 2.0), (0.0, 0.0), (0.9, 1.0)):
        start = target.start_of(np.full((2, 2), mean), np.full((2, 2), spread))
        assert np.isfinite(start).all()
        for values in target.decode(torch.from_numpy(start)).values():
            assert np.isfinite(values).all()


@pytest.mark.parametrize("family", ["gaussian", "beta"])
@pytest.mark.parametrize("several", [True, False])
def test_the_solved_start_learns_mean_and_spread(family: str, several: bool) -> None:
    """Also where no clip has two ratings; then all have one spread."""
    rng = np.random.default_rng(0)
    target, features = spread_of(family), rng.standard_normal((200, 3))
    mean, spread = 0.3 * features[:, :2], 0.1 + 0.25 / (1 + np.exp(-features[:, 2:]))
    slots = np.full((200, 6, 3), np.nan)
    slots[:, :, 1:] = mean[:, None] + spread[:, None] * rng.standard_normal((200, 6, 2))
    slots[:, :, 0] = -1
    if not several:
        slots[:, 1:, 1:] = np.nan
    plane = np.full((200, 16), 1 / 16)
    targets = np.concatenate([plane, slots.reshape(200, -1)], 1).astype(np.float32)
    model = fit_linear(torch.from_numpy(features).float(), targets, target, 0.01)
    decoded = target.decode(model(torch.from_numpy(features)))
    assert np.corrcoef(decoded["values"][:, 0], mean[:, 0])[0, 1] > 0.9
    if several:
        assert np.corrcoef(decoded["spread"][:, 1], spread[:, 0])[0, 1] > 0.8
    else:
        apart = decoded["spread"].std(axis=0) / decoded["spread"].mean(axis=0)
        assert (apart < (1e-6 if family == "gaussian" else 0.1)).all()


def test_moments_of_ratings() -> None:
    target = spread_of("gaussian", PLANE[:1])
    slots = np.array([[[-1, 0.5], [-1, 0.1]], [[-1, 0.4], [-1, np.nan]], [[-1, np.nan], [-1, np.nan]]])
    mean, spread = rating_moments(slots.reshape(3, -1).astype(np.float32), target)
    np.testing.assert_allclose(mean[:, 0], [0.3, 0.4, np.nan], atol=1e-6)
    np.testing.assert_allclose(spread[:, 0], [0.4 / 2**0.5, np.nan, np.nan], atol=1e-6)


# -- how dev judges


def test_what_dev_is_judged_by() -> None:
    plane = Plane()
    rater = RaterTarget(PLANE, SCALES, ("a", "b"), plane)
    density = RaterTarget(PLANE, SCALES, ("a", "b"), plane, density=True)
    joined = JoinedTarget((CategoryTarget(LABELS), rater), (1.0, 1.0), lead=1)
    said = [judged_by(target) for target in (VotesTarget(LABELS), PlaneTarget(SCALES), rater, density, joined)]
    assert said == [
        "1 - TVD",
        "1 - TVD",
        "mean CCC",
        "the average of mean CCC and 1 - TVD",
        "the average of mean CCC and UAR",
    ]


@pytest.mark.parametrize("measure", ["cross-entropy", "emd"])
def test_perfect_distributions_score_one(measure: str) -> None:
    shares = distributions(12, 4).numpy()
    shares[3] = np.nan
    target = VotesTarget(LABELS, measure)
    logits = torch.from_numpy(np.nan_to_num(shares, nan=0.25)).clamp_min(1e-12).log()
    assert score(target, logits, shares) == pytest.approx(1, abs=1e-6)
    assert score_spread(target, logits, shares) == pytest.approx(0, abs=1e-6)
    other = score(target, logits.roll(1, 1), shares)
    tvd = np.nanmean(np.abs(np.roll(shares, 1, 1) - shares).sum(1)) / 2
    assert other == pytest.approx(1 - tvd, abs=1e-6)
    assert math.isnan(score(target, logits, np.full_like(shares, np.nan)))


def test_a_joined_score_is_the_mean_of_the_parts() -> None:
    rng = np.random.default_rng(0)
    parts = (CategoryTarget(LABELS), DimensionTarget(PLANE, SCALES))
    target = JoinedTarget(parts, (1.0, 1.0))
    targets = np.concatenate([np.eye(4)[rng.integers(4, size=40)], rng.uniform(-1, 1, (40, 2))], 1).astype(np.float32)
    outputs = torch.from_numpy(targets + rng.normal(0, 0.6, targets.shape)).float()
    own = [score(parts[0], outputs[:, :4], targets[:, :4]), score(parts[1], outputs[:, 4:], targets[:, 4:])]
    assert score(target, outputs, targets) == pytest.approx(np.mean(own))
    assert 0 < score_spread(target, outputs, targets) < 0.2
