"""The network: a timm backbone, one shared layer and a head for each question.

Shapes: B photos, H and W pixels, C channels, F shared features, K classes.
"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import nn

from carinspect.core.questions import Question, by_name
from carinspect.model.config import ModelRecipe


class CarInspectionNetwork(nn.Module):
    """Answers all questions in one pass over each photo. It normalises the pixels itself."""

    mean_C11: torch.Tensor
    std_C11: torch.Tensor

    def __init__(self, recipe: ModelRecipe, questions: Sequence[Question], *, backbone: nn.Module) -> None:
        super().__init__()
        self.questions = by_name(questions)
        self.backbone = backbone
        # When a model has one more layer after pooling, timm stores the width under another name.
        feature_count = int(getattr(backbone, "head_hidden_size", None) or getattr(backbone, "num_features"))  # noqa: B009
        self.shared = nn.Sequential(nn.Linear(feature_count, recipe.hidden_features), nn.ReLU())
        self.dropout = nn.Dropout(recipe.dropout)
        self.heads = nn.ModuleDict({name: nn.Linear(recipe.hidden_features, asked.head_width) for name, asked in self.questions.items()})
        config = timm.data.resolve_data_config({}, model=backbone)
        self.register_buffer("mean_C11", torch.tensor(config["mean"]).view(-1, 1, 1) * 255)
        self.register_buffer("std_C11", torch.tensor(config["std"]).view(-1, 1, 1) * 255)

    def forward(self, photos_BHWC: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits of each question for uint8 photos: shape (B,), or (B, K) for classes."""
        return self.answer(self.dropout(self.features(photos_BHWC)))

    def features(self, photos_BHWC: torch.Tensor) -> torch.Tensor:
        """The features that the heads share, before dropout: shape (B, F). Nearly all of the computing time is spent here."""
        return self.shared(self.backbone(self._normalise(photos_BHWC)))

    def features_and_early(self, photos_BHWC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `features`, and from the same pass the pooled features of the early stages, shape (B, C), for the gate."""
        backbone: Any = self.backbone
        images_BCHW = self._normalise(photos_BHWC)
        last, maps = backbone.forward_intermediates(images_BCHW, indices=early_stages(self.backbone), output_fmt="NCHW")
        early_BC = torch.cat([one.mean(dim=(2, 3)) for one in maps], dim=1)
        return self.shared(backbone.forward_head(last)), early_BC.float()

    def _normalise(self, photos_BHWC: torch.Tensor) -> torch.Tensor:
        return (photos_BHWC.permute(0, 3, 1, 2).float() - self.mean_C11) / self.std_C11

    def answer(self, features_BF: torch.Tensor) -> dict[str, torch.Tensor]:
        """The logits that `forward` describes, from shared features."""
        # float32 also under autocast: a loss in half precision would round small probabilities to 0.
        logits = {name: head(features_BF).float() for name, head in self.heads.items()}
        return {name: values.squeeze(1) if self.questions[name].head_width == 1 else values for name, values in logits.items()}


def early_stages(backbone: nn.Module) -> list[int]:
    """Indices of the stages whose cells are at most 8 px wide; the first one where all are wider, as in a transformer."""
    described: Any = backbone
    return [place for place, stage in enumerate(described.feature_info) if stage["reduction"] <= 8] or [0]
