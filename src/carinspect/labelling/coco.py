"""COCO JSON, which most tools read and write: outlines as annotations, and labels of a photo as boxes around all of it.

Format: https://cocodataset.org/#format-data. `annotations.coco` reads it, as it reads the sources of a data root.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from carinspect.annotations.coco import CocoAnnotation, CocoFile, CocoImage, read_coco_file
from carinspect.core.errors import UserError
from carinspect.labelling.records import CHECKED, Outline, Point, Returned, Task, Words, box_points


def write_tasks(tasks: Sequence[Task], words: Words, *, author: str) -> dict[str, bytes]:
    """Name of a file → its content. author: named in `info`, where the answers come from."""
    categories = {**dict.fromkeys(words.tags, "photo"), CHECKED: "photo", **words.kinds}
    return {"annotations.json": dump_coco(tasks, categories, info=author)}


def dump_coco(tasks: Sequence[Task], categories: dict[str, str], *, info: str) -> bytes:
    """A COCO JSON of tasks. categories: name → supercategory; every answer is one, as `<question>:<class>`, and every outline's word."""
    numbers = {name: number for number, name in enumerate(categories, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, task in enumerate(tasks, start=1):
        images.append({"id": number, "file_name": task.file, "width": task.width_px, "height": task.height_px})
        whole = box_points(0, 0, task.width_px, task.height_px)
        marks: list[tuple[str, tuple[Point, ...], list[list[float]]]] = []
        marks += [(f"{name}:{word}", whole, []) for name, word in task.answers.items()]
        marks += [(line.word, line.points, [[side for point in line.points for side in point]]) for line in task.outlines]
        for name, points, segmentation in marks:
            (left, top), (right, bottom) = np.min(points, axis=0).tolist(), np.max(points, axis=0).tolist()
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": numbers[name], "iscrowd": 0, "segmentation": segmentation,
                "bbox": [left, top, right - left, bottom - top], "area": float(cv2.contourArea(np.array(points, np.float32))),
            })  # fmt: skip
    named = [{"id": numbers[name], "name": name, "supercategory": above} for name, above in categories.items()]
    content = {"info": {"description": info}, "images": images, "annotations": annotations, "categories": named}
    return json.dumps(content, indent=1).encode()


def read_marks(path: Path, words: Words) -> dict[str, tuple[Outline, ...]]:
    """image_path → the marks in the file of `score --marks`. Raises `UserError` for another file."""
    coco = read_coco_file(path)
    found: dict[str, tuple[Outline, ...]] = {}
    for image in coco.images:
        where, outlines = f"{path}: {image.file_name}", list[Outline]()
        for annotation in coco.annotations_of(image.id):
            # The question stands before the kind where two questions mark the same.
            kind = coco.category_names.get(annotation.category_id, "").split(" ")[-1]
            words.check_outline(kind, where=where)
            outlines += [Outline(kind, points) for points in _read_lines(annotation, where)]
        found[image.image_path or image.file_name] = tuple(outlines)
    return found


def read_export(path: Path, words: Words) -> list[Returned]:
    """What the file's person said, in its order; its name is the person's. Raises `UserError` for another file and for unknown labels."""
    coco = read_coco_file(path)
    return [_read_image(image, coco, words, path) for image in coco.images]


def _read_image(image: CocoImage, coco: CocoFile, words: Words, path: Path) -> Returned:
    where = f"{path}: {image.file_name}"
    answers: dict[str, frozenset[str]] = {}
    outlines: list[Outline] = []
    checked = False
    for annotation in coco.annotations_of(image.id):
        label = coco.category_names.get(annotation.category_id, "")
        words.check_label(label, where=where)
        if label == CHECKED:
            checked = True
        elif label in words.tags:
            name, word = words.tags[label]
            answers[name] = answers.get(name, frozenset()) | {word}
        else:
            outlines += [Outline(label, points) for points in _read_lines(annotation, where)]
    size_px = image.width, image.height
    return Returned(Path(image.file_name).name, path.stem, size_px, answers, tuple(outlines), checked=checked)


def _read_lines(annotation: CocoAnnotation, where: str) -> list[tuple[Point, ...]]:
    """The polygons, or the box where there is none."""
    segmentation, box = annotation.segmentation, annotation.bbox
    try:
        if isinstance(segmentation, list) and segmentation:
            return [tuple((float(x), float(y)) for x, y in zip(line[::2], line[1::2], strict=True)) for line in segmentation]
        if not isinstance(segmentation, dict):
            return [box_points(*(float(side) for side in box))]
    except (TypeError, ValueError):
        pass
    raise UserError(f"{where}: an outline that is neither polygon nor box. Export it again with polygons.")
