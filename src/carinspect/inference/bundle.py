"""Owns models/best.onnx: a file that describes itself, and answers from it. Imports no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from carinspect.core.errors import UserError
from carinspect.images.decode import RESIZE_CONTRACT

FORMAT = 1
METADATA_KEY = "carinspect"


@dataclass(frozen=True)
class ModelBundle:
    """An opened model file."""

    session: onnxruntime.InferenceSession
    info: dict[str, Any]
    """All that the file says of itself: `image_side_px`, `tasks`, `weather_classes`, `threshold`, `calibration`, `lineage`, `metrics`."""

    @property
    def threshold(self) -> float | None:
        """`p_clean` at or above this is clean; None when no threshold could be proved."""
        return self.info["threshold"]["T_clean"]

    def predict(self, photos: np.ndarray, *, batch_size: int = 32) -> dict[str, np.ndarray]:
        """Named answers, float32, for uint8 photos of shape (N, side, side, 3) made by `images.decode.load_image`."""
        names = [output.name for output in self.session.get_outputs()]
        batches = [photos[start : start + batch_size] for start in range(0, len(photos), batch_size)]
        answers = [self.session.run(names, {self.session.get_inputs()[0].name: batch}) for batch in batches]
        return {name: np.concatenate([answer[place] for answer in answers]) for place, name in enumerate(names)}


def open_bundle(model: Path | bytes) -> ModelBundle:
    """Open a model file, or its bytes, on the CPU.

    Raises `UserError` when it is missing, is no model of this project, or was made for another resize contract.
    """
    if isinstance(model, Path) and not model.is_file():
        raise UserError(f"{model}: no such model file. Make one (dvc repro) or pull one (dvc pull {model}).")
    name = model if isinstance(model, Path) else "the model"
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise UserError(f"{name}: not a model that onnxruntime can open ({' '.join(str(error).split())[:200]}).") from None
    metadata = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if metadata is None:
        raise UserError(f"{name}: an ONNX file, but not of this project: it has no '{METADATA_KEY}' metadata. Export it by dvc repro.")
    info = json.loads(metadata)
    found = info.get("format"), info.get("resize_contract")
    if found != (FORMAT, RESIZE_CONTRACT):
        raise UserError(f"{name}: made for format and resize contract {found}, this code has {(FORMAT, RESIZE_CONTRACT)}. Export it again.")
    return ModelBundle(session=session, info=info)
