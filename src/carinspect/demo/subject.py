"""Owns the draw of a car and its state: which car, what is damaged, how dirty."""

from dataclasses import dataclass

import numpy as np

from carinspect.core.seeds import derive_seed
from carinspect.demo.bodies import BODIES, Body, vary
from carinspect.demo.brush import scale
from carinspect.demo.damage import Damage, Kind
from carinspect.demo.dirt import Dirt
from carinspect.demo.vehicle import PAINTS, Car

SEVERITY: dict[str, float] = {"scratch": 1.0, "dent": 1.5, "rust": 1.5, "broken": 2.0, "dirt": 1.0, "mud": 1.0}
"""How the made-up inspector marks a photo: 1 - sum of severity x sqrt(share of the car). The numbers of params.yaml."""

_DAMAGE_LOSS = (0.25, 0.8)
"""Least and largest sum of severity x sqrt(share) that a damaged car is drawn with."""


@dataclass(frozen=True)
class Subject:
    """A car and its state, which its photos share."""

    car: Car
    damages: tuple[Damage, ...]
    dirt: Dirt | None


def draw_subject(seed: int, *, dirty: bool, damaged: bool) -> Subject:
    """A car; its body and paint do not depend on its state."""
    rng = np.random.default_rng(derive_seed(seed, "car"))
    names = list(BODIES)
    body = vary(
        BODIES[names[rng.integers(len(names))]],
        length=rng.uniform(0.95, 1.05),
        height=rng.uniform(0.96, 1.05),
        wheels=rng.uniform(0.94, 1.05),
    )
    red, green, blue = (float(np.clip(channel + rng.normal(0, 9), 14, 238)) for channel in PAINTS[rng.integers(len(PAINTS))])
    rim = scale((198, 200, 204), rng.uniform(0.35, 1.05))
    car = Car(seed=derive_seed(seed, "maker"), body=body, paint=(red, green, blue), rim=rim, spokes=int(rng.integers(5, 9)))
    damages = _draw_damages(derive_seed(seed, "damage"), body) if damaged else ()
    return Subject(car=car, damages=damages, dirt=_draw_dirt(derive_seed(seed, "dirt")) if dirty else None)


def _draw_dirt(seed: int) -> Dirt:
    rng = np.random.default_rng(seed)
    share = float(rng.uniform(0.2, 0.85))
    mud = share * rng.uniform(0.15, 0.4) if rng.random() < 0.35 else 0.0
    return Dirt(
        seed=derive_seed(seed, "layer"), share=share, mud=mud, opacity=float(rng.uniform(0.82, 0.96)), splash=float(rng.uniform(0.2, 1.0))
    )


def _draw_damages(seed: int, body: Body) -> tuple[Damage, ...]:
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
            _add_apart(placed, kind, area_m2, body, rng)
    return tuple(placed)


def _add_apart(placed: list[Damage], kind: Kind, area_m2: float, body: Body, rng: np.random.Generator) -> None:
    """Add a place that touches no other; where forty tries find no room, the car has one place less."""
    for _ in range(40):
        damage = _place(kind, area_m2, body, rng)
        if all(_apart(damage, other) for other in placed):
            placed.append(damage)
            return


def _place(kind: Kind, area_m2: float, body: Body, rng: np.random.Generator) -> Damage:
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
    return Damage(
        kind=kind,
        seed=int(rng.integers(2**62)),
        x_m=float(x),
        z_m=float(z),
        half_length_m=float(half_length),
        half_height_m=float(half_height),
    )


def _apart(first: Damage, second: Damage) -> bool:
    return abs(first.x_m - second.x_m) > 1.1 * (first.half_length_m + second.half_length_m)
