"""Reads the hardware profiles of params.yaml; without torch, which takes seconds to import and is not in every installation."""

from typing import Any

from carinspect.core.errors import UserError, did_you_mean
from carinspect.core.params import parse_section, read_section
from carinspect.model.config import ModelParams
from carinspect.training.config import Profile


def read_profiles(params: dict[str, Any]) -> tuple[str, dict[str, Profile]]:
    """The name of the chosen profile, and all profiles, checked. Raises `UserError` for an unknown name."""
    profiles = params.get("profiles")
    if not isinstance(profiles, dict) or not profiles:
        raise UserError("params.yaml has no section 'profiles'. Restore it from git.")
    chosen = str(params.get("hardware"))
    if chosen not in profiles:
        raise UserError(f"hardware: no profile is called '{chosen}'. {did_you_mean(chosen, profiles)}")
    return chosen, {name: parse_section(f"profiles.{name}", Profile, values) for name, values in profiles.items()}


def read_pretrained(params: dict[str, Any]) -> bool | str:
    """Which weights the backbone begins with: `model.pretrained`, or the profile's where that is null. A string is a file's path."""
    given = read_section("model", ModelParams, params).pretrained
    if given is not None:
        return given
    chosen, profiles = read_profiles(params)
    return profiles[chosen].recipe.pretrained
