"""Estimates, without labels, the share of the bad class among photos in use, and the precision of each word that follows from it.

Under *label shift* photos of one class look as before, and only the shares of the classes change. Then the mean of any function g of a
photo is a mixture of its means in the two classes, so that the share of the bad class is

    share = (mean in use - mean of the good) / (mean of the bad - mean of the good)

Here g is the probability p, in the bins of the drift log. This is the ratio estimator of Vaz, Izbicki and Stern (2019), "Quantification
under prior probability shift: the ratio estimator and its extensions", and with g a decision that of Lipton, Wang and Smola (2018),
"Detecting and correcting for label shift with black box predictors". The interval holds all shares that a test of this equation does not
reject (Fieller 1954): unlike a linear approximation it stays honest where the classes hardly differ, and is then all of 0..1.
The precision is Bayes' rule with the share of each class that gets the word; see thresholds/evidence.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, stdtrit

from carinspect.core.params import Section
from carinspect.core.questions import Side
from carinspect.inference.histograms import edges_of

Floats = npt.NDArray[np.float64]
_SHARES = np.linspace(0.0, 1.0, 2001)


class ClassReference(Section):
    """Photos of one class with a label, one of each group, so that they are independent."""

    histogram: list[int]
    """Of p, in the bins of `p_<question>`."""
    said_good: int
    """How many got the good word, behind the gate."""
    said_bad: int

    @property
    def photos(self) -> int:
        return sum(self.histogram)

    def said(self, side: Side) -> int:
        return self.said_good if side == "good" else self.said_bad


class QuestionReference(Section):
    """The labelled calibration photos of a decided question."""

    good: ClassReference
    bad: ClassReference


@dataclass(frozen=True)
class Share:
    """A share or a precision, 0..1, with its interval."""

    value: float
    low: float
    high: float


def bad_share(reference: QuestionReference, used: Sequence[int], *, design_effect: float, level: float) -> Share:
    """The share of the bad class in use. used: counts of p; level: chance that the interval misses.

    design_effect: how many photos in use tell as much as one independent photo.
    """
    (mean, spread, photos), (good, spread_good, n_good), (bad, spread_bad, n_bad) = (
        _moments(counts) for counts in (used, reference.good.histogram, reference.bad.histogram)
    )
    independent = photos / design_effect
    if min(n_good, n_bad) < 2 or independent < 2:
        return Share(float("nan"), 0.0, 1.0)
    quantile = float(stdtrit(min(independent, n_good, n_bad) - 1, 1 - level / 2))
    missing = mean - (1 - _SHARES) * good - _SHARES * bad
    variance = spread / independent + (1 - _SHARES) ** 2 * spread_good / n_good + _SHARES**2 * spread_bad / n_bad
    kept = _SHARES[missing**2 <= quantile**2 * variance]
    value = float(np.clip((mean - good) / (bad - good), 0.0, 1.0)) if good != bad else float("nan")
    if not len(kept):
        # Beyond both classes: the nearest share is 0 or 1, and nothing in between fits.
        return Share(value, value, value)
    # The kept shares are one stretch, but for classes that hardly differ; then their hull is an interval, too.
    return Share(value, float(kept[0]), float(kept[-1]))


def precision_of(side: Side, reference: QuestionReference, share: Share, *, level: float) -> Share | None:
    """The precision of the word of `side` where the bad class has `share`, an interval at `level` / 2; None where it is never said.

    The interval covers at 1 - level: `share` has one half of the level, and the two rates of the word have the other (Clopper and Pearson).
    """
    right, wrong = (reference.good, reference.bad) if side == "good" else (reference.bad, reference.good)
    if not right.said(side) + wrong.said(side):
        return None
    (_, hit_low, hit_high), (_, slip_low, slip_high) = (_rate(one.said(side), one.photos, level=level / 4) for one in (right, wrong))
    ends = (share.high, share.low) if side == "good" else (share.low, share.high)

    def bayes(bad: float, hit: float, slip: float) -> float:
        of_right = 1 - bad if side == "good" else bad
        total = of_right * hit + (1 - of_right) * slip
        return of_right * hit / total if total else float("nan")

    value = bayes(share.value, right.said(side) / right.photos, wrong.said(side) / wrong.photos)
    return Share(value, bayes(ends[0], hit_low, slip_high), bayes(ends[1], hit_high, slip_low))


def design_effect(sizes: Mapping[str, int]) -> float:
    """Photos that tell as much as one independent photo, where the photos of a request or group tell no more than one together.

    sizes: photos in a request → number of such requests. It is the mean size that a photo finds itself in, sum m^2 / sum m: Kish (1965),
    "Survey Sampling", section 5.4, 1 + (m - 1) rho at the correlation rho = 1, so that a real one only makes a test more careful.
    """
    photos = sum(int(size) * number for size, number in sizes.items())
    return sum(int(size) ** 2 * number for size, number in sizes.items()) / photos if photos else 1.0


def _moments(counts: Sequence[int]) -> tuple[float, float, int]:
    edges = edges_of("p")
    middles, weights, photos = (edges[:-1] + edges[1:]) / 2, np.asarray(counts, float), sum(counts)
    if photos < 2:
        return float("nan"), float("nan"), photos
    mean = float(np.average(middles, weights=weights))
    # With half a photo more at each end: a class whose photos all lie in one bin is not known for certain.
    spread = (float(weights @ (middles - mean) ** 2) + 0.5 * (mean**2 + (1 - mean) ** 2)) / photos
    return mean, spread, photos


def _rate(hits: int, of: int, *, level: float) -> tuple[float, float, float]:
    low = float(betaincinv(hits, of - hits + 1, level / 2)) if hits else 0.0
    high = float(betaincinv(hits + 1, of - hits, 1 - level / 2)) if hits < of else 1.0
    return hits / of, low, high
