"""Owns what a model file says of itself."""

import json
from typing import Any

import onnx

from carinspect.core.tasks import WEATHER_CLASSES
from carinspect.images.decode import RESIZE_CONTRACT
from carinspect.inference.bundle import FORMAT, METADATA_KEY
from carinspect.model.checkpoint import Checkpoint


def describe_model(
    model: onnx.ModelProto, *, checkpoint: Checkpoint, calibration: dict[str, Any], threshold: dict[str, Any], metrics: dict[str, Any]
) -> None:
    """Write into `model` all that an answer depends on, where it comes from and what it is worth on the split `test`."""
    info = {
        "format": FORMAT,
        "resize_contract": RESIZE_CONTRACT,
        "image_side_px": checkpoint.image_side_px,
        "tasks": checkpoint.model.tasks,
        "weather_classes": list(WEATHER_CLASSES),
        "calibration": calibration,
        "uncertainty": calibration["uncertainty"],
        "threshold": threshold,
        "lineage": checkpoint.lineage,
        "metrics": metrics["test"],
    }
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(info, sort_keys=True, ensure_ascii=False)
