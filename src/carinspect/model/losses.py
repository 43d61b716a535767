"""Owns the multi-task loss: what nobody judged contributes nothing.

Shapes: B photos, K classes. A label that is NaN is unknown.
"""

from collections.abc import Mapping

import torch
from torch.nn import functional as F  # noqa: N812

Labels = Mapping[str, torch.Tensor]
"""Label columns (core.tables) as float32 of shape (B,), NaN where unknown."""


def is_labelled(labels: Labels) -> dict[str, torch.Tensor]:
    """For each task, which photos carry something to learn from: bool of shape (B,)."""
    return {
        "clean": ~labels["clean"].isnan(),
        "cleanliness": ~labels["cleanliness_score"].isnan(),
        "damage": ~labels["damage_score"].isnan() | (labels["damaged"] == 1),
        "weather": ~labels["weather_condition"].isnan(),
    }


def summed_losses(logits: Mapping[str, torch.Tensor], labels: Labels, *, regression: str, damaged_below: float) -> dict[str, torch.Tensor]:
    """Each task's loss summed over its labelled photos; 0, with a gradient of 0, where none is labelled.

    `damaged_below`: a photo known as damaged without a severity costs only as far as its damage score lies above this.
    """
    return {task: _task_loss(task, values, labels, regression, damaged_below) for task, values in logits.items()}


def _task_loss(task: str, logits: torch.Tensor, labels: Labels, regression: str, damaged_below: float) -> torch.Tensor:
    known = is_labelled(labels)[task]
    logits = logits[known]
    match task:
        case "clean":
            return F.binary_cross_entropy_with_logits(logits, labels["clean"][known], reduction="sum")
        case "weather":
            return F.cross_entropy(logits, labels["weather_condition"][known].long(), reduction="sum")
        case "cleanliness":
            return _regression_loss(logits, labels["cleanliness_score"][known], regression)
        case "damage":
            score = labels["damage_score"][known]
            # Without a severity the target is the score itself, or the ceiling where the score lies above it: a one-sided loss.
            ceiling = torch.sigmoid(logits).detach().clamp(max=damaged_below)
            has_score = ~score.isnan()
            return _regression_loss(logits[has_score], score[has_score], regression) + _regression_loss(
                logits[~has_score], ceiling[~has_score], "smooth_l1"
            )
        case _:
            raise AssertionError(task)


def _regression_loss(logits: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
    match kind:
        case "smooth_l1":
            return F.smooth_l1_loss(torch.sigmoid(logits), target, reduction="sum", beta=0.1)
        case "mse":
            return F.mse_loss(torch.sigmoid(logits), target, reduction="sum")
        case "bce":
            return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        case _:
            raise AssertionError(kind)
