"""Runs a stage or a command: a user's mistake is printed in one line, and a stage ends when the process that started it ends."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from carinspect.core.errors import UserError

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def run_stage(main: Callable[[], None], name: str) -> None:
    """Run a stage as `run_program` does. It ends when DVC, which started it, ends."""
    die_with_parent(os.getppid())
    run_program(main, name)


def run_program(main: Callable[[], None], name: str) -> None:
    """Run `main`; a `UserError` or Ctrl-C becomes one line on stderr and exit status 1 or 130, anything else keeps its traceback."""
    try:
        main()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        end_by_ctrl_c(name)


def end_by_ctrl_c(name: str) -> NoReturn:
    """End this process with one line and exit status 130, as shells expect it."""
    print(f"{name}: ended by Ctrl-C", file=sys.stderr)
    sys.exit(130)


def die_by_ctrl_c() -> None:
    """For a process of a pool: Ctrl-C, which a terminal sends to all processes of a command, ends it at once and without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def die_with_parent(parent_pid: int) -> None:
    """Ask Linux to end this process when its parent ends for any reason; see prctl(2). exec keeps this, children do not inherit it."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        # The parent ended before the request, so Linux will not send the signal.
        os.kill(os.getpid(), signal.SIGTERM)
