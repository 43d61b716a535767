"""Reports the rules: sentences, headline metrics and the precision curve."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carinspect.core.files import write_bytes
from carinspect.core.questions import Side
from carinspect.inference.rules import FieldRates, GroupPromise, Outcome, Pair, Rule, SetRule, SideRule, Thresholds
from carinspect.thresholds.gate import passes_gate
from carinspect.thresholds.plan import cut_points
from carinspect.thresholds.sample import Sample, count_outcome

MOST_POINTS = 200
HEADLINES = (
    "precision", "precision_low", "precision_high", "recall", "f1", "coverage", "accepted_groups", "wrong_groups",
    "photos", "accepted_photos", "wrong_photos", "missed_photos",
)  # fmt: skip
"""Fields of `Outcome`; the last four give the confusion matrix."""


def say_rules(thresholds: Thresholds, table: pd.DataFrame) -> list[str]:
    """The rules in sentences, a line each: the gate, then question by question both words, the cost, the field's rate, cars; warnings.

    table: of predictions.
    """
    rules, gate = thresholds.rules, thresholds.gate
    on_test = table[table["split"] == "test"]
    away = f"{int((~passes_gate(on_test, gate)).sum())} of {len(on_test)} photos of test"
    lines = [f"The gate turns away what is stranger than {gate.threshold:.2f}: {away} (expected: {gate.share:.1%}); they are unsure."]
    for of_question in rules.values():
        photo = of_question.photo
        lines += [say_word(photo, "good"), say_word(photo, "bad"), _say_cost(photo), _say_field(photo, of_question.field)]
        if not of_question.cars:
            lines.append(f"Nothing is decided of cars: {photo.source} has none with a label for each photo (select_threshold.car_sources).")
        lines += [f"A car of {car.stratum.in_words}: {say_word(car, 'good')}" for car in of_question.cars if car.stratum is not None]
        lines += [_say_group(side, group) for side in (photo.good, photo.bad) for group in side.groups]
    lines += [_say_set(name, one) for name, one in thresholds.sets.items()]
    # Several questions can have the same warning.
    warnings = dict.fromkeys(warning for of_question in rules.values() for warning in of_question.photo.warnings)
    return [line for line in lines if line] + list(warnings)


def say_word(rule: Rule, side: Side) -> str:
    """When one word is given and what is proved for it, then its result on the test split."""
    chosen = rule.side(side)
    score = f"{'P' if rule.unit == 'photo' else 'the lowest P'}({rule.good.word})"
    if chosen.threshold is None:
        return f"No threshold for {chosen.word}: {chosen.reason}. No decision will be {chosen.word}."
    words = f"{chosen.word.capitalize()} when {score} {'>=' if side == 'good' else '<'} {chosen.threshold:.4f}"
    source, test, promise = chosen.on_source, chosen.on_test, chosen.promise
    evidence = f"{source.accepted_groups} accepted groups of {rule.source}, {source.wrong_groups} of them wrong"
    if promise is not None:
        rate = "" if promise.at_rate is None else f" at the field rate {promise.at_rate:g}"
        first = f"{words}: proves a precision of {promise.precision:g}{rate} at the confidence {promise.confidence:g}, from {evidence}."
    else:
        first = f"{words}: met the precision {rule.target_precision:g} on {evidence}, and proves nothing."
    if test.precision is None:
        return f"{first} On test it accepts none of {test.groups} labelled groups."
    bounds = f"{test.precision_low:.3f} to {test.precision_high:.3f}"
    place = "On test, at its own rate" if promise is not None and promise.at_rate is not None else "On test"
    return f"{first} {place}: precision {test.precision:.3f} ({bounds}), recall {test.recall:.3f}, {test.accepted_groups} groups."


def _say_group(rule: SideRule, group: GroupPromise) -> str:
    where = f"{rule.word} where {group.column} is {group.value}"
    if group.promise is None:
        missing = "" if group.missing is None else f" ({group.missing} more labelled groups would do)"
        return f"Nothing is promised of {where}: {group.reason}{missing}."
    return f"The same promise holds for {where}: {group.on_source.accepted_groups} accepted groups, {group.on_source.wrong_groups} wrong."


def _say_set(name: str, rule: SetRule) -> str:
    if rule.threshold is None:
        return f"No sets of classes for {name}: {rule.reason}."
    test = "" if rule.coverage_on_test is None else f" On test: coverage {rule.coverage_on_test:.3f}, {rule.classes_on_test:.2f} classes."
    return f"The set of possible classes of {name} has the true one in a share of {rule.coverage:g} ({rule.groups} groups).{test}"


def _say_cost(rule: Rule) -> str:
    """The cost of 1,000 cars on test, with the chosen pair and with the cheapest pair, which proves nothing."""
    on_test = rule.chosen.on_test
    if on_test.cost is None or rule.cheapest is None:
        return ""
    review = f"{on_test.review:.0f} ({on_test.review_low:.0f} to {on_test.review_high:.0f}) to review"
    wrong = f"{on_test.wrong_good:.0f} wrongly {rule.good.word}, {on_test.wrong_bad:.0f} wrongly {rule.bad.word}"
    cost = f"cost {on_test.cost:.0f} ({on_test.cost_low:.0f} to {on_test.cost_high:.0f})"
    cheapest = rule.cheapest.on_test.cost
    return f"Of 1,000 cars (test): {review}, {wrong}, {cost}; the cheapest pair, which proves nothing, costs {cheapest:.0f}."


def _say_field(rule: Rule, field: FieldRates) -> str:
    if field.break_even_rate is None:
        return ""
    alone = "none" if field.test_break_even_rate is None else f"{field.test_break_even_rate:.3f}"
    if field.source_rate is not None and field.rate is None and field.break_even_rate < field.source_rate:
        # Another test than that of the promise, which is about calib's own share and need not know it.
        return (
            f"The promise of {rule.good.word} is proved at the share of {rule.bad.word} cars that {rule.source} has, about "
            f"{field.source_rate:.3f}; at a share that is named beforehand it is proved up to {field.break_even_rate:.3f}."
        )
    holds = (
        f"The promise of {rule.good.word} holds up to a share of {field.break_even_rate:.3f} {rule.bad.word} cars in the field "
        f"({rule.source} has {field.source_rate:.3f}; test alone proves it up to {alone})."
    )
    if field.precision_on_test is None:
        return holds
    precision = f"precision {field.precision_on_test:.3f} (at least {field.lower_bound_on_test:.3f})"
    return f"{holds} On test, weighed to the field rate {field.rate:g}: {precision}."


def headlines(thresholds: Thresholds, table: pd.DataFrame) -> dict[str, Any]:
    """The content of metrics/select_threshold.json: for each question, and the gate, the numbers by which experiments are compared."""
    gate, rules = thresholds.gate, thresholds.rules
    away = {split: float((~passes_gate(rows, gate)).mean()) for split, rows in table.groupby("split")}
    sets = {"sets": {name: one.model_dump() for name, one in thresholds.sets.items()}} if thresholds.sets else {}
    return (
        {"gate": {"threshold": gate.threshold, "share": gate.share, "turned_away": away}}
        | sets
        | {
            name: _headline(of_question.photo)
            | {
                method: {"T_high": chosen.T_high, "test_precision": chosen.on_test.precision, "test_recall": chosen.on_test.recall}
                for method, chosen in of_question.photo.methods.items()
            }
            | {"field": of_question.field.model_dump()}
            | {
                "cars": {
                    car.stratum.name: _headline(car) | {"cars": car.stratum.cars, "cars_left_out": car.stratum.cars_left_out}
                    for car in of_question.cars
                    if car.stratum is not None
                }
            }
            for name, of_question in rules.items()
        }
    )


def _headline(rule: Rule) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "feasible": rule.T_high is not None,
        "T_high": rule.T_high,
        "T_low": rule.T_low,
        "base_rate": rule.base_rate,
        "target_precision": rule.target_precision,
        "confidence": rule.confidence,
        "confidence_of_both": rule.confidence_of_both,
        "proven": rule.good.promise is not None,
        "proven_low": rule.bad.promise is not None,
        "forecast": {"on_source": rule.chosen.on_source.model_dump(), "on_test": rule.chosen.on_test.model_dump()},
        "on_source": _pick(rule.good.on_source),
        "on_test": _pick(rule.good.on_test),
        f"{rule.bad.word}_on_source": _pick(rule.bad.on_source),
        f"{rule.bad.word}_on_test": _pick(rule.bad.on_test),
    }
    for side in (rule.good, rule.bad):
        for group in side.groups:
            proved = {"proven": group.promise is not None, "missing": group.missing, "test_precision": group.on_test.precision}
            metrics.setdefault("groups", {}).setdefault(f"{group.column}={group.value}", {})[side.word] = proved
    return metrics | {"cheapest": _pair(rule.cheapest), "cheapest_allowed": _pair(rule.cheapest_allowed)}


def _pick(outcome: Outcome) -> dict[str, Any]:
    return {key: getattr(outcome, key) for key in HEADLINES}


def _pair(pair: Pair | None) -> dict[str, Any] | None:
    if pair is None:
        return None
    return {
        "T_high": pair.T_high, "T_low": pair.T_low, "on_source_cost": pair.on_source.cost, "on_test_cost": pair.on_test.cost,
    }  # fmt: skip


def make_curve(source: Sample, *, confidence: float) -> pd.DataFrame:
    """`threshold`, `precision`, `lower_bound`, `recall`, `coverage` on the source split, for at most `MOST_POINTS` thresholds, ascending.

    `lower_bound` holds for each threshold alone; the proof, which holds for all together, is stricter.
    """
    cuts = cut_points(source.passed, side="good")[::-1]
    cuts = cuts[np.unique(np.linspace(0, len(cuts), MOST_POINTS, endpoint=False).astype(int))] if len(cuts) else cuts
    columns = ("precision", "lower_bound", "recall", "coverage")
    outcomes = [count_outcome(source, float(cut), confidence=confidence) for cut in cuts]
    curve = pd.DataFrame([{key: getattr(outcome, key) for key in columns} for outcome in outcomes], columns=columns, dtype=float)
    curve.insert(0, "threshold", cuts)
    return curve


def write_curve(curve: pd.DataFrame, path: Path) -> None:
    """Write CSV with seven decimals, as many as thresholds have."""
    write_bytes(path, curve.to_csv(index=False, float_format="%.7f", lineterminator="\n").encode())
