"""Checks whether a model may be released: proved, without leaks, better than the released model, and with no weaker promise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from carinspect.comparison.differences import Comparison
from carinspect.comparison.words import say
from carinspect.inference.rules import SIDES, QuestionRules, Rule, Side, Thresholds


@dataclass(frozen=True)
class Candidate:
    """The files of a revision that describe its model."""

    thresholds: Thresholds
    """models/threshold.json."""
    predictions_sha256: str
    """Of data/predictions.csv."""
    certificate: Mapping[str, Any]
    """metrics/split.json."""
    carried_thresholds: Thresholds
    """Those inside models/best.onnx."""
    lineage: Mapping[str, Any]
    """The lineage inside models/best.onnx: recipe, data_revision and code_revision of its training."""
    model_sha256: str
    """Of models/best.onnx."""


def unproved(candidate: Candidate) -> list[str]:
    """Reasons against a release that need no comparison, each a sentence; empty if there are none.

    The promise that counts is that of the good word of the first decided question.
    """
    thresholds, leaks = candidate.thresholds, candidate.certificate["leaks"]
    reasons = inconsistent(candidate)
    if not thresholds.rules:
        reasons.append("Nothing is decided about any of its questions. Declare questions.<name>.decide, and dvc repro.")
    else:
        good = next(iter(thresholds.rules.values())).photo.good
        if good.threshold is None:
            reasons.append(f"Its promise of '{good.word}' is infeasible: {good.reason}.")
        elif good.promise is None:
            reasons.append(
                f"Its threshold of '{good.word}' proves nothing. Set select_threshold.method: guaranteed, source: calib, and dvc repro."
            )
    if leaks:
        reasons.append(f"Its split leaks ({leaks} times by metrics/split.json), so its figures and its proof say nothing. Fix the split.")
    return reasons


def inconsistent(model: Candidate) -> list[str]:
    """Reasons why the files of a revision do not come from one run of the pipeline."""
    reasons = []
    if model.thresholds.predictions_sha256 != model.predictions_sha256:
        reasons.append("Its threshold was chosen on other predictions than data/predictions.csv holds. Run dvc repro, and commit.")
    if model.carried_thresholds != model.thresholds:
        reasons.append("models/best.onnx carries another threshold than models/threshold.json. Run dvc repro, and commit.")
    return reasons


def no_baseline(baseline: Candidate, *, holder: Candidate, candidate: Candidate) -> list[str]:
    """Reasons why `baseline` may not stand for `holder`, the released model, in a comparison with `candidate`; empty if it may.

    A baseline is the released model, or one trained with its recipe and its code on the data of the candidate, with its rules of decision.
    """
    if baseline.model_sha256 == candidate.model_sha256:
        return ["It is the candidate's own model."]
    reasons = inconsistent(baseline)
    if baseline.model_sha256 == holder.model_sha256:
        return reasons
    if baseline.lineage["recipe"] != holder.lineage["recipe"]:
        keys = ", ".join(_changed(holder.lineage["recipe"], baseline.lineage["recipe"]))
        reasons.append(f"It was trained with another recipe than the released model ({keys}).")
    codes = [model.lineage["code_revision"] for model in (baseline, holder)]
    if codes[0] != codes[1]:
        reasons.append(f"It was trained by other code ({codes[0]}) than the released model ({codes[1]}).")
    if baseline.lineage["data_revision"] != candidate.lineage["data_revision"]:
        reasons.append("It was trained on other data than the candidate.")
    if _terms(baseline.thresholds) != _terms(holder.thresholds):
        reasons.append("Its decisions have other targets than those of the released model (questions.<name>.decide, select_threshold).")
    return reasons


def _changed(old: Any, new: Any, prefix: str = "") -> list[str]:
    """The dotted keys in which two nested mappings differ."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [] if old == new else [prefix]
    return [key for name in sorted({*old, *new}) for key in _changed(old.get(name), new.get(name), f"{prefix}.{name}".lstrip("."))]


def _terms(thresholds: Thresholds) -> dict[str, Any]:
    """What decides the thresholds of each question, apart from the data."""
    return {name: [*_terms_of(rules.photo), rules.field.rate] for name, rules in thresholds.rules.items()}


def _terms_of(rule: Rule) -> tuple[Any, ...]:
    return rule.method, rule.source, rule.target_precision, rule.confidence, rule.starts


def weakened(candidate: Thresholds, holder: Thresholds) -> dict[str, list[str]]:
    """In which of its terms the candidate's promise is weaker than that of the released model.

    Returns sentences by what `promote --weaker` calls it: `<question>.<term>`, where the term is `question` (it is no longer asked, or
    means something else), `promise`, `car` or `groups` (the word is no longer proved, of photos, of cars, or of a group of photos),
    `target`, `confidence` or `field_rate`.
    """
    found: dict[str, list[str]] = {}
    asked = {question.name: question for question in candidate.questions}
    for question in holder.questions:
        name = question.name
        if asked.get(name) != question:
            what = "is no longer asked" if name not in asked else "has another definition"
            found.setdefault(f"{name}.question", []).append(f"The question '{name}' {what}.")
        if name in holder.rules:
            for term, sentence in _weaker_terms(candidate.rules.get(name), holder.rules[name]):
                found.setdefault(f"{name}.{term}", []).append(sentence)
    return found


def _weaker_terms(new: QuestionRules | None, old: QuestionRules) -> list[tuple[str, str]]:
    found = []
    pairs = [(old.photo, new.photo if new else None), *((was, _covering(was, new.cars if new else [])) for was in old.cars)]
    for was, now in pairs:
        for side in SIDES:
            before, after = was.side(side).promise, now.side(side).promise if now else None
            kept = {(one.column, one.value) for one in now.side(side).groups if one.promise} if now else set()
            for one in was.side(side).groups:
                if one.promise is not None and (one.column, one.value) not in kept:
                    found.append(("groups", f"'{was.side(side).word}' where {one.column} is {one.value} is no longer proved."))
            what = f"'{was.side(side).word}' of {'photos' if was.stratum is None else f'cars of {was.stratum.in_words}'}"
            if before is None:
                continue
            if after is None:
                found.append(("car" if was.unit == "car" else "promise", f"{what} is no longer proved."))
                continue
            if after.precision < before.precision:
                found.append(("target", f"The target precision of {what} falls from {before.precision:g} to {after.precision:g}."))
            if after.confidence < before.confidence:
                found.append(("confidence", f"The confidence of {what} falls from {before.confidence:g} to {after.confidence:g}."))
            if _easier(after.at_rate, before.at_rate, side=side):
                rates = [f"{rate:g}" if rate is not None else "that of calib" for rate in (before.at_rate, after.at_rate)]
                found.append(("field_rate", f"The field rate of {what} changes from {rates[0]} to {rates[1]}."))
    return found


def _covering(was: Rule, rules: Sequence[Rule]) -> Rule | None:
    """The one of `rules` that speaks of all cars of the stratum of `was`; None where there is none."""
    asked = was.stratum
    if asked is None:
        return None
    return next((now for now in rules if now.stratum and now.stratum.has(asked.photos_from) and now.stratum.has(asked.photos_to)), None)


def _easier(now: float | None, before: float | None, *, side: Side) -> bool:
    """Whether a promise at the rate `now` of the bad class does not imply the one at `before`; None is a rate of its own.

    Fewer bad cars make the good word right more often, and the bad word wrong more often.
    """
    if now is None or before is None:
        return now is not before
    return now < before if side == "good" else now > before


def not_better(comparison: Comparison) -> list[str]:
    """The reason against replacing A by B; empty if B is clearly better somewhere and clearly worse nowhere."""
    return [] if comparison.verdict == "better" else [say(comparison)]
