"""Metrics of a ranking: how well a score separates positive from negative photos.

Legend: N photos, S resamples, U distinct scores. `labels_N` holds 0 and 1, `weights_SxN` how often photo n occurs in resample s; the
result is one value for each resample, NaN where it is not defined. scikit-learn's functions give the same for one resample; a thousand
resamples take seconds there and milliseconds here. The tests compare the two.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def roc_auc(labels_N: Array, scores_N: Array, weights_SxN: Array) -> Array:
    """Area under the ROC curve: the chance that a positive outscores a negative, a tie counting half. NaN with one class only.

    Mann-Whitney form; Hanley and McNeil (1982), "The meaning and use of the area under a ROC curve".
    """
    positives_SxU, negatives_SxU = _sums_by_score(labels_N, scores_N, weights_SxN)
    negatives_below_SxU = np.cumsum(negatives_SxU, axis=1) - negatives_SxU
    wins_S = (positives_SxU * (negatives_below_SxU + negatives_SxU / 2)).sum(axis=1)
    return divide(wins_S, positives_SxU.sum(axis=1) * negatives_SxU.sum(axis=1))


def average_precision(labels_N: Array, scores_N: Array, weights_SxN: Array) -> Array:
    """Mean precision over the steps of recall, not interpolated, as scikit-learn's. NaN with one class only.

    Without negatives the value would be 1 for any scores, so it is NaN.
    """
    positives_SxU, negatives_SxU = _sums_by_score(labels_N, -scores_N, weights_SxN)
    right_SxU = np.cumsum(positives_SxU, axis=1)
    precision_SxU = divide(right_SxU, right_SxU + np.cumsum(negatives_SxU, axis=1))
    precision_SxU = np.where(positives_SxU > 0, precision_SxU, 0.0)
    value_S = divide((positives_SxU * precision_SxU).sum(axis=1), positives_SxU.sum(axis=1))
    return np.where(negatives_SxU.sum(axis=1) > 0, value_S, np.nan)


def divide(numerator: Array, denominator: Array) -> Array:
    """`numerator / denominator`, NaN where the denominator is 0."""
    out = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def _sums_by_score(labels_N: Array, scores_N: Array, weights_SxN: Array) -> tuple[Array, Array]:
    order = np.argsort(scores_N, kind="stable")
    first_of_score = np.flatnonzero(np.concatenate([[True], np.diff(scores_N[order]) > 0]))
    weights_SxN = weights_SxN[:, order]
    positives_SxN = weights_SxN * labels_N[order]
    positives_SxU = np.add.reduceat(positives_SxN, first_of_score, axis=1)
    negatives_SxU = np.add.reduceat(weights_SxN - positives_SxN, first_of_score, axis=1)
    return positives_SxU, negatives_SxU
