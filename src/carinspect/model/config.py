"""Owns the `model` section of params.yaml, and the part of `train` that steers the losses."""

import math
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from carinspect.core.errors import did_you_mean
from carinspect.core.params import Number, Section
from carinspect.core.tasks import TASKS, WEATHER_CLASSES, Task

CLASS_COUNT: dict[str, int] = {"clean": 2, "weather": len(WEATHER_CLASSES)}
"""Of each task that chooses among classes; `clean` counts dirty first."""


class ModelKnobs(Section):
    """What the parameters and the recipe share."""

    tasks: list[Task]
    """The questions that the model answers: a subset of clean, cleanliness, damage, weather."""
    hidden_features: int = Field(ge=1)
    """Width of the layer that the heads share."""
    dropout: Number = Field(ge=0, lt=1)
    """Share of that layer's features that are dropped in training."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _known_tasks(cls, tasks: Any) -> Any:
        if not isinstance(tasks, list):
            raise ValueError(f"has the value {tasks!r}. Give a list, for example [clean, weather].")
        for task in tasks:
            if task not in TASKS:
                raise ValueError(f"'{task}' is no task. {did_you_mean(task, TASKS)}")
        if not tasks or len(set(tasks)) < len(tasks):
            raise ValueError(f"has the value {tasks}. Name one or more of {', '.join(TASKS)}, each once.")
        # One order, so that the same set is the same recipe.
        return [task for task in TASKS if task in tasks]


class ModelParams(ModelKnobs):
    """As a person writes them."""

    backbone: str | None
    """Name of a timm model; None takes the profile's."""
    pretrained: bool | str
    """False trains from scratch, True takes the weights from timm's hub, a path takes a local file."""


class ModelRecipe(ModelKnobs):
    """As the training runs them."""

    backbone: str
    """Name of a timm model."""
    pretrained: str
    """`none`, `hub` or `sha256:<digest of the weights file>`; a path would tie the recipe to one machine."""


class LossKnobs(Section):
    """The losses, the weights of their classes and of the tasks; docs/learning.md has the formulas."""

    clean_loss: Literal["cross_entropy", "focal"]
    focal_gamma: Number = Field(ge=0)
    """Of the focal loss: how much less an easy photo counts; 0 is the cross-entropy."""
    focal_alpha: list[Number] | None
    """Of the focal loss: weights of dirty and clean; None takes `class_weights`."""
    label_smoothing: Number = Field(ge=0, lt=1)
    """Share of a label's weight that is spread over all classes, in the cross-entropies."""
    regression_loss: Literal["smooth_l1", "mse", "bce"]
    """Of cleanliness and damage."""
    class_weights: Literal["none", "auto"] | dict[str, list[Number]]
    """`auto`: inverse frequency in the split train. Or lists, for `clean` (dirty, clean), `weather` (clear, rain, fog, snow) or both."""
    loss_weighting: Literal["fixed", "uncertainty"]
    """Whether `loss_weights` stay, or are where learnt ones begin."""
    loss_weights: dict[str, Number]
    """Weight of each task in the total loss."""
    damaged_below: Number = Field(gt=0, lt=1)
    """A photo known as damaged, but not how badly, costs as far as its damage score lies above this."""

    @field_validator("focal_alpha")
    @classmethod
    def _two_positive_weights(cls, alpha: list[float] | None) -> list[float] | None:
        if alpha is not None:
            _check_class_weights("clean", alpha)
        return alpha

    @field_validator("class_weights", mode="before")
    @classmethod
    def _known_classes(cls, weights: Any) -> Any:
        if weights in ("none", "auto"):
            return weights
        if not isinstance(weights, dict) or not weights:
            raise ValueError(f"has the value {weights!r}. Give none, auto, or lists: {{clean: [1.0, 2.0]}} for dirty and clean.")
        for task, values in weights.items():
            if task not in CLASS_COUNT:
                raise ValueError(f"'{task}' has no classes. {did_you_mean(str(task), CLASS_COUNT)}")
            _check_class_weights(task, values)
        return weights

    @field_validator("loss_weights")
    @classmethod
    def _known_tasks(cls, weights: dict[str, float]) -> dict[str, float]:
        for task, weight in weights.items():
            if task not in TASKS:
                raise ValueError(f"'{task}' is no task. {did_you_mean(task, TASKS)}")
            if weight < 0:
                raise ValueError(f"'{task}' has the weight {weight}. A weight is 0 or more.")
        missing = [task for task in TASKS if task not in weights]
        if missing:
            raise ValueError(f"has no weight for '{missing[0]}'. Give each task one.")
        return weights

    @model_validator(mode="after")
    def _clean_is_weighed_once(self) -> Self:
        if self.focal_alpha is not None and self.class_weights != "none":
            raise ValueError(
                f"focal_alpha {self.focal_alpha} and class_weights {self.class_weights!r} both weigh the classes of 'clean'. "
                "Set train.focal_alpha: null, or train.class_weights: none."
            )
        if self.focal_alpha is not None and self.clean_loss != "focal":
            raise ValueError(
                f"focal_alpha {self.focal_alpha} belongs to clean_loss: focal, and clean_loss is '{self.clean_loss}'. "
                f"Set train.focal_alpha: null, or train.class_weights: {{clean: {self.focal_alpha}}} instead."
            )
        return self


def _check_class_weights(task: str, values: Any) -> None:
    wanted = CLASS_COUNT[task]
    numeric = isinstance(values, list) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if not numeric or len(values) != wanted or not all(0 < value < math.inf for value in values):
        raise ValueError(f"has the value {values!r} for '{task}'. Give {wanted} numbers above 0.")
