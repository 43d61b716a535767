"""Owns the first look: which pairs of photos have hashes near enough to deserve a second one.

Plain comparison of all with all: N x N x V exclusive-ors of 64 bits, in tiles that stay in the processor's cache, on every core.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from carinspect.core.machine import usable_cores

_ROWS, _COLUMNS = 32, 2048  # of a tile: half a MB of 64-bit words


class Candidates(NamedTuple):
    """Pairs, each once, nearest first: photo `first[i]`, held as `VARIANTS[variant[i]]`, looks like the upright photo `second[i]`."""

    bits: np.ndarray
    first: np.ndarray
    second: np.ndarray
    variant: np.ndarray


def find_candidates(hashes: np.ndarray, *, at_most_bits: int) -> Candidates:
    """Every pair of rows of `hashes`, uint64 (N, V), of which one in some variant differs from the other, upright, in few bits."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        starts = range(0, len(hashes), _ROWS)
        found = pool.map(lambda start: _search_rows(hashes, start, at_most_bits), starts)
        tiles = tqdm(found, total=len(starts), desc="comparing photos", unit_scale=_ROWS, unit="photo", disable=None)
        first, second = np.concatenate([np.zeros((2, 0), np.int64), *tiles], axis=1)
    # Each hit stands for an ordered pair; its best variant is looked up now, for the hits are few.
    distances = np.bitwise_count(hashes[first] ^ hashes[second, :1])
    variant = distances.argmin(axis=1)
    bits = distances[np.arange(len(first)), variant]
    low, high = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((first, bits, high, low))
    pair = np.stack([low, high])[:, order]
    order = order[np.concatenate([[True], (pair[:, 1:] != pair[:, :-1]).any(axis=0)])[: len(order)]]
    order = order[np.lexsort((high[order], low[order], bits[order]))]
    return Candidates(bits[order], first[order], second[order], variant[order])


def _search_rows(hashes: np.ndarray, start: int, at_most_bits: int) -> np.ndarray:
    """The hits, int64 (2, hits), of the `_ROWS` photos from `start` on, held in all ways, among all upright photos."""
    rows, upright = np.ascontiguousarray(hashes[start : start + _ROWS].T), np.ascontiguousarray(hashes[:, 0])
    hits = [np.zeros((2, 0), np.int64)]
    for column in range(0, len(upright), _COLUMNS):
        others = upright[column : column + _COLUMNS]
        differing = np.empty((rows.shape[1], len(others)), dtype=np.uint64)
        distance = np.empty(differing.shape, dtype=np.uint8)
        nearest = np.full(differing.shape, 255, dtype=np.uint8)
        for variant in rows:
            np.bitwise_xor(variant[:, None], others, out=differing)
            np.bitwise_count(differing, out=distance)
            np.minimum(nearest, distance, out=nearest)
        hit = np.stack(np.nonzero(nearest <= at_most_bits)) + np.array([[start], [column]])
        hits.append(hit[:, hit[0] != hit[1]])
    return np.concatenate(hits, axis=1)
