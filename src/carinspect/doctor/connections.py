"""Checks of what training processes communicate over: loopback ports, gloo, NCCL."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from carinspect.doctor.finding import Finding

LOOPBACK = "127.0.0.1"
TIMEOUT_S = 20


def check_port(host: str = LOOPBACK) -> Finding:
    """Whether a free port can be opened and reached; the training processes connect to each other through one."""
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((host, port), timeout=TIMEOUT_S):
            return Finding("rendezvous", f"{host}:{port} is free and reachable")


@contextmanager
def alone(backend: str) -> Iterator[None]:
    """A process group of this process only."""
    store = distributed.TCPStore(LOOPBACK, 0, 1, is_master=True, timeout=timedelta(seconds=TIMEOUT_S))
    distributed.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timedelta(seconds=TIMEOUT_S))
    try:
        yield
    finally:
        distributed.destroy_process_group()


def check_gloo() -> Finding:
    """One process sums a number with itself; this fails if gloo cannot use the network interface or the host name."""
    with alone("gloo"):
        distributed.all_reduce(torch.ones(1))
    return Finding("gloo", "connects")


def check_nccl(*, cards: int) -> Finding:
    """The same with NCCL on the first GPU. The links between GPUs are not tested: only a training uses them."""
    if not cards:
        return Finding("NCCL", "not needed without a GPU")
    if not distributed.is_nccl_available():
        return Finding("NCCL", "not in this build of torch", "bad", "make setup installs torch's CUDA build.")
    with alone("cpu:gloo,cuda:nccl"):
        distributed.all_reduce(torch.ones(1, device="cuda"))
        torch.cuda.synchronize()
    return Finding("NCCL", ".".join(map(str, torch.cuda.nccl.version())) + ", connects")
