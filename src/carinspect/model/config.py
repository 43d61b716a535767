"""Owns the `model` section of params.yaml."""

from typing import Any

from pydantic import Field, field_validator

from carinspect.core.errors import did_you_mean
from carinspect.core.params import Number, Section
from carinspect.core.tasks import TASKS, Task


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
