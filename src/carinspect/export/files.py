"""Owns the making of the model files, each proved before it is handed over."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import timm

from carinspect.core.errors import UserError
from carinspect.export.config import ExportParams
from carinspect.export.describe import describe_model
from carinspect.export.graph import AnsweringNetwork, to_onnx
from carinspect.export.parity import compare, compare_files, refuse_disparity
from carinspect.export.reference import describe_reference
from carinspect.export.variants import UNPROVED, Variant, amend, refuse_variant, to_half, to_int8, without_promise
from carinspect.images.store import load_photos
from carinspect.inference.bundle import open_bundle
from carinspect.inference.seal import seal
from carinspect.model.checkpoint import Checkpoint, build_network

PROVED_ON = "calib"


@dataclass(frozen=True)
class Photos:
    """The photos of the table, as the model takes them."""

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
    """A model file and how near its answers are to those of what it was made from."""

    model: onnx.ModelProto
    content: bytes
    comparison: dict[str, Any]


def export_model(checkpoint: Checkpoint, facts: dict[str, Any], photos: Photos, params: ExportParams) -> Exported:
    """The fp32 file. facts: `calibration`, `threshold` and `metrics`. Raises `UserError` when torch and ONNX disagree."""
    _check_side(checkpoint, photos.side_px)
    network = AnsweringNetwork(build_network(checkpoint), facts["calibration"])
    model = to_onnx(network, image_side_px=photos.side_px)
    describe_model(model, checkpoint=replace(checkpoint, image_side_px=photos.side_px), **facts)
    if photos.side_px != checkpoint.image_side_px:
        without_promise(model, f"trained, calibrated and measured at {checkpoint.image_side_px} px, exported at {photos.side_px} px")
    comparison = compare(network, open_bundle(_sealed(model)), photos.of("val", most=params.parity_photos))
    refuse_disparity(comparison, tolerance=params.tolerance)
    reference = describe_reference(open_bundle(_sealed(model)), photos.table, photos.root, split=PROVED_ON)
    amend(model, {"number_format": "fp32", "reference": reference})
    return Exported(model, _sealed(model), comparison)


def export_variants(exported: Exported, photos: Photos, params: ExportParams) -> Iterator[tuple[Variant, Exported]]:
    """Those that `params` asks for. Raises `UserError` for one whose answers differ too much from the fp32 file's."""
    if params.half:
        model = to_half(exported.model)
        yield "fp16", _prove(exported, model, "fp16", photos, tolerance=params.half_tolerance, flip_rate=params.flip_rate, key="half")
    if params.int8:
        model = to_int8(exported.model, photos.of("train", most=params.int8_photos))
        yield "int8", _prove(exported, model, "int8", photos, tolerance=params.int8_tolerance, flip_rate=params.flip_rate, key="int8")


def _prove(
    exported: Exported, model: onnx.ModelProto, name: Variant, photos: Photos, *, tolerance: float, flip_rate: float, key: str
) -> Exported:
    comparison = compare_files(open_bundle(exported.content), open_bundle(_sealed(model)), photos.of(PROVED_ON))
    refuse_variant(name, comparison, tolerance=tolerance, flip_rate=flip_rate, key=key)
    # The proof counts decisions on these very photos. Where none of them changes, it is a proof for the variant as well.
    if comparison["flipped_clean"]:
        without_promise(model, f"{UNPROVED} ({comparison['flipped_clean']} of {comparison['photos']} differ from best.onnx)")
    amend(model, {"number_format": name, "compared_with_fp32": comparison})
    return Exported(model, _sealed(model), comparison)


def _sealed(model: onnx.ModelProto) -> bytes:
    return seal(model.SerializeToString(deterministic=True))


def _check_side(checkpoint: Checkpoint, side_px: int) -> None:
    published = timm.get_pretrained_cfg(checkpoint.model.backbone)
    if side_px != checkpoint.image_side_px and published is not None and published.fixed_input_size:
        raise UserError(
            f"export_onnx.image_side_px has the value {side_px}, but {checkpoint.model.backbone} takes only the side of its training, "
            f"{checkpoint.image_side_px}. Set it to null."
        )
