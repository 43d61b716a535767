"""What the tests of the service share: a tiny model file, photos, and the service on a port of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import psutil
from fastapi.testclient import TestClient
from PIL import Image

from carinspect.export.metadata import amend
from carinspect.inference.rules import Promise, Thresholds
from carinspect.inference.seal import seal
from carinspect.serving.app import create_app
from carinspect.serving.config import ServiceConfig
from conftest import QUESTIONS, add_maps, encode_photo, make_calibration, make_model, make_rule, make_thresholds, untrained_network

ROOT = Path(__file__).parent.parent
SIDE = 32
TOKEN = "a-token-that-is-long-enough"
PROMISE = Promise(precision=0.95, confidence=0.9, of="a photo from a new car", at_rate=None)
CLEAN = QUESTIONS[0]


def thresholds(
    *,
    T_high: float | None = 0.5,
    T_low: float | None = 0.2,
    good: Promise | None = PROMISE,
    bad: Promise | None = None,
    car: tuple[float | None, float | None] = (0.7, 0.6),
) -> Thresholds:
    """Rules for clean alone: a photo's with these promises, and a car's that proves both words."""

    def promised(rule: Any, **promises: Promise | None) -> Any:
        return rule.model_copy(update={side: rule.side(side).model_copy(update={"promise": promise}) for side, promise in promises.items()})

    photo = promised(make_rule(CLEAN, T_high=T_high, T_low=T_low), good=good, bad=bad)
    of_cars = make_rule(CLEAN, unit="car", T_high=car[0], T_low=car[1])
    if car != (None, None):
        of_cars = promised(of_cars, good=PROMISE, bad=PROMISE.model_copy(update={"precision": 0.8}))
    return make_thresholds({"clean": (photo, of_cars)})


NOTHING_PROVED = {"T_high": None, "T_low": None, "good": None, "car": (None, None)}


@cache
def _exported(seed: int, with_spread: bool) -> bytes:
    calibration = make_calibration(temperature={"clean": 0.05, "damaged": 0.05, "weather": 0.5}, samples=8 if with_spread else 0)
    lineage = {"data_revision": "abc", "code_revision": "def"}
    metrics = {"clean": {"roc_auc": 0.9}}
    network = untrained_network(seed=seed).eval()
    model = make_model(network, thresholds=thresholds(), calibration=calibration, lineage=lineage, metrics=metrics)
    return model.SerializeToString()


def model_bytes(
    *, seed: int = 0, rules: Thresholds | dict[str, Any] | None = None, with_spread: bool = False, with_maps: bool = False
) -> bytes:
    """A sealed model file with untrained weights; rules: in place of `thresholds()`; with_spread: with Monte-Carlo heads.

    with_maps: with those of `conftest.add_maps`.
    """
    model = onnx.load_from_string(_exported(seed, with_spread))
    if rules is not None:
        amend(model, {"threshold": rules.model_dump(mode="json") if isinstance(rules, Thresholds) else rules})
    if with_maps:
        add_maps(model)
    return seal(model.SerializeToString())


def client_of(model: Path, **settings: Any) -> TestClient:
    """The service in this process."""
    return TestClient(create_app(ServiceConfig(model_path=model, threads=2, **settings)))


def photo_bytes(*, seed: int = 0, kind: str = "JPEG", width: int = 96, height: int = 64) -> bytes:
    """A photo of coarse noise."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return encode_photo(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), kind)


@contextmanager
def running_service(model: Path, port: int, **settings: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """`carinspect serve` as a process, ready; its address and the process. Stopped afterwards if it still runs."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "MODEL_PATH": str(model), "CARINSPECT_THREADS": "1"} | settings
    command = [sys.executable, "-m", "carinspect.cli.main", "serve", "--port", str(port)]
    # Its log goes where this process's goes: into a pipe that nobody empties it would block.
    process = subprocess.Popen(command, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: ready(address) or process.poll() is not None)
        yield address, process
    finally:
        process.terminate()
        process.wait(60)


def ready(address: str) -> bool:
    """Whether the service there takes photos."""
    try:
        return httpx.get(f"{address}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def wait_until(condition: Any, *, at_most_s: float = 180) -> None:
    """Return as soon as `condition()` holds; fail when it never does."""
    end = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def workers_of(pid: int) -> list[psutil.Process]:
    """The workers of the service whose parent has this process id."""
    workers = []
    for child in psutil.Process(pid).children():
        # One that was just killed may still be listed.
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                workers.append(child)
    return workers


def kill_a_worker(pid: int) -> None:
    """Kill one of `workers_of` at once."""
    workers_of(pid)[0].kill()
