"""Builds the recipe of a training from the hardware profile, the questions and the sections `model` and `train`."""

from pathlib import Path
from typing import Any

import yaml

from carinspect.core.errors import UserError
from carinspect.core.files import sha256_of, write_bytes
from carinspect.core.params import RECIPE_FILE, load_yaml, parse_section, read_section, recipe_parts
from carinspect.core.questions import dump_questions, read_questions
from carinspect.model.backbones import FROM_RANDOM_WEIGHTS
from carinspect.model.checkpoint import check_fits, load_checkpoint
from carinspect.model.config import ModelParams
from carinspect.model.features import PRETRAINED_STAGES
from carinspect.training.config import Recipe, TrainParams
from carinspect.training.profiles import read_pretrained, read_profiles

CHECKPOINT_FILE = Path("models/best.pt")


def resolve_recipe(params: dict[str, Any], *, pretrained: str | None, resume: str) -> Recipe:
    """The recipe of the chosen profile; values set in `model` and `train` replace its own. `pretrained`, `resume`: as in the recipe.

    pretrained None: the weights that params name are not read yet. Raises `UserError` for values that contradict each other.
    """
    chosen, profiles = read_profiles(params)
    defaults = profiles[chosen].recipe.model_dump()
    if pretrained is None:
        pretrained = "none" if read_pretrained(params) is False else "not read yet"
    model = read_section("model", ModelParams, params).model_dump()
    train = read_section("train", TrainParams, params).model_dump()
    model |= {"backbone": model["backbone"] or defaults.pop("backbone"), "pretrained": pretrained}
    if model.pop("ensemble") == "probe" and pretrained == "none":
        raise UserError(
            "model.ensemble is 'probe', and without pretrained weights there is no probe. Set it to none, or set model.pretrained."
        )
    if model["feature_stages"] is None:
        model["feature_stages"] = PRETRAINED_STAGES if pretrained != "none" else 0
    train |= {key: train[key] if train[key] is not None else value for key, value in defaults.items() if key in train}
    if train["freeze_norm"] and pretrained == resume == "none":
        raise UserError(
            "train.freeze_norm keeps the batch-norm statistics of pretrained weights, and model.pretrained is false. "
            f"Set model.pretrained to true or to a file of weights, or set {FROM_RANDOM_WEIGHTS}."
        )
    train["resume"] = resume
    questions = read_questions(params)
    train["losses"] = {question.name: {"loss": question.loss, "weight": question.loss_weight} for question in questions}
    asked = dump_questions(question.asked for question in questions)
    return parse_section("recipe", Recipe, {"questions": asked, "model": model, "train": train})


def identify_checkpoint(resume: str | None, recipe: Recipe) -> str:
    """`TrainRecipe.resume` of a checkpoint: its digest, independent of its path. Raises `UserError` unless it fits the recipe."""
    if resume is None:
        return "none"
    path = Path(resume)
    if not path.is_file():
        raise UserError(f"train.resume: no such file: '{path}'. Give the path of a best.pt, or null.")
    if path.resolve() == CHECKPOINT_FILE.resolve():
        raise UserError(
            f"train.resume: '{path}' is what this training writes, and DVC deletes it before the start. Give the path of a copy."
        )
    check_fits(load_checkpoint(path), recipe.model, recipe.questions, path=path)
    return f"sha256:{sha256_of(path)}"


def resume_from(resume: str | None, recipe: Recipe) -> Recipe:
    """The recipe that starts from the weights of the checkpoint `resume`; unchanged when None."""
    if resume is None:
        return recipe
    train = recipe.train.model_dump() | {"resume": identify_checkpoint(resume, recipe)}
    return parse_section("recipe", Recipe, recipe.model_dump(mode="json") | {"train": train})


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write the recipe as YAML with sorted keys, so that equal recipes have equal bytes."""
    write_bytes(path, _as_yaml(recipe.model_dump(mode="json")))


def write_parts(recipe: Recipe, folder: Path) -> None:
    """Write the parts of the recipe that other stages than the training depend on, under `folder`."""
    for path, part in recipe_parts(recipe.model_dump(mode="json")).items():
        write_bytes(folder / path, _as_yaml(part))


def _as_yaml(values: dict[str, Any]) -> bytes:
    return yaml.safe_dump(values, sort_keys=True).encode()


def read_recipe(path: Path = RECIPE_FILE) -> Recipe:
    """The recipe that `resolve_recipe` wrote."""
    return parse_section("recipe", Recipe, load_yaml(path))
