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

from carinspect.training.batches import Photos, Step
from carinspect.training.config import Recipe
from carinspect.training.micro_batch import MicroBatch
from carinspect.training.nonfinite import describe, is_finite, is_overflow, stop_or_report
from carinspect.training.norm_statistics import NormStatistics
from carinspect.training.objective import Objective
from carinspect.training.processes import any_of
from carinspect.training.share import Share


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
    micro_batch: MicroBatch,
) -> dict[str, float] | None:
    """One step. `images`: this rank's photos, the parts `own_parts` of `step`. Returns each task's mean loss and `total`.

    Where memory runs out on any rank, `micro_batch` is halved on all, and the step taken again. None: the step was dropped, for a loss or
    a gradient was not finite. Raises `UserError` for that under `train.on_nonfinite: stop`.
    """
    share = Share(
        network, scaler, recipe=recipe, objective=objective, photos=photos, step=step, step_number=step_number,
        own_parts=own_parts, images=iter(images), statistics=statistics, micro_batch=micro_batch,
    )  # fmt: skip
    losses = _exchange(share)
    present = torch.tensor([share.divisors[task] > 0 for task in objective.tasks], device=share.device)
    scaler.unscale_(optimiser)
    # Measured first: to clip by a norm that is not finite would spoil what tells whose gradient it was.
    norm = nn.utils.get_total_norm([parameter.grad for parameter in share.trained if parameter.grad is not None])
    task_losses = dict(zip(objective.tasks, losses.tolist(), strict=True))

    if not is_finite(task_losses, norm):
        if not is_overflow(scaler):
            stop_or_report(describe(share, task_losses), policy=recipe.train.on_nonfinite)
        scaler.update()
        statistics.restore(share.before)
        return None
    nn.utils.clip_grads_with_norm_(share.trained, recipe.train.grad_clip_norm, norm)
    total = objective.task_weights.total(losses, present).item()
    objective.task_weights.set_gradient(losses, present)
    scaler.step(optimiser)
    scaler.update()
    return {task: loss for task, loss in task_losses.items() if share.divisors[task]} | {"total": total}


def _exchange(share: Share) -> torch.Tensor:
    """Add up what all ranks computed: the gradients and batch-norm statistics in their places, the tasks' losses returned."""
    flat = share.compute()
    while any_of(flat is None):
        flat = None
        share.forget()
        share.micro_batch.halve()
        flat = share.compute()
    assert flat is not None
    if distributed.get_world_size() > 1:
        distributed.all_reduce(flat)
    sizes = [parameter.numel() for parameter in share.trained]
    *gradients, statistics_sum, losses = flat.split([*sizes, len(share.before), len(share.objective.tasks)])
    for parameter, gradient in zip(share.trained, gradients, strict=True):
        assert parameter.grad is not None
        parameter.grad.copy_(gradient.view_as(parameter))
    share.statistics.restore(statistics_sum / len(share.step.micro_batches))
    return losses
