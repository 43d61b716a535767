"""The service as a process: its end, a new model by signal, and what is not fit to serve. tests/test_chaos.py kills its processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from conftest import free_port
from serving_tools import ROOT, kill_a_worker, model_bytes, photo_bytes, ready, running_service, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "best.onnx"
    path.write_bytes(model_bytes())
    return path


def send(address: str, photo: bytes | None = None) -> httpx.Response:
    files = {"file": ("x.jpg", photo or photo_bytes(), "image/jpeg")}
    return httpx.post(f"{address}/predict/file", files=files, timeout=60)


def version(address: str) -> str:
    return httpx.get(f"{address}/readyz", timeout=30).json()["model_version"]


def test_sigterm_finishes_what_was_accepted_and_takes_no_more(model: Path) -> None:
    with running_service(model, free_port()) as (address, process), ThreadPoolExecutor(8) as pool:
        large = photo_bytes(width=5000, height=3000, kind="PNG")
        waiting = [pool.submit(send, address, large) for _ in range(8)]
        wait_until(lambda: "carinspect_photos_waiting 8.0" in httpx.get(f"{address}/metrics", timeout=30).text)
        process.send_signal(signal.SIGTERM)
        assert [answer.result().status_code for answer in waiting] == [200] * 8
        # uvicorn raises the signal again when all is done, so that whoever sent it sees it obeyed.
        assert process.wait(30) == -signal.SIGTERM
        assert not ready(address)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_replaces_the_model_and_drops_no_request(model: Path, workers: str) -> None:
    with running_service(model, free_port(), CARINSPECT_WORKERS=workers) as (address, process), ThreadPoolExecutor(4) as pool:
        before = version(address)
        model.write_bytes(model_bytes(seed=1))
        answers = [pool.submit(send, address) for _ in range(40)]
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: {version(address) for _ in range(8)} != {before})
        wait_until(lambda: before not in {version(address) for _ in range(8)})
        assert {answer.result().status_code for answer in answers} == {200}
        after = version(address)
        # A bad file changes nothing, though a worker that dies then must be replaced from something.
        model.write_bytes(b"no model")
        process.send_signal(signal.SIGHUP)
        if workers == "2":
            kill_a_worker(process.pid)
        time.sleep(2)
        wait_until(lambda: ready(address))
        assert {version(address) for _ in range(8)} == {after}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_not_fit_to_serve_ends_with_one_line(tmp_path: Path, workers: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "MODEL_PATH": str(tmp_path / "none.onnx"), "CARINSPECT_WORKERS": workers}
    by_hand = [sys.executable, "-m", "carinspect.cli.main", "serve", "--port", str(free_port())]
    by_uvicorn = [sys.executable, "-m", "uvicorn", "--factory", "carinspect.serving.app:from_environment", "--port", str(free_port())]
    for command in (by_hand, by_uvicorn):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0
        assert "no such model file. Make one (dvc repro) or pull one" in done.stderr
        assert "Traceback" not in done.stderr


def test_plain_uvicorn_serves_it_too(model: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "carinspect.serving.app:from_environment", "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "MODEL_PATH": str(model)})
    try:
        wait_until(lambda: ready(f"http://127.0.0.1:{port}"))
        assert send(f"http://127.0.0.1:{port}").status_code == 200
    finally:
        process.terminate()
        process.wait(30)


def open_slowly(address: str, sent: bytes) -> socket.socket:
    """A connection on which `sent` went out, and nothing more will."""
    connection = socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])))
    connection.sendall(sent)
    return connection


def closed_by_the_other_side(connection: socket.socket, *, at_most_s: float) -> bool:
    connection.settimeout(at_most_s)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


BEGUN = b"POST /predict/file HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 900000\r\n\r\n--b\r\n"


def test_a_refusal_of_a_body_that_came_whole_waits_for_nothing_and_keeps_the_connection(model: Path) -> None:
    with running_service(model, free_port()) as (address, _):
        found = httpx.post(f"{address}/predict/file", files={"wrong": ("x.jpg", photo_bytes(), "image/jpeg")}, timeout=30)
    assert (found.status_code, found.headers.get("connection")) == (422, None)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_whoever_does_not_send_the_headers_in_time_is_cut_off(model: Path, workers: str) -> None:
    settings = {"CARINSPECT_WORKERS": workers, "CARINSPECT_HEADER_TIMEOUT_S": "1"}
    with running_service(model, free_port(), **settings) as (address, _):
        connection = open_slowly(address, b"POST /predict/file HTTP/1.1\r\nHo")
        # Less than the default, which is 10 s.
        assert closed_by_the_other_side(connection, at_most_s=6)
        connection.close()
