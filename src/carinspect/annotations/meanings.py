"""What a category of an export or a class folder can mean, and the words for it in sources.yaml."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from carinspect.annotations.config import RESERVED_MEANINGS, ConvertAnnotationsParams
from carinspect.annotations.listing import show_name
from carinspect.annotations.records import Reading, SourceContext
from carinspect.annotations.sources import Source
from carinspect.core.errors import UserError, did_you_mean, shorten
from carinspect.core.questions import Question


@dataclass(frozen=True)
class Meaning:
    """What one category or class folder says about a photo."""

    kind: Literal["damage", "dirt", "vehicle", "ignore", "labels"]
    class_name: str = ""
    """The severity class, for `damage` and `dirt`."""
    labels: Mapping[str, float] = field(default_factory=dict)
    """Label column → value, for `labels`."""


def read_meaning(
    value: str | dict[str, Any], params: ConvertAnnotationsParams, questions: Mapping[str, Question], *, where: str
) -> Meaning:
    """One value of `categories`. Raises `UserError` that begins with `where` for a word or label that means nothing."""
    if isinstance(value, dict):
        return Meaning("labels", labels=_read_labels(value, questions, where))
    if value in params.damage_severity:
        return Meaning("damage", class_name=value)
    if value in params.dirt_severity:
        return Meaning("dirt", class_name=value)
    if value == "vehicle":
        return Meaning("vehicle")
    if value == "ignore":
        return Meaning("ignore")
    raise UserError(
        f"{where} has the meaning {shorten(value)!r}. {did_you_mean(value, known_words(params))} Or labels such as {{clean: 1}}."
    )


def read_meanings(context: SourceContext) -> dict[str, Meaning]:
    """Category or class folder → its meaning, as the source states it."""
    source, where = context.source, context.where
    return {
        name: read_meaning(value, context.params, context.questions, where=f"{where}.categories.{name}")
        for name, value in source.categories.items()
    }


def known_words(params: ConvertAnnotationsParams) -> list[str]:
    """Every one-word meaning that an annotated category can have."""
    return sorted([*params.damage_severity, *params.dirt_severity, *RESERVED_MEANINGS])


def suggest_meaning(name: str, params: ConvertAnnotationsParams, questions: Mapping[str, Question], *, outlines: bool) -> str:
    """The nearest meaning for a category (`outlines`) or a class folder as YAML; `'?'`, which no parser accepts, when none is near."""
    if outlines:
        known = {word: word for word in known_words(params)}
    else:
        known = {word: f"{{{asked.name}: {word}}}" for asked in questions.values() for word in asked.classes}
    nearest = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return known[nearest[0]] if nearest else "'?'"


def _read_labels(given: dict[str, Any], questions: Mapping[str, Question], where: str) -> dict[str, float]:
    if not given:
        raise UserError(f"{where} has the meaning {{}}, which says nothing. Write `ignore`, or labels such as {{clean: 1}}.")
    labels: dict[str, float] = {}
    for name, value in given.items():
        if name not in questions:
            raise UserError(f"{where}.{name}: no question has this name. {did_you_mean(name, questions)}")
        try:
            labels[questions[name].column] = questions[name].read_label(value)
        except ValueError as error:
            raise UserError(f"{where}.{name} {error}") from None
    return complete_labels(labels, questions.values(), where=where)


def complete_labels(labels: dict[str, float], questions: Iterable[Question], *, where: str) -> dict[str, float]:
    """`labels` with what a score and the class that follows from it (`from_score`) say about each other.

    A score gives the class; the good class alone gives a score of 1; the bad class alone gives none. Raises `UserError` that begins with
    `where` when the two contradict each other. A stated bad class stands beside a score that lies above the cut-off and below 1.
    """
    labels = dict(labels)
    for asked in questions:
        if asked.from_score is None:
            continue
        column, below = asked.from_score.column, asked.from_score.below
        stated, score = labels.get(asked.column), labels.get(column)
        good, bad = float(asked.label_of("good")), float(asked.label_of("bad"))
        if score is None:
            if stated == good:
                labels[column] = 1.0
        elif stated is None:
            labels[asked.column] = bad if score < below else good
        elif (stated == bad and score == 1) or (stated == good and score < below):
            raise UserError(
                f"{where}: {asked.column} is {stated:g} ({asked.say_label(stated)}), but {column} is {score:g}, and {asked.bad} begins "
                f"below {below:g}. Correct one."
            )
    return labels


def check_meanings(
    readings: Mapping[str, Reading],
    sources: Sequence[Source],
    params: ConvertAnnotationsParams,
    questions: Mapping[str, Question],
    *,
    file: str,
) -> None:
    """Raise one `UserError` that names every category of every source without a meaning, with what to paste into `file`."""
    problems = []
    for source in sources:
        unmapped = readings[source.name].unmapped
        if not unmapped:
            continue
        outlines = source.format == "coco"
        unit = "annotations" if outlines else "photos"
        found = ", ".join(f"{show_name(name)} ({unit}: {unmapped[name]})" for name in sorted(unmapped))
        lines = ", ".join(f"{_yaml_name(name)}: {suggest_meaning(name, params, questions, outlines=outlines)}" for name in sorted(unmapped))
        problems.append(f"source '{source.name}' has no meaning for {found}. Add to its categories, once you agree: {{{lines}}}.")
    if problems:
        words = ", ".join(known_words(params))
        raise UserError(f"{file}: {' '.join(problems)} Meanings: {words}, or labels such as {{clean: 1}}.")


def _yaml_name(name: str) -> str:
    # YAML would read 0 as a number and no as false.
    plain = re.fullmatch(r"[A-Za-z][\w-]*", name) and name.lower() not in ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
    return name if plain else json.dumps(name, ensure_ascii=False)


def check_claims(readings: Mapping[str, Reading]) -> set[str]:
    """The `image_path` of every described photo. Raises `UserError` when one is described twice: its labels could be either's."""
    claims: dict[str, str] = {}
    for name, reading in readings.items():
        for photo in reading.photos:
            if photo.image_path in claims:
                both = f"by '{claims[photo.image_path]}' and by '{name}'"
                raise UserError(f"the photo {photo.image_path!r} is described twice, {both}. Leave it out of one, by `exclude` or by path.")
            claims[photo.image_path] = name
    return set(claims)
