"""What each photo is like as a picture, and those that stand out whatever their labels: nearly black or white, flat, tiny, very blurred."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from carinspect.core.errors import UserError
from carinspect.images.properties import read_properties
from carinspect.images.statistics import STATISTICS

NEARLY_BLACK, NEARLY_WHITE = 20.0, 235.0
"""Mean grey level below or above which hardly anything can be seen."""

FLAT = 8.0
"""Deviation of the grey levels below which a photo shows a plain surface."""

TINY_PX = 64
"""A shorter side leaves a dent no pixels."""

_BLURRED_DEVIATIONS = 4.0
"""Robust standard deviations of the logarithm of the sharpness, below the median of the photo's source."""


class Measured(NamedTuple):
    """Of N photos: `statistics`, one column for each of `STATISTICS`; `layouts`, each place of the layout, 0..1, (N, F)."""

    statistics: pd.DataFrame
    layouts: npt.NDArray[np.float64]


def measure_photos(root: Path, image_paths: Sequence[str]) -> Measured:
    """Read each photo, or recall what was measured. Raises `UserError` that names one which cannot be read."""
    found = read_properties(root, image_paths)
    for image_path, problem in zip(image_paths, found.problems, strict=True):
        if problem:
            raise UserError(f"{root / image_path}: {problem}. The table knows it as sound: restore it, or run dvc repro.")
    statistics = pd.DataFrame({name: found.records[name] for name in STATISTICS})
    return Measured(statistics, found.records["layout"].reshape(len(found.records), -1) / 255.0)


class Oddity(NamedTuple):
    """One photo, and what is odd about it in words."""

    image_path: str
    kind: str
    reason: str


def find_oddities(table: pd.DataFrame, statistics: pd.DataFrame) -> list[Oddity]:
    """By kind, the oddest first. `statistics` has the rows of `table`."""
    short_px = statistics[["width_px", "height_px"]].min(axis=1)
    brightness, contrast = statistics["brightness"], statistics["contrast"]
    blur = _deviations_below(np.log1p(statistics["sharpness"]), table["source"])
    return [
        *_list(table, "nearly black", brightness, brightness < NEARLY_BLACK, "mean brightness {:.0f} of 255"),
        *_list(table, "nearly white", -brightness, brightness > NEARLY_WHITE, "mean brightness {:.0f} of 255"),
        *_list(table, "flat", contrast, contrast < FLAT, "its grey levels deviate by {:.1f} of 255"),
        *_list(table, "tiny", short_px, short_px < TINY_PX, "shorter side {:.0f} px"),
        *_list(table, "blurred", -blur, blur > _BLURRED_DEVIATIONS, "{:.1f} deviations less sharp than its source"),
    ]


def _list(table: pd.DataFrame, kind: str, order: pd.Series, odd: pd.Series, words: str) -> list[Oddity]:
    values = order[odd.to_numpy()].sort_values(kind="stable")
    return [Oddity(str(table["image_path"].iloc[row]), kind, words.format(abs(value))) for row, value in values.items()]


def _deviations_below(values: pd.Series, sources: pd.Series) -> pd.Series:
    """How far each value lies below its source's median, in deviations estimated from the median absolute one; 0 where all are alike."""
    by_source = values.groupby(sources.to_numpy())
    median = by_source.transform("median")
    spread = 1.4826 * (values - median).abs().groupby(sources.to_numpy()).transform("median")
    return ((median - values) / spread.where(spread > 0)).fillna(0.0)
