"""The two methods that choose T_high and T_low: by proof, and by the precision observed on the source split."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from carinspect.core.questions import Side
from carinspect.inference.rules import Needed
from carinspect.thresholds.binomial import accepted_needed, p_value
from carinspect.thresholds.evidence import HITS_SHARE, Target, gather, highest_wrong_rate, passes, precision_at
from carinspect.thresholds.plan import Reference, cut_points, make_plan, place_starts
from carinspect.thresholds.sample import Sample, Thresholds

NO_THRESHOLDS: Thresholds = np.zeros(0)


@dataclass(frozen=True)
class Choice:
    """The thresholds of a rule: good when p_good >= T_high, bad when p_good < T_low, otherwise unsure.

    A threshold of None: that word is never used.
    """

    T_high: float | None
    T_low: float | None
    may_be_high: Thresholds = field(default_factory=NO_THRESHOLDS.copy, compare=False)
    may_be_low: Thresholds = field(default_factory=NO_THRESHOLDS.copy, compare=False)
    """All thresholds of each side that the method allows. The proof holds for all of them together, so any one may be chosen."""
    of_groups: dict[Side, list[Thresholds]] = field(default_factory=dict, compare=False)
    """For each group of photos the thresholds that are proved for it, too."""

    def proves(self, side: Side, group: int) -> bool:
        """Whether the chosen threshold is proved for the group with that place."""
        threshold = self.T_high if side == "good" else self.T_low
        return side in self.of_groups and threshold is not None and threshold in self.of_groups[side][group]


NEVER = Choice(T_high=None, T_low=None)


def choose_guaranteed(sample: Sample, reference: Reference, target: Target, groups: Sequence[tuple[Sample, Reference]] = ()) -> Choice:
    """The loosest proven thresholds; of those, where `groups` of photos are given, only the ones that are proved for most groups.

    T_high and T_low each hold at `confidence`; their joint confidence is at least 2 x confidence - 1. For all photos and in each group they
    are tested at the level of `target`, whose `families` must count all of these.
    """
    if not len(sample.one_a_group().passed):
        return NEVER
    high, of_high = _proven(sample, reference, target, side="good", groups=groups)
    low, of_low = _proven(sample, reference, target, side="bad", groups=groups)
    return replace(_choose(high=high, low=low), of_groups={"good": of_high, "bad": of_low})


def choose_empirical(sample: Sample, target: Target) -> Choice:
    """The loosest thresholds whose observed precision on the source split reaches the target.

    This proves nothing: the best of many thresholds on one sample is partly best by chance, so half of such choices or more, up to nearly
    all, miss the target on new cars.
    """
    return _choose(high=_met(sample, target, side="good"), low=_met(sample, target, side="bad"))


def needed_for_proof(sample: Sample, reference: Reference, target: Target, *, side: Side) -> Needed:
    """How many groups a proof of the word of `side` needs, at the level of one start."""
    drawn = sample.one_a_group()
    plan = make_plan(reference, groups=len(drawn.passed), target=target, side=side)
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
        # The largest share of the other class that may get this word: the formula of evidence.py, solved for f.
        allowed = min(1.0, hits * (1 - precision_target) * (1 - wrong_rate) / (precision_target * wrong_rate))
        needed["observed_precision"] = None if np.isnan(observed) else observed
        if 0 < allowed < 1:
            needed["other_class_groups"] = accepted_needed(target=1 - allowed, alpha=(1 - HITS_SHARE) * level, precision=1.0)
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
    """The highest share of the bad class in the field at which T_high is still proven; None when it is proven at no share.

    The same test is run in the same order at each rate. For one rate that is fixed in advance the result holds at `confidence`.
    """
    drawn = sample.one_a_group()
    plan = make_plan(reference, groups=len(drawn.passed), target=target, side="good")
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
    # Where both words are possible, good takes precedence. Of the remaining thresholds for bad, the largest leaves the fewest unsure.
    left = low if T_high is None else low[low <= T_high]
    return Choice(T_high=T_high, T_low=float(left.max()) if len(left) else None, may_be_high=high, may_be_low=low)


def _proven(
    sample: Sample, reference: Reference, target: Target, *, side: Side, groups: Sequence[tuple[Sample, Reference]]
) -> tuple[Thresholds, list[Thresholds]]:
    """The thresholds that are proven for all photos and for most groups, and for each group those that are proven there."""
    plan = make_plan(reference, groups=len(sample.one_a_group().passed), target=target, side=side)

    def prove_for(one: Sample, starts: Set[int]) -> npt.NDArray[np.bool_]:
        found = gather(one.one_a_group(), plan.thresholds, side=side)
        return prove(lambda level: passes(found, target, side=side, level=level), alpha=target.alpha, starts=starts)

    proven, in_groups = prove_for(sample, plan.starts), []
    for one, scores in groups:
        in_groups.append(
            prove_for(one, place_starts(plan.thresholds, scores, groups=len(one.one_a_group().passed), target=target, side=side))
        )
    for_how_many = np.sum(in_groups, axis=0) if in_groups else np.zeros(len(proven))
    most = proven & (for_how_many == for_how_many[proven].max(initial=0))
    return plan.thresholds[most], [plan.thresholds[one] for one in in_groups]


def _met(sample: Sample, target: Target, *, side: Side) -> Thresholds:
    cuts = cut_points(sample.passed, side=side)
    found = gather(sample, cuts, side=side)
    accepted, wrong_rate = found.right + found.wrong, target.wrong_rate(side)
    if wrong_rate is not None:
        return cuts[np.nan_to_num(precision_at(found, wrong_rate)) >= target.precision]
    return cuts[(accepted > 0) & (found.right >= target.precision * accepted)]


Passes = Callable[[float], npt.NDArray[np.bool_]]
"""From a level to the thresholds, in the order of the test, that reject "precision <= target" at that level; shape (M,)."""


def prove(passes: Passes, *, alpha: float, starts: Set[int]) -> npt.NDArray[np.bool_]:
    """Which thresholds are proven, from `passes`, which tests each threshold alone. Shape (M,), in the order of the test.

    Learn then Test (Angelopoulos et al. 2021, section 4): each threshold has the hypothesis "precision <= target". If the probability of
    rejecting any true hypothesis is at most alpha, any rejected one may be chosen. The hypotheses are tested in the given order. Each
    position in `starts` adds alpha / len(starts) to the level; a test that rejects passes its level to the next threshold, one that does
    not loses it (the fallback procedure, Wiens 2003, Wiens and Dmitrienko 2005). This is valid for any dependence between the tests. It
    rejects at least what separate sequences from each start would, because levels add up where sequences meet.
    """
    # Each test is needed at no more than len(starts) different levels, so all are computed at once.
    passes_with = [passes(alpha * shares / len(starts)) for shares in range(1, len(starts) + 1)]
    # shares: how many starts the current level consists of; it falls to 0 at a threshold that is not proven.
    proven = np.zeros(len(passes_with[0]), dtype=bool)
    shares = 0
    for position in range(len(proven)):
        shares += position in starts
        proven[position] = shares > 0 and passes_with[shares - 1][position]
        if not proven[position]:
            shares = 0
    return proven
