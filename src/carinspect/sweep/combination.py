"""Trains and scores one recipe as the pipeline does, of a sweep or a search."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from carinspect.core.data import DataParams
from carinspect.core.errors import UserError
from carinspect.core.params import read_section
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.metrics import headline
from carinspect.evaluation.predictions import answered, answers_to, numbers, predict, reading_of
from carinspect.evaluation.retraining import retrain
from carinspect.evaluation.temperature import add_probabilities, fit_calibration
from carinspect.model.backbones import check_backbone
from carinspect.model.checkpoint import Checkpoint, build_network
from carinspect.scoring.intervals import point
from carinspect.training.config import Recipe
from carinspect.training.resume import code_revision

SPLITS = ("val", "test")


def combine(recipe: Recipe, *, backbone: str, seed: int) -> Recipe:
    """`recipe` with another backbone and seed. Raises `UserError` if its initial weights fit only one backbone."""
    check_backbone(backbone)
    if recipe.train.resume != "none" or recipe.model.pretrained.startswith("sha256:"):
        raise UserError("model.pretrained and train.resume name weights of one backbone. Sweep with model.pretrained: false, or true.")
    # The recipe's digest is of the weights of the pipeline's backbone, not of this one.
    pretrained = f"hub:{backbone}" if recipe.model.pretrained != "none" else "none"
    return Recipe(
        questions=recipe.questions,
        model=recipe.model.model_copy(update={"backbone": backbone, "pretrained": pretrained}),
        train=recipe.train.model_copy(update={"seed": seed}),
    )


def score_combination(recipe: Recipe, table: pd.DataFrame, params: dict[str, Any]) -> dict[str, Any]:
    """`{backbone, seed, val: {"<question> <metric>": value}, test: …}`; None for a metric without labels.

    table: the dataset. params: all of params.yaml. A combination that was trained before is not trained again.
    """
    backbone, seed = recipe.model.backbone, recipe.train.seed
    predictions = train_and_answer(recipe, table, params, what=f"the training of {backbone} with the seed {seed}", splits=SPLITS)
    scores: dict[str, Any] = {"backbone": backbone, "seed": seed}
    for split in SPLITS:
        scores[split] = {}
        for question in recipe.questions:
            known, (name, metric) = answered(predictions[predictions["split"] == split], question), headline(question)
            scores[split][f"{question.name} {name}"] = point(metric, numbers(known, question.column), answers_to(known, question))
    return scores


def train_and_answer(recipe: Recipe, table: pd.DataFrame, params: dict[str, Any], *, what: str, splits: Sequence[str]) -> pd.DataFrame:
    """The calibrated answers to the photos of some splits, val among them, by the network of `recipe`.

    table: the dataset. params: all of params.yaml. what: names the training in errors. What was trained before is not trained again.
    """
    questions = recipe.questions
    start = Checkpoint(
        questions=questions,
        model=recipe.model,
        image_side_px=recipe.train.image_side_px,
        weights={},
        lineage={"recipe": recipe.model_dump(mode="json"), "code_revision": code_revision()},
    )
    trained = retrain(start, table, questions=questions, params=params, what=what).checkpoint
    scored = table[table["split"].isin(splits)].reset_index(drop=True)
    root: Path = read_section("data", DataParams, params).root_path
    network, evaluation = build_network(trained), read_section("evaluate", EvaluateParams, params)
    raw = predict(network, scored, root=root, reading=reading_of(trained, network, evaluation)).table
    return add_probabilities(raw, questions, fit_calibration(raw, questions, priors=trained.lineage["priors"]))
