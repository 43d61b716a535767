"""Joins a trained network and the linear probe into one network: the weighted mean of their logits, question by question.

The probe needs the features of the backbone as it was before the training: a second pass, and a second set of weights in the model file.
Where the backbone was frozen in training, the network's own features are the same, and the probe costs nothing.

Shapes: B photos, P pooled features, F features that the heads share, K outputs of a question.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from carinspect.model.backbones import build_backbone
from carinspect.model.checkpoint import Checkpoint, load_fit, save_fit
from carinspect.model.features import StageFeatures
from carinspect.model.network import CarInspectionNetwork

FORMAT = 1


@dataclass(frozen=True)
class EnsembleFit:
    """What is joined with a network."""

    probe: Mapping[str, Any]
    """The content of models/probe.pt."""
    shares: Mapping[str, float]
    """Weight 0..1 of the network's logits, by question; the rest is the probe's. A question that is not here is the network's alone."""
    offsets: Mapping[str, list[float]]
    """`calibration.logit_offsets` of the network, which is added to the joined logits: the probe's need none, so it is taken off first."""
    backbone: Mapping[str, torch.Tensor] | None
    """The pretrained weights; None where the network's own backbone still has them."""


class FrozenFeatures(nn.Module):
    """Standardised features of the pretrained backbone, shape (B, P), of uint8 photos."""

    mean_P: torch.Tensor
    scale_P: torch.Tensor

    def __init__(self, features: StageFeatures, probe: Mapping[str, Any]) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("mean_P", probe["mean"].float())
        self.register_buffer("scale_P", probe["scale"].float())

    def forward(self, photos_BHWC: torch.Tensor) -> torch.Tensor:
        """The features that the probe was fitted on, of the photo as it is."""
        return (self.features(photos_BHWC) - self.mean_P) / self.scale_P


@torch.no_grad()
def join(network: CarInspectionNetwork, checkpoint: Checkpoint, fit: EnsembleFit) -> CarInspectionNetwork:
    """Turn `network`, which was built from `checkpoint`, into the ensemble; returned for convenience."""
    pooled = len(fit.probe["mean"])
    if fit.backbone is not None:
        backbone = build_backbone(checkpoint.model.backbone, image_side_px=checkpoint.image_side_px)
        backbone.load_state_dict(fit.backbone)
        features = StageFeatures(backbone, stages=checkpoint.model.feature_stages, mirror=False)
        network.companion = FrozenFeatures(features, fit.probe).eval()
    for name, module in network.heads.items():
        head, share = cast(nn.Linear, module), fit.shares.get(name, 1.0)
        own_KF, bias_K = share * head.weight, share * head.bias
        added_KP = torch.zeros(head.out_features, pooled)
        if name in fit.shares:
            one = fit.probe["questions"][name]
            added_KP = ((1 - share) * one["weight"]).float()
            bias_K = bias_K + (1 - share) * (one["bias"] - _offset_of(head, fit.offsets.get(name, []))).float()
        if network.companion is None:
            # The first features of the heads are those of the probe, divided by the root of their number.
            own_KF[:, :pooled] += added_KP * pooled**0.5
        else:
            own_KF = torch.cat([own_KF, added_KP], dim=1)
        joined = nn.Linear(own_KF.shape[1], head.out_features)
        joined.weight.copy_(own_KF)
        joined.bias.copy_(bias_K)
        network.heads[name] = joined
    return network.eval()


def _offset_of(head: nn.Linear, offset_K: list[float]) -> torch.Tensor:
    """The offset of the logits of `head`: as `calibration.add_offset` adds it."""
    if head.out_features == 1:
        return torch.tensor([offset_K[1] - offset_K[0]] if offset_K else [0.0])
    return torch.tensor(offset_K or [0.0] * head.out_features)


def save_ensemble(fit: EnsembleFit | None, path: Path) -> None:
    """Write models/ensemble.pt atomically; None: the network stays alone."""
    save_fit(fit, path, version=FORMAT)


def load_ensemble(path: Path) -> EnsembleFit | None:
    """Read models/ensemble.pt. Raises `UserError` when it is missing or has another format."""
    fields = load_fit(path, version=FORMAT, stage="evaluate")
    return None if fields is None else EnsembleFit(**fields)
