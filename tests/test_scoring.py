"""Holds the weighted metrics to scikit-learn and scipy, and the intervals to scipy and to their promise: to hold the true value."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from carinspect.scoring.classification import ECE_BINS, accuracy, brier, ece, macro_f1, reliability
from carinspect.scoring.intervals import NOTHING, estimate, leave_out, point
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

EACH = np.arange(N).astype(str)


def draw_photos(*, samples: int, seed: int) -> np.ndarray:
    """How often each photo occurs in each draw with replacement."""
    return np.random.default_rng(seed).multinomial(N, np.full(N, 1 / N), size=samples)


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
    weights = draw_photos(samples=20, seed=3)
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
    assert estimate(mae, np.empty(0), np.empty(0), groups_N=np.empty(0, str), confidence=0.9, scale="error") == NOTHING


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


# ---- Intervals


def test_the_interval_of_a_mean_is_students() -> None:
    found = estimate(mae, SCALE, ANSWERS, groups_N=EACH, confidence=0.9, scale="difference")
    errors = np.abs(SCALE - ANSWERS)
    theirs = stats.t.interval(0.9, N - 1, loc=errors.mean(), scale=stats.sem(errors))
    assert (found.low, found.high) == pytest.approx(theirs)


def test_the_interval_of_a_share_of_independent_photos_is_wilsons() -> None:
    rights, groups = (CLASSES == CHOSEN).astype(float), np.arange(N).astype(str)
    found = estimate(accuracy, np.ones(N), rights, groups_N=groups, confidence=0.95, scale="share")
    theirs = stats.binomtest(int(rights.sum()), N).proportion_ci(0.95, method="wilson")
    # Student's quantile and n - 1 instead of n.
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.002)


def test_the_standard_error_of_an_auc_is_delongs() -> None:
    positives, negatives = PROBABILITIES[BINARY == 1], PROBABILITIES[BINARY == 0]
    wins = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    # DeLong, DeLong and Clarke-Pearson (1988), equation 5, from the definition.
    expected = wins.mean(axis=1).var(ddof=1) / len(positives) + wins.mean(axis=0).var(ddof=1) / len(negatives)
    found = estimate(roc_auc, BINARY, PROBABILITIES, groups_N=EACH, confidence=0.95, scale="share")
    assert found.standard_error == pytest.approx(expected**0.5, rel=0.02)


def draw_ranking(random: np.random.Generator, auc: float, groups: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and groups of three photos a group, half of the scores' variance shared."""
    group = np.repeat(np.arange(groups), 3)
    labels = (random.random(groups) < 0.5)[group].astype(float)
    noise = (random.normal(size=groups)[group] + random.normal(size=len(group))) / 2**0.5
    return labels, stats.norm.ppf(auc) * 2**0.5 * labels + noise, group.astype(str)


@pytest.mark.parametrize("auc", [0.95, 0.99])
def test_an_interval_of_thirty_groups_holds_a_high_auc(auc: float) -> None:
    ours, plain = [], []
    for seed in range(150):
        labels, scores, groups = draw_ranking(np.random.default_rng(seed), auc)
        found = estimate(roc_auc, labels, scores, groups_N=groups, confidence=0.95, scale="share")
        ours.append(found.low <= auc <= found.high)
        # The twin: the same standard error on the plain scale.
        found = estimate(roc_auc, labels, scores, groups_N=groups, confidence=0.95, scale="difference")
        plain.append(found.low <= auc <= found.high)
    assert np.mean(ours) >= 0.93
    assert np.mean(plain) < 0.90


def test_a_perfect_value_has_an_interval_too() -> None:
    found = estimate(accuracy, np.ones(30), np.ones(30), groups_N=np.arange(30).astype(str), confidence=0.95, scale="share")
    assert (found.value, found.high, found.standard_error) == (1.0, 1.0, 0.0)
    assert 0.85 < found.low < 0.9


@pytest.mark.parametrize(("metric", "scale"), [(mae, "error"), (spearman, "correlation")])
def test_intervals_of_errors_and_correlations_lie_about_the_value_and_within_its_range(metric, scale) -> None:
    found = estimate(metric, SCALE[:12], ANSWERS[:12], groups_N=EACH[:12], confidence=0.99, scale=scale)
    assert (0 if scale == "error" else -1) < found.low < found.value < found.high
    assert scale == "error" or found.high < 1


def width_of_interval(groups: np.ndarray) -> float:
    labels, answers = np.repeat(SCALE, 5), np.repeat(ANSWERS, 5)
    found = estimate(mae, labels, answers, groups_N=groups, confidence=0.95, scale="error")
    return found.high - found.low


def test_copies_of_a_photo_in_one_group_do_not_narrow_the_interval() -> None:
    once = estimate(mae, SCALE, ANSWERS, groups_N=EACH, confidence=0.95, scale="error")
    in_groups = width_of_interval(np.repeat(EACH, 5))
    assert in_groups == pytest.approx(once.high - once.low)
    # The twin: counted as photos of their own, five copies would halve it.
    assert width_of_interval(np.arange(5 * N).astype(str)) < 0.6 * in_groups


def test_where_one_group_has_all_of_a_class_there_is_no_interval() -> None:
    labels = np.array([1.0, 0.0, 0.0, 0.0])
    scores, groups = np.array([0.9, 0.1, 0.5, 0.95]), np.array(["a", "b", "c", "d"])
    found = estimate(roc_auc, labels, scores, groups_N=groups, confidence=0.9, scale="share")
    assert (found.value, found.low, found.high) == (pytest.approx(2 / 3), None, None)
    found = estimate(mae, SCALE, ANSWERS, groups_N=np.array(["a"] * N), confidence=0.9, scale="error")
    assert found.value is not None
    assert (found.low, found.high) == (None, None)


def test_chunks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = leave_out(spearman, SCALE, ANSWERS, EACH)
    monkeypatch.setattr("carinspect.scoring.intervals._CELLS_AT_ONCE", 7 * N)
    assert (leave_out(spearman, SCALE, ANSWERS, EACH) == whole).all()
    kept = [spearman(SCALE, ANSWERS, (name != EACH).astype(float)[None])[0] for name in np.unique(EACH)]
    assert whole == pytest.approx(np.array(kept))


def test_blocks_of_groups_give_nearly_the_same_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = estimate(mae, SCALE, ANSWERS, groups_N=EACH, confidence=0.9, scale="error")
    monkeypatch.setattr("carinspect.scoring.intervals.MOST_BLOCKS", 40)
    blocks = estimate(mae, SCALE, ANSWERS, groups_N=EACH, confidence=0.9, scale="error")
    assert blocks.blocks == 40
    assert blocks.standard_error == pytest.approx(whole.standard_error, rel=0.3)


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
    weights = draw_photos(samples=20, seed=3)
    for value, weight in zip(aurc(LOSSES, CONFIDENCE, weights.astype(float)), weights, strict=True):
        rows = np.repeat(np.arange(N), weight)
        assert value == pytest.approx(risk_coverage(LOSSES[rows], CONFIDENCE[rows]).risk.mean(), abs=1e-12)


def test_no_order_beats_the_oracle_and_the_worst_is_its_reverse() -> None:
    best, worst = point(aurc, LOSSES, -LOSSES), point(aurc, LOSSES, LOSSES)
    assert best < point(aurc, LOSSES, CONFIDENCE) < worst
    assert best < LOSSES.mean() < worst
