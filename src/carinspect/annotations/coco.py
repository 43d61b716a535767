"""Sources of COCO JSONs: the file's shape, the photos that it lists, and which of their outlines count.

Format: https://cocodataset.org/#format-data. A file is read entry by entry, and the outlines of a photo are kept as text until it is
labelled: as Python lists they take ten times as much memory. Outlines stay unchecked here; `outlines.py` judges each by itself.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NamedTuple

import ijson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from carinspect.annotations.listing import Listing, in_one_form, leaves_folder
from carinspect.annotations.meanings import Meaning
from carinspect.annotations.records import Reading, Rejection
from carinspect.annotations.sources import LONGEST_NAME, Source
from carinspect.core.errors import UserError, shorten
from carinspect.images.decode import MAX_PIXELS

MAX_SIDE_PX = 65_535
"""Longest side that JPEG can hold; a longer one is an error of the export."""

SECTIONS = ("images", "annotations", "categories")

_DEEPEST = 12
"""Levels of nesting. COCO needs seven; the parser's cost grows with each."""

Identity = int | str


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _Image(_Entry):
    id: Identity
    file_name: str = Field(min_length=1)
    width: int = Field(gt=0, le=MAX_SIDE_PX)
    height: int = Field(gt=0, le=MAX_SIDE_PX)
    image_path: Any = None


class _Category(_Entry):
    id: Identity
    name: str = Field(max_length=LONGEST_NAME)


class _Annotation(_Entry):
    image_id: Identity
    category_id: Identity
    segmentation: Any = None
    bbox: Any = None


class CocoImage(NamedTuple):
    """One listed photo; its outlines are in pixels of `width` x `height`."""

    id: Identity
    file_name: str
    width: int
    height: int
    image_path: str | None = None
    """In a file of `score --marks`: the photo's name in the table."""


class CocoAnnotation(NamedTuple):
    """One outline of one photo, unchecked."""

    category_id: Identity
    segmentation: Any
    bbox: Any


@dataclass
class CocoFile:
    """The checked content of one JSON."""

    images: list[CocoImage] = field(default_factory=list)
    category_names: dict[Identity, str] = field(default_factory=dict)
    located: int = 0
    """Annotations whose box or outline says where they are."""
    within_a_pixel: int = 0
    """Those of them that lie in the photo's first pixel: in an export of some tools, all do, for it has shares of the photo's sides."""
    _annotations: defaultdict[Identity, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    """image_id → one line of JSON for each annotation."""

    @property
    def annotated_ids(self) -> list[Identity]:
        """Every `image_id` of an annotation, in the order of the file; some may be of no image."""
        return list(self._annotations)

    def annotations_of(self, image_id: Identity) -> Iterator[CocoAnnotation]:
        """The annotations with this `image_id`, in the order of the file."""
        for line in self._annotations.get(image_id, b"").splitlines():
            yield CocoAnnotation(*json.loads(line))

    def add(self, section: str, entry: Any, path: Path) -> None:
        """Add one entry of a section. Raises `ValidationError`, and `UserError` for an id that stands twice and a huge photo."""
        match section:
            case "images":
                image = _Image.model_validate(entry)
                if image.width * image.height > MAX_PIXELS:
                    size = f"{image.width} x {image.height}"
                    raise UserError(f"{path}: {image.file_name!r} is said to be {size}: more than {MAX_PIXELS:,} pixels.")
                image_path = image.image_path if isinstance(image.image_path, str) else None
                self.images.append(CocoImage(image.id, image.file_name, image.width, image.height, image_path))
            case "categories":
                category = _Category.model_validate(entry)
                if category.id in self.category_names:
                    raise UserError(_twice(category.id, section, path))
                self.category_names[category.id] = in_one_form(category.name)
            case "annotations":
                annotation = _Annotation.model_validate(entry)
                line = json.dumps([annotation.category_id, annotation.segmentation, annotation.bbox], separators=(",", ":"))
                self._annotations[annotation.image_id] += line.encode() + b"\n"
                if (reach := _reach(annotation)) is not None:
                    self.located += 1
                    self.within_a_pixel += reach <= _SHARE


_SHARE = 1.01
"""The largest share of a side that an outline reaches, but for rounding."""


def _reach(annotation: _Annotation) -> float | None:
    """The largest coordinate of its box or of its first polygon; None where neither says where it is."""
    box, polygons = annotation.bbox, annotation.segmentation
    if _are_numbers(box) and len(box) == 4 and box[2] > 0 and box[3] > 0:
        return float(max(box[0] + box[2], box[1] + box[3]))
    if isinstance(polygons, list) and polygons and _are_numbers(polygons[0]) and len(polygons[0]) >= 6:
        return float(max(polygons[0]))
    return None


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, int | float) for value in values)


def check_coordinates(coco: CocoFile, coordinates: Literal["pixels", "shares"], path: Path, *, where: str) -> None:
    """Raise `UserError` if the outlines of the file at `path` are in other units than `where`, in sources.yaml, says."""
    if coordinates == "pixels" and 0 < coco.located == coco.within_a_pixel:
        raise UserError(
            f"{path}: all {coco.located} boxes and outlines lie between 0 and 1, where COCO has pixels. If they are shares of the photo's "
            f"width and height, add `coordinates: shares` to {where}; else export it again."
        )
    if coordinates == "shares" and coco.within_a_pixel < coco.located / 2:
        raise UserError(
            f"{where}.coordinates is shares, but in {path} {coco.located - coco.within_a_pixel} of {coco.located} boxes and outlines reach "
            f"beyond 1. Remove the line: pixels are the default."
        )


def _twice(identity: Identity, section: str, path: Path) -> str:
    return f"{path}: the id {identity!r} stands twice in {section}; its annotations could belong to either. Export it again."


def read_coco_file(path: Path) -> CocoFile:
    """The checked content of a COCO JSON. Raises `UserError` that names the file, what is wrong with it and the fix."""
    coco, counts = CocoFile(), dict.fromkeys(SECTIONS, 0)
    found: set[str] = set()
    try:
        with path.open("rb") as file:
            # A byte order mark, as some Windows tools write, is not JSON.
            if file.read(3) != b"\xef\xbb\xbf":
                file.seek(0)
            for section, entry in _read_entries(file, found):
                place = f"{section}[{counts[section]}]"
                coco.add(section, entry, path)
                counts[section] += 1
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
    except ijson.JSONError as error:
        # The parser shows the place by lines of blanks and an arrow.
        what = str(error).removeprefix("b'").splitlines()[0].split("\\n")[0]
        raise UserError(f"{path}: Invalid JSON: {what}. Export it again, or leave it out by `exclude`.") from None
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error, place)}") from None
    except _ShapeError as error:
        raise UserError(f"{path}: {error} Leave it out by `exclude`.") from None
    for section in SECTIONS:
        if section not in found:
            raise UserError(f"{path}: not a COCO JSON: {section} is missing. Export it again as COCO, or leave it out by `exclude`.")
    _check_identities(coco, path)
    return coco


class _ShapeError(Exception):
    """A JSON that is none of COCO's; the message says why."""


def _read_entries(file: IO[bytes], found: set[str]) -> Iterator[tuple[str, Any]]:
    """(section, entry) for each entry of `SECTIONS`, in the order of the file; adds the sections that are there to `found`.

    ijson's own `items` takes memory that grows with the square of the nesting, so that a file of 200 kB can end the process.
    """
    open_values: list[Any] = []  # the innermost last
    keys: list[str] = []  # of each value in `open_values`, where it is an object: the key that was read last
    for event, value in ijson.basic_parse(file, use_float=True):
        if event == "map_key":
            keys[-1] = value
            continue
        if event in ("end_map", "end_array"):
            entry = open_values.pop()
            keys.pop()
            if len(open_values) == 2:
                open_values[1].clear()
                if keys[0] in SECTIONS:
                    yield keys[0], entry
            continue
        starts = event in ("start_map", "start_array")
        if not open_values and event != "start_map":
            raise _ShapeError("not a COCO JSON: an object with images, annotations and categories is expected.")
        if len(open_values) == 1 and keys[0] in SECTIONS:
            if event != "start_array":
                raise _ShapeError(f"{keys[0]} has the value {'{…}' if starts else f'{value!r:.60}'}. A list is expected.")
            found.add(keys[0])
        if not starts and len(open_values) == 2 and keys[0] in SECTIONS:
            yield keys[0], value
        new = {} if event == "start_map" else [] if event == "start_array" else value
        if len(open_values) > 2 or (starts and len(open_values) == 2):
            outer = open_values[-1]
            if isinstance(outer, dict):
                outer[keys[-1]] = new
            else:
                outer.append(new)
        if starts:
            open_values.append(new)
            keys.append("")
            if len(open_values) > _DEEPEST:
                raise _ShapeError(f"its values are nested in more than {_DEEPEST} levels, which no COCO JSON needs.")


def _explain(error: ValidationError, place: str) -> str:
    first = error.errors(include_url=False)[0]
    # The last part of a failed `int | str` names the branch, which is nobody's key.
    keys = "".join(f".{part}" for part in first["loc"] if part not in ("int", "str"))
    if first["type"] == "missing":
        return f"not a COCO JSON: {place}{keys} is missing. Export it again as COCO, or leave it out by `exclude`."
    found = shorten(repr(first["input"]))
    return f"{place}{keys} has the value {found}. {first['msg']}. Export it again as COCO, or leave it out by `exclude`."


def _check_identities(coco: CocoFile, path: Path) -> None:
    known: set[Identity] = set()
    for image in coco.images:
        if image.id in known:
            raise UserError(_twice(image.id, "images", path))
        known.add(image.id)
    strangers = [identity for identity in coco.annotated_ids if identity not in known]
    by_text = {str(identity): identity for identity in known} if strangers else {}
    for stranger in strangers:
        if str(stranger) in by_text:
            twin = by_text[str(stranger)]
            raise UserError(
                f"{path}: an annotation has the image_id {stranger!r}, {_kind(stranger)}, and an image the id {twin!r}, {_kind(twin)}. "
                f"They may be the same, or not. Export it again with ids of one type."
            )
    if coco.annotated_ids and len(strangers) == len(coco.annotated_ids):
        raise UserError(
            f"{path}: none of its annotations belongs to one of its {len(coco.images)} images (the first has the image_id "
            f"{strangers[0]!r}), so that every photo would seem to be without a mark. Export it again, or leave it out by `exclude`."
        )


def _kind(identity: Identity) -> str:
    return "a text" if isinstance(identity, str) else "a number"


class Marks:
    """The annotations of a JSON by what they mean, counted in `reading` as they are asked for."""

    def __init__(self, coco: CocoFile, meanings: Mapping[str, Meaning], kinds: frozenset[str], reading: Reading, *, path: Path) -> None:
        self.coco, self.meanings, self.kinds, self.reading, self.path = coco, meanings, kinds, reading, path

    def of(self, image_id: Identity) -> list[tuple[CocoAnnotation, Meaning]]:
        """Those of one photo that matter: outlines of `kinds` and of vehicles, and stated labels."""
        marks = []
        for annotation in self.coco.annotations_of(image_id):
            meaning = self._classify(annotation)
            if meaning is None:
                continue
            if meaning.kind == "ignore":
                self.reading.counts["annotations_ignored"] += 1
            elif meaning.kind not in ("labels", "vehicle") and meaning.kind not in self.kinds:
                self.reading.counts["annotations_of_unjudged_questions"] += 1
            else:
                marks.append((annotation, meaning))
        return marks

    def of_no_photo(self) -> list[Meaning]:
        """What the annotations mean whose `image_id` is of no image: photos without such a mark may be theirs."""
        known = {image.id for image in self.coco.images}
        meanings = []
        for image_id in self.coco.annotated_ids:
            if image_id not in known:
                found = [self._classify(annotation) for annotation in self.coco.annotations_of(image_id)]
                meanings += [meaning for meaning in found if meaning is not None]
        self.reading.counts["annotations_of_unknown_images"] += len(meanings)
        return meanings

    def _classify(self, annotation: CocoAnnotation) -> Meaning | None:
        """What its category means; None without a meaning in sources.yaml. Raises `UserError` for an undefined category."""
        names, identity = self.coco.category_names, annotation.category_id
        if identity not in names:
            twin = next((f" (it has {key!r}, {_kind(key)})" for key in names if str(key) == str(identity)), "")
            raise UserError(f"{self.path}: an annotation has the category_id {identity!r}, which categories does not define{twin}.")
        name = names[identity]
        self.reading.classes[name] += 1
        if name not in self.meanings:
            self.reading.unmapped[name] += 1
        return self.meanings.get(name)


class PhotoFinder:
    """Finds listed photos among the files on disk, so that a path from a JSON is never opened."""

    def __init__(self, source: Source, listing: Listing) -> None:
        self.folder = source.folder
        self.files = frozenset(listing.files)
        self.listing = listing

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
        if any(candidate in self.listing.odd for candidate in candidates):
            return None  # rejected with the other odd files
        for candidate in candidates:
            if (found := self.listing.by_form.get(in_one_form(candidate))) is not None:
                reading.counts["photos_found_by_unicode_form"] += 1
                return found
        if any(candidate in self.listing.excluded for candidate in candidates):
            reading.counts["photos_excluded_though_listed"] += 1
        else:
            missing = str(self.folder / candidates[0])
            reading.rejected.append(Rejection(missing, "missing", f"listed in {self.folder / file}, but missing"))
        return None
