"""The training loop, as each process runs it: epochs, validation, the best weights, and resuming an interrupted run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from carinspect.model.network import CarInspectionNetwork
from carinspect.training.balance import training_priors
from carinspect.training.batches import MicroBatchLoader, Photos, Step, plan_epoch
from carinspect.training.config import Recipe
from carinspect.training.losses import Objective
from carinspect.training.micro_batch import MicroBatch, compile_where_it_works, explain, first_size, remember, shrink_until_it_fits
from carinspect.training.norm_statistics import NormStatistics
from carinspect.training.optimiser import build_optimiser, learning_rate, set_learning_rate, set_training_mode
from carinspect.training.processes import Peers, share_bytes, smallest
from carinspect.training.resume import load_state, read_state, save_state
from carinspect.training.runtime import Machine
from carinspect.training.step import Share, Trainer, train_step
from carinspect.training.tracking import Tracker, group_rates
from carinspect.training.validation import predict_logits, skill_scores, undo_prior, validation_score


@dataclass
class Progress:
    """What a run has done so far, in plain values and tensors; all of it is saved in the state file."""

    epochs_done: int = 0
    steps_done: int = 0
    """Steps done in the current epoch, which follows `epochs_done`."""
    loss_sums: dict[str, float] = field(default_factory=dict)
    """Over the steps of the current epoch: the sum of each question's losses and of the total."""
    loss_counts: dict[str, int] = field(default_factory=dict)
    skipped_steps: int = 0
    """Steps of the current epoch that were dropped, because a loss or a gradient was not finite."""
    best_epoch: int = 0
    best_score: float = float("-inf")
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row an epoch: learning rate, mean training losses, dropped steps, validation skills and score."""

    def add_step(self, losses: dict[str, float] | None) -> None:
        """Count one step; None for a dropped one."""
        self.steps_done += 1
        self.skipped_steps += losses is None
        for name, loss in (losses or {}).items():
            self.loss_sums[name] = self.loss_sums.get(name, 0.0) + loss
            self.loss_counts[name] = self.loss_counts.get(name, 0) + 1

    def close_epoch(self, row: dict[str, Any]) -> None:
        """Add a row to the history and begin the next epoch."""
        self.history.append(row)
        self.epochs_done += 1
        self.steps_done, self.loss_sums, self.loss_counts, self.skipped_steps = 0, {}, {}, 0

    def mean_losses(self) -> dict[str, float]:
        """`train_loss_<question>` over the steps of this epoch."""
        return {f"train_loss_{name}": total / self.loss_counts[name] for name, total in self.loss_sums.items()}


@dataclass
class Learner:
    """The network, the optimiser and everything else whose state a resumed run needs."""

    network: CarInspectionNetwork
    averaged: ModelEmaV3
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    objective: Objective
    progress: Progress

    def state(self) -> dict[str, Any]:
        """Tensors and plain values. No random state: every random number depends only on the seed and the place in the plan."""
        return {name: part.state_dict() for name, part in self._parts().items()} | {"progress": vars(self.progress)}

    def restore(self, state: dict[str, Any]) -> None:
        """Load what `state` returned."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.progress = Progress(**state["progress"])

    def _parts(self) -> dict[str, Any]:
        return {
            "network": self.network, "averaged": self.averaged, "optimiser": self.optimiser, "scaler": self.scaler,
            "loss_weights": self.objective.weights,
        }  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """The fixed inputs of a training: recipe, machine, photos and files."""

    recipe: Recipe
    machine: Machine
    peers: Peers
    photos: Photos
    """The split train."""
    validation: Photos
    state_file: Path
    """Where the state is saved, and where the next run of the same training reads it."""
    tracker: Tracker


def train(network: CarInspectionNetwork, setting: Setting) -> Progress:
    """Train to the end of the recipe, starting from `state_file` if an interrupted run left one. Every rank returns the same."""
    recipe, machine, peers, photos, tracker = setting.recipe, setting.machine, setting.peers, setting.photos, setting.tracker
    learner = _build_learner(network, setting)
    _resume(learner, setting)
    trainer = _build_trainer(learner, setting)
    loader = MicroBatchLoader(photos, recipe, machine)
    priors = training_priors(recipe, photos.labels)
    _start_tracker(tracker, learner.progress, plan_epoch(recipe, photos.labels, epoch=0), epochs=recipe.train.epochs)

    while not is_finished(learner.progress, recipe):
        rate = _train_epoch(learner, trainer, loader, setting)

        # The averaged weights are validated, because they are the ones kept and exported. The class prior of training is undone first:
        # without that, balanced training would look badly calibrated.
        logits = undo_prior(recipe.questions, predict_logits(learner.averaged.module.eval(), setting.validation), priors)
        _close_epoch(learner, rate=rate, skills=skill_scores(recipe.questions, logits, setting.validation.labels))

        # Tracked before the state is saved: the sinks hide an epoch that is written twice, but an epoch never written would be lost.
        rates = group_rates(learner.optimiser)
        tracker.write_epoch(learner.progress.history[-1], rates=rates, val_logits=logits, val_labels=setting.validation.labels)
        if peers.writes:
            save_state(learner.state(), setting.state_file)
    return learner.progress


def _start_tracker(tracker: Tracker, progress: Progress, plan: list[Step], *, epochs: int) -> None:
    # All steps of a recipe have the same number of photos.
    photos_per_step, steps_done = len(plan[0].positions), progress.epochs_done * len(plan) + progress.steps_done
    tracker.start(
        epochs_done=progress.epochs_done, photos_done=steps_done * photos_per_step, photos_total=epochs * len(plan) * photos_per_step
    )


def is_finished(progress: Progress, recipe: Recipe) -> bool:
    """Whether all epochs are done, or `train.early_stop_epochs` in a row brought no better score."""
    patience = recipe.train.early_stop_epochs
    return progress.epochs_done >= recipe.train.epochs or bool(patience and progress.epochs_done - progress.best_epoch >= patience)


def own_parts(step: Step, peers: Peers) -> list[int]:
    """Indices of the micro-batches of `step` that this rank computes; each micro-batch is computed by exactly one rank."""
    return list(range(peers.rank, len(step.micro_batches), peers.world_size))


def _build_learner(network: CarInspectionNetwork, setting: Setting) -> Learner:
    train = setting.recipe.train
    device = torch.device("cuda", torch.cuda.current_device()) if setting.machine.device == "cuda" else torch.device("cpu")
    network.to(device)
    objective = Objective(setting.recipe, setting.photos.labels, device=device)
    return Learner(
        network=network,
        # With warm-up: without it the average would stay near the random initial weights for hundreds of steps.
        averaged=ModelEmaV3(network, decay=train.ema_decay, use_warmup=True),
        optimiser=build_optimiser(network, objective.weights, train),
        scaler=torch.amp.GradScaler(device.type, enabled=train.precision == "fp16"),
        objective=objective,
        progress=Progress(),
    )


def _resume(learner: Learner, setting: Setting) -> None:
    content = share_bytes(read_state(setting.state_file) if setting.peers.writes else None, setting.peers)
    if content is None:
        return
    learner.restore(load_state(content))
    if setting.peers.writes:
        done = learner.progress
        print(f"going on after epoch {done.epochs_done}, step {done.steps_done} of an interrupted run ({setting.state_file})", flush=True)


def _build_trainer(learner: Learner, setting: Setting) -> Trainer:
    """What the steps use: a micro-batch that fits into memory, and the network, compiled where that works."""
    network, recipe, machine, peers = learner.network, setting.recipe, setting.machine, setting.peers

    def tell(size: int) -> None:
        if peers.writes:
            print(explain(size, network, recipe), flush=True)
            remember(size, recipe, machine)

    micro_batch = MicroBatch(smallest(first_size(recipe, machine)), on_change=tell)
    # The mode of the last epoch, in which nothing is frozen: it needs most memory, so the trial must use it.
    set_training_mode(network, recipe.train, epoch=recipe.train.epochs)
    runner: nn.Module = network
    if machine.compile:
        runner = compile_where_it_works(network, recipe, size=micro_batch.size, peers=peers)
    if machine.micro_batch == "auto" and machine.device == "cuda":
        shrink_until_it_fits(runner, recipe, micro_batch)
    return Trainer(
        network=runner, optimiser=learner.optimiser, scaler=learner.scaler, objective=learner.objective, recipe=recipe,
        statistics=NormStatistics(network), micro_batch=micro_batch,
    )  # fmt: skip


def _train_epoch(learner: Learner, trainer: Trainer, loader: MicroBatchLoader, setting: Setting) -> float:
    """Train the rest of the current epoch of `learner`; returns the last learning rate."""
    recipe, peers, machine = setting.recipe, setting.peers, setting.machine
    progress, epoch = learner.progress, learner.progress.epochs_done

    # A resumed run plans the whole epoch again, which gives the same plan, and takes the steps that are left.
    plan = plan_epoch(recipe, setting.photos.labels, epoch=epoch)
    rest = plan[progress.steps_done :]
    labelled = setting.photos.in_epoch(recipe, epoch)
    set_training_mode(learner.network, recipe.train, epoch=epoch)
    batches = loader.epoch(epoch, [step.draws[part] for step in rest for part in own_parts(step, peers)])
    images = setting.tracker.show_first(batches, epoch)
    val_scores = [row["val_score"] for row in progress.history]

    for step in rest:
        # The learning rate depends only on the step's number and the scores so far, so a resumed run gets the same one.
        number = epoch * len(plan) + progress.steps_done
        rate = learning_rate(recipe.train, number, total_steps=recipe.train.epochs * len(plan), val_scores=val_scores)
        set_learning_rate(learner.optimiser, rate)

        # This rank's micro-batches; the exchange inside the step sums the gradients of all ranks.
        parts = own_parts(step, peers)
        losses = train_step(Share(trainer, labelled, step, number, parts, images=(next(images) for _ in parts)))
        # A dropped step did not change the weights, so there is nothing to average.
        if losses is not None:
            learner.averaged.update(learner.network, step=number)
        progress.add_step(losses)
        setting.tracker.advance(len(step.positions))

        # The state is also saved inside a long epoch. At the end of the epoch the caller saves it.
        due = machine.checkpoint_steps and progress.steps_done % machine.checkpoint_steps == 0
        if due and peers.writes and progress.steps_done < len(plan):
            save_state(learner.state(), setting.state_file)

    # Exhausts the iterator: the loader's workers stay alive and wait for the next epoch.
    next(images, None)
    return rate


def _close_epoch(learner: Learner, *, rate: float, skills: dict[str, float]) -> None:
    progress, score = learner.progress, validation_score(skills)
    row = {"epoch": progress.epochs_done + 1, "lr": rate} | progress.mean_losses() | {"skipped_steps": progress.skipped_steps}
    row |= {f"val_skill_{name}": skill for name, skill in skills.items()} | {"val_score": score}
    progress.close_epoch(row | learner.objective.weights.named_values())
    if score > progress.best_score:
        progress.best_epoch, progress.best_score = progress.epochs_done, score
        progress.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in learner.averaged.module.state_dict().items()}
