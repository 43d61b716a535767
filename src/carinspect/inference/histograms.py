"""Makes histograms of answered photos: counts in fixed bins, without photos, names or single values."""

from collections.abc import Mapping, Sequence
from typing import assert_never

import numpy as np
import numpy.typing as npt

from carinspect.inference.predictor import Answer, BinaryAnswer, ClassesAnswer, ScoreAnswer

Counts = dict[str, list[int]]
"""Quantity → photos in each of its bins."""

_SHARE = np.linspace(0.0, 1.0, 41)

_PICTURE_EDGES: dict[str, npt.NDArray[np.float64]] = {
    "brightness": np.linspace(0.0, 255.0, 41),
    "contrast": np.linspace(0.0, 128.0, 41),
    "sharpness": np.geomspace(0.5, 256.0, 37),
    "aspect": np.geomspace(1.0, 4.0, 25),
    "megapixels": np.geomspace(0.01, 100.0, 49),
}
"""Of the photo as the model sees it: `brightness` is the mean of its grey levels, `contrast` their deviation, `sharpness` the mean size of
their second difference. Of the file: `aspect` is the longer over the shorter side."""


def edges_of(quantity: str) -> npt.NDArray[np.float64]:
    """The edges of a quantity's bins; what lies outside counts in the first or the last. An answer is a share, 0..1."""
    return _PICTURE_EDGES.get(quantity, _SHARE)


def measure(answer: Answer, pixels: np.ndarray, *, width_px: int, height_px: int) -> dict[str, float]:
    """The quantities of one answered photo. pixels: uint8 (side, side, 3), as the model saw it; width_px, height_px: of the file."""
    grey = pixels.astype(np.float64).mean(axis=2)
    curvature = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1] - 4 * grey[1:-1, 1:-1]
    return measure_answers(answer) | {
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "sharpness": float(np.abs(curvature).mean()),
        "aspect": max(width_px, height_px) / min(width_px, height_px),
        "megapixels": width_px * height_px / 1e6,
    }


def measure_answers(answer: Answer) -> dict[str, float]:
    """`p_<name>` of a binary question, `<name>` of a score, `p_<name>_<class>` of one with more classes, and `turned_away`.

    The last is 1 for a photo that the gate turned away, else 0; without a decided question it is missing.
    """
    found: dict[str, float] = {}
    decided = [one for one in answer.values() if isinstance(one, BinaryAnswer) and one.decision is not None]
    if decided:
        found["turned_away"] = float(any(one.reason is not None for one in decided))
    for name, one in answer.items():
        match one:
            case BinaryAnswer():
                found[f"p_{name}"] = one.p
            case ScoreAnswer():
                found[name] = one.value
            case ClassesAnswer():
                found |= {f"p_{name}_{word}": p for word, p in one.p.items()}
            case _:
                assert_never(one)
    return found


def count(measured: Sequence[Mapping[str, float]]) -> Counts:
    """The histograms of the photos."""
    found: Counts = {}
    for name in dict.fromkeys(name for photo in measured for name in photo):
        edges = edges_of(name)
        values = [photo[name] for photo in measured if name in photo]
        found[name] = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].tolist()
    return found


def add_up(parts: Sequence[Counts]) -> Counts:
    """The histograms of all parts together."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: np.sum([part[name] for part in parts if name in part], axis=0).tolist() for name in names}
