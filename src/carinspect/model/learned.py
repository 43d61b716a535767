"""Frozen features of a pretrained backbone for the photos of a table: what shows dirt, scratches and scenes without any training.

They are kept in .carinspect/features, so that the search for same scenes and the search for doubtful labels compute them once.
"""

import io
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from carinspect.core.files import sha256_of, write_bytes
from carinspect.images.pixel_cache import cache_folder, open_pixel_cache

SIDE_PX = 224
"""The side that most published backbones were trained at."""


class LearnedFeatures(NamedTuple):
    """Of N photos, float32."""

    stages_NxF: npt.NDArray[np.float32]
    """Means of the maps of several stages, then the backbone's own pooled features."""
    windows_NxWxC: npt.NDArray[np.float32]
    """Means of the last stage's map in each of the `features.WINDOWS`, the whole photo first: what is seen there."""


def read_learned_features(
    root: Path, image_paths: Sequence[str], digests: Sequence[str], *, backbone: str, pretrained: bool | str
) -> LearnedFeatures | None:
    """The features of the photos at `root / image_path` with the SHA-256 `digests`, or None without pretrained weights.

    pretrained: as in `ModelParams`. Raises `UserError` for weights that are missing or another model's, and for an unreadable photo.
    """
    if pretrained is False:
        return None
    # torch takes seconds to import, and neither `describe` nor the split needs it without weights.
    from carinspect.model import features
    from carinspect.model.backbones import build_backbone

    weights = Path(pretrained) if isinstance(pretrained, str) else pretrained
    network: Any = build_backbone(backbone, image_side_px=SIDE_PX, pretrained=weights)
    identity = sha256_of(weights) if isinstance(weights, Path) else "hub"
    code = [sha256_of(Path(str(file))) for file in (__file__, features.__file__)]
    libraries = [version(name) for name in ("timm", "torch", "opencv-python-headless", "pillow")]
    key = sha256(repr((backbone, identity, SIDE_PX, code, libraries, list(digests))).encode()).hexdigest()[:24]
    path = cache_folder() / "features" / f"{key}.npy"
    stages = features.StageFeatures(network, stages=features.PRETRAINED_STAGES, mirror=True, windows=True)
    if not path.exists():
        photos = open_pixel_cache(root, image_paths, digests, side_px=SIDE_PX)
        _keep(path, features.frozen_features(stages, photos))
    return LearnedFeatures(*stages.part(np.load(path)))


def _keep(path: Path, found: np.ndarray) -> None:
    """Write the file whole, and remove those of other photos, weights or code."""
    content = io.BytesIO()
    np.save(content, found)
    write_bytes(path, content.getvalue())
    for other in path.parent.glob("*.npy"):
        if other != path:
            other.unlink(missing_ok=True)
