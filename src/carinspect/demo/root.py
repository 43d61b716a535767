"""Writes the whole demo data root: drawn beside its place, then put there at once."""

import io
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from carinspect.core.files import write_bytes
from carinspect.demo.config import RenderDemoParams
from carinspect.demo.develop import Developed, develop_all
from carinspect.demo.label_files import SOURCES_YAML, write_body_shop, write_boxes, write_fleet
from carinspect.demo.shots import WEATHER_FOLDERS, plan_shots


def render_data_root(root: Path, params: RenderDemoParams, *, processes: int | None = None) -> dict[str, Any]:
    """Draw the data root at `root`, in place of what stands there; returns the stage's metrics.

    `processes` None takes up to eight processors; the bytes do not depend on it. A killed run never leaves half a root: the new one
    grows beside the old one, the two change places, and what an earlier killed run left over goes first.
    """
    partial, replaced = (root.with_name(f".{root.name}.{state}") for state in ("partial", "replaced"))
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    photos = develop_all(plan_shots(params), processes=processes)
    for photo in photos:
        (partial / photo.path).parent.mkdir(parents=True, exist_ok=True)
        (partial / photo.path).write_bytes(photo.content)
    by_source = {source: [photo for photo in photos if photo.shot.source == source] for source in ("body_shop", "boxes", "fleet")}
    write_body_shop(partial / "body_shop", by_source["body_shop"])
    write_boxes(partial / "boxes", by_source["boxes"])
    write_fleet(partial / "fleet" / "labels.csv", by_source["fleet"], seed=params.seed)
    traps = _add_traps(partial, photos)
    write_bytes(partial / "sources.yaml", SOURCES_YAML.encode())
    size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    metrics = _describe(photos, params) | {"traps": traps, "bytes": size}
    if root.exists():
        root.rename(replaced)
    partial.rename(root)
    shutil.rmtree(replaced, ignore_errors=True)
    return metrics


def _describe(photos: list[Developed], params: RenderDemoParams) -> dict[str, Any]:
    drawn = [photo for photo in photos if not photo.is_copy]
    return {
        "seed": params.seed,
        "photos": len(drawn),
        "copies": len(photos) - len(drawn),
        "photos_of_source": dict(Counter(photo.shot.source for photo in drawn)),
        "clean_share": sum(photo.truth.clean for photo in drawn) / len(drawn),
        "undamaged_share": sum(photo.truth.damage == 1 for photo in drawn) / len(drawn),
        "mean_cleanliness_score": sum(photo.truth.cleanliness for photo in drawn) / len(drawn),
        "mean_damage_score": sum(photo.truth.damage for photo in drawn) / len(drawn),
        "weather_share": {weather: count / len(drawn) for weather, count in Counter(photo.shot.plan.weather for photo in drawn).items()},
    }


def _add_traps(root: Path, photos: Sequence[Developed]) -> dict[str, str]:
    """Write the traps into `root`; the path of each by what is wrong with it."""
    double, victim, *_ = _plain(photos, "wash")
    filmed = _plain(photos, "dashcam")[0]
    folders = ("dirty", "clean")
    traps = {
        "same bytes in another source": (f"dashcam/{WEATHER_FOLDERS[double.shot.plan.weather]}/screenshot.jpg", double.content),
        "near duplicate in another source": (f"wash/train/{folders[filmed.truth.clean]}/forwarded.jpg", _forwarded(filmed.content)),
        "truncated JPEG": (f"wash/train/{folders[victim.truth.clean]}/car9001.jpg", victim.content[: len(victim.content) // 2]),
        "zero bytes": ("dashcam/rain/frame_99999.jpg", b""),
        "text named .jpg": ("wash/train/clean/notes.jpg", b"Remember to photograph the red van again.\n"),
    }
    for path, content in traps.values():
        write_bytes(root / path, content)
    return {name: path for name, (path, _) in traps.items()}


def _plain(photos: Sequence[Developed], source: str) -> list[Developed]:
    """Upright JPEGs of one source, but for those under blown sand, which no folder of use holds."""
    plain = [photo for photo in photos if photo.shot.source == source and (photo.shot.kind, photo.shot.orientation) == ("JPEG", 1)]
    return [photo for photo in plain if photo.shot.plan.weather != "sand"]


def _forwarded(content: bytes) -> bytes:
    """The same photo as a messenger passes it on: smaller, compressed again."""
    image = Image.open(io.BytesIO(content))
    width, height = image.size
    buffer = io.BytesIO()
    image.resize((round(width * 0.85), round(height * 0.85)), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=68)
    return buffer.getvalue()
