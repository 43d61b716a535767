"""What the search for near-duplicates reads of a photo: a small grey picture, its layout and the layout's hashes.

The layout is *local contrast*, (grey - local mean) / local deviation: brightness, tone curves, grey conversions and the equalisation that
exports apply leave it nearly unchanged, and a plain wall is zero in it, so that the wall behind two cars says nothing.

Shapes: N photos; S = `SIDE_PX`; L = `LAYOUT_PX`; V = len(`VARIANTS`).
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from scipy.fft import dctn

from carinspect.core.errors import UserError
from carinspect.images import decode
from carinspect.images.decode import decode_photo
from carinspect.images.memory import Memory
from carinspect.images.reading import read_photos

SIDE_PX = 96
"""Of the grey picture. Finer detail does not survive the re-encoding that a copy has been through."""

LAYOUT_PX = 32

COARSE_PX = 12.0
"""Sigma of the neighbourhood that the layout's contrast is relative to: an eighth of the side."""

_EDGE_PX = 128  # side of the picture in which uniform edges are sought
_STRAY, _LEAST_STRAY = 0.05, 3.0  # of the photo's contrast, and in grey levels: so far a compressed edge strays from its colour
_STRAY_PART = 0.02  # of a row; stray pixels in an edge, as compression leaves them
_LEAST_CONTENT = 0.3  # of each side; what would be cut to less shows one thing before a plain wall

_NOISE = 4.0  # grey levels; what varies less than this is taken for a plain surface
_FILL = 10  # grey levels; copies that were turned have their corners filled with black
_LARGEST_FILL = 0.4  # of the photo; more than this is a night, not a filled corner


class Variant(NamedTuple):
    """One way to hold a photo against another, upright one."""

    turn_degrees: int
    window: float  # share of each side that is kept
    across: float  # where the window lies: 0 left .. 1 right
    down: float  # 0 top .. 1 bottom
    mirrored: bool
    quarters: int  # turns by 90 degrees


# A hash still matches a turn of about 4 degrees and a window of about 92 %; these reach turns of 14 degrees and windows of 75 %.
_VIEWS = (
    (0, 1.0, 0.5, 0.5), (8, 1.0, 0.5, 0.5), (-8, 1.0, 0.5, 0.5), (0, 0.87, 0.5, 0.5),
    (11, 1.0, 0.5, 0.5), (-11, 1.0, 0.5, 0.5), (0, 0.8, 0.5, 0.5),
    (0, 0.92, 0.0, 0.0), (0, 0.92, 1.0, 0.0), (0, 0.92, 0.0, 1.0), (0, 0.92, 1.0, 1.0),
)  # fmt: skip

VARIANTS = tuple(Variant(*view, mirrored, quarters) for view, mirrored, quarters in product(_VIEWS, (False, True), range(4)))
"""The first is the upright photo as it is."""


class Fingerprints(NamedTuple):
    """Of N photos: `thumbnails` uint8 (N, S, S); `layouts` float16 (N, L, L); `hashes` uint64 (N, V), those of the upright photo first."""

    thumbnails: np.ndarray
    layouts: np.ndarray
    hashes: np.ndarray


FINGERPRINT = np.dtype([
    ("thumbnail", np.uint8, (SIDE_PX, SIDE_PX)),
    ("layout", np.float16, (LAYOUT_PX, LAYOUT_PX)),
    ("hashes", np.uint64, (len(VARIANTS),)),
])  # fmt: skip


def read_fingerprints(paths: Sequence[Path]) -> Fingerprints:
    """Read each photo once, or recall what was read. Raises `UserError` that names a photo which cannot be read."""
    memory = Memory("fingerprints", FINGERPRINT, code=[__file__, *decode.CODE], libraries=LIBRARIES)
    found = read_photos(paths, memory, fingerprint_photo)
    for path, problem in zip(paths, found.problems, strict=True):
        if problem:
            raise UserError(f"{path}: {problem}. The annotations know it as sound: restore it, or run dvc repro.")
    return Fingerprints(found.records["thumbnail"], found.records["layout"], np.ascontiguousarray(found.records["hashes"]))


LIBRARIES = (*decode.LIBRARIES, "opencv-python-headless", "scipy")
"""What a fingerprint may depend on besides the code."""


def fingerprint_photo(content: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The thumbnail, layout and hashes of one photo's file. Raises `PhotoError`."""
    return fingerprint_thumbnail(make_thumbnail(decode_photo(content, at_least_px=2 * SIDE_PX)))


def make_thumbnail(photo: Image.Image) -> np.ndarray:
    """The grey picture, uint8 (S, S), of what a photo shows inside its uniform edges."""
    box = find_content(np.asarray(photo.convert("RGB").resize((_EDGE_PX, _EDGE_PX), Image.Resampling.BOX)))
    scale_x, scale_y = photo.width / _EDGE_PX, photo.height / _EDGE_PX
    left, top, right, bottom = box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y
    return np.asarray(photo.convert("L").resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR, box=(left, top, right, bottom)))


def find_content(picture: np.ndarray) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what is left of an RGB picture, uint8 (E, E, 3), without its borders and bars of one colour.

    Borders and bars come in pairs of one width: a plain wall or sky on one side is content. A plain picture, and one of which hardly
    anything would be left, stays whole.
    """
    side, contrast = len(picture), float(np.ptp(np.percentile(picture, (2, 98))))
    # In a darkened copy everything strays less: the same edges must go.
    stray, least = max(_LEAST_STRAY, _STRAY * contrast), _LEAST_CONTENT * side
    top, bottom = _trim(picture, stray)
    left, right = _trim(picture[top:bottom].swapaxes(0, 1), stray) if bottom - top >= least else (0, 0)
    return (left, top, right, bottom) if right - left >= least else (0, 0, side, side)


def _trim(picture: np.ndarray, stray: float) -> tuple[int, int]:
    """The first row of the content and the one after its last row; as many rows are cut on either side."""
    edges = []
    for rows in (picture, picture[::-1]):
        colour = np.median(rows[0], axis=0)
        differing = np.abs(rows.astype(np.int16) - colour.astype(np.int16)).max(axis=2) > stray
        plain = differing.mean(axis=1) <= _STRAY_PART
        edges.append(len(rows) if plain.all() else int(plain.argmin()))
    width = min(edges)
    cut = width + 1 if width else 0  # the row at the edge is half border
    return cut, max(cut, len(picture) - cut)


def fingerprint_thumbnail(thumbnail: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The grey picture, uint8 (S, S), itself, its layout and its hashes."""
    layout = _layout(thumbnail).astype(np.float16)
    return thumbnail, layout, hash_variants(layout)


def _layout(thumbnail: np.ndarray) -> np.ndarray:
    contrast = local_contrast(thumbnail, content_mask(thumbnail), sigma_px=COARSE_PX)
    return cv2.resize(contrast, (LAYOUT_PX, LAYOUT_PX), interpolation=cv2.INTER_AREA)


def hash_variants(layout: np.ndarray) -> np.ndarray:
    pictures = np.stack([hold_picture(layout.astype(np.float32), variant) for variant in VARIANTS])
    # As imagehash.phash has it: the lowest 8 x 8 cosines, each above or below their median.
    cosines = dctn(pictures, axes=(1, 2))[:, :8, :8].reshape(len(VARIANTS), 64)
    bits = cosines > np.median(cosines, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def content_mask(thumbnail: np.ndarray) -> np.ndarray:
    """True where a grey picture, uint8 (S, S), shows the scene; False in black corners and bars, whose edges are no content."""
    dark = (thumbnail <= _FILL).astype(np.uint8)
    regions = cv2.connectedComponents(dark, connectivity=4)[1]
    filled = np.isin(regions, [regions[y, x] for y in (0, -1) for x in (0, -1) if dark[y, x]])
    if filled.mean() > _LARGEST_FILL:
        return np.ones_like(filled)
    return ~cv2.dilate(filled.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


def local_contrast(thumbnail: np.ndarray, mask: np.ndarray, *, sigma_px: float) -> np.ndarray:
    """(grey - mean) / deviation over a Gaussian neighbourhood of the content, float32 (S, S); 0 outside `mask`."""
    grey, weight = thumbnail.astype(np.float32), mask.astype(np.float32)
    nearby = _blur(weight, sigma_px) + 1e-3
    difference = (grey - _blur(grey * weight, sigma_px) / nearby) * weight
    deviation = np.sqrt(_blur(difference * difference, sigma_px) / nearby)
    return difference / (deviation + _NOISE)


def _blur(picture: np.ndarray, sigma_px: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT)


def hold_picture(picture: np.ndarray, variant: Variant, *, border: int = cv2.BORDER_REFLECT) -> np.ndarray:
    """The square `picture`, uint8 or float32, held as `variant` says; `border` fills what a turn brings in from outside."""
    side = picture.shape[0]
    if variant.turn_degrees or variant.window < 1:
        middle = (side - 1) / 2
        matrix = cv2.getRotationMatrix2D((middle, middle), variant.turn_degrees, 1 / variant.window)
        # The rotation keeps the middle in place: slide the window from there to where it lies.
        free_px = side * (1 / variant.window - 1)
        matrix[:, 2] += [free_px * (0.5 - variant.across), free_px * (0.5 - variant.down)]
        picture = cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=border)
    return np.ascontiguousarray(np.rot90(picture[:, ::-1] if variant.mirrored else picture, variant.quarters))
