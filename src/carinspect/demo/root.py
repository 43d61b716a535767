"""Owns writing the whole demo data root: drawn to the side, then put in place at once."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from carinspect.core.files import write_bytes
from carinspect.demo.coco import write_body_shop, write_boxes
from carinspect.demo.config import RenderDemoParams
from carinspect.demo.develop import Developed, develop_all
from carinspect.demo.fleet import write_fleet
from carinspect.demo.shots import plan_shots
from carinspect.demo.sources import SOURCES_YAML
from carinspect.demo.traps import add_traps


def render_data_root(root: Path, params: RenderDemoParams, *, processes: int | None = None) -> dict[str, Any]:
    """Draw the data root at `root`, in place of what stands there; returns the stage's metrics.

    `processes` None takes up to eight processors; the bytes do not depend on it. A killed run never leaves half a root: the new one
    grows beside the old one, the two change places, and what an earlier killed run left over goes first.
    """
    partial, replaced = (root.with_name(f".{root.name}.{state}") for state in ("partial", "replaced"))
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    photos = _write_photos(partial, params, processes)
    by_source = {source: [photo for photo in photos if photo.shot.source == source] for source in ("body_shop", "boxes", "fleet")}
    write_body_shop(partial / "body_shop", by_source["body_shop"])
    write_boxes(partial / "boxes", by_source["boxes"])
    write_fleet(partial / "fleet" / "labels.csv", by_source["fleet"], seed=params.seed)
    traps = add_traps(partial, photos)
    write_bytes(partial / "sources.yaml", SOURCES_YAML.encode())
    metrics = _describe(photos, params) | {
        "traps": traps,
        "bytes": sum(path.stat().st_size for path in partial.rglob("*") if path.is_file()),
    }
    if root.exists():
        root.rename(replaced)
    partial.rename(root)
    shutil.rmtree(replaced, ignore_errors=True)
    return metrics


def _write_photos(folder: Path, params: RenderDemoParams, processes: int | None) -> list[Developed]:
    photos = []
    for photo in develop_all(plan_shots(params), processes=processes):
        path = folder / photo.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo.content)
        photos.append(photo)
    return photos


def _describe(photos: list[Developed], params: RenderDemoParams) -> dict[str, Any]:
    drawn = [photo for photo in photos if not photo.is_copy]
    weathers = Counter(photo.shot.plan.weather for photo in drawn)
    return {
        "seed": params.seed,
        "photos": len(drawn),
        "copies": len(photos) - len(drawn),
        "photos_of_source": dict(Counter(photo.shot.source for photo in drawn)),
        "clean_share": sum(photo.truth.clean for photo in drawn) / len(drawn),
        "undamaged_share": sum(photo.truth.damage == 1 for photo in drawn) / len(drawn),
        "mean_cleanliness_score": sum(photo.truth.cleanliness for photo in drawn) / len(drawn),
        "mean_damage_score": sum(photo.truth.damage for photo in drawn) / len(drawn),
        "weather_share": {weather: count / len(drawn) for weather, count in weathers.items()},
    }
