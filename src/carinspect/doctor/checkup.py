"""Runs all checks of `carinspect doctor` in order; a failed check does not stop the others."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from carinspect.core.data import DataParams
from carinspect.core.errors import UserError
from carinspect.core.machine import usable_cores, usable_memory_bytes
from carinspect.core.params import load_params, read_section
from carinspect.doctor import connections, hardware, live, project
from carinspect.doctor.finding import Finding, find
from carinspect.images.pixel_cache import cache_folder
from carinspect.training.config import Recipe, Runtime
from carinspect.training.profiles import read_profiles
from carinspect.training.recipe import resolve_recipe
from carinspect.training.runtime import Machine, settle_runtime

TABLE = Path("data/car_inspection_dataset.csv")

OUTPUTS_BYTES = 10**9
"""Space for the state, the checkpoint and the reports of a large network."""


@dataclass(frozen=True)
class Plan:
    """What a training on this machine would run, and with which settings."""

    chosen: str
    runtime: Runtime
    recipe: Recipe
    machine: Machine


def make_plan() -> Plan:
    """From params.yaml, as the stages would; raises `UserError` as they would."""
    params = load_params()
    chosen, profiles = read_profiles(params)
    # Which weights it begins with changes neither speed nor memory.
    recipe = resolve_recipe(params, pretrained=None, resume="none")
    return Plan(chosen, profiles[chosen].runtime, recipe, settle_runtime(profiles[chosen].runtime, recipe.train, nodes=1))


def examine() -> Iterator[Finding]:
    """Every finding about the machine and the project in the current folder, one at a time."""
    cards = hardware.read_cards()
    plan, problem = None, ""
    try:
        plan = make_plan()
    except UserError as error:
        problem = str(error)
    settled, train = (plan.machine, plan.recipe.train) if plan else (None, None)
    yield find("GPUs", lambda: hardware.check_cards(cards, driver=hardware.has_driver()))
    yield find("cores", lambda: hardware.check_cores(usable_cores(), present=os.cpu_count() or 1))
    yield find("memory", lambda: hardware.check_memory(usable_memory_bytes(), machine=settled, recipe=train))
    yield find("disk", lambda: _check_disk(plan))
    if plan is None:
        yield Finding("profile", problem, "bad")
    else:
        yield find("profile", lambda: project.describe_profile(plan.chosen, plan.recipe))
        yield find("runtime", lambda: project.describe_runtime(plan.runtime, plan.machine, plan.recipe, cards=len(cards)))
        free_bytes = hardware.free_shared_memory()
        yield find("shared memory", lambda: hardware.check_shared_memory(free_bytes, machine=plan.machine, recipe=plan.recipe.train))
    yield find("rendezvous", connections.check_port)
    yield find("gloo", connections.check_gloo)
    yield find("NCCL", lambda: connections.check_nccl(cards=len(cards)))
    yield find("packages", _check_packages)
    yield find("DVC remote", lambda: project.check_remote(project.read_dvc_config()))
    yield find("git", lambda: project.check_git(Path()))
    if plan is not None:
        yield find("one batch", lambda: live.check_training(plan.recipe, plan.machine))
        yield find("photos", lambda: _check_photos(side_px=plan.recipe.train.image_side_px))


def _check_photos(*, side_px: int) -> Finding:
    return live.check_photos(TABLE, read_section("data", DataParams).root_path, side_px=side_px)


def _check_packages() -> Finding:
    pins = project.read_pins(Path("requirements.txt"))
    return project.check_packages(pins, project.installed_versions(list(pins)))


def _check_disk(plan: Plan | None) -> Finding:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    needed = OUTPUTS_BYTES
    if plan and TABLE.is_file() and not (folder / "photos").is_dir():
        # The resized photos, which the first training keeps.
        needed += len(pd.read_csv(TABLE, usecols=["image_path"])) * plan.recipe.train.image_side_px**2 * 3
    return hardware.check_disk(folder, free_bytes=shutil.disk_usage(folder).free, needed_bytes=needed)
