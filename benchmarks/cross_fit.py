"""Does the promise hold if all photos teach? Ways to train on more than the split `train`, on data whose precision is known exactly.

    python benchmarks/cross_fit.py --draws 500 --groups 600

A photo has Gaussian features, as a frozen backbone gives them: the mean of its class, an effect of its group and noise of its own. The
models are linear, so that the true precision and recall of a rule follow from the normal distribution. All ways leave the share .14 of the
groups to test; `FOLDS` models are each trained without one fold, and each photo of a fold is scored by the model that never saw its group.

    split           train .46, val .10 (plans the test), calib .30: what the pipeline does
    more to prove   the same with train .36 and calib .40
    refit           thresholds proved on the cross-fitted scores of .76; the model is trained again on those and val, .86
    refit, scaled   the same, but every model's log-odds are calibrated on val (Platt), and the last model is trained on .76
    one of K        thresholds as of `refit`; one of the models, drawn at random
    by lot          the same, but a model is drawn for each photo
    mean of K       the same, but the mean of the models' log-odds
    own folds       each model has a threshold of its own, proved on its own fold at a K-th of the level; a model is drawn for each photo

Printed are for each way the mean recall of the good word (0 where nothing is proved), and the share of draws whose rule has a precision
below the promised one (at most 1 - confidence = 0.05 keeps the promise).
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import norm
from sklearn.model_selection import GroupKFold

from carinspect.thresholds.binomial import accepted_needed
from carinspect.thresholds.choice import prove
from carinspect.thresholds.evidence import Floats, Target, gather, passes
from carinspect.thresholds.plan import Reference, fit_forecast, make_plan
from carinspect.thresholds.sample import Sample

FOLDS = 5
PROMISE = 0.95
ONCE = Target(precision=PROMISE, confidence=0.95, starts=2, bad_rate=None)
EACH = Target(precision=PROMISE, confidence=0.95, starts=2, bad_rate=None, families=FOLDS)
"""Of `own folds`: the proofs share 1 - confidence."""

GOOD = 0.6
PHOTOS_A_GROUP = 2
MOST_STEPS = 25
GROUP_SHARE = 0.5
"""Of the variance of a feature: what the photos of a group have in common."""
SPLIT, MORE_TO_PROVE = (0.46, 0.10, 0.30), (0.36, 0.10, 0.40)


@dataclass(frozen=True)
class Linear:
    """A model: log-odds = features @ weight + bias."""

    weight: Floats
    bias: float

    def p_good(self, x: Floats) -> Floats:
        # As tables have it.
        return expit(x @ self.weight + self.bias).round(6)


@dataclass(frozen=True)
class Photos:
    """Features (N, F), 1 for the good class (N,), and the group (N,), whose first photo counts in a proof."""

    x: Floats
    good: Floats
    group: Floats

    def of(self, groups: Floats) -> "Photos":
        own = np.isin(self.group, groups)
        return Photos(self.x[own], self.good[own], self.group[own])

    @property
    def drawn(self) -> np.ndarray:
        return np.arange(len(self.good)) % PHOTOS_A_GROUP == 0


Learner = Callable[[Photos, np.random.Generator], Linear]
Rule = list[tuple[Linear, float | None]]
"""Models with their thresholds; one of them is drawn for each photo. None: that model calls nothing good."""


@dataclass(frozen=True)
class Case:
    """What learns, from how many features for each group in all splits, and how far the classes lie apart, in standard deviations."""

    learn: Learner
    features: float = 0.1
    distance: float = 3.2


def draw_photos(random: np.random.Generator, case: Case, *, groups: int) -> Photos:
    features = round(case.features * groups)
    good = np.repeat(random.random(groups) < GOOD, PHOTOS_A_GROUP).astype(float)
    common = np.repeat(random.normal(size=(groups, features)), PHOTOS_A_GROUP, axis=0)
    own = random.normal(size=(groups * PHOTOS_A_GROUP, features))
    x = np.sqrt(GROUP_SHARE) * common + np.sqrt(1 - GROUP_SHARE) * own
    x[:, 0] += case.distance * (good - 0.5)
    return Photos(x, good, np.repeat(np.arange(groups), PHOTOS_A_GROUP).astype(float))


def fit_logistic(x: Floats, good: Floats, *, penalty: float) -> Linear:
    """Newton's method. penalty: of half the squared weights; 1 / C of scikit-learn."""
    x = np.column_stack([x, np.ones(len(x))])
    penalties = np.full(x.shape[1], penalty)
    penalties[-1] = 1e-9  # the bias has none
    weight = np.zeros(x.shape[1])
    for _ in range(MOST_STEPS):
        p = expit(x @ weight)
        slope = x.T @ (p - good) + penalties * weight
        curvature = (x * (p * (1 - p) + 1e-9)[:, None]).T @ x + np.diag(penalties)
        step = np.linalg.solve(curvature, slope)
        weight = weight - step
        if np.abs(step).max() < 1e-6:
            break
    return Linear(weight[:-1], float(weight[-1]))


def logistic(*, penalty: float) -> Learner:
    return lambda photos, _: fit_logistic(photos.x, photos.good, penalty=penalty)


def chosen_penalty(photos: Photos, _: np.random.Generator) -> Linear:
    """As the pipeline's probe: the penalty that does best on groups that were held out."""

    def loss(penalty: float) -> float:
        z = np.empty(len(photos.good))
        for known, rest in GroupKFold(3).split(photos.x, groups=photos.group):
            model = fit_logistic(photos.x[known], photos.good[known], penalty=penalty)
            z[rest] = photos.x[rest] @ model.weight + model.bias
        return float(np.logaddexp(0, np.where(photos.good == 1, -z, z)).mean())

    return fit_logistic(photos.x, photos.good, penalty=min((1.0, 100.0, 1e4), key=loss))


def sharpness_by_lot(*, spread: float) -> Learner:
    """Log-odds times a factor of each fit, as of networks that stop at different epochs; `spread`: standard deviation of its logarithm."""

    def fit(photos: Photos, random: np.random.Generator) -> Linear:
        fitted, factor = logistic(penalty=100)(photos, random), float(np.exp(random.normal(0, spread)))
        return Linear(fitted.weight * factor, fitted.bias * factor)

    return fit


def fails_by_lot(*, share: float) -> Learner:
    """That share of the fits learns from a tenth of the groups only."""

    def fit(photos: Photos, random: np.random.Generator) -> Linear:
        groups = np.unique(photos.group)
        some = random.permutation(groups)[: len(groups) // 10] if random.random() < share else groups
        return logistic(penalty=100)(photos.of(some), random)

    return fit


def least_squares(photos: Photos, _: np.random.Generator) -> Linear:
    """With next to no penalty, on one photo of each group: worst where there are as many photos as features."""
    x, wanted = np.column_stack([photos.x, np.ones(len(photos.x))])[photos.drawn], (4 * photos.good - 2)[photos.drawn]
    weight = x.T @ np.linalg.solve(x @ x.T + 1e-3 * np.eye(len(x)), wanted)
    return Linear(weight[:-1], float(weight[-1]))


CASES = {
    "logistic regression, one penalty": Case(logistic(penalty=100)),
    "a penalty chosen on held-out groups": Case(chosen_penalty),
    "no penalty": Case(logistic(penalty=1e-6)),
    "scale differs from fit to fit": Case(sharpness_by_lot(spread=0.5)),
    "scale differs more": Case(sharpness_by_lot(spread=1.0)),
    "a fit in ten fails": Case(fails_by_lot(share=0.1)),
    "a fit in three fails": Case(fails_by_lot(share=1 / 3)),
    "least squares, as many features as groups": Case(least_squares, features=0.86, distance=8.0),
}


def called(rule: Rule, *, distance: float) -> tuple[float, float]:
    """The true shares of the good and of the bad photos that the rule calls good; of a photo drawn at random from a new group."""
    found = []
    for model, threshold in rule:
        if threshold is None:
            found.append((0.0, 0.0))
            continue
        # p_good has six decimals and a threshold lies between two of them, so where it is cut off plays no part.
        cut, spread = np.log(threshold / (1 - threshold)) if 0 < threshold < 1 else np.inf * (threshold - 0.5), norm(0, 1)
        length, middle = np.linalg.norm(model.weight), model.weight[0] * distance / 2
        found.append(tuple(float(spread.sf((cut - model.bias - sign * middle) / length)) for sign in (1, -1)))
    return float(np.mean([one[0] for one in found])), float(np.mean([one[1] for one in found]))


def judge(rule: Rule, *, distance: float) -> tuple[float, bool]:
    """The true recall, and whether the promise is broken."""
    good, bad = called(rule, distance=distance)
    return good, good + bad > 0 and GOOD * good < PROMISE * (GOOD * good + (1 - GOOD) * bad)


def prove_high(p_good: Floats, photos: Photos, reference: tuple[Floats, Floats], target: Target) -> float | None:
    """T_high as `select_threshold` proves it, from one photo of each group; None where nothing is proved."""
    drawn = Sample(p_good, photos.good.astype(np.int64), photos.drawn).one_a_group()
    if drawn.labelled("good") < (accepted_needed(target=PROMISE, alpha=target.level_of_one_start, precision=1.0) or 0):
        return None  # even a model without an error proves nothing
    forecast = Reference(score=reference[0], probability=fit_forecast(*reference)(reference[0]))
    plan = make_plan(forecast, groups=drawn.groups, target=target, side="good")
    found = gather(drawn, plan.thresholds, side="good")
    proved = prove(lambda level: passes(found, target, side="good", level=level), alpha=target.alpha, starts=plan.starts)
    return float(plan.thresholds[proved].min()) if proved.any() else None


def split_rule(photos: Photos, learn: Learner, random: np.random.Generator, fractions: tuple[float, float, float]) -> Rule:
    ends = np.round(np.cumsum(fractions) * len(np.unique(photos.group))).tolist()
    train, val, calib = (photos.of(np.arange(start, end)) for start, end in zip((0, *ends[:-1]), ends, strict=True))
    model = learn(train, random)
    return [(model, prove_high(model.p_good(calib.x), calib, (model.p_good(val.x), val.good), ONCE))]


def calibrate(model: Linear, val: Photos) -> Linear:
    """Platt's sigmoid on val."""
    z = val.x @ model.weight + model.bias
    fitted = fit_logistic((z / z.std())[:, None], val.good, penalty=1.0)
    slope = float(fitted.weight[0] / z.std())
    return Linear(model.weight * slope, model.bias * slope + fitted.bias)


def cross_fitted_rules(photos: Photos, learn: Learner, random: np.random.Generator) -> dict[str, Rule]:
    count = len(np.unique(photos.group))
    folds = photos.of(np.arange(round(0.76 * count)))
    val, taught = photos.of(np.arange(round(0.76 * count), round(0.86 * count))), photos.of(np.arange(round(0.86 * count)))
    models, scored, scaled, alone = [], np.empty(len(folds.good)), np.empty(len(folds.good)), []
    for known, rest in GroupKFold(FOLDS).split(folds.x, groups=folds.group):
        model = learn(Photos(folds.x[known], folds.good[known], folds.group[known]), random)
        held_out = Photos(folds.x[rest], folds.good[rest], folds.group[rest])
        models.append(model)
        scored[rest], scaled[rest] = model.p_good(held_out.x), calibrate(model, val).p_good(held_out.x)
        alone.append((model, prove_high(scored[rest], held_out, (model.p_good(val.x), val.good), EACH)))
    mean = Linear(np.mean([one.weight for one in models], axis=0), float(np.mean([one.bias for one in models])))
    T_high = prove_high(scored, folds, (mean.p_good(val.x), val.good), ONCE)
    level_mean = calibrate(mean, val)
    T_scaled = prove_high(scaled, folds, (level_mean.p_good(val.x), val.good), ONCE)
    return {
        "refit": [(learn(taught, random), T_high)],
        "refit, scaled": [(calibrate(learn(folds, random), val), T_scaled)],
        "one of K": [(models[random.integers(FOLDS)], T_high)],
        "by lot": [(one, T_high) for one in models],
        "mean of K": [(mean, T_high)],
        "own folds": alone,
    }


def measure(case: Case, *, groups: int, draws: int) -> dict[str, tuple[float, float]]:
    """Way → mean recall, and share of draws in which the promise is broken."""
    random = np.random.default_rng(14)
    found: dict[str, list[tuple[float, bool]]] = {}
    for _ in range(draws):
        photos = draw_photos(random, case, groups=groups)
        rules = {
            "split": split_rule(photos, case.learn, random, SPLIT),
            "more to prove": split_rule(photos, case.learn, random, MORE_TO_PROVE),
            **cross_fitted_rules(photos, case.learn, random),
        }
        for name, rule in rules.items():
            found.setdefault(name, []).append(judge(rule, distance=case.distance))
    return {
        name: (float(np.mean([one[0] for one in all_of])), float(np.mean([one[1] for one in all_of]))) for name, all_of in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--groups", type=int, default=600, help="in all splits")
    options = parser.parse_args()
    for place, (name, case) in enumerate(CASES.items()):
        found = measure(case, groups=options.groups, draws=options.draws)
        if not place:
            print(f"| {options.groups} groups | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
        print(f"| {name} | {' | '.join(f'{recall:.2f} ({broken:.3f})' for recall, broken in found.values())} |", flush=True)


if __name__ == "__main__":
    main()
