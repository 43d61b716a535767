"""Computes what two models are compared on: the headline metrics of each question, and which decisions are right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import pandas as pd

from carinspect.core.errors import UserError
from carinspect.core.questions import Question, label_columns
from carinspect.evaluation.predictions import answered, chosen_class, numbers
from carinspect.scoring.classification import accuracy, brier, macro_f1
from carinspect.scoring.intervals import Metric
from carinspect.scoring.ranking import Array, average_precision, roc_auc
from carinspect.scoring.regression import mae


@dataclass(frozen=True)
class Measure:
    """A metric of one question's answers."""

    question: Question
    name: str
    metric: Metric
    higher_is_better: bool


def measures_of(question: Question) -> list[Measure]:
    """The metrics of a question, by its kind."""
    match question.kind:
        case "binary":
            found: list[tuple[str, Metric, bool]] = [
                ("roc_auc", roc_auc, True), ("average_precision", average_precision, True), ("brier", brier, False),
            ]  # fmt: skip
        case "score":
            found = [("mae", mae, False)]
        case "classes":
            found = [("accuracy", accuracy, True), ("macro_f1", macro_f1, True)]
        case _:
            assert_never(question.kind)
    return [Measure(question, name, metric, higher) for name, metric, higher in found]


def answers_to(rows: pd.DataFrame, question: Question) -> Array:
    """The answers that the measures of `question` are computed from, shape (N,)."""
    match question.kind:
        case "binary" | "score":
            return numbers(rows, question.answer_columns[0])
        case "classes":
            return chosen_class(rows, question)
        case _:
            assert_never(question.kind)


def both_answered(a: pd.DataFrame, b: pd.DataFrame, question: Question) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of two aligned tables that are labelled and that both models have answered."""
    common = answered(a, question).index.intersection(answered(b, question).index)
    return a.loc[common], b.loc[common]


def right_decisions(rows: pd.DataFrame, question: Question, *, T_high: float | None) -> Array:
    """1 where the decision is right: the good word from `T_high` of p_good on (None: never), or the likeliest class. Shape (N,)."""
    labels_N = numbers(rows, question.column)
    if question.kind == "classes":
        return (chosen_class(rows, question) == labels_N).astype(np.float64)
    good = question.label_of("good")
    p_N = numbers(rows, question.answer_columns[0])
    called_good_N = np.zeros(len(rows), bool) if T_high is None else (p_N if good == 1 else 1.0 - p_N) >= T_high
    return (called_good_N == (labels_N == good)).astype(np.float64)


def align_tests(
    a: pd.DataFrame, b: pd.DataFrame, *, questions: Sequence[Question], names: tuple[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The test rows of both predictions, in one order. Raises `UserError`, which says what differs, unless they are the same photos."""
    tests = [table[table["split"] == "test"].sort_values("image_path").reset_index(drop=True) for table in (a, b)]
    paths = [set(test["image_path"]) for test in tests]
    if paths[0] != paths[1]:
        only = [sorted(paths[0] - paths[1]), sorted(paths[1] - paths[0])]
        parts = [f"{len(photos)} only in {name} (e.g. {photos[0]})" for photos, name in zip(only, names, strict=True) if photos]
        raise _refusal(f"{len(paths[0] & paths[1])} photos are in both, {', '.join(parts)}")
    if not paths[0]:
        raise UserError("no photo in the split test, so there is nothing to compare.")
    for column in ("image_path", "sha256", "group", *label_columns(questions)):
        first, second = tests[0][column], tests[1][column]
        differ = ~((first == second) | (first.isna() & second.isna()))
        if differ.any():
            photo = tests[0]["image_path"][differ].iloc[0]
            values = " and ".join(f"{test[column][differ].iloc[0]!s}" for test in tests)
            raise _refusal(f"'{column}' differs for {int(differ.sum())} of {len(differ)} photos, e.g. {values} for {photo}")
    return tests[0], tests[1]


def _refusal(what: str) -> UserError:
    return UserError(f"the test photos differ: {what}. Evaluate both models on the same data, then compare.")
