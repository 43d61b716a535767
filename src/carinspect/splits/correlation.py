"""Compares the fine detail of two photos, laid over each other, place by place.

A hash compares layouts, and two cars in one pose, in one studio or one fog, share a layout and an outline. Detail all over they do not
share. So the detail is compared in tiles, and what counts is not the average but what nine tenths of the detail reach: in copies, however
turned, cropped, equalised or re-encoded, 0.5 to 1; in different photos of the same layout, real and drawn, up to 0.41.

A watermark, noise and hard compression spoil more than a tenth. Such a copy still shares most of its detail, or its whole layout.
"""

from typing import NamedTuple

import cv2
import numpy as np

from carinspect.splits.fingerprints import COARSE_PX, Variant, content_mask, hold_picture, local_contrast

FINE_PX = 3.0
"""Sigma of the neighbourhood that the fine contrast is relative to: a thirtieth of the side."""

_TILE_PX = 16
_TOLERATED_PART = 0.1  # of the detail; so much may differ, for copies bear small logos and other borders

# Of real cars in one showroom the layouts correlate up to 0.84; of foggy drawn ones up to 0.85, with 0.60 in half of the detail.
_SAME_LAYOUT, _DETAIL_OF_SAME_LAYOUT = 0.85, 0.65

_STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-4)
_SMOOTH_PX = 5  # of the alignment's own filter
_LEAST_OVERLAP = 0.4  # of the picture; less shows too little to judge by
_MOST_STRETCH = 1.5  # along either axis; more maps one picture onto a scrap of the other


def correlate_layouts(first: np.ndarray, second: np.ndarray, *, variant: Variant) -> float:
    """Correlation, -1..1, of two layouts, (L, L), the first held as `variant`; unaligned, and fifty times cheaper than the detail's."""
    return _correlate(hold_picture(first.astype(np.float32), variant).ravel(), second.astype(np.float32).ravel())


class Detail(NamedTuple):
    """How alike two aligned pictures are; correlations are -1..1."""

    most: float
    """What nine tenths of the fine detail reach."""
    half: float
    """What half of it reaches."""

    def shows_same(self, *, layout: float, least: float) -> bool:
        """Whether the two are one picture. layout: `correlate_layouts` of the pair; least: what nine tenths of the detail must reach."""
        same_layout = layout >= _SAME_LAYOUT and self.half >= _DETAIL_OF_SAME_LAYOUT
        return self.most >= least or same_layout


_NOTHING = Detail(0.0, 0.0)


def correlate_detail(first: np.ndarray, second: np.ndarray, *, variant: Variant) -> Detail:
    """How alike two grey pictures, uint8 (S, S), are once they are aligned.

    `first` is held as `variant` and then moved by the affine map that maximises the enhanced correlation coefficient of the coarse
    contrast (Evangelidis and Psarakis, PAMI 2008). All zero when there is no plausible map.
    """
    # Black, as the corners of an export's own turned copies: the content mask leaves it out.
    held = hold_picture(first, variant, border=cv2.BORDER_CONSTANT)
    held_mask, second_mask = content_mask(held), content_mask(second)
    held_coarse = local_contrast(held, held_mask, sigma_px=COARSE_PX)
    second_coarse = local_contrast(second, second_mask, sigma_px=COARSE_PX)
    matrix = _align(held_coarse, second_coarse)
    if matrix is None:
        return _NOTHING
    overlap = second_mask & (_move(held_mask.astype(np.float32), matrix) > 0.99)
    if overlap.mean() < _LEAST_OVERLAP:
        return _NOTHING
    moved = _move(local_contrast(held, held_mask, sigma_px=FINE_PX), matrix)
    return Detail(*_correlate_tiles(moved * overlap, local_contrast(second, second_mask, sigma_px=FINE_PX) * overlap))


def _correlate_tiles(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The `_TOLERATED_PART` quantile and the median of the tiles' correlations, weighed by the detail in either picture."""
    first, second = _cut_tiles(first), _cut_tiles(second)
    first_energy, second_energy = (first * first).sum(axis=1), (second * second).sum(axis=1)
    weights = np.maximum(first_energy, second_energy)
    # The contrast is relative to its neighbourhood: its mean in a tile is near zero already.
    correlations = (first * second).sum(axis=1) / np.sqrt(first_energy * second_energy + 1e-9)
    order = np.argsort(correlations, kind="stable")
    reached = np.cumsum(weights[order])
    most, half = (float(correlations[order][np.searchsorted(reached, part * reached[-1])]) for part in (_TOLERATED_PART, 0.5))
    return most, half


def _cut_tiles(picture: np.ndarray) -> np.ndarray:
    """(tiles, pixels of a tile)."""
    tiles = picture.shape[0] // _TILE_PX
    return picture.reshape(tiles, _TILE_PX, tiles, _TILE_PX).swapaxes(1, 2).reshape(tiles * tiles, -1)


def _align(held: np.ndarray, second: np.ndarray) -> np.ndarray | None:
    """The affine map, (2, 3), from places in `second` to places in `held`, or None."""
    try:
        everywhere, still = np.ones(held.shape, dtype=np.uint8), np.eye(2, 3, dtype=np.float32)
        matrix = np.asarray(cv2.findTransformECC(second, held, still, cv2.MOTION_AFFINE, _STEPS, everywhere, _SMOOTH_PX)[1])
    except cv2.error:  # its word for "did not converge", and for a picture without any contrast
        return None
    if not np.isfinite(matrix).all():
        return None
    stretches = np.linalg.svd(matrix[:, :2], compute_uv=False)
    return matrix if stretches.min() > 1 / _MOST_STRETCH and stretches.max() < _MOST_STRETCH else None


def _move(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(picture, matrix, picture.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _correlate(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    energy = float(np.sqrt(np.dot(first, first)) * np.sqrt(np.dot(second, second)))
    return float(np.dot(first, second)) / energy if energy > 0 else 0.0
