"""Owns what stands around in several places: trees, houses, other cars."""

import numpy as np

from carinspect.demo.brush import Colour, box, circle, fill, mix, scale, stroke
from carinspect.demo.setting import Setting
from carinspect.demo.vehicle import PAINTS


def draw_tree(canvas: np.ndarray, setting: Setting, rng: np.random.Generator, *, x: float, base: float, height: float) -> None:
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


def draw_house(
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


def draw_parked_car(canvas: np.ndarray, setting: Setting, rng: np.random.Generator, *, x: float, depth_m: float) -> None:
    """Another car in the distance: two boxes and two wheels."""
    metre, base = setting.scale_at(depth_m), setting.ground_row(depth_m)
    colour = scale(PAINTS[rng.integers(len(PAINTS))], 0.9)
    cabin = np.array([(-1.2, 0.8), (-0.7, 1.4), (0.7, 1.4), (1.3, 0.8)]) * (metre, -metre) + (x, base)
    box(canvas, left=x - 2.1 * metre, right=x + 2.1 * metre, top=base - 0.9 * metre, bottom=base - 0.25 * metre, colour=colour)
    fill(canvas, cabin, (56, 64, 72))
    stroke(canvas, cabin, (240, 242, 246) if setting.snow else colour, width_px=max(2, int(0.09 * metre)))
    for wheel in (-1.3, 1.3):
        fill(canvas, circle(centre=(x + wheel * metre, base - 0.3 * metre), radius=0.32 * metre, count=16), (26, 26, 28))
