"""Owns what the chosen T_clean is worth at another share of dirty cars.

| key | meaning |
|---|---|
| `dirty_rate` | `decision.field_dirty_rate`; None: the promise is made at the source split's own |
| `source_dirty_rate` | share of dirty among one photo of each labelled group of the source split |
| `break_even_rate` | the highest field rate at which T_clean is still proven, see `choice.break_even`; None where nothing is proven |
| `test_break_even_rate` | the highest at which the test split alone, which had no part in the choice, proves it |
| `precision_on_source`, `precision_on_test` | plug-in precision at `dirty_rate`; None without a rate |
| `lower_bound_on_source`, `lower_bound_on_test` | what this threshold alone proves there; None without a rate |
"""

from typing import Any

import numpy as np

from carinspect.thresholds.choice import break_even
from carinspect.thresholds.evidence import Evidence, gather, highest_wrong_rate, lower_precision_at, precision_at
from carinspect.thresholds.sample import Sample
from carinspect.thresholds.selection import Question, Selection


def restate(question: Question, selection: Selection) -> dict[str, Any]:
    """What the module's table says of `question`, whose choice is `selection`."""
    rate, T_high = question.promise.lower_class_rate, selection["T_high"]
    evidence = {place: _at(sample, T_high) for place, sample in (("source", question.source), ("test", question.test))}
    proven = selection["proves"] is not None
    on_test = evidence["test"]
    restated: dict[str, Any] = {
        "dirty_rate": rate,
        "source_dirty_rate": None if selection["base_rate"] is None else 1 - selection["base_rate"],
        "break_even_rate": break_even(question.source, question.reference, question.promise, T_high) if proven else None,
        "test_break_even_rate": None if on_test is None else _highest(on_test, question),
    }
    for place, found in evidence.items():
        precision = lower_bound = None
        if rate is not None and found is not None and found.right[0] + found.wrong[0] > 0:
            precision = float(precision_at(found, rate)[0])
            lower_bound = float(lower_precision_at(found, rate, level=question.promise.alpha)[0])
        restated |= {f"precision_on_{place}": precision, f"lower_bound_on_{place}": lower_bound}
    return restated


def _at(sample: Sample, threshold: float | None) -> Evidence | None:
    """The counts at `threshold`; None without one, or where one of the classes has no label."""
    drawn = sample.one_a_group()
    if threshold is None or not (drawn.labelled("above") and drawn.labelled("below")):
        return None
    return gather(drawn, np.array([threshold]), side="above")


def _highest(found: Evidence, question: Question) -> float:
    return float(highest_wrong_rate(found, target=question.promise.target_precision, level=question.promise.alpha)[0])
