"""cloud: the job files are what their own tools take for one, and the command in them survives a machine that vanishes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from conftest import own_settings_of_dvc
from test_pipeline import ROOT, small_demo

__all__ = ["small_demo"]  # a fixture

SKY, AZURE = ROOT / "cloud" / "sky.yaml", ROOT / "cloud" / "azureml.yaml"
BIN = Path(sys.executable).parent

# SkyPilot asks its catalogue which clouds have a card; offline it gets one of a line for each cloud.
LOAD_SKY = """
import os, sys, yaml
from pathlib import Path
home, file = Path(sys.argv[1]), sys.argv[2]
os.environ["HOME"] = str(home)
task = yaml.safe_load(open(file))
catalogue = home / ".sky" / "catalogs" / "v6"
cards = {one["cloud"]: next(iter(one["accelerators"])) for one in task["resources"]["any_of"]}
for cloud, card in cards.items():
    (catalogue / cloud).mkdir(parents=True)
    (catalogue / cloud / "vms.csv").write_text(
        "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,SpotPrice,Region,AvailabilityZone,GpuInfo\\n"
        f"x,{card},1,8,32,1,0.5,r,r-a,\\n")
(catalogue / "common").mkdir()
(catalogue / "common" / "accelerators.csv").write_text("\\n".join(["AcceleratorName", *sorted(set(cards.values()))]))
import sky
loaded = sky.Task.from_yaml(file)
print(sorted(str(one.cloud).lower() for one in loaded.resources))
print(loaded.run)
"""

LOAD_AZURE = """
import sys
from azure.ai.ml import load_job
job = load_job(sys.argv[1])
assert job._validate().passed, job._validate()
print(job.command)
"""


def load(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.slow
def test_skypilot_takes_its_file(tmp_path: Path) -> None:
    done = load(LOAD_SKY, str(tmp_path), str(SKY))
    assert done.returncode == 0, done.stderr
    clouds, command = done.stdout.splitlines()
    assert {"runpod", "paperspace", "azure"} <= set(yaml.safe_load(clouds))
    assert command == yaml.safe_load(SKY.read_text())["run"]


@pytest.mark.slow
def test_skypilot_refuses_a_misspelt_key(tmp_path: Path) -> None:
    broken = tmp_path / "sky.yaml"
    broken.write_text(SKY.read_text().replace("use_spot", "use_spott"))
    assert load(LOAD_SKY, str(tmp_path), str(broken)).returncode != 0


@pytest.mark.slow
def test_azure_ml_takes_its_file(tmp_path: Path) -> None:
    done = load(LOAD_AZURE, str(AZURE))
    assert done.returncode == 0, done.stderr
    broken = tmp_path / "azureml.yaml"
    broken.write_text(AZURE.read_text().replace("instance_count: 1", "instance_count: many").replace("code: ..", f"code: {ROOT}"))
    assert load(LOAD_AZURE, str(broken)).returncode != 0


def test_both_run_the_same_command() -> None:
    sky, azure = (yaml.safe_load(path.read_text()) for path in (SKY, AZURE))
    assert f"{sky['setup']} && {sky['run']}" == azure["command"]
    assert set(sky["envs"]) == set(azure["environment_variables"]) == set(re.findall(r"\$(\w+)", sky["setup"] + " " + sky["run"]))


# ---- the command itself


def job(folder: Path, remote: Path) -> list[str]:
    """The `run:` of the job file with this environment's own programs."""
    command = yaml.safe_load(SKY.read_text())["run"].removeprefix("make ")
    options = f"--silent VENV={BIN.parent} --assume-old={BIN.parent}/installed"
    return ["bash", "-c", f'cd "{folder}" && make {options} {command}']


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "PYTHONPATH", "DVC_ROOT")}
    own = {"PATH": f"{BIN}:{os.environ['PATH']}", "CARINSPECT_STATES_EVERY_S": "1"}
    return kept | own_settings_of_dvc(tmp_path / "dvc") | own | more


def end_whole_tree(process: subprocess.Popen) -> None:
    """As when a machine is taken away: nothing gets to say goodbye."""
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in tree:
        one.suspend()
    for one in tree:
        one.send_signal(signal.SIGKILL)
    process.wait()


def test_the_command_leaves_the_environment_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)

    def planned(*old: str) -> str:
        command = ["make", "--dry-run", f"VENV={BIN.parent}", *old, "job", "REMOTE=storage", "NAME=cloud"]
        return subprocess.run(command, cwd=folder, env=environment(tmp_path), capture_output=True, text=True, check=True).stdout

    # A new clone is younger than the environment, which would be installed again from it.
    assert "pip install" in planned()
    assert "pip install" not in planned(f"--assume-old={BIN.parent}/installed")


@pytest.mark.slow
def test_a_machine_that_vanishes_loses_nothing_and_the_result_needs_no_training_at_home(tmp_path: Path, small_demo: Path) -> None:
    origin, remote = tmp_path / "origin.git", tmp_path / "remote"
    subprocess.run(["git", "clone", "-q", "--bare", str(small_demo), str(origin)], check=True)
    change = "-S train.epochs=14"
    settings = environment(tmp_path, REMOTE=str(remote), ENDPOINT="", GIT="origin", NAME="cloud", ARGS=change)

    def machine(name: str) -> Path:
        subprocess.run(["git", "clone", "-q", str(origin), str(tmp_path / name)], check=True)
        return tmp_path / name

    with (tmp_path / "first.log").open("w") as log:
        first = subprocess.Popen(job(machine("first"), remote), env=settings, stdout=log, stderr=log)
        deadline = time.monotonic() + 400
        while not list((remote / "training-states").glob("*.pt")):
            assert first.poll() is None, (tmp_path / "first.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "no training state reached the remote"
            time.sleep(0.2)
        end_whole_tree(first)
    second = subprocess.run(job(machine("second"), remote), env=settings, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr[-3000:]
    assert "fetched the training state" in second.stdout
    assert "going on" in second.stdout
    assert not list((remote / "training-states").glob("*"))

    home = machine("home")
    for command in ("dvc remote add -d storage " + str(remote), "dvc exp pull origin cloud", "dvc exp apply cloud"):
        subprocess.run(command.split(), cwd=home, env=settings, capture_output=True, check=True)
    said = subprocess.run(["dvc", "repro"], cwd=home, env=settings, capture_output=True, text=True, check=True)
    assert "are up to date" in said.stdout + said.stderr
    assert (home / "models" / "best.onnx").read_bytes() == (tmp_path / "second" / "models" / "best.onnx").read_bytes()
