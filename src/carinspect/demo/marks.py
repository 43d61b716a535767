"""Draws what an inspector marks on a car, damage and dirt, each with the mask of what it changed."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from carinspect.demo.brush import Colour, binary, blend, bounds, empty_mask, fill, noise, smoothstep, stroke
from carinspect.demo.car_drawing import Car, Parts
from carinspect.demo.geometry import Body, Camera

Kind = Literal["scratch", "dent", "rust", "broken"]

_PRIMER: Colour = (244, 112, 30)
"""Red oxide: what shows where paint is gone."""

_HOLE: Colour = (16, 16, 19)

_DIRT_COLOURS: tuple[Colour, ...] = ((132, 102, 62), (156, 126, 84), (106, 82, 50))
_MUD_COLOUR: Colour = (74, 54, 36)

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


@dataclass(frozen=True)
class Dirt:
    """How dirty one car is: splash behind the wheels, film along the sills, dust all over, thick mud."""

    seed: int
    share: float
    """Share of the painted panels that dirt covers, 0..1."""
    mud: float
    """Share of the painted panels that thick mud covers, 0..1."""
    opacity: float
    splash: float
    """Weight of the pattern behind the wheels, 0..1; the rest is dust that falls from above and film that rises from the sills."""


def draw_damage(canvas: np.ndarray, damage: Damage, car: Car, camera: Camera, parts: Parts) -> np.ndarray:
    """Draw `damage` onto `canvas`, in place; the mask (uint8, 0 or 255) of the place that it spoils."""
    rng = np.random.default_rng(damage.seed)
    match damage.kind:
        case "scratch":
            return _scratch(canvas, damage, car, camera, parts, rng)
        case "broken":
            return _broken(canvas, damage, car.body, camera, parts, rng)
        case "dent" | "rust":
            return _dent_or_rust(canvas, damage, parts, rng)


def _dent_or_rust(canvas: np.ndarray, damage: Damage, parts: Parts, rng: np.random.Generator) -> np.ndarray:
    """A spot with a ragged rim; `u`, `v` run from -1 to 1 across it."""
    u = (parts.side_x_m - damage.x_m) / damage.half_length_m
    v = (parts.side_z_m - damage.z_m) / damage.half_height_m
    window = bounds((np.abs(u) < 1.5) & (np.abs(v) < 1.5))
    u, v = u[window], v[window]
    spoiled = empty_mask(canvas)
    if not u.size:
        return spoiled
    dented = damage.kind == "dent"
    radius = (np.abs(u) ** _ROUNDNESS + np.abs(v) ** _ROUNDNESS) ** (1 / _ROUNDNESS)
    rim = radius + (0.3 if dented else 0.7) * (noise(rng, u.shape, cell_px=(22, 22)) - 0.5)
    inside = smoothstep(1.04, 0.94 if dented else 0.96, rim) * (parts.side[window] / np.float32(255))
    layer = _dented(canvas[window], u, v, rng) if dented else _rusted(rim, rng)
    blend(canvas[window], layer, inside)
    spoiled[window] = (inside > 0.5) * np.uint8(255)
    return spoiled


def _dented(paint: np.ndarray, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A hollow under light from above: its upper slope lies in shade, its lower slope shines, paint has flaked off its crease."""
    slope = np.clip(v + 0.25 * u * rng.choice([-1, 1]), -1, 1)
    shade = np.clip(0.66 - 0.4 * slope, 0.28, 1.0)
    shine = np.clip(-slope - 0.15, 0, 1) * 120
    crease = np.exp(-(((v - 0.05 - 0.3 * np.sin(2.2 * u + rng.uniform(0, 6))) / 0.45) ** 2))
    layer = paint.astype(np.float32) * shade[..., None] + shine[..., None]
    flakes = crease + 1.5 * (noise(rng, u.shape, cell_px=(26, 20), octaves=2) - 0.5)
    flaked = smoothstep(0.45, 0.6, flakes)[..., None]
    return np.asarray(layer * (1 - flaked) + np.asarray(_PRIMER) * flaked)


def _rusted(rim: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bubbled paint at a ragged edge, orange scale, dark holes."""
    grain = noise(rng, rim.shape, cell_px=(14, 14))[..., None]
    layer = np.array([150.0, 62.0, 12.0]) + grain * np.array([105.0, 72.0, 20.0])
    layer = np.where(grain < 0.28, np.array([58.0, 28.0, 16.0]), layer)
    edge = (smoothstep(0.8, 0.94, rim))[..., None]
    return layer * (1 - edge) + np.array([196.0, 128.0, 62.0]) * edge


def _scratch(canvas: np.ndarray, damage: Damage, car: Car, camera: Camera, parts: Parts, rng: np.random.Generator) -> np.ndarray:
    """A bundle of strokes down to the metal, dark where the paint itself is pale, with worn paint between."""
    red, green, blue = car.paint
    # Perceived lightness, ITU-R BT.601.
    pale = 0.299 * red + 0.587 * green + 0.114 * blue > 140
    mask = empty_mask(canvas)
    spacing_m = 0.045
    slant = rng.uniform(-0.12, 0.12)
    for z in np.arange(-1, 1.0001, spacing_m / damage.half_height_m):
        along = np.linspace(-1 + 0.25 * rng.random(), 1 - 0.25 * rng.random(), 8)
        x = damage.x_m + along * damage.half_length_m
        height = damage.z_m + z * damage.half_height_m + slant * along * damage.half_length_m * 0.4 + rng.normal(0, 0.008, 8)
        stroke(mask, camera.on_side(car.body, np.stack([x, height], axis=1)), 255, width_px=int(rng.integers(2, 4)))
    strokes = cv2.bitwise_and(mask, parts.side) / 255.0
    blend(canvas, (52, 50, 50) if pale else (226, 222, 214), strokes, 0.95)
    gap_px = int(np.ceil(spacing_m * camera.focal_px / camera.distance_m)) + 1
    closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((2 * gap_px + 1, gap_px), np.uint8))
    # Between the strokes the paint is worn down to the primer.
    whole = cv2.bitwise_and(closed, parts.side)
    blend(canvas, _PRIMER, whole / 255.0 * 0.75 * (1 - strokes))
    return binary(whole)


def _broken(canvas: np.ndarray, damage: Damage, body: Body, camera: Camera, parts: Parts, rng: np.random.Generator) -> np.ndarray:
    """A jagged piece is gone: the bare inner panel, its cracks, a dark torn rim."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, 22))
    across, up = np.cos(angles), np.sin(angles)
    reach = rng.uniform(0.72, 1.08, 22) * (np.abs(across) ** _ROUNDNESS + np.abs(up) ** _ROUNDNESS) ** (-1 / _ROUNDNESS)
    ring = np.stack([damage.x_m + reach * across * damage.half_length_m, damage.z_m + reach * up * damage.half_height_m], axis=1)
    shape = camera.on_side(body, ring)
    mask, rim, behind = empty_mask(canvas), empty_mask(canvas), np.full(canvas.shape, _PRIMER, np.uint8)
    fill(mask, shape, 255)
    stroke(rim, shape, 255, width_px=7, closed=True)
    for _ in range(7):
        ends = ring[rng.integers(len(ring), size=2)] + rng.normal(0, 0.03, (2, 2))
        stroke(behind, camera.on_side(body, ends), _HOLE, width_px=4)
    gone = cv2.bitwise_and(mask, parts.side)
    blend(canvas, behind, gone)
    blend(canvas, _HOLE, rim / 255.0 * (gone / 255.0))
    return binary(gone)


def draw_dirt(canvas: np.ndarray, dirt: Dirt, car: Car, parts: Parts) -> dict[str, np.ndarray]:
    """Draw `dirt` onto `canvas`, in place; by class (`dirt`, `mud`) the mask (uint8, 0 or 255) of what it covers."""
    rng = np.random.default_rng(dirt.seed)
    # Only the car's window, for speed: the rest of the canvas stays as it is.
    window = bounds(parts.vehicle)
    near = Parts(*(layer[window] for layer in vars(parts).values()))
    field = _pattern(dirt, car.body, near, rng)
    colour = _visible_colour(car.paint, rng)
    covered = {"dirt": _cover(canvas[window], field, near, share=dirt.share, colour=colour, opacity=dirt.opacity, rng=rng)}
    if dirt.mud > 0:
        low = _pattern(dirt, car.body, near, rng) + 0.6 * smoothstep(0.9, 0.2, near.side_z_m)
        covered["mud"] = _cover(canvas[window], low, near, share=dirt.mud, colour=_MUD_COLOUR, opacity=0.93, rng=rng)
        # Where mud lies, nobody sees the film under it.
        covered["dirt"] = cv2.subtract(covered["dirt"], covered["mud"])
    masks = {kind: empty_mask(canvas) for kind in covered}
    for kind, mask in covered.items():
        masks[kind][window] = mask
    return masks


def _pattern(dirt: Dirt, body: Body, parts: Parts, rng: np.random.Generator) -> np.ndarray:
    """Where dirt settles first, float32 (H, W), higher is earlier."""
    x, z = parts.side_x_m, parts.side_z_m
    splash = np.zeros_like(x)
    for wheel in body.wheels_x_m:
        # Wheels throw backwards, and upwards in an arc.
        behind = wheel - x
        reach = np.where(behind > -0.45, np.exp(-np.abs(behind - 0.25)), 0.0) * np.exp(-np.maximum(z - 0.35, 0) / 0.45)
        splash = np.maximum(splash, reach)
    film = np.exp(-np.maximum(z - body.sill_m, 0) / 0.35)
    dust = noise(rng, x.shape, cell_px=(150, 110), octaves=2)
    blotches = noise(rng, x.shape, cell_px=(44, 36))
    return dirt.splash * 1.1 * splash + 0.5 * film + (1 - dirt.splash) * 0.8 * dust + 0.55 * blotches


def _visible_colour(paint: Colour, rng: np.random.Generator) -> Colour:
    """One of `_DIRT_COLOURS` that stands out from the paint: nobody can judge beige dust on a beige car."""
    distances = [float(np.abs(np.subtract(colour, paint)).max()) for colour in _DIRT_COLOURS]
    seen = [colour for colour, distance in zip(_DIRT_COLOURS, distances, strict=True) if distance >= 48]
    return seen[rng.integers(len(seen))] if seen else _DIRT_COLOURS[int(np.argmax(distances))]


def _cover(
    canvas: np.ndarray, field: np.ndarray, parts: Parts, *, share: float, colour: Colour, opacity: float, rng: np.random.Generator
) -> np.ndarray:
    """Paint the `share` of the panels where `field` is highest; the mask of it."""
    panels = parts.paint > 128
    if not panels.any() or share <= 0:
        return empty_mask(canvas)
    level = float(np.quantile(field[panels], 1 - share))
    thickness = smoothstep(level - 0.05, level + 0.12, field)
    speckle = 0.82 + 0.18 * rng.random(field.shape, dtype=np.float32)
    blotch = 0.85 + 0.3 * (noise(rng, field.shape, cell_px=(16, 12), octaves=2) - 0.5)
    alpha = np.clip(thickness * opacity * speckle * blotch, 0, 1) * (parts.paint / 255.0)
    tone = np.asarray(colour, np.float32) * (0.9 + 0.25 * (blotch[..., None] - 0.85))
    blend(canvas, tone, alpha)
    covered = ((field > level) & panels) * np.uint8(255)
    return cv2.morphologyEx(covered, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
