"""pip: requirements.txt is what the wheel asks for, and `pip install .` and `pip install '.[serve]'` suffice in an empty environment."""

import os
import re
import shutil
import subprocess
import sys
import venv
from collections import defaultdict
from email import message_from_string
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from packaging.requirements import Requirement
from PIL import Image

from conftest import free_port, make_dataset

ROOT = Path(__file__).parent.parent


def pins(path: str) -> dict[str, str]:
    """Package → version, of a requirements file."""
    lines = (line.strip() for line in (ROOT / path).read_text().splitlines())
    return dict(line.split("==", 1) for line in lines if line and not line.startswith("#"))


def copy_of_checkout(folder: Path) -> Path:
    """What the wheel is made of, in `folder`: pip builds in the folder that it is given."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "requirements.txt", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@cache
def asked_for() -> dict[str, dict[str, str]]:
    """Extra → package → version, as the wheel of this checkout asks pip for them; those without an extra under the empty name."""
    build = "import setuptools.build_meta as build; print(build.prepare_metadata_for_build_wheel('.'))"
    with TemporaryDirectory() as folder:
        project = copy_of_checkout(Path(folder))
        subprocess.run([sys.executable, "-c", build], cwd=project, capture_output=True, check=True)
        (metadata,) = project.glob("*.dist-info/METADATA")
        fields = message_from_string(metadata.read_text())
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for requirement in map(Requirement, fields.get_all("Requires-Dist", [])):
        extra = re.search(r'extra == "(\w+)"', str(requirement.marker))
        extras = f"[{','.join(requirement.extras)}]" if requirement.extras else ""
        found[extra[1] if extra else ""][requirement.name + extras] = str(requirement.specifier).removeprefix("==")
    return dict(found)


def test_the_wheel_asks_for_what_requirements_txt_names_and_for_no_more() -> None:
    sections = [asked_for()[extra] for extra in ("", "serve", "train")]
    assert sum(map(len, sections)) == len(pins("requirements.txt"))
    assert sections[0] | sections[1] | sections[2] == pins("requirements.txt")


def test_every_pin_is_one_of_constraints_txt() -> None:
    fixed = {re.sub("[-_.]+", "-", name).lower(): version for name, version in pins("constraints.txt").items()}
    named = {re.sub("[-_.]+", "-", name).lower(): version for name, version in pins("requirements.txt").items()}
    assert {name: version for name, version in named.items() if fixed.get(name) != version} == {"setuptools": named["setuptools"]}


def test_what_is_optional_is_tested_in_the_version_that_its_extra_brings() -> None:
    assert asked_for().keys() == {"", "serve", "train", "ray", "wandb"}
    assert asked_for()["ray"].items() <= pins("tests/requirements.txt").items()
    assert asked_for()["wandb"].items() <= pins("tests/requirements-wandb.txt").items()


# ---- in an empty environment


class Environment:
    """A virtual environment that nothing is installed in but pip."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True)
        self.bin = folder / "bin"
        self.variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(self, program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [self.bin / program, *words]
        return subprocess.run(command, cwd=self.bin, env=self.variables, capture_output=True, text=True, check=False)

    def install(self, what: str) -> None:
        done = self.run("python", "-m", "pip", "install", "--quiet", what, "-c", ROOT / "constraints.txt")
        assert done.returncode == 0, done.stderr[-3000:]

    def packages(self) -> set[str]:
        """Names of what is installed."""
        return {re.split("[= ]", line)[0].lower() for line in self.run("python", "-m", "pip", "freeze").stdout.splitlines()}


@pytest.mark.slow
def test_pip_install_brings_what_the_commands_need_and_the_extra_serve_the_service_all_without_torch(
    tmp_path: Path, model_file: Path
) -> None:
    project, environment = copy_of_checkout(tmp_path / "project"), Environment(tmp_path / "venv")
    table = make_dataset(tmp_path / "data", photos=40)
    # One photo that the model can answer, and one that is none.
    photos = tmp_path / "photos"
    photos.mkdir()
    draw_photo(photos / "car.jpg")
    (photos / "text.jpg").write_text("no photo")

    environment.install(str(project))
    done = environment.run("carinspect", "score", photos, "--model", model_file, "--out", tmp_path / "scores.parquet")
    assert (done.returncode, "1 unreadable" in done.stdout) == (1, True), done.stdout + done.stderr
    assert environment.run("carinspect", "inspect", model_file).returncode == 0
    done = environment.run("carinspect", "check-split", table)
    assert "no leak" in done.stdout, done.stderr
    shutil.copy(ROOT / "params.yaml", environment.bin)
    write_class_folders(tmp_path / "root")
    done = environment.run("carinspect", "describe", tmp_path / "root", "--out", tmp_path / "page.html")
    assert (done.returncode, (tmp_path / "page.html").is_file()) == (0, True), done.stderr
    # What needs more says in one line what to install.
    for command, extra in ((("serve",), "serve"), (("doctor",), "train"), (("compare", "HEAD", "workspace"), "train")):
        done = environment.run("carinspect", *command)
        assert done.returncode == 2, done.stderr
        assert f"pip install '.[{extra}]'" in done.stderr
        assert done.stderr.count("\n") == 1

    environment.install(f"{project}[serve]")
    assert environment.run("python", "-m", "pip", "check").returncode == 0
    assert {"carinspect", "fastapi"} <= environment.packages()
    assert not {"torch", "dvc"} & environment.packages()
    assert answers_a_photo(environment, model_file, photos / "car.jpg")


def draw_photo(path: Path, *, noise: float = 50) -> None:
    Image.effect_noise((64, 48), noise).convert("RGB").save(path)


def write_class_folders(root: Path) -> None:
    """A data root of 12 photos in two class folders."""
    for index in range(12):
        path = root / "wash" / ("clean", "dirty")[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_photo(path, noise=20 + 10 * index)
    (root / "sources.yaml").write_text(
        "sources:\n  - {name: wash, format: folders, categories: {clean: {clean: 1}, dirty: {clean: 0}}}\n", encoding="utf-8"
    )


def answers_a_photo(environment: Environment, model: Path, photo: Path) -> bool:
    """Whether the service of that environment starts with the model and answers."""
    address, variables = f"http://127.0.0.1:{free_port()}", environment.variables | {"MODEL_PATH": str(model)}
    command = [environment.bin / "carinspect", "serve", "--port", address.rpartition(":")[2]]
    service = subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL)
    try:
        # With an idle machine it is ready after two seconds.
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=60) as client:
            answer = client.post(f"{address}/predict/file", files={"file": (photo.name, photo.read_bytes(), "image/jpeg")})
        return answer.status_code == 200
    finally:
        service.terminate()
        service.wait(60)
