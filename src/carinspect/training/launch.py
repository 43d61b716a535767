"""Starts torchrun on one machine or several, so that the training processes end when the process that started them ends.

Run as a module, it takes the arguments of torchrun and runs it.
"""

import fcntl
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from carinspect.core.errors import UserError, one_line
from carinspect.core.programs import die_with_parent

MEETINGS = 5
"""How many times several machines reconnect and resume from the last state after one of them died."""


@dataclass(frozen=True)
class Cluster:
    """The machines that train together."""

    nodes: int
    endpoint: str
    """`host:port` of the machine that writes the outputs; "" where there is only one."""
    joins: bool
    """Whether this machine was started with --join: it computes, and writes no outputs."""


def read_cluster(environment: Mapping[str, str], *, joins: bool) -> Cluster:
    """From CARINSPECT_NNODES and CARINSPECT_RDZV_ENDPOINT; one machine where neither is set. Raises `UserError`."""
    nodes, endpoint = environment.get("CARINSPECT_NNODES", "1"), environment.get("CARINSPECT_RDZV_ENDPOINT", "")
    if not nodes.isdecimal() or int(nodes) < 1:
        raise UserError(f"CARINSPECT_NNODES has the value '{nodes}'. Give the number of machines.")
    host, _, port = endpoint.rpartition(":")
    if int(nodes) > 1 and not (host and port.isdecimal()):
        raise UserError(f"CARINSPECT_RDZV_ENDPOINT has the value '{endpoint}'. Give host:port of the machine that writes, node0:29400 say.")
    if int(nodes) == 1 and (endpoint or joins):
        raise UserError("this is one machine alone: CARINSPECT_NNODES is not set, or 1. Set it to the number of machines, on each of them.")
    return Cluster(nodes=int(nodes), endpoint=endpoint, joins=joins)


def is_worker() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def lock_run(path: Path) -> None:
    """Hold a lock on the file `path` until this process ends, also across exec. Raises `UserError` when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode().strip()
        raise UserError(f"the same training is already running here (process {holder}). Wait for it, or end it.") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    os.set_inheritable(descriptor, True)


def become_torchrun(script: str, arguments: list[str], *, processes: int, cluster: Cluster, anew: bool) -> NoReturn:
    """Become torchrun, with `processes` workers that run `script`. Does not return.

    anew: by exec, which frees the memory that this process holds on the first GPU, but starts Python again, which takes time.
    """
    # One thread for each worker: the number of threads changes the rounding of sums, and more threads were slower with several workers.
    os.environ |= {"OMP_NUM_THREADS": "1", "CARINSPECT_LAUNCHER": str(os.getpid())}
    # Without it cuBLAS may sum in another order each time (its manual, section "Results reproducibility").
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    arguments = [*_meeting(cluster), f"--nproc-per-node={processes}", script, *arguments]
    if anew:
        _exec_torchrun(arguments)
    _be_torchrun(arguments)


def _exec_torchrun(arguments: list[str]) -> NoReturn:
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "carinspect.training.launch", *arguments])


def _meeting(cluster: Cluster) -> list[str]:
    if cluster.nodes == 1:
        # torchrun then chooses a free port.
        return ["--standalone"]
    return [
        f"--nnodes={cluster.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={cluster.endpoint}", "--rdzv-id=carinspect",
        f"--rdzv-conf=is_host={'false' if cluster.joins else 'true'}",
    ]  # fmt: skip


def join_launcher() -> None:
    """Make this worker end when its torchrun ends, and at Ctrl-C without a traceback. A worker must call it first."""
    # The terminal sends Ctrl-C to all processes. torchrun says what happened, in one line.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent(int(os.environ["CARINSPECT_LAUNCHER"]))


def _be_torchrun(arguments: list[str]) -> NoReturn:
    # This process is torchrun alone, which warns of each process that it ends.
    logging.disable(logging.WARNING)
    from torch.distributed import DistError, run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    try:
        run.main(arguments)
        sys.exit()
    except SignalException as error:
        # A second signal ends the process at once, without a traceback.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.exit(f"train_ddp: ended by {error.sigval.name}; the same command goes on from the last state")
    except KeyboardInterrupt:
        # Before torchrun listens to signals.
        sys.exit("train_ddp: ended by SIGINT; the same command goes on from the last state")
    except ChildFailedError as error:
        # The worker has already printed the reason.
        rank, failure = error.get_first_failure()
        reason = f"training process {rank} ended with exit status {failure.exitcode}"
    except (RendezvousError, DistError) as error:
        reason = f"the machines did not meet ({one_line(error)})"
    _meet_again(arguments, reason)


def _meet_again(arguments: list[str], reason: str) -> NoReturn:
    """Reconnect when another machine may be the cause, else exit. torchrun's own restarts would still wait for a dead machine."""
    meetings = int(os.environ.get("CARINSPECT_MEETINGS", "1"))
    if "--standalone" in arguments or meetings > MEETINGS:
        sys.exit(f"train_ddp: {reason}; the same command goes on from the last state")
    print(f"train_ddp: {reason}; meeting the other machines again ({meetings} of {MEETINGS})", file=sys.stderr, flush=True)
    os.environ["CARINSPECT_MEETINGS"] = str(meetings + 1)
    # exec keeps the process id, and closes the old connections.
    _exec_torchrun(arguments)


if __name__ == "__main__":
    _be_torchrun(sys.argv[1:])
