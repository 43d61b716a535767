"""What goes to a labelling tool and comes back, in no tool's format: tasks, what one person said of one photo, and the words for it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.outline_kinds import OUTLINE_KINDS
from carinspect.core.errors import UserError, did_you_mean, shorten
from carinspect.core.questions import Question

CHECKED = "checked"
"""The word by which a person says that a photo's answers are right, in tools that hand back what nobody has looked at."""

Point = tuple[float, float]


class Outline(NamedTuple):
    """A closed line on a photo."""

    word: str
    """A class of damage or of dirt, or just `damage` or `dirt`, where nobody has said which."""
    points: tuple[Point, ...]
    """x, y in pixels, EXIF applied."""


@dataclass(frozen=True)
class Task:
    """One photo to label."""

    file: str
    """Its name in the tool: `<SHA-256><suffix>`."""
    image_path: str
    """As the list names it."""
    width_px: int
    height_px: int
    answers: Mapping[str, str] = field(default_factory=dict)
    """Question → class that the model says, for a person to confirm."""
    outlines: tuple[Outline, ...] = ()
    """What the model marked."""

    @property
    def is_answered(self) -> bool:
        """Whether the person sees what the model says."""
        return bool(self.answers or self.outlines)


@dataclass(frozen=True)
class Returned:
    """What one person said of one photo."""

    file: str
    who: str
    size_px: tuple[int, int] | None
    """Width and height that the outlines are in; None: the tool does not say."""
    answers: Mapping[str, frozenset[str]]
    """Question → the classes that were chosen."""
    outlines: tuple[Outline, ...]
    skipped: bool = False
    checked: bool = False
    """Whether the person said `CHECKED`, or the tool tells answers from what it was given."""


class Words(NamedTuple):
    """What may be said."""

    classes: Mapping[str, Sequence[str]]
    """Question → its classes."""
    kinds: Mapping[str, str]
    """Word of an outline → `damage` or `dirt`."""

    @property
    def tags(self) -> dict[str, tuple[str, str]]:
        """`<question>:<class>` → both, for tools that know labels of a photo and no questions."""
        return {f"{name}:{word}": (name, word) for name, classes in self.classes.items() for word in classes}

    def check_class(self, name: str, word: str, *, where: str) -> None:
        """Raise `UserError` for a question or class that params.yaml does not declare."""
        if name not in self.classes:
            raise UserError(f"{where}: no question is called {shorten(name)!r}. {did_you_mean(name, self.classes)}")
        if word not in self.classes[name]:
            raise UserError(f"{where}: {shorten(word)!r} is no class of {name}. {did_you_mean(word, self.classes[name])}")

    def check_outline(self, word: str, *, where: str) -> None:
        """Raise `UserError` for a word that no outline has."""
        if word not in self.kinds:
            raise UserError(f"{where}: an outline is called {shorten(word)!r}. {did_you_mean(word, self.kinds)}")

    def check_label(self, label: str, *, where: str) -> None:
        """Raise `UserError` for a label that is none of tags, outlines and `CHECKED`."""
        known = [*self.tags, *self.kinds, CHECKED]
        if label not in known:
            raise UserError(f"{where}: the label {shorten(label)!r} is unknown. {did_you_mean(label, known)}")


def read_words(questions: Iterable[Question], params: ConvertAnnotationsParams) -> Words:
    """The classes of every question that has some, and the words of every kind of outline that a question's score is made of."""
    questions = list(questions)
    classes = {question.name: question.classes for question in questions if question.has_classes}
    severities = {"damage": params.damage_severity, "dirt": params.dirt_severity}
    scored = {name for name, kind in OUTLINE_KINDS.items() if any(question.column == kind.score_column for question in questions)}
    return Words(classes, {word: name for name in sorted(scored) for word in (*severities[name], name)})


def box_points(x: float, y: float, width: float, height: float) -> tuple[Point, ...]:
    """The corners of a box."""
    return ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
