"""metrics/split.json: what the split came out as, in figures that can be checked against the table."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from carinspect.core.questions import Question
from carinspect.core.tables import ONLY_TRAIN, SPLITS
from carinspect.splits.check import find_leaks
from carinspect.splits.groups import LINK_KINDS, Link
from carinspect.splits.labels import label_classes
from carinspect.splits.scenes import PlacedVerdicts, Suspicion

LOOKED_FOR = (
    "same family (export or vehicle)",
    "same bytes",
    "same picture: re-encoded, resized, recoloured, mirrored, turned by quarters or up to 10 degrees, cropped by up to 10 % a side, "
    "in a border or letterbox, with a light watermark",
)
"""What ties photos to one group. benchmarks/copies.py measures how surely."""

SAME_SCENE = (
    "most crops of up to 30 % a side, turns of up to 15 degrees, most cut-outs and screenshots, some collages",
    "other photos of one car or scene that no family names, where enough of the picture is the same",
)
"""Looked for with learned features (`splits.scenes`), as a suspicion; without them, not at all."""

NOT_LOOKED_FOR = ("photos of one car from other sides that no family names",)


def list_looks(*, learned: bool, merged: bool) -> tuple[list[str], list[str], list[str]]:
    """What was looked for and tied; looked for and only listed; not looked for. learned: whether there were learned features."""
    if not learned:
        return [*LOOKED_FOR], [], [*SAME_SCENE, *NOT_LOOKED_FOR]
    return [*LOOKED_FOR, *(SAME_SCENE if merged else ())], [*(() if merged else SAME_SCENE)], [*NOT_LOOKED_FOR]


def certify_split(
    table: pd.DataFrame, links: Sequence[Link], *, questions: Sequence[Question], moved: dict[str, int], left_out: int = 0
) -> dict[str, Any]:
    """The certificate of a finished table whose groups come from `links` (between its rows). left_out: photos, see `split_photos`."""
    labels = {column: _certify_label(table, classes) for column, classes in label_classes(table, questions).items()}
    return {
        "photos": _per_split(table, table["image_path"]),
        "groups": {"all": int(table["group"].nunique()), **_per_split(table, table["group"])},
        "links": _count_links(table, links),
        "largest_group": int(table["group"].value_counts().max()),
        "labels": labels,
        "largest_deviation_points": max(label["largest_deviation_points"] for label in labels.values()),
        "declared_overlaps": declared_overlaps(table),
        "moved": moved,
        "only_train": {"photos": int((table["declared_split"] == ONLY_TRAIN).sum()), "left_out_as_their_group_is_held_out": left_out},
        "leaks": len(find_leaks(table)),
    }


def certify_scenes(
    table: pd.DataFrame, suspicions: Sequence[Suspicion], verdicts: PlacedVerdicts, *, looked: bool, policy: str
) -> dict[str, Any]:
    """What the certificate says of the kinds looked for (`leaks: 0` says no more), of pairs that may show one scene, and of verdicts.

    looked: whether there were learned features. policy: `split.same_scene`.
    """
    splits, groups = table["split"].tolist(), table["group"].tolist()
    tied, listed, not_looked_for = list_looks(learned=looked, merged=policy == "merge")
    return {
        "looked_for": tied,
        "looked_for_as_a_suspicion": listed,
        "not_looked_for": not_looked_for,
        "suspicions": {
            "pairs": len(suspicions) if looked else None,
            "in_two_splits": sum(splits[one.first] != splits[one.second] for one in suspicions) if looked else None,
        },
        "verdicts": {
            "same": len(verdicts.same),
            "different": len(verdicts.different),
            "different_but_in_one_group": sum(groups[first] == groups[second] for first, second in verdicts.different),
            "of_photos_that_are_not_there": verdicts.unknown,
        },
    }


def _per_split(table: pd.DataFrame, values: pd.Series) -> dict[str, int]:
    return {split: int(values[table["split"] == split].nunique()) for split in SPLITS}


def _count_links(table: pd.DataFrame, links: Sequence[Link]) -> dict[str, dict[str, int]]:
    """For each kind: the groups that it ties, and the pairs of photos it was seen in."""
    groups = table["group"].tolist()
    kinds = {kind: [groups[link.first] for link in links if link.kind == kind] for kind in LINK_KINDS}
    return {kind: {"groups": len(set(found)), "pairs": len(found)} for kind, found in kinds.items()}


def _certify_label(table: pd.DataFrame, classes: pd.Series) -> dict[str, Any]:
    """Counts and class shares among the photos that were judged, and how far a split's share lies from that of all, in points."""
    judged = table[classes != ""].assign(label=classes[classes != ""])
    overall = judged["label"].value_counts(normalize=True).sort_index()
    splits, deviation = {}, 0.0
    for split in SPLITS:
        photos = judged[judged["split"] == split]
        shares = photos["label"].value_counts(normalize=True).reindex(overall.index, fill_value=0.0)
        splits[split] = {"photos": len(photos), "groups": int(photos["group"].nunique()), "shares": shares.to_dict() if len(photos) else {}}
        if len(photos):
            deviation = max(deviation, float((shares - overall).abs().max()))
    return {"shares": overall.to_dict(), "splits": splits, "largest_deviation_points": 100 * deviation}


def declared_overlaps(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """For each source whose own splits share a group: how many groups, and how many of its photos are in them."""
    declared = table[~table["declared_split"].isin(["", ONLY_TRAIN])]
    counts = declared.groupby(["source", "group"])["declared_split"].agg(["nunique", "size"])
    astray = counts[counts["nunique"] > 1].groupby("source")["size"].agg(["size", "sum"])
    return {str(source): {"groups": int(row["size"]), "photos": int(row["sum"])} for source, row in astray.iterrows()}


def find_gaps(table: pd.DataFrame, questions: Sequence[Question]) -> list[str]:
    """What each of `questions` lacks, in words: a label at all, a label in some splits, a second class in some splits."""
    gaps = []
    for question in questions:
        judged = table[table[question.column].notna()]
        if judged.empty:
            gaps.append(f"no photo has a label for '{question.name}': add a source that judges it, or take it out of questions.")
            continue
        labels = {split: judged.loc[judged["split"] == split, question.column] for split in SPLITS}
        lacks = []
        if empty := [split for split in SPLITS if labels[split].empty]:
            lacks.append(f"no photo of {_name(empty)} has a label for '{question.name}'")
        alike = {split: labels[split].iloc[0] for split in SPLITS if question.has_classes and labels[split].nunique() == 1}
        for only in sorted(set(alike.values())):
            splits = _name([split for split in alike if alike[split] == only])
            lacks.append(f"every photo of {splits} has the same label for '{question.name}', {question.say_label(only)}")
        if lacks:
            gaps.append(f"{', and '.join(lacks)} ({_remedy(judged)}).")
    return gaps


def _name(splits: Sequence[str]) -> str:
    return f"the split{'s' * (len(splits) > 1)} {' and '.join(repr(split) for split in splits)}"


def _remedy(judged: pd.DataFrame) -> str:
    groups = judged["group"].nunique()
    return f"{len(judged)} labelled photos in {groups} groups are too few: add photos, change split.fractions, or take it out of questions"
