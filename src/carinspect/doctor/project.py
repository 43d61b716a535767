"""Checks of the project: the profile and the settings that follow from it, installed packages, DVC's remote, git."""

import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from packaging.requirements import Requirement

from carinspect.core.machine import usable_cores
from carinspect.doctor.finding import Finding
from carinspect.training.config import Recipe, Runtime
from carinspect.training.runtime import Machine


def describe_profile(chosen: str, recipe: Recipe) -> Finding:
    """The profile, and the recipe that follows from it and the sections `model` and `train`."""
    train = recipe.train
    return Finding(
        "profile",
        f"{chosen} (hardware in params.yaml): {recipe.model.backbone} at {train.image_side_px} px, batch {train.batch_size}"
        f" x {train.accumulate_steps}, {train.norm_batch_size} normalised together, {train.precision}",
    )


def describe_runtime(runtime: Runtime, machine: Machine, recipe: Recipe, *, cards: int) -> Finding:
    """The value of each runtime setting of the profile, with the reason where the profile says `auto`."""
    micro_batches = recipe.train.effective_batch_size // recipe.train.norm_batch_size
    units = f"{cards} GPUs" if machine.device == "cuda" else f"{usable_cores()} cores"
    reasons = {
        "device": "torch sees a GPU" if cards else "torch sees no GPU",
        "processes": f"{units}, {micro_batches} micro-batches to share",
        "workers": f"up to 8 a process, from {usable_cores()} cores and half the memory",
        "pin_memory": "for a GPU only",
        "micro_batch": "a trial on the GPU says" if machine.device == "cuda" else "shrinks when memory runs out",
    }
    settled = [
        f"{knob} {getattr(machine, knob)}" + (f" (auto: {reason})" if getattr(runtime, knob) == "auto" else "")
        for knob, reason in reasons.items()
    ]
    return Finding("runtime", "; ".join([*settled, f"compile {machine.compile}"]))


def read_pins(path: Path) -> dict[str, str]:
    """Package → exact version, of a requirements file."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    requirements = [Requirement(line) for line in lines if line]
    return {requirement.name: str(requirement.specifier).removeprefix("==") for requirement in requirements}


def installed_versions(names: list[str]) -> dict[str, str]:
    """Those of `names` that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def check_packages(pins: Mapping[str, str], installed: Mapping[str, str]) -> Finding:
    """Missing packages stop a training; versions other than the pinned ones may."""
    missing = [name for name in pins if name not in installed]
    # torch 2.15.0+cpu is 2.15.0, from another index.
    other = [
        f"{name} {installed[name]}, pinned {pin}"
        for name, pin in pins.items()
        if name in installed and installed[name].split("+")[0] != pin
    ]
    if missing:
        return Finding(
            "packages", f"missing: {', '.join(missing)}" + f"; other versions: {'; '.join(other)}" * bool(other), "bad", "make setup"
        )
    if other:
        return Finding("packages", "; ".join(other), "warn", "make setup installs the versions that the tests ran with.")
    return Finding("packages", f"{len(pins)} as pinned in requirements.txt")


def read_dvc_config() -> Mapping[str, Any]:
    """DVC's settings here; no remote is contacted."""
    with Repo() as repo:
        return repo.config


def check_remote(config: Mapping[str, Any]) -> Finding:
    """Whether there is a default remote, and whether DVC verifies what it pulls from it. No remote is contacted."""
    remotes: Mapping[str, Any] = config.get("remote", {})
    default = config.get("core", {}).get("remote")
    if not remotes or not default:
        return Finding("DVC remote", "no default remote", "warn", "Nothing is shared or backed up: make remote URL=s3://bucket/path")
    value = f"{default}: {remotes[default]['url']}"
    if not remotes[default].get("verify"):
        return Finding(
            "DVC remote", f"{value}, unverified", "warn", f"Broken files would pass as sound: dvc remote modify {default} verify true"
        )
    return Finding("DVC remote", value)


def check_git(root: Path) -> Finding:
    """Whether the result of a training can be traced to a commit."""
    status = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=False)
    if status.returncode:
        return Finding(
            "git", " ".join(status.stderr.split()), "warn", "Experiments need a repository with a commit: git init, git add, git commit."
        )
    changed = status.stdout.splitlines()
    if changed:
        names = ", ".join(line[3:] for line in changed[:3]) + ", …" * (len(changed) > 3)
        return Finding(
            "git", f"{len(changed)} changed: {names}", "warn", "No commit will name what was trained: git commit first, or dvc exp run."
        )
    return Finding("git", "clean")
