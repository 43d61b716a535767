"""Owns the state that survives a kill: one file for each (recipe, data, code), outside what DVC deletes, gone once its run is done."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

import carinspect
from carinspect.core.files import sha256_of, write_bytes
from carinspect.images.store import cache_folder
from carinspect.model.checkpoint import to_bytes
from carinspect.training.config import Recipe

CODE = ("core", "images", "model", "training")
"""The subpackages that a training reaches; the same that the stage depends on in dvc.yaml."""


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
    """Write the state whole or not at all."""
    write_bytes(path, to_bytes(state))


def load_state(path: Path) -> dict[str, Any] | None:
    """The state of an interrupted run, or None when there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
