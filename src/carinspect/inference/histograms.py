"""Owns what may be remembered of photos that were answered: counts in fixed bins, no photo, no name and no single value."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from carinspect.inference.predictor import Answer

Counts = dict[str, list[int]]
"""Quantity → photos in each of its bins."""

_SHARE = np.linspace(0.0, 1.0, 41)

EDGES: dict[str, npt.NDArray[np.float64]] = {
    "p_clean": _SHARE,
    "cleanliness": _SHARE,
    "damage": _SHARE,
    "brightness": np.linspace(0.0, 255.0, 41),
    "contrast": np.linspace(0.0, 128.0, 41),
    "sharpness": np.geomspace(0.5, 256.0, 37),
    "aspect": np.geomspace(1.0, 4.0, 25),
    "megapixels": np.geomspace(0.01, 100.0, 49),
}
"""Of each quantity the edges of its bins; what lies outside counts in the first or the last.

Scores: as answered. Of the photo as the model sees it: `brightness` is the mean of its grey levels, `contrast` their deviation,
`sharpness` the mean size of their second difference. Of the file: `aspect` is the longer over the shorter side.
"""


def measure(answer: Answer, pixels: np.ndarray, *, width_px: int, height_px: int) -> dict[str, float]:
    """The quantities of one answered photo. pixels: uint8 (side, side, 3), as the model saw it; width_px, height_px: of the file."""
    grey = pixels.astype(np.float64).mean(axis=2)
    curvature = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1] - 4 * grey[1:-1, 1:-1]
    scores = {"p_clean": answer.p_clean, "cleanliness": answer.cleanliness, "damage": answer.damage}
    return {name: value for name, value in scores.items() if value is not None} | {
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "sharpness": float(np.abs(curvature).mean()),
        "aspect": max(width_px, height_px) / min(width_px, height_px),
        "megapixels": width_px * height_px / 1e6,
    }


def count(measured: Sequence[Mapping[str, float]]) -> Counts:
    """The histograms of the photos; a quantity that none of them has is left out."""
    found: Counts = {}
    for name, edges in EDGES.items():
        values = [photo[name] for photo in measured if name in photo]
        if values:
            found[name] = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].tolist()
    return found


def add_up(parts: Sequence[Counts]) -> Counts:
    """The histograms of all parts together."""
    names = [name for name in EDGES if any(name in part for part in parts)]
    return {name: np.sum([part[name] for part in parts if name in part], axis=0).tolist() for name in names}
