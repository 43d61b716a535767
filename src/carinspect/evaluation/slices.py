"""Owns the slices of the test split: by source, and by the weather of the label.

    {<slice>: {"photos", "groups", <task>: {"photos", "groups", "too_few", <metric>, <metric>_low, <metric>_high}}}

The metric is the one of `metrics.headline`. A slice with fewer labelled groups than `evaluate.slice_min_groups` is `too_few`: its figure
is shown, its interval is None. Photos whose weather nobody judged are the slice `unknown`.
"""

import pandas as pd

from carinspect.core.tasks import TASKS, WEATHER_CLASSES, Task
from carinspect.evaluation.answers import labelled
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.intervals import Report, with_intervals
from carinspect.evaluation.metrics import headline


def slice_by_source(test: pd.DataFrame, params: EvaluateParams) -> Report:
    """By the names of the sources, sorted."""
    return {str(name): _score(rows, params) for name, rows in test.groupby("source", sort=True)}


def slice_by_weather(test: pd.DataFrame, params: EvaluateParams) -> Report:
    """By the weather classes that occur, and `unknown`."""
    words = test["weather_condition"].map(dict(enumerate(WEATHER_CLASSES))).fillna("unknown")
    return {str(word): _score(rows, params) for word, rows in test.groupby(words, sort=True)}


def _score(rows: pd.DataFrame, params: EvaluateParams) -> Report:
    return {"photos": len(rows), "groups": int(rows["group"].nunique())} | {task: _score_task(rows, task, params) for task in TASKS}


def _score_task(rows: pd.DataFrame, task: Task, params: EvaluateParams) -> Report:
    known = labelled(rows, task)
    groups = int(known["group"].nunique())
    chosen = headline(known, task)
    scores = with_intervals(known, {chosen.name: chosen.metric}, chosen.labels_N, chosen.answers_N, params)
    del scores["skipped_resamples"]
    too_few = groups < params.slice_min_groups
    if too_few:
        scores |= {f"{chosen.name}_low": None, f"{chosen.name}_high": None}
    return {"photos": len(known), "groups": groups, "too_few": too_few} | scores
