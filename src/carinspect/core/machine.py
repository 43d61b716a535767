"""Finds the cores and the memory that this process may use, also in a container."""

from pathlib import Path

import joblib
import psutil

CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: those of its affinity, or fewer where its control group is limited. At least 1."""
    return int(joblib.cpu_count())


def usable_memory_bytes(cgroup: Path = CGROUP) -> int:
    """Memory that this process may still take: what is free on the machine, or less where its control group is limited.

    Source: memory.max and memory.current in the kernel's Documentation/admin-guide/cgroup-v2.rst.
    """
    available = int(psutil.virtual_memory().available)
    limit, current = cgroup / "memory.max", cgroup / "memory.current"
    if not limit.is_file() or limit.read_text().strip() == "max":
        return available
    return max(0, min(available, int(limit.read_text()) - int(current.read_text())))
