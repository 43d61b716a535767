"""Holds the resampled metrics to scikit-learn and scipy, and the intervals to scipy's bootstrap."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from carinspect.scoring.bootstrap import NOTHING, estimate, point, resample_groups
from carinspect.scoring.classification import ECE_BINS, accuracy, brier, ece, macro_f1, reliability
from carinspect.scoring.ranking import average_precision, roc_auc
from carinspect.scoring.regression import mae, pearson, relative_mae, rmse, spearman
from carinspect.scoring.selective import aurc, risk_coverage

RANDOM = np.random.default_rng(7)
N = 120
BINARY = RANDOM.integers(0, 2, N).astype(float)
PROBABILITIES = np.round(np.clip(0.3 * BINARY + RANDOM.random(N) * 0.7, 0, 1), 2)  # rounded, so that there are ties
SCALE = np.round(RANDOM.random(N), 2)
ANSWERS = np.round(np.clip(SCALE + RANDOM.normal(0, 0.2, N), 0, 1), 2)
CLASSES = RANDOM.integers(0, 4, N).astype(float)
CHOSEN = np.where(RANDOM.random(N) < 0.6, CLASSES, RANDOM.integers(0, 4, N)).astype(float)

REFERENCES = {
    "roc_auc": (roc_auc, BINARY, PROBABILITIES, sk.roc_auc_score),
    "average_precision": (average_precision, BINARY, PROBABILITIES, sk.average_precision_score),
    "brier": (brier, BINARY, PROBABILITIES, sk.brier_score_loss),
    "mae": (mae, SCALE, ANSWERS, sk.mean_absolute_error),
    "rmse": (rmse, SCALE, ANSWERS, sk.root_mean_squared_error),
    "pearson": (pearson, SCALE, ANSWERS, lambda x, y: stats.pearsonr(x, y).statistic),
    "spearman": (spearman, SCALE, ANSWERS, lambda x, y: stats.spearmanr(x, y).statistic),
    "accuracy": (accuracy, CLASSES, CHOSEN, sk.accuracy_score),
    "macro_f1": (macro_f1, CLASSES, CHOSEN, lambda x, y: sk.f1_score(x, y, average="macro")),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_metric_equals_the_reference_on_the_photos_and_on_every_resample(name: str) -> None:
    metric, labels, answers, reference = REFERENCES[name]
    assert point(metric, labels, answers) == pytest.approx(reference(labels, answers), abs=1e-12)
    weights = resample_groups(np.arange(N).astype(str), samples=20, seed=3)
    found = metric(labels, answers, weights.astype(float))
    for value, weight in zip(found, weights, strict=True):
        rows = np.repeat(np.arange(N), weight)
        assert value == pytest.approx(reference(labels[rows], answers[rows]), abs=1e-12)


def test_macro_f1_counts_the_classes_of_each_resample_alone() -> None:
    weights = np.where(CLASSES == 2, 0, 1)[None, :].astype(float)
    kept = CLASSES != 2
    assert macro_f1(CLASSES, CHOSEN, weights)[0] == pytest.approx(sk.f1_score(CLASSES[kept], CHOSEN[kept], average="macro"), abs=1e-12)


@pytest.mark.parametrize("metric", [roc_auc, average_precision])
def test_a_ranking_of_one_class_has_no_score(metric) -> None:
    assert point(metric, np.ones(5), np.linspace(0, 1, 5)) is None
    assert point(metric, np.zeros(5), np.linspace(0, 1, 5)) is None


@pytest.mark.parametrize("metric", [pearson, spearman])
def test_a_constant_answer_has_no_correlation(metric) -> None:
    assert point(metric, SCALE, np.full(N, 0.1)) is None


def test_the_error_is_relative_to_that_of_the_constant() -> None:
    value = relative_mae(SCALE, ANSWERS, np.ones((1, N)), constant=0.4)[0]
    assert value == pytest.approx(sk.mean_absolute_error(SCALE, ANSWERS) / np.abs(SCALE - 0.4).mean())
    assert np.isnan(relative_mae(np.full(3, 0.4), np.ones(3), np.ones((1, 3)), constant=0.4)[0])


def test_no_photo_has_no_score() -> None:
    assert point(mae, np.empty(0), np.empty(0)) is None
    assert estimate(mae, np.empty(0), np.empty(0), weights_SxN=np.empty((5, 0), np.uint16), confidence=0.9) == NOTHING


def brute_force_ece(outcomes: np.ndarray, probabilities: np.ndarray) -> float:
    total = 0.0
    for b in range(ECE_BINS):
        inside = (probabilities > b / ECE_BINS) & (probabilities <= (b + 1) / ECE_BINS)
        inside |= (probabilities == 0) & (b == 0)
        if inside.any():
            total += inside.sum() * abs(probabilities[inside].mean() - outcomes[inside].mean())
    return total / len(outcomes)


def test_ece_equals_a_brute_force_over_the_papers_formula() -> None:
    probabilities = np.concatenate([RANDOM.random(500), [0.0, 1.0, 1.0]])
    outcomes = (RANDOM.random(503) < probabilities**2).astype(float)
    assert ece(outcomes, probabilities) == pytest.approx(brute_force_ece(outcomes, probabilities), abs=1e-12)
    assert reliability(outcomes, probabilities).photos.sum() == 503


def test_ece_is_zero_when_all_that_is_said_happens() -> None:
    assert ece(np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0])) == 0.0


def test_the_interval_agrees_with_scipys_percentile_bootstrap() -> None:
    ours = estimate(mae, SCALE, ANSWERS, weights_SxN=resample_groups(np.arange(N).astype(str), samples=4000, seed=1), confidence=0.9)
    errors = np.abs(SCALE - ANSWERS)
    theirs = stats.bootstrap((errors,), np.mean, n_resamples=4000, confidence_level=0.9, method="percentile", rng=2).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.06 * width)


def width_of_interval(groups: np.ndarray) -> float:
    labels, answers = np.repeat(SCALE, 5), np.repeat(ANSWERS, 5)
    found = estimate(mae, labels, answers, weights_SxN=resample_groups(groups, samples=1000, seed=1), confidence=0.95)
    return found.high - found.low


def test_copies_of_a_photo_in_one_group_do_not_narrow_the_interval() -> None:
    once = estimate(mae, SCALE, ANSWERS, weights_SxN=resample_groups(np.arange(N).astype(str), samples=1000, seed=1), confidence=0.95)
    in_groups = width_of_interval(np.repeat(np.arange(N), 5).astype(str))
    assert in_groups == pytest.approx(once.high - once.low, rel=0.1)
    # The twin: counted as photos of their own, five copies would halve it.
    assert width_of_interval(np.arange(5 * N).astype(str)) < 0.6 * in_groups


def test_every_resample_draws_as_many_groups_as_there_are_and_whole_ones() -> None:
    groups = np.array(["a", "b", "a", "c", "b", "a"])
    weights = resample_groups(groups, samples=50, seed=0)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_resamples_with_one_class_are_left_out_and_counted() -> None:
    labels, groups = np.array([1.0, 0.0, 0.0, 0.0]), np.array(["a", "b", "c", "d"])
    weights = resample_groups(groups, samples=1000, seed=0)
    found = estimate(roc_auc, labels, np.array([0.9, 0.1, 0.5, 0.95]), weights_SxN=weights, confidence=0.9)
    one_class = int(((weights[:, 0] == 0) | (weights[:, 1:].sum(axis=1) == 0)).sum())
    assert found.skipped_resamples == one_class > 200
    assert found.value == pytest.approx(2 / 3)
    assert 0 <= found.low <= found.high <= 1


def test_a_single_group_has_no_interval() -> None:
    found = estimate(mae, SCALE, ANSWERS, weights_SxN=resample_groups(np.array(["a"] * N), samples=100, seed=0), confidence=0.9)
    assert found.value is not None
    assert (found.low, found.high) == (None, None)


def test_chunks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = resample_groups(np.arange(N).astype(str), samples=200, seed=1)
    whole = estimate(spearman, SCALE, ANSWERS, weights_SxN=weights, confidence=0.9)
    monkeypatch.setattr("carinspect.scoring.bootstrap._CELLS_AT_ONCE", 7 * N)
    assert estimate(spearman, SCALE, ANSWERS, weights_SxN=weights, confidence=0.9) == whole


# ---- Risk and coverage

LOSSES = np.abs(SCALE - ANSWERS)
CONFIDENCE = np.round(RANDOM.random(N), 1)  # rounded, so that there are many ties


def brute_force_risks(losses: np.ndarray, confidence: np.ndarray, *, orders: int, seed: int) -> np.ndarray:
    """Selective risks by definition, a mean over random orders of equals."""
    random = np.random.default_rng(seed)
    runs = []
    for _ in range(orders):
        order = np.lexsort((random.random(len(losses)), -confidence))
        runs.append([losses[order[:kept]].mean() for kept in range(1, len(losses) + 1)])
    return np.mean(runs, axis=0)


def test_aurc_and_its_curve_equal_a_brute_force_over_the_definition() -> None:
    distinct = RANDOM.permutation(N).astype(float)
    expected = brute_force_risks(LOSSES, distinct, orders=1, seed=0)
    curve = risk_coverage(LOSSES, distinct)
    assert curve.risk == pytest.approx(expected, abs=1e-12)
    assert curve.coverage == pytest.approx(np.arange(1, N + 1) / N)
    assert point(aurc, LOSSES, distinct) == pytest.approx(expected.mean(), abs=1e-12)


def test_equal_confidences_count_as_the_mean_over_their_orders() -> None:
    losses, confidence = LOSSES[:30], CONFIDENCE[:30]
    expected = brute_force_risks(losses, confidence, orders=4000, seed=1)
    assert risk_coverage(losses, confidence).risk == pytest.approx(expected, abs=0.01)
    assert point(aurc, losses, confidence) == pytest.approx(risk_coverage(losses, confidence).risk.mean(), abs=1e-12)
    shuffled = RANDOM.permutation(30)
    assert point(aurc, losses[shuffled], confidence[shuffled]) == pytest.approx(point(aurc, losses, confidence), abs=1e-12)
    assert point(aurc, losses, np.zeros(30)) == pytest.approx(losses.mean())


def test_aurc_of_a_resample_is_that_of_its_photos_written_out() -> None:
    weights = resample_groups(np.arange(N).astype(str), samples=20, seed=3)
    for value, weight in zip(aurc(LOSSES, CONFIDENCE, weights.astype(float)), weights, strict=True):
        rows = np.repeat(np.arange(N), weight)
        assert value == pytest.approx(risk_coverage(LOSSES[rows], CONFIDENCE[rows]).risk.mean(), abs=1e-12)


def test_no_order_beats_the_oracle_and_the_worst_is_its_reverse() -> None:
    best, worst = point(aurc, LOSSES, -LOSSES), point(aurc, LOSSES, LOSSES)
    assert best < point(aurc, LOSSES, CONFIDENCE) < worst
    assert best < LOSSES.mean() < worst
