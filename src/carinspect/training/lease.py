"""Leases by which trainings on one machine share its cards, or its cores: each is held by one training and ends with its process.

A lease is a lock on a file, flock(2): the kernel takes it back when the holder ends, however that happens, and none is ever left behind.
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
    """CARINSPECT_LEASES, or one for each user of the machine, whatever the checkout: a card does not know from where it is used."""
    return Path(os.environ.get("CARINSPECT_LEASES") or Path(tempfile.gettempdir()) / f"carinspect-leases-{os.getuid()}")


def take_leases(names: Sequence[str], *, fewest: int, most: int) -> list[str]:
    """Those of `names`, for example card0 and card1, that are free: `most` at most. Waits until there are `fewest`.

    They are held until this process ends, also after it has become another program, and pass to no child.
    """
    lease_folder().mkdir(parents=True, exist_ok=True)
    # A training that waits holds this gate, so that the next one waits behind it: two that want two cards each never hold one each.
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
        # exec, by which the launcher becomes torchrun, would close it.
        os.set_inheritable(file, True)
    os.close(gate)
    return sorted(held, key=list(names).index)


def _open(name: str) -> int:
    return os.open(lease_folder() / name, os.O_RDWR | os.O_CREAT, 0o600)


def take_share(machine: Machine, runtime: Runtime) -> Machine:
    """Wait for cards, or cores on a CPU, that no other training holds, and take them until this process ends.

    As many as `runtime.processes` says, one for each process; `auto` takes all that are free, up to `machine.processes`, and waits for one.
    Returns `machine` with that many processes. To what this process starts, or becomes, CUDA shows the taken cards alone.
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
    """Each visible card's lease, and what CUDA_VISIBLE_DEVICES calls it."""
    visible = os.environ.get(VISIBLE)
    words = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    # By its own number, for another training may see it under another place.
    return {f"card-{torch.cuda.get_device_properties(place).uuid}": words[place].strip() for place in range(torch.cuda.device_count())}
