"""Owns the leases by which trainings on one machine share its cards, or its cores: each is held by one training and ends with its process.

A lease is a lock on a file, flock(2): the kernel takes it back when the holder ends, however that happens, and none is ever left behind.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

POLL_S = 0.5


def lease_folder() -> Path:
    """CARINSPECT_LEASES, or one for each user of the machine, whatever the checkout: a card does not know from where it is used."""
    return Path(os.environ.get("CARINSPECT_LEASES") or Path(tempfile.gettempdir()) / f"carinspect-leases-{os.getuid()}")


def take_leases(names: Sequence[str], *, fewest: int, most: int) -> list[str]:
    """Those of `names`, for example card0 and card1, that are free: `most` at most. Waits until there are `fewest`.

    They are held until this process ends, also after it has become another program, and pass to no child.
    """
    lease_folder().mkdir(parents=True, exist_ok=True)
    # Whoever waits keeps the gate: two that want two cards each never hold one each.
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
