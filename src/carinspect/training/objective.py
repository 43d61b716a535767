"""Owns what a training minimises: each task's mean loss over an effective batch, and their weighted total."""

import torch

from carinspect.model.losses import Labels, label_weights, summed_losses
from carinspect.training.balance import class_weights
from carinspect.training.config import Recipe
from carinspect.training.task_weights import TaskWeights


class Objective:
    """The losses of a recipe. Shapes: T tasks, in the order of the recipe."""

    def __init__(self, recipe: Recipe, labels: Labels, *, device: torch.device) -> None:
        """`labels`: all of the split train, which class weights by frequency come from."""
        self.tasks: list[str] = list(recipe.model.tasks)
        self.task_weights = TaskWeights(recipe.train, self.tasks).to(device)
        self._knobs = recipe.train
        self._class_weights = {task: weights.to(device) for task, weights in class_weights(recipe.train, labels).items()}

    def divisors(self, labels: Labels) -> dict[str, float]:
        """What each task's sum over these photos, an effective batch, is divided by; 0 where none has a label."""
        weights = label_weights(labels, self._class_weights)
        return {task: weights[task] for task in self.tasks}

    def mean_losses(self, logits: dict[str, torch.Tensor], labels: Labels, divisors: dict[str, float]) -> torch.Tensor:
        """This part's share of each task's mean, shape (T,); the shares of all parts add up to the mean of the effective batch."""
        sums = summed_losses(logits, labels, self._knobs, class_weights=self._class_weights)
        return torch.stack([sums[task] / (divisors[task] or 1.0) for task in self.tasks])
