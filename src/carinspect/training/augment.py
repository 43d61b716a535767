"""Augments training photos. The random numbers of a photo depend only on (seed, epoch, photo); docs/augmentation.md has examples."""

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
    """Augments photos as `recipe` says. Photos are independent: the same call gives the same pixels in any process and order."""

    def __init__(self, recipe: Recipe, *, names_effects: bool = False) -> None:
        train = recipe.train
        self._train = train
        self._sky = find_sky(recipe.questions)
        self._open_sky = build_augmentation(train.augment, side_px=train.image_side_px, names_effects=names_effects)
        # Under rain, fog and snow there is no sun, so there are no shadows and no flare.
        covered = train.augment.model_copy(update={"shadow": 0.0, "flare": 0.0})
        self._covered_sky = build_augmentation(covered, side_px=train.image_side_px, names_effects=names_effects)

    def __call__(self, photo: np.ndarray, *, epoch: int, image_path: str, sky_label: float, turn: int = 0) -> np.ndarray:
        """The augmented photo, uint8 (side, side, 3). `sky_label`: its weather label (`Sky`), NaN where unknown.

        `turn`: how often it was drawn before in the epoch. Each draw looks different, but has the same weather, as labels are per epoch.
        """
        return self._vary(photo, epoch, image_path, sky_label, turn)["image"]

    def explain(self, photo: np.ndarray, *, epoch: int, image_path: str, sky_label: float, turn: int = 0) -> tuple[np.ndarray, list[str]]:
        """The same pixels, and the names of the transforms that changed them; needs `names_effects`."""
        varied = self._vary(photo, epoch, image_path, sky_label, turn)
        return varied["image"], [name for name, _ in varied.get("applied_transforms", [])]

    def with_maps(
        self, photo: np.ndarray, maps: list[np.ndarray], *, epoch: int, image_path: str, sky_label: float
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """The same pixels, and `maps` of the photo, uint8 (side, side) each, cropped, turned and mirrored with it."""
        varied = self._vary(photo, epoch, image_path, sky_label, 0, masks=maps)
        return varied["image"], varied["masks"]

    def _vary(self, photo: np.ndarray, epoch: int, image_path: str, sky_label: float, turn: int, **maps: Any) -> dict[str, Any]:
        seed = self._train.seed
        weather = self._sky.effect(self._train.augment, seed=seed, epoch=epoch, image_path=image_path, label=sky_label)
        if weather is not None:
            # Weather comes first, because it lies between car and camera; blur, noise and compression happen in the camera.
            photo = apply_weather(photo, weather)
        compose = self._open_sky if weather is None and self._sky.is_open(sky_label) else self._covered_sky
        if not compose.transforms:
            return {"image": photo, **maps}
        drawn = derive_seed(derive_seed(seed, "turn", turn) if turn else seed, "augment", epoch, image_path)
        # `set_random_seed` would give every transform the same random numbers: all would apply to the same photos.
        compose.set_random_state(np.random.default_rng(drawn), random.Random(drawn))
        return compose(image=photo, **maps)


def build_augmentation(params: AugmentParams, *, side_px: int, names_effects: bool = False) -> Any:
    """The albumentations pipeline, uint8 (side_px, side_px, 3) in and out. No transform changes a label; weather.py has those that do.

    A transform that is switched off is left out, so it costs nothing and draws no random numbers. With `names_effects` the result also
    lists the transforms that changed the photo.
    """
    with warnings.catch_warnings():
        # For a wrong argument albumentations only warns and uses a default.
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
    # The photo is already resized, so the blur is scaled to a fixed share of its side.
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
