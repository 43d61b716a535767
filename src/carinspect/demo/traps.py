"""Owns the files that real data sets have and nobody wants: doubles, near-doubles, broken files."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from carinspect.core.files import write_bytes
from carinspect.demo.develop import Developed
from carinspect.demo.shots import WEATHER_FOLDERS


def add_traps(root: Path, photos: Sequence[Developed]) -> dict[str, str]:
    """Write the traps into `root`; the path of each by what is wrong with it."""
    washed = _plain(photos, "wash")
    filmed = _plain(photos, "dashcam")
    double, victim = washed[0], washed[1]
    folder = ("dirty", "clean")[filmed[0].truth.clean]
    traps = {
        "same bytes in another source": (f"dashcam/{WEATHER_FOLDERS[double.shot.plan.weather]}/screenshot.jpg", double.content),
        "near duplicate in another source": (f"wash/train/{folder}/forwarded.jpg", _forwarded(filmed[0].content)),
        "truncated JPEG": (f"wash/train/{('dirty', 'clean')[victim.truth.clean]}/car9001.jpg", victim.content[: len(victim.content) // 2]),
        "zero bytes": ("dashcam/rain/frame_99999.jpg", b""),
        "text named .jpg": ("wash/train/clean/notes.jpg", b"Remember to photograph the red van again.\n"),
    }
    for path, content in traps.values():
        write_bytes(root / path, content)
    return {name: path for name, (path, _) in traps.items()}


def _plain(photos: Sequence[Developed], source: str) -> list[Developed]:
    """Upright JPEGs of one source, but for those under blown sand, which no folder of use holds."""
    plain = [photo for photo in photos if photo.shot.source == source and photo.shot.kind == "JPEG" and photo.shot.orientation == 1]
    return [photo for photo in plain if photo.shot.plan.weather != "sand"]


def _forwarded(content: bytes) -> bytes:
    """The same photo as a messenger passes it on: smaller, compressed again."""
    image = Image.open(io.BytesIO(content))
    width, height = image.size
    buffer = io.BytesIO()
    image.resize((round(width * 0.85), round(height * 0.85)), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=68)
    return buffer.getvalue()
