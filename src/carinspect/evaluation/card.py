"""Owns one card of the gallery: a photo, and the four answers under it as bars."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from carinspect.core.errors import UserError
from carinspect.core.tasks import LABEL_COLUMN, WEATHER_CLASSES, Task
from carinspect.evaluation.answers import WEATHER_PROBABILITIES
from carinspect.images.decode import PhotoError, decode_photo

PHOTO_PX = (240, 180)
CARD_WIDTH_PX = PHOTO_PX[0]
HEAD_PX = 24
ROW_PX = 19

INK, SOFT, TRACK, FRAME = "#1a202c", "#5f6875", "#e8ebef", "#f4f5f7"
COLORS: dict[Task, str] = {"clean": "#2b8a9e", "cleanliness": "#4c9f70", "damage": "#d98032", "weather": "#6b74c4"}

Row = Mapping[str, object]
"""One row of the predictions."""


def draw_card(row: Row, root: Path, *, head: str | None) -> Image.Image:
    """The photo at `root / image_path` with its answers, `CARD_WIDTH_PX` wide, under a line of text unless `head` is None.

    A tick on a bar marks the label where a person judged.

    Raises `UserError` when the photo cannot be read.
    """
    photo_top = 0 if head is None else HEAD_PX
    top = photo_top + PHOTO_PX[1] + 8
    card = Image.new("RGB", (CARD_WIDTH_PX, top + 4 * ROW_PX), "white")
    draw = ImageDraw.Draw(card)
    draw.text((0, 3), head or "", fill=INK, font=font(13))
    card.paste(_photo(root / str(row["image_path"])), (0, photo_top))
    _bar(draw, top, "clean", answer=number(row, "p_clean"), label=number(row, LABEL_COLUMN["clean"]))
    _bar(draw, top + ROW_PX, "cleanliness", answer=number(row, "cleanliness"), label=number(row, LABEL_COLUMN["cleanliness"]))
    _bar(draw, top + 2 * ROW_PX, "damage", answer=number(row, "damage"), label=number(row, LABEL_COLUMN["damage"]))
    _weather(draw, top + 3 * ROW_PX, row)
    return card


def number(row: Row, column: str) -> float | None:
    """The number in `column`, None where it is blank."""
    value = float(row[column])  # type: ignore[arg-type]
    return None if np.isnan(value) else value


def _photo(path: Path) -> Image.Image:
    try:
        photo = decode_photo(path, at_least_px=max(PHOTO_PX))
    except PhotoError as error:
        raise UserError(f"{path}: {error}.") from None
    return ImageOps.pad(photo, PHOTO_PX, method=Image.Resampling.LANCZOS, color=FRAME)


def _bar(draw: ImageDraw.ImageDraw, top: int, task: Task, *, answer: float | None, label: float | None) -> None:
    left, right, middle = 84, CARD_WIDTH_PX - 40, top + 8
    draw.text((0, middle), task, fill=SOFT, font=font(12), anchor="lm")
    draw.rounded_rectangle((left, middle - 4, right, middle + 4), radius=4, fill=TRACK)
    if answer is not None:
        end = left + max(8, round(answer * (right - left)))
        draw.rounded_rectangle((left, middle - 4, end, middle + 4), radius=4, fill=COLORS[task])
    if label is not None:
        x = left + round(label * (right - left))
        draw.rectangle((x - 1, middle - 7, x + 1, middle + 7), fill=INK)
    draw.text((CARD_WIDTH_PX, middle), "–" if answer is None else f"{answer:.2f}", fill=INK, font=font(12), anchor="rm")


def _weather(draw: ImageDraw.ImageDraw, top: int, row: Row) -> None:
    middle = top + 8
    draw.text((0, middle), "weather", fill=SOFT, font=font(12), anchor="lm")
    if number(row, WEATHER_PROBABILITIES[0]) is None:
        draw.text((CARD_WIDTH_PX, middle), "–", fill=INK, font=font(12), anchor="rm")
        return
    probabilities = [number(row, column) or 0.0 for column in WEATHER_PROBABILITIES]
    chosen = int(np.argmax(probabilities))
    text, label = WEATHER_CLASSES[chosen], number(row, LABEL_COLUMN["weather"])
    if label is not None and int(label) != chosen:
        text += f" (label: {WEATHER_CLASSES[int(label)]})"
    draw.text((84, middle), text, fill=COLORS["weather"], font=font(12), anchor="lm")
    draw.text((CARD_WIDTH_PX, middle), f"{probabilities[chosen]:.2f}", fill=INK, font=font(12), anchor="rm")


@cache
def font(height_px: int) -> ImageFont.FreeTypeFont:
    # It travels with matplotlib, so the picture is the same on a machine without fonts.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", height_px)
