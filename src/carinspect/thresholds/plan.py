"""Owns which thresholds are tested and where the test starts: all of it fixed before a deciding label is seen."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from carinspect.thresholds.binomial import accepted_needed
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.sample import Word

Thresholds = npt.NDArray[np.float64]

MOST_CANDIDATES = 100


@dataclass(frozen=True)
class Plan:
    """Thresholds, the strictest first, and the positions at which the test starts. Each start brings the same share of alpha."""

    thresholds: Thresholds
    starts: frozenset[int]


def make_plan(reference: npt.NDArray[np.float64], *, groups: int, params: SelectThresholdParams, word: Word) -> Plan:
    """The plan for `groups` labelled groups, from scores `reference` of *another* split than the one whose labels decide.

    The test holds for hypotheses fixed before its data were seen, and quantiles of the deciding photos are not. Candidates
    are spaced evenly in the share of photos they accept, from the share that could just prove the target without an error. The first
    start is where the proof should be easiest if the reference's probabilities are true; the others spread over the range in which those
    promise the target, in case they are not. If they mislead, the proof loses its power, never its truth.
    """
    alpha = 1 - params.confidence
    without_errors = accepted_needed(target=params.target_precision, alpha=alpha / params.starts, precision=1.0) or 0
    thresholds, share, precision = _foretold(reference, word=word, strictest_share=min(1.0, without_errors / groups))
    # The binomial p-value at the counts that are foretold; as a beta integral it takes fractional counts.
    right, wrong = groups * share * precision, groups * share * (1 - precision)
    easiest = int(np.argmin(beta.cdf(params.target_precision, right, wrong + 1)))
    hopeful = max(1, int((precision >= params.target_precision).sum()))
    others = np.linspace(0, hopeful, params.starts - 1, endpoint=False).astype(int)
    return Plan(thresholds=thresholds, starts=frozenset([easiest, *others.tolist()]))


def cut_points(p_clean: npt.NDArray[np.float64], *, word: Word) -> Thresholds:
    """Every threshold that calls another set of these photos `word`, the strictest first.

    They lie halfway between two scores, so that no rounding, in a table or in another runtime, moves a photo over the edge. (At the
    loosest, all photos are called clean, but one with a p_clean of exactly 1 is never called dirty.)
    """
    if word == "dirty":
        return np.round(1.0 - cut_points(1.0 - p_clean, word="clean"), 7)
    scores = np.unique(p_clean)
    # Scores have six decimals in the table, so their midpoints have seven.
    return np.round((scores + np.concatenate([[0.0], scores[:-1]])) / 2, 7)[::-1]


def _foretold(
    reference: npt.NDArray[np.float64], *, word: Word, strictest_share: float
) -> tuple[Thresholds, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Thresholds, the share of photos that each calls `word`, and the precision that the scores themselves promise there."""
    p_word = np.sort(reference if word == "clean" else 1.0 - reference)[::-1]
    wanted = np.linspace(strictest_share, 1.0, MOST_CANDIDATES)
    cuts = cut_points(reference, word=word)
    called = np.searchsorted(-p_word, -(cuts if word == "clean" else 1.0 - cuts), side="right")
    chosen = np.unique(np.searchsorted(called, np.ceil(wanted * len(reference) - 1e-9)))
    called = called[chosen]
    return cuts[chosen], called / len(reference), np.cumsum(p_word)[called - 1] / called
