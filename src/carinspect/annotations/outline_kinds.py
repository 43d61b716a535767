"""What the outlines on one photo say: which labels each kind of outline tells, and the formula from marked areas to a score.

    score = 1 - min(1, sum over classes c of severity_c x share_c ^ exponent)

share_c is the union of the class's masks over the vehicle's area where a vehicle is outlined, else over the photo's. A union, so that two
outlines of one dent cost no more than one; saturating, so that a wreck scores 0 and not less.

This is the one place, beside the demo, that knows label columns by name: the meaning of an outline of damage or of dirt.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pycocotools import mask as coco_mask

from carinspect.annotations.coco import CocoAnnotation, CocoImage
from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.meanings import Meaning
from carinspect.annotations.outlines import read_outline, union_area
from carinspect.annotations.records import KeptMask
from carinspect.annotations.sources import Source
from carinspect.core.errors import UserError
from carinspect.core.questions import Question

Mark = tuple[CocoAnnotation, Meaning]


@dataclass(frozen=True)
class OutlineKind:
    """The label columns that outlines of one kind tell."""

    score_column: str
    binary_column: str
    marked: float
    """The label in `binary_column` of a photo with such an outline; a photo without one has the other label."""


OUTLINE_KINDS = {
    "damage": OutlineKind("damage_score", "damaged", 1.0),
    "dirt": OutlineKind("cleanliness_score", "clean", 0.0),
}


@dataclass(frozen=True)
class Judged:
    """What a person decided on every photo of a source."""

    columns: frozenset[str]
    """Label columns: of the questions that the source judges, and of those that follow from one of them by `from_score`."""
    unmarked: Mapping[str, float]
    """Of those that categories state, as `{glass_ok: 0}` does: the label of a photo without such a category."""
    derived: frozenset[str]
    """Those whose label follows from a score where that is known."""
    uncertain: frozenset[str] = frozenset()
    """Those that a photo without a mark leaves blank after all, for a mark that points to no photo may be its own."""

    def but_for(self, astray: Iterable[Meaning]) -> "Judged":
        """The same without what marks of these meanings, which point to no photo, leave open."""
        open_columns: set[str] = set()
        for meaning in astray:
            stated = set(meaning.labels)
            for name, kind in OUTLINE_KINDS.items():
                columns = {kind.score_column, kind.binary_column}
                if meaning.kind == name or stated & columns:
                    open_columns |= columns
            open_columns |= stated
        return replace(self, uncertain=frozenset(open_columns))


def find_judged(source: Source, meanings: Mapping[str, Meaning], questions: Mapping[str, Question], *, where: str) -> Judged:
    """What the source's `judges` amounts to. Raises `UserError` for a question that its categories cannot tell."""
    columns = {questions[name].column for name in source.judges}
    derived = {asked.column for asked in questions.values() if asked.from_score is not None and asked.from_score.column in columns}
    columns |= derived
    by_outline = {column for kind in OUTLINE_KINDS.values() for column in (kind.score_column, kind.binary_column)}
    marked = {(kind.binary_column, kind.marked) for kind in OUTLINE_KINDS.values()}
    stated: defaultdict[str, set[float]] = defaultdict(set)
    for name, meaning in meanings.items():
        for column, value in meaning.labels.items():
            stated[column].add(value)
            if column in columns & by_outline and (column, value) not in marked:
                raise UserError(f"{where}.categories.{name} states {column}, which `judges` leaves to the outlines. Keep one of the two.")
    unmarked: dict[str, float] = {}
    for name in source.judges:
        asked = questions[name]
        if asked.column in by_outline:
            continue
        if asked.kind != "binary" or len(stated[asked.column]) != 1:
            raise UserError(
                f"{where}.judges names {name}, which outlines cannot tell. Remove it, and state it by categories such as "
                f"{{{name}: {asked.classes[0] if asked.has_classes else 0.5}}}; for a binary question one category must state one class."
            )
        (value,) = stated[asked.column]
        unmarked[asked.column] = 1.0 - value
    return Judged(frozenset(columns), unmarked, frozenset(derived))


class Outlined:
    """Masks of one photo by kind and class, and which kinds have a mark of unknown area.

    A category that states the label of a marked photo, such as `{damaged: 1}`, is such a mark: its box is not the damage's.
    """

    def __init__(self, marks: Iterable[Mark], image: CocoImage, counts: Counter[str], *, in_shares: bool) -> None:
        self.photo_px = image.width * image.height
        self.masks: list[KeptMask] = []
        self.without_area: set[str] = set()
        for annotation, meaning in marks:
            if meaning.kind == "labels":
                self.without_area |= {name for name, kind in OUTLINE_KINDS.items() if meaning.labels.get(kind.binary_column) == kind.marked}
                continue
            size = {"width_px": image.width, "height_px": image.height}
            outline = read_outline(annotation.segmentation, annotation.bbox, **size, in_shares=in_shares)
            counts[f"outlines_{outline.kind}"] += 1
            counts["outlines_malformed"] += outline.malformed
            counts["outlines_clipped"] += outline.clipped
            if outline.mask is None:
                self.without_area.add(meaning.kind)
            else:
                form: Literal["outline", "box"] = "box" if outline.kind == "box" else "outline"
                self.masks.append(KeptMask(meaning.kind, meaning.class_name, form, outline.mask))

    def kept(self) -> tuple[KeptMask, ...]:
        """The union of the outlines of each class, and each box by itself: its middle says more than its rim."""
        outlines = _by_class(mask for mask in self.masks if mask.form == "outline")
        unions = [KeptMask(*key, "outline", coco_mask.merge(masks)) for key, masks in sorted(outlines.items())]
        return (*unions, *(mask for mask in self.masks if mask.form == "box"))

    def is_marked(self, kind: str) -> bool:
        """Whether the photo has a mark of `kind`, of known area or not."""
        return kind in self.without_area or any(kind == mask.kind for mask in self.masks)

    def score(self, kind: str, severities: Mapping[str, float], exponent: float) -> float | None:
        """1 without marks of `kind`; None where the area of one is unknown, and with it how bad it is."""
        if kind in self.without_area:
            return None
        by_class = _by_class(self.masks)
        areas_px = {name: union_area(masks) for (marked, name), masks in by_class.items() if marked == kind}
        shares = area_shares(areas_px, vehicle_px=union_area(by_class.get(("vehicle", ""), [])), photo_px=self.photo_px)
        score = score_from_shares(shares, severities, exponent=exponent)
        # However small, a mark leaves no perfect photo: the sum may round to 1.
        return min(score, math.nextafter(1.0, 0.0)) if areas_px else score


def _by_class(masks: Iterable[KeptMask]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Kind and class → the run lengths of its masks."""
    found: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for mask in masks:
        found[mask.kind, mask.class_name].append(mask.rle)
    return found


def label_photo(
    marks: Sequence[Mark], outlined: Outlined, judged: Judged, *, params: ConvertAnnotationsParams, counts: Counter[str]
) -> dict[str, float]:
    """Label column → value for one photo, whose outlines among `marks` are `outlined`; contradictions are added to `counts`."""
    stated = merge_labels([meaning.labels for _, meaning in marks if meaning.kind == "labels"], counts)
    found: dict[str, float] = {}
    left_blank = False
    for name, kind in OUTLINE_KINDS.items():
        columns = judged.columns & {kind.score_column, kind.binary_column}
        if columns & judged.uncertain and not outlined.is_marked(name):
            left_blank = True
            continue
        severities = params.damage_severity if name == "damage" else params.dirt_severity
        score = outlined.score(name, severities, params.area_exponent) if kind.score_column in columns else None
        if score is not None:
            found[kind.score_column] = score
        # Where the class follows from the score it is derived from there; a mark of unknown area has no score, and is still a mark.
        if kind.binary_column in columns and (score is None or kind.binary_column not in judged.derived):
            found[kind.binary_column] = kind.marked if outlined.is_marked(name) else 1.0 - kind.marked
    unmarked = {column: value for column, value in judged.unmarked.items() if column not in stated}
    left_blank |= not judged.uncertain.isdisjoint(unmarked)
    counts["photos_left_blank"] += left_blank
    return stated | {column: value for column, value in unmarked.items() if column not in judged.uncertain} | found


def merge_labels(stated: Iterable[Mapping[str, float]], counts: Counter[str]) -> dict[str, float]:
    """What several marks on one photo state together. Where they contradict each other nobody knows: left out, and counted."""
    values: defaultdict[str, set[float]] = defaultdict(set)
    for labels in stated:
        for column, value in labels.items():
            values[column].add(value)
    contradicted = {column for column, found in values.items() if len(found) > 1}
    # A score and the class that goes with it are one statement.
    for kind in OUTLINE_KINDS.values():
        if contradicted & {kind.score_column, kind.binary_column}:
            contradicted |= {kind.score_column, kind.binary_column}
    counts["photos_with_contradicting_labels"] += bool(contradicted)
    return {column: found.pop() for column, found in values.items() if column not in contradicted}


def area_shares(areas_px: Mapping[str, int], *, vehicle_px: int, photo_px: int) -> dict[str, float]:
    """Share of each class, in 0..1, from the areas of the unions.

    vehicle_px: area of the union of the vehicle masks, 0 where none is outlined. A mark is not cut to the vehicle's outline, and its share
    stops at 1: vehicles are often outlined loosely, and a mark that somebody drew must not vanish beside one.
    """
    whole_px = vehicle_px or photo_px
    return {name: min(1.0, area_px / whole_px) for name, area_px in areas_px.items()}


def score_from_shares(shares: Mapping[str, float], severities: Mapping[str, float], *, exponent: float) -> float:
    """The score, in 0..1: 1 without marks. shares: class → share in 0..1; severities: class → weight."""
    # Sorted, for a sum of floats depends on its order.
    return 1.0 - min(1.0, sum(severities[name] * shares[name] ** exponent for name in sorted(shares)))
