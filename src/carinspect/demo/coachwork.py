"""Owns drawing one clean, undamaged car, and the masks of what has been drawn."""

from dataclasses import dataclass

import cv2
import numpy as np

from carinspect.demo.bodies import Body, Surface, half_width, rounded
from carinspect.demo.brush import Colour, blend, bounds, dense, empty_mask, fill, mix, noise, scale, smoothstep, stroke
from carinspect.demo.camera import Camera
from carinspect.demo.trim import draw_end, draw_trim, draw_windows
from carinspect.demo.vehicle import Car, Parts
from carinspect.demo.wheels import draw_far_wheels, draw_wheel


def draw_car(canvas: np.ndarray, car: Car, camera: Camera, *, sky: Colour) -> Parts:
    """Draw `car` onto `canvas`, in place."""
    body = car.body
    outline, surfaces = rounded(body.profile)
    vehicle, side, tops, bare = (empty_mask(canvas) for _ in range(4))
    side_x, side_z = camera.side_map(body, canvas.shape[:2])

    draw_far_wheels(canvas, vehicle, car, camera)
    for strip in _visible_strips(outline, surfaces, camera):
        _draw_strip(canvas, (vehicle, tops, bare), car, camera, strip=strip, sky=sky)
    if abs(camera.yaw_rad) > 0.12:
        draw_end(canvas, bare, car, camera, outline)

    panel = camera.on_side(body, dense(outline))
    fill(side, panel, 255)
    vehicle[:] = np.maximum(vehicle, side)
    tops[side > 0] = 0
    bare[side > 128] = 0
    window = bounds(side)
    blend(canvas[window], _side_paint(car, side_z[window], sky), side[window] / 255.0)
    draw_windows(canvas, bare, car, camera, sky)
    draw_trim(canvas, bare, car, camera, outline)
    for wheel_x in body.wheels_x_m:
        draw_wheel(canvas, (vehicle, bare), car, camera, wheel_x)

    paint = cv2.subtract(vehicle, bare)
    below_belt = np.where(side_z < body.belt_m, 255, 0).astype(np.uint8)
    return Parts(vehicle, paint, cv2.bitwise_and(cv2.subtract(side, bare), below_belt), cv2.subtract(tops, bare), side_x, side_z)


@dataclass(frozen=True)
class _Strip:
    """A stretch of the skin between the two sides, from one point of the profile to the next."""

    first: np.ndarray
    second: np.ndarray
    surface: Surface
    outward: np.ndarray

    def corners(self, body: Body, camera: Camera, share: float) -> np.ndarray:
        """The strip on the canvas, as wide as `share` of the car."""
        ends = np.array([self.first, self.second])
        half = half_width(body, ends[:, 0], ends[:, 1]) * share
        near, far = np.insert(ends, 1, half, axis=1), np.insert(ends, 1, -half, axis=1)
        return camera.project(np.array([near[0], near[1], far[1], far[0]]))


def _visible_strips(outline: np.ndarray, surfaces: list[Surface], camera: Camera) -> list[_Strip]:
    """The strips that face the camera, the farthest first."""
    eye = np.array([camera.distance_m * np.sin(camera.yaw_rad), camera.height_m])
    strips = []
    for first, second, surface in zip(outline[:-1], outline[1:], surfaces, strict=True):
        along = second - first
        outward = np.array([along[1], -along[0]]) / (np.linalg.norm(along) + 1e-9)
        if outward @ (eye - (first + second) / 2) > 0:
            strips.append(_Strip(first, second, surface, outward))
    return sorted(strips, key=lambda strip: (strip.first[0] + strip.second[0]) * np.sin(camera.yaw_rad))


def _draw_strip(canvas: np.ndarray, masks: tuple[np.ndarray, ...], car: Car, camera: Camera, *, strip: _Strip, sky: Colour) -> None:
    vehicle, tops, bare = masks
    upward = max(0.0, float(strip.outward[1]))
    colour = mix(scale(car.paint, 0.66 + 0.42 * upward + 0.1 * abs(strip.outward[0])), sky, 0.28 * upward)
    quad = strip.corners(car.body, camera, 1.0)
    fill(canvas, quad, colour)
    # Neighbours meet without a seam.
    stroke(canvas, quad, colour, width_px=1, closed=True)
    fill(vehicle, quad, 255)
    if strip.surface == "top":
        fill(tops, quad, 255)
    if strip.surface == "glass":
        pane = strip.corners(car.body, camera, 0.86)
        height = (strip.first[1] + strip.second[1]) / 2 / car.body.height_m
        glass = mix((38, 46, 54), sky, 0.15 + 0.4 * max(0.0, height - 0.65) / 0.35)
        fill(canvas, pane, glass)
        stroke(canvas, pane, glass, width_px=1, closed=True)
        fill(bare, pane, 255)


def _side_paint(car: Car, side_z: np.ndarray, sky: Colour) -> np.ndarray:
    """The near side's colour, float32 (H, W, 3): a shoulder that catches the sky, a flank that turns away, a mirrored horizon."""
    body = car.body
    height = (side_z - body.sill_m) / (body.belt_m - body.sill_m)
    shade = 0.72 + 0.30 * smoothstep(0.0, 0.95, height)
    shade += 0.12 * np.exp(-(((height - 0.84) / 0.07) ** 2)) - 0.10 * np.exp(-(((height - 0.62) / 0.10) ** 2))
    shade += 0.10 * np.exp(-(((height - 0.30) / 0.05) ** 2))
    waves = noise(np.random.default_rng(car.seed), (1, side_z.shape[1]), cell_px=(90, 1), octaves=2)
    shade += 0.08 * (waves - 0.5)
    mirrored_sky = (0.16 * smoothstep(0.72, 0.95, height) + 0.05)[..., None]
    return np.asarray(car.paint, np.float32) * shade[..., None] * (1 - mirrored_sky) + np.asarray(sky, np.float32) * mirrored_sky
