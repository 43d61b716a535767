"""benchmarks/cross_fit.py: its arithmetic is scikit-learn's and a simulation's, and it sees a broken promise where there must be one."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from conftest import load_benchmark

cross_fit = load_benchmark("cross_fit")

CASE = cross_fit.CASES["logistic regression, one penalty"]


@pytest.mark.parametrize("penalty", [1.0, 100.0])
def test_the_models_are_scikit_learns(penalty: float) -> None:
    photos = cross_fit.draw_photos(np.random.default_rng(1), CASE, groups=300)
    ours = cross_fit.fit_logistic(photos.x, photos.good, penalty=penalty)
    theirs = LogisticRegression(C=1 / penalty, max_iter=5000, tol=1e-9).fit(photos.x, photos.good)
    np.testing.assert_allclose(ours.weight, theirs.coef_[0], atol=1e-5)
    assert ours.bias == pytest.approx(theirs.intercept_[0], abs=1e-5)


def test_the_true_shares_of_a_rule_are_those_of_photos_drawn_by_the_million() -> None:
    random = np.random.default_rng(2)
    photos = cross_fit.draw_photos(random, cross_fit.Case(CASE.learn, features=4e-5), groups=500_000)
    rule = [(cross_fit.Linear(random.normal(size=20), 0.3), 0.9), (cross_fit.Linear(random.normal(size=20), -0.5), 0.6), (None, None)]
    said = np.mean([model.p_good(photos.x) >= threshold if model else np.zeros(len(photos.good)) for model, threshold in rule], axis=0)
    expected = said[photos.good == 1].mean(), said[photos.good == 0].mean()
    assert cross_fit.called(rule, distance=CASE.distance) == pytest.approx(expected, abs=0.002)


def test_an_unstable_learner_breaks_the_promise_of_a_refit_and_not_of_the_split() -> None:
    case = cross_fit.CASES["least squares, as many features as groups"]
    found = cross_fit.measure(case, groups=600, draws=10)
    assert found["refit"][1] == 1
    assert found["split"] == pytest.approx((1, 0), abs=0.01)
