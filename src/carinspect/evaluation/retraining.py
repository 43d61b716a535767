"""Trains a checkpoint's recipe again on other rows, by running the stages probe and train_ddp in a separate folder.

So every part of the training is that of the pipeline. The folder is under .carinspect/retrained; its name is a digest of everything that
the result depends on. A finished training is reused, and an interrupted one resumes.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

import carinspect
from carinspect.core.errors import UserError
from carinspect.core.files import write_bytes
from carinspect.core.params import RECIPE_FILE, recipe_parts
from carinspect.core.questions import Question, dump_questions
from carinspect.core.tables import dataset_columns, write_table
from carinspect.images.pixel_cache import cache_folder
from carinspect.model.checkpoint import Checkpoint, load_checkpoint

STAGES = (Path("stages/probe.py"), Path("stages/train_ddp.py"))


def retrain(checkpoint: Checkpoint, table: pd.DataFrame, *, questions: Sequence[Question], params: dict[str, Any], what: str) -> Checkpoint:
    """Train the recipe of `checkpoint`, for some of its questions, on `table`, which has the dataset's columns.

    params: all of params.yaml, for the hardware and the paths. what: names the training in errors. Raises `UserError` when it fails.
    """
    table = table[dataset_columns(checkpoint.questions)]
    recipe = ask_only(checkpoint.lineage["recipe"], questions)
    recipe_text = yaml.safe_dump(recipe, sort_keys=True)
    folder = (
        cache_folder().absolute()
        / "retrained"
        / _key(recipe_text, table, checkpoint.lineage["code_revision"], params["evaluate"]["image_side_px"])
    )
    trained = folder / "models/best.pt"
    if not trained.is_file():
        write_bytes(folder / "params.yaml", yaml.safe_dump(_for_stages(params)).encode())
        write_bytes(folder / RECIPE_FILE, recipe_text.encode())
        for path, part in recipe_parts(recipe).items():
            write_bytes(folder / path, yaml.safe_dump(part).encode())
        write_table(table, folder / "data/car_inspection_dataset.csv", checkpoint.questions)
        source_code = Path(carinspect.__path__[0]).parent
        environment = os.environ | {"DVC_ROOT": str(cache_folder().absolute().parent), "PYTHONPATH": str(source_code)}
        # A probe that had seen the other rows would leak them into the network that begins with it.
        for stage in STAGES:
            # The training ends when this process ends for any reason: see training.launch.
            done = subprocess.run([sys.executable, str(stage.absolute())], cwd=folder, env=environment, check=False)
            if done.returncode:
                raise UserError(f"{what} failed; its own words stand above. Fix it and run evaluate again: what is finished is kept.")
    return load_checkpoint(trained)


def ask_only(recipe: dict[str, Any], questions: Sequence[Question]) -> dict[str, Any]:
    """The recipe for `questions` only; parameters that refer to other questions are switched off."""
    names = {question.name for question in questions}
    # The table already has the labels derived from a score, and the score's own question may be left out.
    asked = dump_questions(question.model_copy(update={"from_score": None}) for question in questions)
    train = dict(recipe["train"])
    train["losses"] = {name: knobs for name, knobs in train["losses"].items() if name in names}
    if train["sampler_question"] not in names:
        train["sampler"] = "none"
    if not any(knobs["loss"] == "focal" for knobs in train["losses"].values()):
        train["focal_alpha"] = None
    if isinstance(train["class_weights"], dict):
        train["class_weights"] = {name: weights for name, weights in train["class_weights"].items() if name in names} or "none"
    return recipe | {"questions": asked, "train": train}


def _key(recipe: str, table: pd.DataFrame, code_revision: str, reading_side_px: int | None) -> str:
    rows = table.sort_values("image_path").to_csv(index=False)
    return sha256(repr((recipe, rows, code_revision, reading_side_px, torch.__version__)).encode()).hexdigest()[:24]


def _for_stages(params: dict[str, Any]) -> dict[str, Any]:
    """The params with absolute paths, because the stages run in another folder; no source is left out a second time."""

    def with_absolute(section: str, *keys: str) -> dict[str, Any]:
        paths = {key: str(Path(path).absolute()) for key in keys if isinstance(path := params[section][key], str)}
        return {section: params[section] | paths}

    evaluate = {"evaluate": params["evaluate"] | {"leave_one_source_out": False}}
    return (
        params
        | evaluate
        | with_absolute("data", "root", "sources")
        | with_absolute("model", "pretrained")
        | with_absolute("train", "resume")
    )
