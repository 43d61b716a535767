"""The cache of resized photos: each is decoded once, then read from a memory map in every epoch and by every process."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from tqdm import tqdm

from carinspect.core.errors import UserError
from carinspect.core.machine import usable_cores
from carinspect.core.programs import die_by_ctrl_c
from carinspect.images.decode import RESIZE_CONTRACT, PhotoError, load_image


def cache_folder() -> Path:
    """Where things that can be made again are kept: beside the main checkout's .dvc, also when DVC runs a copy of it."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".carinspect"


def load_photos(root: Path, image_paths: Sequence[str], *, side_px: int) -> Iterator[np.ndarray]:
    """The photos in order, uint8 (side_px, side_px, 3), decoded in parallel. Raises `UserError` that names a broken one."""
    load = partial(_load_named, root, side_px=side_px)
    progress = partial(tqdm, total=len(image_paths), desc="reading photos", unit="photo", disable=None)
    processes = usable_cores()
    if processes == 1 or len(image_paths) < 64:
        yield from progress(map(load, image_paths))
        return
    with ProcessPoolExecutor(processes, initializer=die_by_ctrl_c) as pool:
        yield from progress(pool.map(load, image_paths, chunksize=16))


def _load_named(root: Path, image_path: str, *, side_px: int) -> np.ndarray:
    try:
        return load_image(root / image_path, side_px)
    except PhotoError as error:
        raise UserError(f"{root / image_path}: {error}. It was sound when the table was made; run dvc repro.") from None


def open_pixel_cache(root: Path, image_paths: Sequence[str], digests: Sequence[str], *, side_px: int) -> np.ndarray:
    """A read-only memory map, uint8 (photos, side_px, side_px, 3); built on the first call, found by content on later ones.

    `digests`: the photos' SHA-256, which with the resize contract name the file: same bytes, same file.
    """
    key = sha256(repr((RESIZE_CONTRACT, side_px, list(digests))).encode()).hexdigest()[:24]
    path = cache_folder() / "photos" / f"{key}.npy"
    if not path.exists():
        _build(path, root, image_paths, side_px)
    return np.load(path, mmap_mode="r")


def _build(path: Path, root: Path, image_paths: Sequence[str], side_px: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(len(image_paths), side_px, side_px, 3))
        for position, photo in enumerate(load_photos(root, image_paths, side_px=side_px)):
            pixels[position] = photo
        pixels.flush()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
