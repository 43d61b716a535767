"""Which split each group of a table goes to: what the policy and the ledger give, then a draw, then even shares."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from carinspect.core.errors import UserError
from carinspect.core.questions import Question
from carinspect.core.tables import ONLY_TRAIN, SPLITS
from carinspect.splits.assignment import balance_splits, draw_splits
from carinspect.splits.config import SplitParams
from carinspect.splits.labels import stratify
from carinspect.splits.ledger import Ledger


def assign_splits(table: pd.DataFrame, params: SplitParams, questions: Sequence[Question], ledger: Ledger) -> pd.DataFrame:
    """`table`, which has `group`, with `split`. Raises `UserError` when there are too few groups to fill four splits."""
    groups = table.groupby("group", sort=False)
    _require_groups(groups.ngroups, params.fractions)
    keys = groups["sha256"].min()
    # In the order of their keys, so that no path decides anything.
    names = sorted(keys.index, key=lambda name: (keys[name], name))
    row_groups = pd.Index(names).get_indexer(table["group"])
    odds = _policy_odds(table, row_groups, params)
    sizes = np.bincount(row_groups)
    fractions = sizes @ odds / sizes.sum()
    given = _first_splits(table["sha256"].map(ledger.photos), row_groups, len(names))
    odds[given >= 0] = np.eye(len(SPLITS))[given[given >= 0]]
    strata = stratify(table, questions)
    splits = draw_splits(odds, [keys[name] for name in names], seed=params.seed)
    splits = balance_splits(
        splits, csr_array(_membership(row_groups) @ strata.members), weights=strata.weights, allowed=odds > 0, fractions=fractions
    )
    return table.assign(split=np.array(SPLITS, dtype=object)[splits[row_groups]])


def _require_groups(groups: int, fractions: dict[str, float]) -> None:
    needed = int(np.ceil(1 / min(fractions.values()) - 1e-9))
    if groups < needed:
        smallest = min(fractions, key=lambda name: fractions[name])
        raise UserError(
            f"the photos form {groups} group{'s' * (groups != 1)} that must each stay together; {fractions[smallest]:g} of them for "
            f"{smallest} needs at least {needed}. Add photos, or change split.fractions."
        )


def _policy_odds(table: pd.DataFrame, row_groups: np.ndarray, params: SplitParams) -> np.ndarray:
    """How likely each group is to go to each split before anything else is known, (G, K); 0 where it must not go."""
    fractions = np.array([params.fractions[split] for split in SPLITS])
    odds = np.tile(fractions, (row_groups.max() + 1, 1))
    if params.policy == "fresh":
        return odds
    declared = _first_splits(table["declared_split"], row_groups, len(odds))
    train, val, calib, test = range(len(SPLITS))
    # Exports have no calib: its share comes out of their train and val alike.
    sizes = np.bincount(row_groups)
    in_declared, giving = sizes[declared >= 0].sum(), sizes[(declared == train) | (declared == val)].sum()
    share = min(1.0, fractions[calib] * in_declared / giving) if giving else 0.0
    odds[declared == test] = np.eye(len(SPLITS))[test]
    for split in (train, val):
        odds[declared == split] = (1 - share) * np.eye(len(SPLITS))[split] + share * np.eye(len(SPLITS))[calib]
    return odds


def _first_splits(row_splits: pd.Series, row_groups: np.ndarray, groups: int) -> np.ndarray:
    """For each group the first of its photos' splits, in the order of `SPLITS`, or -1: what a model has learnt from is no test."""
    positions = row_splits.map({split: position for position, split in enumerate(SPLITS)}).fillna(len(SPLITS)).to_numpy(int)
    first = np.full(groups, len(SPLITS))
    np.minimum.at(first, row_groups, positions)
    return np.where(first < len(SPLITS), first, -1)


def _membership(row_groups: np.ndarray) -> csr_array:
    """1 where a photo is in a group, (G, photos)."""
    photos = len(row_groups)
    return csr_array((np.ones(photos), (row_groups, np.arange(photos))), shape=(row_groups.max() + 1, photos))


def count_moved(table: pd.DataFrame, params: SplitParams, ledger: Ledger) -> dict[str, int]:
    """Photos whose split is not the one that they had first, or, under `respect`, not the one that their export declares."""
    moved = {"photos_from_their_first_split": int(table["sha256"].isin(ledger.moved.keys()).sum())}
    if params.policy == "respect":
        declared = table[~table["declared_split"].isin(["", ONLY_TRAIN])]
        astray = declared[declared["declared_split"] != declared["split"]]
        moved["photos_to_calib"] = int((astray["split"] == "calib").sum())
        moved["photos_because_their_group_straddles"] = int((astray["split"] != "calib").sum())
    return moved
