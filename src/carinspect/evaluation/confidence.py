"""Owns what the model knows of its own errors: the risk that is left when only the photos it is sure of are answered.

| order | the most confident photo first |
|---|---|
| `dropout` | by the spread `*_std` of Monte-Carlo dropout, the smallest first |
| `probability` | by the largest probability; `clean` and `weather` alone have one |
| `oracle` | by the error itself: no order does better |

The loss is 1 for a wrong class (`clean`: p_clean 0.5 decides) and 0 for a right one; for a score it is the absolute error.
"""

import numpy as np
import pandas as pd

from carinspect.core.tasks import LABEL_COLUMN, SPREAD, Task
from carinspect.evaluation.answers import OUTPUTS, chosen_weather, numbers, weather_probabilities
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.intervals import Report, with_intervals
from carinspect.scoring.bootstrap import point
from carinspect.scoring.ranking import Array
from carinspect.scoring.selective import aurc, risk_coverage

ORDERS: dict[Task, tuple[str, ...]] = {
    "clean": ("dropout", "probability", "oracle"),
    "cleanliness": ("dropout", "oracle"),
    "damage": ("dropout", "oracle"),
    "weather": ("dropout", "probability", "oracle"),
}


def losses_of(known: pd.DataFrame, task: Task) -> Array:
    """Shape (N,), for labelled and answered photos."""
    labels_N = numbers(known, LABEL_COLUMN[task])
    match task:
        case "clean":
            return ((numbers(known, "p_clean") >= 0.5) != (labels_N == 1)).astype(np.float64)
        case "weather":
            return (chosen_weather(known) != labels_N).astype(np.float64)
        case _:
            return np.abs(numbers(known, OUTPUTS[task][0]) - labels_N)


def probability_of_answer(rows: pd.DataFrame, task: Task) -> Array:
    """Of the likelier class, for `clean` and `weather`."""
    if task == "weather":
        return weather_probabilities(rows).max(axis=1)
    p_clean_N = numbers(rows, "p_clean")
    return np.maximum(p_clean_N, 1.0 - p_clean_N)


def confidences_of(known: pd.DataFrame, task: Task) -> dict[str, Array]:
    """By order, as far as there is one: without spreads `dropout` is missing."""
    orders: dict[str, Array] = {}
    spread_N = numbers(known, SPREAD[task])
    if not np.isnan(spread_N).any():
        orders["dropout"] = -spread_N
    if "probability" in ORDERS[task]:
        orders["probability"] = probability_of_answer(known, task)
    return orders | {"oracle": -losses_of(known, task)}


def score_confidence(known: pd.DataFrame, task: Task, params: EvaluateParams) -> Report:
    """`aurc` of the order `dropout`, with an interval; `aurc_<order>` of the others and of a random order, without."""
    losses_N = losses_of(known, task)
    found = confidences_of(known, task)
    scored = known if "dropout" in found else known.head(0)
    report = with_intervals(scored, {"aurc": aurc}, losses_N, found.get("dropout", losses_N), params)
    del report["skipped_resamples"]
    for order in ORDERS[task][1:]:
        report[f"aurc_{order}"] = point(aurc, losses_N, found[order])
    return report | {"aurc_random": float(losses_N.mean()) if len(known) else None}


def risk_coverage_table(known: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Columns `coverage` and `risk_<order>`; the order's column is blank where the model has no such confidence."""
    losses_N = losses_of(known, task)
    found = confidences_of(known, task)
    unknown = np.full(len(known), np.nan)
    columns = {f"risk_{order}": risk_coverage(losses_N, found[order]).risk if order in found else unknown for order in ORDERS[task]}
    return pd.DataFrame({"coverage": np.arange(1, len(known) + 1) / max(1, len(known))} | columns)
