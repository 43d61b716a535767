"""Owns the optimiser's parameter groups and the learning-rate schedule."""

import math

import torch
from torch import nn

from carinspect.model.network import CarInspectionNetwork
from carinspect.training.config import TrainRecipe


def freeze_backbone(network: CarInspectionNetwork) -> None:
    """Keep the backbone as it is: no gradients, and batch-norm statistics that stay."""
    network.backbone.requires_grad_(False)
    network.backbone.eval()


def build_optimiser(network: CarInspectionNetwork, recipe: TrainRecipe) -> torch.optim.AdamW:
    """AdamW over up to four groups: backbone or new layers, with weight decay or without. `lr_scale` is each group's own factor."""
    groups = []
    for part, lr_scale in ((network.backbone, recipe.backbone_lr_factor), (nn.ModuleList([network.shared, network.heads]), 1.0)):
        parameters = [parameter for parameter in part.parameters() if parameter.requires_grad]
        # One-dimensional parameters are biases and the scales of normalisation layers.
        for is_matrix, decay in ((True, recipe.weight_decay), (False, 0.0)):
            members = [parameter for parameter in parameters if (parameter.ndim > 1) == is_matrix]
            if members:
                groups.append({"params": members, "weight_decay": decay, "lr_scale": lr_scale})
    return torch.optim.AdamW(groups, lr=recipe.lr)


def learning_rate(step: int, *, total_steps: int, peak: float, warmup_fraction: float) -> float:
    """Linear warm-up to `peak`, then a cosine to 0 (Loshchilov and Hutter 2017, eq. 5, one cycle); `step` counts from 0."""
    warmup_steps = round(total_steps * warmup_fraction)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of `rate`."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]
