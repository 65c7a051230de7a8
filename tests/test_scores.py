import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from sertune.metrics import scores

Ints = NDArray[np.int64]


@pytest.fixture
def pairs() -> tuple[Ints, Ints]:
    rng = np.random.default_rng(1)
    true = rng.integers(0, 5, 400)
    return true, np.where(rng.random(400) < 0.6, true, rng.integers(0, 5, 400))


def test_category_scores_are_those_of_sklearn(pairs: tuple[Ints, Ints]) -> None:
    true, predicted = pairs
    matrix = scores.confusion(true, predicted, 5)
    assert (matrix == sk.confusion_matrix(true, predicted)).all()
    assert scores.uar(true, predicted) == pytest.approx(sk.balanced_accuracy_score(true, predicted))
    assert scores.accuracy(true, predicted) == pytest.approx(sk.accuracy_score(true, predicted))
    assert scores.macro_f1(true, predicted) == pytest.approx(sk.f1_score(true, predicted, average="macro"))
    precision, recall, f1, _ = sk.precision_recall_fscore_support(true, predicted)
    np.testing.assert_allclose(scores.precision_of(matrix), precision)
    np.testing.assert_allclose(scores.recall_of(matrix), recall)
    np.testing.assert_allclose(scores.f1_of(matrix), f1)


def test_hand_computed() -> None:
    true, predicted = [0, 0, 0, 1], [0, 0, 1, 1]
    assert scores.confusion(true, predicted, 2).tolist() == [[2, 1], [0, 1]]
    assert scores.uar(true, predicted) == pytest.approx((2 / 3 + 1) / 2)
    assert scores.accuracy(true, predicted) == 0.75
    assert scores.macro_f1(true, predicted) == pytest.approx((0.8 + 2 / 3) / 2)


def test_a_class_that_never_occurs_does_not_lower_uar_but_a_wrong_guess_of_it_lowers_f1() -> None:
    true, predicted = [0, 0, 1, 1], [0, 0, 1, 2]
    assert scores.uar(true, predicted) == pytest.approx(0.75)
    assert scores.macro_f1(true, predicted) == pytest.approx(
        sk.f1_score(true, predicted, average="macro", zero_division=0)
    )
    matrix = scores.confusion(true, predicted, 4)
    assert np.isnan(scores.recall_of(matrix)).tolist() == [False, False, True, True]
    assert np.isnan(scores.precision_of(matrix)).tolist() == [False, False, False, True]
    assert np.isnan(scores.f1_of(matrix)).tolist() == [False, False, False, True]
    assert scores.uar_of(matrix) == pytest.approx(0.75)


def test_clips_without_truth_are_left_out(pairs: tuple[Ints, Ints]) -> None:
    true, predicted = pairs
    holes = np.where(np.arange(400) % 3 == 0, -1, true)
    kept = holes >= 0
    assert scores.uar(holes, predicted) == scores.uar(true[kept], predicted[kept])
    x, y = np.array([1.0, np.nan, 3.0, 5.0]), np.array([1.5, 9.0, 2.0, 5.0])
    for score in (scores.ccc, scores.rmse, scores.pearson):
        assert score(x, y) == pytest.approx(score(x[[0, 2, 3]], y[[0, 2, 3]]))


def test_uar_does_not_depend_on_class_sizes_or_order(pairs: tuple[Ints, Ints]) -> None:
    true, predicted = pairs
    often = np.repeat(np.arange(400), np.where(true == 2, 7, 1))
    assert scores.uar(true[often], predicted[often]) == pytest.approx(scores.uar(true, predicted))
    swap = np.array([3, 1, 4, 0, 2])
    for score in (scores.uar, scores.accuracy, scores.macro_f1):
        assert score(swap[true], swap[predicted]) == pytest.approx(score(true, predicted))


def test_stacks_of_matrices_are_scored_one_by_one(pairs: tuple[Ints, Ints]) -> None:
    rng = np.random.default_rng(2)
    stack = rng.integers(0, 4, (3, 6, 4, 4))
    for name, values in scores.category_scores_of(stack).items():
        assert values.shape == (3, 6)
        assert values[1, 2] == scores.category_scores_of(stack[1, 2])[name]


def test_empty_and_bad_input() -> None:
    assert np.isnan(scores.uar([], []))
    assert np.isnan(scores.uar([-1, -1], [0, 1]))
    assert np.isnan(scores.rmse([np.nan], [1.0]))
    with pytest.raises(ValueError, match="shape"):
        scores.confusion([0, 1], [0], 2)
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        scores.confusion([0, 2], [0, 1], 2)
    with pytest.raises(ValueError, match="integers"):
        scores.confusion([0.0, 1.0], [0, 1], 2)
    with pytest.raises(ValueError, match="shape"):
        scores.ccc([1.0, 2.0], [1.0])


def test_ccc_is_lins_formula_with_population_moments() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(3, 1, 200)
    y = 0.7 * x + rng.normal(0.5, 0.6, 200)
    cov = ((x - x.mean()) * (y - y.mean())).mean()
    assert scores.ccc(x, y) == pytest.approx(2 * cov / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))
    assert scores.pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert scores.rmse(x, y) == pytest.approx(sk.root_mean_squared_error(x, y))
    assert scores.ccc([0, 1, 2], [0, 1, 1]) == pytest.approx(2 / 3)


def test_ccc_invariances() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=50), rng.normal(size=50) + 0.4
    base = scores.ccc(x, y)
    assert scores.ccc(y, x) == pytest.approx(base)
    assert scores.ccc(3 * x - 2, 3 * y - 2) == pytest.approx(base)
    assert scores.ccc(-x, -y) == pytest.approx(base)
    assert abs(scores.ccc(x, y + 1)) < abs(base), "CCC punishes an offset"
    assert scores.pearson(x, 5 * y + 1) == pytest.approx(scores.pearson(x, y))
    assert scores.ccc(x, x) == 1.0
    assert scores.rmse(x, x) == 0.0
    assert scores.ccc(x + 1e7, y + 1e7) == pytest.approx(base, abs=1e-6), "digits are kept far from zero"


@pytest.mark.parametrize(
    ("true", "predicted", "expected"),
    [
        ([1.0], [1.0], np.nan),
        ([], [], np.nan),
        ([0.1] * 7, [0.1] * 7, np.nan),
        ([0.1] * 7, [0.3] * 7, 0.0),
        ([0.1] * 3, [0.1, 0.2, 0.4], 0.0),
        ([1.0, 2.0, 4.0], [0.3] * 3, 0.0),
    ],
)
def test_ccc_where_it_is_undefined_or_one_series_is_constant(
    true: list[float], predicted: list[float], expected: float
) -> None:
    assert scores.ccc(true, predicted) == pytest.approx(expected, abs=0, nan_ok=True)
    assert np.isnan(scores.pearson(true, predicted))
