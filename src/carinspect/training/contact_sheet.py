"""Owns the picture of how training photos are varied: a few of them, and each as several epochs see it, with the effects named."""

import io
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from carinspect.core.files import write_bytes
from carinspect.core.tasks import WEATHER_CLASSES
from carinspect.training.augment import Augmentation
from carinspect.training.batches import Photos
from carinspect.training.config import TrainRecipe
from carinspect.training.weather import label_under

_PHOTOS, _EPOCHS = 8, 6
_PHOTO_PX, _CAPTION_PX, _GAP_PX = 168, 48, 4
_CHARACTERS, _LINES = 28, 3  # of a caption

_WORDS = {
    "HorizontalFlip": "mirror", "RandomResizedCrop": "crop", "Rotate": "rotate", "Perspective": "perspective", "SoftShadow": "shadow",
    "LensFlare": "flare", "ColorJitter": "colour", "ToGray": "grey", "GaussianBlur": "blur", "MotionBlur": "shake", "GaussNoise": "noise",
    "ImageCompression": "compression", "Erasing": "erase",
}  # fmt: skip


def write_contact_sheet(photos: Photos, recipe: TrainRecipe, path: Path) -> None:
    """Write photos from all over the table as a PNG, a row each: as it is, then as the first epochs see it; same input, same bytes."""
    chosen = np.unique(np.linspace(0, len(photos) - 1, min(_PHOTOS, len(photos))).round().astype(int))
    cell_px = (_PHOTO_PX + _GAP_PX, _PHOTO_PX + _CAPTION_PX)
    epochs = min(_EPOCHS, recipe.epochs)
    sheet = Image.new("RGB", ((1 + epochs) * cell_px[0], len(chosen) * cell_px[1]), "white")
    for row, position in enumerate(chosen.tolist()):
        label = float(photos.labels["weather_condition"][position])
        cells = [(photos.pixels[position], f"original; weather {_weather_name(label)}")]
        cells += [_as_seen(photos, recipe, position, epoch) for epoch in range(epochs)]
        for column, (picture, caption) in enumerate(cells):
            _paste(sheet, picture, caption, at=(column * cell_px[0], row * cell_px[1]))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def _as_seen(photos: Photos, recipe: TrainRecipe, position: int, epoch: int) -> tuple[np.ndarray, str]:
    """The photo in an epoch, and in words what was done to it."""
    label = float(photos.labels["weather_condition"][position])
    picture, effects = Augmentation(recipe, names_effects=True).explain(
        photos.pixels[position], epoch=epoch, image_path=photos.image_paths[position], weather_label=label
    )
    words = [_WORDS[effect] for effect in effects if effect in _WORDS]
    weather = photos.weather_at(position, recipe, epoch)
    if weather is not None:
        seen = label_under(weather, label, sure_from=recipe.augment.weather_sure_from)
        becomes = "" if np.isnan(label) else f" (label {_weather_name(seen)})"
        words.insert(0, f"{WEATHER_CLASSES[weather.condition]} {weather.strength:.1f}{becomes}")
    return picture, f"epoch {epoch + 1}: {', '.join(words) or 'nothing'}"


def _weather_name(label: float) -> str:
    return "unknown" if np.isnan(label) else WEATHER_CLASSES[int(label)]


def _paste(sheet: Image.Image, picture: np.ndarray, caption: str, *, at: tuple[int, int]) -> None:
    sheet.paste(Image.fromarray(picture).resize((_PHOTO_PX, _PHOTO_PX), Image.Resampling.BILINEAR), at)
    lines = textwrap.wrap(caption, _CHARACTERS)[:_LINES]
    ImageDraw.Draw(sheet).text((at[0], at[1] + _PHOTO_PX + 2), "\n".join(lines), fill="black", font=ImageFont.load_default(size=11))
