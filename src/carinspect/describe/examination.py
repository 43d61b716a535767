"""The whole examination of a table and its photos, and what of it goes into metrics/describe.json."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from carinspect.core.questions import Question
from carinspect.describe.config import DescribeParams
from carinspect.describe.counts import find_grey_sources, profile_sources
from carinspect.describe.oddities import Oddity, find_oddities, measure_photos
from carinspect.describe.shortcuts import Shortcut, find_shortcuts
from carinspect.describe.suspects import FAMILIES, Doubts, Suspect, find_contradictions, find_doubts
from carinspect.scoring.ranking import Array

_METRIC_KEYS = {"ROC AUC": "roc_auc", "R²": "r2"}


class Warned(NamedTuple):
    """One warning, and what to do about it."""

    kind: str
    """A word or two, by which the page filters."""
    text: str
    remedy: str

    def __str__(self) -> str:
        return self.text


LEAK, CONTRADICTION, SAME_SCENE, SHORTCUT, GREY = "leak", "contradiction", "same scene", "shortcut", "grey source"

REMEDIES = {
    LEAK: "Keep each group in one split: dvc repro does. A table from elsewhere has to be split anew, and its models measured again.",
    CONTRADICTION: "Decide which label is right: carinspect describe … --review labels.csv lists them; filled in, the list is the file "
    "that the key corrections of sources.yaml names (docs/labels.md).",
    SAME_SCENE: "Look at the pairs below, and write each into data/same_scene.csv as same or different: the next split obeys. "
    "split.same_scene: merge ties all of them unseen.",
    SHORTCUT: "Add photos of the class that is rare in a source from the same cameras, or leave the source out. "
    "evaluate.leave_one_source_out: true measures what remains without the shortcut; train.augment blurs it.",
    GREY: "Take that source's photos in colour, or make some photos of all sources grey: train.augment.grey.",
}
"""Kind of warning → what to do."""


class Looks(NamedTuple):
    """Kinds of copies, in words."""

    tied: Sequence[str]
    """Looked for; photos of these kinds are one group."""
    listed: Sequence[str]
    """Looked for, and shown to a person."""
    not_looked_for: Sequence[str]


@dataclass(frozen=True)
class Evidence:
    """What is examined. Rows of `table` are sorted by `image_path` and numbered from 0."""

    questions: Sequence[Question]
    root: Path
    """Folder that every `image_path` is relative to."""
    table: pd.DataFrame
    """`dataset_columns`; `split` is blank where there is none yet."""
    rejected: pd.DataFrame
    """`image_path`, `source`, `reason`: photos that are not in the table."""
    pairs: pd.DataFrame
    """Photos that belong together: `first`, `second`, `reason`, `correlation`, and the splits that their exports declare."""
    shown_pairs: pd.DataFrame
    """Those of `pairs` that a person should look at."""
    leaks: list[str]
    """Each in words."""
    suspicions: pd.DataFrame
    """Pairs that may show one scene: `first`, `second`, `first_split`, `second_split`, `cosine`, `inliers`; those in two splits first."""
    looks: Looks
    learned: Array | None = None
    """Frozen features of a pretrained backbone, (rows of `table`, features); None: without one."""
    repairs: Sequence[str] = ()
    """What was left out or mended when the labels were read, in words."""


@dataclass(frozen=True)
class Examination:
    """What was found in `evidence`."""

    evidence: Evidence
    profile: pd.DataFrame
    """See `profile_sources`."""
    grey_sources: list[str]
    shortcuts: list[Shortcut]
    contradictions: list[Suspect]
    """Of copies."""
    family_contradictions: list[Suspect]
    """Of photos that an export or a vehicle ties."""
    doubts: list[Doubts]
    oddities: list[Oddity]

    @property
    def warnings(self) -> list[Warned]:
        """What a person should know before training, the worst first.

        A leak makes every figure of the test wrong, and a contradiction is a wrong label for certain. Then what may be a leak. Then
        shortcuts: first those that tell most, over all photos before those within a source. Grey is one look away from being a shortcut.
        """
        found = []
        if self.evidence.leaks:
            found.append((LEAK, f"{len(self.evidence.leaks)} leaks: photos that belong together lie in two splits"))
        if self.contradictions:
            found.append((CONTRADICTION, f"{len(self.contradictions)} labels contradict that of a copy of the same photo"))
        if apart := int((self.evidence.suspicions["first_split"] != self.evidence.suspicions["second_split"]).sum()):
            found.append((SAME_SCENE, f"{apart} pairs of photos in two splits may show one scene"))
        warning = [shortcut for shortcut in self.shortcuts if shortcut.warns]
        found += [
            (SHORTCUT, str(shortcut)) for shortcut in sorted(warning, key=lambda shortcut: (-shortcut.severity, shortcut.within != ""))
        ]
        found += [
            (GREY, f"{source} is grey and the other sources are not: its labels can be read off the colour") for source in self.grey_sources
        ]
        return [Warned(kind, text, REMEDIES[kind]) for kind, text in found]


def examine(evidence: Evidence, params: DescribeParams) -> Examination:
    """Read every photo once and look for all that this package knows. Raises `UserError` for a photo that cannot be read."""
    table = evidence.table
    measured = measure_photos(evidence.root, table["image_path"].tolist())
    profile = profile_sources(table, measured.statistics)
    return Examination(
        evidence=evidence,
        profile=profile,
        grey_sources=find_grey_sources(profile),
        shortcuts=find_shortcuts(table, evidence.questions, measured.statistics, params),
        contradictions=find_contradictions(table, evidence.questions, evidence.pairs),
        family_contradictions=find_contradictions(table, evidence.questions, evidence.pairs, FAMILIES),
        doubts=find_doubts(table, evidence.questions, measured, params, evidence.learned),
        oddities=find_oddities(table, measured.statistics),
    )


def make_metrics(examination: Examination) -> dict[str, Any]:
    """The figures that are worth comparing between two versions of the data."""
    shortcuts: dict[str, dict[str, Any]] = {}
    for found in examination.shortcuts:
        place = shortcuts.setdefault(found.column, {})
        if found.within:
            place = place.setdefault("within", {}).setdefault(found.within, {})
        # Few figures each: `dvc metrics show` has a column for every one.
        figures = {_METRIC_KEYS[found.metric]: found.skill, "chance": found.chance, "warns": found.warns}
        place[found.evidence] = {name: value for name, value in figures.items() if value is not None}
    return {
        "photos": len(examination.evidence.table),
        "groups": int(examination.evidence.table["group"].nunique()),
        "rejected": len(examination.evidence.rejected),
        "leaks": len(examination.evidence.leaks),
        "shortcuts": shortcuts,
        "grey_sources": examination.grey_sources,
        "grey_share": examination.profile["grey_share"].to_dict(),
        "contradicting_labels": len(examination.contradictions),
        "contradicting_in_families": len(examination.family_contradictions),
        "doubts": {
            doubts.column: {_METRIC_KEYS[doubts.metric]: doubts.skill, "listed": len(doubts.suspects)} for doubts in examination.doubts
        },
        "oddities": dict(Counter(oddity.kind for oddity in examination.oddities)),
        "warnings": [warned.text for warned in examination.warnings],
        "same_scene": len(examination.evidence.suspicions),
    }


def summarise(examination: Examination) -> str:
    """What fits on a terminal: the counts, then a line for each warning."""
    table, rejected = examination.evidence.table, examination.evidence.rejected
    sources = ", ".join(f"{source} {photos:,}" for source, photos in table["source"].value_counts().sort_index().items())
    listed = sum(len(doubts.suspects) for doubts in examination.doubts)
    families = len(examination.family_contradictions)
    lines = [
        f"{len(table):,} photos in {table['group'].nunique():,} groups ({sources}); {len(rejected):,} rejected",
        f"{len(examination.oddities):,} odd photos; {len(examination.contradictions):,} contradicting, {listed:,} doubtful labels listed",
        *([f"{families:,} labels differ within a family: copies of one photo must not, photos of one vehicle may"] if families else []),
    ]
    lines += [f"repaired: {repair}" for repair in examination.evidence.repairs]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in examination.warnings)])
