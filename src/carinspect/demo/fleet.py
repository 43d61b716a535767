"""Writes the fleet's CSV: several photos of each vehicle, every label, some left blank."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from carinspect.core.seeds import derive_seed
from carinspect.core.tables import write_table
from carinspect.demo.develop import Developed
from carinspect.demo.weather import OUTDOORS

_BLANK_SHARE = 0.08


def write_fleet(path: Path, photos: Sequence[Developed], *, seed: int) -> None:
    """One row a photo; `image_path` is relative to the CSV's folder. The first photo's labels are all blank."""
    rng = np.random.default_rng(derive_seed(seed, "blanks"))
    rows = []
    for index, photo in enumerate(photos):
        labels = {
            "cleanliness_score": round(photo.truth.cleanliness, 2),
            "damage_score": round(photo.truth.damage, 2),
            "weather_condition": OUTDOORS.index(photo.shot.plan.weather),
            "clean": photo.truth.clean,
        }
        kept = {name: value for name, value in labels.items() if rng.random() >= _BLANK_SHARE and index > 0}
        rows.append({"image_path": photo.path.removeprefix("fleet/"), "vehicle_id": photo.shot.vehicle_id, "split": photo.split} | kept)
    columns = ["image_path", "vehicle_id", "cleanliness_score", "damage_score", "weather_condition", "clean", "split"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    write_table(table.astype({"clean": "Int64", "weather_condition": "Int64"}), path)
