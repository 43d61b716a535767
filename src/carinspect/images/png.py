"""Finds out whether a PNG lacks part of its picture, of which Pillow says nothing. Source: PNG specification (W3C), third edition."""

import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type, section 11.2.1
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # section 8.1: x, y, steps


def check_checksums(content: bytes) -> None:
    """Raise `ValueError` where picture data is not what its writer wrote. libpng refuses that, too; Pillow reads on."""
    for kind, data, checksum in _chunks(content):
        if kind == b"IDAT" and zlib.crc32(data, zlib.crc32(kind)) != checksum:
            raise ValueError("a checksum of its picture data is wrong")


def check_rows(content: bytes, decoded: Image.Image) -> None:
    """Raise `ValueError` where rows are missing. decoded: by Pillow, in which missing rows are zeros.

    Only where one of the last two rows is all zeros (with interlacing the one before the last may be the last to come) the length of the
    data is looked at, for that takes half as long as decoding did.
    """
    bottom = np.asarray(decoded.crop((0, max(0, decoded.height - 2), decoded.width, decoded.height)))
    if bottom.reshape(len(bottom), -1).any(axis=1).all():
        return
    _, header, _ = next(_chunks(content))
    data = b"".join(data for kind, data, _ in _chunks(content) if kind == b"IDAT")
    if _inflated_bytes(data, limit=(expected := _expected_bytes(header))) < expected:
        raise ValueError("rows are missing")


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview, int]]:
    """Type, data and stated checksum of each whole chunk up to the end of the picture."""
    view, place, kind = memoryview(content), 8, b""
    while place + 12 <= len(content) and kind != b"IEND":
        kind, end = content[place + 4 : place + 8], place + 8 + int.from_bytes(content[place : place + 4], "big")
        yield kind, view[place + 8 : end], int.from_bytes(content[end : end + 4], "big")
        place = end + 4


def _expected_bytes(header: memoryview) -> int:
    width_px, height_px = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits, interlaced = header[8] * _CHANNELS[header[9]], header[12] == 1
    sizes = [(-(-(width_px - x) // dx), -(-(height_px - y) // dy)) for x, y, dx, dy in (_PASSES if interlaced else ((0, 0, 1, 1),))]
    # A byte before each row says how it was filtered.
    return sum((1 + -(-width * bits // 8)) * height for width, height in sizes if width > 0 and height > 0)


def _inflated_bytes(data: bytes, *, limit: int) -> int:
    inflater, count = zlib.decompressobj(), 0
    while data and count < limit:
        count += len(inflater.decompress(data, 1_000_000))
        data = inflater.unconsumed_tail
    return count
