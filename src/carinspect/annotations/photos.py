"""Owns what the conversion wants to know of each photo: its size, its hashes and how it looks, or the reason why it cannot be used."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from carinspect.annotations.listing import show_name
from carinspect.images.look import read_looks


class Look(NamedTuple):
    """One photo. All but `sha256` and `problem` are zero or blank for an unusable one."""

    sha256: str = ""
    """Of its bytes; blank where they cannot be read."""
    problem: str = ""
    """Why the photo cannot be used; blank for a sound one."""
    width_px: int = 0
    height_px: int = 0
    """Size as a person sees it."""
    phash: str = ""
    """See `images.look`."""
    format: str = ""
    """Of its bytes, Pillow's word."""
    misnamed: bool = False
    """Whether its suffix is another format's."""
    grey: bool = False
    turned: bool = False
    """Whether EXIF says that the pixels are to be turned or mirrored."""
    sharpness: float = 0.0
    """Variance of the Laplacian."""
    brightness: float = 0.0
    """Mean grey level, 0..255."""
    dark_share: float = 0.0
    bright_share: float = 0.0
    """Shares of the pixels that are nearly black and nearly white, 0..1."""


def read_looks_by_path(root: Path, image_paths: Sequence[str], *, processes: int | None = None) -> dict[str, Look]:
    """image_path → its look, in the order of `image_paths`. processes: see `images.reading`."""
    named = [path for path in image_paths if show_name(path) == path]
    found = read_looks(root, named, processes=processes)
    looks = {
        path: Look(
            sha256=digest,
            width_px=int(seen["width_px"]),
            height_px=int(seen["height_px"]),
            phash=seen["phash"].decode(),
            format=seen["format"].decode(),
            misnamed=is_misnamed(path, seen["format"].decode()),
            grey=bool(seen["grey"]),
            turned=bool(seen["orientation"] > 1),
            sharpness=float(seen["sharpness"]),
            brightness=float(seen["brightness"]),
            dark_share=float(seen["dark_share"]),
            bright_share=float(seen["bright_share"]),
        )
        if not problem
        else Look(sha256=digest, problem=problem)
        for path, digest, seen, problem in zip(named, *found, strict=True)
    }
    unnamed = Look(problem="its name holds control characters or is not Unicode: rename it")
    return {path: looks.get(path, unnamed) for path in image_paths}


def is_misnamed(path: str, kind: str) -> bool:
    """Whether the suffix of `path` says another format than `kind`, Pillow's word. Cameras call an MPO, a JPEG with more inside, .jpg."""
    return Image.registered_extensions().get(PurePosixPath(path).suffix.lower()) != ("JPEG" if kind == "MPO" else kind)
