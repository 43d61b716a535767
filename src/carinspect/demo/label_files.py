"""Writes what describes the photos of each source: COCO files with the habits of real exports, the fleet's CSV, sources.yaml.

COCO's format: https://cocodataset.org/#format-data. In Roboflow exports the categories stand behind a supercategory row without
annotations, and `area` is the box's area.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from carinspect.core.files import write_json
from carinspect.core.seeds import derive_seed
from carinspect.core.tables import write_table
from carinspect.demo.develop import Developed, Mark, Polygon
from carinspect.demo.scene import OUTDOORS

BODY_SHOP_NAMES = {"vehicle": "car", "dirt": "dirt", "dent": "dunt", "mud": "mud", "rust": "rust", "scratch": "scracth", "broken": "broken"}
BOXES_NAMES = {"vehicle": "arac", "scratch": "cizik", "dent": "gocuk", "broken": "kirik", "rust": "pas"}

_HABITS = ("run lengths", "all polygons in one", "run lengths, compressed", *["a polygon each"] * 9, *["all polygons in one"] * 2)
"""How the pieces of a mark are written, in turn over the dirty photos; only dirt is ever written as run lengths."""

_OVERSHOOT_PX = 6.0

_BLANK_SHARE = 0.08
"""Of the fleet's labels."""


def write_body_shop(folder: Path, photos: Sequence[Developed]) -> None:
    """`_annotations.coco.json` in each split's folder; polygons, some in several pieces, some as run-length codes, one beyond the frame."""
    dirty = sorted(photo.path for photo in photos if not photo.truth.clean)
    for split in ("train", "valid", "test"):
        names = {"Car-Damage": 0} | {name: number for number, name in enumerate(sorted(BODY_SHOP_NAMES.values()), start=1)}
        export = _export(names, supercategory="Car-Damage")
        for photo in sorted((photo for photo in photos if photo.split == split), key=lambda photo: photo.path):
            image_id = _add_image(export, photo)
            habit = _HABITS[dirty.index(photo.path) % len(_HABITS)] if photo.path in dirty else "a polygon each"
            for mark in photo.truth.marks:
                for segmentation, box in _segmentations(mark, photo, habit):
                    _add_annotation(export, image_id, names[BODY_SHOP_NAMES[mark.kind]], segmentation, box)
        write_json(folder / split / "_annotations.coco.json", export)


def write_boxes(folder: Path, photos: Sequence[Developed]) -> None:
    """One `annotations.json` with boxes and empty segmentations; dirt is not annotated."""
    names = {name: number for number, name in enumerate(sorted(BOXES_NAMES.values()), start=1)}
    export = _export(names, supercategory="none")
    for photo in sorted(photos, key=lambda photo: photo.path):
        image_id = _add_image(export, photo)
        for mark in photo.truth.marks:
            if mark.kind in BOXES_NAMES:
                _add_annotation(export, image_id, names[BOXES_NAMES[mark.kind]], [], _box(mark.polygons))
    write_json(folder / "annotations.json", export)


def _export(names: dict[str, int], *, supercategory: str) -> dict[str, Any]:
    categories = [{"id": number, "name": name, "supercategory": "none" if number == 0 else supercategory} for name, number in names.items()]
    return {
        "info": {"description": "Drawn, not photographed", "version": "1"},
        "licenses": [],
        "categories": categories,
        "images": [],
        "annotations": [],
    }


def _add_image(export: dict[str, Any], photo: Developed) -> int:
    image_id = len(export["images"])
    name = photo.path.rsplit("/", 1)[1]
    export["images"].append({"id": image_id, "license": 1, "file_name": name, "width": photo.width_px, "height": photo.height_px})
    return image_id


def _add_annotation(export: dict[str, Any], image_id: int, category_id: int, segmentation: Any, box: list[float]) -> None:
    export["annotations"].append(
        {
            "id": len(export["annotations"]),
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": round(box[2] * box[3], 2),
            "segmentation": segmentation,
            "iscrowd": 0,
        }
    )


def _segmentations(mark: Mark, photo: Developed, habit: str) -> list[tuple[Any, list[float]]]:
    """What is written for one mark, with the box of each: one of `_HABITS`."""
    if mark.kind == "vehicle" and photo.shot.overshoot and not photo.is_copy:
        mark = Mark(mark.kind, tuple(_overshot(polygon, photo) for polygon in mark.polygons))
    if habit.startswith("run lengths") and mark.kind == "dirt":
        return [(_run_lengths(mark.polygons, photo, compressed=habit.endswith("compressed")), _box(mark.polygons))]
    if habit == "all polygons in one":
        return [(list(mark.polygons), _box(mark.polygons))]
    return [([polygon], _box((polygon,))) for polygon in mark.polygons]


def _overshot(polygon: Polygon, photo: Developed) -> Polygon:
    """The polygon as drawn by a hurried hand: where the frame cuts the car, its corners lie outside."""
    corners = np.reshape(polygon, (-1, 2))
    for axis, length in ((0, photo.width_px), (1, photo.height_px)):
        corners[corners[:, axis] <= 1, axis] = -_OVERSHOOT_PX
        corners[corners[:, axis] >= length - 1, axis] = length + _OVERSHOOT_PX
    return [round(float(value), 2) for value in corners.ravel()]


def _run_lengths(polygons: Sequence[Polygon], photo: Developed, *, compressed: bool) -> dict[str, Any]:
    size = (photo.height_px, photo.width_px)
    coded = coco_mask.merge(coco_mask.frPyObjects([list(polygon) for polygon in polygons], *size))
    if compressed:
        return {"size": list(size), "counts": coded["counts"].decode("ascii")}
    # Uncompressed: lengths of the runs of 0 and 1 in turn, down the columns, the first run is of 0.
    pixels = coco_mask.decode(coded).flatten(order="F")
    starts = np.flatnonzero(np.diff(np.concatenate([[0], pixels])))
    return {"size": list(size), "counts": np.diff(np.concatenate([[0], starts, [len(pixels)]])).tolist()}


def _box(polygons: Sequence[Polygon]) -> list[float]:
    """x, y, width, height around all `polygons`."""
    corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    low, high = corners.min(axis=0), corners.max(axis=0)
    return [round(float(value), 2) for value in (*low, *(high - low))]


def write_fleet(path: Path, photos: Sequence[Developed], *, seed: int) -> None:
    """One row a photo; `image_path` is relative to the CSV's folder. The first photo's labels are all blank."""
    rng = np.random.default_rng(derive_seed(seed, "blanks"))
    rows = []
    for index, photo in enumerate(photos):
        labels = {
            "cleanliness_score": round(photo.truth.cleanliness, 2),
            "damage_score": round(photo.truth.damage, 2),
            "weather_condition": OUTDOORS.index(photo.shot.plan.weather),
            "clean": photo.truth.clean,
        }
        kept = {name: value for name, value in labels.items() if rng.random() >= _BLANK_SHARE and index > 0}
        rows.append({"image_path": photo.path.removeprefix("fleet/"), "vehicle_id": photo.shot.vehicle_id, "split": photo.split} | kept)
    columns = ["image_path", "vehicle_id", "cleanliness_score", "damage_score", "weather_condition", "clean", "split"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    write_table(table.astype({"clean": "Int64", "weather_condition": "Int64"}), path)


SOURCES_YAML = """\
# What lies in this data root, and what it means. Copy this file to describe your own.
#
# format: coco     one or more COCO JSON files beside their photos (Roboflow exports: train/, valid/, test/)
#         folders  one folder for each class, with or without train/val/test above
#         csv      a table with image_path and any of the label columns
# judges: only for coco: the tasks (clean, cleanliness, damage, weather) that a person decided on EVERY photo of the source. A photo without
#         annotations is then clean, or undamaged. What is not judged stays blank and teaches nothing.
# categories: EVERY category or class folder, and what it means:
#         scratch dent rust broken missing glass paint   damage, weighed by convert_annotations.damage_severity in params.yaml
#         dirt mud                                       dirt, weighed by convert_annotations.dirt_severity
#         vehicle                                        the car; areas are taken as shares of it
#         {clean: 1} {damaged: 0} {weather: fog} ...     labels
#         ignore                                         nothing
sources:
  # A body shop's export: polygons, categories as somebody typed them, augmented copies in every split.
  - name: body_shop
    format: coco
    judges: [damage, cleanliness, clean]
    # IMG_0123_jpg.rf.<hash>.jpg: what stands before .rf. is the photo that its copies come from. This is the default.
    family_pattern: '^(.+?)[._](?:jpe?g|png|webp)\\.rf\\.[0-9a-f]{6,}'
    categories:
      Car-Damage: ignore        # the supercategory's row
      car: vehicle
      scracth: scratch
      dunt: dent
      rust: rust
      broken: broken
      dirt: dirt
      mud: mud

  # An insurer's set: boxes without polygons, Turkish names, one folder without splits. Dirt was not looked at.
  - name: boxes
    format: coco
    judges: [damage]
    categories:
      arac: vehicle             # car
      cizik: scratch
      gocuk: dent
      kirik: broken
      pas: rust

  # A car wash: clean or dirty, and nothing else.
  - name: wash
    format: folders
    categories:
      clean: {clean: 1}
      dirty: {clean: 0}

  # Frames sorted by weather.
  - name: dashcam
    format: folders
    categories:
      clear day: {weather: clear}
      rain: {weather: rain}
      foggy: {weather: fog}
      snow: {weather: snow}
      sand: ignore              # a class that we have no question for

  # A fleet's inspections: several photos of each vehicle, all labels, some blank.
  - name: fleet
    format: csv
    path: fleet/labels.csv
    family_column: vehicle_id   # photos with the same value stay in one split
"""
