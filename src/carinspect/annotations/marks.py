"""Owns what the outlines on one photo say: judged tasks get a label from every photo, stated labels only where one stands."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from carinspect.annotations.coco_file import CocoAnnotation, CocoImage
from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.meanings import Meaning
from carinspect.annotations.outlines import read_outline, union_area
from carinspect.annotations.scores import area_shares, score_from_shares
from carinspect.core.tasks import Task

Mark = tuple[CocoAnnotation, Meaning]

STATED_MARKS = {"damage": ("damaged", 1.0), "dirt": ("clean", 0.0)}
"""Kind of mark → the stated label that says as much as an outline without an area."""


class Outlined:
    """Masks of one photo by kind and class, and which kinds have a mark of unknown area.

    A category that states `{damaged: 1}` or `{clean: 0}` is such a mark: its box is not the damage's.
    """

    def __init__(self, marks: Iterable[Mark], image: CocoImage, counts: Counter[str]) -> None:
        self.photo_px = image.width * image.height
        self.masks: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        self.without_area: set[str] = set()
        for annotation, meaning in marks:
            if meaning.kind == "labels":
                self.without_area |= {kind for kind, (column, value) in STATED_MARKS.items() if meaning.labels.get(column) == value}
                continue
            outline = read_outline(annotation.segmentation, annotation.bbox, width_px=image.width, height_px=image.height)
            counts[f"outlines_{outline.kind}"] += 1
            counts["outlines_malformed"] += outline.malformed
            counts["outlines_clipped"] += outline.clipped
            if outline.mask is None:
                self.without_area.add(meaning.kind)
            else:
                self.masks[meaning.kind, meaning.class_name].append(outline.mask)

    def is_marked(self, kind: str) -> bool:
        """Whether the photo bears a mark of `kind`, of known area or not."""
        return kind in self.without_area or any(kind == marked for marked, _ in self.masks)

    def score(self, kind: str, severities: Mapping[str, float], exponent: float) -> float | None:
        """1 without marks of `kind`; None where the area of one is unknown, and with it how bad it is."""
        if kind in self.without_area:
            return None
        areas_px = {name: union_area(masks) for (marked, name), masks in self.masks.items() if marked == kind}
        shares = area_shares(areas_px, vehicle_px=union_area(self.masks.get(("vehicle", ""), [])), photo_px=self.photo_px)
        return score_from_shares(shares, severities, exponent=exponent)


def label_photo(
    marks: Sequence[Mark], image: CocoImage, *, judges: Sequence[Task], params: ConvertAnnotationsParams, counts: Counter[str]
) -> dict[str, float]:
    """Label column → value for one photo; repairs and contradictions are added to `counts`."""
    labels = merge_labels([meaning.labels for _, meaning in marks if meaning.kind == "labels"], counts)
    outlined = Outlined(marks, image, counts)
    found: dict[str, float | None] = {}
    if "damage" in judges:
        found["damaged"] = float(outlined.is_marked("damage"))
        found["damage_score"] = outlined.score("damage", params.damage_severity, params.area_exponent)
    if "cleanliness" in judges:
        found["cleanliness_score"] = outlined.score("dirt", params.dirt_severity, params.area_exponent)
    if "clean" in judges:
        found["clean"] = float(not outlined.is_marked("dirt"))
    return labels | {column: value for column, value in found.items() if value is not None}


def merge_labels(stated: Iterable[Mapping[str, float]], counts: Counter[str]) -> dict[str, float]:
    """What several marks on one photo state together. Where they contradict each other nobody knows: left out, and counted."""
    values: defaultdict[str, set[float]] = defaultdict(set)
    for labels in stated:
        for column, value in labels.items():
            values[column].add(value)
    contradicted = {column for column, found in values.items() if len(found) > 1}
    if contradicted & {"damaged", "damage_score"}:
        contradicted |= {"damaged", "damage_score"}
    counts["photos_with_contradicting_labels"] += bool(contradicted)
    return {column: found.pop() for column, found in values.items() if column not in contradicted}
