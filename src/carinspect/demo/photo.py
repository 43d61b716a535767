"""Owns composing one photo from its layers, and the masks that tell the truth about it."""

from dataclasses import dataclass

import cv2
import numpy as np

from carinspect.demo.brush import SUPERSAMPLE, Colour
from carinspect.demo.camera import Camera, fit_camera
from carinspect.demo.coachwork import draw_car
from carinspect.demo.damage import draw_damage
from carinspect.demo.dirt import draw_dirt
from carinspect.demo.light import apply_light, apply_sensor
from carinspect.demo.places import draw_background
from carinspect.demo.plan import PhotoPlan
from carinspect.demo.setting import Setting, draw_shadow
from carinspect.demo.vehicle import Parts
from carinspect.demo.weather import add_flakes, add_haze, add_rain, draw_snow_on_car, draw_wet_ground

SKIES: dict[str, tuple[Colour, Colour]] = {
    "sun": ((92, 146, 214), (198, 220, 238)),
    "overcast": ((168, 176, 186), (206, 210, 214)),
    "dusk": ((70, 84, 134), (222, 184, 190)),
    "indoor": ((120, 122, 122), (170, 170, 166)),
}


@dataclass(frozen=True)
class Picture:
    """A drawn photo, uint8 RGB (H, W, 3), with masks (uint8 0 or 255) of SUPERSAMPLE times its height and width."""

    pixels: np.ndarray
    vehicle: np.ndarray
    marks: tuple[tuple[str, np.ndarray], ...]
    """Class and mask of each damaged place and each kind of dirt that can be seen."""


def draw_photo(plan: PhotoPlan) -> Picture:
    """Draw `plan`. A pure function of it."""
    canvas = np.zeros((plan.height_px * SUPERSAMPLE, plan.width_px * SUPERSAMPLE, 3), np.uint8)
    body = plan.subject.car.body
    camera = fit_camera(
        body, yaw_rad=plan.yaw_rad, distance_m=plan.distance_m, height_m=plan.eye_height_m, canvas=canvas.shape[:2], fill=plan.fill,
        offset=plan.offset, mirrored=plan.mirrored,
    )  # fmt: skip
    sky = SKIES[plan.light]
    setting = Setting(camera=camera, sky=sky, snow=plan.weather == "snow", wet=plan.weather == "rain")
    draw_background(canvas, plan.place, setting, plan.rng("background"))
    drift_m = float(plan.rng("shadow").uniform(-0.5, 0.5)) if plan.light == "sun" else 0.0
    depth = 0.72 if plan.light == "sun" else 0.5
    draw_shadow(canvas, camera, half_length_m=body.half_length_m, half_width_m=body.width_m / 2, drift_m=drift_m, depth=depth)
    parts, marks = _draw_subject(canvas, plan, camera, sky[1])
    if plan.weather == "rain":
        draw_wet_ground(canvas, camera, plan.rng("wet ground"))
    canvas, vehicle, *turned = _turn([canvas, parts.vehicle, *(mask for _, mask in marks)], plan.tilt_deg)
    picture = cv2.resize(canvas, (plan.width_px, plan.height_px), interpolation=cv2.INTER_AREA).astype(np.float32)
    share = cv2.resize(vehicle, (plan.width_px, plan.height_px), interpolation=cv2.INTER_AREA) / np.float32(255)
    picture = apply_light(picture, plan)
    picture = _add_weather(picture, share, plan)
    pixels = apply_sensor(picture, plan)
    kept = [(name, np.where(mask > 127, 255, 0).astype(np.uint8)) for (name, _), mask in zip(marks, turned, strict=True)]
    return Picture(pixels, np.where(vehicle > 127, 255, 0).astype(np.uint8), tuple((name, mask) for name, mask in kept if mask.any()))


def _draw_subject(canvas: np.ndarray, plan: PhotoPlan, camera: Camera, sky: Colour) -> tuple[Parts, list[tuple[str, np.ndarray]]]:
    car = plan.subject.car
    parts = draw_car(canvas, car, camera, sky=sky)
    marks: list[tuple[str, np.ndarray]] = []
    if plan.subject.dirt is not None:
        marks.extend(draw_dirt(canvas, plan.subject.dirt, car, parts).items())
    if plan.weather == "snow":
        draw_snow_on_car(canvas, car, camera, parts, plan.rng("snow on car"))
        marks = [(name, cv2.subtract(mask, parts.tops)) for name, mask in marks]
    # Last, for a scratch cuts through the dirt as well.
    marks.extend((damage.kind, draw_damage(canvas, damage, car, camera, parts)) for damage in plan.subject.damages)
    return parts, marks


def _turn(layers: list[np.ndarray], degrees: float) -> list[np.ndarray]:
    height, width = layers[0].shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    borders = [cv2.BORDER_REPLICATE] + [cv2.BORDER_CONSTANT] * (len(layers) - 1)
    return [
        cv2.warpAffine(layer, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)
        for layer, border in zip(layers, borders, strict=True)
    ]


def _add_weather(picture: np.ndarray, vehicle: np.ndarray, plan: PhotoPlan) -> np.ndarray:
    rng = plan.rng("weather")
    density = float(rng.uniform(0, 1))
    match plan.weather:
        case "rain":
            return add_rain(picture, density=density, rng=rng)
        case "fog" | "sand":
            return add_haze(picture, vehicle, weather=plan.weather, density=density, rng=rng)
        case "snow":
            return add_flakes(picture, density=density, rng=rng)
        case "clear":
            return picture
