"""Owns the histograms of the calibration photos that a model file carries, for `carinspect drift` to compare with."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carinspect.images.store import load_photos
from carinspect.inference.bundle import ModelBundle
from carinspect.inference.decision import DecisionRule
from carinspect.inference.histograms import count, measure
from carinspect.inference.predictor import Predictor

MOST_PHOTOS = 2000
BATCH = 64
_NO_RULE = DecisionRule(T_clean=None, T_low=None, T_high=None, promise=None, promise_low=None, overridden=False)


def describe_reference(bundle: ModelBundle, table: pd.DataFrame, root: Path, *, split: str) -> dict[str, Any]:
    """Split, number of photos and histograms of at most `MOST_PHOTOS` photos of it, taken evenly from the sorted `table`."""
    rows = table[table["split"] == split].sort_values("image_path")
    rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, MOST_PHOTOS).astype(int))] if len(rows) > MOST_PHOTOS else rows
    predictor = Predictor(bundle, _NO_RULE)
    loaded = load_photos(root, rows["image_path"].tolist(), side_px=predictor.image_side_px)
    measured: list[dict[str, float]] = []
    for start in range(0, len(rows), BATCH):
        part = rows.iloc[start : start + BATCH]
        photos = np.stack([next(loaded) for _ in range(len(part))])
        sizes = zip(part["width_px"], part["height_px"], strict=True)
        for answer, pixels, (width_px, height_px) in zip(predictor.answer(photos), photos, sizes, strict=True):
            measured.append(measure(answer, pixels, width_px=int(width_px), height_px=int(height_px)))
    return {"split": split, "photos": len(measured), "histograms": count(measured)}
