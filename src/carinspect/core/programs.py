"""How a stage or command runs: a user's mistake becomes one line, and no process of ours outlives the one that started it."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

from carinspect.core.errors import UserError

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def run_stage(main: Callable[[], None], name: str) -> None:
    """Run a stage as `run_program` does. It ends with DVC, which started it: nobody waits for its result any more."""
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
        print(f"{name}: ended by Ctrl-C", file=sys.stderr)
        sys.exit(130)


def die_with_parent(parent_pid: int) -> None:
    """Ask Linux to end this process when its parent ends, however that happens; see prctl(2). It holds across exec, not for children."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        # The parent ended before the request: its signal will never come.
        os.kill(os.getpid(), signal.SIGTERM)
