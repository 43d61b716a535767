"""Owns what light and camera do to a drawn picture: tint, shade, exposure, white balance, blur, noise, JPEG."""

import io
from typing import Any, Literal

import cv2
import numpy as np
from PIL import ExifTags, Image

from carinspect.demo.brush import noise, smoothstep
from carinspect.demo.plan import PhotoPlan

ImageKind = Literal["JPEG", "PNG", "WEBP"]

_TINT = {"sun": (1.10, 1.08, 1.03), "overcast": (0.93, 0.95, 0.97), "dusk": (0.86, 0.78, 0.80), "indoor": (0.92, 0.90, 0.82)}
"""Gain of red, green and blue."""


def apply_light(picture: np.ndarray, plan: PhotoPlan) -> np.ndarray:
    """Tint a float32 picture (H, W, 3); under the sun some stand in the dappled shade of a tree, as dark as dirt but none."""
    rng = plan.rng("light")
    lit = picture * np.asarray(_TINT[plan.light], np.float32)
    height, width = picture.shape[:2]
    if plan.light in ("sun", "indoor") and rng.random() < 0.35:
        fall = np.linspace(0, 1, height)[:, None]
        shade = smoothstep(0.5, 0.62, noise(rng, (height, width), cell_px=(90, 70), octaves=3)) * smoothstep(0.25, 0.45, fall)
        lit *= (1 - 0.38 * shade)[..., None].astype(np.float32)
    if plan.light == "dusk" and rng.random() < 0.5:
        # A street lamp warms one side.
        glow = np.exp(-(((np.arange(width) - rng.uniform(0, width)) / (0.4 * width)) ** 2)).astype(np.float32)
        lit += glow[None, :, None] * np.array((34, 24, 8), np.float32)
    return lit


def apply_sensor(picture: np.ndarray, plan: PhotoPlan) -> np.ndarray:
    """What a small camera makes of it: uint8 (H, W, 3)."""
    rng = plan.rng("sensor")
    height, width = picture.shape[:2]
    balance = rng.normal(1.0, 0.025, 3) * rng.uniform(0.88, 1.16)
    seen = picture * balance.astype(np.float32)
    down, right = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    seen *= (1 - rng.uniform(0.0, 0.2) * (down**2 + right**2) / 2)[..., None].astype(np.float32)
    blur = rng.uniform(0.0, 0.8)
    if blur > 0.3:
        seen = cv2.GaussianBlur(seen, (0, 0), blur)
    seen = 255 * np.clip(seen / 255, 0, 1) ** np.float32(rng.uniform(0.88, 1.12))
    seen += rng.normal(0, rng.uniform(1.0, 4.5), (height, width, 1)).astype(np.float32)
    return np.clip(seen + 0.5, 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, *, quality: int, kind: ImageKind = "JPEG", orientation: int = 1) -> bytes:
    """The file's bytes. With an EXIF `orientation` other than 1 the pixels must be stored turned already (see `store_turned`)."""
    options: dict[str, Any] = {"quality": quality}
    if kind == "PNG":
        options = {"compress_level": 6}
    if orientation != 1:
        options["exif"] = Image.Exif()
        options["exif"][ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def store_turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Upright pixels as a camera stores them that was held turned. Orientations 3, 6 and 8 of EXIF 2.32, tag 0x0112."""
    # Orientation 6 asks the viewer to turn by 90 degrees clockwise: stored is the opposite turn.
    quarter_turns = {3: 2, 6: 1, 8: 3}[orientation]
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns))
