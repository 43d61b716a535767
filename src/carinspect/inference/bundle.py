"""Opens a model file with its metadata, and runs the model. Imports no torch."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from carinspect.core.errors import UserError, one_line
from carinspect.core.questions import MARKS, Question
from carinspect.images.decode import RESIZE_CONTRACT
from carinspect.inference.rules import Thresholds, read_thresholds
from carinspect.inference.seal import check_seal
from carinspect.inference.session import Device, open_session

FORMAT = 4
METADATA_KEY = "carinspect"


@dataclass(frozen=True)
class ModelBundle:
    """An opened model file."""

    session: onnxruntime.InferenceSession
    questions: tuple[Question, ...]
    """The questions that it answers, in their order."""
    thresholds: Thresholds
    """Its rules and what they prove."""
    image_side_px: int
    info: dict[str, Any]
    """The metadata of the file, which export/metadata.py writes and `carinspect inspect` prints."""
    sha256: str
    """Of the whole file, as `sha256sum` prints it; it identifies the model."""
    file_bytes: int
    """Size of the file."""
    has_maps: bool
    """Whether `predict` gives its maps."""

    def with_maps(self) -> "ModelBundle":
        """The same model, which also gives its maps. Raises `UserError` when it has none."""
        rules = self.thresholds.marks
        if not rules:
            raise UserError("a model without maps, so it can mark no place. Ask for no marks, or train one on outlined photos.")
        shape = next((output.shape for output in self.session.get_outputs() if output.name == MARKS), None)
        if shape is None or len(shape) != 4 or shape[1] != len(rules):
            raise UserError(f"it has rules for {len(rules)} maps, and its output '{MARKS}' is {shape}. Export it again.")
        return replace(self, has_maps=True)

    @property
    def provider(self) -> str:
        """Where the model runs, in onnxruntime's terms: CPUExecutionProvider or CUDAExecutionProvider."""
        return str(self.session.get_providers()[0])

    def predict(self, photos: np.ndarray, *, batch_size: int = 32) -> dict[str, np.ndarray]:
        """Named answers, float32, for uint8 photos of shape (N, side, side, 3) made by `images.decode.load_image`.

        The maps, `marks` of shape (N, K, h, w), are among them where the file was opened for them.
        """
        batches = [photos[start : start + batch_size] for start in range(0, len(photos), batch_size)]
        answers = [self.session.run(self._outputs, {self._input: batch}) for batch in batches]
        return {name: np.concatenate([answer[place] for answer in answers]) for place, name in enumerate(self._outputs)}

    @cached_property
    def _outputs(self) -> list[str]:
        return [output.name for output in self.session.get_outputs() if self.has_maps or output.name != MARKS]

    @cached_property
    def _input(self) -> str:
        return str(self.session.get_inputs()[0].name)


def open_bundle(model: Path | bytes, *, device: Device = "cpu", threads: int | None = None, marks: bool = False) -> ModelBundle:
    """Open a model file, or its bytes. device, threads: as in `session.open_session`; marks: whether its maps are asked for.

    Raises `UserError` when the file is missing, not of this project,
    altered since its export, or made for another resize contract, when it has no maps and is asked for them, and when `device` is not
    available.
    """
    name = model if isinstance(model, Path) else "the model"
    content = _read(model) if isinstance(model, Path) else model
    try:
        check_seal(content)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    try:
        session = open_session(content, device=device, threads=threads)
    except UserError:
        raise
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise UserError(f"{name}: not a model that onnxruntime can open ({one_line(error)}).") from None
    metadata = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if metadata is None:
        raise UserError(f"{name}: an ONNX file, but not of this project: it has no '{METADATA_KEY}' metadata. Export it by dvc repro.")
    info = json.loads(metadata)
    found = info.get("format"), info.get("resize_contract")
    if found != (FORMAT, RESIZE_CONTRACT):
        raise UserError(f"{name}: made for format and resize contract {found}, this code has {(FORMAT, RESIZE_CONTRACT)}. Export it again.")
    thresholds = read_thresholds(info.get("threshold"), file=str(name))
    bundle = ModelBundle(
        session=session,
        questions=tuple(thresholds.questions),
        thresholds=thresholds,
        image_side_px=int(info["image_side_px"]),
        info=info,
        sha256=sha256(content).hexdigest(),
        file_bytes=len(content),
        has_maps=False,
    )
    if not marks:
        return bundle
    try:
        return bundle.with_maps()
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path}: no such model file. Make one (dvc repro) or pull one (dvc pull {path}).")
    return path.read_bytes()
