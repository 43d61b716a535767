"""Turns COCO outlines (polygons, run lengths, boxes) into masks. An export's own `area`, often its box's, is never read.

pycocotools sees checked values only: in it an empty list raises IndexError, a far coordinate crashes the process, a NaN takes all memory,
lengths that do not fill the image make a union run for ever, and a broken compressed text is read past its end.
Format: https://cocodataset.org/#format-data.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

_FAR_PX = 1e9
"""A coordinate beyond this is an error of the export, not an outline that reaches out of the photo."""

_TOLERATED_PX = 1.0
"""How far an outline may reach out of the photo, by rounding, before it counts as clipped."""


class MalformedError(ValueError):
    """An outline that is none."""


Scale = tuple[float, float] | None
"""What x and y are multiplied by to be pixels; None: they are."""


@dataclass(frozen=True)
class Outline:
    """The mask of one annotation within its image."""

    mask: dict[str, Any] | None
    """Run lengths of pycocotools; None: neither its outline nor its box covers anything (degenerate)."""
    kind: Literal["polygon", "rle", "box", "degenerate"]
    malformed: bool = False
    """A part of the outline was unusable; the rest, or the box, stands in for it."""
    clipped: bool = False
    """It reached out of the image."""


def read_outline(segmentation: Any, box: Any, *, width_px: int, height_px: int, in_shares: bool = False) -> Outline:
    """The mask of one annotation; its box where the outline is empty, malformed or covers no pixel.

    segmentation: a list of polygons [x0, y0, x1, y1, ...], run lengths {size, counts} (a list, or COCO's compressed text), or nothing.
    box: [x, y, width, height]. in_shares: whether polygons and box are in shares of the photo's sides instead of pixels.
    """
    malformed = clipped = False
    scale = (float(width_px), float(height_px)) if in_shares else None
    masks: list[dict[str, Any]] = []
    if isinstance(segmentation, dict):
        try:
            masks.append(read_run_lengths(segmentation, width_px=width_px, height_px=height_px))
        except MalformedError:
            malformed = True
    else:
        for polygon in segmentation if isinstance(segmentation, list) else ():
            try:
                mask, reaches_out = _polygon(polygon, width_px, height_px, scale)
            except MalformedError:
                malformed = True
                continue
            clipped |= reaches_out
            if mask is not None:
                masks.append(mask)
        malformed |= segmentation is not None and not isinstance(segmentation, list)
    if union_area(masks) > 0:
        return Outline(coco_mask.merge(masks), "rle" if isinstance(segmentation, dict) else "polygon", malformed, clipped)
    try:
        mask, reaches_out = _box(box, width_px, height_px, scale)
    except MalformedError:
        return Outline(None, "degenerate", True, clipped)
    return Outline(mask, "degenerate" if mask is None else "box", malformed, clipped or reaches_out)


def union_area(masks: Iterable[dict[str, Any]]) -> int:
    """Pixels that at least one mask covers."""
    masks = list(masks)
    return int(coco_mask.area(coco_mask.merge(masks))) if masks else 0


def _polygon(polygon: Any, width_px: int, height_px: int, scale: Scale) -> tuple[dict[str, Any] | None, bool]:
    points = _numbers(polygon)
    if points.size < 6 or points.size % 2:
        raise MalformedError
    points = _in_pixels(points.reshape(-1, 2), scale)
    limits = np.array([width_px, height_px], dtype=np.float64)
    reaches_out = bool((points < -_TOLERATED_PX).any() or (points > limits + _TOLERATED_PX).any())
    for axis in (0, 1):
        points = _clip_half_plane(points, axis=axis, bound=0.0, keep_above=True)
        points = _clip_half_plane(points, axis=axis, bound=limits[axis], keep_above=False)
    if len(points) < 3:
        return None, reaches_out
    return coco_mask.frPyObjects([points.ravel().tolist()], height_px, width_px)[0], reaches_out


def _clip_half_plane(points: np.ndarray, *, axis: int, bound: float, keep_above: bool) -> np.ndarray:
    """The polygon's part on one side of an axis-parallel line (Sutherland and Hodgman, 1974). points: float (n, 2)."""
    inside = points[:, axis] >= bound if keep_above else points[:, axis] <= bound
    if inside.all():
        return points
    kept = []
    for index, point in enumerate(points):
        before = points[index - 1]
        if inside[index] != inside[index - 1]:
            crossing = before + (bound - before[axis]) / (point[axis] - before[axis]) * (point - before)
            crossing[axis] = bound
            kept.append(crossing)
        if inside[index]:
            kept.append(point)
    return np.array(kept).reshape(-1, 2)


def _box(box: Any, width_px: int, height_px: int, scale: Scale) -> tuple[dict[str, Any] | None, bool]:
    numbers = _numbers(box)
    if numbers.size != 4:
        raise MalformedError
    starts, ends = _in_pixels(np.stack([numbers[:2], numbers[:2] + numbers[2:]]), scale)
    if (ends <= starts).any():
        return None, False
    limits = np.array([width_px, height_px], dtype=np.float64)
    reaches_out = bool((starts < -_TOLERATED_PX).any() or (ends > limits + _TOLERATED_PX).any())
    low, high = np.round(starts), np.round(ends)
    # A box thinner than a pixel still covers the pixels that it touches.
    thin = low == high
    low, high = np.where(thin, np.floor(starts), low), np.where(thin, np.ceil(ends), high)
    low, high = np.clip(low, 0, limits), np.clip(high, 0, limits)
    if (high <= low).any():
        return None, reaches_out
    return coco_mask.frPyObjects(np.array([[*low, *(high - low)]]), height_px, width_px)[0], reaches_out


def _in_pixels(points: np.ndarray, scale: Scale) -> np.ndarray:
    """Points, float (n, 2), in pixels. Raises `MalformedError` for an outline within the first pixel: it is in shares, or no outline."""
    if scale is not None:
        return points * scale
    if ((points >= 0) & (points <= 1)).all() and (points % 1 != 0).any():
        raise MalformedError
    return points


def _numbers(values: Any) -> np.ndarray:
    try:
        numbers = np.asarray(values)
    except ValueError:
        raise MalformedError from None
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf" or not (np.abs(numbers.astype(np.float64)) <= _FAR_PX).all():
        raise MalformedError
    return numbers.astype(np.float64)


def read_run_lengths(segmentation: dict[str, Any], *, width_px: int, height_px: int) -> dict[str, Any]:
    """A mask of pycocotools from `{size: [height, width], counts: list or compressed text}`. Raises `MalformedError`."""
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = decompress(counts)
    if segmentation.get("size") != [height_px, width_px] or not isinstance(counts, list):
        raise MalformedError
    if any(type(count) is not int or count < 0 for count in counts) or sum(counts) != height_px * width_px:
        raise MalformedError
    return coco_mask.frPyObjects({"size": [height_px, width_px], "counts": counts}, height_px, width_px)


def decompress(text: str) -> list[int]:
    """The counts of COCO's compressed text: 5 bits a character from '0' on, low bits first; the sixth bit says that more follow.

    From the fourth count on, the text holds the difference to the count before the last (`rleFrString` in cocoapi's common/maskApi.c).
    Raises `MalformedError`.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            raise MalformedError
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise MalformedError
    return counts
