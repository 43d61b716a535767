"""Which thresholds are tested and where the test starts: all of it fixed before a deciding label is seen."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from carinspect.core.questions import Side
from carinspect.thresholds.binomial import accepted_needed
from carinspect.thresholds.evidence import Evidence, Floats, Target, highest_wrong_rate, precision_at
from carinspect.thresholds.sample import Thresholds

MOST_CANDIDATES = 100


@dataclass(frozen=True)
class Reference:
    """Photos of *another* split than the one whose labels decide: their scores, and the chance of the good class that goes with each."""

    score: Floats
    probability: Floats


@dataclass(frozen=True)
class Plan:
    """Thresholds, the strictest first, and the positions at which the test starts. Each start brings the same share of alpha."""

    thresholds: Thresholds
    starts: frozenset[int]


def make_plan(reference: Reference, *, groups: int, target: Target, side: Side) -> Plan:
    """The plan for `groups` labelled groups.

    The test holds for hypotheses fixed before its data were seen, and quantiles of the deciding photos are not. Candidates
    are spaced evenly in the share of photos they accept, from the share that could just prove the target without an error. The first
    start is where the proof should be easiest if the reference's probabilities are true; the others spread over the range in which those
    promise the target, in case they are not. If they mislead, the proof loses its power, never its truth.
    """
    strictest = _strictest_share(reference, groups=groups, target=target, side=side)
    thresholds, foretold = _foretell(reference, groups=groups, side=side, strictest_share=strictest)
    wrong_rate = target.wrong_rate(side)
    if wrong_rate is None:
        # The binomial p-value at the counts that are foretold; as a beta integral it takes fractional counts.
        easiest = int(np.argmin(beta.cdf(target.precision, foretold.right, foretold.wrong + 1)))
        precision = foretold.right / (foretold.right + foretold.wrong)
    else:
        easiest = int(np.argmax(highest_wrong_rate(foretold, target=target.precision, level=target.level_of_one_start)))
        precision = precision_at(foretold, wrong_rate)
    hopeful = max(1, int((precision >= target.precision).sum()))
    others = np.linspace(0, hopeful, target.starts - 1, endpoint=False).astype(int)
    return Plan(thresholds=thresholds, starts=frozenset([easiest, *others.tolist()]))


def cut_points(scores: npt.NDArray[np.float64], *, side: Side) -> Thresholds:
    """Every threshold that calls another set of these photos by the word of `side`, the strictest first.

    They lie halfway between two scores, so that no rounding, in a table or in another runtime, moves a photo over the edge. (At the
    loosest, all photos are called by the good word, but one with a score of exactly 1 is never called by the bad word.)
    """
    if side == "bad":
        return np.round(1.0 - cut_points(1.0 - scores, side="good"), 7)
    distinct = np.unique(scores)
    # Scores have six decimals in the table, so their midpoints have seven.
    return np.round((distinct + np.concatenate([[0.0], distinct[:-1]])) / 2, 7)[::-1]


def _strictest_share(reference: Reference, *, groups: int, target: Target, side: Side) -> float:
    """The share of photos called by the word of `side` that could just prove the target without an error; at most 1."""
    wrong_rate = target.wrong_rate(side)
    if wrong_rate is None:
        without_errors = accepted_needed(target=target.precision, alpha=target.level_of_one_start, precision=1.0) or 0
        return min(1.0, without_errors / groups)
    good_share = float(reference.probability.mean())
    right_share = good_share if side == "good" else 1 - good_share
    nothing_wrong = Evidence(np.linspace(0, 1, 101) * groups * right_share, np.zeros(101), groups * right_share, groups * (1 - right_share))
    enough = highest_wrong_rate(nothing_wrong, target=target.precision, level=target.level_of_one_start) >= wrong_rate
    return right_share * float(np.argmax(enough)) / 100 if enough.any() else 1.0


def _foretell(reference: Reference, *, groups: int, side: Side, strictest_share: float) -> tuple[Thresholds, Evidence]:
    """Thresholds, and the counts among `groups` groups that the reference's probabilities promise there."""
    ascending = np.argsort(reference.score, kind="stable")
    score, p_word = reference.score[ascending], reference.probability[ascending]
    p_word = p_word[::-1] if side == "good" else 1.0 - p_word
    wanted = np.linspace(strictest_share, 1.0, MOST_CANDIDATES)
    cuts = cut_points(reference.score, side=side)
    below = np.searchsorted(score, cuts, side="left")
    called = len(score) - below if side == "good" else below
    chosen = np.unique(np.minimum(np.searchsorted(called, np.ceil(wanted * len(score) - 1e-9)), len(cuts) - 1))
    right, each = np.cumsum(p_word), groups / len(score)
    at = called[chosen]
    foretold = Evidence(right[at - 1] * each, (at - right[at - 1]) * each, right[-1] * each, (len(score) - right[-1]) * each)
    return cuts[chosen], foretold
