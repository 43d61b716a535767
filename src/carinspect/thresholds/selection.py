"""Owns the choice for one question of two words, whichever it is: thresholds, what they prove, and what they do.

| key | meaning |
|---|---|
| `method`, `source`, `target_precision`, `confidence`, `starts` | from params.yaml |
| `above`, `below` | the two words |
| `feasible` | whether the chosen method found a T_high |
| `T_high` | the word above (clean, undamaged) is said when score >= T_high; also under its own name, e.g. `T_clean`. None: never |
| `T_low` | the word below (dirty, damaged) is said when score < T_low; between the two *unsure*. None: never |
| `proves`, `proves_low` | of either word: `{precision, confidence, of}` and, at a field rate, `at_rate`; None where nothing is proven |
| `confidence_of_both` | confidence at which both promises hold together; None unless both are proven |
| `reason`, `reason_low` | why there is no T_high, no T_low, in words; None where there is one |
| `needed`, `needed_low` | what a proof takes, see `choice.needed_for_proof`; None for a model that was not trained on the question |
| `base_rate` | share of the class above (clean) among one photo of each labelled group of the source split |
| `warnings` | sentences |
| `on_source`, `on_test` | `outcome.look_at` T_high. The source split chose it, so its figures flatter; the test split is only looked at |
| `dirty_on_source`, `dirty_on_test` | the same for T_low, under the name of the word below |
| `methods` | both methods side by side: `T_clean`, `T_low`, `on_source`, `on_test` |
| `forecast` | `on_source`, `on_test`: `costs.forecast` of the chosen pair |
| `cheapest` | `T_high`, `T_low`, `forecast` of the pair that costs least on the source split, of all pairs. It proves nothing |
| `cheapest_allowed` | the same among the pairs that the method allows: those of `guaranteed` are proven together |
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from carinspect.thresholds.choice import NEVER, Choice, choose_empirical, choose_guaranteed, needed_for_proof
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.costs import CostMap, Prices, forecast, map_costs
from carinspect.thresholds.outcome import look_at
from carinspect.thresholds.plan import Reference, cut_points
from carinspect.thresholds.promise import Promise, Side
from carinspect.thresholds.sample import Sample

Selection = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A question of two words, and what is known about it."""

    above: str
    below: str
    unit: str
    """What one trial is: `photo` or `car`."""
    promise: Promise
    prices: Prices
    source: Sample
    test: Sample
    reference: Reference
    """Empty where the model was not trained on the question, or the split that fixes the candidates holds nothing."""
    obstacle: str | None
    """Why there can be no threshold at all; None where one may be looked for."""


def select(question: Question, params: SelectThresholdParams) -> tuple[Selection, CostMap | None]:
    """What the module's table says, and the costs of all pairs, to draw; None where no label says what a pair would have cost."""
    promise, source, test = question.promise, question.source, question.test
    choices = {"guaranteed": NEVER, "empirical": NEVER}
    needed: dict[Side, dict[str, Any] | None] = {"above": None, "below": None}
    if question.obstacle is None:
        choices = {"guaranteed": choose_guaranteed(source, question.reference, promise), "empirical": choose_empirical(source, promise)}
        needed = {side: needed_for_proof(source, question.reference, promise, side=side) for side in needed}
    chosen = choices[params.method]
    above, below = question.above, question.below
    base_rate = float(source.one_a_group().upper.mean()) if source.groups else None
    confidence = promise.confidence
    selection: Selection = {
        "method": params.method,
        "source": params.source,
        "target_precision": promise.target_precision,
        "confidence": confidence,
        "starts": promise.starts,
        "above": above,
        "below": below,
        "feasible": chosen.T_high is not None,
        f"T_{above}": chosen.T_high,
        "T_high": chosen.T_high,
        "T_low": chosen.T_low,
        "proves": _proves(question, params, chosen.T_high, side="above"),
        "proves_low": _proves(question, params, chosen.T_low, side="below"),
        "reason": _reason(question, params, needed["above"], side="above") if chosen.T_high is None else None,
        "reason_low": _reason(question, params, needed["below"], side="below") if chosen.T_low is None else None,
        "needed": needed["above"],
        "needed_low": needed["below"],
        "base_rate": base_rate,
        "warnings": _warnings(question, params, base_rate),
        "on_source": look_at(source, chosen.T_high, confidence=confidence),
        "on_test": look_at(test, chosen.T_high, confidence=confidence),
        f"{below}_on_source": look_at(source, chosen.T_low, confidence=confidence, side="below"),
        f"{below}_on_test": look_at(test, chosen.T_low, confidence=confidence, side="below"),
        "methods": {name: _describe(question, choice) for name, choice in choices.items()},
        "forecast": _forecasts(question, chosen),
    }
    both = selection["proves"] is not None and selection["proves_low"] is not None
    selection["confidence_of_both"] = 2 * confidence - 1 if both else None
    if question.obstacle is not None or selection["forecast"]["on_source"]["cost"] is None:
        return selection | {"cheapest": None, "cheapest_allowed": None}, None
    cuts = {side: cut_points(source.one_a_group().score, side=side) for side in needed}
    costs = _costs(question, low=cuts["below"], high=cuts["above"])
    allowed = _costs(question, low=chosen.may_be_low, high=chosen.may_be_high).cheapest()
    return selection | {"cheapest": _priced(question, costs.cheapest()), "cheapest_allowed": _priced(question, allowed)}, costs


def _costs(question: Question, *, low: np.ndarray, high: np.ndarray) -> CostMap:
    rate = question.promise.lower_class_rate
    return map_costs(question.source, question.prices, low=low, high=high, lower_class_rate=rate)


def _describe(question: Question, choice: Choice) -> dict[str, Any]:
    return {
        f"T_{question.above}": choice.T_high,
        "T_low": choice.T_low,
        "on_source": look_at(question.source, choice.T_high, confidence=question.promise.confidence),
        "on_test": look_at(question.test, choice.T_high, confidence=question.promise.confidence),
    }


def _priced(question: Question, choice: Choice) -> dict[str, Any]:
    return {"T_high": choice.T_high, "T_low": choice.T_low, "forecast": _forecasts(question, choice)}


def _forecasts(question: Question, choice: Choice) -> dict[str, Any]:
    promise = question.promise
    return {
        place: forecast(sample, choice, question.prices, lower_class_rate=promise.lower_class_rate, confidence=promise.confidence)
        for place, sample in (("on_source", question.source), ("on_test", question.test))
    }


def _proves(question: Question, params: SelectThresholdParams, threshold: float | None, *, side: Side) -> dict[str, Any] | None:
    # val has already chosen the epoch and the temperature, so that its photos are no new ones to the model.
    if params.method != "guaranteed" or params.source != "calib" or threshold is None:
        return None
    promise, word = question.promise, question.above if side == "above" else question.below
    trial = "photo drawn at random from a new group (car)" if question.unit == "photo" else "car of several photos"
    of = f"a {trial}, from the population of the calibration photos, that the rule calls {word}"
    proof: dict[str, Any] = {"precision": promise.target_precision, "confidence": promise.confidence, "of": of}
    if promise.lower_class_rate is not None:
        proof |= {
            "at_rate": promise.lower_class_rate,
            "of": f"{of}, where the share of {question.below} cars is {promise.lower_class_rate:g}",
        }
    return proof


def _reason(question: Question, params: SelectThresholdParams, needed: dict[str, Any] | None, *, side: Side) -> str:
    if needed is None:
        return question.obstacle or ""
    word, promise, source = (question.above if side == "above" else question.below), question.promise, question.source
    target = f"{promise.target_precision:g}"
    if params.method == "empirical":
        return f"no threshold reaches the precision {target} on the {len(source.upper)} labelled {question.unit}s of {params.source}"
    groups = "groups" if question.unit == "photo" else "cars"
    rate = "" if promise.lower_class_rate is None else f" where {promise.lower_class_rate:g} of the cars are {question.below}"
    bar = f"the precision {target} at the confidence {promise.confidence:g}{rate}"
    why = f"{source.groups} labelled {groups} of {params.source} cannot prove {bar}"
    if promise.lower_class_rate is not None:
        other = question.below if side == "above" else question.above
        enough = needed["other_class_groups"]
        if enough is None:
            return f"{why}: too few of the {word} ones are called {word} for any number to do"
        return f"{why}: it takes about {enough} labelled {other} {groups}, none of them called {word}"
    least = f"it takes {needed['without_errors']} {groups} called {word} without one error"
    observed = needed["observed_precision"]
    if observed is None:
        return f"{why}: {least}"
    if needed["at_observed_precision"] is None:
        return f"{why}: {least}, and the best precision seen, {observed:.3f}, does not exceed the target, so that no number would do"
    return (
        f"{why}: {least}, or {needed['at_observed_precision']} with the precision {observed:.3f} seen here, "
        f"for which about {needed['labelled_groups']} labelled {groups} would do"
    )


def _warnings(question: Question, params: SelectThresholdParams, base_rate: float | None) -> list[str]:
    warnings = []
    rate, target = question.promise.lower_class_rate, question.promise.target_precision
    share = base_rate if rate is None else 1 - rate
    if share is not None and target <= share:
        warnings.append(
            f"The target {target:g} does not exceed the share of {question.above} cars, {share:.3f}: "
            f"calling every car {question.above} would reach it too."
        )
    if params.source == "val":
        warnings.append("val has also chosen the epoch and the temperature, so that nothing is proven for new cars.")
    return warnings
