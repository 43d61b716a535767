"""The rows of the table: what a source says of a photo joined with what its file shows, or the reason why there is no row."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pandas as pd

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.listing import show_name
from carinspect.annotations.records import REJECTED_COLUMNS, LabelledPhoto, Rejection
from carinspect.annotations.sources import Source
from carinspect.core.questions import Question, label_columns
from carinspect.core.tables import ONLY_TRAIN, annotation_columns
from carinspect.images.decode import format_of
from carinspect.images.properties import read_properties


class PhotoProperties(NamedTuple):
    """One photo. All but `sha256` and `problem` are zero or blank for an unusable one."""

    sha256: str = ""
    """Of its bytes; blank where they cannot be read."""
    problem: str = ""
    """Why the photo cannot be used; blank for a sound one."""
    width_px: int = 0
    height_px: int = 0
    """Size as a person sees it."""
    phash: str = ""
    """See `images.properties`."""
    format: str = ""
    """Of its bytes, Pillow's word."""
    misnamed: bool = False
    """Whether its suffix is another format's."""
    grey: bool = False
    turned: bool = False
    """Whether EXIF says that the pixels are to be turned or mirrored."""
    sharpness: float = 0.0
    """Variance of the Laplacian."""
    brightness: float = 0.0
    """Mean grey level, 0..255."""
    dark_share: float = 0.0
    bright_share: float = 0.0
    """Shares of the pixels that are nearly black and nearly white, 0..1."""


def read_properties_by_path(root: Path, image_paths: Sequence[str], *, processes: int | None = None) -> dict[str, PhotoProperties]:
    """image_path → what its file shows, in the order of `image_paths`. processes: see `images.reading`."""
    named = [path for path in image_paths if show_name(path) == path]
    found = read_properties(root, named, processes=processes)
    properties = {
        path: PhotoProperties(
            sha256=digest,
            width_px=int(seen["width_px"]),
            height_px=int(seen["height_px"]),
            phash=seen["phash"].decode(),
            format=seen["format"].decode(),
            misnamed=is_misnamed(path, seen["format"].decode()),
            grey=bool(seen["grey"]),
            turned=bool(seen["orientation"] > 1),
            sharpness=float(seen["sharpness"]),
            brightness=float(seen["brightness"]),
            dark_share=float(seen["dark_share"]),
            bright_share=float(seen["bright_share"]),
        )
        if not problem
        else PhotoProperties(sha256=digest, problem=problem)
        for path, digest, seen, problem in zip(named, *found, strict=True)
    }
    unnamed = PhotoProperties(problem="its name holds control characters or is not Unicode: rename it")
    return {path: properties.get(path, unnamed) for path in image_paths}


def is_misnamed(path: str, kind: str) -> bool:
    """Whether the suffix of `path` says another format than `kind`, Pillow's word. Cameras call an MPO, a JPEG with more inside, .jpg."""
    return format_of(PurePosixPath(path).suffix) != ("JPEG" if kind == "MPO" else kind)


_BEST_MARKED_SCORE = 0.999999
"""A photo with the tiniest mark stays below 1 also in the table's six decimals."""

_TOLERATED_ASPECT = 0.02
"""Relative difference of width:height between a photo and its annotation file that rounding explains."""


def reject_photo(image_path: str, actual: PhotoProperties, params: ConvertAnnotationsParams) -> Rejection | None:
    """Why the photo is left out; None for a sound one."""
    if actual.problem:
        return Rejection(image_path, "unreadable", actual.problem)
    if actual.misnamed and params.misnamed == "reject":
        reason = f"its suffix names another format than {actual.format}, which it is: rename it, or set convert_annotations.misnamed: read"
        return Rejection(image_path, "misnamed", reason)
    if min(actual.width_px, actual.height_px) < params.min_dimension_px:
        size = f"{actual.width_px} x {actual.height_px} px"
        return Rejection(image_path, "too_small", f"{size}: a side is shorter than {params.min_dimension_px} px")
    return None


def has_other_shape(photo: LabelledPhoto, actual: PhotoProperties) -> bool:
    """Whether the annotation file states other proportions than the photo has; its outlines are used as they are."""
    return photo.stated_size_px is not None and differ_in_shape(photo.stated_size_px, (actual.width_px, actual.height_px))


def differ_in_shape(one_px: tuple[int, int], other_px: tuple[int, int]) -> bool:
    """Whether two sizes, width and height each, have other proportions, beyond what rounding explains."""
    wide, high = one_px[0] * other_px[1], one_px[1] * other_px[0]
    return abs(wide - high) > _TOLERATED_ASPECT * max(wide, high)


def is_resized(photo: LabelledPhoto, actual: PhotoProperties) -> bool:
    """Whether the annotation file states another size than the photo has; with the same shape, shares of areas are the same."""
    return photo.stated_size_px is not None and photo.stated_size_px != (actual.width_px, actual.height_px)


def describe_photo(photo: LabelledPhoto, source: Source, *, actual: PhotoProperties) -> dict[str, Any]:
    """One row; label columns that nobody judged are absent."""
    family = photo.family
    if not family and source.family_pattern is not None:
        match = re.search(source.family_pattern, PurePosixPath(photo.image_path).name)
        family = (match.group(1) or "") if match else ""
    return {
        "image_path": photo.image_path,
        "source": source.name,
        "width_px": actual.width_px,
        "height_px": actual.height_px,
        "sha256": actual.sha256,
        "phash": actual.phash,
        # A stem is an identity within its source only: images-13- is another photo elsewhere.
        "family": f"{source.name}/{family}" if family else "",
        "declared_split": ONLY_TRAIN if source.chosen_by_model else photo.declared_split,
        **photo.labels,
    }


def build_table(rows: Sequence[Mapping[str, Any]], questions: Sequence[Question]) -> pd.DataFrame:
    """`annotation_columns`, sorted by `image_path`, labels as float64 with NaN for blank."""
    table = pd.DataFrame(rows).reindex(columns=annotation_columns(questions))
    table = table.astype(dict.fromkeys(label_columns(questions), "float64")).sort_values("image_path").reset_index(drop=True)
    for question in questions:
        if question.kind == "score":
            marked = table[question.column] < 1
            table.loc[marked, question.column] = table.loc[marked, question.column].clip(upper=_BEST_MARKED_SCORE)
    return table


def build_rejected(rejected: Mapping[str, Sequence[Rejection]]) -> pd.DataFrame:
    """`REJECTED_COLUMNS`, sorted. rejected: source name → its rejections."""
    rows = {
        (show_name(rejection.image_path), name, show_name(rejection.reason))
        for name, rejections in rejected.items()
        for rejection in rejections
    }
    return pd.DataFrame(sorted(rows), columns=list(REJECTED_COLUMNS))
