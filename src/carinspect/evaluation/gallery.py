"""Draws contact sheets of test photos in reports/evaluate, each photo with its answers below it.

answers.png has photos with different answers; worst.png has the largest errors of each question; uncertain.png has the photos, labelled
or not, with the largest spread under dropout, which a person should look at first.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps

from carinspect.core.errors import UserError
from carinspect.core.files import write_bytes
from carinspect.core.questions import Question
from carinspect.evaluation.predictions import answered, answers_to, class_probabilities, numbers
from carinspect.images.decode import PhotoError, decode_photo
from carinspect.scoring.ranking import Array

COLUMNS, ROWS = 4, 2
GAP_PX, FOOT_PX = 18, 26
PHOTO_PX = (240, 180)
CARD_WIDTH_PX = PHOTO_PX[0]
HEAD_PX, ROW_PX = 24, 19

INK, SOFT, TRACK, FRAME = "#1a202c", "#5f6875", "#e8ebef", "#f4f5f7"
PALETTE = ("#2b8a9e", "#4c9f70", "#b8565a", "#d98032", "#6b74c4", "#8a6d3b")
"""Colours of the questions, in their order; from the seventh question on they repeat."""

Row = Mapping[str, Any]
"""One row of the predictions."""
Polygon = list[tuple[float, float]]
"""Corners, x and y as shares of the photo's sides."""
MarksOf = Callable[[str], Mapping[str, Sequence[Polygon]]]
"""image_path → question → where its map is at least the cut."""


def write_gallery(table: pd.DataFrame, questions: Sequence[Question], root: Path, folder: Path, *, marks_of: MarksOf | None = None) -> None:
    """Write the sheets from the test rows of completed predictions; photos are at `root / image_path`. marks_of: None without maps.

    Raises `UserError` when a photo cannot be read.
    """
    test = table[table["split"] == "test"].sort_values("image_path", kind="stable").reset_index(drop=True)
    words = ", ".join(asked.classes[1] for asked in questions if asked.kind == "binary")
    foot = f"Bar: a score, 1 = good{f', or the probability of {words}' if words else ''}. Tick: the label, where a person judged."
    foot += " Outlined in a question's colour: where its map is at least the cut." if marks_of else ""
    varied = [(row, None) for row in _rows(choose_varied(test, questions, most=COLUMNS * ROWS))]
    worst = [
        (row, f"{asked.name}: the label is {asked.say_label(row[asked.column])}")
        for asked in questions
        for row in _rows(worst_errors(test, asked, most=ROWS))
    ]
    unsure = [
        (row, f"{asked.name}: ± {row[asked.spread]:.3f}") for asked in questions for row in _rows(least_certain(test, asked, most=ROWS))
    ]
    no_spreads = "no spreads: the network has no dropout, or evaluate.dropout_samples is 0"
    for name, shown, empty in (("answers", varied, "no photos"), ("worst", worst, "no labels"), ("uncertain", unsure, no_spreads)):
        cards = [draw_card(row, questions, root, head=head, marks_of=marks_of) for row, head in shown]
        _write_sheet(cards, folder / f"{name}.png", foot=foot if cards else empty)


# ---- which photos


def choose_varied(test: pd.DataFrame, questions: Sequence[Question], *, most: int) -> pd.DataFrame:
    """Up to `most` photos of different groups whose answers differ as much as possible.

    Farthest-point selection (Gonzalez 1985): start near the mean answer, then repeatedly add the photo farthest from those chosen.
    """
    first_of_group = test.drop_duplicates("group")
    columns = [column for asked in questions for column in asked.answer_columns]
    answers_NxD = first_of_group[columns].to_numpy(np.float64)
    if len(answers_NxD) == 0:
        return first_of_group
    chosen = [int(np.argmin(np.square(answers_NxD - answers_NxD.mean(axis=0)).sum(axis=1)))]
    distance_N = np.square(answers_NxD - answers_NxD[chosen[0]]).sum(axis=1)
    while len(chosen) < min(most, len(answers_NxD)):
        chosen.append(int(np.argmax(np.where(np.isin(np.arange(len(distance_N)), chosen), -1.0, distance_N))))
        distance_N = np.minimum(distance_N, np.square(answers_NxD - answers_NxD[chosen[-1]]).sum(axis=1))
    return first_of_group.iloc[chosen]


def worst_errors(test: pd.DataFrame, question: Question, *, most: int) -> pd.DataFrame:
    """Up to `most` labelled photos of different groups, the largest error first."""
    known = answered(test, question)
    return _largest(known.assign(error=_errors(known, question)), "error", most)


def least_certain(test: pd.DataFrame, question: Question, *, most: int) -> pd.DataFrame:
    """Up to `most` photos of different groups, the largest spread first; no rows without spreads."""
    return _largest(test[test[question.spread].notna()], question.spread, most)


def _largest(rows: pd.DataFrame, column: str, most: int) -> pd.DataFrame:
    return rows.sort_values(column, ascending=False, kind="stable").drop_duplicates("group").head(most)


def _errors(known: pd.DataFrame, question: Question) -> Array:
    labels_N = numbers(known, question.column)
    if question.kind == "classes":
        return 1.0 - class_probabilities(known, question)[np.arange(len(known)), labels_N.astype(int)]
    return np.abs(answers_to(known, question) - labels_N)


def _rows(table: pd.DataFrame) -> list[Row]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


# ---- one photo


def draw_card(row: Row, questions: Sequence[Question], root: Path, *, head: str | None, marks_of: MarksOf | None = None) -> Image.Image:
    """The photo at `root / image_path` with its answers, `CARD_WIDTH_PX` wide, under a line of text unless `head` is None.

    A score and a binary question have a bar, on which a tick marks the label; of several classes the likeliest one is written.

    Raises `UserError` when the photo cannot be read.
    """
    photo_top = 0 if head is None else HEAD_PX
    top = photo_top + PHOTO_PX[1] + 8
    card = Image.new("RGB", (CARD_WIDTH_PX, top + len(questions) * ROW_PX), "white")
    draw = ImageDraw.Draw(card)
    draw.text((0, 3), head or "", fill=INK, font=_font(13))
    path = str(row["image_path"])
    colors = {asked.name: PALETTE[place % len(PALETTE)] for place, asked in enumerate(questions)}
    marks = [(colors[name], one) for name, polygons in (marks_of(path) if marks_of else {}).items() for one in polygons]
    card.paste(_photo(root / path, marks), (0, photo_top))
    for place, question in enumerate(questions):
        middle, color, label = top + place * ROW_PX + 8, PALETTE[place % len(PALETTE)], row[question.column]
        draw.text((0, middle), question.name, fill=SOFT, font=_font(12), anchor="lm")
        answers = [row[column] for column in question.answer_columns]
        if question.kind == "classes":
            _write_class(draw, middle, question, chosen=int(np.argmax(answers)), label=label, color=color)
        else:
            _draw_bar(draw, middle, answer=answers[0], label=label, color=color)
        draw.text((CARD_WIDTH_PX, middle), f"{max(answers):.2f}", fill=INK, font=_font(12), anchor="rm")
    return card


def _draw_bar(draw: ImageDraw.ImageDraw, middle: int, *, answer: float, label: float, color: str) -> None:
    left, right = 84, CARD_WIDTH_PX - 40
    draw.rounded_rectangle((left, middle - 4, right, middle + 4), radius=4, fill=TRACK)
    end = left + max(8, round(answer * (right - left)))
    draw.rounded_rectangle((left, middle - 4, end, middle + 4), radius=4, fill=color)
    if not np.isnan(label):
        x = left + round(label * (right - left))
        draw.rectangle((x - 1, middle - 7, x + 1, middle + 7), fill=INK)


def _write_class(draw: ImageDraw.ImageDraw, middle: int, question: Question, *, chosen: int, label: float, color: str) -> None:
    text = question.say_label(chosen)
    if not np.isnan(label) and int(label) != chosen:
        text += f" (label: {question.say_label(label)})"
    draw.text((84, middle), text, fill=color, font=_font(12), anchor="lm")


def _photo(path: Path, marks: Sequence[tuple[str, Polygon]]) -> Image.Image:
    try:
        photo = decode_photo(path, at_least_px=max(PHOTO_PX))
    except PhotoError as error:
        raise UserError(f"{path}: {error}.") from None
    photo = ImageOps.contain(photo, PHOTO_PX, method=Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(photo)
    for color, polygon in marks:
        corners = [(x * (photo.width - 1), y * (photo.height - 1)) for x, y in polygon]
        # White under the colour, so that it is seen on a car of that colour.
        draw.line([*corners, corners[0]], fill="white", width=4)
        draw.line([*corners, corners[0]], fill=color, width=2)
    return ImageOps.pad(photo, PHOTO_PX, color=FRAME)


@cache
def _font(height_px: int) -> ImageFont.FreeTypeFont:
    # The font comes with matplotlib, so the picture does not depend on the machine's fonts.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", height_px)


# ---- one sheet


def _write_sheet(cards: list[Image.Image], path: Path, *, foot: str) -> None:
    rows = max(1, -(-len(cards) // COLUMNS))
    row_px = (cards[0].height if cards else 0) + GAP_PX
    sheet = Image.new("RGB", (COLUMNS * (CARD_WIDTH_PX + GAP_PX) + GAP_PX, GAP_PX + rows * row_px + FOOT_PX), "white")
    for position, card in enumerate(cards):
        row, column = divmod(position, COLUMNS)
        sheet.paste(card, (GAP_PX + column * (CARD_WIDTH_PX + GAP_PX), GAP_PX + row * row_px))
    ImageDraw.Draw(sheet).text((GAP_PX, sheet.height - FOOT_PX), foot, fill=SOFT, font=_font(12))
    buffer = io.BytesIO()
    _with_few_colours(sheet).save(buffer, format="PNG", optimize=True)
    write_bytes(path, buffer.getvalue())


def _with_few_colours(sheet: Image.Image) -> Image.Image:
    """256 colours without dithering: a third of the bytes. White and the bars' colours are kept exactly, apart from the fitted palette."""
    own = [ImageColor.getrgb(color) for color in ("white", INK, SOFT, TRACK, FRAME, *PALETTE)]
    fitted = sheet.quantize(256 - len(own), dither=Image.Dither.NONE)
    pixels, places = np.asarray(sheet), np.asarray(fitted) + len(own)
    for place, color in enumerate(own):
        places[(pixels == color).all(axis=-1)] = place
    few = Image.fromarray(places, mode="P")
    few.putpalette([channel for color in own for channel in color] + (fitted.getpalette() or []))
    return few
