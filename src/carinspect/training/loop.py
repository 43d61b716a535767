"""Owns the training loop of one process among many: epochs, validation, the best weights, and starting again where it stopped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from carinspect.model.network import CarInspectionNetwork
from carinspect.training.balance import training_priors
from carinspect.training.batches import MicroBatchLoader, Photos, Step, plan_epoch
from carinspect.training.config import Recipe
from carinspect.training.micro_batch import MicroBatch, explain, first_size, remember
from carinspect.training.norm_statistics import NormStatistics
from carinspect.training.objective import Objective
from carinspect.training.optimiser import build_optimiser, learning_rate, set_learning_rate, set_training_mode
from carinspect.training.processes import Peers, share_bytes, smallest
from carinspect.training.progress import Progress
from carinspect.training.resume import load_state, read_state, save_state
from carinspect.training.runtime import Machine
from carinspect.training.step import train_step
from carinspect.training.tracking import Tracker, group_rates
from carinspect.training.trial import compile_where_it_works, shrink_until_it_fits
from carinspect.training.validation import predict_logits, skill_scores, undo_prior, validation_score


@dataclass
class Learner:
    """What learns, and all that has a state."""

    network: CarInspectionNetwork
    averaged: ModelEmaV3
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    objective: Objective
    progress: Progress

    def state(self) -> dict[str, Any]:
        """Tensors and plain values; nothing random, for every draw follows from the place in the plan."""
        return {name: part.state_dict() for name, part in self._parts().items()} | {"progress": vars(self.progress)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.progress = Progress(**state["progress"])

    def _parts(self) -> dict[str, Any]:
        return {
            "network": self.network, "averaged": self.averaged, "optimiser": self.optimiser, "scaler": self.scaler,
            "task_weights": self.objective.task_weights,
        }  # fmt: skip


def train(
    network: CarInspectionNetwork,
    *,
    recipe: Recipe,
    machine: Machine,
    peers: Peers,
    photos: Photos,
    validation: Photos,
    state_file: Path,
    tracker: Tracker,
) -> Progress:
    """Train to the end of the recipe, from `state_file` where an interrupted run left one. The same on every rank."""
    learner = _build_learner(network, recipe=recipe, machine=machine, photos=photos)
    _resume(learner, state_file, peers=peers)
    micro_batch = _settle_micro_batch(network, recipe, machine, peers)
    # Everything has its gradients here, as in the epochs that need most memory.
    set_training_mode(network, recipe.train, epoch=recipe.train.epochs)
    runner: nn.Module = network
    if machine.compile:
        runner = compile_where_it_works(network, recipe, size=micro_batch.size, peers=peers)
    if machine.micro_batch == "auto" and machine.device == "cuda":
        shrink_until_it_fits(runner, recipe, micro_batch)
    loader = MicroBatchLoader(photos, recipe.train, machine)
    priors = training_priors(recipe.train, photos.labels, tasks=learner.objective.tasks)
    _start_tracker(tracker, learner.progress, plan_epoch(recipe.train, clean=photos.labels["clean"], epoch=0), epochs=recipe.train.epochs)

    while not is_finished(learner.progress, recipe):
        rate = _train_epoch(
            learner, runner, loader,
            recipe=recipe, machine=machine, peers=peers, photos=photos, micro_batch=micro_batch, state_file=state_file, tracker=tracker,
        )  # fmt: skip
        logits = undo_prior(predict_logits(learner.averaged.module.eval(), validation), priors)
        _close_epoch(learner, rate=rate, skills=skill_scores(logits, validation.labels))
        # Before the state is kept: an epoch shown twice is hidden again by the sinks, an epoch never shown would stay lost.
        rates = group_rates(learner.optimiser)
        tracker.write_epoch(learner.progress.history[-1], rates=rates, val_logits=logits, val_labels=validation.labels)
        if peers.writes:
            save_state(learner.state(), state_file)
    return learner.progress


def _start_tracker(tracker: Tracker, progress: Progress, plan: list[Step], *, epochs: int) -> None:
    # All steps of a recipe have as many photos.
    photos_per_step, steps_done = len(plan[0].positions), progress.epochs_done * len(plan) + progress.steps_done
    tracker.start(
        epochs_done=progress.epochs_done, photos_done=steps_done * photos_per_step, photos_total=epochs * len(plan) * photos_per_step
    )


def is_finished(progress: Progress, recipe: Recipe) -> bool:
    """Whether all epochs are done, or so many brought nothing better that the recipe stops early."""
    patience = recipe.train.early_stop_epochs
    return progress.epochs_done >= recipe.train.epochs or bool(patience and progress.epochs_done - progress.best_epoch >= patience)


def own_parts(step: Step, peers: Peers) -> list[int]:
    """The micro-batches of `step` that this rank computes: each is computed by one."""
    return list(range(peers.rank, len(step.micro_batches), peers.world_size))


def _build_learner(network: CarInspectionNetwork, *, recipe: Recipe, machine: Machine, photos: Photos) -> Learner:
    device = torch.device("cuda", torch.cuda.current_device()) if machine.device == "cuda" else torch.device("cpu")
    network.to(device)
    objective = Objective(recipe, photos.labels, device=device)
    return Learner(
        network=network,
        # Warmed up: the first steps would otherwise leave the average near the random weights for hundreds of steps.
        averaged=ModelEmaV3(network, decay=recipe.train.ema_decay, use_warmup=True),
        optimiser=build_optimiser(network, objective.task_weights, recipe.train),
        scaler=torch.amp.GradScaler(device.type, enabled=recipe.train.precision == "fp16"),
        objective=objective,
        progress=Progress(),
    )


def _resume(learner: Learner, state_file: Path, *, peers: Peers) -> None:
    content = share_bytes(read_state(state_file) if peers.writes else None, peers)
    if content is None:
        return
    learner.restore(load_state(content))
    if peers.writes:
        done = learner.progress
        print(f"going on after epoch {done.epochs_done}, step {done.steps_done} of an interrupted run ({state_file})", flush=True)


def _settle_micro_batch(network: nn.Module, recipe: Recipe, machine: Machine, peers: Peers) -> MicroBatch:
    def tell(size: int) -> None:
        if peers.writes:
            print(explain(size, network, recipe), flush=True)
            remember(size, recipe, machine)

    return MicroBatch(smallest(first_size(recipe, machine)), on_change=tell)


def _train_epoch(
    learner: Learner,
    runner: nn.Module,
    loader: MicroBatchLoader,
    *,
    recipe: Recipe,
    machine: Machine,
    peers: Peers,
    photos: Photos,
    micro_batch: MicroBatch,
    state_file: Path,
    tracker: Tracker,
) -> float:
    """The rest of the epoch in which `learner` stands; returns the last learning rate."""
    progress, epoch = learner.progress, learner.progress.epochs_done
    plan = plan_epoch(recipe.train, clean=photos.labels["clean"], epoch=epoch)
    rest = plan[progress.steps_done :]
    labelled = photos.in_epoch(recipe.train, epoch)
    set_training_mode(learner.network, recipe.train, epoch=epoch)
    statistics = NormStatistics(learner.network)
    images = tracker.show_first(loader.epoch(epoch, [step.draws[part] for step in rest for part in own_parts(step, peers)]), epoch)
    val_scores = [row["val_score"] for row in progress.history]
    for step in rest:
        number = epoch * len(plan) + progress.steps_done
        rate = learning_rate(recipe.train, number, total_steps=recipe.train.epochs * len(plan), val_scores=val_scores)
        set_learning_rate(learner.optimiser, rate)
        parts = own_parts(step, peers)
        losses = train_step(
            runner, learner.optimiser, learner.scaler,
            recipe=recipe, objective=learner.objective, photos=labelled, step=step, step_number=number, own_parts=parts,
            images=(next(images) for _ in parts), statistics=statistics, micro_batch=micro_batch,
        )  # fmt: skip
        if losses is not None:
            learner.averaged.update(learner.network, step=number)
        progress.add_step(losses)
        tracker.advance(len(step.positions))
        due = machine.checkpoint_steps and progress.steps_done % machine.checkpoint_steps == 0
        if due and peers.writes and progress.steps_done < len(plan):
            save_state(learner.state(), state_file)
    # The loader's workers hand over what is left and wait for the next epoch.
    next(images, None)
    return rate


def _close_epoch(learner: Learner, *, rate: float, skills: dict[str, float]) -> None:
    progress, score = learner.progress, validation_score(skills)
    row = {"epoch": progress.epochs_done + 1, "lr": rate} | progress.mean_losses() | {"skipped_steps": progress.skipped_steps}
    row |= {f"val_skill_{task}": skill for task, skill in skills.items()} | {"val_score": score}
    progress.close_epoch(row | learner.objective.task_weights.named_values())
    if score > progress.best_score:
        progress.best_epoch, progress.best_score = progress.epochs_done, score
        progress.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in learner.averaged.module.state_dict().items()}
