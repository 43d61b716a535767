"""What CI runs for the users of this repository: the workflow is valid, its commands exist and tell right from wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
BIN = Path(sys.executable).parent


def make(folder: Path, *arguments: str, fails: bool = False) -> str:
    """`make` in `folder` with this environment instead of one of its own."""
    command = ["make", "--silent", f"VENV={BIN.parent}", f"--assume-old={BIN.parent}/installed", *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone that has no data, as on a machine of CI."""
    folder = tmp_path_factory.mktemp("ci") / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


@pytest.fixture
def restored(clone: Path) -> Path:
    """The clone as it was committed."""
    subprocess.run(["git", "checkout", "--quiet", "--force", "."], cwd=clone, check=True)
    return clone


def check_workflow(path: Path) -> int:
    return subprocess.run([str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.github-workflows", str(path)], check=False).returncode


def test_the_workflow_is_one(tmp_path: Path) -> None:
    assert check_workflow(WORKFLOW) == 0
    broken = tmp_path / "ci.yml"
    broken.write_text(WORKFLOW.read_text().replace("runs-on:", "runs_on:"))
    assert check_workflow(broken) != 0


def test_every_command_of_the_workflow_is_one_of_the_makefile() -> None:
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["test"]["steps"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = [step["run"] for step in steps if "run" in step]
    called = [re.match(r"make (?:--silent )?([a-z-]+)", command) for command in commands]
    assert all(called)
    assert {match[1] for match in called if match} <= targets


def test_the_committed_lock_is_of_this_commit(restored: Path) -> None:
    make(restored, "check-lock")


def test_where_a_run_is_shown_is_no_part_of_the_lock(restored: Path) -> None:
    params = restored / "params.yaml"
    text = params.read_text()
    params.write_text(re.sub(r"^  wandb: false", "  wandb: true", text, flags=re.MULTILINE))
    assert params.read_text() != text
    make(restored, "check-lock")


@pytest.mark.parametrize("file", ["params.yaml", "src/carinspect/training/loop.py", "stages/split.py"])
def test_a_lock_that_is_not_of_this_commit_is_found(restored: Path, file: str) -> None:
    path = restored / file
    path.write_text(path.read_text().replace("target_precision: 0.95", "target_precision: 0.9") + "\n")
    assert "dvc.lock is not of this commit" in make(restored, "check-lock", fails=True)


def test_the_summary_says_what_changed_in_markdown(restored: Path) -> None:
    assert make(restored, "summary").count("No change.") == 3
    params = restored / "params.yaml"
    params.write_text(params.read_text().replace("target_precision: 0.95", "target_precision: 0.9"))
    metrics = restored / "metrics" / "headline.json"
    metrics.write_text(re.sub(r'"leaks": 0', '"leaks": 1', metrics.read_text()))
    said = make(restored, "summary")
    assert re.search(r"\| params.yaml *\| questions.clean.decide.target_precision *\| 0.95 *\| 0.9 *\|", said)
    assert re.search(r"\| metrics/headline.json *\| leaks *\| 0 *\| 1 *\| 1 *\|", said)
