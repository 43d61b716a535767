"""Corrections of labels: a CSV of the data root in which people overrule what its sources say. The sources stay as they came.

| column | content |
|---|---|
| `image_path` | the photo, as in the tables |
| `question` | the question's name |
| `new_label` | a class by name or number, a score 0..1, or `unknown`; a row in which it is blank corrects nothing |
| `who`, `when` | who decided, and the day as 2026-11-27 |

Further columns are ignored, so that the list of `carinspect describe --review` is such a file once the last three are filled in.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from carinspect.annotations.csv_source import read_text_table
from carinspect.annotations.meanings import complete_labels
from carinspect.annotations.records import LabelledPhoto, Reading
from carinspect.core.errors import UserError, did_you_mean, shorten
from carinspect.core.questions import Question

CORRECTION_COLUMNS = ("image_path", "question", "new_label", "who", "when")

UNKNOWN = "unknown"
"""The new label of a photo that cannot be judged."""


class Correction(NamedTuple):
    """One new label. `label` is None where nobody can know it."""

    question: Question
    label: float | None
    who: str


class Corrections(NamedTuple):
    """All of one file: the corrections of each photo, and how many rows have no new label."""

    by_photo: Mapping[str, list[Correction]]
    left_blank: int


def read_corrections(path: Path, questions: Mapping[str, Question], *, where: str) -> Corrections:
    """Raises `UserError` in one line that names the row: an unknown question, a label out of its range, a photo and question twice."""
    if not path.is_file():
        raise UserError(f"{where}: {str(path)!r} is no file. Correct the path, or take the key out.")
    table = read_text_table(path)
    for column in CORRECTION_COLUMNS:
        if column not in table.columns:
            raise UserError(f"{path}: column '{column}' is missing. {did_you_mean(column, table.columns)}")
    by_photo: dict[str, list[Correction]] = {}
    rows_of: dict[tuple[str, str], int] = {}
    left_blank = 0
    for row, cells in enumerate(table[list(CORRECTION_COLUMNS)].to_dict("records"), start=2):
        photo, name, new_label, who, when = (str(cells[column]).strip() for column in CORRECTION_COLUMNS)
        if not new_label:
            left_blank += 1
            continue
        at = f"{path}, row {row}"
        if name not in questions:
            raise UserError(f"{at}: no question is called {shorten(name)!r}. {did_you_mean(name, questions)}")
        if first := rows_of.get((photo, name)):
            raise UserError(f"{at}: '{name}' of {photo!r} is corrected in row {first} already. Keep one of the two rows.")
        if not who:
            raise UserError(f"{at}: who is blank. Name the person who decided.")
        rows_of[photo, name] = row
        _check_day(when, at)
        label = None if new_label == UNKNOWN else _read_label(new_label, questions[name], at)
        by_photo.setdefault(photo, []).append(Correction(questions[name], label, who))
    return Corrections(by_photo, left_blank)


def _check_day(when: str, at: str) -> None:
    try:
        date.fromisoformat(when)
    except ValueError:
        raise UserError(f"{at}: when has the value {shorten(when)!r}. Write a day as 2026-11-27.") from None


def _read_label(text: str, question: Question, at: str) -> float:
    value: float | str = text
    if text not in question.classes:
        with suppress(ValueError):
            value = float(text)
    try:
        return question.read_label(value)
    except ValueError as error:
        raise UserError(f"{at}: new_label of '{question.name}' {error} Or write {UNKNOWN}.") from None


def correct_labels(
    corrections: Corrections, readings: Mapping[str, Reading], questions: Mapping[str, Question], *, path: Path
) -> dict[str, Any]:
    """Overrule the labels of `readings` in place, and return the counts for the metrics.

    Raises `UserError` for a photo that no source describes, and where two corrections of one photo contradict each other.
    """
    places = {photo.image_path: (reading, place) for reading in readings.values() for place, photo in enumerate(reading.photos)}
    changed, people, already_so = Counter[str](), Counter[str](), 0
    for image_path, given in corrections.by_photo.items():
        if image_path not in places:
            raise UserError(f"{path}: no source describes the photo {shorten(image_path)!r}. Correct image_path, or drop the row.")
        reading, place = places[image_path]
        old: LabelledPhoto = reading.photos[place]
        for correction in given:
            same = old.labels.get(correction.question.column) == correction.label
            already_so += same
            changed[correction.question.name] += not same
            people[correction.who] += not same
        labels = _overrule(old.labels, given, questions, where=f"{path}: {image_path!r}")
        reading.photos[place] = replace(old, labels=labels)
    return {
        "changed": changed.total(),
        "already_so": already_so,
        "left_blank": corrections.left_blank,
        "questions": {name: count for name, count in changed.items() if count},
        "people": {name: count for name, count in people.items() if count},
    }


def _overrule(labels: Mapping[str, float], given: list[Correction], questions: Mapping[str, Question], *, where: str) -> dict[str, float]:
    new: dict[str, float | None] = {**labels, **{correction.question.column: correction.label for correction in given}}
    corrected = {correction.question.column for correction in given}
    for asked in questions.values():
        if asked.from_score is None:
            continue
        score, below = asked.from_score.column, asked.from_score.below
        if score in corrected and asked.column not in corrected:
            new[asked.column] = None  # it follows from the new score
        elif asked.column in corrected and score not in corrected and (old := labels.get(score)) is not None:
            stated = new[asked.column]
            bad = stated == asked.label_of("bad")
            # The old score belongs to the label that was wrong.
            if stated is None or (bad and old == 1) or (not bad and old < below):
                new[score] = None
    return complete_labels({column: label for column, label in new.items() if label is not None}, questions.values(), where=where)


def say_corrections(counts: Mapping[str, Any], *, name: str) -> str:
    """The counts in one line."""

    def listed(of: Mapping[str, int]) -> str:
        return ", ".join(f"{word} {count:,}" for word, count in sorted(of.items()))

    changed = f"{counts['changed']:,} labels corrected"
    if counts["changed"]:
        changed += f" ({listed(counts['questions'])}; by {listed(counts['people'])})"
    return f"{name}: {changed}; {counts['already_so']:,} were so already, {counts['left_blank']:,} rows have no new label"
