"""Measures the search for near-duplicates and the split on simulated fingerprints, of more photos than any folder at hand holds.

    PYTHONPATH=src python benchmarks/million.py [--photos 10000 30000 100000]

A hash is 32 of 64 bits, as in a photo's lowest cosines. Bits of real photos are correlated, because layouts recur: here the cosines'
variance is for `_RECURRING` that of one of `_LAYOUTS` recurring layouts. One photo in a hundred is a copy: one of its original's variants
with up to four bits turned over. `search` finds the candidates; `groups` links those that are copies; `splits` draws and balances;
`certificate` counts. The comparison of detail is left out, as there are no pictures, and the
column `by chance` says how many pairs are no copies. CPU seconds of all threads; each size runs in a process of its own.

The sample: for `_SAMPLE` photos all pairs are found by comparing with all, and must be those that the search found.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pandas as pd
from growth import QUESTIONS, SPLIT
from rows import simulate

from carinspect.splits.candidates import Candidates, find_candidates
from carinspect.splits.certificate import certify_split
from carinspect.splits.fingerprints import VARIANTS
from carinspect.splits.groups import Link, label_groups, link_equal, name_groups
from carinspect.splits.ledger import Ledger
from carinspect.splits.placement import assign_splits

STEPS = ("search", "groups", "splits", "certificate")
_LAYOUTS, _RECURRING = 500, 0.3
_COPIED, _FLIPPED = 0.01, 4
_SAMPLE = 20
_BLOCK = 1 << 17

ResultT = TypeVar("ResultT")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    print(f"{'photos':>10}" + "".join(f"{step:>13}" for step in STEPS) + f"{'peak MB':>10}{'pairs':>12}{'by chance':>12}{'exponents':>36}")
    before: dict[str, float] = {}
    for photos in arguments.photos:
        done = subprocess.run([sys.executable, __file__, "--one", str(photos)], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        growth = math.log(photos / before["photos"]) if before else 0.0
        exponents = [f"{math.log(found[name] / before[name]) / growth:.2f}" for name in (*STEPS, "by chance") if before]
        times = "".join(f"{found[step]:11.1f} s" for step in STEPS)
        print(
            f"{photos:10,}{times}{found['peak MB']:10,.0f}{found['pairs']:12,}{found['by chance']:12,}  {', '.join(exponents):>34}",
            flush=True,
        )
        before = found


def measure(photos: int) -> dict[str, float]:
    """CPU seconds of each step, the process's peak, and how many pairs were found, of which how many by chance."""
    random = np.random.default_rng(photos)
    hashes, original = draw_hashes(random, photos)
    found: dict[str, float] = {"photos": photos}
    candidates = _time("search", lambda: find_candidates(hashes, at_most_bits=SPLIT.near_duplicate_bits), found)
    _check_sample(hashes, candidates, random)
    copied = (original[candidates.first] == candidates.second) | (original[candidates.second] == candidates.first)
    table = simulate(photos)

    def group() -> tuple[pd.DataFrame, list[Link]]:
        links = link_equal(table["family"], "family") + link_equal(table["sha256"], "bytes")
        pairs = zip(candidates.first[copied].tolist(), candidates.second[copied].tolist(), strict=True)
        links += [Link("near-duplicate", min(pair), max(pair), 0.9) for pair in pairs]
        return table.assign(group=name_groups(label_groups(photos, links), table["image_path"])), links

    grouped, links = _time("groups", group, found)
    split = _time("splits", lambda: assign_splits(grouped, SPLIT, QUESTIONS, Ledger({}, {})), found)
    certificate = _time("certificate", lambda: certify_split(split, links, questions=QUESTIONS, moved={}), found)
    assert not certificate["leaks"]
    pairs = len(candidates.bits)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found | {"pairs": pairs, "by chance": int((~copied).sum()), "copies": int((original >= 0).sum()), "peak MB": peak}


def draw_hashes(random: np.random.Generator, photos: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes uint64 (photos, variants), and of each photo the row of which it is a copy, or -1."""
    variants = len(VARIANTS)
    layouts = random.standard_normal((_LAYOUTS, 64), dtype=np.float32)
    hashes = np.empty(photos * variants, np.uint64)
    # Held in another way, a photo of a recurring layout shows another layout.
    shown = (random.integers(0, _LAYOUTS, (photos, 1)) + np.arange(variants)).ravel() % _LAYOUTS
    for start in range(0, len(hashes), _BLOCK):
        some = shown[start : start + _BLOCK]
        cosines = math.sqrt(1 - _RECURRING) * random.standard_normal((len(some), 64), dtype=np.float32)
        cosines += math.sqrt(_RECURRING) * layouts[some]
        bits = cosines > np.median(cosines, axis=1, keepdims=True)
        hashes[start : start + len(some)] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    words, original = hashes.reshape(photos, variants), np.full(photos, -1)
    copies = random.choice(photos, int(_COPIED * photos), replace=False)
    originals = random.choice(np.setdiff1d(np.arange(photos), copies), len(copies), replace=False)
    turned = np.bitwise_or.reduce(np.uint64(1) << random.integers(0, 64, (len(copies), _FLIPPED)).astype(np.uint64), axis=1)
    words[copies, 0] = words[originals, random.integers(0, variants, len(copies))] ^ turned
    original[copies] = originals
    return words, original


def _check_sample(hashes: np.ndarray, candidates: Candidates, random: np.random.Generator) -> None:
    """Raises `AssertionError` unless the pairs of a few photos are those of comparing them with all."""
    sample = random.choice(len(hashes), _SAMPLE, replace=False)
    low, high = np.minimum(candidates.first, candidates.second), np.maximum(candidates.first, candidates.second)
    sampled = np.isin(low, sample) | np.isin(high, sample)
    pairs = set(zip(low[sampled].tolist(), high[sampled].tolist(), strict=True))
    for row in sample.tolist():
        as_query = np.bitwise_count(hashes[row][:, None] ^ hashes[:, 0]).min(axis=0)
        as_word = np.bitwise_count(hashes ^ hashes[row, 0]).min(axis=1)
        near = np.flatnonzero(np.minimum(as_query, as_word) <= SPLIT.near_duplicate_bits)
        expected = {(min(row, int(other)), max(row, int(other))) for other in near if other != row}
        assert expected == {pair for pair in pairs if row in pair}, f"photo {row}: other pairs than the exact search"


def _time(name: str, step: Callable[[], ResultT], found: dict[str, float]) -> ResultT:
    start = time.process_time()
    result = step()
    found[name] = time.process_time() - start
    return result


if __name__ == "__main__":
    main()
