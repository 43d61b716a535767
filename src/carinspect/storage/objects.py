"""Checks every object of a DVC cache or remote: does its content have the hash that is its name?

DVC trusts names: a read-only file in the local cache is never read again, and `dvc push` never reads an object that the remote already
has, nor whether the members of a folder are still there (github.com/treeverse/dvc, issue 10977).
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from dvc_data.hashfile.db import HashFileDB
from tqdm import tqdm

FOLDER = ".dir"
"""Suffix of the name of an object that lists a folder's members."""

_CHUNK = 4 * 2**20


@dataclass(frozen=True)
class Store:
    """A place that holds objects: the cache, or a remote."""

    name: str
    odb: HashFileDB
    known: frozenset[str] | None
    """The objects to check in a store that cannot be listed (HTTP); None: the store is listed."""
    complete: bool
    """Whether all members of a folder must be present: yes in a remote, no in a cache, which may hold only what was pulled."""

    @property
    def read_only(self) -> bool:
        """Whether nothing in it can be repaired."""
        return self.known is not None

    def list_objects(self) -> list[str]:
        """Names of all objects, sorted; none when nothing was ever stored."""
        if self.known is not None:
            return sorted(self.known)
        return sorted(self.odb.all()) if self.odb.fs.exists(self.odb.path) else []


@dataclass(frozen=True)
class Fault:
    """An object whose content does not match its name, or that is missing."""

    oid: str
    kind: Literal["corrupt", "missing"]


@dataclass(frozen=True)
class Inspection:
    """The result of checking a store."""

    store: Store
    sound: frozenset[str]
    faults: list[Fault]
    size_bytes: int


class _Checked(NamedTuple):
    digest: str | None  # MD5; None when the object is not there
    size_bytes: int
    members: list[str]  # of a folder whose list is sound


def inspect_store(store: Store, *, jobs: int) -> Inspection:
    """Read every object of `store`, `jobs` at a time.

    Raises the store's own exception when it cannot be read, e.g. when a remote is unreachable.
    """
    oids = store.list_objects()
    with ThreadPoolExecutor(jobs) as pool:
        progress = tqdm(pool.map(partial(_check, store.odb), oids), total=len(oids), desc=store.name, unit="object", disable=None)
        found = dict(zip(oids, progress, strict=True))
    corrupt = {oid for oid, one in found.items() if one.digest not in (None, oid.removesuffix(FOLDER))}
    sound = frozenset(oid for oid, one in found.items() if one.digest == oid.removesuffix(FOLDER))
    expected = set(found)
    if store.complete:
        expected.update(member for one in found.values() for member in one.members)
    faults = [Fault(oid, "corrupt" if oid in corrupt else "missing") for oid in sorted(expected - sound)]
    return Inspection(store=store, sound=sound, faults=faults, size_bytes=sum(one.size_bytes for one in found.values()))


def _check(odb: HashFileDB, oid: str) -> _Checked:
    digest, size_bytes, listing = hashlib.md5(usedforsecurity=False), 0, b""
    try:
        with odb.fs.open(odb.oid_to_path(oid), "rb") as source:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                size_bytes += len(chunk)
                if oid.endswith(FOLDER):
                    listing += chunk
    except FileNotFoundError:
        return _Checked(None, 0, [])
    is_sound_folder = oid.endswith(FOLDER) and digest.hexdigest() == oid.removesuffix(FOLDER)
    return _Checked(digest.hexdigest(), size_bytes, [entry["md5"] for entry in json.loads(listing)] if is_sound_folder else [])
