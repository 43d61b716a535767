"""The table reports/split/near_duplicates.csv: every pair of photos that was linked, and why."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from carinspect.core.errors import UserError
from carinspect.core.files import write_bytes
from carinspect.splits.groups import Link


def describe_links(table: pd.DataFrame, links: Sequence[Link]) -> pd.DataFrame:
    """One row for each link: the two photos, why they belong together, and the splits that their exports declare."""
    paths, declared, groups = table["image_path"], table["declared_split"], table["group"]
    first, second = [link.first for link in links], [link.second for link in links]
    pairs = pd.DataFrame({
        "first": paths[first].to_numpy(),
        "second": paths[second].to_numpy(),
        "reason": [link.kind for link in links],
        "correlation": pd.Series([link.correlation for link in links], dtype="float64"),
        "first_declared_split": declared[first].to_numpy(),
        "second_declared_split": declared[second].to_numpy(),
        "group": groups[first].to_numpy(),
    })  # fmt: skip
    return pairs.sort_values(["first", "second", "reason"]).reset_index(drop=True)


def write_links(pairs: pd.DataFrame, path: Path) -> None:
    """Write the rows of `describe_links` as CSV, three decimals."""
    write_bytes(path, pairs.to_csv(index=False, float_format="%.3f", lineterminator="\n").encode())


def read_links(path: Path) -> pd.DataFrame:
    """What `write_links` wrote. Raises `UserError` when it is missing."""
    if not path.is_file():
        raise UserError(f"{path}: no such table. Run the stage that writes it: dvc repro.")
    text = dict.fromkeys(("first", "second", "reason", "first_declared_split", "second_declared_split", "group"), str)
    return pd.read_csv(path, dtype={**text, "correlation": "float64"}, keep_default_na=False, na_values={"correlation": [""]})
