"""The whole of the split: photos in; groups, splits, their certificate and the ledger out, or an error that says what is wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from carinspect.core.errors import UserError
from carinspect.core.questions import Question
from carinspect.core.tables import ONLY_TRAIN
from carinspect.splits.certificate import certify_split, find_gaps
from carinspect.splits.check import comparable, find_leaks
from carinspect.splits.config import SplitParams
from carinspect.splits.fingerprints import read_fingerprints
from carinspect.splits.groups import Link, label_groups, link_equal, name_groups
from carinspect.splits.ledger import Ledger, extend_ledger
from carinspect.splits.near_duplicates import find_near_duplicates
from carinspect.splits.placement import assign_splits, count_moved


class Split(NamedTuple):
    """`table` has `dataset_columns` and is sorted by `image_path`; `links` are between its rows.

    Not in it are photos that may only train and whose group is held out.
    """

    table: pd.DataFrame
    links: list[Link]
    certificate: dict[str, Any]
    ledger: Ledger


def split_photos(table: pd.DataFrame, root: Path, *, params: SplitParams, questions: Sequence[Question], ledger: Ledger) -> Split:
    """Split the photos of a table with `annotation_columns` that lie under `root`, keeping what `ledger` says.

    Raises `UserError` for a photo that cannot be read, for too few groups, for a question that some split could not answer for, for a leak.
    """
    table = table.sort_values("image_path").reset_index(drop=True)
    links = find_links(table, root, params)
    table = table.assign(group=name_groups(label_groups(len(table), links), table["image_path"]))
    table, links, left_out = place_photos(table, links, params=params, questions=questions, ledger=ledger)
    _require_labels(table, questions)
    require_no_leaks(table)
    ledger = extend_ledger(ledger, dict(zip(table["sha256"], table["split"], strict=True)))
    certificate = certify_split(table, links, questions=questions, moved=count_moved(table, params, ledger), left_out=left_out)
    return Split(table, links, certificate, ledger)


def place_photos(
    table: pd.DataFrame, links: list[Link], *, params: SplitParams, questions: Sequence[Question], ledger: Ledger
) -> tuple[pd.DataFrame, list[Link], int]:
    """`table` with `split`, the links between its rows, and how many photos were left out.

    Photos that may only train have no say in where their group goes: if a chosen photo took its group into train, calib would lose just
    the cars that the model finds hard, and the proof with them. So a group's other photos are placed as if the chosen ones were not there.
    """
    chosen = table["declared_split"] == ONLY_TRAIN
    placed = assign_splits(table[~chosen], params, questions, ledger)
    splits = table["group"].map(placed.groupby("group")["split"].first()).fillna("train")
    kept = (~chosen | (splits == "train")).to_numpy()
    place = np.cumsum(kept) - 1
    links = [
        link._replace(first=int(place[link.first]), second=int(place[link.second]))
        for link in links
        if kept[link.first] and kept[link.second]
    ]
    table = table.assign(split=splits)[kept].reset_index(drop=True)
    return table.assign(group=table["image_path"].groupby(table["group"]).transform("min")), links, int((~kept).sum())


def find_links(table: pd.DataFrame, root: Path, params: SplitParams) -> list[Link]:
    """Why photos belong together: what the table says, then what reading each of them under `root` shows beyond that."""
    known = comparable(table)
    links = [
        *link_equal(known["family"], "family"),
        *link_equal(known["sha256"], "bytes"),
        *link_equal(known["phash"], "near-duplicate"),
    ]
    fingerprints = read_fingerprints([root / path for path in table["image_path"]])
    bits, correlation = params.near_duplicate_bits, params.near_duplicate_correlation
    return links + find_near_duplicates(fingerprints, links, bits=bits, correlation=correlation)


def _require_labels(table: pd.DataFrame, questions: Sequence[Question]) -> None:
    gaps = find_gaps(table, questions)
    if gaps:
        raise UserError(" ".join(gaps))


def require_no_leaks(table: pd.DataFrame) -> None:
    """Raise `UserError` with the first leak of a table that has `dataset_columns`."""
    leaks = find_leaks(table)
    if leaks:
        raise UserError(f"{len(leaks)} leaks, which is a fault of this stage. The first: {leaks[0]}")
