"""benchmarks/gpu.py, without a GPU: it keeps its time, a section that fails is said and stops nothing, and all of it runs in small."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from conftest import load_benchmark

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
gpu = load_benchmark("gpu")

ONE_ROW = f"print('{gpu.ROW}' + '[\"fp32\", \"90 photos/s\"]', flush=True)"
FOUND = [("fp32", "90 photos/s")]


def section(code: str, *, budget_s: float = 60) -> gpu.Outcome:
    return gpu.run_section([sys.executable, "-c", code], budget_s=budget_s)


def test_the_sections_together_leave_time_for_starting_and_ending_them() -> None:
    assert 0.9 < sum(gpu.SHARES.values()) < 1
    assert set(gpu.PROFILES) < gpu.SHARES.keys()


def test_a_section_without_an_error_has_its_rows() -> None:
    assert section(ONE_ROW) == gpu.Outcome(FOUND)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (f"{ONE_ROW}; print('{gpu.PROBLEM}UserError: no bf16 here'); raise SystemExit(1)", "UserError: no bf16 here"),
        (f"{ONE_ROW}; raise ValueError('a bug')", "ValueError: a bug"),
        (f"{ONE_ROW}; import os; os.kill(os.getpid(), 9)", "ended with the status -9 without a word"),
    ],
)
def test_a_section_that_fails_says_why_and_keeps_the_figures_it_had(code: str, problem: str) -> None:
    assert section(code) == gpu.Outcome(FOUND, problem)


def test_a_section_that_measures_nothing_has_failed() -> None:
    assert section("pass").problem == "ended without a figure"


def is_alive(process: int) -> bool:
    """A killed orphan stays as a zombie until the first process of the container looks at it."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_section_that_takes_too_long_is_ended_with_its_children_and_keeps_its_figures(tmp_path: Path) -> None:
    sleeper = "import time; time.sleep(600)"
    code = f"""
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {sleeper!r}])
pathlib.Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
{ONE_ROW}
child.wait()
"""
    start = time.monotonic()
    assert section(code, budget_s=20) == gpu.Outcome(FOUND, "not done within its 20 s")
    assert time.monotonic() - start < 120
    child = int((tmp_path / "child").read_text())
    while is_alive(child):
        assert time.monotonic() - start < 120
        time.sleep(0.1)


def test_the_table_names_each_section_and_its_error_in_one_cell() -> None:
    outcomes = {"loops": gpu.Outcome(FOUND), "onnx": gpu.Outcome(FOUND, "no CUDA | here")}
    text = gpu.write_figures(outcomes, device="cpu", seconds=12.3)
    assert "| loops | fp32 | 90 photos/s |\n| onnx | fp32 | 90 photos/s |\n| onnx | **failed** | no CUDA / here |\n" in text
    assert text.startswith("On a CPU")
    assert "It took 12 s." in text


def test_the_figures_replace_those_of_the_page_and_nothing_else() -> None:
    page = f"# A GPU\n\nWords.\n\n{gpu.HEADING}\n\nMissing.\n"
    once = gpu.put_figures(page, "| a |\n")
    assert once == f"# A GPU\n\nWords.\n\n{gpu.HEADING}\n\n| a |\n"
    assert gpu.put_figures(once, "| b |\n") == once.replace("| a |", "| b |")
    assert gpu.put_figures("", "| a |\n") == f"{gpu.HEADING}\n\n| a |\n"
    assert gpu.HEADING in (ROOT / "docs" / "gpu.md").read_text().splitlines()


@pytest.mark.parametrize("problem", ["", "out of luck"])
def test_one_section_that_fails_does_not_stop_the_others_and_the_exit_status_says_so(
    problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "gpu.md"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--limit-s", "100", "--out", str(page)])
    given = []

    def run(command: list[str], *, budget_s: float) -> gpu.Outcome:
        given.append(budget_s)
        return gpu.Outcome(FOUND, problem if command[-1] == "memory" else "")

    monkeypatch.setattr(gpu, "run_section", run)
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert bool(ended.value.code) == bool(problem)
    assert sum(given) < 100
    text = page.read_text()
    assert all(f"| {name} | fp32 | 90 photos/s |" in text for name in gpu.SHARES)
    assert ("| memory | **failed** | out of luck |" in text) == bool(problem)
    assert text.split(gpu.HEADING)[1].strip() == capsys.readouterr().out.strip()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_page_stays_and_one_line_says_what_to_do(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    page.write_text("as it was")
    done = subprocess.run([sys.executable, str(SCRIPT), "--out", str(page)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "benchmarks/gpu.py: torch sees no CUDA device. carinspect doctor says why; --device cpu runs this in small."
    ]
    assert page.read_text() == "as it was"


@pytest.mark.slow
def test_all_of_it_runs_on_a_cpu_in_small(tmp_path: Path) -> None:
    # Compiling takes a minute or more on a CPU that has other work, so it gets more time than a GPU has.
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--limit-s", "4800", "--out", str(tmp_path / "gpu.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = (tmp_path / "gpu.md").read_text()
    assert done.returncode == 0, text + done.stderr
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert {row[0].removeprefix("| ") for row in rows} == gpu.SHARES.keys()
    words = {(row[0].removeprefix("| "), row[1]): row[2] for row in rows}
    assert words["memory", "photos in one pass after memory ran out"].startswith("8 → 4 → 2")
    # The step that began too large is the one that began small, bit for bit.
    assert words["memory", "largest difference of a weight from a step that starts with 2"].startswith("0 ")
    assert ("processes", "2 processes over gloo") in words
    assert json.dumps(text).count("photos/s") > 15
