"""Reads params.yaml into strict, frozen, typed sections."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from carinspect.core.errors import UserError, did_you_mean, one_line, shorten

PARAMS_FILE = Path("params.yaml")
RECIPE_FILE = Path("data/recipe.yaml")
"""The recipe of the training, written by the stage resolve_recipe."""
QUESTIONS_FILE = Path("data/questions.yaml")
"""The recipe's questions: for the stages before the training."""
NETWORK_FILE = Path("data/network.yaml")
"""The recipe's model and image side: for the stages that look through the pretrained backbone before the training."""


def recipe_parts(recipe: Mapping[str, Any]) -> dict[Path, dict[str, Any]]:
    """What `QUESTIONS_FILE` and `NETWORK_FILE` hold of a recipe, so that a stage depends on no more than what it reads."""
    return {
        QUESTIONS_FILE: {"questions": recipe["questions"]},
        NETWORK_FILE: {"model": recipe["model"], "image_side_px": recipe["train"]["image_side_px"]},
    }


def _read_exponent(value: Any) -> Any:
    # `dvc exp run -S train.lr=1e-5` writes 1e-05, which YAML 1.1 reads as a string.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Number = Annotated[float, BeforeValidator(_read_exponent)]
"""A float that also accepts a number written with an exponent and no dot."""


class Section(BaseModel):
    """Base of every section of params.yaml: an unknown key, a missing key or a wrong type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


SectionT = TypeVar("SectionT", bound=Section)


def load_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises `UserError` when it is missing or is not YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {one_line(error)}") from None


def load_json(path: Path) -> Any:
    """The content of a JSON file. Raises `UserError` when it is missing or is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Run the stage that writes it: dvc repro.") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {one_line(error)}") from None


def load_params(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """All of params.yaml, unchecked."""
    params = load_yaml(path)
    if not isinstance(params, dict):
        raise UserError(f"{path}: a mapping of sections is expected, found {type(params).__name__}.")
    return params


def read_section(name: str, kind: type[SectionT], params: dict[str, Any] | None = None) -> SectionT:
    """The section `name` (dots for nesting: `profiles.auto`) of `params`, or of params.yaml when None, as a `kind`."""
    found: Any = load_params() if params is None else params
    for key in name.split("."):
        if not isinstance(found, dict) or key not in found:
            raise UserError(f"params.yaml has no section '{name}'. Add it, or restore it from git.")
        found = found[key]
    return parse_section(name, kind, found)


def parse_section(name: str, kind: type[SectionT], values: Any, *, file: str = "params.yaml") -> SectionT:
    """`values`, which stand in `file`, as a `kind`; the `UserError` names the key, its value and the nearest known key."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [_explain(name, kind, problem, file) for problem in error.errors()]
        raise UserError(" ".join(problems)) from None


def _explain(name: str, kind: type[BaseModel], problem: Any, file: str) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join([name, *map(shorten, location)])
    match problem["type"]:
        case "extra_forbidden":
            return f"{path}: unknown key. {did_you_mean(location[-1], _keys_at(kind, location[:-1]))}"
        case "missing":
            return f"{path}: missing. Add it to {file}."
        case "value_error":
            return f"{path}: {problem['ctx']['error']}"
        case _:
            return f"{path} has the value {shorten(repr(problem['input']))}. {problem['msg']}."


def _keys_at(kind: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        annotation = kind.model_fields[part].annotation if part in kind.model_fields else None
        # A section may be optional: `Decide | None`.
        sections = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type) and issubclass(one, BaseModel)]
        if not sections:
            return []
        kind = sections[0]
    return list(kind.model_fields)
