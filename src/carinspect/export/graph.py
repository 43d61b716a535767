"""Owns the ONNX graph: uint8 photos in, named answers out, normalisation and calibration inside.

Shapes: B photos, side S pixels, RGB.
"""

import onnx
import torch
from torch import nn

from carinspect.model.network import CarInspectionNetwork
from carinspect.model.priors import clean_offset

INPUT = "photos"
OPSET = 20
OUTPUTS: dict[str, tuple[str, ...]] = {
    "clean": ("clean_logit", "p_clean"),
    "cleanliness": ("cleanliness",),
    "damage": ("damage",),
    "weather": ("weather_logits", "p_weather"),
}
"""Names of each task's outputs: float32 (B,), and (B, 4) for weather."""


class AnsweringNetwork(nn.Module):
    """The trained network with everything that stands between a photo and an answer."""

    weather_offset_K: torch.Tensor

    def __init__(self, network: CarInspectionNetwork, temperature: dict[str, float], logit_offset: dict[str, list[float]]) -> None:
        """Both as in models/calibration.json; the offset is added first."""
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.clean_offset = clean_offset(logit_offset)
        self.register_buffer("weather_offset_K", torch.tensor(logit_offset["weather"]))

    @property
    def output_names(self) -> list[str]:
        """In the order of `forward`."""
        return [name for task in self.network.heads for name in OUTPUTS[task]]

    def forward(self, photos_BSS3: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs named by `output_names`."""
        answers: list[torch.Tensor] = []
        for task, logits in self.network(photos_BSS3).items():
            match task:
                case "clean":
                    answers += [logits, torch.sigmoid((logits + self.clean_offset) / self.temperature[task])]
                case "weather":
                    answers += [logits, torch.softmax((logits + self.weather_offset_K) / self.temperature[task], dim=1)]
                case _:
                    answers += [torch.sigmoid(logits)]
        return tuple(answers)


def to_onnx(network: AnsweringNetwork, *, image_side_px: int) -> onnx.ModelProto:
    """The checked graph, with a free batch size. Equal networks give equal bytes: traces of where the code lay are taken out."""
    example = torch.zeros((2, image_side_px, image_side_px, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        network.eval(),
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=network.output_names,
        dynamic_shapes={"photos_BSS3": {0: torch.export.Dim("batch", min=1)}},
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for holder in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del holder.metadata_props[:]
        holder.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    return model
