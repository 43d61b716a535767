"""Measures time and peak memory of convert and split at 1,000 and 10,000 drawn photos (--large: 70,000), and the growth exponent.

    PYTHONPATH=src python benchmarks/data.py [--large]

Each size runs in a process of its own, because the peak memory of a process never falls. The photos are tiny, so that this project's work
is measured and not the decoder's. One in five has a copy, and no two others are similar; photos of real cars are, and give the split more
comparisons of detail. `+100` repeats a step after 100 photos were added: the others are hashed, but not decoded.
"""

import argparse
import json
import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from growth import QUESTIONS, SPLIT, report_growth, run_step
from PIL import Image

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.convert import convert
from carinspect.core.data import DataParams
from carinspect.splits.ledger import Ledger
from carinspect.splits.split import split_photos

SIZES, LARGE = (1_000, 10_000), 70_000
ADDED = 100
STEPS = ("convert", "split", "convert +100", "split +100")
PHOTO_PX = (96, 72)
CONVERT = ConvertAnnotationsParams(
    damage_severity={"dent": 1.0}, dirt_severity={"dirt": 1.0}, area_exponent=0.5, min_dimension_px=16, misnamed="reject"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--large", action="store_true", help=f"add {LARGE:,} photos")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    report_growth(__file__, (*SIZES, LARGE) if arguments.large else SIZES, STEPS, of="photos")


def measure(photos: int) -> dict[str, float]:
    """Seconds of each step, and the peak after it, of this process and of the largest of those that it started."""
    with tempfile.TemporaryDirectory() as folder:
        # The record of photos already read lies in DVC_ROOT: here it must start empty.
        os.environ["DVC_ROOT"] = folder
        root = Path(folder) / "root"
        draw_root(root, range(photos))
        data, found = DataParams(root=str(root), sources=str(root / "sources.yaml")), dict[str, float]()
        ledger = Ledger({}, {})
        for suffix, numbers in (("", range(photos)), (f" +{ADDED}", range(photos, photos + ADDED))):
            draw_root(root, numbers)
            table = run_step(f"convert{suffix}", lambda: convert(data, CONVERT, QUESTIONS), found).table
            split = partial(split_photos, table, root, params=SPLIT, questions=QUESTIONS[:1], ledger=ledger)
            ledger = run_step(f"split{suffix}", split, found).ledger
    return found


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
