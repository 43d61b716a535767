"""Owns the look at the validation photos after each epoch: every photo once at any number of processes, and one score."""

from typing import Any

import numpy as np
import torch
from torch import distributed, nn

from carinspect.core.tasks import LABEL_COLUMN
from carinspect.model.losses import is_labelled, summed_losses
from carinspect.training.batches import Photos

BATCH = 64


@torch.inference_mode()
def predict_logits(network: nn.Module, photos: Photos) -> dict[str, torch.Tensor]:
    """Logits of all photos, in their order, on every rank. Rank r of W looks at photos r, r + W, …: none twice."""
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    device = next(network.parameters()).device
    own = range(rank, len(photos), world_size)
    parts = [network(torch.from_numpy(photos.pixels[own[start : start + BATCH]]).to(device)) for start in range(0, len(own), BATCH)]
    mine = {task: torch.cat([part[task] for part in parts]).cpu() for task in parts[0]} if parts else {}
    everyone: list[Any] = [None] * world_size
    distributed.all_gather_object(everyone, mine)
    gathered: dict[str, torch.Tensor] = {}
    for other, logits in enumerate(everyone):
        for task, values in logits.items():
            target = gathered.setdefault(task, torch.empty((len(photos), *values.shape[1:])))
            target[other::world_size] = values
    return gathered


def constant_logits(labels: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The best constant answer for `labels`: the base rate for classes, the median for scores. Shape (1,) or (1, 4)."""

    def known(task: str) -> torch.Tensor:
        values = labels[LABEL_COLUMN[task]]  # type: ignore[index]
        return values[~values.isnan()]

    def to_logit(share: torch.Tensor) -> torch.Tensor:
        return torch.logit(share.clamp(1e-4, 1 - 1e-4)).view(1)

    def median(task: str) -> torch.Tensor:
        values = known(task)
        return to_logit(values.median() if len(values) else torch.tensor(0.5))

    weather = known("weather").long()
    frequencies = (torch.bincount(weather, minlength=4).float() + 1) / (len(weather) + 4)
    clean = known("clean")
    return {
        "clean": to_logit((clean.sum() + 1) / (len(clean) + 2)),
        "cleanliness": median("cleanliness"),
        "damage": median("damage"),
        "weather": frequencies.log().view(1, 4),
    }


def skill_scores(logits: dict[str, torch.Tensor], labels: dict[str, torch.Tensor], *, damaged_below: float) -> dict[str, float]:
    """For each task 1 - loss / loss of the best constant answer: 1 is perfect, 0 no better than knowing the shares.

    The loss is the negative log-likelihood for clean and weather and the absolute error for the scores. A task without labels is absent.
    """
    constant = constant_logits(labels)

    def loss(answers: dict[str, torch.Tensor], task: str) -> float:
        if task in ("clean", "weather"):
            return float(summed_losses({task: answers[task]}, labels, regression="mse", damaged_below=damaged_below)[task])
        truth = labels[LABEL_COLUMN[task]]  # type: ignore[index]
        return float((torch.sigmoid(answers[task]) - truth).abs().nansum())

    scores = {}
    for task in logits:
        known = is_labelled(labels)[task] if task in ("clean", "weather") else ~labels[LABEL_COLUMN[task]].isnan()  # type: ignore[index]
        if known.any():
            same = constant[task].expand(logits[task].shape)
            scores[task] = 1 - loss(logits, task) / max(loss({task: same}, task), 1e-9)
    return scores


def validation_score(skills: dict[str, float]) -> float:
    """The score by which the best epoch is chosen: the mean skill over the tasks that have labels."""
    return float(np.mean(list(skills.values())))
