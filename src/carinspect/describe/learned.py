"""Frozen features of a pretrained backbone for the photos of a table: what lets a predictor see dirt and scratches."""

from pathlib import Path

import numpy as np
import pandas as pd

from carinspect.images.pixel_cache import open_pixel_cache
from carinspect.scoring.ranking import Array

SIDE_PX = 224
"""The side that most published backbones were trained at."""


def read_learned_features(root: Path, table: pd.DataFrame, *, backbone: str, pretrained: bool | str) -> Array | None:
    """Float64, (rows of `table`, features), or None without pretrained weights.

    pretrained: as in `ModelParams`. Raises `UserError` for weights that are missing or another model's, and for an unreadable photo.
    """
    if pretrained is False:
        return None
    # torch takes seconds to import, and `describe` works without it.
    from carinspect.model.backbones import build_backbone
    from carinspect.model.features import PRETRAINED_STAGES, StageFeatures, frozen_features

    weights = Path(pretrained) if isinstance(pretrained, str) else pretrained
    network = build_backbone(backbone, image_side_px=SIDE_PX, pretrained=weights)
    photos = open_pixel_cache(root, table["image_path"].tolist(), table["sha256"].tolist(), side_px=SIDE_PX)
    return frozen_features(StageFeatures(network, stages=PRETRAINED_STAGES, mirror=True), photos).astype(np.float64)
