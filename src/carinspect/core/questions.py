"""Defines questions: what is asked about a photo, its labels, and the names of its answers.

A question is declared in params.yaml under `questions`. Code branches on its kind, never on its name:

| kind | label in the tables | answer of the model |
|---|---|---|
| `binary` | 0 or 1, an index into the two `classes` | `p_<name>`: probability of class 1 |
| `score` | 0..1, 1 = good | `<name>`: 0..1 |
| `classes` | 0..K-1, an index into `classes` | `p_<name>`: a probability for each class |
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, assert_never

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from carinspect.core.errors import UserError, did_you_mean, shorten
from carinspect.core.gate import OUTPUT as GATE
from carinspect.core.params import QUESTIONS_FILE, Number, Section, load_yaml, parse_section

Kind = Literal["binary", "score", "classes"]
MarkKind = Literal["damage", "dirt"]
"""What annotators outline on a photo."""
Side = Literal["good", "bad"]
"""One of the two classes of a binary question: its good class (clean, undamaged) or the other one."""

MARKS = "marks"
"""Output of a model file with maps: probabilities that a cell is marked, shape (B, K, h, w), for the K questions with a map."""

TABLE_COLUMNS = (
    "image_path", "source", "width_px", "height_px", "sha256", "phash", "family", "declared_split", "group", "split", "reason",
    "label", "decision", "threshold", "error",
)  # fmt: skip
"""Columns of the tables that belong to no question."""

LOSSES: dict[Kind, tuple[str, ...]] = {
    "binary": ("cross_entropy", "focal"),
    "score": ("smooth_l1", "mse", "bce"),
    "classes": ("cross_entropy",),
}


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_share(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"has the value {value}. It must lie between 0 and 1, e.g. 0.95.")
    return value


def _check_price(value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"has the value {value}. A price is a number from 0 on.")
    return value


Words = Annotated[tuple[str, ...], BeforeValidator(_to_tuple)]
Share = Annotated[Number, AfterValidator(_check_share)]
"""Between 0 and 1, both excluded."""
Price = Annotated[Number, AfterValidator(_check_price)]
"""In any one unit of money, for one car."""


class FromScore(Section):
    """A binary question whose label follows from a score's: class `bad` below the cut-off, the good class from it on."""

    column: str
    """Label column of a question of kind score."""
    below: Number = Field(gt=0, le=1)


class Costs(Section):
    """Costs of wrong and of unsure decisions; a right decision costs nothing."""

    wrong_good: Price
    """A bad car called by the good word, e.g. a dirty one called clean."""
    wrong_bad: Price
    """A good car called by the bad word."""
    review: Price
    """A person reviews the photo; the reviewer is assumed to be right."""


class Decide(Section):
    """The promise for the two words of a binary question, and the costs of mistakes."""

    target_precision: Share
    """Share of right answers among those called by either word."""
    confidence: Share
    """Share of calibration sets for which the proof of either word holds."""
    field_rate: Share | None
    """Share of the bad class where the model will work: the promise is then kept at that rate. None: as in the source split."""
    costs: Costs


class Question(Section):
    """What is asked, with its labels and answers: everything that the data, the network and the model file depend on."""

    name: str
    kind: Kind
    column: str
    """Label column of the tables."""
    classes: Words = ()
    """Names of the classes in the order of their numbers; a score has none."""
    good: str | None = None
    """The good class, of a binary question."""
    from_score: FromScore | None = None
    """For a binary question whose label follows from a score's; else None."""
    marks: MarkKind | None = None
    """For a score: the model also says where these marks are. It learns it from outlines."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"'{self.name}' is no identifier. Write small letters, digits and _, a letter first, e.g. glass_ok.")
        if not re.fullmatch(r"[A-Za-z]\w*", self.column) or self.column in TABLE_COLUMNS:
            raise ValueError(f"column '{self.column}' is no name for a label column. Write letters, digits and _, e.g. {self.name}_label.")
        if any(not re.fullmatch(r"[A-Za-z0-9]\w{0,63}", word) for word in self.classes):
            raise ValueError(f"classes {shorten(list(self.classes))}: a class is one word of at most 64 letters, digits and _.")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes {list(self.classes)}: a name repeats. Give each class its own.")
        if "unsure" in self.classes:
            raise ValueError("classes: 'unsure' is what is said when no class is decided. Rename the class.")
        match self.kind:
            case "binary":
                if len(self.classes) != 2:
                    raise ValueError(f"classes {list(self.classes)}: a binary question has two, class 0 first.")
                if self.good not in self.classes:
                    raise ValueError(f"good is {self.good!r}. It must be one of {list(self.classes)}.")
            case "score":
                if self.classes or self.good is not None:
                    raise ValueError("a score has neither classes nor a good one: 1 is good. Remove them, or set kind: binary.")
                if self.column == self.name:
                    raise ValueError(f"column '{self.column}' is the answer's name as well. Name the label column {self.name}_score.")
            case "classes":
                if len(self.classes) < 3:
                    raise ValueError(f"classes {list(self.classes)}: name three or more, or set kind: binary.")
                if self.good is not None and self.good not in self.classes:
                    raise ValueError(f"good is {self.good!r}. It must be one of {list(self.classes)}.")
            case _:
                assert_never(self.kind)
        if self.from_score is not None and self.kind != "binary":
            raise ValueError(f"from_score belongs to a binary question, and this is of kind {self.kind}. Remove it.")
        if self.marks is not None and self.kind != "score":
            raise ValueError(f"marks belongs to a score, and this is of kind {self.kind}. Remove it.")
        return self

    # ---- labels

    @property
    def has_classes(self) -> bool:
        """Whether a label is the number of a class; else it is a score 0..1."""
        return self.kind != "score"

    @property
    def highest_label(self) -> int:
        """Labels run from 0 to this."""
        return len(self.classes) - 1 if self.has_classes else 1

    @property
    def bad(self) -> str:
        """The class of a binary question that is not the good one."""
        return self.word("bad")

    def word(self, side: Side) -> str:
        """The class of a binary question on one side."""
        (other,) = (name for name in self.classes if name != self.good)
        return str(self.good) if side == "good" else other

    def label_of(self, side: Side) -> int:
        """The label of that class, 0 or 1."""
        return self.classes.index(self.word(side))

    def read_label(self, value: Any) -> float:
        """A label as sources.yaml states it: a class by number or name, or a score. Raises `ValueError` with the reason."""
        if self.has_classes and isinstance(value, str):
            if value not in self.classes:
                raise ValueError(f"has the value {value!r}. {did_you_mean(value, self.classes)}")
            return float(self.classes.index(value))
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= self.highest_label
        if not number or (self.has_classes and value % 1):
            range_ = f"a whole number from 0 to {self.highest_label}, or one of {', '.join(self.classes)}"
            raise ValueError(f"has the value {value!r}. It must be {range_ if self.has_classes else 'a number from 0 to 1'}.")
        return float(value)

    def say_label(self, label: float) -> str:
        """A label in words: the class's name, or the score with two decimals."""
        return self.classes[int(label)] if self.has_classes else f"{label:.2f}"

    # ---- answers

    @property
    def head_width(self) -> int:
        """Number of the network's outputs for this question: 1, or one for each class."""
        match self.kind:
            case "binary" | "score":
                return 1
            case "classes":
                return len(self.classes)
            case _:
                assert_never(self.kind)

    @property
    def raw_columns(self) -> list[str]:
        """Columns of predictions.csv before calibration: logits, or the score itself."""
        match self.kind:
            case "binary":
                return [f"{self.name}_logit"]
            case "score":
                return [self.name]
            case "classes":
                return [f"{self.name}_logit_{word}" for word in self.classes]
            case _:
                assert_never(self.kind)

    @property
    def answer_columns(self) -> list[str]:
        """Columns of predictions.csv and of scores with the calibrated answer."""
        match self.kind:
            case "binary":
                return [f"p_{self.name}"]
            case "score":
                return [self.name]
            case "classes":
                return [f"p_{self.name}_{word}" for word in self.classes]
            case _:
                assert_never(self.kind)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Outputs of the model file, float32: (B,), and (B, K) for classes. The last is the answer, one before it the logits."""
        match self.kind:
            case "binary":
                return (f"{self.name}_logit", f"p_{self.name}")
            case "score":
                return (self.name,)
            case "classes":
                return (f"{self.name}_logits", f"p_{self.name}")
            case _:
                assert_never(self.kind)

    @property
    def spread(self) -> str:
        """Column and output with the standard deviation of the answer over the masks of Monte-Carlo dropout."""
        return f"{self.outputs[-1]}_std"


class DeclaredQuestion(Question):
    """A question as params.yaml declares it, with its loss and its decision."""

    loss: str
    loss_weight: Number = Field(ge=0, allow_inf_nan=False)
    """Weight of its loss in the total loss."""
    decide: Decide | None = None
    """For a binary question only. None: the model gives its probability, but nothing is decided or promised."""

    @model_validator(mode="after")
    def _can_be_learnt_and_decided(self) -> Self:
        if self.loss not in LOSSES[self.kind]:
            raise ValueError(f"loss is '{self.loss}'. For kind {self.kind}: {', '.join(LOSSES[self.kind])}.")
        if self.decide is not None and self.kind == "score":
            raise ValueError(
                "decide: a score has no cut-off, so there are no two words to promise. Declare a binary question beside it with "
                f"from_score: {{column: {self.column}, below: 0.98}}, and put decide there."
            )
        if self.decide is not None and self.kind == "classes":
            raise ValueError("decide: a promise is made for binary questions. Remove it, or declare a binary question.")
        return self

    @property
    def asked(self) -> Question:
        """The part of it that tables and answers depend on, without loss and decision."""
        return Question(**{name: getattr(self, name) for name in Question.model_fields})


QuestionT = TypeVar("QuestionT", bound=Question)


def read_questions(params: Mapping[str, Any]) -> tuple[DeclaredQuestion, ...]:
    """The section `questions` of params.yaml. Raises `UserError` for an invalid declaration."""
    declared = params.get("questions")
    if not isinstance(declared, dict) or not declared:
        raise UserError("params.yaml has no section 'questions'. Add it, or restore it from git.")
    questions = [
        parse_section(f"questions.{name}", DeclaredQuestion, values | {"name": str(name)} if isinstance(values, dict) else values)
        for name, values in declared.items()
    ]
    return check_questions(questions)


def load_questions(path: Path = QUESTIONS_FILE) -> tuple[Question, ...]:
    """The questions that `resolve_recipe` wrote, which the stages use. Raises `UserError` if there are none."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. Run dvc repro resolve_recipe.")
    recipe = load_yaml(path)
    asked = recipe.get("questions") if isinstance(recipe, dict) else None
    if not isinstance(asked, list) or not asked:
        raise UserError(f"{path} has no list 'questions'. Run dvc repro resolve_recipe.")
    return parse_questions(asked, file=str(path))


def parse_questions(asked: Sequence[Any], *, file: str) -> tuple[Question, ...]:
    """Questions from the plain values in `file`: a recipe, a checkpoint or a model file."""
    return check_questions([parse_section("questions", Question, values, file=file) for values in asked])


def dump_questions(questions: Iterable[Question]) -> list[dict[str, Any]]:
    """Plain values that `parse_questions` reads."""
    return [question.model_dump(mode="json") for question in questions]


def check_questions(questions: Sequence[QuestionT]) -> tuple[QuestionT, ...]:
    """Return the questions unchanged. Raises `UserError` if another question or the project itself has a column or answer of one."""
    columns = dict.fromkeys((*TABLE_COLUMNS, MARKS, GATE), "carinspect itself")
    for question in questions:
        labels_and_answers = [question.column, *question.raw_columns, *question.answer_columns, *question.outputs, question.spread]
        if question.kind != "score":
            labels_and_answers.append(question.name)
        for column in dict.fromkeys(labels_and_answers):
            if columns.setdefault(column, f"'{question.name}'") != f"'{question.name}'":
                raise UserError(
                    f"questions.{question.name}: '{column}' is taken by {columns[column]}. Rename the question, or its label column."
                )
    scores = {question.column for question in questions if question.kind == "score"}
    for question in questions:
        if question.from_score is not None and question.from_score.column not in scores:
            raise UserError(
                f"questions.{question.name}.from_score.column is '{question.from_score.column}', and no question of kind score has it. "
                f"{did_you_mean(question.from_score.column, scores)}"
            )
    return tuple(questions)


def by_name(questions: Iterable[QuestionT]) -> dict[str, QuestionT]:
    """Name → question, in their order."""
    return {question.name: question for question in questions}


def label_columns(questions: Iterable[Question]) -> list[str]:
    """The label column of each."""
    return [question.column for question in questions]
