"""Owns the draw of what makes a photo of a given car: the place, the light, the weather, the camera."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from carinspect.core.seeds import derive_seed
from carinspect.demo.subject import Subject
from carinspect.demo.weather import OUTDOORS, Weather

Light = Literal["sun", "overcast", "dusk", "indoor"]

FRAMES: tuple[tuple[int, int], ...] = ((320, 240), (320, 240), (320, 240), (320, 214), (336, 252), (300, 225), (288, 288), (240, 320))
"""Width and height of the photos, in pixels; a size that stands here more often is drawn more often."""


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
    place: str
    light: Light
    weather: Weather
    quality: int

    def rng(self, layer: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, layer))


def draw_photo_plan(seed: int, subject: Subject, *, weather: Weather | None = None, cut: bool = False) -> PhotoPlan:
    """A photo of `subject`. With `weather` None it is drawn, mostly clear; with `cut` the frame's edge cuts the car."""
    rng = np.random.default_rng(derive_seed(seed, "photo"))
    drawn = OUTDOORS[rng.choice(4, p=(0.49, 0.17, 0.17, 0.17))]
    weather = weather or drawn
    width_px, height_px = FRAMES[rng.integers(len(FRAMES))]
    yaw = 0.0 if rng.random() < 0.3 else rng.choice([-1, 1]) * rng.uniform(0.1, 0.8)
    place = ("street", "car park", "field", "wall", "garage")[rng.choice(5, p=(0.27, 0.22, 0.2, 0.2, 0.11))]
    if place == "garage" and weather != "clear":
        place = "street"
    light: Light = (
        "indoor"
        if place == "garage"
        else ("sun", "overcast", "dusk")[rng.choice(3, p=(0.5, 0.3, 0.2) if weather == "clear" else (0.0, 0.75, 0.25))]
    )
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
