"""Scores val, calib and test, each photo once, and some of test corrupted; draws the curves and a gallery of answers.

Reads: models/best.pt, models/probe.pt, models/marks.pt, data/car_inspection_dataset.csv, data/outlines.csv, data/probe.csv,
data/probe_left_out.csv, the photos. Writes: data/predictions.csv, data/corrupted.csv, data/marks.csv, models/calibration.json,
models/ensemble.pt, models/gate.pt, reports/evaluate/, metrics/evaluate.json. Params: evaluate, data, model.ensemble; all of params.yaml
where evaluate.leave_one_source_out trains again. `model.pretrained` is read for an ensemble, and changes no result beyond the recipe.
"""

from pathlib import Path

from carinspect.core.data import DataParams
from carinspect.core.files import write_json
from carinspect.core.params import load_params, read_section
from carinspect.core.programs import run_stage
from carinspect.core.tables import dataset_columns, read_table, write_table
from carinspect.evaluation.baseline import compare_with_probe, probe_alarms, say_comparison
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.curves import make_curves, write_curves
from carinspect.evaluation.ensembling import fit_ensemble
from carinspect.evaluation.findings import evaluate_predictions
from carinspect.evaluation.gallery import write_gallery
from carinspect.evaluation.left_out import leave_sources_out
from carinspect.evaluation.marks import Mapper, measure_marks, say_marks, write_froc, write_marks
from carinspect.evaluation.panels import write_confidence_plot, write_overview
from carinspect.evaluation.predictions import (
    SCORED_SPLITS,
    add_spreads,
    add_strangeness,
    fit_gate_to,
    predict,
    predict_pixels,
    read_pixels,
    reading_of,
    some_of,
)  # fmt: skip
from carinspect.evaluation.robustness import measure_drops, say_drops, score_corrupted, write_corrupted, write_drops
from carinspect.evaluation.temperature import add_probabilities, fit_calibration
from carinspect.images.label_maps import read_outlines
from carinspect.model.checkpoint import build_network, load_checkpoint
from carinspect.model.config import ModelParams
from carinspect.model.ensemble import join, save_ensemble
from carinspect.model.gate import save_gate
from carinspect.model.marks import load_marks
from carinspect.model.uncertainty import plan_dropout

PROBE, OUTLINES = Path("data/probe.csv"), Path("data/outlines.csv")
REPORTS = Path("reports/evaluate")


def main() -> None:
    params = read_section("evaluate", EvaluateParams)
    root = read_section("data", DataParams).root_path
    checkpoint = load_checkpoint(Path("models/best.pt"))
    questions = checkpoint.questions
    table = read_table(Path("data/car_inspection_dataset.csv"), columns=dataset_columns(questions), questions=questions)
    train, scored = table[table["split"] == "train"], table[table["split"].isin(SCORED_SPLITS)].reset_index(drop=True)

    network, model, baseline = build_network(checkpoint), read_section("model", ModelParams), read_table(PROBE, columns=["image_path"])
    reading = reading_of(checkpoint, network, params)
    ensemble = None
    if model.ensemble == "probe":
        val = predict(network, scored[scored["split"] == "val"].reset_index(drop=True), root=root, reading=reading)
        ensemble = fit_ensemble(checkpoint, val.table, baseline, probe=Path("models/probe.pt"), pretrained=model.pretrained)
        network = join(network, checkpoint, ensemble)
    save_ensemble(ensemble, Path("models/ensemble.pt"))
    pixels = read_pixels(scored, root=root, image_side_px=reading.image_side_px)
    found = predict_pixels(network, scored, pixels, mirror=reading.mirror)
    gate = fit_gate_to(predict(network, some_of(train), root=root, reading=reading), found)
    raw = add_strangeness(found.table, found, gate)
    dropout = plan_dropout(samples=params.dropout_samples, dropout=checkpoint.model.dropout, seed=params.seed)
    calibration = fit_calibration(raw, questions, priors=checkpoint.lineage["priors"], uncertainty=dropout, reading=reading)
    predictions = add_spreads(add_probabilities(raw, questions, calibration), network, found.features_NF, calibration=calibration)
    write_json(Path("models/calibration.json"), calibration.model_dump())
    save_gate(gate, Path("models/gate.pt"))
    write_table(predictions, Path("data/predictions.csv"), questions)

    report = evaluate_predictions(predictions, params, questions=questions, calibration=calibration, train_labels=train)
    if params.leave_one_source_out:
        probe_left_out = read_table(Path("data/probe_left_out.csv"), columns=["image_path"])
        report["leave_one_source_out"] = leave_sources_out(
            checkpoint, table, predictions, probe_left_out, OUTLINES, root=root, reading=reading, evaluation=params, params=load_params()
        )
    report["probe"] = compare_with_probe(predictions, baseline, questions, params)
    report["ensemble"] = None if ensemble is None else dict(ensemble.shares)
    report["alarms"] += probe_alarms(report["probe"])
    corrupted = score_corrupted(network, scored, pixels, params, calibration=calibration, gate=gate)
    write_corrupted(corrupted, Path("data/corrupted.csv"))
    report["corruptions"] = measure_drops(corrupted, questions)
    fit, outlines = load_marks(Path("models/marks.pt")), read_outlines(OUTLINES)
    mapper = None if fit is None else Mapper(network, fit, pixels, scored["image_path"].tolist())
    measured = None if mapper is None else measure_marks(scored, mapper.maps, mapper.fit, outlines, questions, params)
    write_marks(measured, Path("data/marks.csv"))
    report["marks"] = {} if measured is None else measured.report
    write_json(Path("metrics/evaluate.json"), report)
    curves = make_curves(predictions, questions)
    write_curves(curves, REPORTS)
    write_overview(curves, questions, REPORTS / "evaluation.png", train_labels=train)
    write_confidence_plot(curves, questions, REPORTS / "confidence.png")
    if measured is not None:
        write_froc(measured, REPORTS)
    write_gallery(predictions, questions, root, REPORTS, marks_of=None if mapper is None else mapper.outlines)
    if params.corruptions:
        write_drops(report["corruptions"], questions, params.corruptions, REPORTS / "corruptions.png")
    for line in say_comparison(report["probe"]):
        print(line)
    print(say_drops(report["corruptions"], questions))
    for line in say_marks(report["marks"]):
        print(line)
    for alarm in report["alarms"]:
        print(f"alarm: {alarm}")
    print(f"{len(predictions):,} photos scored: metrics/evaluate.json, {REPORTS}/evaluation.png, {REPORTS}/answers.png")


if __name__ == "__main__":
    run_stage(main, "evaluate")
