"""Turns maps, which say for each cell of a photo how probably it is marked, into marks: outlined places in photo pixels. No torch.

One mark is one connected region of cells that reach the cut. Evaluation and the proof count the same regions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from carinspect.inference.rules import MarkRule

_EIGHT_NEIGHBOURS = np.ones((3, 3), int)


@dataclass(frozen=True, slots=True)
class Mark:
    """One marked place of a photo."""

    question: str
    kind: Annotated[str, Field(description="What is marked: damage or dirt.")]
    polygon: Annotated[
        list[list[int]],
        Field(description="Corners [x, y] of its outline, in pixels of the upright photo from the upper left corner. A hole is inside it."),
    ]
    box: Annotated[list[int], Field(description="[x, y, width, height] of the outline, in pixels.")]
    share: Annotated[float, Field(description="Its share of the photo's area, 0..1, without holes.")]
    strength: Annotated[float, Field(description="The highest probability in it, 0..1.")]
    proved: Annotated[bool, Field(description="Whether it is proved how many of such marks are right.")]


def find_regions(map_hw: np.ndarray, cut: float) -> npt.NDArray[np.int32]:
    """Number of the region that each cell belongs to, shape (h, w): 1, 2, … by their first cell, row by row; 0: below the cut.

    map_hw: probabilities 0..1. Cells that reach `cut` and touch, at a corner too, are of one region.
    """
    regions, _ = ndimage.label(map_hw >= cut, structure=_EIGHT_NEIGHBOURS, output=np.int32)
    return regions


def find_marks(map_hw: np.ndarray, rule: MarkRule, *, width_px: int, height_px: int) -> list[Mark]:
    """The marks of an upright photo, strongest first. map_hw: probabilities (h, w) of cells that together cover all of the photo.

    Corners are rounded to whole pixels. A region without a pixel, in a photo smaller than its map, is no mark.
    """
    regions = find_regions(map_hw, rule.cut)
    scale_xy = np.array([width_px / map_hw.shape[1], height_px / map_hw.shape[0]])
    marks = []
    for number, around in enumerate(ndimage.find_objects(regions), start=1):
        region = regions[around] == number
        if map_hw[around][region].max() < rule.least_strength:
            continue
        corners = _trace(region) + np.array([around[1].start, around[0].start])
        polygon = np.floor(corners * scale_xy + 0.5).astype(int)
        if outlined_area(polygon) == 0:
            continue
        low, high = polygon.min(axis=0), polygon.max(axis=0)
        marks.append(Mark(
            question=rule.question,
            kind=rule.kind,
            polygon=_without_repeats(polygon).tolist(),
            box=[*low.tolist(), *(high - low).tolist()],
            share=round(float(region.sum() / map_hw.size), 6),
            strength=round(float(map_hw[around][region].max()), 6),
            proved=rule.promise is not None,
        ))  # fmt: skip
    return sorted(marks, key=lambda mark: -mark.strength)


@dataclass(frozen=True, slots=True)
class PhotoMarks:
    """All marks of one photo."""

    marks: list[Mark]
    """By question, the strongest first."""
    without_pixel: int
    """Regions that are no marks, since the photo is so small that they hold no pixel."""


def find_all_marks(maps: Mapping[str, np.ndarray], rules: Mapping[str, MarkRule], *, width_px: int, height_px: int) -> PhotoMarks:
    """The marks of an upright photo of all questions; maps: by question, each (h, w); rules: of the same questions or more."""
    marks: list[Mark] = []
    without_pixel = 0
    for name, map_hw in maps.items():
        found = find_marks(map_hw, rules[name], width_px=width_px, height_px=height_px)
        rows, columns = map_hw.shape
        if width_px < columns or height_px < rows:
            # With a pixel for each cell none is lost.
            without_pixel += len(find_marks(map_hw, rules[name], width_px=columns, height_px=rows)) - len(found)
        marks += found
    return PhotoMarks(marks, without_pixel)


def outlined_area(polygon: npt.ArrayLike) -> float:
    """Area in px² inside a polygon of [x, y] corners that does not cross itself."""
    return float(cv2.contourArea(np.asarray(polygon, np.float32)))


def _trace(region: npt.NDArray[np.bool_]) -> npt.NDArray[np.int_]:
    """The outer outline of a region's cells, clockwise: the corners (K, 2) at which it turns, as x and y in cells.

    It walks along the cells' sides with the region at its right hand, from the first cell's upper side. Where two cells touch at a corner
    only it goes on to the other one, and so comes twice through that corner.
    """
    cells = np.pad(region, 1)
    x, y, dx, dy = int(region[0].argmax()), 0, 1, 0
    start = x, y
    corners = [start]
    while True:
        x, y = x + dx, y + dy
        # The cells ahead at either hand. The cell right of and below the lattice point (x, y) is cells[y + 1, x + 1].
        left = cells[y + (dy - dx > 0), x + (dx + dy > 0)]
        right = cells[y + (dy + dx > 0), x + (dx - dy > 0)]
        if not left and right:
            continue
        if (x, y) == start:
            return np.array(corners)
        corners.append((x, y))
        dx, dy = (dy, -dx) if left else (-dy, dx)


def _without_repeats(polygon: npt.NDArray[np.int_]) -> npt.NDArray[np.int_]:
    """Without corners that rounding put onto the one before them."""
    return polygon[(polygon != np.roll(polygon, 1, axis=0)).any(axis=1)]
