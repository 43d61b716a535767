"""CVAT: its XML 1.1 of annotated photos, both ways, and the labels that its task needs.

Format: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat (CVAT for images).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from carinspect.core.errors import UserError, one_line
from carinspect.labelling.records import CHECKED, Outline, Returned, Task, Words, box_points


def write_tasks(tasks: Sequence[Task], words: Words, *, author: str) -> dict[str, bytes]:
    """Name of a file → its content. author: CVAT knows no more of it than `auto`."""
    del author
    tags = [*words.tags, CHECKED]
    labels: list[dict[str, Any]] = [{"name": name, "type": "tag", "attributes": []} for name in tags]
    labels += [{"name": word, "type": "polygon", "attributes": []} for word in words.kinds]
    return {"annotations.xml": _annotations(tasks, labels), "labels.json": json.dumps(labels, indent=1).encode()}


def _annotations(tasks: Sequence[Task], labels: Sequence[dict[str, Any]]) -> bytes:
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    described = SubElement(SubElement(root, "meta"), "task")
    SubElement(described, "size").text = str(len(tasks))
    SubElement(described, "mode").text = "annotation"
    listed = SubElement(described, "labels")
    for label in labels:
        one = SubElement(listed, "label")
        SubElement(one, "name").text = label["name"]
        SubElement(one, "type").text = label["type"]
        SubElement(one, "attributes")
    for number, task in enumerate(tasks):
        image = SubElement(root, "image", id=str(number), name=task.file, width=str(task.width_px), height=str(task.height_px))
        for name, word in task.answers.items():
            SubElement(image, "tag", label=f"{name}:{word}", source="auto")
        for outline in task.outlines:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline.points)
            SubElement(image, "polygon", label=outline.word, source="auto", occluded="0", points=points, z_order="0")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def read_export(path: Path, words: Words) -> list[Returned]:
    """What the file's person said, in its order; its name is the person's. Raises `UserError` for another file and for unknown labels."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f"{path}: not an XML of CVAT: {one_line(error)}. Export it again as 'CVAT for images 1.1'.") from None
    if root.tag != "annotations" or (version := root.findtext("version")) != "1.1":
        found = f"<{root.tag}>" if root.tag != "annotations" else f"the version {version}"
        raise UserError(f"{path}: not an XML 1.1 of CVAT, but {found}. Export it again as 'CVAT for images 1.1'.")
    if root.find("track") is not None:
        raise UserError(f"{path}: it has tracks of a video. Export it again as 'CVAT for images 1.1'.")
    return [_read_image(image, words, path) for image in root.iter("image")]


def _read_image(image: Element, words: Words, path: Path) -> Returned:
    where = f"{path}: {image.get('name')}"
    answers: dict[str, frozenset[str]] = {}
    outlines: list[Outline] = []
    checked = False
    try:
        file = Path(image.attrib["name"]).name
        size_px = int(image.attrib["width"]), int(image.attrib["height"])
        for shape in image:
            label = shape.attrib["label"]
            words.check_label(label, where=where)
            if shape.tag == "tag":
                checked |= label == CHECKED
                if label in words.tags:
                    name, word = words.tags[label]
                    answers[name] = answers.get(name, frozenset()) | {word}
            else:
                words.check_outline(label, where=where)
                outlines.append(Outline(label, _read_points(shape, where)))
    except (KeyError, ValueError) as error:
        raise UserError(f"{where}: not as CVAT writes it ({type(error).__name__}: {one_line(error)}). Export it again.") from None
    return Returned(file, path.stem, size_px, answers, tuple(outlines), checked=checked)


def _read_points(shape: Element, where: str) -> tuple[tuple[float, float], ...]:
    if shape.tag == "polygon":
        pairs = [pair.split(",") for pair in shape.attrib["points"].split(";")]
        return tuple((float(x), float(y)) for x, y in pairs)
    if shape.tag == "box":
        if float(shape.get("rotation", 0)):
            raise UserError(f"{where}: a box is rotated. Draw it as a polygon.")
        left, top, right, bottom = (float(shape.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        return box_points(left, top, right - left, bottom - top)
    raise UserError(f"{where}: a shape of the type {shape.tag!r}. Draw it as a polygon.")
