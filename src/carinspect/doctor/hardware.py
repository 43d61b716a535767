"""Checks of the machine: cards, cores, memory, shared memory, disk."""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from carinspect.doctor.finding import Finding
from carinspect.training.config import TrainRecipe
from carinspect.training.runtime import WORKER_MEMORY_BYTES, Machine, held_batches_bytes

PROCESS_MEMORY_BYTES = 2**30
"""What a training process takes with torch and its libraries loaded, before any photo: 0.9 GB measured."""

PROBE_BYTES = 64 * 2**20

SLOW_DISK_MB_S = 50


@dataclass(frozen=True)
class Card:
    """A GPU as torch sees it."""

    name: str
    memory_bytes: int
    capability: tuple[int, int]
    bf16: bool

    def __str__(self) -> str:
        halves = "bf16 and fp16" if self.bf16 else "fp16, no bf16"
        return f"{self.name}, {self.memory_bytes / 2**30:.1f} GiB, compute capability {self.capability[0]}.{self.capability[1]}, {halves}"


def read_cards() -> list[Card]:
    """The GPUs that torch may use."""
    if not torch.cuda.is_available():
        return []
    cards = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        with torch.cuda.device(index):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        cards.append(Card(properties.name, properties.total_memory, (properties.major, properties.minor), bf16))
    return cards


def check_cards(cards: Sequence[Card], *, driver: bool) -> Finding:
    """driver: whether NVIDIA's driver is installed; if so and `cards` is empty, torch cannot use the GPUs."""
    if not cards and driver:
        return Finding(
            "GPUs", "none that torch can use, though NVIDIA's driver is here", "warn",
            f"A driver as new as CUDA {torch.version.cuda}, torch's CUDA build (make setup), and in a container `--gpus all`, are needed.",
        )  # fmt: skip
    if not cards:
        return Finding("GPUs", "none: trains on the CPU")
    return Finding("GPUs", "; ".join(map(str, cards)))


def has_driver() -> bool:
    """Whether NVIDIA's driver is installed."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").is_file()


def check_cores(usable: int, *, present: int) -> Finding:
    """usable: those of the `present` cores that this process may use."""
    value = f"{usable} of {present} may be used"
    if usable == 1:
        return Finding("cores", value, "warn", "One core prepares photos and trains in turn. Give the container or job more.")
    return Finding("cores", value)


def check_memory(usable_bytes: int, *, machine: Machine | None, recipe: TrainRecipe | None) -> Finding:
    """Compares the usable memory with what training processes and loader workers need. machine, recipe: None counts one process."""
    needed = PROCESS_MEMORY_BYTES
    if machine is not None and recipe is not None:
        worker_bytes = WORKER_MEMORY_BYTES + held_batches_bytes(recipe)
        needed = machine.processes * (PROCESS_MEMORY_BYTES + machine.workers * worker_bytes)
    value = (
        f"{usable_bytes / 2**30:.1f} GiB may be used; processes and loader workers take about {needed / 2**30:.1f} GiB beside the network"
    )
    if usable_bytes < needed:
        return Finding("memory", value, "bad", "End what else takes memory, or set fewer processes and workers in the profile's runtime.")
    return Finding("memory", value)


def check_shared_memory(free_bytes: int | None, *, machine: Machine, recipe: TrainRecipe) -> Finding:
    """Free space of /dev/shm, through which loader workers pass their photos. free_bytes: None if the system has no /dev/shm."""
    needed = machine.processes * machine.workers * held_batches_bytes(recipe)
    if free_bytes is None:
        return Finding("shared memory", "this system has no /dev/shm")
    workers = machine.processes * machine.workers
    value = f"{free_bytes / 1e6:,.0f} MB free in /dev/shm, {needed / 1e6:,.0f} MB needed by {workers} loader workers"
    if free_bytes < needed:
        size = f"--shm-size={needed // 10**9 + 1}g"
        fix = f"In a container: {size} or --ipc=host. Else fewer workers in the profile's runtime; 0 needs none."
        return Finding("shared memory", value, "bad", fix)
    return Finding("shared memory", value)


def free_shared_memory(folder: Path = Path("/dev/shm")) -> int | None:
    """Bytes free there; None where there is no such folder."""
    return shutil.disk_usage(folder).free if folder.is_dir() else None


def check_disk(folder: Path, *, free_bytes: int, needed_bytes: int) -> Finding:
    """Free space of `folder`, and its speed, measured with a temporary file of 64 MB. needed_bytes: what a training will write there."""
    value = f"{free_bytes / 1e9:,.1f} GB free in {folder}"
    if free_bytes < needed_bytes + PROBE_BYTES:
        return Finding(
            "disk", f"{value}, {needed_bytes / 1e9:,.1f} GB needed", "bad",
            "Make room: delete .carinspect/photos, run dvc gc --workspace, or move DVC's cache (dvc cache dir <folder>).",
        )  # fmt: skip
    write_mb_s, read_mb_s = measure_disk(folder)
    value += f"; writes {write_mb_s:,.0f} MB/s, reads {read_mb_s:,.0f} MB/s"
    if min(write_mb_s, read_mb_s) < SLOW_DISK_MB_S:
        return Finding(
            "disk", value, "warn", f"Slower than {SLOW_DISK_MB_S} MB/s: keep the checkout on a local disk, not on a network share."
        )
    return Finding("disk", value)


def measure_disk(folder: Path) -> tuple[float, float]:
    """MB/s of writing and of reading; where posix_fadvise exists, reading bypasses the system's cache."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe.{os.getpid()}"
    content = os.urandom(2**20)
    try:
        start = time.perf_counter()
        with probe.open("wb") as file:
            for _ in range(PROBE_BYTES // len(content)):
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        written = time.perf_counter()
        with probe.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            opened = time.perf_counter()
            while file.read(2**20):
                pass
        end = time.perf_counter()
    finally:
        probe.unlink(missing_ok=True)
    return PROBE_BYTES / 1e6 / (written - start), PROBE_BYTES / 1e6 / (end - opened)
