"""`carinspect store`: checks every object of the cache and the remotes, and keeps training states in a remote."""

import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dvc.exceptions import NotDvcRepoError
from dvc.repo import Repo

from carinspect.core.errors import UserError, one_line
from carinspect.storage.objects import Inspection, Store, inspect_store
from carinspect.storage.repair import Repair, repair
from carinspect.storage.repository import find_in_workspace, list_stores
from carinspect.storage.states import RemoteStates
from carinspect.storage.writes import try_git, try_remote, without_password


def verify(remotes: Sequence[str] | None, *, repairs: bool, jobs: int) -> int:
    """Check all objects, and repair them if `repairs`; returns the exit status: 0 if all are sound at the end."""
    with open_repo() as repo, repo.lock:
        inspections = [_inspect(store, jobs=jobs) for store in list_stores(repo, remotes)]
        for inspection in inspections:
            _say(inspection)
        faults = [fault for inspection in inspections for fault in inspection.faults]
        if not faults:
            return 0
        if not repairs:
            print("To repair: carinspect store verify --repair")
            return 1
        left = [done for done in repair(inspections, find_in_workspace(repo, {fault.oid for fault in faults})) if not _say_repair(done)]
        return 1 if left else 0


def _inspect(store: Store, *, jobs: int) -> Inspection:
    try:
        return inspect_store(store, jobs=jobs)
    except Exception as error:  # each kind of storage has its own
        raise UserError(f"{store.name}: cannot be read ({one_line(error)}). Check its keys, its URL and the network.") from None


def check_writes(remote: str | None, git: str) -> None:
    """Write to the DVC remote and to the git remote, and take it back. Raises `UserError` where one of them refuses."""
    with open_repo() as repo:
        name = try_remote(repo, remote)
    try_git(git)
    print(f"remote '{name}' and git remote '{without_password(git)}' take writes")


def _say(inspection: Inspection) -> None:
    count = len(inspection.sound)
    print(f"{inspection.store.name}: {count:,} sound objects, {inspection.size_bytes / 1e6:,.1f} MB read, {len(inspection.faults)} faults")
    for fault in inspection.faults:
        print(f"  {fault.kind}: {fault.oid}")


def _say_repair(done: Repair) -> bool:
    store, fault, source = done
    if source is not None:
        print(f"{store.name}: {fault.oid} repaired from {source}")
    elif store.read_only:
        print(f"{store.name}: {fault.oid} is {fault.kind}, and this remote is read-only. Repair it where it is written.")
    elif fault.kind == "corrupt":
        print(f"{store.name}: {fault.oid} removed: no sound copy was found. dvc pull, or dvc repro and dvc push, bring it back.")
    else:
        print(f"{store.name}: {fault.oid} is missing, no sound copy was found. dvc repro and dvc push bring it back.")
    return source is not None


STATES = "training-states"
"""Folder of the states in a remote, beside DVC's own."""


def run_with_states(command: Sequence[str], *, remote: str | None, every_s: float) -> int:
    """Run `command` with the states that the remote has, and copy their changes there; returns the command's exit status.

    A SIGTERM that this process gets is passed on to the command.
    """
    with open_repo() as repo:
        storage = repo.cloud.get_remote(remote)
        states = RemoteStates(storage.fs, storage.fs.join(storage.path, STATES), Path(repo.root_dir) / ".carinspect" / "train")
    for name in states.fetch():
        print(f"fetched the training state {name}")
    child = subprocess.Popen(command)
    previous = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        while child.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(every_s)
            states.keep()
    finally:
        signal.signal(signal.SIGTERM, previous)
        if child.poll() is None:
            child.terminate()
            child.wait()
    return child.returncode


def open_repo() -> Repo:
    """The DVC repository that the current folder lies in; raises `UserError` outside of one."""
    try:
        return Repo()
    except NotDvcRepoError:
        raise UserError("the current folder lies in no DVC repository. Run it inside the project.") from None
