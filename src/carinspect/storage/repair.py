"""Replaces broken and missing objects by sound copies from another store or from the workspace."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dvc.fs import LocalFileSystem
from dvc_objects.fs.base import FileSystem

from carinspect.storage.objects import Fault, Inspection, Store


class Repair(NamedTuple):
    """The result for one fault."""

    store: Store
    fault: Fault
    source: str | None
    """Where the sound copy came from; None when there was none, or the store is read-only."""


def repair(inspections: Sequence[Inspection], workspace: Mapping[str, Path]) -> list[Repair]:
    """Repair every fault for which there is a sound copy. `workspace`: object names and the sound files that have their content.

    A corrupt object without one is removed: DVC would trust it, but pulls a missing object, or `dvc repro` makes it again.
    """
    repairs = []
    for store, fault in [(inspection.store, fault) for inspection in inspections for fault in inspection.faults]:
        if store.read_only:
            repairs.append(Repair(store, fault, None))
            continue
        donor = next((other.store for other in inspections if fault.oid in other.sound), None)
        if fault.kind == "corrupt":
            # DVC trusts a read-only object without reading it, and never overwrites an existing one.
            store.odb.fs.remove(store.odb.oid_to_path(fault.oid))
        if donor is not None:
            _copy(donor.odb.fs, donor.odb.oid_to_path(fault.oid), store, fault.oid)
        elif fault.oid in workspace:
            _copy(LocalFileSystem(), str(workspace[fault.oid]), store, fault.oid)
        repairs.append(Repair(store, fault, donor.name if donor else "the workspace" if fault.oid in workspace else None))
    return repairs


def _copy(fs: FileSystem, path: str, store: Store, oid: str) -> None:
    # DVC writes a temporary file and moves it: after a kill the object is missing, never incomplete, and the next repair adds it.
    store.odb.add(path, fs, oid, hardlink=False, check_exists=False)
