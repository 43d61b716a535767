"""`carinspect check-split`: finds leaks between the splits of a finished table, from its columns and, on request, its photos."""

from pathlib import Path

import pandas as pd

from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.params import read_section
from carinspect.core.tables import SPLITS, read_table
from carinspect.splits.check import LEAK_KINDS, count_compared, find_leaks
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
    verdict = f"{len(leaks):,} leak{'s' * (len(leaks) != 1)}" if leaks else "no leak"
    compared = _say_compared(table, path, with_photos=root is not None)
    print(f"{path}: {len(table):,} photos in {table['group'].nunique():,} groups: {counts}; {verdict} ({compared}).")
    return 1 if leaks else 0


def _say_compared(table: pd.DataFrame, path: Path, *, with_photos: bool) -> str:
    """What was compared, of how many photos where not of all, and what was not. Raises `UserError` where nothing was."""
    known = count_compared(table)
    words = {kind: word.removeprefix("the ") for kind, word in LEAK_KINDS.items()}
    done = [words[kind] + (f" of {count:,} photos" if count < len(table) else "") for kind, count in known.items() if count]
    blank = [words[kind] for kind, count in known.items() if not count]
    if not done and not with_photos:
        columns = ", ".join(LEAK_KINDS)
        raise UserError(f"{path}: nothing was compared, for {columns} are blank in every row. Name the folder of the photos: --root.")
    said = f"compared: {', '.join([*done, *(['the photos themselves'] if with_photos else [])])}"
    not_done = [*(f"{word}, which is blank" for word in blank), *([] if with_photos else ["the photos themselves, for want of --root"])]
    return said + (f"; not compared: {'; '.join(not_done)}" if not_done else "")


def read_finished_table(path: Path) -> pd.DataFrame:
    """A table in which every photo has a split. Raises `UserError` for a photo without one, and for a table without photos."""
    table = read_table(path, columns=("image_path", "split", *LEAK_KINDS))
    if table.empty:
        raise UserError(f"{path}: it has columns and no rows, so that there is nothing to check. Run the stage that writes it: dvc repro.")
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
