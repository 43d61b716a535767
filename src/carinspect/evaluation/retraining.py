"""Trains a checkpoint's recipe again on other rows: the stage train_ddp itself, run in a folder of its own.

So the launcher, the processes, the augmentation and every other part are those of the pipeline. The folder lies under
.carinspect/retrained, named after all that decides the result: what is finished is found there, and an interrupted training goes on.
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
from carinspect.core.questions import Question, dump_questions
from carinspect.core.tables import dataset_columns, write_table
from carinspect.images.pixel_cache import cache_folder
from carinspect.model.checkpoint import Checkpoint, load_checkpoint

STAGE = Path("stages/train_ddp.py")


def retrain(checkpoint: Checkpoint, table: pd.DataFrame, *, questions: Sequence[Question], params: dict[str, Any], what: str) -> Checkpoint:
    """The recipe of `checkpoint` for these of its questions, trained on the rows of `table`, which has the columns of the dataset.

    params: all of params.yaml, for the hardware and the paths. what: the training in words. Raises `UserError` when it fails.
    """
    table = table[dataset_columns(checkpoint.questions)]
    recipe_text = yaml.safe_dump(ask_only(checkpoint.lineage["recipe"], questions), sort_keys=True)
    folder = cache_folder().absolute() / "retrained" / _key(recipe_text, table, checkpoint.lineage["code_revision"])
    trained = folder / "models/best.pt"
    if not trained.is_file():
        write_bytes(folder / "params.yaml", yaml.safe_dump(_with_absolute_paths(params)).encode())
        write_bytes(folder / "data/recipe.yaml", recipe_text.encode())
        write_table(table, folder / "data/car_inspection_dataset.csv", checkpoint.questions)
        source_code = Path(carinspect.__path__[0]).parent
        environment = os.environ | {"DVC_ROOT": str(cache_folder().absolute().parent), "PYTHONPATH": str(source_code)}
        # It ends with this process, however that ends: see training.launch.
        done = subprocess.run([sys.executable, str(STAGE.absolute())], cwd=folder, env=environment, check=False)
        if done.returncode:
            raise UserError(f"{what} failed; its own words stand above. Fix it and run evaluate again: what is finished is kept.")
    return load_checkpoint(trained)


def ask_only(recipe: dict[str, Any], questions: Sequence[Question]) -> dict[str, Any]:
    """The recipe for `questions` alone; a knob that belongs to one that is left out is switched off."""
    names = {question.name for question in questions}
    # The table has the labels that follow from a score, and the score itself may be left out.
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


def _key(recipe: str, table: pd.DataFrame, code_revision: str) -> str:
    rows = table.sort_values("image_path").to_csv(index=False)
    return sha256(repr((recipe, rows, code_revision, torch.__version__)).encode()).hexdigest()[:24]


def _with_absolute_paths(params: dict[str, Any]) -> dict[str, Any]:
    """As the stage, which runs in a folder of its own, must read them."""

    def with_absolute(section: str, *keys: str) -> dict[str, Any]:
        paths = {key: str(Path(path).absolute()) for key in keys if isinstance(path := params[section][key], str)}
        return {section: params[section] | paths}

    return params | with_absolute("data", "root", "sources") | with_absolute("model", "pretrained") | with_absolute("train", "resume")
