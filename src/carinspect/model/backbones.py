"""Builds a timm backbone with random weights, weights from timm's hub, or weights from a local file."""

from pathlib import Path
from typing import Any

import timm
from timm.models import load_state_dict
from torch import nn

from carinspect.core.errors import UserError, did_you_mean, one_line
from carinspect.core.files import sha256_of
from carinspect.model.config import ModelRecipe

FROM_RANDOM_WEIGHTS = "model.pretrained: false, train.freeze_norm: false and train.backbone_lr_factor: 1 to train from random weights"
"""How to go on without pretrained weights, in a profile that is for them."""


def check_backbone(name: str) -> None:
    """Raise `UserError` unless timm knows the model `name`."""
    if not timm.is_model(name.split(".")[0]):
        raise UserError(f"model.backbone: timm has no model '{name}'. {did_you_mean(name, timm.list_models())[:300]}")


def build_backbone(name: str, *, image_side_px: int, pretrained: bool | Path = False) -> nn.Module:
    """The timm model `name` without its classifier; `pretrained` is False, True (timm's hub) or a file of weights.

    Raises `UserError` for an unknown name, an unreachable hub, and a file that is missing or has the weights of another model.
    """
    check_backbone(name)
    options: dict[str, Any] = {"num_classes": 0}
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        options["img_size"] = image_side_px
    if isinstance(pretrained, Path):
        return _from_file(name, pretrained, options)
    if pretrained:
        return _from_hub(name, options)
    return timm.create_model(name, pretrained=False, **options)


def build_pretrained(recipe: ModelRecipe, given: bool | str | None, *, image_side_px: int) -> nn.Module:
    """The backbone of `recipe` as its training begins with it. given: `model.pretrained` of params.yaml, of which only a path is used.

    Raises `UserError` as `build_backbone`, and when the file is not the one that the recipe was made for.
    """
    weights: bool | str | Path = recipe.weights_of(given)
    if isinstance(weights, str):
        weights = Path(weights)
        check_unchanged("model.pretrained", weights, recipe.pretrained)
    return build_backbone(recipe.backbone, image_side_px=image_side_px, pretrained=weights)


READING_FACTOR = 1.3
"""Crops show a car larger in training than it is read later. Touvron et al. (2019), "Fixing the train-test resolution discrepancy". At 1.4
times the side the error of damage scores on held-out real photos was already larger."""


def reading_side(backbone: nn.Module, given: int | None, *, pretrained: bool, training_side_px: int) -> int:
    """Side in pixels at which photos are read once the network is trained; given: `evaluate.image_side_px`.

    Without one it is the training side, and for pretrained weights the largest multiple of the stride of the backbone's last stage that
    is at most `READING_FACTOR` times as large. Some transformers take no other side than that of their training.
    """
    described: Any = backbone
    if given is not None:
        return given
    if not pretrained or described.pretrained_cfg.get("fixed_input_size"):
        return training_side_px
    stride: int = described.feature_info[-1]["reduction"]
    return max(training_side_px, int(READING_FACTOR * training_side_px / stride) * stride)


def check_reading_side(name: str, given: int | None, *, training_side_px: int) -> None:
    """Raise `UserError` when `evaluate.image_side_px`, `given`, is a side that the timm model `name` cannot read at once it is trained."""
    published = timm.get_pretrained_cfg(name)
    if given not in (None, training_side_px) and published is not None and published.fixed_input_size:
        raise UserError(
            f"evaluate.image_side_px has the value {given}, but {name} takes only the side of its training, {training_side_px}. "
            "Set it to null."
        )


def check_unchanged(key: str, path: Path, identity: str) -> None:
    """Raise `UserError` that names `key` unless the file at `path` has the digest `identity` of the recipe."""
    if not path.is_file():
        raise UserError(f"{key}: no such file: '{path}'.")
    if identity != f"sha256:{sha256_of(path)}":
        raise UserError(f"{key}: '{path}' has changed since the recipe was made. Run dvc repro.")


def _from_file(name: str, path: Path, options: dict[str, Any]) -> nn.Module:
    if not path.is_file():
        raise UserError(f"model.pretrained: no such file: '{path}'. Give the path of a .safetensors or .pth file of '{name}', or false.")
    backbone = timm.create_model(name, pretrained=False, **options)
    try:
        weights = load_state_dict(str(path))
        # Without the classifier timm's loader only warns about a file of another model, and would train from random weights.
        missing = [key for key in backbone.state_dict() if key not in weights and not key.endswith("num_batches_tracked")]
        if missing:
            raise KeyError(f"{missing[0]} and {len(missing) - 1} others are not in it")
        backbone.load_state_dict(weights, strict=False)
    except Exception as error:  # every file format raises its own errors for a wrong or truncated file
        reason = one_line(error)
        raise UserError(f"model.pretrained: '{path}' does not hold the weights of timm's '{name}' ({reason}).") from error
    return backbone


def _from_hub(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # offline, unknown tag, no weights published: errors of several libraries
        reason = one_line(error)
        raise UserError(
            f"timm's hub gave no weights for '{name}' ({reason}). Bring {_where_published(name)}, and set model.pretrained to its path; or "
            f"set {FROM_RANDOM_WEIGHTS}, which takes far more photos."
        ) from error


def _where_published(name: str) -> str:
    """Which file holds the weights that timm's hub would give."""
    published = timm.get_pretrained_cfg(name)
    if published is None or not published.hf_hub_id:
        return "a .safetensors or .pth file of its weights"
    repository = str(published.hf_hub_id)
    if repository.endswith("/"):
        repository += f"{name.split('.')[0]}.{published.tag}"
    return f"model.safetensors of https://huggingface.co/{repository}"
