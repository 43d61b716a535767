"""Metrics of a score.

Legend as in ranking.py: N photos, S resamples, `weights_SxN` counts; one value for each resample, NaN where it is not defined.
"""

import numpy as np

from carinspect.scoring.ranking import Array, divide


def mae(labels_N: Array, answers_N: Array, weights_SxN: Array) -> Array:
    """Mean absolute error, in the unit of the labels."""
    return _mean(np.abs(answers_N - labels_N), weights_SxN)


def rmse(labels_N: Array, answers_N: Array, weights_SxN: Array) -> Array:
    """Root of the mean squared error, in the unit of the labels."""
    return np.sqrt(_mean(np.square(answers_N - labels_N), weights_SxN))


def relative_mae(labels_N: Array, answers_N: Array, weights_SxN: Array, *, constant: float) -> Array:
    """The error as a share of that of always answering `constant`: 1 means no better. NaN where the constant is always right."""
    return divide(mae(labels_N, answers_N, weights_SxN), mae(labels_N, np.full_like(labels_N, constant), weights_SxN))


def pearson(labels_N: Array, answers_N: Array, weights_SxN: Array) -> Array:
    """Linear correlation, -1..1. NaN where labels or answers are constant."""
    shape = weights_SxN.shape
    return _correlation(np.broadcast_to(labels_N, shape), np.broadcast_to(answers_N, shape), weights_SxN)


def spearman(labels_N: Array, answers_N: Array, weights_SxN: Array) -> Array:
    """Rank correlation, -1..1, ties at their mid-rank. NaN where labels or answers are constant."""
    return _correlation(_ranks(labels_N, weights_SxN), _ranks(answers_N, weights_SxN), weights_SxN)


def _mean(values_N: Array, weights_SxN: Array) -> Array:
    return divide(weights_SxN @ values_N, weights_SxN.sum(axis=1))


def _ranks(values_N: Array, weights_SxN: Array) -> Array:
    """The mid-rank that photo n has in resample s, where it occurs `weights_SxN[s, n]` times."""
    order = np.argsort(values_N, kind="stable")
    first_of_value = np.flatnonzero(np.concatenate([[True], np.diff(values_N[order]) > 0]))
    count_SxU = np.add.reduceat(weights_SxN[:, order], first_of_value, axis=1)
    rank_SxU = np.cumsum(count_SxU, axis=1) - (count_SxU - 1) / 2
    value_of_photo_N = np.searchsorted(values_N[order][first_of_value], values_N)
    return rank_SxU[:, value_of_photo_N]


def _correlation(x_SxN: Array, y_SxN: Array, weights_SxN: Array) -> Array:
    total_Sx1 = weights_SxN.sum(axis=1, keepdims=True)
    x_SxN = x_SxN - divide((weights_SxN * x_SxN).sum(axis=1, keepdims=True), total_Sx1)
    y_SxN = y_SxN - divide((weights_SxN * y_SxN).sum(axis=1, keepdims=True), total_Sx1)
    scale_S = np.sqrt((weights_SxN * x_SxN**2).sum(axis=1) * (weights_SxN * y_SxN**2).sum(axis=1))
    # A constant column leaves rounding errors instead of 0, and the ratio of two of them would look like a correlation.
    scale_S = np.where(scale_S > 1e-12 * total_Sx1[:, 0], scale_S, 0.0)
    return np.clip(divide((weights_SxN * x_SxN * y_SxN).sum(axis=1), scale_S), -1.0, 1.0)
