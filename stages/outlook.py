"""Says before the training which promises the labels of calib can prove, and how many more would do.

Reads: data/car_inspection_dataset.csv. Writes: metrics/outlook.json. Params: questions, select_threshold, split.fractions.
"""

from pathlib import Path

from carinspect.core.files import write_json
from carinspect.core.params import load_params, read_section
from carinspect.core.programs import run_stage
from carinspect.core.questions import read_questions
from carinspect.core.tables import dataset_columns, read_table
from carinspect.splits.config import SplitParams
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.outlook import describe_outlook, foresee, say_outlook


def main() -> None:
    params = load_params()
    questions, fractions = read_questions(params), read_section("split", SplitParams, params).fractions
    table = read_table(Path("data/car_inspection_dataset.csv"), columns=dataset_columns(questions), questions=questions)
    outlook = foresee(table, questions, read_section("select_threshold", SelectThresholdParams, params), fractions=fractions)
    write_json(Path("metrics/outlook.json"), describe_outlook(outlook))
    for sentence in say_outlook(outlook):
        print(sentence)


if __name__ == "__main__":
    run_stage(main, "outlook")
