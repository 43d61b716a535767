"""Anytime-valid tests of a precision: they may be looked at after every verdict, and stopped at any time, at no cost.

An *e-process* is a bet against a hypothesis H0: it starts at 1, and while H0 is true the chance that it *ever* reaches 1 / level is at most
`level` (Ville's inequality). The bets here are likelihood ratios of a share of wrong words q against the allowed one, w = 1 - target,

    L_q = q / w for a wrong word, (1 - q) / (1 - w) for a right one,    E = Σ_q π(q) Π_t (1 + s_t (L_q,t - 1)),

where the *stake* s_t, 0..1, is how much of the money is put on verdict t, and π is a beta distribution of q, cut off at w. With stakes of 1
this is the mixture of Robbins (1970), "Statistical methods related to the law of the iterated logarithm", for binary data.

**Weights.** Where photos are drawn from strata, each with the chance q_h instead of its share p_h among all, a verdict has the weight p_h
/ q_h, and its stake is that over the highest weight of the draw. Since L_q - 1 = (q - w) (x - w) / (w (1 - w)) for x = 1 (wrong) or 0, and
the mean of weight * x over the draw is the share of wrong words among all, the expected factor is at most 1 under H0 however the wrong
words lie in the strata. This is a bet with importance weights: Waudby-Smith and Ramdas (2024), "Estimating means of bounded random
variables by betting", section 4; Waudby-Smith, Stark and Ramdas (2021), "RiLACS: Risk-limiting audits via confidence sequences"; Shekhar,
Xu, Lipton, Liang and Ramdas (2023), "Risk-limiting financial audits via weighted sampling without replacement". It is also the mean over
all ways to keep each verdict with the probability s_t and to test those kept as if they had no weights.

Where π lies on one side of w only, this holds for *every* share on the other side, so E tests the one-sided H0, not only the point w. π is
a sum over 500 points, which is a mixture itself: nothing about the proof is approximate. Confidence sequences: Howard, Ramdas, McAuliffe
and Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence sequences", section 3.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import roots_legendre

from carinspect.core.search import smallest

MOST_MORE, _POINTS, _AT = 100_000, 500, 0.05
Prior = tuple[tuple[float, float, float], ...]
"""A mixture: (weight, a, b) of beta distributions of the share of wrong words, for an allowed share of `_AT`."""
WORSE: Prior = ((0.9, 60.0, 390.0), (0.1, 1.0, 14.0))
"""Where a promise is broken: mostly near 13 % wrong, which serves 10 % and 15 % best; the rest finds whatever else."""
BETTER: Prior = ((1.0, 2.0, 150.0),)
_ANY: Prior = ((1.0, 1.0, 12.0),)
"""For the interval. Any choice of these is valid, and another only takes more verdicts: benchmarks/audit.py has the figures."""

Tally = Mapping[tuple[bool, float], float]
"""(wrong, stake) → number of such verdicts."""
State = Literal["holds so far", "broken", "proved anew"]


@dataclass(frozen=True)
class Finding:
    """What the verdicts say about a promise."""

    state: State
    verdicts: int
    wrong: int
    level: float
    """Chance of each of the two wrong findings, ever."""
    highest_against: float
    """The highest that the e-process against the promise ever was."""
    highest_for: float
    precision_low: float
    """Confidence sequence of the precision at 1 - level: holds at all times together."""
    precision_high: float
    more: int | None
    """Further verdicts that would prove the promise anew if wrong ones stay as frequent; None: never, or proved already."""


def tally_of(verdicts: int, wrong: int) -> Tally:
    """Verdicts without weights."""
    return {(True, 1.0): wrong, (False, 1.0): verdicts - wrong}


def log_e_broken(tally: Tally, *, target: float) -> float:
    """Logarithm of the e-process against H0: precision >= target."""
    return _log_mixture(tally, 1 - target, *worse_than(target))


def log_e_proved(tally: Tally, *, target: float) -> float:
    """Logarithm of the e-process against H0: precision <= target."""
    return _log_mixture(tally, 1 - target, *better_than(target))


def worse_than(target: float) -> tuple[np.ndarray, np.ndarray]:
    """The shares of wrong words that bets against a precision >= target are on, and the logarithms of their chances: (500,), (500,)."""
    return _alternatives(WORSE, 1 - target, 1.0, allowed=1 - target)


def better_than(target: float) -> tuple[np.ndarray, np.ndarray]:
    """As `worse_than`, for bets against a precision <= target."""
    return _alternatives(BETTER, 0.0, 1 - target, allowed=1 - target)


def log_factor(alternatives: np.ndarray, share: float, *, wrong: bool, stake: float) -> np.ndarray:
    """Logarithm of what one verdict multiplies the money of each bet by, against the share of wrong words `share`."""
    ratio = alternatives / share if wrong else (1 - alternatives) / (1 - share)
    return np.asarray(np.log1p(stake * (ratio - 1)))


def _log_mixture(tally: Tally, share: float, alternatives: np.ndarray, log_chances: np.ndarray) -> float:
    log_won = log_chances.copy()
    for (wrong, stake), number in tally.items():
        log_won += number * log_factor(alternatives, share, wrong=wrong, stake=stake)
    return float(np.logaddexp.reduce(log_won))


@cache
def _alternatives(prior: Prior, low: float, high: float, *, allowed: float) -> tuple[np.ndarray, np.ndarray]:
    """Shares of wrong words from low to high, and the logarithms of their chances, which add up to 1."""
    points, widths = roots_legendre(_POINTS)
    alternatives = low + (high - low) * (points + 1) / 2
    parts = []
    for weight, a, b_then in prior:
        # The same multiple of the allowed share at any target.
        b = max(a, (a + b_then) * _AT / allowed - a)
        log_density = np.log(widths) + (a - 1) * np.log(alternatives) + (b - 1) * np.log1p(-alternatives)
        parts.append(math.log(weight) + log_density - np.logaddexp.reduce(log_density))
    return alternatives, np.logaddexp.reduce(parts, axis=0)


def precision_interval(tally: Tally, *, level: float) -> tuple[float, float]:
    """The precisions, 0..1, whose two-sided mixture is below 1 / level: all that is not excluded, at any time."""
    if not any(tally.values()):
        return 0.0, 1.0
    alternatives, tiny = _alternatives(_ANY, 0.0, 1.0, allowed=_AT), 1e-12

    def excess(share: float) -> float:
        return _log_mixture(tally, share, *alternatives) + math.log(level)

    # Its logarithm is convex in the share, so what is not excluded is one interval, around the lowest point.
    lowest = float(minimize_scalar(excess, bounds=(tiny, 1 - tiny), method="bounded", options={"xatol": 1e-9}).x)
    if excess(lowest) >= 0:
        return 1 - lowest, 1 - lowest
    low = 0.0 if excess(tiny) < 0 else brentq(excess, tiny, lowest)
    high = 1.0 if excess(1 - tiny) < 0 else brentq(excess, lowest, 1 - tiny)
    return 1 - high, 1 - low


def judge(wrongs: Sequence[bool], stakes: Sequence[float], *, target: float, level: float) -> Finding:
    """What the verdicts, in the order in which they came, say about the promise of a precision `target`. level: 1 - its confidence.

    stakes: each verdict's weight over the highest of its draw, in 0..1; 1 for a plain draw.
    *Broken* once the e-process against it has ever reached 1 / level, and that stays: a promise that broke is mended by a new model.
    """
    against = in_favour = 0.0
    tally: Counter[tuple[bool, float]] = Counter()
    for wrong, stake in zip(wrongs, stakes, strict=True):
        tally[wrong, stake] += 1
        against = max(against, log_e_broken(tally, target=target))
        in_favour = max(in_favour, log_e_proved(tally, target=target))
    mark = -math.log(level)
    state: State = "broken" if against >= mark else "proved anew" if in_favour >= mark else "holds so far"
    low, high = precision_interval(tally, level=level)
    more = more_needed(tally, target=target, level=level) if state == "holds so far" else None
    return Finding(state, len(wrongs), sum(wrongs), level, math.exp(min(against, 700.0)), math.exp(min(in_favour, 700.0)), low, high, more)


def more_needed(tally: Tally, *, target: float, level: float) -> int | None:
    """Further verdicts that prove the target if they are like those so far; None where more than `MOST_MORE` would not."""
    seen = sum(tally.values())

    def proves(more: int) -> bool:
        after = {kind: number * (1 + more / seen) for kind, number in tally.items()} if seen else tally_of(more, 0)
        return log_e_proved(after, target=target) >= -math.log(level)

    return smallest(proves, most=MOST_MORE)
