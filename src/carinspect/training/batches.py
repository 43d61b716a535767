"""Plans which photos form each step, and loads them. The plan depends only on (seed, epoch), not on workers, ranks or time.

An effective batch is cut into micro-batches of `norm_batch_size`; rank r of W takes its micro-batches r, r + W, r + 2W, …
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from carinspect.core.questions import Question
from carinspect.training.augment import Augmentation
from carinspect.training.balance import balanced_labels, draw_epoch
from carinspect.training.config import Recipe
from carinspect.training.runtime import Machine
from carinspect.training.weather import WeatherEffect, find_sky


@dataclass(frozen=True)
class Photos:
    """One split: its pre-resized photos and labels, in the order of the table."""

    image_paths: Sequence[str]
    pixels: np.ndarray
    """uint8 (photos, side, side, 3)."""
    labels: dict[str, torch.Tensor]
    """Each label column as float32 of shape (photos,), NaN where unknown."""

    def __len__(self) -> int:
        return len(self.image_paths)

    def labels_of(self, positions: np.ndarray) -> dict[str, torch.Tensor]:
        """The labels of the photos at `positions`."""
        return {column: values[torch.from_numpy(positions)] for column, values in self.labels.items()}

    def sky_labels(self, recipe: Recipe) -> list[float]:
        """Each photo's weather label; NaN where it is unknown or no question is about the weather."""
        question = find_sky(recipe.questions).question
        return [float("nan")] * len(self) if question is None else self.labels[question.column].tolist()

    def weather_at(self, position: int, recipe: Recipe, epoch: int) -> WeatherEffect | None:
        """The simulated weather of one photo in an epoch; None: none."""
        sky, train = find_sky(recipe.questions), recipe.train
        label = sky.label_of({column: float(values[position]) for column, values in self.labels.items()})
        return sky.effect(train.augment, seed=train.seed, epoch=epoch, image_path=self.image_paths[position], label=label)

    def in_epoch(self, recipe: Recipe, epoch: int) -> "Photos":
        """The same photos, with the weather labels changed by the epoch's simulated weather. Reads no pixels."""
        sky = find_sky(recipe.questions)
        if not recipe.train.augment.simulates_weather or sky.question is None:
            return self
        sure_from = recipe.train.augment.weather_sure_from
        seen = [
            sky.label_under(self.weather_at(position, recipe, epoch), label, sure_from=sure_from)
            for position, label in enumerate(self.sky_labels(recipe))
        ]
        return replace(self, labels=self.labels | {sky.question.column: torch.tensor(seen, dtype=torch.float32)})


def labels_as_tensors(table: pd.DataFrame, questions: Iterable[Question]) -> dict[str, torch.Tensor]:
    """Label columns as float32, NaN where unknown."""
    return {question.column: torch.tensor(table[question.column].to_numpy(dtype=np.float32)) for question in questions}


Draws = tuple[np.ndarray, np.ndarray]
"""Positions in the split, and for each how often that photo was drawn before in the epoch."""


@dataclass(frozen=True)
class Step:
    """The photos of one step of the optimiser: positions in the split, cut into micro-batches."""

    micro_batches: list[np.ndarray]
    turns: list[np.ndarray] = field(default_factory=list)
    """How often each photo was drawn before in the epoch, above 0 only with a sampler. The loader uses it."""

    @property
    def positions(self) -> np.ndarray:
        """All photos of the step."""
        return np.concatenate(self.micro_batches)

    @property
    def draws(self) -> list[Draws]:
        """What the loader needs of each micro-batch."""
        return list(zip(self.micro_batches, self.turns, strict=True))


def plan_epoch(recipe: Recipe, labels: dict[str, torch.Tensor], *, epoch: int) -> list[Step]:
    """Every step of an epoch. Photos left over after the last full batch are not used; they differ from epoch to epoch.

    `labels`: of the split, for `train.sampler`. Every epoch has the same number of steps.
    """
    order = draw_epoch(recipe, balanced=balanced_labels(recipe, labels), epoch=epoch)
    turns = pd.Series(order).groupby(order).cumcount().to_numpy()
    size = min(recipe.train.effective_batch_size, len(order))
    parts = -(-size // recipe.train.norm_batch_size)
    return [
        Step(np.array_split(order[start : start + size], parts), np.array_split(turns[start : start + size], parts))
        for start in range(0, len(order) - size + 1, size)
    ]


class _AugmentedPhotos(Dataset):
    def __init__(self, photos: Photos, recipe: Recipe) -> None:
        self.photos = photos
        self.sky_labels = photos.sky_labels(recipe)
        self.augmentation = Augmentation(recipe)

    def __getitems__(self, keys: list[tuple[int, int, int]]) -> torch.Tensor:
        photos = self.photos
        images = [
            self.augmentation(
                photos.pixels[position],
                epoch=epoch,
                image_path=photos.image_paths[position],
                sky_label=self.sky_labels[position],
                turn=turn,
            )
            for epoch, position, turn in keys
        ]
        return torch.from_numpy(np.stack(images))


class MicroBatchLoader:
    """Loads one rank's micro-batches, uint8 (micro-batch, side, side, 3), in order; its workers live for the whole training."""

    def __init__(self, photos: Photos, recipe: Recipe, machine: Machine) -> None:
        self._keys: list[list[tuple[int, int, int]]] = []
        self._loader = DataLoader(
            _AugmentedPhotos(photos, recipe),
            batch_sampler=self._keys,
            num_workers=machine.workers,
            collate_fn=_unchanged,
            pin_memory=machine.pin_memory,
            persistent_workers=machine.workers > 0,
        )

    def epoch(self, epoch: int, micro_batches: list[Draws]) -> Iterator[torch.Tensor]:
        """Iterate over the photos of `micro_batches`, augmented for `epoch`."""
        self._keys[:] = [[(epoch, int(position), int(turn)) for position, turn in zip(*draws, strict=True)] for draws in micro_batches]
        return iter(self._loader)


def _unchanged(batch: Any) -> Any:
    return batch
