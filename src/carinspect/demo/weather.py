"""Owns the weather in a finished picture: haze, rain, flakes; on the canvas before: wet ground and snow on the car."""

from typing import Literal

import cv2
import numpy as np

from carinspect.demo.brush import Colour, blend, empty_mask, noise, smoothstep, stroke
from carinspect.demo.camera import Camera
from carinspect.demo.vehicle import Car, Parts

Weather = Literal["clear", "rain", "fog", "snow", "sand"]

OUTDOORS: tuple[Weather, ...] = ("clear", "rain", "fog", "snow")
"""What the project asks about; blown sand is there to be ignored."""


def draw_wet_ground(canvas: np.ndarray, camera: Camera, rng: np.random.Generator) -> None:
    """Mirror the scene in the ground in front of the car, in place."""
    line = int(camera.horizon_px + camera.focal_px * camera.height_m / (camera.distance_m - 0.9))
    rows = min(canvas.shape[0] - line, line)
    if rows < 4:
        return
    mirrored = cv2.GaussianBlur(canvas[line - rows : line][::-1], (0, 0), sigmaX=3, sigmaY=9)
    puddles = noise(rng, (rows, canvas.shape[1]), cell_px=(190, 26), octaves=2)
    alpha = np.zeros(canvas.shape[:2], np.float32)
    alpha[line : line + rows] = 0.35 + 0.4 * smoothstep(0.35, 0.7, puddles)
    layer = np.zeros(canvas.shape, np.float32)
    layer[line : line + rows] = mirrored
    blend(canvas, layer, alpha)


def draw_snow_on_car(canvas: np.ndarray, car: Car, camera: Camera, parts: Parts, rng: np.random.Generator) -> None:
    """A white cap on roof, bonnet and boot, in place; the flanks, where damage is judged, stay free."""
    white: Colour = (240, 244, 249)
    blend(canvas, white, parts.tops / 255.0 * 0.95)
    edge = np.array([(x, z) for x, z, _ in car.body.profile if z > car.body.belt_m * 0.95])
    cap = empty_mask(canvas)
    for lift in (0.0, 0.04):
        raised = edge + (0, lift)
        stroke(cap, camera.on_side(car.body, raised), 255, width_px=int(rng.integers(6, 11)))
    blend(canvas, white, cap / 255.0)


def add_haze(picture: np.ndarray, vehicle: np.ndarray, *, weather: Weather, density: float, rng: np.random.Generator) -> np.ndarray:
    """Fog (or blown sand): what is far drowns, the car fades. `picture` float32 (H, W, 3); `vehicle` 0..1 (H, W); `density` 0..1."""
    height, width = picture.shape[:2]
    haze = np.array((206, 176, 128) if weather == "sand" else (198, 203, 207), np.float32) * rng.uniform(0.85, 1.1)
    nearness = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    drift = noise(rng, (height, width), cell_px=(150, 70), octaves=2) - 0.5
    behind = np.clip(0.72 + 0.22 * density - 0.42 * smoothstep(0.62, 1.0, nearness) + 0.12 * drift, 0, 0.95)
    alpha = behind * (1 - vehicle) + (0.16 + 0.18 * density + 0.06 * drift) * vehicle
    return picture + (haze - picture) * alpha[..., None]


def add_rain(picture: np.ndarray, *, density: float, rng: np.random.Generator) -> np.ndarray:
    """Slanted streaks, a grey veil, and drops on the lens."""
    height, width = picture.shape[:2]
    veil = np.array((140, 150, 162), np.float32)
    picture = picture * 0.86 + veil * 0.10
    streaks = np.zeros((height, width), np.uint8)
    slant = rng.uniform(-0.35, 0.35)
    for _ in range(int((150 + 200 * density) * height * width / 76_800)):
        x, y, length = rng.uniform(0, width), rng.uniform(-10, height), rng.uniform(9, 22)
        stroke(streaks, np.array([(x, y), (x + slant * length, y + length)]), float(rng.integers(90, 200)), width_px=1)
    alpha = cv2.GaussianBlur(streaks, (0, 0), 0.5) / 255.0 * 0.85
    return picture + (np.array((222, 228, 236), np.float32) - picture) * alpha[..., None].astype(np.float32)


def add_flakes(picture: np.ndarray, *, density: float, rng: np.random.Generator) -> np.ndarray:
    """Snowflakes, near ones large and soft."""
    height, width = picture.shape[:2]
    flakes = np.zeros((height, width), np.uint8)
    count = int((130 + 170 * density) * height * width / 76_800)
    places = rng.uniform((0, 0), (width, height), (count, 2))
    radii = np.where(rng.random(count) < 0.1, rng.uniform(2.0, 3.4, count), rng.uniform(0.7, 1.6, count))
    for (x, y), radius in zip(places, radii, strict=True):
        centre = (round(x * 16), round(y * 16))
        cv2.circle(flakes, centre, round(radius * 16), int(rng.integers(170, 256)), -1, cv2.LINE_AA, 4)
    alpha = cv2.GaussianBlur(flakes, (0, 0), 0.6) / 255.0
    return picture + (np.array((250, 251, 253), np.float32) - picture) * alpha[..., None].astype(np.float32)
