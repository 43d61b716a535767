"""The wheel's dependencies, read from requirements.txt: its first section, and each section `# [name] …` as the extra of that name.

An extra can only add to what a bare `pip install .` brings. So that `.[serve]` comes without torch, the first section has no torch either.
pyproject.toml cannot say this: its `file:` takes whole files, and requirements.txt is to stay the one list.
"""

import re
from pathlib import Path

from setuptools import setup

OPTIONAL = {"ray": ["ray[data]==2.60.0"], "wandb": ["wandb==0.31.0"]}
"""Extras that requirements.txt does not bring."""


def read_sections(text: str) -> dict[str, list[str]]:
    """The requirements of each section; those of the first under the empty name."""
    sections: dict[str, list[str]] = {"": []}
    name = ""
    for line in text.splitlines():
        if heading := re.match(r"# \[(\w+)\]", line):
            name = heading[1]
            sections[name] = []
        elif line and not line.startswith("#"):
            sections[name].append(line)
    return sections


sections = read_sections((Path(__file__).parent / "requirements.txt").read_text(encoding="utf-8"))
setup(install_requires=sections.pop(""), extras_require=sections | OPTIONAL)
