"""Simulated rain, fog and snow: which photo gets it, how its weather label changes, and how it is drawn.

Only the air between camera and car changes: haze, streaks, falling flakes. Nothing is drawn on the bodywork, and everything stays visible
(`MIN_TRANSMISSION`), so the labels for dirt and dents stay true. Shapes: H and W pixels of a square photo, W = H.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from carinspect.core.questions import Question
from carinspect.core.seeds import derive_seed
from carinspect.training.config import AugmentParams

CLEAR, RAIN, FOG, SNOW = "clear", "rain", "fog", "snow"

MIN_TRANSMISSION = 0.35
"""Smallest share of the scene's light that passes through the haze, near the camera."""


@dataclass(frozen=True)
class WeatherEffect:
    """The simulated weather of one photo in one epoch."""

    condition: str
    """`RAIN`, `FOG` or `SNOW`."""
    strength: float
    """0..1, from hardly visible to heavy."""
    seed: int
    """Seed of the places of streaks, flakes and patches of fog."""


@dataclass(frozen=True)
class Sky:
    """The question whose labels simulated weather changes; None: only pixels change. Labels are NaN where unknown."""

    question: Question | None

    def label_of(self, labels: dict[str, float]) -> float:
        """The weather label of one photo, from its label columns."""
        return float("nan") if self.question is None else labels[self.question.column]

    def is_open(self, label: float) -> bool:
        """Whether the photo's sky may be clear: its label is clear or unknown."""
        return bool(np.isnan(label)) or (self.question is not None and self.question.classes[int(label)] == CLEAR)

    def effect(self, params: AugmentParams, *, seed: int, epoch: int, image_path: str, label: float) -> WeatherEffect | None:
        """The simulated weather of the photo in this epoch; None when it has none.

        The result depends only on the arguments, so the loader, which changes the pixels, and the ranks, which change the labels, agree.
        A photo labelled with real weather gets none: snow drawn over real rain would be neither.
        """
        if not params.simulates_weather or not self.is_open(label):
            return None
        drawn = derive_seed(seed, "weather", epoch, image_path)
        random = np.random.default_rng(drawn)
        place, strength = random.random(2)
        for condition, upto in zip((RAIN, FOG, SNOW), np.cumsum((params.rain, params.fog, params.snow)), strict=True):
            if place < upto:
                return WeatherEffect(condition, float(strength), drawn)
        return None

    def label_under(self, effect: WeatherEffect | None, label: float, *, sure_from: float) -> float:
        """The label of a photo after `effect`: that of the effect from strength `sure_from` on, NaN (unknown) below it.

        An unknown label stays unknown: the photo may show other, real weather.
        """
        if effect is None or self.question is None or np.isnan(label):
            return label
        return float(self.question.classes.index(effect.condition)) if effect.strength >= sure_from else float("nan")


def find_sky(questions: Sequence[Question]) -> Sky:
    """The first question whose classes include clear, rain, fog and snow."""
    words = {CLEAR, RAIN, FOG, SNOW}
    return Sky(next((question for question in questions if question.kind == "classes" and words <= set(question.classes)), None))


def apply_weather(photo: np.ndarray, effect: WeatherEffect) -> np.ndarray:
    """`photo`, uint8 (H, W, 3), with the effect drawn on it."""
    random = np.random.default_rng(derive_seed(effect.seed, "pixels"))
    match effect.condition:
        case "rain":
            return _rain(photo, effect.strength, random)
        case "fog":
            return _fog(photo, effect.strength, random)
        case "snow":
            return _snow(photo, effect.strength, random)
        case _:
            raise AssertionError(effect)


def _fog(photo: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Dense far away, thin near the camera, in patches."""
    swathes = cv2.resize(random.uniform(-0.2, 0.2, (4, 5)).astype(np.float32), photo.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return _through_air(
        photo, extinction=0.5 + 1.6 * strength, grey=random.uniform(150, 215), dullness=0.3 + 0.4 * strength, swathes=swathes
    )


def _rain(photo: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """A dull light, haze in the distance, and parallel streaks: fine ones far away, a few long ones near."""
    dull = _through_air(photo, extinction=0.15 + 0.7 * strength, grey=random.uniform(100, 150), dullness=0.25 + 0.4 * strength)
    side, slant = photo.shape[0], random.uniform(-0.3, 0.3)
    streaks = np.zeros(photo.shape[:2], np.uint8)
    for count, length, light in ((260, 0.035, 60), (60, 0.10, 95)):
        starts = random.uniform(-0.1, 1.0, (int(count * (0.3 + strength) * _sparsity(side)), 2)) * side
        falls = random.uniform(0.5, 1.5, len(starts)) * length * side
        ends = starts + np.stack([slant * falls, falls], axis=1)
        lights = random.uniform(0.5, 1.3, len(starts)) * light
        for start, end, alpha in zip(_subpixels(starts), _subpixels(ends), lights, strict=True):
            cv2.line(streaks, start, end, alpha, max(1, round(side / 320)), cv2.LINE_AA, shift=_SHIFT)
    return _lighten(dull, cv2.blur(streaks, (1, 3)), colour=(214, 219, 226))


def _snow(photo: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """A pale light, haze in the distance, and flakes: many small ones far away, a few large and blurred ones near."""
    pale = _through_air(photo, extinction=0.2 + 0.9 * strength, grey=random.uniform(195, 225), dullness=0.3 + 0.5 * strength)
    side = photo.shape[0]
    flakes = np.zeros(photo.shape[:2], np.uint8)
    for count, radius, light in ((260, 0.0022, 190), (70, 0.0045, 200), (9, 0.012, 120)):
        layer = np.zeros_like(flakes)
        centres = random.uniform(0, side, (int(count * (0.2 + 0.8 * strength) * _sparsity(side)), 2))
        radii = random.uniform(0.6, 1.4, len(centres)) * radius * side * 2**_SHIFT
        for centre, size in zip(_subpixels(centres), radii, strict=True):
            cv2.circle(layer, centre, int(size), light, -1, cv2.LINE_AA, shift=_SHIFT)
        flakes = np.maximum(flakes, cv2.GaussianBlur(layer, (0, 0), max(0.4, radius * side * 0.6)))
    return _lighten(pale, flakes, colour=(250, 251, 253))


def _through_air(photo: np.ndarray, *, extinction: float, grey: float, dullness: float, swathes: np.ndarray | float = 0.0) -> np.ndarray:
    """The photo through air that scatters light of brightness `grey`; `dullness`: share of the colour lost under a covered sky, 0..1.

    Koschmieder's law: light = scene x transmission + air x (1 - transmission), transmission = exp(-extinction x distance).
    """
    height, width = photo.shape[:2]
    rows, columns = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    # The depth is unknown. The middle, where the car most likely is, and the ground in front are assumed near, the rest far.
    nearness = np.maximum(np.exp(-2.0 * (rows - 0.1) ** 2 - 1.2 * columns**2), np.clip(rows, 0, 1))
    share = np.exp(-extinction * np.clip(1 - 0.65 * nearness + swathes, 0, None)).astype(np.float32)
    share = np.maximum(share, MIN_TRANSMISSION * nearness)[..., None]
    brightness = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None]
    scene = photo * np.float32(1 - dullness) + brightness * np.float32(dullness)
    air = np.array((0.985, 1.0, 1.015), np.float32) * np.float32(grey)
    return np.clip(scene * share + air * (1 - share) + 0.5, 0, 255).astype(np.uint8)


def _lighten(photo: np.ndarray, alpha: np.ndarray, *, colour: tuple[int, int, int]) -> np.ndarray:
    """Blend `colour` over the photo where `alpha`, uint8 (H, W), is above 0."""
    share = (alpha.astype(np.float32) / 255)[..., None]
    return (photo * (1 - share) + np.array(colour, np.float32) * share + 0.5).astype(np.uint8)


def _sparsity(side_px: int) -> float:
    """Factor for the number of streaks or flakes: none is finer than a pixel, so in a small photo as many would cover the car."""
    return min(1.0, side_px / 256)


_SHIFT = 4  # OpenCV draws in sixteenths of a pixel, so that a flake smaller than a pixel is faint instead of a full pixel


def _subpixels(points: np.ndarray) -> list[tuple[int, int]]:
    return [(x, y) for x, y in (points * 2**_SHIFT).astype(int).tolist()]
