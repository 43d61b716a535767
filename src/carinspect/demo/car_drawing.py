"""Draws one clean, undamaged car, and the masks of what has been drawn."""

from dataclasses import dataclass

import cv2
import numpy as np

from carinspect.demo.brush import Colour, blend, bounds, circle, empty_mask, fill, mix, noise, scale, smoothstep, stroke
from carinspect.demo.geometry import Body, Camera, Surface, half_width, rounded

PAINTS: tuple[Colour, ...] = (
    (226, 228, 230), (178, 182, 186), (112, 116, 122), (40, 42, 46), (150, 20, 46), (36, 62, 128), (92, 148, 196), (30, 104, 70),
    (24, 98, 110), (92, 58, 116),
)  # fmt: skip
"""Neither brown nor orange: those are left to dirt and to rust, so that a small network can learn them from a few hundred photos."""

_TYRE: Colour = (24, 24, 26)
_GAP: Colour = (22, 22, 24)
_REAR_LAMP: Colour = (140, 14, 24)


@dataclass(frozen=True)
class Car:
    """One car, the same in all its photos."""

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


@dataclass(frozen=True)
class _Work:
    """A car that is being drawn: the canvas, who looks from where, and the masks so far."""

    canvas: np.ndarray
    car: Car
    camera: Camera
    sky: Colour
    outline: np.ndarray
    """The rounded profile."""
    vehicle: np.ndarray
    bare: np.ndarray
    """What is not painted."""
    tops: np.ndarray

    def put(self, shape: np.ndarray, colour: Colour, *masks: np.ndarray) -> None:
        """Fill `shape`, in canvas pixels, on the canvas and in `masks`."""
        fill(self.canvas, shape, colour)
        for mask in masks:
            fill(mask, shape, 255)

    def on_side(self, points_m: list[tuple[float, float]] | np.ndarray) -> np.ndarray:
        """x, z on the near side in metres → canvas pixels."""
        return self.camera.on_side(self.car.body, np.asarray(points_m))

    def across(self, ends_m: np.ndarray, share: float) -> np.ndarray:
        """The strip between two points x, z of both sides, as wide as `share` of the car → canvas pixels."""
        (x0, z0), (x1, z1) = ends_m
        half0, half1 = half_width(self.car.body, ends_m[:, 0], ends_m[:, 1]) * share
        return self.camera.project(np.array([(x0, half0, z0), (x1, half1, z1), (x1, -half1, z1), (x0, -half0, z0)]))

    def upright(self, ring_m: np.ndarray, y_m: float) -> np.ndarray:
        """x, z on an upright plane `y_m` beside the car's middle → canvas pixels."""
        x, z = ring_m.T
        return self.camera.project(np.stack([x, np.full(len(x), y_m), z], axis=1))


def draw_car(canvas: np.ndarray, car: Car, camera: Camera, *, sky: Colour) -> Parts:
    """Draw `car` onto `canvas`, in place. `sky` is what the paint and the glass mirror."""
    body = car.body
    outline, surfaces = rounded(body.profile)
    work = _Work(canvas, car, camera, sky, outline, *(empty_mask(canvas) for _ in range(3)))
    vehicle, bare, tops, side = work.vehicle, work.bare, work.tops, empty_mask(canvas)
    side_x, side_z = camera.side_map(body, canvas.shape)

    _draw_underside(work)
    _draw_skin(work, surfaces)
    if abs(camera.yaw_rad) > 0.12:
        _draw_end(work)

    fill(side, work.on_side(_dense(outline)), 255)
    np.maximum(vehicle, side, out=vehicle)
    tops[side > 0] = 0
    bare[side > 128] = 0
    window = bounds(side)
    blend(canvas[window], _side_paint(car, side_z[window], sky), side[window])
    _draw_windows(work)
    _draw_trim(work)
    for wheel_x in body.wheels_x_m:
        _draw_wheel(work, wheel_x)

    below_belt = (side_z < body.belt_m) * np.uint8(255)
    return Parts(
        vehicle=vehicle, paint=cv2.subtract(vehicle, bare), side=cv2.bitwise_and(cv2.subtract(side, bare), below_belt),
        tops=cv2.subtract(tops, bare), side_x_m=side_x, side_z_m=side_z,
    )  # fmt: skip


def _dense(points: np.ndarray) -> np.ndarray:
    """The closed polygon with points between its corners, for the side is slightly curved."""
    following = np.roll(points, -1, axis=0)
    return np.concatenate([points + (following - points) * t for t in (0, 0.25, 0.5, 0.75)], axis=1).reshape(-1, 2)


def _draw_skin(work: _Work, surfaces: list[Surface]) -> None:
    """The strips between the two sides that face the camera, the farthest first."""
    camera = work.camera
    eye = np.array([camera.distance_m * np.sin(camera.yaw_rad), camera.height_m])
    strips = []
    for first, second, surface in zip(work.outline[:-1], work.outline[1:], surfaces, strict=True):
        along = second - first
        outward = np.array([along[1], -along[0]]) / (np.linalg.norm(along) + 1e-9)
        if outward @ (eye - (first + second) / 2) > 0:
            strips.append((first, second, surface, outward))
    for first, second, surface, outward in sorted(strips, key=lambda strip: (strip[0][0] + strip[1][0]) * np.sin(camera.yaw_rad)):
        _draw_strip(work, np.array([first, second]), surface, outward)


def _draw_strip(work: _Work, ends: np.ndarray, surface: Surface, outward: np.ndarray) -> None:
    """From one point of the profile to the next: `ends` (2, 2) are x, z of both."""
    body, paint = work.car.body, work.car.paint
    upward = max(0.0, float(outward[1]))
    colour = mix(scale(paint, 0.66 + 0.42 * upward + 0.1 * abs(outward[0])), work.sky, 0.28 * upward)
    quad = work.across(ends, 1.0)
    work.put(quad, colour, work.vehicle)
    # Neighbours meet without a seam.
    stroke(work.canvas, quad, colour, width_px=1, closed=True)
    if surface == "top":
        fill(work.tops, quad, 255)
    if surface == "glass":
        pane = work.across(ends, 0.86)
        height = (ends[0, 1] + ends[1, 1]) / 2 / body.height_m
        glass = mix((38, 46, 54), work.sky, 0.15 + 0.4 * max(0.0, height - 0.65) / 0.35)
        work.put(pane, glass, work.bare)
        stroke(work.canvas, pane, glass, width_px=1, closed=True)


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


def _draw_end(work: _Work) -> None:
    """Lamps, grille or tailgate, and the plate on the end that one sees."""
    body, front = work.car.body, work.camera.yaw_rad > 0
    low, high = body.sill_m, body.belt_m * (0.84 if front else 0.95)

    def patch(left: float, right: float, bottom: float, top: float, colour: Colour) -> None:
        corners = [(share, low + z * (high - low)) for share, z in ((left, bottom), (right, bottom), (right, top), (left, top))]
        work.put(work.camera.on_end(body, np.array(corners), work.outline), colour, work.bare)

    patch(-0.9, 0.9, 0.02, 0.12, _GAP)
    if front:
        patch(-0.5, 0.5, 0.45, 0.82, (34, 35, 38))
        for row in (0.55, 0.68):
            patch(-0.48, 0.48, row, row + 0.04, (150, 152, 155))
    lamp = (236, 240, 236) if front else _REAR_LAMP
    for sign in (-1.0, 1.0):
        patch(sign * 0.58, sign * 0.95, 0.58, 0.86, scale(lamp, 0.6))
        patch(sign * 0.64, sign * 0.9, 0.62, 0.82, lamp)
    patch(-0.27, 0.27, 0.2, 0.36, (228, 228, 218))
    patch(-0.22, 0.22, 0.25, 0.31, (60, 60, 66))


def _draw_windows(work: _Work) -> None:
    for window in work.car.body.windows:
        corners = np.array(window)
        pane = work.on_side(_dense(corners))
        work.put(pane, (30, 35, 41), work.bare)
        # The mirrored sky: the upper part, cut by a slanted line.
        (left, low), (right, high) = corners.min(axis=0), corners.max(axis=0)
        band = [(left, low + 0.55 * (high - low)), (right, low + 0.75 * (high - low)), (right, high + 0.1), (left, high + 0.1)]
        shine, glass = empty_mask(work.canvas), empty_mask(work.canvas)
        fill(shine, work.on_side(band), 255)
        fill(glass, pane, 255)
        blend(work.canvas, work.sky, cv2.bitwise_and(shine, glass), 0.38)
        stroke(work.canvas, pane, _GAP, width_px=2, closed=True)


def _draw_trim(work: _Work) -> None:
    """Panel gaps, handles, lamps' sides, sill, mirror."""
    body, paint = work.car.body, work.car.paint
    dark = scale(paint, 0.45)
    low, belt, half = body.sill_m + 0.04, body.belt_m, body.half_length_m

    def panel(points: list[tuple[float, float]], colour: Colour) -> None:
        work.put(work.on_side(points), colour, work.bare)

    for x in body.doors_x_m:
        stroke(work.canvas, work.on_side([(x, low), (x, belt - 0.02)]), dark, width_px=2)
    for x in body.doors_x_m[1:]:
        panel([(x + 0.12, belt - 0.16), (x + 0.3, belt - 0.16), (x + 0.3, belt - 0.12), (x + 0.12, belt - 0.12)], scale(paint, 0.62))
    front, rear = body.wheels_x_m
    gap = body.wheel_radius_m * 1.2
    panel([(front - gap, body.sill_m - 0.03), (rear + gap, body.sill_m - 0.03), (rear + gap, low + 0.02), (front - gap, low + 0.02)], _GAP)
    z = body.sill_m + (belt - body.sill_m) * 0.62
    panel([(half * 0.985, z), (half * 0.88, z + 0.05), (half * 0.89, z + 0.16), (half * 0.95, z + 0.14)], (232, 236, 232))
    panel([(-half * 0.985, z), (-half * 0.91, z), (-half * 0.9, z + 0.2), (-half * 0.965, z + 0.2)], _REAR_LAMP)
    x = body.windows[0][0][0] - 0.08
    panel([(x, belt + 0.04), (x - 0.2, belt + 0.05), (x - 0.18, belt + 0.17), (x - 0.02, belt + 0.15)], dark)


def _draw_underside(work: _Work) -> None:
    """The far wheels, and the dark between the wheels."""
    body = work.car.body
    for x in body.wheels_x_m:
        ring = circle(centre=(x, body.wheel_radius_m), radius=body.wheel_radius_m)
        work.put(work.upright(ring, -body.width_m / 2 + 0.12), _TYRE, work.vehicle)
    front, rear = body.wheels_x_m
    low = body.sill_m * 0.72
    under = np.array([(front + 0.2, low), (rear - 0.2, low), (rear - 0.2, 0.5), (front + 0.2, 0.5)])
    work.put(work.upright(under, 0.7), _GAP, work.vehicle)


def _draw_wheel(work: _Work, wheel_x: float) -> None:
    car, radius = work.car, work.car.body.wheel_radius_m
    centre = (wheel_x, radius)

    def put(ring: np.ndarray, inset_m: float, colour: Colour, *masks: np.ndarray) -> None:
        work.put(work.upright(ring, car.body.width_m / 2 - inset_m), colour, *masks)

    put(circle(centre=centre, radius=radius * 1.2, start=-0.12, stop=np.pi + 0.12), 0.0, _GAP, work.bare)
    for inset_m, colour in ((0.24, _GAP), (0.04, _TYRE)):
        put(circle(centre=centre, radius=radius), inset_m, colour, work.vehicle, work.bare)
    put(circle(centre=centre, radius=radius * 0.68), 0.03, car.rim)
    put(circle(centre=centre, radius=radius * 0.58), 0.03, scale(car.rim, 0.32))
    turn = (car.seed % 628) / 100
    for spoke in range(car.spokes):
        angle = turn + 2 * np.pi * spoke / car.spokes
        tip = circle(centre=centre, radius=radius * 0.62, count=2, start=angle - 0.16, stop=angle + 0.16)
        root = circle(centre=centre, radius=radius * 0.12, count=2, start=angle + 0.9, stop=angle - 0.9)
        put(np.concatenate([tip, root]), 0.03, car.rim)
    put(circle(centre=centre, radius=radius * 0.14), 0.03, scale(car.rim, 0.8))
