"""Exports the trained model as one file that describes itself, proves that it answers as torch does, and makes smaller copies of it.

Reads: models/best.pt, models/calibration.json, models/threshold.json, metrics/evaluate.json, data/car_inspection_dataset.csv and its
photos. Writes: models/best.onnx, models/variants, metrics/export_onnx.json. Params: export_onnx, data.
"""

import json
from pathlib import Path

from carinspect.core.data import DataParams
from carinspect.core.errors import run_stage
from carinspect.core.files import write_bytes, write_json
from carinspect.core.params import read_section
from carinspect.core.tables import DATASET_COLUMNS, read_table
from carinspect.export.config import ExportParams
from carinspect.export.files import Photos, export_model, export_variants
from carinspect.model.checkpoint import load_checkpoint

SOURCES = {"calibration": "models/calibration.json", "threshold": "models/threshold.json", "metrics": "metrics/evaluate.json"}
FOLDER = Path("models")


def main() -> None:
    params = read_section("export_onnx", ExportParams)
    root = read_section("data", DataParams).root_path
    table = read_table(Path("data/car_inspection_dataset.csv"), columns=DATASET_COLUMNS)
    checkpoint = load_checkpoint(FOLDER / "best.pt")
    facts = {name: json.loads(Path(file).read_text()) for name, file in SOURCES.items()}
    photos = Photos(table, root, side_px=params.image_side_px or checkpoint.image_side_px)

    exported = export_model(checkpoint, facts, photos, params)
    write_bytes(FOLDER / "best.onnx", exported.content)
    report = exported.comparison | {"bytes": len(exported.content), "variants": {}}
    print(f"models/best.onnx: {len(exported.content) / 1e6:.1f} MB, answers as torch does on {exported.comparison['photos']} photos")

    (FOLDER / "variants").mkdir(exist_ok=True)
    for name, variant in export_variants(exported, photos, params):
        write_bytes(FOLDER / "variants" / f"best.{name}.onnx", variant.content)
        report["variants"][name] = variant.comparison | {"bytes": len(variant.content)}
        flips, megabytes = variant.comparison["flipped_decisions"], len(variant.content) / 1e6
        print(f"models/variants/best.{name}.onnx: {megabytes:.1f} MB, {flips} decisions flip")
    write_json(Path("metrics/export_onnx.json"), report)


if __name__ == "__main__":
    run_stage(main, "export_onnx")
