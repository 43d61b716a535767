"""Keeps the states of interrupted trainings in a remote, so that another machine continues where one stopped."""

from contextlib import suppress
from pathlib import Path

from dvc_objects.fs.base import FileSystem

_UNFINISHED = ".part"


class RemoteStates:
    """The files of `folder`, on this machine, and their copies under `path` of `fs`."""

    def __init__(self, fs: FileSystem, path: str, folder: Path) -> None:
        self._fs, self._path, self._folder = fs, path, folder
        self._copied: dict[str, tuple[int, int]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def fetch(self) -> list[str]:
        """Copy every state that this machine does not have from the remote; returns their names."""
        if not self._fs.exists(self._path):
            return []
        names = [self._fs.name(path) for path in self._fs.find(self._path)]
        wanted = sorted(name for name in names if not name.endswith(_UNFINISHED) and not (self._folder / name).exists())
        for name in wanted:
            unfinished = self._folder / (name + _UNFINISHED)
            self._fs.get_file(self._fs.join(self._path, name), str(unfinished))
            unfinished.replace(self._folder / name)
            self._copied[name] = self._mark(name)
        return wanted

    def keep(self) -> None:
        """Copy what has changed since the last call, and delete the copies of states that a finished training has deleted here."""
        present = {path.name for path in self._folder.iterdir() if path.is_file() and not path.name.startswith(".")}
        for name in sorted(present):
            # A state deleted meanwhile belongs to a training that has just ended; the next call deletes its copy.
            with suppress(FileNotFoundError):
                self._copy(name)
        for name in sorted(set(self._copied) - present):
            # Another machine of the same training may have deleted it already.
            if self._fs.exists(self._fs.join(self._path, name)):
                self._fs.remove(self._fs.join(self._path, name))
            del self._copied[name]

    def _copy(self, name: str) -> None:
        mark = self._mark(name)
        if self._copied.get(name) == mark:
            return
        target = self._fs.join(self._path, name)
        self._fs.makedirs(self._path, exist_ok=True)
        # If the machine dies in between, the previous copy stays.
        self._fs.put_file(str(self._folder / name), target + _UNFINISHED)
        self._fs.move(target + _UNFINISHED, target)
        self._copied[name] = mark

    def _mark(self, name: str) -> tuple[int, int]:
        stat = (self._folder / name).stat()
        return stat.st_mtime_ns, stat.st_size
