"""Computes bootstrap intervals of metrics, by resampling whole groups of photos."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from carinspect.scoring.ranking import Array

Metric = Callable[[Array, Array, Array], Array]
"""(labels_N, answers_N, weights_SxN) -> values_S, NaN where the metric is not defined."""

_CELLS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A metric with its interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    skipped_resamples: int
    """Resamples in which the metric was not defined, e.g. because only one class was drawn. The interval is of the others."""


NOTHING = Estimate(value=None, low=None, high=None, skipped_resamples=0)


def resample_groups(groups_N: npt.NDArray[np.str_], *, samples: int, seed: int) -> npt.NDArray[np.uint16]:
    """How often each photo occurs in each of `samples` draws of whole groups with replacement, shape (samples, N).

    Groups, not photos: the errors of photos of one car are clustered, so an interval over photos would be too narrow.
    """
    names, group_of_photo_N = np.unique(groups_N, return_inverse=True)
    share = np.full(len(names), 1.0 / len(names))
    counts_SxG = np.random.default_rng(seed).multinomial(len(names), share, size=samples)
    return counts_SxG.astype(np.uint16)[:, group_of_photo_N]


def point(metric: Metric, labels_N: Array, answers_N: Array) -> float | None:
    """The metric on the photos as they are; None without a photo or where it is not defined."""
    if len(labels_N) == 0:
        return None
    value = float(metric(labels_N, answers_N, np.ones((1, len(labels_N))))[0])
    return None if np.isnan(value) else value


def estimate(metric: Metric, labels_N: Array, answers_N: Array, *, weights_SxN: npt.NDArray[np.uint16], confidence: float) -> Estimate:
    """The metric and its percentile interval over the resamples. Efron and Tibshirani (1993), chapter 13.

    The interval is None where a single group, or most resamples, leave it undefined. A metric at its best value on every photo (an AUC
    of 1) has the interval [1, 1], because no resample contains an error.
    """
    value = point(metric, labels_N, answers_N)
    if value is None:
        return NOTHING
    step = max(1, _CELLS_AT_ONCE // len(labels_N))
    chunks = [weights_SxN[start : start + step].astype(np.float64) for start in range(0, len(weights_SxN), step)]
    values_S = np.concatenate([metric(labels_N, answers_N, chunk) for chunk in chunks])
    defined = values_S[~np.isnan(values_S)]
    skipped = len(values_S) - len(defined)
    one_group = bool((weights_SxN == 1).all())
    if one_group or skipped > len(values_S) / 2:
        return Estimate(value=value, low=None, high=None, skipped_resamples=skipped)
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return Estimate(value=value, low=float(low), high=float(high), skipped_resamples=skipped)
