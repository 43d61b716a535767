"""Owns how a metric gets its `<name>_low` and `<name>_high`: by a bootstrap over the groups of its photos."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from carinspect.core.seeds import derive_seed
from carinspect.evaluation.config import EvaluateParams
from carinspect.scoring.bootstrap import NOTHING, Estimate, Metric, estimate, resample_groups
from carinspect.scoring.ranking import Array

Report = dict[str, Any]


def with_intervals(known: pd.DataFrame, metrics: Mapping[str, Metric], labels_N: Array, answers_N: Array, params: EvaluateParams) -> Report:
    """`<name>`, `<name>_low` and `<name>_high` of each metric, None where unknown, and `skipped_resamples`, the most that any left out."""
    estimates: dict[str, Estimate] = dict.fromkeys(metrics, NOTHING)
    if len(known):
        # One draw of groups for all metrics of these rows, so that they can be compared.
        seed = derive_seed(params.seed, "bootstrap")
        weights_SxN = resample_groups(known["group"].to_numpy(str), samples=params.bootstrap_samples, seed=seed)
        for name, metric in metrics.items():
            estimates[name] = estimate(metric, labels_N, answers_N, weights_SxN=weights_SxN, confidence=params.confidence)
    report: Report = {"skipped_resamples": max(found.skipped_resamples for found in estimates.values())}
    for name, found in estimates.items():
        report |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return report
