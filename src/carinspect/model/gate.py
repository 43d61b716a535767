"""The gate: measures how a photo differs from the photos that the model knows, beside the answers and from the same pass.

Six measures are of the picture itself: brightness, contrast, sharpness, noise and border. The seventh, `unlike`, is the Mahalanobis
distance (Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples") of the pooled features of the early
stages from those of the training photos. Early stages show how a photo was taken and what its surfaces are, which hardly depends on the
car; late ones also call cars of another source strange (docs/decisions.md has the table of methods).

Each measure is scaled by photos that taught nothing (val): 0 is their median, 1 the value that one in a hundred of them exceeds.

Shapes: B or N photos, side S pixels, RGB; C early features, Q picture measures, K directions, M measures.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from carinspect.core.errors import UserError
from carinspect.core.files import write_bytes
from carinspect.core.gate import MEASURES
from carinspect.model.checkpoint import to_bytes

Array = npt.NDArray[np.float64]

PICTURE = (
    ("dark", 0, -1, 0.05), ("bright", 0, 1, 0.05), ("flat", 1, -1, 0.2),
    ("blurred", 2, -1, 0.1), ("noisy", 3, 1, 0.2), ("framed", 4, 1, 0.1),
)  # fmt: skip
"""Measure, its column of `measure_pictures`, the direction that counts, and the smallest distance from the median that is called 1."""
MOST_DIRECTIONS = 256
"""The covariance of more features than this is known in its main directions only, and the same in all others."""
SHRINKAGE = 0.1
"""Share of the identity in the correlation matrix (Ledoit and Wolf 2004): with few photos it could not be inverted."""


@dataclass(frozen=True)
class GateFit:
    """What the measures are compared with. All arrays are float32."""

    mean_C: torch.Tensor
    scale_C: torch.Tensor
    directions_CK: torch.Tensor
    precision_K: torch.Tensor
    """1 / variance in each direction."""
    precision_rest: float
    """The same in all others; 0 where there are none."""
    median_M: torch.Tensor
    distance_M: torch.Tensor
    """From the median to 1, in the direction of the measure."""


def measure_pictures(photos_BSS3: torch.Tensor) -> torch.Tensor:
    """(B, Q) of uint8 photos: brightness 0..1, log contrast, log sharpness, log noise, share of uniform rows and columns 0..2.

    Sharpness is the size of the Laplacian over that of the differences of 4 x 4 means, so that it depends on blur and not on contrast.
    Noise is the filter of Immerkaer (1996), "Fast Noise Variance Estimation".
    """
    grey_BSS = photos_BSS3.float().mean(dim=3) / 255
    brightness = grey_BSS.mean(dim=(1, 2))
    contrast = ((grey_BSS - brightness[:, None, None]) ** 2).mean(dim=(1, 2)).sqrt()
    laplacian, noise = (F.conv2d(grey_BSS[:, None], kernel).abs().mean(dim=(1, 2, 3)) for kernel in _kernels(grey_BSS))
    coarse = F.avg_pool2d(grey_BSS[:, None], 4)
    steps = coarse.diff(dim=2).abs().mean(dim=(1, 2, 3)) + coarse.diff(dim=3).abs().mean(dim=(1, 2, 3))
    uniform = [(grey_BSS.amax(dim=along) - grey_BSS.amin(dim=along) < 0.04).float().mean(dim=1) for along in (1, 2)]
    sharpness = (laplacian + 1e-3) / (steps + 1e-2)
    return torch.stack([brightness, (contrast + 0.01).log(), sharpness.log(), (noise + 1e-3).log(), uniform[0] + uniform[1]], dim=1)


def _kernels(like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    laplacian = [[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]]
    immerkaer = [[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]
    return like.new_tensor(laplacian)[None, None], like.new_tensor(immerkaer)[None, None]


class Gate(nn.Module):
    """The measures of `MEASURES` for photos with their early features."""

    mean_C: torch.Tensor
    scale_C: torch.Tensor
    directions_CK: torch.Tensor
    precision_K: torch.Tensor
    median_M: torch.Tensor
    distance_M: torch.Tensor
    sign_P: torch.Tensor

    def __init__(self, fit: GateFit) -> None:
        super().__init__()
        self.precision_rest = fit.precision_rest
        for name in ("mean_C", "scale_C", "directions_CK", "precision_K", "median_M", "distance_M"):
            self.register_buffer(name, getattr(fit, name))
        self.register_buffer("sign_P", torch.tensor([float(sign) for _, _, sign, _ in PICTURE]))

    def forward(self, photos_BSS3: torch.Tensor, early_BC: torch.Tensor) -> torch.Tensor:
        """Shape (B, M): 0 is usual, 1 is rare; higher is stranger."""
        return self.scale(measure_pictures(photos_BSS3), early_BC)

    def scale(self, pictures_BQ: torch.Tensor, early_BC: torch.Tensor) -> torch.Tensor:
        """As `forward`, from what `measure_pictures` gave."""
        raw_BP = pictures_BQ[:, [column for _, column, _, _ in PICTURE]] * self.sign_P
        raw_BM = torch.cat([raw_BP, self.distance(early_BC)[:, None]], dim=1)
        return (raw_BM - self.median_M) / self.distance_M

    def distance(self, early_BC: torch.Tensor) -> torch.Tensor:
        """Mahalanobis distance of early features, shape (B,), >= 0."""
        standard_BC = (early_BC - self.mean_C) / self.scale_C
        along_BK = standard_BC @ self.directions_CK
        squared = (along_BK**2 * self.precision_K).sum(dim=1)
        if self.precision_rest:
            squared = squared + ((standard_BC**2).sum(dim=1) - (along_BK**2).sum(dim=1)).clamp(min=0) * self.precision_rest
        return squared.sqrt()


def fit_gate(*, early_NC: Array, held_out_early_NC: Array, held_out_pictures_NQ: Array) -> GateFit:
    """The gate from early features of training photos, and from held-out photos, whose measures it scales by."""
    mean_C, scale_C = early_NC.mean(axis=0), early_NC.std(axis=0) + 1e-6
    standard_NC = (early_NC - mean_C) / scale_C
    correlation_CC = (1 - SHRINKAGE) * (standard_NC.T @ standard_NC) / len(standard_NC) + SHRINKAGE * np.eye(len(mean_C))
    variances_C, vectors_CC = np.linalg.eigh(correlation_CC)
    kept = min(len(mean_C), MOST_DIRECTIONS)
    rest = variances_C[: len(mean_C) - kept]
    unscaled = GateFit(
        mean_C=_float32(mean_C),
        scale_C=_float32(scale_C),
        directions_CK=_float32(vectors_CC[:, -kept:]),
        precision_K=_float32(1 / variances_C[-kept:]),
        precision_rest=float(1 / rest.mean()) if len(rest) else 0.0,
        median_M=torch.zeros(len(MEASURES)),
        distance_M=torch.ones(len(MEASURES)),
    )
    distances_N = Gate(unscaled).distance(_float32(held_out_early_NC)).double().numpy()
    signed_NP = held_out_pictures_NQ[:, [column for _, column, _, _ in PICTURE]] * [sign for _, _, sign, _ in PICTURE]
    raw_NM = np.column_stack([signed_NP, distances_N])
    median_M, rare_M = np.median(raw_NM, axis=0), np.quantile(raw_NM, 0.99, axis=0)
    least_M = np.array([*(least for *_, least in PICTURE), 1e-3])
    return replace(unscaled, median_M=_float32(median_M), distance_M=_float32(np.maximum(rare_M - median_M, least_M)))


def _float32(array: Array) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float32)


def save_gate(fit: GateFit, path: Path) -> None:
    """Write models/gate.pt atomically."""
    write_bytes(path, to_bytes({"measures": list(MEASURES), **vars(fit)}))


def load_gate(path: Path) -> GateFit:
    """Read models/gate.pt. Raises `UserError` when it is missing or of other measures."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. Make it: dvc repro evaluate.")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if content.pop("measures") != list(MEASURES):
        raise UserError(f"{path}: its measures are not those of this code. Make it again: dvc repro --force evaluate.")
    return GateFit(**content)
