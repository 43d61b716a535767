"""Saves and loads models/best.pt: the trained weights and the recipe, as plain values, so that loading runs no code."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from carinspect.core.errors import UserError, one_line
from carinspect.core.files import write_bytes
from carinspect.core.params import parse_section
from carinspect.core.questions import Question, dump_questions, parse_questions
from carinspect.images.decode import RESIZE_CONTRACT
from carinspect.model.backbones import build_backbone
from carinspect.model.config import ModelRecipe
from carinspect.model.network import CarInspectionNetwork

FORMAT = 4


def save_fit(fit: Any, path: Path, *, version: int) -> None:
    """Write a dataclass of plain values and tensors atomically; None: there is none."""
    write_bytes(path, to_bytes({"format": version, "fit": None if fit is None else vars(fit)}))


def load_fit(path: Path, *, version: int, stage: str) -> dict[str, Any] | None:
    """The fields that `save_fit` wrote. Raises `UserError` when the file is missing or has another format; stage: what makes it."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. Make it: dvc repro {stage}.")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["format"] != version:
        raise UserError(f"{path}: has the format {content['format']}, this code {version}. Make it again: dvc repro --force {stage}.")
    found: dict[str, Any] | None = content["fit"]
    return found


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and its origin."""

    questions: tuple[Question, ...]
    model: ModelRecipe
    image_side_px: int
    weights: dict[str, torch.Tensor]
    lineage: dict[str, Any]
    """Recipe, data and code revision, epoch and validation score, class priors (`model.calibration`); plain values."""


def to_bytes(content: dict[str, Any]) -> bytes:
    """The bytes of `torch.save`. A buffer is used, because the bytes would depend on the name of a file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write the checkpoint atomically."""
    content = {
        "format": FORMAT,
        "questions": dump_questions(checkpoint.questions),
        "model": checkpoint.model.model_dump(),
        "image_side_px": checkpoint.image_side_px,
        "resize_contract": RESIZE_CONTRACT,
        "weights": {name: tensor.detach().cpu() for name, tensor in checkpoint.weights.items()},
        "lineage": checkpoint.lineage,
    }
    write_bytes(path, to_bytes(content))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises `UserError` when it is missing or broken, or has another resize contract or format."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint. Train one (dvc repro train_ddp) or pull one (dvc pull {path}).")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content["format"], content["resize_contract"]
    except Exception as error:  # torch raises many kinds of errors on a broken archive
        raise UserError(f"{path}: not a checkpoint of this project ({one_line(error)}).") from None
    if found != (FORMAT, RESIZE_CONTRACT):
        raise UserError(f"{path}: made for format and resize contract {found}, this code has {(FORMAT, RESIZE_CONTRACT)}. Train it again.")
    return Checkpoint(
        questions=parse_questions(content["questions"], file=str(path)),
        model=parse_section("model", ModelRecipe, content["model"]),
        image_side_px=content["image_side_px"],
        weights=content["weights"],
        lineage=content["lineage"],
    )


def build_network(checkpoint: Checkpoint) -> CarInspectionNetwork:
    """The trained network, in evaluation mode."""
    backbone = build_backbone(checkpoint.model.backbone, image_side_px=checkpoint.image_side_px)
    network = CarInspectionNetwork(checkpoint.model, checkpoint.questions, backbone=backbone)
    network.load_state_dict(checkpoint.weights)
    return network.eval()


def check_fits(checkpoint: Checkpoint, recipe: ModelRecipe, questions: Sequence[Question], *, path: Path) -> None:
    """Raise `UserError` unless the weights of `checkpoint`, which is at `path`, fit the network of `recipe`; it names each difference.

    Image side, dropout and the pretrained weights may differ; whether the backbone accepts the side is checked when weights are loaded.
    """
    had, wanted = ({asked.name: (asked.kind, asked.classes) for asked in some} for some in (checkpoint.questions, questions))
    differences = [
        f"{key} {getattr(checkpoint.model, key)} instead of {getattr(recipe, key)}"
        for key in ("backbone", "feature_stages", "hidden_features")
        if getattr(checkpoint.model, key) != getattr(recipe, key)
    ]
    if had != wanted:
        differences.append(f"questions {', '.join(had)} instead of {', '.join(wanted)}, or with other classes")
    if differences:
        raise UserError(
            f"train.resume: '{path}' has {', '.join(differences)}. Set model and questions as in the checkpoint, or train.resume: null."
        )
