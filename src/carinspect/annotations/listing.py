"""The files below one source: what is skipped, which split a folder declares, and which names no table can hold."""

import errno
import os
import re
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping
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
    """All but hidden, excluded and odd ones."""
    excluded: frozenset[str]
    odd: Mapping[str, str]
    """What cannot be read as a file, or not for sure as the right one → why."""
    by_form: Mapping[str, str]
    """Name in Unicode's form NFC → the file. An archive made on a Mac has é as e and an accent (NFD), most lists have it as one letter."""

    @property
    def photos(self) -> list[str]:
        """Those whose suffix is a photo's; only reading one tells whether it is."""
        return [file for file in self.files if PurePosixPath(file).suffix.lower() in SUFFIXES]

    def skipped_suffixes(self, used: Container[str]) -> Counter[str]:
        """Suffix → files that are neither photos nor `used`."""
        suffixes = {file: PurePosixPath(file).suffix.lower() for file in self.files}
        return Counter(show_name(suffix) or "none" for file, suffix in suffixes.items() if suffix not in SUFFIXES and file not in used)


def list_folder(folder: Path, exclude: Iterable[str], *, root: Path, where: str) -> Listing:
    """The listing of `folder`, which lies in the data root `root`.

    Raises `UserError` that begins with `where` if it is missing, is a file, holds nothing or cannot be read.
    """
    if not folder.exists():
        raise UserError(f"{where}.path: {str(folder)!r} does not exist. Correct the path, or fetch the data: dvc pull.")
    if not folder.is_dir():
        raise UserError(f"{where}.path: {str(folder)!r} is a file; this format takes a folder.")
    files, odd = _walk(folder, root, where=where)
    if not files and not odd:
        raise UserError(f"{where}.path: {str(folder)!r} holds no files. Correct the path, or fetch the data: dvc pull.")
    excluded = {file for file in (*files, *odd) if any(fnmatchcase(file, pattern) for pattern in exclude)}
    kept = [file for file in files if file not in excluded]
    by_form: defaultdict[str, list[str]] = defaultdict(list)
    for file in kept:
        by_form[in_one_form(file)].append(file)
    odd |= {file: _TWIN for twins in by_form.values() if len(twins) > 1 for file in twins}
    return Listing(
        folder,
        tuple(sorted(file for file in kept if file not in odd)),
        frozenset(excluded),
        {file: why for file, why in sorted(odd.items()) if file not in excluded},
        {name: twins[0] for name, twins in by_form.items() if len(twins) == 1},
    )


_TWIN = "another file has the same name in another Unicode form: rename one of them"

_DVC_OBJECT = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")
"""What DVC's own links point to, where its cache links photos instead of copying them."""


def _walk(folder: Path, root: Path, *, where: str) -> tuple[list[str], dict[str, str]]:
    """Files below `folder`, and what is none → why. Links are followed within `root` only, and never to a folder that is read anyway."""

    def stop(error: OSError) -> None:
        raise UserError(f"{where}.path: the folder {error.filename!r} cannot be read: {error.strerror}.")

    files: list[str] = []
    odd: dict[str, str] = {}
    visited: set[Path] = set()
    places = (root.resolve(), folder.resolve())
    for path, folders, names in os.walk(folder, followlinks=True, onerror=stop):
        inside, real = Path(path).relative_to(folder), Path(path).resolve()
        if real in visited:
            odd[inside.as_posix()] = _SEEN
            folders.clear()
            continue
        visited.add(real)
        shown = sorted(name for name in folders if not name.startswith("."))
        links = {name: _why_not_followed(Path(path, name), *places) for name in shown if Path(path, name).is_symlink()}
        odd |= {(inside / name).as_posix(): why for name, why in links.items() if why}
        folders[:] = [name for name in shown if not links.get(name)]
        for name in names:
            if name.startswith("."):
                continue
            if why := why_no_file(Path(path, name), *places, has_sound_folder=True):
                odd[(inside / name).as_posix()] = why
            else:
                files.append((inside / name).as_posix())
    return files, odd


_SEEN = "a link to a folder that is read under another name"


def _why_not_followed(link: Path, root: Path, folder: Path) -> str:
    """Why a link to a folder is not followed; blank if it is. root, folder: of the data and of the source, without links."""
    target = link.resolve()
    if target.is_relative_to(folder) or folder.is_relative_to(target):
        return _SEEN
    return "" if target.is_relative_to(root) else "a link out of the data root: put the folder itself there"


def why_no_file(path: Path, root: Path, folder: Path, *, has_sound_folder: bool = False) -> str:
    """Why `path` cannot be read as a file of the data; blank if it can. It is opened by nobody, so that a pipe cannot hang the reader.

    root, folder: of the data and of the source, without links. has_sound_folder: its folder is known to be no link out of them.
    """
    is_link = path.is_symlink()
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "a link in a circle" if error.errno == errno.ELOOP else "a link to nothing" if is_link else f"no file: {error.strerror}"
    if not stat.S_ISREG(mode):
        return f"{_KINDS.get(stat.S_IFMT(mode), 'no file')} instead of a file"
    if is_link or not has_sound_folder:
        target = path.resolve()
        if not (target.is_relative_to(root) or target.is_relative_to(folder) or _DVC_OBJECT.search(target.as_posix())):
            return "a link out of the data root: put the file itself there"
    return ""


_KINDS = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def in_one_form(name: str) -> str:
    """`name` in Unicode's form NFC: names that look the same are the same."""
    return unicodedata.normalize("NFC", name)


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
