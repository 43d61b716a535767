"""Owns the metrics of each task on the rows of one split.

Every task has `photos` and `groups` (labelled and answered), `labelled_share` (of the split's photos), `skipped_resamples` (the most
that any interval had to leave out) and the areas under its risk-coverage curves (confidence.py): `aurc` with an interval, `aurc_oracle`,
`aurc_random` and, for the classifiers, `aurc_probability`. Besides

| task | metrics with `<name>_low` and `<name>_high` | without an interval |
|---|---|---|
| `clean` | `roc_auc`, `average_precision`, `brier` | `clean_share`, `constant_brier`, `ece`, `brier_before`, `ece_before` (calibration) |
| `cleanliness` | `mae`, `rmse`, `pearson`, `spearman`, `mae_over_constant` | `constant_mae`, `constant_rmse` |
| `damage` | the same, and `damaged_roc_auc` (1 - damage against `damaged`) | the same, and `damaged_photos` |
| `weather` | `accuracy`, `macro_f1` | `constant_accuracy`, `constant_macro_f1`, `ece`, `ece_before` |

The constants are what always giving the same answer scores: the median, the commonest class or, for `brier`, the share of clean, of the
train labels. A metric that has no labels, or is not defined on them, is None.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from carinspect.core.tasks import LABEL_COLUMN, Task
from carinspect.evaluation.answers import OUTPUTS, chosen_weather, labelled, numbers, weather_probabilities
from carinspect.evaluation.calibration import probabilities_of
from carinspect.evaluation.confidence import score_confidence
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.intervals import Report, with_intervals
from carinspect.scoring.bootstrap import Metric, point
from carinspect.scoring.classification import accuracy, brier, ece, macro_f1
from carinspect.scoring.ranking import Array, average_precision, roc_auc
from carinspect.scoring.regression import mae, pearson, relative_mae, rmse, spearman


def score_task(rows: pd.DataFrame, task: Task, *, params: EvaluateParams, train_labels: pd.DataFrame | None) -> Report:
    """The metrics of `task` on `rows`; constants come from `train_labels`, or from `rows` themselves when None."""
    known = labelled(rows, task)
    constant = constant_answer(known if train_labels is None else train_labels, task)
    counts: Report = {
        "photos": len(known),
        "groups": int(known["group"].nunique()),
        "labelled_share": float(rows[LABEL_COLUMN[task]].notna().mean()) if len(rows) else None,
    }
    counts |= score_confidence(known, task, params)
    match task:
        case "clean":
            share = (known if train_labels is None else train_labels)["clean"].mean()
            return counts | _score_clean(known, params, constant=share)
        case "weather":
            return counts | _score_weather(known, params, constant)
        case "damage":
            return counts | _score_scale(known, task, params, constant) | _score_damaged(rows, params)
        case _:
            return counts | _score_scale(known, task, params, constant)


@dataclass(frozen=True)
class Headline:
    """The one figure that stands for a task, with what it is computed from, each of shape (N,)."""

    name: str
    metric: Metric
    labels_N: Array
    answers_N: Array


def headline(known: pd.DataFrame, task: Task) -> Headline:
    """ROC AUC of `clean`, accuracy of `weather`, mean absolute error of the scores, on labelled and answered photos."""
    labels_N = numbers(known, LABEL_COLUMN[task])
    match task:
        case "clean":
            return Headline("roc_auc", roc_auc, labels_N, numbers(known, "p_clean"))
        case "weather":
            return Headline("accuracy", accuracy, labels_N, chosen_weather(known))
        case _:
            return Headline("mae", mae, labels_N, numbers(known, OUTPUTS[task][0]))


def constant_answer(labels: pd.DataFrame, task: Task) -> float | None:
    """The best answer that is always the same: the median, or the commonest class, of the known labels; None without any."""
    values = labels[LABEL_COLUMN[task]].dropna()
    if values.empty:
        return None
    # The smallest of several equally common classes, so that the answer does not hang on the order of rows.
    return float(values.mode().min() if task == "weather" else values.median())


def _score_clean(known: pd.DataFrame, params: EvaluateParams, *, constant: float) -> Report:
    labels_N, p_clean_N = numbers(known, "clean"), numbers(known, "p_clean")
    before_N = probabilities_of(known, "clean", None)[:, 1]
    metrics: dict[str, Metric] = {"roc_auc": roc_auc, "average_precision": average_precision, "brier": brier}
    return with_intervals(known, metrics, labels_N, p_clean_N, params) | {
        "clean_share": float(labels_N.mean()) if len(known) else None,
        "ece": ece(labels_N, p_clean_N) if len(known) else None,
        "constant_brier": point(brier, labels_N, np.full_like(labels_N, constant)),
        "brier_before": point(brier, labels_N, before_N),
        "ece_before": ece(labels_N, before_N) if len(known) else None,
    }


def _score_scale(known: pd.DataFrame, task: Task, params: EvaluateParams, constant: float | None) -> Report:
    labels_N, answers_N = numbers(known, LABEL_COLUMN[task]), numbers(known, OUTPUTS[task][0])
    metrics: dict[str, Metric] = {"mae": mae, "rmse": rmse, "pearson": pearson, "spearman": spearman}
    metrics["mae_over_constant"] = partial(relative_mae, constant=np.nan if constant is None else constant)
    constant_N = np.full_like(labels_N, np.nan if constant is None else constant)
    return with_intervals(known, metrics, labels_N, answers_N, params) | {
        "constant_mae": point(mae, labels_N, constant_N),
        "constant_rmse": point(rmse, labels_N, constant_N),
    }


def _score_damaged(rows: pd.DataFrame, params: EvaluateParams) -> Report:
    known = rows[rows["damaged"].notna() & rows["damage"].notna()]
    damaged_N, answers_N = numbers(known, "damaged"), 1.0 - numbers(known, "damage")
    scores = with_intervals(known, {"damaged_roc_auc": roc_auc}, damaged_N, answers_N, params)
    del scores["skipped_resamples"]
    return scores | {"damaged_photos": len(known)}


def _score_weather(known: pd.DataFrame, params: EvaluateParams, constant: float | None) -> Report:
    labels_N, classes_N = numbers(known, "weather_condition"), chosen_weather(known)
    right_N = (labels_N == classes_N).astype(np.float64)
    constant_N = np.full_like(labels_N, np.nan if constant is None else constant)
    metrics: dict[str, Metric] = {"accuracy": accuracy, "macro_f1": macro_f1}
    return with_intervals(known, metrics, labels_N, classes_N, params) | {
        "constant_accuracy": None if constant is None else point(accuracy, labels_N, constant_N),
        "constant_macro_f1": None if constant is None else point(macro_f1, labels_N, constant_N),
        "ece": ece(right_N, weather_probabilities(known).max(axis=1)) if len(known) else None,
        "ece_before": ece(right_N, probabilities_of(known, "weather", None).max(axis=1)) if len(known) else None,
    }
