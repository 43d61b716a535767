"""Writes the metadata of a model file: what its answers depend on, its origin and its metrics."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd

from carinspect.images.decode import RESIZE_CONTRACT
from carinspect.images.pixel_cache import load_photos
from carinspect.inference.bundle import FORMAT, METADATA_KEY, ModelBundle
from carinspect.inference.histograms import count, measure
from carinspect.inference.predictor import without_rules
from carinspect.inference.rules import Thresholds
from carinspect.model.calibration import Calibration, Reading
from carinspect.model.checkpoint import Checkpoint, build_network
from carinspect.model.ensemble import EnsembleFit, join
from carinspect.model.gate import GateFit
from carinspect.model.network import CarInspectionNetwork

MOST_PHOTOS = 2000
BATCH = 64


@dataclass(frozen=True)
class Trained:
    """A trained model with the results of the stages before the export."""

    checkpoint: Checkpoint
    calibration: Calibration
    thresholds: Thresholds
    gate: GateFit
    ensemble: EnsembleFit | None
    metrics: dict[str, Any]
    """Stage → content of its metrics/<stage>.json: split, describe and evaluate."""

    def build(self) -> CarInspectionNetwork:
        """The network that answers."""
        network = build_network(self.checkpoint)
        return network if self.ensemble is None else join(network, self.checkpoint, self.ensemble)

    @property
    def reading(self) -> Reading:
        """How the photos of its evaluation were read."""
        assert self.calibration.reading is not None
        return self.calibration.reading


def describe_model(model: onnx.ModelProto, trained: Trained) -> None:
    """Write the metadata into `model`; the metrics are those on the split test."""
    model.metadata_props.add().key = METADATA_KEY
    facts = {
        "format": FORMAT,
        "resize_contract": RESIZE_CONTRACT,
        "image_side_px": trained.reading.image_side_px,
        "calibration": (calibration := trained.calibration.model_dump(mode="json")),
        "uncertainty": calibration["uncertainty"],
        "threshold": trained.thresholds.model_dump(mode="json"),
        "lineage": trained.checkpoint.lineage,
        "metrics": trained.metrics["evaluate"]["test"],
    }
    _entry(model).value = _to_json(facts)


def amend(model: onnx.ModelProto, facts: dict[str, Any]) -> None:
    """Add `facts` to the metadata of `model`."""
    _entry(model).value = _to_json(json.loads(_entry(model).value) | facts)


def without_promise(model: onnx.ModelProto, reason: str) -> None:
    """Keep the model's thresholds, remove their promises, and store `reason` as a warning."""
    info = json.loads(_entry(model).value)
    thresholds = Thresholds.model_validate(info["threshold"]).without_promises()
    warnings = [*info.get("warnings", []), f"no promise: {reason}"]
    amend(model, {"threshold": thresholds.model_dump(mode="json"), "warnings": warnings})


def describe_reference(bundle: ModelBundle, table: pd.DataFrame, root: Path, *, split: str) -> dict[str, Any]:
    """The reference histograms of `carinspect drift`, from at most `MOST_PHOTOS` photos of `split`, evenly spaced in the sorted rows."""
    rows = table[table["split"] == split].sort_values("image_path")
    rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, MOST_PHOTOS).astype(int))] if len(rows) > MOST_PHOTOS else rows
    predictor = without_rules(bundle)
    loaded = load_photos(root, rows["image_path"].tolist(), side_px=predictor.image_side_px)
    measured: list[dict[str, float]] = []
    for start in range(0, len(rows), BATCH):
        part = rows.iloc[start : start + BATCH]
        photos = np.stack([next(loaded) for _ in range(len(part))])
        sizes = zip(part["width_px"], part["height_px"], strict=True)
        for answer, pixels, (width_px, height_px) in zip(predictor.answer(photos), photos, sizes, strict=True):
            measured.append(measure(answer, pixels, width_px=int(width_px), height_px=int(height_px)))
    return {"split": split, "photos": len(measured), "histograms": count(measured)}


def _entry(model: onnx.ModelProto) -> onnx.StringStringEntryProto:
    (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    return entry


def _to_json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, ensure_ascii=False)
