"""How convert and split grow: time and peak memory at 1,000 and 10,000 drawn photos (70,000 by --large), and the exponent of growth.

    PYTHONPATH=src python benchmarks/data.py [--large]

Each size runs in a process of its own, for the peak of a process never falls. The photos are tiny, so that what is measured is this
project's work and not the decoder's; one in five has a copy, and no two others are alike: real cars, which are, give the second look of
the split more to do. `+100` repeats a step after 100 photos were added: the others are hashed, and not decoded.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.convert import convert
from carinspect.core.data import DataParams
from carinspect.splits.config import SplitParams
from carinspect.splits.ledger import Ledger
from carinspect.splits.split import split_photos

SIZES, LARGE = (1_000, 10_000), 70_000
ADDED = 100
STEPS = ("convert", "split", "convert +100", "split +100")
PHOTO_PX = (96, 72)
CONVERT = ConvertAnnotationsParams(
    damage_severity={"dent": 1.0}, dirt_severity={"dirt": 1.0}, area_exponent=0.5, min_dimension_px=16, misnamed="reject"
)
SPLIT = SplitParams(
    seed=1, policy="fresh", fractions={"train": 0.5, "val": 0.1, "calib": 0.2, "test": 0.2}, near_duplicate_bits=12,
    near_duplicate_correlation=0.5,
)  # fmt: skip

ResultT = TypeVar("ResultT")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--large", action="store_true", help=f"add {LARGE:,} photos")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    sizes = (*SIZES, LARGE) if arguments.large else SIZES
    print(f"{'photos':>8} {'step':>12} {'seconds':>9} {'µs/photo':>9} {'peak MB':>8} {'exponent':>9}")
    before: dict[str, float] = {}
    smaller = 0
    for photos in sizes:
        done = subprocess.run([sys.executable, __file__, "--one", str(photos)], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        for step in STEPS:
            seconds = found[step]
            exponent = f"{math.log(seconds / before[step]) / math.log(photos / smaller):.2f}" if step in before else ""
            print(f"{photos:8,} {step:>12} {seconds:9.2f} {1e6 * seconds / photos:9.0f} {found[f'{step} peak MB']:8.0f} {exponent:>9}")
        before, smaller = {step: found[step] for step in STEPS}, photos


def measure(photos: int) -> dict[str, float]:
    """Seconds of each step, and the peak after it, of this process and of the largest of those that it started."""
    with tempfile.TemporaryDirectory() as folder:
        # The memory of photos already read lies beside the checkout: here it must begin empty.
        os.environ["DVC_ROOT"] = folder
        root = Path(folder) / "root"
        draw_root(root, range(photos))
        data, found = DataParams(root=str(root), sources=str(root / "sources.yaml")), dict[str, float]()
        ledger = Ledger({}, {})
        for suffix, numbers in (("", range(photos)), (f" +{ADDED}", range(photos, photos + ADDED))):
            draw_root(root, numbers)
            table = run_step(f"convert{suffix}", lambda: convert(data, CONVERT), found).table
            split = partial(split_photos, table, root, params=SPLIT, tasks=["clean"], ledger=ledger)
            ledger = run_step(f"split{suffix}", split, found).ledger
    return found


def run_step(name: str, step: Callable[[], ResultT], found: dict[str, float]) -> ResultT:
    start = time.perf_counter()
    result = step()
    found[name] = time.perf_counter() - start
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    found[f"{name} peak MB"] = max(peaks)
    return result


def draw_root(root: Path, numbers: range) -> None:
    """Photos with a layout of their own in two class folders; every fifth is a re-encoded copy of the one before."""
    for folder in ("clean", "dirty"):
        (root / "wash" / folder).mkdir(parents=True, exist_ok=True)
    (root / "sources.yaml").write_text("sources: [{name: wash, format: folders, categories: {clean: {clean: 1}, dirty: {clean: 0}}}]\n")
    for number in numbers:
        original = number - 1 if number % 5 == 4 else number
        coarse = np.random.default_rng(original).integers(0, 256, (9, 12, 3)).astype(np.uint8)
        picture = Image.fromarray(coarse).resize(PHOTO_PX, Image.Resampling.BICUBIC)
        folder = "clean" if original % 2 else "dirty"
        picture.save(root / "wash" / folder / f"{number:06}.jpg", quality=90 if original == number else 70)


if __name__ == "__main__":
    main()
