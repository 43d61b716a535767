"""Owns what is not painted: windows, lamps, grille, plate, gaps between panels, handles, the mirror."""

import cv2
import numpy as np

from carinspect.demo.brush import Colour, blend, dense, empty_mask, fill, scale, stroke
from carinspect.demo.camera import Camera
from carinspect.demo.vehicle import GAP, Car


def draw_end(canvas: np.ndarray, bare: np.ndarray, car: Car, camera: Camera, outline: np.ndarray) -> None:
    """Lamps, grille or tailgate, and the plate on the end that one sees."""
    front = camera.yaw_rad > 0
    low, high = car.body.sill_m, car.body.belt_m * (0.84 if front else 0.95)
    span = high - low

    def patch(left: float, right: float, bottom: float, top: float, colour: Colour) -> None:
        corners = np.array([(left, bottom), (right, bottom), (right, top), (left, top)])
        shape = camera.on_end(car.body, np.array([(share, low + z * span) for share, z in corners]), outline)
        fill(canvas, shape, colour)
        fill(bare, shape, 255)

    patch(-0.9, 0.9, 0.02, 0.12, GAP)
    if front:
        patch(-0.5, 0.5, 0.45, 0.82, (34, 35, 38))
        for row in (0.55, 0.68):
            patch(-0.48, 0.48, row, row + 0.04, (150, 152, 155))
    lamp: Colour = (236, 240, 236) if front else (140, 14, 24)
    for sign in (-1.0, 1.0):
        patch(sign * 0.58, sign * 0.95, 0.58, 0.86, scale(lamp, 0.6))
        patch(sign * 0.64, sign * 0.9, 0.62, 0.82, lamp)
    patch(-0.27, 0.27, 0.2, 0.36, (228, 228, 218))
    patch(-0.22, 0.22, 0.25, 0.31, (60, 60, 66))


def draw_windows(canvas: np.ndarray, bare: np.ndarray, car: Car, camera: Camera, sky: Colour) -> None:
    for window in car.body.windows:
        corners = np.array(window)
        pane = camera.on_side(car.body, dense(corners))
        fill(canvas, pane, (30, 35, 41))
        fill(bare, pane, 255)
        # The mirrored sky: the upper part, cut by a slanted line.
        low, high = corners[:, 1].min(), corners[:, 1].max()
        left, right = corners[:, 0].min(), corners[:, 0].max()
        shine = empty_mask(canvas)
        band = [(left, low + 0.55 * (high - low)), (right, low + 0.75 * (high - low)), (right, high + 0.1), (left, high + 0.1)]
        fill(shine, camera.on_side(car.body, np.array(band)), 255)
        glass = empty_mask(canvas)
        fill(glass, pane, 255)
        blend(canvas, sky, cv2.bitwise_and(shine, glass) / 255.0 * 0.38)
        stroke(canvas, pane, GAP, width_px=2, closed=True)


def draw_trim(canvas: np.ndarray, bare: np.ndarray, car: Car, camera: Camera, outline: np.ndarray) -> None:
    """Panel gaps, handles, lamps' sides, sill, mirror."""
    body = car.body
    dark = scale(car.paint, 0.45)

    def line(points: list[tuple[float, float]], colour: Colour, width_px: int) -> None:
        stroke(canvas, camera.on_side(body, np.array(points)), colour, width_px=width_px)

    def panel(points: list[tuple[float, float]], colour: Colour) -> None:
        shape = camera.on_side(body, np.array(points))
        fill(canvas, shape, colour)
        fill(bare, shape, 255)

    low, belt, half = body.sill_m + 0.04, body.belt_m, body.half_length_m
    for x in body.doors_x_m:
        line([(x, low), (x, belt - 0.02)], dark, 2)
    for x in body.doors_x_m[1:]:
        panel([(x + 0.12, belt - 0.16), (x + 0.3, belt - 0.16), (x + 0.3, belt - 0.12), (x + 0.12, belt - 0.12)], scale(car.paint, 0.62))
    front, rear = body.wheels_x_m
    gap = body.wheel_radius_m * 1.2
    panel([(front - gap, body.sill_m - 0.03), (rear + gap, body.sill_m - 0.03), (rear + gap, low + 0.02), (front - gap, low + 0.02)], GAP)
    lamp_z = body.sill_m + (belt - body.sill_m) * 0.62
    panel(
        [(half * 0.985, lamp_z), (half * 0.88, lamp_z + 0.05), (half * 0.89, lamp_z + 0.16), (half * 0.95, lamp_z + 0.14)], (232, 236, 232)
    )
    rear_lamp = [(-half * 0.985, lamp_z), (-half * 0.91, lamp_z), (-half * 0.9, lamp_z + 0.2), (-half * 0.965, lamp_z + 0.2)]
    panel(rear_lamp, (140, 14, 24))
    mirror_x = body.windows[0][0][0] - 0.08
    panel([(mirror_x, belt + 0.04), (mirror_x - 0.2, belt + 0.05), (mirror_x - 0.18, belt + 0.17), (mirror_x - 0.02, belt + 0.15)], dark)
