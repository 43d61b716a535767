"""Owns the metrics of each task on the rows of one split.

Every task has `photos` and `groups` (labelled and answered), `labelled_share` (of the split's photos) and `skipped_resamples` (the most
that any interval had to leave out), and besides

| task | metrics with `<name>_low` and `<name>_high` | without an interval |
|---|---|---|
| `clean` | `roc_auc`, `average_precision`, `brier` | `clean_share`, `ece`, `brier_before`, `ece_before` (calibration) |
| `cleanliness` | `mae`, `rmse`, `pearson`, `spearman`, `mae_over_constant` | `constant_mae` |
| `damage` | the same, and `damaged_roc_auc` (1 - damage against `damaged`) | `constant_mae`, `damaged_photos` |
| `weather` | `accuracy`, `macro_f1` | `constant_accuracy`, `ece`, `ece_before` |

The constants are what always giving the same answer scores: the median, or the commonest class, of the train labels. A metric that
has no labels, or is not defined on them, is None.
"""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from carinspect.core.seeds import derive_seed
from carinspect.core.tasks import LABEL_COLUMN, Task
from carinspect.evaluation.answers import OUTPUTS, chosen_weather, labelled, numbers, weather_probabilities
from carinspect.evaluation.calibration import probabilities_of
from carinspect.evaluation.config import EvaluateParams
from carinspect.scoring.bootstrap import NOTHING, Estimate, Metric, estimate, point, resample_groups
from carinspect.scoring.classification import accuracy, brier, ece, macro_f1
from carinspect.scoring.ranking import Array, average_precision, roc_auc
from carinspect.scoring.regression import mae, pearson, relative_mae, rmse, spearman

Report = dict[str, Any]


def score_task(rows: pd.DataFrame, task: Task, *, params: EvaluateParams, train_labels: pd.DataFrame | None) -> Report:
    """The metrics of `task` on `rows`; constants come from `train_labels`, or from `rows` themselves when None."""
    known = labelled(rows, task)
    constant = constant_answer(known if train_labels is None else train_labels, task)
    counts = {
        "photos": len(known),
        "groups": int(known["group"].nunique()),
        "labelled_share": float(rows[LABEL_COLUMN[task]].notna().mean()) if len(rows) else None,
    }
    match task:
        case "clean":
            return counts | _score_clean(known, params)
        case "weather":
            return counts | _score_weather(known, params, constant)
        case "damage":
            return counts | _score_scale(known, task, params, constant) | _score_damaged(rows, params)
        case _:
            return counts | _score_scale(known, task, params, constant)


def main_metric(rows: pd.DataFrame, task: Task) -> tuple[str, float | None]:
    """Name and value of the one figure that stands for `task`, without an interval."""
    known = labelled(rows, task)
    labels_N = numbers(known, LABEL_COLUMN[task])
    match task:
        case "clean":
            return "roc_auc", point(roc_auc, labels_N, numbers(known, "p_clean"))
        case "weather":
            return "accuracy", point(accuracy, labels_N, chosen_weather(known))
        case _:
            return "mae", point(mae, labels_N, numbers(known, OUTPUTS[task][0]))


def constant_answer(labels: pd.DataFrame, task: Task) -> float | None:
    """The best answer that is always the same: the median, or the commonest class, of the known labels; None without any."""
    values = labels[LABEL_COLUMN[task]].dropna()
    if values.empty:
        return None
    # The smallest of several equally common classes, so that the answer does not hang on the order of rows.
    return float(values.mode().min() if task == "weather" else values.median())


def _score_clean(known: pd.DataFrame, params: EvaluateParams) -> Report:
    labels_N, p_clean_N = numbers(known, "clean"), numbers(known, "p_clean")
    before_N = probabilities_of(known, "clean", None)[:, 1]
    metrics: dict[str, Metric] = {"roc_auc": roc_auc, "average_precision": average_precision, "brier": brier}
    return _with_intervals(known, metrics, labels_N, p_clean_N, params) | {
        "clean_share": float(labels_N.mean()) if len(known) else None,
        "ece": ece(labels_N, p_clean_N) if len(known) else None,
        "brier_before": point(brier, labels_N, before_N),
        "ece_before": ece(labels_N, before_N) if len(known) else None,
    }


def _score_scale(known: pd.DataFrame, task: Task, params: EvaluateParams, constant: float | None) -> Report:
    labels_N, answers_N = numbers(known, LABEL_COLUMN[task]), numbers(known, OUTPUTS[task][0])
    metrics: dict[str, Metric] = {"mae": mae, "rmse": rmse, "pearson": pearson, "spearman": spearman}
    metrics["mae_over_constant"] = partial(relative_mae, constant=np.nan if constant is None else constant)
    constant_mae = None if constant is None else point(mae, labels_N, np.full_like(labels_N, constant))
    return _with_intervals(known, metrics, labels_N, answers_N, params) | {"constant_mae": constant_mae}


def _score_damaged(rows: pd.DataFrame, params: EvaluateParams) -> Report:
    known = rows[rows["damaged"].notna() & rows["damage"].notna()]
    damaged_N, answers_N = numbers(known, "damaged"), 1.0 - numbers(known, "damage")
    scores = _with_intervals(known, {"damaged_roc_auc": roc_auc}, damaged_N, answers_N, params)
    del scores["skipped_resamples"]
    return scores | {"damaged_photos": len(known)}


def _score_weather(known: pd.DataFrame, params: EvaluateParams, constant: float | None) -> Report:
    labels_N, classes_N = numbers(known, "weather_condition"), chosen_weather(known)
    right_N = (labels_N == classes_N).astype(np.float64)
    metrics: dict[str, Metric] = {"accuracy": accuracy, "macro_f1": macro_f1}
    return _with_intervals(known, metrics, labels_N, classes_N, params) | {
        "constant_accuracy": None if constant is None else point(accuracy, labels_N, np.full_like(labels_N, constant)),
        "ece": ece(right_N, weather_probabilities(known).max(axis=1)) if len(known) else None,
        "ece_before": ece(right_N, probabilities_of(known, "weather", None).max(axis=1)) if len(known) else None,
    }


def _with_intervals(known: pd.DataFrame, metrics: dict[str, Metric], labels_N: Array, answers_N: Array, params: EvaluateParams) -> Report:
    estimates: dict[str, Estimate] = dict.fromkeys(metrics, NOTHING)
    if len(known):
        # One draw of groups for all metrics of these rows, so that they can be compared.
        seed = derive_seed(params.seed, "bootstrap")
        weights_SxN = resample_groups(known["group"].to_numpy(str), samples=params.bootstrap_samples, seed=seed)
        for name, metric in metrics.items():
            estimates[name] = estimate(metric, labels_N, answers_N, weights_SxN=weights_SxN, confidence=params.confidence)
    report: Report = {"skipped_resamples": max(found.skipped_resamples for found in estimates.values())}
    for name, found in estimates.items():
        report |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return report
