"""The pipeline as a whole: dvc.yaml says what the code does, and dvc repro and dvc exp behave as the README promises."""

import ast
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from conftest import own_settings_of_dvc

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
DEMO = yaml.safe_load((ROOT / "demo" / "dvc.yaml").read_text())
STAGES = {**PIPELINE["stages"], **DEMO["stages"]}


# ---- dvc.yaml against the imports


def imported_modules(file: Path) -> Iterator[str]:
    """Every module of this project that `file` imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "carinspect":
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "carinspect")


def reached_files(script: Path) -> set[str]:
    """The project's files that running `script` imports, directly or not, relative to the root."""
    reached: set[Path] = set()
    waiting = [script]
    while waiting:
        for module in imported_modules(waiting.pop()):
            file = SOURCE / Path(*module.split(".")).with_suffix(".py")
            if file.is_file() and file not in reached:
                reached.add(file)
                waiting.append(file)
    return {file.relative_to(ROOT).as_posix() for file in reached}


def code_problems(stage: str, deps: list[str]) -> list[str]:
    """What is wrong between the code that a stage reaches and the code in its deps."""
    script = f"stages/{stage}.py"
    reached = reached_files(ROOT / script)
    code = [dep for dep in deps if dep.startswith(("src/", "stages/"))]
    missing = [file for file in reached if not any(file == dep or file.startswith(f"{dep}/") for dep in code)]
    needless = [dep for dep in code if dep != script and not any(file == dep or file.startswith(f"{dep}/") for file in reached)]
    return (
        [f"missing {file}" for file in missing]
        + [f"needless {dep}" for dep in needless]
        + ([] if script in code else [f"missing {script}"])
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_code_that_it_imports(stage: str) -> None:
    assert code_problems(stage, STAGES[stage]["deps"]) == []


def test_that_check_sees_a_missing_and_a_needless_dependency() -> None:
    deps = STAGES["split"]["deps"]
    assert code_problems("split", [dep for dep in deps if dep != "src/carinspect/splits"])
    assert code_problems("split", [*deps, "src/carinspect/training"]) == ["needless src/carinspect/training"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_the_same_word_everywhere(stage: str) -> None:
    assert (ROOT / "stages" / f"{stage}.py").is_file()
    assert STAGES[stage]["cmd"].endswith(f"stages/{stage}.py")
    files = {name: options for out in STAGES[stage]["outs"] if isinstance(out, dict) for name, options in out.items()}
    # In git; a run that fails leaves the file as it was.
    assert files[f"metrics/{stage}.json"] == {"cache": False, "persist": True}


def test_the_metrics_of_dvc_are_the_headlines() -> None:
    found = {name: stage["metrics"] for name, stage in STAGES.items() if "metrics" in stage}
    assert found == {"export_onnx": [{"metrics/headline.json": {"cache": False, "persist": True}}]}


def test_what_should_be_heard_before_a_training_stands_before_it() -> None:
    # DVC runs stages that do not depend on each other in the order of the file.
    order = list(PIPELINE["stages"])
    assert order.index("outlook") < order.index("probe") < order.index("train_ddp")


LAYERS = [
    {"core"}, {"images", "scoring"}, {"model", "inference"},
    {"annotations", "splits", "training", "evaluation", "thresholds", "export", "demo", "describe", "audit", "storage"},
    {"comparison", "doctor", "labelling", "serving"},
    {"registry", "sweep"},
    {"cli"},
]  # fmt: skip


def layer_problems(file: Path, package: str) -> list[str]:
    """Imports of `file`, which lies in `package`, that do not go down."""
    own = next(index for index, layer in enumerate(LAYERS) if package in layer)
    allowed = {package}.union(*LAYERS[:own])
    used = {module.split(".")[1] for module in imported_modules(file) if "." in module}
    return [f"{file.name} imports {other}" for other in sorted(used - allowed)]


def test_imports_go_down_the_layers() -> None:
    packages = {path.name for path in (SOURCE / "carinspect").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert packages == set().union(*LAYERS)
    problems = [
        problem
        for package in packages
        for file in (SOURCE / "carinspect" / package).glob("*.py")
        for problem in layer_problems(file, package)
    ]
    assert problems == []
    assert layer_problems(SOURCE / "carinspect" / "training" / "loop.py", "core") != []


SERVING_MODULES = [
    "carinspect.inference.bundle", "carinspect.inference.car", "carinspect.images.pixel_cache", "carinspect.scoring.ranking",
    "carinspect.serving.server",
]  # fmt: skip
FIND_TORCH = """
import importlib, sys
print([module for module in sys.argv[1:] if importlib.import_module(module) and "torch" in sys.modules])
"""


def test_what_serves_never_imports_torch() -> None:
    def found(*modules: str) -> str:
        command = [sys.executable, "-c", FIND_TORCH, *modules]
        return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True).stdout

    assert found(*SERVING_MODULES) == "[]\n"
    assert found("carinspect.model.network") == "['carinspect.model.network']\n"


IMPORT_ALL = """
import importlib, os, pkgutil, sys, warnings
import albumentations, cv2, torch
from PIL import Image, ImageFile

def settings():
    ignored = [kind for action, _, kind, _, _ in warnings.filters if kind is Image.DecompressionBombWarning]
    threads = (torch.get_num_threads(), cv2.getNumThreads())
    # Some variables are set by libraries: joblib, torch's inductor.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("KMP_", "TORCHINDUCTOR_"))}
    return own, threads, ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, ignored

before = settings()
import carinspect
modules = [module.name for module in pkgutil.walk_packages(carinspect.__path__, "carinspect.")]
for name in modules:
    importlib.import_module(name)
assert len(modules) > 150
unchanged = settings() == before
from carinspect.images.decode import PhotoError, open_photo
try:
    open_photo(b"")
except PhotoError:
    pass
# The twin: the first photo sets Pillow up.
assert settings() != before
sys.exit(not unchanged)
"""


def test_importing_the_modules_sets_nothing_in_the_process() -> None:
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "NO_ALBUMENTATIONS_UPDATE": "1"}
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- what the committed demo says of itself


def metrics_of(stage: str) -> dict:
    return json.loads((ROOT / "metrics" / f"{stage}.json").read_text())


def test_the_demo_is_learnt() -> None:
    test = metrics_of("evaluate")["test"]
    assert test["clean"]["roc_auc"] >= 0.95
    assert test["weather"]["accuracy"] >= 0.90
    assert test["damage"]["mae_over_constant"] <= 0.5


def test_the_demo_has_no_leak_and_a_promise_is_proved_or_said_to_be_infeasible() -> None:
    assert metrics_of("split")["leaks"] == 0
    selection = metrics_of("select_threshold")
    assert set(selection) == {"gate", "corruptions", "marks", "clean", "damaged"}
    for marks in selection.pop("marks").values():
        assert marks["promise"] is None or marks["promise"]["bound"] >= marks["promise"]["target_precision"]
    assert set(selection.pop("corruptions")) >= {"passed"}
    # The photos of a group are turned away together, so that more or fewer than the stated share of the photos is normal.
    assert selection.pop("gate")["turned_away"]["test"] < 0.15
    for found in selection.values():
        assert found["feasible"] == (found["T_high"] is not None)
        assert found["guaranteed"]["T_high"] == found["T_high"]


# ---- dvc itself, in a clone


def dvc_environment(folder: Path) -> dict[str, str]:
    """Offline, and with DVC's own folders beside `folder`."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | own_settings_of_dvc(folder.parent / "dvc") | {"PATH": path}
    # Caches of bytecode must not count as changed code.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment.pop("PYTHONPATH", None)
    return environment


def run(folder: Path, *command: str, fails: bool = False) -> str:
    """Run `command` in `folder`; returns stdout and stderr together."""
    environment = dvc_environment(folder)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False)
    output = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, output
    return output


def set_param(folder: Path, old: str, new: str) -> None:
    params = folder / "params.yaml"
    text = params.read_text()
    assert text.count(old) == 1, old
    params.write_text(text.replace(old, new))


DEMO_RUNTIME = "freeze_norm: false\n    runtime:\n      device: auto\n      processes: auto\n      workers: auto\n"


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout with a small demo, its pipeline run once and committed; made once for all processes of a test run. Copy it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "small_demo" / "clone"
    with (shared / "small_demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            unfinished = shared / "unfinished" / "clone"
            shutil.rmtree(unfinished.parent, ignore_errors=True)
            make_small_demo(unfinished)
            unfinished.parent.rename(folder.parent)
    return folder


def make_small_demo(folder: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for name in ("dvc.lock", "demo/dvc.lock", "data/split_ledger.json"):
        (folder / name).unlink(missing_ok=True)
    set_param(folder, "photos: 1440 ", "photos: 240 ")
    set_param(folder, "  epochs:\n", "  epochs: 2\n")
    set_param(folder, "image_side_px:\n", "image_side_px: 32\n")
    # Of the corruptions one severity, for each experiment scores them.
    set_param(folder, "  - 1\n  - 2\n  - 3\n  - 4\n  - 5\n", "  - 3\n")
    # One process starts faster than two, and two tests share the cores.
    set_param(folder, DEMO_RUNTIME, DEMO_RUNTIME.replace("processes: auto\n      workers: auto", "processes: 1\n      workers: 1"))
    run(folder, "git", "init", "-q", "-b", "main")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "code")
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "demo")


@pytest.fixture(scope="module")
def clone(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small demo for one file of tests."""
    folder = tmp_path_factory.mktemp("pipeline") / "clone"
    shutil.copytree(small_demo, folder, symlinks=True)
    return folder


@pytest.fixture
def workspace(clone: Path) -> Iterator[Path]:
    """The clone, put back afterwards."""
    yield clone
    # A failed experiment can leave params.yaml changed behind a stat that git takes for clean.
    (clone / "params.yaml").touch()
    run(clone, "git", "checkout", "-q", "--", ".")
    run(clone, "dvc", "checkout", "--force", "-q")


def ran_stages(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


@pytest.mark.slow
def test_every_output_is_there_and_git_is_clean(clone: Path) -> None:
    outs = [out for stage in STAGES.values() for out in [*stage["outs"], *stage.get("metrics", [])]]
    outputs = [out if isinstance(out, str) else next(iter(out)) for out in outs]
    assert all((clone / out).exists() for out in outputs)
    assert run(clone, "git", "status", "--porcelain") == ""


@pytest.mark.slow
def test_a_second_repro_changes_nothing_though_python_left_its_caches(workspace: Path) -> None:
    assert list((workspace / "src").rglob("__pycache__"))
    assert ran_stages(run(workspace, "dvc", "repro")) == []
    assert run(workspace, "git", "status", "--porcelain") == ""


@pytest.mark.slow
def test_an_unused_profile_and_a_runtime_knob_rerun_only_the_resolution(workspace: Path) -> None:
    set_param(workspace, "batch_size: 256", "batch_size: 128")
    set_param(workspace, "processes: 1\n      workers: 1\n", "processes: 1\n      workers: auto\n")
    assert ran_stages(run(workspace, "dvc", "repro")) == ["resolve_recipe"]


@pytest.mark.slow
def test_results_that_a_comment_cannot_change_are_kept_by_dvc_commit(workspace: Path) -> None:
    code = workspace / "src" / "carinspect" / "core" / "seeds.py"
    code.write_text(code.read_text() + "# A comment.\n")
    assert len(ran_stages(run(workspace, "dvc", "repro", "--dry"))) > 5
    run(workspace, "dvc", "commit", "--force")
    assert ran_stages(run(workspace, "dvc", "repro")) == []


@pytest.mark.slow
def test_another_profile_with_the_same_recipe_trains_nothing(workspace: Path) -> None:
    params = workspace / "params.yaml"
    for line in ("backbone: test_resnet", "pretrained: false", "lr: 0.004", "backbone_lr_factor: 1.0", "freeze_norm: false"):
        # The first one is the section's, which replaces the profile's.
        name = line.split(":")[0]
        params.write_text(re.sub(rf"(?m)^  {name}: .*$", f"  {line}", params.read_text(), count=1))
    assert ran_stages(run(workspace, "dvc", "exp", "run", "-S", "hardware=cpu")) == ["resolve_recipe"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  policy: fresh ", "  polciy: fresh ", "split.polciy: unknown key. Did you mean 'policy'?"),
        ("hardware: demo ", "hardware: dmeo ", "no profile is called 'dmeo'. Did you mean 'demo'?"),
        ("  backbone:     ", "  backbone: resnat18 ", "timm has no model 'resnat18'. Did you mean 'resnet18'?"),
        ("  pretrained:     ", "  pretrained: none.safetensors ", "model.pretrained: no such file: 'none.safetensors'"),
        ("  seed: 2026\n  policy", "  seed: later\n  policy", "split.seed has the value 'later'"),
    ],
)
def test_a_mistyped_param_fails_before_anything_is_deleted(workspace: Path, old: str, new: str, message: str) -> None:
    set_param(workspace, old, new)
    before = {path: path.stat().st_mtime_ns for name in ("data", "models", "reports") for path in (workspace / name).rglob("*")}
    output = run(workspace, "dvc", "repro", fails=True)
    assert message in output
    assert "Traceback" not in output
    assert {path: path.stat().st_mtime_ns for name in ("data", "models", "reports") for path in (workspace / name).rglob("*")} == before


@pytest.mark.slow
def test_an_experiment_changes_what_it_says_and_can_be_compared(workspace: Path) -> None:
    output = run(workspace, "dvc", "exp", "run", "--name", "bigger-batch", "-S", "train.batch_size=48", "-S", "train.lr=1e-5")
    assert ran_stages(output) == ["resolve_recipe", "train_ddp", "train_marks", "evaluate", "select_threshold", "export_onnx"]
    recipe = yaml.safe_load((workspace / "data" / "recipe.yaml").read_text())
    assert (recipe["train"]["batch_size"], recipe["train"]["lr"]) == (48, 1e-5)
    changes = [line for line in run(workspace, "dvc", "params", "diff", "--md").splitlines() if line.startswith("|")][2:]
    assert [[cell.strip() for cell in line.split("|")[1:3]] for line in changes] == [
        ["params.yaml", "train.batch_size"], ["params.yaml", "train.lr"],
    ]  # fmt: skip
    assert "up to date" in run(workspace, "dvc", "status")
    assert "metrics/headline.json" in run(workspace, "dvc", "metrics", "diff")
    assert "bigger-batch" in run(workspace, "dvc", "exp", "show", "--csv")
    # DVC only warns where a declared column does not exist, and leaves its plot out.
    assert "WARNING" not in run(workspace, "dvc", "plots", "diff", "HEAD", "workspace", "-o", "plots")
    page = (workspace / "plots" / "index.html").read_text()
    shutil.rmtree(workspace / "plots")
    for title in ("precision and recall of clean", "confusion of weather", "calibration of clean", "validation score", "damage"):
        assert title in page, title


@pytest.fixture(scope="module")
def experiments(clone: Path) -> Path:
    """The clone after two experiments in temporary copies: `other-backbone` and `longer`."""
    run(clone, "dvc", "exp", "run", "--temp", "--name", "other-backbone", "-S", "model.backbone=test_efficientnet", "-S", "train.epochs=1")
    run(clone, "dvc", "exp", "run", "--temp", "--name", "longer", "-S", "train.epochs=3")
    return clone


def reference_of(folder: Path, experiment: str) -> str:
    (reference,) = run(folder, "git", "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{experiment}").split()
    return reference


@pytest.mark.slow
def test_an_experiment_in_a_temporary_copy_runs_the_copy_and_leaves_the_workspace(experiments: Path) -> None:
    assert run(experiments, "git", "status", "--porcelain") == ""
    found = run(experiments, "git", "show", f"{reference_of(experiments, 'other-backbone')}:metrics/resolve_recipe.json")
    assert "test_efficientnet" in found


@pytest.mark.slow
def test_two_experiments_are_compared_by_their_names(experiments: Path, workspace: Path) -> None:
    carinspect = ("env", "PYTHONPATH=src", sys.executable, "-m", "carinspect.cli.main")
    names = ("other-backbone", "longer")
    output = run(workspace, *carinspect, "compare", *names, "--json", "comparison.json")
    comparison = json.loads((workspace / "comparison.json").read_text())
    (workspace / "comparison.json").unlink()
    metrics = json.loads(run(workspace, "git", "show", f"{reference_of(workspace, 'longer')}:metrics/evaluate.json"))["test"]
    found = {(metric["question"], metric["metric"]): metric for metric in comparison["metrics"]}
    assert found["damage", "mae"]["b"] == pytest.approx(metrics["damage"]["mae"], abs=1e-5)
    assert found["damage", "mae"]["difference"] != 0
    assert "A = other-backbone, B = longer" in output
    assert "No clear difference" in run(workspace, *carinspect, "compare", "HEAD", "workspace")
    output = run(workspace, *carinspect, "compare", "HEAD", "lnoger", fails=True)
    assert "at 'lnoger' cannot be read" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_an_experiment_in_a_temporary_copy_whose_dvc_is_killed_goes_on_where_it_was(workspace: Path) -> None:
    command = ["dvc", "exp", "run", "--temp", "--name", "killed", "-S", "train.epochs=13"]
    # A plain /bin/sh often stays between DVC and the stage, as bash does not.
    environment = dvc_environment(workspace) | {"SHELL": "/bin/sh"}
    states = workspace / ".carinspect" / "train"
    with subprocess.Popen(command, cwd=workspace, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(states.glob("*.pt")):
            assert process.poll() is None, "the experiment ended before a state was kept"
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, "a process outlived dvc"
    output = run(workspace, *command)
    assert "of an interrupted run" in output
    assert not list(states.glob("*.pt"))
    assert run(workspace, "git", "status", "--porcelain") == ""
    found = run(workspace, "git", "show", f"{reference_of(workspace, 'killed')}:metrics/train_ddp.json")
    assert json.loads(found)["epochs"] == 13


@pytest.mark.slow
def test_a_missing_data_root_is_one_line(workspace: Path) -> None:
    set_param(workspace, "root: data/demo ", "root: data/nothing ")
    output = run(workspace, "dvc", "repro", fails=True)
    assert "data/nothing" in output
    assert "Traceback" not in output
