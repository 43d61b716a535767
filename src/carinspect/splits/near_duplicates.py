"""Finds photos that show the same picture: candidates by hash, then a comparison of their detail."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256

import numpy as np
from tqdm import tqdm

from carinspect.core.machine import usable_cores
from carinspect.images.memory import Memory
from carinspect.splits import correlation as comparing
from carinspect.splits import fingerprints as reading
from carinspect.splits.candidates import Candidates, find_candidates
from carinspect.splits.correlation import Detail, correlate_detail, correlate_layouts
from carinspect.splits.fingerprints import VARIANTS, Fingerprints
from carinspect.splits.groups import Link, label_groups

_LEAST_LAYOUT_CORRELATION = 0.35
"""Below it the detail is not compared: that spares two in three of the pairs that are near by chance, and costs one copy in two hundred."""

_BATCH = 2048

_SEGMENT = 1 << 16
"""Comparisons after which they are kept: so many are lost at most when the run is killed."""

_COMPARISON = np.dtype([("layout", np.float64), ("most", np.float64), ("half", np.float64)])


def comparison_memory() -> Memory:
    """What comparing two pictures has shown, so that photos added later cost only their own comparisons."""
    return Memory("comparisons", _COMPARISON, code=[__file__, comparing.__file__, reading.__file__], libraries=reading.LIBRARIES)


def find_near_duplicates(
    fingerprints: Fingerprints, known: Sequence[Link], *, bits: int, correlation: float, memory: Memory | None = None
) -> list[Link]:
    """Links that join the groups which the `known` links leave apart; a pair that is together already is not looked at.

    The groups that result are those of comparing every candidate pair, in a fraction of the time where one scene has many photos.
    memory: a `comparison_memory`; None compares every pair anew. It changes the time alone.
    """
    candidates = find_candidates(fingerprints.hashes, at_most_bits=bits)
    with ThreadPoolExecutor(usable_cores()) as pool:
        return _join_groups(
            candidates, _Compared(fingerprints, candidates, memory, pool), label_groups(len(fingerprints.hashes), known), correlation
        )


def _join_groups(candidates: Candidates, compared: "_Compared", labels: np.ndarray, correlation: float) -> list[Link]:
    """The links between groups, numbered by `labels`, (N,), that the pairs show, nearest pair first."""
    links = list[Link]()
    # The size of a batch, unlike the number of threads, shows in which of a group's pairs are listed: it is fixed.
    for start in tqdm(range(0, len(candidates.bits), _BATCH), desc="comparing details", unit="batch", disable=None):
        places = np.arange(start, min(start + _BATCH, len(candidates.bits)))
        places = places[labels[candidates.first[places]] != labels[candidates.second[places]]]
        found = []
        for place, (layout, most, half) in zip(places.tolist(), compared.look(places).tolist(), strict=True):
            if layout >= _LEAST_LAYOUT_CORRELATION and Detail(most, half).shows_same(layout=layout, least=correlation):
                first, second = sorted((int(candidates.first[place]), int(candidates.second[place])))
                found.append(Link("near-duplicate", first, second, most))
        if found:
            # Joins groups, not photos: all links so far would be too many to go through for each batch.
            joined = [link._replace(first=int(labels[link.first]), second=int(labels[link.second])) for link in found]
            labels = label_groups(int(labels.max()) + 1, joined)[labels]
            links += found
    compared.keep()
    return links


class _Compared:
    """The comparisons of candidate pairs, records `_COMPARISON`: made once, or recalled."""

    def __init__(self, fingerprints: Fingerprints, candidates: Candidates, memory: Memory | None, pool: ThreadPoolExecutor) -> None:
        self.fingerprints, self.memory, self.pool, self.new = fingerprints, memory, pool, list[int]()
        self.pairs = np.stack([candidates.first, candidates.second, candidates.variant], axis=1)
        self.records, self.known = np.zeros(len(self.pairs), _COMPARISON), np.zeros(len(self.pairs), bool)
        if memory is not None and len(self.pairs):
            # A layout is made of its thumbnail, and a comparison depends on nothing else.
            digests = {row: sha256(fingerprints.thumbnails[row]).digest() for row in np.unique(self.pairs[:, :2]).tolist()}
            self.keys = [sha256(digests[one] + digests[other] + bytes([held])).hexdigest() for one, other, held in self.pairs.tolist()]
            self.records, self.known = memory.recall(self.keys)

    def look(self, places: np.ndarray) -> np.ndarray:
        """The records of the pairs at `places`."""
        unknown = places[~self.known[places]]
        compare = partial(_compare, self.fingerprints)
        for place, record in zip(unknown.tolist(), self.pool.map(compare, self.pairs[unknown].tolist()), strict=True):
            self.records[place] = record
        self.known[unknown] = True
        self.new += unknown.tolist()
        if len(self.new) >= _SEGMENT:
            self.keep()
        return self.records[places]

    def keep(self) -> None:
        """Remember what is new."""
        if self.memory is not None and self.new:
            self.memory.remember([self.keys[place] for place in self.new], self.records[self.new])
        self.new = []


def _compare(fingerprints: Fingerprints, pair: Sequence[int]) -> tuple[float, float, float]:
    """The correlation of the layouts, and where that is high enough, `most` and `half` of the detail's."""
    first, second, variant = pair
    layouts, thumbnails, held = fingerprints.layouts, fingerprints.thumbnails, VARIANTS[variant]
    layout = correlate_layouts(layouts[first], layouts[second], variant=held)
    if layout < _LEAST_LAYOUT_CORRELATION:
        return layout, 0.0, 0.0
    detail = correlate_detail(thumbnails[first], thumbnails[second], variant=held)
    return layout, detail.most, detail.half
