"""README.md and docs/: every command of their shell blocks is executed, here or by the test that is named beside it.

What is in neither table below is run as it stands, with stand-ins for what is the reader's own. docs/tutorial.md has a test of its own.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from carinspect.audit.inbox import Inbox
from carinspect.core.tables import write_table
from carinspect.inference.bundle import open_bundle
from conftest import WANDB, free_port
from test_docs import BLOCK, PAGES
from test_pipeline import ROOT, clone, dvc_environment, run, set_param, small_demo

__all__ = ["clone", "small_demo"]  # fixtures

RUN_PAGES = [page for page in PAGES if page.name != "tutorial.md"]

ELSEWHERE = {
    "make repro": ".ci/run::make repro",
    "make test": ".ci/run::make test",
    "dvc queue start -j 2": "tests/test_experiments.py::test_a_queue_of_two_shares_the_machine_and_its_results_travel",
    "make publish FOLDER=../public URL=https://example.org/cars": (
        "tests/test_experiments.py::test_a_clone_pulls_what_was_published_and_trains_nothing"
    ),
    "make recipe": "tests/test_experiments.py::test_a_search_says_what_each_value_brought_on_val",
    "make sweep": "tests/test_experiments.py::test_a_sweep_scores_as_the_pipeline_does_and_is_no_part_of_it",
    "carinspect score photos/ --out scores/ --engine ray --ray-address head:6379": (
        "tests/test_batch_scoring.py::test_a_cluster_gives_the_answers_of_one_machine"
    ),
    "carinspect score photos/ --out scores.csv --marks marks.json": (
        "tests/test_marks_file.py::test_the_file_is_coco_and_says_where_and_what"
    ),
    "pytest -s -m slow tests/test_engine.py -k one_to_four": (
        "tests/test_engine.py::test_one_to_four_processes_agree_within_float_noise"
    ),
    "export CARINSPECT_NNODES=2 CARINSPECT_RDZV_ENDPOINT=node0:29400": (
        "tests/test_engine.py::test_two_machines_of_which_one_dies_and_comes_back_give_what_one_machine_gives"
    ),
    "dvc repro train_ddp": "tests/test_engine.py::test_two_machines_of_which_one_dies_and_comes_back_give_what_one_machine_gives",
    "PYTHONPATH=src python stages/train_ddp.py --join": (
        "tests/test_engine.py::test_two_machines_of_which_one_dies_and_comes_back_give_what_one_machine_gives"
    ),
    "PYTHONPATH=src python benchmarks/gpu.py --device cpu": "tests/test_gpu_report.py::test_all_of_it_runs_on_a_cpu_in_small",
    "carinspect audit draw scores.csv --word clean --seed 20261101 --car-column car": (
        "tests/test_audit.py::test_a_sheet_is_drawn_answered_and_judged"
    ),
    "carinspect audit draw scores.csv --word clean --seed 20261102 --car-column car --strata source": (
        "tests/test_audit.py::test_a_stratified_draw_keeps_its_weights_and_the_state_uses_them"
    ),
    "carinspect audit take answers.csv": "tests/test_audit.py::test_a_sheet_is_drawn_answered_and_judged",
    "carinspect next photos/ --budget 200": "tests/test_next.py::test_what_the_model_chose_only_trains_and_the_list_says_so",
    "carinspect next photos/ --budget 200 --for promise --out random.csv": (
        "tests/test_next.py::test_a_draw_for_a_promise_may_serve_all_splits_and_says_how_many_labels_it_takes"
    ),
    "carinspect labels export random.csv --tool label-studio --out labels/": (
        "tests/test_labels.py::test_the_command_brings_labels_into_a_root_whose_comments_stay"
    ),
    "carinspect labels import labels.json --tool label-studio --export labels/ --into data/raw": (
        "tests/test_labels.py::test_the_command_brings_labels_into_a_root_whose_comments_stay"
    ),
    "CARINSPECT_RAY=head:6379 dvc repro": (
        "tests/test_reading.py::test_two_machines_read_what_one_reads_though_a_process_is_killed"
    ),
    "carinspect audit state": "tests/test_audit.py::test_a_sheet_is_drawn_answered_and_judged",
}  # fmt: skip
"""Command → file::what in it executes it."""

UNRUNNABLE = {
    "docker compose --profile cpu up --build": "It takes a container engine and base images from a registry.",
    "make gpu-report": "It takes a GPU.",
    "make lock-image": "It takes a package registry, and an environment of its own.",
    "make try-image": "It takes a package registry, and root.",
    "make sbom": "It takes a package registry, and an environment of its own.",
    "wandb login": "It takes an account at a service on the internet.",
    "export CARINSPECT_NNODES=$SLURM_NNODES CARINSPECT_RDZV_ENDPOINT=$(scontrol show hostnames | head -1):29400": "It takes Slurm.",
    "srun bash -c 'if [ $SLURM_PROCID = 0 ]; then dvc repro train_ddp; else PYTHONPATH=src python stages/train_ddp.py --join; fi'": (
        "It takes Slurm."
    ),
}
"""Command → what no machine that runs tests has."""

PROGRAMS = {"carinspect", "cd", "curl", "dvc", "export", "git", "make", "pip", "touch"}
"""What may be run here unseen; anything else is to be looked at first."""

STAND_INS = {
    "<folder>": "data/demo",
    "<name>": "my-experiment",
    "<url>": "{stage}/carinspect.git",
    "../storage": "{storage}",
    "/mnt/photos": "{stage}/project/photos",
    "/var/log/carinspect": "{stage}/project",
    "0.0.0.0": "127.0.0.1",
    ":8000": ":{port}",
    "--port 8000": "--port {port}",
}
"""What is the reader's own → what takes its place."""


# ---- accounts


def without_comment(line: str) -> str:
    return re.sub(r"(^|\s+)#.*", "", line).strip()


def blocks(text: str) -> list[list[str]]:
    """The commands of each shell block."""
    contents = [content.replace("\\\n", " ") for language, content in BLOCK.findall(text) if language == "sh"]
    found = ([without_comment(line) for line in content.splitlines()] for content in contents)
    return [[line for line in block if line] for block in found]


def run_here(block: list[str]) -> list[str]:
    return [line for line in block if line not in ELSEWHERE and line not in UNRUNNABLE]


def unaccounted(text: str) -> list[str]:
    """Commands that neither table knows, and that cannot be run here unseen."""
    lines = [line for block in blocks(text) for line in run_here(block)]

    def is_safe(line: str) -> bool:
        programs = {command.split()[0] for command in re.split(r"&&|\|\||[;|]", line)}
        return programs <= PROGRAMS and all(place in STAND_INS for place in re.findall(r"<[^>]*>", line))

    return [line for line in lines if not is_safe(line)]


def is_there(place: str) -> bool:
    """Whether the file has the test or the line."""
    file, _, name = place.partition("::")
    wanted = rf"^def {name}\(" if file.endswith(".py") else rf"\b{name}$"
    return (ROOT / file).is_file() and re.search(wanted, (ROOT / file).read_text(), flags=re.MULTILINE) is not None


@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_executed_or_has_its_reason(page: Path) -> None:
    assert unaccounted(page.read_text()) == []


def test_a_command_that_nobody_accounts_for_is_seen() -> None:
    sound = "```sh\ngit clone <url> && make repro # all of it\n\nmake \\\n  test\n```\n\n```python\nserve()\n```\n"
    assert blocks(sound) == [["git clone <url> && make repro", "make    test"]]
    assert unaccounted(sound) == []
    assert unaccounted("```sh\nwandb login\nwandb logout\ndvc pull && helm install\ndvc get <where>\n```\n") == [
        "wandb logout", "dvc pull && helm install", "dvc get <where>",
    ]  # fmt: skip


@pytest.mark.parametrize("command", ELSEWHERE)
def test_what_executes_a_command_elsewhere_is_there(command: str) -> None:
    assert is_there(ELSEWHERE[command])


def test_that_check_sees_a_test_that_is_gone() -> None:
    here = f"tests/{Path(__file__).name}"
    assert is_there(f"{here}::test_that_check_sees_a_test_that_is_gone")
    assert not is_there(f"{here}::test_that_check_sees")
    assert not is_there("tests/test_gone.py::test_that_check_sees_a_test_that_is_gone")
    assert not is_there(".ci/run::make")


def test_the_tables_hold_only_what_a_page_says() -> None:
    said = {line for page in RUN_PAGES for block in blocks(page.read_text()) for line in block}
    assert ELSEWHERE.keys() | UNRUNNABLE.keys() <= said
    assert not ELSEWHERE.keys() & UNRUNNABLE.keys()


# ---- execution

PRELUDE = """
carinspect() {
    local -
    set +x
    local command=(env PYTHONPATH="$CODE" python -m carinspect.cli.main "$@")
    if [ "$1" = drift ]; then "${command[@]}" || [ $? = 2 ]; return; fi
    if [ "$1" != serve ]; then "${command[@]}"; return; fi
    "${command[@]}" --port "$PORT" &
    trap "kill $!; wait $! || true" EXIT
    until curl "http://127.0.0.1:$PORT/readyz"; do kill -0 $! && sleep 0.2 || return 1; done
}
curl() {
    local -
    set +x
    if type -P curl > /dev/null; then command curl --fail --silent --show-error "$@"; else python -c "$CURL" "$@"; fi
}
pip() {
    PYTHONPATH="$WANDB" command pip "$@"
}
make() {
    command make VENV="$VENV" --assume-old="$VENV/installed" "$@"
}
set -euxo pipefail
"""
"""`carinspect` of this clone, whose service is ready when it returns and ends with the block, and whose model is too poor for `drift` to
tell anything (status 2); `curl` that fails when it is told no; `make` with this environment instead of one of its own; `pip` that sees
wandb, which has a folder of its own here, as installed."""

CURL = """
import sys, httpx
*form, url = sys.argv[1:]
files = {name: open(path, "rb") for name, path in (field.split("=@") for field in form[1:])}
httpx.request("POST" if files else "GET", url, files=files).raise_for_status()
"""


@pytest.fixture(scope="module")
def released(clone: Path) -> Path:
    """The clone with a promise that so small a model can keep, a second experiment, a git remote and a storage; all of it pushed."""
    beside = clone.parent
    shutil.move(clone / ".dvc" / "cache", beside / "cache")
    run(clone, "dvc", "config", "--local", "cache.dir", str(beside / "cache"))
    run(clone, "git", "init", "-q", "--bare", "-b", "main", "../carinspect.git")
    run(clone, "git", "remote", "add", "origin", "../carinspect.git")
    run(clone, "dvc", "remote", "add", "--default", "storage", str(beside / "storage"))
    run(clone, "dvc", "remote", "modify", "storage", "verify", "true")
    set_param(clone, "target_precision: 0.95 ", "target_precision: 0.3 ")
    run(clone, "dvc", "repro")
    run(clone, "git", "commit", "-qam", "A promise")
    run(clone, "git", "push", "-q", "origin", "main")
    run(clone, "dvc", "push")
    run(clone, "dvc", "exp", "run", "--temp", "--name", "my-experiment", "-S", "profiles.demo.runtime.workers=0")
    return clone


@pytest.fixture
def stage(released: Path, tmp_path: Path) -> Path:
    """A folder with a copy of the project, its git remote, and what a reader of the pages has: photos and a log."""
    project = tmp_path / "project"
    shutil.copytree(released, project, symlinks=True)
    shutil.copytree(released.parent / "carinspect.git", tmp_path / "carinspect.git")
    photos = sorted((project / "data" / "demo").rglob("*.jpg"))
    for number, photo in enumerate(photos[:6]):
        target = project / ("photos", "more/2026")[number % 2] / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, target)
    shutil.copy(photos[0], project / "car.jpg")
    Image.open(photos[0]).save(project / "one.png")
    write_fleet(project)
    write_drift_log(project)
    inbox = Inbox(project / "feedback", keep_days=1, limit_bytes=10_000_000)
    inbox.add(photos[0].read_bytes(), model_sha256="", question="clean", word="clean", verdict="dirty")
    return tmp_path


def write_fleet(project: Path) -> None:
    write_table(pd.DataFrame({"image_path": sorted(path.name for path in (project / "photos").iterdir())}), project / "fleet.parquet")


def write_drift_log(project: Path) -> None:
    """A log of photos that are those of the proof, over and over, and of more good ones, so that their share is clearly low enough."""
    bundle = open_bundle(project / "models" / "best.onnx")
    reference = bundle.info["reference"]
    for name, classes in reference["classes"].items():
        counts = reference["histograms"][f"p_{name}"]
        reference["histograms"][f"p_{name}"] = [sum(pair) for pair in zip(counts, classes["good"]["histogram"], strict=True)]
    line = {"model_sha256": bundle.sha256, "from": "2026-11-02", "until": "2026-11-03"}
    line |= {"photos": reference["photos"], "requests": reference["groups"], "histograms": reference["histograms"]}
    (project / "drift.jsonl").write_text(f"{json.dumps(line)}\n" * 5)


def execute(block: list[str], stage: Path, storage: Path) -> subprocess.CompletedProcess[str]:
    """Run the commands in one shell that stops at the first error. Whoever needs the repository's URL has nothing else yet."""
    port = free_port()
    text = "\n".join(block)
    folder = stage if "<url>" in text else stage / "project"
    for theirs, ours in STAND_INS.items():
        text = text.replace(theirs, ours.format(stage=stage, storage=storage, port=port))
    environment = dvc_environment(stage / "project")
    for name in ("MAKEFLAGS", "MFLAGS", "DVC_ROOT"):
        environment.pop(name, None)
    environment |= {
        "CODE": str(stage / "project" / "src"),
        "PORT": str(port),
        "CURL": CURL,
        "VENV": sys.prefix,
        "WANDB": str(WANDB),
        # pip resolves and looks, installs nothing and asks no registry.
        "PIP_DRY_RUN": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
    }
    return subprocess.run(
        ["bash", "-c", PRELUDE + text], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in RUN_PAGES if any(map(run_here, blocks(page.read_text())))], ids=lambda page: page.name)
def test_the_commands_of_a_page_work_in_their_order(page: Path, stage: Path, released: Path) -> None:
    project = stage / "project"
    commands = [run_here(block) for block in blocks(page.read_text())]
    if any("data/raw" in command for command in sum(commands, [])):
        shutil.copytree(project / "data" / "demo", project / "data" / "raw")
    if "dvc add data/raw" in sum(commands, []):
        # The reader's own photos are the data root there.
        set_param(project, "root: data/demo ", "root: data/raw ")
        set_param(project, "sources: data/demo/", "sources: data/raw/")
    for block in commands:
        done = execute(block, stage, released.parent / "storage")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
def test_a_command_that_fails_is_seen(stage: Path, released: Path) -> None:
    for broken in ("carinspect inspect models/bset.onnx", "carinspect serve && curl http://127.0.0.1:8000/nothing"):
        assert execute([broken, "touch later"], stage, released.parent / "storage").returncode != 0
    assert not (stage / "project" / "later").exists()
