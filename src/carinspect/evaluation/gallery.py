"""Owns the contact sheets: answers.png, test photos of many kinds with their answers; worst.png, each task's worst errors; and
uncertain.png, the photos whose answers spread most under dropout, labelled or not: the ones worth a person's look.
"""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageColor, ImageDraw

from carinspect.core.files import write_bytes
from carinspect.core.tasks import LABEL_COLUMN, SPREAD, TASKS, WEATHER_CLASSES, Task
from carinspect.evaluation.answers import WEATHER_PROBABILITIES, labelled, numbers, weather_probabilities
from carinspect.evaluation.card import CARD_WIDTH_PX, COLORS, FRAME, INK, SOFT, TRACK, draw_card, font
from carinspect.scoring.ranking import Array

COLUMNS, ROWS = 4, 2
GAP_PX, FOOT_PX = 18, 26
FOOT = "Bar: the model's answer, 1 = clean, undamaged. Tick: the label, where a person judged."


def write_gallery(table: pd.DataFrame, root: Path, folder: Path) -> None:
    """The sheets from the test rows of completed predictions; photos lie at `root / image_path`.

    Raises `UserError` when a photo cannot be read.
    """
    test = table[table["split"] == "test"].sort_values("image_path", kind="stable").reset_index(drop=True)
    _write_sheet(
        [draw_card(row, root, head=None) for row in _rows(choose_varied(test, most=COLUMNS * ROWS))],
        folder / "answers.png",
        empty="no photos",
    )
    worst = {task: worst_errors(test, task, most=ROWS) for task in TASKS}
    cards = [draw_card(row, root, head=_head(row, task)) for task in TASKS for row in _rows(worst[task])]
    _write_sheet(cards, folder / "worst.png", empty="no labels")
    unsure = {task: least_certain(test, task, most=ROWS) for task in TASKS}
    cards = [draw_card(row, root, head=f"{task}: ± {row[SPREAD[task]]:.3f}") for task in TASKS for row in _rows(unsure[task])]
    _write_sheet(cards, folder / "uncertain.png", empty="no spreads: the network has no dropout, or evaluate.dropout_samples is 0")


def choose_varied(test: pd.DataFrame, *, most: int) -> pd.DataFrame:
    """Up to `most` photos of different groups whose answers lie far apart.

    Farthest-point choice (Gonzalez 1985): begin near the mean answer, then always add the photo farthest from those chosen.
    """
    first_of_group = test.drop_duplicates("group")
    answers_NxD = np.nan_to_num(first_of_group[["p_clean", "cleanliness", "damage", *WEATHER_PROBABILITIES]].to_numpy(np.float64))
    if len(answers_NxD) == 0:
        return first_of_group
    chosen = [int(np.argmin(np.square(answers_NxD - answers_NxD.mean(axis=0)).sum(axis=1)))]
    distance_N = np.square(answers_NxD - answers_NxD[chosen[0]]).sum(axis=1)
    while len(chosen) < min(most, len(answers_NxD)):
        chosen.append(int(np.argmax(np.where(np.isin(np.arange(len(distance_N)), chosen), -1.0, distance_N))))
        distance_N = np.minimum(distance_N, np.square(answers_NxD - answers_NxD[chosen[-1]]).sum(axis=1))
    return first_of_group.iloc[chosen]


def worst_errors(test: pd.DataFrame, task: Task, *, most: int) -> pd.DataFrame:
    """Up to `most` labelled photos of different groups, the largest error of `task` first."""
    known = labelled(test, task)
    return known.assign(error=_errors(known, task)).sort_values("error", ascending=False, kind="stable").drop_duplicates("group").head(most)


def least_certain(test: pd.DataFrame, task: Task, *, most: int) -> pd.DataFrame:
    """Up to `most` photos of different groups, the largest spread of `task` first; none without spreads."""
    known = test[test[SPREAD[task]].notna()]
    return known.sort_values(SPREAD[task], ascending=False, kind="stable").drop_duplicates("group").head(most)


def _errors(known: pd.DataFrame, task: Task) -> Array:
    labels_N = numbers(known, LABEL_COLUMN[task])
    if task == "weather":
        return 1.0 - weather_probabilities(known)[np.arange(len(known)), labels_N.astype(int)]
    return np.abs(numbers(known, "p_clean" if task == "clean" else task) - labels_N)


def _head(row: dict[str, object], task: Task) -> str:
    label = float(row[LABEL_COLUMN[task]])  # type: ignore[arg-type]
    words = {"clean": ("dirty", "clean"), "weather": WEATHER_CLASSES}
    return f"{task}: the label is {words[task][int(label)] if task in words else format(label, '.2f')}"


def _rows(table: pd.DataFrame) -> list[dict[str, object]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _write_sheet(cards: list[Image.Image], path: Path, *, empty: str) -> None:
    rows = max(1, -(-len(cards) // COLUMNS))
    row_px = (cards[0].height if cards else 0) + GAP_PX
    sheet = Image.new("RGB", (COLUMNS * (CARD_WIDTH_PX + GAP_PX) + GAP_PX, GAP_PX + rows * row_px + FOOT_PX), "white")
    for position, card in enumerate(cards):
        row, column = divmod(position, COLUMNS)
        sheet.paste(card, (GAP_PX + column * (CARD_WIDTH_PX + GAP_PX), GAP_PX + row * row_px))
    foot = FOOT if cards else empty
    ImageDraw.Draw(sheet).text((GAP_PX, sheet.height - FOOT_PX), foot, fill=SOFT, font=font(12))
    buffer = io.BytesIO()
    _with_few_colours(sheet).save(buffer, format="PNG", optimize=True)
    write_bytes(path, buffer.getvalue())


def _with_few_colours(sheet: Image.Image) -> Image.Image:
    """256 colours, undithered: a third of the bytes. White and the bars' own colours stay exact; a palette fitted to photos bends them."""
    own = [ImageColor.getrgb(color) for color in ("white", INK, SOFT, TRACK, FRAME, *COLORS.values())]
    fitted = sheet.quantize(256 - len(own), dither=Image.Dither.NONE)
    pixels, places = np.asarray(sheet), np.asarray(fitted) + len(own)
    for place, color in enumerate(own):
        places[(pixels == color).all(axis=-1)] = place
    few = Image.fromarray(places, mode="P")
    few.putpalette([channel for color in own for channel in color] + (fitted.getpalette() or []))
    return few
