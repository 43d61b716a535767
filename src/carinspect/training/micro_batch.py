"""How many photos go through the network at once: fewer where memory is short, remembered for the machine; and trial passes to find out."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from carinspect.core.errors import UserError, one_line
from carinspect.core.files import write_json
from carinspect.images.pixel_cache import cache_folder
from carinspect.training.config import Precision, Recipe
from carinspect.training.norm_statistics import NormStatistics
from carinspect.training.processes import Peers, any_of
from carinspect.training.runtime import Machine


@dataclass
class MicroBatch:
    """The size, which only falls."""

    size: int
    on_change: Callable[[int], None]
    """Called with each new size."""

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


# ---- trial passes before the first step


AUTOCAST: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The arithmetic of the forward pass."""
    return torch.autocast(device.type, dtype=AUTOCAST.get(precision), enabled=precision in AUTOCAST)


def compile_where_it_works(network: nn.Module, recipe: Recipe, *, size: int, peers: Peers) -> nn.Module:
    """torch.compile'd `network`, or `network` itself, told once, where that fails on any process."""
    compiled: nn.Module = torch.compile(network)  # type: ignore[assignment]
    problem = ""
    try:
        _pass(compiled, recipe, size=size)
    except torch.OutOfMemoryError:
        problem = ""  # it compiled; how many photos fit is asked for next
    except Exception as error:  # a missing compiler, an operation it does not know: each backend has errors of its own
        problem = f"{type(error).__name__}: {one_line(error)}"
    _forget(network)
    if not any_of(bool(problem)):
        return compiled
    if peers.writes:
        print(f"torch.compile does not work here, going on without ({problem or 'on another process'}). runtime.compile: false skips it.")
    torch.compiler.reset()
    return network


def shrink_until_it_fits(network: nn.Module, recipe: Recipe, micro_batch: MicroBatch) -> None:
    """Halve `micro_batch` until a pass over that many photos fits on every process, beside what the optimiser will hold."""
    while any_of(not _fits(network, recipe, size=micro_batch.size)):
        _forget(network)
        micro_batch.halve()
    _forget(network)


def _fits(network: nn.Module, recipe: Recipe, *, size: int) -> bool:
    weights = sum(parameter.numel() for parameter in network.parameters())
    try:
        # Two moments of the optimiser, and the flat copy in which gradients travel.
        reserved = torch.empty(3 * weights, device=next(network.parameters()).device)
        _pass(network, recipe, size=size)
        del reserved
    except torch.OutOfMemoryError:
        return False
    return True


def _pass(network: nn.Module, recipe: Recipe, *, size: int) -> None:
    """Forward and backward over `size` black photos; batch-norm statistics stay as they are."""
    device = next(network.parameters()).device
    statistics = NormStatistics(network)
    before = statistics.values()
    side = recipe.train.image_side_px
    try:
        with autocast(device, recipe.train.precision):
            logits = network(torch.zeros((size, side, side, 3), dtype=torch.uint8, device=device))
        torch.stack([values.sum() for values in logits.values()]).sum().backward()
    finally:
        statistics.restore(before)


def _forget(network: nn.Module) -> None:
    # Outside the except block, whose traceback holds on to every tensor of the failed pass.
    network.zero_grad(set_to_none=True)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
