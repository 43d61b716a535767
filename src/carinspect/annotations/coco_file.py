"""Owns one COCO JSON file: its shape, and the plain-words error for every way in which it can be broken.

Format: https://cocodataset.org/#format-data. Outlines stay unchecked here; `outlines.py` judges each by itself.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
    """The checked content of a COCO JSON. Raises `UserError` that names the file, what is wrong with it and the mend."""
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
