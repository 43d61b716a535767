"""Checks all of params.yaml and resolves the recipe, so that DVC's cache does not depend on the hardware.

Reads: params.yaml, all of it; of one's own photos, if they are there, what the sources say about them. Writes: data/recipe.yaml, its
parts data/questions.yaml and data/network.yaml, data/params_checked.txt (which render_demo waits for), metrics/resolve_recipe.json.
"""

import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.convert import check_labels
from carinspect.core.data import DataParams
from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.files import sha256_of, write_bytes, write_json
from carinspect.core.params import RECIPE_FILE, Section, load_params, read_section
from carinspect.core.programs import run_stage
from carinspect.core.questions import DeclaredQuestion, read_questions
from carinspect.demo.config import RenderDemoParams
from carinspect.describe.config import DescribeParams
from carinspect.evaluation.config import EvaluateParams
from carinspect.export.config import ExportParams
from carinspect.model.backbones import build_backbone, check_backbone, check_reading_side
from carinspect.model.config import ModelParams
from carinspect.splits.config import SplitParams
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.training.config import Recipe, TrackingParams, TrainParams
from carinspect.training.profiles import read_pretrained
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
    questions = read_questions(params)
    for name, kind in SECTIONS.items():
        read_section(name, kind, params)
    recipe = resolve_recipe(params, pretrained=None, resume="none")
    check_backbone(recipe.model.backbone)
    evaluation, side_px = read_section("evaluate", EvaluateParams, params), recipe.train.image_side_px
    check_reading_side(recipe.model.backbone, evaluation.image_side_px, training_side_px=side_px)
    data = read_section("data", DataParams, params)
    is_demo = data.root_path == DEMO
    if not is_demo:
        check_sources(data, read_section("convert_annotations", ConvertAnnotationsParams, params), questions)
    recipe = resolve_recipe(
        params,
        pretrained=identify_weights(read_pretrained(params), recipe.model.backbone, side_px),
        resume=identify_checkpoint(read_section("train", TrainParams, params).resume, recipe),
    )
    write_recipe(recipe, RECIPE_FILE)
    write_parts(recipe, Path())
    write_json(Path("metrics/resolve_recipe.json"), recipe.model_dump())
    write_bytes(Path("data/params_checked.txt"), b"Every section of params.yaml was read without an error.\n")
    train = recipe.train
    print(f"{params['hardware']}: {recipe.model.backbone}, {train.image_side_px} px, effective batch {train.effective_batch_size}")
    if not is_demo and recipe.model.pretrained == recipe.train.resume == "none":
        print(warn_of_random_weights(recipe, hardware=params["hardware"]), file=sys.stderr)


def check_sources(data: DataParams, params: ConvertAnnotationsParams, questions: Sequence[DeclaredQuestion]) -> None:
    """Raise `UserError` for a question without a label, before weights are fetched; `convert_annotations` looks again.

    It depends on the photos and this stage does not. So nothing is said of a root that is still to be pulled.
    """
    if data.root_path.is_dir() and data.sources_path.is_file():
        check_labels(data, params, [question.asked for question in questions])


def warn_of_random_weights(recipe: Recipe, *, hardware: str) -> str:
    """What a person should know whose own photos are about to train a network from random weights."""
    is_of_demo = recipe.model.backbone.startswith("test_")
    whose = "This is the demo's recipe, for drawn cars" if is_of_demo else "Its weights are random"
    fix = "hardware: auto" if is_of_demo else "model.pretrained to true (timm's hub) or to a file of weights"
    return (
        f"warning: hardware '{hardware}' trains {recipe.model.backbone} at {recipe.train.image_side_px} px without pretrained weights. "
        f"{whose}: from some thousand real photos it learns little or nothing, and no probe says what could be reached. Set {fix}."
    )


def identify_weights(pretrained: bool | str, backbone: str, image_side_px: int) -> str:
    """An id of the pretrained weights, independent of their path. Building the backbone checks that they exist and fit."""
    if pretrained is False:
        return "none"
    if isinstance(pretrained, str):
        build_backbone(backbone, image_side_px=image_side_px, pretrained=Path(pretrained))
        return f"sha256:{sha256_of(Path(pretrained))}"
    weights = build_backbone(backbone, image_side_px=image_side_px, pretrained=True).state_dict()
    return f"hub:{sha256(b''.join(tensor.numpy().tobytes() for tensor in weights.values())).hexdigest()}"


if __name__ == "__main__":
    run_stage(main, "resolve_recipe")
