"""Fits the calibration on the split val: corrects the class prior of training, then fits a temperature (model.calibration)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from carinspect.core.questions import Question
from carinspect.evaluation.predictions import answered, numbers
from carinspect.model.calibration import Calibration, DropoutPlan, Priors, QuestionCalibration, Reading, logit_offsets
from carinspect.scoring.ranking import Array

FITTED_ON = "val"
TEMPERATURE_BOUNDS = (0.05, 20.0)
PRIOR_DEVIATION = float(np.log(2))
"""Standard deviation of the prior of log t: it puts two thirds of the temperatures between 0.5 and 2."""


def fit_calibration(
    table: pd.DataFrame,
    questions: Sequence[Question],
    *,
    priors: Priors,
    uncertainty: DropoutPlan | None = None,
    reading: Reading | None = None,
) -> Calibration:
    """Offsets from the `priors` of training, temperatures from the `val` rows of the predictions; the rest is stored with them."""
    # Sorted, because the order of a sum changes its last digits.
    rows = table[table["split"] == FITTED_ON].sort_values("image_path", kind="stable")
    offsets = logit_offsets(questions, priors)
    fits = {asked.name: _fit(answered(rows, asked), asked, offsets[asked.name]) for asked in questions if asked.has_classes}
    return Calibration(fitted_on=FITTED_ON, questions=fits, uncertainty=uncertainty, reading=reading)


def fit_temperature(logits_NxK: Array, labels_N: Array) -> float:
    """The likeliest temperature t within `TEMPERATURE_BOUNDS` for softmax(logits / t), Guo et al. (2017), section 4.2.

    The fit is maximum a posteriori, with a normal prior of log t around 0 with `PRIOR_DEVIATION`. With some hundred photos the prior hardly
    matters. With a few photos that the model separates perfectly, it prevents t -> 0 and probabilities of exactly 0 or 1.
    """

    def loss(log_temperature: float) -> float:
        likelihood = negative_log_likelihood(logits_NxK, labels_N, temperature=float(np.exp(log_temperature))) * len(labels_N)
        return likelihood + 0.5 * (log_temperature / PRIOR_DEVIATION) ** 2

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURE_BOUNDS), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def negative_log_likelihood(logits_NxK: Array, labels_N: Array, *, temperature: float) -> float:
    """Mean over the photos of -log softmax(logits / temperature) at the true class, in nats."""
    log_p_NxK = log_softmax(logits_NxK / temperature, axis=1)
    return -float(log_p_NxK[np.arange(len(labels_N)), labels_N.astype(int)].mean())


def add_probabilities(table: pd.DataFrame, questions: Sequence[Question], calibration: Calibration) -> pd.DataFrame:
    """A copy of `table` with the calibrated probabilities of each question with classes. No temperature (None) counts as 1."""
    table = table.copy()
    for question in questions:
        if question.has_classes:
            probabilities_NxK = probabilities_of(table, question, calibration.questions[question.name])
            table[question.answer_columns] = probabilities_NxK[:, -len(question.answer_columns) :]
    return table


def probabilities_of(table: pd.DataFrame, question: Question, fitted: QuestionCalibration | None) -> Array:
    """Probabilities of a question with classes, shape (N, K); `fitted` None: without calibration."""
    logits_NxK = logits_of(table, question)
    if fitted is not None:
        logits_NxK = (logits_NxK + fitted.logit_offset) / (fitted.temperature or 1.0)
    return np.exp(log_softmax(logits_NxK, axis=1))


def logits_of(table: pd.DataFrame, question: Question) -> Array:
    """Logits, shape (N, K). A binary question gets a second logit of 0 for class 0, so that softmax equals the sigmoid."""
    logits_NxK = table[question.raw_columns].to_numpy(np.float64)
    return np.hstack([np.zeros_like(logits_NxK), logits_NxK]) if question.kind == "binary" else logits_NxK


def _fit(rows: pd.DataFrame, question: Question, offset_K: list[float]) -> QuestionCalibration:
    labels_N = numbers(rows, question.column)
    temperature, nll_before, nll_after, reason = None, None, None, None
    if len(np.unique(labels_N)) >= 2:
        bare_NxK = logits_of(rows, question)
        logits_NxK = bare_NxK + np.asarray(offset_K)
        temperature = fit_temperature(logits_NxK, labels_N)
        nll_before = negative_log_likelihood(bare_NxK, labels_N, temperature=1.0)
        nll_after = negative_log_likelihood(logits_NxK, labels_N, temperature=temperature)
    elif len(rows):
        reason = f"all {len(rows)} labelled photos in {FITTED_ON} have the same '{question.name}' label"
    else:
        reason = f"no photo in {FITTED_ON} has both a label and an answer for '{question.name}'"
    return QuestionCalibration(
        logit_offset=offset_K, temperature=temperature, photos=len(rows), nll_before=nll_before, nll_after=nll_after, reason=reason
    )
