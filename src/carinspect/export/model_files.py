"""Exports the model file and its variants, half precision for GPUs and 8-bit integers for CPUs, and checks each of them."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pandas as pd
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from carinspect.core.errors import UserError
from carinspect.core.questions import MARKS
from carinspect.export.config import ExportParams
from carinspect.export.graph import INPUT, AnsweringNetwork, to_onnx
from carinspect.export.metadata import Trained, amend, describe_model, describe_reference, without_promise
from carinspect.export.parity import compare, refuse_disparity, refuse_variant, torch_answers
from carinspect.images.pixel_cache import load_photos
from carinspect.inference.bundle import open_bundle
from carinspect.inference.seal import seal

PROVED_ON = "calib"

Variant = Literal["fp16", "int8"]


@dataclass(frozen=True)
class Photos:
    """The photos of the table, resized for the model."""

    table: pd.DataFrame
    root: Path
    side_px: int

    def of(self, split: str, *, most: int | None = None) -> np.ndarray:
        """The first `most` of a split, or all, uint8 (N, side, side, 3). Raises `UserError` when it has none."""
        paths = self.table.loc[self.table["split"] == split, "image_path"].tolist()[:most]
        if not paths:
            raise UserError(f"no photo in split '{split}', which the export needs. Enlarge it under split.fractions.")
        return np.stack(list(load_photos(self.root, paths, side_px=self.side_px)))


@dataclass(frozen=True)
class Exported:
    """A model file, and the differences of its answers from those of the model it was made from."""

    model: onnx.ModelProto
    content: bytes
    comparison: dict[str, Any]


def export_model(trained: Trained, photos: Photos, params: ExportParams) -> Exported:
    """Make the fp32 file. Raises `UserError` when torch and ONNX disagree."""
    network = AnsweringNetwork(trained.build(), trained.calibration, trained.gate, trained.marks)
    model = to_onnx(network, image_side_px=photos.side_px)
    describe_model(model, trained)
    bundle, examined = open_bundle(_sealed(model), marks=trained.marks is not None), photos.of("val", most=params.parity_photos)
    comparison = compare(torch_answers(network, examined), bundle, examined)
    refuse_disparity(comparison, tolerance=params.tolerance)
    reference = describe_reference(bundle, photos.table, photos.root, split=PROVED_ON)
    amend(model, {"number_format": "fp32", "reference": reference})
    return Exported(model, _sealed(model), comparison)


def export_variants(exported: Exported, photos: Photos, params: ExportParams) -> Iterator[tuple[Variant, Exported]]:
    """Make the variants that `params` asks for. Raises `UserError` for one whose answers differ too much from the fp32 file's."""
    if params.half:
        half = _to_half(exported.model)
        yield "fp16", _prove(exported, half, "fp16", photos, tolerance=params.half_tolerance, flip_rate=params.flip_rate, key="half")
    if params.int8:
        int8 = _to_int8(exported.model, photos.of("train", most=params.int8_photos))
        yield "int8", _prove(exported, int8, "int8", photos, tolerance=params.int8_tolerance, flip_rate=params.flip_rate, key="int8")


def measure_latency(content: bytes, photos: np.ndarray, *, runs: int) -> dict[str, float]:
    """Milliseconds for one decoded photo on one thread of the CPU, median and 95 % quantile of `runs`. photos: uint8 (N, side, side, 3)."""
    bundle = open_bundle(content, threads=1)
    bundle.predict(photos[:1])
    milliseconds = []
    for run in range(runs):
        place = run % len(photos)
        start = time.perf_counter()
        bundle.predict(photos[place : place + 1])
        milliseconds.append((time.perf_counter() - start) * 1000)
    return {"p50": float(np.median(milliseconds)), "p95": float(np.quantile(milliseconds, 0.95))}


def _prove(
    exported: Exported, variant: onnx.ModelProto, name: Variant, photos: Photos, *, tolerance: float, flip_rate: float, key: str
) -> Exported:
    del variant.metadata_props[:]
    variant.metadata_props.extend(exported.model.metadata_props)
    examined = photos.of(PROVED_ON)
    maps = any(output.name == MARKS for output in exported.model.graph.output)
    expected = open_bundle(exported.content, marks=maps).predict(examined)
    comparison = compare(expected, open_bundle(_sealed(variant), marks=maps), examined)
    refuse_variant(name, comparison, tolerance=tolerance, flip_rate=flip_rate, key=key)
    # The proof counts decisions on these photos. If none of them changes, the proof also holds for the variant.
    if comparison["flipped_promised"]:
        flips = f"{comparison['flipped_promised']} decisions differ from those of best.onnx, on {comparison['photos']} photos"
        without_promise(variant, f"its answers are not those on which the threshold was proved ({flips})")
    amend(variant, {"number_format": name, "compared_with_fp32": comparison})
    return Exported(variant, _sealed(variant), comparison)


def _to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in fp16, with unchanged input and output types."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return convert_float_to_float16(copy, keep_io_types=True)


def _to_int8(model: onnx.ModelProto, photos: np.ndarray) -> onnx.ModelProto:
    """The model with 8-bit convolutions, whose value ranges are measured on `photos`, uint8 (N, S, S, 3); other layers stay fp32."""
    with tempfile.TemporaryDirectory() as folder:
        whole, prepared, quantised = (Path(folder) / name for name in ("whole.onnx", "prepared.onnx", "quantised.onnx"))
        onnx.save(model, whole)
        # Folds batch norms into the convolutions before them.
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, quantised, _PhotoReader(photos), quant_format=QuantFormat.QDQ, per_channel=True, op_types_to_quantize=["Conv"],
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return onnx.load(quantised)


class _PhotoReader(CalibrationDataReader):
    def __init__(self, photos: np.ndarray) -> None:
        self._batches: Iterator[dict[str, np.ndarray]] = iter([{INPUT: photos[start : start + 16]} for start in range(0, len(photos), 16)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def _sealed(model: onnx.ModelProto) -> bytes:
    return seal(model.SerializeToString(deterministic=True))
