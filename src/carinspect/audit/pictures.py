"""Owns the small pictures of the report: photos with their outlines drawn, as text that stands in the page itself."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from carinspect.core.errors import UserError
from carinspect.images.decode import PhotoError, decode_photo

Outlines = Mapping[str, Sequence[tuple[str, str, Sequence[np.ndarray]]]]
"""image_path → (kind, class, lines): closed lines, float (points, 2), x and y as shares of the photo's width and height."""

COLOURS = {"vehicle": "#4cc9f0", "damage": "#ff2e63", "dirt": "#ffd23f"}
"""Of the outlines, by kind."""

PICTURE_PX = 176
_QUALITY = 72
_DRAWN_TWICE = 2  # lines are drawn at twice the size, so that they come out smooth


def draw_picture(root: Path, image_path: str, outlines: Outlines) -> str:
    """The photo at `root / image_path`, its longer side `PICTURE_PX`, as a data URI of a JPEG. Raises `UserError` if unreadable."""
    try:
        photo = decode_photo(root / image_path, at_least_px=_DRAWN_TWICE * PICTURE_PX)
    except PhotoError as error:
        raise UserError(f"{root / image_path}: {error}. The table knows it as sound: restore it, or run dvc repro.") from None
    scale = _DRAWN_TWICE * PICTURE_PX / max(photo.size)
    photo = photo.resize((max(2, round(photo.width * scale)), max(2, round(photo.height * scale))), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(photo)
    # The vehicle first: a mark on it must not be hidden.
    for kind, _, lines in sorted(outlines.get(image_path, ()), key=lambda outline: outline[0] != "vehicle"):
        for line in lines:
            corners = [(float(x) * photo.width, float(y) * photo.height) for x, y in [*line, line[0]]]
            draw.line(corners, fill=COLOURS[kind], width=2 * _DRAWN_TWICE if kind == "damage" else _DRAWN_TWICE, joint="curve")
    photo = photo.resize((max(1, photo.width // _DRAWN_TWICE), max(1, photo.height // _DRAWN_TWICE)), Image.Resampling.BOX)
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
