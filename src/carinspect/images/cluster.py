"""Uses a Ray cluster, where it is asked for: many machines read photos that lie on storage which all of them see by the same paths.

`CARINSPECT_RAY` says which: `local` starts one on this machine, anything else is the address of a cluster's head. Results are those of one
machine to the last bit, and no parameter of the pipeline: what was made on one machine is not made again for having moved to a cluster.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import cv2

from carinspect.core.errors import UserError, one_line

VARIABLE = "CARINSPECT_RAY"

# Only names and small records pass through Ray's memory.
_OBJECT_STORE_BYTES = 128 * 2**20

_BLOCK = 128
"""Photos of one task: some seconds of work, and little to do again when a machine is lost."""

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


def connect(address: str | None, *, asked: str) -> tuple[int, int]:
    """Join the cluster at `address`, or start one on this machine if None; returns its number of CPUs and of GPUs.

    asked: what a person wrote to get here, for errors. Raises `UserError` where Ray or the cluster is not there.
    """
    # Ray reports its use over the network unless told otherwise before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError(f"{asked}: Ray is not installed. Install it: pip install 'carinspect[ray]'.") from None
    if not ray.is_initialized():
        own: dict[str, Any] = {} if address else {"object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"{asked}: no cluster answers at '{address}' ({one_line(error)}).") from None
    found = ray.cluster_resources()
    return int(found.get("CPU", 0)), int(found.get("GPU", 0))


def map_on_cluster(function: Callable[[TaskT], ResultT], tasks: Sequence[TaskT], address: str) -> Iterator[ResultT]:
    """What `function` makes of each task, in their order. A task whose process or machine is lost is done again, up to three times."""
    cpus, _ = connect(None if address == "local" else address, asked=f"{VARIABLE}={address}")
    import ray
    import ray.exceptions

    apply: Any = ray.remote(_apply)
    waiting = deque[Any]()
    try:
        for start in range(0, len(tasks), _BLOCK):
            if len(waiting) == 4 * max(1, cpus):
                yield from ray.get(waiting.popleft())
            waiting.append(apply.remote(function, tasks[start : start + _BLOCK]))
        while waiting:
            yield from ray.get(waiting.popleft())
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{VARIABLE}={address}: the cluster gave up: {reason} Run it again: what was read is kept.") from error


def _apply(function: Callable[[TaskT], ResultT], tasks: Sequence[TaskT]) -> list[ResultT]:
    # Ray has given this process one core.
    cv2.setNumThreads(1)
    return [function(task) for task in tasks]
