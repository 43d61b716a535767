"""Communication between the training processes: connecting, choosing the writer, and values that all must agree on."""

import os
import socket
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from carinspect.core.errors import UserError, one_line


@dataclass(frozen=True)
class Peers:
    """This process's place among all training processes."""

    rank: int
    world_size: int
    writer: int
    """Rank of the process that saves the state and writes the outputs: the first on a machine that was started without --join."""

    @property
    def writes(self) -> bool:
        """Whether this process is the writer."""
        return self.rank == self.writer


def connect(device: str) -> None:
    """Join the group of processes that torchrun started, each with its own GPU on CUDA. Raises `UserError` when they cannot connect."""
    try:
        # Tensors on the CPU always use gloo, so that small exchanges need not wait for the GPU.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
        # NCCL connects only at the first exchange.
        distributed.all_reduce(torch.zeros(1, device=device))
    except (RuntimeError, ValueError) as error:
        reason = one_line(error)
        fix = "NCCL_P2P_DISABLE=1 or NCCL_SHM_DISABLE=1 in the environment helps where cards cannot reach each other; " * (device == "cuda")
        raise UserError(
            f"the training processes could not connect over {'nccl' if device == 'cuda' else 'gloo'} ({reason}). {fix}"
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network interface; one process needs none of it: "
            "runtime.processes: 1 in the profile."
        ) from error


def meet(*, run_key: str, joins: bool) -> Peers:
    """Exchange `run_key`, which identifies recipe, data and code, and choose the writer. `joins`: this machine was started with --join.

    Raises `UserError` when every machine joins, or when two machines run different trainings.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    everyone: list[Any] = [None] * world_size
    distributed.all_gather_object(everyone, (run_key, joins, socket.gethostname()))
    hosts = [rank for rank, (_, other_joins, _) in enumerate(everyone) if not other_joins]
    if not hosts:
        raise UserError("every machine of this training was started with --join. Start one without: it writes the outputs.")
    for other_key, _, host in everyone:
        if other_key != everyone[hosts[0]][0]:
            raise UserError(
                f"{host} runs another training than {everyone[hosts[0]][2]} ({other_key} and {everyone[hosts[0]][0]}): its recipe, table, "
                "code or torch differs. Bring both to the same commit and run dvc repro resolve_recipe split there."
            )
    return Peers(rank=rank, world_size=world_size, writer=hosts[0])


def any_of(flag: bool) -> bool:
    """Whether `flag` is true on any process. Every process must call it."""
    return smallest(0 if flag else 1) == 0


def smallest(value: int) -> int:
    """The smallest `value` of all processes. Every process must call it."""
    shared = torch.tensor(value)
    if distributed.get_world_size() > 1:
        distributed.all_reduce(shared, op=distributed.ReduceOp.MIN)
    return int(shared)


def share_bytes(content: bytes | None, peers: Peers) -> bytes | None:
    """The writer's `content`, sent to every process, since other machines may not reach its disk."""
    if peers.world_size == 1:
        return content
    length = torch.tensor(-1 if content is None else len(content))
    distributed.broadcast(length, src=peers.writer)
    if length < 0:
        return None
    shared = torch.frombuffer(bytearray(content or bytes(int(length))), dtype=torch.uint8)
    distributed.broadcast(shared, src=peers.writer)
    return shared.numpy().tobytes()


def local_rank() -> int:
    """Index of this process among those of this machine."""
    return int(os.environ["LOCAL_RANK"])
