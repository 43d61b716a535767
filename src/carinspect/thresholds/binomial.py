"""Exact binomial tests and intervals: what a number of right and wrong answers proves about the precision."""

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binom

from carinspect.core.search import smallest

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64] | Floats


def p_value(accepted: Counts, wrong: Counts, *, target: float) -> Floats:
    """Probability of `wrong` errors or fewer if the precision were only `target`, 0..1; 1 where nothing is accepted.

    The exact one-sided binomial test of H0: precision <= target.
    """
    return binom.sf(accepted - wrong - 1, accepted, target)


def lower_bounds(hits: Counts, misses: Counts, *, level: float) -> Floats:
    """Lower confidence bounds of a share, 0..1, each wrong with a probability of at most `level`; 0 without a hit.

    Clopper and Pearson (1934). Computed as a beta quantile, so counts may be fractional.
    """
    hits, misses = np.broadcast_arrays(np.asarray(hits, dtype=float), np.asarray(misses, dtype=float))
    return np.where(hits > 0, beta.ppf(level, np.where(hits > 0, hits, 1.0), misses + 1), 0.0)


def lower_bound(accepted: int, wrong: int, *, confidence: float) -> float:
    """One-sided lower confidence bound of the precision, 0..1; 0 where nothing is accepted. Clopper and Pearson (1934)."""
    right = accepted - wrong
    return float(beta.ppf(1 - confidence, right, wrong + 1)) if right else 0.0


def interval(accepted: int, wrong: int, *, confidence: float) -> tuple[float, float]:
    """Two-sided interval of the precision; (0, 1) where nothing is accepted. Clopper and Pearson (1934)."""
    if not 0 <= wrong <= accepted:
        raise ValueError(f"{wrong} wrong of {accepted} accepted.")
    one_sided = (1 + confidence) / 2
    return lower_bound(accepted, wrong, confidence=one_sided), 1 - lower_bound(accepted, accepted - wrong, confidence=one_sided)


def accepted_needed(*, target: float, alpha: float, precision: float) -> int | None:
    """The number of accepted cars, of which a share `precision` is right, that proves `target` at the level `alpha`.

    None when `precision` does not exceed `target`: then no number is enough. For a precision of 1 it is the smallest n with
    target^n <= alpha; otherwise it follows from the Clopper-Pearson bound at fractional counts, which is smooth in n.
    """
    if precision <= target:
        return None

    def proves(n: int) -> bool:
        return bool(beta.ppf(alpha, n * precision, n * (1 - precision) + 1) >= target)

    return smallest(proves, start=max(1, math.ceil(math.log(alpha) / math.log(target))))
