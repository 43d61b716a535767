"""One step of the optimiser: every rank's micro-batches, one exchange, one update.

Each question's loss is divided by its labelled photos in the *whole* effective batch, counted by their class's weight; every rank knows
that number from the table. So the gradients of all micro-batches sum to the gradient of the whole batch, and one process with accumulation
takes the same step as several processes without, within float rounding.

All gradients are exchanged in one flat all_reduce, not in DistributedDataParallel's buckets, for three reasons: ranks may have different
numbers of micro-batches, a rank may have no photo of a question, and a resumed run must add in the same order as an uninterrupted one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import distributed, nn

from carinspect.core.seeds import derive_seed
from carinspect.training.batches import Photos, Step
from carinspect.training.config import Recipe
from carinspect.training.losses import Objective
from carinspect.training.micro_batch import MicroBatch, autocast
from carinspect.training.nonfinite import describe, is_finite, is_overflow, stop_or_report
from carinspect.training.norm_statistics import NormStatistics
from carinspect.training.processes import any_of


@dataclass(frozen=True)
class Trainer:
    """The network, the optimiser and the settings of every step; a step changes the first two."""

    network: nn.Module
    """Compiled by torch.compile where that works."""
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    objective: Objective
    recipe: Recipe
    statistics: NormStatistics
    micro_batch: MicroBatch
    """Its size is halved when memory runs out."""


@dataclass
class Share:
    """One rank's part of one step. After an out-of-memory error it is computed again in smaller pieces."""

    trainer: Trainer
    photos: Photos
    step: Step
    number: int
    """Number of the step in the whole run, from 0."""
    own_parts: list[int]
    """Indices of the step's micro-batches that this rank computes."""
    images: Iterator[torch.Tensor]
    """The photos of `own_parts`, one micro-batch at a time, uint8 (micro-batch, side, side, 3)."""
    drawn: list[torch.Tensor] = field(default_factory=list)
    """Micro-batches already taken from `images`, kept for a second try."""

    def __post_init__(self) -> None:
        network = self.trainer.network
        self.divisors = self.trainer.objective.divisors(self.photos.labels_of(self.step.positions))
        self.device = next(network.parameters()).device
        self.trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.before = self.trainer.statistics.values()

    def compute(self) -> torch.Tensor | None:
        """Gradients, summed batch-norm statistics and each question's loss in one flat tensor; None when memory ran out."""
        try:
            return self._compute()
        except torch.OutOfMemoryError:
            # Memory cannot be freed here: the error's traceback still refers to every tensor of the failed pass.
            return None

    def forget(self) -> None:
        """Free the memory of a failed try, and restore the batch-norm statistics that it changed."""
        for parameter in self.trained:
            parameter.grad = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.trainer.statistics.restore(self.before)

    def _compute(self) -> torch.Tensor:
        trainer, train = self.trainer, self.trainer.recipe.train
        statistics_sum = torch.zeros_like(self.before)
        losses = torch.zeros(len(trainer.objective.names), device=self.device)
        # Zeros, not None: all_reduce needs as many numbers from a rank without a micro-batch as from the others.
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)

        for index, part in enumerate(self.own_parts):
            # The seed of dropout depends on the place in the plan, not on the rank: any number of processes drops the same features.
            torch.manual_seed(derive_seed(train.seed, "dropout", self.number, part))
            positions = self.step.micro_batches[part]
            pieces = trainer.micro_batch.cut(len(positions))
            for piece in pieces:
                labels = {name: values.to(self.device) for name, values in self.photos.labels_of(positions[piece]).items()}
                with autocast(self.device, train.precision):
                    logits = trainer.network(self._images(index)[piece].to(self.device, non_blocking=True))
                # The divisors are those of the whole effective batch, so the gradients of all pieces and ranks can be summed.
                means = trainer.objective.mean_losses(logits, labels, self.divisors)
                trainer.scaler.scale((trainer.objective.weights.values() * means).sum()).backward()
                losses += means.detach()
                # Each piece starts from the statistics before the step; the step's result is their mean (NormStatistics).
                statistics_sum += trainer.statistics.values() / len(pieces)
                trainer.statistics.restore(self.before)

        gradients = [parameter.grad.flatten() for parameter in self.trained if parameter.grad is not None]
        return torch.cat([*gradients, statistics_sum, losses])

    def _images(self, index: int) -> torch.Tensor:
        # Taken as late as possible, so that the loader's workers decode while the network computes.
        if index == len(self.drawn):
            self.drawn.append(next(self.images))
        return self.drawn[index]


def train_step(share: Share) -> dict[str, float] | None:
    """Take one step. Returns each question's mean loss, and their weighted `total`.

    When memory runs out on any rank, all ranks halve the micro-batch and compute the step again. Returns None when the step was dropped
    because a loss or a gradient was not finite; with `train.on_nonfinite: stop` this raises `UserError` instead.
    """
    trainer, objective = share.trainer, share.trainer.objective
    losses = _exchange(share)
    present = torch.tensor([share.divisors[name] > 0 for name in objective.names], device=share.device)
    trainer.scaler.unscale_(trainer.optimiser)
    # Measured before clipping: clipping by a norm that is not finite would make every gradient non-finite, and hide the first one.
    norm = nn.utils.get_total_norm([parameter.grad for parameter in share.trained if parameter.grad is not None])
    question_losses = dict(zip(objective.names, losses.tolist(), strict=True))

    # These numbers are equal on every rank, so all ranks take the same branch.
    if not is_finite(question_losses, norm):
        if not is_overflow(trainer.scaler):
            stop_or_report(describe(share, question_losses), policy=trainer.recipe.train.on_nonfinite)
        trainer.scaler.update()
        trainer.statistics.restore(share.before)
        return None

    nn.utils.clip_grads_with_norm_(share.trained, trainer.recipe.train.grad_clip_norm, norm)
    # Learnt loss weights get their gradient from the losses of the whole batch, which every rank has by now.
    total = objective.weights.total(losses, present).item()
    objective.weights.set_gradient(losses, present)
    trainer.scaler.step(trainer.optimiser)
    trainer.scaler.update()
    return {name: loss for name, loss in question_losses.items() if share.divisors[name]} | {"total": total}


def _exchange(share: Share) -> torch.Tensor:
    """Sum the results of all ranks: sets the gradients and the batch-norm statistics, and returns the questions' losses."""
    flat = share.compute()
    # Memory may run out on one rank only. All ranks halve and compute again, so that all use the same pieces.
    while any_of(flat is None):
        flat = None
        share.forget()
        share.trainer.micro_batch.halve()
        flat = share.compute()
    assert flat is not None
    if distributed.get_world_size() > 1:
        distributed.all_reduce(flat)
    sizes = [parameter.numel() for parameter in share.trained]
    *gradients, statistics_sum, losses = flat.split([*sizes, len(share.before), len(share.trainer.objective.names)])
    for parameter, gradient in zip(share.trained, gradients, strict=True):
        assert parameter.grad is not None
        parameter.grad.copy_(gradient.view_as(parameter))
    share.trainer.statistics.restore(statistics_sum / len(share.step.micro_batches))
    return losses
