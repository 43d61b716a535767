"""Chooses the thresholds of clean and dirty, of undamaged and damaged, and of a whole car, and says what they prove and cost.

Reads: data/predictions.csv. Writes: models/threshold.json, metrics/select_threshold.json, reports/select_threshold.
Params: select_threshold, decision.
"""

from pathlib import Path

from carinspect.core.files import sha256_of, write_json
from carinspect.core.params import read_section
from carinspect.core.programs import run_stage
from carinspect.core.tables import read_table
from carinspect.thresholds.config import DecisionParams, SelectThresholdParams
from carinspect.thresholds.cost_plot import write_cost_plot
from carinspect.thresholds.plot import write_threshold_plot
from carinspect.thresholds.questions import COLUMNS
from carinspect.thresholds.report import headline, make_curve, say, write_curve
from carinspect.thresholds.rules import choose_rules

PREDICTIONS = Path("data/predictions.csv")
REPORTS = Path("reports/select_threshold")


def main() -> None:
    params, decision = read_section("select_threshold", SelectThresholdParams), read_section("decision", DecisionParams)
    rules = choose_rules(read_table(PREDICTIONS, columns=COLUMNS), params, decision)
    curve = make_curve(rules.clean_source, confidence=params.confidence)
    write_json(Path("models/threshold.json"), rules.content | {"predictions_sha256": sha256_of(PREDICTIONS)})
    write_json(Path("metrics/select_threshold.json"), headline(rules.content))
    write_curve(curve, REPORTS / "threshold.csv")
    write_threshold_plot(curve, rules.content, REPORTS / "threshold.png")
    write_cost_plot(rules.clean_costs, rules.content, REPORTS / "costs.png", above="clean", below="dirty")
    write_cost_plot(rules.damage_costs, rules.content["damage"], REPORTS / "damage_costs.png", above="undamaged", below="damaged")
    print("\n".join(say(rules.content)))


if __name__ == "__main__":
    run_stage(main, "select_threshold")
