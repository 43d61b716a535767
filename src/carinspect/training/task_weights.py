"""Owns the weights of the tasks in the total loss: as given, or learnt."""

import math

import torch
from torch import nn

from carinspect.model.config import LossKnobs

REGRESSIONS = ("cleanliness", "damage")


class TaskWeights(nn.Module):
    """The weight of each task. Shapes: T tasks, in the order of the recipe.

    uncertainty: Kendall, Gal and Cipolla (2018), "Multi-task learning using uncertainty to weigh losses", equations 7 and 10. With the
    log-variance s = log sigma^2 of a task as a parameter, total = sum over tasks of w L + s / 2, where w = exp(-s) for a classification
    and exp(-s) / 2 for a regression. s begins where w is the task's `loss_weights`; a task whose weight is 0 stays out.
    """

    def __init__(self, knobs: LossKnobs, tasks: list[str]) -> None:
        super().__init__()
        self.tasks = tasks
        weights = [knobs.loss_weights[task] for task in tasks]
        self.fixed_T: torch.Tensor
        self.factor_T: torch.Tensor
        self.log_variance_T: nn.Parameter | None = None
        # Nothing to restore in either: they follow from the recipe.
        self.register_buffer("fixed_T", torch.tensor(weights), persistent=False)
        self.register_buffer("factor_T", torch.tensor([0.5 if task in REGRESSIONS else 1.0 for task in tasks]), persistent=False)
        if knobs.loss_weighting == "uncertainty":
            begin = [math.log(factor / weight) if weight else 0.0 for factor, weight in zip(self.factor_T.tolist(), weights, strict=True)]
            self.log_variance_T = nn.Parameter(torch.tensor(begin))

    def values(self) -> torch.Tensor:
        """The weights now, shape (T,), without a gradient: what the network's gradient is made with."""
        if self.log_variance_T is None:
            return self.fixed_T
        return self._learnt().detach()

    def total(self, losses_T: torch.Tensor, present_T: torch.Tensor) -> torch.Tensor:
        """The loss that is minimised, from the mean losses of an effective batch; `present_T`: which tasks have a label in it."""
        if self.log_variance_T is None:
            return (self.fixed_T * losses_T).sum()
        terms_T = self._learnt() * losses_T + self.log_variance_T / 2
        # A task without labels would else grow its weight on no evidence.
        return torch.where(present_T & (self.fixed_T > 0), terms_T, 0.0).sum()

    def set_gradient(self, losses_T: torch.Tensor, present_T: torch.Tensor) -> None:
        """Of the log-variances, which learn from the losses of the whole batch: every rank knows these, and gets the same."""
        if self.log_variance_T is not None:
            (self.log_variance_T.grad,) = torch.autograd.grad(self.total(losses_T.detach(), present_T), [self.log_variance_T])

    def named_values(self) -> dict[str, float]:
        """For the history: `task_weight_<task>` of learnt weights; those that stay are in the recipe."""
        if self.log_variance_T is None:
            return {}
        return {f"task_weight_{task}": value for task, value in zip(self.tasks, self.values().tolist(), strict=True)}

    def _learnt(self) -> torch.Tensor:
        assert self.log_variance_T is not None
        return torch.where(self.fixed_T > 0, self.factor_T * torch.exp(-self.log_variance_T), 0.0)
