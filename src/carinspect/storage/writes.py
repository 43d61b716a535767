"""Tests whether the remote and git take a write, before a training is paid for whose result they are to hold."""

import os
import re
import subprocess
from contextlib import suppress
from uuid import uuid4

from dvc.repo import Repo

from carinspect.core.errors import UserError, one_line


def try_remote(repo: Repo, name: str | None) -> str:
    """Write a small file into the remote (None: the default one) and remove it; returns the remote's name. Raises `UserError`."""
    name = name or repo.config["core"].get("remote")
    if name is None:
        raise UserError("no DVC remote is set, so the result could not be shared. Run make remote URL=…, and commit .dvc/config.")
    try:
        storage = repo.cloud.get_remote(name)
        path = storage.fs.join(storage.path, f"write-test-{uuid4().hex}")
        storage.fs.makedirs(storage.path, exist_ok=True)
        try:
            storage.fs.pipe_file(path, b"carinspect")
        except Exception:
            # A full disk leaves an empty file.
            with suppress(Exception):
                storage.fs.remove(path)
            raise
        storage.fs.remove(path)
    except Exception as error:  # each kind of storage has its own
        raise UserError(f"remote '{name}' takes no write ({one_line(error)}). Check its keys, its URL and its free space.") from None
    return str(name)


def try_git(remote: str) -> None:
    """Push HEAD to a reference of its own in the git remote, a name or a URL, and delete it there. Raises `UserError`."""
    reference = f"refs/carinspect/write-test-{uuid4().hex}"
    for source in ("HEAD", ""):
        command = ["git", "push", "--quiet", remote, f"{source}:{reference}"]
        quiet = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=quiet)
        if done.returncode:
            reason = without_password(one_line(RuntimeError(done.stderr)))
            raise UserError(
                f"the git remote '{without_password(remote)}' takes no push ({reason}). Check its URL and the credentials of this machine."
            )


def without_password(text: str) -> str:
    """The text without the user and password of the URLs in it."""
    return re.sub(r"//[^/@\s]+@", "//", text)
