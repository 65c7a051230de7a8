"""A new annotator from a few ratings: the fit, the nearest known annotators, and whether it helps."""

import numpy as np
import pytest
import torch

from sertune.config import HeadConfig, MethodConfig
from sertune.data.panel import Panel, make_panel
from sertune.errors import SertuneError
from sertune.model.emotion_model import EmotionModel, ModelSpec, Vectors
from sertune.model.encoder import load_encoder
from sertune.model.new_rater import fit_rater, prior, rater_part
from sertune.model.raters import RaterForm
from sertune.model.targets import CategoryTarget, RaterLabelTarget, RaterTarget, Target
from sertune.model.targets.dimension import from_unit

SCALES = ((1.0, 5.0), (0.0, 100.0))
LABELS = ("anger", "neutral", "sadness")
NAMES = tuple(f"p{i + 1:02d}" for i in range(30))


def model_of(target: Target, method: str = "frozen") -> EmotionModel:
    torch.manual_seed(0)
    spec = ModelSpec("builtin:random", MethodConfig(method, 1), HeadConfig(mix="last", pooling="mean"), target)
    return EmotionModel(load_encoder("builtin:random", check=False), spec).eval()


def clips(model: EmotionModel, count: int, seed: int, windows: int = 1) -> list[Vectors]:
    make = torch.Generator().manual_seed(seed)
    below = model.head.readout is not None
    shape = model.head.source_mean.shape
    return [
        Vectors(
            torch.randn(windows, *shape, generator=make),
            torch.randn(windows, model.encoder.width, generator=make) if below else None,
        )
        for _ in range(count)
    ]


@torch.no_grad()
def paneled(panel: Panel, method: str = "frozen", form: RaterForm | None = None) -> EmotionModel:
    """A model whose annotators have the biases and gains of a panel."""
    target = RaterTarget(("arousal", "valence"), SCALES, panel.names, form=form or RaterForm())
    model = model_of(target, method)
    _, layer = rater_part(model)
    for part in layer.average:
        torch.nn.init.normal_(part.weight, std=0.35 / part.in_features**0.5)  # type: ignore[arg-type, operator]
        torch.nn.init.zeros_(part.bias)  # type: ignore[arg-type]
    if layer.form.kind == "embedding":
        for leave in layer.leave:
            torch.nn.init.normal_(leave.weight, std=0.3)  # type: ignore[arg-type]
        torch.nn.init.normal_(layer.own)
    else:
        layer.own[:, :, 0, 0] = torch.from_numpy(panel.bias[:, :2])
        layer.own[:, :, 0, 1] = torch.from_numpy(panel.gain[:, :2] - 1)
    if model.head.readout is not None:
        torch.nn.init.normal_(model.head.readout.weight, std=0.02)
    layer.counts.fill_(60)
    layer.shrinkage.fill_(3)
    layer.noise.fill_(0.2)
    return model


def said(model: EmotionModel, panel: Panel, who: int, vectors: list[Vectors]) -> np.ndarray:
    """(N, 2) what somebody of a panel hears, in [-1, 1], without noise."""
    _, layer = rater_part(model)
    blank = torch.zeros_like(layer.own[:1])
    average = np.stack([model.annotators(clip, blank)[:, 0].mean(0).numpy() for clip in vectors])
    own = np.stack([layer.parts(model.head.hidden(clip.head))[0].detach().mean(0).numpy() for clip in vectors])
    return np.asarray(average + panel.bias[who, :2] + (panel.gain[who, :2] - 1) * own, dtype=np.float64)


def predicted(model: EmotionModel, vectors: list[Vectors], own: torch.Tensor) -> np.ndarray:
    return np.stack([model.annotators(clip, own)[:, 0].mean(0).numpy() for clip in vectors])


@pytest.mark.parametrize("method", ["frozen", "partial"])
def test_it_is_never_worse_than_the_average_annotator_and_improves_with_ratings(method: str) -> None:
    model, newcomers = paneled(make_panel(30), method), make_panel(12, seed=1)
    heard, unheard = clips(model, 20, 1), clips(model, 40, 2)
    noise = np.random.default_rng(0).normal(0, 0.2, (12, 20, 2))
    everybody = np.stack([model.annotators(clip)[0].mean(0).numpy() for clip in unheard])
    errors: dict[int, list[float]] = {}
    average = []
    for who in range(12):
        true = said(model, newcomers, who, unheard)
        average.append(np.sqrt(np.mean((everybody - true) ** 2)))
        ratings = from_unit(np.clip(said(model, newcomers, who, heard) + noise[who], -1, 1), SCALES)
        for count in (1, 5, 10, 20):
            own = fit_rater(model, heard[:count], ratings[:count]).own
            errors.setdefault(count, []).append(float(np.sqrt(np.mean((predicted(model, unheard, own) - true) ** 2))))
    curve = [float(np.mean(errors[count])) for count in (1, 5, 10, 20)]
    assert curve == sorted(curve, reverse=True)
    assert curve[0] < 0.9 * np.mean(average)
    assert curve[3] < 0.45 * np.mean(average)


def test_ratings_of_a_known_annotator_lead_back_to_them() -> None:
    panel = make_panel(30)
    model = paneled(panel)
    heard = clips(model, 25, 3)
    ratings = from_unit(np.clip(said(model, panel, 7, heard), -1, 1), SCALES)
    fitted = fit_rater(model, heard, ratings)
    assert fitted.nearest[0].rater == panel.names[7]
    assert fitted.nearest[0].weight > 0.99
    assert fitted.nearest[0].distance == pytest.approx(0, abs=0.02)
    assert sum(near.weight for near in fitted.nearest) == pytest.approx(1)
    assert fitted.errors["nearest"]["valence"] < 2 < fitted.errors["average"]["valence"]
    _, layer = rater_part(model)
    np.testing.assert_allclose(predicted(model, heard, fitted.own), predicted(model, heard, layer.own[7:8]), atol=0.1)


def test_the_closed_form_is_where_the_search_ends() -> None:
    """The ridge of heads against plain gradient descent on the stated cost."""
    model = paneled(make_panel(30), "partial")
    heard = clips(model, 6, 4, windows=2)
    ratings = from_unit(np.random.default_rng(1).uniform(-0.8, 0.8, (6, 2)), SCALES)
    ratings[2, 1] = np.nan
    own = fit_rater(model, heard, ratings).own
    _, layer = rater_part(model)
    middle, spread = (part.float() for part in prior(layer))
    unit = torch.from_numpy(2 * (ratings - [1, 0]) / [4, 100] - 1)
    free = spread > 0

    def cost(theta: torch.Tensor) -> float:
        values = torch.stack([model.annotators(clip, theta)[:, 0].mean(0) for clip in heard]).double()
        errors = ((values - unit) / 0.2)[~unit.isnan()]
        apart = ((theta[0] - middle) / spread)[free]
        return float(errors.square().sum() / 2 + apart.square().sum() / 2)

    assert torch.equal(own[0][~free], middle[~free])
    least = cost(own)
    make = torch.Generator().manual_seed(0)
    for _ in range(40):
        step = 0.05 * torch.randn(own.shape, generator=make) * free
        assert cost(own + step) > least


@pytest.mark.parametrize("form", [RaterForm("embedding", rank=3), RaterForm("heads", branch=(6,))])
def test_embeddings_and_branches_are_fitted_too(form: RaterForm) -> None:
    model = paneled(make_panel(30), form=form)
    _, layer = rater_part(model)
    with torch.no_grad():
        if form.branch:
            layer.own.normal_(std=0.2)
    heard, unheard = clips(model, 20, 5), clips(model, 20, 6)
    true = layer.own[4:5].detach()
    with torch.no_grad():
        layer.own[4] = 0  # the layer no longer knows them
        layer.counts[4] = 0
    ratings = from_unit(np.clip(predicted(model, heard, true), -1, 1).astype(np.float64), SCALES)
    fitted = fit_rater(model, heard, ratings)
    assert "p05" not in [near.rater for near in fitted.nearest]
    everybody = np.stack([model.annotators(clip)[0].mean(0).numpy() for clip in unheard])
    target = predicted(model, unheard, true)
    apart = np.mean((predicted(model, unheard, fitted.own) - target) ** 2)
    assert apart < 0.3 * np.mean((everybody - target) ** 2)


def test_labels() -> None:
    """Somebody who hears anger everywhere is nearest to those who do, and is predicted so."""
    model = model_of(RaterLabelTarget(LABELS, NAMES))
    _, layer = rater_part(model)
    with torch.no_grad():
        layer.own[:, 0, :, 0] = torch.from_numpy(np.random.default_rng(0).normal(0, 0.5, (30, 3)))
        layer.own[3, 0, :, 0] = torch.tensor([3.0, 0.0, 0.0])
        layer.counts.fill_(80)
    heard = clips(model, 8, 7)
    fitted = fit_rater(model, heard, np.zeros(8))
    assert fitted.nearest[0].rater == "p04"
    assert fitted.errors["fitted"]["cross-entropy"] < fitted.errors["average"]["cross-entropy"]
    assert fitted.errors["fitted"]["wrong"] == 0
    probabilities = model.annotators(clips(model, 1, 8)[0], fitted.own)[0, 0].softmax(0)
    before = model.annotators(clips(model, 1, 8)[0])[0].softmax(1).mean(0)
    assert float(probabilities[0]) > float(before[0]) + 0.1
    with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
        fit_rater(model, heard, np.full(8, 3.0))


def test_a_clip_of_two_equal_windows_counts_as_one() -> None:
    model = paneled(make_panel(30), "partial")
    once = clips(model, 4, 9)
    twice = [Vectors.cat([clip, clip]) for clip in once]
    ratings = from_unit(np.random.default_rng(2).uniform(-0.8, 0.8, (4, 2)), SCALES)
    first, second = fit_rater(model, once, ratings), fit_rater(model, twice, ratings)
    torch.testing.assert_close(first.own, second.own)
    for name, errors in first.errors.items():
        assert second.errors[name] == pytest.approx(errors)


def test_clips_with_noisier_ratings_weigh_less() -> None:
    """A clip that is heard in many ways says less of who rates it."""
    model = paneled(make_panel(30))
    _, layer = rater_part(model)
    heard, ratings = clips(model, 1, 13), np.array([[4.0, 80.0]])
    usual = fit_rater(model, heard, ratings).own
    layer.noise_offset.fill_(-1.0)
    noisy = fit_rater(model, heard, ratings).own
    middle = prior(layer)[0].float()
    assert float((noisy[0] - middle).norm()) < 0.8 * float((usual[0] - middle).norm())


def test_one_rating_has_no_leave_one_out_error() -> None:
    model = paneled(make_panel(30))
    fitted = fit_rater(model, clips(model, 1, 10), np.array([[2.0, np.nan]]))
    assert fitted.errors == {}
    assert len(fitted.nearest) == 5


def test_a_single_known_annotator_and_none() -> None:
    model = paneled(make_panel(30))
    _, layer = rater_part(model)
    heard, ratings = clips(model, 3, 11), np.array([[2.0, 50.0], [3.0, 10.0], [4.0, 90.0]])
    layer.counts[1:] = 0
    fitted = fit_rater(model, heard, ratings)
    assert [near.rater for near in fitted.nearest] == ["p01"]
    assert bool(fitted.own.isfinite().all())
    layer.counts.zero_()
    with pytest.raises(SertuneError, match="has met no annotator"):
        fit_rater(model, heard, ratings)


def test_wrong_calls() -> None:
    model = paneled(make_panel(30))
    heard = clips(model, 2, 12)
    with pytest.raises(ValueError, match="shape"):
        fit_rater(model, heard, np.zeros(2))
    with pytest.raises(ValueError, match="without a rating"):
        fit_rater(model, heard, np.array([[2.0, 50.0], [np.nan, np.nan]]))
    with pytest.raises(ValueError, match="outside its scale"):
        fit_rater(model, heard, np.array([[2.0, 50.0], [6.0, 50.0]]))
    with pytest.raises(SertuneError, match="predicts no single annotators"):
        fit_rater(model_of(CategoryTarget(LABELS)), heard, np.zeros(2))
