"""Computes intervals of metrics by the jackknife over groups of photos: the errors of photos of one car are clustered.

The metric is computed once more without each group; the spread of these values is its standard error (Efron and Tibshirani 1993, chapter
11; for an AUC that is nearly the variance of Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data").
Quantiles are those of Student's distribution. The interval is made on the scale where the metric's error is nearly normal:

| scale | metrics | interval |
|---|---|---|
| `share` | 0..1, 1 is best: AUC, accuracy | all values that Wilson's score test (1927) does not reject |
| `error` | from 0 on, 0 is best | of the logarithm |
| `correlation` | -1..1 | of Fisher's z, the inverse hyperbolic tangent |
| `difference` | two models on the same photos | as it is |

Wilson's test has the number of independent photos that gives a share the jackknife's standard error, and at most the number of groups. So a
perfect value has an interval, too. benchmarks/intervals.py compares this with the bootstrap; docs/evaluation.md has the table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

from carinspect.scoring.ranking import Array

Metric = Callable[[Array, Array, Array], Array]
"""(labels_N, answers_N, weights_SxN) -> values_S, NaN where the metric is not defined."""
Scale = Literal["share", "error", "correlation", "difference"]

MOST_BLOCKS = 1000
"""With more groups, several are left out at once."""
_CELLS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A metric with its interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    standard_error: float | None
    blocks: int
    """Values that the standard error is of: groups, or `MOST_BLOCKS`."""


NOTHING = Estimate(value=None, low=None, high=None, standard_error=None, blocks=0)


def point(metric: Metric, labels_N: Array, answers_N: Array) -> float | None:
    """The metric on the photos as they are; None without a photo or where it is not defined."""
    if len(labels_N) == 0:
        return None
    value = float(metric(labels_N, answers_N, np.ones((1, len(labels_N))))[0])
    return None if np.isnan(value) else value


def less(metric: Metric, other_N: Array) -> Metric:
    """How much the metric of the answers exceeds that of other answers to the same photos."""

    def difference(labels_N: Array, answers_N: Array, weights_SxN: Array) -> Array:
        return metric(labels_N, answers_N, weights_SxN) - metric(labels_N, other_N, weights_SxN)

    return difference


def estimate(
    metric: Metric, labels_N: Array, answers_N: Array, *, groups_N: npt.NDArray[np.str_], confidence: float, scale: Scale
) -> Estimate:
    """The metric and its interval. The interval is None for a single group, and where the metric is undefined without one of the groups."""
    value = point(metric, labels_N, answers_N)
    if value is None:
        return NOTHING
    without_B = leave_out(metric, labels_N, answers_N, groups_N)
    blocks = len(without_B)
    if blocks < 2 or np.isnan(without_B).any():
        return Estimate(value, None, None, None, blocks)
    error = _standard_error(without_B)
    reach = float(student_t.ppf((1 + confidence) / 2, blocks - 1))
    if scale == "correlation" and max(abs(value), np.abs(without_B).max()) < 1:
        ends = np.arctanh(value) + np.array([-reach, reach]) * _standard_error(np.arctanh(without_B))
        return Estimate(value, float(np.tanh(ends[0])), float(np.tanh(ends[1])), error, blocks)
    low, high = _interval(value, error, reach, scale, groups=len(np.unique(groups_N)))
    return Estimate(value, low, high, error, blocks)


def _standard_error(without_B: Array) -> float:
    blocks = len(without_B)
    return float(np.sqrt((blocks - 1) / blocks * np.square(without_B - without_B.mean()).sum()))


def leave_out(metric: Metric, labels_N: Array, answers_N: Array, groups_N: npt.NDArray[np.str_]) -> Array:
    """The metric without each group, in the order of their names, or without each of `MOST_BLOCKS` random blocks of groups."""
    names, group_N = np.unique(groups_N, return_inverse=True)
    blocks = min(len(names), MOST_BLOCKS)
    block_of_group = np.arange(blocks) if blocks == len(names) else np.random.default_rng(0).permutation(len(names)) % blocks
    block_N = block_of_group[group_N]
    step = max(1, _CELLS_AT_ONCE // len(labels_N))
    chunks = [np.arange(start, min(start + step, blocks)) for start in range(0, blocks, step)]
    return np.concatenate([metric(labels_N, answers_N, (chunk[:, None] != block_N).astype(np.float64)) for chunk in chunks])


def _interval(value: float, error: float, reach: float, scale: Scale, *, groups: int) -> tuple[float, float]:
    match scale:
        case "share":
            spread = value * (1 - value)
            photos = min(spread / error**2, groups) if error > 0 else float(groups)
            return _wilson(value, reach, photos)
        case "error":
            factor = float(np.exp(reach * error / value)) if value > 0 else 1.0
            return value / factor, value * factor
        case "correlation":
            # Of points on a line, with one group left out or with all.
            return max(-1.0, value - reach * error), min(1.0, value + reach * error)
        case "difference":
            return value - reach * error, value + reach * error
        case _:
            assert_never(scale)


def _wilson(share: float, reach: float, photos: float) -> tuple[float, float]:
    middle = (share + reach**2 / (2 * photos)) / (1 + reach**2 / photos)
    half = reach / (1 + reach**2 / photos) * np.sqrt(share * (1 - share) / photos + reach**2 / (4 * photos**2))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
