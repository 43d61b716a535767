"""From a data root to its table: read the sources, check them against each other, read the photos, join the two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.corrections import correct_labels, read_corrections, say_corrections
from carinspect.annotations.meanings import check_claims, check_meanings
from carinspect.annotations.outline_table import build_outlines
from carinspect.annotations.photos import (
    build_rejected,
    build_table,
    describe_photo,
    has_other_shape,
    is_resized,
    read_properties_by_path,
    reject_photo,
)
from carinspect.annotations.readers import reader_of
from carinspect.annotations.records import LabelledPhoto, Reading, Rejection, SourceContext
from carinspect.annotations.sources import Source, Sources, load_sources
from carinspect.annotations.summary import summarise
from carinspect.core.data import DataParams
from carinspect.core.errors import UserError, did_you_mean, shorten
from carinspect.core.questions import Question, by_name


@dataclass(frozen=True)
class Conversion:
    """What the stage writes."""

    table: pd.DataFrame
    """`annotation_columns` of the questions, sorted by `image_path`."""
    rejected: pd.DataFrame
    """`REJECTED_COLUMNS`, sorted."""
    outlines: pd.DataFrame
    """`images.label_maps.OUTLINE_COLUMNS`, sorted by photo."""
    metrics: dict[str, Any]


def convert(
    data: DataParams,
    params: ConvertAnnotationsParams,
    questions: Sequence[Question],
    *,
    needs_every_label: bool = False,
    processes: int | None = None,
) -> Conversion:
    """The table of every sound photo that a source below `data.root` describes. processes: see `images.reading`.

    Raises `UserError` for a missing root, a mistake in sources.yaml, a category without a meaning, a broken annotation file, a photo
    that is described twice, and when no photo is left; with `needs_every_label` also for a question that no source has a label for,
    before any photo is opened.
    """
    asked = by_name(questions)
    sources, corrections, readings = _read_root(data, params, asked)
    if needs_every_label:
        _check_labels(readings, questions, file=data.sources)
    claimed = check_claims(readings)
    corrected = _correct(corrections, data, readings, asked)
    properties = read_properties_by_path(data.root_path, sorted(claimed), processes=processes)
    rows: list[dict[str, Any]] = []
    rejected: dict[str, list[Rejection]] = {}
    in_place: dict[str, LabelledPhoto] = {}
    for source in sources:
        reading = readings[source.name]
        # What one source leaves unlisted, another may describe.
        rejected[source.name] = [rejection for rejection in reading.rejected if rejection.image_path not in claimed]
        for photo in reading.photos:
            actual = properties[photo.image_path]
            rejection = reject_photo(photo.image_path, actual, params)
            if rejection:
                rejected[source.name].append(rejection)
                continue
            reading.counts["photos_misnamed"] += actual.misnamed
            other_shape = has_other_shape(photo, actual)
            reading.counts["size_mismatches"] += other_shape
            reading.counts["photos_resized"] += not other_shape and is_resized(photo, actual)
            rows.append(describe_photo(photo, source, actual=actual))
            if not other_shape:
                in_place[photo.image_path] = photo
    if not rows:
        raise UserError(_nothing_left(data, rejected))
    table = build_table(rows, questions)
    metrics = summarise(table, questions, rejected, sources, readings, properties)
    if corrections is not None:
        metrics |= {"corrections": corrected, "repaired": [*metrics["repaired"], say_corrections(corrected, name=corrections)]}
    return Conversion(table, build_rejected(rejected), build_outlines(table, in_place), metrics)


def check_labels(data: DataParams, params: ConvertAnnotationsParams, questions: Sequence[Question]) -> None:
    """Raise `UserError` for what `convert` refuses before it opens a photo, a question without a label among it. Lists files and reads
    annotations only."""
    _, _, readings = _read_root(data, params, by_name(questions))
    _check_labels(readings, questions, file=data.sources)


def _read_root(
    data: DataParams, params: ConvertAnnotationsParams, asked: Mapping[str, Question]
) -> tuple[list[Source], str | None, dict[str, Reading]]:
    """The sources, the path of the corrections, and what each source says."""
    sources, corrections = _open_root(data)
    readings = {source.name: _read_source(source, data, params, asked) for source in sources}
    check_meanings(readings, sources, params, asked, file=data.sources)
    return sources, corrections, readings


def _correct(
    corrections: str | None, data: DataParams, readings: Mapping[str, Reading], questions: Mapping[str, Question]
) -> dict[str, Any]:
    if corrections is None:
        return {}
    path = data.root_path / corrections
    given = read_corrections(path, questions, where=f"{data.sources}: corrections")
    return correct_labels(given, readings, questions, path=path)


def _open_root(data: DataParams) -> Sources:
    fetch = "Fetch it (dvc pull), or correct it in params.yaml."
    if not data.root_path.is_dir():
        raise UserError(f"data.root is {data.root!r}: no such folder. {fetch}")
    if not data.sources_path.is_file():
        raise UserError(f"data.sources is {data.sources!r}: no such file. {fetch} examples/real_photos/sources.yaml shows one.")
    return load_sources(data.sources_path)


def _read_source(source: Source, data: DataParams, params: ConvertAnnotationsParams, questions: Mapping[str, Question]) -> Reading:
    """What one source says; its photos are not opened."""
    where = f"{data.sources}: {source.name}"
    for name in source.judges:
        if name not in questions:
            raise UserError(f"{where}.judges: no question is called '{shorten(name)}'. {did_you_mean(name, questions)}")
    reader = reader_of(source, where=where)
    return reader.read(SourceContext(source, data.root_path, data.root_path / source.folder, where, params, questions))


def _check_labels(readings: Mapping[str, Reading], questions: Sequence[Question], *, file: str) -> None:
    labelled = {column for reading in readings.values() for photo in reading.photos for column in photo.labels}
    names = [asked.name for asked in questions if asked.column not in labelled]
    if names:
        without = " ".join(f"-S '~questions.{name}'" for name in names)
        raise UserError(
            f"{file}: no source has a label for {' or '.join(repr(name) for name in names)}. Add a source that judges it (by `judges`, "
            f"a meaning such as {{{names[0]}: …}}, or a column), or take it out of questions: dvc exp run {without}"
        )


def _nothing_left(data: DataParams, rejected: Mapping[str, Sequence[Rejection]]) -> str:
    first = next((rejection for rejections in rejected.values() for rejection in sorted(rejections)), None)
    example = f" The first rejected one: {first.image_path!r} {first.reason}." if first else ""
    return (
        f"data.root {data.root!r} holds no usable photo for the sources in {data.sources}.{example} Correct the paths, or fetch the photos."
    )
