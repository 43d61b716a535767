"""Owns drawing dirt: splash behind the wheels, film along the sills, dust all over, thick mud; each with the mask of what it covers."""

from dataclasses import dataclass

import cv2
import numpy as np

from carinspect.demo.bodies import Body
from carinspect.demo.brush import Colour, blend, bounds, empty_mask, noise, smoothstep
from carinspect.demo.vehicle import Car, Parts

DIRT_COLOURS: tuple[Colour, ...] = ((132, 102, 62), (156, 126, 84), (106, 82, 50))
MUD_COLOUR: Colour = (74, 54, 36)


@dataclass(frozen=True)
class Dirt:
    """How dirty one car is."""

    seed: int
    share: float
    """Share of the painted panels that dirt covers, 0..1."""
    mud: float
    """Share of the painted panels that thick mud covers, 0..1."""
    opacity: float
    splash: float
    """Weight of the pattern behind the wheels, 0..1; the rest is dust that falls from above and film that rises from the sills."""


def draw_dirt(canvas: np.ndarray, dirt: Dirt, car: Car, parts: Parts) -> dict[str, np.ndarray]:
    """Draw `dirt` onto `canvas`, in place; by class (`dirt`, `mud`) the mask (uint8, 0 or 255) of what it covers."""
    rng = np.random.default_rng(dirt.seed)
    window = bounds(parts.vehicle)
    near = Parts(
        *(layer[window] for layer in (parts.vehicle, parts.paint, parts.side, parts.tops, parts.side_x_m, parts.side_z_m))
    )  # only for speed: the rest of the canvas stays as it is
    covered = {}
    for kind, mask in _draw_on_car(canvas[window], dirt, car, near, rng).items():
        covered[kind] = empty_mask(canvas)
        covered[kind][window] = mask
    return covered


def _draw_on_car(canvas: np.ndarray, dirt: Dirt, car: Car, parts: Parts, rng: np.random.Generator) -> dict[str, np.ndarray]:
    field = _pattern(dirt, car.body, parts, rng)
    colour = _visible_colour(car.paint, rng)
    covered = {"dirt": _cover(canvas, field, parts, share=dirt.share, colour=colour, opacity=dirt.opacity, rng=rng)}
    if dirt.mud > 0:
        low = _pattern(dirt, car.body, parts, rng) + 0.6 * smoothstep(0.9, 0.2, parts.side_z_m)
        covered["mud"] = _cover(canvas, low, parts, share=dirt.mud, colour=MUD_COLOUR, opacity=0.93, rng=rng)
        # Where mud lies, nobody sees the film under it.
        covered["dirt"] = cv2.subtract(covered["dirt"], covered["mud"])
    return covered


def _pattern(dirt: Dirt, body: Body, parts: Parts, rng: np.random.Generator) -> np.ndarray:
    """Where dirt settles first, float32 (H, W), higher is earlier."""
    x, z = parts.side_x_m, parts.side_z_m
    splash = np.zeros_like(x)
    for wheel in body.wheels_x_m:
        # Wheels throw backwards, and upwards in an arc.
        behind = (wheel - x) / 1.0
        reach = np.where(behind > -0.45, np.exp(-np.abs(behind - 0.25)), 0.0) * np.exp(-np.maximum(z - 0.35, 0) / 0.45)
        splash = np.maximum(splash, reach)
    film = np.exp(-np.maximum(z - body.sill_m, 0) / 0.35)
    dust = noise(rng, (x.shape[0], x.shape[1]), cell_px=(150, 110), octaves=2)
    blotches = noise(rng, (x.shape[0], x.shape[1]), cell_px=(44, 36), octaves=3)
    return dirt.splash * 1.1 * splash + 0.5 * film + (1 - dirt.splash) * 0.8 * dust + 0.55 * blotches


def _visible_colour(paint: Colour, rng: np.random.Generator) -> Colour:
    """One of DIRT_COLOURS that stands out from the paint: nobody can judge beige dust on a beige car."""
    distances = [float(np.abs(np.subtract(colour, paint)).max()) for colour in DIRT_COLOURS]
    seen = [colour for colour, distance in zip(DIRT_COLOURS, distances, strict=True) if distance >= 48]
    return seen[rng.integers(len(seen))] if seen else DIRT_COLOURS[int(np.argmax(distances))]


def _cover(
    canvas: np.ndarray, field: np.ndarray, parts: Parts, *, share: float, colour: Colour, opacity: float, rng: np.random.Generator
) -> np.ndarray:
    """Paint the `share` of the panels where `field` is highest."""
    panels = parts.paint > 128
    if not panels.any() or share <= 0:
        return empty_mask(canvas)
    level = float(np.quantile(field[panels], 1 - share))
    thickness = smoothstep(level - 0.05, level + 0.12, field)
    speckle = 0.82 + 0.18 * rng.random(field.shape, dtype=np.float32)
    blotch = 0.85 + 0.3 * (noise(rng, (field.shape[0], field.shape[1]), cell_px=(16, 12), octaves=2) - 0.5)
    alpha = np.clip(thickness * opacity * speckle * blotch, 0, 1) * (parts.paint / 255.0)
    tone = np.asarray(colour, np.float32) * (0.9 + 0.25 * (blotch[..., None] - 0.85))
    blend(canvas, np.broadcast_to(tone, canvas.shape), alpha)
    covered = np.where((field > level) & panels, 255, 0).astype(np.uint8)
    return cv2.morphologyEx(covered, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
