"""Builds the optimiser: parameter groups, freezing of the backbone, and the learning-rate schedule."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from carinspect.model.network import CarInspectionNetwork
from carinspect.training.config import TrainRecipe
from carinspect.training.losses import QuestionWeights


def backbone_is_frozen(recipe: TrainRecipe, epoch: int) -> bool:
    """Whether only the new layers learn in `epoch`, counted from 0."""
    return recipe.backbone_lr_factor == 0 or epoch < recipe.freeze_backbone_epochs


def set_training_mode(network: CarInspectionNetwork, recipe: TrainRecipe, *, epoch: int) -> None:
    """Set training mode. A frozen backbone gets no gradients, and its batch-norm statistics do not change, nor with `freeze_norm`."""
    frozen = backbone_is_frozen(recipe, epoch)
    network.train()
    network.backbone.requires_grad_(not frozen)
    network.backbone.train(not frozen)
    for module in network.backbone.modules() if recipe.freeze_norm else ():
        if isinstance(module, _BatchNorm):
            module.eval()


def build_optimiser(network: CarInspectionNetwork, question_weights: QuestionWeights, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """AdamW or SGD over the backbone, the new layers and the learnt loss weights; `lr_scale` of a group is its factor of the learning rate.

    A backbone that is always frozen is left out. One that is frozen only in the first epochs is included; without gradients it is skipped.
    """
    groups = parameter_groups(network, recipe)
    learnt = list(question_weights.parameters())
    if learnt:
        groups.append({"params": learnt, "weight_decay": 0.0, "lr_scale": 1.0})
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    return torch.optim.AdamW(groups, lr=recipe.lr)


def parameter_groups(network: CarInspectionNetwork, recipe: TrainRecipe) -> list[dict[str, Any]]:
    """Groups by weight decay and by factor of the learning rate.

    Biases, normalisation layers and the parameters that the backbone lists in `no_weight_decay` have no weight decay. With `layer_decay`
    d, the backbone's layer k below its last learns at d^k times its rate; timm numbers the layers. Bao et al. (2022), "BEiT", appendix.
    """
    groups: list[dict[str, Any]] = []
    if recipe.backbone_lr_factor > 0:
        # timm skips parameters that are frozen now, but these may be trained in a later epoch.
        network.backbone.requires_grad_(True)
        undecayed: Any = getattr(network.backbone, "no_weight_decay", set)()
        if recipe.layer_decay < 1:
            groups += param_groups_layer_decay(
                network.backbone, weight_decay=recipe.weight_decay, no_weight_decay_list=undecayed, layer_decay=recipe.layer_decay
            )
        else:
            groups += param_groups_weight_decay(network.backbone, weight_decay=recipe.weight_decay, no_weight_decay_list=undecayed)
        for group in groups:
            group["lr_scale"] = group.get("lr_scale", 1.0) * recipe.backbone_lr_factor
    new_layers = nn.ModuleList([network.shared, network.heads])
    groups += [group | {"lr_scale": 1.0} for group in param_groups_weight_decay(new_layers, weight_decay=recipe.weight_decay)]
    return [group for group in groups if group["params"]]


def learning_rate(recipe: TrainRecipe, step: int, *, total_steps: int, val_scores: Sequence[float]) -> float:
    """The rate of `step`, counted from 0: a linear warm-up to `recipe.lr`, then the schedule.

    cosine: down to 0, Loshchilov and Hutter (2017), equation 5, one cycle. plateau: times `plateau_factor` for each plateau in
    `val_scores`, the scores of all earlier epochs. The rate depends on nothing else, so a resumed run gets the same one.
    """
    warmup_steps = round(total_steps * recipe.warmup_fraction)
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if recipe.schedule == "plateau":
        return recipe.lr * recipe.plateau_factor ** count_plateaus(val_scores, epochs=recipe.plateau_epochs) * warmup
    if step < warmup_steps:
        return recipe.lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))


def count_plateaus(scores: Sequence[float], *, epochs: int) -> int:
    """How many times `epochs` epochs in a row had no better score than the best before; counting restarts after each time."""
    best, waited, plateaus = -math.inf, 0, 0
    for score in scores:
        best, waited = (score, 0) if score > best else (best, waited + 1)
        if waited == epochs:
            plateaus, waited = plateaus + 1, 0
    return plateaus


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of `rate`."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]
