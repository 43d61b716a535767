"""Handles a loss or gradient that is not finite: finds its cause, then stops the run or drops the step."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from carinspect.core.errors import UserError
from carinspect.training.micro_batch import autocast

if TYPE_CHECKING:
    from carinspect.training.step import Share

NAMED = 8


def is_finite(question_losses: dict[str, float], gradient_norm: torch.Tensor) -> bool:
    """Whether all losses and the norm of the summed gradient are finite; every rank gets the same answer."""
    return all(math.isfinite(loss) for loss in question_losses.values()) and bool(torch.isfinite(gradient_norm))


def describe(share: "Share", question_losses: dict[str, float]) -> str:
    """A message that names what is not finite in this step. All ranks must call it, with the losses of the whole batch."""
    batch = [share.photos.image_paths[position] for position in share.step.positions]
    broken = [name for name, loss in question_losses.items() if not math.isfinite(loss)]
    if broken:
        photos = _gather(_photos_of_loss(share, broken[0]))
        whose = f" for {_some(photos)}" if photos else f"; the batch begins with {_some(batch)}"
        return f"the loss of '{broken[0]}' is not finite at step {share.number}{whose}"
    names = [
        name for name, parameter in share.trainer.network.named_parameters() if parameter.grad is not None and _is_broken(parameter.grad)
    ]
    heads = ", ".join(asked for asked in question_losses if any(f"heads.{asked}." in name for name in names)) or "the shared layers"
    return (
        f"the gradient of {_some(names)} is not finite at step {share.number} ({heads}), though the loss is; "
        f"the batch begins with {_some(batch)}"
    )


def is_overflow(scaler: torch.amp.GradScaler) -> bool:
    """Whether the scale of fp16 may be the cause. Then the scaler halves it and the step is dropped, which is normal."""
    # A scale below 1 makes no value larger, so it cannot be the cause.
    return scaler.is_enabled() and scaler.get_scale() >= 1.0


def stop_or_report(problem: str, *, policy: str) -> None:
    """Raise `UserError` with the policy `stop`; with `skip`, print the problem on rank 0."""
    if policy == "stop":
        raise UserError(
            f"{problem}. Lower train.lr, or set train.precision: fp32, or train.on_nonfinite: skip to go on without such steps. "
            "The last saved state is kept."
        )
    if distributed.get_rank() == 0:
        print(f"step dropped: {problem}", flush=True)


def _is_broken(values: torch.Tensor) -> bool:
    return not bool(torch.isfinite(values).all())


def _photos_of_loss(share: "Share", question: str) -> list[str]:
    """The photos of this rank whose loss is not finite when the network answers them one by one."""
    was_training = {module: module.training for module in share.trainer.network.modules()}
    share.trainer.network.eval()
    found = []
    ones = {name: float(value > 0) for name, value in share.divisors.items()}
    with torch.no_grad(), autocast(share.device, share.trainer.recipe.train.precision):
        for part, images in zip(share.own_parts, share.drawn, strict=True):
            for place, position in enumerate(share.step.micro_batches[part]):
                labels = {name: values.to(share.device) for name, values in share.photos.labels_of(position[None]).items()}
                losses = share.trainer.objective.mean_losses(
                    share.trainer.network(images[place : place + 1].to(share.device)), labels, ones
                )
                if not torch.isfinite(losses[share.trainer.objective.names.index(question)]):
                    found.append(share.photos.image_paths[position])
    for module, training in was_training.items():
        module.training = training
    return found


def _gather(names: list[str]) -> list[str]:
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, names)
    return sorted({name for names in everyone for name in names})


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
