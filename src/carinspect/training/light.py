"""Two transforms for albumentations: a soft shadow across the photo, and lens flare from a low sun.

Albumentations' own shadow has hard edges, and its sun hides what is behind it. These two keep everything visible, and are faster.
"""

import os
from types import ModuleType
from typing import Any

import numpy as np


def _import_albumentations() -> Any:
    """Import albumentations without its online check for a newer version; the environment variable is restored afterwards."""
    before = os.environ.get("NO_ALBUMENTATIONS_UPDATE")
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        import albumentations
    finally:
        if before is None:
            del os.environ["NO_ALBUMENTATIONS_UPDATE"]
        else:
            os.environ["NO_ALBUMENTATIONS_UPDATE"] = before
    library: ModuleType = albumentations
    return library


A: Any = _import_albumentations()
_Transform: Any = A.ImageOnlyTransform

DARKEST = 0.45
"""Share of the light that is left in the darkest shadow."""
DAZZLE = 0.75
"""Largest share by which the glow moves a pixel towards white."""


class SoftShadow(_Transform):
    """A shadow of an object outside the photo: a dark band with soft edges. Photos are uint8 (H, W, 3)."""

    def get_params(self) -> dict[str, Any]:
        """Draw the place of the band, in half sides from the middle, and the share of light that is left in it."""
        draw = self.random_generator.uniform
        return {
            "angle": draw(0, np.pi),
            "centre": draw(-0.8, 0.8),
            "half_width": draw(0.15, 0.6),
            "edge": draw(0.02, 0.15),
            "light": draw(DARKEST, 0.8),
        }

    def apply(self, img: np.ndarray, *, angle: float, centre: float, half_width: float, edge: float, light: float, **_: Any) -> np.ndarray:
        """Darken the band."""
        rows, columns = _grid(img)
        inside = half_width - np.abs(np.cos(angle) * columns + np.sin(angle) * rows - centre)
        shadow = np.clip(inside / edge + 0.5, 0, 1, dtype=np.float32)
        return (img * (1 - (1 - np.float32(light)) * shadow)[..., None] + 0.5).astype(np.uint8)


class LensFlare(_Transform):
    """The sun in the upper half: a glow, and faint reflections on the line from it through the middle. Photos are uint8 (H, W, 3)."""

    def get_params(self) -> dict[str, Any]:
        """Draw the place of the sun, in half sides from the middle, and the width and strength of its glow."""
        draw = self.random_generator.uniform
        return {"across": draw(-1.1, 1.1), "down": draw(-1.1, -0.2), "width": draw(0.2, 0.5), "strength": draw(0.3, 1.0) * DAZZLE}

    def apply(self, img: np.ndarray, *, across: float, down: float, width: float, strength: float, **_: Any) -> np.ndarray:
        """Add the glow, blended towards white by at most `DAZZLE`."""
        rows, columns = _grid(img)
        distance = np.hypot(columns - across, rows - down)
        glow = 0.7 * np.exp(-((distance / width) ** 2)) + 0.3 * np.exp(-distance / width)
        for place, size in ((-0.35, 0.1), (-0.7, 0.16), (0.45, 0.07)):
            glow += 0.1 * np.clip((size - np.hypot(columns - place * across, rows - place * down)) / 0.03, 0, 1)
        share = (np.float32(strength) * np.minimum(glow, 1))[..., None]
        return (img + (np.array((255, 250, 236), np.float32) - img).clip(0) * share + 0.5).astype(np.uint8)


def _grid(img: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of rows and columns, in half sides from the middle."""
    height, width = img.shape[:2]
    return np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
