"""Owns the multi-task loss: what nobody judged contributes nothing.

Shapes: B photos, K classes. A label that is NaN is unknown.
"""

from collections.abc import Mapping

import torch
from torch.nn import functional as F  # noqa: N812
from torchvision.ops import sigmoid_focal_loss

from carinspect.model.config import LossKnobs

Labels = Mapping[str, torch.Tensor]
"""Label columns (core.tables) as float32 of shape (B,), NaN where unknown."""

ClassWeights = Mapping[str, torch.Tensor]
"""Weights of shape (K,) of `clean` (dirty, clean) or `weather`; a task that is not in it counts every photo alike."""


def is_labelled(labels: Labels) -> dict[str, torch.Tensor]:
    """For each task, which photos carry something to learn from: bool of shape (B,)."""
    return {
        "clean": ~labels["clean"].isnan(),
        "cleanliness": ~labels["cleanliness_score"].isnan(),
        "damage": ~labels["damage_score"].isnan() | (labels["damaged"] == 1),
        "weather": ~labels["weather_condition"].isnan(),
    }


def label_weights(labels: Labels, class_weights: ClassWeights) -> dict[str, float]:
    """What `summed_losses` of these photos is divided by for a mean: each task's labelled photos, counted by their class's weight.

    The convention of torch.nn.CrossEntropyLoss with `weight`. Taken over a whole effective batch, it makes accumulation exact.
    """
    known = is_labelled(labels)
    sums = {task: float(photos.sum()) for task, photos in known.items()}
    for task, column in (("clean", "clean"), ("weather", "weather_condition")):
        if task in class_weights:
            sums[task] = float(class_weights[task].cpu()[labels[column][known[task]].long()].sum(dtype=torch.float64))
    return sums


def summed_losses(
    logits: Mapping[str, torch.Tensor], labels: Labels, knobs: LossKnobs, *, class_weights: ClassWeights
) -> dict[str, torch.Tensor]:
    """Each task's loss summed over its labelled photos; 0, with a gradient of 0, where none is labelled.

    `knobs.damaged_below`: a photo known as damaged without a severity costs only as far as its damage score lies above this.
    """
    known = is_labelled(labels)
    return {
        task: _task_loss(task, values[known[task]], _of(labels, known[task]), knobs, class_weights.get(task))
        for task, values in logits.items()
    }


def _of(labels: Labels, chosen: torch.Tensor) -> Labels:
    return {column: values[chosen] for column, values in labels.items()}


def _task_loss(task: str, logits: torch.Tensor, labels: Labels, knobs: LossKnobs, weights: torch.Tensor | None) -> torch.Tensor:
    match task:
        case "clean" if knobs.clean_loss == "focal":
            return focal_loss(logits, labels["clean"], gamma=knobs.focal_gamma, weights=weights)
        case "clean":
            return binary_cross_entropy(logits, labels["clean"], smoothing=knobs.label_smoothing, weights=weights)
        case "weather":
            target = labels["weather_condition"].long()
            return F.cross_entropy(logits, target, weight=weights, reduction="sum", label_smoothing=knobs.label_smoothing)
        case "cleanliness":
            return _regression_loss(logits, labels["cleanliness_score"], knobs.regression_loss)
        case "damage":
            score = labels["damage_score"]
            # Without a severity the target is the score itself, or the ceiling where the score lies above it: a one-sided loss.
            ceiling = torch.sigmoid(logits).detach().clamp(max=knobs.damaged_below)
            has_score = ~score.isnan()
            return _regression_loss(logits[has_score], score[has_score], knobs.regression_loss) + _regression_loss(
                logits[~has_score], ceiling[~has_score], "smooth_l1"
            )
        case _:
            raise AssertionError(task)


def binary_cross_entropy(logits: torch.Tensor, target: torch.Tensor, *, smoothing: float, weights: torch.Tensor | None) -> torch.Tensor:
    """Summed cross-entropy of two classes from one logit; equals torch's `cross_entropy` of the logits (0, z).

    `smoothing` as there: Szegedy et al. (2016), section 7. `weights`: of the classes 0 and 1.
    """
    if smoothing:
        target = target * (1 - smoothing) + smoothing / 2
    if weights is None:
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return weights[0] * F.binary_cross_entropy_with_logits(logits, target, pos_weight=weights[1] / weights[0], reduction="sum")


def focal_loss(logits: torch.Tensor, target: torch.Tensor, *, gamma: float, weights: torch.Tensor | None) -> torch.Tensor:
    """Summed -alpha_t (1 - p_t)^gamma log p_t, Lin et al. (2017), equation 5; `weights` holds alpha of the classes 0 and 1."""
    losses = sigmoid_focal_loss(logits, target, alpha=-1, gamma=gamma, reduction="none")
    return losses.sum() if weights is None else (weights[target.long()] * losses).sum()


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
