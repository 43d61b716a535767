"""Owns the figures of metrics/convert_annotations.json: what came in, what was left out or repaired, and what the labels look like."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from carinspect.annotations.photos import Look
from carinspect.annotations.records import Reading, Rejection
from carinspect.annotations.sources import Source
from carinspect.core.tables import LABEL_COLUMNS
from carinspect.core.tasks import LABEL_COLUMN, TASKS, WEATHER_CLASSES

_PROVENANCE = {"coco": "annotation", "folders": "folder", "csv": "csv"}
"""Source format → the word for where a label comes from."""

_QUANTILES = {"min": 0.0, "p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "max": 1.0}

_MEASURES = ("sharpness", "brightness", "dark_share", "bright_share")

_EXAMPLES = 5


def summarise(
    table: pd.DataFrame,
    rejected: Mapping[str, Sequence[Rejection]],
    sources: Sequence[Source],
    readings: Mapping[str, Reading],
    looks: Mapping[str, Look],
) -> dict[str, Any]:
    """The metrics of a conversion. rejected: source name → its rejections; readings: source name → what was read; looks: by path."""
    kinds = Counter(rejection.kind for rejections in rejected.values() for rejection in rejections)
    return {
        "photos": len(table),
        "families": int(table.loc[table["family"] != "", "family"].nunique()),
        "rejected": dict(kinds),
        "rejected_total": kinds.total(),
        "labelled": _count_labels(table),
        "provenance": _provenance(table, sources),
        "labels": _describe_labels(table),
        "copies": _describe_copies(table),
        "pictures": _describe_pictures(looks[path] for path in table["image_path"]),
        "repairs": dict(sum((reading.counts for reading in readings.values()), Counter())),
        "sources": {
            source.name: _describe_source(table[table["source"] == source.name], rejected[source.name], readings[source.name])
            for source in sources
        },
    }


def _count_labels(table: pd.DataFrame) -> dict[str, int]:
    return {column: int(table[column].notna().sum()) for column in LABEL_COLUMNS}


def _provenance(table: pd.DataFrame, sources: Sequence[Source]) -> dict[str, dict[str, int]]:
    """Task → where its labels come from → photos; a task that nobody judged has zeros only."""
    words = table["source"].map({source.name: _PROVENANCE[source.format] for source in sources})
    return {
        task: {word: int((table[LABEL_COLUMN[task]].notna() & (words == word)).sum()) for word in _PROVENANCE.values()} for task in TASKS
    }


def _describe_labels(table: pd.DataFrame) -> dict[str, Any]:
    described: dict[str, Any] = {
        column: {str(value): int((table[column] == value).sum()) for value in (0, 1)} for column in ("clean", "damaged")
    }
    described["weather_condition"] = {name: int((table["weather_condition"] == index).sum()) for index, name in enumerate(WEATHER_CLASSES)}
    for column in ("cleanliness_score", "damage_score"):
        values = table[column].dropna()
        below = values[values < 1]
        described[column] = {
            "equal_to_1": len(values) - len(below),
            "below_1": {name: float(below.quantile(share)) if len(below) else None for name, share in _QUANTILES.items()},
        }
    return described


def _describe_copies(table: pd.DataFrame) -> dict[str, Any]:
    """Photos of the same bytes, and those among them whose labels contradict each other."""
    copies = table[table["sha256"].duplicated(keep=False)]
    contradicting = [
        {"column": column, "image_paths": sorted(group["image_path"])[:2]}
        for _, group in copies.groupby("sha256", sort=True)
        for column in LABEL_COLUMNS
        if group[column].round(6).nunique() > 1
    ]
    return {
        "photos_with_copies": len(copies),
        "contradicting": len(contradicting),
        "contradicting_examples": contradicting[:_EXAMPLES],
    }


def _describe_pictures(looks: Iterable[Look]) -> dict[str, Any]:
    """How many bear another format's suffix, are grey or are turned upright by EXIF, and how sharp and how exposed they are."""
    seen = pd.DataFrame(looks)
    return {
        "misnamed": int(seen["misnamed"].sum()),
        "grey": int(seen["grey"].sum()),
        "turned_by_exif": int(seen["turned"].sum()),
        **{name: {word: float(seen[name].quantile(_QUANTILES[word])) for word in ("p10", "p50", "p90")} for name in _MEASURES},
    }


def _describe_source(table: pd.DataFrame, rejected: Sequence[Rejection], reading: Reading) -> dict[str, Any]:
    splits = Counter(table["declared_split"].replace("", "none"))
    return {
        "photos": len(table),
        "rejected": dict(Counter(rejection.kind for rejection in rejected)),
        "labelled": {column: count for column, count in _count_labels(table).items() if count},
        "declared_split": dict(splits),
        "families": int(table.loc[table["family"] != "", "family"].nunique()),
        "classes": dict(reading.classes),
        "unused_mappings": reading.unused_mappings,
        "skipped_files": dict(reading.skipped_files),
        "repairs": {kind: count for kind, count in reading.counts.items() if count},
    }
