"""Tests whether model B is better than model A, from the predictions of both for the same test photos.

Each metric's difference B - A gets an interval from a paired jackknife over groups: without each group both models are scored on the same
photos, so that the difficulty of a photo, which affects both, cancels out. Decisions get McNemar's exact test (McNemar 1947): of the photos
that exactly one model decides correctly, equal models get half each in expectation. The errors of one group are clustered, so only one
photo drawn from each group counts.

`confidence` is the joint confidence of all intervals and tests: each is made at 1 - (1 - confidence) / (their number), Bonferroni's
correction. If the models are equal, at most a share of 1 - confidence of such comparisons reports a clear difference.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import binom, binomtest
from scipy.stats import t as student_t

from carinspect.comparison.measures import Measure, align_tests, answers_to, both_answered, measures_of, right_decisions
from carinspect.core.errors import UserError
from carinspect.core.questions import Question, by_name
from carinspect.core.seeds import derive_seed
from carinspect.evaluation.predictions import numbers
from carinspect.scoring.intervals import estimate, less, point

Verdict = Literal["better", "worse", "no clear difference"]
"""Of B against A."""

FEWEST_GROUPS = 10
"""With fewer, an interval misses the true value more often than its confidence allows, so none is given: benchmarks/comparison.py."""

POWER = 0.8
"""Chance to find a difference of the size that is said to be detectable."""


@dataclass(frozen=True)
class Model:
    """One of the two models. T_high: of each decided question, by name; None: the good word is never decided."""

    name: str
    questions: tuple[Question, ...]
    predictions: pd.DataFrame
    T_high: Mapping[str, float | None]


@dataclass(frozen=True)
class MetricDifference:
    """One metric of both models; None where it is not defined. `low` and `high` bound `difference`, which is b - a."""

    question: str
    metric: str
    higher_is_better: bool
    photos: int
    groups: int
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    detectable: float | None
    """The smallest difference that these photos show as clear with a chance of `POWER`."""
    verdict: Verdict


@dataclass(frozen=True)
class DecisionDifference:
    """How many decisions about one question each model has right, on one photo of each group."""

    question: str
    groups: int
    a_right: int
    b_right: int
    only_a_right: int
    only_b_right: int
    p_value: float
    detectable: int | None
    """The smallest lead that is clear, where exactly one model is right in as many groups as here; None: no lead would be."""
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """The whole comparison. `verdict`: `better` or `worse` if all clear differences agree, `mixed` if they do not."""

    a: str
    b: str
    photos: int
    groups: int
    confidence: float
    metrics: list[MetricDifference]
    decisions: list[DecisionDifference]
    verdict: Verdict | Literal["mixed"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def compare_predictions(a: Model, b: Model, *, confidence: float) -> Comparison:
    """Compare two models on the test photos of their predictions (data/predictions.csv), in every question that both answer.

    confidence: of all intervals and tests together, 0..1.
    Raises `UserError` where the test photos or their labels differ, and where no question is answered by both.
    """
    known_to_b = by_name(b.questions)
    common = [asked for asked in a.questions if known_to_b.get(asked.name) == asked]
    test_a, test_b = align_tests(a.predictions, b.predictions, questions=common, names=(a.name, b.name))
    pairs = {asked.name: both_answered(test_a, test_b, asked) for asked in common}
    asked_both = [asked for asked in common if len(pairs[asked.name][0])]
    if not asked_both:
        raise UserError("no question has labels in test and answers of both models, so there is nothing to compare.")
    measures = [measure for asked in asked_both for measure in measures_of(asked)]
    decided = [asked for asked in asked_both if asked.kind == "classes" or (asked.name in a.T_high and asked.name in b.T_high)]
    alpha = (1 - confidence) / (len(measures) + len(decided))
    metrics = [_compare_metric(measure, *pairs[measure.question.name], alpha=alpha) for measure in measures]
    decisions = [
        _compare_decisions(asked, *pairs[asked.name], T_high=(a.T_high.get(asked.name), b.T_high.get(asked.name)), alpha=alpha)
        for asked in decided
    ]
    return Comparison(
        a=a.name,
        b=b.name,
        photos=len(test_a),
        groups=int(test_a["group"].nunique()),
        confidence=confidence,
        metrics=metrics,
        decisions=decisions,
        verdict=_overall([*(metric.verdict for metric in metrics), *(decision.verdict for decision in decisions)]),
    )


def _compare_metric(measure: Measure, a: pd.DataFrame, b: pd.DataFrame, *, alpha: float) -> MetricDifference:
    labels_N = numbers(a, measure.question.column)
    answers_a_N, answers_b_N = answers_to(a, measure.question), answers_to(b, measure.question)
    difference, groups_N = less(measure.metric, answers_a_N), a["group"].to_numpy(str)
    groups = len(np.unique(groups_N))
    found = estimate(difference, labels_N, answers_b_N, groups_N=groups_N, confidence=1 - alpha, scale="difference")
    gain, detectable = 0, None
    low, high = (found.low, found.high) if groups >= FEWEST_GROUPS else (None, None)
    if low is not None and high is not None and found.standard_error is not None:
        detectable = found.standard_error * float(sum(student_t.ppf([1 - alpha / 2, POWER], found.blocks - 1)))
        gain = (1 if low > 0 else -1 if high < 0 else 0) * (1 if measure.higher_is_better else -1)
    return MetricDifference(
        question=measure.question.name,
        metric=measure.name,
        higher_is_better=measure.higher_is_better,
        photos=len(a),
        groups=groups,
        a=point(measure.metric, labels_N, answers_a_N),
        b=point(measure.metric, labels_N, answers_b_N),
        difference=found.value,
        low=low,
        high=high,
        detectable=detectable,
        verdict=_word(gain),
    )


def _compare_decisions(
    question: Question, a: pd.DataFrame, b: pd.DataFrame, *, T_high: tuple[float | None, float | None], alpha: float
) -> DecisionDifference:
    drawn_N = one_of_each_group(a)
    right_a, right_b = (
        right_decisions(rows, question, T_high=threshold)[drawn_N] == 1 for rows, threshold in zip((a, b), T_high, strict=True)
    )
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p_value = binomtest(only_b, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    return DecisionDifference(
        question=question.name,
        groups=int(drawn_N.sum()),
        a_right=int(right_a.sum()),
        b_right=int(right_b.sum()),
        only_a_right=only_a,
        only_b_right=only_b,
        p_value=float(p_value),
        detectable=_clear_lead(only_a + only_b, alpha=alpha),
        verdict=_word(int(np.sign(only_b - only_a)) if p_value < alpha else 0),
    )


def _clear_lead(differing: int, *, alpha: float) -> int | None:
    leads = [lead for lead in range(differing % 2, differing + 1, 2) if 2 * binom.cdf((differing - lead) // 2, differing, 0.5) < alpha]
    return min(leads, default=None)


def one_of_each_group(rows: pd.DataFrame) -> np.ndarray:
    """True for one photo of each group, chosen by a hash of its path, without its answers and labels. Bool, shape (N,)."""
    lot = pd.Series([derive_seed("compared", path) for path in rows["image_path"]])
    return (lot == lot.groupby(rows["group"].to_numpy()).transform("min")).to_numpy()


def _word(gain: int) -> Verdict:
    return "better" if gain > 0 else "worse" if gain < 0 else "no clear difference"


def _overall(verdicts: list[Verdict]) -> Verdict | Literal["mixed"]:
    found: set[Verdict] = set(verdicts) - {"no clear difference"}
    if len(found) == 2:
        return "mixed"
    return found.pop() if found else "no clear difference"
