"""Label Studio: its tasks with predictions, its labelling configuration, and its JSON export.

Formats: https://labelstud.io/guide/tasks (tasks and export), https://labelstud.io/guide/predictions, https://labelstud.io/tags.
Coordinates there are in percent of the photo's sides.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from carinspect.core.errors import UserError, one_line, shorten
from carinspect.labelling.records import Outline, Returned, Task, Words, box_points

OUTLINES = "outlines"
"""Name of the control that draws; the others bear the names of the questions."""

_SHAPES = ("polygonlabels", "rectanglelabels")


def write_tasks(tasks: Sequence[Task], words: Words, *, author: str) -> dict[str, bytes]:
    """Name of a file → its content. author: where the predictions come from."""
    content = [_task(task, author) for task in tasks]
    return {"tasks.json": json.dumps(content, indent=1).encode(), "config.xml": _config(words)}


def read_export(path: Path, words: Words) -> list[Returned]:
    """What people said, in the order of the export. Raises `UserError` for another file and for unknown words."""
    try:
        tasks = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a JSON export of Label Studio: {one_line(error)}. Export it again as JSON.") from None
    if not isinstance(tasks, list):
        raise UserError(f"{path}: not a JSON export of Label Studio, which is a list of tasks. Export it again as JSON, not as JSON-MIN.")
    found = []
    for number, task in enumerate(tasks, start=1):
        where = f"{path}, task {number}"
        try:
            found += _read_task(task, words, where=where)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{where}: not as Label Studio writes it ({type(error).__name__}: {one_line(error)}). Export it again."
            ) from None
    return found


def _config(words: Words) -> bytes:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image", zoom="true")
    for name, classes in words.classes.items():
        ElementTree.SubElement(view, "Header", value=name, size="5")
        choices = ElementTree.SubElement(view, "Choices", name=name, toName="image", choice="single-radio", showInline="true")
        for word in classes:
            ElementTree.SubElement(choices, "Choice", value=word)
    if words.kinds:
        labels = ElementTree.SubElement(view, "PolygonLabels", name=OUTLINES, toName="image")
        for word in words.kinds:
            ElementTree.SubElement(labels, "Label", value=word)
    ElementTree.indent(view)
    return ElementTree.tostring(view)


def _task(task: Task, author: str) -> dict[str, Any]:
    data = {"image": f"/data/local-files/?d=photos/{task.file}", "photo": task.file}
    if not task.is_answered:
        return {"data": data}
    result: list[dict[str, Any]] = [
        {"id": name, "from_name": name, "to_name": "image", "type": "choices", "value": {"choices": [word]}}
        for name, word in task.answers.items()
    ]
    for number, outline in enumerate(task.outlines):
        points = [[100 * x / task.width_px, 100 * y / task.height_px] for x, y in outline.points]
        size = {"original_width": task.width_px, "original_height": task.height_px, "image_rotation": 0}
        value = {"points": points, "closed": True, "polygonlabels": [outline.word]}
        result.append({"id": f"mark{number}", "from_name": OUTLINES, "to_name": "image", "type": "polygonlabels", **size, "value": value})
    return {"data": data, "predictions": [{"model_version": author, "result": result}]}


def _read_task(task: Any, words: Words, *, where: str) -> list[Returned]:
    file = task["data"]["photo"]
    if not isinstance(file, str):
        raise TypeError(f"data.photo is {file!r}")
    return [_read_annotation(file, annotation, words, where=where) for annotation in task["annotations"]]


def _read_annotation(file: str, annotation: Any, words: Words, *, where: str) -> Returned:
    who = annotation.get("completed_by", "")
    name = str(who.get("email") or who.get("id")) if isinstance(who, dict) else str(who)
    answers: dict[str, frozenset[str]] = {}
    outlines: list[Outline] = []
    size_px = None
    for region in annotation["result"]:
        kind, value = region["type"], region["value"]
        if kind == "choices":
            for word in value["choices"]:
                words.check_class(region["from_name"], word, where=where)
            answers[region["from_name"]] = answers.get(region["from_name"], frozenset()) | set(value["choices"])
        elif kind in _SHAPES:
            size_px = int(region["original_width"]), int(region["original_height"])
            outlines += [_read_shape(kind, value, word, size_px) for word in value[kind]]
            for word in value[kind]:
                words.check_outline(word, where=where)
        else:
            raise UserError(f"{where}: a region of the type {shorten(kind)!r}. Use the labelling configuration that was exported.")
    skipped = bool(annotation.get("was_cancelled"))
    return Returned(file, name, size_px, answers, tuple(outlines), skipped=skipped, checked=True)


def _read_shape(kind: str, value: Any, word: str, size_px: tuple[int, int]) -> Outline:
    x_px, y_px = size_px[0] / 100, size_px[1] / 100
    if kind == "rectanglelabels":
        if value.get("rotation"):
            raise UserError("a rectangle is rotated. Draw it as a polygon.")
        return Outline(word, box_points(value["x"] * x_px, value["y"] * y_px, value["width"] * x_px, value["height"] * y_px))
    return Outline(word, tuple((float(x) * x_px, float(y) * y_px) for x, y in value["points"]))
