"""Owns what a person reads of the selection: two sentences, headline metrics, the curve."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carinspect.core.files import write_bytes
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.outcome import look_at
from carinspect.thresholds.plan import cut_points
from carinspect.thresholds.sample import take_sample

MOST_POINTS = 200
HEADLINES = (
    "precision", "precision_low", "precision_high", "recall", "f1", "coverage", "accepted_groups", "wrong_groups",
    "photos", "accepted_photos", "wrong_photos", "missed_photos",
)  # fmt: skip
"""Of `outcome.look_at`; the last four are the confusion."""


def say(selection: dict[str, Any]) -> str:
    """Two sentences: the rule and what it proves, then what it does on the test split."""
    if not selection["feasible"]:
        return f"No threshold: {selection['reason']}. Nothing will be called clean."
    source, test, proof = selection["on_source"], selection["on_test"], selection["proves"]
    rule = f"Clean when p_clean >= {selection['T_clean']:.4f}"
    evidence = f"{source['accepted_groups']} accepted groups of {selection['source']}, {source['wrong_groups']} of them wrong"
    if proof:
        first = f"{rule}: proves a precision of {proof['precision']:g} at the confidence {proof['confidence']:g}, from {evidence}."
    else:
        first = f"{rule}: met the precision {selection['target_precision']:g} on {evidence}, and proves nothing."
    if test["precision"] is None:
        return f"{first} On test it accepts none of {test['groups']} labelled groups."
    bounds = f"{test['precision_low']:.3f} to {test['precision_high']:.3f}"
    return f"{first} On test: precision {test['precision']:.3f} ({bounds}), recall {test['recall']:.3f}, {test['accepted_groups']} groups."


def headline(selection: dict[str, Any]) -> dict[str, Any]:
    """The content of metrics/select_threshold.json: numbers that two experiments are compared by."""
    metrics = {key: selection[key] for key in ("feasible", "T_clean", "T_high", "T_low", "base_rate", "target_precision", "confidence")}
    for place in ("on_source", "on_test"):
        metrics[place] = {key: selection[place][key] for key in HEADLINES}
    for name, method in selection["methods"].items():
        metrics[name] = {"T_clean": method["T_clean"]} | {f"test_{key}": method["on_test"][key] for key in ("precision", "recall")}
    return metrics


def make_curve(table: pd.DataFrame, params: SelectThresholdParams) -> pd.DataFrame:
    """`threshold`, `precision`, `lower_bound`, `recall`, `coverage` on the source split, for at most `MOST_POINTS` thresholds, ascending.

    `lower_bound` is for each threshold alone; the proof, which speaks of all at once, is stricter.
    """
    source = take_sample(table[table["split"] == params.source])
    cuts = cut_points(source.p_clean, word="clean")[::-1]
    cuts = cuts[np.unique(np.linspace(0, len(cuts), MOST_POINTS, endpoint=False).astype(int))] if len(cuts) else cuts
    columns = ("precision", "lower_bound", "recall", "coverage")
    looks = [look_at(source, float(cut), confidence=params.confidence) for cut in cuts]
    curve = pd.DataFrame([{key: look[key] for key in columns} for look in looks], columns=columns, dtype=float)
    curve.insert(0, "threshold", cuts)
    return curve


def write_curve(curve: pd.DataFrame, path: Path) -> None:
    """As CSV, seven decimals, since thresholds have so many."""
    write_bytes(path, curve.to_csv(index=False, float_format="%.7f", lineterminator="\n").encode())
