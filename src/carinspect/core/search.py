"""The smallest number that is enough."""

from collections.abc import Callable


def smallest(suffices: Callable[[int], bool], *, start: int = 1, most: int | None = None) -> int | None:
    """The smallest number, 1 or more, that `suffices`, where every larger one does too; None where it is above `most`.

    start: a guess. It is doubled until it suffices; `most` is compared with the doubled guesses.
    """
    enough = start
    while not suffices(enough):
        enough *= 2
        if most is not None and enough > most:
            return None
    too_few = enough // 2 if enough > start else 0
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        enough, too_few = (middle, too_few) if suffices(middle) else (enough, middle)
    return enough
