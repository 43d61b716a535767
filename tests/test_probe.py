"""The linear probe on frozen features: the baseline that a trained network has to beat."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from carinspect.core.errors import UserError
from carinspect.images.decode import load_image
from carinspect.images.pixel_cache import open_pixel_cache
from carinspect.model.backbones import build_backbone
from carinspect.model.features import StageFeatures, frozen_features

SIDE = 64


def some_photos(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def tiny_backbone(name: str = "test_resnet") -> torch.nn.Module:
    torch.manual_seed(0)
    return build_backbone(name, image_side_px=SIDE)


# ---- frozen features


def test_the_features_are_the_means_of_the_stages_then_the_backbones_own() -> None:
    backbone = tiny_backbone().eval()
    maps = {}
    for name in ("layer2", "layer3", "layer4"):
        getattr(backbone, name).register_forward_hook(lambda _, __, output, name=name: maps.__setitem__(name, output))
    photos = some_photos(5)
    found_NF = frozen_features(StageFeatures(backbone, stages=3, mirror=False), photos)
    assert (found_NF.dtype, found_NF.shape) == (np.float32, (5, 48 + 192 + 96 + 96))
    config = backbone.pretrained_cfg
    images = (torch.from_numpy(photos).permute(0, 3, 1, 2) / 255 - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(
        config["std"]
    ).view(3, 1, 1)
    with torch.no_grad():
        own_NF = backbone(images)
    expected_NF = torch.cat([*(maps[name].mean(dim=(2, 3)) for name in ("layer2", "layer3", "layer4")), own_NF], dim=1)
    np.testing.assert_allclose(found_NF, expected_NF, rtol=1e-4, atol=1e-5)
    alone_NF = frozen_features(StageFeatures(backbone, stages=0, mirror=False), photos)
    np.testing.assert_allclose(alone_NF, own_NF, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_a_photo_and_its_mirror_image_have_the_same_features_when_both_are_averaged(name: str) -> None:
    photos = some_photos(3)
    mirrored = np.ascontiguousarray(photos[:, :, ::-1])
    plain, averaged = (StageFeatures(tiny_backbone(name), stages=2, mirror=mirror) for mirror in (False, True))
    np.testing.assert_allclose(frozen_features(averaged, photos), frozen_features(averaged, mirrored), rtol=1e-3, atol=1e-5)
    mean_NF = (frozen_features(plain, photos) + frozen_features(plain, mirrored)) / 2
    np.testing.assert_allclose(frozen_features(averaged, photos), mean_NF, rtol=1e-3, atol=1e-5)
    assert np.abs(frozen_features(plain, photos) - frozen_features(plain, mirrored)).max() > 1e-3


def test_the_features_repeat_and_change_nothing_in_the_backbone() -> None:
    features = StageFeatures(tiny_backbone().train(), stages=3, mirror=True)
    before = {name: values.clone() for name, values in features.state_dict().items()}
    photos = some_photos(40)
    first_NF = frozen_features(features, photos)
    assert np.array_equal(first_NF, frozen_features(features, photos))
    assert all(torch.equal(values, before[name]) for name, values in features.state_dict().items())
    np.testing.assert_allclose(first_NF[35:], frozen_features(features, photos[35:]), rtol=1e-4, atol=1e-5)


def test_photos_come_by_the_projects_own_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    paths = [f"{number}.jpg" for number in range(3)]
    for path, photo in zip(paths, some_photos(3), strict=True):
        Image.fromarray(photo).resize((120, 90)).save(tmp_path / path)
    pixels = open_pixel_cache(tmp_path, paths, paths, side_px=SIDE)
    features = StageFeatures(tiny_backbone(), stages=1, mirror=False)
    listed = [load_image(tmp_path / path, SIDE) for path in paths]
    assert np.array_equal(frozen_features(features, pixels), frozen_features(features, listed))


def test_more_stages_than_the_backbone_has_are_refused() -> None:
    with pytest.raises(UserError, match=r"features of 6 stages were asked for, and ResNet has 5\. Ask for 5 or fewer"):
        StageFeatures(tiny_backbone(), stages=6, mirror=False)
