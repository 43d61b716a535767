"""Owns the sentences that say a run is not what its numbers seem: constant answers, one class, no better than a constant."""

from typing import Any

import numpy as np
import pandas as pd

from carinspect.core.tasks import LABEL_COLUMN, WEATHER_CLASSES, Task
from carinspect.evaluation.answers import OUTPUTS, chosen_weather, labelled
from carinspect.evaluation.calibration import CLASSIFIERS, TEMPERATURE_BOUNDS

CONSTANT_SPREAD = 1e-4
"""Answers that differ by less over all photos are one answer."""


def find_alarms(table: pd.DataFrame, test: dict[str, Any], *, tasks: list[Task], calibration: dict[str, Any]) -> list[str]:
    """One sentence for each thing to look at, in the order of `tasks`. `test` is the report of the test split."""
    alarms = []
    for task in tasks:
        if test[task]["photos"] == 0:
            alarms.append(f"{task}: no labelled photo in test, so its quality is unknown.")
        alarms += _one_label(table, task)
        alarms += _constant_answers(table, task)
        alarms += _no_better_than_constant(task, test[task])
        alarms += _calibration(task, calibration)
    return alarms


def _one_label(table: pd.DataFrame, task: Task) -> list[str]:
    labels = labelled(table[table["split"] == "test"], task)[LABEL_COLUMN[task]]
    if len(labels) < 2 or labels.nunique() > 1:
        return []
    words = {"clean": ("dirty", "clean"), "weather": WEATHER_CLASSES}
    word = words[task][int(labels.iloc[0])] if task in words else f"{labels.iloc[0]:g}"
    return [f"{task}: all {len(labels)} labelled photos of test have the label {word}, so the model cannot be told from a constant."]


def _constant_answers(table: pd.DataFrame, task: Task) -> list[str]:
    if table.empty:
        return []
    outputs = table[OUTPUTS[task]].to_numpy(np.float64)
    if np.ptp(outputs, axis=0).max() < CONSTANT_SPREAD:
        return [f"{task}: the model gives the same answer for all {len(table)} photos."]
    known = labelled(table[table["split"] == "test"], task)
    if task == "weather" and known["weather_condition"].nunique() > 1:
        chosen = np.unique(chosen_weather(known)).astype(int)
        if len(chosen) == 1:
            return [f"weather: the model answers '{WEATHER_CLASSES[chosen[0]]}' for all {len(known)} labelled photos of test."]
    if task == "clean" and known["clean"].nunique() > 1 and (known["p_clean"] >= 0.5).nunique() == 1:
        word = "clean" if known["p_clean"].iloc[0] >= 0.5 else "dirty"
        return [f"clean: '{word}' is the likelier answer for all {len(known)} labelled photos of test."]
    return []


def _no_better_than_constant(task: Task, scores: dict[str, Any]) -> list[str]:
    if task == "clean":
        low = scores["roc_auc_low"]
        return [f"clean: the ROC AUC on test may be that of a coin (interval from {low:.3f})."] if low is not None and low <= 0.5 else []
    if task == "weather":
        accuracy, constant = scores["accuracy"], scores["constant_accuracy"]
        worse = accuracy is not None and constant is not None and accuracy <= constant
        return [f"weather: accuracy {accuracy:.3f} on test, no better than the commonest class ({constant:.3f})."] if worse else []
    ratio = scores["mae_over_constant"]
    return [f"{task}: the error on test is {ratio:.2f} of a constant answer's, so no better."] if ratio is not None and ratio >= 1 else []


def _calibration(task: Task, calibration: dict[str, Any]) -> list[str]:
    if task not in CLASSIFIERS:
        return []
    temperature = calibration["temperature"][task]
    if temperature is None:
        return [f"{task}: its probabilities are not calibrated ({calibration[task]['reason']})."]
    low, high = TEMPERATURE_BOUNDS
    if not low * 1.01 < temperature < high / 1.01:
        return [f"{task}: the temperature {temperature:.3g} lies at the edge of {low:g} to {high:g}; its probabilities mean little."]
    return []
