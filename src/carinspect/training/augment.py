"""Variation of training photos. Each photo's draw is a function of (seed, epoch, photo) alone; docs/augmentation.md shows it."""

import random
import warnings
from typing import Any

import cv2
import numpy as np

from carinspect.core.seeds import derive_seed
from carinspect.training.config import AugmentParams, Recipe
from carinspect.training.light import A, LensFlare, SoftShadow
from carinspect.training.weather import apply_weather, find_sky


class Augmentation:
    """Varies photos as `recipe` says. Nothing between photos: the same call gives the same pixels in any process and order."""

    def __init__(self, recipe: Recipe, *, names_effects: bool = False) -> None:
        train = recipe.train
        self._train = train
        self._sky = find_sky(recipe.questions)
        self._open_sky = build_augmentation(train.augment, side_px=train.image_side_px, names_effects=names_effects)
        # Rain, fog and snow leave no sun that could cast a shadow or dazzle.
        covered = train.augment.model_copy(update={"shadow": 0.0, "flare": 0.0})
        self._covered_sky = build_augmentation(covered, side_px=train.image_side_px, names_effects=names_effects)

    def __call__(self, photo: np.ndarray, *, epoch: int, image_path: str, sky_label: float, turn: int = 0) -> np.ndarray:
        """The photo, uint8 (side, side, 3), as `epoch` sees it. `sky_label`: its label of the weather (`Sky`), NaN where unknown.

        `turn`: how often it came up before in the epoch; it looks different each time, in the same weather: its labels are the epoch's.
        """
        return self._vary(photo, epoch, image_path, sky_label, turn)["image"]

    def explain(self, photo: np.ndarray, *, epoch: int, image_path: str, sky_label: float, turn: int = 0) -> tuple[np.ndarray, list[str]]:
        """The same pixels, and the names of the transforms that changed them; needs `names_effects`."""
        varied = self._vary(photo, epoch, image_path, sky_label, turn)
        return varied["image"], [name for name, _ in varied.get("applied_transforms", [])]

    def _vary(self, photo: np.ndarray, epoch: int, image_path: str, sky_label: float, turn: int) -> dict[str, Any]:
        seed = self._train.seed
        weather = self._sky.effect(self._train.augment, seed=seed, epoch=epoch, image_path=image_path, label=sky_label)
        if weather is not None:
            # The air stands before the camera: what the camera does comes after.
            photo = apply_weather(photo, weather)
        compose = self._open_sky if weather is None and self._sky.is_open(sky_label) else self._covered_sky
        if not compose.transforms:
            return {"image": photo}
        drawn = derive_seed(derive_seed(seed, "turn", turn) if turn else seed, "augment", epoch, image_path)
        # `set_random_seed` would give every transform the same stream: all would fire on the same photos.
        compose.set_random_state(np.random.default_rng(drawn), random.Random(drawn))
        return compose(image=photo)


def build_augmentation(params: AugmentParams, *, side_px: int, names_effects: bool = False) -> Any:
    """uint8 (side_px, side_px, 3) in and out. Only what leaves every label true; simulated weather, which does not, has its own module.

    What is switched off is left out: it costs nothing and takes no number from the random stream of the others. With `names_effects`
    the result also tells which transforms changed the photo.
    """
    with warnings.catch_warnings():
        # A wrong argument only warns, and a default is used instead.
        warnings.simplefilter("error")
        transforms = [*_geometry(params, side_px), *_light(params), *_camera(params, side_px)]
        return A.Compose([transform for transform in transforms if transform.p > 0], save_applied_params=names_effects)


def _geometry(params: AugmentParams, side_px: int) -> list[Any]:
    return [
        A.HorizontalFlip(p=params.flip),
        A.RandomResizedCrop(size=(side_px, side_px), scale=(params.crop_min_area, 1.0), ratio=(0.85, 1.18), p=params.crop),
        A.Rotate(
            limit=(-params.rotate_degrees, params.rotate_degrees),
            border_mode=cv2.BORDER_REFLECT,
            p=0.5 if params.rotate_degrees else 0.0,
        ),
        A.Perspective(scale=(0.0, params.perspective), border_mode=cv2.BORDER_REFLECT, p=0.5 if params.perspective else 0.0),
    ]


def _light(params: AugmentParams) -> list[Any]:
    changes_colour = params.brightness or params.contrast or params.saturation or params.hue
    return [
        SoftShadow(p=params.shadow),
        LensFlare(p=params.flare),
        A.ColorJitter(
            brightness=(1 - params.brightness, 1 + params.brightness),
            contrast=(1 - params.contrast, 1 + params.contrast),
            saturation=(1 - params.saturation, 1 + params.saturation),
            hue=(-params.hue, params.hue),
            p=0.8 if changes_colour else 0.0,
        ),
        A.ToGray(p=params.grey),
    ]


def _camera(params: AugmentParams, side_px: int) -> list[Any]:
    # Pixels of a photo that was made small already: a blur of the same share of its side.
    widest_px, longest_px = max(0.5, side_px / 224), max(3, 2 * round(side_px / 120) + 1)
    holes = (params.erase_max_area / 4, params.erase_max_area)
    return [
        A.OneOf(
            [
                A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, widest_px), p=1.0),
                A.MotionBlur(blur_limit=(3, longest_px), allow_shifted=False, p=1.0),
            ],
            p=params.blur,
        ),
        A.GaussNoise(std_range=(0.01, 0.05), p=params.noise),
        A.ImageCompression(quality_range=(params.compression_min_quality, 95), p=params.compression),
        A.Erasing(scale=holes, ratio=(0.5, 2.0), fill=127, p=params.erase),
    ]
