"""Decodes a JPEG and refuses one that lacks part of its picture. Source of the markers: ITU-T T.81, annex B.

A cut or a hole often leaves a file that decoders answer with a grey or smeared rest and a warning. Pillow drops the warnings of libjpeg;
simplejpeg (libjpeg-turbo, too) reports them. Its pixels are the same, and it takes about half the time.
"""

import re
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

MAX_SCANS = 1000
"""More than any encoder makes (about ten) and fewer than a crafted file may hold, each at the cost of a pass over the picture."""

_SPACES = {"L": ("GRAY", "L"), "RGB": ("RGB", "RGB"), "CMYK": ("CMYK", "CMYK;I")}  # Pillow's mode → simplejpeg's word, Pillow's raw mode
_END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a stuffed zero nor a restart marker nor a fill byte
_PADDING = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_PREFETCHED_BYTES = 16  # which libjpeg may have taken of the padding before it counts
_HOLE_BYTES = 64
_ONLY_PILLOW = ("tjDecompressHeader3(): Could not determine subsampling", "Warning: unknown JFIF", "Unknown Adobe color transform")


class _Scan(NamedTuple):
    components: bytes
    """Their identifiers."""
    first: int
    last: int
    """Of the coefficients that it brings, 0..63."""
    low: int
    """The lowest bit that it brings."""
    zeros_say_something: bool
    """Whether zero bits, and nothing else, would be coefficients that no picture has, instead of a plain area."""
    start: int
    """Where its data begins."""


def decode_jpeg(content: bytes, opened: Image.Image) -> Image.Image | None:
    """The picture at the size that `opened` has after its `draft`, and in its mode.

    opened: what Pillow read of the header of `content`. None: odd headers or sampling that only Pillow decodes; libjpeg's warnings
    are unknown then.
    Raises `ValueError` with what libjpeg or this module found wrong.
    """
    _check_scans(content)
    space, raw_mode = _SPACES[opened.mode]
    width_px, height_px = opened.size
    try:
        pixels = simplejpeg.decode_jpeg(content, space, min_width=width_px, min_height=height_px)
    except ValueError as warning:
        if str(warning).startswith(_ONLY_PILLOW):
            return None
        if not _is_padding(str(warning), content):
            raise
        pixels = simplejpeg.decode_jpeg(content, space, min_width=width_px, min_height=height_px, strict=False)
    return Image.frombuffer(opened.mode, (width_px, height_px), np.ascontiguousarray(pixels), "raw", raw_mode, 0, 1)


def _check_scans(content: bytes) -> None:
    """Raise `ValueError` where a scan is empty or holds a hole, or where the scans together leave out part of the picture.

    libjpeg warns of none of these: a progressive JPEG cut between two scans is a sound one of less detail to it.
    """
    components, scans, end = _read_scans(content)
    if not scans:
        raise ValueError("there is no picture in it")
    # For each component, the lowest bit that came of each of its 64 coefficients.
    lowest = {component: bytearray(b"\xff" * 64) for component in components}
    for scan in scans:
        for component in scan.components:
            if component not in lowest or not 0 <= scan.first <= scan.last <= 63:
                raise ValueError("the header of a scan is broken")
            lowest[component][scan.first : scan.last + 1] = bytes([scan.low]) * (scan.last + 1 - scan.first)
    if any(bits != bytes(64) for bits in lowest.values()):
        raise ValueError("a scan is missing")
    if scans[0].zeros_say_something:
        hole = content.find(bytes(_HOLE_BYTES), scans[0].start)
        # Zeros up to the end marker are padding, unless the decoder says otherwise.
        if hole >= 0 and content[hole : end or _end_of_scan(content, scans[0].start)].strip(b"\0"):
            raise ValueError("its data holds a hole of zeros")


def _read_scans(content: bytes) -> tuple[bytes, list[_Scan], int]:
    """The components of the picture, its scans, and where the data of the last one ends; 0 where that was not looked for."""
    components, sequential, scans, place, end = b"", False, list[_Scan](), 2, 0
    zero_codes: dict[int, int] = {}
    while (place := content.find(b"\xff", place)) >= 0 and place + 4 <= len(content):
        marker = content[place + 1]
        if marker == 0xD9:
            break
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            place += 1
            continue
        segment = content[place + 4 : place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")]
        place += 4 + len(segment)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(segment) > 5:
            components, sequential = segment[6 : 6 + 3 * segment[5] : 3], marker in (0xC0, 0xC1)
        elif marker == 0xC4:
            zero_codes |= _zero_codes(segment)
        elif marker == 0xDA:
            scans.append(_read_scan(segment, zero_codes if sequential else {}, place))
            if sequential and len(scans[-1].components) == len(components):
                return components, scans, 0  # one scan holds all: a usual JPEG, of which nothing more needs to be read
            end = _end_of_scan(content, place)
            if end == place:
                raise ValueError("a scan is empty")
            if len(scans) > MAX_SCANS:
                raise ValueError(f"more than {MAX_SCANS:,} scans")
            place = end
    return components, scans, end


def _read_scan(segment: bytes, zero_codes: dict[int, int], start: int) -> _Scan:
    count = segment[0] if segment else 0
    if len(segment) < 4 + 2 * count or count == 0:
        raise ValueError("the header of a scan is broken")
    first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
    # 0 is "the rest of this block is zero".
    zeros_say_something = zero_codes.get(segment[2] & 15, 0) != 0
    return _Scan(segment[1 : 1 + 2 * count : 2], first, last, bits & 15, zeros_say_something, start)


def _zero_codes(segment: bytes) -> dict[int, int]:
    """What the code of zero bits stands for, for each table of AC coefficients in a segment of Huffman tables: a table's first symbol."""
    found: dict[int, int] = {}
    while len(segment) > 17:
        if segment[0] >> 4 == 1:
            found[segment[0] & 15] = segment[17]
        segment = segment[17 + sum(segment[1:17]) :]
    return found


def _end_of_scan(content: bytes, start: int) -> int:
    found = _END_OF_SCAN.search(content, start)
    return found.start() if found else len(content)


def _is_padding(warning: str, content: bytes) -> bool:
    """Whether libjpeg warns of nothing but the padding that some cameras put before the end marker."""
    found = _PADDING.search(warning)
    if not found:
        return False
    _, scans, end = _read_scans(content)
    data = content[scans[-1].start : end or _end_of_scan(content, scans[-1].start)]
    padding = len(data) - len(data.rstrip(data[-1:]))
    # More of the same byte than libjpeg left over was decoded as picture: a hole.
    return int(found[1]) <= padding <= int(found[1]) + _PREFETCHED_BYTES
