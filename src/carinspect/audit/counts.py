"""Owns what can be counted in a table: photos and labels of each source and split, and how the labels are spread."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from carinspect.audit.labels import CLASSES, say_label
from carinspect.core.tables import LABEL_COLUMNS, SPLITS

_BINS = 10


class Histogram(NamedTuple):
    """How the labels of one column are spread over named bars."""

    column: str
    bars: tuple[tuple[str, int], ...]


def count_sources(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each source: `photos`, `groups`, the photos of each split, and those with each label."""
    by_source = table.groupby("source")
    counts = pd.DataFrame({"photos": by_source.size(), "groups": by_source["group"].nunique()})
    for split in SPLITS:
        counts[split] = (table["split"] == split).groupby(table["source"]).sum()
    for column in LABEL_COLUMNS:
        counts[column] = by_source[column].count()
    return counts.astype(int)


def count_labels(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each class of each label (a score: the photos that have one), one column for each split and `all`."""
    rows = {}
    for column in LABEL_COLUMNS:
        values = table[column].dropna()
        if values.empty:
            continue
        parts = {column: values.notna()}
        if column in CLASSES:
            parts = {f"{column}: {say_label(column, label)}": values == label for label in range(len(CLASSES[column]))}
        for name, chosen in parts.items():
            photos = table.loc[values.index[chosen]]
            rows[name] = {split: int((photos["split"] == split).sum()) for split in SPLITS} | {"all": len(photos)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*SPLITS, "all"])


def draw_histograms(table: pd.DataFrame) -> list[Histogram]:
    """A bar for each class; for a score ten of equal width below 1, and one for exactly 1, the untouched cars."""
    histograms = []
    for column in LABEL_COLUMNS:
        values = table[column].dropna().to_numpy(np.float64)
        if column in CLASSES:
            bars = [(name, int((values == label).sum())) for label, name in enumerate(CLASSES[column])]
        else:
            edges = np.linspace(0.0, 1.0, _BINS + 1)
            counts, _ = np.histogram(values[values < 1], edges)
            bars = [(f"{low:.1f}", int(count)) for low, count in zip(edges, counts, strict=False)] + [("1", int((values == 1).sum()))]
        if len(values):
            histograms.append(Histogram(column, tuple(bars)))
    return histograms
