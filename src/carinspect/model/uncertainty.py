"""Monte-Carlo dropout: the spread of the answers when some features are dropped.

Gal and Ghahramani (2016), "Dropout as a Bayesian Approximation". The T masks are drawn once and then fixed, so a photo always gets the
same spread. Dropout is only applied between the shared features and the heads, so the backbone runs once. A head is linear, so
head(mask * features) equals the head with masked weights, and all T passes are one matrix product.

Shapes: B photos, F shared features, T masks, K outputs of a head.
"""

from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from carinspect.core.seeds import derive_seed
from carinspect.model.calibration import Calibrated, DropoutPlan
from carinspect.model.network import CarInspectionNetwork


def plan_dropout(*, samples: int, dropout: float, seed: int) -> DropoutPlan | None:
    """The plan of the masks; None when there are no samples, or when the network has no dropout."""
    return DropoutPlan(samples=samples, dropout=dropout, seed=seed) if samples and dropout else None


def draw_masks(plan: DropoutPlan, *, features: int) -> torch.Tensor:
    """Shape (T, F): 0 where a feature is dropped, else 1 / (1 - dropout), as in training."""
    # numpy guarantees the same random numbers in every version; torch does not.
    kept_TF = np.random.default_rng(derive_seed(plan.seed, "dropout masks")).random((plan.samples, features)) >= plan.dropout
    return torch.from_numpy(kept_TF.astype(np.float32) / np.float32(1 - plan.dropout))


class DropoutSpread(nn.Module):
    """The spread of each answer over the masks of `plan`."""

    masks_TF: torch.Tensor

    def __init__(self, network: CarInspectionNetwork, plan: DropoutPlan, to_answer: Calibrated) -> None:
        super().__init__()
        self.questions = network.questions
        self.heads = network.heads
        self.to_answer = to_answer
        features = next(iter(self.heads.values())).in_features
        self.register_buffer("masks_TF", draw_masks(plan, features=cast(int, features)))

    def forward(self, features_BF: torch.Tensor) -> dict[str, torch.Tensor]:
        """Standard deviation over the masks, shape (B,), 0..0.5, of each answer; for several classes that of the likeliest one."""
        return {name: self._spread(name, cast(nn.Linear, head), features_BF) for name, head in self.heads.items()}

    def _spread(self, name: str, head: nn.Linear, features_BF: torch.Tensor) -> torch.Tensor:
        samples, features = self.masks_TF.shape
        width = self.questions[name].head_width
        weight_TxKF = (self.masks_TF[:, None, :] * head.weight).reshape(samples * width, features)
        logits_BTK = F.linear(features_BF, weight_TxKF).reshape(-1, samples, width) + head.bias
        if width == 1:
            return self.to_answer(name, logits_BTK.squeeze(2)).std(dim=1, correction=0)
        likeliest_B11 = self.to_answer(name, head(features_BF)).argmax(dim=1)[:, None, None]
        answers_BTK = self.to_answer(name, logits_BTK)
        return answers_BTK.gather(2, likeliest_B11.expand(-1, samples, 1)).squeeze(2).std(dim=1, correction=0)
