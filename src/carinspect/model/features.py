"""Pooled features of several stages of a timm backbone: what a linear probe and the heads of the network see of a photo.

The last stage knows what ImageNet's classes need; dirt, scratches and rain are textures, which earlier stages still have. Each stage is
averaged over the photo, so that the features do not depend on its side.

Shapes: B or N photos, H and W pixels, F features, C channels of the last stage.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from carinspect.core.errors import UserError

BATCH = 32

WINDOWS = 10
"""The whole photo, and nine squares of three sevenths of its side, which overlap: what a crop or a part of a collage shows."""

PRETRAINED_STAGES = 3
"""Stages before the backbone's own pooled features. On photos held out within train of a real pack, these beat none and all alike."""


def last_stages(backbone: nn.Module, count: int) -> list[int]:
    """Indices of the last `count` stages, for `pool_stages`. Raises `UserError` when the backbone has fewer."""
    name, found = type(backbone).__name__, len(getattr(backbone, "feature_info", ()))
    if count and not hasattr(backbone, "forward_intermediates"):
        raise UserError(f"model.feature_stages: timm shows only the last features of {name}. Set it to 0, or choose another backbone.")
    if count > found:
        raise UserError(f"model.feature_stages has the value {count}, and {name} has {found} stages. Set it to {found} or less.")
    return list(range(found - count, found))


def map_stages(backbone: nn.Module, images_BCHW: torch.Tensor, stages: Sequence[int]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """By one pass: the maps of each of the ascending `stages`, (B, channels, h, w) each, and the backbone's own pooled features."""
    passed: Any = backbone
    if not stages:
        return [], passed(images_BCHW)
    # Asked for in this layout, transformers arrange their tokens as maps, too.
    last, maps = passed.forward_intermediates(images_BCHW, indices=list(stages), output_fmt="NCHW")
    return maps, passed.forward_head(last, pre_logits=True)


def pool_stages(backbone: nn.Module, images_BCHW: torch.Tensor, stages: Sequence[int]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """As `map_stages`, with the mean of each map: (B, channels)."""
    maps, last_BP = map_stages(backbone, images_BCHW, stages)
    return [one.mean(dim=(2, 3)) for one in maps], last_BP


class StageFeatures(nn.Module):
    """The features of uint8 photos, by one pass of the backbone (two with `mirror`). It normalises the pixels itself."""

    mean_C11: torch.Tensor
    std_C11: torch.Tensor

    def __init__(self, backbone: nn.Module, *, stages: int, mirror: bool, windows: bool = False) -> None:
        """stages: the last so many stages stand before the backbone's own pooled features; 0 gives these alone.

        mirror: average the features of each photo and of its mirror image. windows: after all others, the means of the last stage's map
        in each of the `WINDOWS`, which needs `stages`. Raises `UserError` when the backbone has fewer stages.
        """
        super().__init__()
        self.backbone, self.stages, self.mirror, self.windows = backbone, last_stages(backbone, stages), mirror, windows
        config = timm.data.resolve_data_config({}, model=backbone)
        self.register_buffer("mean_C11", torch.tensor(config["mean"]).view(-1, 1, 1) * 255)
        self.register_buffer("std_C11", torch.tensor(config["std"]).view(-1, 1, 1) * 255)

    def forward(self, photos_BHWC: torch.Tensor) -> torch.Tensor:
        """Float32, (B, F): the mean of each stage's maps, the earliest stage first, the backbone's own pooled features, the windows."""
        images_BCHW = (photos_BHWC.permute(0, 3, 1, 2).float() - self.mean_C11) / self.std_C11
        features_BF = self._pool(images_BCHW, mirrored=False)
        return (features_BF + self._pool(images_BCHW.flip(3), mirrored=True)) / 2 if self.mirror else features_BF

    def _pool(self, images_BCHW: torch.Tensor, *, mirrored: bool) -> torch.Tensor:
        maps, last_BF = map_stages(self.backbone, images_BCHW, self.stages)
        parts = [*(one.mean(dim=(2, 3)) for one in maps), last_BF]
        if self.windows:
            parts.append(_window_means(maps[-1].flip(3) if mirrored else maps[-1]))
        return torch.cat(parts, dim=1).float()

    def part(self, found_NF: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Of what a module with `windows` gave: the features of the whole photos, and the windows, (N, WINDOWS, C)."""
        described: Any = self.backbone
        of_windows = WINDOWS * described.feature_info[self.stages[-1]]["num_chs"]
        return found_NF[:, :-of_windows], found_NF[:, -of_windows:].reshape(len(found_NF), WINDOWS, -1)


def _window_means(map_BCHW: torch.Tensor) -> torch.Tensor:
    """(B, WINDOWS * C), the whole photo first."""
    parts_BCK = F.avg_pool2d(F.adaptive_avg_pool2d(map_BCHW, 7), 3, stride=2).flatten(2)
    return torch.cat([map_BCHW.mean(dim=(2, 3))[:, :, None], parts_BCK], dim=2).transpose(1, 2).flatten(1)


@torch.inference_mode()
def frozen_features(features: StageFeatures, photos: Sequence[np.ndarray] | np.ndarray) -> npt.NDArray[np.float32]:
    """The features of N photos, uint8 (side, side, 3) each, as `open_pixel_cache` and `load_photos` read them: float32, (N, F).

    The same photos in the same order give the same features: batches are fixed, nothing is drawn, no statistics are updated. The module
    comes back in evaluation mode, on the device that was used.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features = features.to(device).eval()
    starts = tqdm(range(0, len(photos), BATCH), desc="frozen features", unit="batch", disable=None)
    batches = (torch.from_numpy(np.stack([*photos[start : start + BATCH]])) for start in starts)
    return np.concatenate([features(batch).cpu().numpy() for batch in (one.to(device) for one in batches)])
