"""Owns the trial passes before the first step: whether the network compiles, and how many photos fit into memory."""

import torch
from torch import nn

from carinspect.core.errors import one_line
from carinspect.training.config import Precision, Recipe
from carinspect.training.micro_batch import MicroBatch
from carinspect.training.norm_statistics import NormStatistics
from carinspect.training.processes import Peers, any_of

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
