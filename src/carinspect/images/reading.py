"""Reads many photos: each is hashed, and only those with new bytes are decoded, in parallel and through a `Memory`.

In parallel on the cores of this machine, or on those of a cluster where `CARINSPECT_RAY` names one: see `cluster.py`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from carinspect.core.errors import UserError
from carinspect.core.files import sha256_of
from carinspect.core.machine import usable_cores
from carinspect.core.programs import die_by_ctrl_c
from carinspect.images.cluster import VARIABLE, map_on_cluster
from carinspect.images.decode import PhotoError
from carinspect.images.memory import Memory

Read = Callable[[bytes], tuple[Any, ...]]
"""A file's content → the fields of its record. Raises `PhotoError`. A function of a module, for other processes must find it."""

_FEW = 64
"""Fewer photos are read sooner than processes are started."""

_SEGMENT = 2048
"""Photos after which what was read is kept: so much is lost at most when the run is killed."""


class Readings(NamedTuple):
    """Of N photos, in the order they were asked for."""

    digests: list[str]
    """SHA-256 of their bytes; blank where they cannot be read."""
    records: np.ndarray
    """The memory's records, (N,); zeros for an unusable photo."""
    problems: list[str]
    """Why a photo cannot be used; blank for a sound one."""


def read_photos(paths: Sequence[Path], memory: Memory, read: Read, *, processes: int | None = None) -> Readings:
    """What `read` shows of each photo. processes: how many decode at a time; None: one for each core that this process may use.

    The same bytes are decoded once, and never again as long as `memory` knows them. A photo's problem is not remembered: it may lie
    with the disk.
    """
    hashed = list(_hash_all(paths))
    digests, problems = [digest for digest, _ in hashed], [problem for _, problem in hashed]
    records, known = memory.recall(digests)
    unseen: dict[str, list[int]] = {}
    for place in np.flatnonzero(~known).tolist():
        if digests[place]:
            unseen.setdefault(digests[place], []).append(place)
    tasks = [(paths[places[0]], digest) for digest, places in unseen.items()]
    waiting: list[str] = []
    for (_, digest), (fields, problem) in zip(tasks, _map(partial(_read_one, read), tasks, processes=processes), strict=True):
        places = unseen[digest]
        for place in places:
            problems[place] = problem
        if not problem:
            records[places] = np.array([fields], memory.record)
            waiting.append(digest)
        if len(waiting) == _SEGMENT:
            waiting = _keep(memory, waiting, records, unseen)
    _keep(memory, waiting, records, unseen)
    return Readings(digests, records, problems)


def _keep(memory: Memory, digests: list[str], records: np.ndarray, places: dict[str, list[int]]) -> list[str]:
    if digests:
        memory.remember(digests, records[[places[digest][0] for digest in digests]])
    return []


def _hash_all(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    progress = partial(tqdm, total=len(paths), desc="hashing photos", unit="photo", disable=None)
    if os.environ.get(VARIABLE):
        yield from progress(map_on_cluster(_hash, [path.absolute() for path in paths], os.environ[VARIABLE]))
        return
    with ThreadPoolExecutor(usable_cores()) as pool:
        yield from progress(pool.map(_hash, paths))


def _hash(path: Path) -> tuple[str, str]:
    """SHA-256 and "", or "" and why there is none."""
    try:
        return sha256_of(path), ""
    except FileNotFoundError:
        return "", "no such file"
    except OSError as error:
        return "", f"cannot be read: {error.strerror}"


def _read_one(read: Read, task: tuple[Path, str]) -> tuple[tuple[Any, ...], str]:
    """The fields and "", or nothing and why."""
    path, digest = task
    try:
        content = path.read_bytes()
        if sha256(content).hexdigest() != digest:
            return (), "changed while it was read"
        return read(content), ""
    except PhotoError as error:
        return (), str(error)
    except OSError as error:
        return (), f"cannot be read: {error.strerror}"


def _map(function: Callable[[tuple[Path, str]], tuple], tasks: Sequence[tuple[Path, str]], *, processes: int | None) -> Iterator[tuple]:
    progress = partial(tqdm, total=len(tasks), desc="reading photos", unit="photo", disable=None)
    if os.environ.get(VARIABLE):
        yield from progress(map_on_cluster(function, [(path.absolute(), digest) for path, digest in tasks], os.environ[VARIABLE]))
        return
    processes = processes or usable_cores()
    if processes == 1 or len(tasks) < _FEW:
        yield from progress(map(function, tasks))
        return
    try:
        with ProcessPoolExecutor(processes, initializer=_begin_process) as pool:
            yield from progress(pool.map(function, tasks, chunksize=16))
    except BrokenProcessPool:
        raise UserError(
            f"reading photos: one of {processes} processes was killed, most often for want of memory. Run it with less beside it."
        ) from None


def _begin_process() -> None:
    die_by_ctrl_c()
    # A child is a copy of its parent without its threads; OpenCV would wait for those that it has lost.
    cv2.setNumThreads(0)
