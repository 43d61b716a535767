"""Exports the trained model as one file with its metadata, checks that it answers as torch does, and makes smaller copies of it.

Reads: models/{best,ensemble,gate,marks}.pt, models/{calibration,threshold}.json, metrics/{split,describe,evaluate,select_threshold}.json,
data/car_inspection_dataset.csv and its photos. Writes: models/best.onnx, models/variants, reports/model_card.md,
metrics/export_onnx.json, metrics/headline.json. Params: export_onnx, data.
"""

from pathlib import Path
from typing import Any

from carinspect.core.data import DataParams
from carinspect.core.files import write_bytes, write_json
from carinspect.core.params import load_json, read_section
from carinspect.core.programs import run_stage
from carinspect.core.tables import dataset_columns, read_table
from carinspect.export.card import draw_model_card, pick_headlines
from carinspect.export.config import ExportParams
from carinspect.export.metadata import Trained
from carinspect.export.model_files import Exported, Photos, export_model, export_variants, measure_latency
from carinspect.inference.rules import read_thresholds
from carinspect.model.calibration import read_calibration
from carinspect.model.checkpoint import load_checkpoint
from carinspect.model.ensemble import load_ensemble
from carinspect.model.gate import load_gate
from carinspect.model.marks import load_marks

FOLDER = Path("models")


def main() -> None:
    params = read_section("export_onnx", ExportParams)
    root = read_section("data", DataParams).root_path
    thresholds = FOLDER / "threshold.json"
    trained = Trained(
        checkpoint=load_checkpoint(FOLDER / "best.pt"),
        calibration=read_calibration(FOLDER / "calibration.json"),
        thresholds=read_thresholds(load_json(thresholds), file=str(thresholds)),
        gate=load_gate(FOLDER / "gate.pt"),
        metrics={stage: load_json(Path(f"metrics/{stage}.json")) for stage in ("split", "describe", "evaluate", "select_threshold")},
        ensemble=load_ensemble(FOLDER / "ensemble.pt"),
        marks=load_marks(FOLDER / "marks.pt"),
    )
    questions = trained.checkpoint.questions
    table = read_table(Path("data/car_inspection_dataset.csv"), columns=dataset_columns(questions), questions=questions)
    photos = Photos(table, root, side_px=trained.reading.image_side_px)

    exported = export_model(trained, photos, params)
    write_bytes(FOLDER / "best.onnx", exported.content)
    report = describe(exported, photos, params) | {"variants": {}}
    print(f"models/best.onnx: {len(exported.content) / 1e6:.1f} MB, answers as torch does on {exported.comparison['photos']} photos")

    for name, variant in export_variants(exported, photos, params):
        write_bytes(FOLDER / "variants" / f"best.{name}.onnx", variant.content)
        report["variants"][name] = describe(variant, photos, params)
        flips, megabytes = variant.comparison["flipped_decisions"], len(variant.content) / 1e6
        print(f"models/variants/best.{name}.onnx: {megabytes:.1f} MB, {flips} decisions flip")
    # DVC warns of an empty folder, and makes none of it elsewhere.
    write_json(FOLDER / "variants" / "variants.json", report["variants"])
    write_json(Path("metrics/export_onnx.json"), report)
    write_json(Path("metrics/headline.json"), pick_headlines(trained, table))
    card = draw_model_card(trained, table, parity=exported.comparison)
    write_bytes(Path("reports/model_card.md"), card.encode())


def describe(file: Exported, photos: Photos, params: ExportParams) -> dict[str, Any]:
    """The metrics of one model file."""
    found = file.comparison | {"bytes": len(file.content)}
    if params.latency_runs:
        found["latency_ms"] = measure_latency(file.content, photos.of("val", most=params.parity_photos), runs=params.latency_runs)
    return found


if __name__ == "__main__":
    run_stage(main, "export_onnx")
