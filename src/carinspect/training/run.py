"""Runs a whole training: checks everything before any process starts, trains in each process, and writes the outputs."""

import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import distributed

from carinspect.core.errors import UserError
from carinspect.core.files import sha256_of, write_bytes
from carinspect.core.questions import label_columns
from carinspect.core.seeds import derive_seed
from carinspect.core.tables import dataset_columns, read_table
from carinspect.images.pixel_cache import open_pixel_cache
from carinspect.model.backbones import build_pretrained, check_unchanged
from carinspect.model.checkpoint import Checkpoint, check_fits, load_checkpoint, save_checkpoint
from carinspect.model.network import CarInspectionNetwork, begin_with_probe
from carinspect.training.balance import training_priors
from carinspect.training.batches import Photos, labels_as_tensors
from carinspect.training.config import Recipe, TrackingParams
from carinspect.training.loop import Progress, Setting, train
from carinspect.training.pictures import draw_curves, write_augmentation_sheet
from carinspect.training.processes import connect, local_rank, meet
from carinspect.training.resume import clear_leftovers, code_revision, state_path
from carinspect.training.runtime import Machine
from carinspect.training.tracking import Tracker, check_tracking, open_sinks, run_folder


@dataclass(frozen=True)
class Job:
    """The inputs and output paths of one training."""

    recipe: Recipe
    machine: Machine
    root: Path
    """Data root that `image_path` in the table is relative to."""
    table: Path
    pretrained: bool | str | None
    """As in params.yaml. Only a path is used from it; the digest of the weights is in the recipe."""
    resume: Path | None
    """The checkpoint whose weights the training starts from; None: none."""
    probe: Path
    """models/probe.pt, with whose weights the heads of a pretrained network begin."""
    joins: bool
    """Whether this machine was started with --join, to help the run of another machine."""
    checkpoint: Path
    curves: Path
    curves_picture: Path
    augmentation_sheet: Path
    tracking: TrackingParams

    @property
    def state_file(self) -> Path:
        """Where the state of this run is saved."""
        probe = sha256_of(self.probe) if self.recipe.model.begins_with_probe else ""
        return state_path(self.recipe, data_revision=sha256_of(self.table) + probe)

    @property
    def lock_file(self) -> Path:
        """Locked by the launcher while this run is in progress."""
        return self.state_file.with_name(f".{self.state_file.stem}.lock")


def prepare(job: Job) -> None:
    """Check all inputs, decode the photos and draw the augmentation sheet, before any process starts. Raises `UserError`."""
    check_tracking(job.tracking)
    for split in ("train", "val"):
        photos = open_photos(job, split)
        for question in job.recipe.questions:
            if photos.labels[question.column].isnan().all():
                raise UserError(
                    f"{job.table}: no photo of the split '{split}' has a label for '{question.name}'. Take it out of questions."
                )
        if split == "train":
            # Raises UserError when the sampler has only one class to draw from.
            training_priors(job.recipe, photos.labels)
            if not job.joins:
                write_augmentation_sheet(photos, job.recipe, job.augmentation_sheet)
    build_network(job)


def open_photos(job: Job, split: str) -> Photos:
    """The photos and labels of one split; photos without a label for any question are left out. Raises `UserError` when none is left."""
    questions = job.recipe.questions
    table = read_table(job.table, columns=dataset_columns(questions), questions=questions)
    labelled = table[label_columns(questions)].notna().any(axis=1)
    table = table[(table["split"] == split) & labelled].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{job.table}: no photo of the split '{split}' has a label. Run dvc repro split.")
    paths = table["image_path"].tolist()
    pixels = open_pixel_cache(job.root, paths, table["sha256"].tolist(), side_px=job.recipe.train.image_side_px)
    return Photos(image_paths=paths, pixels=pixels, labels=labels_as_tensors(table, questions))


def build_network(job: Job) -> CarInspectionNetwork:
    """The network before training: random weights that depend only on the seed, pretrained ones and a probe's, or a checkpoint's."""
    torch.manual_seed(derive_seed(job.recipe.train.seed, "init"))
    recipe = job.recipe.model
    backbone = build_pretrained(recipe, job.pretrained, image_side_px=job.recipe.train.image_side_px)
    network = CarInspectionNetwork(recipe, job.recipe.questions, backbone=backbone)
    if recipe.begins_with_probe:
        begin_with_probe(network, job.probe)
    if (job.resume is None) != (job.recipe.train.resume == "none"):
        raise UserError(f"train.resume is '{job.resume}', and the recipe was made for another. Run dvc repro.")
    if job.resume:
        check_unchanged("train.resume", job.resume, job.recipe.train.resume)
        _load_weights(network, job.resume, job.recipe)
    return network


def _load_weights(network: CarInspectionNetwork, path: Path, recipe: Recipe) -> None:
    checkpoint = load_checkpoint(path)
    check_fits(checkpoint, recipe.model, recipe.questions, path=path)
    try:
        network.load_state_dict(checkpoint.weights)
    except RuntimeError:
        raise UserError(
            f"train.resume: '{path}' was trained at {checkpoint.image_side_px} px, and '{recipe.model.backbone}' takes weights of one "
            f"side only. Set train.image_side_px: {checkpoint.image_side_px}."
        ) from None


def run(job: Job) -> dict[str, Any]:
    """Train as one of torchrun's processes. The writer writes the outputs and returns the metrics; the others return {}."""
    _settle_arithmetic(job.machine)
    connect(job.machine.device)
    state_file = job.state_file
    try:
        peers = meet(run_key=state_file.stem, joins=job.joins)
        if peers.writes:
            clear_leftovers(state_file)
        folder = run_folder(job.recipe, key=state_file.stem)
        with Tracker(job.recipe.questions, partial(open_sinks, folder, job.tracking, job.recipe) if peers.writes else None) as tracker:
            setting = Setting(
                recipe=job.recipe,
                machine=job.machine,
                peers=peers,
                photos=open_photos(job, "train"),
                validation=open_photos(job, "val"),
                state_file=state_file,
                tracker=tracker,
            )
            progress = train(build_network(job), setting)
            if not peers.writes:
                return {}
            metrics = _write_outputs(job, progress)
            tracker.write_model(job.checkpoint, metrics)
            return metrics
    finally:
        distributed.destroy_process_group()


def _settle_arithmetic(machine: Machine) -> None:
    """Give each process its own GPU, and make sums repeatable."""
    if machine.device == "cuda":
        torch.cuda.set_device(local_rank())
        # Only a warning for an operation without a deterministic form: the chosen backbone may contain one.
        torch.use_deterministic_algorithms(True, warn_only=True)
    else:
        torch.set_num_threads(1)


def _write_outputs(job: Job, progress: Progress) -> dict[str, Any]:
    best = progress.history[progress.best_epoch - 1]
    lineage = {
        "recipe": job.recipe.model_dump(mode="json"),
        "data_revision": sha256_of(job.table),
        "code_revision": code_revision(),
        "best_epoch": progress.best_epoch,
        "val_score": progress.best_score,
        "priors": training_priors(job.recipe, open_photos(job, "train").labels),
    }
    model = Checkpoint(
        questions=job.recipe.questions,
        model=job.recipe.model,
        image_side_px=job.recipe.train.image_side_px,
        weights=progress.best_weights,
        lineage=lineage,
    )
    buffer = io.StringIO()
    pd.DataFrame(progress.history).to_csv(buffer, index=False, float_format="%.6f", lineterminator="\n")
    write_bytes(job.curves, buffer.getvalue().encode())
    draw_curves(progress.history, best_epoch=progress.best_epoch, path=job.curves_picture)
    save_checkpoint(model, job.checkpoint)
    skipped = sum(row["skipped_steps"] for row in progress.history)
    counted = {"epochs": progress.epochs_done, "best_epoch": progress.best_epoch, "skipped_steps": skipped}
    return counted | {name: value for name, value in best.items() if name not in ("epoch", "lr", "skipped_steps")}


def finish(job: Job) -> None:
    """Delete the state. Call it after every output is written."""
    job.state_file.unlink()
