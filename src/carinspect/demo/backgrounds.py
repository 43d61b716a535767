"""Owns the places where cars stand: street, car park, garage, field, wall."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from carinspect.demo.brush import Colour, blend, box, circle, empty_mask, fill, gradient, mix, noise, scale, stroke
from carinspect.demo.camera import Camera
from carinspect.demo.car import PAINTS


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


def draw_background(canvas: np.ndarray, place: str, setting: Setting, rng: np.random.Generator) -> None:
    """Draw `place` (a key of PLACES) onto `canvas`, in place."""
    gradient(canvas, top=0, bottom=setting.camera.horizon_px, colours=setting.sky)
    # What no place covers between the horizon and its own ground.
    gradient(canvas, top=setting.camera.horizon_px, bottom=canvas.shape[0], colours=((170, 174, 176), (120, 120, 120)))
    PLACES[place](canvas, setting, rng)


def _ground(canvas: np.ndarray, setting: Setting, rng: np.random.Generator, *, top: float, colour: Colour, grain: float) -> None:
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


def _tree(canvas: np.ndarray, setting: Setting, rng: np.random.Generator, *, x: float, base: float, height: float) -> None:
    box(canvas, left=x - height * 0.03, right=x + height * 0.03, top=base - height * 0.5, bottom=base, colour=(64, 62, 58))
    green: Colour = (float(rng.integers(40, 78)), float(rng.integers(84, 120)), float(rng.integers(40, 64)))
    for _ in range(7):
        centre = (x + height * rng.normal(0, 0.13), base - height * rng.uniform(0.45, 0.9))
        leaf = scale(green, rng.uniform(0.75, 1.15))
        fill(
            canvas,
            circle(centre=centre, radius=height * rng.uniform(0.13, 0.22), count=14),
            (214, 220, 228) if setting.snow and rng.random() < 0.55 else leaf,
        )


def _house(
    canvas: np.ndarray, setting: Setting, rng: np.random.Generator, *, left: float, right: float, base: float, height: float
) -> None:
    walls: list[Colour] = [(168, 164, 156), (146, 108, 108), (190, 188, 182), (128, 134, 140), (160, 168, 150), (104, 108, 116)]
    wall = scale(walls[rng.integers(len(walls))], rng.uniform(0.8, 1.1))
    box(canvas, left=left, right=right, top=base - height, bottom=base, colour=wall)
    roof = (232, 236, 242) if setting.snow else scale(wall, 0.55)
    box(canvas, left=left - 3, right=right + 3, top=base - height - 10, bottom=base - height + 4, colour=roof)
    columns, step = max(1, int((right - left) / 46)), height / 3.2
    for row in range(3):
        for column in range(columns):
            x = left + (column + 0.5) * (right - left) / columns
            top = base - height + step * (row + 0.25)
            lit = rng.random() < 0.12
            pane: Colour = (226, 218, 170) if lit else mix((52, 60, 70), setting.sky[1], 0.35 * rng.random())
            box(canvas, left=x - 10, right=x + 10, top=top, bottom=top + step * 0.55, colour=scale(wall, 1.15))
            box(canvas, left=x - 8, right=x + 8, top=top + 2, bottom=top + step * 0.55 - 2, colour=pane)
            if setting.snow:
                box(canvas, left=x - 11, right=x + 11, top=top + step * 0.55 - 2, bottom=top + step * 0.55 + 3, colour=(235, 239, 244))


def _parked(canvas: np.ndarray, setting: Setting, rng: np.random.Generator, *, x: float, depth_m: float) -> None:
    """Another car in the distance: two boxes and two wheels."""
    metre, base = setting.scale_at(depth_m), setting.ground_row(depth_m)
    colour = scale(PAINTS[rng.integers(len(PAINTS))], 0.9)
    cabin = np.array([(-1.2, 0.8), (-0.7, 1.4), (0.7, 1.4), (1.3, 0.8)]) * (metre, -metre) + (x, base)
    box(canvas, left=x - 2.1 * metre, right=x + 2.1 * metre, top=base - 0.9 * metre, bottom=base - 0.25 * metre, colour=colour)
    fill(canvas, cabin, (56, 64, 72))
    stroke(canvas, cabin, (240, 242, 246) if setting.snow else colour, width_px=max(2, int(0.09 * metre)))
    for wheel in (-1.3, 1.3):
        fill(canvas, circle(centre=(x + wheel * metre, base - 0.3 * metre), radius=0.32 * metre, count=16), (26, 26, 28))


def _street(canvas: np.ndarray, setting: Setting, rng: np.random.Generator) -> None:
    depth_m = rng.uniform(11, 16)
    base, metre = setting.ground_row(depth_m), setting.scale_at(depth_m)
    x = -rng.uniform(0, 120.0)
    while x < canvas.shape[1]:
        width = metre * rng.uniform(5, 11)
        _house(canvas, setting, rng, left=x, right=x + width, base=base, height=metre * rng.uniform(5, 9))
        x += width + (metre * rng.uniform(1, 4) if rng.random() < 0.4 else 0)
    for _ in range(rng.integers(0, 3)):
        _tree(canvas, setting, rng, x=rng.uniform(0, canvas.shape[1]), base=base, height=metre * rng.uniform(3, 6))
    _ground(canvas, setting, rng, top=base, colour=(150, 148, 142), grain=8)
    kerb = setting.ground_row(depth_m - 2.5)
    _ground(canvas, setting, rng, top=kerb, colour=(98, 98, 102), grain=11)
    box(canvas, left=0, right=canvas.shape[1], top=kerb - 3, bottom=kerb + 3, colour=(236, 239, 243) if setting.snow else (176, 174, 168))
    if rng.random() < 0.6:
        _parked(canvas, setting, rng, x=rng.uniform(0, canvas.shape[1]), depth_m=depth_m - 1.5)
    if rng.random() < 0.5:
        post = rng.uniform(0, canvas.shape[1])
        box(canvas, left=post - 3, right=post + 3, top=base - 4.5 * metre, bottom=base + 4, colour=(84, 88, 92))


def _car_park(canvas: np.ndarray, setting: Setting, rng: np.random.Generator) -> None:
    depth_m = rng.uniform(18, 30)
    base, metre = setting.ground_row(depth_m), setting.scale_at(depth_m)
    for _ in range(rng.integers(5, 12)):
        _tree(canvas, setting, rng, x=rng.uniform(0, canvas.shape[1]), base=base, height=metre * rng.uniform(4, 9))
    if rng.random() < 0.5:
        left = rng.uniform(-0.2, 0.7) * canvas.shape[1]
        _house(canvas, setting, rng, left=left, right=left + metre * rng.uniform(10, 20), base=base, height=metre * rng.uniform(4, 7))
    _ground(canvas, setting, rng, top=base, colour=(112, 112, 114), grain=12)
    for _ in range(rng.integers(1, 4)):
        _parked(canvas, setting, rng, x=rng.uniform(0, canvas.shape[1]), depth_m=depth_m - rng.uniform(2, 6))
    if not setting.snow:
        near, far = setting.ground_row(4.5), setting.ground_row(11)
        for x in np.arange(-1.0, 2.0, 0.35) + rng.uniform(0, 0.3):
            top_x = canvas.shape[1] * (0.5 + (x - 0.5) * 0.6)
            bottom_x = canvas.shape[1] * (0.5 + (x - 0.5) * 1.5)
            fill(canvas, np.array([(top_x, far), (top_x + 4, far), (bottom_x + 9, near), (bottom_x, near)]), (196, 196, 188))


def _garage(canvas: np.ndarray, setting: Setting, rng: np.random.Generator) -> None:
    depth_m = rng.uniform(9.5, 12)
    base, metre = setting.ground_row(depth_m), setting.scale_at(depth_m)
    walls: list[Colour] = [(150, 154, 156), (168, 170, 160), (120, 136, 146), (134, 140, 132)]
    wall = walls[rng.integers(len(walls))]
    gradient(canvas, top=0, bottom=base, colours=(scale(wall, 0.7), wall))
    for x in np.arange(rng.uniform(0, 60), canvas.shape[1], metre * 1.2):
        box(canvas, left=x, right=x + 2, top=0, bottom=base, colour=scale(wall, 0.85))
    for _ in range(rng.integers(1, 4)):
        x, y = rng.uniform(0, canvas.shape[1]), rng.uniform(0.02, 0.12) * canvas.shape[0]
        box(canvas, left=x - 60, right=x + 60, top=y, bottom=y + 8, colour=(248, 250, 246))
    for _ in range(rng.integers(1, 4)):
        x, width = rng.uniform(0, canvas.shape[1]), metre * rng.uniform(0.7, 1.6)
        height = metre * rng.uniform(0.9, 2.2)
        cabinet = scale(PAINTS[rng.integers(len(PAINTS))], 0.8)
        box(canvas, left=x, right=x + width, top=base - height, bottom=base, colour=cabinet)
        for shelf in np.arange(0.2, 1.0, 0.25):
            box(
                canvas,
                left=x + 3,
                right=x + width - 3,
                top=base - height * shelf,
                bottom=base - height * shelf + 4,
                colour=scale(cabinet, 0.6),
            )
    _ground(canvas, setting, rng, top=base, colour=(130, 130, 128), grain=7)
    for _ in range(rng.integers(0, 4)):
        tyre_x = rng.uniform(0, canvas.shape[1])
        fill(canvas, circle(centre=(tyre_x, base - 0.3 * metre), radius=0.32 * metre, count=24), (28, 28, 30))
        fill(canvas, circle(centre=(tyre_x, base - 0.3 * metre), radius=0.16 * metre, count=20), scale(wall, 0.8))


def _field(canvas: np.ndarray, setting: Setting, rng: np.random.Generator) -> None:
    horizon, width = setting.camera.horizon_px, canvas.shape[1]
    for layer in range(3):
        line = noise(rng, (1, width), cell_px=(width / 2.5, 1), octaves=3)[0]
        rise = (34 - layer * 9) * line + 6
        green = mix((92, 116, 76), setting.sky[1], 0.55 - 0.2 * layer)
        hill: Colour = mix((222, 227, 234), setting.sky[1], 0.3) if setting.snow else green
        columns = np.arange(0, width, 4)
        top = np.stack([columns, horizon - rise[columns]], axis=1)
        fill(canvas, np.concatenate([top, [(width, horizon + 40), (0, horizon + 40)]]), scale(hill, 1 - 0.1 * layer))
    base, metre = setting.ground_row(26), setting.scale_at(26)
    for _ in range(rng.integers(2, 8)):
        _tree(canvas, setting, rng, x=rng.uniform(0, width), base=base, height=metre * rng.uniform(3, 8))
    grass: list[Colour] = [(104, 126, 66), (118, 130, 84), (88, 114, 70)]
    _ground(canvas, setting, rng, top=horizon + 6, colour=grass[rng.integers(len(grass))], grain=20)
    if rng.random() < 0.5:
        fence, metre = setting.ground_row(13), setting.scale_at(13)
        for x in np.arange(rng.uniform(0, metre), width, metre * 2):
            box(canvas, left=x - 3, right=x + 3, top=fence - metre, bottom=fence, colour=(86, 84, 80))
        for rail in (0.45, 0.85):
            box(canvas, left=0, right=width, top=fence - metre * rail - 2, bottom=fence - metre * rail + 2, colour=(100, 98, 94))
    _ground(canvas, setting, rng, top=setting.ground_row(10), colour=(124, 124, 118), grain=15)


def _wall(canvas: np.ndarray, setting: Setting, rng: np.random.Generator) -> None:
    depth_m = rng.uniform(8.5, 11)
    base, metre = setting.ground_row(depth_m), setting.scale_at(depth_m)
    walls: list[Colour] = [(140, 96, 98), (184, 182, 174), (108, 116, 122), (134, 146, 128), (92, 110, 124)]
    wall = walls[rng.integers(len(walls))]
    top = base - metre * rng.uniform(2.2, 5)
    box(canvas, left=0, right=canvas.shape[1], top=top, bottom=base, colour=wall)
    if rng.random() < 0.6:
        course = metre * 0.22
        for row, y in enumerate(np.arange(base, top, -course)):
            box(canvas, left=0, right=canvas.shape[1], top=y - 1.2, bottom=y + 0.6, colour=scale(wall, 0.72))
            for x in np.arange((row % 2) * course, canvas.shape[1], course * 2):
                box(canvas, left=x, right=x + 1.8, top=y - course, bottom=y, colour=scale(wall, 0.72))
    else:
        for x in np.arange(rng.uniform(0, metre * 0.3), canvas.shape[1], metre * 0.3):
            box(canvas, left=x, right=x + metre * 0.1, top=top, bottom=base, colour=scale(wall, 0.84))
    stains = empty_mask(canvas)
    box(stains, left=0, right=canvas.shape[1], top=top, bottom=base, colour=255)
    blotches = noise(rng, canvas.shape[:2], cell_px=(110, 110))
    blend(canvas, scale(wall, 0.5), np.clip(blotches - 0.6, 0, 0.5) * (stains / 255.0))
    if rng.random() < 0.4:
        left = rng.uniform(0, 0.8) * canvas.shape[1]
        box(canvas, left=left, right=left + metre * 2.4, top=base - metre * 2.1, bottom=base, colour=(88, 92, 98))
        for y in np.arange(base - metre * 2.1, base, metre * 0.3):
            box(canvas, left=left, right=left + metre * 2.4, top=y, bottom=y + 2, colour=(62, 66, 72))
    if setting.snow:
        box(canvas, left=0, right=canvas.shape[1], top=top - 8, bottom=top + 6, colour=(236, 240, 245))
    _ground(canvas, setting, rng, top=base, colour=(114, 114, 112), grain=13)


PLACES: dict[str, Callable[[np.ndarray, Setting, np.random.Generator], None]] = {
    "street": _street, "car park": _car_park, "garage": _garage, "field": _field, "wall": _wall,
}  # fmt: skip


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
