"""Owns one combination of a sweep: a backbone and a seed, trained as the pipeline trains, and what it scores."""

from pathlib import Path
from typing import Any

import pandas as pd

from carinspect.core.data import DataParams
from carinspect.core.errors import UserError
from carinspect.core.params import read_section
from carinspect.core.tables import DATASET_COLUMNS
from carinspect.evaluation.answers import labelled
from carinspect.evaluation.calibration import add_probabilities, fit_calibration
from carinspect.evaluation.metrics import headline
from carinspect.evaluation.predict import predict
from carinspect.evaluation.retraining import retrain
from carinspect.model.backbones import check_backbone
from carinspect.model.checkpoint import Checkpoint, build_network
from carinspect.scoring.bootstrap import point
from carinspect.training.config import Recipe
from carinspect.training.resume import code_revision

SPLITS = ("val", "test")


def combine(recipe: Recipe, *, backbone: str, seed: int) -> Recipe:
    """`recipe` with another backbone and seed. Raises `UserError` where it begins with weights that fit one backbone only."""
    check_backbone(backbone)
    if recipe.train.resume != "none" or recipe.model.pretrained.startswith("sha256:"):
        raise UserError("model.pretrained and train.resume name weights of one backbone. Sweep with model.pretrained: false, or true.")
    # The hub's digest is that of the pipeline's own backbone.
    pretrained = f"hub:{backbone}" if recipe.model.pretrained != "none" else "none"
    return Recipe(
        model=recipe.model.model_copy(update={"backbone": backbone, "pretrained": pretrained}),
        train=recipe.train.model_copy(update={"seed": seed}),
    )


def score_combination(recipe: Recipe, table: pd.DataFrame, params: dict[str, Any]) -> dict[str, Any]:
    """`{backbone, seed, val: {"<task> <metric>": value}, test: …}`; None for a metric without labels.

    table: the dataset, with `DATASET_COLUMNS`. params: all of params.yaml. What is already trained is not trained again.
    """
    backbone, seed = recipe.model.backbone, recipe.train.seed
    start = Checkpoint(
        model=recipe.model,
        image_side_px=recipe.train.image_side_px,
        weights={},
        lineage={"recipe": recipe.model_dump(), "code_revision": code_revision()},
    )
    what = f"the training of {backbone} with the seed {seed}"
    trained = retrain(start, table[list(DATASET_COLUMNS)], tasks=list(recipe.model.tasks), params=params, what=what)
    scored = table[table["split"].isin(SPLITS)].reset_index(drop=True)
    root: Path = read_section("data", DataParams, params).root_path
    raw, _ = predict(build_network(trained), scored, root=root, image_side_px=trained.image_side_px)
    predictions = add_probabilities(raw, fit_calibration(raw, priors=trained.lineage["priors"]))
    scores: dict[str, Any] = {"backbone": backbone, "seed": seed}
    for split in SPLITS:
        rows = predictions[predictions["split"] == split]
        heads = {task: headline(labelled(rows, task), task) for task in recipe.model.tasks}
        scores[split] = {f"{task} {head.name}": point(head.metric, head.labels_N, head.answers_N) for task, head in heads.items()}
    return scores
