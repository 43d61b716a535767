"""What a reader of one source is given and hands back: photos with the labels that somebody gave, and what was left out."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.sources import Source
from carinspect.core.questions import Question

REJECTED_COLUMNS: tuple[str, ...] = ("image_path", "source", "reason")
"""Columns of data/rejected.csv: one row for each photo that is not in the table, and why."""


@dataclass(frozen=True)
class KeptMask:
    """Where one photo is marked."""

    kind: str
    """`damage`, `dirt` or `vehicle`."""
    class_name: str
    form: Literal["outline", "box"]
    rle: dict[str, Any]
    """Run lengths of pycocotools."""


@dataclass(frozen=True)
class LabelledPhoto:
    """One photo as its source describes it; nothing of the file itself is known yet."""

    image_path: str
    """Relative to the data root."""
    labels: dict[str, float]
    """Label column → value; a column that nobody judged is absent."""
    declared_split: str = ""
    family: str = ""
    stated_size_px: tuple[int, int] | None = None
    """Width and height that the annotation file claims; its outlines are in these pixels."""
    masks: tuple[KeptMask, ...] = ()


@dataclass(frozen=True, order=True)
class Rejection:
    """A photo left out. `kind` groups the reasons in the metrics."""

    image_path: str
    kind: str
    reason: str


@dataclass
class Reading:
    """All that one source says."""

    photos: list[LabelledPhoto] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    """Category → annotations, or class folder → photos, mapped or not."""
    unmapped: Counter[str] = field(default_factory=Counter)
    """Categories or folders in use without a meaning in sources.yaml: an error that `convert` raises for all sources at once."""
    unused_mappings: list[str] = field(default_factory=list)
    """Meanings in sources.yaml for categories or folders that do not occur."""
    skipped_files: Counter[str] = field(default_factory=Counter)
    """Suffix → files that are no photos and no annotations."""
    counts: Counter[str] = field(default_factory=Counter)
    """Everything skipped or repaired on the way, by kind."""


@dataclass(frozen=True)
class Reader:
    """One format of sources."""

    read: Callable[["SourceContext"], Reading]
    keys: frozenset[str]
    """Keys of a source in sources.yaml that this format takes, besides name, format and path."""
    provenance: str
    """Where its labels come from, in a word."""


@dataclass(frozen=True)
class SourceContext:
    """What a reader reads, and by which rules."""

    source: Source
    root: Path
    """The data root on this machine."""
    path: Path
    """Of the source's folder (csv: file) on this machine."""
    where: str
    """The file and the source's name, to begin a message with."""
    params: ConvertAnnotationsParams
    questions: Mapping[str, Question]
    """By name."""
