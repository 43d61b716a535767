"""Experiments of a team: a queue that shares the machine, results that travel, a sweep of its own, a machine that has nothing yet."""

import fcntl
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from carinspect.core.errors import UserError
from carinspect.core.machine import usable_cores
from carinspect.sweep.combination import combine
from carinspect.sweep.spread import draw_spread, tabulate, write_spread
from carinspect.training.config import Recipe
from carinspect.training.lease import lease_folder
from test_pipeline import clone, dvc_environment, ran_stages, run, small_demo, workspace
from test_storage import web_server

__all__ = ["clone", "small_demo", "workspace"]  # fixtures

LIMIT_S = 600
VENV = Path(sys.executable).parent.parent
MAKE = ("make", "-s", f"VENV={VENV}", f"--assume-old={VENV}/installed")
"""`make` with this environment instead of one of its own."""


# ---- the sweep's parts


def test_a_combination_is_the_recipe_with_another_backbone_and_seed(tiny_recipe: Recipe) -> None:
    other = combine(tiny_recipe, backbone="test_convnext", seed=7)
    assert (other.model.backbone, other.train.seed) == ("test_convnext", 7)
    assert combine(other, backbone=tiny_recipe.model.backbone, seed=tiny_recipe.train.seed) == tiny_recipe


def test_a_mistyped_backbone_and_weights_of_one_backbone_are_refused(tiny_recipe: Recipe) -> None:
    with pytest.raises(UserError, match="Did you mean 'resnet18'"):
        combine(tiny_recipe, backbone="resnat18", seed=1)
    fixed = tiny_recipe.model_copy(update={"model": tiny_recipe.model.model_copy(update={"pretrained": "sha256:abc"})})
    with pytest.raises(UserError, match="weights of one backbone"):
        combine(fixed, backbone="resnet18", seed=1)


def score(backbone: str, seed: int, value: float | None) -> dict:
    return {"backbone": backbone, "seed": seed, "val": {"clean roc_auc": value}, "test": {"clean roc_auc": 0.5}}


def test_the_spread_is_mean_lowest_and_highest_over_the_seeds(tmp_path: Path) -> None:
    scores = [score("b", 1, 0.8), score("b", 2, 0.9), score("b", 3, 0.4), score("a", 1, None), score("a", 2, 0.7), score("a", 3, 0.7)]
    table = tabulate(scores)
    found = table[table["split"] == "val"].set_index("backbone")
    assert list(found.index) == ["b", "a"]
    assert found.loc["b", ["seeds", "mean", "low", "high"]].tolist() == pytest.approx([3, 0.7, 0.4, 0.9])
    assert found.loc["a", ["seeds", "mean", "low", "high"]].tolist() == pytest.approx([2, 0.7, 0.7, 0.7])
    for name in ("one", "two"):
        write_spread(table, tmp_path / f"{name}.csv")
        draw_spread(table, tmp_path / f"{name}.png")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


# ---- in a clone with a git remote and a DVC remote


@pytest.fixture(scope="module")
def team(clone: Path) -> Path:
    """The clone, its git remote and its storage, with all pushed."""
    beside = clone.parent
    run(beside, "git", "init", "-q", "--bare", "-b", "main", "origin.git")
    run(clone, "git", "remote", "add", "origin", str(beside / "origin.git"))
    run(clone, "dvc", "remote", "add", "-d", "storage", str(beside / "storage"))
    run(clone, "git", "commit", "-qam", "storage")
    run(clone, "git", "push", "-q", "origin", "main")
    run(clone, "dvc", "push")
    return clone


@pytest.fixture
def colleague(team: Path, tmp_path: Path) -> Path:
    """A clone on another machine: code, and nothing of what DVC keeps."""
    run(tmp_path, "git", "clone", "-q", str(team.parent / "origin.git"), "colleague")
    return tmp_path / "colleague"


@pytest.mark.slow
@pytest.mark.parametrize("commands", [(("dvc", "pull"), ("dvc", "repro")), (("dvc", "repro", "--pull"),)])
def test_a_fresh_machine_trains_nothing(colleague: Path, team: Path, commands: tuple[tuple[str, ...], ...]) -> None:
    said = [run(colleague, *command) for command in commands]
    assert [stage for output in said for stage in ran_stages(output)] == []
    assert "sweep" not in "".join(said)
    assert (colleague / "models" / "best.onnx").read_bytes() == (team / "models" / "best.onnx").read_bytes()
    assert run(colleague, "git", "status", "--porcelain") == ""


@pytest.mark.slow
@pytest.mark.parametrize("served", [True, False])
def test_a_clone_pulls_what_was_published_and_trains_nothing(workspace: Path, tmp_path: Path, served: bool) -> None:
    public = tmp_path / "public"
    public.mkdir()
    with web_server(public) as url:
        run(workspace, *MAKE, "publish", f"FOLDER={public}", *([f"URL={url}"] if served else []))
        run(tmp_path, "git", "clone", "-q", str(workspace), "stranger")
        shutil.copy(workspace / ".dvc" / "config", tmp_path / "stranger" / ".dvc" / "config")
        run(tmp_path / "stranger", "dvc", "pull")
    said = run(tmp_path / "stranger", "dvc", "repro")
    assert (ran_stages(said), "up to date" in said) == ([], True)


@pytest.mark.slow
def test_that_check_sees_a_stage_that_runs(colleague: Path) -> None:
    # What a dry run does not make is missing for the next stage.
    assert ran_stages(run(colleague, "dvc", "repro", "--dry", fails=True)) == ["demo/dvc.yaml:render_demo"]


@pytest.fixture
def cores() -> Iterator[ExitStack]:
    """Holds every core as another training would, until it is closed."""
    lease_folder().mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        for number in range(usable_cores()):
            file = held.enter_context((lease_folder() / f"core{number}").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield held


def start_queue(folder: Path, *, jobs: int) -> None:
    # Its workers keep what they are given as output: a pipe would never end.
    with (folder.parent / "queue.log").open("w") as log:
        subprocess.run(
            ["dvc", "queue", "start", "-j", str(jobs)], cwd=folder, env=dvc_environment(folder),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, check=True,
        )  # fmt: skip


def wait_until(met, what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(1)


def queue_status(folder: Path) -> str:
    """What DVC says of its queue, or nothing where it met a file that its worker was just writing: both do so without a lock."""
    command = ["dvc", "queue", "status"]
    done = subprocess.run(command, cwd=folder, env=dvc_environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "Expecting value" in done.stderr, done.stdout + done.stderr
    return done.stdout if done.returncode == 0 else ""


def ends_of(folder: Path, names: list[str]) -> list[str]:
    """How those tasks of the queue ended that have; on its way to a worker a task shows in no state at all."""
    lines = [line for line in queue_status(folder).splitlines() if any(name in line for name in names)]
    return re.findall("Success|Failed", "\n".join(lines))


def wait_until_ended(folder: Path, names: list[str], *, tasks: int) -> None:
    wait_until(lambda: len(ends_of(folder, names)) == tasks, "the queue did not end")
    wait_until(lambda: "0 active, 0 idle" in queue_status(folder), "a worker of the queue did not end")


@pytest.mark.slow
def test_a_queue_of_two_shares_the_machine_and_its_results_travel(workspace: Path, team: Path, colleague: Path, cores: ExitStack) -> None:
    change = ("-S", "train.epochs=range(3,5)", "-S", "profiles.demo.runtime.processes=1")
    queued = re.findall(r"Queued experiment '(\S+)'", run(workspace, "dvc", "exp", "run", "--queue", *change))
    assert len(queued) == 2
    start_queue(workspace, jobs=2)

    def log(name: str) -> str:
        # Fails before the experiment has begun.
        environment = dvc_environment(workspace)
        command = ["dvc", "queue", "logs", name]
        return subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False).stdout

    wait_until(lambda: all("waiting" in log(name) for name in queued), "the trainings did not wait for the cores that others hold")
    cores.close()
    wait_until_ended(workspace, queued, tasks=2)
    assert ends_of(workspace, queued) == ["Success", "Success"], log(queued[0])[-2000:] + log(queued[1])[-2000:]
    assert all(re.search(r"this training holds core\d+$", log(name), re.MULTILINE) for name in queued)

    # `make compare` shows what was changed and the headlines.
    head, *rows = (line.split("|")[1:-1] for line in run(workspace, *MAKE, "compare").splitlines() if line.startswith("|"))
    columns = {name.strip() for name in head}
    assert {"Experiment", "clean.roc_auc", "damage.mae", "train.epochs"} <= columns
    assert len(columns) < 18
    assert not any("profiles" in name for name in columns)
    assert all(any(name in row[0] for row in rows) for name in queued)

    # Two epochs on a few photos prove nothing, and are no release.
    name = queued[1]
    promote = ("env", "PYTHONPATH=src", sys.executable, "-m", "carinspect.cli.main", "promote", name)
    assert "Its promise of 'clean' is infeasible" in run(workspace, *promote, fails=True).split(f"Refused: {name}")[1]

    # To a colleague, who trains nothing.
    run(workspace, "dvc", "exp", "push", "origin", name)
    assert name in run(colleague, "dvc", "exp", "list", "origin")
    run(colleague, "dvc", "exp", "pull", "origin", name)
    run(colleague, "dvc", "exp", "apply", name)
    assert "epochs: 4" in (colleague / "params.yaml").read_text()
    assert ran_stages(run(colleague, "dvc", "repro")) == []
    run(colleague, "git", "checkout", "-q", "--", ".")
    run(colleague, "dvc", "exp", "branch", name, "better")
    run(colleague, "git", "checkout", "-q", "better")
    assert "epochs: 4" in (colleague / "params.yaml").read_text()


@pytest.mark.slow
def test_a_queued_experiment_whose_machine_went_down_goes_on_where_it_was(workspace: Path) -> None:
    states = workspace / ".carinspect" / "train"
    queue = ("dvc", "exp", "run", "--queue", "--name", "unlucky", "-S", "train.epochs=14")
    run(workspace, *queue)
    start_queue(workspace, jobs=1)
    wait_until(lambda: list(states.glob("*.pt")), "no state was kept")
    family = [process for process in psutil.process_iter(["cwd"]) if (process.info["cwd"] or "").startswith(str(workspace))]
    for process in family:
        process.kill()
    assert not psutil.wait_procs(family, timeout=20)[1]
    assert list(states.glob("*.pt"))

    # As docs/experiments.md says: DVC takes it for running until it is told.
    run(workspace, "dvc", "queue", "kill", "--force", "unlucky")
    run(workspace, *queue)
    start_queue(workspace, jobs=1)
    # Two tasks of one name: the one that went down, and this one.
    wait_until_ended(workspace, ["unlucky"], tasks=2)
    assert sorted(ends_of(workspace, ["unlucky"])) == ["Failed", "Success"]
    assert "of an interrupted run" in run(workspace, "dvc", "queue", "logs", "unlucky")
    assert not list(states.glob("*.pt"))


@pytest.mark.slow
def test_a_sweep_scores_as_the_pipeline_does_and_is_no_part_of_it(workspace: Path) -> None:
    own_seed = yaml.safe_load((workspace / "params.yaml").read_text())["train"]["seed"]
    (workspace / "sweeps" / "sweep.yaml").write_text(f"backbones: [test_resnet]\nseeds: [{own_seed}, 1]\n")
    assert "epoch   2" in run(workspace, *MAKE, "sweep")
    assert "epoch" not in run(workspace, *MAKE, "sweep"), "a finished training was repeated"
    scores = {seed: json.loads((workspace / f"sweeps/metrics/test_resnet-{seed}.json").read_text()) for seed in (own_seed, 1)}
    pipeline = json.loads((workspace / "metrics" / "evaluate.json").read_text())
    for split in ("val", "test"):
        assert scores[own_seed][split]["clean roc_auc"] == pytest.approx(pipeline[split]["clean"]["roc_auc"])
        assert scores[own_seed][split]["damage mae"] == pytest.approx(pipeline[split]["damage"]["mae"], abs=1e-6)
    assert scores[1]["val"] != scores[own_seed]["val"]
    table = pd.read_csv(workspace / "sweeps" / "spread.csv")
    assert (table["seeds"] == 2).all()
    assert table["mean"].between(table["low"] - 1e-6, table["high"] + 1e-6).all()
    assert (workspace / "sweeps" / "spread.png").is_file()
    assert "up to date" in run(workspace, "dvc", "status")
    assert ran_stages(run(workspace, "dvc", "repro")) == []


@pytest.mark.slow
def test_a_search_says_what_each_value_brought_on_val(workspace: Path) -> None:
    (workspace / "sweeps" / "recipe.yaml").write_text("minutes: 60\ntried:\n  train.lr: [0.004, 1e-6]\n  train.epochs: [2]\n")
    said = run(workspace, *MAKE, "recipe")
    trials = pd.read_csv(workspace / "sweeps" / "recipe.csv")
    assert trials["value"].tolist()[1:] == [1e-6]
    # Nothing is learnt at this rate, so the first recipe stays.
    assert trials["gain"][1] < 0
    assert yaml.safe_load((workspace / "sweeps" / "found.yaml").read_text()) == {"train": {"lr": 0.004, "epochs": 2}}
    assert (workspace / "sweeps" / "found.yaml").read_text() in said
    assert "epoch" not in run(workspace, *MAKE, "recipe").split("For params.yaml")[0], "a finished training was repeated"
