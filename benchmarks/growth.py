"""Shared by the benchmarks of growth: one process for each size, time and peak memory of each step, growth exponents."""

import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from carinspect.core.params import load_params
from carinspect.core.questions import read_questions
from carinspect.splits.config import SplitParams

QUESTIONS = [question.asked for question in read_questions(load_params(Path(__file__).parents[1] / "params.yaml"))]
SPLIT = SplitParams(
    seed=1, policy="fresh", fractions={"train": 0.5, "val": 0.1, "calib": 0.2, "test": 0.2}, near_duplicate_bits=12,
    near_duplicate_correlation=0.5,
    same_scene="report",
)  # fmt: skip

ResultT = TypeVar("ResultT")


def report_growth(script: str, sizes: Iterable[int], steps: Sequence[str], *, of: str) -> None:
    """Run `script --one <size>`, which prints what `run_step` found as JSON, and print a line for each step. of: what is counted."""
    print(f"{of:>10} {'step':>12} {'seconds':>9} {f'µs/{of[:-1]}':>9} {'peak MB':>8} {'exponent':>9}")
    before: dict[str, float] = {}
    smaller = 0
    for size in sizes:
        done = subprocess.run([sys.executable, script, "--one", str(size)], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        for step in steps:
            seconds = found[step]
            exponent = f"{math.log(seconds / before[step]) / math.log(size / smaller):.2f}" if step in before else ""
            print(f"{size:10,} {step:>12} {seconds:9.2f} {1e6 * seconds / size:9.1f} {found[f'{step} peak MB']:8.0f} {exponent:>9}")
        before, smaller = found, size


def run_step(name: str, step: Callable[[], ResultT], found: dict[str, float]) -> ResultT:
    """Run a step; `found` gets its seconds and the peak memory after it, of this process or its largest child process."""
    start = time.perf_counter()
    result = step()
    found[name] = time.perf_counter() - start
    found[f"{name} peak MB"] = max(resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return result
