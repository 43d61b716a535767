"""Owns the rows: what a source says of a photo joined with what its file shows, or the reason why there is no row."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.listing import show_name
from carinspect.annotations.photos import Look
from carinspect.annotations.records import REJECTED_COLUMNS, LabelledPhoto, Rejection
from carinspect.annotations.sources import Source
from carinspect.core.tables import ANNOTATION_COLUMNS, LABEL_COLUMNS

_BEST_DAMAGED_SCORE = 0.999999
"""A photo with the tiniest mark stays below 1 also in the table's six decimals."""

_TOLERATED_ASPECT = 0.02
"""Relative difference of width:height between a photo and its annotation file that rounding explains."""


def reject_photo(image_path: str, look: Look, params: ConvertAnnotationsParams) -> Rejection | None:
    """Why the photo is left out; None for a sound one."""
    if look.problem:
        return Rejection(image_path, "unreadable", look.problem)
    if look.misnamed and params.misnamed == "reject":
        reason = f"its suffix names another format than {look.format}, which it is: rename it, or set convert_annotations.misnamed: read"
        return Rejection(image_path, "misnamed", reason)
    if min(look.width_px, look.height_px) < params.min_dimension_px:
        size = f"{look.width_px} x {look.height_px} px"
        return Rejection(image_path, "too_small", f"{size}: a side is shorter than {params.min_dimension_px} px")
    return None


def has_other_shape(photo: LabelledPhoto, look: Look) -> bool:
    """Whether the annotation file speaks of a picture with other proportions; its outlines are taken as they are."""
    if photo.stated_size_px is None:
        return False
    stated, seen = photo.stated_size_px[0] * look.height_px, photo.stated_size_px[1] * look.width_px
    return abs(stated - seen) > _TOLERATED_ASPECT * max(stated, seen)


def describe_photo(photo: LabelledPhoto, source: Source, *, look: Look) -> dict[str, Any]:
    """One row; label columns that nobody judged are absent."""
    family = photo.family
    if not family and source.family_pattern is not None:
        match = re.search(source.family_pattern, PurePosixPath(photo.image_path).name)
        family = (match.group(1) or "") if match else ""
    return {
        "image_path": photo.image_path,
        "source": source.name,
        "width_px": look.width_px,
        "height_px": look.height_px,
        "sha256": look.sha256,
        "phash": look.phash,
        # A stem is an identity within its source only: images-13- is another photo elsewhere.
        "family": f"{source.name}/{family}" if family else "",
        "declared_split": photo.declared_split,
        **photo.labels,
    }


def build_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """`ANNOTATION_COLUMNS`, sorted by `image_path`, labels as float64 with NaN for blank."""
    table = pd.DataFrame(rows).reindex(columns=list(ANNOTATION_COLUMNS))
    table = table.astype(dict.fromkeys(LABEL_COLUMNS, "float64")).sort_values("image_path").reset_index(drop=True)
    damaged = table["damaged"] == 1
    table.loc[damaged, "damage_score"] = table.loc[damaged, "damage_score"].clip(upper=_BEST_DAMAGED_SCORE)
    return table


def build_rejected(rejected: Mapping[str, Sequence[Rejection]]) -> pd.DataFrame:
    """`REJECTED_COLUMNS`, sorted. rejected: source name → its rejections."""
    rows = {
        (show_name(rejection.image_path), name, show_name(rejection.reason))
        for name, rejections in rejected.items()
        for rejection in rejections
    }
    return pd.DataFrame(sorted(rows), columns=list(REJECTED_COLUMNS))
