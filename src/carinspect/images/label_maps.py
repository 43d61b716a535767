"""Reads data/outlines.csv, which says where annotators marked damage and dirt, and draws it as small maps.

| column | meaning |
|---|---|
| `image_path` | as in the other tables; a photo has a row for each mask, and none of a kind about which nothing is known |
| `kind` | `damage`, `dirt` or `vehicle` |
| `class` | scratch, dent, mud, ...; blank for the vehicle and where nothing is marked |
| `form` | `outline` (polygons or run lengths), `box`, or `none`: somebody looked, and nothing of this kind is on the photo |
| `height_px`, `width_px` | size of the mask, that of its annotation file |
| `counts` | the mask: run lengths as COCO's compressed text; blank for `none` |
| `rest` | of the photo, outside all masks of this kind: `unmarked`, or `unknown` where not every mark has a mask |
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from pycocotools import mask as coco_mask

from carinspect.core.errors import UserError

OUTLINE_COLUMNS = ("image_path", "kind", "class", "form", "height_px", "width_px", "counts", "rest")
Form = Literal["outline", "box", "none"]

UNMARKED, MARKED, UNKNOWN = 0, 1, 255
"""Values of a label map."""

_BOX_CORE = 0.5**0.5
"""A box touches its mark on four sides, and says no more. So its middle, this share of either side, counts as marked, and what lies around
that, up to the box's edge, as unknown."""

LabelMap = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Mask:
    """One row of the table."""

    class_name: str
    form: Form
    height_px: int
    width_px: int
    counts: str
    rest: Literal["unmarked", "unknown"]

    def decode(self) -> npt.NDArray[np.uint8]:
        """1 where the mask covers, shape (height_px, width_px)."""
        return np.asarray(coco_mask.decode({"size": [self.height_px, self.width_px], "counts": self.counts.encode()}), np.uint8)


Outlines = Mapping[str, Mapping[str, Sequence[Mask]]]
"""image_path → kind → its masks. A photo or a kind that is not here is unknown."""


def read_outlines(path: Path) -> Outlines:
    """The table data/outlines.csv. Raises `UserError` when it is missing or lacks a column."""
    if not path.is_file():
        raise UserError(f"{path}: no such table. Run the stage that writes it: dvc repro convert_annotations.")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [column for column in OUTLINE_COLUMNS if column not in table.columns]
    if missing:
        raise UserError(f"{path}: column '{missing[0]}' is missing. Make it again: dvc repro --force convert_annotations.")
    found: defaultdict[str, defaultdict[str, list[Mask]]] = defaultdict(lambda: defaultdict(list))
    for photo, kind, class_name, form, height, width, counts, rest in table[list(OUTLINE_COLUMNS)].itertuples(index=False):
        found[photo][kind].append(Mask(class_name, form, int(height or 0), int(width or 0), counts, rest))
    return found


def draw_label_map(masks: Iterable[Mask], *, side_px: int) -> LabelMap:
    """What `masks`, all those of one kind on one photo, say of the photo as a square: uint8 (side_px, side_px) of the three values.

    A cell is marked where an outline covers half of it, or half as much as of the cell that it covers most: a scratch is thinner than a
    cell. Cells that it covers less are unknown, since outlines are loose.
    """
    masks = list(masks)
    rest = UNKNOWN if any(mask.rest == "unknown" for mask in masks) else UNMARKED
    drawn = np.full((side_px, side_px), rest, np.uint8)
    cores: list[npt.NDArray[np.bool_]] = []
    for mask in masks:
        if mask.form == "none":
            continue
        pixels = mask.decode()
        covered = _shrink(pixels, side_px)
        drawn[covered > 0] = UNKNOWN
        certain = _shrink(_core(pixels), side_px) if mask.form == "box" else covered
        cores.append(certain >= min(0.5, 0.5 * float(certain.max())))
    for core in cores:
        drawn[core] = MARKED
    return drawn


def overlap_of(said_hw: npt.NDArray[np.bool_], truth_hw: LabelMap) -> float:
    """Intersection over union of the cells that are `said` to be marked and of those that are; unknown cells do not count."""
    marked, said = truth_hw == MARKED, said_hw & (truth_hw != UNKNOWN)
    return float((said & marked).sum() / max(1, (said | marked).sum()))


def _shrink(pixels: npt.NDArray[np.uint8], side_px: int) -> npt.NDArray[np.float32]:
    """The share of each cell that is covered, float32 (side_px, side_px)."""
    return np.asarray(cv2.resize(pixels.astype(np.float32), (side_px, side_px), interpolation=cv2.INTER_AREA), np.float32)


def _core(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The middle of a box, at least one pixel."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    core = np.zeros_like(pixels)
    if rows.size:
        core[_middle(rows), _middle(columns)] = 1
    return core


def _middle(places: npt.NDArray[np.intp]) -> slice:
    length = places[-1] + 1 - places[0]
    kept = max(1, round(length * _BOX_CORE))
    start = int(places[0]) + (length - kept) // 2
    return slice(start, start + kept)
