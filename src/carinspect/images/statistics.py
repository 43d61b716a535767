"""Measures a photo without knowing what it shows: its file, colours, light, sharpness."""

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from carinspect.images.decode import ON_ITS_SIDE, orientation

STATISTICS: dict[str, str] = {
    "width_px": "width",
    "height_px": "height",
    "aspect": "width over height",
    "bytes_per_pixel": "bytes per pixel",
    "jpeg_quality": "JPEG quality (0: no JPEG)",
    "grey": "grey or colour",
    "colourfulness": "colourfulness",
    "red": "mean red",
    "green": "mean green",
    "blue": "mean blue",
    "brightness": "mean brightness",
    "contrast": "contrast",
    "sharpness": "sharpness",
    "dark_share": "share of black",
    "bright_share": "share of white",
}
"""Column → the words for it. Colours are 0..255, shares 0..1, `contrast` is the deviation of the grey levels."""

_SEEN_PX = 256  # the longest side at which light and sharpness are measured, so that large photos compare with small ones
_GREY_SPREAD = 2.0  # mean distance of the largest from the smallest channel; JPEG leaves a grey photo below it
_BLACK, _WHITE = 8, 247
# Sums of the quantisation tables of the JPEG standard (ITU-T T.81, annex K.1), which every encoder scales by its quality.
_STANDARD_LUMINANCE_SUM = 3688


def measure_photo(file: Image.Image, photo: Image.Image, *, file_bytes: int) -> dict[str, float]:
    """The `STATISTICS` of one photo: of its opened `file`, which has `file_bytes`, and of `photo`, upright RGB, by `view_photo`."""
    # Pillow opens a TIFF upright.
    turned = orientation(file) in ON_ITS_SIDE and file.format != "TIFF"
    width_px, height_px = file.size[::-1] if turned else file.size
    # Planes, for a sum over three interleaved channels takes ten times as long.
    planes = np.stack([np.asarray(plane, dtype=np.float64) for plane in photo.split()])
    grey = np.asarray(photo.convert("L"))
    red, green, blue = planes.mean(axis=(1, 2))
    return {
        "width_px": float(width_px),
        "height_px": float(height_px),
        "aspect": width_px / height_px,
        "bytes_per_pixel": file_bytes / (width_px * height_px),
        "jpeg_quality": jpeg_quality(file),
        "grey": float((planes.max(axis=0) - planes.min(axis=0)).mean() < _GREY_SPREAD),
        "colourfulness": colourfulness(planes),
        "red": float(red),
        "green": float(green),
        "blue": float(blue),
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "sharpness": float(cv2.Laplacian(grey, cv2.CV_64F).var()),
        "dark_share": float((grey <= _BLACK).mean()),
        "bright_share": float((grey >= _WHITE).mean()),
    }


def view_photo(photo: Image.Image) -> Image.Image:
    """A copy that is small enough for large and small photos to compare."""
    seen = photo.copy()
    seen.thumbnail((_SEEN_PX, _SEEN_PX), Image.Resampling.BILINEAR)
    return seen


def colourfulness(planes: npt.NDArray[np.float64]) -> float:
    """0 for grey, about 100 for the most colourful. planes: red, green and blue, 0..255, (3, H, W).

    M3 of Hasler and Suesstrunk (2003), "Measuring colourfulness in natural images", section 7.
    """
    red, green, blue = planes
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    deviation = np.hypot(red_green.std(), yellow_blue.std())
    return float(deviation + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def jpeg_quality(file: Image.Image) -> float:
    """The quality, 1..100, that the file's luminance table comes from in the scale of the IJG's encoder; 0 for other formats.

    jcparam.c, `jpeg_quality_scaling`: a table is the standard one times 5000 / quality percent below 50, 200 - 2 x quality from there on.
    Below 24 entries are cut at 255, and the quality is read too high: 15 for 10.
    """
    tables = getattr(file, "quantization", None)
    if not tables:
        return 0.0
    percent = 100.0 * sum(tables[min(tables)]) / _STANDARD_LUMINANCE_SUM
    quality = (200.0 - percent) / 2 if percent <= 100 else 5000.0 / percent
    return float(np.clip(round(quality), 1, 100))
