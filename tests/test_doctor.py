"""doctor: each finding says well and ill apart, names the fix, and no check stops the others."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import distributed

from carinspect.cli import doctor
from carinspect.core.errors import UserError
from carinspect.core.params import load_params
from carinspect.doctor import checkup, connections, hardware, live, project
from carinspect.doctor.finding import Finding, Verdict, as_table, find
from carinspect.training import runtime as runtime_module
from carinspect.training.config import Recipe, Runtime
from carinspect.training.profiles import read_profiles
from carinspect.training.recipe import resolve_recipe
from carinspect.training.runtime import Machine, held_batches_bytes, settle_runtime
from conftest import make_dataset

ROOT = Path(__file__).parent.parent
AUTO = {"device": "auto", "processes": "auto", "workers": "auto", "compile": False, "pin_memory": "auto"}
RUNTIME = Runtime.model_validate(AUTO | {"micro_batch": "auto", "checkpoint_steps": 0})


def a_machine(**changes: object) -> Machine:
    usual = {"device": "cpu", "processes": 1, "workers": 0, "compile": False, "pin_memory": False, "micro_batch": "auto"}
    return Machine(**(usual | {"checkpoint_steps": 0} | changes))


# ---- findings


def test_a_check_that_raises_is_a_bad_finding_in_one_line() -> None:
    def breaks() -> Finding:
        raise RuntimeError("cuda\n  is gone")

    def refuses() -> Finding:
        raise UserError("the thing, and its fix.")

    assert find("card", breaks) == Finding("card", "RuntimeError: cuda is gone", "bad")
    assert find("card", refuses) == Finding("card", "the thing, and its fix.", "bad")
    assert find("card", lambda: Finding("card", "well")).verdict == "ok"


def test_the_table_has_a_line_a_finding_and_the_mend_of_what_is_not_well() -> None:
    table = as_table([Finding("disk", "full", "bad", "Make room."), Finding("cores", "2", "ok", "nothing to fix")])
    assert table.splitlines() == ["bad   disk   full", "             → Make room.", "ok    cores  2"]


# ---- the machine


def test_cards_are_named_with_what_they_can_do() -> None:
    card = hardware.Card("NVIDIA T4", 16 * 2**30, (7, 5), bf16=False)
    assert hardware.check_cards([card], driver=True).value == "NVIDIA T4, 16.0 GiB, compute capability 7.5, fp16, no bf16"
    assert hardware.check_cards([], driver=False).verdict == "ok"
    assert hardware.check_cards([], driver=True).verdict == "warn"


def test_a_single_core_is_warned_of() -> None:
    assert [hardware.check_cores(usable, present=8).verdict for usable in (1, 2)] == ["warn", "ok"]


def test_memory_must_hold_the_processes_and_their_workers(tiny_recipe: Recipe) -> None:
    settled = a_machine(processes=2, workers=4)
    found = [hardware.check_memory(gib * 2**30, machine=settled, recipe=tiny_recipe.train).verdict for gib in (2, 4)]
    assert found == ["bad", "ok"]
    assert hardware.check_memory(2 * 2**30, machine=None, recipe=None).verdict == "ok"


def test_shared_memory_must_hold_what_the_workers_hand_over(tiny_recipe: Recipe) -> None:
    settled = a_machine(processes=2, workers=4)
    needed = 8 * held_batches_bytes(tiny_recipe.train)
    small = hardware.check_shared_memory(needed - 1, machine=settled, recipe=tiny_recipe.train)
    assert small.verdict == "bad"
    assert "--shm-size=1g" in small.fix
    assert hardware.check_shared_memory(needed, machine=settled, recipe=tiny_recipe.train).verdict == "ok"
    assert hardware.check_shared_memory(0, machine=a_machine(), recipe=tiny_recipe.train).verdict == "ok"


def test_a_disk_is_measured_by_a_file_that_is_gone_afterwards(tmp_path: Path) -> None:
    found = hardware.check_disk(tmp_path, free_bytes=10**10, needed_bytes=10**9)
    assert "MB/s" in found.value
    assert list(tmp_path.iterdir()) == []
    assert hardware.check_disk(tmp_path, free_bytes=10**9, needed_bytes=10**9).verdict == "bad"


def test_a_slow_disk_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "measure_disk", lambda _: (20.0, 400.0))
    assert hardware.check_disk(tmp_path, free_bytes=10**10, needed_bytes=0).verdict == "warn"
    monkeypatch.setattr(hardware, "measure_disk", lambda _: (200.0, 400.0))
    assert hardware.check_disk(tmp_path, free_bytes=10**10, needed_bytes=0).verdict == "ok"


def test_a_disk_that_fills_up_under_the_probe_is_bad_and_the_probe_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    found = find("disk", lambda: hardware.check_disk(tmp_path, free_bytes=10**10, needed_bytes=0))
    assert (found.verdict, "No space left" in found.value) == ("bad", True)
    assert list(tmp_path.iterdir()) == []


# ---- loader workers follow cores and memory


@pytest.mark.parametrize(
    ("cores", "memory_gib", "workers"),
    [(16, 64, 7), (64, 64, 8), (2, 64, 0), (16, 2, 3), (16, 0.25, 0)],
)
def test_workers_follow_the_cores_and_the_memory(
    cores: int, memory_gib: float, workers: int, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runtime_module, "usable_cores", lambda: cores)
    monkeypatch.setattr(runtime_module, "usable_memory_bytes", lambda: int(memory_gib * 2**30))
    settled = settle_runtime(RUNTIME, tiny_recipe.train, nodes=1)
    assert (settled.processes, settled.workers) == (2, workers)


def test_larger_photos_leave_room_for_fewer_workers(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runtime_module, "usable_cores", lambda: 16)
    monkeypatch.setattr(runtime_module, "usable_memory_bytes", lambda: 4 * 2**30)
    large = tiny_recipe.train.model_copy(update={"image_side_px": 1024, "norm_batch_size": 8})
    assert held_batches_bytes(large) == 3 * 8 * 1024 * 1024 * 3
    assert settle_runtime(RUNTIME, large, nodes=1).workers == 5
    assert settle_runtime(RUNTIME, tiny_recipe.train, nodes=1).workers == 7
    given = RUNTIME.model_copy(update={"workers": 12})
    assert settle_runtime(given, large, nodes=1).workers == 12


# ---- the project


def test_the_runtime_says_why_wherever_it_is_auto(tiny_recipe: Recipe) -> None:
    settled = a_machine(processes=2)
    value = project.describe_runtime(RUNTIME, settled, tiny_recipe, cards=0).value
    assert "device cpu (auto: torch sees no GPU)" in value
    assert "2 micro-batches to share" in value
    given = RUNTIME.model_copy(update={"processes": 2, "device": "cpu"})
    assert "processes 2;" in project.describe_runtime(given, settled, tiny_recipe, cards=0).value


def test_the_profile_is_named_with_its_recipe() -> None:
    params = load_params(ROOT / "params.yaml") | {"hardware": "rtx5090_x3"}
    recipe = resolve_recipe(params, pretrained=None, resume="none")
    assert "rtx5090_x3" in project.describe_profile(read_profiles(params)[0], recipe).value
    assert "512 px, batch 96 x 2" in project.describe_profile("rtx5090_x3", recipe).value


def test_packages_are_held_to_their_pins(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("# what it runs on\ntorch==2.15.0\nnumpy==2.4.6  # arrays\n")
    pins = project.read_pins(file)
    assert pins == {"torch": "2.15.0", "numpy": "2.4.6"}
    assert project.check_packages(pins, {"torch": "2.15.0+cpu", "numpy": "2.4.6"}).verdict == "ok"
    other = project.check_packages(pins, {"torch": "2.14.0", "numpy": "2.4.6"})
    assert (other.verdict, other.value) == ("warn", "torch 2.14.0, pinned 2.15.0")
    missing = project.check_packages(pins, {"numpy": "2.4.6"})
    assert (missing.verdict, missing.value, missing.fix) == ("bad", "missing: torch", "make setup")
    assert set(project.installed_versions(["numpy", "no-such-package"])) == {"numpy"}


@pytest.mark.parametrize(
    ("config", "verdict"),
    [
        ({}, "warn"),
        ({"core": {}, "remote": {"storage": {"url": "../storage", "verify": True}}}, "warn"),
        ({"core": {"remote": "storage"}, "remote": {"storage": {"url": "../storage"}}}, "warn"),
        ({"core": {"remote": "storage"}, "remote": {"storage": {"url": "../storage", "verify": True}}}, "ok"),
    ],
)
def test_a_remote_must_be_the_default_and_verified(config: dict, verdict: str) -> None:
    assert project.check_remote(config).verdict == verdict


def test_git_is_clean_changed_or_missing(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)

    assert "git init" in project.check_git(tmp_path).fix
    git("init", "-q")
    (tmp_path / "params.yaml").write_text("a: 1\n")
    changed = project.check_git(tmp_path)
    assert (changed.verdict, changed.value) == ("warn", "1 changed: params.yaml")
    git("add", "-A")
    git("-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "-qm", "one")
    assert project.check_git(tmp_path).verdict == "ok"


# ---- connections


def test_loopback_is_reached_and_an_address_of_no_card_is_not() -> None:
    assert connections.check_port().verdict == "ok"
    # TEST-NET-1 of RFC 5737: nobody's.
    assert find("rendezvous", lambda: connections.check_port("192.0.2.1")).verdict == "bad"


def test_gloo_connects_and_leaves_no_group_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connections.check_gloo() == Finding("gloo", "connects")
    assert not distributed.is_initialized()
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-card")
    assert find("gloo", connections.check_gloo).verdict == "bad"
    assert not distributed.is_initialized()


def test_nccl_is_asked_for_only_beside_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connections.check_nccl(cards=0).verdict == "ok"
    monkeypatch.setattr(distributed, "is_nccl_available", lambda: False)
    assert connections.check_nccl(cards=1).verdict == "bad"


# ---- live


def test_one_batch_trains(tiny_recipe: Recipe) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    found = live.check_training(tiny_recipe, a_machine())
    assert found.verdict == "ok"
    assert "8 photos forward, backward and one step" in found.value
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert not distributed.is_initialized()


def out_of_memory_above(photos: int) -> Callable[..., None]:
    def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > photos:
            raise torch.OutOfMemoryError("injected")

    return hook


@pytest.mark.parametrize(("fits", "verdict", "words"), [(8, "ok", "loss"), (4, "warn", "only 4 photos"), (0, "bad", "single photo")])
def test_memory_that_holds_too_few_photos_is_said(
    fits: int, verdict: str, words: str, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = live._build

    def short_of_memory(recipe: Recipe) -> torch.nn.Module:
        network = build(recipe)
        network.register_forward_pre_hook(out_of_memory_above(fits))
        return network

    monkeypatch.setattr(live, "_build", short_of_memory)
    found = find("one batch", lambda: live.check_training(tiny_recipe, a_machine()))
    assert (found.verdict, words in found.value) == (verdict, True)


def test_photos_are_read_and_a_broken_one_is_named(tmp_path: Path) -> None:
    table = make_dataset(tmp_path, photos=70)
    assert "photos/s" in live.check_photos(table, tmp_path / "root", side_px=32).value
    (tmp_path / "root" / "0003.jpg").write_bytes(b"no photo")
    found = find("photos", lambda: live.check_photos(table, tmp_path / "root", side_px=32))
    assert (found.verdict, "0003.jpg" in found.value) == ("bad", True)
    assert live.check_photos(tmp_path / "none.csv", tmp_path, side_px=32).verdict == "ok"


# ---- the command


@pytest.fixture
def project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's settings, and none of its data."""
    for name in ("params.yaml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


def set_params(old: str, new: str) -> None:
    text = Path("params.yaml").read_text()
    assert text.count(old) == 1
    Path("params.yaml").write_text(text.replace(old, new))


def examined() -> dict[str, Finding]:
    return {found.name: found for found in checkup.examine()}


def test_every_check_is_made_whatever_the_others_found(project_folder: Path) -> None:
    found = examined()
    # Nothing of DVC's is there.
    assert (found["DVC remote"].verdict, found["one batch"].verdict, found["photos"].verdict) == ("bad", "ok", "ok")
    assert found["profile"].value.startswith("demo (hardware in params.yaml)")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hardware: demo ", "hardware: rtx4090 ", "no profile is called 'rtx4090'. Did you mean 'rtx4090_x"),
        ("hardware: demo ", "hardware: rtx3090_x2 ", "this machine shows no CUDA device. Choose hardware: cpu, or auto."),
        ("  precision:    ", "  precision: fp16 ", "'fp16', which a CPU does not train in. Set it to fp32 or bf16."),
    ],
)
def test_settings_that_this_machine_cannot_train_are_the_profiles_finding(
    project_folder: Path, old: str, new: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "read_dvc_config", dict)
    set_params(old, new)
    found = examined()
    assert (found["profile"].verdict, message in found["profile"].value) == ("bad", True)
    assert found["rendezvous"].verdict == "ok"
    assert "one batch" not in found


@pytest.mark.parametrize(("worst", "status"), [("ok", 0), ("warn", 0), ("bad", 1)])
def test_the_exit_status_is_1_only_for_what_stops_a_training(
    worst: Verdict, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: iter([Finding("cores", "2"), Finding("disk", "as it is", worst, "Fix it.")]))
    assert doctor.report_health(tmp_path / "findings.json") == status
    written = json.loads((tmp_path / "findings.json").read_text())
    assert written["fit"] == (status == 0)
    assert written["findings"][1] == {"name": "disk", "value": "as it is", "verdict": worst, "fix": "Fix it."}
    assert ("Fix it." in capsys.readouterr().out) == (worst != "ok")


@pytest.mark.slow
def test_the_command_runs_in_this_checkout(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "carinspect.cli.main", "doctor", "--json", str(tmp_path / "findings.json")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_ROOT": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    verdicts = [found["verdict"] for found in json.loads((tmp_path / "findings.json").read_text())["findings"]]
    assert done.returncode == int("bad" in verdicts), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
