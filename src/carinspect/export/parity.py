"""Checks that two models give the same answers and decisions: the ONNX file and torch, a variant and the ONNX file."""

from typing import Any

import numpy as np
import torch

from carinspect.core.errors import UserError
from carinspect.core.gate import OUTPUT
from carinspect.core.questions import Side
from carinspect.export.graph import AnsweringNetwork
from carinspect.inference.bundle import ModelBundle
from carinspect.inference.gate import GateRule, turned_away
from carinspect.inference.rules import DecisionRule, rule_in_use

BATCH = 32

Answered = tuple[np.ndarray, list[bool]]
"""Probability of class 1 of N photos, and which of them pass the gate."""


def compare(expected: dict[str, np.ndarray], bundle: ModelBundle, photos: np.ndarray) -> dict[str, Any]:
    """Largest absolute difference of each output of `bundle` from `expected` over `photos`, uint8 (N, S, S, 3), and differing decisions.

    `flipped_decisions` counts changes of the photo rules' words and of the likeliest of several classes; `flipped_promised` counts changes
    of the words of every rule, for photos or cars, with a promise.
    """
    found = bundle.predict(photos)
    differences = {f"{name}_max_difference": float(np.abs(found[name] - expected[name]).max()) for name in expected}
    decisions, promised = _flips(bundle, found, expected)
    return {"photos": len(photos), "flipped_decisions": decisions, "flipped_promised": promised, **differences}


def torch_answers(network: AnsweringNetwork, photos: np.ndarray) -> dict[str, np.ndarray]:
    """The answers to `photos` by output name."""
    with torch.inference_mode():
        parts = [network(torch.from_numpy(photos[start : start + BATCH])) for start in range(0, len(photos), BATCH)]
    return {name: torch.cat([part[place] for part in parts]).numpy() for place, name in enumerate(network.output_names)}


def refuse_disparity(comparison: dict[str, Any], *, tolerance: float) -> None:
    """Raise `UserError` when a difference exceeds `tolerance` (ten times that for logits and the gate) or a decision differs."""
    for name, value, allowed in _too_far(comparison, tolerance):
        raise UserError(f"torch and ONNX disagree: {name} is {value:.3g}, and {allowed:.3g} is allowed (export_onnx.tolerance).")
    if comparison["flipped_decisions"]:
        raise UserError(f"torch and ONNX disagree in {comparison['flipped_decisions']} decisions on {comparison['photos']} photos.")


def refuse_variant(name: str, comparison: dict[str, Any], *, tolerance: float, flip_rate: float, key: str) -> None:
    """Raise `UserError` when answers or decisions of a variant differ too much from the fp32 file; key: the variant's parameter."""
    what, fix = f"the {name} variant is not written", f"Set export_onnx.{key} to false, or allow more."
    for output, value, allowed in _too_far(comparison, tolerance):
        raise UserError(f"{what}: {output} is {value:.3g}, and {allowed:.3g} is allowed ({key}_tolerance). {fix}")
    flips, photos = comparison["flipped_decisions"], comparison["photos"]
    if flips > flip_rate * photos:
        raise UserError(f"{what}: {flips} decisions flip on {photos} photos (flip_rate {flip_rate:g}). {fix}")


def _too_far(comparison: dict[str, Any], tolerance: float) -> list[tuple[str, float, float]]:
    """Name, value and limit of each difference that is too large or NaN."""
    allowed = {
        name: tolerance * (10 if "logit" in name or name.startswith(OUTPUT) else 1)
        for name in comparison
        if name.endswith("_max_difference")
    }
    return [(name, comparison[name], limit) for name, limit in allowed.items() if not comparison[name] <= limit]


def _flips(bundle: ModelBundle, found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> tuple[int, int]:
    decisions = promised = 0
    gate = bundle.thresholds.gate
    was_passed, now_passed = (_passed(answers, gate) for answers in (expected, found))
    for question in bundle.questions:
        was, now = (answers[question.outputs[-1]] for answers in (expected, found))
        if question.kind == "classes":
            decisions += int((was.argmax(axis=1) != now.argmax(axis=1)).sum())
        elif question.name in bundle.thresholds.rules:
            rules = bundle.thresholds.rules[question.name]
            # A car's p_good is the lowest of its photos': if no photo crosses the car's threshold, no car does.
            for rule in (rules.photo, *rules.cars):
                flips = _changed_words(rule_in_use(question, rule), (was, was_passed), (now, now_passed))
                decisions += flips if rule.unit == "photo" else 0
                promised += flips if rule.has_promise else 0
    return decisions, promised


def _passed(answers: dict[str, np.ndarray], gate: GateRule) -> list[bool]:
    return [turned_away(measures, gate) is None for measures in answers[OUTPUT].tolist()]


def _changed_words(rule: DecisionRule, was: Answered, now: Answered) -> int:
    """Number of photos whose word (good, bad or unsure) changes."""
    words = [_words(rule, *answered) for answered in (was, now)]
    return sum(one != other for one, other in zip(*words, strict=True))


def _words(rule: DecisionRule, p_N: np.ndarray, passed: list[bool]) -> list[Side | None]:
    good_N = 1.0 - p_N if rule.question.label_of("good") == 0 else p_N
    return [rule.decide(p_good) if passes else None for p_good, passes in zip(good_N.tolist(), passed, strict=True)]
