"""Draws one photo: place, car, marks, weather, light and sensor; with the masks that tell the truth about it."""

from dataclasses import dataclass

import cv2
import numpy as np

from carinspect.demo.brush import SUPERSAMPLE, Colour, binary, blend, empty_mask, fill, noise, smoothstep, stroke
from carinspect.demo.car_drawing import Car, Parts, draw_car
from carinspect.demo.geometry import Body, Camera, fit_camera
from carinspect.demo.marks import draw_damage, draw_dirt
from carinspect.demo.places import SKIES, Backdrop
from carinspect.demo.scene import PhotoPlan

_TINT = {"sun": (1.10, 1.08, 1.03), "overcast": (0.93, 0.95, 0.97), "dusk": (0.86, 0.78, 0.80), "indoor": (0.92, 0.90, 0.82)}
"""Gain of red, green and blue."""

_SNOW: Colour = (240, 244, 249)


@dataclass(frozen=True)
class Picture:
    """A drawn photo, uint8 RGB (H, W, 3), with masks (uint8 0 or 255) of SUPERSAMPLE times its height and width."""

    pixels: np.ndarray
    vehicle: np.ndarray
    marks: tuple[tuple[str, np.ndarray], ...]
    """Class and mask of each damaged place and each kind of dirt that can be seen."""


def draw_photo(plan: PhotoPlan) -> Picture:
    """Draw `plan`. A pure function of it."""
    size = (plan.width_px, plan.height_px)
    canvas = np.zeros((plan.height_px * SUPERSAMPLE, plan.width_px * SUPERSAMPLE, 3), np.uint8)
    body = plan.subject.car.body
    camera = fit_camera(
        body, yaw_rad=plan.yaw_rad, distance_m=plan.distance_m, height_m=plan.eye_height_m, mirrored=plan.mirrored, canvas=canvas.shape,
        fill=plan.fill, offset=plan.offset,
    )  # fmt: skip
    sky, sunny = SKIES[plan.light], plan.light == "sun"
    Backdrop(canvas, camera, sky, plan.weather == "snow", plan.weather == "rain", plan.rng("background")).draw(plan.place)
    drift_m = float(plan.rng("shadow").uniform(-0.5, 0.5)) if sunny else 0.0
    _draw_shadow(canvas, body, camera, drift_m=drift_m, depth=0.72 if sunny else 0.5)
    parts, marks = _draw_subject(canvas, plan, camera, sky[1])
    if plan.weather == "rain":
        _draw_wet_ground(canvas, camera, plan.rng("wet ground"))

    matrix = cv2.getRotationMatrix2D((canvas.shape[1] / 2, canvas.shape[0] / 2), plan.tilt_deg, 1.0)

    def tilted(layer: np.ndarray, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
        return cv2.warpAffine(layer, matrix, canvas.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=border)

    picture = cv2.resize(tilted(canvas, cv2.BORDER_REPLICATE), size, interpolation=cv2.INTER_AREA).astype(np.float32)
    vehicle = tilted(parts.vehicle)
    share = cv2.resize(vehicle, size, interpolation=cv2.INTER_AREA) / np.float32(255)
    picture = _add_weather(_add_light(picture, plan), share, plan)
    seen = ((name, binary(tilted(mask))) for name, mask in marks)
    return Picture(_expose(picture, plan), binary(vehicle), tuple((name, mask) for name, mask in seen if mask.any()))


def _draw_shadow(canvas: np.ndarray, body: Body, camera: Camera, *, drift_m: float, depth: float) -> None:
    """The car's shadow on the ground, in place. `drift_m` is how far a low sun pushes it; `depth` 0..1 is how dark it is."""
    angles = np.linspace(0, 2 * np.pi, 48)
    corner = (np.abs(np.cos(angles)) ** 4 + np.abs(np.sin(angles)) ** 4) ** -0.25
    x = corner * np.cos(angles) * (body.half_length_m + 0.05) + drift_m
    y = corner * np.sin(angles) * (body.width_m / 2 + 0.1) + abs(drift_m)
    mask = empty_mask(canvas)
    fill(mask, camera.project(np.stack([x, y, np.zeros_like(x)], axis=1)), 255)
    blend(canvas, (12, 13, 16), cv2.GaussianBlur(mask, (0, 0), 4), depth)


def _draw_subject(canvas: np.ndarray, plan: PhotoPlan, camera: Camera, sky: Colour) -> tuple[Parts, list[tuple[str, np.ndarray]]]:
    """The car, its dirt, the snow on it and its damage; with the class and mask of each mark."""
    car = plan.subject.car
    parts = draw_car(canvas, car, camera, sky=sky)
    marks: list[tuple[str, np.ndarray]] = []
    if plan.subject.dirt is not None:
        marks.extend(draw_dirt(canvas, plan.subject.dirt, car, parts).items())
    if plan.weather == "snow":
        _draw_snow_on_car(canvas, car, camera, parts, plan.rng("snow on car"))
        marks = [(name, cv2.subtract(mask, parts.tops)) for name, mask in marks]
    # Last, for a scratch cuts through the dirt as well.
    marks.extend((damage.kind, draw_damage(canvas, damage, car, camera, parts)) for damage in plan.subject.damages)
    return parts, marks


def _draw_wet_ground(canvas: np.ndarray, camera: Camera, rng: np.random.Generator) -> None:
    """Mirror the scene in the ground in front of the car, in place."""
    line = int(camera.horizon_px + camera.focal_px * camera.height_m / (camera.distance_m - 0.9))
    rows = min(canvas.shape[0] - line, line)
    if rows < 4:
        return
    mirrored = cv2.GaussianBlur(canvas[line - rows : line][::-1], (0, 0), sigmaX=3, sigmaY=9)
    puddles = noise(rng, (rows, canvas.shape[1]), cell_px=(190, 26), octaves=2)
    blend(canvas[line : line + rows], mirrored, 0.35 + 0.4 * smoothstep(0.35, 0.7, puddles))


def _draw_snow_on_car(canvas: np.ndarray, car: Car, camera: Camera, parts: Parts, rng: np.random.Generator) -> None:
    """A white cap on roof, bonnet and boot, in place; the flanks, where damage is judged, stay free."""
    blend(canvas, _SNOW, parts.tops, 0.95)
    edge = np.array([(x, z) for x, z, _ in car.body.profile if z > car.body.belt_m * 0.95])
    cap = empty_mask(canvas)
    for lift_m in (0.0, 0.04):
        stroke(cap, camera.on_side(car.body, edge + (0, lift_m)), 255, width_px=int(rng.integers(6, 11)))
    blend(canvas, _SNOW, cap)


def _add_light(picture: np.ndarray, plan: PhotoPlan) -> np.ndarray:
    """Tint a float32 picture (H, W, 3); under the sun some stand in the dappled shade of a tree, as dark as dirt but none."""
    rng = plan.rng("light")
    lit = picture * np.asarray(_TINT[plan.light], np.float32)
    height, width = picture.shape[:2]
    if plan.light in ("sun", "indoor") and rng.random() < 0.35:
        fall = np.linspace(0, 1, height)[:, None]
        shade = smoothstep(0.5, 0.62, noise(rng, (height, width), cell_px=(90, 70))) * smoothstep(0.25, 0.45, fall)
        lit *= (1 - 0.38 * shade)[..., None].astype(np.float32)
    if plan.light == "dusk" and rng.random() < 0.5:
        # A street lamp warms one side.
        glow = np.exp(-(((np.arange(width) - rng.uniform(0, width)) / (0.4 * width)) ** 2)).astype(np.float32)
        lit += glow[None, :, None] * np.array((34, 24, 8), np.float32)
    return lit


def _add_weather(picture: np.ndarray, vehicle: np.ndarray, plan: PhotoPlan) -> np.ndarray:
    """What hangs in the air. `picture` float32 (H, W, 3); `vehicle` (H, W) is the share 0..1 of each pixel that shows the car."""
    rng = plan.rng("weather")
    density = float(rng.uniform(0, 1))
    match plan.weather:
        case "rain":
            return _add_rain(picture, density, rng)
        case "fog":
            return _add_haze(picture, vehicle, (198, 203, 207), density, rng)
        case "sand":
            return _add_haze(picture, vehicle, (206, 176, 128), density, rng)
        case "snow":
            return _add_flakes(picture, density, rng)
        case "clear":
            return picture


def _add_haze(picture: np.ndarray, vehicle: np.ndarray, colour: Colour, density: float, rng: np.random.Generator) -> np.ndarray:
    """Fog or blown sand: what is far drowns, the car fades."""
    height, width = picture.shape[:2]
    haze = np.array(colour, np.float32) * rng.uniform(0.85, 1.1)
    nearness = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    drift = noise(rng, (height, width), cell_px=(150, 70), octaves=2) - 0.5
    behind = np.clip(0.72 + 0.22 * density - 0.42 * smoothstep(0.62, 1.0, nearness) + 0.12 * drift, 0, 0.95)
    alpha = behind * (1 - vehicle) + (0.16 + 0.18 * density + 0.06 * drift) * vehicle
    return picture + (haze - picture) * alpha[..., None]


def _add_rain(picture: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    """Slanted streaks and a grey veil."""
    height, width = picture.shape[:2]
    picture = picture * 0.86 + np.array((140, 150, 162), np.float32) * 0.10
    streaks = np.zeros((height, width), np.uint8)
    slant = rng.uniform(-0.35, 0.35)
    for _ in range(int((150 + 200 * density) * height * width / 76_800)):
        x, y, length = rng.uniform(0, width), rng.uniform(-10, height), rng.uniform(9, 22)
        stroke(streaks, np.array([(x, y), (x + slant * length, y + length)]), float(rng.integers(90, 200)), width_px=1)
    alpha = cv2.GaussianBlur(streaks, (0, 0), 0.5) / 255.0 * 0.85
    return picture + (np.array((222, 228, 236), np.float32) - picture) * alpha[..., None].astype(np.float32)


def _add_flakes(picture: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    """Snowflakes, near ones large and soft."""
    height, width = picture.shape[:2]
    flakes = np.zeros((height, width), np.uint8)
    count = int((130 + 170 * density) * height * width / 76_800)
    places = rng.uniform((0, 0), (width, height), (count, 2))
    radii = np.where(rng.random(count) < 0.1, rng.uniform(2.0, 3.4, count), rng.uniform(0.7, 1.6, count))
    for (x, y), radius in zip(places, radii, strict=True):
        centre = (round(x * 16), round(y * 16))
        cv2.circle(flakes, centre, round(radius * 16), int(rng.integers(170, 256)), -1, cv2.LINE_AA, 4)
    alpha = cv2.GaussianBlur(flakes, (0, 0), 0.6) / 255.0
    return picture + (np.array((250, 251, 253), np.float32) - picture) * alpha[..., None].astype(np.float32)


def _expose(picture: np.ndarray, plan: PhotoPlan) -> np.ndarray:
    """What a small camera makes of a float32 picture: white balance, vignette, blur, exposure, noise; uint8 (H, W, 3)."""
    rng = plan.rng("sensor")
    height, width = picture.shape[:2]
    balance = rng.normal(1.0, 0.025, 3) * rng.uniform(0.88, 1.16)
    seen = picture * balance.astype(np.float32)
    down, right = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    seen *= (1 - rng.uniform(0.0, 0.2) * (down**2 + right**2) / 2)[..., None].astype(np.float32)
    blur = rng.uniform(0.0, 0.8)
    if blur > 0.3:
        seen = cv2.GaussianBlur(seen, (0, 0), blur)
    seen = 255 * np.clip(seen / 255, 0, 1) ** np.float32(rng.uniform(0.88, 1.12))
    seen += rng.normal(0, rng.uniform(1.0, 4.5), (height, width, 1)).astype(np.float32)
    return np.clip(seen + 0.5, 0, 255).astype(np.uint8)
