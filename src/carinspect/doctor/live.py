"""Checks that do what a training does: one micro-batch through the recipe's network, and photos read from disk."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch

from carinspect.core.machine import usable_cores
from carinspect.core.questions import label_columns
from carinspect.doctor.connections import alone
from carinspect.doctor.finding import Finding
from carinspect.images.pixel_cache import load_photos
from carinspect.model.backbones import build_backbone
from carinspect.model.network import CarInspectionNetwork
from carinspect.training.batches import Photos, Step
from carinspect.training.config import Recipe
from carinspect.training.losses import Objective
from carinspect.training.micro_batch import MicroBatch, first_size
from carinspect.training.norm_statistics import NormStatistics
from carinspect.training.optimiser import build_optimiser, set_learning_rate, set_training_mode
from carinspect.training.runtime import Machine
from carinspect.training.step import Share, Trainer, train_step

PHOTOS_READ = 63
"""From one more on `load_photos` starts several processes; with these the rate is that of one core."""


def check_training(recipe: Recipe, machine: Machine) -> Finding:
    """One step of the recipe's network and objective on noise: builds, fits into memory, and gives a finite loss."""
    count = recipe.train.norm_batch_size
    with alone("gloo"), _one_thread():
        device = torch.device(machine.device)
        network = _build(recipe).to(device)
        set_training_mode(network, recipe.train, epoch=recipe.train.epochs)
        micro_batch = MicroBatch(first_size(recipe, machine), on_change=lambda _: None)
        start = time.perf_counter()
        losses = one_step(network, recipe, noise(recipe), micro_batch)
        duration_s = time.perf_counter() - start
    memory_bytes = torch.cuda.max_memory_allocated() if machine.device == "cuda" else psutil.Process().memory_info().rss
    value = f"{count} photos forward, backward and one step in {duration_s:.2f} s on {machine.device}, {memory_bytes / 2**30:.1f} GiB"
    if losses is None:
        return Finding("one batch", f"{value}: the step was dropped, as fp16 does until its scale fits")
    if micro_batch.size < min(count, first_size(recipe, machine)):
        fix = f"train.norm_batch_size: {micro_batch.size} has every machine normalise as many; or take a smaller image_side_px or backbone."
        return Finding("one batch", f"{value}; memory held only {micro_batch.size} photos at a time", "warn", fix)
    return Finding("one batch", f"{value}, loss {losses['total']:.3f}")


def _build(recipe: Recipe) -> CarInspectionNetwork:
    """With random weights, so that the check needs no weights file and no download."""
    backbone = build_backbone(recipe.model.backbone, image_side_px=recipe.train.image_side_px)
    return CarInspectionNetwork(recipe.model, recipe.questions, backbone=backbone)


def noise(recipe: Recipe) -> Photos:
    """A micro-batch of random pixels and random labels."""
    count, side = recipe.train.norm_batch_size, recipe.train.image_side_px
    random = np.random.default_rng(0)
    labels = {column: torch.from_numpy(random.random(count, np.float32).round()) for column in label_columns(recipe.questions)}
    return Photos([f"{place}" for place in range(count)], random.integers(0, 256, (count, side, side, 3), np.uint8), labels)


def one_step(network: CarInspectionNetwork, recipe: Recipe, photos: Photos, micro_batch: MicroBatch) -> dict[str, float] | None:
    """One step of the optimiser on all of `photos`; the loss of each question, or None where the step was dropped."""
    device = next(network.parameters()).device
    objective = Objective(recipe, photos.labels, device=device)
    optimiser = build_optimiser(network, objective.weights, recipe.train)
    set_learning_rate(optimiser, recipe.train.lr)
    trainer = Trainer(
        network=network, optimiser=optimiser, scaler=torch.amp.GradScaler(device.type, enabled=recipe.train.precision == "fp16"),
        objective=objective, recipe=recipe, statistics=NormStatistics(network), micro_batch=micro_batch,
    )  # fmt: skip
    places = np.arange(len(photos))
    step = Step([places], [np.zeros_like(places)])
    return train_step(Share(trainer, photos, step, number=0, own_parts=[0], images=iter([torch.from_numpy(photos.pixels)])))


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread, as in a training process; restores the number of threads and the random states at the end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(threads)


def check_photos(table: Path, root: Path, *, side_px: int) -> Finding:
    """Reads photos spread over the table, as training does. Training stores the resized photos, so it takes this time only once."""
    if not table.is_file():
        return Finding("photos", f"{table} is not there yet: dvc repro split makes it")
    names = pd.read_csv(table, usecols=["image_path"])["image_path"].tolist()
    chosen = names[:: max(1, len(names) // PHOTOS_READ)][:PHOTOS_READ]
    start = time.perf_counter()
    count = sum(1 for _ in load_photos(root, chosen, side_px=side_px))
    rate = count / (time.perf_counter() - start)
    return Finding(
        "photos",
        f"{rate:,.0f} photos/s read and resized on one core; {len(names):,} take about {len(names) / rate / usable_cores():,.0f} s, once",
    )
