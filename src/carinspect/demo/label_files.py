"""Writes what describes the photos of each source: COCO files with the habits of real exports, the fleet's CSV, sources.yaml.

COCO's format: https://cocodataset.org/#format-data. In Roboflow exports the categories stand behind a supercategory row without
annotations, and `area` is the box's area.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from carinspect.core.files import write_json
from carinspect.core.seeds import derive_seed
from carinspect.core.tables import write_table
from carinspect.demo.develop import Developed, Mark, Polygon
from carinspect.demo.scene import OUTDOORS, PhotoPlan

_BODY_SHOP_NAMES = {
    "vehicle": "car",
    "dirt": "dirt",
    "dent": "dunt",
    "mud": "mud",
    "rust": "rust",
    "scratch": "scracth",
    "broken": "broken",
}
_BOXES_NAMES = {"vehicle": "arac", "scratch": "cizik", "dent": "gocuk", "broken": "kirik", "rust": "pas"}

_HABITS = ("run lengths", "all polygons in one", "run lengths, compressed", *["a polygon each"] * 9, *["all polygons in one"] * 2)
"""How the pieces of a mark are written, in turn over the dirty photos; only dirt is ever written as run lengths."""

_OVERSHOOT_PX = 6.0

_BLANK_SHARE = 0.08
"""Of the fleet's labels."""


_Written = tuple[str, Any, list[float]]
"""What is written for a mark, or for a piece of it: the mark's class, its segmentation, its box."""


def write_body_shop(folder: Path, photos: Sequence[Developed]) -> None:
    """`_annotations.coco.json` in each split's folder; polygons, some in several pieces, some as run-length codes, one beyond the frame."""
    dirty = sorted(photo.path for photo in photos if not photo.truth.clean)
    habits = {path: _HABITS[turn % len(_HABITS)] for turn, path in enumerate(dirty)}

    def write(photo: Developed) -> list[_Written]:
        habit = habits.get(photo.path, "a polygon each")
        return [written for mark in photo.truth.marks for written in _outlines(mark, photo, habit)]

    for split in ("train", "valid", "test"):
        export = _export([photo for photo in photos if photo.split == split], _BODY_SHOP_NAMES, write, supercategory="Car-Damage")
        write_json(folder / split / "_annotations.coco.json", export)


def write_boxes(folder: Path, photos: Sequence[Developed]) -> None:
    """One `annotations.json` with boxes and empty segmentations; dirt is not annotated."""

    def write(photo: Developed) -> list[_Written]:
        return [(mark.kind, [], _box(mark.polygons)) for mark in photo.truth.marks if mark.kind in _BOXES_NAMES]

    write_json(folder / "annotations.json", _export(photos, _BOXES_NAMES, write, supercategory="none"))


def _export(
    photos: Sequence[Developed], names: dict[str, str], write: Callable[[Developed], list[_Written]], *, supercategory: str
) -> dict[str, Any]:
    """The content of a COCO file. `names`: what the export calls our classes; `write` tells what it says about a photo."""
    numbers = {name: number for number, name in enumerate(sorted(names.values()), start=1)}
    categories = [{"id": number, "name": name, "supercategory": supercategory} for name, number in numbers.items()]
    if supercategory != "none":
        categories.insert(0, {"id": 0, "name": supercategory, "supercategory": "none"})
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, photo in enumerate(sorted(photos, key=lambda photo: photo.path)):
        width, height = photo.shot.plan.width_px, photo.shot.plan.height_px
        images.append({"id": image_id, "license": 1, "file_name": photo.path.rsplit("/", 1)[1], "width": width, "height": height})
        for kind, segmentation, box in write(photo):
            annotations.append({
                "id": len(annotations), "image_id": image_id, "category_id": numbers[names[kind]], "bbox": box,
                "area": round(box[2] * box[3], 2), "segmentation": segmentation, "iscrowd": 0,
            })  # fmt: skip
    info = {"description": "Drawn, not photographed", "version": "1"}
    return {"info": info, "licenses": [], "categories": categories, "images": images, "annotations": annotations}


def _outlines(mark: Mark, photo: Developed, habit: str) -> list[_Written]:
    """One mark, written by one of `_HABITS`."""
    polygons = mark.polygons
    if mark.kind == "vehicle" and photo.shot.overshoot and not photo.is_copy:
        polygons = tuple(_overshot(polygon, photo.shot.plan) for polygon in polygons)
    if habit.startswith("run lengths") and mark.kind == "dirt":
        return [(mark.kind, _run_lengths(polygons, photo.shot.plan, compressed=habit.endswith("compressed")), _box(polygons))]
    if habit == "all polygons in one":
        return [(mark.kind, polygons, _box(polygons))]
    return [(mark.kind, [polygon], _box([polygon])) for polygon in polygons]


def _overshot(polygon: Polygon, plan: PhotoPlan) -> Polygon:
    """The polygon as drawn by a hurried hand: where the frame cuts the car, its corners lie outside."""
    corners = np.reshape(polygon, (-1, 2))
    for axis, length in ((0, plan.width_px), (1, plan.height_px)):
        corners[corners[:, axis] <= 1, axis] = -_OVERSHOOT_PX
        corners[corners[:, axis] >= length - 1, axis] = length + _OVERSHOOT_PX
    return [round(float(value), 2) for value in corners.ravel()]


def _run_lengths(polygons: Sequence[Polygon], plan: PhotoPlan, *, compressed: bool) -> dict[str, Any]:
    size = [plan.height_px, plan.width_px]
    coded = coco_mask.merge(coco_mask.frPyObjects(list(polygons), *size))
    if compressed:
        return {"size": size, "counts": coded["counts"].decode("ascii")}
    # Uncompressed: lengths of the runs of 0 and 1 in turn, down the columns, the first run is of 0.
    pixels = coco_mask.decode(coded).flatten(order="F")
    starts = np.flatnonzero(np.diff(pixels, prepend=0))
    return {"size": size, "counts": np.diff(starts, prepend=0, append=len(pixels)).tolist()}


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
# judges: only for coco: the questions (clean, cleanliness, damage, …) that a person decided on EVERY photo of the source. A photo without
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
