"""Owns the small pictures that trackers keep of a run: a batch as the network gets it, and confusion matrices."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from carinspect.core.tasks import LABEL_COLUMN, WEATHER_CLASSES

_CLASSES: dict[str, tuple[str, ...]] = {"clean": ("dirty", "clean"), "weather": WEATHER_CLASSES}
_BATCH_COLUMNS = 8
_CELL_PX, _MARGIN_PX = 56, 64


def tile_batch(photos: np.ndarray) -> np.ndarray:
    """Photos, uint8 (B, side, side, 3), beside and below one another as one picture, uint8 (height, width, 3)."""
    columns = min(_BATCH_COLUMNS, len(photos))
    blank = -len(photos) % columns
    padded = np.concatenate([photos, np.zeros((blank, *photos.shape[1:]), np.uint8)])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in padded.reshape(-1, columns, *photos.shape[1:])])


def confusion_counts(logits: np.ndarray, label: np.ndarray, *, task: str) -> np.ndarray:
    """Photos of each actual class (row) by the class answered (column), shape (K, K); a label that is NaN is not counted.

    `logits`: (B,) for clean, where above 0 answers clean; (B, 4) for weather.
    """
    answered = (logits > 0).astype(int) if task == "clean" else logits.argmax(axis=1)
    known = ~np.isnan(label)
    counts = np.zeros((len(_CLASSES[task]),) * 2, dtype=int)
    np.add.at(counts, (label[known].astype(int), answered[known]), 1)
    return counts


def draw_confusions(logits: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A picture, uint8 (height, width, 3), for each task with classes that `logits` answers and some photo has a label of."""
    columns = {task: labels[LABEL_COLUMN[task]] for task in _CLASSES if task in logits}  # type: ignore[index]
    known = {task: column for task, column in columns.items() if not np.isnan(column).all()}
    return {task: _draw_matrix(confusion_counts(logits[task], column, task=task), _CLASSES[task]) for task, column in known.items()}


def _draw_matrix(counts: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    side = _MARGIN_PX + len(names) * _CELL_PX
    picture = Image.new("RGB", (side, side), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=12)
    draw.text((4, _MARGIN_PX / 2), "actual \\ answer", fill="grey", font=ImageFont.load_default(size=9))
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    for row, name in enumerate(names):
        middle = _MARGIN_PX + (row + 0.5) * _CELL_PX
        draw.text((4, middle), name, fill="black", font=font, anchor="lm")
        draw.text((middle, _MARGIN_PX - 8), name, fill="black", font=font, anchor="mm")
        for column, share in enumerate(shares[row]):
            left, top = _MARGIN_PX + column * _CELL_PX, _MARGIN_PX + row * _CELL_PX
            shade = round(255 * (1 - 0.8 * float(share)))
            draw.rectangle((left, top, left + _CELL_PX - 2, top + _CELL_PX - 2), fill=(shade, shade, 255))
            count = str(counts[row, column])
            draw.text((left + _CELL_PX / 2, top + _CELL_PX / 2), count, fill="white" if share > 0.6 else "black", font=font, anchor="mm")
    return np.asarray(picture)
