"""Finds photos that show the same picture: candidates by hash, then a comparison of their detail."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from carinspect.core.machine import usable_cores
from carinspect.splits.candidates import find_candidates
from carinspect.splits.correlation import correlate_detail, correlate_layouts
from carinspect.splits.fingerprints import VARIANTS, Fingerprints
from carinspect.splits.groups import Link, label_groups

_LEAST_LAYOUT_CORRELATION = 0.35
"""Below it the detail is not compared: that spares two in three of the pairs that are near by chance, and costs one copy in two hundred."""

_BATCH = 2048


def find_near_duplicates(fingerprints: Fingerprints, known: Sequence[Link], *, bits: int, correlation: float) -> list[Link]:
    """Links that join the groups which the `known` links leave apart; a pair that is together already is not looked at.

    The groups that result are those of comparing every candidate pair, in a fraction of the time where one scene has many photos.
    """
    photos = len(fingerprints.hashes)
    candidates = find_candidates(fingerprints.hashes, at_most_bits=bits)
    pairs = np.stack([candidates.first, candidates.second, candidates.variant], axis=1)
    labels, links = label_groups(photos, known), list[Link]()
    with ThreadPoolExecutor(usable_cores()) as pool:
        # The size of a batch, unlike the number of threads, shows in which of a group's pairs are listed: it is fixed.
        for start in tqdm(range(0, len(pairs), _BATCH), desc="comparing details", unit="batch", disable=None):
            batch = pairs[start : start + _BATCH]
            batch = batch[labels[batch[:, 0]] != labels[batch[:, 1]]]
            compare = partial(_compare, fingerprints, correlation)
            for (first, second, _), seen in zip(batch.tolist(), pool.map(compare, batch.tolist()), strict=True):
                if seen.same:
                    links.append(Link("near-duplicate", min(first, second), max(first, second), seen.correlation))
            labels = label_groups(photos, [*known, *links])
    return links


class _Comparison(NamedTuple):
    same: bool
    correlation: float  # of nine tenths of the detail; pairs that share only half of it, or the layout, have a low one


def _compare(fingerprints: Fingerprints, least: float, pair: Sequence[int]) -> _Comparison:
    first, second, variant = pair
    layouts, thumbnails, held = fingerprints.layouts, fingerprints.thumbnails, VARIANTS[variant]
    layout = correlate_layouts(layouts[first], layouts[second], variant=held)
    if layout < _LEAST_LAYOUT_CORRELATION:
        return _Comparison(same=False, correlation=0.0)
    detail = correlate_detail(thumbnails[first], thumbnails[second], variant=held)
    return _Comparison(detail.shows_same(layout=layout, least=least), detail.most)
