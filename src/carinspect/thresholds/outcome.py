"""Owns what a threshold does to the labelled photos of a split."""

from typing import Any

import numpy as np

from carinspect.thresholds.binomial import interval, lower_bound
from carinspect.thresholds.promise import Side
from carinspect.thresholds.sample import Sample, count_decisions

Outcome = dict[str, Any]


def look_at(sample: Sample, threshold: float | None, *, confidence: float, side: Side = "above") -> Outcome:
    """Counts and shares for the photos that `threshold` calls by the word of `side`; None where a share has no photo to speak of.

    | key | meaning |
    |---|---|
    | `photos`, `groups` | with a label |
    | `accepted_photos`, `wrong_photos` | called so, and of those wrongly |
    | `accepted_groups`, `wrong_groups` | the same for the one photo drawn from each group |
    | `precision`, `precision_low`, `precision_high` | right among accepted groups, exact two-sided interval at `confidence` |
    | `lower_bound` | one-sided bound of `precision` at `confidence`, as if this threshold alone had been looked at |
    | `photo_precision` | right among accepted photos, every photo counting alike |
    | `recall` | called so among the photos that are |
    | `coverage` | called so among all photos |
    | `missed_photos`, `f1` | are so, but not called so: with the counts above the whole confusion; F1 over photos |

    Without a threshold nothing is called so: the counts are 0, and there is no precision.
    """
    accepted, wrong = _count(sample, threshold, side=side)
    accepted_groups, wrong_groups = _count(sample.one_a_group(), threshold, side=side)
    photos, of_this_word = len(sample.upper), sample.labelled(side)
    low, high = interval(accepted_groups, wrong_groups, confidence=confidence) if accepted_groups else (None, None)
    return {
        "photos": photos,
        "groups": sample.groups,
        "accepted_photos": accepted,
        "wrong_photos": wrong,
        "accepted_groups": accepted_groups,
        "wrong_groups": wrong_groups,
        "precision": _share(accepted_groups - wrong_groups, accepted_groups),
        "precision_low": low,
        "precision_high": high,
        "lower_bound": lower_bound(accepted_groups, wrong_groups, confidence=confidence) if accepted_groups else None,
        "photo_precision": _share(accepted - wrong, accepted),
        "missed_photos": of_this_word - (accepted - wrong),
        "recall": _share(accepted - wrong, of_this_word),
        "f1": _share(2 * (accepted - wrong), accepted + of_this_word),
        "coverage": _share(accepted, photos),
    }


def _count(sample: Sample, threshold: float | None, *, side: Side) -> tuple[int, int]:
    if threshold is None:
        return 0, 0
    accepted, wrong = count_decisions(sample, np.array([threshold]), side=side)
    return int(accepted[0]), int(wrong[0])


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
