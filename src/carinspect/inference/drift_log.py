"""Writes and reads the drift log of a service: JSON lines, each with the histograms of one time window."""

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from carinspect.core.errors import UserError
from carinspect.inference.histograms import count, edges_of, measure
from carinspect.inference.predictor import Answer

FEWEST_PHOTOS = 20
"""Least number of photos for a line, since the bins of a single photo would describe it. A window with fewer photos continues."""


class DriftLog:
    """Collects answered photos and adds a line to `path` when `window_s` seconds have passed. Safe for several threads and processes.

    Photos without a line yet are in memory only; `close` writes them if there are `FEWEST_PHOTOS` or more.
    """

    def __init__(self, path: Path, *, window_s: float, model_sha256: str, clock: Callable[[], float] = time.time) -> None:
        self.path, self.window_s, self.model_sha256 = path, window_s, model_sha256
        self._clock, self._lock = clock, Lock()
        self._measured: list[dict[str, float]] = []
        self._since = clock()

    def add(self, answer: Answer, pixels: np.ndarray, *, width_px: int, height_px: int) -> None:
        """Count one answered photo; arguments as in `histograms.measure`."""
        measured = measure(answer, pixels, width_px=width_px, height_px=height_px)
        with self._lock:
            self._measured.append(measured)
            if self._clock() - self._since >= self.window_s:
                self._write()

    def close(self) -> None:
        """Write the last, shorter window."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        if len(self._measured) < FEWEST_PHOTOS:
            return
        now = self._clock()
        line = {
            "model_sha256": self.model_sha256, "from": _utc(self._since), "until": _utc(now), "photos": len(self._measured),
            "histograms": count(self._measured),
        }  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # O_APPEND and a single write: the lines of several processes do not mix.
        place = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(place, f"{json.dumps(line)}\n".encode())
        finally:
            os.close(place)
        self._measured, self._since = [], now


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log. Raises `UserError` if it is missing, or has a line that no `DriftLog` wrote."""
    if not path.is_file():
        raise UserError(f"{path}: no such log. A service writes one when CARINSPECT_DRIFT_LOG names a file.")
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            line = json.loads(text)
            sound = all(len(line["histograms"][name]) == len(edges_of(name)) - 1 for name in line["histograms"])
            sound = sound and {"model_sha256", "until", "photos"} <= set(line)
        except (ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            raise UserError(f"{path}: line {number} is no line of a drift log. Take it out.")
        lines.append(line)
    return lines


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
