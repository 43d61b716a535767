"""The journal beside an unfinished table of scores, from which the same command continues after a kill.

A header line, then a line of JSON for each batch, in order. Only complete lines count, so after a kill at any moment the file holds each
finished batch exactly once. A power failure may lose the last lines; their batches are then scored again.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from carinspect.core.errors import UserError
from carinspect.inference.rows import Row, write_rows


def journal_path(out: Path) -> Path:
    """Path of the journal of `out`, in the same folder."""
    return out.with_name(f"{out.name}.partial")


def refuse_another(found: Any, header: dict[str, Any], path: Path) -> None:
    """Raise `UserError` unless `found`, the header in the file `path`, is `header`."""
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a file that scoring left behind. Move it away, or choose another --out.")
    other = sorted(key for key in header | found if header.get(key) != found.get(key))
    if other:
        was = ", ".join(f"{key.replace('_', ' ')} {found.get(key)}, now {header.get(key)}" for key in other)
        raise UserError(f"{path}: started with other options: {was}. Repeat that command to continue, or delete this file to start again.")


def finish_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path` that then takes its place: it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    finishing = path.with_name(f"{path.name}.finishing")
    try:
        write(finishing)
        with finishing.open("rb") as file:
            os.fsync(file.fileno())
        finishing.replace(path)
    finally:
        finishing.unlink(missing_ok=True)


class Journal:
    """The journal of `out`, for one process only. header: all that the rows depend on, plain values.

    columns: see `rows.columns_of`; a row may have more cells, which the table does not show.
    """

    def __init__(self, out: Path, header: dict[str, Any], columns: Mapping[str, type]) -> None:
        """Raises `UserError` if another process writes the journal of `out`, or if the journal there has another header."""
        self.out, self.path, self.columns = out, journal_path(out), columns
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"{self.path}: another process is writing it. Wait for it, or end it.") from None
        try:
            self.batches = self._go_on(header)
            """Number of batches in it."""
        except UserError:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._file.close()
        except OSError:
            # It tries again to write what could not be written; that error is on its way already.
            if error is None:
                raise

    def append(self, rows: list[Row]) -> None:
        """Add the next batch."""
        self._write(rows)
        self.batches += 1

    def rows(self) -> Iterator[list[Row]]:
        """All batches so far, in order."""
        with self.path.open("rb") as file:
            next(file)
            yield from map(json.loads, file)

    def finish(self, also: Mapping[Path, Callable[[Path], None]] | None = None) -> None:
        """Write `out` atomically, and delete the journal.

        also: further files that are made of the rows, and what writes each to a path. The journal goes when all of them are there.
        """
        columns = len(self.columns)
        table = ([row[:columns] for row in rows] for rows in self.rows())
        files: dict[Path, Callable[[Path], None]] = {
            **(also or {}),
            self.out: partial(write_rows, table, columns=self.columns, suffix=self.out.suffix.lower()),
        }
        for path, write in files.items():
            finish_file(path, write)
        self.path.unlink()

    def _go_on(self, header: dict[str, Any]) -> int:
        """Cut off an incomplete last line; returns the number of complete batches."""
        self._file.seek(0)
        first = self._file.readline()
        if not first.endswith(b"\n"):
            # Empty, or killed within the header, before any batch.
            self._file.truncate(0)
            self._write(header)
            return 0
        refuse_another(_parse(first), header, self.path)
        whole, batches = self._file.tell(), 0
        while isinstance(_parse(line := self._file.readline()), list):
            whole, batches = whole + len(line), batches + 1
        self._file.truncate(whole)
        return batches

    def _write(self, content: Any) -> None:
        self._file.write(json.dumps(content, separators=(",", ":")).encode() + b"\n")
        # The system has it now, so it survives a kill of this process.
        self._file.flush()


def _parse(line: bytes) -> Any:
    """The JSON of a whole line, None for any other."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
