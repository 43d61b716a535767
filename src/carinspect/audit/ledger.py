"""The ledger of verdicts: one JSON line each, only ever appended; each line holds the hash of the line before it.

The chain shows an edit, a removed line or lines in another order. It is no signature: who can write the file can write a new chain, so keep
it in git. A torn last line, as a kill leaves it, was never acknowledged: reading leaves it out and says so, and appending takes it out.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fcntl import LOCK_EX, flock
from hashlib import sha256
from pathlib import Path

from carinspect.core.errors import UserError

_START = "0" * 64


@dataclass(frozen=True)
class Verdict:
    """What one person said of one photo."""

    photo_sha256: str
    car: str
    """What the photo belongs to: a car counts once, by its first verdict. A photo that belongs to nothing has its own digest here."""
    model_sha256: str
    question: str
    word: str
    """What the model said."""
    verdict: str
    """What the person said: a class of the question."""
    by: str
    at: str
    """When the verdict was taken into the ledger, ISO 8601 in UTC."""
    comment: str
    strata: str = ""
    """Column of the scores that the draw was stratified by; empty: it was not, and neither had the lines of older ledgers these fields."""
    stratum: str = ""
    weight: float = 1.0
    """The stratum's share of all that the draw was from, over the chance of a draw from it."""
    highest_weight: float = 1.0
    """Of the draw."""

    @property
    def of(self) -> tuple[str, str, str]:
        """What it judges: one photo, one model, one question."""
        return self.photo_sha256, self.model_sha256, self.question

    @property
    def stake(self) -> float:
        """How much of the money a bet puts on it, in 0..1: see martingale.py."""
        return self.weight / self.highest_weight


_WEIGHTS = ("weight", "highest_weight")


@dataclass(frozen=True)
class Ledger:
    """A read ledger."""

    verdicts: tuple[Verdict, ...]
    torn: bool
    """Whether an unfinished last line was left out."""
    sound_bytes: int
    head: str
    """Hash of the last line."""


def read_ledger(path: Path) -> Ledger:
    """The verdicts at `path`; none where there is no file. Raises `UserError` that names the first line that was edited or is none."""
    content = path.read_bytes() if path.exists() else b""
    whole, torn = content[: content.rfind(b"\n") + 1], not content.endswith(b"\n") and content != b""
    verdicts, head = [], _START
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            values = json.loads(line)
            before = values.pop("before")
            verdict = Verdict(**values)
            sound = all(isinstance(value, str) for name, value in values.items() if name not in _WEIGHTS)
        except (ValueError, KeyError, AttributeError, TypeError):
            sound = False
        if not sound:
            raise UserError(f"{path}: line {number} is no verdict. Restore the file from git: git checkout -- {path}")
        if before != head:
            raise UserError(
                f"{path}: line {number} does not follow the line before it, so a line was edited, removed or moved there. "
                f"Restore the file from git: git checkout -- {path}"
            )
        if problem := weight_problem(verdict.weight, verdict.highest_weight):
            raise UserError(f"{path}: line {number}: {problem} Restore the file from git: git checkout -- {path}")
        head = sha256(line).hexdigest()
        verdicts.append(verdict)
    _require_same_strata(verdicts, where=str(path))
    return Ledger(tuple(verdicts), torn, len(whole), head)


def weight_problem(weight: object, highest: object) -> str | None:
    """What is wrong with a verdict's weight and the highest one of its draw."""
    if not all(type(one) in (int, float) and 0 < one < math.inf for one in (weight, highest)) or weight > highest:  # type: ignore[operator]
        return f"its weight is {weight} and the highest of its draw {highest}. Both are finite and above 0, and none is above the highest."
    return None


def require_same_strata(before: str, now: str, *, where: str) -> None:
    """Raises `UserError` when a draw is stratified by another column than the one before it on the same word and model.

    A stratified draw leaves other cars than it found, so after it the chances of a draw with other strata, or none, would not be known. The
    first stratified draw may follow plain ones: what these leave is like what they found.
    """
    if before not in ("", now):
        by = f"by {now}" if now else "without strata"
        raise UserError(f"{where}: verdicts on this word were drawn by {before} before, and now {by}. Draw with --strata {before}.")


def _require_same_strata(verdicts: Iterable[Verdict], *, where: str) -> None:
    seen: dict[tuple[str, str, str], str] = {}
    for verdict in verdicts:
        word = (verdict.model_sha256, verdict.question, verdict.word)
        require_same_strata(seen.get(word, ""), verdict.strata, where=where)
        seen[word] = verdict.strata


def append(path: Path, verdicts: Sequence[Verdict]) -> int:
    """Add those that the ledger does not hold yet, all or none; returns how many.

    Raises `UserError` when a photo has another verdict for the same model and question, in the ledger or among `verdicts`, and where the
    strata differ (`require_same_strata`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path) as place:
        ledger = read_ledger(path)
        known, new = {verdict.of: verdict for verdict in ledger.verdicts}, []
        for verdict in verdicts:
            before = known.setdefault(verdict.of, verdict)
            if before.verdict != verdict.verdict:
                raise UserError(
                    f"photo {verdict.photo_sha256[:12]}: '{verdict.verdict}' by {verdict.by}, but '{before.verdict}' by {before.by}. "
                    "Nothing was taken in: agree on one verdict, and take the other one out of the sheet."
                )
            if before is verdict:
                new.append(verdict)
        _require_same_strata([*ledger.verdicts, *new], where=str(path))
        lines, head = [], ledger.head
        for verdict in new:
            line = json.dumps({"before": head} | asdict(verdict), ensure_ascii=False).encode()
            head = sha256(line).hexdigest()
            lines.append(line + b"\n")
        if new:
            os.ftruncate(place, ledger.sound_bytes)
            _write_all(place, b"".join(lines))
            os.fsync(place)
    return len(new)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    place = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        # Two people may take verdicts in at once: the second waits, and reads what the first wrote.
        flock(place, LOCK_EX)
        yield place
    finally:
        os.close(place)


def _write_all(place: int, content: bytes) -> None:
    while content:
        content = content[os.write(place, content) :]


def count_once(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The first verdict of each car, in their order: photos of one car are no independent evidence."""
    first: dict[str, Verdict] = {}
    for verdict in verdicts:
        first.setdefault(verdict.car, verdict)
    return list(first.values())
