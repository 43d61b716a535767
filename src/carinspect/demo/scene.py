"""Chooses at random what a photo shows: the car, its damage and dirt, the place, the light, the weather, the camera."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from carinspect.core.seeds import derive_seed
from carinspect.demo.brush import scale
from carinspect.demo.car_drawing import PAINTS, Car
from carinspect.demo.geometry import BODIES, Body, vary
from carinspect.demo.marks import Damage, Dirt, Kind

Weather = Literal["clear", "rain", "fog", "snow", "sand"]

OUTDOORS: tuple[Weather, ...] = ("clear", "rain", "fog", "snow")
"""What the project asks about; blown sand is there to be ignored."""

Light = Literal["sun", "overcast", "dusk", "indoor"]

Place = Literal["street", "car park", "field", "wall", "garage"]

SEVERITY: dict[str, float] = {"scratch": 1.0, "dent": 1.5, "rust": 1.5, "broken": 2.0, "dirt": 1.0, "mud": 1.0}
"""How the made-up inspector marks a photo: 1 - sum of severity x sqrt(share of the car). The numbers of params.yaml."""

_DAMAGE_LOSS = (0.35, 0.8)
"""Least and largest sum of severity x sqrt(share) that a damaged car is drawn with."""

_FRAMES: tuple[tuple[int, int], ...] = ((320, 240), (320, 240), (320, 240), (320, 214), (336, 252), (300, 225), (288, 288), (240, 320))
"""Width and height of the photos, in pixels; a size that stands here more often is drawn more often."""


@dataclass(frozen=True)
class Subject:
    """A car and its state, which its photos share."""

    car: Car
    damages: tuple[Damage, ...]
    dirt: Dirt | None


def choose_subject(seed: int, *, dirty: bool, damaged: bool) -> Subject:
    """A car; its body and paint do not depend on its state."""
    rng = np.random.default_rng(derive_seed(seed, "car"))
    body = list(BODIES.values())[rng.integers(len(BODIES))]
    body = vary(body, length=rng.uniform(0.95, 1.05), height=rng.uniform(0.96, 1.05), wheels=rng.uniform(0.94, 1.05))
    red, green, blue = (float(np.clip(channel + rng.normal(0, 9), 14, 238)) for channel in PAINTS[rng.integers(len(PAINTS))])
    rim = scale((198, 200, 204), rng.uniform(0.35, 1.05))
    car = Car(seed=derive_seed(seed, "maker"), body=body, paint=(red, green, blue), rim=rim, spokes=int(rng.integers(5, 9)))
    damages = _choose_damages(derive_seed(seed, "damage"), body) if damaged else ()
    return Subject(car=car, damages=damages, dirt=_choose_dirt(derive_seed(seed, "dirt")) if dirty else None)


def _choose_dirt(seed: int) -> Dirt:
    rng = np.random.default_rng(seed)
    share = float(rng.uniform(0.35, 0.85))
    mud = share * rng.uniform(0.15, 0.4) if rng.random() < 0.35 else 0.0
    opacity, splash = float(rng.uniform(0.82, 0.96)), float(rng.uniform(0.2, 1.0))
    return Dirt(seed=derive_seed(seed, "layer"), share=share, mud=mud, opacity=opacity, splash=splash)


def _choose_damages(seed: int, body: Body) -> tuple[Damage, ...]:
    """One or two kinds in one or two places each, no two on top of each other; their marks add up to a draw from `_DAMAGE_LOSS`.

    Few kinds, since the square root of the area makes many small places of many kinds as costly as one large place.
    """
    rng = np.random.default_rng(seed)
    loss = rng.uniform(*_DAMAGE_LOSS)
    kinds: list[Kind] = ["dent", "rust", "broken", "scratch"]
    # A scratch that cost more would be larger than the side.
    order = [kinds[index] for index in rng.permutation(4 if loss < 0.45 else 3)]
    losses = loss * (np.array([0.6, 0.4]) if rng.random() < 0.3 else np.array([1.0]))
    car_area_m2 = 0.72 * 2 * body.half_length_m * body.height_m
    placed: list[Damage] = []
    for kind, part in zip(order, losses, strict=False):
        places = int(rng.integers(1, 3))
        area_m2 = car_area_m2 * (part / SEVERITY[kind]) ** 2 / places
        for _ in range(places):
            # Where forty tries find no room beside the others, the car has one place less.
            for _ in range(40):
                damage = _choose_damage(kind, area_m2, body, rng)
                if all(_apart(damage, other) for other in placed):
                    placed.append(damage)
                    break
    return tuple(placed)


def _apart(first: Damage, second: Damage) -> bool:
    return abs(first.x_m - second.x_m) > 1.1 * (first.half_length_m + second.half_length_m)


def _choose_damage(kind: Kind, area_m2: float, body: Body, rng: np.random.Generator) -> Damage:
    panel = (body.belt_m - body.sill_m - 0.08) / 2
    elongation = rng.uniform(1.8, 3.2) if kind == "scratch" else rng.uniform(0.9, 1.6)
    # A superellipse with exponent 3 covers 3.53 times the product of its half axes.
    half_height = min(np.sqrt(area_m2 / 3.53 / elongation), panel)
    half_length = min(area_m2 / 3.53 / half_height, body.half_length_m * 0.6)
    reach = body.half_length_m * 0.97 - half_length
    # Parts break at the ends of a car; the rest happens anywhere.
    x = rng.choice([-1, 1]) * reach * rng.uniform(0.85, 1.0) if kind == "broken" else rng.uniform(-reach, reach) * 0.97
    low = body.sill_m + 0.04 + half_height
    high = body.belt_m - 0.04 - half_height
    # Above the wheels: what an arch cuts away is not there to be seen.
    if min(abs(x - wheel) for wheel in body.wheels_x_m) < half_length + body.wheel_radius_m:
        low = min(high, max(low, 1.9 * body.wheel_radius_m))
    z = rng.uniform(low, max(low, high))
    seed = int(rng.integers(2**62))
    return Damage(kind, seed, x_m=float(x), z_m=float(z), half_length_m=float(half_length), half_height_m=float(half_height))


@dataclass(frozen=True)
class PhotoPlan:
    """One photo. Every layer draws from `derive_seed(seed, layer)`, so that leaving out one leaves the others as they are."""

    seed: int
    subject: Subject
    width_px: int
    height_px: int
    yaw_rad: float
    distance_m: float
    eye_height_m: float
    fill: float
    offset: tuple[float, float]
    tilt_deg: float
    mirrored: bool
    place: Place
    light: Light
    weather: Weather
    quality: int

    def rng(self, layer: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, layer))


def choose_photo_plan(seed: int, subject: Subject, *, weather: Weather | None = None, cut: bool = False) -> PhotoPlan:
    """A photo of `subject`. With `weather` None it is drawn, mostly clear; with `cut` the frame's edge cuts the car."""
    rng = np.random.default_rng(derive_seed(seed, "photo"))
    # Drawn always, so that what follows does not depend on whether it was given.
    drawn = OUTDOORS[rng.choice(4, p=(0.49, 0.17, 0.17, 0.17))]
    weather = weather or drawn
    width_px, height_px = _FRAMES[rng.integers(len(_FRAMES))]
    yaw = 0.0 if rng.random() < 0.3 else rng.choice([-1, 1]) * rng.uniform(0.1, 0.8)
    place: Place = ("street", "car park", "field", "wall", "garage")[rng.choice(5, p=(0.27, 0.22, 0.2, 0.2, 0.11))]
    if place == "garage" and weather != "clear":
        place = "street"
    light: Light = "indoor"
    if place != "garage":
        light = ("sun", "overcast", "dusk")[rng.choice(3, p=(0.5, 0.3, 0.2) if weather == "clear" else (0.0, 0.75, 0.25))]
    fill = rng.uniform(0.72, 0.88) if width_px > height_px else rng.uniform(0.8, 0.92)
    offset = (rng.uniform(-0.06, 0.06), rng.uniform(0.0, 0.1))
    if cut:
        offset = (float(rng.choice([-1, 1])) * (0.62 - fill / 2), offset[1])
    return PhotoPlan(
        seed=seed, subject=subject, width_px=width_px, height_px=height_px, yaw_rad=float(yaw + rng.normal(0, 0.03)),
        distance_m=float(rng.uniform(6.5, 9.5)), eye_height_m=float(rng.uniform(1.15, 1.9)), fill=float(fill), offset=offset,
        tilt_deg=float(np.clip(rng.normal(0, 1.6), -4, 4)), mirrored=bool(rng.random() < 0.5), place=place, light=light, weather=weather,
        quality=int(rng.integers(76, 93)),
    )  # fmt: skip
