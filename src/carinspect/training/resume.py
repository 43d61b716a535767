"""Saves and loads the state of an interrupted training: one file for each (recipe, data, code), deleted after the run.

The file lies where DVC does not delete it. It starts with the SHA-256 of the rest, which `torch.save` wrote, so that an incomplete or
changed file is detected.
"""

import io
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

import carinspect
from carinspect.core.errors import UserError
from carinspect.core.files import sha256_of, write_bytes
from carinspect.images.pixel_cache import cache_folder
from carinspect.model.checkpoint import to_bytes
from carinspect.training.config import Recipe

CODE = ("core", "images", "model", "training")
"""The subpackages that a training imports; the stage in dvc.yaml depends on the same."""

DIGEST_BYTES = 32


def code_revision() -> str:
    """A digest of the training code: equal code has an equal digest, in any commit."""
    package = Path(carinspect.__path__[0])
    files = sorted(path for name in CODE for path in (package / name).rglob("*.py"))
    return sha256(repr([(path.relative_to(package).as_posix(), sha256_of(path)) for path in files]).encode()).hexdigest()[:16]


def state_path(recipe: Recipe, *, data_revision: str) -> Path:
    """The state file of this run; its name depends on everything that could change the result."""
    key = sha256(repr((recipe.model_dump_json(), data_revision, code_revision(), torch.__version__)).encode()).hexdigest()[:24]
    return cache_folder() / "train" / f"{key}.pt"


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write the state atomically. Raises `UserError` when it cannot be written; the previous state is kept."""
    content = to_bytes(state)
    try:
        write_bytes(path, sha256(content).digest() + content)
    except OSError as error:
        free_mb = shutil.disk_usage(path.parent).free / 1e6
        raise UserError(
            f"{path}: the training's state ({len(content) / 1e6:.0f} MB) could not be written: {error.strerror}. The disk of {path.parent} "
            f"has {free_mb:.0f} MB free. Make room, then run the same command: it resumes from the state before."
        ) from error


def read_state(path: Path) -> bytes | None:
    """The state of an interrupted run; None when there is none, or when it is damaged, with a message."""
    if not path.is_file():
        return None
    stored = path.read_bytes()
    digest, content = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
    if sha256(content).digest() == digest:
        return content
    print(f"{path}: the state of an interrupted training is damaged (its checksum differs): starting from the beginning", file=sys.stderr)
    return None


def load_state(content: bytes) -> dict[str, Any]:
    """The state in `content`, read without running code."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def clear_leftovers(path: Path) -> None:
    """Delete temporary files that a killed process left beside `path`. Call it only while holding the run's lock."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)
