"""What the counts at a threshold prove, at the share of bad cars in the source split or at another share in the field.

At another share only the rates within each class stay the same (prior shift: photos of dirty cars look the same, there are only more
or fewer of them). With h = P(called clean | clean), f = P(called clean | dirty) and a share r of dirty cars the precision of "clean" is

    h (1 - r) / (h (1 - r) + f r)        (Bayes; Saerens, Latinne and Decaestecker 2002, "Adjusting the outputs of a classifier ...")

which reaches the target t exactly if r / (1 - r) <= h (1 - t) / (f t). Both rates are uncertain: h is bounded from below and f from above
(Clopper and Pearson). Both bounds hold together at the level: h, of which much is known, gets the share `HITS_SHARE` of it, and f, the rate
of a rare error, the rest.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from carinspect.core.questions import Side
from carinspect.thresholds.binomial import lower_bounds, p_value
from carinspect.thresholds.sample import Sample, Thresholds, count_decisions

Floats = npt.NDArray[np.float64]

HITS_SHARE = 0.1


@dataclass(frozen=True)
class Target:
    """What is to be proved: for each side a share `precision` of right answers, at `confidence`; both between 0 and 1."""

    precision: float
    confidence: float
    starts: int
    """Number of thresholds at which the test may start; they share 1 - confidence."""
    bad_rate: float | None
    """Share of the bad class in the field; None: as among the labelled photos of the source split."""
    families: int = 1
    """So many promises share 1 - confidence, so that all of them hold together (Bonferroni)."""

    @property
    def alpha(self) -> float:
        return (1 - self.confidence) / self.families

    @property
    def level_of_one_start(self) -> float:
        return self.alpha / self.starts

    def wrong_rate(self, side: Side) -> float | None:
        """Share of the class for which the word of `side` is wrong; None when no `bad_rate` is given."""
        if self.bad_rate is None:
            return None
        return self.bad_rate if side == "good" else 1 - self.bad_rate


@dataclass(frozen=True)
class Evidence:
    """Counts for M thresholds on one side: photos that get its word rightly, `right` (M,), and wrongly, `wrong` (M,).

    `right_class`, `wrong_class`: labelled photos of each class. In a plan the counts are expected values, so they may be fractional.
    """

    right: Floats
    wrong: Floats
    right_class: float
    wrong_class: float


def gather(drawn: Sample, thresholds: Thresholds, *, side: Side) -> Evidence:
    """The counts at `thresholds`; for a proof `drawn` must have one photo of each group, so that trials are independent."""
    accepted, wrong = count_decisions(drawn, thresholds, side=side)
    other: Side = "bad" if side == "good" else "good"
    return Evidence((accepted - wrong).astype(float), wrong.astype(float), drawn.labelled(side), drawn.labelled(other))


def passes(evidence: Evidence, target: Target, *, side: Side, level: float) -> npt.NDArray[np.bool_]:
    """Which thresholds, each alone, reject "precision <= target" at `level`."""
    wrong_rate = target.wrong_rate(side)
    if wrong_rate is None:
        return p_value(evidence.right + evidence.wrong, evidence.wrong, target=target.precision) <= level
    return highest_wrong_rate(evidence, target=target.precision, level=level) >= wrong_rate


def highest_wrong_rate(evidence: Evidence, *, target: float, level: float) -> Floats:
    """The largest share of the other class at which each threshold, alone, proves `target` at `level`; 0 where none does."""
    hits = lower_bounds(evidence.right, evidence.right_class - evidence.right, level=HITS_SHARE * level)
    alarms = 1 - lower_bounds(evidence.wrong_class - evidence.wrong, evidence.wrong, level=(1 - HITS_SHARE) * level)
    return hits * (1 - target) / (hits * (1 - target) + alarms * target)


def precision_at(evidence: Evidence, wrong_rate: float) -> Floats:
    """Observed precision of each threshold, if a share `wrong_rate` is of the other class; NaN where nothing is accepted."""
    hits = (1 - wrong_rate) * _share(evidence.right, evidence.right_class)
    alarms = wrong_rate * _share(evidence.wrong, evidence.wrong_class)
    return np.divide(hits, hits + alarms, out=np.full(len(hits), np.nan), where=hits + alarms > 0)


def lower_precision_at(evidence: Evidence, wrong_rate: float, *, level: float) -> Floats:
    """The precision proven by each threshold alone, at `level`, where a share `wrong_rate` is of the other class."""
    hits = (1 - wrong_rate) * lower_bounds(evidence.right, evidence.right_class - evidence.right, level=HITS_SHARE * level)
    alarms = wrong_rate * (1 - lower_bounds(evidence.wrong_class - evidence.wrong, evidence.wrong, level=(1 - HITS_SHARE) * level))
    return hits / (hits + alarms)


def _share(part: Floats, whole: float) -> Floats:
    return part / whole if whole else np.zeros_like(part)
