"""Owns the five label columns as questions that a predictor can be asked: which photos were judged, and which class or score each has."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from carinspect.core.tasks import WEATHER_CLASSES

CLASSES: dict[str, tuple[str, ...]] = {
    "clean": ("dirty", "clean"),
    "damaged": ("undamaged", "damaged"),
    "weather_condition": WEATHER_CLASSES,
}
"""Label columns with classes, and their names by number. The other label columns are scores."""


class Question(NamedTuple):
    """One label column over the photos that somebody judged."""

    column: str
    rows: npt.NDArray[np.intp]
    """Of the table, (N,)."""
    labels_N: npt.NDArray[np.float64]
    groups_N: npt.NDArray[np.str_]

    @property
    def has_classes(self) -> bool:
        return self.column in CLASSES

    def take(self, kept_N: npt.NDArray[np.bool_]) -> "Question":
        """The same question over the photos where `kept_N` is true."""
        return self._replace(rows=self.rows[kept_N], labels_N=self.labels_N[kept_N], groups_N=self.groups_N[kept_N])


def ask(table: pd.DataFrame, column: str) -> Question:
    """The photos of `table` that have a label in `column`."""
    rows = np.flatnonzero(table[column].notna())
    judged = table.iloc[rows]
    return Question(column, rows, judged[column].to_numpy(np.float64), judged["group"].to_numpy(np.str_))


def say_label(column: str, label: float) -> str:
    """A label in words: the class's name, or the score with two decimals."""
    return CLASSES[column][int(label)] if column in CLASSES else f"{label:.2f}"
