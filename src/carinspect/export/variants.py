"""Owns the smaller copies of a model file: in half precision for GPUs, in 8-bit integers for CPUs."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from carinspect.core.errors import UserError
from carinspect.export.graph import INPUT
from carinspect.inference.bundle import METADATA_KEY

Variant = Literal["fp16", "int8"]

UNPROVED = "its answers are not those on which the threshold was proved"


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in fp16 with its inputs and outputs as they were. Opened like the original, whose metadata it has."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return _with_metadata_of(model, convert_float_to_float16(copy, keep_io_types=True))


def to_int8(model: onnx.ModelProto, photos: np.ndarray) -> onnx.ModelProto:
    """The model with 8-bit convolutions, their ranges taken from `photos`, uint8 (N, S, S, 3); the rest stays as it was."""
    with tempfile.TemporaryDirectory() as folder:
        whole, prepared, quantised = (Path(folder) / name for name in ("whole.onnx", "prepared.onnx", "quantised.onnx"))
        onnx.save(model, whole)
        # Folds batch norms into the convolutions before them.
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, quantised, _PhotoReader(photos), quant_format=QuantFormat.QDQ, per_channel=True, op_types_to_quantize=["Conv"],
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return _with_metadata_of(model, onnx.load(quantised))


class _PhotoReader(CalibrationDataReader):
    def __init__(self, photos: np.ndarray) -> None:
        self._batches: Iterator[dict[str, np.ndarray]] = iter([{INPUT: photos[start : start + 16]} for start in range(0, len(photos), 16)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def amend(model: onnx.ModelProto, facts: dict[str, Any]) -> None:
    """Add `facts` to what `model` says of itself."""
    (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    entry.value = json.dumps(json.loads(entry.value) | facts, sort_keys=True, ensure_ascii=False)


def without_promise(model: onnx.ModelProto, reason: str) -> None:
    """Keep the model's threshold but not what was proved of it, and let the file say why."""
    (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    info = json.loads(entry.value)
    amend(model, {"threshold": _unproved(info["threshold"]), "warnings": [*info.get("warnings", []), f"no promise: {reason}"]})


def _unproved(rules: Any) -> Any:
    """Rules stand within rules, for damage and for cars; each says under `proves` and `proves_low` what it proves."""
    if not isinstance(rules, dict):
        return rules
    return {key: None if key in ("proves", "proves_low") else _unproved(value) for key, value in rules.items()}


def refuse_variant(name: Variant, comparison: dict[str, Any], *, tolerance: float, flip_rate: float, key: str) -> None:
    """Raise `UserError` unless numbers and decisions of a variant are near enough to those of the fp32 file; key: its parameter."""
    mend = f"Set export_onnx.{key} to false, or allow more."
    for output, value in comparison.items():
        allowed = tolerance * (10 if "logit" in output else 1)
        if output.endswith("_max_difference") and not value <= allowed:
            raise UserError(
                f"the {name} variant is not written: {output} is {value:.3g}, and {allowed:.3g} is allowed ({key}_tolerance). {mend}"
            )
    flips, decisions = comparison["flipped_decisions"], comparison["photos"]
    if flips > flip_rate * decisions:
        raise UserError(
            f"the {name} variant is not written: {flips} decisions flip on {decisions} photos (flip_rate {flip_rate:g}). {mend}"
        )


def _with_metadata_of(model: onnx.ModelProto, variant: onnx.ModelProto) -> onnx.ModelProto:
    del variant.metadata_props[:]
    variant.metadata_props.extend(model.metadata_props)
    return variant
