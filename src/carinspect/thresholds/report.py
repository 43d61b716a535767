"""Owns what a person reads of the rules: sentences, headline metrics, the curve."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carinspect.core.files import write_bytes
from carinspect.thresholds.outcome import look_at
from carinspect.thresholds.plan import cut_points
from carinspect.thresholds.sample import Sample
from carinspect.thresholds.selection import Selection

MOST_POINTS = 200
HEADLINES = (
    "precision", "precision_low", "precision_high", "recall", "f1", "coverage", "accepted_groups", "wrong_groups",
    "photos", "accepted_photos", "wrong_photos", "missed_photos",
)  # fmt: skip
"""Of `outcome.look_at`; the last four are the confusion."""


def say(rules: Selection) -> list[str]:
    """The rules in sentences, a line each: clean, dirty, cost, the field's rate, damage, cars; then the warnings."""
    lines = [_say_word(rules, "clean", score="p_clean"), _say_word(rules, "dirty", score="p_clean"), _say_cost(rules), _say_field(rules)]
    damage, car = rules["damage"], rules["car"]
    lines += [_say_word(damage, "undamaged", score="damage"), _say_word(damage, "damaged", score="damage"), _say_cost(damage)]
    lines.append(f"A car of several photos: {_say_word(car, 'clean', score='its lowest p_clean')}")
    # Some warnings are of both questions.
    return [line for line in lines if line] + list(dict.fromkeys(rules["warnings"] + damage["warnings"]))


def _say_word(rules: Selection, word: str, *, score: str) -> str:
    """The rule of one word and what it proves, then what it does on the test split."""
    above = word == rules["above"]
    end, threshold = ("", rules["T_high"]) if above else ("_low", rules["T_low"])
    if threshold is None:
        name = f"No threshold for {word}"
        return f"{name}: {rules[f'reason{end}']}. Nothing will be called {word}."
    places = ("on_source", "on_test") if above else (f"{word}_on_source", f"{word}_on_test")
    source, test, proof = rules[places[0]], rules[places[1]], rules[f"proves{end}"]
    rule = f"{word.capitalize()} when {score} {'>=' if above else '<'} {threshold:.4f}"
    evidence = f"{source['accepted_groups']} accepted groups of {rules['source']}, {source['wrong_groups']} of them wrong"
    if proof:
        rate = f" at the field rate {proof['at_rate']:g}" if "at_rate" in proof else ""
        first = f"{rule}: proves a precision of {proof['precision']:g}{rate} at the confidence {proof['confidence']:g}, from {evidence}."
    else:
        first = f"{rule}: met the precision {rules['target_precision']:g} on {evidence}, and proves nothing."
    if test["precision"] is None:
        return f"{first} On test it accepts none of {test['groups']} labelled groups."
    bounds = f"{test['precision_low']:.3f} to {test['precision_high']:.3f}"
    place = "On test, at its own rate" if proof and "at_rate" in proof else "On test"
    return f"{first} {place}: precision {test['precision']:.3f} ({bounds}), recall {test['recall']:.3f}, {test['accepted_groups']} groups."


def _say_cost(rules: Selection) -> str:
    """What 1,000 cars cost by the chosen pair, on test; and by the cheapest, which proves nothing."""
    on_test = rules["forecast"]["on_test"]
    if on_test["cost"] is None or rules["cheapest"] is None:
        return ""
    above, below = rules["above"], rules["below"]
    cheapest = rules["cheapest"]["forecast"]["on_test"]
    review = f"{on_test['review']:.0f} ({on_test['review_low']:.0f} to {on_test['review_high']:.0f}) to review"
    wrong = f"{on_test['wrong_above']:.0f} wrongly {above}, {on_test['wrong_below']:.0f} wrongly {below}"
    cost = f"cost {on_test['cost']:.0f} ({on_test['cost_low']:.0f} to {on_test['cost_high']:.0f})"
    return f"Of 1,000 cars (test): {review}, {wrong}, {cost}; the cheapest pair, which proves nothing, costs {cheapest['cost']:.0f}."


def _say_field(rules: Selection) -> str:
    field = rules["field"]
    if field["break_even_rate"] is None:
        return ""
    holds = (
        f"The promise of clean holds up to a share of {field['break_even_rate']:.3f} dirty cars in the field "
        f"({rules['source']} has {field['source_dirty_rate']:.3f}; test alone proves it up to {_number(field['test_break_even_rate'])})."
    )
    if field["precision_on_test"] is None:
        return holds
    precision = f"precision {field['precision_on_test']:.3f} (at least {field['lower_bound_on_test']:.3f})"
    return f"{holds} On test, weighed to the field rate {field['dirty_rate']:g}: {precision}."


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def headline(rules: Selection) -> dict[str, Any]:
    """The content of metrics/select_threshold.json: numbers that two experiments are compared by."""
    metrics = _headline_of(rules)
    for name, method in rules["methods"].items():
        metrics[name] = {"T_clean": method["T_clean"]} | {f"test_{key}": method["on_test"][key] for key in ("precision", "recall")}
    metrics["field"] = rules["field"]
    metrics["damage"] = _headline_of(rules["damage"]) | {"cutoff": rules["damage"]["cutoff"]}
    car = rules["car"]
    metrics["car"] = _headline_of(car) | {key: car[key] for key in ("cars", "photos_a_car")}
    return metrics


def _headline_of(rules: Selection) -> dict[str, Any]:
    above, below = rules["above"], rules["below"]
    keys = ("feasible", f"T_{above}", "T_high", "T_low", "base_rate", "target_precision", "confidence", "confidence_of_both")
    metrics = {key: rules[key] for key in keys}
    metrics |= {"proven": rules["proves"] is not None, "proven_low": rules["proves_low"] is not None, "forecast": rules["forecast"]}
    for place in ("on_source", "on_test", f"{below}_on_source", f"{below}_on_test"):
        metrics[place] = {key: rules[place][key] for key in HEADLINES}
    for name in ("cheapest", "cheapest_allowed"):
        pair = rules[name]
        metrics[name] = (
            None
            if pair is None
            else {key: pair[key] for key in ("T_high", "T_low")}
            | {f"{place}_cost": pair["forecast"][place]["cost"] for place in ("on_source", "on_test")}
        )
    return metrics


def make_curve(source: Sample, *, confidence: float) -> pd.DataFrame:
    """`threshold`, `precision`, `lower_bound`, `recall`, `coverage` on the source split, for at most `MOST_POINTS` thresholds, ascending.

    `lower_bound` is for each threshold alone; the proof, which speaks of all at once, is stricter.
    """
    cuts = cut_points(source.score, side="above")[::-1]
    cuts = cuts[np.unique(np.linspace(0, len(cuts), MOST_POINTS, endpoint=False).astype(int))] if len(cuts) else cuts
    columns = ("precision", "lower_bound", "recall", "coverage")
    looks = [look_at(source, float(cut), confidence=confidence) for cut in cuts]
    curve = pd.DataFrame([{key: look[key] for key in columns} for look in looks], columns=columns, dtype=float)
    curve.insert(0, "threshold", cuts)
    return curve


def write_curve(curve: pd.DataFrame, path: Path) -> None:
    """As CSV, seven decimals, since thresholds have so many."""
    write_bytes(path, curve.to_csv(index=False, float_format="%.7f", lineterminator="\n").encode())
