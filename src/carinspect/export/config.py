"""The `export_onnx` section of params.yaml."""

from pydantic import Field

from carinspect.core.params import Number, Section


class ExportParams(Section):
    """How the model file is made, and which checks it must pass."""

    parity_photos: int = Field(ge=1)
    """Photos of the split `val` on which torch and ONNX must agree."""
    tolerance: Number = Field(gt=0)
    """Largest absolute difference of any probability or score; a logit may differ by ten times as much."""
    half: bool
    """Whether models/variants/best.fp16.onnx is made, for GPUs."""
    half_tolerance: Number = Field(gt=0)
    """Like `tolerance`, for the fp16 file against the fp32 file, on the photos of the split `calib`."""
    int8: bool
    """Whether models/variants/best.int8.onnx is made, for CPUs with plain convolutions."""
    int8_tolerance: Number = Field(gt=0)
    """Like `half_tolerance`, for the int8 file."""
    int8_photos: int = Field(ge=1)
    """Photos of the split `train` from which the value ranges for int8 are measured."""
    flip_rate: Number = Field(ge=0, lt=1)
    """Largest allowed share of decisions in which a variant differs from the fp32 file."""
    latency_runs: int = Field(ge=0)
    """Number of timed runs of each file; 0: no timing, so that the metrics are the same in every run."""
