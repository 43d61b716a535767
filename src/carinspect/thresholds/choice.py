"""The two ways to choose T_high and T_low: by proof, and by what the source split happens to show."""

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from carinspect.core.questions import Side
from carinspect.inference.rules import Needed
from carinspect.thresholds.binomial import accepted_needed, p_value
from carinspect.thresholds.evidence import Target, gather, highest_wrong_rate, passes, precision_at
from carinspect.thresholds.plan import Reference, cut_points, make_plan
from carinspect.thresholds.sample import Sample, Thresholds

NO_THRESHOLDS: Thresholds = np.zeros(0)


@dataclass(frozen=True)
class Choice:
    """The rule: the good word when p_good >= T_high, the bad word when p_good < T_low, unsure between.

    None where that word is never said.
    """

    T_high: float | None
    T_low: float | None
    may_be_high: Thresholds = field(default_factory=NO_THRESHOLDS.copy, compare=False)
    may_be_low: Thresholds = field(default_factory=NO_THRESHOLDS.copy, compare=False)
    """All thresholds of each side that the method allows. Proven ones are proven together, so that any of them may be taken."""


NEVER = Choice(T_high=None, T_low=None)


def choose_guaranteed(sample: Sample, reference: Reference, target: Target) -> Choice:
    """The loosest proven thresholds.

    T_high and T_low hold each at `confidence` on its own, so both together at no less than 2 x confidence - 1.
    """
    if not sample.groups:
        return NEVER
    return _choose(high=_proven(sample, reference, target, side="good"), low=_proven(sample, reference, target, side="bad"))


def choose_empirical(sample: Sample, target: Target) -> Choice:
    """The loosest thresholds whose precision on the labelled photos of the source split itself reaches the target. It proves nothing:

    the best of many thresholds on one sample owes its place partly to luck, so that on new cars half of all such choices miss, or more.
    """
    return _choose(high=_met(sample, target, side="good"), low=_met(sample, target, side="bad"))


def needed_for_proof(sample: Sample, reference: Reference, target: Target, *, side: Side) -> Needed:
    """What a proof of the word of `side` takes, at the level that one start brings."""
    drawn = sample.one_a_group()
    plan = make_plan(reference, groups=drawn.groups, target=target, side=side)
    found = gather(drawn, plan.thresholds, side=side)
    level, precision_target = target.level_of_one_start, target.precision
    needed: dict[str, Any] = dict.fromkeys(
        ("without_errors", "observed_precision", "at_observed_precision", "labelled_groups", "other_class_groups")
    )
    wrong_rate = target.wrong_rate(side)
    if wrong_rate is not None:
        nearest = int(np.argmax(highest_wrong_rate(found, target=precision_target, level=level)))
        observed = float(precision_at(found, wrong_rate)[nearest])
        hits = float(found.right[nearest] / found.right_class) if found.right_class else 0.0
        # The share of the other class that may be called so: evidence.py, solved for f.
        allowed = min(1.0, hits * (1 - precision_target) * (1 - wrong_rate) / (precision_target * wrong_rate))
        needed["observed_precision"] = None if np.isnan(observed) else observed
        if 0 < allowed < 1:
            needed["other_class_groups"] = accepted_needed(target=1 - allowed, alpha=level / 2, precision=1.0)
        return Needed(**needed)
    accepted = found.right + found.wrong
    nearest = int(np.argmin(p_value(accepted, found.wrong, target=precision_target)))
    needed["without_errors"] = accepted_needed(target=precision_target, alpha=level, precision=1.0)
    if accepted[nearest]:
        precision = 1 - float(found.wrong[nearest] / accepted[nearest])
        enough = accepted_needed(target=precision_target, alpha=level, precision=precision)
        needed |= {"observed_precision": precision, "at_observed_precision": enough}
        needed["labelled_groups"] = None if enough is None else int(np.ceil(enough * drawn.groups / accepted[nearest]))
    return Needed(**needed)


def break_even(sample: Sample, reference: Reference, target: Target, T_high: float) -> float | None:
    """The highest share of the bad class in the field at which T_high is still proven; None where it is at none.

    Which rates the proof reaches is read off the same test, in the same order, run at each rate. For any one rate that was named
    beforehand its answer is right at `confidence`.
    """
    drawn = sample.one_a_group()
    plan = make_plan(reference, groups=drawn.groups, target=target, side="good")
    found = gather(drawn, plan.thresholds, side="good")
    chosen = plan.thresholds == T_high
    levels = [target.alpha * shares / len(plan.starts) for shares in range(1, len(plan.starts) + 1)]
    reached = {level: highest_wrong_rate(found, target=target.precision, level=level) for level in levels}

    def holds(rate: float) -> bool:
        proven = prove(lambda level: reached[level] >= rate, alpha=target.alpha, starts=plan.starts)
        return bool(proven[chosen].any())

    rates = np.unique(np.concatenate(list(reached.values())))
    keeping = [float(rate) for rate in rates if rate > 0 and holds(rate)]
    return max(keeping, default=None)


def _choose(*, high: Thresholds, low: Thresholds) -> Choice:
    T_high = float(high.min()) if len(high) else None
    # The good word goes first where both would hold; of the thresholds left for the bad one the largest leaves least unsure.
    left = low if T_high is None else low[low <= T_high]
    return Choice(T_high=T_high, T_low=float(left.max()) if len(left) else None, may_be_high=high, may_be_low=low)


def _proven(sample: Sample, reference: Reference, target: Target, *, side: Side) -> Thresholds:
    drawn = sample.one_a_group()
    plan = make_plan(reference, groups=drawn.groups, target=target, side=side)
    found = gather(drawn, plan.thresholds, side=side)
    proven = prove(lambda level: passes(found, target, side=side, level=level), alpha=target.alpha, starts=plan.starts)
    return plan.thresholds[proven]


def _met(sample: Sample, target: Target, *, side: Side) -> Thresholds:
    cuts = cut_points(sample.score, side=side)
    found = gather(sample, cuts, side=side)
    accepted, wrong_rate = found.right + found.wrong, target.wrong_rate(side)
    if wrong_rate is not None:
        return cuts[np.nan_to_num(precision_at(found, wrong_rate)) >= target.precision]
    return cuts[(accepted > 0) & (found.right >= target.precision * accepted)]


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
