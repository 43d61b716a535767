"""Owns leave-one-source-out: how a source's photos are answered by a model that was trained without any of them.

    {<source>: {"trained_photos": of train and val that were left,
                <task>: {"left_out": {figures}, "trained_with": {figures}} | null}}

for each source and each task that it has labels for. `left_out`: all its labelled photos, by the model that never saw the source;
`trained_with`: those of its test split, by models/best.pt. Figures: `FIGURES`, each with `_low` and `_high`, beside `photos` and `groups`;
a damage score that nobody gave has none, and `damaged_photos` counts those known as damaged or not. Null: no other source teaches the task.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from carinspect.core.tables import DATASET_COLUMNS, LABEL_COLUMNS
from carinspect.core.tasks import SPREAD, Task
from carinspect.evaluation.calibration import add_probabilities, fit_calibration
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.intervals import Report
from carinspect.evaluation.metrics import score_task
from carinspect.evaluation.predict import predict
from carinspect.evaluation.retraining import retrain
from carinspect.model.checkpoint import Checkpoint, build_network
from carinspect.model.losses import is_labelled

FIGURES: dict[Task, tuple[str, ...]] = {
    "clean": ("roc_auc",),
    "cleanliness": ("mae", "spearman"),
    "damage": ("mae", "spearman", "damaged_roc_auc"),
    "weather": ("accuracy", "macro_f1"),
}
"""Figures that no temperature changes: for a source that was never seen there is none."""


def leave_sources_out(
    checkpoint: Checkpoint,
    table: pd.DataFrame,
    predictions: pd.DataFrame,
    *,
    root: Path,
    evaluation: EvaluateParams,
    params: dict[str, Any],
) -> Report:
    """The report, one training for each source of `table`, which has `DATASET_COLUMNS`.

    predictions: of val, calib and test by `checkpoint`, with probabilities. params: all of params.yaml. See `retrain` for what is kept.
    """
    report: Report = {}
    sources = sorted(source for source, rows in table.groupby("source") if taught_tasks(rows, checkpoint.model.tasks))
    for number, source in enumerate(sources, start=1):
        own, others = table[table["source"] == source].reset_index(drop=True), without_source(table, source)
        asked = taught_tasks(own, checkpoint.model.tasks)
        tasks = learnable_tasks(others, checkpoint.model.tasks)
        learnt = others[others["split"].isin(("train", "val"))]
        report[source] = {"trained_photos": len(learnt), **dict.fromkeys(asked)}
        what = f"leaving out source {number} of {len(sources)}, '{source}'"
        if not set(asked) & set(tasks):
            print(f"{what}: no other source teaches {' or '.join(asked)}", flush=True)
            continue
        print(f"{what}: training on {len(learnt):,} photos of the others", flush=True)
        model = retrain(checkpoint, others[list(DATASET_COLUMNS)], tasks=tasks, params=params, what=what)
        raw, _ = predict(build_network(model), own, root=root, image_side_px=model.image_side_px)
        # Of no split, so that no temperature is fitted: none of the source's photos may have a say in its answers.
        calibration = fit_calibration(raw.assign(split=""), priors=model.lineage["priors"])
        answers = add_probabilities(raw, calibration).assign(**dict.fromkeys(SPREAD.values(), np.nan))
        seen = predictions[(predictions["source"] == source) & (predictions["split"] == "test")]
        for task in sorted(set(asked) & set(tasks)):
            report[source][task] = {
                "left_out": score_source(answers, task, evaluation),
                "trained_with": score_source(seen, task, evaluation),
            }
    return report


def without_source(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The rows of other sources, but for those that share a group with one of `source`: a copy elsewhere would give it away."""
    groups = set(table["group"][table["source"] == source])
    return table[(table["source"] != source) & ~table["group"].isin(groups)].reset_index(drop=True)


def taught_tasks(rows: pd.DataFrame, tasks: list[Task]) -> list[Task]:
    """Those of `tasks` that some row has a label for."""
    known = is_labelled({column: torch.tensor(rows[column].to_numpy("float32")) for column in LABEL_COLUMNS})
    return [task for task in tasks if bool(known[task].any())]


def learnable_tasks(rows: pd.DataFrame, tasks: list[Task]) -> list[Task]:
    """Those of `tasks` that both train and val have labels for."""
    taught = [taught_tasks(rows[rows["split"] == split], tasks) for split in ("train", "val")]
    return [task for task in tasks if all(task in some for some in taught)]


def score_source(rows: pd.DataFrame, task: Task, evaluation: EvaluateParams) -> Report:
    """The `FIGURES` of `task` on rows of one source."""
    scores = score_task(rows, task, params=evaluation, train_labels=None)
    names = ["photos", "groups", *(f"{name}{end}" for name in FIGURES[task] for end in ("", "_low", "_high"))]
    return {name: scores[name] for name in [*names, *(["damaged_photos"] if task == "damage" else [])]}
