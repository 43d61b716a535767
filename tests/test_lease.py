"""training.lease: trainings on one machine share its cards, and a dead one holds none."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from carinspect.training import lease
from carinspect.training.config import Runtime
from carinspect.training.lease import take_share
from carinspect.training.runtime import Machine

SOURCE = Path(__file__).parent.parent / "src"
HOLD = """
import os, sys
from carinspect.training.lease import take_leases
fewest, most = (1, 3) if sys.argv[1] == "all" else (int(sys.argv[1]),) * 2
print(*take_leases(["cuda0", "cuda1", "cuda2"], fewest=fewest, most=most), flush=True)
# As the launcher does.
os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"])
"""


class Holder:
    """A training that holds cards."""

    def __init__(self, folder: Path, wanted: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(SOURCE), "CARINSPECT_LEASES": str(folder)}
        self.process = subprocess.Popen([sys.executable, "-c", HOLD, wanted], env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.output = self.process.stdout

    def line(self) -> str:
        return self.output.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.output.close()


@pytest.fixture
def holders(tmp_path: Path):
    made: list[Holder] = []

    def hold(wanted: str) -> Holder:
        made.append(Holder(tmp_path, wanted))
        return made[-1]

    yield hold
    for holder in made:
        if holder.process.poll() is None:
            holder.end()


def test_trainings_take_different_cards(holders) -> None:
    assert holders("1").line() == "cuda0"
    assert holders("1").line() == "cuda1"
    assert holders("all").line() == "cuda2"


def test_a_training_waits_for_a_card_and_gets_that_of_a_killed_one(holders) -> None:
    first, second = holders("2"), None
    assert first.line() == "cuda0 cuda1"
    second = holders("2")
    assert second.line().startswith("waiting for 2 of cuda0, cuda1, cuda2")
    time.sleep(1)
    assert second.process.poll() is None
    first.end()
    assert second.line() in ("cuda0 cuda2", "cuda1 cuda2", "cuda0 cuda1")


def test_trainings_wait_in_a_queue_and_say_so(holders) -> None:
    first = holders("all")
    assert first.line() == "cuda0 cuda1 cuda2"
    second = holders("3")
    assert second.line().startswith("waiting for 3 of")
    third = holders("1")
    assert third.line() == "waiting behind a training that waits for cuda0, cuda1, cuda2"
    first.end()
    assert second.line() == "cuda0 cuda1 cuda2"


def test_a_lease_outlives_exec(holders) -> None:
    first = holders("all")
    assert first.line() == "cuda0 cuda1 cuda2"
    # By now it is another program.
    time.sleep(0.5)
    assert "waiting" in holders("1").line()


# ---- a training's share of the machine


def runtime(processes: int | str, device: str = "cpu") -> Runtime:
    return Runtime.model_validate({
        "device": device, "processes": processes, "workers": 0, "compile": False, "pin_memory": False, "micro_batch": "norm",
        "checkpoint_steps": 0,
    })  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Of four cores or cards, and two micro-batches in each effective batch."""
    monkeypatch.setenv("CARINSPECT_LEASES", str(tmp_path))
    monkeypatch.setattr(lease, "usable_cores", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: SimpleNamespace(uuid=f"of-place-{place}"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # Give back what a test takes: a lease lasts as long as its process.
    taken: list[int] = []
    original = lease._open
    monkeypatch.setattr(lease, "_open", lambda name: taken.append(original(name)) or taken[-1])
    yield Machine(device="cpu", processes=2, workers=0, compile=False, pin_memory=False, micro_batch="norm", checkpoint_steps=0)
    for descriptor in taken:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_auto_takes_what_is_free_and_can_be_used(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert take_share(machine, runtime("auto")).processes == 2
    assert take_share(replace(machine, processes=4), runtime("auto")).processes == 2
    assert capsys.readouterr().out == "this training holds core0, core1\nthis training holds core2, core3\n"


def test_more_processes_than_cores_stay_as_many(machine: Machine) -> None:
    assert take_share(replace(machine, processes=6), runtime(6)).processes == 6


@pytest.mark.parametrize(("before", "first", "second"), [(None, "0,1", "2"), ("6,5,GPU-4,3", "6,5", "GPU-4")])
def test_cuda_shows_the_taken_cards_alone(machine: Machine, monkeypatch, before: str | None, first: str, second: str) -> None:
    cards = replace(machine, device="cuda")
    for processes, expected in ((2, first), (1, second)):
        if before is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
        take_share(replace(cards, processes=processes), runtime(processes, "cuda"))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
