"""Chooses for each question of several classes which classes are possible for a photo, with a stated coverage.

Split conformal prediction (Vovk, Gammerman and Shafer 2005; the score 1 - p of the true class: Sadinle, Lei and Wasserman 2019, "Least
ambiguous set-valued classifiers with bounded error levels"). Of n photos of the source split, one a group, the k-th largest probability of
the true class is the threshold, k = ceil((n + 1) coverage). A new photo's true class reaches it with at least the probability `coverage`,
whatever the network's probabilities are worth; this holds on average over the draws of the source split, for photos that pass the gate.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from carinspect.core.questions import Question
from carinspect.inference.gate import GateRule
from carinspect.inference.rules import SetRule
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.evidence import Floats
from carinspect.thresholds.gate import passes_gate
from carinspect.thresholds.sample import draw_one_a_group

ROUNDING = 1e-6
"""The threshold is lowered by this, since the table has six decimals, so that rounding never takes a class out of a set."""


def choose_sets(table: pd.DataFrame, questions: Sequence[Question], params: SelectThresholdParams, *, gate: GateRule) -> dict[str, SetRule]:
    """The rule of each question of kind classes, by name, from a table of predictions; empty where no coverage is asked for."""
    if params.coverage is None:
        return {}
    passing = table[passes_gate(table, gate)]
    return {asked.name: _choose(passing, asked, params, coverage=params.coverage) for asked in questions if asked.kind == "classes"}


def _choose(table: pd.DataFrame, question: Question, params: SelectThresholdParams, *, coverage: float) -> SetRule:
    p_NxK, label_N = _answers(table[table["split"] == params.source], question)
    place, reason, threshold = math.ceil((len(label_N) + 1) * coverage - 1e-9), None, None
    if params.source != "calib":
        reason = f"{params.source} has also chosen the epoch and the temperature"
    elif place > len(label_N):
        reason = f"{len(label_N)} labelled groups of {params.source} are too few: it takes {math.ceil(coverage / (1 - coverage) - 1e-9)}"
    else:
        true_N = p_NxK[np.arange(len(label_N)), label_N]
        threshold = max(0.0, float(np.sort(true_N)[::-1][place - 1]) - ROUNDING)
    rule = SetRule(coverage=coverage, threshold=threshold, groups=len(label_N), reason=reason, coverage_on_test=None, classes_on_test=None)
    p_NxK, label_N = _answers(table[table["split"] == "test"], question)
    if threshold is None or not len(label_N):
        return rule
    sets = [rule.possible(dict(zip(question.classes, p, strict=True))) or () for p in p_NxK.tolist()]
    covered = [question.classes[label] in one for one, label in zip(sets, label_N.tolist(), strict=True)]
    return rule.model_copy(
        update={"coverage_on_test": float(np.mean(covered)), "classes_on_test": float(np.mean([len(one) for one in sets]))}
    )


def _answers(rows: pd.DataFrame, question: Question) -> tuple[Floats, np.ndarray]:
    """Probabilities (N, K) and labels (N,) of one photo of each labelled group; empty where the model was not trained on the question."""
    columns = question.answer_columns
    if any(column not in rows.columns for column in columns):
        return np.zeros((0, len(columns))), np.zeros(0, dtype=np.int64)
    rows = rows[rows[question.column].notna() & rows[columns].notna().all(axis=1)]
    rows = rows[draw_one_a_group(rows)]
    return rows[columns].to_numpy(np.float64), rows[question.column].to_numpy(np.int64)
