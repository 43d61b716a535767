"""What decoding a photo whole shows: format, hash, orientation, statistics. Kept in a memory, so that no stage decodes it again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from carinspect.images import decode, statistics
from carinspect.images.decode import decode_photo, open_photo, orientation
from carinspect.images.memory import Memory
from carinspect.images.reading import Readings, read_photos
from carinspect.images.statistics import STATISTICS, measure_photo, view_photo

LAYOUT_SIDE = 6
"""The layout is the photo stretched to this many places square."""

PROPERTIES = np.dtype([
    ("format", "S8"),
    ("phash", "S16"),
    ("orientation", np.uint8),
    *((name, np.float64) for name in STATISTICS),
    ("layout", np.uint8, (LAYOUT_SIDE, LAYOUT_SIDE, 3)),
])  # fmt: skip
"""`format`: Pillow's word for what the file really is. `phash`: 64-bit perceptual hash of the upright RGB photo, 16 hexadecimal digits
(ImageHash's `phash`: signs of the lowest 8 x 8 cosines against their median). `orientation`: what EXIF states, 1..8, or 0. `layout`: RGB.
Sizes are those that a person sees."""


def read_properties(root: Path, image_paths: Sequence[str], *, processes: int | None = None) -> Readings:
    """The records, of the type `PROPERTIES`, of photos below `root`; see `read_photos`."""
    memory = Memory("properties", PROPERTIES, code=[__file__, *decode.CODE, statistics.__file__], libraries=_LIBRARIES)
    return read_photos([root / path for path in image_paths], memory, properties_of, processes=processes)


_LIBRARIES = (*decode.LIBRARIES, "imagehash", "opencv-python-headless", "scipy")


def properties_of(content: bytes) -> tuple[Any, ...]:
    """The fields of `PROPERTIES`, from a file's content. Decoded whole, so that a truncated file is found. Raises `PhotoError`."""
    file, photo = open_photo(content), decode_photo(content)
    seen = view_photo(photo)
    measured = measure_photo(file, seen, file_bytes=len(content))
    layout = np.asarray(seen.resize((LAYOUT_SIDE, LAYOUT_SIDE), Image.Resampling.BOX))
    return ((file.format or "").encode(), str(imagehash.phash(photo)).encode(), orientation(file), *measured.values(), layout)
