"""Owns the `export_onnx` section of params.yaml."""

from pydantic import Field

from carinspect.core.params import Number, Section


class ExportParams(Section):
    """How the model file is made and what it must prove."""

    parity_photos: int = Field(ge=1)
    """Photos of the split `val` on which torch and ONNX must agree."""
    tolerance: Number = Field(gt=0)
    """Largest absolute difference of any probability or score; a logit may differ by ten times as much."""
