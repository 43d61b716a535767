"""Owns what a model must show before it is released: its proof, a split without leaks, and being better than the one in use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from carinspect.comparison.compare import Comparison
from carinspect.comparison.words import say


@dataclass(frozen=True)
class Candidate:
    """What a revision says of its model."""

    threshold: Mapping[str, Any]
    """models/threshold.json."""
    predictions_sha256: str
    """Of data/predictions.csv."""
    certificate: Mapping[str, Any]
    """metrics/split.json."""
    carried_threshold: Mapping[str, Any]
    """The threshold inside models/best.onnx."""


def unproved(candidate: Candidate) -> list[str]:
    """Why the model may not be released whatever it is compared with, each reason a sentence; none when it may."""
    threshold, leaks = candidate.threshold, candidate.certificate["leaks"]
    reasons = []
    if not threshold["feasible"]:
        reasons.append(f"Its promise is infeasible: {threshold['reason']}.")
    elif threshold["proves"] is None:
        reasons.append("Its threshold proves nothing: select_threshold.method is 'empirical'. Set it to guaranteed, and dvc repro.")
    if leaks:
        reasons.append(f"Its split leaks ({leaks} times by metrics/split.json), so its figures and its proof say nothing. Mend the split.")
    if threshold["predictions_sha256"] != candidate.predictions_sha256:
        reasons.append("Its threshold was chosen on other predictions than data/predictions.csv holds. Run dvc repro, and commit.")
    if candidate.carried_threshold != threshold:
        reasons.append("models/best.onnx carries another threshold than models/threshold.json. Run dvc repro, and commit.")
    return reasons


def not_better(comparison: Comparison) -> list[str]:
    """Why B may not take A's place; none when it is better beyond noise, and nowhere clearly worse."""
    return [] if comparison.verdict == "better" else [say(comparison)]
