"""Owns the form of the service's answers. They are built from checked values, so nothing checks them again on their way out."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from carinspect.inference.car import CarRule, judge_car
from carinspect.inference.decision import Decision, DecisionRule, Label
from carinspect.serving.engine import Seen


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds."""

    queue_ms: Annotated[float, Field(description="Accepted, and waiting for its turn.")]
    decode_ms: float
    model_ms: float
    total_ms: Annotated[float, Field(description="From the last byte of the photo to the answer.")]


@dataclass(frozen=True, slots=True)
class Promise:
    """What is proved of the photos that get one of the rule's words."""

    precision: float
    confidence: float
    of: str


@dataclass(frozen=True, slots=True)
class ExplanationForm:
    """How much the answer falls when a cell of the photo is covered."""

    of: Annotated[str, Field(description="The answer in question, e.g. p_clean.")]
    grid: Annotated[list[list[float]], Field(description="Row by row from the upper left corner.")]


@dataclass(frozen=True, slots=True)
class PhotoAnswer:
    """The answer to one photo. None where the model was not trained on the task."""

    label: Label | None
    p_clean: float | None
    threshold: float | None
    decision: Decision | None
    promise: Annotated[
        Promise | None,
        Field(description="Of what is called clean. None when nothing is proved, or when the operator replaced a threshold."),
    ]
    promise_low: Annotated[Promise | None, Field(description="The same of what is called dirty.")]
    overridden: Annotated[bool, Field(description="Whether the operator replaced a threshold of the model.")]
    in_words: Annotated[str, Field(description="The decision and its promise in plain words.")]
    cleanliness: Annotated[float | None, Field(description="0..1, 1 = clean.")]
    damage: Annotated[float | None, Field(description="0..1, 1 = undamaged.")]
    weather: str | None
    p_weather: dict[str, float] | None
    uncertainty: Annotated[dict[str, float | None] | None, Field(description="Standard deviations, where the model can tell them.")]
    explanation: ExplanationForm | None
    model_version: str
    timings: Timings


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One photo of several: its answer, or why there is none."""

    answer: PhotoAnswer | None
    error: str | None
    status: Annotated[int, Field(description="The status that the photo alone would have got.")]


@dataclass(frozen=True, slots=True)
class CarVerdict:
    """Of one car, from all of its photos; places count from 0."""

    decision: Decision
    p_clean: Annotated[float | None, Field(description="The lowest of its photos.")]
    dirtiest_photo: int | None
    cleanliness: Annotated[float | None, Field(description="The lowest of its photos.")]
    damage: Annotated[float | None, Field(description="The lowest of its photos, 1 = undamaged.")]
    most_damaged_photo: int | None
    level: Annotated[
        Literal["car", "photo"], Field(description="Whether a rule for cars decided, or the photo's, which proves nothing of cars.")
    ]
    proves: Promise | None


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """The answers to several photos, in the order sent."""

    photos: list[BatchItem]
    car: Annotated[CarVerdict | None, Field(description="With ?car=true, where every photo has an answer.")]
    model_version: str


def form_answer(seen: Seen, *, total_s: float) -> PhotoAnswer:
    """The answer to a photo that was seen `total_s` seconds after its last byte had come."""
    answer, rule = seen.answer, seen.model.predictor.rule
    busy_s = seen.decode_s + seen.model_s
    explanation = seen.explanation
    return PhotoAnswer(
        label=answer.label,
        p_clean=answer.p_clean,
        threshold=answer.threshold,
        decision=answer.decision,
        promise=form_promise(rule.promise),
        promise_low=form_promise(rule.promise_low),
        overridden=rule.overridden,
        in_words=say(answer.decision, rule),
        cleanliness=answer.cleanliness,
        damage=answer.damage,
        weather=answer.weather,
        p_weather=answer.p_weather,
        uncertainty=answer.uncertainty,
        explanation=None if explanation is None else ExplanationForm(of=explanation.of, grid=explanation.grid),
        model_version=seen.model.version,
        timings=Timings(
            queue_ms=_milliseconds(max(0.0, total_s - busy_s)),
            decode_ms=_milliseconds(seen.decode_s),
            model_ms=_milliseconds(seen.model_s),
            total_ms=_milliseconds(total_s),
        ),
    )


def form_promise(proved: dict[str, Any] | None) -> Promise | None:
    """A rule's promise, `{precision, confidence, of}` or None."""
    return None if proved is None else Promise(proved["precision"], proved["confidence"], proved["of"])


def form_verdict(items: list[BatchItem], rule: CarRule) -> CarVerdict | None:
    """The verdict on the car that all of the photos show; None where one of them has no answer, for it might be the dirty one."""
    answers = [item.answer for item in items if item.answer is not None]
    if len(answers) < len(items):
        return None
    verdict = judge_car(answers, rule)
    return CarVerdict(
        decision=verdict.decision,
        p_clean=verdict.p_clean,
        dirtiest_photo=verdict.dirtiest_photo,
        cleanliness=verdict.cleanliness,
        damage=verdict.damage,
        most_damaged_photo=verdict.most_damaged_photo,
        level=verdict.level,
        proves=form_promise(verdict.proves),
    )


def say(decision: Decision | None, rule: DecisionRule) -> str:
    """The decision and what stands behind it, for a person who knows nothing of thresholds."""
    words = {
        "clean": "The car is clean.",
        "dirty": "The car is dirty.",
        "unsure": "The photo does not settle whether the car is clean; a person should look.",
        None: "This model was not taught to tell clean from dirty.",
    }[decision]
    if decision is None:
        return words
    if rule.overridden:
        return f"{words} No promise: the operator of this service replaced the model's threshold."
    promises = rule.promises
    if not promises:
        return f"{words} No promise: the photos at hand were too few to prove one."
    if decision == "unsure":
        return words
    if decision in promises:
        return f"{words} Of {_say_promise(decision, promises[decision])}"
    ((other, promise),) = promises.items()
    return f"{words} Only “{other}” carries a promise: of {_say_promise(other, promise)}"


def _say_promise(word: str, promise: dict[str, Any]) -> str:
    precision, confidence = (f"{100 * promise[key]:g} %" for key in ("precision", "confidence"))
    return f"photos like those it was tested on, at least {precision} of what is called {word} is {word} ({confidence} confidence)."


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
