"""The one exception that a user's mistake raises, and the words of its message."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in the input, the parameters or the machine; the message names the thing, its value and the fix."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A sentence that names the nearest known word, or all of them when none is near."""
    known = sorted(known)
    nearest = get_close_matches(str(name).lower(), known, n=1, cutoff=0.6)
    if nearest:
        return f"Did you mean '{nearest[0]}'?"
    return f"Known: {', '.join(known)}." if known else ""


def one_line(error: BaseException) -> str:
    """The message of a library's exception in one line of at most 400 characters; its type if it has no message."""
    return " ".join(str(error).split())[:400] or type(error).__name__
