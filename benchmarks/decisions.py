"""How many good photos the proved rule finds, as a share of what is possible, beside other ways to prove the same promise.

    python benchmarks/decisions.py --draws 200

Each distribution gives p_good and the class of a photo. One draw is a set val, whose scores and labels plan the test, and a set calib,
whose labels prove it; the *oracle* knows the distribution and takes the loosest threshold that keeps the promise. Printed for each way are
the mean recall as a share of the oracle's (0 where nothing is proved), and the share of draws whose threshold breaks the promise (at most
0.05).
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from mapie.risk_control import BinaryClassificationController
from scipy.special import expit, logit

from carinspect.thresholds.binomial import accepted_needed
from carinspect.thresholds.choice import choose_guaranteed
from carinspect.thresholds.evidence import Floats, Target, gather, passes
from carinspect.thresholds.plan import Reference, cut_points, fit_forecast
from carinspect.thresholds.sample import Sample

TARGET, CONFIDENCE, STARTS = 0.95, 0.95, 2
CANDIDATES = 100


@dataclass(frozen=True)
class Distribution:
    """How photos come: `draw(random, n)` returns p_good and the class, both (n,); the same class at a rate where `bad_rate` is set."""

    name: str
    draw: Callable[[np.random.Generator, int], tuple[Floats, Floats]]
    bad_rate: float | None = None


def two_normals(*, bad: float, distance: float, spread: float = 1.0) -> Callable[[np.random.Generator, int], tuple[Floats, Floats]]:
    """Calibrated log-odds: normal in each class."""

    def draw(random: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        good = (random.random(n) >= bad).astype(float)
        x = random.normal(np.where(good == 1, distance / 2, -distance / 2), np.where(good == 1, 1.0, spread))
        return expit(distance * x + np.log((1 - bad) / bad)), good

    return draw


def distort(
    draw: Callable[[np.random.Generator, int], tuple[Floats, Floats]], *, slope: float = 1.0, shift: float = 0.0
) -> Callable[[np.random.Generator, int], tuple[Floats, Floats]]:
    """The same photos with log-odds that are `slope` times too large, or shifted."""

    def distorted(random: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        p, good = draw(random, n)
        return expit(slope * logit(np.clip(p, 1e-12, 1 - 1e-12)) + shift), good

    return distorted


def blunders(
    draw: Callable[[np.random.Generator, int], tuple[Floats, Floats]], *, share: float
) -> Callable[[np.random.Generator, int], tuple[Floats, Floats]]:
    """The same photos, a share of which gets the class by a coin whatever the score: errors that no threshold removes."""

    def drawn(random: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        p, good = draw(random, n)
        return p, np.where(random.random(n) < share, random.integers(0, 2, n), good).astype(float)

    return drawn


EASY, MIDDLING, HARD = (two_normals(bad=0.4, distance=distance) for distance in (3.5, 2.5, 1.8))
DISTRIBUTIONS = (
    Distribution("calibrated, AUC .99", EASY),
    Distribution("calibrated, AUC .96", MIDDLING),
    Distribution("calibrated, AUC .90", HARD),
    Distribution("log-odds 3 times too large", distort(MIDDLING, slope=3.0)),
    Distribution("log-odds 3 times too small", distort(MIDDLING, slope=1 / 3)),
    Distribution("too optimistic by 3", distort(MIDDLING, shift=3.0)),
    Distribution("too pessimistic by 3", distort(MIDDLING, shift=-3.0)),
    Distribution("a tenth of the photos is bad", two_normals(bad=0.1, distance=2.0)),
    Distribution("three quarters are bad", two_normals(bad=0.75, distance=3.0)),
    Distribution("bad photos are scattered", two_normals(bad=0.4, distance=3.0, spread=1.2)),
    Distribution("2 % blunders", blunders(EASY, share=0.02)),
    Distribution("field rate 0.4, calib 0.4", MIDDLING, bad_rate=0.4),
    Distribution("field rate 0.6, calib 0.4", EASY, bad_rate=0.6),
)


class Oracle:
    """The true precision and recall of every threshold, from a million photos."""

    def __init__(self, one: Distribution) -> None:
        p, good = rounded(one.draw(np.random.default_rng(99), 1_000_000))
        order = np.argsort(-p, kind="stable")
        self.scores, right = p[order], np.cumsum(good[order])
        wrong = np.arange(1, len(p) + 1) - right
        if one.bad_rate is not None:
            right, wrong = right / right[-1] * (1 - one.bad_rate), wrong / wrong[-1] * one.bad_rate
        self.recall, self.precision = right / right[-1], right / (right + wrong)
        self.best = float(self.recall[self.precision >= TARGET].max(initial=0.0))

    def judge(self, threshold: float | None) -> tuple[float, bool]:
        """Recall as a share of the best, and whether the promise is broken."""
        called = 0 if threshold is None else int(np.searchsorted(-self.scores, -threshold, side="right"))
        return (float(self.recall[called - 1]) / self.best, bool(self.precision[called - 1] < TARGET)) if called else (0.0, False)


def rounded(drawn: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """With six decimals, as tables have them."""
    return drawn[0].round(6), drawn[1]


def ours(val: tuple[Floats, Floats], calib: Sample, target: Target) -> float | None:
    return choose_guaranteed(calib, Reference(score=val[0], probability=fit_forecast(*val)(val[0])), target).T_high


def raw_plan(val: tuple[Floats, Floats], calib: Sample, target: Target) -> float | None:
    """The same with p_good itself as the forecast."""
    return choose_guaranteed(calib, Reference(score=val[0], probability=val[0]), target).T_high


def candidates_of(val: tuple[Floats, Floats]) -> Floats:
    cuts = cut_points(val[0], side="good")
    return cuts[np.unique(np.linspace(0, len(cuts) - 1, CANDIDATES).astype(int))]


def bonferroni(val: tuple[Floats, Floats], calib: Sample, target: Target) -> float | None:
    """Every candidate at its share of the level."""
    cuts = candidates_of(val)
    proved = cuts[passes(gather(calib, cuts, side="good"), target, side="good", level=target.alpha / len(cuts))]
    return float(proved.min()) if len(proved) else None


def plain_learn_then_test(val: tuple[Floats, Floats], calib: Sample, target: Target) -> float | None:
    """Fixed-sequence testing at the full level from one start on, where twice the least number of photos for a proof is expected."""
    cuts = candidates_of(val)
    least = 2 * (accepted_needed(target=TARGET, alpha=target.alpha, precision=1.0) or 0) / len(calib.score)
    cuts = cuts[(val[0][:, None] >= cuts).mean(axis=0) >= least]
    if not len(cuts):
        return None
    found = passes(gather(calib, cuts, side="good"), target, side="good", level=target.alpha)
    proved = cuts[: int(np.argmin(found)) if not found.all() else len(cuts)]
    return float(proved.min()) if len(proved) else None


def mapie(val: tuple[Floats, Floats], calib: Sample, target: Target) -> float | None:
    """MAPIE's controller with its own p-values and the same candidates; it knows no field rate."""
    if target.bad_rate is not None:
        return None
    controller = BinaryClassificationController(
        predict_function=lambda scores: np.column_stack([1 - scores, scores]), risk="precision", target_level=TARGET,
        confidence_level=CONFIDENCE, list_predict_params=candidates_of(val)[::-1],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of draws in which it finds nothing
        controller.calibrate(calib.score, calib.good)
    return None if len(controller.valid_predict_params) == 0 else float(np.min(controller.valid_predict_params))


WAYS = {"this rule": ours, "raw plan": raw_plan, "MAPIE": mapie, "Bonferroni": bonferroni, "plain LTT": plain_learn_then_test}


def measure(one: Distribution, *, draws: int, calib: int, val: int) -> dict[str, tuple[float, float]]:
    """Way → mean share of the oracle's recall, and share of draws in which the promise is broken."""
    random, oracle = np.random.default_rng(5), Oracle(one)
    target = Target(precision=TARGET, confidence=CONFIDENCE, starts=STARTS, bad_rate=one.bad_rate)
    found: dict[str, list[tuple[float, bool]]] = {name: [] for name in WAYS}
    for _ in range(draws):
        reference, (score, good) = rounded(one.draw(random, val)), rounded(one.draw(random, calib))
        sample = Sample(score, good.astype(np.int64), np.ones(calib, dtype=bool))
        for name, way in WAYS.items():
            found[name].append(oracle.judge(way(reference, sample, target)))
    return {
        name: (float(np.mean([one[0] for one in results])), float(np.mean([one[1] for one in results]))) for name, results in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--photos", type=int, default=1000, help="groups of calib")
    parser.add_argument("--val", type=int, default=333, help="photos of val")
    options = parser.parse_args()
    print(f"| {options.photos} groups of calib | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}")
    for one in DISTRIBUTIONS:
        found = measure(one, draws=options.draws, calib=options.photos, val=options.val)
        cells = (
            "–" if name == "MAPIE" and one.bad_rate is not None else f"{recall:.2f} ({broken:.3f})"
            for name, (recall, broken) in found.items()
        )
        print(f"| {one.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
