"""Owns what a drawn picture says about itself: its scores, and the polygons around what can be seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from carinspect.demo.brush import SUPERSAMPLE
from carinspect.demo.photo import Picture
from carinspect.demo.subject import SEVERITY

DIRT_CLASSES = ("dirt", "mud")

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


def tell_truth(picture: Picture) -> Truth:
    """Scores and outlines of `picture`, from its masks."""
    marks = [Mark("vehicle", outline(picture.vehicle))]
    marks += [Mark(kind, outline(mask)) for kind, mask in picture.marks]
    seen = tuple(mark for mark in marks if mark.polygons)
    return Truth(
        cleanliness=score(picture, DIRT_CLASSES),
        damage=score(picture, [kind for kind in SEVERITY if kind not in DIRT_CLASSES]),
        clean=int(not any(mark.kind in DIRT_CLASSES for mark in seen)),
        marks=seen,
    )


def score(picture: Picture, kinds: Sequence[str]) -> float:
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
