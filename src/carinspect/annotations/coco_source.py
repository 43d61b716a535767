"""Reads a source of COCO JSONs: every photo that one lists, with the labels that its outlines and categories tell."""

from pathlib import PurePosixPath

from carinspect.annotations.coco import Marks, PhotoFinder, check_coordinates, read_coco_file
from carinspect.annotations.listing import declared_split, list_folder
from carinspect.annotations.meanings import complete_labels, read_meanings
from carinspect.annotations.outline_kinds import OUTLINE_KINDS, Outlined, find_judged, label_photo
from carinspect.annotations.records import LabelledPhoto, Reader, Reading, Rejection, SourceContext
from carinspect.core.errors import UserError


def read_coco(context: SourceContext) -> Reading:
    """Every photo that a JSON below the source's folder lists, with the labels of its outlines.

    A photo without outlines is a good one only for the questions that the source judges; a photo that no JSON lists has no label at all.
    Raises `UserError` for a broken JSON, for a source that says nothing, and when none of the listed photos exist.
    """
    source, params, questions, where = context.source, context.params, context.questions, context.where
    meanings = read_meanings(context)
    if not source.judges and not any(meaning.labels for meaning in meanings.values()):
        raise UserError(f"{where}.judges: missing. Say which questions a person decided on every photo, such as [damage].")
    judged = find_judged(source, meanings, questions, where=where)
    kinds = frozenset(name for name, kind in OUTLINE_KINDS.items() if {kind.score_column, kind.binary_column} & judged.columns)
    listing = list_folder(context.path, source.exclude, root=context.root, where=where)
    jsons = [file for file in listing.files if file.lower().endswith(".json")]
    if not jsons:
        raise UserError(f"{where}.path: no .json file below {str(listing.folder)!r}. Correct the path, or the format.")

    reading = Reading()
    defined: set[str] = set()
    listed_in: dict[str, str] = {}
    photos_on_disk = PhotoFinder(source, listing)
    for file in jsons:
        path = listing.folder / file
        coco = read_coco_file(path)
        check_coordinates(coco, source.coordinates, path, where=where)
        defined.update(coco.category_names.values())
        marks = Marks(coco, meanings, kinds, reading, path=path)
        certain = judged.but_for(marks.of_no_photo())
        split = declared_split((*PurePosixPath(file).parent.parts, PurePosixPath(file).stem))
        for image in coco.images:
            marks_here = marks.of(image.id)
            photo = photos_on_disk.find(image, file, reading)
            if photo is None:
                continue
            if photo in listed_in:
                raise UserError(f"{where}: {photo!r} is listed twice: in {listed_in[photo]!r} and in {file!r}. Leave one out by `exclude`.")
            listed_in[photo] = file
            outlined = Outlined(marks_here, image, reading.counts, in_shares=source.coordinates == "shares")
            labels = label_photo(marks_here, outlined, certain, params=params, counts=reading.counts)
            labels = complete_labels(labels, questions.values(), where=f"{where}: {photo!r}")
            size_px = (image.width, image.height)
            reading.photos.append(
                LabelledPhoto(str(source.folder / photo), labels, declared_split=split, stated_size_px=size_px, masks=outlined.kept())
            )
    if not reading.photos:
        raise UserError(
            f"{where}: no photo that its {len(jsons)} JSON file(s) list exists, beside the JSON or in images/. Fetch the photos."
        )

    reading.rejected += [Rejection(str(source.folder / odd), "no_file", why) for odd, why in listing.odd.items()]
    for photo in listing.photos:
        if photo not in listed_in:
            reading.rejected.append(Rejection(str(source.folder / photo), "unlisted", "no COCO JSON lists it, so nobody judged it"))
    reading.counts["categories_without_annotations"] += len(defined - set(reading.classes))
    reading.counts["files_excluded"] = len(listing.excluded)
    reading.skipped_files = listing.skipped_suffixes(used={*jsons, *listed_in})
    reading.unused_mappings = sorted(set(meanings) - defined)
    return reading


COCO = Reader(read_coco, keys=frozenset({"judges", "coordinates", "family_pattern", "exclude", "categories"}), provenance="annotation")
