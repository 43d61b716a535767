"""Chooses the threshold of "clean" and says what it proves.

Reads: data/predictions.csv. Writes: models/threshold.json, metrics/select_threshold.json, reports/select_threshold.
Params: select_threshold.
"""

from pathlib import Path

from carinspect.core.errors import run_stage
from carinspect.core.files import sha256_of, write_json
from carinspect.core.params import read_section
from carinspect.core.tables import read_table
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.plot import write_threshold_plot
from carinspect.thresholds.report import headline, make_curve, say, write_curve
from carinspect.thresholds.selection import COLUMNS, select_threshold

PREDICTIONS = Path("data/predictions.csv")
REPORTS = Path("reports/select_threshold")


def main() -> None:
    params = read_section("select_threshold", SelectThresholdParams)
    table = read_table(PREDICTIONS, columns=COLUMNS)
    selection = select_threshold(table, params)
    curve = make_curve(table, params)
    write_json(Path("models/threshold.json"), selection | {"predictions_sha256": sha256_of(PREDICTIONS)})
    write_json(Path("metrics/select_threshold.json"), headline(selection))
    write_curve(curve, REPORTS / "threshold.csv")
    write_threshold_plot(curve, selection, REPORTS / "threshold.png")
    print("\n".join([say(selection), *selection["warnings"]]))


if __name__ == "__main__":
    run_stage(main, "select_threshold")
