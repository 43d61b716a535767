"""Writes the marks of many photos as one COCO file, without holding them in memory.

Format: https://cocodataset.org/#format-data, with `score` as in its results. `file_name` is relative to the folder of all photos:
CVAT, Label Studio and FiftyOne look for it in a folder that a person names, and CVAT refuses a name that leads out of it.
"""

import json
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from carinspect.core.errors import UserError
from carinspect.inference.marks import PhotoMarks, outlined_area
from carinspect.inference.predictor import Predictor

Cells = Callable[[], Iterable[tuple[str, str | None]]]
"""Gives each photo's name and `cell_of` it, None for one that could not be read. Called once for each of the file's two lists."""


def check_marks_file(path: Path) -> None:
    """Raise `UserError` unless `path` can be the COCO file."""
    if path.suffix.lower() != ".json" or path.is_dir():
        raise UserError(f"--marks is {str(path)!r}. Name a file that ends in .json.")


def cell_of(found: PhotoMarks, *, width_px: int, height_px: int) -> str:
    """The marks of one photo and its upright size, as text for one cell of a row."""
    cell = {"width": width_px, "height": height_px, **asdict(found)}
    return json.dumps(cell, separators=(",", ":"))


def count_marks(cells: Iterable[tuple[str, str | None]]) -> Counter[str]:
    """How many `marks`, photos with one (`marked`) and regions `without_pixel` there are."""
    counts: Counter[str] = Counter()
    for _, _, cell in _read(cells):
        counts.update(marks=len(cell["marks"]), marked=bool(cell["marks"]), without_pixel=cell["without_pixel"])
    return counts


def write_marks(cells: Cells, path: Path, predictor: Predictor) -> None:
    """Write the COCO file. The number of an image is its place among all photos, from 1 on; one that could not be read has none."""
    categories = _categories(predictor)
    by_question = {category["supercategory"]: category["id"] for category in categories}
    folder = _folder_of_all(name for name, cell in cells() if cell is not None)
    info = {"description": "Marks of carinspect score", "model_sha256": predictor.bundle.sha256, "folder": folder}
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {json.dumps(info)},\n"licenses": [],\n"categories": {json.dumps(categories)},\n"images": [')
        file.writelines(_listed(_image(*one, folder=folder) for one in _read(cells())))
        file.write('],\n"annotations": [')
        file.writelines(_listed(_numbered(cells(), by_question)))
        file.write("]}\n")


def _categories(predictor: Predictor) -> list[dict[str, Any]]:
    """One for each question with a map, named by what it marks."""
    rules = [predictor.bundle.thresholds.marks[name] for name in predictor.bundle.thresholds.mapped]
    kinds = Counter(rule.kind for rule in rules)
    return [
        {
            "id": number,
            "name": rule.kind if kinds[rule.kind] == 1 else f"{rule.question} {rule.kind}",
            "supercategory": rule.question,
            "promise": None if rule.promise is None else rule.promise.model_dump(mode="json"),
        }
        for number, rule in enumerate(rules, start=1)
    ]


def _read(cells: Iterable[tuple[str, str | None]]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for number, (name, cell) in enumerate(cells, start=1):
        if cell is not None:
            yield number, name, json.loads(cell)


def _folder_of_all(names: Iterable[str]) -> str:
    """The deepest folder in which all photos lie; empty where there is none."""
    folders = dict.fromkeys(posixpath.dirname(name) for name in names)
    if len({folder.startswith("/") for folder in folders}) != 1:
        return ""
    return posixpath.commonpath(folders)


def _image(number: int, name: str, cell: dict[str, Any], *, folder: str) -> dict[str, Any]:
    within = posixpath.relpath(name, folder) if folder else name
    return {"id": number, "file_name": within, "image_path": name, "width": cell["width"], "height": cell["height"]}


def _numbered(cells: Iterable[tuple[str, str | None]], by_question: dict[str, int]) -> Iterator[dict[str, Any]]:
    number = 0
    for image, _, cell in _read(cells):
        for mark in cell["marks"]:
            number += 1
            yield {
                "id": number,
                "image_id": image,
                "category_id": by_question[mark["question"]],
                "segmentation": [[value for corner in mark["polygon"] for value in corner]],
                "bbox": mark["box"],
                "area": outlined_area(mark["polygon"]),
                "iscrowd": 0,
                "score": mark["strength"],
                "attributes": {"share": mark["share"], "proved": mark["proved"]},
            }


def _listed(values: Iterable[dict[str, Any]]) -> Iterator[str]:
    separator = "\n"
    for value in values:
        yield f"{separator}{json.dumps(value)}"
        separator = ",\n"
