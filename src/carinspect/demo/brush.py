"""Drawing primitives: antialiased shapes on an oversized canvas, smooth noise, blending.

Legend: canvas = uint8 RGB (H, W, 3); mask = uint8 (H, W), 0..255 is the share of the pixel that is covered;
points = float (N, 2), x right, y down, in pixels.
"""

import cv2
import numpy as np

SUPERSAMPLE = 2
"""Canvas pixels for each photo pixel, in each direction."""

_SUBPIXEL_BITS = 4

Colour = tuple[float, float, float]


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(points) * (1 << _SUBPIXEL_BITS)).astype(np.int32)


def fill(canvas: np.ndarray, points: np.ndarray, colour: Colour | float) -> None:
    """Fill a polygon, in place; `canvas` may be a mask."""
    cv2.fillPoly(canvas, [_fixed(points)], colour, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)


def stroke(canvas: np.ndarray, points: np.ndarray, colour: Colour | float, *, width_px: int, closed: bool = False) -> None:
    """Draw a line through `points`, in place."""
    cv2.polylines(canvas, [_fixed(points)], closed, colour, thickness=max(1, width_px), lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)


def box(canvas: np.ndarray, *, left: float, top: float, right: float, bottom: float, colour: Colour | float) -> None:
    """Fill an upright rectangle, in place."""
    fill(canvas, np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), colour)


def gradient(canvas: np.ndarray, *, top: float, bottom: float, colours: tuple[Colour, Colour]) -> None:
    """Fill the rows from `top` to `bottom` with a vertical gradient, in place."""
    first, last = max(0, int(top)), min(canvas.shape[0], int(np.ceil(bottom)))
    if last <= first:
        return
    t = ((np.arange(first, last) - top) / max(1.0, bottom - top)).clip(0, 1)[:, None]
    rows = np.asarray(colours[0]) * (1 - t) + np.asarray(colours[1]) * t
    # Tiled, not broadcast: NumPy copies rows of pixels faster than single pixels.
    canvas[first:last] = np.tile(np.clip(rows, 0, 255).astype(np.uint8), canvas.shape[1]).reshape(last - first, -1, 3)


def empty_mask(canvas: np.ndarray) -> np.ndarray:
    """A mask of the canvas's height and width that covers nothing."""
    return np.zeros(canvas.shape[:2], np.uint8)


def binary(mask: np.ndarray) -> np.ndarray:
    """A mask of 255 where `mask` covers more than half of the pixel, else 0."""
    return (mask > 127) * np.uint8(255)


def bounds(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest window of rows and columns that holds everything in `mask`; an empty one for an empty mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def blend(canvas: np.ndarray, layer: np.ndarray | Colour, cover: np.ndarray, strength: float = 1.0) -> None:
    """Lay `layer` (float RGB 0..255, or one colour) over `canvas`, in place, where and as much as `cover` says: a mask, or float 0..1."""
    window = bounds(cover)
    alpha = (cover[window] / 255.0 if cover.dtype == np.uint8 else cover[window]) * strength
    over = np.asarray(layer, np.float32)
    if over.ndim == 3:
        over = over[window]
    under = canvas[window].astype(np.float32)
    mixed = under + (over - under) * alpha[..., None].astype(np.float32)
    canvas[window] = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


def noise(rng: np.random.Generator, shape: tuple[int, ...], *, cell_px: tuple[float, float], octaves: int = 3) -> np.ndarray:
    """A smooth random field, float32 (H, W) of `shape`, mean 0.5, most values in 0..1. `cell_px`: x, y size of its coarsest blobs."""
    height, width = shape[:2]
    field = np.zeros((height, width), np.float32)
    weight, total = 1.0, 0.0
    for octave in range(octaves):
        cells = (max(2, round(height * 2**octave / cell_px[1]) + 2), max(2, round(width * 2**octave / cell_px[0]) + 2))
        field += weight * cv2.resize(rng.random(cells, dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        total += weight
        weight *= 0.5
    return np.asarray(0.5 + (field / total - 0.5) * 1.6, np.float32)


def smoothstep(low: float, high: float, values: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, a smooth S between."""
    t = np.clip((values - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def circle(*, centre: tuple[float, float], radius: float, count: int = 40, start: float = 0.0, stop: float = 2 * np.pi) -> np.ndarray:
    """Points of an arc, angles in radians."""
    angles = np.linspace(start, stop, count)
    return np.stack([centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], axis=1)


def scale(colour: Colour, factor: float) -> Colour:
    """A lighter or darker colour, kept within 0..255."""
    red, green, blue = (min(255.0, max(0.0, channel * factor)) for channel in colour)
    return red, green, blue


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`share` of `second` in `first`."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue
