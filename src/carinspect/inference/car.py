"""Owns the verdict on one car from the answers to its photos: the worst damage, and clean by the car's own rule. No torch, no pandas."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from carinspect.core.errors import UserError


class PhotoAnswer(Protocol):
    """What a verdict takes from the answer to one photo; None where the model was not trained on that question."""

    @property
    def p_clean(self) -> float | None: ...

    @property
    def cleanliness(self) -> float | None: ...

    @property
    def damage(self) -> float | None: ...


@dataclass(frozen=True)
class CarRule:
    """Clean when the lowest p_clean of the car's photos >= T_high, dirty when it is < T_low, unsure between. None: never said."""

    T_high: float | None
    T_low: float | None
    level: Literal["car", "photo"]
    """`car`: chosen on cars. `photo`: the photo's rule put to every photo, for want of cars to choose one on; it proves nothing of cars."""
    promise: dict[str, Any] | None
    """What "clean" proves of a car of several photos: `{precision, confidence, of}`; None where nothing is proven."""
    promise_low: dict[str, Any] | None
    """The same of "dirty"."""


@dataclass(frozen=True)
class Verdict:
    """Of one car; a number is None where the model was not trained on its question."""

    photos: int
    decision: Literal["clean", "dirty", "unsure"]
    p_clean: float | None
    """The lowest of its photos."""
    dirtiest_photo: int | None
    """Index of that photo."""
    cleanliness: float | None
    """The lowest of its photos."""
    damage: float | None
    """The lowest of its photos, 0..1, 1 = undamaged: damage that one photo shows is there, whatever the others see."""
    most_damaged_photo: int | None
    """Index of that photo."""
    level: Literal["car", "photo"]
    """Which rule decided, see `CarRule`."""
    proves: dict[str, Any] | None
    """What the word proves; None for *unsure*, and where nothing is proven."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def read_car_rule(threshold: Mapping[str, Any]) -> CarRule:
    """The rule for cars of several photos in `threshold`, the content of models/threshold.json as a model file carries it.

    Where no car-level threshold was found the photo's T_high and T_low stand in, without their promise. Raises `UserError` where the key
    `car` is missing.
    """
    car = threshold.get("car")
    if car is None:
        raise UserError("the model's threshold has no rule for cars. Make the model file again: dvc repro export_onnx.")
    if car["T_high"] is None and car["T_low"] is None:
        return CarRule(threshold["T_high"], threshold["T_low"], level="photo", promise=None, promise_low=None)
    return CarRule(car["T_high"], car["T_low"], level="car", promise=car["proves"], promise_low=car["proves_low"])


def judge_car(answers: Sequence[PhotoAnswer], rule: CarRule) -> Verdict:
    """The verdict from the answers to all photos of one car, in any order.

    A single photo is decided by the same rule, but its promise speaks of cars of several. Raises `UserError` without a photo.
    """
    if not answers:
        raise UserError("a car without a photo cannot be judged. Give at least one.")
    dirtiest, p_clean = _lowest([answer.p_clean for answer in answers])
    _, cleanliness = _lowest([answer.cleanliness for answer in answers])
    most_damaged, damage = _lowest([answer.damage for answer in answers])
    decision, promise = _decide(p_clean, rule)
    return Verdict(
        photos=len(answers),
        decision=decision,
        p_clean=p_clean,
        dirtiest_photo=dirtiest,
        cleanliness=cleanliness,
        damage=damage,
        most_damaged_photo=most_damaged,
        level=rule.level,
        proves=promise if len(answers) > 1 else None,
    )


def _decide(p_clean: float | None, rule: CarRule) -> tuple[Literal["clean", "dirty", "unsure"], dict[str, Any] | None]:
    if p_clean is not None and rule.T_high is not None and p_clean >= rule.T_high:
        return "clean", rule.promise
    if p_clean is not None and rule.T_low is not None and p_clean < rule.T_low:
        return "dirty", rule.promise_low
    return "unsure", None


def _lowest(values: Sequence[float | None]) -> tuple[int | None, float | None]:
    """Index and value of the lowest; (None, None) unless every photo has one."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None, None
    lowest = min(known)
    return values.index(lowest), lowest
