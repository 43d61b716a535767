"""Owns drawing one clean, undamaged car, and the masks of what has been drawn."""

from dataclasses import dataclass

import cv2
import numpy as np

from carinspect.demo.bodies import Body, half_width, rounded
from carinspect.demo.brush import Colour, blend, bounds, circle, empty_mask, fill, mix, noise, scale, smoothstep, stroke
from carinspect.demo.camera import Camera

TYRE: Colour = (24, 24, 26)
GAP: Colour = (22, 22, 24)

PAINTS: tuple[Colour, ...] = (
    (226, 228, 230), (178, 182, 186), (112, 116, 122), (40, 42, 46), (150, 20, 46), (36, 62, 128), (92, 148, 196), (30, 104, 70),
    (24, 98, 110), (92, 58, 116),
)  # fmt: skip
"""Neither brown nor orange: those are left to dirt and to rust, so that a small network can learn them from a few hundred photos."""


@dataclass(frozen=True)
class Car:
    """One car, whoever photographs it."""

    seed: int
    body: Body
    paint: Colour
    rim: Colour
    spokes: int


@dataclass(frozen=True)
class Parts:
    """Where the canvas shows what: masks, and for each pixel the place on the plane of the near side, in metres."""

    vehicle: np.ndarray
    paint: np.ndarray
    """Painted panels: no glass, wheels, lamps or plates."""
    side: np.ndarray
    """Painted panels of the near side, below the windows."""
    tops: np.ndarray
    """Bonnet, roof and boot lid, where snow would lie."""
    side_x_m: np.ndarray
    side_z_m: np.ndarray


def draw_car(canvas: np.ndarray, car: Car, camera: Camera, *, sky: Colour) -> Parts:
    """Draw `car` onto `canvas`, in place."""
    body = car.body
    outline, surfaces = rounded(body.profile)
    vehicle, side, tops, bare = (empty_mask(canvas) for _ in range(4))
    side_x, side_z = camera.side_map(body, canvas.shape[:2])

    _draw_far_wheels(canvas, vehicle, car, camera)
    _draw_strips(canvas, (vehicle, tops, bare), car, camera, outline=outline, surfaces=surfaces, sky=sky)
    if abs(camera.yaw_rad) > 0.12:
        _draw_end(canvas, bare, car, camera, outline)

    panel = camera.on_side(body, _dense(outline))
    fill(side, panel, 255)
    vehicle[:] = np.maximum(vehicle, side)
    tops[side > 0] = 0
    bare[side > 128] = 0
    window = bounds(side)
    blend(canvas[window], _side_paint(car, side_z[window], sky), side[window] / 255.0)
    _draw_windows(canvas, bare, car, camera, sky)
    _draw_trim(canvas, bare, car, camera, outline)
    for wheel_x in body.wheels_x_m:
        _draw_wheel(canvas, (vehicle, bare), car, camera, wheel_x)

    paint = cv2.subtract(vehicle, bare)
    below_belt = np.where(side_z < body.belt_m, 255, 0).astype(np.uint8)
    return Parts(vehicle, paint, cv2.bitwise_and(cv2.subtract(side, bare), below_belt), cv2.subtract(tops, bare), side_x, side_z)


def _dense(points: np.ndarray, step: int = 4) -> np.ndarray:
    """The closed polygon with points between its corners, for the side is slightly curved."""
    following = np.roll(points, -1, axis=0)
    return np.concatenate([points + (following - points) * t for t in np.linspace(0, 1, step, endpoint=False)], axis=1).reshape(-1, 2)


def _draw_far_wheels(canvas: np.ndarray, vehicle: np.ndarray, car: Car, camera: Camera) -> None:
    radius = car.body.wheel_radius_m
    for wheel_x in car.body.wheels_x_m:
        ring = circle(centre=(wheel_x, radius), radius=radius)
        far = camera.project(np.stack([ring[:, 0], np.full(len(ring), -car.body.width_m / 2 + 0.12), ring[:, 1]], axis=1))
        fill(canvas, far, TYRE)
        fill(vehicle, far, 255)
    # The underbody: what one sees between the wheels is dark.
    front, rear = car.body.wheels_x_m
    low = car.body.sill_m * 0.72
    under = [(front + 0.2, 0.7, low), (rear - 0.2, 0.7, low), (rear - 0.2, 0.7, 0.5), (front + 0.2, 0.7, 0.5)]
    fill(canvas, camera.project(np.array(under)), GAP)
    fill(vehicle, camera.project(np.array(under)), 255)


def _draw_strips(
    canvas: np.ndarray, masks: tuple[np.ndarray, ...], car: Car, camera: Camera, *, outline: np.ndarray, surfaces: list, sky: Colour
) -> None:
    """The skin between the two sides: bumpers, bonnet, windscreen, roof, boot; the farthest stretch first."""
    vehicle, tops, bare = masks
    eye = np.array([camera.distance_m * np.sin(camera.yaw_rad), camera.height_m])
    strips = []
    for first, second, surface in zip(outline[:-1], outline[1:], surfaces, strict=True):
        along = second - first
        outward = np.array([along[1], -along[0]]) / (np.linalg.norm(along) + 1e-9)
        if outward @ (eye - (first + second) / 2) <= 0:
            continue
        middle = np.array([((first[0] + second[0]) / 2, 0.0, 0.0)])
        strips.append((float(camera.depth(middle)[0]), first, second, surface, outward))
    for _, first, second, surface, outward in sorted(strips, key=lambda strip: -strip[0]):
        shade = 0.66 + 0.42 * max(0.0, outward[1]) + 0.1 * abs(outward[0])
        colour = mix(scale(car.paint, shade), sky, 0.28 * max(0.0, outward[1]))
        quad = _strip(car.body, camera, first, second, 1.0)
        fill(canvas, quad, colour)
        stroke(canvas, quad, colour, width_px=1, closed=True)
        fill(vehicle, quad, 255)
        if surface == "top":
            fill(tops, quad, 255)
        if surface == "glass":
            pane = _strip(car.body, camera, first, second, 0.86)
            height = (first[1] + second[1]) / 2 / car.body.height_m
            glass = mix((38, 46, 54), sky, 0.15 + 0.4 * max(0.0, height - 0.65) / 0.35)
            fill(canvas, pane, glass)
            stroke(canvas, pane, glass, width_px=1, closed=True)
            fill(bare, pane, 255)


def _strip(body: Body, camera: Camera, first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    ends = np.array([first, second])
    half = half_width(body, ends[:, 0], ends[:, 1]) * share
    corners = [
        (first[0], half[0], first[1]), (second[0], half[1], second[1]), (second[0], -half[1], second[1]), (first[0], -half[0], first[1]),
    ]  # fmt: skip
    return camera.project(np.array(corners))


def _draw_end(canvas: np.ndarray, bare: np.ndarray, car: Car, camera: Camera, outline: np.ndarray) -> None:
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


def _draw_windows(canvas: np.ndarray, bare: np.ndarray, car: Car, camera: Camera, sky: Colour) -> None:
    for window in car.body.windows:
        corners = np.array(window)
        pane = camera.on_side(car.body, _dense(corners))
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


def _draw_trim(canvas: np.ndarray, bare: np.ndarray, car: Car, camera: Camera, outline: np.ndarray) -> None:
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


def _draw_wheel(canvas: np.ndarray, masks: tuple[np.ndarray, np.ndarray], car: Car, camera: Camera, wheel_x: float) -> None:
    vehicle, bare = masks
    radius = car.body.wheel_radius_m
    flank = car.body.width_m / 2

    def disc(ring: np.ndarray, inset_m: float) -> np.ndarray:
        return camera.project(np.stack([ring[:, 0], np.full(len(ring), flank - inset_m), ring[:, 1]], axis=1))

    arch = circle(centre=(wheel_x, radius), radius=radius * 1.2, start=-0.12, stop=np.pi + 0.12)
    fill(canvas, disc(arch, 0.0), GAP)
    fill(bare, disc(arch, 0.0), 255)
    for inset_m, colour in ((0.24, GAP), (0.04, TYRE)):
        tyre = disc(circle(centre=(wheel_x, radius), radius=radius), inset_m)
        for mask in (vehicle, bare):
            fill(mask, tyre, 255)
        fill(canvas, tyre, colour)
    fill(canvas, disc(circle(centre=(wheel_x, radius), radius=radius * 0.68), 0.03), car.rim)
    fill(canvas, disc(circle(centre=(wheel_x, radius), radius=radius * 0.58), 0.03), scale(car.rim, 0.32))
    turn = (car.seed % 628) / 100
    for spoke in range(car.spokes):
        angle = turn + 2 * np.pi * spoke / car.spokes
        tip = circle(centre=(wheel_x, radius), radius=radius * 0.62, count=2, start=angle - 0.16, stop=angle + 0.16)
        root = circle(centre=(wheel_x, radius), radius=radius * 0.12, count=2, start=angle + 0.9, stop=angle - 0.9)
        fill(canvas, disc(np.concatenate([tip, root]), 0.03), car.rim)
    fill(canvas, disc(circle(centre=(wheel_x, radius), radius=radius * 0.14), 0.03), scale(car.rim, 0.8))
