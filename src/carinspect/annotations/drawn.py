"""The outlines of chosen photos as lines that can be drawn, for people who want to see what the labels came from."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from carinspect.annotations.coco import CocoAnnotation, CocoImage, PhotoFinder, read_coco_file
from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.listing import list_folder
from carinspect.annotations.meanings import Meaning, read_meanings
from carinspect.annotations.outlines import read_outline
from carinspect.annotations.records import Reading, SourceContext
from carinspect.annotations.sources import load_sources
from carinspect.core.data import DataParams
from carinspect.core.questions import Question, by_name


class DrawnOutline(NamedTuple):
    """One annotation as it counts: after clipping, and as a box where its outline is empty."""

    kind: str
    """`damage`, `dirt` or `vehicle`."""
    name: str
    """The severity class, or `vehicle`."""
    lines: list[np.ndarray]
    """Closed lines, float (points, 2): x and y as shares of the photo's width and height."""


def read_drawn_outlines(
    data: DataParams, params: ConvertAnnotationsParams, questions: Sequence[Question], image_paths: Collection[str]
) -> dict[str, list[DrawnOutline]]:
    """image_path → its outlines, for those of `image_paths` that a COCO source describes; no others are rasterised."""
    found: dict[str, list[DrawnOutline]] = {}
    for source in load_sources(data.sources_path).sources:
        folder = f"{source.folder}/"
        wanted = {path for path in image_paths if path.startswith(folder)}
        if source.format == "coco" and wanted:
            where = f"{data.sources}: {source.name}"
            found |= _read_source(
                SourceContext(source, data.root_path, data.root_path / source.folder, where, params, by_name(questions)), wanted
            )
    return found


def _read_source(context: SourceContext, wanted: set[str]) -> dict[str, list[DrawnOutline]]:
    source, meanings = context.source, read_meanings(context)
    listing = list_folder(context.path, source.exclude, root=context.root, where=context.where)
    finder, found = PhotoFinder(source, listing), dict[str, list[DrawnOutline]]()
    for file in (file for file in listing.files if file.lower().endswith(".json")):
        coco = read_coco_file(listing.folder / file)
        for image in coco.images:
            # What is missing or leaves the folder was counted when the table was made; here it is only not drawn.
            photo = finder.find(image, file, Reading())
            path = str(source.folder / photo) if photo is not None else ""
            for annotation in coco.annotations_of(image.id) if path in wanted else ():
                meaning = meanings.get(coco.category_names.get(annotation.category_id, ""))
                found.setdefault(path, []).extend(_draw(annotation, image, meaning, in_shares=source.coordinates == "shares"))
    return found


def _draw(annotation: CocoAnnotation, image: CocoImage, meaning: Meaning | None, *, in_shares: bool) -> list[DrawnOutline]:
    if meaning is None or meaning.kind == "ignore" or meaning.kind == "labels":
        return []
    size = {"width_px": image.width, "height_px": image.height}
    outline = read_outline(annotation.segmentation, annotation.bbox, **size, in_shares=in_shares)
    if outline.mask is None:
        return []
    return [DrawnOutline(meaning.kind, meaning.class_name or meaning.kind, trace(outline.mask))]


def trace(mask: dict[str, Any]) -> list[np.ndarray]:
    """The borders of a mask in pycocotools' run lengths, outer ones and those of holes, as `DrawnOutline.lines`."""
    pixels = coco_mask.decode(mask)
    height_px, width_px = pixels.shape
    contours, _ = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    # The middle of a pixel lies half a pixel from its corner.
    return [(contour.reshape(-1, 2) + 0.5) / (width_px, height_px) for contour in contours]
