"""Validates after each epoch: answers every photo once, with any number of processes, and computes one score."""

from collections.abc import Iterable, Mapping
from typing import Any, assert_never

import numpy as np
import torch
from torch import distributed, nn
from torch.nn import functional as F  # noqa: N812

from carinspect.core.questions import Question
from carinspect.model.calibration import Priors, add_offset, logit_offsets
from carinspect.training.balance import Labels
from carinspect.training.batches import Photos

BATCH = 64


def own_positions(photo_count: int, *, rank: int, world_size: int) -> range:
    """The photos that one rank answers. No padding: torch's DistributedSampler would count some photos twice to get equal shares."""
    return range(rank, photo_count, world_size)


@torch.inference_mode()
def predict_logits(network: nn.Module, photos: Photos) -> dict[str, torch.Tensor]:
    """Logits of all photos, in their order, on every rank. Rank r of W answers photos r, r + W, …, so each photo is answered once."""
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    device = next(network.parameters()).device
    own = own_positions(len(photos), rank=rank, world_size=world_size)
    parts = [network(torch.from_numpy(photos.pixels[own[start : start + BATCH]]).to(device)) for start in range(0, len(own), BATCH)]
    mine = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]} if parts else {}
    everyone: list[Any] = [None] * world_size
    distributed.all_gather_object(everyone, mine)
    gathered: dict[str, torch.Tensor] = {}
    for other, logits in enumerate(everyone):
        for name, values in logits.items():
            target = gathered.setdefault(name, torch.empty((len(photos), *values.shape[1:])))
            target[other::world_size] = values
    return gathered


def constant_logits(question: Question, labels: Labels) -> torch.Tensor:
    """The best constant answer for `labels`: the base rate for classes, the median for a score. Shape (1,), or (1, K)."""

    def to_logit(share: torch.Tensor) -> torch.Tensor:
        return torch.logit(share.clamp(1e-4, 1 - 1e-4)).view(1)

    known = labels[question.column][~labels[question.column].isnan()]
    classes = len(question.classes)
    match question.kind:
        case "binary":
            # One photo of each class is added, so that the loss is finite when a class is absent.
            return to_logit((known.sum() + 1) / (len(known) + 2))
        case "score":
            return to_logit(known.median() if len(known) else torch.tensor(0.5))
        case "classes":
            frequencies = (torch.bincount(known.long(), minlength=classes).float() + 1) / (len(known) + classes)
            return frequencies.log().view(1, classes)
        case _:
            assert_never(question.kind)


def undo_prior(questions: Iterable[Question], logits: Mapping[str, torch.Tensor], priors: Priors) -> dict[str, torch.Tensor]:
    """Logits corrected for the class prior of training: without it, balanced training would look badly calibrated."""
    asked = list(questions)
    offsets = logit_offsets(asked, priors)
    return {one.name: add_offset(one, logits[one.name], offsets.get(one.name, ())) for one in asked}


def skill_scores(questions: Iterable[Question], logits: Mapping[str, torch.Tensor], labels: Labels) -> dict[str, float]:
    """For each question 1 - loss / loss of the best constant answer: 1 is perfect, 0 is no better than that constant.

    The loss is the negative log-likelihood where there are classes and the absolute error for scores. Without labels it is left out.
    """
    scores = {}
    for question in questions:
        truth = labels[question.column]
        if not truth.isnan().all():
            answers, constant = logits[question.name], constant_logits(question, labels)
            scores[question.name] = 1 - _loss(question, answers, truth) / max(_loss(question, constant.expand(answers.shape), truth), 1e-9)
    return scores


def _loss(question: Question, answers: torch.Tensor, truth: torch.Tensor) -> float:
    known = ~truth.isnan()
    match question.kind:
        case "binary":
            return float(F.binary_cross_entropy_with_logits(answers[known], truth[known], reduction="sum"))
        case "score":
            return float((torch.sigmoid(answers) - truth).abs().nansum())
        case "classes":
            return float(F.cross_entropy(answers[known], truth[known].long(), reduction="sum"))
        case _:
            assert_never(question.kind)


def validation_score(skills: Mapping[str, float]) -> float:
    """The score by which the best epoch is chosen: the mean skill over the questions that have labels."""
    return float(np.mean(list(skills.values())))
