"""Owns the two ways to choose T_clean and T_low: by proof, and by what the source split happens to show."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from carinspect.thresholds.binomial import accepted_needed, p_value
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.guaranteed import prove
from carinspect.thresholds.plan import Thresholds, cut_points, make_plan
from carinspect.thresholds.sample import Sample, Word, count_decisions


@dataclass(frozen=True)
class Choice:
    """The rule: clean when p_clean >= T_clean, dirty when p_clean < T_low, unsure between; None where that word is never said."""

    T_clean: float | None
    T_low: float | None


NEVER = Choice(T_clean=None, T_low=None)


def choose_guaranteed(sample: Sample, reference: npt.NDArray[np.float64], params: SelectThresholdParams) -> Choice:
    """The loosest proven thresholds. `reference`: scores of another split, which fix the plan of the test.

    T_clean and T_low hold each at `confidence` on its own, so both together at no less than 2 x confidence - 1.
    """
    return _choose(clean=_proven(sample, reference, params, word="clean"), dirty=_proven(sample, reference, params, word="dirty"))


def choose_empirical(sample: Sample, params: SelectThresholdParams) -> Choice:
    """The loosest thresholds whose precision on the labelled photos of the source split itself reaches the target. It proves nothing:

    the best of many thresholds on one sample owes its place partly to luck, so that on new cars about half of all such choices miss.
    """
    return _choose(clean=_met(sample, params, word="clean"), dirty=_met(sample, params, word="dirty"))


def needed_for_proof(sample: Sample, reference: npt.NDArray[np.float64], params: SelectThresholdParams) -> dict[str, Any]:
    """How many groups a proof of T_clean takes, at the level that one start brings.

    `without_errors`: groups called clean if none of them is dirty. `at_observed_precision`: groups called clean with the share of
    right answers (`observed_precision`) seen at the threshold that came nearest to a proof; None where that share does not exceed the
    target, since then no number would do. `labelled_groups`: the labelled groups it takes to have so many called clean.
    """
    drawn = sample.one_a_group()
    plan = make_plan(reference, groups=drawn.groups, params=params, word="clean")
    accepted, wrong = count_decisions(drawn, plan.thresholds, word="clean")
    level = (1 - params.confidence) / len(plan.starts)
    nearest = int(np.argmin(p_value(accepted, wrong, target=params.target_precision)))
    precision = 1 - float(wrong[nearest] / accepted[nearest]) if accepted[nearest] else None
    needed = None if precision is None else accepted_needed(target=params.target_precision, alpha=level, precision=precision)
    return {
        "without_errors": accepted_needed(target=params.target_precision, alpha=level, precision=1.0),
        "observed_precision": precision,
        "at_observed_precision": needed,
        "labelled_groups": None if needed is None else int(np.ceil(needed * drawn.groups / accepted[nearest])),
    }


def _choose(*, clean: Thresholds, dirty: Thresholds) -> Choice:
    T_clean = float(clean.min()) if len(clean) else None
    # Clean goes first where both would hold; of the thresholds left for dirty the largest leaves least unsure.
    dirty = dirty if T_clean is None else dirty[dirty <= T_clean]
    return Choice(T_clean=T_clean, T_low=float(dirty.max()) if len(dirty) else None)


def _proven(sample: Sample, reference: npt.NDArray[np.float64], params: SelectThresholdParams, *, word: Word) -> Thresholds:
    drawn = sample.one_a_group()
    plan = make_plan(reference, groups=drawn.groups, params=params, word=word)
    accepted, wrong = count_decisions(drawn, plan.thresholds, word=word)
    proven = prove(accepted, wrong, target=params.target_precision, alpha=1 - params.confidence, starts=plan.starts)
    return plan.thresholds[proven]


def _met(sample: Sample, params: SelectThresholdParams, *, word: Word) -> Thresholds:
    cuts = cut_points(sample.p_clean, word=word)
    accepted, wrong = count_decisions(sample, cuts, word=word)
    return cuts[(accepted > 0) & (accepted - wrong >= params.target_precision * accepted)]
