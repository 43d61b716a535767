"""The head that says where a photo is marked: maps of damage and of dirt, from several stages of the trained backbone.

Each stage is standardised and reduced to a few channels at its own size, which costs little, and enlarged to the size of the finest one.
The cell's position is one more input: what lies at the edge of a photo is rarely the car. Two convolutions then look around each cell.

Shapes: B photos, K questions with `marks`, h and w cells of the finest stage, C channels of a stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from carinspect.model.checkpoint import load_fit, save_fit

FORMAT = 1
HIDDEN = 32
FINEST_PX, COARSEST_PX = 8, 32
MOST_STAGES = 3


def marked_stages(backbone: nn.Module) -> list[int]:
    """Indices of the stages that the head sees: at most three whose cells are 8 to 32 px wide; none where timm shows no maps."""
    described: Any = backbone
    infos = getattr(described, "feature_info", ())
    fit = [place for place, stage in enumerate(infos) if FINEST_PX <= stage["reduction"] <= COARSEST_PX]
    if not hasattr(backbone, "forward_intermediates") or not fit:
        return []
    # The stages of a transformer all have cells of one size: from early, middle and late ones.
    steps = min(MOST_STAGES, len(fit))
    return [fit[len(fit) * (step + 1) // steps - 1] for step in range(steps)]


def channels_of(backbone: nn.Module, stages: Sequence[int]) -> list[int]:
    """Channels of the maps of `stages`."""
    described: Any = backbone
    return [int(described.feature_info[stage]["num_chs"]) for stage in stages]


class MarksHead(nn.Module):
    """Log-odds that a cell is marked."""

    def __init__(self, channels: Sequence[int], *, questions: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList([nn.Conv2d(count, HIDDEN, 1) for count in channels])
        self.place = nn.Conv2d(4, HIDDEN, 1)
        self.look_around = nn.Sequential(
            nn.ReLU(), nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1), nn.ReLU(),
            nn.Conv2d(HIDDEN, questions, 1),
        )  # fmt: skip
        for stage, count in enumerate(channels):
            self.register_buffer(f"mean_{stage}", torch.zeros(count, 1, 1))
            self.register_buffer(f"scale_{stage}", torch.ones(count, 1, 1))

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, K, h, w) from the maps of the stages, (B, C, ., .) each; the largest gives h and w."""
        h, w = max((one.shape[2], one.shape[3]) for one in maps)
        joined = self.place(_positions(h, w).to(maps[0]))
        for stage, one in enumerate(maps):
            standard = (one - self.get_buffer(f"mean_{stage}")) / self.get_buffer(f"scale_{stage}")
            reduced = self.reduce[stage](standard)
            joined = joined + (reduced if one.shape[2:] == (h, w) else nn.functional.interpolate(reduced, (h, w), mode="bilinear"))
        found: torch.Tensor = self.look_around(joined)
        return found


def _positions(h: int, w: int) -> torch.Tensor:
    """x, y and their squares, -1..1, float32 (1, 4, h, w)."""
    y, x = torch.meshgrid((torch.arange(h) + 0.5) * 2 / h - 1, (torch.arange(w) + 0.5) * 2 / w - 1, indexing="ij")
    return torch.stack([x, y, x * x, y * y])[None]


@dataclass(frozen=True)
class MarksFit:
    """A trained head, and what belongs to it."""

    questions: tuple[str, ...]
    """Names, in the order of the maps."""
    stages: tuple[int, ...]
    channels: tuple[int, ...]
    cuts: Mapping[str, float]
    """By question: a cell is marked from this probability on; chosen on val."""
    priors: Mapping[str, torch.Tensor]
    """By question: how often each cell is marked in train, (h, w); the baseline that sees no photo."""
    weights: Mapping[str, torch.Tensor]

    def build(self) -> MarksHead:
        """The head, in evaluation mode."""
        head = MarksHead(self.channels, questions=len(self.questions))
        head.load_state_dict(dict(self.weights))
        return head.eval()


def save_marks(fit: MarksFit | None, path: Path) -> None:
    """Write models/marks.pt atomically; None: the model says no places."""
    save_fit(fit, path, version=FORMAT)


def load_marks(path: Path) -> MarksFit | None:
    """Read models/marks.pt. Raises `UserError` when it is missing or has another format."""
    fields = load_fit(path, version=FORMAT, stage="train_marks")
    return None if fields is None else MarksFit(**fields)
