"""A finding: what one check saw, whether a training can run with it, and what to do about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from carinspect.core.errors import one_line

Verdict = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    value: str
    """What was seen, in words and figures."""
    verdict: Verdict = "ok"
    """bad: a training would stop, or not begin. warn: it runs, but slower, or its result cannot be found again."""
    fix: str = ""
    """What to do about it; "" where nothing need be done, or the value says it."""


def find(name: str, check: Callable[[], Finding]) -> Finding:
    """What `check` finds; an error of any kind is a finding too, in one line."""
    try:
        return check()
    except Exception as error:  # the very things that a doctor looks for: each library has errors of its own
        kind = "" if type(error).__name__ == "UserError" else f"{type(error).__name__}: "
        return Finding(name, kind + one_line(error), "bad")


def as_table(findings: Sequence[Finding]) -> str:
    """A line a finding, and below one that is not well how to fix it."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.verdict:<5} {finding.name:<{width}}  {finding.value}")
        if finding.fix and finding.verdict != "ok":
            lines.append(f"{'':<5} {'':<{width}}  → {finding.fix}")
    return "\n".join(lines)
