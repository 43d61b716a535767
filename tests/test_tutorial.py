"""docs/tutorial.md: every command in it, in its order, from photos by way of people's answers to the next model."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import own_settings_of_dvc
from test_pipeline import run, set_param

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def commands(page: Path) -> str:
    """All shell blocks of a page as one script that stops at the first error; `make` takes this environment as it is.

    Where there is no curl, httpx reads the address.
    """
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    # Said in MAKEFLAGS, make would not hear it.
    make = 'make() { command make --assume-old=.venv/installed "$@"; }'
    reader = "import sys, httpx; print(httpx.get(sys.argv[-1]).raise_for_status().text)"
    curl = f"type -P curl > /dev/null || curl() {{ python -c '{reader}' \"$@\"; }}"
    return "\n".join([make, curl, "set -euxo pipefail", *blocks])


@pytest.mark.slow
def test_the_tutorial_works(tmp_path: Path) -> None:
    project = tmp_path / "project"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(project)], check=True)
    # What was made here need not be made again.
    (project / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {ROOT / '.dvc' / 'cache'}\n")
    (project / ".venv").symlink_to(BIN.parent)
    kept = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "PYTHONPATH", "DVC_ROOT")}
    environment = kept | own_settings_of_dvc(tmp_path / "dvc") | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    subprocess.run(["dvc", "checkout", "--quiet", "--allow-missing"], cwd=project, env=environment, check=True)
    # Of the corruptions one severity: two trainings are evaluated.
    set_param(project, "  - 1\n  - 2\n  - 3\n  - 4\n  - 5\n", "  - 3\n")
    run(project, "git", "commit", "-qam", "Fewer corruptions")
    with (tmp_path / "said.txt").open("w+") as said:
        process = subprocess.Popen(
            ["bash", "-c", commands(ROOT / "docs" / "tutorial.md")],
            cwd=project, env=environment, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait()
        finally:
            # Where a command failed, the service of the page still runs.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        said.seek(0)
        output = said.read()
    assert status == 0, output[-5000:]
    # What people said became labels, moved the figures, and the service has the next model.
    (corrected,) = re.findall(r"29 photos looked at, (\d+) answers corrected", output)
    assert int(corrected) > 0
    assert f"data/raw/reviewed/labels.csv: {corrected} photos, {corrected} of them new" in output
    assert "15 new verdicts" in output
    assert "clean, clean: holds so far" in output
    assert "the source 'labelled' has 30 photos, 30 of them new" in output
    assert re.search(r"metrics/headline.json +damaged.roc_auc", output)
    assert len(set(re.findall(r"Serving model (\w+)", output))) == 2
    # The photos of people changed the data, and the colleague trained nothing.
    assert re.search(r"metrics/headline.json +photos", output)
    assert output.count("Data and pipelines are up to date.") == 1
    assert "0 faults" in output
