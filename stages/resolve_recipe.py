"""Checks all of params.yaml and resolves the recipe, so that DVC's cache does not depend on the hardware.

Reads: params.yaml, all of it. Writes: data/recipe.yaml, its parts data/questions.yaml and data/network.yaml, data/params_checked.txt (which
render_demo waits for), metrics/resolve_recipe.json.
"""

import sys
from hashlib import sha256
from pathlib import Path

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.core.data import DataParams
from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.files import sha256_of, write_bytes, write_json
from carinspect.core.params import RECIPE_FILE, Section, load_params, read_section
from carinspect.core.programs import run_stage
from carinspect.core.questions import read_questions
from carinspect.demo.config import RenderDemoParams
from carinspect.describe.config import DescribeParams
from carinspect.evaluation.config import EvaluateParams
from carinspect.export.config import ExportParams
from carinspect.model.backbones import build_backbone, check_backbone, check_reading_side
from carinspect.model.config import ModelParams
from carinspect.splits.config import SplitParams
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.training.config import Recipe, TrackingParams, TrainParams
from carinspect.training.recipe import identify_checkpoint, resolve_recipe, write_parts, write_recipe

SECTIONS: dict[str, type[Section]] = {
    "data": DataParams,
    "render_demo": RenderDemoParams,
    "convert_annotations": ConvertAnnotationsParams,
    "split": SplitParams,
    "describe": DescribeParams,
    "model": ModelParams,
    "train": TrainParams,
    "tracking": TrackingParams,
    "evaluate": EvaluateParams,
    "select_threshold": SelectThresholdParams,
    "export_onnx": ExportParams,
}
DEMO = Path("data/demo")
KNOWN = (*SECTIONS, "questions", "hardware", "profiles")


def main() -> None:
    params = load_params()
    for name in params:
        if name not in KNOWN:
            raise UserError(f"{name}: unknown section of params.yaml. {did_you_mean(name, KNOWN)}")
    read_questions(params)
    for name, kind in SECTIONS.items():
        read_section(name, kind, params)
    recipe = resolve_recipe(params, pretrained="none", resume="none")
    check_backbone(recipe.model.backbone)
    evaluation, side_px = read_section("evaluate", EvaluateParams, params), recipe.train.image_side_px
    check_reading_side(recipe.model.backbone, evaluation.image_side_px, training_side_px=side_px)
    model = read_section("model", ModelParams, params)
    recipe = resolve_recipe(
        params,
        pretrained=identify_weights(model, recipe.model.backbone, side_px),
        resume=identify_checkpoint(read_section("train", TrainParams, params).resume, recipe),
    )
    write_recipe(recipe, RECIPE_FILE)
    write_parts(recipe, Path())
    write_json(Path("metrics/resolve_recipe.json"), recipe.model_dump())
    write_bytes(Path("data/params_checked.txt"), b"Every section of params.yaml was read without an error.\n")
    train = recipe.train
    print(f"{params['hardware']}: {recipe.model.backbone}, {train.image_side_px} px, effective batch {train.effective_batch_size}")
    if Path(read_section("data", DataParams, params).root) != DEMO and recipe.model.pretrained == recipe.train.resume == "none":
        print(warn_of_random_weights(recipe, hardware=params["hardware"]), file=sys.stderr)


def warn_of_random_weights(recipe: Recipe, *, hardware: str) -> str:
    """What a person should know whose own photos are about to train a network from random weights."""
    whose = "This is the demo's recipe, for drawn cars" if recipe.model.backbone.startswith("test_") else "Its weights are random"
    return (
        f"warning: hardware '{hardware}' with model.pretrained: false trains {recipe.model.backbone} at {recipe.train.image_side_px} px. "
        f"{whose}: from some thousand real photos it learns little or nothing, and no probe says what could be reached. Set "
        "model.pretrained to a file of weights, or to true (timm's hub), and a real backbone, e.g. model.backbone: tf_efficientnet_lite0 "
        "with train.image_side_px: 224."
    )


def identify_weights(model: ModelParams, backbone: str, image_side_px: int) -> str:
    """An id of the pretrained weights, independent of their path. Building the backbone checks that they exist and fit."""
    if model.pretrained is False:
        return "none"
    if isinstance(model.pretrained, str):
        build_backbone(backbone, image_side_px=image_side_px, pretrained=Path(model.pretrained))
        return f"sha256:{sha256_of(Path(model.pretrained))}"
    weights = build_backbone(backbone, image_side_px=image_side_px, pretrained=True).state_dict()
    return f"hub:{sha256(b''.join(tensor.numpy().tobytes() for tensor in weights.values())).hexdigest()}"


if __name__ == "__main__":
    run_stage(main, "resolve_recipe")
