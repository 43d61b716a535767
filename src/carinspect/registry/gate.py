"""What a model must show before it is released: its proof, a split without leaks, and being better than the one in use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from carinspect.comparison.differences import Comparison
from carinspect.comparison.words import say
from carinspect.inference.rules import Thresholds


@dataclass(frozen=True)
class Candidate:
    """What a revision says of its model."""

    thresholds: Thresholds
    """models/threshold.json."""
    predictions_sha256: str
    """Of data/predictions.csv."""
    certificate: Mapping[str, Any]
    """metrics/split.json."""
    carried_thresholds: Thresholds
    """Those inside models/best.onnx."""


def unproved(candidate: Candidate) -> list[str]:
    """Why the model may not be released whatever it is compared with, each reason a sentence; none when it may.

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
    """Why B may not take A's place; none when it is better beyond noise, and nowhere clearly worse."""
    return [] if comparison.verdict == "better" else [say(comparison)]
