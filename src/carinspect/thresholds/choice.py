"""Owns the two ways to choose T_high and T_low: by proof, and by what the source split happens to show."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from carinspect.thresholds.binomial import accepted_needed, p_value
from carinspect.thresholds.evidence import gather, highest_wrong_rate, passes, precision_at
from carinspect.thresholds.guaranteed import prove
from carinspect.thresholds.plan import Reference, cut_points, make_plan
from carinspect.thresholds.promise import Promise, Side
from carinspect.thresholds.sample import Sample, Thresholds

NO_THRESHOLDS: Thresholds = np.zeros(0)


@dataclass(frozen=True)
class Choice:
    """The rule: the word above (clean) when score >= T_high, the word below (dirty) when score < T_low, unsure between.

    None where that word is never said.
    """

    T_high: float | None
    T_low: float | None
    may_be_high: Thresholds = field(default_factory=NO_THRESHOLDS.copy, compare=False)
    may_be_low: Thresholds = field(default_factory=NO_THRESHOLDS.copy, compare=False)
    """All thresholds of each side that the method allows. Proven ones are proven together, so that any of them may be taken."""


NEVER = Choice(T_high=None, T_low=None)


def choose_guaranteed(sample: Sample, reference: Reference, promise: Promise) -> Choice:
    """The loosest proven thresholds.

    T_high and T_low hold each at `confidence` on its own, so both together at no less than 2 x confidence - 1.
    """
    if not sample.groups:
        return NEVER
    return _choose(high=_proven(sample, reference, promise, side="above"), low=_proven(sample, reference, promise, side="below"))


def choose_empirical(sample: Sample, promise: Promise) -> Choice:
    """The loosest thresholds whose precision on the labelled photos of the source split itself reaches the target. It proves nothing:

    the best of many thresholds on one sample owes its place partly to luck, so that on new cars about half of all such choices miss.
    """
    return _choose(high=_met(sample, promise, side="above"), low=_met(sample, promise, side="below"))


def needed_for_proof(sample: Sample, reference: Reference, promise: Promise, *, side: Side) -> dict[str, Any]:
    """How many groups a proof of the word of `side` takes, at the level that one start brings.

    | key | meaning |
    |---|---|
    | `without_errors` | groups called so if none of them is wrong |
    | `observed_precision` | share of right answers seen at the threshold that came nearest to a proof |
    | `at_observed_precision` | groups called so with that share; None where it does not exceed the target, since then no number would do |
    | `labelled_groups` | the labelled groups it takes to have so many called so |
    | `other_class_groups` | at a field rate: labelled groups of the other class (dirty) if none of them is called so (clean) |

    At a field rate the first, third and fourth are None; without one the last is.
    """
    drawn = sample.one_a_group()
    plan = make_plan(reference, groups=drawn.groups, promise=promise, side=side)
    found = gather(drawn, plan.thresholds, side=side)
    level, target = promise.level_of_one_start, promise.target_precision
    needed: dict[str, Any] = dict.fromkeys(
        ("without_errors", "observed_precision", "at_observed_precision", "labelled_groups", "other_class_groups")
    )
    wrong_rate = promise.wrong_rate(side)
    if wrong_rate is not None:
        nearest = int(np.argmax(highest_wrong_rate(found, target=target, level=level)))
        observed = float(precision_at(found, wrong_rate)[nearest])
        hits = float(found.right[nearest] / found.right_class) if found.right_class else 0.0
        # The share of the other class that may be called so: evidence.py, solved for f.
        allowed = min(1.0, hits * (1 - target) * (1 - wrong_rate) / (target * wrong_rate))
        needed["observed_precision"] = None if np.isnan(observed) else observed
        if 0 < allowed < 1:
            needed["other_class_groups"] = accepted_needed(target=1 - allowed, alpha=level / 2, precision=1.0)
        return needed
    accepted = found.right + found.wrong
    nearest = int(np.argmin(p_value(accepted, found.wrong, target=target)))
    needed["without_errors"] = accepted_needed(target=target, alpha=level, precision=1.0)
    if accepted[nearest]:
        precision = 1 - float(found.wrong[nearest] / accepted[nearest])
        enough = accepted_needed(target=target, alpha=level, precision=precision)
        needed |= {"observed_precision": precision, "at_observed_precision": enough}
        needed["labelled_groups"] = None if enough is None else int(np.ceil(enough * drawn.groups / accepted[nearest]))
    return needed


def break_even(sample: Sample, reference: Reference, promise: Promise, T_high: float) -> float | None:
    """The highest share of the class below (dirty) in the field at which T_high is still proven; None where it is at none.

    Which rates the proof reaches is read off the same test, in the same order, run at each rate. For any one rate that was named
    beforehand its answer is right at `confidence`.
    """
    drawn = sample.one_a_group()
    plan = make_plan(reference, groups=drawn.groups, promise=promise, side="above")
    found = gather(drawn, plan.thresholds, side="above")
    chosen = plan.thresholds == T_high
    levels = [promise.alpha * shares / len(plan.starts) for shares in range(1, len(plan.starts) + 1)]
    reached = {level: highest_wrong_rate(found, target=promise.target_precision, level=level) for level in levels}

    def holds(rate: float) -> bool:
        proven = prove(lambda level: reached[level] >= rate, alpha=promise.alpha, starts=plan.starts)
        return bool(proven[chosen].any())

    rates = np.unique(np.concatenate(list(reached.values())))
    keeping = [float(rate) for rate in rates if rate > 0 and holds(rate)]
    return max(keeping, default=None)


def _choose(*, high: Thresholds, low: Thresholds) -> Choice:
    T_high = float(high.min()) if len(high) else None
    # The word above goes first where both would hold; of the thresholds left for the one below the largest leaves least unsure.
    left = low if T_high is None else low[low <= T_high]
    return Choice(T_high=T_high, T_low=float(left.max()) if len(left) else None, may_be_high=high, may_be_low=low)


def _proven(sample: Sample, reference: Reference, promise: Promise, *, side: Side) -> Thresholds:
    drawn = sample.one_a_group()
    plan = make_plan(reference, groups=drawn.groups, promise=promise, side=side)
    found = gather(drawn, plan.thresholds, side=side)
    proven = prove(lambda level: passes(found, promise, side=side, level=level), alpha=promise.alpha, starts=plan.starts)
    return plan.thresholds[proven]


def _met(sample: Sample, promise: Promise, *, side: Side) -> Thresholds:
    cuts = cut_points(sample.score, side=side)
    found = gather(sample, cuts, side=side)
    accepted, wrong_rate = found.right + found.wrong, promise.wrong_rate(side)
    if wrong_rate is not None:
        return cuts[np.nan_to_num(precision_at(found, wrong_rate)) >= promise.target_precision]
    return cuts[(accepted > 0) & (found.right >= promise.target_precision * accepted)]
