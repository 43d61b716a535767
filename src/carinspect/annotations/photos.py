"""Owns reading every photo once: its size, the hash of its bytes and its perceptual hash, or the reason why it cannot be used."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import imagehash
from tqdm import tqdm

from carinspect.annotations import memory
from carinspect.annotations.listing import show_name
from carinspect.core.errors import UserError
from carinspect.core.files import sha256_of
from carinspect.core.machine import usable_cores
from carinspect.images.decode import PhotoError, decode_photo

Item = TypeVar("Item")
Result = TypeVar("Result")

_FEW = 64
"""Fewer photos are read sooner than processes are started."""


class Look(NamedTuple):
    """What decoding one photo shows."""

    width_px: int = 0
    height_px: int = 0
    """Size as a person sees it; 0 for an unusable photo."""
    phash: str = ""
    """64-bit perceptual hash of the upright RGB photo, 16 hexadecimal digits (ImageHash's `phash`: signs of the lowest 8x8 DCT terms
    against their median)."""
    problem: str = ""
    """Why the photo cannot be used; blank for a sound one."""


def read_photos(root: Path, image_paths: Sequence[str], *, processes: int | None = None) -> dict[str, tuple[str, Look]]:
    """image_path → SHA-256 of its bytes (blank where they cannot be read) and its look, in the order of `image_paths`.

    processes: how many read at a time; None: one for each core that this process may use. The same bytes are decoded once, and looks are
    remembered, so that a second run decodes only what is new.
    """
    hashes = _map_all(partial(_hash_file, root), image_paths, what="hashing photos", processes=processes)
    looks = memory.load(Look)
    unseen = {sha256: path for path, (sha256, _) in zip(image_paths, hashes, strict=True) if sha256 and sha256 not in looks}
    found = _map_all(partial(look_at, root), list(unseen.values()), what="reading photos", processes=processes)
    if unseen:
        looks |= dict(zip(unseen, found, strict=True))
        # A failure may lie with the disk, not with the photo: it is never remembered.
        memory.save({sha256: look for sha256, look in looks.items() if not look.problem})
    return {
        path: (sha256, looks[sha256] if sha256 else Look(problem=problem))
        for path, (sha256, problem) in zip(image_paths, hashes, strict=True)
    }


def look_at(root: Path, image_path: str) -> Look:
    """The look of one photo, decoded whole, so that a truncated file is found."""
    try:
        photo = decode_photo(root / image_path)
    except PhotoError as error:
        return Look(problem=str(error))
    return Look(*photo.size, phash=str(imagehash.phash(photo)))


def _hash_file(root: Path, image_path: str) -> tuple[str, str]:
    """SHA-256 and "", or "" and why there is none."""
    if show_name(image_path) != image_path:
        return "", "its name holds control characters or is not Unicode: rename it"
    try:
        return sha256_of(root / image_path), ""
    except OSError as error:
        return "", f"cannot be read: {error.strerror}"


def _map_all(function: Callable[[Item], Result], items: Sequence[Item], *, what: str, processes: int | None) -> list[Result]:
    progress = partial(tqdm, total=len(items), desc=what, unit="photo", disable=None)
    processes = processes or usable_cores()
    if processes == 1 or len(items) < _FEW:
        return list(progress(map(function, items)))
    try:
        with ProcessPoolExecutor(processes) as pool:
            return list(progress(pool.map(function, items, chunksize=16)))
    except BrokenProcessPool:
        raise UserError(
            f"{what}: one of {processes} processes was killed, most often for want of memory. Run it with less beside it."
        ) from None
