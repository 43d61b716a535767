"""Builds the ONNX graph: uint8 photos in, named answers out; it includes normalisation and calibration.

Shapes: B photos, side S pixels, RGB.
"""

import onnx
import torch
from torch import nn

from carinspect.core.gate import OUTPUT
from carinspect.core.questions import MARKS
from carinspect.model.calibration import Calibrated, Calibration
from carinspect.model.gate import Gate, GateFit
from carinspect.model.marks import MarksFit
from carinspect.model.network import CarInspectionNetwork
from carinspect.model.uncertainty import DropoutSpread

INPUT = "photos"
OPSET = 20


class AnsweringNetwork(nn.Module):
    """The trained network with everything from normalisation to the gate's measures; no spreads when `uncertainty` is None."""

    def __init__(self, network: CarInspectionNetwork, calibration: Calibration, gate: GateFit, marks: MarksFit | None = None) -> None:
        super().__init__()
        self.mapped = () if marks is None else marks.stages
        self.marks = None if marks is None else marks.build()
        self.gate = Gate(gate)
        self.network = network
        self.questions = network.questions
        assert calibration.reading is not None
        self.mirror = calibration.reading.mirror
        self.to_answer = Calibrated(self.questions.values(), calibration)
        plan = calibration.uncertainty
        self.spread = None if plan is None else DropoutSpread(network, plan, self.to_answer)

    @property
    def output_names(self) -> list[str]:
        """In the order of `forward`: the `outputs` of each question, the spreads, each of shape (B,), the gate, (B, M), and the maps of
        marks, (B, K, h, w), where there are any."""
        spreads = [] if self.spread is None else [asked.spread for asked in self.questions.values()]
        return [name for asked in self.questions.values() for name in asked.outputs] + spreads + [OUTPUT] + ([MARKS] if self.marks else [])

    def forward(self, photos_BSS3: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs named by `output_names`."""
        features_BF, early_BC, maps = self.network.features_early_and_maps(photos_BSS3, mirror=self.mirror, mapped=self.mapped)
        outputs: list[torch.Tensor] = []
        for name, logits in self.network.answer(features_BF).items():
            outputs += [logits] if self.questions[name].has_classes else []
            outputs += [self.to_answer(name, logits)]
        if self.spread is not None:
            outputs += self.spread(features_BF).values()
        outputs += [self.gate(photos_BSS3, early_BC)]
        return *outputs, *([] if self.marks is None else [torch.sigmoid(self.marks(maps))])


def to_onnx(network: AnsweringNetwork, *, image_side_px: int) -> onnx.ModelProto:
    """The checked graph, with a free batch size. Equal networks give equal bytes: source paths and stack traces are removed."""
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
