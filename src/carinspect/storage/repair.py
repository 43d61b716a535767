"""Puts a sound copy in the place of a broken or missing object, from any store that has one, or from the workspace."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dvc.fs import LocalFileSystem
from dvc_objects.fs.base import FileSystem

from carinspect.storage.objects import Fault, Inspection, Store


class Repair(NamedTuple):
    """What became of one fault."""

    store: Store
    fault: Fault
    source: str | None
    """Where the sound copy came from; None when there was none, or the store is read-only."""


def repair(inspections: Sequence[Inspection], workspace: Mapping[str, Path]) -> list[Repair]:
    """Repair every fault for which there is a sound copy. `workspace`: object names and the sound files that have their content.

    A corrupt object without one is removed: DVC would still trust it; without it DVC pulls it, or `dvc repro` makes it again.
    """
    repairs = []
    for store, fault in [(inspection.store, fault) for inspection in inspections for fault in inspection.faults]:
        if store.read_only:
            repairs.append(Repair(store, fault, None))
            continue
        donor = next((other.store for other in inspections if fault.oid in other.sound), None)
        if fault.kind == "corrupt":
            # A read-only object is trusted unread, and an existing one is never written over.
            store.odb.fs.remove(store.odb.oid_to_path(fault.oid))
        if donor is not None:
            _copy(donor.odb.fs, donor.odb.oid_to_path(fault.oid), store, fault.oid)
        elif fault.oid in workspace:
            _copy(LocalFileSystem(), str(workspace[fault.oid]), store, fault.oid)
        repairs.append(Repair(store, fault, donor.name if donor else "the workspace" if fault.oid in workspace else None))
    return repairs


def _copy(fs: FileSystem, path: str, store: Store, oid: str) -> None:
    # DVC writes beside the place and moves into it: a kill leaves no half object, and the next repair finds this one missing.
    store.odb.add(path, fs, oid, hardlink=False, check_exists=False)
