"""Reads a source of class folders: `[train|val|test/]<class>/.../<photo>`."""

from pathlib import PurePosixPath

from carinspect.annotations.listing import declared_split, in_one_form, list_folder
from carinspect.annotations.meanings import read_meanings
from carinspect.annotations.records import LabelledPhoto, Reader, Reading, Rejection, SourceContext
from carinspect.core.errors import UserError


def read_folders(context: SourceContext) -> Reading:
    """Every photo with the labels of its class folder; photos of an ignored folder are counted and left out.

    Raises `UserError` when a folder is said to mean an outline's class: a folder has no outlines.
    """
    source, where, meanings = context.source, context.where, read_meanings(context)
    for name, meaning in meanings.items():
        if meaning.kind not in ("labels", "ignore"):
            raise UserError(f"{where}.categories.{name}: a class folder takes labels such as {{damaged: 1}}, or ignore.")
    listing = list_folder(context.path, source.exclude, root=context.root, where=where)
    reading = Reading()
    reading.counts["files_excluded"] = len(listing.excluded)
    reading.rejected += [Rejection(str(source.folder / file), "no_file", why) for file, why in listing.odd.items()]
    for file in listing.photos:
        image_path = str(source.folder / file)
        *folders, _ = PurePosixPath(file).parts
        split = declared_split(folders[:1])
        class_folders = folders[1:] if split else folders
        if not class_folders:
            reading.rejected.append(Rejection(image_path, "no_class_folder", "lies in no class folder"))
            continue
        name = in_one_form(class_folders[0])
        reading.classes[name] += 1
        if name not in meanings:
            reading.unmapped[name] += 1
        elif meanings[name].kind == "ignore":
            reading.counts["photos_of_ignored_folders"] += 1
        else:
            reading.photos.append(LabelledPhoto(image_path, dict(meanings[name].labels), declared_split=split))
    reading.skipped_files = listing.skipped_suffixes(used=())
    reading.unused_mappings = sorted(set(meanings) - set(reading.classes))
    return reading


FOLDERS = Reader(read_folders, keys=frozenset({"family_pattern", "exclude", "categories"}), provenance="folder")
