"""Makes data/outlines.csv: where annotators marked damage and dirt. `images.label_maps` says what its columns mean."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from carinspect.annotations.outline_kinds import OUTLINE_KINDS, OutlineKind
from carinspect.annotations.records import KeptMask, LabelledPhoto
from carinspect.images.label_maps import OUTLINE_COLUMNS


def build_outlines(table: pd.DataFrame, photos: Mapping[str, LabelledPhoto]) -> pd.DataFrame:
    """The rows of `OUTLINE_COLUMNS` for the photos of `table`, the final table of labels, sorted by photo and kind.

    photos: by image_path, those whose masks lie where their annotation file says. A label that says "no mark" wins over masks: only a
    correction can say so of a photo that has some.
    """
    rows: list[dict[str, Any]] = []
    for row in table.to_dict("records"):
        path = row["image_path"]
        masks = photos[path].masks if path in photos else ()
        for name, kind in sorted(OUTLINE_KINDS.items()):
            rows += _rows_of(path, name, [mask for mask in masks if mask.kind == name], row, kind)
        rows += [_row(path, mask, rest="unmarked") for mask in masks if mask.kind == "vehicle"]
    return pd.DataFrame(rows, columns=list(OUTLINE_COLUMNS))


def _rows_of(path: str, name: str, masks: list[KeptMask], labels: Mapping[str, Any], kind: OutlineKind) -> list[dict[str, Any]]:
    score, binary = (labels.get(column, np.nan) for column in (kind.score_column, kind.binary_column))
    if score == 1 or (np.isnan(score) and binary == 1 - kind.marked):
        return [{"image_path": path, "kind": name, "form": "none", "rest": "unmarked"}]
    # A score is known only where a person judged the whole photo and every mark has a mask.
    rest = "unknown" if np.isnan(score) else "unmarked"
    return [_row(path, mask, rest=rest) for mask in masks]


def _row(path: str, mask: KeptMask, *, rest: str) -> dict[str, Any]:
    height_px, width_px = mask.rle["size"]
    return {
        "image_path": path, "kind": mask.kind, "class": mask.class_name, "form": mask.form, "height_px": height_px, "width_px": width_px,
        "counts": mask.rle["counts"].decode(), "rest": rest,
    }  # fmt: skip
