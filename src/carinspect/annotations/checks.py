"""Owns the mistakes that show only when all sources are seen together."""

import json
import re
from collections.abc import Mapping, Sequence

from carinspect.annotations.config import ConvertAnnotationsParams
from carinspect.annotations.listing import show_name
from carinspect.annotations.meanings import known_words, suggest_meaning
from carinspect.annotations.records import Reading
from carinspect.annotations.sources import Source
from carinspect.core.errors import UserError


def check_meanings(readings: Mapping[str, Reading], sources: Sequence[Source], params: ConvertAnnotationsParams, *, file: str) -> None:
    """Raise one `UserError` that names every category of every source without a meaning, with what to paste into `file`."""
    problems = []
    for source in sources:
        unmapped = readings[source.name].unmapped
        if not unmapped:
            continue
        outlines = source.format == "coco"
        unit = "annotations" if outlines else "photos"
        found = ", ".join(f"{show_name(name)} ({unit}: {unmapped[name]})" for name in sorted(unmapped))
        lines = ", ".join(f"{_yaml_name(name)}: {suggest_meaning(name, params, outlines=outlines)}" for name in sorted(unmapped))
        problems.append(f"source '{source.name}' has no meaning for {found}. Add to its categories, once you agree: {{{lines}}}.")
    if problems:
        words = ", ".join(known_words(params))
        raise UserError(f"{file}: {' '.join(problems)} Meanings: {words}, or labels such as {{clean: 1}}.")


def _yaml_name(name: str) -> str:
    # YAML would read 0 as a number and no as false.
    plain = re.fullmatch(r"[A-Za-z][\w-]*", name) and name.lower() not in ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
    return name if plain else json.dumps(name, ensure_ascii=False)


def check_claims(readings: Mapping[str, Reading]) -> set[str]:
    """The `image_path` of every described photo. Raises `UserError` when one is described twice: its labels could be either's."""
    claims: dict[str, str] = {}
    for name, reading in readings.items():
        for photo in reading.photos:
            if photo.image_path in claims:
                both = f"by '{claims[photo.image_path]}' and by '{name}'"
                raise UserError(f"the photo {photo.image_path!r} is described twice, {both}. Leave it out of one, by `exclude` or by path.")
            claims[photo.image_path] = name
    return set(claims)
