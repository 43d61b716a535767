"""`carinspect check-split`: finds leaks between the splits of a finished table, from its columns and, on request, its photos."""

from pathlib import Path

import pandas as pd

from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.params import read_section
from carinspect.core.tables import SPLITS, read_table
from carinspect.splits.check import LEAK_KINDS, find_leaks
from carinspect.splits.config import SplitParams
from carinspect.splits.split import find_links


def report_leaks(path: Path, root: Path | None) -> int:
    """Print a line for each leak of the table at `path`, or that there is none; returns 1 if there are leaks, else 0.

    root: folder of the photos, which are then compared as in the stage `split`; None: only the table is checked.
    """
    table = read_finished_table(path)
    leaks = [str(leak) for leak in find_leaks(table)]
    if root is not None:
        leaks += find_copies_apart(table, root)
    for leak in leaks:
        print(leak)
    counts = ", ".join(f"{split} {(table['split'] == split).sum():,}" for split in SPLITS)
    sought = ", ".join([*(words.removeprefix("the ") for words in LEAK_KINDS.values()), *(["the photos themselves"] if root else [])])
    verdict = f"{len(leaks):,} leak{'s' * (len(leaks) != 1)}" if leaks else f"no leak (compared: {sought})"
    print(f"{path}: {len(table):,} photos in {table['group'].nunique():,} groups: {counts}; {verdict}.")
    return 1 if leaks else 0


def read_finished_table(path: Path) -> pd.DataFrame:
    """A table in which every photo has a split. Raises `UserError` for a photo without one."""
    table = read_table(path, columns=("image_path", "split", *LEAK_KINDS))
    strange = table[~table["split"].isin(SPLITS)]
    if len(strange):
        split, photo = strange.iloc[0][["split", "image_path"]]
        raise UserError(f"{path}: split has the value {split!r} for {photo!r}. {did_you_mean(split, SPLITS)}")
    return table


def find_copies_apart(table: pd.DataFrame, root: Path) -> list[str]:
    """A line for each pair of photos that show the same picture and lie in two splits, found by comparing the photos themselves."""
    table = table.sort_values("image_path").reset_index(drop=True)
    paths, splits = table["image_path"], table["split"]
    return [
        f"2 photos show the same picture but lie in {splits[link.first]} and {splits[link.second]}: "
        f"{paths[link.first]}, {paths[link.second]}"
        for link in find_links(table, root, read_section("split", SplitParams))
        if link.correlation is not None and splits[link.first] != splits[link.second]
    ]
