"""Chooses device, processes and loader workers for this machine. None of them changes the result."""

from dataclasses import dataclass
from typing import Literal

import torch

from carinspect.core.errors import UserError
from carinspect.core.machine import usable_cores, usable_memory_bytes
from carinspect.training.config import Runtime, TrainRecipe

WORKER_MEMORY_BYTES = 128 * 2**20
"""Memory of a loader worker besides its batches: 12 to 45 MB measured, and more when it writes to pages shared with its parent."""

BATCHES_HELD = 3
"""Batches in each worker: two that torch's loader prefetches, and the one being made."""


@dataclass(frozen=True)
class Machine:
    """A runtime in which every `auto` has a value."""

    device: str
    """`cpu` or `cuda`."""
    processes: int
    workers: int
    compile: bool
    pin_memory: bool
    micro_batch: int | Literal["auto", "norm"]
    """As in the profile, since only a trial on the device can replace `auto`."""
    checkpoint_steps: int


def settle_runtime(runtime: Runtime, recipe: TrainRecipe, *, nodes: int) -> Machine:
    """Replace every `auto`, on one of `nodes` machines. Raises `UserError` when this machine lacks what the profile asks for."""
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = runtime.device if runtime.device != "auto" else ("cuda" if cards else "cpu")
    if device == "cuda" and not cards:
        raise UserError("runtime.device is 'cuda' and this machine shows no CUDA device. Choose hardware: cpu, or auto.")
    if device == "cpu" and recipe.precision == "fp16":
        raise UserError("train.precision is 'fp16', which a CPU does not train in. Set it to fp32 or bf16.")
    if device == "cuda" and recipe.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(f"train.precision is 'bf16', which {torch.cuda.get_device_name()} does not have. Set it to fp16 or fp32.")
    # No more processes than micro-batches: a process without one would only wait.
    micro_batches = recipe.effective_batch_size // recipe.norm_batch_size
    available = cards if device == "cuda" else usable_cores()
    processes = min(available, max(1, micro_batches // nodes)) if runtime.processes == "auto" else runtime.processes
    if processes < 1 or (device == "cuda" and processes > cards):
        raise UserError(f"runtime.processes is {processes} and this machine shows {cards} CUDA devices. Choose hardware: auto.")
    workers = _workers_for(recipe, processes) if runtime.workers == "auto" else runtime.workers
    pin_memory = device == "cuda" if runtime.pin_memory == "auto" else runtime.pin_memory and device == "cuda"
    return Machine(
        device=device, processes=processes, workers=workers, compile=runtime.compile, pin_memory=pin_memory,
        micro_batch=runtime.micro_batch, checkpoint_steps=runtime.checkpoint_steps,
    )  # fmt: skip


def _workers_for(recipe: TrainRecipe, processes: int) -> int:
    """At most 8; each process keeps a core of its own, and all workers together use at most half of the memory."""
    spare_cores = usable_cores() // processes - 1
    share_bytes = usable_memory_bytes() // 2 // processes
    return max(0, min(8, spare_cores, share_bytes // (WORKER_MEMORY_BYTES + held_batches_bytes(recipe))))


def held_batches_bytes(recipe: TrainRecipe) -> int:
    """Bytes of the photos that one loader worker holds in shared memory (/dev/shm)."""
    return BATCHES_HELD * recipe.norm_batch_size * recipe.image_side_px**2 * 3
