"""Owns metrics/evaluate.json.

    {"val" | "calib" | "test": {"photos", "groups", <task>: {the metrics of metrics.py}},      all four tasks, trained or not
     "sources" | "weathers": {the slices of slices.py},                                         test only
     "alarms": [sentences],
     "leave_one_source_out": see left_out.py; only with evaluate.leave_one_source_out}

Intervals: `evaluate.confidence`, percentile bootstrap over groups. None means unknown, never 0.
"""

from typing import Any

import pandas as pd

from carinspect.core.tasks import TASKS, Task
from carinspect.evaluation.alarms import find_alarms
from carinspect.evaluation.answers import EVALUATED_SPLITS, check_answers
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.intervals import Report
from carinspect.evaluation.metrics import score_task
from carinspect.evaluation.slices import slice_by_source, slice_by_weather


def evaluate_predictions(
    table: pd.DataFrame,
    params: EvaluateParams,
    *,
    tasks: list[Task],
    calibration: dict[str, Any],
    train_labels: pd.DataFrame | None,
) -> Report:
    """The whole report, from predictions that `add_probabilities` and `add_spreads` have completed with this `calibration`.

    `train_labels` is any table with the label columns; when None the constant answers come from the split that is scored, which
    flatters them a little. Raises `UserError` when an answer of one of `tasks` is not a finite number.
    """
    check_answers(table, tasks)
    table = table.sort_values("image_path", kind="stable")
    report: Report = {}
    for split in EVALUATED_SPLITS:
        rows = table[table["split"] == split]
        report[split] = _size(rows) | {task: score_task(rows, task, params=params, train_labels=train_labels) for task in TASKS}
    test = table[table["split"] == "test"]
    report["sources"], report["weathers"] = slice_by_source(test, params), slice_by_weather(test, params)
    report["alarms"] = find_alarms(table, report["test"], tasks=tasks, calibration=calibration)
    return report


def _size(rows: pd.DataFrame) -> Report:
    return {"photos": len(rows), "groups": int(rows["group"].nunique())}
