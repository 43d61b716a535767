"""The folder .carinspect/memory: what was read out of photos, by the SHA-256 of their bytes, so that none is read twice. It may be deleted.

A memory is a folder of segments, each an array of records that is written once, whole, under the hash of its content. Two processes at
once can therefore only add to it, and a damaged segment is noticed: it is removed, and its photos are read again.
"""

import io
import shutil
import sys
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np

from carinspect.core.files import sha256_of, write_bytes
from carinspect.images.pixel_cache import cache_folder


class Memory:
    """Records of the type `record` that the files `code` make of a photo's bytes with the help of the packages `libraries`.

    Both are part of the memory's name: what other code or another version read is never believed, and makes room.
    """

    def __init__(self, kind: str, record: np.dtype, *, code: Sequence[str], libraries: Sequence[str]) -> None:
        self.kind, self.record = kind, record
        parts = (record.descr, [sha256_of(Path(file)) for file in code], [(name, version(name)) for name in libraries])
        self._reader = sha256(repr(parts).encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where the segments lie."""
        return cache_folder() / "memory" / f"{self.kind}-{self._reader}"

    def recall(self, digests: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The records of photos with these SHA-256, shape (N,), and which of them are known, bool (N,); the others are zeros."""
        records, known = np.zeros(len(digests), self.record), np.zeros(len(digests), bool)
        places: dict[bytes, list[int]] = {}
        for place, digest in enumerate(digests):
            places.setdefault(digest.encode(), []).append(place)
        for path in sorted(self.folder.glob("*.npy")):
            segment = self._load(path)
            rows = [(row, place) for row, digest in enumerate(segment["sha256"].tolist()) for place in places.get(digest, ())]
            if rows:
                taken, given = np.array(rows).T
                records[given], known[given] = segment["record"][taken], True
        return records, known

    def remember(self, digests: Sequence[str], records: np.ndarray) -> None:
        """Add a segment: the records of the photos with these SHA-256. A disk that takes none is told of, and costs only time."""
        segment = np.zeros(len(digests), self._segment)
        segment["sha256"], segment["record"] = np.array(digests, "S64"), records
        buffer = io.BytesIO()
        np.save(buffer, segment)
        try:
            write_bytes(self.folder / f"{sha256(buffer.getvalue()).hexdigest()}.npy", buffer.getvalue())
        except OSError as error:
            print(f"{self.folder}: cannot be written ({error.strerror}). The next run reads these photos again.", file=sys.stderr)
            return
        for other in self.folder.parent.glob(f"{self.kind}-*"):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)

    @property
    def _segment(self) -> np.dtype:
        return np.dtype([("sha256", "S64"), ("record", self.record)])

    def _load(self, path: Path) -> np.ndarray:
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # another process has found it damaged
            return np.zeros(0, self._segment)
        if sha256(content).hexdigest() == path.stem:
            return np.load(io.BytesIO(content))
        print(f"{path}: damaged. It is removed, and its photos are read again.", file=sys.stderr)
        path.unlink(missing_ok=True)
        return np.zeros(0, self._segment)
