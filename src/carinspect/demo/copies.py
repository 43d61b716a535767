"""Owns the augmented copies that an export tool makes of a photo: turned, flipped, brighter or grey, with its masks."""

import cv2
import numpy as np

from carinspect.demo.brush import SUPERSAMPLE
from carinspect.demo.photo import Picture


def draw_copy(picture: Picture, rng: np.random.Generator) -> Picture:
    """An augmented copy of `picture`, never equal to it; turned corners are black, as exports have them."""
    height, width = picture.pixels.shape[:2]
    flip, degrees = bool(rng.random() < 0.5), float(rng.choice([-1, 1]) * rng.uniform(2, 9))

    def moved(layer: np.ndarray, scale: int) -> np.ndarray:
        matrix = cv2.getRotationMatrix2D((width * scale / 2, height * scale / 2), degrees, 1.0)
        turned = cv2.warpAffine(layer, matrix, (width * scale, height * scale), flags=cv2.INTER_LINEAR)
        return np.ascontiguousarray(turned[:, ::-1]) if flip else turned

    def moved_mask(mask: np.ndarray) -> np.ndarray:
        return np.where(moved(mask, SUPERSAMPLE) > 127, 255, 0).astype(np.uint8)

    pixels = moved(picture.pixels, 1).astype(np.float32) * rng.uniform(0.75, 1.25)
    if rng.random() < 0.1:
        pixels = np.repeat(pixels @ np.array([0.299, 0.587, 0.114], np.float32)[:, None], 3, axis=2)
    marks = tuple((kind, moved_mask(mask)) for kind, mask in picture.marks)
    return Picture(np.clip(pixels, 0, 255).astype(np.uint8), moved_mask(picture.vehicle), tuple((k, m) for k, m in marks if m.any()))
