"""Builds metrics/evaluate.json: the metrics of each split, slices of test, and alarms.

    {"val" | "calib" | "test": {"photos", "groups", <question>: {the metrics of metrics.py}},
     "slices": {"source": {<source>: …}, <each question of several classes>: {<class of the label>: …}},      of test
     "probe": see baseline.py,
     "alarms": [sentences],
     "leave_one_source_out": see left_out.py; only with evaluate.leave_one_source_out}

A slice is {"photos", "groups", <question>: {"photos", "groups", "too_few", <metric>, <metric>_low, <metric>_high}} with the metric of
`metrics.headline`. One with fewer labelled groups than `evaluate.slice_min_groups` is `too_few`: its figure is shown, its interval is
None. Photos without a label are the slice `unknown`.

Intervals: `evaluate.confidence`, jackknife over groups. None means unknown, never 0.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, assert_never

import numpy as np
import pandas as pd

from carinspect.core.questions import Question
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.metrics import Report, headline, score_question, with_intervals
from carinspect.evaluation.predictions import SCORED_SPLITS, answered, answers_to, check_finite, chosen_class, numbers
from carinspect.evaluation.temperature import TEMPERATURE_BOUNDS
from carinspect.model.calibration import Calibration

CONSTANT_SPREAD = 1e-4
"""Answers whose range over all photos is smaller count as one constant answer."""


def evaluate_predictions(
    table: pd.DataFrame,
    params: EvaluateParams,
    *,
    questions: Sequence[Question],
    calibration: Calibration,
    train_labels: pd.DataFrame | None,
) -> Report:
    """The whole report, from predictions that `add_probabilities` and `add_spreads` have completed with this `calibration`.

    `train_labels` is any table with the label columns; when None the constant answers come from the split that is scored, which
    makes them look slightly better. Raises `UserError` when an answer is not a finite number.
    """
    check_finite(table, questions)
    table = table.sort_values("image_path", kind="stable")
    report: Report = {}
    for split in SCORED_SPLITS:
        rows = table[table["split"] == split]
        scores = {asked.name: score_question(rows, asked, params=params, train_labels=train_labels) for asked in questions}
        report[split] = _size(rows) | scores
    report["slices"] = slice_test(table[table["split"] == "test"], questions, params)
    report["alarms"] = find_alarms(table, report["test"], questions=questions, calibration=calibration)
    return report


# ---- slices


def slice_test(test: pd.DataFrame, questions: Sequence[Question], params: EvaluateParams) -> Report:
    """The metrics by source, and by the labelled class of each question of several classes; both sorted."""
    found = {"source": _score_slices(test.groupby("source", sort=True), questions, params)}
    for asked in questions:
        if asked.kind == "classes":
            words = test[asked.column].map(dict(enumerate(asked.classes))).fillna("unknown")
            found[asked.name] = _score_slices(test.groupby(words, sort=True), questions, params)
    return found


def _score_slices(slices: Iterable[tuple[Hashable, pd.DataFrame]], questions: Sequence[Question], params: EvaluateParams) -> Report:
    return {str(word): _size(rows) | {asked.name: _score_slice(rows, asked, params) for asked in questions} for word, rows in slices}


def _score_slice(rows: pd.DataFrame, question: Question, params: EvaluateParams) -> Report:
    known = answered(rows, question)
    groups = int(known["group"].nunique())
    name, metric = headline(question)
    scores = with_intervals(known, {name: metric}, numbers(known, question.column), answers_to(known, question), params)
    too_few = groups < params.slice_min_groups
    if too_few:
        scores |= {f"{name}_low": None, f"{name}_high": None}
    return {"photos": len(known), "groups": groups, "too_few": too_few} | scores


def _size(rows: pd.DataFrame) -> Report:
    return {"photos": len(rows), "groups": int(rows["group"].nunique())}


# ---- alarms: signs that the metrics mislead


def find_alarms(table: pd.DataFrame, test: Report, *, questions: Sequence[Question], calibration: Calibration) -> list[str]:
    """One sentence for each thing that a person should check, in the order of the questions. `test`: the report of the test split."""
    alarms = []
    for question in questions:
        known = answered(table[table["split"] == "test"], question)
        sentences = [
            *_one_label(known, question),
            *_constant_answers(table, known, question),
            *_no_better_than_constant(question, test[question.name]),
            *(_poor_calibration(question, calibration) if question.has_classes else []),
        ]
        alarms += [f"{question.name}: {sentence}" for sentence in sentences]
    return alarms


def _one_label(known: pd.DataFrame, question: Question) -> list[str]:
    labels = known[question.column]
    if labels.empty:
        return ["no labelled photo in test, so its quality is unknown."]
    if len(labels) < 2 or labels.nunique() > 1:
        return []
    word = question.say_label(labels.iloc[0])
    return [f"all {len(labels)} labelled photos of test have the label {word}, so the model cannot be told from a constant."]


def _constant_answers(table: pd.DataFrame, known: pd.DataFrame, question: Question) -> list[str]:
    if table.empty:
        return []
    if np.ptp(table[question.raw_columns].to_numpy(np.float64), axis=0).max() < CONSTANT_SPREAD:
        return [f"the model gives the same answer for all {len(table)} photos."]
    if question.has_classes and known[question.column].nunique() > 1:
        chosen = np.unique(chosen_class(known, question))
        if len(chosen) == 1:
            return [f"'{question.say_label(chosen[0])}' is the likeliest answer for all {len(known)} labelled photos of test."]
    return []


def _no_better_than_constant(question: Question, scores: dict[str, Any]) -> list[str]:
    match question.kind:
        case "binary":
            low = scores["roc_auc_low"]
            return [f"the ROC AUC on test may be that of a coin (interval from {low:.3f})."] if low is not None and low <= 0.5 else []
        case "score":
            ratio = scores["mae_over_constant"]
            worse = ratio is not None and ratio >= 1
            return [f"the error on test is {ratio:.2f} of a constant answer's, so no better."] if worse else []
        case "classes":
            accuracy, constant = scores["accuracy"], scores["constant_accuracy"]
            worse = accuracy is not None and constant is not None and accuracy <= constant
            return [f"accuracy {accuracy:.3f} on test, no better than the commonest class ({constant:.3f})."] if worse else []
        case _:
            assert_never(question.kind)


def _poor_calibration(question: Question, calibration: Calibration) -> list[str]:
    fitted = calibration.questions[question.name]
    if fitted.temperature is None:
        return [f"its probabilities are not calibrated ({fitted.reason})."]
    low, high = TEMPERATURE_BOUNDS
    if not low * 1.01 < fitted.temperature < high / 1.01:
        return [f"the temperature {fitted.temperature:.3g} lies at the edge of {low:g} to {high:g}; its probabilities mean little."]
    return []
