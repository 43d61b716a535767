"""Develops planned photos into files, and what is true about each: its scores and the outlines of what can be seen.

The result does not depend on the number of processes.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image
from tqdm import tqdm

from carinspect.core.machine import usable_cores
from carinspect.core.programs import die_by_ctrl_c
from carinspect.demo.brush import SUPERSAMPLE, binary
from carinspect.demo.photo import Picture, draw_photo
from carinspect.demo.scene import SEVERITY
from carinspect.demo.shots import ImageKind, Shot

_DIRT = ("dirt", "mud")

_LEAST_AREA_PX = 5.0
"""Nobody outlines a smaller speck, or a smaller hole."""

Polygon = list[float]
"""x1, y1, x2, y2, ... in photo pixels."""


@dataclass(frozen=True)
class Mark:
    """One outlined thing: its class, and a polygon for each of its visible pieces."""

    kind: str
    polygons: tuple[Polygon, ...]


@dataclass(frozen=True)
class Truth:
    """The scores of one photo, 0..1, where 1 is clean or undamaged, and its outlines."""

    cleanliness: float
    damage: float
    clean: int
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Developed:
    """One file of the data root, and the truth about it."""

    shot: Shot
    path: str
    split: str
    content: bytes
    truth: Truth
    is_copy: bool


def develop_all(shots: list[Shot], *, processes: int | None) -> list[Developed]:
    """All files of `shots`, in their order. `processes` None is one for each processor, up to eight."""
    # Spawned, for a fork of a process with threads can hang; each with one thread of OpenCV.
    workers = processes or min(usable_cores(), 8)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin_process) as pool:
        developed = pool.map(_develop, shots, chunksize=8)
        return [file for files in tqdm(developed, total=len(shots), desc="photos", unit="photo", disable=None) for file in files]


def _begin_process() -> None:
    die_by_ctrl_c()
    cv2.setNumThreads(1)


def _develop(shot: Shot) -> list[Developed]:
    """The photo of `shot` and its copies. A pure function of it."""
    picture = draw_photo(shot.plan)
    content = _encode(picture.pixels, quality=shot.plan.quality, kind=shot.kind, orientation=shot.orientation)
    files = [Developed(shot, shot.path, shot.split, content, tell_truth(picture), is_copy=False)]
    for copy in shot.copies:
        rng = np.random.default_rng(copy.seed)
        altered = _alter(picture, rng)
        content = _encode(altered.pixels, quality=int(rng.integers(76, 93)))
        files.append(Developed(shot, copy.path, copy.split, content, tell_truth(altered), is_copy=True))
    return files


def _alter(picture: Picture, rng: np.random.Generator) -> Picture:
    """A copy as export tools make them: turned, flipped, brighter or grey, with its masks. Turned corners are black."""
    flip, degrees = bool(rng.random() < 0.5), float(rng.choice([-1, 1]) * rng.uniform(2, 9))

    def moved(layer: np.ndarray) -> np.ndarray:
        height, width = layer.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
        turned = cv2.warpAffine(layer, matrix, (width, height), flags=cv2.INTER_LINEAR)
        return np.ascontiguousarray(turned[:, ::-1]) if flip else turned

    pixels = moved(picture.pixels).astype(np.float32) * rng.uniform(0.75, 1.25)
    if rng.random() < 0.1:
        pixels = np.repeat(pixels @ np.array([0.299, 0.587, 0.114], np.float32)[:, None], 3, axis=2)
    marks = ((kind, binary(moved(mask))) for kind, mask in picture.marks)
    seen = tuple((kind, mask) for kind, mask in marks if mask.any())
    return Picture(np.clip(pixels, 0, 255).astype(np.uint8), binary(moved(picture.vehicle)), seen)


def _encode(pixels: np.ndarray, *, quality: int, kind: ImageKind = "JPEG", orientation: int = 1) -> bytes:
    """The file's bytes, as a camera stores them that was held turned: EXIF 2.32, tag 0x0112, orientations 1, 3, 6 and 8."""
    options: dict[str, Any] = {"compress_level": 6} if kind == "PNG" else {"quality": quality}
    if orientation != 1:
        options["exif"] = Image.Exif()
        options["exif"][ExifTags.Base.Orientation] = orientation
        # Orientation 6 asks the viewer to turn by 90 degrees clockwise: stored is the opposite turn.
        pixels = np.ascontiguousarray(np.rot90(pixels, {3: 2, 6: 1, 8: 3}[orientation]))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def tell_truth(picture: Picture) -> Truth:
    """Scores and outlines of `picture`, from its masks."""
    marks = [Mark("vehicle", outline(picture.vehicle))]
    marks += [Mark(kind, outline(mask)) for kind, mask in picture.marks]
    seen = tuple(mark for mark in marks if mark.polygons)
    return Truth(
        cleanliness=_score(picture, _DIRT),
        damage=_score(picture, [kind for kind in SEVERITY if kind not in _DIRT]),
        clean=int(not any(mark.kind in _DIRT for mark in seen)),
        marks=seen,
    )


def _score(picture: Picture, kinds: Sequence[str]) -> float:
    """1 - min(1, sum over `kinds` of severity x sqrt(share of the vehicle that the union of its masks covers))."""
    vehicle = np.count_nonzero(picture.vehicle)
    loss = 0.0
    for kind in kinds:
        masks = [mask for name, mask in picture.marks if name == kind]
        if masks:
            loss += SEVERITY[kind] * float(np.sqrt(np.count_nonzero(np.maximum.reduce(masks)) / vehicle))
    return 1.0 - min(1.0, loss)


def outline(mask: np.ndarray) -> tuple[Polygon, ...]:
    """Polygons that cover what a canvas-sized mask covers, slightly simplified, in photo pixels."""
    contours, _ = cv2.findContours(_without_holes(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for contour in contours:
        # A contour runs through the middles of the outermost pixels.
        corners = (cv2.approxPolyDP(contour, 1.0, True)[:, 0].astype(float) + 0.5) / SUPERSAMPLE
        if len(corners) >= 3 and cv2.contourArea(contour) / SUPERSAMPLE**2 >= _LEAST_AREA_PX:
            polygons.append([round(float(value), 2) for value in corners.ravel()])
    return tuple(sorted(polygons))


def _without_holes(mask: np.ndarray) -> np.ndarray:
    """The mask with a thin slit through each hole: a COCO polygon has none, and dirt around a window is not on the window."""
    mask = mask.copy()
    while True:
        contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        families = [] if hierarchy is None else hierarchy[0][:, 3]
        holes = [(contour, parent) for contour, parent in zip(contours, families, strict=True) if parent >= 0]
        large = [hole for hole in holes if cv2.contourArea(hole[0]) / SUPERSAMPLE**2 >= _LEAST_AREA_PX]
        if not large:
            return mask
        for hole, parent in large:
            left, _, width, _ = cv2.boundingRect(hole)
            _, top, _, height = cv2.boundingRect(contours[parent])
            mask[top : top + height, left + width // 2] = 0
