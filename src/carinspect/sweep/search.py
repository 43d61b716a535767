"""Finds a recipe for a data root: one parameter after the other is varied, and the value that answers val best stays.

The score is the mean skill over the questions (1 - loss / loss of the best constant answer) of answers as they are evaluated: at
the reading side, after calibration. The loss is the negative log-likelihood where there are classes, and the absolute error for
scores. No photo of another split is looked at.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.params import Number, Section, parse_section
from carinspect.core.questions import Question
from carinspect.evaluation.metrics import constant_answer
from carinspect.evaluation.predictions import answers_to, class_probabilities, numbers
from carinspect.scoring.intervals import Estimate, Metric, estimate
from carinspect.scoring.ranking import Array
from carinspect.training.config import Recipe

SECTIONS = ("model", "train")
CONFIDENCE = 0.95
_LEAST = 1e-6
"""Probabilities are cut at this and at one less it, so that one confident error does not decide everything."""


class SearchParams(Section):
    """What is tried, and for how long."""

    minutes: Number = Field(gt=0)
    tried: dict[str, list[Any]] = Field(min_length=1)
    """Parameter, as in params.yaml → its values."""


Losses = Mapping[str, tuple[Array, Array]]
"""Question → the loss of each photo of val, and that of the best constant answer; NaN without a label. Both have the shape (N,)."""


@dataclass(frozen=True)
class Trial:
    """One training."""

    parameter: str
    """What was varied; blank for the recipe that the search starts from."""
    value: Any
    score: float
    gain: Estimate | None
    """Of the score, over the recipe that this one varies, on the same photos; None for the first."""
    seconds: float
    kept: bool
    """Whether the value is in the recipe that was found."""


@dataclass(frozen=True)
class Found:
    """The result of a search."""

    recipe: Recipe
    trials: list[Trial]
    left_out: list[str]
    """Parameters and values that there was no time for."""


def losses_of(predictions: pd.DataFrame, questions: Sequence[Question]) -> Losses:
    """From the calibrated answers to the photos of val. A question without a label is left out."""
    found: dict[str, tuple[Array, Array]] = {}
    for question in questions:
        labels_N, constant = numbers(predictions, question.column), constant_answer(predictions, question)
        if constant is None:
            continue
        if question.has_classes:
            known = ~np.isnan(labels_N)
            shares_K = np.bincount(labels_N[known].astype(int), minlength=len(question.classes)) / known.sum()
            constant_NxK = np.tile(shares_K, (len(labels_N), 1))
            found[question.name] = _log_loss(labels_N, class_probabilities(predictions, question)), _log_loss(labels_N, constant_NxK)
        else:
            found[question.name] = np.abs(answers_to(predictions, question) - labels_N), np.abs(constant - labels_N)
    return found


def _log_loss(labels_N: Array, chances_NxK: Array) -> Array:
    known = ~np.isnan(labels_N)
    losses_N = np.full(len(labels_N), np.nan)
    right_N = chances_NxK[known, labels_N[known].astype(int)]
    losses_N[known] = -np.log(np.clip(right_N, _LEAST, 1 - _LEAST))
    return losses_N


def mean_skill(losses: Losses) -> Metric:
    """The score as a metric of weighted photos; its labels and answers are not looked at."""

    def metric(_labels_N: Array, _answers_N: Array, weights_SxN: Array) -> Array:
        skills = []
        for own_N, constant_N in losses.values():
            known = ~np.isnan(own_N)
            skills.append(1 - weights_SxN[:, known] @ own_N[known] / (weights_SxN[:, known] @ constant_N[known]))
        return np.asarray(np.mean(skills, axis=0))

    return metric


def vary(recipe: Recipe, parameter: str, value: Any) -> Recipe:
    """`recipe` with another value of one parameter. Raises `UserError` for one that there is not, or a value that it does not take."""
    section, _, name = parameter.partition(".")
    values = recipe.model_dump(mode="json")
    known = [f"{one}.{key}" for one in SECTIONS for key in values[one]]
    if parameter not in known:
        raise UserError(f"tried: no parameter of the recipe is called '{parameter}'. {did_you_mean(parameter, known)}")
    values[section][name] = value
    return parse_section("recipe", Recipe, values, file=f"{parameter}: {value}")


def search(
    recipe: Recipe,
    params: SearchParams,
    train: Callable[[Recipe], Losses],
    *,
    groups_N: np.ndarray,
    tell: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """Try the values of each parameter in turn, and go on with the best.

    train: the losses of a recipe on val, whose groups are `groups_N`. tell: is told of each training. A training that by the times of those
    before it would end after the budget is left out. Raises `UserError` as `vary`, before the first training.
    """
    for parameter, values in params.tried.items():
        for value in values:
            vary(recipe, parameter, value)
    begin, rows = clock(), np.arange(len(groups_N), dtype=np.float64)
    trials: list[Trial] = []
    left_out: list[str] = []
    seconds_a_unit = 0.0

    def measure(candidate: Recipe, parameter: str, value: Any, before: Losses | None) -> tuple[Losses, Trial]:
        nonlocal seconds_a_unit
        start = clock()
        losses = train(candidate)
        seconds = clock() - start
        # A training that was remembered takes no time.
        seconds_a_unit = max(seconds_a_unit, seconds / _cost(candidate))
        score = float(mean_skill(losses)(rows, rows, np.ones((1, len(rows))))[0])
        gain = None
        if before is not None:
            gain = estimate(_difference(losses, before), rows, rows, groups_N=groups_N, confidence=CONFIDENCE, scale="difference")
        trial = Trial(parameter, value, score, gain, seconds, kept=False)
        tell(say_trial(trial))
        return losses, trial

    losses, first = measure(recipe, "", None, None)
    best, best_losses, score = recipe, losses, first.score
    trials.append(first)
    for parameter, values in params.tried.items():
        section, _, name = parameter.partition(".")
        start, start_losses, winner = best, best_losses, None
        now = getattr(getattr(start, section), name)
        for value in values:
            if value == now:
                continue
            candidate = vary(start, parameter, value)
            if clock() - begin + seconds_a_unit * _cost(candidate) > 60 * params.minutes:
                left_out.append(f"{parameter}: {value}")
                continue
            losses, trial = measure(candidate, parameter, value, start_losses)
            trials.append(trial)
            if trial.score > score:
                best, best_losses, score, winner = candidate, losses, trial.score, len(trials) - 1
        if winner is not None:
            trials[winner] = replace(trials[winner], kept=True)
    return Found(best, trials, left_out)


def _difference(losses: Losses, before: Losses) -> Metric:
    one, other = mean_skill(losses), mean_skill(before)
    return lambda labels_N, answers_N, weights_SxN: one(labels_N, answers_N, weights_SxN) - other(labels_N, answers_N, weights_SxN)


def _cost(recipe: Recipe) -> float:
    """Of a training, in photos' pixels: what it takes is nearly proportional to it."""
    return float(recipe.train.epochs * recipe.train.image_side_px**2)


def say_trial(trial: Trial) -> str:
    """One line."""
    what = f"{trial.parameter}: {trial.value}" if trial.parameter else "the recipe as it is"
    return f"{what}: score {trial.score:.4f}{_say_gain(trial)}, {trial.seconds / 60:.1f} minutes"


def _say_gain(trial: Trial) -> str:
    if trial.gain is None or trial.gain.value is None:
        return ""
    if trial.gain.low is None:
        return f", {trial.gain.value:+.4f}"
    return f", {trial.gain.value:+.4f} ({trial.gain.low:+.4f} to {trial.gain.high:+.4f})"


def tabulate_trials(trials: Sequence[Trial]) -> pd.DataFrame:
    """One row a training, in their order."""
    rows = []
    for trial in trials:
        gain = trial.gain
        rows.append({
            "parameter": trial.parameter, "value": trial.value, "score": trial.score, "gain": None if gain is None else gain.value,
            "gain_low": None if gain is None else gain.low, "gain_high": None if gain is None else gain.high,
            "minutes": trial.seconds / 60, "kept": trial.kept,
        })  # fmt: skip
    return pd.DataFrame(rows)


def write_found(found: Found, tried: Mapping[str, Sequence[Any]]) -> str:
    """What to put into params.yaml, as YAML, each value with what it and the others brought."""
    lines = [f"# Score on val: {found.trials[0].score:.4f} before, {max(one.score for one in found.trials):.4f} with:"]
    for section in SECTIONS:
        names = [parameter for parameter in tried if parameter.startswith(f"{section}.")]
        lines += [f"{section}:"] if names else []
        for parameter in names:
            name = parameter.partition(".")[2]
            others = [one for one in found.trials if one.parameter == parameter]
            said = "; ".join(f"{one.value}{_say_gain(one)}" for one in others) or "no other value was tried"
            lines.append(f"  {name}: {getattr(getattr(found.recipe, section), name)}  # {said}")
    return "\n".join(lines) + "\n"
