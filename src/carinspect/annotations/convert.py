"""Owns the way from a data root to its table: read the sources, check them against each other, read the photos, join the two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from carinspect.annotations.checks import check_claims, check_meanings
from carinspect.annotations.coco import read_coco
from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.csv_source import read_csv_source
from carinspect.annotations.folders import read_folders
from carinspect.annotations.listing import list_folder
from carinspect.annotations.meanings import read_meaning
from carinspect.annotations.photos import read_looks_by_path
from carinspect.annotations.records import Reading, Rejection
from carinspect.annotations.rows import build_rejected, build_table, describe_photo, has_other_shape, reject_photo
from carinspect.annotations.sources import Source, load_sources
from carinspect.annotations.summary import summarise
from carinspect.core.data import DataParams
from carinspect.core.errors import UserError


@dataclass(frozen=True)
class Conversion:
    """What the stage writes."""

    table: pd.DataFrame
    """`ANNOTATION_COLUMNS`, sorted by `image_path`."""
    rejected: pd.DataFrame
    """`REJECTED_COLUMNS`, sorted."""
    metrics: dict[str, Any]


def convert(data: DataParams, params: ConvertAnnotationsParams, *, processes: int | None = None) -> Conversion:
    """The table of every sound photo that a source below `data.root` describes. processes: see `images.reading`.

    Raises `UserError` for a missing root, a mistake in sources.yaml, a category without a meaning, a broken annotation file, a photo
    that is described twice, and when no photo is left.
    """
    sources = _open_root(data)
    readings = {source.name: _read_source(source, data, params) for source in sources}
    check_meanings(readings, sources, params, file=data.sources)
    claimed = check_claims(readings)
    looks = read_looks_by_path(data.root_path, sorted(claimed), processes=processes)
    rows: list[dict[str, Any]] = []
    rejected: dict[str, list[Rejection]] = {}
    for source in sources:
        reading = readings[source.name]
        # What one source leaves unlisted, another may describe.
        rejected[source.name] = [rejection for rejection in reading.rejected if rejection.image_path not in claimed]
        for photo in reading.photos:
            look = looks[photo.image_path]
            rejection = reject_photo(photo.image_path, look, params)
            if rejection:
                rejected[source.name].append(rejection)
                continue
            reading.counts["size_mismatches"] += has_other_shape(photo, look)
            rows.append(describe_photo(photo, source, look=look))
    if not rows:
        raise UserError(_nothing_left(data, rejected))
    table = build_table(rows)
    return Conversion(table, build_rejected(rejected), summarise(table, rejected, sources, readings, looks))


def _open_root(data: DataParams) -> list[Source]:
    fetch = "Fetch it (dvc pull), or correct it in params.yaml."
    if not data.root_path.is_dir():
        raise UserError(f"data.root is {data.root!r}: no such folder. {fetch}")
    if not data.sources_path.is_file():
        raise UserError(f"data.sources is {data.sources!r}: no such file. {fetch} examples/real_photos/sources.yaml shows one.")
    return load_sources(data.sources_path)


def _read_source(source: Source, data: DataParams, params: ConvertAnnotationsParams) -> Reading:
    """What one source says; its photos are not opened."""
    where = f"{data.sources}: {source.name}"
    path = data.root_path / source.folder
    if source.format == "csv":
        return read_csv_source(source, path, where=where)
    meanings = {name: read_meaning(value, params, where=f"{where}.categories.{name}") for name, value in source.categories.items()}
    listing = list_folder(path, source.exclude, where=where)
    if source.format == "coco":
        reading = read_coco(source, meanings, listing, params, where=where)
    else:
        reading = read_folders(source, meanings, listing, where=where)
    reading.counts["files_excluded"] = len(listing.excluded)
    return reading


def _nothing_left(data: DataParams, rejected: Mapping[str, Sequence[Rejection]]) -> str:
    first = next((rejection for rejections in rejected.values() for rejection in sorted(rejections)), None)
    example = f" The first rejected one: {first.image_path!r} {first.reason}." if first else ""
    return (
        f"data.root {data.root!r} holds no usable photo for the sources in {data.sources}.{example} Correct the paths, or fetch the photos."
    )
