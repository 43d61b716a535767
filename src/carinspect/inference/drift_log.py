"""Writes and reads the drift log of a service: JSON lines, each with the histograms of one time window."""

import errno
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from carinspect.core.errors import UserError
from carinspect.inference.histograms import Counts, add_up, count, edges_of, measure
from carinspect.inference.predictor import Answer

FEWEST_PHOTOS = 20
"""Least number of photos for a line, since the bins of a single photo would describe it. A window with fewer photos continues."""


class DriftLog:
    """Collects answered photos and adds a line to `path` when `window_s` seconds have passed. Safe for several threads and processes.

    Photos without a line yet are in memory only, as counts; `close` writes them if there are `FEWEST_PHOTOS` or more. A line that cannot
    be written is tried again in the next window, which then covers both; `failures` counts such attempts.
    """

    def __init__(self, path: Path, *, window_s: float, model_sha256: str, clock: Callable[[], float] = time.time) -> None:
        self.path, self.window_s, self.model_sha256 = path, window_s, model_sha256
        self._clock, self._lock = clock, Lock()
        self._counts: Counts = {}
        self._photos = 0
        self._requests: Counter[int] = Counter()
        self._requests_lock = Lock()
        self._since = self._next = clock()
        self._next += window_s
        self.failures = 0
        """Attempts to write a line that failed."""
        self.last_failure = ""
        """The system's word on the last of them."""

    def add(self, answer: Answer, pixels: np.ndarray, *, width_px: int, height_px: int) -> None:
        """Count one answered photo; arguments as in `histograms.measure`."""
        measured = measure(answer, pixels, width_px=width_px, height_px=height_px)
        with self._lock:
            self._counts = add_up([self._counts, count([measured])])
            self._photos += 1
            if self._clock() >= self._next:
                self._write()

    def note_request(self, photos: int) -> None:
        """Count a request of `photos` photos: they may show one car, and then tell no more than one photo. Never waits for the disk."""
        with self._requests_lock:
            self._requests[photos] += 1

    def close(self) -> None:
        """Write the last, shorter window."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        if self._photos < FEWEST_PHOTOS:
            return
        now = self._clock()
        with self._requests_lock:
            requests = self._requests.copy()
        line = {
            "model_sha256": self.model_sha256, "from": _utc(self._since), "until": _utc(now), "photos": self._photos,
            "requests": {str(photos): number for photos, number in sorted(requests.items())}, "histograms": self._counts,
        }  # fmt: skip
        try:
            _append(self.path, f"{json.dumps(line)}\n".encode())
        except OSError as error:
            # The window goes on, and its line will cover it.
            self.failures += 1
            self.last_failure = error.strerror or type(error).__name__
        else:
            self._counts, self._photos, self._since = {}, 0, now
            with self._requests_lock:
                self._requests -= requests
        self._next = now + self.window_s


def check_writable(path: Path) -> None:
    """Raises `UserError` when no line can be added to the log at `path`."""
    try:
        _append(path, b"")
    except OSError as error:
        fix = "Name a file in a folder that this user may write to."
        raise UserError(f"CARINSPECT_DRIFT_LOG has the value {str(path)!r}. {error.strerror}. {fix}") from None


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # One write at the end of the file: lines of several processes never mix. A pipe without a reader must not hold it up.
    place = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o644)
    try:
        written = os.write(place, line)
        if written < len(line):
            # A full disk takes the beginning of a line, which would spoil the log.
            end = os.lseek(place, 0, os.SEEK_CUR)
            if os.fstat(place).st_size == end:
                os.ftruncate(place, end - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(place)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log. Raises `UserError` if it is missing, or has a line that no `DriftLog` wrote."""
    if not path.is_file():
        raise UserError(f"{path}: no such log. A service writes one when CARINSPECT_DRIFT_LOG names a file.")
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            line = json.loads(text)
            sound = all(len(line["histograms"][name]) == len(edges_of(name)) - 1 for name in line["histograms"])
            sound = sound and all(int(size) > 0 for size in line["requests"]) and isinstance(line["model_sha256"], str)
            sound = sound and moment(line["from"]) <= moment(line["until"]) and line["photos"] > 0
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise UserError(f"{path}: line {number} is no line of this version's drift log. Take it out.")
        lines.append(line)
    return lines


def moment(text: str) -> datetime:
    """An ISO 8601 time; without a zone it is UTC. Raises ValueError for another text."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
