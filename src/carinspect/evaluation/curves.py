"""Owns the tables behind DVC's plots: reports/evaluate/*.csv, of the test split. A task without labels leaves the header alone.

| file | columns |
|---|---|
| `precision_recall.csv` | `threshold`, `precision`, `recall` of "clean when p_clean >= threshold" |
| `calibration.csv` | `calibrated` (no: the bare model, yes: as served), `mean_probability`, `observed_share`, `photos`; no empty bins |
| `weather_calibration.csv` | the same, for the likeliest weather and whether it is right |
| `risk_coverage_<task>.csv` | `coverage`, `risk_dropout`, `risk_probability` (classifiers), `risk_oracle`; see confidence.py |
| `clean_confusion.csv`, `weather_confusion.csv` | `actual`, `predicted`; one row a photo; clean from p_clean 0.5 on: the rule comes later |
| `cleanliness_scatter.csv`, `damage_scatter.csv` | `label`, `answer`; one row a photo |
"""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve

from carinspect.core.files import write_bytes
from carinspect.core.tasks import LABEL_COLUMN, TASKS, WEATHER_CLASSES
from carinspect.evaluation.answers import OUTPUTS, chosen_weather, labelled, numbers
from carinspect.evaluation.calibration import probabilities_of
from carinspect.evaluation.confidence import losses_of, probability_of_answer, risk_coverage_table
from carinspect.scoring.classification import reliability
from carinspect.scoring.ranking import Array

Curves = dict[str, pd.DataFrame]


def make_curves(table: pd.DataFrame) -> Curves:
    """All tables by their file's stem, from the test rows of predictions completed by `add_probabilities`."""
    rows = table[table["split"] == "test"].sort_values("image_path", kind="stable")
    clean, weather = labelled(rows, "clean"), labelled(rows, "weather")
    cleanliness, damage = labelled(rows, "cleanliness"), labelled(rows, "damage")
    return {
        "precision_recall": _precision_recall(clean),
        "calibration": _clean_calibration(clean),
        "weather_calibration": _weather_calibration(weather),
        "clean_confusion": _confusion(numbers(clean, "clean"), np.floor(numbers(clean, "p_clean") + 0.5), ("dirty", "clean")),
        "weather_confusion": _confusion(numbers(weather, "weather_condition"), chosen_weather(weather), WEATHER_CLASSES),
        "cleanliness_scatter": _scatter(numbers(cleanliness, LABEL_COLUMN["cleanliness"]), numbers(cleanliness, OUTPUTS["cleanliness"][0])),
        "damage_scatter": _scatter(numbers(damage, LABEL_COLUMN["damage"]), numbers(damage, OUTPUTS["damage"][0])),
    } | {f"risk_coverage_{task}": risk_coverage_table(labelled(rows, task), task) for task in TASKS}


def write_curves(curves: Curves, folder: Path) -> None:
    """One CSV a table, six decimals."""
    for stem, curve in curves.items():
        text = curve.to_csv(index=False, float_format="%.6f", lineterminator="\n")
        write_bytes(folder / f"{stem}.csv", text.encode())


def _precision_recall(clean: pd.DataFrame) -> pd.DataFrame:
    labels_N = numbers(clean, "clean")
    if len(np.unique(labels_N)) < 2:
        return pd.DataFrame({"threshold": [], "precision": [], "recall": []})
    precision, recall, threshold = precision_recall_curve(labels_N, numbers(clean, "p_clean"))
    # scikit-learn closes the curve by a point (1, 0) that belongs to no threshold.
    return pd.DataFrame({"threshold": threshold, "precision": precision[:-1], "recall": recall[:-1]})


def _clean_calibration(clean: pd.DataFrame) -> pd.DataFrame:
    labels_N = numbers(clean, "clean")
    before = _reliability(labels_N, probabilities_of(clean, "clean", None)[:, 1], calibrated="no")
    after = _reliability(labels_N, numbers(clean, "p_clean"), calibrated="yes")
    return pd.concat([before, after], ignore_index=True)


def _weather_calibration(weather: pd.DataFrame) -> pd.DataFrame:
    right_N = 1.0 - losses_of(weather, "weather")
    before = _reliability(right_N, probabilities_of(weather, "weather", None).max(axis=1), calibrated="no")
    after = _reliability(right_N, probability_of_answer(weather, "weather"), calibrated="yes")
    return pd.concat([before, after], ignore_index=True)


def _reliability(outcomes_N: Array, probabilities_N: Array, *, calibrated: str) -> pd.DataFrame:
    bins = reliability(outcomes_N, probabilities_N)
    curve = pd.DataFrame(
        {
            "calibrated": calibrated,
            "mean_probability": bins.mean_probability,
            "observed_share": bins.observed_share,
            "photos": bins.photos.astype(int),
        }
    )
    return curve[curve["photos"] > 0]


def _confusion(labels_N: Array, classes_N: Array, names: tuple[str, ...]) -> pd.DataFrame:
    words = np.array(names)
    return pd.DataFrame({"actual": words[labels_N.astype(int)], "predicted": words[classes_N.astype(int)]})


def _scatter(labels_N: Array, answers_N: Array) -> pd.DataFrame:
    return pd.DataFrame({"label": labels_N, "answer": answers_N})
