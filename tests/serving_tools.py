"""Owns what the tests of the service share: a tiny model file, photos, and the service on a port of its own."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from PIL import Image

from carinspect.export.describe import describe_model
from carinspect.export.graph import AnsweringNetwork, to_onnx
from carinspect.inference.bundle import METADATA_KEY
from carinspect.inference.seal import seal
from carinspect.model.checkpoint import Checkpoint
from conftest import make_recipe, untrained_network

ROOT = Path(__file__).parent.parent
SIDE = 32
TOKEN = "a-token-that-is-long-enough"
PROMISE = {"precision": 0.95, "confidence": 0.9, "of": "a photo from a new car"}
OFFSET: dict[str, list[float]] = {"clean": [0.0, 0.0], "weather": [0.0, 0.0, 0.0, 0.0]}
CALIBRATION: dict[str, Any] = {"temperature": {"clean": 0.05, "weather": 0.5}, "logit_offset": OFFSET, "uncertainty": None}
CAR: dict[str, Any] = {"T_high": 0.7, "T_low": 0.6, "proves": PROMISE, "proves_low": PROMISE | {"precision": 0.8}}
RULE: dict[str, Any] = {"T_clean": 0.5, "T_low": 0.2, "T_high": 0.5, "proves": PROMISE, "proves_low": None, "car": CAR}


@cache
def _exported(seed: int, with_spread: bool) -> bytes:
    calibration = CALIBRATION | {"uncertainty": {"samples": 8, "dropout": 0.2, "seed": 3} if with_spread else None}
    model = to_onnx(AnsweringNetwork(untrained_network(seed=seed).eval(), calibration), image_side_px=SIDE)
    lineage = {"data_revision": "abc", "code_revision": "def"}
    checkpoint = Checkpoint(model=make_recipe().model, image_side_px=SIDE, weights={}, lineage=lineage)
    figures = {"test": {"clean": {"roc_auc": 0.9}}}
    describe_model(model, checkpoint=checkpoint, calibration=calibration, threshold=RULE, metrics=figures)
    return model.SerializeToString()


def model_bytes(*, seed: int = 0, rule: dict[str, Any] | None = None, with_spread: bool = False) -> bytes:
    """A sealed model file with untrained weights; rule: in place of `RULE`; with_spread: with Monte-Carlo heads."""
    model = onnx.load_from_string(_exported(seed, with_spread))
    (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    entry.value = json.dumps(json.loads(entry.value) | {"threshold": RULE if rule is None else rule})
    return seal(model.SerializeToString())


def photo_bytes(*, seed: int = 0, kind: str = "JPEG", width: int = 96, height: int = 64) -> bytes:
    """A photo of coarse noise."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


@contextmanager
def running_service(model: Path, port: int, **settings: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """`carinspect serve` as a process, ready; its address and the process. Stopped afterwards if it still runs."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "MODEL_PATH": str(model), "THREADS": "1"} | settings
    command = [sys.executable, "-m", "carinspect.cli.main", "serve", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: ready(address) or process.poll() is not None)
        yield address, process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def ready(address: str) -> bool:
    """Whether the service there takes photos."""
    try:
        return httpx.get(f"{address}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def wait_until(condition: Any, *, at_most_s: float = 60) -> None:
    """Return as soon as `condition()` holds; fail when it never does."""
    end = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)
