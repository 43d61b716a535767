"""Chooses the threshold of the gate, from the photos of the source split alone and without their labels.

One photo is drawn from each group, as for the proof. If the gate turns away what is at least as strange as the k-th strangest of n such
photos, it turns away a new one with probability k / (n + 1) (Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random World",
proposition 2.2). Given that k-th value the photos below it are independent draws from the photos that pass. So the binomial test of the
thresholds remains exact behind the gate.
"""

import numpy as np
import pandas as pd

from carinspect.core.errors import UserError
from carinspect.core.gate import MEASURES
from carinspect.inference.gate import GateRule
from carinspect.thresholds.config import SelectThresholdParams
from carinspect.thresholds.sample import draw_one_a_group

COLUMN = "strangeness"


def choose_gate(table: pd.DataFrame, params: SelectThresholdParams) -> GateRule:
    """The gate of predictions. Raises `UserError` when they have no column `strangeness`, or no photo of the source split."""
    if COLUMN not in table.columns:
        raise UserError(f"the predictions have no column '{COLUMN}'. Make them again: dvc repro --force evaluate.")
    rows = table[table["split"] == params.source]
    if rows.empty:
        raise UserError(f"no prediction in split '{params.source}', on which the gate is chosen. Enlarge it under split.fractions.")
    strangest_first = np.sort(rows.loc[draw_one_a_group(rows), COLUMN].to_numpy(np.float64))[::-1]
    # With few groups one of them is the least that the gate can turn away.
    turned_away = max(1, int(params.gate_share * (len(strangest_first) + 1)))
    threshold, groups = float(strangest_first[turned_away - 1]), len(strangest_first)
    return GateRule(threshold=threshold, share=turned_away / (groups + 1), groups=groups, measures=list(MEASURES))


def passes_gate(table: pd.DataFrame, gate: GateRule) -> pd.Series:
    """Which photos of a table pass."""
    return table[COLUMN] < gate.threshold
