"""Owns the variation of training photos. Each photo's draw is a function of (seed, epoch, photo) alone."""

import os
import random
import warnings

import numpy as np

# Importing albumentations asks the network for a newer version unless this is set.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A  # noqa: E402, N812

from carinspect.core.seeds import derive_seed  # noqa: E402
from carinspect.training.config import AugmentParams  # noqa: E402


def build_augmentation(params: AugmentParams, *, side_px: int) -> A.Compose:
    """uint8 (side_px, side_px, 3) in and out. Only what leaves every label true: no fog, rain, snow or erasing."""
    with warnings.catch_warnings():
        # A wrong argument only warns, and a default is used instead.
        warnings.simplefilter("error")
        return A.Compose(
            [
                A.HorizontalFlip(p=params.flip),
                A.RandomResizedCrop(size=(side_px, side_px), scale=(params.crop_min_area, 1.0), ratio=(0.85, 1.18), p=params.crop),
                A.Rotate(limit=(-params.rotate_degrees, params.rotate_degrees), border_mode=2, p=0.5 if params.rotate_degrees else 0.0),
                A.ColorJitter(
                    brightness=(1 - params.brightness, 1 + params.brightness),
                    contrast=(1 - params.contrast, 1 + params.contrast),
                    saturation=(1 - params.saturation, 1 + params.saturation),
                    hue=(0.0, 0.0),
                    p=0.8,
                ),
                A.GaussNoise(std_range=(0.01, 0.05), p=params.noise),
            ]
        )


def augment(compose: A.Compose, photo: np.ndarray, *, seed: int, epoch: int, image_path: str) -> np.ndarray:
    """The photo as this epoch sees it."""
    drawn = derive_seed(seed, "augment", epoch, image_path)
    # `set_random_seed` would give every transform the same stream: all would fire on the same photos.
    compose.set_random_state(np.random.default_rng(drawn), random.Random(drawn))
    return compose(image=photo)["image"]
