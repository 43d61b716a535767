"""Pooled features of several stages of a timm backbone: what a linear probe sees of a photo.

The last stage knows what ImageNet's classes need; dirt, scratches and rain are textures, which earlier stages still have. Each stage is
averaged over the photo, so that the features do not depend on its side.

Shapes: B or N photos, H and W pixels, F features.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import nn
from tqdm import tqdm

from carinspect.core.errors import UserError

BATCH = 32

STAGES = 3
"""Stages before the backbone's own pooled features. On photos held out within train of a real pack, these beat none and all alike."""


class StageFeatures(nn.Module):
    """The features of uint8 photos, by one pass of the backbone (two with `mirror`). It normalises the pixels itself."""

    mean_C11: torch.Tensor
    std_C11: torch.Tensor

    def __init__(self, backbone: nn.Module, *, stages: int, mirror: bool) -> None:
        """stages: the last so many stages stand before the backbone's own pooled features; 0 gives these alone.

        mirror: average the features of each photo and of its mirror image. Raises `UserError` when the backbone has fewer stages.
        """
        super().__init__()
        self.backbone, self.stages, self.mirror = backbone, stages, mirror
        config = timm.data.resolve_data_config({}, model=backbone)
        self.register_buffer("mean_C11", torch.tensor(config["mean"]).view(-1, 1, 1) * 255)
        self.register_buffer("std_C11", torch.tensor(config["std"]).view(-1, 1, 1) * 255)
        if stages:
            _check_stages(backbone, stages)

    def forward(self, photos_BHWC: torch.Tensor) -> torch.Tensor:
        """Float32, (B, F): the mean of each stage's maps, the earliest stage first, then the backbone's own pooled features."""
        images_BCHW = (photos_BHWC.permute(0, 3, 1, 2).float() - self.mean_C11) / self.std_C11
        features_BF = self._pool(images_BCHW)
        return (features_BF + self._pool(images_BCHW.flip(3))) / 2 if self.mirror else features_BF

    def _pool(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        backbone: Any = self.backbone
        if not self.stages:
            return backbone(images_BCHW).float()
        # Asked for in this layout, transformers arrange their tokens as maps, too.
        last, maps = backbone.forward_intermediates(images_BCHW, indices=self.stages, output_fmt="NCHW")
        return torch.cat([*(one.mean(dim=(2, 3)) for one in maps), backbone.forward_head(last, pre_logits=True)], dim=1).float()


def _check_stages(backbone: nn.Module, stages: int) -> None:
    name = type(backbone).__name__
    if not hasattr(backbone, "forward_intermediates"):
        raise UserError(f"model.backbone: timm shows only the last features of {name}. Choose another backbone.")
    found = len(getattr(backbone, "feature_info", ()))
    if stages > found:
        raise UserError(f"the features of {stages} stages were asked for, and {name} has {found}. Ask for {found} or fewer.")


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
