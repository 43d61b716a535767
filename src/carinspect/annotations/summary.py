"""The figures of metrics/convert_annotations.json: what came in, what was left out or repaired, and what the labels look like."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, assert_never

import pandas as pd

from carinspect.annotations.photos import PhotoProperties
from carinspect.annotations.readers import READERS
from carinspect.annotations.records import Reading, Rejection
from carinspect.annotations.sources import Source
from carinspect.core.questions import Question, label_columns

_QUANTILES = {"min": 0.0, "p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "max": 1.0}

_MEASURES = ("sharpness", "brightness", "dark_share", "bright_share")

_EXAMPLES = 5


REPAIR_WORDS = {
    "annotations_of_unknown_images": "annotations of a photo that their file does not list, counted for none",
    "photos_left_blank": "photos with a blank label, because such an annotation may be theirs",
    "outlines_clipped": "outlines that reached out of the photo, clipped",
    "outlines_malformed": "malformed outlines, replaced by their box or by the fact that there is a mark",
    "outlines_degenerate": "outlines that cover no pixel, so that the size of the mark is unknown",
    "photos_with_contradicting_labels": "photos with categories that contradict each other, their labels left blank",
    "photos_resized": "photos of another size than their annotation file states, outlines scaled along",
    "size_mismatches": "photos of another shape than their annotation file states, outlines used as they are",
    "photos_misnamed": "photos with the suffix of another format, read as what they are",
    "photos_found_by_unicode_form": "photos found by their name in another Unicode form",
    "placeholders_for_a_family": "placeholders such as 'unknown' for a vehicle, read as no vehicle",
    "photos_excluded_though_listed": "listed photos that `exclude` leaves out",
    "columns_ignored": "unknown columns of the CSV, ignored",
}
"""What a person should know of → the words for it."""


def say_repairs(readings: Mapping[str, Reading]) -> list[str]:
    """One line for each source and kind of repair, with its count."""
    return [
        f"{name}: {words}: {reading.counts[kind]:,}"
        for name, reading in readings.items()
        for kind, words in REPAIR_WORDS.items()
        if reading.counts[kind]
    ]


def summarise(
    table: pd.DataFrame,
    questions: Sequence[Question],
    rejected: Mapping[str, Sequence[Rejection]],
    sources: Sequence[Source],
    readings: Mapping[str, Reading],
    properties: Mapping[str, PhotoProperties],
) -> dict[str, Any]:
    """The metrics of a conversion. rejected: source name → its rejections; readings: source name → what was read; properties: by path."""
    kinds = Counter(rejection.kind for rejections in rejected.values() for rejection in rejections)
    return {
        "photos": len(table),
        "families": int(table.loc[table["family"] != "", "family"].nunique()),
        "rejected": dict(kinds),
        "rejected_total": kinds.total(),
        "labelled": _count_labels(table, questions),
        "provenance": _provenance(table, questions, sources),
        "labels": _describe_labels(table, questions),
        "copies": _describe_copies(table, questions),
        "pictures": _describe_pictures(properties[path] for path in table["image_path"]),
        "repairs": dict(sum((reading.counts for reading in readings.values()), Counter())),
        "repaired": say_repairs(readings),
        "sources": {
            source.name: _describe_source(table[table["source"] == source.name], questions, rejected[source.name], readings[source.name])
            for source in sources
        },
    }


def _count_labels(table: pd.DataFrame, questions: Sequence[Question]) -> dict[str, int]:
    return {column: int(table[column].notna().sum()) for column in label_columns(questions)}


def _provenance(table: pd.DataFrame, questions: Sequence[Question], sources: Sequence[Source]) -> dict[str, dict[str, int]]:
    """Question → where its labels come from → photos; a question that nobody judged has zeros only."""
    words = table["source"].map({source.name: READERS[source.format].provenance for source in sources})
    return {
        asked.name: {
            reader.provenance: int((table[asked.column].notna() & (words == reader.provenance)).sum()) for reader in READERS.values()
        }
        for asked in questions
    }


def _describe_labels(table: pd.DataFrame, questions: Sequence[Question]) -> dict[str, Any]:
    return {asked.column: _describe_label(table[asked.column].dropna(), asked) for asked in questions}


def _describe_label(values: pd.Series, asked: Question) -> dict[str, Any]:
    match asked.kind:
        case "binary":
            return {str(value): int((values == value).sum()) for value in (0, 1)}
        case "score":
            below = values[values < 1]
            return {
                "equal_to_1": len(values) - len(below),
                "below_1": {name: float(below.quantile(share)) if len(below) else None for name, share in _QUANTILES.items()},
            }
        case "classes":
            return {name: int((values == index).sum()) for index, name in enumerate(asked.classes)}
        case _:
            assert_never(asked.kind)


def _describe_copies(table: pd.DataFrame, questions: Sequence[Question]) -> dict[str, Any]:
    """Photos of the same bytes, and those among them whose labels contradict each other."""
    copies = table[table["sha256"].duplicated(keep=False)]
    contradicting = [
        {"column": column, "image_paths": sorted(group["image_path"])[:2]}
        for _, group in copies.groupby("sha256", sort=True)
        for column in label_columns(questions)
        if group[column].round(6).nunique() > 1
    ]
    return {
        "photos_with_copies": len(copies),
        "contradicting": len(contradicting),
        "contradicting_examples": contradicting[:_EXAMPLES],
    }


def _describe_pictures(properties: Iterable[PhotoProperties]) -> dict[str, Any]:
    """How many bear another format's suffix, are grey or are turned upright by EXIF, and how sharp and how exposed they are."""
    seen = pd.DataFrame(properties)
    return {
        "misnamed": int(seen["misnamed"].sum()),
        "grey": int(seen["grey"].sum()),
        "turned_by_exif": int(seen["turned"].sum()),
        **{name: {word: float(seen[name].quantile(_QUANTILES[word])) for word in ("p10", "p50", "p90")} for name in _MEASURES},
    }


def _describe_source(table: pd.DataFrame, questions: Sequence[Question], rejected: Sequence[Rejection], reading: Reading) -> dict[str, Any]:
    splits = Counter(table["declared_split"].replace("", "none"))
    return {
        "photos": len(table),
        "rejected": dict(Counter(rejection.kind for rejection in rejected)),
        "labelled": {column: count for column, count in _count_labels(table, questions).items() if count},
        "declared_split": dict(splits),
        "families": int(table.loc[table["family"] != "", "family"].nunique()),
        "classes": dict(reading.classes),
        "unused_mappings": reading.unused_mappings,
        "skipped_files": dict(reading.skipped_files),
        "repairs": {kind: count for kind, count in reading.counts.items() if count},
    }
