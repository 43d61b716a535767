"""What each way of reading a photo costs: photos/s of the model file on one thread, decoding left out.

    PYTHONPATH=src python benchmarks/readings.py --backbone tf_efficientnet_lite0 --side 160

The ways are those of docs/evaluation.md: heads on the last features, heads on several stages, the larger side, maps of marks, the mirror
image, and the ensemble with the probe. The weights are random, which changes no time. They are timed in turns, and the median of the rounds
is printed.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from serve import export_random

from carinspect.core.programs import run_program
from carinspect.inference.bundle import open_bundle
from carinspect.model.backbones import build_backbone, reading_side
from carinspect.model.features import PRETRAINED_STAGES

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--side", type=int, default=160, help="of the training, in pixels")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    trained = build_backbone(arguments.backbone, image_side_px=arguments.side)
    larger = reading_side(trained, None, pretrained=True, training_side_px=arguments.side)
    several = {"stages": PRETRAINED_STAGES}
    ways = [
        ("last features", arguments.side, {}),
        ("several stages", arguments.side, several),
        ("several stages", larger, several),
        ("several stages, maps of marks", larger, several | {"marks": True}),
        ("several stages, mirror", larger, several | {"mirror": True}),
        ("several stages, ensemble", larger, several | {"ensemble": True}),
        ("several stages, mirror, ensemble", larger, several | {"mirror": True, "ensemble": True}),
    ]
    with tempfile.TemporaryDirectory() as folder:
        bundles = [
            open_bundle(export_random(arguments.backbone, side_px, Path(folder), **way).read_bytes(), threads=1) for _, side_px, way in ways
        ]
    seconds: list[list[float]] = [[] for _ in ways]
    for number in range(arguments.rounds + 1):
        for (_, side_px, _), bundle, found in zip(ways, bundles, seconds, strict=True):
            photos = np.random.default_rng(number).integers(0, 256, (BATCH, side_px, side_px, 3), dtype=np.uint8)
            start = time.perf_counter()
            bundle.predict(photos)
            if number:  # the first round warms up
                found.append(time.perf_counter() - start)
    for (name, side_px, _), found in zip(ways, seconds, strict=True):
        print(f"{name + f', {side_px} px':45s}{BATCH / np.median(found):8.1f} photos/s")


if __name__ == "__main__":
    run_program(main, "benchmarks/readings.py")
