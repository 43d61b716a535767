"""Computes the metrics of one question on the rows of one split.

Every question has `photos` and `groups` (labelled and answered), `labelled_share` (of the split's photos), the metrics of `metrics_of`
and `aurc`, each with `<name>_low` and `<name>_high`. Also:

| kind | figures without an interval |
|---|---|
| `binary` | `constant_brier`, `ece`, `ece_before`, `brier_before`, `positive_share` (of class 1) |
| `score` | `constant_mae`, `constant_rmse` |
| `classes` | `constant_accuracy`, `constant_macro_f1`, `ece`, `ece_before` |
| all | `aurc_oracle`, `aurc_random`, and `aurc_probability` where there are classes |

`*_before` is before calibration. `constant_*` is the metric of the best constant answer: the share of class 1, the median or the most
common class of the train labels. A metric without labels, or not defined for them, is None.

`aurc` is the area under the risk-coverage curve: the mean error of the photos answered so far, as they are answered in one of these orders:

| order | the most confident photo first |
|---|---|
| `dropout` (`aurc`) | by the spread `*_std` of Monte-Carlo dropout, the smallest first |
| `probability` | by the probability of the likeliest class |
| `oracle` | by the error itself: the best possible order |

The error is 1 for a wrong class (the likeliest one counts) and 0 for a right one; for a score it is the absolute error.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, assert_never

import numpy as np
import pandas as pd

from carinspect.core.questions import Kind, Question
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.predictions import answered, answers_to, chosen_class, class_probabilities, numbers
from carinspect.evaluation.temperature import probabilities_of
from carinspect.scoring.classification import accuracy, brier, ece, macro_f1
from carinspect.scoring.intervals import NOTHING, Metric, Scale, estimate, point
from carinspect.scoring.ranking import Array, average_precision, roc_auc
from carinspect.scoring.regression import mae, pearson, relative_mae, rmse, spearman
from carinspect.scoring.selective import aurc

Report = dict[str, Any]

CONSTANT: dict[Kind, tuple[str, ...]] = {"binary": ("brier",), "score": ("mae", "rmse"), "classes": ("accuracy", "macro_f1")}
"""Metrics that are also computed for the constant answer, as `constant_<name>`."""

SCALES: dict[str, Scale] = {
    "brier": "error", "mae": "error", "rmse": "error", "mae_over_constant": "error", "aurc": "error",
    "pearson": "correlation", "spearman": "correlation",
}  # fmt: skip
"""Of the intervals; a metric that is not named is a share."""


def score_question(rows: pd.DataFrame, question: Question, *, params: EvaluateParams, train_labels: pd.DataFrame | None) -> Report:
    """The metrics of `question` on `rows`; constants come from `train_labels`, or from `rows` themselves when None."""
    known = answered(rows, question)
    labels_N, answers_N = numbers(known, question.column), answers_to(known, question)
    constant = constant_answer(known if train_labels is None else train_labels, question)
    metrics = metrics_of(question, constant=constant)
    report: Report = {
        "photos": len(known),
        "groups": int(known["group"].nunique()),
        "labelled_share": float(rows[question.column].notna().mean()) if len(rows) else None,
    }
    report |= _score_confidence(known, question, params) | with_intervals(known, metrics, labels_N, answers_N, params)
    for name in CONSTANT[question.kind]:
        report[f"constant_{name}"] = None if constant is None else point(metrics[name], labels_N, np.full_like(labels_N, constant))
    if question.has_classes:
        happened_N, before_N, after_N = outcomes_and_probabilities(known, question)
        report["ece"] = ece(happened_N, after_N) if len(known) else None
        report["ece_before"] = ece(happened_N, before_N) if len(known) else None
        if question.kind == "binary":
            report["positive_share"] = float(labels_N.mean()) if len(known) else None
            report["brier_before"] = point(brier, labels_N, before_N)
    return report


def metrics_of(question: Question, *, constant: float | None = None) -> dict[str, Metric]:
    """The metrics with an interval. The first is the headline of the question."""
    match question.kind:
        case "binary":
            return {"roc_auc": roc_auc, "average_precision": average_precision, "brier": brier}
        case "score":
            over_constant = partial(relative_mae, constant=np.nan if constant is None else constant)
            return {"mae": mae, "rmse": rmse, "pearson": pearson, "spearman": spearman, "mae_over_constant": over_constant}
        case "classes":
            return {"accuracy": accuracy, "macro_f1": macro_f1}
        case _:
            assert_never(question.kind)


def headline(question: Question) -> tuple[str, Metric]:
    """Name and metric: ROC AUC of a binary question, mean absolute error of a score, accuracy among classes."""
    return next(iter(metrics_of(question).items()))


def constant_answer(labels: pd.DataFrame, question: Question) -> float | None:
    """The best answer that is always the same: share of class 1, median or commonest class of the known labels; None without any."""
    values = labels[question.column].dropna()
    if values.empty:
        return None
    match question.kind:
        case "binary":
            return float(values.mean())
        case "score":
            return float(values.median())
        case "classes":
            # The smallest of several equally common classes, so that the answer does not depend on the order of rows.
            return float(values.mode().min())
        case _:
            assert_never(question.kind)


def with_intervals(known: pd.DataFrame, metrics: Mapping[str, Metric], labels_N: Array, answers_N: Array, params: EvaluateParams) -> Report:
    """`<name>`, `<name>_low` and `<name>_high` of each metric, None where unknown."""
    report: Report = {}
    groups_N = known["group"].to_numpy(str)
    for name, metric in metrics.items():
        found = NOTHING
        if len(known):
            found = estimate(metric, labels_N, answers_N, groups_N=groups_N, confidence=params.confidence, scale=SCALES.get(name, "share"))
        report |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return report


def outcomes_and_probabilities(known: pd.DataFrame, question: Question) -> tuple[Array, Array, Array]:
    """Outcome (0 or 1), and its probability before and after calibration: class 1, or that the likeliest of several is right."""
    before_NxK, after_NxK = probabilities_of(known, question, None), class_probabilities(known, question)
    if question.kind == "binary":
        return numbers(known, question.column), before_NxK[:, 1], after_NxK[:, 1]
    return 1.0 - losses_of(known, question), before_NxK.max(axis=1), after_NxK.max(axis=1)


# ---- confidence


def orders_of(question: Question) -> tuple[str, ...]:
    """The orders of the table above that exist for a question."""
    return ("dropout", "probability", "oracle") if question.has_classes else ("dropout", "oracle")


def losses_of(known: pd.DataFrame, question: Question) -> Array:
    """The error of each labelled and answered photo, shape (N,)."""
    labels_N = numbers(known, question.column)
    if question.has_classes:
        return (chosen_class(known, question) != labels_N).astype(np.float64)
    return np.abs(answers_to(known, question) - labels_N)


def confidences_of(known: pd.DataFrame, question: Question) -> dict[str, Array]:
    """Confidence of each photo, shape (N,), by order; without spreads `dropout` is missing."""
    orders: dict[str, Array] = {}
    spread_N = numbers(known, question.spread)
    if not np.isnan(spread_N).any():
        orders["dropout"] = -spread_N
    if question.has_classes:
        orders["probability"] = class_probabilities(known, question).max(axis=1)
    return orders | {"oracle": -losses_of(known, question)}


def _score_confidence(known: pd.DataFrame, question: Question, params: EvaluateParams) -> Report:
    losses_N, found = losses_of(known, question), confidences_of(known, question)
    scored = known if "dropout" in found else known.head(0)
    report = with_intervals(scored, {"aurc": aurc}, losses_N, found.get("dropout", losses_N), params)
    for order in orders_of(question)[1:]:
        report[f"aurc_{order}"] = point(aurc, losses_N, found[order])
    return report | {"aurc_random": float(losses_N.mean()) if len(known) else None}
