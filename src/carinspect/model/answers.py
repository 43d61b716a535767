"""Owns the step from a logit to the answer that a person reads, in torch: alike in the evaluation's spreads and in the model file."""

from collections.abc import Callable, Mapping
from functools import partial

import torch

ToAnswer = Callable[[str, torch.Tensor], torch.Tensor]
"""(task, logits (...), or (..., 4) for weather) -> probability or score 0..1, of the same shape."""


def calibrated(temperature: Mapping[str, float | None]) -> ToAnswer:
    """`temperature` as in models/calibration.json: one that could not be fitted (None) leaves the logits as they are."""
    return partial(_to_answer, temperature)


def _to_answer(temperature: Mapping[str, float | None], task: str, logits: torch.Tensor) -> torch.Tensor:
    match task:
        case "clean":
            return torch.sigmoid(logits / (temperature[task] or 1.0))
        case "weather":
            return torch.softmax(logits / (temperature[task] or 1.0), dim=-1)
        case _:
            return torch.sigmoid(logits)
