"""Owns one step of the optimiser: every rank's micro-batches, one exchange, one update.

The sum over micro-batches is the gradient of the whole effective batch whichever rank computed which part: each task's loss is divided by
its labelled photos in the *whole* batch, counted by their class's weight, which every rank knows from the table. So one process with
accumulation and several without give the same step within float noise. Gradients travel in one flat all_reduce instead of
DistributedDataParallel's buckets: ranks may hold different numbers of micro-batches, a task may be absent from a rank, and a resumed run
adds in the same order as an unbroken one.
"""

from collections.abc import Iterable

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from carinspect.core.errors import UserError
from carinspect.core.seeds import derive_seed
from carinspect.training.batches import Photos, Step
from carinspect.training.config import Recipe
from carinspect.training.objective import Objective


class NormStatistics:
    """Batch-norm statistics that do not depend on which process saw which micro-batch.

    Every micro-batch starts from the statistics before the step; after it they become the mean over all micro-batches. A running average is
    linear, so this is one update by the mean of the micro-batches' own statistics.
    """

    def __init__(self, network: nn.Module) -> None:
        self._norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
        self._device = next(network.parameters()).device
        self._counters = [norm.num_batches_tracked for norm in self._norms if norm.num_batches_tracked is not None]

    @property
    def _buffers(self) -> list[torch.Tensor]:
        # Those of a frozen backbone stay to the last bit, which a mean of equal numbers need not.
        norms = [norm for norm in self._norms if norm.training]
        return [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var) if buffer is not None]

    def values(self) -> torch.Tensor:
        """All statistics in one flat copy."""
        return torch.cat([torch.zeros(0, device=self._device), *(buffer.flatten() for buffer in self._buffers)])

    def restore(self, values: torch.Tensor) -> None:
        """Write flat `values` back."""
        sizes = [buffer.numel() for buffer in self._buffers]
        for buffer, part in zip(self._buffers, values.split(sizes) if sizes else (), strict=True):
            buffer.copy_(part.view_as(buffer))
        for counter in self._counters:
            # Counts forwards of this process, which nothing reads, and would be in the file.
            counter.zero_()


def train_step(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    recipe: Recipe,
    objective: Objective,
    photos: Photos,
    step: Step,
    step_number: int,
    own_parts: list[int],
    images: Iterable[torch.Tensor],
    statistics: NormStatistics,
) -> dict[str, float]:
    """One step. `images`: this rank's micro-batches, the parts `own_parts` of `step`. Returns each task's mean loss and `total`.

    Raises `UserError` when the loss is not finite.
    """
    device = next(network.parameters()).device
    divisors = objective.divisors(photos.labels_of(step.positions))
    tasks = objective.tasks
    before = statistics.values()
    statistics_sum = torch.zeros_like(before)
    losses = torch.zeros(len(tasks), device=device)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        # Zeros, not None: a rank without a micro-batch of this step must bring as many numbers as the others.
        parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]

    for part, images_BHWC in zip(own_parts, images, strict=True):
        # Dropout draws from this: a function of the place in the plan, not of the rank.
        torch.manual_seed(derive_seed(recipe.train.seed, "dropout", step_number, part))
        labels = {name: values.to(device) for name, values in photos.labels_of(step.micro_batches[part]).items()}
        with torch.autocast(device.type, dtype=_AUTOCAST.get(recipe.train.precision), enabled=recipe.train.precision in _AUTOCAST):
            logits = network(images_BHWC.to(device, non_blocking=True))
        means = objective.mean_losses(logits, labels, divisors)
        scaler.scale((objective.task_weights.values() * means).sum()).backward()
        losses += means.detach()
        statistics_sum += statistics.values()
        statistics.restore(before)

    flat = torch.cat([gradient.flatten() for gradient in gradients] + [statistics_sum, losses])
    if distributed.get_world_size() > 1:
        distributed.all_reduce(flat)
    *summed, statistics_sum, losses = flat.split([gradient.numel() for gradient in gradients] + [before.numel(), len(tasks)])
    for gradient, total in zip(gradients, summed, strict=True):
        gradient.copy_(total.view_as(gradient))
    statistics.restore(statistics_sum / len(step.micro_batches))

    task_losses = dict(zip(tasks, losses.tolist(), strict=True))
    present = torch.tensor([divisors[task] > 0 for task in tasks], device=device)
    total_loss = objective.task_weights.total(losses, present).item()
    _refuse_non_finite(task_losses, photos, step, step_number)
    scaler.unscale_(optimiser)
    objective.task_weights.set_gradient(losses, present)
    nn.utils.clip_grad_norm_(trained, recipe.train.grad_clip_norm)
    scaler.step(optimiser)
    scaler.update()
    return {task: loss for task, loss in task_losses.items() if divisors[task]} | {"total": total_loss}


_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def _refuse_non_finite(task_losses: dict[str, float], photos: Photos, step: Step, step_number: int) -> None:
    broken = [task for task, loss in task_losses.items() if not torch.isfinite(torch.tensor(loss))]
    if broken:
        names = ", ".join(photos.image_paths[position] for position in step.positions[:8])
        raise UserError(
            f"the loss of '{broken[0]}' is not finite at step {step_number}; the batch begins with {names}. "
            "Lower train.lr, or train.precision: fp32; the state at the end of the last epoch is kept."
        )
