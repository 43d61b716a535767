"""How often the intervals of `evaluate` hold the true metric, by method, on simulated photos in groups.

    python benchmarks/intervals.py [--draws 1000]

Confidence .95. `ours` is scoring/intervals.py; beside it the bootstrap over groups by percentiles, with Hesterberg's expansion, and
bias-corrected (BCa), and the jackknife over groups on the plain and on the logit scale (of an AUC: Obuchowski's interval). Scores have a
common part in a group, of half their variance. Prints coverage and mean width.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from carinspect.scoring.classification import accuracy, brier
from carinspect.scoring.intervals import Metric, Scale, estimate, leave_out, point
from carinspect.scoring.ranking import average_precision, roc_auc
from carinspect.scoring.regression import mae, pearson

CONFIDENCE, RESAMPLES = 0.95, 400
Interval = tuple[float, float]
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Labels, answers, groups."""


@dataclass(frozen=True)
class Case:
    """A metric on one kind of photos."""

    name: str
    metric: Metric
    scale: Scale
    draw: Callable[[np.random.Generator, int], Drawn]
    """(random, groups)"""


def draw_classes(random: np.random.Generator, groups: int, *, auc: float, photos: int = 3, positive: float = 0.5) -> Drawn:
    """Calibrated probabilities; all photos of a group are of one class."""
    group = np.repeat(np.arange(groups), photos)
    labels = (random.random(groups) < positive)[group].astype(float)
    distance = norm.ppf(auc) * 2**0.5
    noise = (random.normal(size=groups)[group] + random.normal(size=len(group))) / 2**0.5
    odds = distance * (distance * (labels - 0.5) + noise) + np.log(positive / (1 - positive))
    return labels, 1 / (1 + np.exp(-odds)), group


def draw_rights(random: np.random.Generator, groups: int, *, right: float) -> Drawn:
    """Classes that are right with the probability `right`; a third of the groups answers alike."""
    group = np.repeat(np.arange(groups), 3)
    alike = (random.random(groups) < 1 / 3)[group]
    is_right = np.where(alike, (random.random(groups) < right)[group], random.random(len(group)) < right)
    return np.ones(len(group)), is_right.astype(float), group


def draw_scores(random: np.random.Generator, groups: int) -> Drawn:
    group = np.repeat(np.arange(groups), 3)
    labels = random.beta(5, 1.5, len(group))
    noise = random.standard_t(4, groups)[group] + random.standard_t(4, len(group))
    return labels, labels + 0.06 * noise, group


CASES = [
    *(Case(f"AUC {auc}", roc_auc, "share", partial(draw_classes, auc=auc)) for auc in (0.8, 0.95, 0.99)),
    Case("AUC .95, 6 a group, 30 %", roc_auc, "share", partial(draw_classes, auc=0.95, photos=6, positive=0.3)),
    Case("AUC .99, 6 a group, 30 %", roc_auc, "share", partial(draw_classes, auc=0.99, photos=6, positive=0.3)),
    Case("average precision", average_precision, "share", partial(draw_classes, auc=0.95)),
    Case("Brier, AUC .95", brier, "error", partial(draw_classes, auc=0.95)),
    Case("accuracy .80", accuracy, "share", partial(draw_rights, right=0.8)),
    Case("accuracy .97", accuracy, "share", partial(draw_rights, right=0.97)),
    Case("absolute error", mae, "error", draw_scores),
    Case("correlation", pearson, "correlation", draw_scores),
]  # fmt: skip


def intervals(case: Case, drawn: Drawn, random: np.random.Generator) -> Iterator[tuple[str, Interval]]:
    """Each method's interval; nothing where the metric is not defined."""
    labels, answers, group = drawn
    groups = int(group.max()) + 1
    ours = estimate(case.metric, labels, answers, groups_N=group.astype(str), confidence=CONFIDENCE, scale=case.scale)
    if ours.value is None or ours.low is None or ours.high is None or ours.standard_error is None:
        return
    yield "ours", (ours.low, ours.high)
    value, error, reach = ours.value, ours.standard_error, float(student_t.ppf(0.5 + CONFIDENCE / 2, groups - 1))
    yield "jackknife", (value - reach * error, value + reach * error)
    if 0 < value < 1 and case.scale == "share":
        half = reach * error / (value * (1 - value))
        yield "logit", (1 / (1 + np.exp(-np.log(value / (1 - value)) + half)), 1 / (1 + np.exp(-np.log(value / (1 - value)) - half)))
    elif case.scale == "share":
        yield "logit", (value, value)
    counts = random.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)[:, group].astype(float)
    values = case.metric(labels, answers, counts)
    values = values[~np.isnan(values)]
    tail = (1 - CONFIDENCE) / 2
    yield "percentile", _ends(values, tail, 1 - tail)
    expanded = float(norm.cdf(-np.sqrt(groups / (groups - 1)) * reach))
    yield "expanded", _ends(values, expanded, 1 - expanded)
    without = leave_out(case.metric, labels, answers, group.astype(str))
    away = without.mean() - without
    scale = np.square(away).sum() ** 1.5
    skew = (away**3).sum() / (6 * scale) if scale > 0 else 0.0
    bias = norm.ppf(np.clip(((values < value).mean() + (values <= value).mean()) / 2, 0.5 / RESAMPLES, 1 - 0.5 / RESAMPLES))
    shifted = [norm.cdf(bias + (bias + z) / (1 - skew * (bias + z))) for z in (norm.ppf(tail), -norm.ppf(tail))]
    yield "BCa", _ends(values, *shifted)


def _ends(values: np.ndarray, low: float, high: float) -> Interval:
    found = np.quantile(values, [low, high])
    return float(found[0]), float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    methods = ("ours", "jackknife", "logit", "percentile", "expanded", "BCa")
    print(f"{'coverage (mean width)':28} groups  " + "".join(f"{name:>14}" for name in methods))
    for case in CASES:
        large = [case.draw(np.random.default_rng((9, part)), 20_000) for part in range(5)]
        truth = float(np.mean([point(case.metric, labels, answers) for labels, answers, _ in large]))
        for groups in (30, 100):
            covered: dict[str, list[bool]] = {name: [] for name in methods}
            widths: dict[str, list[float]] = {name: [] for name in methods}
            for number in range(draws):
                random = np.random.default_rng((2026, groups, number))
                for name, (low, high) in intervals(case, case.draw(random, groups), random):
                    covered[name].append(low <= truth <= high)
                    widths[name].append(high - low)
            cells = (f"{np.mean(covered[name]):.3f} ({np.mean(widths[name]):.3f})" if covered[name] else "–" for name in methods)
            print(f"{case.name:28} {groups:6}  " + "".join(f"{cell:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
