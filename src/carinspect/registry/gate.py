"""Checks whether a model may be released: it needs a proof, a split without leaks, and must be better than the current model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from carinspect.comparison.differences import Comparison
from carinspect.comparison.words import say
from carinspect.inference.rules import Thresholds


@dataclass(frozen=True)
class Candidate:
    """The files of a revision that describe its model."""

    thresholds: Thresholds
    """models/threshold.json."""
    predictions_sha256: str
    """Of data/predictions.csv."""
    certificate: Mapping[str, Any]
    """metrics/split.json."""
    carried_thresholds: Thresholds
    """Those inside models/best.onnx."""


def unproved(candidate: Candidate) -> list[str]:
    """Reasons against a release that need no comparison, each a sentence; empty if there are none.

    The promise that counts is that of the good word of the first decided question.
    """
    thresholds, leaks = candidate.thresholds, candidate.certificate["leaks"]
    reasons = []
    if not thresholds.rules:
        reasons.append("Nothing is decided about any of its questions. Declare questions.<name>.decide, and dvc repro.")
    else:
        good = next(iter(thresholds.rules.values())).photo.good
        if good.threshold is None:
            reasons.append(f"Its promise of '{good.word}' is infeasible: {good.reason}.")
        elif good.promise is None:
            reasons.append(
                f"Its threshold of '{good.word}' proves nothing. Set select_threshold.method: guaranteed, source: calib, and dvc repro."
            )
    if leaks:
        reasons.append(f"Its split leaks ({leaks} times by metrics/split.json), so its figures and its proof say nothing. Fix the split.")
    if thresholds.predictions_sha256 != candidate.predictions_sha256:
        reasons.append("Its threshold was chosen on other predictions than data/predictions.csv holds. Run dvc repro, and commit.")
    if candidate.carried_thresholds != thresholds:
        reasons.append("models/best.onnx carries another threshold than models/threshold.json. Run dvc repro, and commit.")
    return reasons


def not_better(comparison: Comparison) -> list[str]:
    """The reason against replacing A by B; empty if B is clearly better somewhere and clearly worse nowhere."""
    return [] if comparison.verdict == "better" else [say(comparison)]
