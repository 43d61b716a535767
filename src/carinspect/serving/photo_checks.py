"""What an uploaded photo must be before it is decoded: its size, its shape, and nothing but a photo."""

import io
import zipfile
from dataclasses import dataclass

import numpy as np
from PIL import Image

from carinspect.images.decode import PhotoError, open_photo
from carinspect.inference.predictor import Predictor
from carinspect.serving.config import ServiceConfig
from carinspect.serving.heavy_photos import decode_apart, is_heavy
from carinspect.serving.refusals import RefusalError

PHOTO_TYPES = ("image/", "application/octet-stream")
_MARKUP = (b"<!doctype", b"<html", b"<script", b"<svg", b"<?php", b"%pdf-")
_EDGE_BYTES = 4096


def check_declared_type(content_type: str) -> None:
    """Refuse an upload whose sender calls it anything but a photo; what it really is shows itself when it is opened."""
    if content_type and not content_type.lower().startswith(PHOTO_TYPES):
        raise RefusalError(415, "The content type of the upload is not an image's.")


@dataclass(frozen=True)
class DecodedPhoto:
    """A photo as the model takes it."""

    pixels: np.ndarray
    """uint8 (side, side, 3)."""
    width_px: int
    """Upright, as a person sees it."""
    height_px: int


@dataclass(frozen=True)
class CheckedPhoto:
    """A photo whose header and shape are sound; its pixels are still to be decoded."""

    content: bytes
    opened: Image.Image
    heavy: bool
    """Whether it must be decoded apart (`heavy_photos`)."""


def check_photo(content: bytes, config: ServiceConfig) -> CheckedPhoto:
    """Decodes nothing. Raises `RefusalError` with 413, 415 or 422 for what is not one plain photo."""
    photo = _open(content, config)
    _check_single_file(content)
    return CheckedPhoto(content, photo, is_heavy(photo, content))


def must_be_decoded_apart(content: bytes, config: ServiceConfig) -> bool:
    """Whether `check_photo` would call it heavy; what it would refuse is not. Of a usual photo only the header is read."""
    try:
        if not is_heavy(_open(content, config), content):
            return False
        _check_single_file(content)
    except RefusalError:
        return False
    return True


def _open(content: bytes, config: ServiceConfig) -> Image.Image:
    try:
        photo = open_photo(content)
    except PhotoError as error:
        raise RefusalError(413 if "pixels" in str(error) else 415, f"Refused: {error}.") from None
    _check_shape(*photo.size, config)
    return photo


def decode_checked(checked: CheckedPhoto, predictor: Predictor) -> DecodedPhoto:
    """The model's input. Raises `RefusalError` with 413 or 422 for a photo that is too costly or not sound."""
    try:
        if checked.heavy:
            pixels, (width_px, height_px) = decode_apart(checked.content, predictor.image_side_px)
        else:
            pixels, (width_px, height_px) = predictor.load_with_size(checked.opened)
    except PhotoError:
        # The decoder's own words are for developers.
        raise RefusalError(422, "Refused: the photo is damaged or cut short, and cannot be decoded.") from None
    return DecodedPhoto(pixels, width_px, height_px)


def _check_shape(width_px: int, height_px: int, config: ServiceConfig) -> None:
    said = f"Refused: the photo is {width_px} x {height_px} pixels"
    if width_px * height_px > config.max_pixels:
        raise RefusalError(413, f"{said}, and {config.max_pixels:,} in all are the most that is taken.")
    if min(width_px, height_px) < config.min_side_px:
        raise RefusalError(422, f"{said}, and {config.min_side_px} is the least that a side may have.")
    if max(width_px, height_px) > config.max_aspect_ratio * min(width_px, height_px):
        raise RefusalError(422, f"{said}, a strip. The longer side may be {config.max_aspect_ratio:g} times the shorter one.")


def _check_single_file(content: bytes) -> None:
    """Refuse a photo that is another kind of file, too. Nothing here would run it, but nobody sends one by accident.

    Only the edges are searched for markup: that is where programs that guess at a file's kind look. Videos behind a photo are left
    alone, for phones put them there.
    """
    edges = (content[:_EDGE_BYTES] + content[-_EDGE_BYTES:]).lower()
    # rfind, for it takes half the time of `in`. Two marks, for chance alone makes the one that `zipfile` asks for in one of 60,000 photos.
    archive = content.rfind(b"PK\x01\x02") >= 0 and zipfile.is_zipfile(io.BytesIO(content))
    if archive or any(edges.rfind(mark) >= 0 for mark in _MARKUP):
        raise RefusalError(422, "Refused: the photo is an archive, a document or a script, too. Save it again as a JPEG.")
