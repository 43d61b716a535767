"""Owns the one exception that a person's mistake raises, and how a stage prints it."""

import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches

from carinspect.core.parent import die_with_parent


class UserError(Exception):
    """A mistake in the input, the parameters or the machine; the message names the thing, its value and the mend."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A sentence that names the nearest known word, or all of them when none is near."""
    known = sorted(known)
    nearest = get_close_matches(str(name).lower(), known, n=1, cutoff=0.6)
    if nearest:
        return f"Did you mean '{nearest[0]}'?"
    return f"Known: {', '.join(known)}." if known else ""


def one_line(error: BaseException) -> str:
    """What somebody else's exception says, in one line of 400 characters at most; its type where it says nothing."""
    return " ".join(str(error).split())[:400] or type(error).__name__


def run_stage(main: Callable[[], None], name: str) -> None:
    """Run a stage as `run_program` does. It ends with DVC, who started it: what nobody waits for any more must not go on."""
    die_with_parent(os.getppid())
    run_program(main, name)


def run_program(main: Callable[[], None], name: str) -> None:
    """Run `main`; a `UserError` becomes one line on stderr and exit status 1, anything else keeps its traceback."""
    try:
        main()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)
