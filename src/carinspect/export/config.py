"""The `export_onnx` section of params.yaml."""

from pydantic import Field

from carinspect.core.params import Number, Section


class ExportParams(Section):
    """How the model file is made and what it must prove."""

    parity_photos: int = Field(ge=1)
    """Photos of the split `val` on which torch and ONNX must agree."""
    tolerance: Number = Field(gt=0)
    """Largest absolute difference of any probability or score; a logit may differ by ten times as much."""
    image_side_px: int | None = Field(ge=16)
    """Side of the model's input. None: the side it was trained at, the only one that the threshold and the metrics speak of."""
    half: bool
    """Whether models/variants/best.fp16.onnx is made, for GPUs."""
    half_tolerance: Number = Field(gt=0)
    """As `tolerance`, between the fp16 and the fp32 file, on the photos of the split `calib`."""
    int8: bool
    """Whether models/variants/best.int8.onnx is made, for CPUs with plain convolutions."""
    int8_tolerance: Number = Field(gt=0)
    """As `half_tolerance`."""
    int8_photos: int = Field(ge=1)
    """Photos of the split `train` from which the ranges of its numbers are taken."""
    flip_rate: Number = Field(ge=0, lt=1)
    """Largest share of decisions of a variant that differ from those of the fp32 file."""
    latency_runs: int = Field(ge=0)
    """How often each file is timed. 0: never, for times differ from run to run, and the metrics would not repeat."""
