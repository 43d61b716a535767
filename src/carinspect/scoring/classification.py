"""Metrics of a probability and of a chosen class.

Legend as in ranking.py: N photos, S resamples, `weights_SxN` counts; one value for each resample, NaN where it is not defined.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from carinspect.scoring.ranking import Array, divide

ECE_BINS = 15
"""Of equal width over 0..1, as in the paper."""


def brier(labels_N: Array, probabilities_N: Array, weights_SxN: Array) -> Array:
    """Mean squared difference between probability and outcome (0 or 1); 0 is best. Brier (1950)."""
    return divide(weights_SxN @ np.square(probabilities_N - labels_N), weights_SxN.sum(axis=1))


def accuracy(labels_N: Array, classes_N: Array, weights_SxN: Array) -> Array:
    """Share of photos whose class is right, 0..1."""
    return divide(weights_SxN @ (classes_N == labels_N).astype(np.float64), weights_SxN.sum(axis=1))


def macro_f1(labels_N: Array, classes_N: Array, weights_SxN: Array) -> Array:
    """F1 averaged over the classes that occur among labels or answers, all with equal weight, as in scikit-learn's `average="macro"`."""
    known = np.union1d(labels_N, classes_N)
    is_label_NxK = (labels_N[:, None] == known).astype(np.float64)
    is_answer_NxK = (classes_N[:, None] == known).astype(np.float64)
    occurrences_SxK = weights_SxN @ (is_label_NxK + is_answer_NxK)
    f1_SxK = divide(2 * weights_SxN @ (is_label_NxK * is_answer_NxK), occurrences_SxK)
    return divide(np.nansum(f1_SxK, axis=1), (occurrences_SxK > 0).sum(axis=1).astype(np.float64))


@dataclass(frozen=True)
class Reliability:
    """Mean probability and observed share in bins of the probability, each of shape (ECE_BINS,); NaN in empty bins."""

    photos: Array
    mean_probability: Array
    observed_share: Array


def reliability(outcomes_N: Array, probabilities_N: Array) -> Reliability:
    """Bins ((b-1)/B, b/B] of equal width; a probability of 0 belongs to the first."""
    edges = np.linspace(0.0, 1.0, ECE_BINS + 1)[1:-1]
    bin_N = np.digitize(probabilities_N, edges, right=True)
    count_B = _sum_by_bin(bin_N, np.ones_like(probabilities_N))
    return Reliability(
        photos=count_B,
        mean_probability=divide(_sum_by_bin(bin_N, probabilities_N), count_B),
        observed_share=divide(_sum_by_bin(bin_N, outcomes_N), count_B),
    )


def ece(outcomes_N: Array, probabilities_N: Array) -> float:
    """Expected calibration error, 0..1: the gap between mean probability and observed share of each bin, weighted by its photos.

    Guo et al. (2017), "On Calibration of Modern Neural Networks", equation 3. For two classes pass the positive class's probability and
    whether it happened; for more, the largest probability and whether that class was right. It has no bootstrap interval: resampling
    adds its own noise to every bin, so that the resampled values lie above the value itself.
    """
    bins = reliability(outcomes_N, probabilities_N)
    gap_B = np.abs(bins.mean_probability - bins.observed_share)
    return float(np.nansum(bins.photos * gap_B) / bins.photos.sum())


def _sum_by_bin(bin_N: npt.NDArray[np.intp], values_N: Array) -> Array:
    return np.bincount(bin_N, weights=values_N, minlength=ECE_BINS).astype(np.float64)
