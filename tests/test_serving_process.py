"""The service as a process: its end, its workers' ends, a new model by signal, and a soak of clients that misbehave."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from conftest import free_port
from serving_tools import ROOT, model_bytes, photo_bytes, ready, running_service, wait_until

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


def workers_of(pid: int) -> list[psutil.Process]:
    workers = []
    for child in psutil.Process(pid).children():
        # One that was just killed may still be listed.
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                workers.append(child)
    return workers


def kill_a_worker(pid: int) -> None:
    workers_of(pid)[0].kill()


def test_a_killed_worker_is_replaced_while_the_others_answer(model: Path) -> None:
    with running_service(model, free_port(), CARINSPECT_WORKERS="2") as (address, process):
        wait_until(lambda: len(workers_of(process.pid)) == 2)
        before = {worker.pid for worker in workers_of(process.pid)}
        kill_a_worker(process.pid)
        # A connection that the dead worker had taken is lost; every new one is answered.
        assert [send(address).status_code for _ in range(10)] == [200] * 10
        wait_until(lambda: len({worker.pid for worker in workers_of(process.pid)} - before) == 1)
        wait_until(lambda: len(workers_of(process.pid)) == 2)
        text = httpx.get(f"{address}/metrics", timeout=30).text
        assert 'carinspect_requests_total{route="/predict/file",status="200"} 10.0' in text


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


def test_clients_that_misbehave_do_not_keep_others_from_their_answers(model: Path) -> None:
    limits = {"WORKERS": "2", "HEADER_TIMEOUT_S": "3", "UPLOAD_TIMEOUT_S": "3", "QUEUE_LIMIT": "16"}
    settings = {f"CARINSPECT_{name}": value for name, value in limits.items()}
    with running_service(model, free_port(), **settings) as (address, process), ThreadPoolExecutor(200) as pool:
        slow_headers = [open_slowly(address, b"POST /predict/file HTTP/1.1\r\nHo") for _ in range(50)]
        slow_bodies = [open_slowly(address, BEGUN) for _ in range(50)]
        for _ in range(50):
            open_slowly(address, BEGUN + bytes(20_000)).close()  # goes away in the middle of its upload
        assert [send(address).status_code for _ in range(20)] == [200] * 20
        broken = [send(address, photo_bytes()[:-50]).status_code for _ in range(20)]
        assert broken == [422] * 20

        many = [pool.submit(send, address, photo_bytes(seed=seed, width=1600, height=1200)) for seed in range(200)]
        statuses = Counter(answer.result().status_code for answer in many)
        assert set(statuses) <= {200, 503}
        assert statuses[200] >= 16

        kill_a_worker(process.pid)
        assert [send(address).status_code for _ in range(20)] == [200] * 20
        assert all(closed_by_the_other_side(connection, at_most_s=10) for connection in slow_headers + slow_bodies)
        wait_until(lambda: "carinspect_photos_waiting 0.0" in httpx.get(f"{address}/metrics", timeout=30).text)
        assert process.poll() is None
        for connection in slow_headers + slow_bodies:
            connection.close()
