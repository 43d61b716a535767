"""Chooses the gate, and behind it the thresholds of every question that is decided, for a photo and for a whole car, and from which
strength on a mark is shown; says what they prove.

Reads: data/predictions.csv, data/corrupted.csv, data/marks.csv, metrics/train_marks.json. Writes: models/threshold.json,
metrics/select_threshold.json, reports/select_threshold. Params: questions, select_threshold.
"""

from pathlib import Path

from carinspect.core.files import sha256_of, write_json
from carinspect.core.params import load_json, load_params, read_section
from carinspect.core.programs import run_stage
from carinspect.core.questions import read_questions
from carinspect.core.tables import dataset_columns, read_table
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.corrupted import apply_rules, read_corrupted, say_corrupted, write_corrupted_plot
from carinspect.thresholds.gate import choose_gate, passes_gate
from carinspect.thresholds.marks import choose_marks, headline_marks, read_marks, say_marks
from carinspect.thresholds.report import headlines, make_curve, say_rules, write_curve
from carinspect.thresholds.rule_plots import write_cost_plot, write_threshold_plot
from carinspect.thresholds.selection import collect_thresholds, select_thresholds
from carinspect.thresholds.sets import choose_sets

PREDICTIONS, CORRUPTED, MARKS = Path("data/predictions.csv"), Path("data/corrupted.csv"), Path("data/marks.csv")
REPORTS = Path("reports/select_threshold")


def main() -> None:
    params, questions = read_section("select_threshold", SelectThresholdParams), read_questions(load_params())
    table = read_table(PREDICTIONS, columns=dataset_columns(questions), questions=questions)
    gate = choose_gate(table, params)
    selected = select_thresholds(table, questions, params, gate=gate)
    sets = choose_sets(table, questions, params, gate=gate)
    cuts = {name: one["cut"] for name, one in load_json(Path("metrics/train_marks.json"))["questions"].items() if "cut" in one}
    marked = read_marks(MARKS)
    marks = choose_marks(marked, questions, cuts, params, passing=set(table["image_path"][passes_gate(table, gate)]))
    thresholds = collect_thresholds(selected, questions, gate=gate, predictions_sha256=sha256_of(PREDICTIONS), sets=sets, marks=marks)
    write_json(Path("models/threshold.json"), thresholds.model_dump(mode="json"))
    of_marks = headline_marks(marks, marked)
    corruptions = apply_rules(read_corrupted(CORRUPTED), thresholds)
    write_json(Path("metrics/select_threshold.json"), headlines(thresholds, table) | {"corruptions": corruptions, "marks": of_marks})
    for name, one in selected.items():
        photo = one.rules.photo
        curve = make_curve(one.source, confidence=photo.confidence)
        write_curve(curve, REPORTS / f"{name}_threshold.csv")
        write_threshold_plot(curve, photo, REPORTS / f"{name}_threshold.png")
        write_cost_plot(one.costs, photo, REPORTS / f"{name}_costs.png")
    write_corrupted_plot(corruptions, thresholds.questions, REPORTS / "corruptions.png")
    print("\n".join([*say_rules(thresholds, table), *say_marks(of_marks), say_corrupted(corruptions)]))


if __name__ == "__main__":
    run_stage(main, "select_threshold")
