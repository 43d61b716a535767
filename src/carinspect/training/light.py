"""Transforms of albumentations' kind for uneven light: a soft shadow across the photo, and a low sun that dazzles the lens.

Albumentations has both: polygons with hard edges, and a sun that whitens all behind it. These leave everything visible, and cost less.
"""

import os
from types import ModuleType
from typing import Any

import numpy as np


def _import_albumentations() -> Any:
    """The library. On import it asks the network for a newer version unless the environment says no, which it does for that moment."""
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
"""Share of the light that the deepest shadow leaves."""
DAZZLE = 0.75
"""Largest share of the way to white that the sun takes a pixel."""


class SoftShadow(_Transform):
    """The shadow of something beside the camera: a band with soft edges. Photos are uint8 (H, W, 3)."""

    def get_params(self) -> dict[str, Any]:
        """Where the band lies, in half sides from the middle, and what light it leaves."""
        draw = self.random_generator.uniform
        return {
            "angle": draw(0, np.pi),
            "centre": draw(-0.8, 0.8),
            "half_width": draw(0.15, 0.6),
            "edge": draw(0.02, 0.15),
            "light": draw(DARKEST, 0.8),
        }

    def apply(self, img: np.ndarray, *, angle: float, centre: float, half_width: float, edge: float, light: float, **_: Any) -> np.ndarray:
        """The photo with the band."""
        rows, columns = _grid(img)
        inside = half_width - np.abs(np.cos(angle) * columns + np.sin(angle) * rows - centre)
        shadow = np.clip(inside / edge + 0.5, 0, 1, dtype=np.float32)
        return (img * (1 - (1 - np.float32(light)) * shadow)[..., None] + 0.5).astype(np.uint8)


class LensFlare(_Transform):
    """The sun in the upper half: a glow, and its faint images on the line through the middle. Photos are uint8 (H, W, 3)."""

    def get_params(self) -> dict[str, Any]:
        """Where the sun stands, in half sides from the middle, its glow's width and its strength."""
        draw = self.random_generator.uniform
        return {"across": draw(-1.1, 1.1), "down": draw(-1.1, -0.2), "width": draw(0.2, 0.5), "strength": draw(0.3, 1.0) * DAZZLE}

    def apply(self, img: np.ndarray, *, across: float, down: float, width: float, strength: float, **_: Any) -> np.ndarray:
        """The photo with the glow, which is screened over it: nothing but the sun itself turns white."""
        rows, columns = _grid(img)
        distance = np.hypot(columns - across, rows - down)
        glow = 0.7 * np.exp(-((distance / width) ** 2)) + 0.3 * np.exp(-distance / width)
        for place, size in ((-0.35, 0.1), (-0.7, 0.16), (0.45, 0.07)):
            glow += 0.1 * np.clip((size - np.hypot(columns - place * across, rows - place * down)) / 0.03, 0, 1)
        share = (np.float32(strength) * np.minimum(glow, 1))[..., None]
        return (img + (np.array((255, 250, 236), np.float32) - img).clip(0) * share + 0.5).astype(np.uint8)


def _grid(img: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns in half sides from the middle."""
    height, width = img.shape[:2]
    return np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
