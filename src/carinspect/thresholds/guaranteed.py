"""Owns the proof: thresholds whose precision exceeds the target, all of them at once, at the chosen confidence."""

from collections.abc import Set

import numpy as np
import numpy.typing as npt

from carinspect.thresholds.binomial import Counts, p_value


def prove(accepted: Counts, wrong: Counts, *, target: float, alpha: float, starts: Set[int]) -> npt.NDArray[np.bool_]:
    """Which thresholds are proven, given their counts on independent trials, in the order of the test. Shape (M,) in and out.

    Learn then Test (Angelopoulos et al. 2021, section 4): every threshold is a hypothesis "precision <= target", and if the chance of
    rejecting any true one is at most alpha, one may choose freely among the rejected. They are tested in the given order. Each of
    `starts` brings alpha / len(starts); a test that succeeds passes its level on to the next threshold, one that fails loses it (the
    fallback procedure, Wiens 2003, Wiens and Dmitrienko 2005). That holds whatever their dependence, and rejects all that
    separate sequences from each start would, since levels add up where those meet.
    """
    proven = np.zeros(len(accepted), dtype=bool)
    level = 0.0
    for position, p in enumerate(p_value(accepted, wrong, target=target)):
        if position in starts:
            level += alpha / len(starts)
        proven[position] = level > 0 and p <= level
        if not proven[position]:
            level = 0.0
    return proven
