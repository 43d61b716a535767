"""Owns how many photos go through the network at once: fewer where memory is short, remembered for the machine."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from carinspect.core.errors import UserError
from carinspect.core.files import write_json
from carinspect.images.store import cache_folder
from carinspect.training.config import Recipe
from carinspect.training.runtime import Machine


@dataclass
class MicroBatch:
    """The size, which only falls."""

    size: int
    on_change: Callable[[int], None]
    """Is told each new size."""

    def cut(self, photo_count: int) -> list[slice]:
        """The fewest nearly equal pieces of `photo_count` photos that are no larger than the size."""
        ends = np.cumsum([len(piece) for piece in np.array_split(np.arange(photo_count), -(-photo_count // self.size))]).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def halve(self) -> None:
        """After memory ran out. Raises `UserError` when one photo is too much."""
        if self.size == 1:
            raise UserError(
                "out of memory with a single photo at a time. Set a smaller train.image_side_px or model.backbone, "
                "or end what else uses the card."
            )
        self.size //= 2
        self.on_change(self.size)


def memory_file() -> Path:
    """Where the sizes that were found are kept; deleting it forgets them."""
    return cache_folder() / "micro_batch.json"


def recall(recipe: Recipe, machine: Machine) -> int | None:
    """The size that was found for this kind of device and network, None when there was no need to."""
    path = memory_file()
    known = json.loads(path.read_text()) if path.is_file() else {}
    return known.get(_key(recipe, machine))


def remember(size: int, recipe: Recipe, machine: Machine) -> None:
    """Keep `size` for the next run."""
    path = memory_file()
    known = json.loads(path.read_text()) if path.is_file() else {}
    write_json(path, known | {_key(recipe, machine): size})


def _key(recipe: Recipe, machine: Machine) -> str:
    device = torch.cuda.get_device_name() if machine.device == "cuda" else "cpu"
    return f"{device}, {recipe.model.backbone}, {recipe.train.image_side_px} px, {recipe.train.precision}"


def first_size(recipe: Recipe, machine: Machine) -> int:
    """What this machine begins with."""
    whole = recipe.train.norm_batch_size
    match machine.micro_batch:
        case "norm":
            return whole
        case "auto":
            return min(whole, recall(recipe, machine) or whole)
        case size:
            return min(whole, size)


def explain(size: int, network: nn.Module, recipe: Recipe) -> str:
    """What a smaller size means, for a person."""
    whole, effective = recipe.train.norm_batch_size, recipe.train.effective_batch_size
    text = f"out of memory: going on with {size} photos at a time; the effective batch stays {effective}."
    if any(isinstance(module, _BatchNorm) for module in network.modules()):
        text += (
            f" Batch normalisation now sees {size} photos together instead of {whole}, which changes the result a little: "
            f"train.norm_batch_size: {size} makes every machine do the same."
        )
    return text
