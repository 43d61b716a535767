"""Reads one photo: what is refused and why, EXIF orientation, and the resize contract that every part shares."""

import io
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pi_heif
from PIL import ExifTags, Image, ImageFile

from carinspect.core.errors import UserError, one_line
from carinspect.images import jpeg, png

RESIZE_CONTRACT = "rgb, exif-transposed, jpeg-draft, stretched to a square by antialiased bilinear (Pillow)"
"""Written into every model file. A stretch, not a letterbox: bars would show the model the photo's shape, which often tells its source."""

MAX_PIXELS = 200_000_000
"""A header that claims more is refused before anything is decoded."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "HEIF")
"""Pillow's words. A JPEG may hold several pictures (Pillow's MPO), of which the first counts. HEIF: what phones call HEIC."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"})

CODE = (__file__, jpeg.__file__, png.__file__)
"""The files whose code decides what is seen of a photo, and the packages that do."""
LIBRARIES = ("pillow", "simplejpeg", "pi-heif-decoder", "numpy")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what turns the picture upright (EXIF 2.32, tag 0x0112)."""


class PhotoError(UserError):
    """A photo that cannot be used; the message is the reason, without the path."""


@cache
def _set_up_pillow() -> None:
    """Pillow's settings, which hold for the whole process: made with the first photo, not by an import."""
    # A truncated photo must raise, never come back with a grey half.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    # Our own limit applies: Pillow refuses from twice its own on, and below that only warns.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    # One thread a photo, as the other decoders: whoever reads many photos has threads or processes of their own.
    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def format_of(suffix: str) -> str | None:
    """Pillow's word for the format that a file's suffix says."""
    _set_up_pillow()
    return Image.registered_extensions().get(suffix.lower())


def open_photo(source: Path | bytes) -> Image.Image:
    """An opened, not yet decoded photo. Raises `PhotoError` for anything that is not a sound photo of a known format."""
    _set_up_pillow()
    if isinstance(source, Path):
        try:
            if source.exists() and not source.is_file():
                # Opening a named pipe would wait until somebody writes into it.
                raise PhotoError("a folder, a named pipe, a socket or a device instead of a file")
            source = source.read_bytes()
        except FileNotFoundError:
            raise PhotoError("no such file") from None
        except OSError as error:
            raise PhotoError(f"cannot be read: {error.strerror}") from None
    if not source:
        raise PhotoError("empty file (0 bytes)")
    try:
        image = Image.open(io.BytesIO(source), formats=FORMATS)
    except Image.DecompressionBombError:
        raise PhotoError(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception:  # Pillow's parsers raise many kinds of errors on broken headers
        raise PhotoError(f"not a photo in a known format ({', '.join(FORMATS)})") from None
    width_px, height_px = image.size
    if width_px * height_px > MAX_PIXELS:
        raise PhotoError(f"more than {MAX_PIXELS:,} pixels ({width_px} x {height_px})")
    return image


def decode_photo(source: Path | bytes | Image.Image, *, at_least_px: int | None = None) -> Image.Image:
    """The photo as a person sees it, RGB. With `at_least_px` a JPEG may come at a reduced scale, no side below it.

    An image as source is what `open_photo` returned, and is used up.
    """
    image = source if isinstance(source, Image.Image) else open_photo(source)
    try:
        if at_least_px is not None:
            image.draft("RGB", (at_least_px, at_least_px))
        decoded = _decode(image)
        # Read after decoding, for some formats of Pillow know it only then or have turned the picture themselves.
        turn = _UPRIGHT.get(orientation(image))
        return _to_rgb(decoded.transpose(turn) if turn is not None else decoded)
    except Exception as error:  # a broken body shows itself only while decoding, in as many ways as there are formats
        raise PhotoError(f"cannot be decoded: {one_line(error)}") from None


def _decode(image: Image.Image) -> Image.Image:
    """All of the picture, in its own mode. Raises many kinds of errors where part of it is missing."""
    assert isinstance(image, ImageFile.ImageFile)
    assert isinstance(image.fp, io.BytesIO)
    # The same bytes, not a copy.
    content = image.fp.getvalue()
    if image.format in ("JPEG", "MPO") and (decoded := jpeg.decode_jpeg(content, image)) is not None:
        return decoded
    if image.format == "PNG":
        png.check_checksums(content)
    image.load()
    if image.format == "PNG":
        png.check_rows(content, image)
    return image


ON_ITS_SIDE = (5, 6, 7, 8)
"""Orientations that swap width and height."""


def orientation(photo: Image.Image) -> int:
    """The EXIF orientation of an opened photo, 1..8; 0 where it states none, or nothing that can be read."""
    try:
        stated = photo.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises many kinds of errors on odd EXIF, and a sound picture is not to be refused for it
        return 0
    return stated if isinstance(stated, int) and 1 <= stated <= 8 else 0


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # Pillow clips what is above 255 when it converts.
        image = Image.fromarray(_to_bytes(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_bytes(grey: np.ndarray) -> np.ndarray:
    """Grey of 16 bits, of 32 bits or of floats, (H, W), as uint8.

    White is 65,535 in 16 bits, as PNG and TIFF say. Wider numbers don't say what white is: it is the end of the smallest scale that holds
    the brightest pixel: 1 (floats only), 255, 65,535, 2^32 - 1. Of floats, what is no number is black.
    """
    if grey.dtype.itemsize == 2:
        return (grey // 257).astype(np.uint8)
    scales = [255.0, 65_535.0, 2.0**32 - 1]
    if grey.dtype.kind == "f":
        grey, scales = np.nan_to_num(grey, nan=0.0, posinf=0.0, neginf=0.0), [1.0, *scales]
    brightest = float(grey.max())
    white = next((scale for scale in scales if brightest <= scale), brightest)
    # float32, for float64 would take eight bytes a pixel.
    return np.rint(np.clip(grey.astype(np.float32) * np.float32(255.0 / white), 0, 255)).astype(np.uint8)


def load_image(source: Path | bytes | Image.Image, side_px: int) -> np.ndarray:
    """The model's input: uint8 RGB, shape (side_px, side_px, 3). The only way from a photo to a tensor in this project.

    source: as in `decode_photo`.
    """
    image = decode_photo(source, at_least_px=side_px)
    return np.asarray(image.resize((side_px, side_px), Image.Resampling.BILINEAR))
