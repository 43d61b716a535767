"""Owns what a rule costs: photos to review, wrong words, and money for 1,000 cars; and the pair of thresholds that costs least.

A photo costs `wrong_above` where the word above (clean) is wrong, `wrong_below` where the word below (dirty) is, `review` where it is
unsure (whoever looks is taken to be right), and nothing where the word is right. One photo drawn from each group counts, as in the proof.
"""

from dataclasses import dataclass, replace

import numpy as np

from carinspect.thresholds.binomial import lower_bound
from carinspect.thresholds.choice import Choice
from carinspect.thresholds.evidence import Floats
from carinspect.thresholds.promise import Side
from carinspect.thresholds.sample import Sample, Thresholds, count_decisions

CARS = 1000


@dataclass(frozen=True)
class Prices:
    """In any one unit of money, for one car; none below 0."""

    wrong_above: float
    wrong_below: float
    review: float


@dataclass(frozen=True)
class Cell:
    """`hits` of `trials`, counting with `weight`; `certain`: by the rule itself, whatever the photos."""

    weight: float
    hits: int
    trials: int
    certain: bool


def forecast(
    sample: Sample, choice: Choice, prices: Prices, *, lower_class_rate: float | None, confidence: float
) -> dict[str, float | None]:
    """`review`, `wrong_above`, `wrong_below` (cars) and `cost` for 1,000 cars, each with `_low` and `_high`; None without a labelled photo.

    At a `lower_class_rate` the counts of each class are weighed to that rate. Every share has its exact interval (Clopper and Pearson); a
    sum of several shares takes each at a confidence so much higher that all hold together. That is wide, and true of rare errors too,
    where a bootstrap that has seen none would promise none.
    """
    names = ("review", "wrong_above", "wrong_below", "cost")
    drawn = sample.one_a_group()
    upper, lower = drawn.labelled("above"), drawn.labelled("below")
    if not drawn.groups or (lower_class_rate is not None and not (upper and lower)):
        return {f"{name}{end}": None for name in names for end in ("", "_low", "_high")}
    said_above, wrong_above = _counts(drawn, choice.T_high, "above")
    said_below, wrong_below = _counts(drawn, choice.T_low, "below")
    unsure_upper = upper - (said_above - wrong_above) - wrong_below
    unsure_lower = lower - (said_below - wrong_below) - wrong_above
    # A word that is never said is never wrong, and where neither is every photo is reviewed: both are known without a count.
    certain = choice.T_high is None and choice.T_low is None
    if lower_class_rate is None:
        review = [Cell(1.0, unsure_upper + unsure_lower, drawn.groups, certain=certain)]
        above = [Cell(1.0, wrong_above, drawn.groups, certain=choice.T_high is None)]
        below = [Cell(1.0, wrong_below, drawn.groups, certain=choice.T_low is None)]
    else:
        review = [
            Cell(1 - lower_class_rate, unsure_upper, upper, certain=certain),
            Cell(lower_class_rate, unsure_lower, lower, certain=certain),
        ]
        above = [Cell(lower_class_rate, wrong_above, lower, certain=choice.T_high is None)]
        below = [Cell(1 - lower_class_rate, wrong_below, upper, certain=choice.T_low is None)]
    priced = ((review, prices.review), (above, prices.wrong_above), (below, prices.wrong_below))
    money = [replace(cell, weight=cell.weight * price) for cells, price in priced for cell in cells]
    result: dict[str, float | None] = {}
    for name, cells in zip(names, (review, above, below, money), strict=True):
        value, low, high = _sum_of_shares(cells, confidence=confidence)
        result |= {name: CARS * value, f"{name}_low": CARS * low, f"{name}_high": CARS * high}
    return result


@dataclass(frozen=True)
class CostMap:
    """The cost of 1,000 cars for pairs of thresholds, on one photo a group of the split that is looked at.

    Review is what gets neither word, so that the cost of a pair (low[i], high[j]) is `base + part_low[i] + part_high[j]`. `low` (L,) and
    `high` (H,) ascend; the first of `low` never says the word below, the last of `high`, infinite, never the one above. `said_below` (L,)
    and `said_above` (H,) are the shares of photos that get each word.
    """

    low: Thresholds
    high: Thresholds
    base: float
    part_low: Floats
    part_high: Floats
    said_below: Floats
    said_above: Floats

    def cheapest(self) -> Choice:
        """The pair of least cost among those with T_low <= T_high; among equals one that says least."""
        parts_low = self.part_low.round(6)
        least = np.minimum.accumulate(parts_low)
        last_allowed = np.searchsorted(self.low, self.high, side="right") - 1
        costs = (least[last_allowed] + self.part_high).round(6)
        column = int(np.flatnonzero(costs == costs.min())[-1])
        row = int(np.flatnonzero(parts_low[: last_allowed[column] + 1] == least[last_allowed[column]])[0])
        T_high = float(self.high[column])
        return Choice(T_high=None if np.isinf(T_high) else T_high, T_low=float(self.low[row]) if row else None)

    def grid(self, points: int) -> tuple[Floats, Floats, Floats]:
        """For a picture: `said_below` (B,), `said_above` (A,) and the cost (A, B) of at most `points` thresholds of each side; NaN where

        the two would overlap.
        """
        rows = np.unique(np.linspace(0, len(self.low) - 1, points).round().astype(int))
        columns = np.unique(np.linspace(0, len(self.high) - 1, points).round().astype(int))[::-1]
        cost = self.base + self.part_high[columns][:, None] + self.part_low[rows][None, :]
        overlap = self.low[rows][None, :] > self.high[columns][:, None]
        return self.said_below[rows], self.said_above[columns], np.where(overlap, np.nan, cost)


def map_costs(sample: Sample, prices: Prices, *, low: Thresholds, high: Thresholds, lower_class_rate: float | None) -> CostMap:
    """The costs for the thresholds `low` and `high`, in any order, and for never saying either word. The sample must not be empty."""
    drawn = sample.one_a_group()
    low, high = np.concatenate([[0.0], np.sort(low)]), np.concatenate([np.sort(high), [np.inf]])
    said_above, wrong_above = count_decisions(drawn, high, side="above")
    said_below, wrong_below = count_decisions(drawn, low, side="below")
    upper, lower = drawn.labelled("above"), drawn.labelled("below")
    if lower_class_rate is None:
        weight_upper = weight_lower = CARS / drawn.groups
    else:
        weight_upper, weight_lower = CARS * (1 - lower_class_rate) / max(upper, 1), CARS * lower_class_rate / max(lower, 1)
    spared_above = weight_upper * (said_above - wrong_above) + weight_lower * wrong_above
    spared_below = weight_lower * (said_below - wrong_below) + weight_upper * wrong_below
    return CostMap(
        low=low,
        high=high,
        base=prices.review * (weight_upper * upper + weight_lower * lower),
        part_low=prices.wrong_below * weight_upper * wrong_below - prices.review * spared_below,
        part_high=prices.wrong_above * weight_lower * wrong_above - prices.review * spared_above,
        said_below=said_below / drawn.groups,
        said_above=said_above / drawn.groups,
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
