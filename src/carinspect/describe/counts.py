"""Counts: photos and labels of each source and split, how the labels are spread, and what the files of each source are like."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from carinspect.core.questions import Question, label_columns
from carinspect.core.tables import SPLITS

_BINS = 10
_MOSTLY = 0.9  # of a source's photos are grey in a grey source
_SELDOM = 0.5  # of all other photos are grey where that stands out


class Histogram(NamedTuple):
    """How the labels of one column are spread over named bars."""

    column: str
    bars: tuple[tuple[str, int], ...]


def count_sources(table: pd.DataFrame, questions: Iterable[Question]) -> pd.DataFrame:
    """One row for each source: `photos`, `groups`, the photos of each split, and those with each label."""
    by_source = table.groupby("source")
    counts = pd.DataFrame({"photos": by_source.size(), "groups": by_source["group"].nunique()})
    for split in SPLITS:
        counts[split] = (table["split"] == split).groupby(table["source"]).sum()
    for column in label_columns(questions):
        counts[column] = by_source[column].count()
    return counts.astype(int)


def count_labels(table: pd.DataFrame, questions: Iterable[Question]) -> pd.DataFrame:
    """One row for each class of each label (a score: the photos that have one), one column for each split and `all`."""
    rows = {}
    for question in questions:
        values = table[question.column].dropna()
        if values.empty:
            continue
        parts = {question.column: values.notna()}
        if question.has_classes:
            parts = {f"{question.column}: {word}": values == label for label, word in enumerate(question.classes)}
        for name, chosen in parts.items():
            photos = table.loc[values.index[chosen]]
            rows[name] = {split: int((photos["split"] == split).sum()) for split in SPLITS} | {"all": len(photos)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*SPLITS, "all"])


def draw_histograms(table: pd.DataFrame, questions: Sequence[Question]) -> list[Histogram]:
    """A bar for each class; for a score ten of equal width below 1, and one for exactly 1, the untouched cars."""
    histograms = []
    for question in questions:
        values = table[question.column].dropna().to_numpy(np.float64)
        if question.has_classes:
            bars = [(word, int((values == label).sum())) for label, word in enumerate(question.classes)]
        else:
            edges = np.linspace(0.0, 1.0, _BINS + 1)
            counts, _ = np.histogram(values[values < 1], edges)
            bars = [(f"{low:.1f}", int(count)) for low, count in zip(edges, counts, strict=False)] + [("1", int((values == 1).sum()))]
        if len(values):
            histograms.append(Histogram(question.column, tuple(bars)))
    return histograms


def profile_sources(table: pd.DataFrame, statistics: pd.DataFrame) -> pd.DataFrame:
    """One row for each source: `photos`, `grey_share`, and the medians of what its camera and its export leave behind."""
    by_source = statistics.groupby(table["source"].to_numpy())
    names = ["width_px", "height_px", "jpeg_quality", "bytes_per_pixel", "colourfulness", "brightness", "sharpness"]
    return pd.DataFrame({"photos": by_source.size(), "grey_share": by_source["grey"].mean(), **by_source[names].median()})


def find_grey_sources(profile: pd.DataFrame) -> list[str]:
    """Sources that are grey where the rest of `profile_sources` is not."""
    grey = profile["grey_share"] * profile["photos"]
    others = (grey.sum() - grey) / (profile["photos"].sum() - profile["photos"]).clip(lower=1)
    return [str(source) for source in profile.index[(profile["grey_share"] >= _MOSTLY) & (others <= _SELDOM)]] if len(profile) > 1 else []
