"""The inbox of what people say of answers: one JSON line each, and the photos by their digest.

The service fills it (`CARINSPECT_FEEDBACK_DIR`), `carinspect review` makes labels of it. The folder holds `remarks.jsonl` and
`photos/<SHA-256>`; a lock file keeps several workers apart. People remark on photos that they or the model chose, so these are labels for
training, and no evidence for a promise: that takes photos drawn at random (`carinspect audit`).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from fcntl import LOCK_EX, flock
from hashlib import sha256
from pathlib import Path

from carinspect.core.errors import UserError
from carinspect.core.files import write_bytes

REMARKS, PHOTOS, _LOCK = "remarks.jsonl", "photos", ".lock"


@dataclass(frozen=True)
class Remark:
    """What one person said of one answer."""

    photo_sha256: str
    model_sha256: str
    question: str
    word: str
    """What the model said: a class, or unsure."""
    verdict: str
    """What the person said: a class of the question."""
    at: str
    """ISO 8601 in UTC."""
    car: str = ""
    """Of a remark on a car that several photos show: the SHA-256 of their digests. Blank: it is on this photo alone."""

    @property
    def of_several(self) -> bool:
        """Whether it is on a car that several photos show, each of which has a line. What is bad about a car may be on one of them only."""
        return self.car != ""


class FullError(Exception):
    """The inbox holds as much as it may."""


class Inbox:
    """A folder that takes remarks. Raises `OSError` where it cannot be written."""

    def __init__(self, folder: Path, *, keep_days: float, limit_bytes: int) -> None:
        self.folder, self._keep, self._limit = folder, timedelta(days=keep_days), limit_bytes
        (folder / PHOTOS).mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._forget_old()

    def add(self, photo: bytes, *, model_sha256: str, question: str, word: str, verdict: str) -> Remark:
        """Keep the photo and the remark on it, and forget what is too old. Raises `FullError` where there is no room."""
        (remark,) = self.add_car([photo], model_sha256=model_sha256, question=question, word=word, verdict=verdict)
        return remark

    def add_car(self, photos: Sequence[bytes], *, model_sha256: str, question: str, word: str, verdict: str) -> list[Remark]:
        """As `add`, for a remark on the car that all of the photos show: a line for each. Where there is no room it keeps none."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        by_digest = {sha256(photo).hexdigest(): photo for photo in photos}
        car = sha256(" ".join(by_digest).encode()).hexdigest() if len(by_digest) > 1 else ""
        remarks = [Remark(digest, model_sha256, question, word, verdict, now, car) for digest in by_digest]
        with self._locked():
            self._forget_old()
            new = {place: photo for digest, photo in by_digest.items() if not (place := self.folder / PHOTOS / digest).exists()}
            held = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()) if new else 0
            if new and held + sum(map(len, new.values())) > self._limit:
                raise FullError
            for place, photo in new.items():
                write_bytes(place, photo)
            with (self.folder / REMARKS).open("ab") as file:
                file.write(b"".join(json.dumps(asdict(remark)).encode() + b"\n" for remark in remarks))
        return remarks

    def delete(self, photo_sha256: str) -> bool:
        """Forget a photo and all remarks on it; whether there was one."""
        with self._locked():
            remarks = read_remarks(self.folder)
            kept = [remark for remark in remarks if remark.photo_sha256 != photo_sha256]
            if len(kept) == len(remarks):
                return False
            self._write(kept)
        return True

    def _forget_old(self) -> None:
        since = (datetime.now(UTC) - self._keep).isoformat(timespec="seconds")
        remarks = read_remarks(self.folder)
        kept = [remark for remark in remarks if remark.at >= since]
        if len(kept) < len(remarks):
            self._write(kept)

    def _write(self, remarks: list[Remark]) -> None:
        write_bytes(self.folder / REMARKS, b"".join(json.dumps(asdict(remark)).encode() + b"\n" for remark in remarks))
        known = {remark.photo_sha256 for remark in remarks}
        for path in (self.folder / PHOTOS).iterdir():
            if path.name not in known:
                path.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / _LOCK).open("w") as file:
            flock(file, LOCK_EX)
            yield


def read_remarks(folder: Path) -> list[Remark]:
    """All remarks of an inbox in their order; none where nobody has remarked yet. An unfinished last line is left out.

    Raises `UserError` that names a line that is no remark.
    """
    path = folder / REMARKS
    content = path.read_bytes() if path.exists() else b""
    names, remarks = {field.name for field in fields(Remark)}, []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            values = json.loads(line)
            # Older lines have no car.
            sound = names - {"car"} <= set(values) <= names and all(isinstance(value, str) for value in values.values())
        except (ValueError, TypeError):
            sound = False
        if not sound:
            raise UserError(f"{path}: line {number} is no remark. Delete that line.")
        remarks.append(Remark(**values))
    return remarks
