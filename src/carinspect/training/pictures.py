"""Draws the pictures of a training: augmented photos, curves, and for trackers one batch and the confusion matrices."""

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from carinspect.core.files import write_bytes
from carinspect.core.questions import Question
from carinspect.training.augment import Augmentation
from carinspect.training.batches import Photos
from carinspect.training.config import Recipe
from carinspect.training.weather import find_sky

_PHOTOS, _EPOCHS = 8, 6
_PHOTO_PX, _CAPTION_PX, _GAP_PX = 168, 48, 4
_CHARACTERS, _LINES = 28, 3  # of a caption

_WORDS = {
    "HorizontalFlip": "mirror", "RandomResizedCrop": "crop", "Rotate": "rotate", "Perspective": "perspective", "SoftShadow": "shadow",
    "LensFlare": "flare", "ColorJitter": "colour", "ToGray": "grey", "GaussianBlur": "blur", "MotionBlur": "shake", "GaussNoise": "noise",
    "ImageCompression": "compression", "Erasing": "erase",
}  # fmt: skip


def write_augmentation_sheet(photos: Photos, recipe: Recipe, path: Path) -> None:
    """Write a PNG with one row for each of several photos: the original, then the photo in the first epochs. Same input, same bytes."""
    chosen = np.unique(np.linspace(0, len(photos) - 1, min(_PHOTOS, len(photos))).round().astype(int))
    cell_px = (_PHOTO_PX + _GAP_PX, _PHOTO_PX + _CAPTION_PX)
    epochs = min(_EPOCHS, recipe.train.epochs)
    sheet = Image.new("RGB", ((1 + epochs) * cell_px[0], len(chosen) * cell_px[1]), "white")
    for row, position in enumerate(chosen.tolist()):
        cells = [(photos.pixels[position], f"original{_say_sky(photos, recipe, position)}")]
        cells += [_as_seen(photos, recipe, position, epoch) for epoch in range(epochs)]
        for column, (picture, caption) in enumerate(cells):
            _paste(sheet, picture, caption, at=(column * cell_px[0], row * cell_px[1]))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def _as_seen(photos: Photos, recipe: Recipe, position: int, epoch: int) -> tuple[np.ndarray, str]:
    """The photo as it is in an epoch, and a caption that names its changes."""
    label = photos.sky_labels(recipe)[position]
    picture, effects = Augmentation(recipe, names_effects=True).explain(
        photos.pixels[position], epoch=epoch, image_path=photos.image_paths[position], sky_label=label
    )
    words = [_WORDS[effect] for effect in effects if effect in _WORDS]
    weather = photos.weather_at(position, recipe, epoch)
    if weather is not None:
        seen = find_sky(recipe.questions).label_under(weather, label, sure_from=recipe.train.augment.weather_sure_from)
        becomes = "" if np.isnan(label) else f" (label {_sky_name(recipe, seen)})"
        words.insert(0, f"{weather.condition} {weather.strength:.1f}{becomes}")
    return picture, f"epoch {epoch + 1}: {', '.join(words) or 'nothing'}"


def _say_sky(photos: Photos, recipe: Recipe, position: int) -> str:
    question = find_sky(recipe.questions).question
    return "" if question is None else f"; {question.name} {_sky_name(recipe, photos.sky_labels(recipe)[position])}"


def _sky_name(recipe: Recipe, label: float) -> str:
    question = find_sky(recipe.questions).question
    return "unknown" if question is None or np.isnan(label) else question.say_label(label)


def _paste(sheet: Image.Image, picture: np.ndarray, caption: str, *, at: tuple[int, int]) -> None:
    sheet.paste(Image.fromarray(picture).resize((_PHOTO_PX, _PHOTO_PX), Image.Resampling.BILINEAR), at)
    lines = textwrap.wrap(caption, _CHARACTERS)[:_LINES]
    ImageDraw.Draw(sheet).text((at[0], at[1] + _PHOTO_PX + 2), "\n".join(lines), fill="black", font=ImageFont.load_default(size=11))


_BATCH_COLUMNS = 8
_CELL_PX, _MARGIN_PX = 56, 64


def tile_batch(photos: np.ndarray) -> np.ndarray:
    """Photos, uint8 (B, side, side, 3), in a grid, as one picture, uint8 (height, width, 3)."""
    columns = min(_BATCH_COLUMNS, len(photos))
    blank = -len(photos) % columns
    padded = np.concatenate([photos, np.zeros((blank, *photos.shape[1:]), np.uint8)])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in padded.reshape(-1, columns, *photos.shape[1:])])


def confusion_counts(logits: np.ndarray, label: np.ndarray, question: Question) -> np.ndarray:
    """Photos of each actual class (row) by the class answered (column), shape (K, K); a label that is NaN is not counted.

    `logits`: (B,) of a binary question, where above 0 answers class 1; (B, K) of one with more classes.
    """
    answered = (logits > 0).astype(int) if question.kind == "binary" else logits.argmax(axis=1)
    known = ~np.isnan(label)
    counts = np.zeros((len(question.classes),) * 2, dtype=int)
    np.add.at(counts, (label[known].astype(int), answered[known]), 1)
    return counts


def draw_confusions(
    questions: Iterable[Question], logits: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The confusion matrix, uint8 (height, width, 3), of each question with classes that has at least one label."""
    known = [question for question in questions if question.has_classes and not np.isnan(labels[question.column]).all()]
    return {asked.name: _draw_matrix(confusion_counts(logits[asked.name], labels[asked.column], asked), asked.classes) for asked in known}


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


GREY = "#8a8f98"


def draw_curves(history: Sequence[dict[str, Any]], *, best_epoch: int, path: Path) -> None:
    """Write a PNG from the rows of the history, one an epoch; the same rows give the same bytes. `best_epoch` counts from 1."""
    # Imported here, because it is slow and the first training step does not need it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), dpi=120, layout="constrained")
    loss, skill, rate = figure.subplots(1, 3)
    _draw(loss, history, "train_loss_")
    loss.set(title="training loss", ylim=(0, None))
    _draw(skill, history, "val_skill_")
    skill.plot(*_curve(history, "val_score"), color="black", lw=2, label="score")
    # The first epochs can be far below 0, and would compress the rest of the curve.
    skill.set(title="validation skill (1 perfect, 0 no better than a constant)", ylim=(-0.5, 1.02))
    _draw(rate, history, "lr", "loss_weight_")
    rate.set(
        title="learning rate" + (" and loss weights" if any(key.startswith("loss_weight_") for key in history[-1]) else ""), yscale="log"
    )
    for axes in (loss, skill, rate):
        axes.axvline(best_epoch, color=GREY, lw=1, ls="--", label=f"best epoch, {best_epoch}" if axes is skill else None)
        axes.set(xlabel="epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _draw(axes: Any, history: Sequence[dict[str, Any]], *prefixes: str) -> None:
    # A question can be missing in an epoch, when none of its photos had a label.
    names = list(dict.fromkeys(name for row in history for name in row if name.startswith(prefixes)))
    for name in names:
        label = next(name.removeprefix(prefix) or name for prefix in prefixes if name.startswith(prefix))
        axes.plot(*_curve(history, name), lw=1.5, label=label.replace("_", " "), marker="." if len(history) < 20 else None)


def _curve(history: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    rows = [row for row in history if name in row]
    return [row["epoch"] for row in rows], [row[name] for row in rows]
