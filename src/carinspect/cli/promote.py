"""`carinspect promote`: releases a model that passes the checks of registry/gate.py, or prints the reasons against it."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import yaml

from carinspect.cli.compare import PREDICTIONS, compare_at, read_at, thresholds_at
from carinspect.comparison.words import tell
from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.params import PARAMS_FILE, read_section
from carinspect.evaluation.config import EvaluateParams
from carinspect.inference.bundle import open_bundle
from carinspect.registry.gate import Candidate, no_baseline, not_better, unproved, weakened
from carinspect.registry.releases import ARTIFACT, Reference, find_commit, find_release, release

CERTIFICATE = Path("metrics/split.json")
MODEL = Path("models/best.onnx")


def promote(revision: str, baseline: str | None, *, stage: str, version: str | None, weaker: Sequence[str], dry_run: bool) -> int:
    """Release the model, or print the reasons against it; returns the exit status, 1 for a refusal.

    baseline: revision of a model that is tested in place of the one that has `stage`, since the test photos changed. When no model has
    `stage`, nothing is compared. weaker: the terms of `registry.gate.weakened` in which this release may promise less.
    """
    commit = find_commit(revision)
    candidate = read_candidate(commit)
    reasons = unproved(candidate)
    accepted: list[str] = []
    holder = find_holder(stage)
    if holder is None:
        if baseline or weaker:
            raise UserError(
                f"no model is in {stage} yet, so there is nothing to compare with or to weaken. Leave out the baseline and --weaker."
            )
        print(f"No model is in {stage} yet: there is none to be better than.")
    else:
        released = read_candidate(holder)
        refused, accepted = _judge_promise(candidate, released, weaker)
        reasons += refused
        if candidate.model_sha256 == released.model_sha256:
            reasons.append(f"It is the model that is in {stage}.")
        else:
            reasons += _judge_gain(candidate, commit, released, holder, baseline=baseline)
    if reasons:
        print("\n".join([f"Refused: {revision} ({commit[:7]}) is not promoted to {stage}.", *(f"- {reason}" for reason in reasons)]))
        return 1
    message = "Promises less than the release before. " + " ".join(accepted) if accepted else None
    print(*filter(None, [message]), sep="\n", end="\n" if message else "")
    if dry_run:
        print(f"{revision} ({commit[:7]}) may be promoted to {stage}. Nothing was changed.")
        return 0
    tags = release(commit, stage=stage, version=version, message=message)
    print(f"{revision} ({commit[:7]}) is in {stage}: {', '.join(tags)}. To share it: dvc push && git push origin {' '.join(tags)}")
    return 0


def _judge_promise(candidate: Candidate, released: Candidate, weaker: Sequence[str]) -> tuple[list[str], list[str]]:
    """Reasons against the release, and the sentences about what it may promise less. Raises `UserError` for a term that is not weaker."""
    found = weakened(candidate.thresholds, released.thresholds)
    for term in weaker:
        if term not in found:
            raise UserError(f"--weaker {term}: this release is not weaker there. {did_you_mean(term, found) or 'Leave it out.'}")
    reasons = [
        f"{sentence} To release it all the same: --weaker {term}" for term in found if term not in weaker for sentence in found[term]
    ]
    return reasons, [sentence for term in found if term in weaker for sentence in found[term]]


def _judge_gain(candidate: Candidate, commit: str, released: Candidate, holder: str, *, baseline: str | None) -> list[str]:
    """Reasons against replacing the released model: the baseline is none, or the candidate is not clearly better."""
    rival = holder
    if baseline is not None:
        rival = find_commit(baseline)
        faults = no_baseline(read_candidate(rival), holder=released, candidate=candidate)
        if faults:
            return [f"{baseline} is no baseline: {fault}" for fault in faults]
    return _compare(rival, commit, holder=holder)


def find_holder(stage: str) -> str | None:
    """The commit of the model that has `stage`."""
    found = find_release(Reference(ARTIFACT, stage=stage), repository=None)
    return found.commit if found else None


def read_candidate(commit: str) -> Candidate:
    """What the gate checks of the model of `commit`, from git and from DVC's cache or its remote."""
    model = read_at(MODEL, commit)
    bundle = open_bundle(model)
    return Candidate(
        thresholds=thresholds_at(commit),
        predictions_sha256=sha256(read_at(PREDICTIONS, commit)).hexdigest(),
        certificate=json.loads(read_at(CERTIFICATE, commit)),
        carried_thresholds=bundle.thresholds,
        lineage=bundle.info["lineage"],
        model_sha256=sha256(model).hexdigest(),
    )


def _compare(rival: str, commit: str, *, holder: str) -> list[str]:
    # The released model's own section `evaluate`: a lower confidence in the workspace or in the candidate must not make a gain clear.
    params = yaml.safe_load(read_at(PARAMS_FILE, holder))
    try:
        comparison = compare_at(rival, commit, params=read_section("evaluate", EvaluateParams, params))
    except UserError as error:
        return [f"It cannot be compared with {rival[:7]}: {error}"]
    print(tell(comparison))
    return not_better(comparison)
