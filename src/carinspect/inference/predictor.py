"""Turns photos into typed answers, for batch scoring and serving alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from PIL import Image

from carinspect.core.gate import OUTPUT
from carinspect.core.questions import MARKS, Question, Side
from carinspect.images.decode import load_image
from carinspect.images.upright import load_with_size
from carinspect.inference.bundle import ModelBundle
from carinspect.inference.gate import GateMode, turned_away
from carinspect.inference.marks import PhotoMarks, find_all_marks
from carinspect.inference.rules import DecisionRule, MarkRule, rules_in_use


@dataclass(frozen=True, slots=True)
class BinaryAnswer:
    """The answer to a binary question."""

    p: float
    """Calibrated probability of class 1, 0..1."""
    p_good: float
    """Of the good class."""
    label: str | None
    """The likelier word by the rule's T_label; None without a rule, or where no threshold could be proved."""
    side: Side | None
    """The decision; None: unsure, or no rule."""
    decision: str | None
    """Its word: a class, or `unsure`; None where nothing is decided about this question."""
    threshold: float | None
    """T_label of the rule, a bound of p_good."""
    std: float | None
    """Of p, over the masks of Monte-Carlo dropout; None for a model without spreads."""
    reason: str | None = None
    """Why the gate turned the photo away, a key of `core.gate.REASONS`; None: it passed, or nothing is decided about this question."""


@dataclass(frozen=True, slots=True)
class ScoreAnswer:
    """The answer to a question of kind score."""

    value: float
    """0..1, 1 = good."""
    std: float | None
    map_hw: np.ndarray | None = field(default=None, compare=False, repr=False)
    """Probabilities that cells of the photo are marked; None where the question has no map, or nobody asked for it."""
    reason: str | None = field(default=None, compare=False)
    """With a map: why the gate turned the photo away, a key of `core.gate.REASONS`, so that nothing is proved about its marks."""


@dataclass(frozen=True, slots=True)
class ClassesAnswer:
    """The answer to a question of kind classes."""

    value: str
    """The likeliest class."""
    p: dict[str, float]
    """Class → calibrated probability."""
    std: float | None
    """Of the likeliest class."""
    possible: tuple[str, ...] | None = None
    """The classes that are possible at the coverage of the model's `SetRule`; None without one, and where the gate turns the photo away."""


QuestionAnswer = BinaryAnswer | ScoreAnswer | ClassesAnswer
Answer = dict[str, QuestionAnswer]
"""What the model says of one photo: name of the question → answer, in the order of the questions."""


@dataclass(frozen=True)
class Predictor:
    """A model file with the rules that decide. Safe to use from several threads."""

    bundle: ModelBundle
    rules: Mapping[str, DecisionRule]
    """By question."""
    gate: GateMode = "on"
    """`on`: a photo that the gate turns away is unsure. `report`: only the reason is given. `off`: the gate is not asked."""

    @property
    def questions(self) -> tuple[Question, ...]:
        return self.bundle.questions

    @cached_property
    def lead(self) -> DecisionRule | None:
        """The rule of the first decided question: what the short names `label`, `threshold` and `decision` refer to."""
        return next((self.rules[asked.name] for asked in self.questions if asked.name in self.rules), None)

    @property
    def image_side_px(self) -> int:
        return self.bundle.image_side_px

    def load(self, source: Path | bytes | Image.Image) -> np.ndarray:
        """One photo as the model takes it: uint8 (side, side, 3), source as in `images.decode.load_image`. Raises its `PhotoError`."""
        return load_image(source, self.image_side_px)

    def load_with_size(self, source: Path | bytes | Image.Image) -> tuple[np.ndarray, tuple[int, int]]:
        """As `load`, and the photo's upright width and height in pixels."""
        return load_with_size(source, self.image_side_px)

    def answer(self, photos: np.ndarray) -> list[Answer]:
        """Answers for uint8 photos of shape (B, side, side, 3), B at least 1, in one run of the model.

        Scores have their maps where the bundle was opened for them.
        """
        outputs = self.bundle.predict(photos, batch_size=len(photos))
        maps_BKhw = outputs.pop(MARKS, None)
        maps = {} if maps_BKhw is None else {name: maps_BKhw[:, place] for place, name in enumerate(self.bundle.thresholds.mapped)}
        gate = self.bundle.thresholds.gate
        reasons = [None if self.gate == "off" else turned_away(measures, gate) for measures in outputs.pop(OUTPUT).tolist()]
        # One pass over each column: Python's own numbers, so that nothing converts them again.
        columns = {name: values.tolist() for name, values in outputs.items()}
        return [
            {asked.name: self._answer_to(asked, columns, maps, place, reason) for asked in self.questions}
            for place, reason in enumerate(reasons)
        ]

    def find_marks(self, answer: Answer, *, width_px: int, height_px: int) -> PhotoMarks:
        """What the maps of an answer mark on its photo, whose upright size is given. No marks where the bundle was not opened for them."""
        rules = self.mark_rules(answer)
        maps = {name: one.map_hw for name, one in answer.items() if isinstance(one, ScoreAnswer) and one.map_hw is not None}
        return find_all_marks(maps, rules, width_px=width_px, height_px=height_px)

    def mark_rules(self, answer: Answer) -> dict[str, MarkRule]:
        """The rules of the marks on the answered photo, by question: unproved where it did not pass the gate, or need not."""
        rules = {}
        for name, rule in self.bundle.thresholds.marks.items():
            one = answer[name]
            proved = self.gate == "on" and isinstance(one, ScoreAnswer) and one.reason is None
            rules[name] = rule if proved else rule.model_copy(update={"promise": None})
        return rules

    def _answer_to(
        self, asked: Question, columns: dict[str, list[Any]], maps: dict[str, np.ndarray], place: int, reason: str | None
    ) -> QuestionAnswer:
        value = columns[asked.outputs[-1]][place]
        std = columns[asked.spread][place] if asked.spread in columns else None
        match asked.kind:
            case "binary":
                p_good = value if asked.label_of("good") == 1 else 1.0 - value
                rule = self.rules.get(asked.name)
                if rule is None:
                    return BinaryAnswer(value, p_good, label=None, side=None, decision=None, threshold=None, std=std)
                side = None if reason and self.gate == "on" else rule.decide(p_good)
                return BinaryAnswer(value, p_good, rule.label(p_good), side, rule.say(side), rule.T_label, std, reason)
            case "score":
                if asked.name not in maps:
                    return ScoreAnswer(value, std)
                return ScoreAnswer(value, std, maps[asked.name][place], reason)
            case "classes":
                p = dict(zip(asked.classes, value, strict=True))
                sets = self.bundle.thresholds.sets.get(asked.name)
                possible = None if sets is None or reason or self.gate != "on" else sets.possible(p)
                return ClassesAnswer(max(p, key=p.__getitem__), p, std, possible)
            case _:
                assert_never(asked.kind)


def make_predictor(bundle: ModelBundle) -> Predictor:
    """The predictor with the model's own rules."""
    return Predictor(bundle, rules_in_use(bundle.thresholds))


def override_lead(predictor: Predictor, *, T_label: float | None, T_low: float | None, T_high: float | None) -> Predictor:
    """The predictor with an operator's thresholds for its lead question. Raises `UserError` as `DecisionRule.override` does."""
    lead = predictor.lead
    if lead is None:
        return predictor
    rule = lead.override(T_label=T_label, T_low=T_low, T_high=T_high)
    return replace(predictor, rules={**predictor.rules, rule.question.name: rule})


def open_gate(predictor: Predictor, mode: GateMode) -> Predictor:
    """The predictor with another mode of the gate; any but `on` ends all promises, which are made of what passes."""
    if mode == "on":
        return predictor
    return replace(
        predictor, gate=mode, rules={name: replace(rule, promises={}, overridden=True) for name, rule in predictor.rules.items()}
    )
