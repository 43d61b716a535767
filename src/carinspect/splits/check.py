"""Searches a finished table for leaks: photos that belong together and lie in two splits."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from carinspect.core.errors import UserError
from carinspect.core.tables import SPLITS, read_identities

LEAK_KINDS = {"group": "the group", "family": "the family", "sha256": "the bytes", "phash": "the perceptual hash"}
"""Columns of which a value must lie in one split alone, and the words for them."""

_LEAST_BITS = 16  # of 64; half of them are set in the hash of any picture with a layout


class Leak(NamedTuple):
    """Photos that share `value` in the column `kind`, and the splits that they lie in."""

    kind: str
    value: str
    splits: tuple[str, ...]
    image_paths: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.image_paths)} photos share {LEAK_KINDS[self.kind]} {self.value!r} but lie in {' and '.join(self.splits)}: "
            f"{', '.join(self.image_paths[:3])}{', …' if len(self.image_paths) > 3 else ''}"
        )


def find_leaks(table: pd.DataFrame) -> list[Leak]:
    """Every leak in a table with the columns of `car_inspection_dataset.csv`; uses nothing but the table. A blank value is no value."""
    leaks = []
    table = comparable(table)
    for kind in LEAK_KINDS:
        known = table[table[kind] != ""]
        astray = known.groupby(kind)["split"].transform("nunique") > 1
        for value, photos in known[astray].groupby(kind):
            splits = sorted(photos["split"].unique(), key=SPLITS.index)
            leaks.append(Leak(kind, str(value), tuple(splits), tuple(sorted(photos["image_path"]))))
    return leaks


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with "" for what says nothing: a placeholder for a vehicle, the hash of a picture without a layout."""
    return table.assign(family=read_identities(table["family"]), phash=telling_hashes(table["phash"]))


def count_compared(table: pd.DataFrame) -> dict[str, int]:
    """Kind of leak → the photos of `table` that have a value to compare."""
    known = comparable(table)
    return {kind: int((known[kind] != "").sum()) for kind in LEAK_KINDS}


def telling_hashes(phash: pd.Series) -> pd.Series:
    """`phash` with "" for pictures without a layout: a plain surface has hardly a bit set, and any two of them the same hash.

    Raises `UserError` for a value that is no hash.
    """
    wrong = phash[~phash.str.fullmatch("[0-9a-f]{16}|")]
    if len(wrong):
        raise UserError(f"phash has the value {wrong.iloc[0]!r}. It must be 16 hexadecimal digits, or blank.")
    bits = np.bitwise_count(np.array([int(value or "0", 16) for value in phash], dtype=np.uint64))
    return phash.where(bits >= _LEAST_BITS, "")
