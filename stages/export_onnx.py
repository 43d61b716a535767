"""Exports the trained model as one file that describes itself, and proves that it answers as torch does.

Reads: models/best.pt, models/calibration.json, models/threshold.json, metrics/{split,describe,evaluate}.json,
data/car_inspection_dataset.csv and photos of the split val. Writes: models/best.onnx, reports/model_card.md, metrics/export_onnx.json.
Params: export_onnx, data.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from carinspect.core.data import DataParams
from carinspect.core.errors import run_stage
from carinspect.core.files import write_bytes, write_json
from carinspect.core.params import read_section
from carinspect.core.tables import DATASET_COLUMNS, read_table
from carinspect.export.card import CardFacts, draw_model_card
from carinspect.export.config import ExportParams
from carinspect.export.describe import describe_model
from carinspect.export.graph import AnsweringNetwork, to_onnx
from carinspect.export.parity import compare, refuse_disparity
from carinspect.images.store import load_photos
from carinspect.inference.bundle import open_bundle
from carinspect.model.checkpoint import build_network, load_checkpoint

TABLE = Path("data/car_inspection_dataset.csv")


def main() -> None:
    params = read_section("export_onnx", ExportParams)
    data = read_section("data", DataParams)
    checkpoint = load_checkpoint(Path("models/best.pt"))
    calibration, threshold = _read_json("models/calibration.json"), _read_json("models/threshold.json")
    metrics = {stage: _read_json(f"metrics/{stage}.json") for stage in ("split", "describe", "evaluate")}
    network = AnsweringNetwork(build_network(checkpoint), calibration)
    model = to_onnx(network, image_side_px=checkpoint.image_side_px)
    describe_model(model, checkpoint=checkpoint, calibration=calibration, threshold=threshold, metrics=metrics["evaluate"])
    content = model.SerializeToString(deterministic=True)

    table = read_table(TABLE, columns=DATASET_COLUMNS)
    paths = table.loc[table["split"] == "val", "image_path"].tolist()[: params.parity_photos]
    photos = np.stack(list(load_photos(data.root_path, paths, side_px=checkpoint.image_side_px)))
    comparison = compare(network, open_bundle(content), photos)
    refuse_disparity(comparison, tolerance=params.tolerance)
    write_bytes(Path("models/best.onnx"), content)
    write_json(Path("metrics/export_onnx.json"), comparison | {"bytes": len(content)})
    card = CardFacts(checkpoint, table, calibration=calibration, threshold=threshold, parity=comparison, **metrics)
    write_bytes(Path("reports/model_card.md"), draw_model_card(card).encode())
    print(f"models/best.onnx: {len(content) / 1e6:.1f} MB, answers as torch does on {len(photos)} photos")


def _read_json(file: str) -> Any:
    return json.loads(Path(file).read_text())


if __name__ == "__main__":
    run_stage(main, "export_onnx")
