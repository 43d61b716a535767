"""Owns the places where cars stand: street, car park, garage, field, wall."""

from collections.abc import Callable

import numpy as np

from carinspect.demo.brush import Colour, blend, box, circle, empty_mask, fill, gradient, mix, noise, scale
from carinspect.demo.scenery import draw_house, draw_parked_car, draw_tree
from carinspect.demo.setting import Setting, draw_ground
from carinspect.demo.vehicle import PAINTS


def draw_background(canvas: np.ndarray, place: str, setting: Setting, rng: np.random.Generator) -> None:
    """Draw `place` (a key of PLACES) onto `canvas`, in place."""
    gradient(canvas, top=0, bottom=setting.camera.horizon_px, colours=setting.sky)
    # What no place covers between the horizon and its own ground.
    gradient(canvas, top=setting.camera.horizon_px, bottom=canvas.shape[0], colours=((170, 174, 176), (120, 120, 120)))
    PLACES[place](canvas, setting, rng)


def _street(canvas: np.ndarray, setting: Setting, rng: np.random.Generator) -> None:
    depth_m = rng.uniform(11, 16)
    base, metre = setting.ground_row(depth_m), setting.scale_at(depth_m)
    x = -rng.uniform(0, 120.0)
    while x < canvas.shape[1]:
        width = metre * rng.uniform(5, 11)
        draw_house(canvas, setting, rng, left=x, right=x + width, base=base, height=metre * rng.uniform(5, 9))
        x += width + (metre * rng.uniform(1, 4) if rng.random() < 0.4 else 0)
    for _ in range(rng.integers(0, 3)):
        draw_tree(canvas, setting, rng, x=rng.uniform(0, canvas.shape[1]), base=base, height=metre * rng.uniform(3, 6))
    draw_ground(canvas, setting, rng, top=base, colour=(150, 148, 142), grain=8)
    kerb = setting.ground_row(depth_m - 2.5)
    draw_ground(canvas, setting, rng, top=kerb, colour=(98, 98, 102), grain=11)
    box(canvas, left=0, right=canvas.shape[1], top=kerb - 3, bottom=kerb + 3, colour=(236, 239, 243) if setting.snow else (176, 174, 168))
    if rng.random() < 0.6:
        draw_parked_car(canvas, setting, rng, x=rng.uniform(0, canvas.shape[1]), depth_m=depth_m - 1.5)
    if rng.random() < 0.5:
        post = rng.uniform(0, canvas.shape[1])
        box(canvas, left=post - 3, right=post + 3, top=base - 4.5 * metre, bottom=base + 4, colour=(84, 88, 92))


def _car_park(canvas: np.ndarray, setting: Setting, rng: np.random.Generator) -> None:
    depth_m = rng.uniform(18, 30)
    base, metre = setting.ground_row(depth_m), setting.scale_at(depth_m)
    for _ in range(rng.integers(5, 12)):
        draw_tree(canvas, setting, rng, x=rng.uniform(0, canvas.shape[1]), base=base, height=metre * rng.uniform(4, 9))
    if rng.random() < 0.5:
        left = rng.uniform(-0.2, 0.7) * canvas.shape[1]
        draw_house(canvas, setting, rng, left=left, right=left + metre * rng.uniform(10, 20), base=base, height=metre * rng.uniform(4, 7))
    draw_ground(canvas, setting, rng, top=base, colour=(112, 112, 114), grain=12)
    for _ in range(rng.integers(1, 4)):
        draw_parked_car(canvas, setting, rng, x=rng.uniform(0, canvas.shape[1]), depth_m=depth_m - rng.uniform(2, 6))
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
    draw_ground(canvas, setting, rng, top=base, colour=(130, 130, 128), grain=7)
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
        draw_tree(canvas, setting, rng, x=rng.uniform(0, width), base=base, height=metre * rng.uniform(3, 8))
    grass: list[Colour] = [(104, 126, 66), (118, 130, 84), (88, 114, 70)]
    draw_ground(canvas, setting, rng, top=horizon + 6, colour=grass[rng.integers(len(grass))], grain=20)
    if rng.random() < 0.5:
        fence, metre = setting.ground_row(13), setting.scale_at(13)
        for x in np.arange(rng.uniform(0, metre), width, metre * 2):
            box(canvas, left=x - 3, right=x + 3, top=fence - metre, bottom=fence, colour=(86, 84, 80))
        for rail in (0.45, 0.85):
            box(canvas, left=0, right=width, top=fence - metre * rail - 2, bottom=fence - metre * rail + 2, colour=(100, 98, 94))
    draw_ground(canvas, setting, rng, top=setting.ground_row(10), colour=(124, 124, 118), grain=15)


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
    draw_ground(canvas, setting, rng, top=base, colour=(114, 114, 112), grain=13)


PLACES: dict[str, Callable[[np.ndarray, Setting, np.random.Generator], None]] = {
    "street": _street, "car park": _car_park, "garage": _garage, "field": _field, "wall": _wall,
}  # fmt: skip
