"""Fifteen corruptions of a photo at five severities each.

Names and strengths are those of Hendrycks and Dietterich (2019), "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (arXiv:1903.12261); lengths in pixels are for their side of 224 and are scaled to the photo's. Three differ: `fog` takes its
patches from noise of several sizes; `rain` (haze and streaks) and `night` (little light, the noise of Foi et al. 2008, "Practical
Poissonian-Gaussian Noise Modeling and Fitting for Single-Image Raw-Data") are not theirs. Glass blur, frost and elastic are left out.

Shapes: S pixels a side, RGB. Inside, photos are float32, 0..1.
"""

from collections.abc import Callable

import cv2
import numpy as np

from carinspect.core.seeds import derive_seed

SEVERITIES = (1, 2, 3, 4, 5)
SIDE_PX = 224

Change = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def corrupt(photo_SS3: np.ndarray, kind: str, severity: int, *, digest: str) -> np.ndarray:
    """The photo, uint8 (S, S, 3), after the corruption `kind`, a key of `CORRUPTIONS`, at the severity 1..5.

    What it draws depends on the photo's SHA-256 `digest`, on kind and severity alone.
    """
    random = np.random.default_rng(derive_seed("corruption", digest, kind, severity))
    changed = CORRUPTIONS[kind](photo_SS3.astype(np.float32) / 255, severity - 1, random)
    return (np.clip(changed, 0, 1) * 255 + 0.5).astype(np.uint8)


# ---- noise


def _gaussian_noise(photo: np.ndarray, level: int, random: np.random.Generator) -> np.ndarray:
    return photo + (0.08, 0.12, 0.18, 0.26, 0.38)[level] * random.standard_normal(photo.shape, np.float32)


def _shot_noise(photo: np.ndarray, level: int, random: np.random.Generator) -> np.ndarray:
    photons = (60, 25, 12, 5, 3)[level]
    return random.poisson(photo * photons).astype(np.float32) / photons


def _impulse_noise(photo: np.ndarray, level: int, random: np.random.Generator) -> np.ndarray:
    amount, draw = (0.03, 0.06, 0.09, 0.17, 0.27)[level], random.random(photo.shape, np.float32)
    return np.where(draw < amount / 2, np.float32(0), np.where(draw > 1 - amount / 2, np.float32(1), photo))


# ---- blur


def _gaussian_blur(photo: np.ndarray, level: int, _: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(photo, (0, 0), (1, 2, 3, 4, 6)[level] * _scale(photo))


def _defocus(photo: np.ndarray, level: int, _: np.random.Generator) -> np.ndarray:
    radius_px = (3, 4, 6, 8, 10)[level] * _scale(photo)
    reach = np.arange(-np.ceil(radius_px), np.ceil(radius_px) + 1)
    # The rim falls over one pixel, so that a radius need not be whole.
    disk = np.clip(radius_px + 0.5 - np.hypot(reach[:, None], reach), 0, 1)
    return cv2.filter2D(photo, -1, (disk / disk.sum()).astype(np.float32), borderType=cv2.BORDER_REFLECT_101)


def _motion(photo: np.ndarray, level: int, random: np.random.Generator) -> np.ndarray:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    return _smear(photo, radius * _scale(photo), sigma * _scale(photo), random.uniform(-45, 45))


def _zoom(photo: np.ndarray, level: int, _: np.random.Generator) -> np.ndarray:
    most, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    factors = np.arange(1, most, step)
    side, centre = photo.shape[0], (photo.shape[0] - 1) / 2
    zoomed = [
        cv2.warpAffine(
            photo, np.array([[by, 0, (1 - by) * centre], [0, by, (1 - by) * centre]], np.float32), (side, side), flags=cv2.INTER_LINEAR
        )
        for by in factors
    ]
    return (photo + np.sum(zoomed, axis=0)) / (len(factors) + 1)


# ---- weather


def _snow(photo: np.ndarray, level: int, random: np.random.Generator) -> np.ndarray:
    mean, spread, zoom, floor, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]  # fmt: skip
    side, by = photo.shape[0], _scale(photo)
    cells = max(2, round(side / max(1.0, zoom * by)))
    flakes = cv2.resize(random.normal(mean, spread, (cells, cells)).astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    flakes = _smear(np.clip(np.where(flakes < floor, 0, flakes), 0, 1).astype(np.float32), radius * by, sigma * by, random.uniform(45, 135))
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None]
    pale = kept * photo + (1 - kept) * np.maximum(photo, 1.5 * grey + 0.5)
    return pale + (flakes + np.rot90(flakes, 2))[..., None]


def _rain(photo: np.ndarray, level: int, random: np.random.Generator) -> np.ndarray:
    streaks, air = ((60, 0.1), (120, 0.18), (180, 0.26), (260, 0.34), (360, 0.42))[level]
    side, slant = photo.shape[0], random.uniform(-0.3, 0.3)
    drawn = np.zeros(photo.shape[:2], np.uint8)
    starts = random.uniform(-0.1, 1, (streaks, 2)) * side
    falls = random.uniform(0.04, 0.12, streaks) * side
    for (x, y), fall in zip(starts, falls, strict=True):
        # OpenCV draws in sixteenths of a pixel.
        points = [(int(16 * x), int(16 * y)), (int(16 * (x + slant * fall)), int(16 * (y + fall)))]
        cv2.line(drawn, points[0], points[1], 110, max(1, round(side / 224)), cv2.LINE_AA, shift=4)
    share = cv2.blur(drawn, (1, 3)).astype(np.float32)[..., None] / 255
    hazy = (1 - air) * photo + air * np.float32(0.5)
    return hazy * (1 - share) + share * np.float32(0.85)


def _fog(photo: np.ndarray, level: int, random: np.random.Generator) -> np.ndarray:
    density, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[level]
    side, brightest = photo.shape[0], photo.max()
    patches, strength = np.zeros((side, side), np.float32), 1.0
    for cells in (2, 4, 8, 16, 32, 64):
        noise = random.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
        patches += np.float32(strength) * cv2.resize(noise, (side, side), interpolation=cv2.INTER_LINEAR)
        strength /= decay
    patches = (patches - patches.min()) / np.ptp(patches)
    return (photo + density * patches[..., None]) * brightest / (brightest + density)


def _brightness(photo: np.ndarray, level: int, _: np.random.Generator) -> np.ndarray:
    hsv = cv2.cvtColor(photo, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + (0.1, 0.2, 0.3, 0.4, 0.5)[level], 0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _night(photo: np.ndarray, level: int, random: np.random.Generator) -> np.ndarray:
    light, photons = (0.5, 0.35, 0.25, 0.17, 0.1)[level], 120
    dark = random.poisson(photo * (light * photons)).astype(np.float32) / photons
    return dark + 0.015 * random.standard_normal(photo.shape, np.float32)


# ---- digital


def _contrast(photo: np.ndarray, level: int, _: np.random.Generator) -> np.ndarray:
    mean = photo.mean(axis=(0, 1), keepdims=True)
    return (photo - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean


def _pixelate(photo: np.ndarray, level: int, _: np.random.Generator) -> np.ndarray:
    side = photo.shape[0]
    few = max(2, int(side * (0.6, 0.5, 0.4, 0.3, 0.25)[level]))
    return cv2.resize(cv2.resize(photo, (few, few), interpolation=cv2.INTER_AREA), (side, side), interpolation=cv2.INTER_NEAREST)


def _jpeg(photo: np.ndarray, level: int, _: np.random.Generator) -> np.ndarray:
    pixels = np.ascontiguousarray((photo * 255 + 0.5).astype(np.uint8)[..., ::-1])
    content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, (25, 18, 15, 10, 7)[level]])[1]
    decoded = cv2.imdecode(content, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded[..., ::-1].astype(np.float32) / 255


CORRUPTIONS: dict[str, Change] = {
    "gaussian_noise": _gaussian_noise, "shot_noise": _shot_noise, "impulse_noise": _impulse_noise,
    "defocus": _defocus, "motion": _motion, "zoom": _zoom, "gaussian_blur": _gaussian_blur,
    "snow": _snow, "rain": _rain, "fog": _fog, "brightness": _brightness, "night": _night,
    "contrast": _contrast, "pixelate": _pixelate, "jpeg": _jpeg,
}  # fmt: skip


def _scale(photo: np.ndarray) -> float:
    return photo.shape[0] / SIDE_PX


def _smear(picture: np.ndarray, radius_px: float, sigma_px: float, degrees: float) -> np.ndarray:
    """Motion to one side: a half Gaussian of the width `sigma_px` along a line of the length `radius_px`."""
    reach = int(np.ceil(radius_px)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    steps = np.arange(0, radius_px + 1e-6, 0.25)
    x, y = reach + steps * np.cos(np.deg2rad(degrees)), reach + steps * np.sin(np.deg2rad(degrees))
    weights = np.exp(-0.5 * (steps / sigma_px) ** 2)
    for across, down in ((0, 0), (0, 1), (1, 0), (1, 1)):
        column, row = np.floor(x).astype(int) + across, np.floor(y).astype(int) + down
        np.add.at(kernel, (row, column), weights * (1 - np.abs(x - column)) * (1 - np.abs(y - row)))
    return cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
