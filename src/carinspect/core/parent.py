"""Owns that no process of ours outlives the one that started it."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def die_with_parent(parent_pid: int) -> None:
    """Ask Linux to end this process when its parent ends, however that happens; see prctl(2). It holds across exec, not for children."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        # The parent ended before the request: its signal will never come.
        os.kill(os.getpid(), signal.SIGTERM)
