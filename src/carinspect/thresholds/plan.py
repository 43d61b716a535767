"""Chooses which thresholds are tested and where the test starts, before any label of the source split is used."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import binom

from carinspect.core.questions import Side
from carinspect.thresholds.binomial import accepted_needed
from carinspect.thresholds.evidence import Evidence, Floats, Target, highest_wrong_rate, precision_at
from carinspect.thresholds.sample import Thresholds

MOST_CANDIDATES = 100
SURE = 0.9
_QUANTILES = (np.arange(16) + 0.5) / 16


@dataclass(frozen=True)
class Reference:
    """Photos of *another* split than the source split: their scores, and for each the probability of the good class (`fit_forecast`)."""

    score: Floats
    probability: Floats


@dataclass(frozen=True)
class Plan:
    """Thresholds, the strictest first, and the positions at which the test starts. Each start gets the same share of alpha."""

    thresholds: Thresholds
    starts: frozenset[int]


def make_plan(reference: Reference, *, groups: int, target: Target, side: Side) -> Plan:
    """The plan for `groups` labelled groups.

    The test is valid only for hypotheses fixed before its data are seen, so the candidates must not be quantiles of the source split.
    They are evenly spaced in the share of photos that they accept, beginning with the share that just proves the target without an error.
    The first start is the strictest threshold that succeeds with the probability `SURE` if the reference's probabilities are right, or else
    the likeliest one; further ones are spread from there to where the probabilities no longer reach the target. They can pass where the
    first fails by an early error, or because fewer photos than foretold get the word. If the probabilities are wrong, the test proves less,
    but stays valid.
    """
    strictest = _strictest_share(reference, groups=groups, target=target, side=side)
    thresholds = _candidates(reference, side=side, strictest_share=strictest)
    return Plan(thresholds=thresholds, starts=place_starts(thresholds, reference, groups=groups, target=target, side=side))


def place_starts(thresholds: Thresholds, reference: Reference, *, groups: int, target: Target, side: Side) -> frozenset[int]:
    """The positions in `thresholds`, the strictest first, at which the test of `groups` groups starts: see `make_plan`."""
    foretold = _foretell(thresholds, reference, groups=groups, side=side)
    wrong_rate = target.wrong_rate(side)
    precision = _precision(foretold) if wrong_rate is None else precision_at(foretold, wrong_rate)
    hopeful = int((precision >= target.precision).sum())
    power = foretold_power(foretold, target, side=side)
    sure = int(np.argmax(power >= min(SURE, power.max())))
    return frozenset(np.linspace(sure, max(sure, hopeful), target.starts, endpoint=False).astype(int).tolist())


def _precision(foretold: Evidence) -> Floats:
    accepted = foretold.right + foretold.wrong
    return np.divide(foretold.right, accepted, out=np.zeros(len(accepted)), where=accepted > 0)


def foretold_power(foretold: Evidence, target: Target, *, side: Side) -> Floats:
    """The probability that each threshold, alone, passes at the level of one start, 0..1, shape (M,); `foretold` has expected counts.

    The counts are binomial; each is taken at `_QUANTILES` of its distribution.
    """
    level, wrong_rate = target.level_of_one_start, target.wrong_rate(side)
    if wrong_rate is None:
        accepted, groups = foretold.right + foretold.wrong, foretold.right_class + foretold.wrong_class
        # accepted_MQ: how many get the word.
        accepted_MQ = binom.ppf(_QUANTILES, round(groups), np.minimum(1.0, accepted / groups)[:, None])
        most_wrong_MQ = _most_wrong(round(groups), level, 1 - target.precision)[accepted_MQ.astype(int)]
        return binom.cdf(most_wrong_MQ, accepted_MQ, 1 - _precision(foretold)[:, None]).mean(axis=1)
    right_MQ, wrong_MQ = (
        binom.ppf(_QUANTILES, round(whole), np.clip(part / max(whole, 1e-9), 0, 1)[:, None])
        for part, whole in ((foretold.right, foretold.right_class), (foretold.wrong, foretold.wrong_class))
    )
    pairs = Evidence(right_MQ[:, :, None], wrong_MQ[:, None, :], round(foretold.right_class), round(foretold.wrong_class))
    return (highest_wrong_rate(pairs, target=target.precision, level=level) >= wrong_rate).mean(axis=(1, 2))


@lru_cache(maxsize=64)
def _most_wrong(groups: int, level: float, wrong_rate: float) -> Floats:
    """How many of 0, 1, …, `groups` may be wrong, at most, for a proof; -1: not even none."""
    counts = np.arange(groups + 1)
    most = binom.ppf(level, counts, wrong_rate)
    return np.asarray(most - (binom.cdf(most, counts, wrong_rate) > level))


def fit_forecast(score: Floats, good: Floats) -> Callable[[Floats], Floats]:
    """From labelled photos, p_good `score` (N,) and `good` 1 or 0 (N,), to a function: p_good → probability of the good class.

    Platt's sigmoid of the log-odds, with his smoothed labels, which keep it finite where the classes are separated: Platt (1999),
    "Probabilistic outputs for support vector machines", section 2.2. The function returns its argument where only one class has labels.
    """
    goods, bads = float(good.sum()), float(len(good) - good.sum())
    if not (goods and bads):
        return lambda p: p
    wanted = np.where(good == 1, (goods + 1) / (goods + 2), 1 / (bads + 2))
    inputs = np.column_stack([_log_odds(score), np.ones(len(score))])

    def loss(weights: Floats) -> tuple[float, Floats]:
        z = inputs @ weights
        return float((np.logaddexp(0, z) - wanted * z).sum()), inputs.T @ (expit(z) - wanted)

    fitted = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B").x
    return lambda p: expit(np.column_stack([_log_odds(p), np.ones(len(p))]) @ fitted)


def _log_odds(p: Floats) -> Floats:
    # Probabilities in the table have six decimals.
    return logit(np.clip(p, 1e-6, 1 - 1e-6))


def cut_points(scores: npt.NDArray[np.float64], *, side: Side) -> Thresholds:
    """One threshold for each different set of these photos that gets the word of `side`, the strictest first.

    Each lies halfway between two scores, so that rounding, in a table or in another runtime, moves no photo across it. (The loosest
    threshold gives all photos the good word; a photo with a score of exactly 1 never gets the bad word.)
    """
    if side == "bad":
        return np.round(1.0 - cut_points(1.0 - scores, side="good"), 7)
    distinct = np.unique(scores)
    # Scores have six decimals in the table, so their midpoints have seven.
    return np.round((distinct + np.concatenate([[0.0], distinct[:-1]])) / 2, 7)[::-1]


def _strictest_share(reference: Reference, *, groups: int, target: Target, side: Side) -> float:
    """The smallest share of photos with the word of `side` that proves the target if none is wrong; at most 1."""
    wrong_rate = target.wrong_rate(side)
    if wrong_rate is None:
        without_errors = accepted_needed(target=target.precision, alpha=target.level_of_one_start, precision=1.0) or 0
        return min(1.0, without_errors / groups)
    good_share = float(reference.probability.mean())
    right_share = good_share if side == "good" else 1 - good_share
    nothing_wrong = Evidence(np.linspace(0, 1, 101) * groups * right_share, np.zeros(101), groups * right_share, groups * (1 - right_share))
    enough = highest_wrong_rate(nothing_wrong, target=target.precision, level=target.level_of_one_start) >= wrong_rate
    return right_share * float(np.argmax(enough)) / 100 if enough.any() else 1.0


def _candidates(reference: Reference, *, side: Side, strictest_share: float) -> Thresholds:
    """At most `MOST_CANDIDATES` thresholds, evenly spaced in the share of the reference that gets the word, from `strictest_share` on."""
    cuts, wanted = cut_points(reference.score, side=side), np.linspace(strictest_share, 1.0, MOST_CANDIDATES)
    below = np.searchsorted(np.sort(reference.score), cuts, side="left")
    called = len(reference.score) - below if side == "good" else below
    chosen = np.unique(np.minimum(np.searchsorted(called, np.ceil(wanted * len(reference.score) - 1e-9)), len(cuts) - 1))
    return cuts[chosen]


def _foretell(thresholds: Thresholds, reference: Reference, *, groups: int, side: Side) -> Evidence:
    """The expected counts at `thresholds` among `groups` groups if the reference's probabilities are right."""
    ascending = np.argsort(reference.score, kind="stable")
    p_word = reference.probability[ascending] if side == "good" else 1.0 - reference.probability[ascending]
    below = np.searchsorted(reference.score[ascending], thresholds, side="left")
    # right_upto[k]: expected right answers among the k photos with the lowest scores.
    right_upto, each = np.concatenate([[0.0], np.cumsum(p_word)]), groups / len(p_word)
    called = len(p_word) - below if side == "good" else below
    right = right_upto[-1] - right_upto[below] if side == "good" else right_upto[below]
    return Evidence(right * each, (called - right) * each, right_upto[-1] * each, (len(p_word) - right_upto[-1]) * each)
