"""docs/tutorial.md: every command in it, in its order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import own_settings_of_dvc

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def commands(page: Path) -> str:
    """All shell blocks of a page as one script that stops at the first error; `make` takes this environment as it is."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    # Said in MAKEFLAGS, make would not hear it.
    make = 'make() { command make --assume-old=.venv/installed "$@"; }'
    return "\n".join([make, "set -euxo pipefail", *blocks])


@pytest.mark.slow
def test_the_tutorial_works(tmp_path: Path) -> None:
    project = tmp_path / "project"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(project)], check=True)
    # What was rendered here need not be rendered again.
    (project / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {ROOT / '.dvc' / 'cache'}\n")
    (project / ".venv").symlink_to(BIN.parent)
    kept = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "PYTHONPATH", "DVC_ROOT")}
    path = {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", commands(ROOT / "docs" / "tutorial.md")],
        cwd=project,
        env=kept | own_settings_of_dvc(tmp_path / "dvc") | path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # The new photos moved something, and the colleague trained nothing.
    assert re.search(r"metrics/headline.json +photos", done.stdout)
    assert done.stdout.count("Data and pipelines are up to date.") == 1
    assert "0 faults" in done.stdout
