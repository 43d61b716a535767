"""The network: a timm backbone, one shared layer and a head for each question.

Shapes: B photos, H and W pixels, C channels, P pooled features of the backbone, F features that the heads share, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import nn

from carinspect.core.errors import UserError
from carinspect.core.questions import Question, by_name
from carinspect.model.config import ModelRecipe
from carinspect.model.features import last_stages, map_stages, pool_stages


class CarInspectionNetwork(nn.Module):
    """Answers all questions in one pass over each photo. It normalises the pixels itself."""

    mean_C11: torch.Tensor
    std_C11: torch.Tensor
    mean_P: torch.Tensor
    scale_P: torch.Tensor
    """Standard deviation of each pooled feature times the root of their number: an optimiser's step of a given length then changes the
    answers as much, however many features there are."""

    def __init__(self, recipe: ModelRecipe, questions: Sequence[Question], *, backbone: nn.Module) -> None:
        super().__init__()
        self.questions = by_name(questions)
        self.backbone = backbone
        self.stages = last_stages(backbone, recipe.feature_stages)
        described: Any = backbone
        # When a model has one more layer after pooling, timm stores the width under another name.
        pooled = int(getattr(backbone, "head_hidden_size", None) or described.num_features)
        pooled += sum(described.feature_info[stage]["num_chs"] for stage in self.stages)
        self.shared = nn.Sequential(nn.Linear(pooled, recipe.hidden_features), nn.ReLU())
        self.dropout = nn.Dropout(recipe.dropout)
        width = recipe.hidden_features + (pooled if self.stages else 0)
        self.heads = nn.ModuleDict({name: nn.Linear(width, asked.head_width) for name, asked in self.questions.items()})
        self.companion: nn.Module | None = None
        """Gives features, (B, features), that the heads see beside the others: those of a second backbone (`model.ensemble`)."""
        config = timm.data.resolve_data_config({}, model=backbone)
        self.register_buffer("mean_C11", torch.tensor(config["mean"]).view(-1, 1, 1) * 255)
        self.register_buffer("std_C11", torch.tensor(config["std"]).view(-1, 1, 1) * 255)
        if self.stages:
            self.register_buffer("mean_P", torch.zeros(pooled))
            self.register_buffer("scale_P", torch.full((pooled,), pooled**0.5))

    def forward(self, photos_BHWC: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits of each question for uint8 photos: shape (B,), or (B, K) for classes."""
        return self.answer(self.dropout(self.features(photos_BHWC)))

    def features(self, photos_BHWC: torch.Tensor) -> torch.Tensor:
        """The features that the heads share, before dropout: shape (B, F). Nearly all of the computing time is spent here."""
        of_stages, last_BP = pool_stages(self.backbone, self._normalise(photos_BHWC), self.stages)
        return self._join(self._share(of_stages, last_BP), photos_BHWC)

    def features_and_early(self, photos_BHWC: torch.Tensor, *, mirror: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """As `features`, and from the same pass the pooled features of the early stages, shape (B, C), for the gate.

        mirror: both are means over the photo and its mirror image; the heads are linear, so the logits are, too.
        """
        return self.features_early_and_maps(photos_BHWC, mirror=mirror)[:2]

    def features_early_and_maps(
        self, photos_BHWC: torch.Tensor, *, mirror: bool = False, mapped: Sequence[int] = ()
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """As `features_and_early`, and from the same pass the maps of the stages `mapped`, (B, channels, h, w) each, without the mirror."""
        early = early_stages(self.backbone)
        stages = sorted({*early, *self.stages, *mapped})
        maps, last_BP = map_stages(self.backbone, self._normalise(photos_BHWC), stages)
        found = dict(zip(stages, maps, strict=True))
        early_BC = torch.cat([found[stage].mean(dim=(2, 3)) for stage in early], dim=1).float()
        shared_BF = self._share([found[stage].mean(dim=(2, 3)) for stage in self.stages], last_BP)
        features_BF = self._join(shared_BF, photos_BHWC)
        if mirror:
            of_mirrored = self.features_and_early(photos_BHWC.flip(2))
            features_BF, early_BC = (features_BF + of_mirrored[0]) / 2, (early_BC + of_mirrored[1]) / 2
        return features_BF, early_BC, [found[stage].float() for stage in mapped]

    def maps(self, photos_BHWC: torch.Tensor, stages: Sequence[int]) -> list[torch.Tensor]:
        """The maps of `stages` alone, float32 (B, channels, h, w) each."""
        return [one.float() for one in map_stages(self.backbone, self._normalise(photos_BHWC), stages)[0]]

    def _join(self, shared_BF: torch.Tensor, photos_BHWC: torch.Tensor) -> torch.Tensor:
        return shared_BF if self.companion is None else torch.cat([shared_BF, self.companion(photos_BHWC)], dim=1)

    def _share(self, of_stages: Sequence[torch.Tensor], last_BP: torch.Tensor) -> torch.Tensor:
        if not self.stages:
            return self.shared(last_BP)
        # The heads see the features themselves, and beside them what the shared layer makes of them.
        standard_BP = (torch.cat([*of_stages, last_BP], dim=1).float() - self.mean_P) / self.scale_P
        return torch.cat([standard_BP, self.shared(standard_BP)], dim=1)

    def _normalise(self, photos_BHWC: torch.Tensor) -> torch.Tensor:
        return (photos_BHWC.permute(0, 3, 1, 2).float() - self.mean_C11) / self.std_C11

    def answer(self, features_BF: torch.Tensor) -> dict[str, torch.Tensor]:
        """The logits that `forward` describes, from shared features."""
        # float32 also under autocast: a loss in half precision would round small probabilities to 0.
        logits = {name: head(features_BF).float() for name, head in self.heads.items()}
        return {name: values.squeeze(1) if self.questions[name].head_width == 1 else values for name, values in logits.items()}


@torch.no_grad()
def begin_with_probe(network: CarInspectionNetwork, path: Path) -> None:
    """Let the heads give the answers of the linear probe at `path` (models/probe.pt): the shared layer adds nothing at first.

    The head of a question without a probe begins with zeros. Raises `UserError` when the file is missing or of another backbone.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. Make it: dvc repro probe.")
    content = torch.load(path, map_location="cpu", weights_only=True)
    pooled = len(network.mean_P)
    if len(content["mean"]) != pooled:
        raise UserError(f"{path}: has {len(content['mean'])} features, and the network {pooled}. Make it again: dvc repro --force probe.")
    network.mean_P.copy_(content["mean"])
    network.scale_P.copy_(content["scale"] * pooled**0.5)
    for name, module in network.heads.items():
        head = cast(nn.Linear, module)
        head.weight.zero_()
        head.bias.zero_()
        if name in content["questions"]:
            head.weight[:, :pooled].copy_(content["questions"][name]["weight"] * pooled**0.5)
            head.bias.copy_(content["questions"][name]["bias"])


def early_stages(backbone: nn.Module) -> list[int]:
    """Indices of the stages whose cells are at most 8 px wide; the first one where all are wider, as in a transformer."""
    described: Any = backbone
    return [place for place, stage in enumerate(described.feature_info) if stage["reduction"] <= 8] or [0]
