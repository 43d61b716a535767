"""Owns the drift log: histograms of answers and of the photos' light, in which no photo, name or address can be found.

The file has a line of JSON for each `PHOTOS_A_LINE` photos, or fewer at the end of the process:

    {"format": 1, "model_version": "…", "photos": 100, "bins": 20, "histograms": {"p_clean": [0, 3, …], "brightness": […], …}}

Every histogram counts values from 0 to 1 in equal bins.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from carinspect.serving.engine import Seen

FORMAT = 1
BINS = 20
PHOTOS_A_LINE = 100
"""Enough that no line speaks of one photo."""


class DriftLog:
    """Counts, and appends a line now and then. Several processes may share a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = ""
        self._photos = 0
        self._histograms: dict[str, list[int]] = {}

    def note(self, seen: Seen) -> None:
        """Count an answered photo."""
        if self._photos and (seen.model.version != self._version or self._photos >= PHOTOS_A_LINE):
            self._write()
        self._version = seen.model.version
        self._photos += 1
        for name, value in _figures(seen):
            counts = self._histograms.setdefault(name, [0] * BINS)
            counts[min(BINS - 1, int(value * BINS))] += 1

    def close(self) -> None:
        """Write what is left, unless it is so little that it speaks of single photos."""
        if self._photos >= PHOTOS_A_LINE // 2:
            self._write()

    def _write(self) -> None:
        line = {"format": FORMAT, "model_version": self._version, "photos": self._photos, "bins": BINS, "histograms": self._histograms}
        # One write to a file opened for appending: lines of several processes never mix.
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            os.write(file, (json.dumps(line, sort_keys=True) + "\n").encode())
        finally:
            os.close(file)
        self._photos, self._histograms = 0, {}


def _figures(seen: Seen) -> Iterable[tuple[str, float]]:
    """Name and value, 0..1, of each figure that is followed."""
    answer = seen.answer
    for name, value in (("p_clean", answer.p_clean), ("cleanliness", answer.cleanliness), ("damage", answer.damage)):
        if value is not None:
            yield name, value
    for weather, probability in (answer.p_weather or {}).items():
        yield f"p_weather_{weather}", probability
    yield from photo_figures(seen.pixels).items()


def photo_figures(pixels: np.ndarray) -> dict[str, float]:
    """Brightness, contrast and colourfulness, each 0..1, of what the model saw: uint8 (side, side, 3)."""
    light = pixels.mean(axis=2) / 255.0
    spread = (pixels.max(axis=2).astype(np.float64) - pixels.min(axis=2)) / 255.0
    return {"brightness": float(light.mean()), "contrast": float(min(1.0, 2 * light.std())), "colourfulness": float(spread.mean())}
