"""The micro-batch size: how many photos fit into memory in one pass, found by trial passes and remembered for each machine."""

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
    """The current size of a micro-batch; it can only decrease."""

    size: int
    on_change: Callable[[int], None]
    """Called with each new size."""

    def cut(self, photo_count: int) -> list[slice]:
        """Cut `photo_count` photos into as few pieces as possible, nearly equal and none larger than `size`."""
        ends = np.cumsum([len(piece) for piece in np.array_split(np.arange(photo_count), -(-photo_count // self.size))]).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def halve(self) -> None:
        """Halve the size after memory ran out. Raises `UserError` when even one photo does not fit."""
        if self.size == 1:
            raise UserError(
                "out of memory with a single photo at a time. Set a smaller train.image_side_px or model.backbone, "
                "or stop the other programs that use the GPU."
            )
        self.size //= 2
        self.on_change(self.size)


def memory_file() -> Path:
    """The file of the remembered sizes. It may be deleted."""
    return cache_folder() / "micro_batch.json"


def recall(recipe: Recipe, machine: Machine) -> int | None:
    """The size found by an earlier run for this kind of device and network; None when none is stored."""
    path = memory_file()
    known = json.loads(path.read_text()) if path.is_file() else {}
    return known.get(_key(recipe, machine))


def remember(size: int, recipe: Recipe, machine: Machine) -> None:
    """Store `size` for the next run."""
    path = memory_file()
    known = json.loads(path.read_text()) if path.is_file() else {}
    write_json(path, known | {_key(recipe, machine): size})


def _key(recipe: Recipe, machine: Machine) -> str:
    device = torch.cuda.get_device_name() if machine.device == "cuda" else "cpu"
    return f"{device}, {recipe.model.backbone}, {recipe.train.image_side_px} px, {recipe.train.precision}"


def first_size(recipe: Recipe, machine: Machine) -> int:
    """The size with which this machine starts."""
    whole = recipe.train.norm_batch_size
    match machine.micro_batch:
        case "norm":
            return whole
        case "auto":
            return min(whole, recall(recipe, machine) or whole)
        case size:
            return min(whole, size)


def explain(size: int, network: nn.Module, recipe: Recipe) -> str:
    """A message about what the smaller size changes."""
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
    """The context that runs the forward pass in `precision`."""
    return torch.autocast(device.type, dtype=AUTOCAST.get(precision), enabled=precision in AUTOCAST)


def compile_where_it_works(network: nn.Module, recipe: Recipe, *, size: int, peers: Peers) -> nn.Module:
    """`network` compiled by torch.compile, or `network` itself, with one message, when compiling fails on any process."""
    compiled: nn.Module = torch.compile(network)  # type: ignore[assignment]
    problem = ""
    try:
        _pass(compiled, recipe, size=size)
    except torch.OutOfMemoryError:
        problem = ""  # it compiled; the size that fits is found later
    except Exception as error:  # each backend raises its own errors: for a missing compiler, for an unknown operation
        problem = f"{type(error).__name__}: {one_line(error)}"
    _forget(network)
    if not any_of(bool(problem)):
        return compiled
    if peers.writes:
        print(f"torch.compile does not work here, going on without ({problem or 'on another process'}). runtime.compile: false skips it.")
    torch.compiler.reset()
    return network


def shrink_until_it_fits(network: nn.Module, recipe: Recipe, micro_batch: MicroBatch) -> None:
    """Halve `micro_batch` until a pass fits into memory on every process, together with the state of the optimiser."""
    while any_of(not _fits(network, recipe, size=micro_batch.size)):
        _forget(network)
        micro_batch.halve()
    _forget(network)


def _fits(network: nn.Module, recipe: Recipe, *, size: int) -> bool:
    weights = sum(parameter.numel() for parameter in network.parameters())
    try:
        # Space for the optimiser's two moments and for the flat copy of the gradients that ranks exchange.
        reserved = torch.empty(3 * weights, device=next(network.parameters()).device)
        _pass(network, recipe, size=size)
        del reserved
    except torch.OutOfMemoryError:
        return False
    return True


def _pass(network: nn.Module, recipe: Recipe, *, size: int) -> None:
    """Forward and backward over `size` black photos, without a change of the batch-norm statistics."""
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
    # Called outside the except block: its traceback refers to every tensor of the failed pass.
    network.zero_grad(set_to_none=True)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
