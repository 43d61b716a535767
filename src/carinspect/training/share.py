"""Owns what one rank computes of a step: the forward and backward passes over its own micro-batches."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from carinspect.core.seeds import derive_seed
from carinspect.training.batches import Photos, Step
from carinspect.training.config import Recipe
from carinspect.training.micro_batch import MicroBatch
from carinspect.training.norm_statistics import NormStatistics
from carinspect.training.objective import Objective
from carinspect.training.trial import autocast


@dataclass
class Share:
    """One rank's part of one step. It can be computed again, in smaller pieces."""

    network: nn.Module
    scaler: torch.amp.GradScaler
    recipe: Recipe
    objective: Objective
    photos: Photos
    step: Step
    step_number: int
    own_parts: list[int]
    images: Iterator[torch.Tensor]
    """Photos of the parts `own_parts`, uint8 (micro-batch, side, side, 3)."""
    statistics: NormStatistics
    micro_batch: MicroBatch
    drawn: list[torch.Tensor] = field(default_factory=list)
    """What `images` gave so far, kept for another try."""

    def __post_init__(self) -> None:
        self.divisors = self.objective.divisors(self.photos.labels_of(self.step.positions))
        self.device = next(self.network.parameters()).device
        self.trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.before = self.statistics.values()

    def compute(self) -> torch.Tensor | None:
        """Gradients, summed batch-norm statistics and each task's loss in one flat tensor; None where memory ran out."""
        try:
            return self._compute()
        except torch.OutOfMemoryError:
            # Nothing is freed in here: the error's traceback holds on to every tensor of the failed pass.
            return None

    def forget(self) -> None:
        """Free what a failed try left behind, and undo what it changed."""
        for parameter in self.trained:
            parameter.grad = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.statistics.restore(self.before)

    def _compute(self) -> torch.Tensor:
        statistics_sum = torch.zeros_like(self.before)
        losses = torch.zeros(len(self.objective.tasks), device=self.device)
        for parameter in self.trained:
            # Zeros, not None: a rank without a micro-batch of this step must bring as many numbers as the others.
            parameter.grad = torch.zeros_like(parameter)
        for index, part in enumerate(self.own_parts):
            # Dropout draws from this: a function of the place in the plan, not of the rank.
            torch.manual_seed(derive_seed(self.recipe.train.seed, "dropout", self.step_number, part))
            positions = self.step.micro_batches[part]
            pieces = self.micro_batch.cut(len(positions))
            for piece in pieces:
                labels = {name: values.to(self.device) for name, values in self.photos.labels_of(positions[piece]).items()}
                with autocast(self.device, self.recipe.train.precision):
                    logits = self.network(self._images(index)[piece].to(self.device, non_blocking=True))
                means = self.objective.mean_losses(logits, labels, self.divisors)
                self.scaler.scale((self.objective.task_weights.values() * means).sum()).backward()
                losses += means.detach()
                statistics_sum += self.statistics.values() / len(pieces)
                self.statistics.restore(self.before)
        gradients = [parameter.grad.flatten() for parameter in self.trained if parameter.grad is not None]
        return torch.cat([*gradients, statistics_sum, losses])

    def _images(self, index: int) -> torch.Tensor:
        # As late as can be, so that the loader's workers go on beside the network.
        if index == len(self.drawn):
            self.drawn.append(next(self.images))
        return self.drawn[index]
