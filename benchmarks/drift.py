"""How rightly `carinspect drift` is quiet and how surely it finds a dirtier season, on simulated cars of several photos each.

    python benchmarks/drift.py [--logs 200]

A photo's score is the log-odds of two normal classes; half of its deviation within a class, and of the photo's brightness, belongs to the
car. A rule at the true precision .964 is proved on 2,000 cars, 40 % of them dirty: at 60 % its precision is .923. Prints the share of
logs with an alarm ever (exit status 1), the share of last looks that were quiet (0) or open (2), and how often the shown interval of the
share holds the true one. No model and no photo is needed.
"""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from scipy.stats import norm

from carinspect.cli.drift import Reference, conclude, look
from carinspect.core.questions import Question
from carinspect.inference.histograms import add_up, edges_of
from carinspect.inference.label_shift import ClassReference, QuestionReference, design_effect
from carinspect.inference.rules import DecisionRule, Promise
from carinspect.inference.shifts import find_shifts
from carinspect.thresholds.evidence import Evidence, highest_wrong_rate

QUESTION = Question(name="clean", kind="binary", column="clean", classes=("dirty", "clean"), good="clean")
DISTANCE, PROVED_AT, TARGET = 2.6, 0.4, 0.95
START = datetime(2026, 1, 1, tzinfo=UTC)


def accepted_odds(p: float) -> float:
    """Shares of the clean and of the dirty photos at or above a score, over each other."""
    score = np.log(p / (1 - p)) / DISTANCE
    return float(norm.sf(score - DISTANCE / 2) / norm.sf(score + DISTANCE / 2))


T_HIGH = next(p for p in np.linspace(0.5, 0.999, 500) if accepted_odds(p) >= 18.0)
"""Right over wrong: 18 x .6 / .4 = 27 at 40 % dirty, the precision .964; 12 at 60 %, .923."""


def draw_photos(random: np.random.Generator, *, cars: int, photos_a_car: int, dirty: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p, brightness and whether dirty, each of shape (cars, photos_a_car)."""
    is_dirty = np.repeat((random.random(cars) < dirty)[:, None], photos_a_car, axis=1)

    def noise() -> np.ndarray:
        return (random.normal(size=(cars, 1)) + random.normal(size=(cars, photos_a_car))) / 2**0.5

    score = DISTANCE * (np.where(is_dirty, -DISTANCE / 2, DISTANCE / 2) + noise())
    return 1 / (1 + np.exp(-score)), 120 + 25 * noise(), is_dirty


def histograms(p: np.ndarray, brightness: np.ndarray) -> dict[str, list[int]]:
    found = {}
    for name, values in (("p_clean", p), ("brightness", brightness)):
        edges = edges_of(name)
        found[name] = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].tolist()
    return found


def prove(random: np.random.Generator, *, cars: int = 2000, photos_a_car: int = 2) -> tuple[Reference, DecisionRule, float]:
    """The calibration photos, the rule with its promise, and the share of dirty cars up to which it is proved: drawn until it is proved."""
    p, brightness, dirty = draw_photos(random, cars=cars, photos_a_car=photos_a_car, dirty=PROVED_AT)
    classes = {}
    for side, is_it in (("good", ~dirty[:, 0]), ("bad", dirty[:, 0])):
        one = p[is_it, 0]
        said = int((one >= T_HIGH).sum())
        classes[side] = ClassReference(histogram=histograms(one, one)["p_clean"], said_good=said, said_bad=0)
    known = QuestionReference(good=classes["good"], bad=classes["bad"])
    reference = Reference("calib", p.size, histograms(p, brightness), design_effect({str(photos_a_car): cars}), {"clean": known})
    promise = Promise(precision=TARGET, confidence=0.95, of="photos", at_rate=None)
    rule = DecisionRule(QUESTION, "photo", T_label=T_HIGH, T_low=None, T_high=T_HIGH, promises={"good": promise})
    hits, slips = (np.array([float(one.said_good)]) for one in (known.good, known.bad))
    limit = highest_wrong_rate(Evidence(hits, slips, known.good.photos, known.bad.photos), target=TARGET, level=0.05)
    if limit[0] < PROVED_AT:
        return prove(random, cars=cars, photos_a_car=photos_a_car)
    return reference, rule, float(limit[0])


def write_day(random: np.random.Generator, day: int, *, cars: int, photos_a_car: int, dirty: float) -> dict[str, Any]:
    """The log's line of one day."""
    p, brightness, _ = draw_photos(random, cars=cars, photos_a_car=photos_a_car, dirty=dirty)
    begin = START + timedelta(days=day)
    return {
        "model_sha256": "m", "from": begin.isoformat(), "until": (begin + timedelta(days=1)).isoformat(), "photos": p.size,
        "requests": {str(photos_a_car): cars}, "histograms": histograms(p, brightness),
    }  # fmt: skip


def look_daily(random: np.random.Generator, shares: Sequence[float], *, cars: int, photos_a_car: int = 6) -> tuple[list[int], bool, bool]:
    """The exit status of each day's look, whether the last interval holds the last share, and whether the test of independent photos,
    at .01 a day, was ever loud. shares: of dirty cars, day by day."""
    reference, rule, limit = prove(random)
    lines: list[dict[str, Any]] = []
    statuses, loud, covers = [], False, False
    for day, dirty in enumerate(shares):
        lines.append(write_day(random, day, cars=cars, photos_a_car=photos_a_car, dirty=dirty))
        looks = look(lines, reference, {"clean": rule}, break_even={"clean": limit})
        statuses.append(conclude(looks, [rule])[0])
        newest = looks[0].estimates[0].share
        covers = newest.low <= dirty <= newest.high
        together = add_up([line["histograms"] for line in lines])
        loud = loud or any(shift.level == 2 for shift in find_shifts(reference.histograms, together, level=0.01)) or (
            any(shift.level == 2 for shift in find_shifts(reference.histograms, lines[-1]["histograms"], level=0.01))
        )  # fmt: skip
    return statuses, covers, loud


CASES: dict[str, tuple[list[float], int]] = {
    "no change, 100 days of 102 photos": ([0.4] * 100, 17),
    "no change, 100 days of 600 photos": ([0.4] * 100, 100),
    "60 % dirty, 20,000 photos in a day": ([0.6], 3334),
    "60 % dirty, 20,000 photos in 10 days": ([0.6] * 10, 334),
    "30 days without a change, then 60 % for 10": ([0.4] * 30 + [0.6] * 10, 334),
    "20 % dirty, 20,000 photos in a day": ([0.2], 3334),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=200)
    logs = parser.parse_args().logs
    print("six photos a car                             alarm ever  last quiet  last open  interval holds  photos as independent")
    for name, (shares, cars) in CASES.items():
        found = [look_daily(np.random.default_rng((2026, number)), shares, cars=cars) for number in range(logs)]
        ever = np.mean([1 in statuses for statuses, _, _ in found])
        quiet, unknown = (np.mean([statuses[-1] == status for statuses, _, _ in found]) for status in (0, 2))
        covers, loud = (np.mean([one[place] for one in found]) for place in (1, 2))
        print(f"{name:44} {ever:10.3f} {quiet:11.3f} {unknown:10.3f} {covers:15.3f} {loud:22.3f}", flush=True)


if __name__ == "__main__":
    main()
