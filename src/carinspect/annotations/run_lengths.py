"""Owns COCO's run lengths: checking them, and reading their compressed text, before pycocotools sees any.

In pycocotools, lengths that do not fill the image make a union run for ever, and a broken text is read past its end.
"""

from typing import Any

from pycocotools import mask as coco_mask


class MalformedError(ValueError):
    """An outline that is none."""


def read_run_lengths(segmentation: dict[str, Any], *, width_px: int, height_px: int) -> dict[str, Any]:
    """A mask of pycocotools from `{size: [height, width], counts: list or compressed text}`. Raises `MalformedError`."""
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = decompress(counts)
    if segmentation.get("size") != [height_px, width_px] or not isinstance(counts, list):
        raise MalformedError
    if any(type(count) is not int or count < 0 for count in counts) or sum(counts) != height_px * width_px:
        raise MalformedError
    return coco_mask.frPyObjects({"size": [height_px, width_px], "counts": counts}, height_px, width_px)


def decompress(text: str) -> list[int]:
    """The counts of COCO's compressed text: 5 bits a character from '0' on, low bits first; the sixth bit says that more follow.

    From the fourth count on, the text holds the difference to the count before the last (`rleFrString` in cocoapi's common/maskApi.c).
    Raises `MalformedError`.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            raise MalformedError
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise MalformedError
    return counts
