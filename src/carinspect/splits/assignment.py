"""Chooses the split of each group: a draw from its hash, then the fewest moves that even out the shares.

The draw alone is a function of the seed and the group, so that no other photo can change it; but a draw leaves the shares to chance. Greedy
moves, each the one that lowers the imbalance most, bring them close; typically one group in twenty moves. Groups whose split is given
(by the ledger, or by an export under the policy `respect`) never move.

Shapes: G groups; F features, see `labels.stratify`; K splits, in the order of `SPLITS`.
"""

import numpy as np
from scipy.sparse import csr_array

from carinspect.core.seeds import derive_seed

_LEAST_GAIN = 1e-9


def draw_splits(odds: np.ndarray, keys: list[str], *, seed: int) -> np.ndarray:
    """The split of each group, int (G,), drawn with its row of `odds`, (G, K), by the hash of `seed` and its key."""
    draws = np.array([derive_seed(seed, "split", key) for key in keys], dtype=np.float64) / 2.0**63
    # A row may sum to a hair below one.
    edges = np.cumsum(odds, axis=1)[:, :-1]
    allowed = odds > 0
    drawn = (draws[:, None] >= edges).sum(axis=1)
    return np.where(allowed[np.arange(len(keys)), drawn], drawn, allowed.argmax(axis=1))


def balance_splits(splits: np.ndarray, counts: csr_array, *, weights: np.ndarray, allowed: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """`splits` after moves that even out how many photos of each feature lie in each split.

    Minimises the chi-square sum over features and splits of weight x (photos - wanted)^2 / wanted, wanted = fraction of the feature's
    photos: a rare class counts as much as a common one. counts: photos of each feature in each group, (G, F), groups in an order that a
    tie may be broken by. weights: of the features, (F,). allowed: where a group may go, bool (G, K). fractions: (K,).
    """
    splits, groups = splits.copy(), np.arange(len(splits))
    wanted_FxK = np.asarray(counts.sum(axis=0)).ravel()[:, None] * fractions
    weights_FxK = weights[:, None] / wanted_FxK
    excess_FxK = counts.T @ np.eye(len(fractions))[splits] - wanted_FxK
    squares_GxK = counts.multiply(counts) @ weights_FxK
    for _ in range(4 * len(splits)):
        slopes_GxK = 2 * (counts @ (weights_FxK * excess_FxK))
        leaving_G = (squares_GxK - slopes_GxK)[groups, splits]
        change_GxK = np.where(allowed, leaving_G[:, None] + squares_GxK + slopes_GxK, np.inf)
        change_GxK[groups, splits] = 0.0
        # Rounded, so that groups alike tie whatever the order of additions, and the first one moves.
        group, target = divmod(int(np.round(change_GxK, 9).argmin()), len(fractions))
        if change_GxK[group, target] > -_LEAST_GAIN:
            break
        moved_F = counts[[group]].toarray().ravel()
        excess_FxK[:, splits[group]] -= moved_F
        excess_FxK[:, target] += moved_F
        splits[group] = target
    return splits
