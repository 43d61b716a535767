"""Reads one photo for the model, and how large it is as a person sees it: what is said of places is said in these pixels."""

from pathlib import Path

import numpy as np
from PIL import Image

from carinspect.images.decode import ON_ITS_SIDE, load_image, open_photo, orientation


def load_with_size(source: Path | bytes | Image.Image, side_px: int) -> tuple[np.ndarray, tuple[int, int]]:
    """What `load_image` gives, and the upright photo's width and height in pixels. source: as in `decode_photo`."""
    photo = source if isinstance(source, Image.Image) else open_photo(source)
    # A JPEG may be decoded at a reduced scale, and then says that it is smaller.
    width_px, height_px = photo.size
    pixels = load_image(photo, side_px)
    # Read after decoding: a TIFF is turned by Pillow, which opens it upright and then forgets its orientation; a PNG may say it at its end.
    return pixels, (height_px, width_px) if orientation(photo) in ON_ITS_SIDE else (width_px, height_px)
