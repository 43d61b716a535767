"""Owns starting torchrun so that no training process outlives the one that started it."""

import ctypes
import os
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def die_with_parent(parent_pid: int) -> None:
    """Ask Linux to end this process when its parent ends, however that happens; see prctl(2)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        # The parent ended before the request: its signal will never come.
        os.kill(os.getpid(), signal.SIGTERM)


def is_worker() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def exec_torchrun(script: str, *, processes: int) -> NoReturn:
    """Become torchrun, with `processes` workers that run `script`. Does not return."""
    die_with_parent(os.getppid())
    # One thread each: their number changes the bits of a sum, and more of them were slower beside other processes.
    os.environ |= {"OMP_NUM_THREADS": "1", "CARINSPECT_LAUNCHER": str(os.getpid())}
    # Without it cuBLAS may add in another order each time (its manual, section "Results reproducibility").
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", script]
    os.execv(sys.executable, torchrun)


def join_launcher() -> None:
    """Call first in a worker: it then ends with its torchrun."""
    die_with_parent(int(os.environ["CARINSPECT_LAUNCHER"]))
