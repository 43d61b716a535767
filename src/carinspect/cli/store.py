"""Owns `carinspect store verify`: looks into every object of the cache and the remotes, and mends what it can."""

from collections.abc import Sequence

from dvc.exceptions import NotDvcRepoError
from dvc.repo import Repo

from carinspect.core.errors import UserError
from carinspect.storage.objects import Inspection, inspect_store
from carinspect.storage.repair import Repair, repair
from carinspect.storage.repository import find_in_workspace, list_stores


def verify(remotes: Sequence[str] | None, *, mend: bool, jobs: int) -> int:
    """Print what was found; the exit status: 0 when all objects are sound, or are after the repair."""
    try:
        repo = Repo()
    except NotDvcRepoError:
        raise UserError("the current folder lies in no DVC repository. Run it inside the project.") from None
    with repo, repo.lock:
        inspections = [inspect_store(store, jobs=jobs) for store in list_stores(repo, remotes)]
        for inspection in inspections:
            _say(inspection)
        faults = [fault for inspection in inspections for fault in inspection.faults]
        if not faults:
            return 0
        if not mend:
            print("To mend it: carinspect store verify --repair")
            return 1
        left = [done for done in repair(inspections, find_in_workspace(repo, {fault.oid for fault in faults})) if not _say_repair(done)]
        return 1 if left else 0


def _say(inspection: Inspection) -> None:
    count = len(inspection.sound)
    print(f"{inspection.store.name}: {count:,} sound objects, {inspection.size_bytes / 1e6:,.1f} MB read, {len(inspection.faults)} faults")
    for fault in inspection.faults:
        print(f"  {fault.kind}: {fault.oid}")


def _say_repair(done: Repair) -> bool:
    store, fault, source = done
    if source is not None:
        print(f"{store.name}: {fault.oid} mended from {source}")
    elif store.read_only:
        print(f"{store.name}: {fault.oid} is {fault.kind}, and this remote is read-only. Mend it where it is written.")
    elif fault.kind == "corrupt":
        print(f"{store.name}: {fault.oid} taken away, no sound copy was found. dvc pull, or dvc repro and dvc push, bring it back.")
    else:
        print(f"{store.name}: {fault.oid} is missing, no sound copy was found. dvc repro and dvc push bring it back.")
    return source is not None
