"""Owns what turns logits into probabilities which mean what they say: the training's class prior is undone, then a temperature fitted.

p = softmax((logits + logit_offset) / temperature). `fit_calibration` gives what models/calibration.json holds:

    {"fitted_on": "val",
     "logit_offset": {"clean": [dirty, clean], "weather": [...]},     zeros where training showed the classes as they occur
     "temperature": {"clean": t, "weather": t},          null where none could be fitted; the logits then stand as they are
     "clean": {"photos": n, "nll_before": x, "nll_after": x, "reason": null or why there is none},
     "weather": {the same}}

"before" is the bare model: no offset, no temperature.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from carinspect.core.tasks import LABEL_COLUMN, Task
from carinspect.evaluation.answers import WEATHER_LOGITS, WEATHER_PROBABILITIES, labelled, numbers
from carinspect.model.priors import Priors, logit_offsets
from carinspect.scoring.ranking import Array

FITTED_ON = "val"
CLASSIFIERS: tuple[Task, ...] = ("clean", "weather")
TEMPERATURE_BOUNDS = (0.05, 20.0)
PRIOR_DEVIATION = float(np.log(2))
"""Of log t: two temperatures in three lie between a half and two."""


def fit_calibration(table: pd.DataFrame, *, priors: Priors) -> dict[str, Any]:
    """Offsets from the `priors` of training and temperatures from the `val` rows of the predictions; the module's head has the layout."""
    # Sorted, since the order of a sum shows in its last digits.
    rows = table[table["split"] == FITTED_ON].sort_values("image_path", kind="stable")
    offsets = logit_offsets(priors)
    fits: dict[str, dict[str, Any]] = {task: _fit_task(labelled(rows, task), task, offsets[task]) for task in CLASSIFIERS}
    temperatures = {task: fit.pop("temperature") for task, fit in fits.items()}
    return {"fitted_on": FITTED_ON, "logit_offset": offsets, "temperature": temperatures, **fits}


def fit_temperature(logits_NxK: Array, labels_N: Array) -> float:
    """The likeliest temperature t within `TEMPERATURE_BOUNDS` for softmax(logits / t), Guo et al. (2017), section 4.2.

    Beforehand log t is taken for normal around 0 with `PRIOR_DEVIATION` (maximum a posteriori). Some hundred photos outweigh that by far.
    A few that the model separates don't: without it they would drive t to 0, and every probability to 0 or 1.
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


def add_probabilities(table: pd.DataFrame, calibration: dict[str, Any]) -> pd.DataFrame:
    """A copy of `table` with `p_clean` and `p_weather_*`; NaN where the task was not trained. A temperature of None counts as 1."""
    table = table.copy()
    table["p_clean"] = probabilities_of(table, "clean", calibration)[:, 1]
    table[WEATHER_PROBABILITIES] = probabilities_of(table, "weather", calibration)
    return table


def probabilities_of(table: pd.DataFrame, task: Task, calibration: dict[str, Any] | None) -> Array:
    """Shape (N, K): dirty and clean, or the four weathers. None: as the bare model says."""
    logits_NxK = logits_of(table, task)
    if calibration is not None:
        logits_NxK = (logits_NxK + calibration["logit_offset"][task]) / (calibration["temperature"][task] or 1.0)
    return np.exp(log_softmax(logits_NxK, axis=1))


def logits_of(table: pd.DataFrame, task: Task) -> Array:
    """Shape (N, K). `clean` has one logit; against a zero for dirty its softmax is the sigmoid."""
    if task == "weather":
        return table[WEATHER_LOGITS].to_numpy(np.float64)
    logit_N = numbers(table, "clean_logit")
    return np.stack([np.zeros_like(logit_N), logit_N], axis=1)


def _fit_task(rows: pd.DataFrame, task: Task, offset_K: list[float]) -> dict[str, Any]:
    labels_N = numbers(rows, LABEL_COLUMN[task])
    classes = len(np.unique(labels_N))
    if classes < 2:
        return {"photos": len(rows), "nll_before": None, "nll_after": None, "temperature": None, "reason": _reason(rows, task)}
    bare_NxK = logits_of(rows, task)
    logits_NxK = bare_NxK + np.asarray(offset_K)
    temperature = fit_temperature(logits_NxK, labels_N)
    return {
        "photos": len(rows),
        "nll_before": negative_log_likelihood(bare_NxK, labels_N, temperature=1.0),
        "nll_after": negative_log_likelihood(logits_NxK, labels_N, temperature=temperature),
        "temperature": temperature,
        "reason": None,
    }


def _reason(rows: pd.DataFrame, task: Task) -> str:
    if rows.empty:
        return f"no photo in {FITTED_ON} has both a label and an answer for '{task}'"
    return f"all {len(rows)} labelled photos in {FITTED_ON} have the same '{task}' label"
