"""Cuts 64 bits into chunks so that near words nearly agree in one of them (the pigeonhole principle), and lists the words near one chunk.

When two words differ in at most r bits, and chunk c takes radius_c with the sum of (radius_c + 1) = r + 1, then in some chunk they differ
in at most its radius: did they differ in radius_c + 1 or more in every chunk, it would be r + 1 in all. So a search that looks, for
each chunk, only at the words near in it misses nothing. Norouzi, Punjani and Fleet (CVPR 2012), "Fast search in Hamming space with
multi-index hashing"; chunks of different radii: Qin et al. (ICDE 2018), "GPH: Similarity search in Hamming space".
"""

from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np

WORD_BITS = 64

_COUNTS = range(3, 17)
"""Chunks to choose from. Fewer than three would have more values than memory has places."""

_WIDEST = 24
"""Bits of a chunk: its table of values has 2^24 places."""

_VALUE_COST, _LOOKUP_COST = 85_000.0, 17.0
"""What one value costs, and what each value near it costs, in comparisons of two words, as measured with a million photos. They decide the
speed alone."""


class Chunk(NamedTuple):
    """`width` bits from bit `shift` on, and in how many of them words may differ to be compared."""

    shift: int
    width: int
    radius: int

    def values(self, words: np.ndarray) -> np.ndarray:
        """The chunk of each word, uint32."""
        return ((words >> np.uint64(self.shift)) & np.uint64((1 << self.width) - 1)).astype(np.uint32)

    @property
    def near_zero(self) -> np.ndarray:
        """Every value with at most `radius` bits set, uint32; exclusive-or with a value gives those near it."""
        bits = [1 << bit for bit in range(self.width)]
        return np.array([sum(few) for count in range(self.radius + 1) for few in combinations(bits, count)], dtype=np.uint32)

    @property
    def nearby(self) -> int:
        """How many values are near one."""
        return sum(comb(self.width, count) for count in range(self.radius + 1))

    @property
    def share(self) -> float:
        """Of evenly spread words, how many are near one of them in this chunk: 0..1."""
        return self.nearby / 2**self.width


def plan_chunks(*, queries: int, words: int, at_most_bits: int) -> list[Chunk]:
    """The chunks that find every pair of a query and a word within `at_most_bits` soonest, were the words spread evenly."""

    def cost(plan: list[Chunk]) -> float:
        return sum(
            queries * words * chunk.share + min(2**chunk.width, queries) * (_VALUE_COST + _LOOKUP_COST * chunk.nearby) for chunk in plan
        )

    widths = [(count, first) for count in _COUNTS for first in range(WORD_BITS // count, _WIDEST + 1)]
    return min((_cut(count, first, at_most_bits) for count, first in widths), key=cost)


def _cut(count: int, first: int, at_most_bits: int) -> list[Chunk]:
    """`count` chunks, of which the first has `first` bits and may take a larger radius; the others share the rest."""
    rest = WORD_BITS - first
    edges = [0, *(first + rest * number // (count - 1) for number in range(count))]
    chunks = [Chunk(low, high - low, -1) for low, high in zip(edges, edges[1:], strict=False)]
    for _ in range(at_most_bits + 1):
        # Each step of a radius goes where it adds the fewest comparisons.
        place = min(range(count), key=lambda place: comb(chunks[place].width, chunks[place].radius + 1) / 2 ** chunks[place].width)
        chunks[place] = chunks[place]._replace(radius=chunks[place].radius + 1)
    return [chunk for chunk in chunks if chunk.radius >= 0]
