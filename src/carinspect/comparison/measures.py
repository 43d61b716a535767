"""Owns what two models are compared by: the headline metrics, and the decisions that are right or wrong."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from carinspect.core.tasks import LABEL_COLUMN, Task
from carinspect.evaluation.answers import OUTPUTS, chosen_weather, labelled, numbers
from carinspect.scoring.bootstrap import Metric
from carinspect.scoring.classification import accuracy, brier, macro_f1
from carinspect.scoring.ranking import Array, average_precision, roc_auc
from carinspect.scoring.regression import mae


@dataclass(frozen=True)
class Measure:
    """A metric of one task's answers."""

    task: Task
    name: str
    metric: Metric
    higher_is_better: bool


MEASURES = (
    Measure("clean", "roc_auc", roc_auc, True),
    Measure("clean", "average_precision", average_precision, True),
    Measure("clean", "brier", brier, False),
    Measure("cleanliness", "mae", mae, False),
    Measure("damage", "mae", mae, False),
    Measure("weather", "accuracy", accuracy, True),
    Measure("weather", "macro_f1", macro_f1, True),
)


def answers_to(rows: pd.DataFrame, task: Task) -> Array:
    """The answers that the measures of `task` are computed from, shape (N,)."""
    match task:
        case "clean":
            return numbers(rows, "p_clean")
        case "weather":
            return chosen_weather(rows)
        case _:
            return numbers(rows, OUTPUTS[task][0])


def both_answered(a: pd.DataFrame, b: pd.DataFrame, task: Task) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of two aligned tables that are labelled and that both models have answered."""
    common = labelled(a, task).index.intersection(labelled(b, task).index)
    return a.loc[common], b.loc[common]


def right_decisions(rows: pd.DataFrame, task: Task, *, clean_from: float | None) -> Array:
    """1 where the decision is right: "clean" from `clean_from` on (None: never), the likeliest weather. Shape (N,)."""
    labels_N = numbers(rows, LABEL_COLUMN[task])
    if task == "weather":
        return (chosen_weather(rows) == labels_N).astype(np.float64)
    called_clean_N = np.zeros(len(rows), bool) if clean_from is None else numbers(rows, "p_clean") >= clean_from
    return (called_clean_N == (labels_N == 1)).astype(np.float64)
