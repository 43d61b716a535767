"""sources.yaml: which sources a data root holds, what was judged in each, what their categories mean, and who corrected them."""

import re
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from pydantic import field_validator, model_validator

from carinspect.annotations.listing import in_one_form, leaves_folder
from carinspect.core.errors import UserError, shorten
from carinspect.core.params import Section, load_yaml, parse_section

ROBOFLOW_FAMILY = r"^(.+?)[._](?:jpe?g|png|webp)\.rf\.[0-9a-f]{6,}"
"""Roboflow names each augmented copy `<name>_jpg.rf.<hash>.jpg`; copies of one photo share the name."""


LONGEST_NAME = 200
"""Characters of a category's name. A longer one is a text that got into the wrong field; it would fill messages, metrics and pages."""


class Source(Section):
    """One source of photos within the data root."""

    name: str
    """Unique; the `source` column of the tables."""
    format: str
    """`annotations.readers` has them: coco, folders, csv."""
    path: str = ""
    """Folder (csv: file) relative to the data root; blank: the name."""
    judges: list[str] = []
    """COCO only: the questions that a person decided on every photo of this source, so that a photo without a mark is a good one."""
    coordinates: Literal["pixels", "shares"] = "pixels"
    """COCO only: whether boxes and polygons are in pixels or in shares, 0..1, of the photo's width and height."""
    family_pattern: str | None = ROBOFLOW_FAMILY
    """Group 1 of a match on the file name is the photo's family; null: file names say nothing about families."""
    family_column: str | None = None
    """CSV only: the column whose value is the photo's family."""
    chosen_by_model: bool = False
    """Whether its photos were chosen by a model or by people who saw its answers, and not drawn at random: then they only train."""
    disagreement: Literal["leave_out", "majority"] = "leave_out"
    """For `carinspect labels import`, which made the source: what becomes of a label about which people disagree."""
    exclude: list[str] = []
    """Glob patterns relative to `path`; `*` also crosses folders."""
    categories: dict[str, str | dict[str, Any]] = {}
    """Meaning of every category or class folder."""

    @property
    def folder(self) -> PurePosixPath:
        """`path`, or its default, relative to the data root."""
        return PurePosixPath(self.path or self.name)

    @field_validator("path")
    @classmethod
    def _path_stays_in_the_root(cls, path: str) -> str:
        if leaves_folder(path):
            raise ValueError(f"{path!r} leaves the data root. Write a path below it, or set data.root to a folder that holds all sources.")
        return path

    @field_validator("family_pattern")
    @classmethod
    def _pattern_has_a_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}.") from None
        if groups == 0:
            raise ValueError(f"{pattern!r} has no group. Put what identifies the photo in parentheses.")
        return pattern

    @field_validator("categories", mode="before")
    @classmethod
    def _names_are_text(cls, categories: Any) -> Any:
        for name in categories if isinstance(categories, dict) else ():
            if not isinstance(name, str):
                raise ValueError(f"YAML reads the name {shorten(name)} as {type(name).__name__}, not as text. Put it in quotes: '{name}'.")
            if len(name) > LONGEST_NAME:
                raise ValueError(f"the name {shorten(name)} has more than {LONGEST_NAME} characters. Give the category a short one.")
        # Names that look the same are the same: é is one letter here, and an e with an accent in an archive made on a Mac.
        return {in_one_form(name): meaning for name, meaning in categories.items()} if isinstance(categories, dict) else categories

    @model_validator(mode="after")
    def _has_a_path(self) -> "Source":
        if not self.path and not re.fullmatch(r"[\w .-]+", self.name):
            raise ValueError(f"the name {self.name!r} cannot be the folder's name as well. Add its path.")
        return self


class Sources(NamedTuple):
    """All of sources.yaml."""

    sources: list[Source]
    corrections: str | None
    """A CSV (`annotations.corrections`) relative to the data root, which the stage depends on; None: without one."""


def load_sources(path: Path) -> Sources:
    """The sources of the YAML file at `path`, in its order.

    Raises `UserError` that names the source, the key and the fix for anything that is not a list of sources with unique names.
    """
    content = load_yaml(path)
    if not isinstance(content, dict) or set(content) - {"corrections"} != {"sources"} or not isinstance(content["sources"], list):
        raise UserError(
            f"{path}: the key 'sources' with a list is expected, and beside it at most 'corrections' with the path of a CSV. "
            "examples/real_photos/sources.yaml shows one."
        )
    corrections = content.get("corrections")
    if corrections is not None and (not isinstance(corrections, str) or not corrections or leaves_folder(corrections)):
        raise UserError(f"{path}: corrections has the value {shorten(repr(corrections))}. Write the path of a CSV below the data root.")
    if not content["sources"]:
        raise UserError(f"{path}: sources is an empty list. Add one with name, format and path.")
    sources: list[Source] = []
    for position, entry in enumerate(content["sources"], start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise UserError(f"{path}: source {position} has no name in plain text. Add `name: <unique name>` (a number in quotes).")
        if any(source.name == name for source in sources):
            raise UserError(f"{path}: two sources have the name {name!r}. Rename one.")
        sources.append(parse_section(f"{path}: {name}", Source, entry, file=str(path)))
    return Sources(sources, corrections)
