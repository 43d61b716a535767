"""Leases by which trainings on one machine share its GPUs, or its CPU cores: each lease is held by one training at a time.

A lease is a file lock, flock(2): the kernel releases it when the process that holds it ends for any reason.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from carinspect.core.machine import usable_cores
from carinspect.training.config import Runtime
from carinspect.training.runtime import Machine

POLL_S = 0.5
VISIBLE = "CUDA_VISIBLE_DEVICES"


def lease_folder() -> Path:
    """CARINSPECT_LEASES, or a folder for each user, shared by all checkouts, because they share the GPUs."""
    return Path(os.environ.get("CARINSPECT_LEASES") or Path(tempfile.gettempdir()) / f"carinspect-leases-{os.getuid()}")


def take_leases(names: Sequence[str], *, fewest: int, most: int) -> list[str]:
    """Take up to `most` free leases of `names`, for example card0 and card1; waits until there are at least `fewest`.

    Returns the names taken, in the order of `names`. They are held until this process ends, also after exec.
    """
    lease_folder().mkdir(parents=True, exist_ok=True)
    # Only the training that holds the gate takes leases; the next one waits. So two trainings that need two GPUs never hold one each.
    gate = _open("gate")
    try:
        fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting behind a training that waits for {', '.join(names)}", flush=True)
        fcntl.flock(gate, fcntl.LOCK_EX)
    held: dict[str, int] = {}
    said = False
    while len(held) < fewest:
        for name in names:
            if name not in held and len(held) < most:
                file = _open(name)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    held[name] = file
                except BlockingIOError:
                    os.close(file)
        if len(held) < fewest:
            if not said:
                print(f"waiting for {fewest} of {', '.join(names)}: other trainings hold them", flush=True)
                said = True
            time.sleep(POLL_S)
    for file in held.values():
        # Without this, exec would close the file and release the lease when the launcher becomes torchrun.
        os.set_inheritable(file, True)
    os.close(gate)
    return sorted(held, key=list(names).index)


def _open(name: str) -> int:
    return os.open(lease_folder() / name, os.O_RDWR | os.O_CREAT, 0o600)


def take_share(machine: Machine, runtime: Runtime) -> Machine:
    """Wait for GPUs, or CPU cores, that no other training holds, and take them until this process ends.

    It takes `runtime.processes` of them, one for each process; `auto` waits for one, then takes all free ones up to `machine.processes`.
    Returns `machine` with that number of processes. Sets CUDA_VISIBLE_DEVICES, so that child processes see only the GPUs taken.
    """
    cards = list_cards() if machine.device == "cuda" else {}
    names = list(cards) or [f"core{number}" for number in range(usable_cores())]
    most = min(machine.processes, len(names))
    taken = take_leases(names, fewest=1 if runtime.processes == "auto" else most, most=most)
    print(f"this training holds {', '.join(taken)}", flush=True)
    if cards:
        os.environ[VISIBLE] = ",".join(cards[name] for name in taken)
    return replace(machine, processes=len(taken)) if runtime.processes == "auto" else machine


def list_cards() -> dict[str, str]:
    """Lease name of each visible GPU → its name in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get(VISIBLE)
    words = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    # Leases are named by UUID, because another training may see the same GPU at another index.
    return {f"card-{torch.cuda.get_device_properties(place).uuid}": words[place].strip() for place in range(torch.cuda.device_count())}
