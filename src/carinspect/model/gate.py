"""The gate: measures how a photo differs from the photos that the model knows, beside the answers and from the same pass.

Six measures are of the picture itself: brightness, contrast, sharpness, noise and border. The seventh, `unlike`, is the larger of two
Mahalanobis distances (Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples") from the training photos:

- of the pooled features of the early stages. They show how a photo was taken and what its surfaces are, which hardly depends on the car;
  late ones also call cars of another source strange (docs/decisions.md has the table of methods);
- of seventeen statistics of the picture, which see what a mean of features over the photo hides: JPEG blocks, enlarged pixels, patches of
  fog. They have a distance of their own, for among hundreds of features they would not count.

Each measure is scaled by photos that taught nothing (val): 0 is their median, 1 the value that one in a hundred of them exceeds.

Shapes: B or N photos, side S pixels, RGB; C features, Q picture measures, K directions, M measures, R: M and one distance more.
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
STATISTICS_SHRINKAGE = 0.01
"""The same for the few statistics of the picture, whose rare combinations are what counts."""
BLOCKS = 16
BORDER = 4
"""Column of the border, the one that the distance of the statistics leaves out: most photos have none at all."""
PICTURE_COLUMNS = 18


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of known photos. All arrays are float32."""

    mean_C: torch.Tensor
    scale_C: torch.Tensor
    directions_CK: torch.Tensor
    precision_K: torch.Tensor
    """1 / variance in each direction."""
    precision_rest: float
    """The same in all others; 0 where there are none."""


@dataclass(frozen=True)
class GateFit:
    """What the measures are compared with."""

    early: Gaussian
    statistics: Gaussian
    median_R: torch.Tensor
    """Of the picture's measures, of the distance of early features and of that of the statistics; float32."""
    distance_R: torch.Tensor
    """From the median to 1, in the direction of the measure."""


def measure_pictures(photos_BSS3: torch.Tensor) -> torch.Tensor:
    """(B, Q) of uint8 photos: brightness 0..1, log contrast, log sharpness, log noise, share of uniform rows and columns 0..2, statistics.

    Sharpness is the size of the Laplacian over that of the differences of 4 x 4 means, so that it depends on blur and not on contrast.
    Noise is the filter of Immerkaer (1996), "Fast Noise Variance Estimation".
    """
    photos_BSS3 = photos_BSS3.float() / 255
    grey_BSS = photos_BSS3.mean(dim=3)
    brightness = grey_BSS.mean(dim=(1, 2))
    contrast = ((grey_BSS - brightness[:, None, None]) ** 2).mean(dim=(1, 2)).sqrt()
    laplacian, noise = (F.conv2d(grey_BSS[:, None], kernel).abs().mean(dim=(1, 2, 3)) for kernel in _kernels(grey_BSS))
    coarse = F.avg_pool2d(grey_BSS[:, None], 4)
    steps = coarse.diff(dim=2).abs().mean(dim=(1, 2, 3)) + coarse.diff(dim=3).abs().mean(dim=(1, 2, 3))
    uniform = [(grey_BSS.amax(dim=along) - grey_BSS.amin(dim=along) < 0.04).float().mean(dim=1) for along in (1, 2)]
    sharpness = (laplacian + 1e-3) / (steps + 1e-2)
    named = [brightness, (contrast + 0.01).log(), sharpness.log(), (noise + 1e-3).log(), uniform[0] + uniform[1]]
    return torch.stack([*named, *_statistics(photos_BSS3, grey_BSS)], dim=1)


def _statistics(photos_BSS3: torch.Tensor, grey_BSS: torch.Tensor) -> list[torch.Tensor]:
    """(B,) each, of pixels 0..1.

    Of the photo: the log mean step between neighbours across and down, the share of equal neighbours (enlarged pixels), and how much larger
    steps are at every eighth pixel (JPEG blocks). Of the photo at half its size, and at a quarter: the steps. At half its size also the
    mean and the mean log of the contrast within blocks (fog lowers it, though its patches raise the photo's), the mean of the blocks'
    darkest channel (haze lifts it: He et al. 2009, "Single Image Haze Removal Using Dark Channel Prior"), colourfulness, colour noise.
    """
    small_B3HW = F.avg_pool2d(photos_BSS3.permute(0, 3, 1, 2), 2)
    halved_BHW = small_B3HW.mean(dim=1)
    quartered = F.avg_pool2d(halved_BHW[:, None], 2)[:, 0]
    steps = [grey_BSS.diff(dim=2).abs(), grey_BSS.diff(dim=1).abs().transpose(1, 2)]
    smaller = [one.diff(dim=along).abs() for one in (halved_BHW, quartered) for along in (2, 1)]
    equal_B, large_B = (torch.stack([measure(one) for one in steps]).sum(dim=0) for measure in (_equal, _at_eighths))
    # The contrast within one pixel would be a rounding error.
    block = max(2, halved_BHW.shape[1] // BLOCKS)
    mean, square = (F.avg_pool2d(one[:, None], block) for one in (halved_BHW, halved_BHW**2))
    contrast = (square - mean**2).clamp(min=0).sqrt()
    darkest_BHW = small_B3HW.amin(dim=1)
    return [
        *((one.mean(dim=(1, 2)) + 1e-3).log() for one in (*steps, *smaller)),
        (equal_B / 2 + 0.01).log(),
        large_B,
        (contrast.mean(dim=(1, 2, 3)) + 0.01).log(),
        (contrast + 0.01).log().mean(dim=(1, 2, 3)),
        -F.max_pool2d(-darkest_BHW[:, None], block).mean(dim=(1, 2, 3)),
        ((small_B3HW.amax(dim=1) - darkest_BHW).mean(dim=(1, 2)) + 0.02).log(),
        ((small_B3HW - halved_BHW[:, None]).diff(dim=2).abs().mean(dim=(1, 2, 3)) + 1e-3).log(),
    ]


def _equal(steps: torch.Tensor) -> torch.Tensor:
    return (steps < 1e-3).float().mean(dim=(1, 2))


def _at_eighths(steps: torch.Tensor) -> torch.Tensor:
    return ((steps[:, :, 7::8].mean(dim=(1, 2)) + 1e-3) / (steps.mean(dim=(1, 2)) + 1e-3)).log()


def _kernels(like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    laplacian = [[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]]
    immerkaer = [[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]
    return like.new_tensor(laplacian)[None, None], like.new_tensor(immerkaer)[None, None]


class Distance(nn.Module):
    """The Mahalanobis distance from a `Gaussian`."""

    mean_C: torch.Tensor
    scale_C: torch.Tensor
    directions_CK: torch.Tensor
    precision_K: torch.Tensor

    def __init__(self, known: Gaussian) -> None:
        super().__init__()
        self.precision_rest = known.precision_rest
        for name in ("mean_C", "scale_C", "directions_CK", "precision_K"):
            self.register_buffer(name, getattr(known, name))

    def forward(self, features_BC: torch.Tensor) -> torch.Tensor:
        """Shape (B,), >= 0."""
        standard_BC = (features_BC - self.mean_C) / self.scale_C
        along_BK = standard_BC @ self.directions_CK
        squared = (along_BK**2 * self.precision_K).sum(dim=1)
        if self.precision_rest:
            squared = squared + ((standard_BC**2).sum(dim=1) - (along_BK**2).sum(dim=1)).clamp(min=0) * self.precision_rest
        return squared.sqrt()


class Gate(nn.Module):
    """The measures of `MEASURES` for photos with their early features."""

    median_R: torch.Tensor
    distance_R: torch.Tensor
    sign_P: torch.Tensor

    def __init__(self, fit: GateFit) -> None:
        super().__init__()
        self.early, self.statistics = Distance(fit.early), Distance(fit.statistics)
        for name in ("median_R", "distance_R"):
            self.register_buffer(name, getattr(fit, name))
        self.register_buffer("sign_P", torch.tensor([float(sign) for _, _, sign, _ in PICTURE]))

    def forward(self, photos_BSS3: torch.Tensor, early_BC: torch.Tensor) -> torch.Tensor:
        """Shape (B, M): 0 is usual, 1 is rare; higher is stranger."""
        return self.scale(measure_pictures(photos_BSS3), early_BC)

    def scale(self, pictures_BQ: torch.Tensor, early_BC: torch.Tensor) -> torch.Tensor:
        """As `forward`, from what `measure_pictures` gave."""
        scaled_BR = (self.raw(pictures_BQ, early_BC) - self.median_R) / self.distance_R
        return torch.cat([scaled_BR[:, :-2], scaled_BR[:, -2:].amax(dim=1, keepdim=True)], dim=1)

    def raw(self, pictures_BQ: torch.Tensor, early_BC: torch.Tensor) -> torch.Tensor:
        """Shape (B, R), before they are scaled."""
        raw_BP = pictures_BQ[:, [column for _, column, _, _ in PICTURE]] * self.sign_P
        distances = [self.early(early_BC), self.statistics(_without_border(pictures_BQ))]
        return torch.cat([raw_BP, torch.stack(distances, dim=1)], dim=1)


def _without_border(pictures_BQ: torch.Tensor) -> torch.Tensor:
    return torch.cat([pictures_BQ[:, :BORDER], pictures_BQ[:, BORDER + 1 :]], dim=1)


def fit_gate(*, early_NC: Array, pictures_NQ: Array, held_out_early_NC: Array, held_out_pictures_NQ: Array) -> GateFit:
    """The gate from early features and picture measures of training photos, and of held-out photos, whose measures it scales by."""
    rows = len(MEASURES) + 1
    unscaled = GateFit(
        early=fit_gaussian(early_NC, shrinkage=SHRINKAGE),
        statistics=fit_gaussian(np.delete(pictures_NQ, BORDER, axis=1), shrinkage=STATISTICS_SHRINKAGE),
        median_R=torch.zeros(rows),
        distance_R=torch.ones(rows),
    )
    raw_NR = Gate(unscaled).raw(_float32(held_out_pictures_NQ), _float32(held_out_early_NC)).double().numpy()
    median_R, rare_R = np.median(raw_NR, axis=0), np.quantile(raw_NR, 0.99, axis=0)
    least_R = np.array([*(least for *_, least in PICTURE), 1e-3, 1e-3])
    return replace(unscaled, median_R=_float32(median_R), distance_R=_float32(np.maximum(rare_R - median_R, least_R)))


def fit_gaussian(features_NC: Array, *, shrinkage: float) -> Gaussian:
    """The Gaussian of known photos, in at most `MOST_DIRECTIONS` directions of its correlation matrix."""
    mean_C, scale_C = features_NC.mean(axis=0), features_NC.std(axis=0) + 1e-6
    standard_NC = (features_NC - mean_C) / scale_C
    correlation_CC = (1 - shrinkage) * (standard_NC.T @ standard_NC) / len(standard_NC) + shrinkage * np.eye(len(mean_C))
    variances_C, vectors_CC = np.linalg.eigh(correlation_CC)
    kept = min(len(mean_C), MOST_DIRECTIONS)
    rest = variances_C[: len(mean_C) - kept]
    return Gaussian(
        mean_C=_float32(mean_C),
        scale_C=_float32(scale_C),
        directions_CK=_float32(vectors_CC[:, -kept:]),
        precision_K=_float32(1 / variances_C[-kept:]),
        precision_rest=float(1 / rest.mean()) if len(rest) else 0.0,
    )


def _float32(array: Array) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float32)


def save_gate(fit: GateFit, path: Path) -> None:
    """Write models/gate.pt atomically."""
    content = {"measures": list(MEASURES), "median_R": fit.median_R, "distance_R": fit.distance_R}
    write_bytes(path, to_bytes(content | {"early": vars(fit.early), "statistics": vars(fit.statistics)}))


def load_gate(path: Path) -> GateFit:
    """Read models/gate.pt. Raises `UserError` when it is missing or of other measures."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. Make it: dvc repro evaluate.")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if content["measures"] != list(MEASURES) or "statistics" not in content or len(content["statistics"]["mean_C"]) != PICTURE_COLUMNS - 1:
        raise UserError(f"{path}: its measures are not those of this code. Make it again: dvc repro --force evaluate.")
    known = {name: Gaussian(**content[name]) for name in ("early", "statistics")}
    return GateFit(**known, median_R=content["median_R"], distance_R=content["distance_R"])
