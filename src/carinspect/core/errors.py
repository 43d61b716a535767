"""The one exception that a user's mistake raises, and the words of its message."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in the input, the parameters or the machine; the message names the thing, its value and the fix."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A sentence that names the nearest known word, or all of them when none is near."""
    known = sorted(known)
    # The comparison takes time with the product of the lengths.
    nearest = get_close_matches(str(name)[:_LONGEST].lower(), [word for word in known if len(word) <= _LONGEST], n=1, cutoff=0.6)
    if nearest:
        return f"Did you mean '{nearest[0]}'?"
    return f"Known: {', '.join(shorten(word) for word in known[:_MOST])}{', …' if len(known) > _MOST else ''}." if known else ""


_LONGEST, _MOST = 100, 40
"""Characters of a name, and names, that a message shows."""


def shorten(text: object) -> str:
    """`text`, cut where it is too long for a message."""
    whole = str(text)
    return whole if len(whole) <= _LONGEST else f"{whole[:_LONGEST]}… ({len(whole):,} characters)"


def one_line(error: BaseException) -> str:
    """The message of a library's exception in one line of at most 400 characters; its type if it has no message."""
    return " ".join(str(error).split())[:400] or type(error).__name__
