"""The gate's part of a decision: a photo unlike those of the proof is *unsure*, whatever its probability. Imports neither torch nor pandas.

A photo passes when each of its measures is below one threshold, which is chosen so that few photos like those of the proof are turned away.
"""

from collections.abc import Sequence
from typing import Literal

from carinspect.core.gate import MEASURES
from carinspect.core.params import Section

GateMode = Literal["on", "report", "off"]

RARE = 1.0
"""A measure above it is rare among known photos (core/gate.py)."""


class GateRule(Section):
    """Which photos are turned away."""

    threshold: float
    """A photo passes when all its measures are below it."""
    share: float
    """Of photos like those of the source split at most so many are turned away, on average."""
    groups: int
    """Groups of the source split that it was chosen on, one photo of each."""
    measures: list[str]
    """In the order of the model's output."""


def turned_away(measures: Sequence[float], rule: GateRule) -> str | None:
    """The measure because of which a photo is turned away, a key of `core.gate.REASONS`; None for a photo that passes.

    A reason that tells what to do goes before `unlike`, and light before its consequences: a dark photo has little contrast, too.
    """
    # Written so that a measure that is not a number turns the photo away, too.
    if all(value < rule.threshold for value in measures):
        return None
    named = dict(zip(MEASURES, measures, strict=True))
    light = [name for name in ("dark", "bright") if named[name] >= RARE]
    clearest = max(named.keys() - {"unlike"}, key=lambda name: named[name])
    return light[0] if light else clearest if named[clearest] >= RARE else "unlike"
