"""Anytime-valid tests of a precision: they may be looked at after every verdict, and stopped at any time, at no cost.

An *e-process* is a bet against a hypothesis H0: it starts at 1, and while H0 is true the chance that it *ever* reaches 1 / level is at most
`level` (Ville's inequality). The bets here are likelihood ratios, averaged over a beta distribution of the share of wrong words:

    E = ∫ q^x (1-q)^(n-x) dπ(q) / (w^x (1-w)^(n-x)),    x wrong of n, w = 1 - target,

the mixture of Robbins (1970), "Statistical methods related to the law of the iterated logarithm", for binary data. Where π lies on one side
of w only, the expected factor of the next verdict is at most 1 for *every* share on the other side, so E tests the one-sided H0, not only
the point w. Confidence sequences: Howard, Ramdas, McAuliffe and Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence
sequences", section 3 (mixtures), of which this is the exact binary case; Waudby-Smith and Ramdas (2024) call such a process a bet.
"""

import math
from dataclasses import dataclass
from typing import Literal

from scipy.optimize import brentq
from scipy.special import betainc, betaincc, betaln, logsumexp

from carinspect.core.search import smallest

MOST_MORE = 100_000
Prior = tuple[tuple[float, float, float], ...]
"""A mixture: (weight, a, b) of beta distributions of the share of wrong words, for a target of .95."""
WORSE: Prior = ((0.9, 60.0, 390.0), (0.1, 1.0, 14.0))
"""Where a promise is broken: mostly near 13 % wrong, which serves 10 % and 15 % best; the rest finds whatever else."""
BETTER: Prior = ((1.0, 2.0, 150.0),)
_ANY = (1.0, 12.0)
"""For the interval. Any choice of these is valid, and another only takes more verdicts: benchmarks/audit.py has the figures."""

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


def log_e_broken(verdicts: int, wrong: int, *, target: float) -> float:
    """Logarithm of the e-process against H0: precision >= target."""
    return _log_mixture(verdicts, wrong, share=1 - target, prior=WORSE, upper=True)


def log_e_proved(verdicts: int, wrong: int, *, target: float) -> float:
    """Logarithm of the e-process against H0: precision <= target."""
    return _log_mixture(verdicts, wrong, share=1 - target, prior=BETTER, upper=False)


def _log_mixture(verdicts: int, wrong: int, *, share: float, prior: Prior, upper: bool) -> float:
    # Each part is cut off at the share, and scaled to a probability; a mean of e-processes is one.
    tail = betaincc if upper else betainc
    logs = []
    for weight, a, at_95 in prior:
        # The same multiple of the allowed share at any target.
        b = max(a, (a + at_95) * 0.05 / share - a)
        after, before = float(tail(a + wrong, b + verdicts - wrong, share)), float(tail(a, b, share))
        if after > 0.0 and before > 0.0:
            mixed = float(betaln(a + wrong, b + verdicts - wrong) - betaln(a, b))
            logs.append(math.log(weight) + mixed + math.log(after) - math.log(before))
    if not logs:
        return -math.inf
    return float(logsumexp(logs)) - wrong * math.log(share) - (verdicts - wrong) * math.log1p(-share)


def precision_interval(verdicts: int, wrong: int, *, level: float) -> tuple[float, float]:
    """The precisions, 0..1, whose two-sided mixture is below 1 / level: all that is not excluded, at any time."""
    if verdicts == 0:
        return 0.0, 1.0
    a, b = _ANY
    mixed = float(betaln(a + wrong, b + verdicts - wrong) - betaln(a, b))

    def excess(share: float) -> float:
        likelihood = (wrong * math.log(share) if wrong else 0.0) + ((verdicts - wrong) * math.log1p(-share) if verdicts > wrong else 0.0)
        return mixed - likelihood + math.log(level)

    seen, tiny = min(max(wrong / verdicts, 1e-12), 1 - 1e-12), 1e-12
    low = 0.0 if wrong == 0 or excess(tiny) < 0 else brentq(excess, tiny, seen)
    high = 1.0 if verdicts == wrong or excess(1 - tiny) < 0 else brentq(excess, seen, 1 - tiny)
    return 1 - high, 1 - low


def judge(wrongs: list[bool], *, target: float, level: float) -> Finding:
    """What the verdicts, in the order in which they came, say about the promise of a precision `target`. level: 1 - its confidence.

    *Broken* once the e-process against it has ever reached 1 / level, and that stays: a promise that broke is mended by a new model.
    """
    against = in_favour = 0.0
    wrong = 0
    for number, one in enumerate(wrongs, start=1):
        wrong += one
        against = max(against, log_e_broken(number, wrong, target=target))
        in_favour = max(in_favour, log_e_proved(number, wrong, target=target))
    mark, count = -math.log(level), len(wrongs)
    state: State = "broken" if against >= mark else "proved anew" if in_favour >= mark else "holds so far"
    low, high = precision_interval(count, wrong, level=level)
    more = more_needed(count, wrong, target=target, level=level) if state == "holds so far" else None
    return Finding(state, count, wrong, level, math.exp(min(against, 700.0)), math.exp(min(in_favour, 700.0)), low, high, more)


def more_needed(verdicts: int, wrong: int, *, target: float, level: float) -> int | None:
    """Further verdicts that prove the target if wrong ones stay as frequent as they were; None where more than `MOST_MORE` would not."""
    rate = wrong / verdicts if verdicts else 0.0
    if rate >= 1 - target:
        return None

    def proves(more: int) -> bool:
        return log_e_proved(verdicts + more, wrong + math.ceil(rate * more), target=target) >= -math.log(level)

    return smallest(proves, most=MOST_MORE)
