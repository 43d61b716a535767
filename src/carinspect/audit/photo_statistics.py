"""Owns the statistics and layouts of a table's photos as the examination takes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from carinspect.core.errors import UserError
from carinspect.images.look import read_looks
from carinspect.images.statistics import STATISTICS


class Measured(NamedTuple):
    """Of N photos: `statistics`, one column for each of `STATISTICS`; `layouts`, what each place of a look's layout shows, 0..1, (N, F)."""

    statistics: pd.DataFrame
    layouts: npt.NDArray[np.float64]


def measure_photos(root: Path, image_paths: Sequence[str]) -> Measured:
    """Look at each photo, or recall what was seen. Raises `UserError` that names one which cannot be read."""
    looks = read_looks(root, image_paths)
    for image_path, problem in zip(image_paths, looks.problems, strict=True):
        if problem:
            raise UserError(f"{root / image_path}: {problem}. The table knows it as sound: restore it, or run dvc repro.")
    statistics = pd.DataFrame({name: looks.records[name] for name in STATISTICS})
    return Measured(statistics, looks.records["layout"].reshape(len(looks.records), -1) / 255.0)
