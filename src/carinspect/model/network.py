"""The network: a timm backbone, one shared layer and a head for each question.

Shapes: B photos, H and W pixels, C channels, F shared features, K classes.
"""

from collections.abc import Sequence

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
        images_BCHW = (photos_BHWC.permute(0, 3, 1, 2).float() - self.mean_C11) / self.std_C11
        return self.shared(self.backbone(images_BCHW))

    def answer(self, features_BF: torch.Tensor) -> dict[str, torch.Tensor]:
        """The logits that `forward` describes, from shared features."""
        # float32 also under autocast: a loss in half precision would round small probabilities to 0.
        logits = {name: head(features_BF).float() for name, head in self.heads.items()}
        return {name: values.squeeze(1) if self.questions[name].head_width == 1 else values for name, values in logits.items()}
