"""`carinspect drift`: tests whether the photos in use differ from the calibration photos, for which the promise was proved."""

from collections.abc import Mapping
from pathlib import Path

from carinspect.core.errors import UserError
from carinspect.inference.bundle import open_bundle
from carinspect.inference.drift_log import read_log
from carinspect.inference.histograms import add_up
from carinspect.inference.rules import DecisionRule, rules_in_use, say_promise
from carinspect.inference.shifts import Shift, find_shifts

QUIET, DRIFT = 0, 1
FEWEST_PHOTOS = 100
_LEVELS = ("", "slight shift", "DRIFT")


def report_drift(log: Path, model: Path, *, since: str | None) -> int:
    """Print each quantity's shift and what it means for the promise; 1 when there is drift, else 0.

    since: an ISO 8601 time in UTC; None takes the whole log. Raises `UserError` for fewer than `FEWEST_PHOTOS` photos of this model.
    """
    bundle = open_bundle(model)
    reference = bundle.info.get("reference")
    if reference is None:
        raise UserError(f"{model}: it carries no histograms of its calibration photos. Export it again: dvc repro export_onnx.")
    lines = [line for line in read_log(log) if since is None or line["until"] >= since]
    own = [line for line in lines if line["model_sha256"] == bundle.sha256]
    photos = sum(line["photos"] for line in own)
    if len(own) < len(lines):
        print(f"{sum(line['photos'] for line in lines) - photos:,} photos were answered by another model and are left out.")
    if photos < FEWEST_PHOTOS:
        raise UserError(
            f"{log}: {photos} photos answered by {model}. Fewer than {FEWEST_PHOTOS} tell nothing; let the service collect more."
        )
    shifts = find_shifts(reference["histograms"], add_up([line["histograms"] for line in own]))
    print(f"{photos:,} photos in use against {reference['photos']:,} of {reference['split']}")
    width = max(len(shift.quantity) for shift in shifts)
    print(f"{'':{width}} {'PSI':>6} {'KS':>6} {'p':>9}")
    for shift in shifts:
        said = f"{_LEVELS[shift.level]}, {'higher' if shift.higher else 'lower'} in use" if shift.level else ""
        print(f"{shift.quantity:{width}} {shift.psi:6.3f} {shift.ks:6.3f} {shift.p_value:9.2g}  {said}".rstrip())
    print(verdict(shifts, rules_in_use(bundle.thresholds)))
    for rules in bundle.thresholds.rules.values():
        if rules.field.break_even_rate is not None:
            good, bad, rate = rules.photo.good.word, rules.photo.bad.word, rules.field.break_even_rate
            print(f"The promise of {good} holds up to a share of {rate:.3f} {bad} in use. This test does not estimate it: audit.")
    return DRIFT if any(shift.level == 2 for shift in shifts) else QUIET


def verdict(shifts: list[Shift], rules: Mapping[str, DecisionRule]) -> str:
    """What the shifts mean for the promise, in plain words."""
    drifted = [f"{shift.quantity} is {'higher' if shift.higher else 'lower'}" for shift in shifts if shift.level == 2]
    told = "; ".join(say_promise(rule, side) for rule in rules.values() for side in rule.promises)
    promise = f"The promise ({told})" if told else "There is no promise to keep, but the figures of the test split"
    if drifted:
        return (
            f"These photos are not like the calibration photos: {', '.join(drifted)}. {promise} was proved for photos like those, and "
            "cannot be relied on for these: label some of them, add them to the data root and prove it again (dvc repro)."
        )
    return (
        f"No drift found. {promise} still holds for photos like these, as far as scores and image statistics can tell: "
        "they cannot tell whether people would still judge the same cars alike."
    )
