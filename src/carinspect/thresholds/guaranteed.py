"""Owns the proof: thresholds whose precision exceeds the target, all of them at once, at the chosen confidence."""

from collections.abc import Callable, Set

import numpy as np
import numpy.typing as npt

Passes = Callable[[float], npt.NDArray[np.bool_]]
"""From a level to the thresholds, in the order of the test, that reject "precision <= target" at that level; shape (M,)."""


def prove(passes: Passes, *, alpha: float, starts: Set[int]) -> npt.NDArray[np.bool_]:
    """Which thresholds are proven, given a test of each alone on independent trials, in the order of the test. Shape (M,).

    Learn then Test (Angelopoulos et al. 2021, section 4): every threshold is a hypothesis "precision <= target", and if the chance of
    rejecting any true one is at most alpha, one may choose freely among the rejected. They are tested in the given order. Each of
    `starts` brings alpha / len(starts); a test that succeeds passes its level on to the next threshold, one that fails loses it (the
    fallback procedure, Wiens 2003, Wiens and Dmitrienko 2005). That holds whatever their dependence, and rejects all that
    separate sequences from each start would, since levels add up where those meet.
    """
    passes_with = [passes(alpha * shares / len(starts)) for shares in range(1, len(starts) + 1)]
    proven = np.zeros(len(passes_with[0]), dtype=bool)
    shares = 0
    for position in range(len(proven)):
        shares += position in starts
        proven[position] = shares > 0 and passes_with[shares - 1][position]
        if not proven[position]:
            shares = 0
    return proven
