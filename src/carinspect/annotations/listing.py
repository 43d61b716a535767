"""The files below one source: what is skipped, which split a folder declares, and which names no table can hold."""

import os
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from carinspect.core.errors import UserError
from carinspect.images.decode import SUFFIXES

SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test",
}  # fmt: skip
"""Folder name or CSV value, in lower case → declared split."""


@dataclass(frozen=True)
class Listing:
    """Files below a source's folder, relative to it, sorted."""

    folder: Path
    files: tuple[str, ...]
    """All but hidden and excluded ones."""
    excluded: frozenset[str]

    @property
    def photos(self) -> list[str]:
        """Those whose suffix is a photo's; only reading one tells whether it is."""
        return [file for file in self.files if PurePosixPath(file).suffix.lower() in SUFFIXES]

    def skipped_suffixes(self, used: Container[str]) -> Counter[str]:
        """Suffix → files that are neither photos nor `used`."""
        suffixes = {file: PurePosixPath(file).suffix.lower() for file in self.files}
        return Counter(show_name(suffix) or "none" for file, suffix in suffixes.items() if suffix not in SUFFIXES and file not in used)


def list_folder(folder: Path, exclude: Iterable[str], *, where: str) -> Listing:
    """The listing of `folder`. Raises `UserError` that begins with `where` when it is missing, is a file or holds nothing."""
    if not folder.exists():
        raise UserError(f"{where}.path: {str(folder)!r} does not exist. Correct the path, or fetch the data: dvc pull.")
    if not folder.is_dir():
        raise UserError(f"{where}.path: {str(folder)!r} is a file; this format takes a folder.")
    files = sorted(_walk(folder))
    if not files:
        raise UserError(f"{where}.path: {str(folder)!r} holds no files. Correct the path, or fetch the data: dvc pull.")
    excluded = {file for file in files if any(fnmatchcase(file, pattern) for pattern in exclude)}
    return Listing(folder, tuple(file for file in files if file not in excluded), frozenset(excluded))


def _walk(folder: Path) -> Iterator[str]:
    visited: set[Path] = set()
    for path, folders, files in os.walk(folder, followlinks=True):
        # A folder may be a link to another disk; one that has been seen already may be a loop.
        visited.add(Path(path).resolve())
        folders[:] = sorted(name for name in folders if not name.startswith(".") and Path(path, name).resolve() not in visited)
        for name in files:
            if not name.startswith("."):
                yield Path(path, name).relative_to(folder).as_posix()


def declared_split(folders: Iterable[str]) -> str:
    """The split that the first telling folder name declares; blank when none does."""
    return next((SPLIT_WORDS[name.lower()] for name in folders if name.lower() in SPLIT_WORDS), "")


def leaves_folder(path: str) -> bool:
    """Whether a listed path points out of the folder that it is relative to."""
    parts = PurePosixPath(path).parts
    return ".." in parts or path.startswith("/") or path[1:3] == ":/"


def show_name(name: str) -> str:
    """`name` as text that every table can hold and give back: control characters and bytes that are not Unicode come escaped."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in ("Cc", "Cs") else character for character in name
    )
