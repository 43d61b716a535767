"""Lists the photos to score: files, folders, globs or a column of a table, in the same order on every machine.

A file name need not be text. In every table a byte of it that is not UTF-8 is written as `\\xNN`, so that any reader can read the table,
and a backslash that would look like the beginning of that as `\\x5c`. `name_of_text` gives the name back.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pandas as pd

from carinspect.core.errors import UserError, did_you_mean, one_line
from carinspect.images.decode import SUFFIXES

TABLES = (".csv", ".parquet")
_ESCAPED = re.compile(r"\\x([89a-f][0-9a-f]|5c)")


def text_of_name(name: str) -> str:
    """A file name, as Python has it, for a table."""
    plain = _ESCAPED.sub(r"\\x5cx\1", name)
    return plain.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def name_of_text(text: str) -> str:
    """The file name that `text_of_name` wrote as `text`."""
    return _ESCAPED.sub(lambda escaped: os.fsdecode(bytes.fromhex(escaped[1])), text)


@dataclass(frozen=True)
class Listing:
    """The photos to score, each once, in order."""

    names: tuple[str, ...]
    """As the answers name them: the path as given or found, or what the table says."""
    folder: Path
    """What `names` are relative to."""
    skipped: int
    """Files in the folders without a photo's suffix."""

    def path(self, place: int) -> Path:
        """Where photo number `place` lies."""
        return self.folder / self.names[place]

    @property
    def digest(self) -> str:
        """SHA-256 of the names in their order."""
        return sha256("\0".join(self.names).encode("utf-8", "surrogateescape")).hexdigest()


def list_photos(words: Sequence[str]) -> Listing:
    """Files as they come, folders with all below them and globs (`**` too) sorted by name; a photo that occurs twice is listed once.

    Folders and globs give only files with a photo's suffix, and folders skip names with a leading dot; a file named directly is always
    listed. Folders follow no links to folders, globs do; a photo that several links lead to is listed by the first of its names.

    Raises `UserError` for a word that matches nothing, and when no photo is found.
    """
    names: list[str] = []
    skipped = 0
    for word in words:
        if Path(word).is_file():
            _refuse_table(word)
            names.append(word)
            continue
        found = [word] if Path(word).is_dir() else sorted(glob.glob(word, recursive=True))  # noqa: PTH207 - Path.glob refuses absolute ones
        if not found:
            raise UserError(f"{word}: no such file or folder, and no glob that matches one.")
        for item in found:
            taken, others = _photos_below(item) if Path(item).is_dir() else _photos_of([item])
            names += taken
            skipped += others
    if not names:
        raise UserError(f"no photo in {', '.join(words)} ({skipped:,} other files). Suffixes of photos: {' '.join(sorted(SUFFIXES))}.")
    return Listing(tuple(_one_name_each(names)), Path(), skipped)


def _refuse_table(word: str) -> None:
    if Path(word).suffix.lower() in TABLES:
        raise UserError(f"{word}: a table. Say which of its columns names the photos: --column image_path.")


def list_column(table: Path, column: str, *, root: Path | None) -> Listing:
    """The photos that `column` of a CSV or Parquet table names, relative to `root`, or to the table's folder when None.

    Raises `UserError` when the table or the column is missing, and for a blank name, with its row.
    """
    if not table.is_file() or table.suffix.lower() not in TABLES:
        raise UserError(f"{table}: no such table. --column wants one ending in {' or '.join(TABLES)}.")
    try:
        rows = pd.read_parquet(table) if table.suffix.lower() == ".parquet" else pd.read_csv(table, dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise UserError(f"{table}: not a readable table: {one_line(error)}") from None
    if column not in rows.columns:
        raise UserError(f"{table}: no column '{column}'. {did_you_mean(column, map(str, rows.columns))}")
    names = [name_of_text(name) for name in rows[column].fillna("").astype(str)]
    if not names:
        raise UserError(f"{table}: no row, so no photo to score.")
    for row, name in enumerate(names, start=1):
        if not name.strip() or "\0" in name:
            raise UserError(f"{table}: {column} has the value {name!r} in row {row}, which names no photo.")
    return Listing(tuple(dict.fromkeys(names)), table.parent if root is None else root, 0)


def _photos_below(folder: str) -> tuple[list[str], int]:
    names, skipped = [], 0
    for parent, folders, files in os.walk(folder):
        # os.walk descends into the folders that are left in this list.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        photos, others = _photos_of(sorted(name for name in files if not name.startswith(".")))
        names += [os.path.join(parent, name) for name in photos]  # noqa: PTH118 - keeps the folder as it was written
        skipped += others
    return names, skipped


def _photos_of(files: list[str]) -> tuple[list[str], int]:
    photos = [name for name in files if Path(name).suffix.lower() in SUFFIXES]
    return photos, len(files) - len(photos)


def _one_name_each(names: Iterable[str]) -> Iterator[str]:
    """The first name of each file."""
    folders: dict[str, str] = {}
    seen: set[str] = set()
    for name in names:
        folder, file = os.path.split(name)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        path = os.path.join(folders[folder], file)  # noqa: PTH118 - a Path for each of a million photos takes seconds
        real = os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114
        if real not in seen:
            seen.add(real)
            yield name
