"""Owns the refusal to compare what was measured on different photos."""

import pandas as pd

from carinspect.core.errors import UserError
from carinspect.core.tables import LABEL_COLUMNS

PHOTO_COLUMNS = ("image_path", "sha256", "group", *LABEL_COLUMNS)
"""What two tables of predictions must agree on; their order of rows does not matter."""


def align_tests(a: pd.DataFrame, b: pd.DataFrame, *, names: tuple[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The test rows of both predictions, in one order. Raises `UserError`, which says what differs, unless they are the same photos."""
    tests = [table[table["split"] == "test"].sort_values("image_path").reset_index(drop=True) for table in (a, b)]
    paths = [set(test["image_path"]) for test in tests]
    if paths[0] != paths[1]:
        only = [sorted(paths[0] - paths[1]), sorted(paths[1] - paths[0])]
        parts = [f"{len(photos)} only in {name} (e.g. {photos[0]})" for photos, name in zip(only, names, strict=True) if photos]
        raise _refusal(f"{len(paths[0] & paths[1])} photos are in both, {', '.join(parts)}")
    if not paths[0]:
        raise UserError("no photo in the split test, so there is nothing to compare.")
    for column in PHOTO_COLUMNS:
        first, second = tests[0][column], tests[1][column]
        differ = ~((first == second) | (first.isna() & second.isna()))
        if differ.any():
            photo = tests[0]["image_path"][differ].iloc[0]
            values = " and ".join(f"{test[column][differ].iloc[0]!s}" for test in tests)
            raise _refusal(f"'{column}' differs for {int(differ.sum())} of {len(differ)} photos, e.g. {values} for {photo}")
    return tests[0], tests[1]


def _refusal(what: str) -> UserError:
    return UserError(f"the test photos differ: {what}. Evaluate both models on the same data, then compare.")
