"""Owns which photos meet at which step, and loading them. A function of (seed, epoch) alone: no worker, rank or clock has a say.

An effective batch is cut into micro-batches of `norm_batch_size`; rank r of W takes micro-batches r, r + W, r + 2W, … of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from carinspect.core.tables import LABEL_COLUMNS
from carinspect.training.augment import Augmentation
from carinspect.training.balance import draw_epoch
from carinspect.training.config import TrainRecipe
from carinspect.training.runtime import Machine
from carinspect.training.weather import WeatherEffect, label_under, weather_effect


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

    def weather_at(self, position: int, recipe: TrainRecipe, epoch: int) -> WeatherEffect | None:
        """The simulated weather of one photo in an epoch."""
        label = float(self.labels["weather_condition"][position])
        return weather_effect(recipe.augment, seed=recipe.seed, epoch=epoch, image_path=self.image_paths[position], label=label)

    def in_epoch(self, recipe: TrainRecipe, epoch: int) -> "Photos":
        """The same photos with the labels that the epoch's simulated weather leaves true; known without looking at a pixel."""
        if not recipe.augment.simulates_weather:
            return self
        seen = [
            label_under(self.weather_at(position, recipe, epoch), label, sure_from=recipe.augment.weather_sure_from)
            for position, label in enumerate(self.labels["weather_condition"].tolist())
        ]
        return replace(self, labels=self.labels | {"weather_condition": torch.tensor(seen, dtype=torch.float32)})


def labels_as_tensors(table: pd.DataFrame) -> dict[str, torch.Tensor]:
    """Label columns as float32, NaN where unknown."""
    return {column: torch.tensor(table[column].to_numpy(dtype=np.float32)) for column in LABEL_COLUMNS}


Draws = tuple[np.ndarray, np.ndarray]
"""Positions in the split, and the turn of each: 0 where a photo comes up for the first time in the epoch."""


@dataclass(frozen=True)
class Step:
    """The photos behind one step of the optimiser: positions in the split, cut into micro-batches."""

    micro_batches: list[np.ndarray]
    turns: list[np.ndarray] = field(default_factory=list)
    """How often each of these photos came up before in the epoch, above 0 only under a sampler; for the loader."""

    @property
    def positions(self) -> np.ndarray:
        """All photos of the step."""
        return np.concatenate(self.micro_batches)

    @property
    def draws(self) -> list[Draws]:
        """What the loader needs of each micro-batch."""
        return list(zip(self.micro_batches, self.turns, strict=True))


def plan_epoch(recipe: TrainRecipe, *, clean: torch.Tensor, epoch: int) -> list[Step]:
    """Every step of an epoch, without the remainder that would not fill a batch (another one each epoch).

    `clean`: the labels that `train.sampler` balances, shape (photos,). Each epoch has the same number of steps.
    """
    order = draw_epoch(recipe, clean=clean, epoch=epoch)
    turns = pd.Series(order).groupby(order).cumcount().to_numpy()
    size = min(recipe.effective_batch_size, len(order))
    parts = -(-size // recipe.norm_batch_size)
    return [
        Step(np.array_split(order[start : start + size], parts), np.array_split(turns[start : start + size], parts))
        for start in range(0, len(order) - size + 1, size)
    ]


class _AugmentedPhotos(Dataset):
    def __init__(self, photos: Photos, recipe: TrainRecipe) -> None:
        self.photos = photos
        self.weather = photos.labels["weather_condition"].tolist()
        self.augmentation = Augmentation(recipe)

    def __getitems__(self, keys: list[tuple[int, int, int]]) -> torch.Tensor:
        photos = self.photos
        images = [
            self.augmentation(
                photos.pixels[position],
                epoch=epoch,
                image_path=photos.image_paths[position],
                weather_label=self.weather[position],
                turn=turn,
            )
            for epoch, position, turn in keys
        ]
        return torch.from_numpy(np.stack(images))


class MicroBatchLoader:
    """Yields one rank's micro-batches of the epoch set last, uint8 (micro-batch, side, side, 3), in order."""

    def __init__(self, photos: Photos, recipe: TrainRecipe, machine: Machine) -> None:
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
        """The photos of `micro_batches` as `epoch` sees them."""
        self._keys[:] = [[(epoch, int(position), int(turn)) for position, turn in zip(*draws, strict=True)] for draws in micro_batches]
        return iter(self._loader)


def _unchanged(batch: Any) -> Any:
    return batch
