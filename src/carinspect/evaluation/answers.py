"""Owns the columns that hold the model's answers in the table of predictions, one row a photo.

| column | meaning |
|---|---|
| `clean_logit` | log-odds of clean, before calibration |
| `cleanliness` | 0..1, 1 = clean |
| `damage` | 0..1, 1 = undamaged |
| `weather_logit_clear`, `_rain`, `_fog`, `_snow` | before calibration and softmax |
| `p_clean` | 0..1, calibrated |
| `p_weather_clear`, `_rain`, `_fog`, `_snow` | 0..1, calibrated; sum to 1 |
| `p_clean_std`, `cleanliness_std`, `damage_std` | spread of the answer over the masks of Monte-Carlo dropout |
| `p_weather_std` | the same, of the likeliest class |

All are NaN for a task that the model was not trained on; the spreads also for a network without dropout, or with `dropout_samples` 0.
"""

import numpy as np
import pandas as pd

from carinspect.core.errors import UserError
from carinspect.core.tasks import LABEL_COLUMN, WEATHER_CLASSES, Task
from carinspect.scoring.ranking import Array

WEATHER_LOGITS = [f"weather_logit_{name}" for name in WEATHER_CLASSES]
WEATHER_PROBABILITIES = [f"p_weather_{name}" for name in WEATHER_CLASSES]

OUTPUTS: dict[Task, list[str]] = {
    "clean": ["clean_logit"],
    "cleanliness": ["cleanliness"],
    "damage": ["damage"],
    "weather": WEATHER_LOGITS,
}
"""The raw output columns of each task."""

EVALUATED_SPLITS = ("val", "calib", "test")


def check_answers(table: pd.DataFrame, tasks: list[Task]) -> None:
    """Raise `UserError` when a trained task has an answer that is not a finite number."""
    for task in tasks:
        wrong = ~np.isfinite(table[OUTPUTS[task]].to_numpy(np.float64)).all(axis=1)
        if wrong.any():
            photo = table["image_path"][wrong].iloc[0]
            raise UserError(
                f"{task}: the model's answer is not a finite number for {int(wrong.sum())} photos, e.g. {photo!r}. "
                "Its training diverged; lower train.lr and train again."
            )


def labelled(table: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The rows whose label of `task` is known and that the model has answered."""
    return table[table[LABEL_COLUMN[task]].notna() & table[OUTPUTS[task]].notna().all(axis=1)]


def numbers(table: pd.DataFrame, column: str) -> Array:
    """One column as float64."""
    return table[column].to_numpy(np.float64)


def weather_probabilities(table: pd.DataFrame) -> Array:
    """Shape (N, 4), in the order of `WEATHER_CLASSES`."""
    return table[WEATHER_PROBABILITIES].to_numpy(np.float64)


def chosen_weather(table: pd.DataFrame) -> Array:
    """The likeliest class of each photo, as `weather_condition` counts them. Every row must have an answer."""
    return weather_probabilities(table).argmax(axis=1).astype(np.float64)
