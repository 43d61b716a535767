"""Sources of COCO JSONs: the file's shape, the photos that it lists, and which of their outlines count.

Format: https://cocodataset.org/#format-data. Outlines stay unchecked here; `outlines.py` judges each by itself.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from carinspect.annotations.listing import Listing, leaves_folder
from carinspect.annotations.meanings import Meaning
from carinspect.annotations.records import Reading, Rejection
from carinspect.annotations.sources import Source
from carinspect.core.errors import UserError
from carinspect.images.decode import MAX_PIXELS

MAX_SIDE_PX = 65_535
"""Longest side that JPEG can hold; a longer one is an error of the export."""

Identity = int | str


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class CocoImage(_Entry):
    id: Identity
    file_name: str = Field(min_length=1)
    width: int = Field(gt=0, le=MAX_SIDE_PX)
    height: int = Field(gt=0, le=MAX_SIDE_PX)


class CocoCategory(_Entry):
    id: Identity
    name: str


class CocoAnnotation(_Entry):
    image_id: Identity
    category_id: Identity
    segmentation: Any = None
    bbox: Any = None


class CocoFile(_Entry):
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]

    @property
    def category_names(self) -> dict[Identity, str]:
        return {category.id: category.name for category in self.categories}


def read_coco_file(path: Path) -> CocoFile:
    """The checked content of a COCO JSON. Raises `UserError` that names the file, what is wrong with it and the fix."""
    try:
        # A byte order mark, as some Windows tools write, is not JSON.
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
    try:
        coco = CocoFile.model_validate_json(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None
    _check_identities(coco, path)
    return coco


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return f"{first['msg']} Export it again, or leave it out by `exclude`."
    # The last part of a failed `int | str` names the branch, which is nobody's key.
    location = [part for part in first["loc"] if part not in ("int", "str")]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if not place:
        return "not a COCO JSON: an object with images, annotations and categories is expected. Leave it out by `exclude`."
    if first["type"] == "missing":
        return f"not a COCO JSON: {place} is missing. Export it again as COCO, or leave it out by `exclude`."
    found = f"{first['input']!r:.60}"
    return f"{place} has the value {found}. {first['msg']}. Export it again as COCO, or leave it out by `exclude`."


def _check_identities(coco: CocoFile, path: Path) -> None:
    for kind, entries in (("images", coco.images), ("categories", coco.categories)):
        seen: set[Identity] = set()
        for entry in entries:
            if entry.id in seen:
                raise UserError(
                    f"{path}: the id {entry.id!r} stands twice in {kind}; its annotations could belong to either. Export it again."
                )
            seen.add(entry.id)
    names = coco.category_names
    for annotation in coco.annotations:
        if annotation.category_id not in names:
            raise UserError(f"{path}: an annotation has the category_id {annotation.category_id!r}, which categories does not define.")
    for image in coco.images:
        if image.width * image.height > MAX_PIXELS:
            raise UserError(f"{path}: {image.file_name!r} is said to be {image.width} x {image.height}: more than {MAX_PIXELS:,} pixels.")


def marks_by_image(
    coco: CocoFile, meanings: Mapping[str, Meaning], kinds: frozenset[str], reading: Reading
) -> Mapping[Identity, list[tuple[CocoAnnotation, Meaning]]]:
    """Image id → the annotations that matter: outlines of `kinds` and of vehicles, and stated labels; everything else is counted."""
    marks: defaultdict[Identity, list[tuple[CocoAnnotation, Meaning]]] = defaultdict(list)
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
        elif meaning.kind not in ("labels", "vehicle") and meaning.kind not in kinds:
            reading.counts["annotations_of_unjudged_questions"] += 1
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
