"""Owns the proof that the model file answers as the trained model does: in numbers, and in decisions."""

from typing import Any

import numpy as np
import torch

from carinspect.core.errors import UserError
from carinspect.export.graph import AnsweringNetwork
from carinspect.inference.bundle import ModelBundle
from carinspect.inference.decision import read_rule

BATCH = 32


def compare(network: AnsweringNetwork, bundle: ModelBundle, photos: np.ndarray) -> dict[str, Any]:
    """Largest absolute difference of each output over `photos`, uint8 (N, S, S, 3), and decisions that differ."""
    return _compare(_answers_of(network, photos), bundle, photos)


def compare_files(original: ModelBundle, bundle: ModelBundle, photos: np.ndarray) -> dict[str, Any]:
    """The same between two model files."""
    return _compare(original.predict(photos), bundle, photos)


def _compare(expected: dict[str, np.ndarray], bundle: ModelBundle, photos: np.ndarray) -> dict[str, Any]:
    found = bundle.predict(photos)
    differences = {f"{name}_max_difference": float(np.abs(found[name] - expected[name]).max()) for name in expected}
    clean, weather = _flips(bundle, found, expected)
    return {"photos": len(photos), "flipped_decisions": clean + weather, "flipped_clean": clean, **differences}


def _answers_of(network: AnsweringNetwork, photos: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        parts = [network(torch.from_numpy(photos[start : start + BATCH])) for start in range(0, len(photos), BATCH)]
    return {name: torch.cat([part[place] for part in parts]).numpy() for place, name in enumerate(network.output_names)}


def _flips(bundle: ModelBundle, found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> tuple[int, int]:
    """How many photos change their word: clean, dirty or unsure; and how many their weather."""
    clean = weather = 0
    if "p_clean" in found:
        rule = read_rule(bundle.info["threshold"])
        clean = sum(
            rule.decide(float(now)) != rule.decide(float(was)) for now, was in zip(found["p_clean"], expected["p_clean"], strict=True)
        )
    if "p_weather" in found:
        weather = int((found["p_weather"].argmax(axis=1) != expected["p_weather"].argmax(axis=1)).sum())
    return clean, weather


def refuse_disparity(comparison: dict[str, Any], *, tolerance: float) -> None:
    """Raise `UserError` when a difference exceeds `tolerance` (ten times that for logits) or a decision differs."""
    for name, value in comparison.items():
        allowed = tolerance * (10 if "logit" in name else 1)
        if name.endswith("_max_difference") and not value <= allowed:
            raise UserError(f"torch and ONNX disagree: {name} is {value:.3g}, and {allowed:.3g} is allowed (export_onnx.tolerance).")
    if comparison["flipped_decisions"]:
        raise UserError(f"torch and ONNX disagree in {comparison['flipped_decisions']} decisions on {comparison['photos']} photos.")
