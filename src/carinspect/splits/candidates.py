"""Finds the pairs of photos whose hashes are near enough to compare their detail.

Every pair within the distance is found, and no other. For each chunk of `chunks.py` the photos are sorted by their chunk; those of one
value, held in all ways, meet the upright ones of all near values in a dense table of distances. With more photos the chunks grow longer.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from carinspect.core.machine import usable_cores
from carinspect.splits.chunks import Chunk, plan_chunks

_TABLE = 1 << 18
"""Distances in one table: two MB of 64-bit words, which stay in a core's cache."""

_PARTS = 128
"""Of a chunk's values; cores take them in turn."""

# A hit in one integer, so that sorting brings the best one of each pair to the front: 24 bits each for the lower and the higher row, 7 for
# the distance, 1 for whether the higher row is the turned one, 7 for the variant.
_ROW_BITS, _DISTANCE_BITS, _VARIANT_BITS = 24, 7, 7
_RANK_BITS = _DISTANCE_BITS + 1 + _VARIANT_BITS


class Candidates(NamedTuple):
    """Pairs, each once, nearest first: photo `first[i]`, held as `VARIANTS[variant[i]]`, looks like the upright photo `second[i]`."""

    bits: np.ndarray
    first: np.ndarray
    second: np.ndarray
    variant: np.ndarray


def find_candidates(hashes: np.ndarray, *, at_most_bits: int) -> Candidates:
    """Every pair of rows of `hashes`, uint64 (N, V), of which one in some variant differs from the other, upright, in few bits.

    Of a pair's ways to be near the nearest is given; of several, the one that turns the lower row; of several, the first variant.
    """
    photos, variants = hashes.shape
    assert photos < 1 << _ROW_BITS
    assert variants <= 1 << _VARIANT_BITS
    best, found, waiting = np.zeros(0, np.uint64), list[np.ndarray](), 0
    chunks = plan_chunks(queries=hashes.size, words=photos, at_most_bits=at_most_bits) if photos else []
    with ThreadPoolExecutor(usable_cores()) as pool, tqdm(total=_PARTS * len(chunks), desc="comparing photos", disable=None) as progress:
        for chunk in chunks:
            index = _Index(hashes, chunk)
            for hits in pool.map(partial(_search_part, index, at_most_bits), range(_PARTS)):
                progress.update()
                found.append(hits)
                waiting += len(hits)
                # The same pair shows in several chunks and variants: what is kept never grows far beyond the pairs themselves.
                if waiting > 1 << 20 and waiting > len(best):
                    best, found, waiting = _best_of_pairs([best, *found]), [], 0
    return _unpack(_best_of_pairs([best, *found]))


class _Index:
    """The photos sorted by one chunk: `queries` held in all ways, `words` upright. Of word w, the row is `rows[w]`."""

    def __init__(self, hashes: np.ndarray, chunk: Chunk) -> None:
        self.variants = hashes.shape[1]
        self.chunk, self.near_zero = chunk, chunk.near_zero
        flat, upright = hashes.reshape(-1), np.ascontiguousarray(hashes[:, 0])
        values = chunk.values(flat)
        self.query_order = _order(values)
        self.queries, values = flat[self.query_order], values[self.query_order]
        starts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
        self.values, self.query_edges = values[starts], np.append(starts, len(flat))
        values = chunk.values(upright)
        self.rows = _order(values)
        self.words = upright[self.rows]
        self.word_edges = np.searchsorted(values[self.rows], np.arange(2**chunk.width + 1, dtype=np.uint32)).astype(np.uint32)

    def words_near(self, value: np.uint32) -> np.ndarray:
        """Positions of the words whose chunk is near `value`."""
        near = self.near_zero ^ value
        starts, ends = self.word_edges[near], self.word_edges[near + np.uint32(1)]
        lengths = (ends - starts).astype(np.int64)
        shifts = starts.astype(np.int64) - (np.cumsum(lengths) - lengths)
        return np.repeat(shifts, lengths) + np.arange(lengths.sum())


def _order(values: np.ndarray) -> np.ndarray:
    """Where each of the sorted values, uint32, was, uint32. numpy sorts 16 bits by counting, 32 by comparing."""
    order = np.argsort(values.astype(np.uint16), kind="stable").astype(np.uint32)
    high = (values >> np.uint32(16)).astype(np.uint16)
    return order[np.argsort(high[order], kind="stable")] if high.any() else order


def _search_part(index: _Index, at_most_bits: int, part: int) -> np.ndarray:
    """The best hit of each pair that one part of the chunk's values shows."""
    first, last = len(index.values) * part // _PARTS, len(index.values) * (part + 1) // _PARTS
    hits = [hit for place in range(first, last) for hit in _search_value(index, at_most_bits, place)]
    return _best_of_pairs(hits)


def _search_value(index: _Index, at_most_bits: int, place: int) -> Iterator[np.ndarray]:
    near = index.words_near(index.values[place])
    if not len(near):
        return
    words = index.words[near]
    start, end = index.query_edges[place], index.query_edges[place + 1]
    height = max(1, _TABLE // len(words))
    for top in range(start, end, height):
        queries = index.queries[top : min(top + height, end)]
        distances = np.bitwise_count(queries[:, None] ^ words)
        query, word = np.divmod(np.flatnonzero(distances <= at_most_bits), len(words))
        if len(query):
            row, variant = np.divmod(index.query_order[top + query].astype(np.uint64), np.uint64(index.variants))
            yield _pack(distances[query, word], row, index.rows[near[word]].astype(np.uint64), variant)


def _pack(bits: np.ndarray, first: np.ndarray, second: np.ndarray, variant: np.ndarray) -> np.ndarray:
    other = first != second
    bits, first, second, variant = bits[other].astype(np.uint64), first[other], second[other], variant[other]
    pair = np.minimum(first, second) << np.uint64(_ROW_BITS) | np.maximum(first, second)
    rank = (bits << np.uint64(1) | (first > second)) << np.uint64(_VARIANT_BITS) | variant
    return pair << np.uint64(_RANK_BITS) | rank


def _best_of_pairs(hits: list[np.ndarray]) -> np.ndarray:
    """One hit a pair, sorted by pair."""
    packed = np.sort(np.concatenate([np.zeros(0, np.uint64), *hits]))
    pair = packed >> np.uint64(_RANK_BITS)
    return packed[np.append(True, pair[1:] != pair[:-1])[: len(pair)]]


def _unpack(hits: np.ndarray) -> Candidates:
    """The pairs, nearest first, then by their rows."""

    def field(shift: int, width: int) -> np.ndarray:
        return (hits >> np.uint64(shift) & np.uint64((1 << width) - 1)).astype(np.int32)

    bits = field(_VARIANT_BITS + 1, _DISTANCE_BITS)
    order = np.argsort(bits, kind="stable")
    low, high = field(_RANK_BITS + _ROW_BITS, _ROW_BITS)[order], field(_RANK_BITS, _ROW_BITS)[order]
    swapped = field(_VARIANT_BITS, 1)[order].astype(bool)
    return Candidates(
        bits[order].astype(np.uint8), np.where(swapped, high, low), np.where(swapped, low, high), field(0, _VARIANT_BITS)[order]
    )
