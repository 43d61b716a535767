"""Owns a training's share of a machine on which others train too: which cards, or how many cores. The result never depends on it."""

import os
from dataclasses import replace

import torch

from carinspect.core.machine import usable_cores
from carinspect.training.config import Runtime
from carinspect.training.lease import take_leases
from carinspect.training.runtime import Machine

VISIBLE = "CUDA_VISIBLE_DEVICES"


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
