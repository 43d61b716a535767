"""Owns turning shots into files and truths, in several processes; the result does not depend on how many."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from carinspect.core.machine import usable_cores
from carinspect.demo.copies import draw_copy
from carinspect.demo.light import encode, store_turned
from carinspect.demo.photo import draw_photo
from carinspect.demo.shots import Shot
from carinspect.demo.truth import Truth, tell_truth


@dataclass(frozen=True)
class Developed:
    """One file of the data root, and the truth about it."""

    shot: Shot
    path: str
    split: str
    content: bytes
    width_px: int
    height_px: int
    truth: Truth
    is_copy: bool


def develop(shot: Shot) -> list[Developed]:
    """The photo of `shot` and its copies. A pure function of it."""
    picture = draw_photo(shot.plan)
    height, width = picture.pixels.shape[:2]
    stored = picture.pixels if shot.orientation == 1 else store_turned(picture.pixels, shot.orientation)
    content = encode(stored, quality=shot.plan.quality, kind=shot.kind, orientation=shot.orientation)
    developed = [Developed(shot, shot.path, shot.split, content, width, height, tell_truth(picture), is_copy=False)]
    for copy in shot.copies:
        rng = np.random.default_rng(copy.seed)
        altered = draw_copy(picture, rng)
        content = encode(altered.pixels, quality=int(rng.integers(76, 93)))
        developed.append(Developed(shot, copy.path, copy.split, content, width, height, tell_truth(altered), is_copy=True))
    return developed


def develop_all(shots: list[Shot], *, processes: int | None) -> Iterator[Developed]:
    """All files of `shots`, in their order. `processes` None is one for each processor, up to eight."""
    if processes is None:
        processes = min(usable_cores(), 8)
    with tqdm(total=len(shots), desc="photos", unit="photo", disable=None) as progress:
        for batch in _develop_in_order(shots, processes):
            progress.update()
            yield from batch


def _develop_in_order(shots: list[Shot], processes: int) -> Iterator[list[Developed]]:
    if processes == 1:
        yield from map(develop, shots)
        return
    # Spawned, for a fork of a process with threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_use_one_thread) as pool:
        yield from pool.map(develop, shots, chunksize=8)


def _use_one_thread() -> None:
    cv2.setNumThreads(1)
