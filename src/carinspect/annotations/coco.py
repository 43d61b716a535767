"""Owns reading a source of COCO JSONs: finding the photos that they list, and which of their outlines count."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath

from carinspect.annotations.coco_file import CocoFile, CocoImage, Identity, read_coco_file
from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.listing import Listing, declared_split, leaves_folder
from carinspect.annotations.marks import STATED_MARKS, Mark, label_photo
from carinspect.annotations.meanings import Meaning
from carinspect.annotations.records import LabelledPhoto, Reading, Rejection
from carinspect.annotations.sources import Source
from carinspect.core.errors import UserError

_TASKS_OF_KIND = {"damage": {"damage"}, "dirt": {"clean", "cleanliness"}}

_TASK_OF_COLUMN = {"clean": "clean", "cleanliness_score": "cleanliness", "damaged": "damage", "damage_score": "damage"}


def read_coco(
    source: Source, meanings: Mapping[str, Meaning], listing: Listing, params: ConvertAnnotationsParams, *, where: str
) -> Reading:
    """Every photo that a JSON below the source's folder lists, with the labels of its outlines.

    A photo without outlines is whole (or clean) only for the tasks that the source judges; a photo that no JSON lists has no label at all.
    Raises `UserError` for a broken JSON, for a source that says nothing, and when none of the listed photos exist.
    """
    _check_that_it_says_something(source, meanings, where)
    jsons = [file for file in listing.files if file.lower().endswith(".json")]
    if not jsons:
        raise UserError(f"{where}.path: no .json file below {str(listing.folder)!r}. Correct the path, or the format.")
    reading = Reading()
    defined: set[str] = set()
    listed_in: dict[str, str] = {}
    photos_on_disk = PhotoFinder(source, listing)
    for file in jsons:
        coco = read_coco_file(listing.folder / file)
        defined.update(coco.category_names.values())
        marks = _marks_by_image(coco, source, meanings, reading)
        split = declared_split((*PurePosixPath(file).parent.parts, PurePosixPath(file).stem))
        for image in coco.images:
            photo = photos_on_disk.find(image, file, reading)
            if photo is None:
                continue
            if photo in listed_in:
                raise UserError(f"{where}: {photo!r} is listed twice: in {listed_in[photo]!r} and in {file!r}. Leave one out by `exclude`.")
            listed_in[photo] = file
            labels = label_photo(marks.get(image.id, ()), image, judges=source.judges, params=params, counts=reading.counts)
            size_px = (image.width, image.height)
            reading.photos.append(LabelledPhoto(str(source.folder / photo), labels, declared_split=split, stated_size_px=size_px))
    if not reading.photos:
        raise UserError(
            f"{where}: no photo that its {len(jsons)} JSON file(s) list exists, beside the JSON or in images/. Fetch the photos."
        )
    for photo in listing.photos:
        if photo not in listed_in:
            reading.rejected.append(Rejection(str(source.folder / photo), "unlisted", "no COCO JSON lists it, so nobody judged it"))
    reading.counts["categories_without_annotations"] += len(defined - set(reading.classes))
    reading.skipped_files = listing.skipped_suffixes(used={*jsons, *listed_in})
    reading.unused_mappings = sorted(set(meanings) - defined)
    return reading


def _check_that_it_says_something(source: Source, meanings: Mapping[str, Meaning], where: str) -> None:
    if not source.judges and not any(meaning.labels for meaning in meanings.values()):
        raise UserError(f"{where}.judges: missing. Say which tasks a human decided on every photo, such as [damage].")
    for name, meaning in meanings.items():
        for column, value in meaning.labels.items():
            task = _TASK_OF_COLUMN.get(column)
            if task in source.judges and (column, value) not in STATED_MARKS.values():
                raise UserError(f"{where}.categories.{name} states {task}, which `judges` leaves to the outlines. Keep one of the two.")


def _marks_by_image(coco: CocoFile, source: Source, meanings: Mapping[str, Meaning], reading: Reading) -> Mapping[Identity, list[Mark]]:
    """Image id → the annotations that matter to a judged task or state a label; everything else is counted."""
    marks: defaultdict[Identity, list[Mark]] = defaultdict(list)
    names = coco.category_names
    known_images = {image.id for image in coco.images}
    for annotation in coco.annotations:
        name = names[annotation.category_id]
        reading.classes[name] += 1
        meaning = meanings.get(name)
        if meaning is None:
            reading.unmapped[name] += 1
        elif annotation.image_id not in known_images:
            reading.counts["annotations_of_unknown_images"] += 1
        elif meaning.kind == "ignore":
            reading.counts["annotations_ignored"] += 1
        elif meaning.kind in _TASKS_OF_KIND and not _TASKS_OF_KIND[meaning.kind] & set(source.judges):
            reading.counts["annotations_of_unjudged_tasks"] += 1
        else:
            marks[annotation.image_id].append((annotation, meaning))
    return marks


class PhotoFinder:
    """Finds listed photos among the files on disk, so that a path from a JSON is never opened."""

    def __init__(self, source: Source, listing: Listing) -> None:
        self.folder = source.folder
        self.files = frozenset(listing.files)
        self.excluded = listing.excluded

    def find(self, image: CocoImage, file: str, reading: Reading) -> str | None:
        """The image's path relative to the source's folder; None where it was excluded (counted) or cannot be had (rejected)."""
        name = image.file_name.replace("\\", "/")
        if leaves_folder(name):
            reading.rejected.append(Rejection(name, "outside", f"listed in {self.folder / file}, but its path leaves the source's folder"))
            return None
        beside = PurePosixPath(file).parent
        candidates = [str(folder / name) for folder in (beside, beside / "images", beside.parent / "images")]
        for candidate in candidates:
            if candidate in self.files:
                return candidate
        if any(candidate in self.excluded for candidate in candidates):
            reading.counts["photos_excluded_though_listed"] += 1
        else:
            missing = str(self.folder / candidates[0])
            reading.rejected.append(Rejection(missing, "missing", f"listed in {self.folder / file}, but missing"))
        return None
