"""training.lease: trainings on one machine share its cards, and a dead one holds none."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
HOLD = """
import os, sys
from carinspect.training.lease import take_leases
wanted = None if sys.argv[1] == "all" else int(sys.argv[1])
print(*take_leases(["cuda0", "cuda1", "cuda2"], wanted=wanted), flush=True)
# As the launcher does.
os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"])
"""


class Holder:
    """A training that holds cards."""

    def __init__(self, folder: Path, wanted: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(SOURCE), "TMPDIR": str(folder)}
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


def test_a_lease_outlives_exec(holders) -> None:
    first = holders("all")
    assert first.line() == "cuda0 cuda1 cuda2"
    # By now it is another program.
    time.sleep(0.5)
    assert "waiting" in holders("1").line()
