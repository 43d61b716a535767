"""Owns how long a model file takes for one photo on the machine that exports it."""

import time

import numpy as np

from carinspect.inference.bundle import open_bundle


def measure_latency(content: bytes, photos: np.ndarray, *, runs: int) -> dict[str, float]:
    """Milliseconds for one decoded photo on one thread of the CPU, median and 95 % quantile of `runs`. photos: uint8 (N, side, side, 3)."""
    bundle = open_bundle(content, threads=1)
    bundle.predict(photos[:1])
    milliseconds = []
    for run in range(runs):
        place = run % len(photos)
        start = time.perf_counter()
        bundle.predict(photos[place : place + 1])
        milliseconds.append((time.perf_counter() - start) * 1000)
    return {"p50": float(np.median(milliseconds)), "p95": float(np.quantile(milliseconds, 0.95))}
