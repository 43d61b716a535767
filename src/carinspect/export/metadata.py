"""Writes the metadata of a model file: what its answers depend on, its origin and its metrics."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd

from carinspect.core.questions import Question, Side
from carinspect.core.seeds import derive_seed
from carinspect.images.decode import RESIZE_CONTRACT
from carinspect.images.pixel_cache import load_photos
from carinspect.inference.bundle import FORMAT, METADATA_KEY, ModelBundle
from carinspect.inference.histograms import count, edges_of, measure
from carinspect.inference.predictor import Answer, BinaryAnswer, make_predictor
from carinspect.inference.rules import Thresholds
from carinspect.model.calibration import Calibration, Reading
from carinspect.model.checkpoint import Checkpoint, build_network
from carinspect.model.ensemble import EnsembleFit, join
from carinspect.model.gate import GateFit
from carinspect.model.marks import MarksFit
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
    """Stage → content of its metrics/<stage>.json: split, describe, evaluate and select_threshold."""
    marks: MarksFit | None = None

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
    """What `carinspect drift` compares with, from at most `MOST_PHOTOS` photos of `split`, evenly spaced in the sorted rows.

    Histograms of all of them, how many photos the groups have, and for each decided question those of its labelled photos by class.
    """
    rows = table[table["split"] == split].sort_values("image_path")
    rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, MOST_PHOTOS).astype(int))] if len(rows) > MOST_PHOTOS else rows
    predictor = make_predictor(bundle)
    loaded = load_photos(root, rows["image_path"].tolist(), side_px=predictor.image_side_px)
    answers: list[Answer] = []
    measured: list[dict[str, float]] = []
    for start in range(0, len(rows), BATCH):
        part = rows.iloc[start : start + BATCH]
        photos = np.stack([next(loaded) for _ in range(len(part))])
        sizes = zip(part["width_px"], part["height_px"], strict=True)
        for answer, pixels, (width_px, height_px) in zip(predictor.answer(photos), photos, sizes, strict=True):
            answers.append(answer)
            measured.append(measure(answer, pixels, width_px=int(width_px), height_px=int(height_px)))
    groups = rows["group"].value_counts().value_counts()
    return {
        "split": split,
        "photos": len(measured),
        "groups": {str(size): int(number) for size, number in groups.sort_index().items()},
        "histograms": count(measured),
        "classes": {name: describe_classes(rows, answers, rule.question) for name, rule in predictor.rules.items()},
    }


def describe_classes(rows: pd.DataFrame, answers: Sequence[Answer], question: Question) -> dict[str, Any]:
    """The answers to a binary question by class, of one labelled photo of each group: the fields of `QuestionReference`.

    answers: of the rows, in their order.
    """
    labelled = np.flatnonzero(rows[question.column].notna())
    lot = pd.Series([derive_seed("reference of drift", rows["image_path"].iloc[place]) for place in labelled], dtype=object)
    drawn = labelled[(lot == lot.groupby(rows["group"].to_numpy()[labelled]).transform("min")).to_numpy(bool)]
    found: dict[str, Any] = {}
    sides: tuple[Side, Side] = ("good", "bad")
    for side in sides:
        places = drawn[(rows[question.column].to_numpy()[drawn] == question.label_of(side)).astype(bool)]
        own = [one for one in (answers[place][question.name] for place in places) if isinstance(one, BinaryAnswer)]
        histogram = np.histogram([one.p for one in own], edges_of("p"))[0].tolist()
        found[side] = {"histogram": histogram, **{f"said_{said}": sum(one.side == said for one in own) for said in sides}}
    return found


def _entry(model: onnx.ModelProto) -> onnx.StringStringEntryProto:
    (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    return entry


def _to_json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, ensure_ascii=False)
