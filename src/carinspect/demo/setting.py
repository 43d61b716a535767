"""Owns what all places share: camera, sky, the ground, and the car's shadow on it."""

from dataclasses import dataclass

import cv2
import numpy as np

from carinspect.demo.brush import Colour, blend, empty_mask, fill, gradient, mix, noise, scale
from carinspect.demo.camera import Camera


@dataclass(frozen=True)
class Setting:
    """What a place needs to know to be drawn."""

    camera: Camera
    sky: tuple[Colour, Colour]
    """Colour overhead and at the horizon."""
    snow: bool
    wet: bool

    def scale_at(self, depth_m: float) -> float:
        """Canvas pixels for a metre at this depth."""
        return self.camera.focal_px / depth_m

    def ground_row(self, depth_m: float) -> float:
        """The canvas row of the ground at this depth."""
        return self.camera.horizon_px + self.camera.height_m * self.scale_at(depth_m)


def draw_ground(canvas: np.ndarray, setting: Setting, rng: np.random.Generator, *, top: float, colour: Colour, grain: float) -> None:
    """Ground from the row `top` down, coarser towards the camera; white under snow, darker when wet."""
    if setting.snow:
        colour, grain = (226, 231, 238), 16.0
    elif setting.wet:
        colour = scale(colour, 0.62)
    gradient(canvas, top=top, bottom=canvas.shape[0], colours=(mix(colour, setting.sky[1], 0.15), scale(colour, 0.95)))
    first = max(0, int(top))
    rows = canvas.shape[0] - first
    if rows < 4:
        return
    texture = (
        noise(rng, (rows, canvas.shape[1]), cell_px=(120, 20), octaves=4)
        + 0.5 * rng.random((rows, canvas.shape[1]), dtype=np.float32)
        - 0.25
    )
    shifted = canvas[first:].astype(np.float32) + grain * 2.2 * (texture[..., None] - 0.5)
    canvas[first:] = np.clip(shifted, 0, 255).astype(np.uint8)


def draw_shadow(canvas: np.ndarray, camera: Camera, *, half_length_m: float, half_width_m: float, drift_m: float, depth: float) -> None:
    """The car's shadow on the ground, in place. `drift_m` is how far a low sun pushes it; `depth` 0..1 is how dark it is."""
    angles = np.linspace(0, 2 * np.pi, 48)
    corner = (np.abs(np.cos(angles)) ** 4 + np.abs(np.sin(angles)) ** 4) ** -0.25
    x = corner * np.cos(angles) * (half_length_m + 0.05) + drift_m
    y = corner * np.sin(angles) * (half_width_m + 0.1) + abs(drift_m)
    shape = camera.project(np.stack([x, y, np.zeros_like(x)], axis=1))
    mask = empty_mask(canvas)
    fill(mask, shape, 255)
    soft = cv2.GaussianBlur(mask, (0, 0), 4)
    blend(canvas, (12, 13, 16), soft / 255.0 * depth)
