"""The whole of the split: photos in; groups, splits, their certificate and the ledger out, or an error that says what is wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from carinspect.core.errors import UserError
from carinspect.core.questions import Question
from carinspect.core.tables import ONLY_TRAIN
from carinspect.splits.certificate import certify_scenes, certify_split, find_gaps
from carinspect.splits.check import comparable, find_leaks
from carinspect.splits.config import SplitParams
from carinspect.splits.fingerprints import read_fingerprints
from carinspect.splits.groups import Link, label_groups, link_equal, name_groups
from carinspect.splits.ledger import Ledger, extend_ledger
from carinspect.splits.near_duplicates import comparison_memory, find_near_duplicates
from carinspect.splits.placement import assign_splits, count_moved
from carinspect.splits.scenes import PlacedVerdicts, Suspicion, Verdict, find_same_scenes, place_verdicts

PairT = TypeVar("PairT", Link, Suspicion)


class Split(NamedTuple):
    """`table` has `dataset_columns` and is sorted by `image_path`; `links` are between its rows.

    Not in it are photos that may only train and whose group is held out.
    """

    table: pd.DataFrame
    links: list[Link]
    suspicions: list[Suspicion]
    """Between its rows, too: pairs that may show one scene, and are not tied."""
    certificate: dict[str, Any]
    ledger: Ledger


def split_photos(
    table: pd.DataFrame,
    root: Path,
    *,
    params: SplitParams,
    questions: Sequence[Question],
    ledger: Ledger,
    windows: np.ndarray | None = None,
    verdicts: Sequence[Verdict] = (),
) -> Split:
    """Split the photos of a table with `annotation_columns`, sorted by `image_path`, that lie under `root`, keeping what `ledger` says.

    windows, verdicts: see `find_ties`.
    Raises `UserError` for a photo that cannot be read, for too few groups, for a question that some split could not answer for, for a leak.
    """
    table = table.sort_values("image_path").reset_index(drop=True)
    links, suspicions, placed = find_ties(table, root, params, windows=windows, verdicts=verdicts)
    table = table.assign(group=name_groups(label_groups(len(table), links), table["image_path"]))
    table, kept = place_photos(table, params=params, questions=questions, ledger=ledger)
    links, suspicions = renumber(links, kept), renumber(suspicions, kept)
    placed = place_verdicts(verdicts, table["image_path"].tolist())
    _require_labels(table, questions)
    require_no_leaks(table)
    ledger = extend_ledger(ledger, dict(zip(table["sha256"], table["split"], strict=True)))
    moved, left_out = count_moved(table, params, ledger), int((~kept).sum())
    certificate = certify_split(table, links, questions=questions, moved=moved, left_out=left_out)
    certificate |= certify_scenes(table, suspicions, placed, looked=windows is not None, policy=params.same_scene)
    return Split(table, links, suspicions, certificate, ledger)


class Ties(NamedTuple):
    """Between the rows of a table."""

    links: list[Link]
    """Why photos belong together, for certain or because `split.same_scene` says so."""
    suspicions: list[Suspicion]
    """Pairs of different groups that may show one scene, for a person to judge."""
    verdicts: PlacedVerdicts


def find_ties(table: pd.DataFrame, root: Path, params: SplitParams, *, windows: np.ndarray | None, verdicts: Sequence[Verdict]) -> Ties:
    """`find_links`, what people said, and the look for same scenes.

    windows: learned features of the rows' photos, (rows, windows, features); None leaves the last look out. verdicts: a pair
    called different is no suspicion any more, nor is any other pair of the two groups.
    """
    links = find_links(table, root, params)
    placed = place_verdicts(verdicts, table["image_path"].tolist())
    links += [Link("confirmed", first, second) for first, second in placed.same]
    if windows is None:
        return Ties(links, [], placed)
    paths = [root / path for path in table["image_path"]]
    found = find_same_scenes(paths, windows, label_groups(len(table), links), placed.different)
    if params.same_scene == "report":
        return Ties(links, found, placed)
    return Ties([*links, *(Link("same-scene", one.first, one.second) for one in found)], [], placed)


def place_photos(
    table: pd.DataFrame, *, params: SplitParams, questions: Sequence[Question], ledger: Ledger
) -> tuple[pd.DataFrame, npt.NDArray[np.bool_]]:
    """`table`, which has `group`, with `split`, and which of its rows are still there.

    Photos that may only train have no say in where their group goes: if a chosen photo took its group into train, calib would lose just
    the cars that the model finds hard, and the proof with them. So a group's other photos are placed as if the chosen ones were not there.
    """
    chosen = table["declared_split"] == ONLY_TRAIN
    placed = assign_splits(table[~chosen], params, questions, ledger)
    splits = table["group"].map(placed.groupby("group")["split"].first()).fillna("train")
    kept = (~chosen | (splits == "train")).to_numpy()
    table = table.assign(split=splits)[kept].reset_index(drop=True)
    return table.assign(group=table["image_path"].groupby(table["group"]).transform("min")), kept


def renumber(pairs: Sequence[PairT], kept: npt.NDArray[np.bool_]) -> list[PairT]:
    """Those of `pairs` whose rows are both kept, by their new rows."""
    new = np.cumsum(kept) - 1
    left = [pair for pair in pairs if kept[pair.first] and kept[pair.second]]
    return [pair._replace(first=int(new[pair.first]), second=int(new[pair.second])) for pair in left]


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
    return links + find_near_duplicates(fingerprints, links, bits=bits, correlation=correlation, memory=comparison_memory())


def _require_labels(table: pd.DataFrame, questions: Sequence[Question]) -> None:
    gaps = find_gaps(table, questions)
    if gaps:
        raise UserError(" ".join(gaps))


def require_no_leaks(table: pd.DataFrame) -> None:
    """Raise `UserError` with the first leak of a table that has `dataset_columns`."""
    leaks = find_leaks(table)
    if leaks:
        raise UserError(f"{len(leaks)} leaks, which is a fault of this stage. The first: {leaks[0]}")
