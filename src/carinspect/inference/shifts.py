"""Compares photos in use with the calibration photos, on which the promise was proved."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import kolmogorov

from carinspect.inference.histograms import Counts, edges_of

FEW, MANY = 0.1, 0.25
"""Population stability index from which a shift counts as slight, and as drift: the usual limits in credit scoring (Siddiqi 2006)."""
GROUPS = 10

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shift:
    """How one quantity differs."""

    quantity: str
    psi: float
    ks: float
    p_value: float
    higher: bool
    """Whether it is higher in use, on average."""
    level: int
    """0 none, 1 slight, 2 drift."""


def find_shifts(reference: Counts, found: Counts, *, level: float, design_effects: tuple[float, float] = (1.0, 1.0)) -> list[Shift]:
    """Each quantity that both have. level: chance of one or more false alarms, shared by all quantities.

    design_effects: of the reference and of the photos in use, `label_shift.design_effect`: photos of one car are alike, and count as one.

    A shift needs both a PSI of at least `FEW` or `MANY`, so that the difference is large, and a significant Kolmogorov-Smirnov test, so
    that it is more than chance. PSI alone is high for small samples; the test alone is significant for any difference in very large ones.
    """
    # A quantity without a photo on one side has no distribution to compare.
    names = [name for name in reference if name in found and any(reference[name]) and any(found[name])]
    expected, actual = ({name: np.array(counts[name], float) / effect for name in names}
                        for counts, effect in zip((reference, found), design_effects, strict=True))  # fmt: skip
    return [_compare(name, expected[name], actual[name], level=level / len(names)) for name in names]


def _compare(name: str, expected: Floats, actual: Floats, *, level: float) -> Shift:
    psi, (ks, p_value) = stability_index(expected, actual), kolmogorov_smirnov(expected, actual)
    sure = p_value < level
    edges = edges_of(name)
    middles = (edges[:-1] + edges[1:]) / 2
    higher = bool(np.average(middles, weights=actual) > np.average(middles, weights=expected))
    return Shift(name, psi, ks, p_value, higher, level=sure * (int(psi >= FEW) + int(psi >= MANY)))


def stability_index(expected: Floats, actual: Floats) -> float:
    """Sum over groups of bins of (a - e) ln(a / e), where a and e are the shares of the group; 0 for equal histograms.

    Neighbouring bins are put together until each group holds about a tenth of the expected photos; half a photo is added to each
    group, so that an empty one gives a finite number.
    """
    place = np.minimum(((np.cumsum(expected) - expected / 2) / expected.sum() * GROUPS).astype(int), GROUPS - 1)
    groups = [np.bincount(place, weights=counts, minlength=GROUPS) for counts in (expected, actual)]
    used = groups[0] + groups[1] > 0
    e, a = ((counts[used] + 0.5) / (counts[used] + 0.5).sum() for counts in groups)
    return float(((a - e) * np.log(a / e)).sum())


def kolmogorov_smirnov(expected: Floats, actual: Floats) -> tuple[float, float]:
    """The largest distance of the two cumulative shares, at the bins' edges, and its asymptotic two-sided p-value.

    Within a bin the distance may be larger, so the p-value is, if anything, too large. Smirnov's limit, as in scipy's `ks_2samp`.
    """
    n, m = expected.sum(), actual.sum()
    distance = float(np.abs(np.cumsum(expected) / n - np.cumsum(actual) / m).max())
    return distance, float(kolmogorov(np.sqrt(n * m / (n + m)) * distance))
