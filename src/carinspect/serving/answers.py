"""The form of the service's answers. They are built from checked values, so nothing checks them again on their way out."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, assert_never

from pydantic import Field

from carinspect.core.gate import REASONS
from carinspect.core.questions import Side
from carinspect.inference.car import CarAnswer, judge_car
from carinspect.inference.marks import Mark
from carinspect.inference.predictor import Answer, BinaryAnswer, ClassesAnswer, QuestionAnswer, ScoreAnswer
from carinspect.inference.rows import flat_answer
from carinspect.inference.rules import SIDES, UNSURE, CarRules, DecisionRule, MarkRule, Promise
from carinspect.serving.engine import Seen


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds."""

    queue_ms: Annotated[float, Field(description="Accepted, and waiting for its turn.")]
    decode_ms: float
    model_ms: float
    total_ms: Annotated[float, Field(description="From the last byte of the photo to the answer.")]


@dataclass(frozen=True, slots=True)
class QuestionForm:
    """The answer to one question. None where it does not apply to the question's kind, or nothing is decided about it."""

    kind: Literal["binary", "score", "classes"]
    value: Annotated[float | str | None, Field(description="The score, or the likeliest class.")] = None
    p: Annotated[float | dict[str, float] | None, Field(description="Probability of class 1, or of each class.")] = None
    possible: Annotated[list[str] | None, Field(description="The classes that are possible at the stated coverage.")] = None
    label: Annotated[str | None, Field(description="The likelier word by the threshold alone.")] = None
    decision: Annotated[str | None, Field(description="A class, or unsure.")] = None
    side: Annotated[Side | None, Field(description="Whether the decision is the good or the bad class.")] = None
    threshold: Annotated[float | None, Field(description="The label is the good word when its probability is at least this.")] = None
    promise: Annotated[Promise | None, Field(description="What is proved of photos that are decided so.")] = None
    in_words: Annotated[str | None, Field(description="The decision and its promise in plain words.")] = None
    std: Annotated[float | None, Field(description="Standard deviation, where the model can tell it.")] = None
    reason: Annotated[str | None, Field(description="Why the photo is unlike those of the proof: dark, blurred, unlike …")] = None


@dataclass(frozen=True, slots=True)
class MarksForm:
    """The marked places of a photo."""

    width_px: Annotated[int, Field(description="Of the upright photo; places are in its pixels.")]
    height_px: int
    places: Annotated[list[Mark], Field(description="By question, the strongest first.")]
    without_pixel: Annotated[int, Field(description="Marked places left out, for the photo is so small that they hold no pixel of it.")]
    in_words: Annotated[dict[str, str], Field(description="By question: how many places are marked, and what is proved about them.")]


@dataclass(frozen=True, slots=True)
class PhotoAnswer:
    """The answer to one photo. Besides the fields below each answer stands under its own name as in a table of scores, e.g. `p_clean`.

    `label`, `threshold`, `decision`, `promise` and `promise_low` are those of the first decided question.
    """

    label: str | None
    threshold: float | None
    decision: str | None
    reason: Annotated[str | None, Field(description="Why the photo is unlike those of the proof: dark, blurred, unlike …")]
    promise: Annotated[
        Promise | None,
        Field(description="Of what gets the good word. None when nothing is proved, or when the operator replaced a threshold."),
    ]
    promise_low: Annotated[Promise | None, Field(description="The same of the bad word.")]
    overridden: Annotated[bool, Field(description="Whether the operator replaced a threshold of the model.")]
    in_words: Annotated[str, Field(description="The decision and its promise in plain words.")]
    answers: Annotated[dict[str, QuestionForm], Field(description="By question.")]
    uncertainty: Annotated[dict[str, float] | None, Field(description="Standard deviations, where the model can tell them.")]
    marks: Annotated[MarksForm | None, Field(description="With ?marks=true.")]
    model_version: str
    timings: Timings


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One photo of several: its answer, or why there is none."""

    answer: Annotated[dict[str, Any] | None, Field(description="As of /predict/file.")]
    error: str | None
    status: Annotated[int, Field(description="The status that the photo alone would have got.")]


@dataclass(frozen=True, slots=True)
class CarForm(CarAnswer):
    """The answer to one question about a car."""

    side: Annotated[Side | None, Field(description="Whether the decision is the good or the bad class.")] = None
    in_words: Annotated[str | None, Field(description="The decision and its promise in plain words; None for a score.")] = None


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """The answers to several photos, in the order sent."""

    photos: list[BatchItem]
    car: Annotated[dict[str, CarForm] | None, Field(description="By question, with ?car=true, where every photo has an answer.")]
    model_version: str


def form_answer(seen: Seen, *, total_s: float) -> dict[str, Any]:
    """`PhotoAnswer` with the flat answers beside its fields, for a photo that was answered `total_s` seconds after its last byte came."""
    predictor, busy_s = seen.model.predictor, seen.decode_s + seen.model_s
    promises = {} if predictor.lead is None else predictor.lead.promises
    answers = {asked.name: _form_question(seen.answer[asked.name], predictor.rules.get(asked.name)) for asked in predictor.questions}
    flat = flat_answer(predictor, seen.answer)
    for asked in predictor.questions:
        if asked.kind == "classes":
            # One object, where a table has a column a class.
            flat[f"p_{asked.name}"] = answers[asked.name].p
    spreads = {asked.spread: flat.pop(asked.spread) for asked in predictor.questions}
    uncertainty = {name: value for name, value in spreads.items() if value is not None}
    form = PhotoAnswer(
        label=flat["label"],
        threshold=flat["threshold"],
        decision=flat["decision"],
        reason=flat["reason"],
        promise=promises.get("good"),
        promise_low=promises.get("bad"),
        overridden=any(rule.overridden for rule in predictor.rules.values()),
        in_words="This model decides nothing." if predictor.lead is None else answers[predictor.lead.question.name].in_words or "",
        answers=answers,
        uncertainty=uncertainty or None,
        marks=_form_marks(seen),
        model_version=seen.model.version,
        timings=Timings(
            queue_ms=_milliseconds(max(0.0, total_s - busy_s)),
            decode_ms=_milliseconds(seen.decode_s),
            model_ms=_milliseconds(seen.model_s),
            total_ms=_milliseconds(total_s),
        ),
    )
    return {**flat, **{name: getattr(form, name) for name in form.__slots__}}


def _form_question(answer: QuestionAnswer, rule: DecisionRule | None) -> QuestionForm:
    match answer:
        case BinaryAnswer(side=side):
            promise = None if rule is None or side is None else rule.promises.get(side)
            words = None if rule is None else say(side, rule, reason=answer.reason if answer.decision == UNSURE else None)
            return QuestionForm(
                "binary", p=answer.p, label=answer.label, decision=answer.decision, side=side, threshold=answer.threshold,
                promise=promise, in_words=words, std=answer.std, reason=answer.reason,
            )  # fmt: skip
        case ScoreAnswer():
            return QuestionForm("score", value=answer.value, std=answer.std)
        case ClassesAnswer():
            possible = None if answer.possible is None else list(answer.possible)
            return QuestionForm("classes", value=answer.value, p=answer.p, possible=possible, std=answer.std)
        case _:
            assert_never(answer)


def _form_marks(seen: Seen) -> MarksForm | None:
    if seen.marks is None or seen.model.marker is None:
        return None
    rules = seen.model.marker.mark_rules(seen.answer)
    counts = {name: sum(mark.question == name for mark in seen.marks.marks) for name in rules}
    words = {name: _say_marks(counts[name], rule) for name, rule in rules.items()}
    return MarksForm(seen.photo.width_px, seen.photo.height_px, seen.marks.marks, seen.marks.without_pixel, words)


def _say_marks(count: int, rule: MarkRule) -> str:
    if count == 0:
        return f"No place is marked as {rule.kind}."
    words = f"{count} {'place is' if count == 1 else 'places are'} marked as {rule.kind}."
    if rule.promise is None:
        return f"{words} No promise: it is not proved that such places are {rule.kind}."
    precision, confidence = f"{100 * rule.promise.target_precision:g} %", f"{100 * rule.promise.confidence:g} %"
    return (
        f"{words} On photos like those it was tested on, at least {precision} of such places touch {rule.kind} ({confidence} confidence)."
    )


def form_verdict(answers: list[Answer | None], rules: Mapping[str, CarRules]) -> dict[str, CarForm] | None:
    """The verdict on the car that all of the photos show; None where one of them has no answer, for it might be the bad one."""
    known = [answer for answer in answers if answer is not None]
    if len(known) < len(answers):
        return None
    return {name: _form_verdict(one, rules.get(name)) for name, one in judge_car(known, rules).items()}


def _form_verdict(answer: CarAnswer, rules: CarRules | None) -> CarForm:
    values = {field.name: getattr(answer, field.name) for field in fields(answer)}
    if rules is None:
        return CarForm(**values)
    side = next((side for side in SIDES if rules.photo.say(side) == answer.decision), None)
    return CarForm(**values, side=side, in_words=_say_verdict(answer, rules))


def _say_verdict(answer: CarAnswer, rules: CarRules) -> str:
    if answer.reason is not None:
        return f"Nothing is decided about this car: photo {answer.worst_photo + 1} is {REASONS[answer.reason]}."
    if answer.decision == UNSURE:
        return f"The photos do not settle whether the car is {rules.photo.question.word('good')}; a person should look at it."
    words = f"The car is {answer.decision}."
    if answer.promise is None:
        return f"{words} No promise: {answer.no_promise}"
    return f"{words} Of {_say_promise(str(answer.decision), answer.promise, 'cars')}"


def say(side: Side | None, rule: DecisionRule, *, reason: str | None = None) -> str:
    """The decision and its proof, for a person who does not know thresholds. reason: why the gate turned the photo away."""
    if reason is not None:
        return f"Nothing is decided about this photo: it is {REASONS[reason]}."
    word, good = rule.say(side), rule.question.word("good")
    words = f"The car is {word}." if side else f"The photo does not settle whether the car is {good}; a person should look at it."
    if rule.overridden:
        return f"{words} No promise: the operator of this service replaced the model's threshold or opened its gate."
    if not rule.promises:
        return f"{words} No promise: the photos at hand were too few to prove one."
    if side is None:
        return words
    if side in rule.promises:
        return f"{words} Of {_say_promise(word, rule.promises[side], 'photos')}"
    ((other, promise),) = rule.promises.items()
    return f"{words} Only “{rule.say(other)}” carries a promise: of {_say_promise(rule.say(other), promise, 'photos')}"


def _say_promise(word: str, promise: Promise, units: str) -> str:
    precision, confidence = f"{100 * promise.precision:g} %", f"{100 * promise.confidence:g} %"
    return f"{units} like those it was tested on, at least {precision} of what is called {word} is {word} ({confidence} confidence)."


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
