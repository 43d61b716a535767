"""`carinspect promote`: releases a model that passes the checks of registry/gate.py, or prints the reasons against it."""

import json
from hashlib import sha256
from pathlib import Path

from carinspect.cli.compare import PREDICTIONS, compare_at, read_at, thresholds_at
from carinspect.comparison.words import tell
from carinspect.core.errors import UserError
from carinspect.inference.bundle import open_bundle
from carinspect.registry.gate import Candidate, not_better, unproved
from carinspect.registry.releases import ARTIFACT, Reference, find_commit, find_release, release

CERTIFICATE = Path("metrics/split.json")
MODEL = Path("models/best.onnx")


def promote(revision: str, current: str | None, *, stage: str, version: str | None, samples: int, dry_run: bool) -> int:
    """Release the model, or print the reasons against it; returns the exit status, 1 for a refusal.

    current: revision of the model to be better than; None takes the one that has `stage`, and when there is none, nothing is compared.
    """
    commit = find_commit(revision)
    reasons = unproved(read_candidate(commit))
    rival = current or find_holder(stage)
    if rival is None:
        print(f"No model is in {stage} yet: there is none to be better than.")
    elif find_commit(rival) == commit:
        reasons.append(f"It is the model that is in {stage}, or that it was to be compared with.")
    else:
        reasons += _compare(rival, commit, samples=samples)
    if reasons:
        print("\n".join([f"Refused: {revision} ({commit[:7]}) is not promoted to {stage}.", *(f"- {reason}" for reason in reasons)]))
        return 1
    if dry_run:
        print(f"{revision} ({commit[:7]}) may be promoted to {stage}. Nothing was changed.")
        return 0
    tags = release(commit, stage=stage, version=version)
    print(f"{revision} ({commit[:7]}) is in {stage}: {', '.join(tags)}. To share it: dvc push && git push origin {' '.join(tags)}")
    return 0


def find_holder(stage: str) -> str | None:
    """The commit of the model that has `stage`."""
    found = find_release(Reference(ARTIFACT, stage=stage), repository=None)
    return found.commit if found else None


def read_candidate(commit: str) -> Candidate:
    """What the gate checks of the model of `commit`, from git and from DVC's cache or its remote."""
    return Candidate(
        thresholds=thresholds_at(commit),
        predictions_sha256=sha256(read_at(PREDICTIONS, commit)).hexdigest(),
        certificate=json.loads(read_at(CERTIFICATE, commit)),
        carried_thresholds=open_bundle(read_at(MODEL, commit)).thresholds,
    )


def _compare(rival: str, commit: str, *, samples: int) -> list[str]:
    try:
        comparison = compare_at(rival, commit, samples=samples)
    except UserError as error:
        return [f"It cannot be compared with {rival[:7]}: {error}"]
    print(tell(comparison))
    return not_better(comparison)
