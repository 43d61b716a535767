"""docker/: the files are sound, and what they name exists. No image is built here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serving_tools import ROOT, model_bytes, photo_bytes
from test_packaging import asked_for, pins

DOCKERFILES = ["docker/Dockerfile", "docker/Dockerfile.train"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("file", DOCKERFILES)
def test_hadolint_finds_nothing(file: str) -> None:
    done = subprocess.run([BIN / "hadolint", file], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_follows_its_schema() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_an_image_has_the_versions_that_were_tested() -> None:
    assert pins("docker/requirements-pull.txt").items() <= pins("requirements.txt").items()
    assert "torch" not in pins("docker/requirements-pull.txt")
    for locked, named in (("serve", asked_for()[""] | asked_for()["serve"]), ("pull", pins("docker/requirements-pull.txt"))):
        found = locked_versions(locked)
        assert named.items() <= found.items()
        # Its name of a package may have a dot or an underscore for a dash; pip's own setuptools is not in it.
        tested = {re.sub("[-_.]+", "-", package).lower(): version for package, version in pins("constraints.txt").items()}
        assert found.items() - {("setuptools", pins("requirements.txt")["setuptools"])} <= tested.items()
        assert "torch" not in found
    gpu, cpu = locked_versions("serve-gpu"), locked_versions("serve")
    assert {name: version for name, version in gpu.items() if not name.startswith(("nvidia-", "onnxruntime"))} == {
        name: version for name, version in cpu.items() if name != "onnxruntime"
    }
    assert gpu["onnxruntime-gpu"] == cpu["onnxruntime"]


def locked_versions(name: str) -> dict[str, str]:
    """Name and version of what an image installs, each with a hash; raises AssertionError for one without."""
    entries = re.split(r"\n(?=\S)", (ROOT / "docker" / "locked" / f"{name}.txt").read_text().strip())
    assert all(re.fullmatch(r"\S+==\S+( ; .*)?( \\\n    --hash=sha256:[0-9a-f]{64})+", entry) for entry in entries)
    return {entry.split("==")[0]: re.split(r"[ ;]", entry.split("==")[1])[0] for entry in entries}


def test_an_image_begins_with_a_digest_and_installs_nothing_without_a_hash() -> None:
    for file in DOCKERFILES:
        assert all(re.search(r"@sha256:[0-9a-f]{64}", base) for base in instructions(file, "FROM") if not base.startswith("base "))
    installed = [line for line in instructions("docker/Dockerfile", "RUN") if "pip install" in line]
    assert len(installed) == 2
    assert all("--require-hashes --no-deps" in line for line in installed)


def test_what_renews_the_base_image_is_sound() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def instructions(file: str, word: str) -> list[str]:
    text = (ROOT / file).read_text().replace("\\\n", " ")
    return re.findall(rf"^{word} (.*)$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("file", DOCKERFILES)
def test_every_copied_path_exists_and_is_let_into_the_build(file: str) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [source for copy in instructions(file, "COPY") for source in copy.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == path or source.startswith(f"{path}/") for path in allowed), source


@pytest.mark.parametrize("file", DOCKERFILES)
def test_no_image_runs_as_root(file: str) -> None:
    stages = re.split(r"^FROM ", (ROOT / file).read_text(), flags=re.MULTILINE)[1:]
    assert all("USER 10001:10001" in stage for stage in stages if "ENTRYPOINT" in stage)


def test_services_hold_nothing_that_they_do_not_need() -> None:
    for name in ("serve", "serve-gpu"):
        service = COMPOSE["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["volumes"][0].endswith(":ro")
        assert service["ports"][0].startswith("${LISTEN:-127.0.0.1:")
    for service in COMPOSE["services"].values():
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        target = service["build"].get("target")
        assert target is None or f"AS {target}\n" in (ROOT / "docker/Dockerfile").read_text()


def test_every_setting_reaches_the_service_but_those_that_the_image_fixes() -> None:
    from carinspect.serving.config import ServiceConfig

    fields = {name: about for name, about in ServiceConfig.model_fields.items() if name not in ("model_path", "device")}
    names = {f"CARINSPECT_{name.upper()}" for name in fields}
    names |= {about.validation_alias for about in fields.values() if about.validation_alias}
    assert COMPOSE["services"]["serve"]["environment"] == dict.fromkeys(names)
    assert COMPOSE["services"]["serve-gpu"]["environment"] == dict.fromkeys(names) | {"CARINSPECT_DEVICE": "cuda"}


def test_the_command_of_the_image_exists() -> None:
    (entry,) = [entry for entry in instructions("docker/Dockerfile", "ENTRYPOINT") if "carinspect" in entry]
    command = [sys.executable, *yaml.safe_load(entry)[1:4], "--help"]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=True)
    assert "--host" in done.stdout
    assert "--port" in done.stdout


ONLY_LISTED = """
import importlib.metadata, importlib.abc, os, pathlib, re, sys

def needed(names):
    found, waiting = set(), list(names)
    while waiting:
        name = re.sub("[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        found.add(name)
        waiting += [re.match("[A-Za-z0-9._-]+", line)[0] for line in required if "extra ==" not in line]
    return found

listed = needed(sys.argv[1].split(","))
owners = importlib.metadata.packages_distributions()

class OnlyListed(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        of = {re.sub("[-_.]+", "-", owner).lower() for owner in owners.get(top, [])}
        if of and not of & (listed | {"carinspect"}):
            raise ModuleNotFoundError(f"{name} is of {of}, which is not listed", name=name)

sys.meta_path.insert(0, OnlyListed())
from fastapi.testclient import TestClient
from carinspect.serving.app import create_app
from carinspect.serving.config import read_config
import carinspect.serving.server, carinspect.cli.main
os.environ["MODEL_PATH"] = sys.argv[2]
with TestClient(create_app(read_config())) as client:
    photo = pathlib.Path(sys.argv[3]).read_bytes()
    assert client.post("/predict/file", files={"file": ("x", photo, "image/jpeg")}).status_code == 200
"""


def test_the_service_runs_on_the_listed_packages_alone(tmp_path: Path) -> None:
    model, photo = tmp_path / "best.onnx", tmp_path / "photo.jpg"
    model.write_bytes(model_bytes())
    photo.write_bytes(photo_bytes())
    listed = [*asked_for()[""], *asked_for()["serve"]]

    def serves(names: list[str]) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", ONLY_LISTED, ",".join(names), str(model), str(photo)]
        return subprocess.run(command, env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False)

    whole = serves(listed)
    assert whole.returncode == 0, whole.stderr
    assert "not listed" in serves([name for name in listed if name != "prometheus-client"]).stderr
