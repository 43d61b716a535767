"""Owns Monte-Carlo dropout: how far the answers spread when the network forgets some of its features.

Gal and Ghahramani (2016), "Dropout as a Bayesian Approximation", with T masks that are drawn once and then fixed, so that a photo always
gets the same spread. The only dropout lies between the shared features and the heads: the backbone runs once, and since a head is linear,
head(mask * features) is the head with masked weights, so that all T passes are one matrix product.

Shapes: B photos, F shared features, T masks, K outputs of a head.
"""

from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from carinspect.core.seeds import derive_seed
from carinspect.model.answers import Calibrated
from carinspect.model.network import HEAD_WIDTH, CarInspectionNetwork


def plan_dropout(*, samples: int, dropout: float, seed: int) -> dict[str, Any] | None:
    """What models/calibration.json and the model file say of the spreads: `{samples, dropout, seed}`; None where there are none."""
    return {"samples": samples, "dropout": dropout, "seed": seed} if samples and dropout else None


def draw_masks(*, samples: int, dropout: float, seed: int, features: int) -> torch.Tensor:
    """Shape (T, F): 0 where a feature is dropped, else 1 / (1 - dropout), as in training."""
    # numpy's stream is fixed for good; torch's may change with its version.
    kept_TF = np.random.default_rng(derive_seed(seed, "dropout masks")).random((samples, features)) >= dropout
    return torch.from_numpy(kept_TF.astype(np.float32) / np.float32(1 - dropout))


class DropoutSpread(nn.Module):
    """The spread of each answer over the masks of `plan` (see `plan_dropout`)."""

    masks_TF: torch.Tensor

    def __init__(self, network: CarInspectionNetwork, plan: dict[str, Any], to_answer: Calibrated) -> None:
        super().__init__()
        self.heads = network.heads
        self.to_answer = to_answer
        features = next(iter(self.heads.values())).in_features
        self.register_buffer("masks_TF", draw_masks(**plan, features=cast(int, features)))

    def forward(self, features_BF: torch.Tensor) -> dict[str, torch.Tensor]:
        """Standard deviation over the masks, shape (B,), 0..0.5: of each trained task's answer; for weather of its likeliest class."""
        return {task: self._spread(task, cast(nn.Linear, head), features_BF) for task, head in self.heads.items()}

    def _spread(self, task: str, head: nn.Linear, features_BF: torch.Tensor) -> torch.Tensor:
        samples, features = self.masks_TF.shape
        weight_TxKF = (self.masks_TF[:, None, :] * head.weight).reshape(samples * HEAD_WIDTH[task], features)
        logits_BTK = F.linear(features_BF, weight_TxKF).reshape(-1, samples, HEAD_WIDTH[task]) + head.bias
        if HEAD_WIDTH[task] == 1:
            return self.to_answer(task, logits_BTK.squeeze(2)).std(dim=1, correction=0)
        likeliest_B11 = self.to_answer(task, head(features_BF)).argmax(dim=1)[:, None, None]
        answers_BTK = self.to_answer(task, logits_BTK)
        return answers_BTK.gather(2, likeliest_B11.expand(-1, samples, 1)).squeeze(2).std(dim=1, correction=0)
