"""Owns the look at the validation photos after each epoch: every photo once at any number of processes, and one score."""

from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.nn import functional as F  # noqa: N812

from carinspect.core.tasks import LABEL_COLUMN
from carinspect.model.priors import Priors, clean_offset, logit_offsets
from carinspect.training.batches import Photos

BATCH = 64


def own_positions(photo_count: int, *, rank: int, world_size: int) -> range:
    """The photos that one rank looks at. Without padding: a sampler that fills up to equal shares counts some photos twice."""
    return range(rank, photo_count, world_size)


@torch.inference_mode()
def predict_logits(network: nn.Module, photos: Photos) -> dict[str, torch.Tensor]:
    """Logits of all photos, in their order, on every rank. Rank r of W looks at photos r, r + W, …: none twice."""
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    device = next(network.parameters()).device
    own = own_positions(len(photos), rank=rank, world_size=world_size)
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


def undo_prior(logits: dict[str, torch.Tensor], priors: Priors) -> dict[str, torch.Tensor]:
    """Logits as of a model that was shown the classes as often as they occur: else balanced training would look uncalibrated."""
    offsets = logit_offsets(priors)
    added = {"clean": torch.tensor(clean_offset(offsets)), "weather": torch.tensor(offsets["weather"])}
    return {task: values + added[task] if task in added else values for task, values in logits.items()}


def skill_scores(logits: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> dict[str, float]:
    """For each task 1 - loss / loss of the best constant answer: 1 is perfect, 0 no better than knowing the shares.

    The loss is the negative log-likelihood for clean and weather and the absolute error for the scores. A task without labels is absent.
    """
    constant = constant_logits(labels)

    def loss(answers: torch.Tensor, task: str) -> float:
        truth = labels[LABEL_COLUMN[task]]  # type: ignore[index]
        known = ~truth.isnan()
        if task == "clean":
            return float(F.binary_cross_entropy_with_logits(answers[known], truth[known], reduction="sum"))
        if task == "weather":
            return float(F.cross_entropy(answers[known], truth[known].long(), reduction="sum"))
        return float((torch.sigmoid(answers) - truth).abs().nansum())

    scores = {}
    for task in logits:
        if not labels[LABEL_COLUMN[task]].isnan().all():  # type: ignore[index]
            scores[task] = 1 - loss(logits[task], task) / max(loss(constant[task].expand(logits[task].shape), task), 1e-9)
    return scores


def validation_score(skills: dict[str, float]) -> float:
    """The score by which the best epoch is chosen: the mean skill over the tasks that have labels."""
    return float(np.mean(list(skills.values())))
