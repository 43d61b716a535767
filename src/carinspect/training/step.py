"""One step of the optimiser: every rank's micro-batches, one exchange, one update.

The sum over micro-batches is the gradient of the whole effective batch whichever rank computed which part: each question's loss is divided
by its labelled photos in the *whole* batch, counted by their class's weight, which every rank knows from the table. So one process with
accumulation and several without give the same step within float noise. Gradients travel in one flat all_reduce instead of
DistributedDataParallel's buckets: ranks may hold different numbers of micro-batches, a question may be absent from a rank, and a resumed
run adds in the same order as an unbroken one.
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
    """What every step needs, and what it changes."""

    network: nn.Module
    """As it runs: compiled, where that works."""
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    objective: Objective
    recipe: Recipe
    statistics: NormStatistics
    micro_batch: MicroBatch
    """Halved where memory runs out."""


@dataclass
class Share:
    """One rank's part of one step. It can be computed again, in smaller pieces."""

    trainer: Trainer
    photos: Photos
    step: Step
    number: int
    """Of the step, in the whole run."""
    own_parts: list[int]
    images: Iterator[torch.Tensor]
    """Photos of the parts `own_parts`, uint8 (micro-batch, side, side, 3)."""
    drawn: list[torch.Tensor] = field(default_factory=list)
    """What `images` gave so far, kept for another try."""

    def __post_init__(self) -> None:
        network = self.trainer.network
        self.divisors = self.trainer.objective.divisors(self.photos.labels_of(self.step.positions))
        self.device = next(network.parameters()).device
        self.trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.before = self.trainer.statistics.values()

    def compute(self) -> torch.Tensor | None:
        """Gradients, summed batch-norm statistics and each question's loss in one flat tensor; None where memory ran out."""
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
        self.trainer.statistics.restore(self.before)

    def _compute(self) -> torch.Tensor:
        trainer, train = self.trainer, self.trainer.recipe.train
        statistics_sum = torch.zeros_like(self.before)
        losses = torch.zeros(len(trainer.objective.names), device=self.device)
        # Zeros, not None: a rank without a micro-batch of this step must bring as many numbers as the others.
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)

        for index, part in enumerate(self.own_parts):
            # Dropout draws from this: a function of the place in the plan, not of the rank.
            torch.manual_seed(derive_seed(train.seed, "dropout", self.number, part))
            positions = self.step.micro_batches[part]
            pieces = trainer.micro_batch.cut(len(positions))
            for piece in pieces:
                labels = {name: values.to(self.device) for name, values in self.photos.labels_of(positions[piece]).items()}
                with autocast(self.device, train.precision):
                    logits = trainer.network(self._images(index)[piece].to(self.device, non_blocking=True))
                # Means over the whole effective batch, so that gradients of all pieces and ranks simply add up.
                means = trainer.objective.mean_losses(logits, labels, self.divisors)
                trainer.scaler.scale((trainer.objective.weights.values() * means).sum()).backward()
                losses += means.detach()
                # Each piece starts from the statistics before the step; their mean is the step's (NormStatistics).
                statistics_sum += trainer.statistics.values() / len(pieces)
                trainer.statistics.restore(self.before)

        gradients = [parameter.grad.flatten() for parameter in self.trained if parameter.grad is not None]
        return torch.cat([*gradients, statistics_sum, losses])

    def _images(self, index: int) -> torch.Tensor:
        # As late as possible, so that the loader's workers go on beside the network.
        if index == len(self.drawn):
            self.drawn.append(next(self.images))
        return self.drawn[index]


def train_step(share: Share) -> dict[str, float] | None:
    """Take one step. Returns each question's mean loss, and their weighted `total`.

    Where memory runs out on any rank, the micro-batch is halved on all, and the step taken again. None: the step was dropped, because a
    loss or a gradient was not finite. Raises `UserError` for that under `train.on_nonfinite: stop`.
    """
    trainer, objective = share.trainer, share.trainer.objective
    losses = _exchange(share)
    present = torch.tensor([share.divisors[name] > 0 for name in objective.names], device=share.device)
    trainer.scaler.unscale_(trainer.optimiser)
    # Measured before clipping: a norm that is not finite would hide in which gradient the trouble began.
    norm = nn.utils.get_total_norm([parameter.grad for parameter in share.trained if parameter.grad is not None])
    question_losses = dict(zip(objective.names, losses.tolist(), strict=True))

    # The same numbers on every rank, so all take the same branch.
    if not is_finite(question_losses, norm):
        if not is_overflow(trainer.scaler):
            stop_or_report(describe(share, question_losses), policy=trainer.recipe.train.on_nonfinite)
        trainer.scaler.update()
        trainer.statistics.restore(share.before)
        return None

    nn.utils.clip_grads_with_norm_(share.trained, trainer.recipe.train.grad_clip_norm, norm)
    # Learnt loss weights get their gradient from the whole batch's losses, which every rank now has.
    total = objective.weights.total(losses, present).item()
    objective.weights.set_gradient(losses, present)
    trainer.scaler.step(trainer.optimiser)
    trainer.scaler.update()
    return {name: loss for name, loss in question_losses.items() if share.divisors[name]} | {"total": total}


def _exchange(share: Share) -> torch.Tensor:
    """Add up what all ranks computed: the gradients and batch-norm statistics in their places, the questions' losses returned."""
    flat = share.compute()
    # Memory may run out on one rank alone: all halve and compute again, so that all add equal parts.
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
