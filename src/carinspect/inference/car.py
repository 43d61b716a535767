"""Judges one car from the answers to its photos: each decided question by the rule for cars, each score by the worst photo.

A car is decided by the same code as a photo, from the lowest p_good of its photos: one dirty side makes a dirty car. The rule depends on
their number. No torch, no pandas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from carinspect.core.errors import UserError
from carinspect.inference.predictor import Answer, BinaryAnswer, ScoreAnswer
from carinspect.inference.rules import UNSURE, CarRules, Promise, Unit


@dataclass(frozen=True, slots=True)
class CarAnswer:
    """The answer to one question, from all photos of a car."""

    decision: str | None
    """A class of the question, or `unsure`; None for a score."""
    value: float
    """The lowest of its photos: p_good, or the score. What is visible in one photo counts, whatever the others show."""
    worst_photo: int
    """Index of that photo."""
    unit: Unit | None
    """`car`: a rule for cars decided. `photo`: the photo's rule did, for lack of one; it proves nothing for cars. None: a score."""
    promise: Promise | None
    """What the decision proves; None for *unsure*, and where nothing is proved of cars with so many photos."""
    reason: str | None = None
    """Why the gate turned `worst_photo` away, a key of `core.gate.REASONS`, so that the car is unsure; None: all photos passed."""
    no_promise: str | None = None
    """Why the word promises nothing, in words; None where it does, and for *unsure* and scores."""


def judge_car(answers: Sequence[Answer], rules: Mapping[str, CarRules]) -> dict[str, CarAnswer]:
    """The verdict from the answers to all photos of one car, in any order; rules: see `rules.car_rules_in_use`.

    `answers` must be of *all* photos of the car, since the promise depends on their number. Raises `UserError` without a photo.
    """
    if not answers:
        raise UserError("a car without a photo cannot be judged. Give at least one.")
    verdict = {}
    for name, first in answers[0].items():
        of_cars = rules.get(name)
        if isinstance(first, BinaryAnswer) and of_cars is not None:
            rule = of_cars.of(len(answers))
            found = [_binary(answer[name]) for answer in answers]
            away = next((place for place, one in enumerate(found) if one.reason and one.decision == UNSURE), None)
            worst, p_good = _lowest([one.p_good for one in found])
            if away is not None:
                verdict[name] = CarAnswer(UNSURE, p_good, away, rule.unit, None, found[away].reason)
                continue
            side = rule.decide(p_good)
            promise, why_not = (rule.promises.get(side), of_cars.why_no_promise(len(answers), side)) if side is not None else (None, None)
            verdict[name] = CarAnswer(rule.say(side), p_good, worst, rule.unit, promise, no_promise=why_not)
        elif isinstance(first, ScoreAnswer):
            worst, value = _lowest([_value(answer[name]) for answer in answers])
            verdict[name] = CarAnswer(None, value, worst, None, None)
    return verdict


def _binary(answer: object) -> BinaryAnswer:
    assert isinstance(answer, BinaryAnswer)
    return answer


def _value(answer: object) -> float:
    assert isinstance(answer, ScoreAnswer)
    return answer.value


def _lowest(values: Sequence[float]) -> tuple[int, float]:
    lowest = min(values)
    return values.index(lowest), lowest
