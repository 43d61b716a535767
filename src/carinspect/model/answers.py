"""Owns the step from a logit to the answer that a person reads, in torch: alike in the evaluation's spreads and in the model file."""

from typing import Any

import torch
from torch import nn

from carinspect.model.priors import clean_offset


class Calibrated(nn.Module):
    """`calibration` as in models/calibration.json: the offset is added first; a temperature that could not be fitted (None) counts as 1."""

    weather_offset_K: torch.Tensor

    def __init__(self, calibration: dict[str, Any]) -> None:
        super().__init__()
        self.temperature = {task: value or 1.0 for task, value in calibration["temperature"].items()}
        self.clean_offset = clean_offset(calibration["logit_offset"])
        self.register_buffer("weather_offset_K", torch.tensor(calibration["logit_offset"]["weather"]))

    def forward(self, task: str, logits: torch.Tensor) -> torch.Tensor:
        """Probability or score 0..1, of the shape of `logits`: (...), or (..., 4) for weather."""
        match task:
            case "clean":
                return torch.sigmoid((logits + self.clean_offset) / self.temperature[task])
            case "weather":
                return torch.softmax((logits + self.weather_offset_K) / self.temperature[task], dim=-1)
            case _:
                return torch.sigmoid(logits)
