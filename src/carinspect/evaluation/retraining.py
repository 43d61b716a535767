"""Owns training a checkpoint's recipe again on other rows: the stage train_ddp itself, run in a folder of its own.

So the launcher, the processes, the augmentation and every other part are those of the pipeline. The folder lies under
.carinspect/retrained, named after all that decides the result: what is finished is found there, and an interrupted training goes on.
"""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

import carinspect
from carinspect.core.errors import UserError
from carinspect.core.files import write_bytes
from carinspect.core.tables import write_table
from carinspect.core.tasks import Task
from carinspect.images.store import cache_folder
from carinspect.model.checkpoint import Checkpoint, load_checkpoint

STAGE = Path("stages/train_ddp.py")


def retrain(checkpoint: Checkpoint, table: pd.DataFrame, *, tasks: list[Task], params: dict[str, Any], what: str) -> Checkpoint:
    """The recipe of `checkpoint` for `tasks`, trained on the rows of `table`, which has `DATASET_COLUMNS`.

    params: all of params.yaml, for the hardware and the paths. what: the training in words. Raises `UserError` when it fails.
    """
    recipe = checkpoint.lineage["recipe"]
    recipe_text = yaml.safe_dump(recipe | {"model": recipe["model"] | {"tasks": tasks}}, sort_keys=True)
    folder = cache_folder().absolute() / "retrained" / _key(recipe_text, table, checkpoint.lineage["code_revision"])
    trained = folder / "models/best.pt"
    if not trained.is_file():
        write_bytes(folder / "params.yaml", yaml.safe_dump(_with_absolute_paths(params)).encode())
        write_bytes(folder / "data/recipe.yaml", recipe_text.encode())
        write_table(table, folder / "data/car_inspection_dataset.csv")
        source_code = Path(carinspect.__path__[0]).parent
        environment = os.environ | {"DVC_ROOT": str(cache_folder().absolute().parent), "PYTHONPATH": str(source_code)}
        # It ends with this process, however that ends: see training.launch.
        done = subprocess.run([sys.executable, str(STAGE.absolute())], cwd=folder, env=environment, check=False)
        if done.returncode:
            raise UserError(f"{what} failed; its own words stand above. Run evaluate again once it is mended: what is finished is kept.")
    return load_checkpoint(trained)


def _key(recipe: str, table: pd.DataFrame, code_revision: str) -> str:
    rows = table.sort_values("image_path").to_csv(index=False)
    return sha256(repr((recipe, rows, code_revision, torch.__version__)).encode()).hexdigest()[:24]


def _with_absolute_paths(params: dict[str, Any]) -> dict[str, Any]:
    data = params["data"] | {name: str(Path(params["data"][name]).absolute()) for name in ("root", "sources")}
    pretrained = params["model"]["pretrained"]
    if isinstance(pretrained, str):
        pretrained = str(Path(pretrained).absolute())
    return params | {"data": data, "model": params["model"] | {"pretrained": pretrained}}
