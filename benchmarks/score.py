"""Compares `carinspect score` with a bare loop: photos/s of both and their ratio, in one run.

    PYTHONPATH=src python benchmarks/score.py [--model models/best.onnx] [--photos data/demo] [--rounds 5]

`model alone`: on photos decoded beforehand. `decode + model`: a simple loop that decodes a batch and then runs the model, on one thread.
`score`: all that the command does, with listing, journal and table. Each with one thread; then `score` with one worker per core.
All take turns in each round, so that a machine that slows down slows all of them; a figure is the median of its rounds.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from carinspect.cli.score import ScoreOptions, score_photos
from carinspect.core.machine import usable_cores
from carinspect.images.decode import PhotoError, load_image
from carinspect.inference.bundle import ModelBundle, open_bundle
from carinspect.inference.photo_list import list_photos

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=Path("models/best.onnx"))
    parser.add_argument("--photos", type=Path, default=Path("data/demo"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    bundle = open_bundle(arguments.model, threads=1)
    side_px = bundle.info["image_side_px"]
    listing = list_photos([str(arguments.photos)])
    paths = [listing.path(place) for place in range(len(listing.names))]
    decoded = decode(paths, side_px)
    loops: dict[str, Callable[[], object]] = {
        "model alone": lambda: bundle.predict(decoded, batch_size=BATCH),
        "decode + model": lambda: bare_loop(bundle, paths, side_px),
        "score, 1 worker": lambda: score(arguments.photos, arguments.model, workers=1),
        f"score, {usable_cores()} workers": lambda: score(arguments.photos, arguments.model, workers=usable_cores()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(arguments.rounds):
        for name, loop in loops.items():
            start = time.perf_counter()
            loop()
            seconds[name].append(time.perf_counter() - start)
    bare = statistics.median(seconds["decode + model"])
    print(f"{len(paths):,} photos, {side_px} px, {arguments.rounds} rounds\n{'':18} {'photos/s':>9} {'of decode + model':>18}")
    for name, found in seconds.items():
        print(f"{name:18} {len(paths) / statistics.median(found):9.0f} {bare / statistics.median(found):18.2f}")


def decode(paths: list[Path], side_px: int) -> np.ndarray:
    photos = []
    for path in paths:
        with contextlib.suppress(PhotoError):
            photos.append(load_image(path, side_px))
    return np.stack(photos)


def bare_loop(bundle: ModelBundle, paths: list[Path], side_px: int) -> None:
    for start in range(0, len(paths), BATCH):
        bundle.predict(decode(paths[start : start + BATCH], side_px))


def score(photos: Path, model: Path, *, workers: int) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        options = ScoreOptions(
            out=Path(folder) / "scores.csv", model=model, column=None, root=None, batch=BATCH, workers=workers, threads=1, device="cpu",
            engine="local", ray_address=None,
        )  # fmt: skip
        score_photos([str(photos)], options)


if __name__ == "__main__":
    main()
