"""Types of decision rules, which select_threshold writes into models/threshold.json and the model file contains.

A rule has two sides, each with its word. With p_good, the probability of the good class:

    p_good >= T_high → the good word (clean)      p_good < T_low → the bad word (dirty)      between them → unsure

It decides about photos that pass the gate; the others are unsure.

A *promise* is what is proved about a word: of the photos (or cars) that get it, at least a share of `precision` gets it rightly, at the
stated confidence.
The same code decides about a photo and, from the lowest p_good of its photos, about a car. Each further photo is another chance of an
error, so cars have a rule for each *stratum*, a range of their number of photos; other numbers have no promise. No torch, no pandas.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field

from carinspect.core.errors import UserError
from carinspect.core.params import Section, parse_section
from carinspect.core.questions import Question, Side, by_name, check_questions
from carinspect.inference.gate import GateRule

FORMAT = 5
REMAKE = "Make it again: dvc repro --force select_threshold, then dvc repro."

UNSURE = "unsure"
SIDES: tuple[Side, Side] = ("good", "bad")
Unit = Literal["photo", "car"]
Method = Literal["guaranteed", "empirical"]


class Promise(Section):
    """What is proved about the photos or cars that get a word."""

    precision: float
    """Least share of right answers among them."""
    confidence: float
    of: str
    """Which photos or cars, in words."""
    at_rate: float | None
    """The share of the bad class that it is proved for; None: that of the calibration photos."""


class Outcome(Section):
    """Counts and metrics of a threshold on the labelled photos of a split; None for a share of no photos."""

    photos: int
    """With a label."""
    groups: int
    accepted_photos: int
    """That get the word."""
    wrong_photos: int
    accepted_groups: int
    """The same for the one photo drawn from each group."""
    wrong_groups: int
    precision: float | None
    """Share of right ones among accepted groups, with its exact two-sided interval at `confidence`."""
    precision_low: float | None
    precision_high: float | None
    lower_bound: float | None
    """One-sided bound of `precision`, as if this threshold alone had been tried."""
    photo_precision: float | None
    """Share of right ones among accepted photos, all with equal weight."""
    missed_photos: int
    """Photos of the word's class that don't get it; the counts above and this one make up the confusion matrix."""
    recall: float | None
    f1: float | None
    coverage: float | None
    """Share of all labelled photos that get the word."""


class Needed(Section):
    """How many groups a proof needs. At a field rate the first, third and fourth are None; without one the last is."""

    without_errors: int | None
    """Groups that must get the word, if none of them is wrong."""
    observed_precision: float | None
    """At the threshold that came nearest to a proof."""
    at_observed_precision: int | None
    """Groups that must get the word at that precision; None if it does not exceed the target, since then no number is enough."""
    labelled_groups: int | None
    """Labelled groups needed for so many to get the word."""
    other_class_groups: int | None
    """At a field rate: labelled groups of the other class that are needed, if none of them gets the word."""


class GroupPromise(Section):
    """What a word promises for the photos of one group, e.g. of one source."""

    column: str
    """Of the table of predictions."""
    value: str
    promise: Promise | None
    reason: str | None
    """Why nothing is promised, in words; None where something is."""
    missing: int | None
    """So many more labelled groups of photos would do, if the shares stay as they are; None: no number would, or nothing is missing."""
    on_source: Outcome
    on_test: Outcome


class SideRule(Section):
    """One word of a rule."""

    word: str
    threshold: float | None
    """T_high of the good side, T_low of the bad one. None: the word is never said."""
    promise: Promise | None
    reason: str | None
    """Why there is no threshold, in words; None where there is one."""
    needed: Needed | None
    """What a proof needs; None for a question that the model was not trained on."""
    groups: list[GroupPromise]
    """The same threshold in each group of photos that `select_threshold.groups` asks for. They and `promise` hold together."""
    on_source: Outcome
    """The threshold was chosen on the source split, so these figures are optimistic. The test split had no part in the choice."""
    on_test: Outcome


class Forecast(Section):
    """For 1,000 cars: photos to review, wrong words and money, each with an interval; None without labels."""

    review: float | None
    review_low: float | None
    review_high: float | None
    wrong_good: float | None
    """Bad cars called by the good word."""
    wrong_good_low: float | None
    wrong_good_high: float | None
    wrong_bad: float | None
    wrong_bad_low: float | None
    wrong_bad_high: float | None
    cost: float | None
    cost_low: float | None
    cost_high: float | None


class Pair(Section):
    """Two thresholds and what they would cost."""

    T_high: float | None
    T_low: float | None
    on_source: Forecast
    on_test: Forecast


class Alternative(Section):
    """What one of the two methods would have chosen."""

    T_high: float | None
    T_low: float | None
    on_source: Outcome
    """Of the good word; likewise the next."""
    on_test: Outcome


class Stratum(Section):
    """Cars with so many photos."""

    photos_from: int
    photos_to: int
    """Included. Both occur among the cars of the source split, so that no other number is spoken of."""
    cars: int
    """Of the source split, each with a label for every photo."""
    cars_left_out: int
    """Of the source split: some of their photos have a label and others none, so that it is unknown whether the car is good."""

    @property
    def name(self) -> str:
        return f"{self.photos_from}" if self.photos_from == self.photos_to else f"{self.photos_from}-{self.photos_to}"

    @property
    def in_words(self) -> str:
        """As in `a car of 3 to 4 photos`."""
        return f"{self.name.replace('-', ' to ')} {'photo' if self.photos_to == 1 else 'photos'}"

    def has(self, photos: int) -> bool:
        return self.photos_from <= photos <= self.photos_to

    def distance(self, photos: int) -> int:
        """From a number of photos to this stratum; 0 within it."""
        return max(self.photos_from - photos, photos - self.photos_to, 0)


class Rule(Section):
    """One question's rule for one unit."""

    question: str
    unit: Unit
    method: Method
    source: str
    """Split whose labels decided."""
    target_precision: float
    confidence: float
    """Of either word on its own."""
    confidence_of_both: float | None
    """At which both promises hold together; None unless both are proved."""
    starts: int
    good: SideRule
    bad: SideRule
    base_rate: float | None
    """Share of the good class among one photo of each labelled group of the source split."""
    warnings: list[str]
    methods: dict[str, Alternative]
    """Both methods side by side."""
    chosen: Pair
    cheapest: Pair | None
    """Of all pairs on the source split. It proves nothing."""
    cheapest_allowed: Pair | None
    """Of the pairs that the method allows: those of `guaranteed` are proved together."""
    stratum: Stratum | None
    """Of a car's rule: which cars."""

    @property
    def T_high(self) -> float | None:  # noqa: N802
        return self.good.threshold

    @property
    def T_low(self) -> float | None:  # noqa: N802
        return self.bad.threshold

    def side(self, side: Side) -> SideRule:
        return self.good if side == "good" else self.bad

    @property
    def has_promise(self) -> bool:
        return self.good.promise is not None or self.bad.promise is not None


class FieldRates(Section):
    """What T_high proves at another share of the bad class."""

    rate: float | None
    """`field_rate` of the question; None: the promise is made at the source split's own."""
    source_rate: float | None
    """Share of the bad class among one photo of each labelled group of the source split."""
    break_even_rate: float | None
    """The highest at which T_high is still proved; None where nothing is proved."""
    test_break_even_rate: float | None
    """The highest at which the test split alone, which had no part in the choice, proves it."""
    precision_on_source: float | None
    """Plug-in precision at `rate`, and what this threshold alone proves there; None without a rate. Likewise on test."""
    lower_bound_on_source: float | None
    precision_on_test: float | None
    lower_bound_on_test: float | None


class QuestionRules(Section):
    """All about one binary question."""

    photo: Rule
    cars: list[Rule]
    """One for each stratum of cars, of few photos first. Their promises share the level, so that all hold together at `confidence`."""
    field: FieldRates


class SetRule(Section):
    """Which classes of a question are possible for a photo: those with at least the probability `threshold`."""

    coverage: float
    """Of photos drawn at random from new groups at least this share gets a set that has the true class (split conformal prediction)."""
    threshold: float | None
    """None: too few groups, so that no set is given."""
    groups: int
    """Labelled groups of the source split whose drawn photo passes the gate."""
    reason: str | None
    """Why there is no threshold; None where there is one."""
    coverage_on_test: float | None
    """Share of the test split's drawn photos whose set has the true class, and the mean number of classes of a set."""
    classes_on_test: float | None

    def possible(self, p: Mapping[str, float]) -> tuple[str, ...] | None:
        """The classes of the set, from each class's probability; the likeliest is always one. None without a threshold."""
        if self.threshold is None:
            return None
        likeliest = max(p, key=p.__getitem__)
        return tuple(name for name, value in p.items() if value >= self.threshold or name == likeliest)


class MarkPromise(Section):
    """What is proved about marks: at least a share of `target_precision` of them touches what they are said to be, at `confidence`."""

    target_precision: float
    confidence: float
    bound: float
    """The share that is proved: a one-sided bound at `confidence`, at least `target_precision`."""
    groups: int
    """Groups with a mark, one trial each."""
    wrong: int
    """Those whose trial was wrong."""


class MarkRule(Section):
    """From which probability on a cell of a question's map is marked."""

    question: str
    kind: str
    """What is marked: `damage` or `dirt`."""
    cut: float = Field(ge=0, le=1)
    """A cell is marked from this probability on."""
    least_strength: float = Field(default=0.0, ge=0, le=1)
    """A region whose highest probability is less is no mark."""
    promise: MarkPromise | None
    """None: nothing is proved, and the marks are shown so."""


class Thresholds(Section):
    """The content of models/threshold.json."""

    format: int
    questions: list[Question]
    """All that the model answers, in their order."""
    gate: GateRule
    """What is decided, is decided about photos that pass it; the promises are made of these."""
    rules: dict[str, QuestionRules]
    """By name, for each binary question with `decide`."""
    sets: dict[str, SetRule]
    """By name, for each question of kind classes where `select_threshold.coverage` is set."""
    predictions_sha256: str
    """Of the data/predictions.csv that they were chosen on."""
    marks: dict[str, MarkRule] = {}
    """By name, for each question with a map. Empty: the model has none."""

    @property
    def mapped(self) -> list[str]:
        """The questions with a map, in the order of the file's maps, which is theirs: a JSON object has no order to rely on."""
        return [asked.name for asked in self.questions if asked.name in self.marks]

    def without_promises(self) -> "Thresholds":
        """The same thresholds with nothing proved."""
        rules = {name: _unproved(rules) for name, rules in self.rules.items()}
        marks = {name: rule.model_copy(update={"promise": None}) for name, rule in self.marks.items()}
        return self.model_copy(update={"rules": rules, "sets": {}, "marks": marks})


def _unpromised(rule: SideRule) -> SideRule:
    groups = [group.model_copy(update={"promise": None}) for group in rule.groups]
    return rule.model_copy(update={"promise": None, "groups": groups})


def _unproved(rules: QuestionRules) -> QuestionRules:
    def of(rule: Rule) -> Rule:
        sides = {side: _unpromised(rule.side(side)) for side in SIDES}
        return rule.model_copy(update=sides | {"confidence_of_both": None})

    return rules.model_copy(update={"photo": of(rules.photo), "cars": [of(rule) for rule in rules.cars]})


def read_thresholds(content: Any, *, file: str) -> Thresholds:
    """The checked content of models/threshold.json, or of a model file. Raises `UserError` for another format or a broken one."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format", "none") if isinstance(content, dict) else "none"
        raise UserError(f"{file}: its thresholds have the format {found}, and this code reads {FORMAT}. {REMAKE}")
    try:
        thresholds = parse_section("threshold", Thresholds, content, file=file)
        names = by_name(check_questions(thresholds.questions))
        for name in (*thresholds.rules, *thresholds.sets, *thresholds.marks):
            if name not in names:
                raise UserError(f"a rule for '{name}', which is none of its questions.")
        for name, marked in thresholds.marks.items():
            if marked.question != name:
                raise UserError(f"marks.{name}: its rule is of the question '{marked.question}'.")
            if names[name].kind != "score":
                raise UserError(f"marks.{name}: a map belongs to a question of kind score, and this is of kind {names[name].kind}.")
        for name, rules in thresholds.rules.items():
            strata = [rule.stratum for rule in rules.cars if rule.stratum is not None]
            if len(strata) < len(rules.cars) or any(one.photos_to >= next_.photos_from for one, next_ in pairwise(strata)):
                raise UserError(f"{name}: the strata of its rules for cars are missing or overlap.")
            for rule in (rules.photo, *rules.cars):
                check_order(T_low=rule.T_low, T_label=rule.T_high, T_high=rule.T_high)
                for side in (rule.good, rule.bad):
                    if side.promise is not None and side.threshold is None:
                        raise UserError(f"{name}: a promise of '{side.word}' without a threshold.")
    except UserError as error:
        raise UserError(f"{file}: {error} {REMAKE}") from None
    return thresholds


# ---- in use


@dataclass(frozen=True)
class DecisionRule:
    """One question's rule in use: the model's own, or with thresholds of an operator. The same for a photo and for a car."""

    question: Question
    unit: Unit
    T_label: float | None
    """The label is the good word when p_good >= T_label, else the bad one. The model's own is its T_high. None: there is no label."""
    T_low: float | None
    """The bad word is decided when p_good < T_low. None: never."""
    T_high: float | None
    """The good word is decided when p_good >= T_high. None: never."""
    promises: Mapping[Side, Promise]
    """Of the sides that prove anything."""
    overridden: bool = False
    """Whether an operator replaced one of the model's own numbers by another."""

    def decide(self, p_good: float | None) -> Side | None:
        """The side whose word is decided; None: unsure, also without a probability."""
        if p_good is None:
            return None
        if self.T_high is not None and p_good >= self.T_high:
            return "good"
        if self.T_low is not None and p_good < self.T_low:
            return "bad"
        return None

    def say(self, side: Side | None) -> str:
        """The word of a decision: a class of the question, or `unsure`."""
        return UNSURE if side is None else self.question.word(side)

    def label(self, p_good: float | None) -> str | None:
        """The likelier word by T_label alone, without *unsure* and without a promise."""
        # A NaN is neither: every comparison with it is false.
        if self.T_label is None or p_good is None or p_good != p_good:
            return None
        return self.question.word("good" if p_good >= self.T_label else "bad")

    def override(self, *, T_label: float | None = None, T_low: float | None = None, T_high: float | None = None) -> "DecisionRule":
        """This rule with an operator's numbers; None keeps the model's own. A number that differs from it ends the promise.

        T_label alone moves T_high with it. Raises `UserError` unless 0 <= T_low <= T_label <= T_high <= 1.
        """
        asked = {
            "T_label": self.T_label if T_label is None else T_label,
            "T_low": self.T_low if T_low is None else T_low,
            "T_high": T_high if T_high is not None else (self.T_high if T_label is None else T_label),
        }
        if asked == {"T_label": self.T_label, "T_low": self.T_low, "T_high": self.T_high}:
            return self
        check_order(**asked)
        return replace(self, T_label=asked["T_label"], T_low=asked["T_low"], T_high=asked["T_high"], promises={}, overridden=True)


def say_promise(rule: DecisionRule, side: Side) -> str:
    """One sentence on when a word is decided and what it promises."""
    word, threshold, promise = rule.say(side), rule.T_high if side == "good" else rule.T_low, rule.promises.get(side)
    if threshold is None:
        return f"'{word}' is never decided: no threshold could be proved"
    good = rule.question.word("good")
    when = f"'{word}' when P({good}) {'>=' if side == 'good' else '<'} {threshold:.4f}"
    if promise is None:
        return f"{when}, without a promise"
    return f"{when} keeps the precision {promise.precision:g} at the confidence {promise.confidence:g}, for {promise.of}"


def say_mark_promise(rule: MarkRule) -> str:
    """One sentence on what a question's marks promise."""
    what = f"a cell is marked as {rule.kind} from the probability {rule.cut:.4f} on"
    if rule.least_strength > rule.cut:
        what += f", where one of its region reaches {rule.least_strength:.4f}"
    if rule.promise is None:
        return f"{what}, without a promise"
    promise = rule.promise
    return f"{what}; at least {promise.target_precision:g} of the marks touch {rule.kind}, at the confidence {promise.confidence:g}"


def rule_in_use(question: Question, rule: Rule) -> DecisionRule:
    """The model's own rule."""
    promises: dict[Side, Promise] = {}
    if rule.good.promise is not None:
        promises["good"] = rule.good.promise
    if rule.bad.promise is not None:
        promises["bad"] = rule.bad.promise
    return DecisionRule(question, rule.unit, T_label=rule.T_high, T_low=rule.T_low, T_high=rule.T_high, promises=promises)


def rules_in_use(thresholds: Thresholds) -> dict[str, DecisionRule]:
    """The photo's rule of each decided question."""
    names = by_name(thresholds.questions)
    return {name: rule_in_use(names[name], rules.photo) for name, rules in thresholds.rules.items()}


@dataclass(frozen=True)
class CarRules:
    """One question's rules for cars in use."""

    strata: tuple[tuple[Stratum, DecisionRule], ...]
    """Those in which a word can be decided, of few photos first; none where an operator set thresholds."""
    photo: DecisionRule
    """The photo's rule without its promises, for want of one for cars."""

    def of(self, photos: int) -> DecisionRule:
        """The rule for a car of so many photos. Outside of the strata: that of the nearest one, without its promises."""
        if not self.strata:
            return self.photo
        stratum, rule = min(self.strata, key=lambda one: one[0].distance(photos))
        return rule if stratum.has(photos) else replace(rule, promises={})

    def why_no_promise(self, photos: int, side: Side) -> str | None:
        """Why the word of `side` promises nothing for a car of so many photos, in words; None where it does."""
        if side in self.of(photos).promises:
            return None
        if self.photo.overridden:
            return "The operator replaced the model's thresholds or opened its gate, so nothing is proved."
        word, proved = self.photo.say(side), [stratum for stratum, rule in self.strata if side in rule.promises]
        if not proved:
            return f"Nothing is proved of cars that are called {word}."
        return f"This car has {photos} photo{'s' * (photos > 1)}. '{word}' is proved for cars of {_join(proved)}."


def _join(strata: list[Stratum]) -> str:
    *names, last = [stratum.name.replace("-", " to ") for stratum in strata]
    return f"{', '.join(names)} or {last} photos" if names else strata[0].in_words


def car_rules_in_use(thresholds: Thresholds, photo_rules: Mapping[str, DecisionRule]) -> dict[str, CarRules]:
    """The rules for cars of each decided question. Where an operator set thresholds for photos, these decide about cars, too."""
    found = {}
    for name, photo in photo_rules.items():
        own = [] if photo.overridden else [rule for rule in thresholds.rules[name].cars if (rule.T_high, rule.T_low) != (None, None)]
        strata = tuple((rule.stratum, rule_in_use(photo.question, rule)) for rule in own if rule.stratum is not None)
        found[name] = CarRules(strata=strata, photo=replace(photo, promises={}))
    return found


def check_order(*, T_label: float | None, T_low: float | None, T_high: float | None) -> None:
    """Raise `UserError` unless those that are set rise from T_low to T_high within 0..1, T_label and T_high both or neither."""
    numbers = {"T_low": T_low, "T_label": T_label, "T_high": T_high}
    stated = {name: value for name, value in numbers.items() if value is not None}
    for name, value in stated.items():
        if not 0.0 <= value <= 1.0:
            raise UserError(f"{name} has the value {value}. It is a probability, from 0 to 1.")
    if (T_label is None) != (T_high is None):
        raise UserError(f"T_label is {T_label} and T_high is {T_high}. Where one is set the other must be too.")
    if list(stated.values()) != sorted(stated.values()):
        said = ", ".join(f"{name} {value:g}" for name, value in stated.items())
        raise UserError(f"{said}: it must hold that T_low <= T_label <= T_high.")
