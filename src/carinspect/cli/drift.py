"""`carinspect drift`: tests whether the promise still speaks of the photos in use, from a service's log and without labels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from carinspect.core.errors import UserError
from carinspect.core.params import parse_section
from carinspect.inference.bundle import open_bundle
from carinspect.inference.drift_log import moment, read_log
from carinspect.inference.histograms import add_up
from carinspect.inference.label_shift import QuestionReference, Share, bad_share, design_effect, precision_of
from carinspect.inference.rules import DecisionRule, rules_in_use, say_promise
from carinspect.inference.shifts import Shift, find_shifts

QUIET, DRIFT, UNKNOWN = 0, 1, 2
FEWEST_PHOTOS = 100
NEWEST_PHOTOS = 300
"""Independent photos of the newest stretch, at least, where the log has them: fewer would leave its share of a class open for ever."""
ALPHA = 0.05
"""Chance of one or more false alarms, in all daily looks together."""
SHOWN = 0.05
"""1 - the confidence of the intervals that are shown."""
_LEVELS = ("", "slight shift", "DRIFT")
_AGAIN = "Export it again: dvc repro export_onnx."


@dataclass(frozen=True)
class Reference:
    """The calibration photos, as the model file has them."""

    split: str
    photos: int
    histograms: dict[str, list[int]]
    design_effect: float
    classes: dict[str, QuestionReference]


@dataclass(frozen=True)
class Stretch:
    """A part of the log."""

    name: str
    lines: Sequence[dict[str, Any]]
    photos_a_car: int | None

    @property
    def photos(self) -> int:
        return int(sum(line["photos"] for line in self.lines))

    @property
    def design_effect(self) -> float:
        """Of its photos, by the requests that they came in or by what the operator says, whichever is larger."""
        sizes: dict[str, int] = {}
        for line in self.lines:
            for size, number in line["requests"].items():
                sizes[size] = sizes.get(size, 0) + number
        return max(design_effect(sizes), float(self.photos_a_car or 1))


@dataclass(frozen=True)
class Estimate:
    """What a stretch says of one question's promises. `sure`: the same at the level of an alarm."""

    rule: DecisionRule
    break_even_rate: float | None
    share: Share
    sure: Share
    precisions: dict[str, tuple[float, Share | None, Share | None]]
    """Word → promised, estimated and sure precision."""

    @property
    def broken(self) -> bool:
        """Whether a promise does not hold, at the level of an alarm."""
        below = any(sure is not None and sure.high < promised for promised, _, sure in self.precisions.values())
        return below or (self.break_even_rate is not None and self.sure.low > self.break_even_rate)

    @property
    def open(self) -> bool:
        """Whether the share may lie above the one up to which the good word is proved."""
        return self.break_even_rate is not None and self.share.high > self.break_even_rate


@dataclass(frozen=True)
class Look:
    """What one stretch of the log shows."""

    stretch: Stretch
    shifts: list[Shift]
    estimates: list[Estimate]


def report_drift(log: Path, model: Path, *, since: str | None, photos_a_car: int | None) -> int:
    """Print what the log shows, and what it means for the promises: 1 for drift, 2 where the photos cannot tell, else 0.

    since: an ISO 8601 time in UTC; None looks at the newest day and at the whole log. photos_a_car: that are sent one by one; None: what
    came in one request is one car. Raises `UserError` for fewer than `FEWEST_PHOTOS` photos of this model.
    """
    bundle = open_bundle(model)
    reference = read_reference(bundle.info.get("reference"), str(model))
    lines = read_log(log)
    if since is not None:
        start = _parse(since)
        lines = [line for line in lines if moment(line["until"]) >= start]
    own = [line for line in lines if line["model_sha256"] == bundle.sha256]
    photos = sum(line["photos"] for line in own)
    if len(own) < len(lines):
        print(f"{sum(line['photos'] for line in lines) - photos:,} photos were answered by another model and are left out.")
    if photos < FEWEST_PHOTOS:
        raise UserError(
            f"{log}: {photos} photos answered by {model}. Fewer than {FEWEST_PHOTOS} tell nothing; let the service collect more."
        )
    rules = rules_in_use(bundle.thresholds)
    break_even = {name: bundle.thresholds.rules[name].field.break_even_rate for name in rules}
    looks = look(own, reference, rules, break_even=break_even, since=since, photos_a_car=photos_a_car)
    for found in looks:
        print_look(found, reference)
    status, told = conclude(looks, list(rules.values()))
    print(told)
    return status


def read_reference(content: Any, model: str) -> Reference:
    """The reference in a model file. Raises `UserError` where there is none, or one of an older version."""
    if content is None:
        raise UserError(f"{model}: it carries no histograms of its calibration photos. {_AGAIN}")
    if not {"groups", "classes"} <= set(content):
        raise UserError(f"{model}: an older version wrote its reference of calibration photos. {_AGAIN}")
    classes = {name: parse_section("reference", QuestionReference, one, file=model) for name, one in content["classes"].items()}
    return Reference(content["split"], content["photos"], content["histograms"], design_effect(content["groups"]), classes)


def look(
    lines: Sequence[dict[str, Any]],
    reference: Reference,
    rules: Mapping[str, DecisionRule],
    *,
    break_even: Mapping[str, float | None],
    since: str | None = None,
    photos_a_car: int | None = None,
) -> list[Look]:
    """What each stretch of the lines shows. lines: of one model, in the order of the log. break_even: question → share of the bad class.

    On day k the level of an alarm is ALPHA / (k (k + 1)), shared by the stretches: these add up to ALPHA over any number of daily looks.
    Half of it is for the quantities, the other for the promises.
    """
    begin, end = moment(lines[0]["from"]), moment(lines[-1]["until"])
    day = max(1, (end - begin).days + 1)
    stretches = [Stretch(f"since {since}" if since else "the whole log", lines, photos_a_car)]
    if since is None:
        newest = _newest(lines, photos_a_car)
        if len(newest.lines) < len(lines):
            stretches.insert(0, newest)
    level = ALPHA / (day * (day + 1)) / len(stretches) / 2
    looks = []
    for stretch in stretches:
        counts, effect = add_up([line["histograms"] for line in stretch.lines]), stretch.design_effect
        shifts = find_shifts(reference.histograms, counts, level=level, design_effects=(reference.design_effect, effect))
        estimates = []
        for name, known in reference.classes.items():
            if name not in rules or min(known.good.photos, known.bad.photos) < 2 or not any(counts.get(f"p_{name}", ())):
                continue
            used, rule = counts[f"p_{name}"], rules[name]
            # Each question may raise an alarm by its share and by the precision of either word.
            strict = level / len(rules) / 3
            shown, halved = (bad_share(known, used, design_effect=effect, level=part) for part in (SHOWN, SHOWN / 2))
            sure, sure_halved = (bad_share(known, used, design_effect=effect, level=part) for part in (strict, strict / 2))
            precisions = {
                rule.say(side): (
                    promise.precision,
                    precision_of(side, known, halved, level=SHOWN),
                    precision_of(side, known, sure_halved, level=strict),
                )
                for side, promise in rule.promises.items()
            }
            estimates.append(Estimate(rule, break_even[name], shown, sure, precisions))
        looks.append(Look(stretch, shifts, estimates))
    return looks


def _newest(lines: Sequence[dict[str, Any]], photos_a_car: int | None) -> Stretch:
    """The lines of the last 24 hours; earlier ones too until they have `NEWEST_PHOTOS`."""
    start = moment(lines[-1]["until"]) - timedelta(days=1)
    for first in reversed(range(len(lines))):
        found = Stretch(f"the newest photos, since {lines[first]['from']}", lines[first:], photos_a_car)
        enough = found.photos / found.design_effect >= NEWEST_PHOTOS
        if first == 0 or (enough and moment(lines[first - 1]["from"]) < start):
            break
    return found


def print_look(found: Look, reference: Reference) -> None:
    """The table of quantities, and a line for each estimate."""
    stretch = found.stretch
    cars = f" (like {stretch.photos / stretch.design_effect:,.0f} independent ones)" if stretch.design_effect > 1 else ""
    print(f"{stretch.name}: {stretch.photos:,} photos in use{cars} against {reference.photos:,} of {reference.split}")
    width = max(len(shift.quantity) for shift in found.shifts)
    print(f"{'':{width}} {'PSI':>6} {'KS':>6} {'p':>9}")
    for shift in found.shifts:
        said = f"{_LEVELS[shift.level]}, {'higher' if shift.higher else 'lower'} in use" if shift.level else ""
        print(f"{shift.quantity:{width}} {shift.psi:6.3f} {shift.ks:6.3f} {shift.p_value:9.2g}  {said}".rstrip())
    for one in found.estimates:
        question = one.rule.question
        limit = "" if one.break_even_rate is None else f"; {question.word('good')} is proved up to {one.break_even_rate:.3f}"
        print(f"share of {question.word('bad')}: {_interval(one.share)}{limit}")
        for word, (promised, precision, _) in one.precisions.items():
            if precision is not None:
                print(f"precision of {word} that follows: {_interval(precision)}; promised {promised:g}")


def conclude(looks: Sequence[Look], rules: Sequence[DecisionRule]) -> tuple[int, str]:
    """The exit status, and what it means for the promises, in plain words."""
    told = "; ".join(say_promise(rule, side) for rule in rules for side in rule.promises)
    promise = f"The promise ({told})" if told else "There is no promise to keep, but the figures of the test split"
    causes = [
        f"{shift.quantity} is {'higher' if shift.higher else 'lower'} ({found.stretch.name})"
        for found in looks
        for shift in found.shifts
        if shift.level == 2
    ]
    broken = {one.rule.question.name: one for found in looks for one in found.estimates if one.broken}
    if broken:
        shares = ", ".join(f"{one.rule.question.word('bad')} {one.share.value:.3f}" for one in broken.values())
        causes.append(f"the shares of the classes ({shares}) are not those that the promise was proved for")
    if causes:
        return DRIFT, (
            f"These photos are not like the calibration photos: {', '.join(causes)}. {promise} was proved for photos like those, and "
            "cannot be relied on for these: label some of them, add them to the data root and prove it again (dvc repro)."
        )
    unknown = [(found, one) for found in looks for one in found.estimates if one.open]
    if unknown:
        found, one = unknown[0]
        bad, good = one.rule.question.word("bad"), one.rule.question.word("good")
        return UNKNOWN, (
            f"These photos cannot tell whether the promise of {good} holds: the share of {bad} ({found.stretch.name}) may be up to "
            f"{one.share.high:.3f}, and it is proved up to {one.break_even_rate:.3f}. Let the service collect more, or test the promise by "
            "verdicts of people: carinspect audit draw."
        )
    return QUIET, (
        f"No drift found. {promise} still holds for photos like these, as far as scores and image statistics can tell: "
        "they cannot tell whether people would still judge the same cars alike."
    )


def _interval(share: Share) -> str:
    value = "unknown" if math.isnan(share.value) else f"about {share.value:.3f}"
    return f"{value} ({share.low:.3f} to {share.high:.3f})"


def _parse(since: str) -> Any:
    try:
        return moment(since)
    except ValueError:
        raise UserError(f"--since is '{since}'. Give an ISO 8601 time in UTC, e.g. 2026-11-01T00:00:00.") from None
