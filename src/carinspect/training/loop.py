"""Owns the training loop of one process among `world_size`: epochs, validation, the best weights, and starting again where it stopped."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import distributed, nn
from tqdm import tqdm

from carinspect.model.network import CarInspectionNetwork
from carinspect.training.balance import training_priors
from carinspect.training.batches import MicroBatchLoader, Photos, plan_epoch
from carinspect.training.config import Recipe
from carinspect.training.objective import Objective
from carinspect.training.optimiser import build_optimiser, learning_rate, set_learning_rate, set_training_mode
from carinspect.training.resume import load_state, save_state
from carinspect.training.runtime import Machine
from carinspect.training.step import NormStatistics, train_step
from carinspect.training.tracking import Tracker
from carinspect.training.validation import predict_logits, skill_scores, undo_prior, validation_score


@dataclass
class Progress:
    """What a run has so far; all of it goes into the state that survives a kill."""

    epochs_done: int = 0
    best_epoch: int = 0
    best_score: float = float("-inf")
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row an epoch: learning rate, mean training losses, validation skills and score."""


def train(
    network: CarInspectionNetwork,
    *,
    recipe: Recipe,
    machine: Machine,
    photos: Photos,
    validation: Photos,
    state_file: Path,
    tracker: Tracker,
) -> Progress:
    """Train to the end of the recipe, from `state_file` where an interrupted run left one. The same on every rank."""
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    device = torch.device("cuda", torch.cuda.current_device()) if machine.device == "cuda" else torch.device("cpu")
    network.to(device)
    objective = Objective(recipe, photos.labels, device=device)
    # Warmed up: the first steps would otherwise leave the average near the random weights for hundreds of steps.
    averaged = ModelEmaV3(network, decay=recipe.train.ema_decay, use_warmup=True)
    optimiser = build_optimiser(network, objective.task_weights, recipe.train)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.train.precision == "fp16")
    statistics = NormStatistics(network)
    priors = training_priors(recipe.train, photos.labels, tasks=objective.tasks)
    stateful: dict[str, Any] = {
        "network": network, "averaged": averaged, "optimiser": optimiser, "scaler": scaler, "task_weights": objective.task_weights,
    }  # fmt: skip
    progress = _resume(stateful, state_file, quiet=rank > 0)
    runner: nn.Module = torch.compile(network) if machine.compile else network  # type: ignore[assignment]
    loader = MicroBatchLoader(photos, recipe.train, machine)
    steps_per_epoch = len(plan_epoch(recipe.train, clean=photos.labels["clean"], epoch=0))
    total_steps = recipe.train.epochs * steps_per_epoch

    for epoch in range(progress.epochs_done, recipe.train.epochs):
        plan = plan_epoch(recipe.train, clean=photos.labels["clean"], epoch=epoch)
        set_training_mode(network, recipe.train, epoch=epoch)
        images = loader.epoch(epoch, [draws for step in plan for draws in step.draws[rank::world_size]])
        val_scores = [row["val_score"] for row in progress.history]
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        bar = tqdm(plan, desc=f"epoch {epoch + 1}/{recipe.train.epochs}", unit="step", leave=False, disable=True if rank else None)
        for index, step in enumerate(bar):
            number = epoch * steps_per_epoch + index
            rate = learning_rate(recipe.train, number, total_steps=total_steps, val_scores=val_scores)
            set_learning_rate(optimiser, rate)
            own_parts = list(range(rank, len(step.micro_batches), world_size))
            losses = train_step(
                runner, optimiser, scaler,
                recipe=recipe, objective=objective, photos=photos, step=step, step_number=number, own_parts=own_parts,
                images=(next(images) for _ in own_parts), statistics=statistics,
            )  # fmt: skip
            averaged.update(network, step=number)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss
                counts[name] = counts.get(name, 0) + 1
        # The loader's workers hand over what is left and wait for the next epoch.
        next(images, None)

        logits = undo_prior(predict_logits(averaged.module.eval(), validation), priors)
        skills = skill_scores(logits, validation.labels)
        score = validation_score(skills)
        row = {"epoch": epoch + 1, "lr": rate}
        row |= {f"train_loss_{name}": sums[name] / counts[name] for name in sums} | {f"val_skill_{task}": skills[task] for task in skills}
        progress.history.append(row | {"val_score": score} | objective.task_weights.named_values())
        progress.epochs_done = epoch + 1
        if score > progress.best_score:
            progress.best_epoch, progress.best_score = epoch + 1, score
            progress.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in averaged.module.state_dict().items()}
        if rank == 0:
            save_state({name: part.state_dict() for name, part in stateful.items()} | {"progress": vars(progress)}, state_file)
            tracker.write_epoch(progress.history[-1])
        patience = recipe.train.early_stop_epochs
        if patience and progress.epochs_done - progress.best_epoch >= patience:
            break
    return progress


def _resume(stateful: dict[str, Any], state_file: Path, *, quiet: bool) -> Progress:
    state = load_state(state_file)
    if state is None:
        return Progress()
    for name, part in stateful.items():
        part.load_state_dict(state[name])
    progress = Progress(**state["progress"])
    if not quiet:
        print(f"going on after epoch {progress.epochs_done} of an interrupted run ({state_file})")
    return progress
