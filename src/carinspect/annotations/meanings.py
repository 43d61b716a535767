"""Owns what a category of an export or a class folder can mean, and the words for it in sources.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from carinspect.annotations.config import RESERVED_MEANINGS, ConvertAnnotationsParams
from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.tasks import WEATHER_CLASSES

LABEL_KEYS = ("clean", "cleanliness", "damaged", "damage", "weather")
"""Keys of a label mapping such as `{clean: 1, weather: rain}`."""

_USUAL_FOLDERS = {
    "clean": "{clean: 1}", "dirty": "{clean: 0}", "damaged": "{damaged: 1}", "undamaged": "{damaged: 0}", "whole": "{damaged: 0}",
    "clear": "{weather: clear}", "rain": "{weather: rain}", "fog": "{weather: fog}", "snow": "{weather: snow}",
}  # fmt: skip


@dataclass(frozen=True)
class Meaning:
    """What one category or class folder says about a photo."""

    kind: Literal["damage", "dirt", "vehicle", "ignore", "labels"]
    class_name: str = ""
    """The severity class, for `damage` and `dirt`."""
    labels: Mapping[str, float] = field(default_factory=dict)
    """Label column → value, for `labels`."""


def read_meaning(value: str | dict[str, Any], params: ConvertAnnotationsParams, *, where: str) -> Meaning:
    """One value of `categories`. Raises `UserError` that begins with `where` for a word or label that means nothing."""
    if isinstance(value, dict):
        return Meaning("labels", labels=_read_labels(value, where))
    if value in params.damage_severity:
        return Meaning("damage", class_name=value)
    if value in params.dirt_severity:
        return Meaning("dirt", class_name=value)
    if value == "vehicle":
        return Meaning("vehicle")
    if value == "ignore":
        return Meaning("ignore")
    raise UserError(f"{where} has the meaning {value!r}. {did_you_mean(value, known_words(params))} Or labels such as {{clean: 1}}.")


def known_words(params: ConvertAnnotationsParams) -> list[str]:
    """Every one-word meaning that an annotated category can have."""
    return sorted([*params.damage_severity, *params.dirt_severity, *RESERVED_MEANINGS])


def suggest_meaning(name: str, params: ConvertAnnotationsParams, *, outlines: bool) -> str:
    """The nearest meaning for a category (`outlines`) or a class folder as YAML; `'?'`, which no parser accepts, when none is near."""
    known = {word: word for word in known_words(params)} if outlines else _USUAL_FOLDERS
    nearest = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return known[nearest[0]] if nearest else "'?'"


def _read_labels(given: dict[str, Any], where: str) -> dict[str, float]:
    if not given:
        raise UserError(f"{where} has the meaning {{}}, which says nothing. Write `ignore`, or labels such as {{clean: 1}}.")
    labels: dict[str, float] = {}
    for key, value in given.items():
        match key:
            case "clean":
                labels["clean"] = _zero_or_one(value, f"{where}.clean")
            case "cleanliness":
                labels["cleanliness_score"] = _share(value, f"{where}.cleanliness")
            case "damaged":
                labels["damaged"] = _zero_or_one(value, f"{where}.damaged")
            case "damage":
                labels["damage_score"] = _share(value, f"{where}.damage")
            case "weather":
                labels["weather_condition"] = _weather(value, f"{where}.weather")
            case _:
                raise UserError(f"{where}.{key}: unknown label. {did_you_mean(key, LABEL_KEYS)}")
    return complete_damage(labels, where=where)


def complete_damage(labels: dict[str, float], *, where: str) -> dict[str, float]:
    """`labels` with what `damaged` and `damage_score` say about each other: damaged 0 is a score of 1, damaged 1 alone has none.

    Raises `UserError` that begins with `where` when the two contradict each other.
    """
    damaged, score = labels.get("damaged"), labels.get("damage_score")
    if score is not None:
        implied = 1.0 if score < 1 else 0.0
        if damaged is not None and damaged != implied:
            raise UserError(f"{where}: damaged is {damaged:g}, but the damage score is {score:g} (1 = undamaged). Correct one.")
        return {**labels, "damaged": implied}
    return {**labels, "damage_score": 1.0} if damaged == 0 else labels


def _zero_or_one(value: Any, where: str) -> float:
    if isinstance(value, bool) or value not in (0, 1):
        raise UserError(f"{where} has the value {value!r}. It must be 0 or 1.")
    return float(value)


def _share(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"{where} has the value {value!r}. It must be a number from 0 to 1.")
    return float(value)


def _weather(value: Any, where: str) -> float:
    if value not in WEATHER_CLASSES:
        raise UserError(f"{where} has the value {value!r}. {did_you_mean(value, WEATHER_CLASSES)}")
    return float(WEATHER_CLASSES.index(value))
