"""Compares the network with the linear probe of the stage `probe`, question by question, on the same photos.

    {"val" | "test": {<question>: {"photos", "groups", "metric", "network", "probe", "difference", "difference_low",
                                   "difference_high", "verdict"}}}, or {"missing": why there is no probe}

`metric` is that of `metrics.headline`. `difference` is the network's figure less the probe's, with a paired interval over groups, so that
photos which are hard for both do not matter. With fewer labelled groups than `evaluate.slice_min_groups` there is no
interval, and no verdict but "no clear difference".
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pandas as pd

from carinspect.core.questions import Question
from carinspect.evaluation.config import EvaluateParams
from carinspect.evaluation.metrics import Report, headline
from carinspect.evaluation.predictions import answered, answers_to, numbers
from carinspect.evaluation.temperature import add_probabilities, fit_calibration
from carinspect.scoring.intervals import estimate, less, point

Verdict = Literal["better", "worse", "no clear difference"]
"""Of the network against the probe."""

COMPARED_SPLITS = ("val", "test")
"""Not calib, whose labels serve the decision rule alone. On val, where its epoch was chosen, the network looks slightly too good."""

MISSING = "model.pretrained is false: a probe on random features would be no baseline"


def compare_with_probe(predictions: pd.DataFrame, probe: pd.DataFrame, questions: Sequence[Question], params: EvaluateParams) -> Report:
    """The report above. predictions: the network's; probe: the content of data/probe.csv, which has no row where there is no probe."""
    if probe.empty:
        return {"missing": MISSING}
    network = predictions.sort_values("image_path", kind="stable").reset_index(drop=True)
    asked = [question for question in questions if set(question.raw_columns) <= set(probe.columns)]
    own = network.drop(
        columns=[column for question in asked for column in (*question.raw_columns, *question.answer_columns)], errors="ignore"
    )
    baseline = own.merge(probe, on="image_path", how="left", validate="one_to_one")
    # Calibrated on val, as the network is.
    baseline = add_probabilities(baseline, asked, fit_calibration(baseline, asked, priors={}))
    return {
        split: {
            question.name: _compare(network[network["split"] == split], baseline[baseline["split"] == split], question, params)
            for question in asked
        }
        for split in COMPARED_SPLITS
    }


def _compare(network: pd.DataFrame, probe: pd.DataFrame, question: Question, params: EvaluateParams) -> Report:
    photos = answered(network, question).index.intersection(answered(probe, question).index)
    network, probe = network.loc[photos], probe.loc[photos]
    name, metric = headline(question)
    labels_N, network_N, probe_N = numbers(network, question.column), answers_to(network, question), answers_to(probe, question)
    report: Report = {"photos": len(photos), "groups": int(network["group"].nunique()), "metric": name}
    report |= {"network": point(metric, labels_N, network_N), "probe": point(metric, labels_N, probe_N)}
    report |= dict.fromkeys(("difference", "difference_low", "difference_high"))
    if len(photos):
        groups_N, difference = network["group"].to_numpy(str), less(metric, probe_N)
        found = estimate(difference, labels_N, network_N, groups_N=groups_N, confidence=params.confidence, scale="difference")
        report["difference"] = found.value
        if report["groups"] >= params.slice_min_groups:
            report |= {"difference_low": found.low, "difference_high": found.high}
    return report | {"verdict": _judge(report, question)}


def _judge(report: Report, question: Question) -> Verdict:
    low, high = report["difference_low"], report["difference_high"]
    if low is None or high is None or low <= 0 <= high:
        return "no clear difference"
    # Of a score the headline is an error.
    return "better" if (low > 0) == question.has_classes else "worse"


def probe_alarms(report: Report) -> list[str]:
    """One sentence for each question whose network is clearly worse on test than its probe."""
    return [
        f"{name}: the network is clearly worse on test than a linear probe on frozen features ({_say_pair(found)}). Fine-tuning has cost "
        "more than it brought: lower train.lr or train.backbone_lr_factor, or train for more epochs."
        for name, found in report.get("test", {}).items()
        if found["verdict"] == "worse"
    ]


def say_comparison(report: Report) -> Iterator[str]:
    """Network and probe side by side on test, a line a question; or why there is no probe."""
    if "missing" in report:
        yield f"no probe to compare with: {report['missing']}."
    for name, found in report.get("test", {}).items():
        yield f"{name}: {_say_pair(found)}; {found['verdict']}"


def _say_pair(found: dict[str, Any]) -> str:
    interval = "no interval" if found["difference_low"] is None else f"{found['difference_low']:+.3f} to {found['difference_high']:+.3f}"
    network, probe, difference = ("unknown" if found[key] is None else f"{found[key]:.3f}" for key in ("network", "probe", "difference"))
    return f"{found['metric']} {network}, probe {probe}, difference {difference} ({interval})"
