"""Owns .carinspect/looks: what decoding showed, by the hash of a photo's bytes. It may be deleted at any time."""

import json
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import imagehash
import PIL

from carinspect.core.files import write_bytes
from carinspect.images.store import cache_folder

LookT = TypeVar("LookT", bound=tuple)

READER = f"1, Pillow {PIL.__version__}, ImageHash {imagehash.__version__}"
"""What a look depends on beside the bytes. Raise the first number with any change of what `photos.look_at` returns."""


def memory_path() -> Path:
    """The file: a line with the SHA-256 of the rest, then JSON."""
    return cache_folder() / "looks"


def load(kind: Callable[..., LookT]) -> dict[str, LookT]:
    """SHA-256 → look. Empty when the file is missing, another reader's or, with a line on stderr, damaged."""
    if not memory_path().is_file():
        return {}
    checksum, _, body = memory_path().read_bytes().partition(b"\n")
    if sha256(body).hexdigest().encode() != checksum:
        print(f"{memory_path()}: damaged. Every photo is read anew and the file is replaced.", file=sys.stderr)
        return {}
    content = json.loads(body)
    return {key: kind(*look) for key, look in content["looks"].items()} if content["reader"] == READER else {}


def save(looks: Mapping[str, tuple]) -> None:
    """Replace the file, whole or not at all."""
    body = json.dumps({"reader": READER, "looks": looks}, sort_keys=True).encode()
    write_bytes(memory_path(), sha256(body).hexdigest().encode() + b"\n" + body)
