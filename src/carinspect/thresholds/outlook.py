"""Says before a training which promises its labels can prove, and how many more labels would do.

A word is proved on the groups of the source split that get it. Even a model without an error gives it only to the groups that are labelled
so: with 15 groups labelled clean, where a proof takes 72, "clean" will not be promised.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from carinspect.core.questions import DeclaredQuestion, Side
from carinspect.core.search import smallest
from carinspect.thresholds.binomial import accepted_needed
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.evidence import Evidence, Target, passes
from carinspect.thresholds.sample import Sample, take_sample

MOST_GROUPS = 10_000_000
LARGEST_FRACTION = 0.6
"""A larger share of the source split leaves too little to learn from, so it is not advised."""


@dataclass(frozen=True)
class Outlook:
    """What is known of one word before the training. Counts are of groups; None where no number would do."""

    word: str
    source: str
    labelled: int
    """Groups of the source split that are labelled so."""
    needed: int | None
    """As many as the proof takes if each gets the word and no other does, at the level of one start, as `needed_for_proof` says it."""
    needed_with_errors: int | None
    """The same if as many as half the share of errors that the promise allows are wrong. None where a field rate is given: `needed` then
    supposes that the other class has the same share as now."""
    labelled_in_all: int
    """In all splits together."""
    fraction_needed: float | None
    """The share of the source split that would hold `needed`; None where no split of these photos would do."""
    more_needed: int
    """Groups labelled so that must be added, at the fractions as they are, until the source split holds `needed`."""

    @property
    def within_reach(self) -> bool:
        """Whether a model without an error proves it."""
        return self.needed is not None and self.labelled >= self.needed


def foresee(
    table: pd.DataFrame, questions: Sequence[DeclaredQuestion], params: SelectThresholdParams, *, fractions: Mapping[str, float]
) -> dict[str, list[Outlook]]:
    """For each question with `decide` its good and its bad word. table: the dataset, with `split`; fractions: of the splits.

    Empty where nothing would be promised: `select_threshold` with another method than `guaranteed`, or a source other than calib.
    """
    if params.method != "guaranteed" or params.source != "calib":
        return {}
    return {
        asked.name: [_foresee_word(table, asked, params, side, fraction=fractions[params.source]) for side in ("good", "bad")]
        for asked in questions
        if asked.decide is not None
    }


def _foresee_word(
    table: pd.DataFrame, question: DeclaredQuestion, params: SelectThresholdParams, side: Side, *, fraction: float
) -> Outlook:
    assert question.decide is not None
    decide = question.decide
    target = Target(precision=decide.target_precision, confidence=decide.confidence, starts=params.starts, bad_rate=decide.field_rate)
    drawn, in_all = _draw(table[table["split"] == params.source], question), _draw(table, question).labelled(side)
    labelled, others = drawn.labelled(side), drawn.groups - drawn.labelled(side)
    needed, with_errors = _needed(labelled, others, target, side)
    missing = max(0, (needed or 0) - labelled)
    return Outlook(
        word=question.word(side),
        source=params.source,
        labelled=labelled,
        needed=needed,
        needed_with_errors=with_errors,
        labelled_in_all=in_all,
        fraction_needed=_fraction(needed, in_all),
        more_needed=math.ceil(missing / fraction),
    )


def _draw(rows: pd.DataFrame, question: DeclaredQuestion) -> Sample:
    """One photo of each labelled group, as the proof will draw it. There are no scores yet, and no gate turns a photo away."""
    known = rows[rows[question.column].notna()]
    good = (known[question.column] == question.label_of("good")).astype(float)
    return take_sample(known.assign(good=good, p_good=0.0, passed=True)).one_a_group()


def _needed(labelled: int, others: int, target: Target, side: Side) -> tuple[int | None, int | None]:
    """`Outlook.needed` and `needed_with_errors`."""
    level = target.level_of_one_start
    if target.bad_rate is None:
        half_of_the_errors = (1 + target.precision) / 2
        without, with_errors = (accepted_needed(target=target.precision, alpha=level, precision=one) for one in (1.0, half_of_the_errors))
        return without, with_errors
    if not labelled or not others:
        return None, None

    def proves(groups: int) -> bool:
        both = Evidence(np.array([float(groups)]), np.zeros(1), float(groups), others * groups / labelled)
        return bool(passes(both, target, side=side, level=level)[0])

    return smallest(proves, most=MOST_GROUPS), None


def _fraction(needed: int | None, in_all: int) -> float | None:
    if needed is None or not in_all:
        return None
    fraction = math.ceil(100 * needed / in_all) / 100
    return fraction if fraction <= LARGEST_FRACTION else None


def describe_outlook(outlook: Mapping[str, Sequence[Outlook]]) -> dict[str, dict[str, Any]]:
    """Plain values for metrics: question → word → the figures, with `within_reach`."""
    return {name: {word.word: {**asdict(word), "within_reach": word.within_reach} for word in words} for name, words in outlook.items()}


def say_outlook(outlook: Mapping[str, Sequence[Outlook]]) -> list[str]:
    """One sentence for each word of each question."""
    return [f"{name}: {_say_word(word)}" for name, words in outlook.items() for word in words]


def _say_word(word: Outlook) -> str:
    has = f"{word.source} has {word.labelled} groups labelled {word.word}"
    if word.needed is None:
        return f"'{word.word}' is out of reach: {has}, and no number of them proves it at the field rate without labels of both classes."
    with_errors = word.needed_with_errors
    errors = ", if the other class grows alike" if with_errors is None else f", {with_errors} with half the allowed errors"
    takes = f"a proof takes {word.needed} called so without an error{errors}"
    if word.within_reach:
        hardly = with_errors is not None and word.labelled < with_errors
        whose = " of a model with hardly an error" if hardly else ""
        return f"'{word.word}' is within reach{whose}: {has}, and {takes}."
    more = f"label about {word.more_needed} more"
    split = "" if word.fraction_needed is None else f", or set split.fractions.{word.source} to {word.fraction_needed:g}"
    return f"'{word.word}' is out of reach: {has}, and {takes}. For that {more}{split}."
