"""Owns drawing damage on a car's near side: dents, scratches, rust, broken panels; each with the mask of what it changed."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from carinspect.demo.bodies import Body
from carinspect.demo.brush import Colour, blend, bounds, empty_mask, fill, luminance, noise, smoothstep, stroke
from carinspect.demo.camera import Camera
from carinspect.demo.vehicle import Car, Parts

Kind = Literal["scratch", "dent", "rust", "broken"]

PRIMER: Colour = (244, 112, 30)
"""Red oxide: what shows where paint is gone."""

_ROUNDNESS = 3.0
"""Exponent of the superellipse |u|^p + |v|^p = 1: boxy enough that a box around it is not much larger than it."""


@dataclass(frozen=True)
class Damage:
    """One damaged place: its kind, its middle on the near side and its half extents, in metres."""

    kind: Kind
    seed: int
    x_m: float
    z_m: float
    half_length_m: float
    half_height_m: float


def draw_damage(canvas: np.ndarray, damage: Damage, car: Car, camera: Camera, parts: Parts) -> np.ndarray:
    """Draw `damage` onto `canvas`, in place; the mask (uint8, 0 or 255) of the place that it spoils."""
    rng = np.random.default_rng(damage.seed)
    if damage.kind == "scratch":
        return _scratch(canvas, damage, car, camera, parts, rng)
    if damage.kind == "broken":
        return _broken(canvas, damage, car.body, camera, parts, rng)
    u = (parts.side_x_m - damage.x_m) / damage.half_length_m
    v = (parts.side_z_m - damage.z_m) / damage.half_height_m
    window = bounds((np.abs(u) < 1.5) & (np.abs(v) < 1.5))
    u, v = u[window], v[window]
    radius = (np.abs(u) ** _ROUNDNESS + np.abs(v) ** _ROUNDNESS) ** (1 / _ROUNDNESS)
    spoiled = empty_mask(canvas)
    if radius.size:
        panel = parts.side[window] / np.float32(255)
        inside = (
            _dent(canvas[window], panel, u=u, v=v, radius=radius, rng=rng)
            if damage.kind == "dent"
            else _rust(canvas[window], panel, radius, rng)
        )
        spoiled[window] = _binary(inside)
    return spoiled


def _binary(share: np.ndarray) -> np.ndarray:
    return np.where(share > 0.5, 255, 0).astype(np.uint8)


def _wobble(rng: np.random.Generator, shape: tuple[int, ...], amount: float) -> np.ndarray:
    return amount * (noise(rng, (shape[0], shape[1]), cell_px=(22, 22), octaves=3) - 0.5)


def _dent(
    canvas: np.ndarray, panel: np.ndarray, *, u: np.ndarray, v: np.ndarray, radius: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A hollow under light from above: its upper slope lies in shade, its lower slope shines, paint has flaked off its crease."""
    rim = radius + _wobble(rng, radius.shape, 0.3)
    inside = smoothstep(1.04, 0.94, rim) * panel
    slope = np.clip(v + 0.25 * u * rng.choice([-1, 1]), -1, 1)
    shade = np.clip(0.66 - 0.4 * slope, 0.28, 1.0)
    shine = np.clip(-slope - 0.15, 0, 1) * 120
    crease = np.exp(-(((v - 0.05 - 0.3 * np.sin(2.2 * u + rng.uniform(0, 6))) / 0.45) ** 2))
    layer = canvas.astype(np.float32) * shade[..., None] + shine[..., None]
    flakes = crease + 1.5 * (noise(rng, (radius.shape[0], radius.shape[1]), cell_px=(26, 20), octaves=2) - 0.5)
    flaked = smoothstep(0.45, 0.6, flakes)[..., None]
    layer = layer * (1 - flaked) + np.asarray(PRIMER) * flaked
    blend(canvas, layer, inside)
    return inside


def _rust(canvas: np.ndarray, panel: np.ndarray, radius: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bubbled paint at a ragged edge, orange scale, dark holes."""
    rim = radius + _wobble(rng, radius.shape, 0.7)
    inside = smoothstep(1.04, 0.96, rim) * panel
    grain = noise(rng, (radius.shape[0], radius.shape[1]), cell_px=(14, 14), octaves=3)[..., None]
    layer = np.array([150.0, 62.0, 12.0]) + grain * np.array([105.0, 72.0, 20.0])
    layer = np.where(grain < 0.28, np.array([58.0, 28.0, 16.0]), layer)
    edge = (smoothstep(0.8, 0.94, rim))[..., None]
    blend(canvas, layer * (1 - edge) + np.array([196.0, 128.0, 62.0]) * edge, inside)
    return inside


def _scratch(canvas: np.ndarray, damage: Damage, car: Car, camera: Camera, parts: Parts, rng: np.random.Generator) -> np.ndarray:
    """A bundle of strokes down to the metal, dark where the paint itself is pale, with worn paint between."""
    pale = luminance(car.paint) > 140
    mask = empty_mask(canvas)
    spacing_m = 0.045
    slant = rng.uniform(-0.12, 0.12)
    for z in np.arange(-1, 1.0001, spacing_m / damage.half_height_m):
        ends = np.array([-1 + 0.25 * rng.random(), 1 - 0.25 * rng.random()])
        along = np.linspace(ends[0], ends[1], 8)
        x = damage.x_m + along * damage.half_length_m
        height = damage.z_m + z * damage.half_height_m + slant * along * damage.half_length_m * 0.4 + rng.normal(0, 0.008, 8)
        stroke(mask, camera.on_side(car.body, np.stack([x, height], axis=1)), 255, width_px=int(rng.integers(2, 4)))
    strokes = cv2.bitwise_and(mask, parts.side) / 255.0
    blend(canvas, (52, 50, 50) if pale else (226, 222, 214), strokes * 0.95)
    gap_px = int(np.ceil(spacing_m * camera.focal_px / camera.distance_m)) + 1
    closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((2 * gap_px + 1, gap_px), np.uint8))
    # Between the strokes the paint is worn down to the primer.
    whole = cv2.bitwise_and(closed, parts.side) / 255.0
    blend(canvas, PRIMER, whole * 0.75 * (1 - strokes))
    return _binary(whole)


def _broken(canvas: np.ndarray, damage: Damage, body: Body, camera: Camera, parts: Parts, rng: np.random.Generator) -> np.ndarray:
    """A jagged piece is gone: the bare inner panel, its cracks, a dark torn rim."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, 22))
    reach = rng.uniform(0.72, 1.08, 22) * (np.abs(np.cos(angles)) ** _ROUNDNESS + np.abs(np.sin(angles)) ** _ROUNDNESS) ** (-1 / _ROUNDNESS)
    ring = np.stack(
        [damage.x_m + reach * np.cos(angles) * damage.half_length_m, damage.z_m + reach * np.sin(angles) * damage.half_height_m], axis=1
    )
    shape = camera.on_side(body, ring)
    mask = empty_mask(canvas)
    fill(mask, shape, 255)
    inside = cv2.bitwise_and(mask, parts.side) / 255.0
    behind = np.empty(canvas.shape, np.uint8)
    behind[:] = PRIMER
    for _ in range(7):
        ends = ring[rng.integers(len(ring), size=2)] + rng.normal(0, 0.03, (2, 2))
        stroke(behind, camera.on_side(body, ends), (16, 16, 19), width_px=4)
    rim = empty_mask(canvas)
    stroke(rim, shape, 255, width_px=7, closed=True)
    blend(canvas, behind.astype(np.float32), inside)
    blend(canvas, (16, 16, 19), rim / 255.0 * inside)
    return _binary(inside)
