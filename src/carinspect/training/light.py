"""Owns light that falls unevenly: a soft shadow across the photo, and a low sun that dazzles the lens.

Albumentations has both: polygons with hard edges, and a sun that whitens all behind it. These leave everything visible, and cost less.
"""

from typing import Any

import albumentations as A  # noqa: N812
import numpy as np

DARKEST = 0.45
"""Share of the light that the deepest shadow leaves."""
DAZZLE = 0.75
"""Largest share of the way to white that the sun takes a pixel."""


class SoftShadow(A.ImageOnlyTransform):
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


class LensFlare(A.ImageOnlyTransform):
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
