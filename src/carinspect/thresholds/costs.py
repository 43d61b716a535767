"""Computes what a rule costs for 1,000 cars (reviews, wrong words, money), and the cheapest pair of thresholds.

A photo costs `wrong_good` where the good word (clean) is wrong, `wrong_bad` where the bad word (dirty) is, `review` where it is unsure (the
person who reviews it is assumed to be right), and nothing where the word is right. One photo of each group counts, as in the proof.
"""

from dataclasses import dataclass, replace

import numpy as np

from carinspect.core.questions import Costs, Side
from carinspect.inference.rules import Forecast
from carinspect.thresholds.binomial import lower_bound
from carinspect.thresholds.choice import Choice
from carinspect.thresholds.evidence import Floats
from carinspect.thresholds.sample import Sample, Thresholds, count_decisions

CARS = 1000


@dataclass(frozen=True)
class Cell:
    """A share `hits` / `trials` with a `weight`. `certain`: the rule fixes the share, so it has no sampling error."""

    weight: float
    hits: int
    trials: int
    certain: bool


def forecast(sample: Sample, choice: Choice, costs: Costs, *, bad_rate: float | None, confidence: float) -> Forecast:
    """`review`, `wrong_good`, `wrong_bad` (cars) and `cost` for 1,000 cars, each with `_low` and `_high`; None without a labelled photo.

    With a `bad_rate` each class is weighted to that rate. Every share has its exact interval (Clopper and Pearson); in a sum of several
    shares, each has a higher confidence (Bonferroni), so that all hold together. This is wide, but also valid for rare errors; a
    bootstrap of a sample without errors would give an interval of width 0.
    """
    names = ("review", "wrong_good", "wrong_bad", "cost")
    drawn = sample.one_a_group()
    good, bad = drawn.labelled("good"), drawn.labelled("bad")
    if not drawn.groups or (bad_rate is not None and not (good and bad)):
        return Forecast(**dict.fromkeys(Forecast.model_fields))
    said_good, wrong_good = _counts(drawn, choice.T_high, "good")
    said_bad, wrong_bad = _counts(drawn, choice.T_low, "bad")
    unsure_of_good = good - (said_good - wrong_good) - wrong_bad
    unsure_of_bad = bad - (said_bad - wrong_bad) - wrong_good
    # A word that is never used is never wrong; if neither is used, every photo is reviewed. Both shares need no count.
    certain = choice.T_high is None and choice.T_low is None
    if bad_rate is None:
        review = [Cell(1.0, unsure_of_good + unsure_of_bad, drawn.groups, certain=certain)]
        called_good = [Cell(1.0, wrong_good, drawn.groups, certain=choice.T_high is None)]
        called_bad = [Cell(1.0, wrong_bad, drawn.groups, certain=choice.T_low is None)]
    else:
        review = [
            Cell(1 - bad_rate, unsure_of_good, good, certain=certain),
            Cell(bad_rate, unsure_of_bad, bad, certain=certain),
        ]
        called_good = [Cell(bad_rate, wrong_good, bad, certain=choice.T_high is None)]
        called_bad = [Cell(1 - bad_rate, wrong_bad, good, certain=choice.T_low is None)]
    priced = ((review, costs.review), (called_good, costs.wrong_good), (called_bad, costs.wrong_bad))
    money = [replace(cell, weight=cell.weight * price) for cells, price in priced for cell in cells]
    result: dict[str, float] = {}
    for name, cells in zip(names, (review, called_good, called_bad, money), strict=True):
        value, low, high = _sum_of_shares(cells, confidence=confidence)
        result |= {name: CARS * value, f"{name}_low": CARS * low, f"{name}_high": CARS * high}
    return Forecast(**result)


@dataclass(frozen=True)
class CostMap:
    """The cost of 1,000 cars for pairs of thresholds, on one photo of each group.

    Photos that get neither word are reviewed, so a pair (low[i], high[j]) costs `base + part_low[i] + part_high[j]`. `low` (L,) and
    `high` (H,) ascend; the first of `low` never gives the bad word, the last of `high`, infinity, never the good one. `said_bad` (L,)
    and `said_good` (H,) are the shares of photos that get each word.
    """

    low: Thresholds
    high: Thresholds
    base: float
    part_low: Floats
    part_high: Floats
    said_bad: Floats
    said_good: Floats

    def cheapest(self) -> Choice:
        """The cheapest pair with T_low <= T_high; of equal costs the one that leaves most unsure."""
        parts_low = self.part_low.round(6)
        least = np.minimum.accumulate(parts_low)
        last_allowed = np.searchsorted(self.low, self.high, side="right") - 1
        costs = (least[last_allowed] + self.part_high).round(6)
        column = int(np.flatnonzero(costs == costs.min())[-1])
        row = int(np.flatnonzero(parts_low[: last_allowed[column] + 1] == least[last_allowed[column]])[0])
        T_high = float(self.high[column])
        return Choice(T_high=None if np.isinf(T_high) else T_high, T_low=float(self.low[row]) if row else None)

    def grid(self, points: int) -> tuple[Floats, Floats, Floats]:
        """For a plot: `said_bad` (B,), `said_good` (A,) and cost (A, B), for at most `points` thresholds of each side.

        The cost is NaN where T_low > T_high.
        """
        rows = np.unique(np.linspace(0, len(self.low) - 1, points).round().astype(int))
        columns = np.unique(np.linspace(0, len(self.high) - 1, points).round().astype(int))[::-1]
        cost = self.base + self.part_high[columns][:, None] + self.part_low[rows][None, :]
        overlap = self.low[rows][None, :] > self.high[columns][:, None]
        return self.said_bad[rows], self.said_good[columns], np.where(overlap, np.nan, cost)


def map_costs(sample: Sample, costs: Costs, *, low: Thresholds, high: Thresholds, bad_rate: float | None) -> CostMap:
    """The costs for the thresholds `low` and `high`, in any order, and for never using either word. The sample must not be empty."""
    drawn = sample.one_a_group()
    low, high = np.concatenate([[0.0], np.sort(low)]), np.concatenate([np.sort(high), [np.inf]])
    said_good, wrong_good = count_decisions(drawn, high, side="good")
    said_bad, wrong_bad = count_decisions(drawn, low, side="bad")
    good, bad = drawn.labelled("good"), drawn.labelled("bad")
    if bad_rate is None:
        weight_of_good = weight_of_bad = CARS / drawn.groups
    else:
        weight_of_good, weight_of_bad = CARS * (1 - bad_rate) / max(good, 1), CARS * bad_rate / max(bad, 1)
    spared_good = weight_of_good * (said_good - wrong_good) + weight_of_bad * wrong_good
    spared_bad = weight_of_bad * (said_bad - wrong_bad) + weight_of_good * wrong_bad
    return CostMap(
        low=low,
        high=high,
        base=costs.review * (weight_of_good * good + weight_of_bad * bad),
        part_low=costs.wrong_bad * weight_of_good * wrong_bad - costs.review * spared_bad,
        part_high=costs.wrong_good * weight_of_bad * wrong_good - costs.review * spared_good,
        said_bad=said_bad / drawn.groups,
        said_good=said_good / drawn.groups,
    )


def _counts(drawn: Sample, threshold: float | None, side: Side) -> tuple[int, int]:
    if threshold is None:
        return 0, 0
    said, wrong = count_decisions(drawn, np.array([threshold]), side=side)
    return int(said[0]), int(wrong[0])


def _sum_of_shares(cells: list[Cell], *, confidence: float) -> tuple[float, float, float]:
    """The sum of weight x share over `cells`, with its interval."""
    uncertain = [cell for cell in cells if not cell.certain]
    one_sided = 1 - (1 - confidence) / 2 / max(1, len(uncertain))
    value = sum(cell.weight * cell.hits / cell.trials for cell in cells)
    known = sum(cell.weight * cell.hits / cell.trials for cell in cells if cell.certain)
    low = sum(cell.weight * lower_bound(cell.trials, cell.trials - cell.hits, confidence=one_sided) for cell in uncertain)
    high = sum(cell.weight * (1 - lower_bound(cell.trials, cell.hits, confidence=one_sided)) for cell in uncertain)
    return value, known + low, known + high
