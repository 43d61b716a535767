"""training: how photos are varied, simulated weather and what becomes of labels, the sheet of augmented photos."""

import json
import random
from pathlib import Path

import albumentations
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from carinspect.core.errors import UserError
from carinspect.core.params import load_params, parse_section
from carinspect.core.seeds import derive_seed
from carinspect.training.augment import Augmentation, build_augmentation
from carinspect.training.batches import MicroBatchLoader, Photos
from carinspect.training.config import AugmentParams, Recipe
from carinspect.training.losses import Objective
from carinspect.training.pictures import write_augmentation_sheet
from carinspect.training.runtime import Machine
from carinspect.training.weather import FOG, MIN_TRANSMISSION, RAIN, SNOW, Sky, WeatherEffect, apply_weather, find_sky
from conftest import QUESTIONS, make_recipe
from test_engine import make_workspace, run_training

ROOT = Path(__file__).parent.parent
UNKNOWN = float("nan")
SKY = find_sky(QUESTIONS)
NOTHING = {
    "flip": 0.0, "crop": 0.0, "rotate_degrees": 0.0, "perspective": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0,
    "grey": 0.0, "shadow": 0.0, "flare": 0.0, "blur": 0.0, "noise": 0.0, "compression": 0.0, "erase": 0.0, "rain": 0.0, "fog": 0.0,
    "snow": 0.0,
}  # fmt: skip


def changed(recipe: Recipe, *, augment: dict[str, float] | None = None, **train: object) -> Recipe:
    parts = recipe.train.model_copy(update=train | {"augment": recipe.train.augment.model_copy(update=augment or {})})
    return recipe.model_copy(update={"train": parts})


def recipe_with(**changes: float) -> Recipe:
    """The tiny recipe at 64 px with nothing switched on but `changes`."""
    return changed(make_recipe(), image_side_px=64, augment=NOTHING | changes)


def draw_photo(side_px: int = 64) -> np.ndarray:
    """Coarse colours: nothing in it is symmetric, grey or flat."""
    coarse = np.random.default_rng(3).integers(30, 220, (6, 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side_px, side_px), Image.Resampling.BICUBIC))


def vary(recipe: Recipe, image_path: str, *, epoch: int = 0, turn: int = 0) -> np.ndarray:
    return Augmentation(recipe)(draw_photo(), epoch=epoch, image_path=image_path, sky_label=UNKNOWN, turn=turn)


# ---- the draw


def test_augmentation_is_a_function_of_seed_epoch_and_photo() -> None:
    recipe = changed(make_recipe(), image_side_px=64)
    stormy = changed(recipe, augment={"rain": 0.5, "snow": 0.5})
    for chosen in (recipe, stormy):
        other_seed = changed(chosen, seed=2)
        draws = [(which, path, epoch, turn) for which in (chosen, other_seed) for path in "ab" for epoch in (0, 1) for turn in (0, 1)]
        first = [vary(which, path, epoch=epoch, turn=turn) for which, path, epoch, turn in draws]
        random.seed(5)
        np.random.seed(5)
        again = [vary(which, path, epoch=epoch, turn=turn) for which, path, epoch, turn in reversed(draws)][::-1]
        assert all((one == other).all() for one, other in zip(first, again, strict=True))
        assert len({image.tobytes() for image in first}) == len(draws)


def test_transforms_do_not_fire_together() -> None:
    # The trap: one seed for all transforms makes every p=0.5 transform fire on the same photos.
    augmentation = Augmentation(recipe_with(flip=0.5, noise=0.5))
    photo = np.zeros((64, 64, 3), dtype=np.uint8)
    photo[:, :32] = 200
    images = [augmentation(photo, epoch=0, image_path=str(index), sky_label=UNKNOWN) for index in range(400)]
    flipped = [image[:, 48:].mean() > 100 for image in images]
    noisy = [len(np.unique(image)) > 2 for image in images]
    assert 0.4 < np.mean(flipped) < 0.6
    assert 0.4 < np.mean(noisy) < 0.6
    assert abs(np.corrcoef(flipped, noisy)[0, 1]) < 0.15


def test_what_is_switched_off_takes_no_number_from_the_others() -> None:
    recipe = changed(make_recipe(), image_side_px=64)
    old = albumentations.Compose([
        albumentations.HorizontalFlip(p=0.5),
        albumentations.RandomResizedCrop(size=(64, 64), scale=(0.8, 1.0), ratio=(0.85, 1.18), p=0.5),
        albumentations.Rotate(limit=(-5, 5), border_mode=cv2.BORDER_REFLECT, p=0.5),
        albumentations.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(0.0, 0.0), p=0.8),
        albumentations.GaussNoise(std_range=(0.01, 0.05), p=0.2),
    ])  # fmt: skip

    def with_old(image_path: str) -> np.ndarray:
        seed = derive_seed(recipe.train.seed, "augment", 0, image_path)
        old.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return old(image=draw_photo())["image"]

    paths = [str(index) for index in range(20)]
    assert all((vary(recipe, path) == with_old(path)).all() for path in paths)
    shadowed = changed(recipe, augment={"shadow": 0.5})
    assert not all((vary(shadowed, path) == with_old(path)).all() for path in paths)


def test_with_everything_off_the_photo_is_handed_on_untouched() -> None:
    assert build_augmentation(recipe_with().train.augment, side_px=64).transforms == []
    photo = draw_photo()
    assert Augmentation(recipe_with())(photo, epoch=0, image_path="a", sky_label=0.0) is photo


@pytest.mark.parametrize("effect", ["flip", "crop", "grey", "shadow", "flare", "blur", "noise", "compression", "erase"])
def test_each_effect_changes_as_many_photos_as_its_probability_says(effect: str) -> None:
    augmentation, photo = Augmentation(recipe_with(**{effect: 0.3})), draw_photo()
    images = [augmentation(photo, epoch=0, image_path=str(index), sky_label=UNKNOWN) for index in range(200)]
    assert {(image.shape, image.dtype) for image in images} == {((64, 64, 3), np.dtype(np.uint8))}
    # A shadow can fall beside the photo, and a crop can keep all of it.
    assert 0.15 < np.mean([(image != photo).any() for image in images]) < 0.41


@pytest.mark.parametrize("strength", [{"rotate_degrees": 6.0}, {"perspective": 0.03}, {"hue": 0.05}, {"brightness": 0.2}])
def test_each_strength_alone_changes_photos(strength: dict[str, float]) -> None:
    assert any((vary(recipe_with(**strength), str(index)) != draw_photo()).any() for index in range(10))


def test_a_wrong_argument_of_an_augmentation_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = albumentations.HorizontalFlip
    monkeypatch.setattr(albumentations, "HorizontalFlip", lambda p: mirror(probability=p))
    with pytest.raises(UserWarning, match="not valid"):
        build_augmentation(recipe_with(flip=0.5).train.augment, side_px=32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_min_area": 0.2}, r"train\.augment\.crop_min_area has the value 0\.2\. Input should be greater than or equal to 0\.5"),
        ({"erase_max_area": 0.3}, r"train\.augment\.erase_max_area has the value 0\.3\. Input should be less than or equal to 0\.05"),
        ({"rain": 0.5, "fog": 0.4, "snow": 0.2}, r"train\.augment: rain, fog and snow sum to 1\.1\..*keep their sum at 1 or below"),
        ({"fogg": 0.5}, r"train\.augment\.fogg: unknown key\. Did you mean 'fog'"),
    ],
)
def test_a_strength_that_could_make_a_label_untrue_is_refused(changes: dict[str, float], message: str) -> None:
    values = load_params(ROOT / "params.yaml")["train"]["augment"]
    parse_section("train.augment", AugmentParams, values)
    with pytest.raises(UserError, match=message):
        parse_section("train.augment", AugmentParams, values | changes)


# ---- what must stay visible


def test_a_hole_is_never_larger_than_the_parameter_says() -> None:
    augmentation, photo = Augmentation(recipe_with(erase=1.0, erase_max_area=0.03)), np.full((64, 64, 3), 255, dtype=np.uint8)
    covered = [(augmentation(photo, epoch=0, image_path=str(index), sky_label=UNKNOWN) != 255).all(axis=2).mean() for index in range(200)]
    assert min(covered) > 0.005
    assert max(covered) <= 0.033  # whole pixels
    larger = Augmentation(recipe_with(erase=1.0, erase_max_area=0.05))
    assert max((larger(photo, epoch=0, image_path=str(index), sky_label=UNKNOWN) != 255).mean() for index in range(200)) > 0.033


def contrast_left(image: np.ndarray) -> float:
    """Of a photo that was black beside white: the difference that is left in the middle, where the car is, as a share."""
    middle = image[24:40].astype(float).mean(axis=2)
    return (np.median(middle[:, 36:44]) - np.median(middle[:, 20:28])) / 255


@pytest.mark.parametrize("condition", [RAIN, FOG, SNOW])
def test_in_the_heaviest_weather_dents_and_dirt_can_still_be_seen(condition: str) -> None:
    photo = np.zeros((64, 64, 3), dtype=np.uint8)
    photo[:, 32:] = 255
    left = [contrast_left(apply_weather(photo, WeatherEffect(condition, 1.0, seed))) for seed in range(20)]
    assert min(left) > 0.8 * MIN_TRANSMISSION
    assert max(left) < 0.95  # it is weather all the same
    assert contrast_left(photo) == 1.0


@pytest.mark.parametrize("effect", ["shadow", "flare"])
def test_shadow_and_sun_leave_the_car_visible(effect: str) -> None:
    photo = np.zeros((64, 64, 3), dtype=np.uint8)
    photo[:, ::2] = 200
    augmentation = Augmentation(recipe_with(**{effect: 1.0}))
    for index in range(50):
        image = augmentation(photo, epoch=0, image_path=str(index), sky_label=UNKNOWN).astype(int)
        assert (image[:, ::2] - image[:, 1::2]).min() > 40


# ---- weather and its label


def test_weather_changes_the_label_where_it_is_strong_and_takes_it_away_where_it_is_weak() -> None:
    strong, weak = WeatherEffect(RAIN, 0.8, 1), WeatherEffect(RAIN, 0.2, 1)
    assert SKY.label_under(strong, 0.0, sure_from=0.5) == 1.0
    assert np.isnan(SKY.label_under(weak, 0.0, sure_from=0.5))
    assert SKY.label_under(None, 0.0, sure_from=0.5) == 0.0
    assert SKY.label_under(None, 3.0, sure_from=0.5) == 3.0


def test_an_unknown_weather_stays_unknown() -> None:
    assert np.isnan(SKY.label_under(WeatherEffect(SNOW, 1.0, 1), UNKNOWN, sure_from=0.0))
    assert np.isnan(SKY.label_under(None, UNKNOWN, sure_from=0.5))


def test_where_nobody_asks_for_the_weather_only_pixels_change() -> None:
    assert find_sky(QUESTIONS[:4]) == Sky(None)
    params = recipe_with(fog=1.0).train.augment
    assert Sky(None).effect(params, seed=1, epoch=0, image_path="a", label=Sky(None).label_of({"clean": 1.0})) is not None
    assert np.isnan(Sky(None).label_under(WeatherEffect(FOG, 1.0, 1), UNKNOWN, sure_from=0.0))


def test_a_photo_of_rain_fog_or_snow_gets_no_other_weather() -> None:
    params = recipe_with(rain=0.4, fog=0.3, snow=0.3).train.augment
    effects = {
        label: [SKY.effect(params, seed=1, epoch=0, image_path=str(index), label=label) for index in range(50)] for label in (0, 1, 2, 3)
    }
    assert all(effect is None for label in (1, 2, 3) for effect in effects[label])
    assert all(effect is not None for effect in effects[0])


def test_each_weather_comes_as_often_as_its_probability_says_and_at_all_strengths() -> None:
    params = recipe_with(rain=0.2, fog=0.1, snow=0.3).train.augment
    effects = [SKY.effect(params, seed=1, epoch=index % 3, image_path=str(index), label=UNKNOWN) for index in range(3000)]
    found = [effect for effect in effects if effect is not None]
    for condition, chance in ((RAIN, 0.2), (FOG, 0.1), (SNOW, 0.3)):
        strengths = [effect.strength for effect in found if effect.condition == condition]
        assert len(strengths) / len(effects) == pytest.approx(chance, abs=0.03)
        # Were kind and strength read off one number, each kind would have its own range.
        assert np.quantile(strengths, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.08)


@pytest.fixture
def clear_and_other_photos() -> Photos:
    labels = torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0, float("nan")] * 10)
    others = {name: torch.zeros(60) for name in ("clean", "cleanliness_score", "damaged", "damage_score")}
    return Photos([f"{index:02}.jpg" for index in range(60)], np.stack([draw_photo()] * 60), others | {"weather_condition": labels})


def test_the_loader_changes_the_pixels_of_exactly_those_photos_whose_labels_the_step_changes(clear_and_other_photos: Photos) -> None:
    photos, recipe = clear_and_other_photos, recipe_with(rain=0.3, fog=0.2, snow=0.2)
    loader = MicroBatchLoader(
        photos,
        recipe,
        Machine(device="cpu", processes=1, workers=0, compile=False, pin_memory=False, micro_batch="norm", checkpoint_steps=0),
    )
    before = photos.labels["weather_condition"]
    for epoch in (0, 1):
        (images,) = loader.epoch(epoch, [(np.arange(60), np.zeros(60, dtype=int))])
        touched = torch.tensor([bool((image.numpy() != draw_photo()).any()) for image in images])
        seen = photos.in_epoch(recipe, epoch).labels["weather_condition"]
        moved = ~torch.isclose(seen, before, equal_nan=True)
        assert touched.any()
        assert (moved == touched & ~before.isnan()).all()
        assert (before[moved] == 0).all()
        # Another epoch, another weather: the labels of the wrong one would not fit.
        other = photos.in_epoch(recipe, epoch + 5).labels["weather_condition"]
        assert not (~torch.isclose(other, before, equal_nan=True) == touched & ~before.isnan()).all()


def test_every_rank_counts_the_labels_that_the_epoch_leaves_true(clear_and_other_photos: Photos) -> None:
    always_masked = changed(recipe_with(fog=1.0), augment={"weather_sure_from": 1.0})
    photos = clear_and_other_photos
    objective = Objective(always_masked, photos.labels, device=torch.device("cpu"))
    known = objective.divisors(photos.in_epoch(always_masked, 0).labels_of(np.arange(60)))
    assert (known["weather"], known["clean"]) == (30, 60)
    assert objective.divisors(photos.labels)["weather"] == 50
    assert photos.in_epoch(recipe_with(flip=0.5), 0) is photos


def test_the_sun_neither_shines_in_simulated_nor_in_real_bad_weather() -> None:
    sunny, wet = recipe_with(shadow=1.0, flare=1.0), recipe_with(shadow=1.0, flare=1.0, fog=1.0)

    def effects(recipe: Recipe, label: float) -> list[str]:
        augmentation = Augmentation(recipe, names_effects=True)
        return augmentation.explain(draw_photo(), epoch=0, image_path="a", sky_label=label)[1]

    assert effects(sunny, 0.0) == effects(sunny, UNKNOWN) == ["SoftShadow", "LensFlare"]
    assert effects(sunny, 1.0) == effects(wet, 0.0) == effects(wet, UNKNOWN) == []


# ---- the sheet of augmented photos


def test_the_sheet_has_a_row_a_photo_and_the_same_bytes_each_time(clear_and_other_photos: Photos, tmp_path: Path) -> None:
    recipe = recipe_with(rain=0.3, flip=0.5, noise=0.5)
    write_augmentation_sheet(clear_and_other_photos, recipe, tmp_path / "1.png")
    write_augmentation_sheet(clear_and_other_photos, recipe, tmp_path / "2.png")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    write_augmentation_sheet(clear_and_other_photos, changed(recipe, seed=9), tmp_path / "3.png")
    assert (tmp_path / "1.png").read_bytes() != (tmp_path / "3.png").read_bytes()
    few = Photos(["a"], clear_and_other_photos.pixels[:1], {name: values[:1] for name, values in clear_and_other_photos.labels.items()})
    write_augmentation_sheet(few, recipe, tmp_path / "4.png")
    sizes = [Image.open(tmp_path / name).size for name in ("1.png", "4.png")]
    assert (sizes[0][0], sizes[0][1]) == (sizes[1][0], 8 * sizes[1][1])


@pytest.mark.slow
def test_two_processes_learn_from_the_same_simulated_weather_as_one(tmp_path: Path) -> None:
    recipe = make_recipe()
    stormy = changed(recipe, augment={"rain": 0.3, "fog": 0.3, "snow": 0.3})
    metrics = []
    for name, processes, chosen in (("1", 1, stormy), ("2", 2, stormy), ("clear", 1, recipe)):
        workspace = make_workspace(tmp_path / name, chosen, processes=processes)
        run_training(workspace)
        assert (workspace / "reports/train_ddp/augmented.png").is_file()
        metrics.append(json.loads((workspace / "metrics/train_ddp.json").read_text()))
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-4)
    assert metrics[2]["train_loss_weather"] != pytest.approx(metrics[0]["train_loss_weather"], abs=1e-3)
