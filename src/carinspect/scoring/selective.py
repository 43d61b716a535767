"""Risk-coverage curves: the error when only the most confident photos are answered.

Geifman and El-Yaniv (2017), "Selective Classification for Deep Neural Networks", section 2: coverage is the share of photos that are
answered, selective risk the mean loss of those. AURC, the area under the risk over coverage, as in Geifman, Uziel and El-Yaniv (2019),
"Bias-Reduced Uncertainty Estimation", section 3: the mean of the selective risk over the coverages 1/N, 2/N, ... 1. Among photos of
equal confidence both are the mean over all orders, so they do not depend on the order of the rows.

Legend as in ranking.py: N photos, S resamples, U distinct confidences, `weights_SxN` whole counts.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma

from carinspect.scoring.ranking import Array, divide


@dataclass(frozen=True)
class RiskCoverage:
    """Each of shape (N,), in ascending order of coverage; empty without a photo."""

    coverage: Array
    risk: Array


def risk_coverage(losses_N: Array, confidence_N: Array) -> RiskCoverage:
    """The selective risk at each coverage k / N, the most confident photos first."""
    order = np.argsort(-confidence_N, kind="stable")
    _, place_N, count_U = np.unique(-confidence_N[order], return_inverse=True, return_counts=True)
    loss_U = np.bincount(place_N, weights=losses_N[order], minlength=len(count_U)) / count_U
    answered_N = np.arange(1, len(order) + 1)
    return RiskCoverage(coverage=answered_N / max(1, len(order)), risk=np.cumsum(loss_U[place_N]) / answered_N)


def aurc(losses_N: Array, confidence_N: Array, weights_SxN: Array) -> Array:
    """Area under the risk-coverage curve, in the unit of the loss; 0 is best, a random order gives the mean loss."""
    order = np.argsort(-confidence_N, kind="stable")
    first_of_value = np.flatnonzero(np.concatenate([[True], np.diff(confidence_N[order]) < 0]))
    count_SxU = np.add.reduceat(weights_SxN[:, order], first_of_value, axis=1)
    loss_SxU = np.add.reduceat(weights_SxN[:, order] * losses_N[order], first_of_value, axis=1)
    before_SxU, lost_before_SxU = np.cumsum(count_SxU, axis=1) - count_SxU, np.cumsum(loss_SxU, axis=1) - loss_SxU
    # With l the mean loss of a block of w equals, after n photos with the total loss L, the risks of its places j = 1..w are
    # (L + j l) / (n + j) = l + (L - n l) / (n + j); the sum of 1 / (n + j) is a difference of harmonic numbers.
    mean_SxU = np.where(count_SxU > 0, divide(loss_SxU, count_SxU), 0.0)
    harmonic_SxU = digamma(before_SxU + count_SxU + 1) - digamma(before_SxU + 1)
    area_S = (count_SxU * mean_SxU + (lost_before_SxU - before_SxU * mean_SxU) * harmonic_SxU).sum(axis=1)
    return divide(area_S, weights_SxN.sum(axis=1))
