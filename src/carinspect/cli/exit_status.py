"""Owns the exit status of commands whose status 1 is an answer: a mistake is 2, as typer's own are."""

import sys
from collections.abc import Callable

from carinspect.core.errors import UserError

USAGE_ERROR = 2


def status_of(work: Callable[[], int]) -> int:
    """The status that `work` returns; 2, and a line on stderr, when it raises `UserError`."""
    try:
        return work()
    except UserError as error:
        print(f"carinspect: {error}", file=sys.stderr)
        return USAGE_ERROR
