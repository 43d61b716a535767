"""Trains a checkpoint's recipe again on other rows, by running the stages of a training in a separate folder.

So every part of the training is that of the pipeline. The folder is under .carinspect/retrained; its name is a digest of everything that
the result depends on. A finished training is reused, and an interrupted one resumes. Probes, which fewer parameters decide, are kept under
.carinspect/probes.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import yaml

import carinspect
from carinspect.core.errors import UserError
from carinspect.core.files import sha256_of, write_bytes
from carinspect.core.params import RECIPE_FILE, recipe_parts
from carinspect.core.questions import Question, dump_questions
from carinspect.core.tables import dataset_columns, write_table
from carinspect.images.pixel_cache import cache_folder
from carinspect.model.checkpoint import Checkpoint, load_checkpoint
from carinspect.model.marks import MarksFit, load_marks

PROBE = "models/probe.pt"
TRAINING = {Path("stages/probe.py"): PROBE, Path("stages/train_ddp.py"): "models/best.pt"}
MARKS = {Path("stages/train_marks.py"): "models/marks.pt"}
"""The stages in their order, with the file that is there when one is done."""


class Retrained(NamedTuple):
    """What the stages gave."""

    checkpoint: Checkpoint
    marks: MarksFit | None


def retrain(
    checkpoint: Checkpoint,
    table: pd.DataFrame,
    *,
    questions: Sequence[Question],
    params: dict[str, Any],
    what: str,
    outlines: Path | None = None,
) -> Retrained:
    """Train the recipe of `checkpoint`, for some of its questions, on `table`, which has the dataset's columns.

    params: all of params.yaml, for the hardware and the paths. what: names the training in errors. outlines: data/outlines.csv, where
    maps of marks are to be taught, too. Raises `UserError` when it fails.
    """
    table = table[dataset_columns(checkpoint.questions)]
    recipe = ask_only(checkpoint.lineage["recipe"], questions)
    recipe_text = yaml.safe_dump(recipe, sort_keys=True)
    rows = table.sort_values("image_path").to_csv(index=False)
    parts = {path: yaml.safe_dump(part) for path, part in recipe_parts(recipe).items()}
    surroundings = (rows, checkpoint.lineage["code_revision"], params["evaluate"]["image_side_px"], torch.__version__)
    cache = cache_folder().absolute()
    folder = cache / "retrained" / _digest(recipe_text, *surroundings, None if outlines is None else sha256_of(outlines))
    # Trainings that differ in rates or epochs begin with the same probe.
    probe = cache / "probes" / f"{_digest(parts, params['train']['seed'], *surroundings)}.pt"
    if probe.is_file():
        write_bytes(folder / PROBE, probe.read_bytes())
    stages = TRAINING | (MARKS if outlines is not None else {})
    missing = [stage for stage, out in stages.items() if not (folder / out).is_file()]
    if missing:
        write_bytes(folder / "params.yaml", yaml.safe_dump(_for_stages(params)).encode())
        write_bytes(folder / RECIPE_FILE, recipe_text.encode())
        for path, part in parts.items():
            write_bytes(folder / path, part.encode())
        write_table(table, folder / "data/car_inspection_dataset.csv", checkpoint.questions)
        if outlines is not None:
            # Only those of photos in the table are read.
            write_bytes(folder / "data/outlines.csv", outlines.read_bytes())
        source_code = Path(carinspect.__path__[0]).parent
        environment = os.environ | {"DVC_ROOT": str(cache.parent), "PYTHONPATH": str(source_code)}
        # A probe that had seen the other rows would leak them into the network that begins with it.
        for stage in missing:
            # The training ends when this process ends for any reason: see training.launch.
            done = subprocess.run([sys.executable, str(stage.absolute())], cwd=folder, env=environment, check=False)
            if done.returncode:
                raise UserError(f"{what} failed; its own words stand above. Fix it and run the command again: what is finished is kept.")
            if stages[stage] == PROBE:
                write_bytes(probe, (folder / PROBE).read_bytes())
    return Retrained(load_checkpoint(folder / "models/best.pt"), load_marks(folder / "models/marks.pt") if outlines is not None else None)


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


def _digest(*parts: Any) -> str:
    return sha256(repr(parts).encode()).hexdigest()[:24]


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
