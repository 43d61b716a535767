"""How many more labels make a promise provable: the proof is repeated on groups drawn from what the model's answers and labels say.

A draw resamples the labelled groups of the source split and of val (bootstrap), and draws new groups like them: in half of the draws with
their labels, in the other half with labels from the forecast that is fitted on them (`thresholds.plan.fit_forecast`). The first half knows
only errors that were seen, and the second one makes more of them than there are. The new groups are added to the labels that there are
until the proof of `select_threshold` succeeds. So the interval covers what is not known of the model and the luck of the draw, but not that
new photos may be of another kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from carinspect.core.questions import DeclaredQuestion, Side
from carinspect.core.search import smallest
from carinspect.core.seeds import derive_seed
from carinspect.inference.gate import GateRule
from carinspect.inference.rules import SIDES
from carinspect.thresholds.choice import prove
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.evidence import Floats, Target, gather, passes
from carinspect.thresholds.gate import passes_gate
from carinspect.thresholds.plan import Plan, Reference, fit_forecast, make_plan
from carinspect.thresholds.problems import pose_photo, with_p_good
from carinspect.thresholds.sample import Sample, take_sample

DRAWS = 100
MOST_GROUPS = 4000
"""New groups that a draw tries at most."""

_STEPS = np.unique(np.geomspace(1, MOST_GROUPS, 200).round().astype(int))
"""Numbers of groups that are tried; they lie at most 5 % apart."""

_COVERED = (0.05, 0.95)


@dataclass(frozen=True)
class StillNeeded:
    """Of one word. Counts are of new labelled groups of the source split, drawn at random."""

    word: str
    side: Side
    proved: bool
    """Already, with the labels that there are; then nothing is needed."""
    groups: int | None
    """So many prove it in half of the draws; None: more than `MOST_GROUPS`, or no number."""
    low: int | None
    """In nine of ten draws the number lies from `low` to `high`; None: beyond `MOST_GROUPS`."""
    high: int | None
    called: float | None
    """Share of the groups that get the word where it is just proved; mean of the draws that prove it."""
    threshold: float | None
    """Of p_good, where it is just proved; median."""


def foresee_promise(
    table: pd.DataFrame, question: DeclaredQuestion, params: SelectThresholdParams, *, gate: GateRule, seed: int
) -> list[StillNeeded]:
    """Both words of a question with `decide`, from the table of predictions of val and the source split."""
    table = table.assign(passed=passes_gate(table, gate))
    problem = pose_photo(table, question, params)
    rows = with_p_good(table, question)
    both = take_sample(rows[rows["split"].isin((params.source, params.reference_split))]).one_a_group()
    return [
        foresee(problem.source.one_a_group(), both, problem.reference, problem.target, side=side, word=question.word(side), seed=seed)
        for side in SIDES
    ]


def foresee(source: Sample, population: Sample, reference: Reference, target: Target, *, side: Side, word: str, seed: int) -> StillNeeded:
    """source: the labelled groups so far; population: what new ones are like; both with one photo of each group."""
    proof = _Proof(source, reference, target, side, passing=float(population.passes.mean()))
    if len(proof.thresholds(source, 0)):
        return StillNeeded(word, side, proved=True, groups=0, low=0, high=0, called=None, threshold=None)
    found, called, thresholds = list[float](), list[float](), list[float]()
    for draw in range(DRAWS):
        new = draw_groups(population, MOST_GROUPS, random=np.random.default_rng(derive_seed(seed, "labels needed", word, draw)))
        needed = proof.smallest(new)
        found.append(np.inf if needed is None else needed)
        if needed is not None:
            allowed = proof.thresholds(new, needed)
            threshold = float(allowed.min() if side == "good" else allowed.max())
            score = new.score[new.passes]
            called.append(float((score >= threshold if side == "good" else score < threshold).sum() / len(new.score)))
            thresholds.append(threshold)
    middle, low, high = (_count(found, quantile) for quantile in (0.5, *_COVERED))
    return StillNeeded(
        word, side, proved=False, groups=middle, low=low, high=high,
        called=float(np.mean(called)) if called else None, threshold=float(np.median(thresholds)) if thresholds else None,
    )  # fmt: skip


class _Proof:
    """The proof of one word, as `choose_guaranteed` makes it, with new groups beside those of the source split."""

    def __init__(self, source: Sample, reference: Reference, target: Target, side: Side, *, passing: float) -> None:
        self.source, self.reference, self.target, self.side, self.passing = source, reference, target, side, passing
        self._plans: dict[int, Plan] = {}

    def thresholds(self, new: Sample, groups: int) -> Floats:
        """The thresholds that are proved with the first `groups` of `new`."""
        if not len(self.reference.score) or not len(self.source.passed) + groups:
            return np.zeros(0)
        if groups not in self._plans:
            # Made for the number that will pass the gate on average, so that all draws share it.
            passed = max(1, round(len(self.source.passed) + groups * self.passing))
            self._plans[groups] = make_plan(self.reference, groups=passed, target=self.target, side=self.side)
        plan = self._plans[groups]
        names = ("score", "good", "drawn")
        together = Sample(*(np.concatenate([getattr(self.source, name), getattr(new, name)[:groups]]) for name in names))
        evidence = gather(together, plan.thresholds, side=self.side)

        def passes_at(level: float) -> npt.NDArray[np.bool_]:
            return passes(evidence, self.target, side=self.side, level=level)

        return plan.thresholds[prove(passes_at, alpha=self.target.alpha, starts=plan.starts)]

    def smallest(self, new: Sample) -> int | None:
        """The smallest of `_STEPS` that is enough; None where all of `new` are not."""
        if not len(self.thresholds(new, int(_STEPS[-1]))):
            return None
        place = smallest(lambda place: bool(len(self.thresholds(new, int(_STEPS[min(place, len(_STEPS)) - 1])))), most=2 * len(_STEPS))
        return None if place is None else int(_STEPS[min(place, len(_STEPS)) - 1])


def _count(found: Sequence[float], quantile: float) -> int | None:
    # An order statistic: between a number and infinity there is nothing to interpolate.
    value = float(np.quantile(found, quantile, method="higher"))
    return int(value) if np.isfinite(value) else None


def draw_groups(population: Sample, groups: int, *, random: np.random.Generator) -> Sample:
    """New groups like those of `population`, in a random order."""
    drawn = random.integers(len(population.score), size=len(population.score))
    score, probability = population.score[drawn], population.good[drawn].astype(np.float64)
    passes = ~np.isnan(score)
    if random.random() < 0.5:
        probability[passes] = fit_forecast(score[passes], probability[passes])(score[passes])
    again = random.integers(len(score), size=groups)
    labels = (random.random(groups) < probability[again]).astype(np.int64)
    return Sample(score[again], labels, np.ones(groups, bool))
