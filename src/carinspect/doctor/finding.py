"""A finding, the result of one check: what was found, whether a training can run, and the fix."""

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
    """What was found, in words and figures."""
    verdict: Verdict = "ok"
    """bad: a training would stop, or not begin. warn: it runs, but slower, or its result cannot be restored or traced to a commit."""
    fix: str = ""
    """What to do; "" if nothing has to be done or `value` says it."""


def find(name: str, check: Callable[[], Finding]) -> Finding:
    """What `check` finds; an error of any kind is a finding too, in one line."""
    try:
        return check()
    except Exception as error:  # any failure is a finding, and each library has its own exceptions
        kind = "" if type(error).__name__ == "UserError" else f"{type(error).__name__}: "
        return Finding(name, kind + one_line(error), "bad")


def as_table(findings: Sequence[Finding]) -> str:
    """One line for each finding; below one that is not ok, its fix."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.verdict:<5} {finding.name:<{width}}  {finding.value}")
        if finding.fix and finding.verdict != "ok":
            lines.append(f"{'':<5} {'':<{width}}  → {finding.fix}")
    return "\n".join(lines)
