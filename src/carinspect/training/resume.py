"""The state that survives a kill: one file for each (recipe, data, code), outside what DVC deletes, gone once its run is done.

The file is the SHA-256 of its rest, then what `torch.save` writes: a file that is torn or changed is never taken for a state.
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
"""The subpackages that a training reaches; the same that the stage depends on in dvc.yaml."""

DIGEST_BYTES = 32


def code_revision() -> str:
    """A digest of the code that trains: equal code, equal digest, whatever the commit."""
    package = Path(carinspect.__path__[0])
    files = sorted(path for name in CODE for path in (package / name).rglob("*.py"))
    return sha256(repr([(path.relative_to(package).as_posix(), sha256_of(path)) for path in files]).encode()).hexdigest()[:16]


def state_path(recipe: Recipe, *, data_revision: str) -> Path:
    """Where the state of this very run is kept; anything that could change the result changes the name."""
    key = sha256(repr((recipe.model_dump_json(), data_revision, code_revision(), torch.__version__)).encode()).hexdigest()[:24]
    return cache_folder() / "train" / f"{key}.pt"


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write the state whole or not at all. Raises `UserError` where the disk does not take it; the state before it stays."""
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
    """What an interrupted run left, None when there is nothing or it is damaged, which is said."""
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
    """Delete what a writer that was killed in the middle left beside `path`. Only for who holds the run's lock."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)
